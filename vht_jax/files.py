"""Files that appear whole or not at all, and where those go that can be made again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vht_jax.errors import InputError


def cache_folder() -> Path:
  """Where the package keeps what it can make again, if the user names no other place."""
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vht_jax")


def write_atomic(path: Path, data: bytes, *, durable: bool = False) -> None:
  """Writes beside `path` and renames: a killed run leaves no half file under that name.

  Args:
    path: the file.
    data: all of its content.
    durable: also survive a power cut, at the cost of waiting for the disk.
  """
  path = Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with open(temporary, "wb") as file:
      file.write(data)
      if durable:
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if durable:
      _sync_folder(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
  """Deletes what killed runs left half written in a folder. Only for folders that no other run works in."""
  for path in Path(folder).glob(".*.tmp*"):
    if path.is_file():
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
  """Keeps a second run out of a folder inside the block; the system lifts the lock when a run is killed.

  Raises:
    InputError: another run holds it.
  """
  try:
    import fcntl
  except ImportError:  # Windows
    yield
    return
  with open(Path(folder) / ".lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise InputError(f"{folder}: another run is writing here; wait for it or choose another --output_path") from None
    except OSError:  # a file system without locks
      pass
    yield


def _sync_folder(folder: Path) -> None:
  with contextlib.suppress(OSError):  # not every system can open a folder
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)
