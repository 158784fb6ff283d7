"""A run that is killed again and again ends with the same numbers as one that is not; disks that cannot be written."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vht_jax.app.options import settings

pytestmark = [pytest.mark.faults, pytest.mark.slow]

REPO = Path(__file__).resolve().parents[2]
RESULT = "tracked_flame_params.npz"
FLAGS = [
  "--model=open", "--max_frames=16", "--downscale_factor=4", "--crop_size=64", "--n_samples=200", "--identity_steps=2",
  "--frame_steps=1", "--n_shape=10", "--n_tex=5", "--n_keyframes=3", "--n_calibration_frames=6", "--batch_size=4",
  "--nooverlay",
]  # fmt: skip
# Checkpoints after every batch, marks of the detector every 8 frames: more places to be killed at than in earnest.
START = """
import sys
sys.path.insert(0, {repo!r})
from vht_jax.app import record
from vht_jax.dataset import resume
record.INTERVAL, resume.SEGMENT = 0.0, 8
{extra}
from vht_jax.app.cli import main
sys.exit(main(sys.argv[1:]))
"""
# Dies at the n-th file that it writes: with half of it written, before it gets its name, or right after.
AT_WRITE = """
import os, signal
from vht_jax.host import files
replace, count = os.replace, [0]
def deadly(source, target):
  count[0] += 1
  if count[0] == {n}:
    if {how} == 0:
      os.truncate(source, os.path.getsize(source) // 2)
    if {how} == 2:
      replace(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
  replace(source, target)
files.os.replace = deadly
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  clip = settings.packaged("assets/demo/demo.mp4")
  if not clip.exists():
    pytest.skip(f"{clip} not present")
  pytest.importorskip("mediapipe")
  folder = tmp_path_factory.mktemp("kill")
  shutil.copy(clip, folder / "clip.mp4")
  return folder


def command(home, name, extra="", flags=()):
  code = START.format(repo=str(REPO), extra=extra)
  return [sys.executable, "-c", code, f"--video={home / 'clip.mp4'}", f"--output_path={home / name}", *FLAGS, *flags]


def start(home, name, extra="", flags=(), **options):
  cache = {"JAX_COMPILATION_CACHE_DIR": str(home / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  # The level last: importing jax has set another one here, at which XLA's messages fill the pipes that nobody empties.
  environment = {**cache, **os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
  return subprocess.Popen(
    command(home, name, extra, flags), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    **options,
  )  # fmt: skip


def run(home, name, extra="", flags=(), **options):
  process = start(home, name, extra, flags, **options)
  out, err = process.communicate()
  return process.returncode, out, err


@pytest.fixture(scope="module")
def unbroken(home):
  """The result's file, and how long a run with compiled programs takes."""
  code, _, err = run(home, "first")
  assert code == 0, err
  before = time.monotonic()
  code, _, err = run(home, "second")
  assert code == 0, err
  seconds = time.monotonic() - before
  data = (home / "first" / RESULT).read_bytes()
  assert data == (home / "second" / RESULT).read_bytes(), "an unbroken run must be reproducible to begin with"
  return data, seconds


def leftovers(folder):
  return [p for p in Path(folder).rglob("*") if ".tmp" in p.name]


def test_fifty_kills_at_random_times(home, unbroken):
  expected, seconds = unbroken
  rng = np.random.default_rng(0)
  kills = runs = 0
  while kills < 50:
    name = f"killed{runs}"
    whole = True
    while True:
      began = time.monotonic()
      process = start(home, name)
      try:
        process.wait(timeout=float(rng.uniform(0.05, 0.8)) * seconds if kills < 50 else None)
      except subprocess.TimeoutExpired:
        process.kill()
        kills, whole = kills + 1, False
      out, err = process.communicate()
      assert process.returncode in (0, -signal.SIGKILL), err
      assert "Traceback" not in err
      if process.returncode == 0:
        if whole:  # faster than measured: other work on this machine has ended
          seconds = time.monotonic() - began
        break
    assert (home / name / RESULT).read_bytes() == expected, f"run {runs}, after {kills} kills"
    assert not leftovers(home / name)
    assert not (home / name / "checkpoint").exists()
    runs += 1
    print(f"{kills} kills, {runs} runs, {seconds:.0f} s each", flush=True)


@pytest.mark.parametrize("seed", range(3))
def test_kills_while_files_are_written(home, unbroken, seed):
  expected, _ = unbroken
  rng = np.random.default_rng(seed)
  name = f"written{seed}"
  for _ in range(4):
    extra = AT_WRITE.format(n=int(rng.integers(1, 12)), how=int(rng.integers(3)))
    code, _, err = run(home, name, extra)
    assert code in (0, -signal.SIGKILL), err
  code, _, err = run(home, name)
  assert code == 0, err
  assert (home / name / RESULT).read_bytes() == expected
  assert not leftovers(home / name)


def test_a_finished_run_is_recognised_and_another_refused(home, unbroken):
  expected, _ = unbroken
  code, out, err = run(home, "first")
  assert code == 0 and "finished" in out and err == ""
  assert (home / "first" / RESULT).read_bytes() == expected
  code, out, err = run(home, "first", flags=["--batch_size=8", "--sd_color=0.5"])
  assert code == 2 and "batch_size: 4 -> 8" in err and "sd_color: 0.03 -> 0.5" in err and "--restart" in err
  assert err.count("\n") == 1
  assert (home / "first" / RESULT).read_bytes() == expected


def test_another_input_in_the_same_folder_is_refused(home, unbroken):
  shutil.copytree(home / "second", home / "edited")
  keypoints = home / "edited" / "dataset" / "frame_0003" / "keypoints_static_0000.json"
  content = json.loads(keypoints.read_text())
  content["people"][0]["face_keypoints_2d"][0] += 1
  keypoints.write_text(json.dumps(content))
  code, _, err = run(home, "edited")
  assert code == 2 and "other input (landmarks: " in err and "--restart" in err


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(home, unbroken):
  """The result is larger than a file may become: EFBIG, which is reported as ENOSPC is."""
  expected, _ = unbroken

  def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

  code, _, err = run(home, "full", preexec_fn=small_files)
  assert code == 2 and err.count("\n") == 1 and "cannot be written" in err and "Traceback" not in err
  code, _, err = run(home, "full")
  assert code == 0, err
  assert (home / "full" / RESULT).read_bytes() == expected


def bound_by_permissions():
  """Root may write everywhere, but not without the capability that says so (CAP_DAC_OVERRIDE, gone after exec)."""
  if os.geteuid() == 0:
    import ctypes

    if ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) != 0:  # PR_CAPBSET_DROP
      os._exit(77)


def test_a_read_only_output_is_one_line(home, unbroken):
  folder = home / "locked"
  folder.mkdir()
  folder.chmod(0o555)
  code, _, err = run(home, "locked", preexec_fn=bound_by_permissions)
  if code == 77:
    pytest.skip("root cannot be bound here")
  assert code == 2 and "locked" in err and "cannot be written (Permission denied)" in err and err.count("\n") == 1, err


def test_two_runs_in_one_folder(home, unbroken):
  first = start(home, "both")
  try:
    deadline = time.monotonic() + 120
    while not (home / "both" / "track.log").exists() and time.monotonic() < deadline:
      time.sleep(0.05)
    code, _, err = run(home, "both")
    assert (code == 2 and "another run is writing here" in err) or first.poll() == 0
  finally:
    first.communicate()
  assert first.returncode == 0 and (home / "both" / RESULT).read_bytes() == unbroken[0]
