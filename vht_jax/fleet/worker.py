"""What a worker does for a clip: fetch it, track it, send what came of it, tidy up. Knows nothing of Ray."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vht_jax.app.record import FOLDER, RECORD, peek
from vht_jax.errors import InputError, brief
from vht_jax.fleet import single, storage
from vht_jax.fleet.plan import Clip
from vht_jax.host.files import expanded, lock, write_atomic

DATASET = "dataset"  # in an output folder, see `app.inputs.with_paths`
SHAPE = "person.npz"  # likewise, the shape that a clip is tracked with


@dataclasses.dataclass(frozen=True)
class Job:
  """An order for a worker."""

  clip: Clip
  output: str  # the place of the clip's results
  scratch: str  # a folder of the worker's machine, of this clip alone
  flags: tuple[str, ...] = ()  # of vht-track, for all clips
  phase: str = "all"  # all; dataset (frames and landmarks); track (the rest); help (landmarks, beside who does these)
  batch_size: int = 0  # instead of the flags'; what was tracked with another one is forgotten, the dataset is not
  keep_dataset: bool = True  # else it is deleted when the clip is done
  alone: str = ""  # the target of the first of two rounds (`person.people`), if this is one
  shape: bytes = b""  # a file for --shape_from; what was tracked with another one is forgotten, the dataset is not
  cores: int = 0  # that the clip has for itself; 0: those of the machine, as others
  device_share: float = 0.0  # of a GPU's memory
  folder: str = ""  # where the command was given: what paths are relative to
  target: str = single.TRACK
  environment: tuple[tuple[str, str | None], ...] = ()

  @property
  def local(self) -> Path:
    """Where the results are while they are being made."""
    return Path(self.scratch) / "output" if storage.is_url(self.output) else Path(expanded(self.output))


def work(job: Job) -> Iterator[dict[str, Any]]:
  """Does a job; may be killed at any time and then be given again.

  Yields:
    First {"mark": how far the clip is}, then what `single.track` yields, the end with "seconds", "fetched" and "sent"
    (bytes). Everything that goes wrong is such an end.
  """
  start = time.perf_counter()
  scratch = Path(job.scratch)
  try:
    if job.phase == "help":
      yield _help(job) | {"seconds": time.perf_counter() - start}
      return
    scratch.mkdir(parents=True, exist_ok=True)
    with lock(scratch / ".worker.lock", wait=lambda: None):
      for event in _work(job, scratch):
        yield event | {"seconds": time.perf_counter() - start} if "end" in event else event
  except InputError as error:
    yield _failed(brief(error, 1000), 2, start)
  except Exception as error:  # a storage's, a disk's: of this clip, not of the fleet
    yield _failed(f"{type(error).__name__}: {brief(error)}", 1, start)


def _work(job: Job, scratch: Path) -> Iterator[dict[str, Any]]:
  away, output, fetched = storage.is_url(job.output), job.local, 0
  known: dict[str, tuple[int, int]] = {}
  if away and not output.exists() and storage.exists(job.output):
    fetched += storage.fetch(job.output, output)  # of an earlier call, or of another machine
    known = storage.stamps(output)
  source = job.clip.source
  if storage.is_url(source):
    path = scratch / "input" / Path(storage.path_of(source)).name
    fetched += storage.fetch(source, path)
    source = str(path)
  output.mkdir(parents=True, exist_ok=True)
  yield {"mark": single.progress_mark(output)}
  argv = [*job.flags, *job.clip.flags, f"--video={source}", f"--output_path={output}"]
  if job.batch_size:
    forget_other(output, job.batch_size)
    argv.append(f"--batch_size={job.batch_size}")
  argv += take_shape(output, job.shape)
  target = job.alone or job.target
  if job.phase == "dataset" and job.target == single.TRACK:
    target = single.DATASET
  end: dict[str, Any] = {}
  with single.own_cores(job.cores) as cores:
    for event in single.track(argv, output, target, _environment(job), cores, job.folder):
      if "end" in event:
        end = event
      else:
        yield event
  if end["end"] in ("died", "crashed", "memory"):  # somebody will go on from what is there
    yield end
    return
  done = end["end"] == "done"
  tracked = done and job.phase != "dataset" and not job.alone
  needless = [DATASET] if tracked and not job.keep_dataset else []
  storage.remove(str(output), needless)
  sent = 0
  if away:
    of_dataset = lambda name: name.partition(os.sep)[0] == DATASET
    # The frames of a clip that cannot be tracked are not worth their way.
    sent = storage.send(output, job.output, known=known, wanted=lambda name: done or not of_dataset(name))
    storage.remove(job.output, [*needless, *([FOLDER] if tracked else [])])
  shutil.rmtree(scratch, ignore_errors=True)
  yield end | {"fetched": fetched, "sent": sent}


def _help(job: Job) -> dict[str, Any]:
  argv = [*job.flags, *job.clip.flags, f"--data_path={job.local / DATASET}"]
  target = single.HELP if job.target == single.TRACK else job.target
  with single.own_cores(job.cores) as cores:
    return single.assist(argv, target, _environment(job), cores, job.folder)


def forget_other(output: Path, batch_size: int) -> None:
  """Leaves the dataset alone of what runs with another batch size have left, for every person that was tracked."""
  for folder in (output, *output.glob("face_*")):
    found = peek(folder).get("settings", {})
    if found and found.get("batch_size") != str(batch_size):
      forget(folder)


def take_shape(output: Path, shape: bytes) -> list[str]:
  """Flags that give a clip its person's shape (a file, or none); what it was tracked with before is forgotten."""
  path = output / SHAPE
  before = path.read_bytes() if path.exists() else b""
  if before != shape:
    forget(output)  # first, so that whoever goes on after a death in between does it again
    if shape:
      write_atomic(path, shape)
    else:
      path.unlink()
  return [f"--shape_from={path}"] if shape else []


def forget(folder: Path) -> None:
  """Leaves the dataset alone of what a run has left."""
  shutil.rmtree(folder / FOLDER, ignore_errors=True)
  write_atomic(folder / RECORD, b"{}")  # still a run's folder


def _environment(job: Job) -> dict[str, str | None]:
  """Variables of the child that are not those of the worker."""
  found = dict(job.environment)
  if 0 < job.device_share < 1:  # JAX takes three quarters of a GPU's memory otherwise
    found.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * job.device_share:.3f}")
  return found


def _failed(error: str, code: int, start: float) -> dict[str, Any]:
  return {
    "end": "failed", "code": code, "error": error, "summaries": [], "seconds": time.perf_counter() - start,
  }  # fmt: skip
