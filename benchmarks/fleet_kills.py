"""A fleet whose workers are killed, and its head with the whole cluster once, against single runs: the same files?

Twelve clips of different kinds are made of the sample videos: two are broken, one shows two people, one has 2,000
frames. Each is tracked by a run of its own, then all by `vht-fleet` on two workers, which are killed at seeded times,
Ray's workers and the children that do their work in turn; halfway the fleet itself and Ray's head processes are, and
the same command is given again.

  python benchmarks/fleet_kills.py DATA WORK [--kills=10] [--seed=19] [--only outdoor text two] [--long=2000]

DATA has videos/ and failing/; WORK is made, and single runs that are there are taken again. Prints for each clip
whether results, frames and landmark files are those of its single run, byte for byte, and what was written a second
time after each kill; exit code 0 if all are the same and nothing of a dataset was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MARK = "VHT_FLEET_KILLS"  # in the environment of all that this starts, so that nothing else is killed
RESULT = "tracked_flame_params.npz"
FLAGS = ["--model=open", "--overlay=none", "--noreport"]
SIDE = 240  # px
GAP = (6.0, 20.0)  # s between two kills


def frames_of(path: Path, n: int, start: int = 0) -> list[np.ndarray]:
  """`n` BGR frames of a video, their middle as a square of `SIDE`."""
  video, found = cv2.VideoCapture(str(path)), []
  video.set(cv2.CAP_PROP_POS_FRAMES, start)
  while len(found) < n and (read := video.read())[0]:
    height, width = read[1].shape[:2]
    side = min(height, width)
    y, x = (height - side) // 2, (width - side) // 2
    found.append(cv2.resize(read[1][y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA))
  return found


def write(path: Path, frames: list[np.ndarray]) -> None:
  video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (SIDE, SIDE))
  for frame in frames:
    video.write(frame)
  video.release()


def make_clips(data: Path, folder: Path, long: int) -> dict[str, list[str]]:
  """Makes the clips; file name -> flags of its own."""
  videos, failing = data / "videos", data / "failing"
  folder.mkdir(parents=True, exist_ok=True)
  write(folder / "outdoor.mp4", frames_of(videos / "outdoor.mp4", 40))
  write(folder / "frontal.mp4", frames_of(videos / "frontal_512.mp4", 32))
  write(folder / "speech.mp4", frames_of(videos / "duda_1080p.mp4", 24, start=40))
  write(folder / "webcam.mp4", frames_of(videos / "webcam_400x300.mp4", 16, start=100))
  write(folder / "sunglasses.mp4", frames_of(failing / "sunglasses.mp4", 12))
  shutil.copy(failing / "two.mp4", folder / "two.mp4")
  once = frames_of(videos / "outdoor.mp4", 50)
  there_and_back = once + once[-2:0:-1]
  write(folder / "long.mp4", [there_and_back[i % len(there_and_back)] for i in range(long)])
  pictures = lambda path: [Image.fromarray(frame[..., ::-1]) for frame in frames_of(path, 12)]
  first, *rest = pictures(videos / "outdoor.mp4")
  first.save(folder / "anim.webp", save_all=True, append_images=rest, duration=40, lossless=True)
  first, *rest = pictures(videos / "frontal_512.mp4")
  first.save(folder / "multi.tiff", save_all=True, append_images=rest)
  (folder / "gaps").mkdir(exist_ok=True)
  for path in sorted((failing / "gaps").iterdir()):
    image = cv2.resize(cv2.imread(str(path)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "gaps" / path.name), image)
  (folder / "cut.mp4").write_bytes((videos / "outdoor.mp4").read_bytes()[:20000])
  (folder / "text.mp4").write_text("this is no video\n" * 40)
  small = [
    "outdoor.mp4",
    "frontal.mp4",
    "speech.mp4",
    "webcam.mp4",
    "sunglasses.mp4",
    "gaps",
    "multi.tiff",
    "anim.webp",
  ]
  return {
    "long.mp4": ["--photometric=false"], **dict.fromkeys(small, []), "two.mp4": ["--face=all", "--max_frames=12"],
    "cut.mp4": [], "text.mp4": [],
  }  # fmt: skip


def environment() -> dict[str, str]:
  return {**os.environ, MARK: str(os.getpid()), "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def single(clip: Path, output: Path, flags: list[str]) -> str:
  """Tracks a clip by itself unless that was done; what it says of it."""
  said = output.with_suffix(".said")
  if not said.exists():
    command = [sys.executable, "-m", "vht_jax", str(clip), f"--output_path={output}", *FLAGS, *flags, "--json"]
    start = time.time()
    run = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said.write_text(f"{run.returncode} {time.time() - start:.0f} s")
  return said.read_text()


def ours() -> dict[int, tuple[int, str]]:
  """Processes that this program has started, or those have: number -> parent's number, command line."""
  found = {}
  for path in Path("/proc").glob("[0-9]*"):
    try:
      if f"{MARK}={os.getpid()}".encode() in (path / "environ").read_bytes().split(b"\0"):
        parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        found[int(path.name)] = parent, (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
      pass
  return found


def working(output: Path) -> list[tuple[int, int, str]]:
  """Children that hold a clip, or a piece of one: number, their worker's, clip or "pieces of" it."""
  found, all_ours = [], ours()
  for pid, (parent, command) in all_ours.items():
    if "prepared.server" not in command and "supervise" not in command:
      continue
    inside = set()
    with contextlib.suppress(OSError):
      for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError, ValueError):
          inside.add(Path(os.readlink(file)).relative_to(output).parts)
    worker = all_ours.get(parent, (0, ""))
    worker = worker[0] if "prepared.server" in worker[1] else parent
    if pieces := [parts for parts in inside if "pieces" in parts and (parts[0], ".lock") not in inside]:
      found.append((pid, worker, f"pieces of {pieces[0][0]}"))
    elif runs := [parts for parts in inside if parts[-1] == ".lock"]:
      found.append((pid, worker, runs[0][0]))
  return found


