"""What a run has finished, so that the same command goes on after it was killed and ends with the same numbers.

Two kinds of files in the output folder: run.json says what the run is (settings, input, environment) and whether it is
finished; checkpoint/<stage>.npz has the end of each stage, or for the frames what there is so far.

`results`, and JAX with it, is imported late: the workers of a fleet need the names of files alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.errors import InputError, brief
from vht_jax.host.files import sweep, write_atomic

log = logging.getLogger("vht_jax")

RECORD, FOLDER = "run.json", "checkpoint"
# What a run writes beside its result.
FILES = {
  "config": "config.ini",
  "first": "first_frame.png",
  "frames": "frames.csv",
  "log": "track.log",
  "overlay": "overlay.mp4",
  "report": "report.html",
  "summary": "summary.json",
}
INTERVAL = 5.0  # s between two checkpoints within a stage


class Checkpoint:
  """The ends of stages as npz files; see `tracking.protocols.Checkpoint` for the interface."""

  def __init__(self, folder: Path):
    self.folder = Path(folder)
    self.last = time.monotonic()

  def load(self, stage: str) -> dict[str, np.ndarray]:
    from vht_jax.results import read_npz  # late: a fleet's workers read records without JAX

    path = self.folder / f"{stage}.npz"
    if not path.exists():
      return {}
    try:
      arrays = read_npz(path)
    except InputError as error:
      log.warning("%s; the stage is done again", error)
      return {}
    log.info("%s: taken from %s", stage, path)
    return arrays

  def due(self) -> bool:
    return time.monotonic() - self.last >= INTERVAL

  def save(self, stage: str, arrays: Mapping[str, np.ndarray]) -> None:
    from vht_jax.results import write_npz  # late, as above

    write_npz(self.folder / f"{stage}.npz", dict(arrays))
    self.last = time.monotonic()

  def clear(self) -> None:
    """Deletes every stage, and the folder unless something else is in it."""
    with contextlib.suppress(OSError):
      for path in self.folder.glob("*.npz"):
        path.unlink()
      self.folder.rmdir()


def peek(output: Path) -> dict[str, Any]:
  """What run.json of an output folder says; nothing is changed.

  Raises:
    InputError: it is not the record of a run.
  """
  return _read_record(Path(output) / RECORD)


def check_ours(output: Path) -> None:
  """Raises `InputError` if a run would replace files that no run of ours wrote: there is no record of one."""
  from vht_jax.results import FILE_NAME  # late, as above

  output = Path(output)
  if (output / RECORD).exists():
    return
  foreign = [name for name in (FILE_NAME, *FILES.values(), FOLDER) if (output / name).exists()]
  if foreign:
    raise InputError(
      f"{output}: has {', '.join(foreign)}, which a run would replace and none has written (there is no {RECORD}); "
      "choose another --output_path, or move them away"
    )


class Record:
  """run.json: what the run in an output folder is, so that nothing else is mixed into it."""

  def __init__(self, output: Path, *, restart: bool = False):
    """Reads the record of an earlier run; with `restart` it is forgotten, its checkpoints as well.

    Raises:
      InputError: it is not the record of a run; or there is none, and files that none of ours wrote.
    """
    check_ours(output)
    self.output, self.path = Path(output), Path(output) / RECORD
    self.checkpoint = Checkpoint(self.output / FOLDER)
    for folder in (self.output, self.checkpoint.folder):
      sweep(folder)
    self.content = {} if restart else _read_record(self.path)
    if not self.content:
      self._write()  # before anything else is written here: it says that what follows is ours
      self.checkpoint.clear()

  @property
  def finished(self) -> bool:
    """Whether the earlier run came to its end."""
    return bool(self.content.get("finished"))

  def agree(self, section: str, values: Mapping[str, str], advice: str) -> None:
    """Notes what this run is, and refuses to go on with a run that was something else.

    Args:
      section: a part of the record, e.g. "settings".
      values: name -> text.
      advice: what to do about a difference; ends the message.

    Raises:
      InputError: the record has the section with other values; says which.
    """
    before = self.content.get(section)
    if before is None:
      self.content[section] = dict(values)
      self._write()
      return
    names = [k for k in {**before, **values} if before.get(k) != values.get(k)]
    if names:
      shown = ", ".join(f"{k}: {before.get(k, 'none')} -> {values.get(k, 'none')}" for k in names[:6])
      more = f", and {len(names) - 6} more" if len(names) > 6 else ""
      raise InputError(f"{self.output}: holds a run with other {section} ({shown}{more}); {advice}")

  def finish(self, report: Mapping[str, str]) -> None:
    """The results are written, and the report on them as these settings ask for; the stages are needed no more."""
    self.content |= {"report": dict(report), "finished": True}
    self._write()
    self.checkpoint.clear()

  def _write(self) -> None:
    write_atomic(self.path, (json.dumps(self.content, indent=2) + "\n").encode(), durable=True)


def _read_record(path: Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as error:
    raise InputError(f"{path}: not the record of a run ({brief(error)}); --restart begins anew") from None
  sections = [content] + [v for v in content.values() if not isinstance(v, bool)] if isinstance(content, dict) else []
  if not sections or not all(isinstance(s, dict) for s in sections):
    raise InputError(f"{path}: not the record of a run; --restart begins anew")
  return content


def digest(*parts: Any) -> str:
  """A short fingerprint of bytes, texts and arrays."""
  found = hashlib.blake2b(digest_size=6)
  for part in parts:
    if isinstance(part, str):
      part = part.encode()
    if not isinstance(part, bytes):
      array = np.ascontiguousarray(part)
      found.update(f"{array.dtype} {array.shape}".encode())
      part = array.data
    found.update(part)
  return found.hexdigest()
