"""What a fleet costs beside a shell loop, on eight clips of one after the other, and what its workers hold in memory.

  python benchmarks/fleet_overhead.py VIDEO WORK [--frames=200] [--clips=8] [--flags --noreport]

Eight clips are cut from a video of the user's. One is tracked first, so that everything is compiled; then all in a
shell loop of `vht-track`, and all by `vht-fleet` with as many processors for a clip as there are. On an otherwise idle
machine. Prints the wall and CPU seconds of both, the overhead, and the largest memory of a run and of Ray's processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import fleet_kills

ROOT = Path(__file__).resolve().parent.parent
LOOK = 5.0  # s between two looks at all processes, which take some 20 ms of the runs' processors


def cut(video: Path, folder: Path, clips: int, frames: int) -> list[Path]:
  """Clips of so many frames each; the video is begun again where it ends."""
  folder.mkdir(parents=True, exist_ok=True)
  paths, source = [folder / f"clip{i}.mp4" for i in range(clips)], cv2.VideoCapture(str(video))
  for path in paths:
    writer = None
    for _ in range(frames):
      there, frame = source.read()
      if not there:
        source.set(cv2.CAP_PROP_POS_FRAMES, 0)
        there, frame = source.read()
      if writer is None:
        size = frame.shape[1::-1]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), source.get(cv2.CAP_PROP_FPS) or 25, size)
      writer.write(frame)
    if writer is not None:
      writer.release()
  return paths


def kind_of(command: str, parents: str) -> str:
  """Of a process, by its command line and its parent's."""
  if "prepared.server" in command:
    return "run" if "prepared.server" in parents else "prepared (shared with the runs)"
  if "fleet.cli" in command:
    return "driver"
  if "ray::" in command:
    return "Ray's workers"
  return "Ray" if "ray" in command and "vht_jax" not in command else "decoder, others"


class Watch(threading.Thread):
  """The most that processes of each kind hold, and what Ray's have computed, as long as they live."""

  def __init__(self):
    super().__init__(daemon=True)
    self.most: dict[str, float] = {}
    self.ray_cpu: dict[int, float] = {}
    self.done = threading.Event()

  def run(self) -> None:
    while not self.done.wait(LOOK):
      held: dict[str, float] = {}
      found = fleet_kills.ours()
      for pid, (parent, command) in found.items():
        kind = kind_of(command, found.get(parent, (0, ""))[1])
        try:
          fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
          held[kind] = held.get(kind, 0.0) + int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
          if kind.startswith("Ray"):
            self.ray_cpu[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
          pass
      for kind, megabytes in held.items():
        self.most[kind] = max(self.most.get(kind, 0.0), megabytes)


def measured(commands: list[list[str]]) -> tuple[float, float]:
  """Wall and CPU seconds of commands, one after the other, with all processes that they waited for: of a fleet the
  driver and Ray's own, not the runs, which Ray's workers wait for."""
  used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
  start, before = time.perf_counter(), used()
  for command in commands:
    subprocess.run(command, cwd=ROOT, env=fleet_kills.environment(), stdout=subprocess.DEVNULL, check=True)
  return time.perf_counter() - start, used() - before


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("video", type=Path)
  parser.add_argument("work", type=Path)
  parser.add_argument("--frames", type=int, default=200)
  parser.add_argument("--clips", type=int, default=8)
  parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="of vht-track; the last of all")
  args = parser.parse_args()
  work = args.work.resolve()
  paths = cut(args.video, work / "clips", args.clips, args.frames)
  for name in ("first", "loop", "fleet", "scratch"):
    shutil.rmtree(work / name, ignore_errors=True)
  track = lambda path, output: [sys.executable, "-m", "vht_jax", str(path), f"--output_path={output}", *args.flags]
  seconds, _ = measured([track(paths[0], work / "first")])
  print(f"first run, which compiles: {seconds:.1f} s", flush=True)
  loop, loop_cpu = measured([track(path, work / "loop" / path.stem) for path in paths])
  print(f"shell loop: {loop:.1f} s, {loop_cpu:.0f} CPU s", flush=True)
  fleet = [sys.executable, "-m", "vht_jax.fleet.cli", str(work / "clips"), f"--output_path={work / 'fleet'}"]
  fleet += [f"--cpus={os.cpu_count()}", f"--scratch={work / 'scratch'}", *args.flags]
  watch = Watch()
  watch.start()
  wall, cpu = measured([fleet])
  watch.done.set()
  rows = json.loads((work / "fleet" / "fleet.json").read_text())["clips"]
  ray, largest = sum(watch.ray_cpu.values()), max(row["peak_mb"] for row in rows)
  print(
    f"fleet:      {wall:.1f} s, {cpu:.0f} CPU s of the driver and those of Ray that it ends, {ray:.1f} of all of Ray's"
  )
  print(f"overhead:   {wall - loop:.1f} s, {100 * (wall / loop - 1):.1f} %")
  print(f"memory, MB: {largest:.0f} the largest process of a run; of each kind together, the most: ", end="")
  print(", ".join(f"{kind} {most:.0f}" for kind, most in sorted(watch.most.items())))


if __name__ == "__main__":
  main()
