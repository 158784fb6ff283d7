"""Which clips a command line names, what is its own and what vht-track's, and how long it may take."""

import dataclasses

import pytest

from vht_jax.errors import InputError
from vht_jax.fleet import cli, dry
from vht_jax.fleet.plan import Clip, find_clips
from vht_jax.fleet.pool import RayPool
from vht_jax.fleet.shown import table


@pytest.fixture
def clips(tmp_path):
  for name in ("b.mp4", "a.MOV", "notes.pdf", ".hidden.mp4"):
    (tmp_path / name).write_text("x")
  (tmp_path / "shots").mkdir()
  (tmp_path / "shots" / "img_1.png").write_text("x")
  (tmp_path / "empty").mkdir()
  return tmp_path


def test_a_folder_is_its_videos_and_its_folders_of_images(clips):
  assert [c.name for c in find_clips([str(clips)])] == ["a", "b", "shots"]
  assert find_clips([str(clips / "shots")]) == [Clip(str(clips / "shots"), "shots")]
  with pytest.raises(InputError, match="no videos in this folder"):
    find_clips([str(clips / "empty")])


def test_a_pattern_and_a_file_named_twice_count_once(clips):
  assert [c.name for c in find_clips([str(clips / "*.mp4"), str(clips / "b.mp4")])] == ["b"]
  with pytest.raises(InputError, match="nothing matches"):
    find_clips([str(clips / "*.avi")])


def test_lists_are_relative_to_themselves_and_may_name_what_is_not_there(clips):
  (clips / "list.txt").write_text("# mine\nb.mp4\n\ngone.mp4\ns3://bucket/x/c.mp4\n")
  found = find_clips([str(clips / "list.txt")])
  assert [c.source for c in found] == [str(clips / "b.mp4"), str(clips / "gone.mp4"), "s3://bucket/x/c.mp4"]
  assert [c.name for c in found] == ["b", "gone", "c"]


def test_columns_of_a_table_are_flags(clips):
  (clips / "list.csv").write_text("clip,name,focal,face\nb.mp4,one,28mm,\nb.mp4,two,,1\n")
  one, two = find_clips([str(clips / "list.csv")])
  assert (one.name, one.flags, two.name, two.flags) == ("one", ("--focal=28mm",), "two", ("--face=1",))
  for text, error in (
    ("file\nb.mp4\n", "column 'clip'"),
    ("clip,name\nb.mp4,x\na.MOV,x\n", "two clips are called x"),
    ("clip,name\nb.mp4,../x\n", "folder's name"),
    ("clip,name\nb.mp4,x,y\n", "row 1: expected 2 cells"),
  ):
    (clips / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=error):
      find_clips([str(clips / "bad.csv")])


def test_names_tell_clips_apart(tmp_path):
  for folder in ("x", "y"):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.mp4").write_text("x")
  assert [c.name for c in find_clips([str(tmp_path / "*" / "a.mp4")])] == ["x_a_mp4", "y_a_mp4"]


def test_flags_are_the_fleets_or_vht_tracks():
  own, flags, clips = cli.split(
    ["a.mp4", "-o", "out", "-n", "8", "--cpus=1", "--nodatasets", "8", "--keyframes", "1", "2"]
  )
  assert (own["output_path"], own["cpus"], own["datasets"]) == ("out", "1", False)
  assert flags == ["-n", "8", "--keyframes", "1", "2"] and clips == ["a.mp4", "8"]
  for argv, error in (
    (["--restart"], "not for a fleet"),
    (["--data_path=x"], "not for a fleet"),
    (["--nosuch"], "unknown flag"),
    (["--detect=often"], "--detect: expected one of"),
    (["--address"], "--address: expected a value"),
  ):
    with pytest.raises(InputError, match=error):
      cli.split(argv)


def test_smaller_batches_where_the_settings_have_batches():
  from vht_jax.app.options.settings import parse

  sizes = lambda flags, gpus=0.0: cli.smaller_batches(parse(flags), flags, gpus)
  assert sizes([]) == (4, 2, 1) and sizes([], 0.1) == (32, 16, 8, 4, 2, 1)
  assert sizes(["--batch_size=6"]) == (3, 1)
  assert sizes(["--nophotometric"]) == ()


def test_errors_are_one_line(tmp_path, capsys):
  for argv, error in (
    (["x.mp4"], "expected --output_path"),
    (["x.mp4", "-o", "memory://x"], "in the memory of one process"),
    (["x.mp4", "-o", str(tmp_path), "--lr=1"], "no effect"),
    (["x.mp4", "-o", str(tmp_path), "--cpus=none"], "--cpus: expected a positive number"),
    (["-o", str(tmp_path)], "no clips"),
  ):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert error in err and err.count("\n") == 1 and not out