def snapshot(output: Path) -> dict[str, int]:
  """When each file was written that takes work: frames, landmarks, stages."""
  found = {}
  for pattern in ("*/dataset/*/*.png", "*/dataset/*/keypoints*.json", "*/**/checkpoint/*.npz"):
    for path in output.glob(pattern):
      with contextlib.suppress(OSError):
        found[str(path.relative_to(output))] = path.stat().st_mtime_ns
  return found


def looked_at_again(output: Path) -> set[str]:
  """Landmark files that a run writes again when all frames are searched: out of line, or without a face."""
  found = set()
  for record in output.glob("*/dataset/landmarks*.json"):
    kind = record.stem.partition("_")[2] or "static"
    files = sorted(record.parent.glob(f"*/keypoints_{kind}_0000.json"))
    expected = json.loads(record.read_text()).get("second_look", {}).get("expected", {})
    again = [files[int(i)] for i in expected] + [path for path in files if '"no_face": true' in path.read_text()]
    found.update(str(path.relative_to(output)) for path in again)
  return found


def kill(*pids: int) -> None:
  for pid in pids:
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)


def run_killed(work: Path, kills: int, seed: int) -> list[tuple[str, dict[str, int]]]:
  """Runs the fleet to its end; what was killed, and `snapshot` before that."""
  output, rng, told = work / "fleet", random.Random(seed), []
  command = [
    sys.executable,
    "-m",
    "vht_jax.fleet.cli",
    str(work / "clips" / "list.csv"),
    f"--output_path={output}",
    "--cpus=1",
  ]
  command += [*FLAGS, f"--scratch={work / 'scratch'}"]
  log = open(work / "fleet.log", "ab")
  begin = lambda: subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT)
  fleet, start = begin(), time.time()
  while fleet.poll() is None and len(told) < kills + 1:
    time.sleep(rng.uniform(*GAP))
    targets = working(output)
    if not targets or fleet.poll() is not None:
      continue
    before, (pid, parent, name) = snapshot(output), rng.choice(targets)
    if len(told) == kills // 2:
      head = [p for p, (_, line) in ours().items() if "gcs_server" in line or "raylet" in line]
      kill(fleet.pid, *head)
      fleet.wait()
      moment = time.time()
      while working(output):
        time.sleep(0.1)
      what = f"the fleet and {len(head)} of Ray's head; the workers were gone after {time.time() - moment:.1f} s"
      fleet = begin()
    else:
      kill(parent if len(told) % 2 else pid)
      what = f"{'worker' if len(told) % 2 else 'child'} of {name}"
    told.append((f"{time.time() - start:5.0f} s: {what}", before))
    print(f"killed at {told[-1][0]}; {len(before)} files", flush=True)
  code = fleet.wait()
  print(f"the fleet ended with {code} after {time.time() - start:.0f} s and {len(told)} kills", flush=True)
  return told


