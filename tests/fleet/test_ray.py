"""The fleet's program on a small cluster of Ray that it starts itself, with workers and itself killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import at_work

pytest.importorskip("ray", reason="Ray is not installed (extra [fleet])")
pytestmark = [pytest.mark.faults, pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")]

HERE = Path(__file__).parent
REPO = HERE.parents[1]
RESULT = "tracked_flame_params.npz"
START = """
import functools, os, sys
if "GPUS" in os.environ:
  import ray
  ray.init = functools.partial(ray.init, num_gpus=int(os.environ["GPUS"]), num_cpus=4)
sys.path.insert(0, {repo!r})
from vht_jax.fleet.cli import main
sys.exit(main(sys.argv[1:], target="stand_in:main", environment=(("PYTHONPATH", {here!r}),)))
"""


def start(folder, *argv, **variables):
  """The program in `folder`; with these variables in its environment."""
  code = START.format(repo=str(REPO), here=str(HERE))
  environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **variables}
  return subprocess.Popen(
    [sys.executable, "-c", code, *argv], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )  # fmt: skip


def films(folder, **texts):
  (folder / "films").mkdir()
  for name, text in texts.items():
    (folder / "films" / f"{name}.mp4").write_text(text)
  return {name: bytes(255 - b for b in text.encode()) for name, text in texts.items()}


def check(folder, expected):
  """Results are right, and no frame was done twice but for one at each death."""
  rows = {row["name"]: row for row in json.loads((folder / "out" / "fleet.json").read_text())["clips"]}
  for name, content in expected.items():
    assert (folder / "out" / name / RESULT).read_bytes() == content
    done = (folder / "out" / name / "work.txt").read_text().split()
    assert len(set(done)) == len(content)
    yield rows[name], len(done) - len(content)


def run_and_kill(tmp_path, seed, kills, of_the_fleet, frames):
  """Runs a fleet that is killed so often, with these numbers at the fleet itself; returns its last output."""
  expected = films(tmp_path, **{f"slow{i}": "slow " + "x" * frames for i in range(2)}, well="well 3")
  (tmp_path / "films" / "bad.mp4").write_text("bad")
  command = ["films", "--output_path=out", "--cpus=0.5"]
  rng = random.Random(seed)
  fleet, done, end = start(tmp_path, *command), 0, time.monotonic() + 300
  while done < kills:
    time.sleep(rng.uniform(0.2, 0.6))
    assert fleet.poll() is None and time.monotonic() < end, (done, fleet.communicate())
    if found := at_work(tmp_path / "out"):
      child, worker = rng.choice(found)
      done += 1
      if done in of_the_fleet:
        fleet.kill()
        fleet.communicate()
        while at_work(tmp_path / "out"):  # they go with it
          assert time.monotonic() < end
          time.sleep(0.1)
        fleet = start(tmp_path, *command)
      else:
        os.kill(worker if done % 2 else child, signal.SIGKILL)
  out, err = fleet.communicate(timeout=300)
  assert fleet.returncode == 2, err
  assert "3 of 4 clips are tracked" in err and "1 failed: bad" in err
  assert "bad.mp4: cannot be read as a video" in out and "Traceback" not in out + err
  twice = [n for _, n in check(tmp_path, expected)]
  assert sum(twice) <= kills + len(of_the_fleet)  # a frame for each death; with the fleet two clips may die


@pytest.mark.slow
def test_fractions_of_a_gpu(tmp_path):
  """Ray gives a tenth of its GPU to each of two clips at once, and XLA is told of its share; landmarks get none."""
  expected = films(tmp_path, one="gpu 1", two="gpu 22")
  fleet = start(tmp_path, "films", "--output_path=out", "--cpus=1", "--gpus=.1", GPUS="1")
  out, err = fleet.communicate(timeout=120)
  assert fleet.returncode == 0, out + err
  for name, content in expected.items():
    assert (tmp_path / "out" / name / RESULT).read_bytes() == content
    of_landmarks, of_tracking = map(json.loads, (tmp_path / "out" / name / "gpu.txt").read_text().splitlines())
    assert of_tracking == ["0", "0.090"] and of_landmarks[1] is None, (of_landmarks, of_tracking)


@pytest.mark.slow
def test_killed_workers_clips_go_on(tmp_path):
  run_and_kill(tmp_path, seed=0, kills=2, of_the_fleet=(), frames=10)


@pytest.mark.slow
def test_workers_are_killed_ten_times_and_the_fleet_with_its_cluster_once(tmp_path):
  run_and_kill(tmp_path, seed=1, kills=11, of_the_fleet=(5,), frames=60)