def test_time_left_is_work_divided_by_workers():
  shown = table.Table([Clip(n, n) for n in "abcd"], "")
  shown.slots = 2
  for row, frames in zip(shown.rows.values(), (100, 300, 200, 0)):
    row.frames = frames
  a, b, c, d = shown.rows.values()
  assert shown.seconds_left() == pytest.approx((4 * table.START + table.PER_FRAME * (600 + 200)) / 2)
  a.state, a.seconds = "done", 3 * (table.START + 100 * table.PER_FRAME)
  b.state, b.seconds = "failed", 3.0
  c.state = "running"
  assert shown.scale()[0] == pytest.approx(3)  # of `a` alone
  expected = 3 * (table.START + 200 * table.PER_FRAME)  # of c, half of which is done, and of d, as long as the others
  assert shown.seconds_left() == pytest.approx((expected / 2 + expected) / 2)
  c.state = "done"
  d.state = "done"
  assert shown.seconds_left() == 0


def test_the_plan_counts_frames_and_names_what_is_broken(tmp_path, monkeypatch):
  clips = [Clip(n, n) for n in ("a.mp4", "b.mp4", "c.mp4", "s3://x/d.mp4")]
  known = [("a.mp4", 100, 4.0, ""), ("b.mp4", 50, 2.0, ""), ("c.mp4", 0, 0.0, "c.mp4: no video")]
  monkeypatch.setattr(dry, "lengths", lambda places: iter(known))
  text = dry.dry_run(clips, clips, table.Table(clips, ""), 2, lambda clip: 80, "output    x")
  assert "130 frames in 2 clips" in text and "broken    c.mp4: no video" in text
  assert "1 are elsewhere" in text and "65 frames each" in text
  seconds = 3 * table.START + (130 + 65) * table.PER_FRAME
  assert f"about {seconds / 3600:.2f} hours" in text and "docs/benchmarks.md" in text


def test_lengths_survive_a_decoder_that_crashes(tmp_path, monkeypatch):
  pytest.importorskip("cv2")
  from vht_jax.fleet import lengths

  work = tmp_path / "lib"
  work.mkdir()
  (work / "crashing.py").write_text(
    "import sys, os, json\n"
    "for line in sys.stdin:\n"
    "  place = json.loads(line)\n"
    "  if 'crash' in place: os.abort()\n"
    "  print(json.dumps([7, 1.0, '']), flush=True)\n"
  )
  monkeypatch.setattr(lengths, "_START", f"sys.path.insert(0, {str(work)!r}); import crashing")
  found = list(lengths.lengths(["a", "crash", "b"]))
  assert [(place, frames) for place, frames, _, _ in found] == [("a", 7), ("crash", 0), ("b", 7)]
  assert "crashed" in found[1][3]


def test_the_page_and_the_file_say_the_same():
  import json

  from vht_jax.fleet.shown.page import page

  clips = [Clip("a.mp4", "a"), Clip("b.mp4", "<b>")]
  shown = table.Table(clips, "-n 8")
  shown.rows["a"].state, shown.rows["a"].frames, shown.rows["a"].tracked = "done", 8, 7
  shown.rows["a"].report = "a/report.html"
  shown.rows["<b>"].state, shown.rows["<b>"].error = "failed", 'b.mp4: "no" <video>'
  content = json.loads(json.dumps(shown.content(finished=False)))
  assert content["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 1}
  assert [row["name"] for row in content["clips"]] == ["a", "<b>"]
  assert set(content["clips"][0]) == {f.name for f in dataclasses.fields(table.Row)}
  text = page(content)
  assert 'href="a/report.html"' in text and "&lt;b&gt;" in text and "<video>" not in text
  assert "http-equiv" in text and "http-equiv" not in page({**content, "finished": True})
  assert "src=" not in text  # one file, without a network


def test_ten_tenths_of_a_gpu_are_ten_places():
  pool = object.__new__(RayPool)
  pool._nodes = lambda: [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 4.0}]
  assert [pool.slots(0.0, share) for share in (0.1, 0.3, 0.5, 1.0, 2.0)] == [10, 3, 2, 1, 0]
  assert pool.slots(0.1) == 60 and pool.slots(1.0, 0.1) == 2 and pool.slots(3.0) == 1