def differences(one: Path, other: Path) -> tuple[int, list[str]]:
  """How many results, frames and landmark files a run has, and those that are not the same in another one."""
  patterns = (RESULT, f"face_*/{RESULT}", "dataset/*/*.png", "dataset/*/key*.json")
  files = [path.relative_to(one) for pattern in patterns for path in one.glob(pattern)]
  same = lambda name: (other / name).is_file() and (one / name).read_bytes() == (other / name).read_bytes()
  return len(files), [str(name) for name in files if not same(name)]


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("data", type=Path)
  parser.add_argument("work", type=Path)
  parser.add_argument("--kills", type=int, default=10, help="of workers; the fleet's is one more")
  parser.add_argument("--seed", type=int, default=19)
  parser.add_argument("--long", type=int, default=2000, help="frames of the long clip")
  parser.add_argument("--only", nargs="*", default=[], help="clips, without their endings")
  args = parser.parse_args()
  work = args.work.resolve()
  clips = make_clips(args.data, work / "clips", args.long)
  clips = {name: flags for name, flags in clips.items() if not args.only or Path(name).stem in args.only}
  rows = ["clip,name,face,max_frames,photometric"]
  for name, flags in clips.items():
    given = dict(flag.removeprefix("--").split("=") for flag in flags)
    values = [given.get(key, "") for key in ("face", "max_frames", "photometric")]
    rows.append(",".join([name, Path(name).stem, *values]))
    said = single(work / "clips" / name, work / "single" / Path(name).stem, flags)
    print(f"single run of {name}: exit code and time {said}", flush=True)
  (work / "clips" / "list.csv").write_text("\n".join(rows) + "\n")
  shutil.rmtree(work / "fleet", ignore_errors=True)
  told = run_killed(work, args.kills, args.seed)

  now, due, twice = snapshot(work / "fleet"), looked_at_again(work / "fleet"), 0
  for what, before in told:
    changed = [name for name, at in before.items() if "/dataset/" in name and now.get(name) != at and name not in due]
    twice += len(changed)
    print(f"{what}: {len(changed)} of {len(before)} files of datasets were written again {changed[:3]}")
  table = {row["name"]: row for row in json.loads((work / "fleet" / "fleet.json").read_text())["clips"]}
  wrong = 0
  for name in (Path(clip).stem for clip in clips):
    row, alone = table[name], (work / "single" / name).with_suffix(".said").read_text()
    n, other = differences(work / "single" / name, work / "fleet" / name)
    same = not other and (row["state"] == "done") == alone.startswith("0 ")
    wrong += not same
    state = f"{row['state']:7}{row['deaths']:3} deaths {row['attempts']:3} attempts {row['seconds']:6.1f} s"
    verdict = "SAME" if same else f"DIFFERENT {other[:3]}"
    print(f"{name:12}{verdict:10}{n:6} files  {state} {row['peak_mb']:5.0f} MB  {row['error'][:60]}")
  print(f"{len(clips) - wrong} of {len(clips)} clips are the same; {twice} files of datasets were written twice")
  return 1 if wrong or twice else 0


if __name__ == "__main__":
  sys.exit(main())
