"""Clips of one person: who is grouped, that all get one shape, that nothing is done twice, and who is left out."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from test_drive import HERE, RESULT, Inline

from vht_jax.errors import InputError
from vht_jax.fleet import drive
from vht_jax.fleet.cli import check_company, main, split
from vht_jax.fleet.drive import Fleet, Orders, take_over, verdict
from vht_jax.fleet.person.people import FOLDER, People
from vht_jax.fleet.plan import Clip, find_clips
from vht_jax.fleet.shown.console import Console
from vht_jax.fleet.shown.page import page
from vht_jax.fleet.shown.table import Table, line, read
from vht_jax.fleet.worker import Job, take_shape, work

PATH = (("PYTHONPATH", str(HERE)),)


def fleet(clips, tmp_path, pool=None, output="", **orders):
  """As `cli.run`; the table and the people."""
  output = output or str(tmp_path / "out")
  orders = Orders(
    output, str(tmp_path / "scratch"), target="stand_in:main", alone="stand_in:alone", environment=PATH, **orders
  )
  table = Table(clips, "", read(output))
  left = take_over(table, clips, orders, lambda clip: "digest")
  people = People(clips, table, output)
  left = people.begin(left)
  if left:
    Fleet(left, orders, pool or Inline(), table, Console(table, quiet=True), people).run()
  return table


@pytest.fixture
def films(tmp_path):
  """name -> (person, text of the clip), as clips."""
  (tmp_path / "films").mkdir()

  def make(**what):
    for name, (_, text) in what.items():
      (tmp_path / "films" / f"{name}.mp4").write_text(text)
    return [Clip(str(tmp_path / "films" / f"{name}.mp4"), name, person=person) for name, (person, _) in what.items()]

  return make


def rounds(tmp_path, name):
  path = tmp_path / "out" / name / "rounds.txt"
  return path.read_text().splitlines() if path.exists() else []


def result(tmp_path, name):
  return (tmp_path / "out" / name / RESULT).read_bytes()


def states(table):
  return [row.state for row in table.rows.values()]


# --- who is grouped --------------------------------------------------------------------------------------------------


def test_clips_of_one_folder_show_one_person(tmp_path):
  for place in ("anna/one.mp4", "anna/two.mp4", "ben/one.mp4", "other/anna/x.mp4"):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).touch()
  folders = [str(tmp_path / "anna"), str(tmp_path / "ben"), str(tmp_path / "other" / "anna")]
  assert [clip.person for clip in find_clips(folders, by_folder=True)] == ["anna", "anna", "ben", "anna_"]
  assert {clip.person for clip in find_clips(folders)} == {""}
  listed = tmp_path / "list.csv"
  listed.write_text("clip,person,focal\nanna/one.mp4,eve,2\nben/one.mp4,,\n")
  found = find_clips([str(listed)])
  assert [(clip.person, clip.flags) for clip in found] == [("eve", ("--focal=2",)), ("", ())]
  assert [clip.person for clip in find_clips([str(listed)], by_folder=True)] == ["eve", "ben"]
  listed.write_text("clip,person\na.mp4,../b\n")
  with pytest.raises(InputError, match="'../b' cannot be a folder's name"):
    find_clips([str(listed)])


def test_words_that_mean_nothing_here_are_refused(tmp_path, capsys):
  assert split(["--person=folder", "a.mp4"])[0]["person"] == "folder"
  with pytest.raises(InputError, match="--person: expected folder"):
    split(["--person=name", "a.mp4"])
  for name in ("a", "b"):
    (tmp_path / f"{name}.mp4").touch()
  for flag in ("--face=all", "--solver=adam"):
    assert main([str(tmp_path), f"--output_path={tmp_path / 'out'}", "--person=folder", flag, "--dry_run"]) == 2
    assert f"a: {flag} does not go with one shape for all clips of" in capsys.readouterr().err
  assert check_company.__doc__


# --- two rounds ------------------------------------------------------------------------------------------------------


def test_all_clips_of_a_person_get_one_shape_and_nothing_is_done_twice(films, tmp_path):
  clips = films(
    a=("anna", "anna 1"), x=("", "xena 1"), b=("anna", "anna 22"), c=("ben", "ben 1"), d=("anna", "anna 333")
  )
  table = fleet(clips, tmp_path)
  assert states(table) == ["done"] * 5 and verdict(table)[0] == 0
  assert [rounds(tmp_path, name) for name in "axbcd"] == [
    ["alone", "with a shape"], ["by itself"], ["alone", "with a shape"], ["by itself"], ["alone", "with a shape"],
  ]  # fmt: skip
  person = (tmp_path / "out" / FOLDER / "anna.npz").read_bytes()
  assert {result(tmp_path, name) for name in "abd"} == {person}
  with np.load(io.BytesIO(person)) as file:
    assert set(file["clips"]) == {"a", "b", "d"} and file["shape"].shape == (8,) and file["vht_jax_head_id"] == "1"
  for name in "abd":
    assert (tmp_path / "out" / name / "work.txt").read_text().split() == [
      str(i) for i in range(len(Path(tmp_path / "films" / f"{name}.mp4").read_bytes()))
    ]  # the frames once
  assert not table.rows["c"].shape and len({table.rows[name].shape for name in "abd"} - {""}) == 1

  class Nobody(Inline):
    def submit(self, order):
      raise AssertionError(order)

  again = fleet(clips, tmp_path, Nobody())
  assert len(again.kept) == 5


def test_a_clip_of_somebody_else_is_named_and_tracked_by_itself(films, tmp_path):
  clips = films(a=("anna", "anna 1"), b=("anna", "anna 22"), wrong=("anna", "eve 4444"), d=("anna", "anna 333"))
  table = fleet(clips, tmp_path)
  row = table.rows["wrong"]
  assert rounds(tmp_path, "wrong") == ["alone", "by itself"] and row.state == "done" and row.shape == ""
  assert "perhaps another person than in the other clips (p = " in row.note and row.note in line(row)
  assert row.note in page(json.loads((tmp_path / "out" / "fleet.json").read_text()))
  assert verdict(table) == (
    0, "4 of 4 clips are tracked; 1 have no part in their person's shape: wrong",
  )  # fmt: skip
  assert len({result(tmp_path, name) for name in "abd"}) == 1 and not (tmp_path / "out/wrong/person.npz").exists()


def test_of_two_that_differ_both_stay_as_they_are(films, tmp_path):
  table = fleet(films(a=("anna", "anna 1"), b=("anna", "eve 22")), tmp_path)
  assert [rounds(tmp_path, name) for name in "ab"] == [["alone", "by itself"]] * 2
  assert all("perhaps another person than in the other clip (p" in row.note for row in table.rows.values())
  assert not (tmp_path / "out" / FOLDER).exists()


def test_a_broken_clip_is_a_line_and_the_others_do_not_wait(films, tmp_path):
  clips = films(a=("anna", "anna 1"), b=("anna", "bad"), c=("anna", "anna 333"), d=("ben", "ben 1"), e=("ben", "bad"))
  table = fleet(clips, tmp_path)
  assert states(table) == ["done", "failed", "done", "done", "failed"]
  assert rounds(tmp_path, "a") == ["alone", "with a shape"] and result(tmp_path, "a") == result(tmp_path, "c")
  assert rounds(tmp_path, "d") == ["alone", "by itself"]  # the only one of its person that can be read
  again = fleet(clips, tmp_path)  # the failed ones are tried again, and nothing else
  assert states(again) == states(table) and rounds(tmp_path, "a") == ["alone", "with a shape"]
  assert again.kept == {"a", "c", "d"}


def test_a_fleet_that_ends_anywhere_goes_on_from_there(films, tmp_path, monkeypatch):
  """It is killed before every order in turn; each round of each clip comes to its end once."""

  class Killed(Exception):
    pass

  class Mortal(Inline):
    def __init__(self, orders):
      super().__init__()
      self.left = orders

    def work(self, job):
      self.left -= 1
      if self.left < 0:
        raise Killed
      yield from work(job)

  monkeypatch.setattr(drive, "EVERY", 0.0)  # the table is written after every event
  clips = films(a=("anna", "anna 1"), b=("anna", "anna 22"), c=("", "xena 1"))
  ends = 0
  while ends < 9:
    try:
      table = fleet(clips, tmp_path, Mortal(1))
      break
    except Killed:
      ends += 1
  assert ends == 4 and states(table) == ["done"] * 3
  assert [rounds(tmp_path, name) for name in "abc"] == [["alone", "with a shape"]] * 2 + [["by itself"]]


def test_another_clip_of_a_person_makes_the_shape_anew_but_no_first_round(films, tmp_path):
  clips = films(a=("anna", "anna 1"), b=("anna", "anna 22"), c=("anna", "anna 333"))
  fleet(clips[:2], tmp_path)
  before = result(tmp_path, "a")
  fleet(clips, tmp_path)
  assert rounds(tmp_path, "a") == ["alone", "with a shape", "with a shape"]
  assert rounds(tmp_path, "c") == ["alone", "with a shape"]
  assert before != result(tmp_path, "a") == result(tmp_path, "b") == result(tmp_path, "c")
  # And without company it is as if there had never been any.
  table = fleet([clips[0]], tmp_path)
  assert table.rows["a"].shape == "" and rounds(tmp_path, "a")[-1] == "by itself"
  assert set(result(tmp_path, "a")) != set(before) and not (tmp_path / "out/a/person.npz").exists()


@pytest.mark.parametrize("apart", [False, True])
def test_results_elsewhere_are_the_same(films, tmp_path, apart):
  clips = films(a=("anna", "anna 1"), b=("anna", "anna 22"))
  fleet(clips, tmp_path)
  away = (tmp_path / "away").as_uri()
  table = fleet(clips, tmp_path, output=away, apart=apart, keep_dataset=False)
  assert states(table) == ["done"] * 2
  for name in "ab":
    assert (tmp_path / "away" / name / RESULT).read_bytes() == result(tmp_path, name)
    assert not (tmp_path / "away" / name / "dataset").exists()
  assert not any((tmp_path / "scratch").glob("*/output"))


def test_a_shape_is_taken_again_after_a_death_in_between(tmp_path):
  output = tmp_path / "out"
  (output / "checkpoint").mkdir(parents=True)
  (output / "run.json").write_text('{"settings": {}}')
  assert take_shape(output, b"") == [] and (output / "checkpoint").exists()
  flags = take_shape(output, b"one")
  assert flags == [f"--shape_from={output / 'person.npz'}"] and not (output / "checkpoint").exists()
  (output / "checkpoint").mkdir()
  assert take_shape(output, b"one") == flags and (output / "checkpoint").exists()  # it goes on
  assert take_shape(output, b"two") == flags and not (output / "checkpoint").exists()
  (output / "run.json").write_text('{"settings": {}}')
  assert take_shape(output, b"") == [] and (output / "run.json").read_text() == "{}"
  assert not (output / "person.npz").exists()
  assert Job(Clip("a"), "o", "s").alone == ""
