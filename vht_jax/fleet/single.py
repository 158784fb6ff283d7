"""One clip in a process of its own, which is what `vht-track` would be for it, and what came of it.

What can go wrong in there ends the child at worst; the worker that waits for it tells how.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vht_jax.app.record import FILES, FOLDER
from vht_jax.errors import brief, run_program
from vht_jax.fleet import prepared
from vht_jax.host import launch
from vht_jax.host.files import lock
from vht_jax.host.supervise import ending, watched

TRACK = "vht_jax.app.cli:main"
DATASET = "vht_jax.fleet.single:dataset"
HELP = "vht_jax.fleet.single:help_search"

ALONE = "vht_jax.fleet.single:alone"

# By which native code ends itself; other signals come from outside.
_CRASHES = {getattr(signal, name, 0) for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")}
LOOK = 0.2  # s between two looks at the child
PATIENCE = 60.0  # s for a child whose worker was killed to be gone
_STAGE = re.compile(r" INFO vht_jax: (\w+): (?:(\d+) \w+ )?done in ", re.M)  # of track.log, by `console.Progress`
# What JAX, NumPy and C++ say when memory is out.
_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|MemoryError|[Oo]ut of memory|bad_alloc|[Cc]annot allocate memory")


def dataset(argv: list[str]) -> int:
  """The part of a run that needs no device: frames and landmarks. As `app.cli.main`."""
  from vht_jax.app.cli import main  # late: the child alone loads JAX

  return main(argv, until="dataset")


def help_search(argv: list[str]) -> int:
  """Looks for faces in pieces of a clip that another run is searching. As `app.cli.main`."""
  # late, as above
  from vht_jax.app.inputs import help_search, with_paths
  from vht_jax.app.options.settings import parse_all
  from vht_jax.dataset.pieces import STUCK

  def run() -> None:
    settings = parse_all(argv)[0]
    # A hung child ends itself: by a thread that needs no lock of Python's.
    alive = lambda: faulthandler.dump_traceback_later(STUCK, exit=True)
    try:
      help_search(with_paths(settings.app), settings.track, alive)
    finally:
      faulthandler.cancel_dump_traceback_later()

  return run_program("vht-fleet", argv, lambda: "", run)


def assist(
  argv: Sequence[str], target: str, environment: dict[str, str | None], cores: Sequence[int] = (), folder: str = ""
) -> dict[str, Any]:  # fmt: skip
  """Runs a child that helps, to its end, and says which: what it has not done others do. Arguments as of `track`."""
  with tempfile.TemporaryDirectory(prefix="vht-fleet-") as notes:
    child = prepared.start(_call(notes, argv, target, environment, cores, folder))
    try:
      while (code := child.wait(LOOK)) is None:
        pass
    finally:
      child.end()
  return {"end": "helped" if code == 0 else "died", "code": code}


def alone(argv: list[str]) -> int:
  """The first of two rounds: what a clip by itself says of the person. As `app.cli.main`."""
  from vht_jax.app.cli import main  # late, as above

  return main(argv, until="tracked")


def track(
  argv: Sequence[str], output: Path, target: str, environment: dict[str, str | None], cores: Sequence[int] = (),
  folder: str = "",
) -> Iterator[dict[str, Any]]:  # fmt: skip
  """Runs a child to its end.

  Args:
    argv: flags of vht-track, with the input and the output.
    output: the output's folder.
    target: what is called with the flags and --json, 'package.module:function'.
    environment: variables to set, or None to unset.
    cores: those that it may use; all without.
    folder: where it works, if that is there.

  Yields:
    {"stage", "frames"} whenever a stage is done; in the end {"end": one of done, failed, memory, crashed, died,
    "error": a line, "code": vht-track's exit code, "summaries": those of the people that were tracked}.
  """
  wait_until_free(output)
  kills = out_of_memory_kills()
  log = output / FILES["log"]
  read = log.stat().st_size if log.exists() else 0
  with tempfile.TemporaryDirectory(prefix="vht-fleet-") as notes:
    call = _call(notes, [*argv, "--json"], target, environment, cores, folder)
    child, code = prepared.start(call), None
    try:
      with watched(child.pid) as watch:
        while code is None:
          code = child.wait(LOOK)
          text, read = _more(log, read)
          for stage, done in _STAGE.findall(text):
            yield {"stage": stage, "frames": int(done or 1)}
    finally:
      child.end()
    said, complained = (path.read_text(errors="replace") for path in (call.out, call.err))
    yield _end(code, said, complained, call.stack, out_of_memory_kills() > kills, watch.hung)


def _call(
  notes: str, argv: Sequence[str], target: str, environment: dict[str, str | None], cores: Sequence[int], folder: str
) -> prepared.Call:  # fmt: skip
  """A child's call, with its output in a folder for `notes`."""
  stack, out, err = (Path(notes, name) for name in ("stack.txt", "out", "err"))
  for path in (stack, out, err):  # a child may be ended before it has opened them
    path.touch()
  where = folder if os.path.isdir(folder) else None
  return prepared.Call(target, argv, stack, out, err, _with(environment), where, cores)


def _with(environment: dict[str, str | None]) -> dict[str, str]:
  """This process's environment with these variables, or without those that are None."""
  found = launch.environment(**{name: value for name, value in environment.items() if value is not None})
  return {name: value for name, value in found.items() if environment.get(name, "") is not None}


def _end(code: int, said: str, complained: str, stack: Path, killed_for_memory: bool, hung: bool) -> dict[str, Any]:
  """What a child has come to, see `track`."""
  summaries, error = [], ""
  for line in said.splitlines():
    with contextlib.suppress(ValueError):
      message = json.loads(line)
      if isinstance(message, dict) and "error" in message:
        error = message["error"]
      elif isinstance(message, dict):
        summaries.append(message)
  if code == 0 and summaries:
    return {"end": "done", "code": 0, "error": "", "summaries": summaries}
  if code < 0:
    end = "crashed" if -code in _CRASHES else "died"
    if code == -signal.SIGKILL and killed_for_memory:
      end = "memory"
    return {"end": end, "code": 1, "error": ending(code, stack, hung), "summaries": []}
  last = complained.strip().splitlines()[-1:] or ["it said nothing"]
  error = error or brief(last[0].removeprefix("vht-track: error: "), 1000)
  end = "memory" if code != 2 and _MEMORY.search(error) else "failed"
  return {"end": end, "code": code or 1, "error": error, "summaries": []}


def _more(log: Path, read: int) -> tuple[str, int]:
  """What has been added to a log in whole lines, and up to where it is read now."""
  try:
    with open(log, "rb") as file:
      file.seek(read)
      data = file.read()
  except OSError:
    return "", read
  data = data[: data.rfind(b"\n") + 1]
  return data.decode(errors="replace"), read + len(data)


def wait_until_free(output: Path) -> None:
  """Waits for the end of a child that a killed worker has left; if it does not come, the next one says so."""
  end = time.monotonic() + PATIENCE
  while time.monotonic() < end:
    try:
      with lock(output / ".lock"):
        return
    except BlockingIOError:
      time.sleep(LOOK)


def progress_mark(output: Path) -> str:
  """How far an output folder is: another text whenever something has been added."""
  frames = landmarks = 0
  with contextlib.suppress(OSError):
    for name in os.listdir(output / "dataset"):
      if name.startswith("frame_"):
        frames += 1
        landmarks += any(file.startswith("keypoints") for file in os.listdir(output / "dataset" / name))
  marks = [f"{frames} {landmarks}"]
  with contextlib.suppress(OSError):
    marks += sorted(f"{path.stem} {path.stat().st_mtime_ns}" for path in (output / FOLDER).glob("*.npz"))
  return ", ".join(marks)


def out_of_memory_kills() -> int:
  """How many processes Linux has ended so far because memory was out; 0 where it does not say."""
  for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
    with contextlib.suppress(OSError, ValueError):
      for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
          return int(value)
  return 0


@contextlib.contextmanager
def own_cores(n: int) -> Iterator[tuple[int, ...]]:
  """Takes `n` cores that no other worker of this machine has, for the block; none for n = 0, or if fewer are free."""
  folder = Path(tempfile.gettempdir()) / f"vht-fleet-cores-{os.getuid() if hasattr(os, 'getuid') else 0}"
  folder.mkdir(exist_ok=True)
  with contextlib.ExitStack() as held:
    found: list[int] = []
    for core in sorted(os.sched_getaffinity(0)) if n and hasattr(os, "sched_getaffinity") else ():
      with contextlib.suppress(BlockingIOError):
        held.enter_context(lock(folder / str(core)))
        found.append(core)
      if len(found) == n:
        break
    if len(found) < n:
      held.close()
      found = []
    yield tuple(found)
