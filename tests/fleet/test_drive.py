"""Clips on their way: what is done when one is broken, a worker dies, memory or the whole fleet ends."""

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import at_work

from vht_jax.fleet import prepared, single, storage
from vht_jax.fleet.drive import CRASHES, GIVE_UP, Fleet, Orders, take_over, verdict
from vht_jax.fleet.plan import Clip
from vht_jax.fleet.shown.console import Console
from vht_jax.fleet.shown.table import Table, read
from vht_jax.fleet.worker import Job, work
from vht_jax.host import supervise

HERE = Path(__file__).parent
PATH = (("PYTHONPATH", str(HERE)),)
RESULT = "tracked_flame_params.npz"


class Inline:
  """A `pool.Pool` that does one order after the other in this process."""

  def __init__(self, slots=1):
    self.orders, self.given, self.most, self.n = collections.deque(), [], 0, slots

  def submit(self, order):
    key = len(self.given)
    self.given.append(order)
    self.orders.append((key, order.job))
    self.most = max(self.most, len(self.orders))
    return key

  def events(self):
    key, job = self.orders.popleft()
    return [(key, {"node": "here", "host": "h"}), *((key, event) for event in self.work(job))]

  def work(self, job):
    yield from work(job)

  def slots(self, cpus, gpus=0.0):
    return self.n

  def cores(self):
    return 4.0

  def gpus(self):
    return 0.0


class Scripted(Inline):
  """One whose workers end as a script says: clip's name -> ends in turn, the last again and again."""

  def __init__(self, script, slots=1):
    super().__init__(slots)
    self.script = {name: collections.deque(ends) for name, ends in script.items()}

  def work(self, job):
    ends = self.script[job.clip.name]
    end = ends.popleft() if len(ends) > 1 else ends[0]
    mark, _, end = end.rpartition(" ")
    yield {"mark": mark}
    summaries = [{"frames": 10, "tracked": 9, "peak_rss_mb": 5.0}]
    yield {"end": end, "error": f"{end}!", "code": 2, "summaries": summaries, "seconds": 1.0}


def fleet(clips, pool, tmp_path, output="", **orders):
  clips = [Clip(name, name) if isinstance(name, str) else name for name in clips]
  output = output or str(tmp_path / "out")
  orders = Orders(output, str(tmp_path / "scratch"), target="stand_in:main", environment=PATH, **orders)
  table = Table(clips, "", read(output))
  left = take_over(table, clips, orders, lambda clip: "digest")
  if left:
    Fleet(left, orders, pool, table, Console(table, quiet=True)).run()
  return table


@pytest.fixture
def films(tmp_path):
  """name -> a clip of the stand-in's."""
  (tmp_path / "films").mkdir()

  def make(**texts):
    for name, text in texts.items():
      (tmp_path / "films" / f"{name}.mp4").write_text(text)
    return [Clip(str(tmp_path / "films" / f"{name}.mp4"), name) for name in texts]

  return make


# --- who is given what -----------------------------------------------------------------------------------------------


def test_no_more_clips_are_begun_than_there_are_workers_and_one(tmp_path):
  names = [f"c{i}" for i in range(9)]
  pool = Scripted(dict.fromkeys(names, ["done"]), slots=3)
  table = fleet(names, pool, tmp_path)
  assert pool.most == 4 and table.count("done") == 9 and len(pool.given) == 9
  assert verdict(table) == (0, "9 of 9 clips are tracked")


def test_a_broken_clip_is_a_line_and_the_rest_go_on(tmp_path):
  table = fleet(["a", "b", "c"], Scripted({"a": ["done"], "b": ["failed"], "c": ["done"]}), tmp_path)
  assert [row.state for row in table.rows.values()] == ["done", "failed", "done"]
  assert table.rows["b"].error == "failed!" and table.rows["b"].attempts == 1
  assert verdict(table) == (2, "2 of 3 clips are tracked; 1 failed: b")


def test_a_dead_workers_clip_is_given_again_until_nothing_is_new_any_more(tmp_path):
  moving = [f"m{i} died" for i in range(3 * GIVE_UP)]
  pool = Scripted({"a": [*moving, "done"], "b": ["same died"], "c": ["crashed"]})
  table = fleet(["a", "b", "c"], pool, tmp_path)
  a, b, c = table.rows.values()
  assert (a.state, a.deaths, a.attempts) == ("done", len(moving), len(moving) + 1)
  assert (b.state, b.deaths, b.code) == ("failed", GIVE_UP, 1) and f"{GIVE_UP} times at the same place" in b.error
  assert (c.state, c.deaths) == ("failed", CRASHES)
  assert [o.node for o in pool.given if o.job.clip.name == "b"] == ["", "here", "here", "here"]  # its files are there


