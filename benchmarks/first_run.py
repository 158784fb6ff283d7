"""A first run and a later one, of two checkouts in turn: seconds of wall and CPU of the whole program and its stages.

Each run is a process of its own with a cache folder of its own: `cold` has an empty one, `warm` the one that `cold`
left. CPU seconds are those of the process and its children, so they say what is saved on a machine that does other
things as well. `picture`: wall seconds until the first tracked frame can be looked at.

  python benchmarks/first_run.py [--trees . ../main] [--video clip.mp4] [--warm 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--trees", type=Path, nargs="+", default=[ROOT], help="checkouts to compare, run in turn")
  parser.add_argument("--video", type=Path, help="by default the demo's")
  parser.add_argument("--max_frames", type=int, default=0)
  parser.add_argument("--warm", type=int, default=2, help="runs after the first")
  parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench" / "first_run.json")
  args = parser.parse_args()
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for k in range(1 + args.warm):
      for i, tree in enumerate(args.trees):
        found = measure(tree.resolve(), Path(folder, str(i)), k, args.video, args.max_frames)
        rows.append({"tree": str(tree), "run": "cold" if k == 0 else "warm"} | found)
        print(json.dumps(rows[-1]), flush=True)
  args.output.parent.mkdir(parents=True, exist_ok=True)
  args.output.write_text(json.dumps(rows, indent=2) + "\n")


def measure(tree: Path, folder: Path, k: int, video: Path | None, max_frames: int) -> dict[str, object]:
  """One whole run of a checkout; k numbers its output."""
  folder.mkdir(exist_ok=True)
  output = folder / f"out{k}"
  program, named = ("track", [f"--video={video.resolve()}"]) if video else ("demo", [])
  call = f"from vht_jax.__main__ import {program}; {program}()"
  command = [sys.executable, "-P", "-c", call, f"--output_path={output}", "--model=open", f"--max_frames={max_frames}"]
  environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(tree)}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  before, start, began = os.times(), time.perf_counter(), time.time()
  subprocess.run([*command, *named], check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
  wall, after = time.perf_counter() - start, os.times()
  picture = output / "first_frame.png"
  summary = json.loads((output / "summary.json").read_text())
  return {
    "wall": round(wall, 1),
    "cpu": round(after.children_user + after.children_system - before.children_user - before.children_system, 1),
    "frames": summary["frames"],
    "picture": round(picture.stat().st_mtime - began, 1) if picture.exists() else None,
    "load": os.getloadavg()[0],
    "stages": {name: round(seconds, 2) for name, seconds in summary["stage_seconds"].items()},
  }


if __name__ == "__main__":
  main()
