"""The fleet with the tracker itself: the numbers are those of single runs, bit for bit, with workers killed as well."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_ray import workers

from vht_jax.app.options import settings

pytest.importorskip("ray", reason="Ray is not installed (extra [fleet])")
pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="uses /proc")]

REPO = Path(__file__).resolve().parents[2]
RESULT = "tracked_flame_params.npz"
FLAGS = [
  "--model=open", "--downscale_factor=4", "--crop_size=64", "--n_samples=200", "--identity_steps=2", "--frame_steps=1",
  "--n_shape=10", "--n_tex=5", "--n_keyframes=3", "--n_calibration_frames=6", "--batch_size=4", "--nooverlay",
  "--noreport",
]  # fmt: skip
START = "import sys; sys.path.insert(0, {repo!r}); from {module} import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  clip = settings.packaged("assets/demo/demo.mp4")
  if not clip.exists():
    pytest.skip(f"{clip} not present")
  pytest.importorskip("mediapipe")
  folder = tmp_path_factory.mktemp("fleet")
  shutil.copy(clip, folder / "a.mp4")
  (folder / "cut.mp4").write_bytes(clip.read_bytes()[:2000])
  (folder / "list.csv").write_text("clip,name,max_frames\na.mp4,long,20\na.mp4,short,6\ncut.mp4,,\n")
  return folder


def start(home, module, *argv):
  environment = {**os.environ, "XDG_CACHE_HOME": str(home / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  return subprocess.Popen(
    [sys.executable, "-c", START.format(repo=str(REPO), module=module), *argv, *FLAGS], cwd=home, env=environment,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


@pytest.fixture(scope="module")
def single(home):
  """Name -> bytes of the result of a run of vht-track."""
  for name, n in (("long", 20), ("short", 6)):
    run = start(home, "vht_jax.app.cli", "a.mp4", f"-n={n}", f"--output_path=single/{name}")
    _, err = run.communicate()
    assert run.returncode == 0, err
  return {name: (home / "single" / name / RESULT).read_bytes() for name in ("long", "short")}


def check(home, output, single):
  for name, expected in single.items():
    assert (home / output / name / RESULT).read_bytes() == expected, name
  rows = {row["name"]: row for row in json.loads((home / output / "fleet.json").read_text())["clips"]}
  assert rows["cut"]["state"] == "failed" and "cut.mp4" in rows["cut"]["error"]
  return rows


@pytest.mark.parametrize("detect", ["together", "apart"])
def test_results_are_those_of_single_runs(home, single, detect):
  fleet = start(home, "vht_jax.fleet.cli", "list.csv", "-o", detect, "--cpus=1", f"--detect={detect}")
  _, err = fleet.communicate()
  assert fleet.returncode == 2 and "2 of 3 clips are tracked; 1 failed: cut" in err
  rows = check(home, detect, single)
  assert rows["long"]["frames"] == 20 and rows["long"]["peak_mb"] > 300


def test_and_of_killed_workers_too(home, single):
  rng = random.Random(0)
  fleet, kills = start(home, "vht_jax.fleet.cli", "list.csv", "-o", "killed", "--cpus=1"), 0
  while fleet.poll() is None and kills < 6:
    time.sleep(rng.uniform(1.0, 6.0))
    if found := workers(home / "killed"):
      child, worker = rng.choice(found)
      os.kill(worker if kills % 2 else child, signal.SIGKILL)
      kills += 1
  _, err = fleet.communicate()
  assert fleet.returncode == 2, err
  rows = check(home, "killed", single)
  assert rows["long"]["deaths"] + rows["short"]["deaths"] + rows["cut"]["deaths"] >= kills - 1