def test_out_of_memory_alone_first_then_in_smaller_batches_when_the_others_are_done(tmp_path):
  pool = Scripted({"a": ["memory"], "b": ["memory", "memory", "done"], "c": ["done"]})
  table = fleet(["a", "b", "c"], pool, tmp_path, cpus=1.0, batch_sizes=(4, 1))
  asked = [(order.job.clip.name, order.cpus, order.job.batch_size) for order in pool.given]
  assert asked[:3] == [("a", 1.0, 0), ("b", 1.0, 0), ("c", 1.0, 0)]
  assert sorted(asked[3:]) == [("a", 4.0, 0), ("a", 4.0, 1), ("a", 4.0, 4), ("b", 4.0, 0), ("b", 4.0, 4)]
  assert table.rows["b"].state == "done" and table.rows["b"].batch_size == 4
  assert table.rows["a"].state == "failed" and "not enough memory" in table.rows["a"].error


def test_frames_and_landmarks_first_where_they_are_work_apart(tmp_path):
  pool = Scripted({"a": ["done"], "b": ["done"]}, slots=1)
  clips = [Clip("a", "a"), Clip("b", "b", ("--face=all",))]
  fleet(clips, pool, tmp_path, apart=True, gpus=0.5, cpus=2.0)
  asked = sorted((o.job.clip.name, o.job.phase, o.cpus, o.gpus) for o in pool.given)
  assert asked == [("a", "dataset", 2.0, 0.0), ("a", "track", 1.0, 0.5), ("b", "all", 2.0, 0.5)]


class Told(Inline):
  """One that is told what its workers say, call by call: lists of (number of the order, event)."""

  def __init__(self, said, slots):
    super().__init__(slots)
    self.said = collections.deque(said)

  def events(self):
    return self.said.popleft()


def test_who_has_nothing_to_do_helps_with_a_long_clip(tmp_path):
  pytest.importorskip("fsspec")
  extracted, done = {"stage": "extract", "frames": 1700}, {"end": "done", "summaries": [{"frames": 1700}]}
  said = [
    [(0, {"node": "n", "host": "h"}), (0, extracted), (1, {"stage": "extract", "frames": 40})],
    [(2, {"end": "died", "error": "?"}), (1, done)],  # the second clip's place is free now
    [(4, {"node": "n", "host": "h"}), (0, {"stage": "detect", "frames": 1700})],
    [(3, {"end": "died", "code": -9})],  # another one goes on
    [(0, done)],  # and nobody waits for the rest
  ]
  pool = Told(said, slots=4)
  table = fleet(["long", "short"], pool, tmp_path)
  given = [(order.job.clip.name, order.job.phase, order.node) for order in pool.given]
  assert given == [("long", "all", ""), ("short", "all", ""), *[("long", "help", "n")] * 4]
  assert not pool.said and [row.attempts for row in table.rows.values()] == [1, 1]
  away = Told([[(0, extracted)], [(0, done)]], slots=4)
  fleet(["long"], away, tmp_path, output=f"file://{tmp_path}/away")
  assert len(away.given) == 1  # its frames are not where others are


# --- with child processes --------------------------------------------------------------------------------------------


def test_clips_of_all_kinds(films, tmp_path):
  clips = films(one="well 1", two="well 22", bad="bad 3", crash="crash", eat="eat 4")
  clips.append(Clip(str(tmp_path / "gone.mp4"), "gone"))
  table = fleet(clips, Inline(), tmp_path, batch_sizes=(4, 1))
  out = tmp_path / "out"
  states = {name: row.state for name, row in table.rows.items()}
  assert states == {"one": "done", "two": "done", "bad": "failed", "crash": "failed", "eat": "done", "gone": "failed"}
  for name in ("one", "two", "eat"):
    source = (tmp_path / "films" / f"{name}.mp4").read_bytes()
    assert (out / name / RESULT).read_bytes() == bytes(255 - b for b in source)
    assert (out / name / "work.txt").read_text().split() == [str(i) for i in range(len(source))]  # nothing twice
  assert "cannot be read as a video" in table.rows["bad"].error and "no such video" in table.rows["gone"].error
  assert "SIGSEGV" in table.rows["crash"].error and "string_at" in table.rows["crash"].error
  assert table.rows["eat"].batch_size == 1
  content = json.loads((out / "fleet.json").read_text())
  assert content["finished"] and content["counts"] == {"waiting": 0, "running": 0, "done": 3, "failed": 3}
  assert "6 clips" in (out / "fleet.html").read_text()
  assert verdict(table)[0] == 1  # a crash is not the user's
  assert os.listdir(tmp_path / "scratch") == ["crash"]  # from where another call would go on


@pytest.mark.skipif(sys.platform != "linux", reason="its kernel says what a process has computed")
def test_a_clip_that_hangs_is_done_again_once(films, tmp_path, monkeypatch):
  monkeypatch.setattr(supervise, "LOOK", 0.1)
  monkeypatch.setattr(supervise, "HUNG", 2.0)
  table = fleet(films(one="hang 1"), Inline(), tmp_path)
  row = table.rows["one"]
  assert (row.state, row.code, row.attempts, row.deaths) == ("failed", 1, 2, 2)
  assert "did nothing" in row.error and "threading.py" in row.error


def test_the_same_call_again_does_what_is_left(films, tmp_path):
  clips = films(one="well 1", bad="bad 3", two="well 2")
  fleet(clips, Inline(), tmp_path)
  pool = Inline()
  table = fleet(clips, pool, tmp_path)
  assert [order.job.clip.name for order in pool.given] == ["bad"]
  assert table.kept == {"one", "two"} and table.rows["one"].frames == len("well 1")
  films(bad="well 33", one="well other")  # one is mended, one is another film
  (tmp_path / "out" / "two" / RESULT).unlink()  # and of one the result is gone
  pool = Inline()
  table = fleet(clips, pool, tmp_path)
  assert sorted(order.job.clip.name for order in pool.given) == ["bad", "one", "two"]
  assert table.count("done") == 3


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_inputs_and_results_elsewhere(kind, tmp_path):
  pytest.importorskip("fsspec")
  base = {"file": f"file://{tmp_path}/away", "memory": f"memory://{tmp_path.name}"}[kind]
  for name, text in (("one", "well 1"), ("bad", "bad")):
    storage.write(storage.join(base, "in", f"{name}.mp4"), text.encode())
  clips = [Clip(storage.join(base, "in", f"{name}.mp4"), name) for name in ("one", "bad")]
  table = fleet(clips, Inline(), tmp_path, output=storage.join(base, "out"))
  at = lambda *names: storage.join(base, "out", *names)
  assert storage.read(at("one", RESULT)) == bytes(255 - b for b in b"well 1")
  assert storage.exists(at("one", "run.json")) and storage.exists(at("one", "dataset", "frame_0005", "keypoints"))
  assert storage.exists(at("bad", "run.json")) and not storage.exists(at("bad", "dataset"))
  assert table.rows["one"].fetched == 6 and table.rows["one"].sent > 12
  assert not any((tmp_path / "scratch").iterdir())  # nothing is left here
  assert json.loads(storage.read(at("fleet.json")))["counts"]["done"] == 1
  pool = Inline()
  fleet(clips, pool, tmp_path, output=storage.join(base, "out"))
  assert [order.job.clip.name for order in pool.given] == ["bad"]
  storage.remove(base, ["out/fleet.json"])  # then what is there is fetched, and nothing done again
  table = fleet(clips[:1], Inline(), tmp_path, output=storage.join(base, "out"))
  assert table.rows["one"].fetched > 6
  assert storage.read(at("one", "work.txt")).split() == b"0 1 2 3 4 5".split()


def test_datasets_can_be_left_out(films, tmp_path):
  pytest.importorskip("fsspec")
  clips = films(one="well 1", bad="bad")
  fleet(clips, Inline(), tmp_path, keep_dataset=False)
  assert not (tmp_path / "out" / "one" / "dataset").exists() and (tmp_path / "out" / "one" / RESULT).exists()
  away = f"file://{tmp_path}/away"
  fleet(clips, Inline(), tmp_path, output=away, keep_dataset=False, apart=True)
  assert sorted(e.name for e in storage.entries(f"{away}/one")) == ["run.json", "track.log", RESULT, "work.txt"]


def test_a_killed_child_is_told_from_a_broken_clip_and_goes_on(films, tmp_path):
  (clip,) = films(long="slow 0123456789")
  job = Job(clip, str(tmp_path / "out"), str(tmp_path / "scratch"), target="stand_in:main", environment=PATH)
  found = []
  begun = tmp_path / "out" / "dataset" / "frame_0003"

  def kill():
    while not begun.exists():
      time.sleep(0.02)
    os.kill(at_work(tmp_path)[0][0], signal.SIGKILL)

  killer = threading.Thread(target=kill)
  killer.start()
  found = list(work(job))
  killer.join()
  assert found[-1]["end"] == "died" and "SIGKILL" in found[-1]["error"]
  mark = single.progress_mark(tmp_path / "out")
  found = list(work(job))
  assert found[0] == {"mark": mark} and mark != "0 0"
  assert found[-1]["end"] == "done" and found[1]["stage"] == "extract" and found[1]["frames"] == 15
  done = (tmp_path / "out" / "work.txt").read_text().split()
  assert sorted(set(done), key=int) == [str(i) for i in range(15)] and len(done) <= 16


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system ties no process to processors")
def test_pinned_clips_have_cores_of_their_own():
  everywhere = sorted(os.sched_getaffinity(0))
  with single.own_cores(1) as one, single.own_cores(len(everywhere)) as too_many, single.own_cores(0) as none:
    assert len(one) == 1 and too_many == () and none == ()
    with prepared.using(one):
      code = "import os; print(*os.sched_getaffinity(0))"
      assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == [str(one[0])]
    if len(everywhere) > 1:
      with single.own_cores(1) as other:
        assert other and other != one
  assert sorted(os.sched_getaffinity(0)) == everywhere
