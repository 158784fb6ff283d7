"""Files that appear whole or not at all, locks on folders, and where those files go that can be made again."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import portalocker

from vht_jax.errors import InputError

_PAUSE = 0.2  # s between two looks whether a lock is free


def cache_folder(program: str = "vht_jax") -> Path | None:
  """Where a program keeps what it can make again, if the user names no other place; None: nowhere.

  $XDG_CACHE_HOME decides on every system, as it always did here; else it is the system's own place.
  """
  if named := os.environ.get("XDG_CACHE_HOME"):
    return Path(named) / program
  try:
    folder = Path(platformdirs.user_cache_dir(program, appauthor=False))
  except RuntimeError:  # what newer versions of platformdirs say where older ones give "~/..."
    return None
  return folder if folder.is_absolute() else None  # a user without a home folder, as in many containers


def writable(folder: Path | None) -> Path | None:
  """`folder`, made if need be; None if there is none or it cannot be written."""
  try:
    if folder is not None:
      folder.mkdir(parents=True, exist_ok=True)
      return folder if os.access(folder, os.W_OK | os.X_OK) else None
  except OSError:
    pass
  return None


def expanded(path: str | os.PathLike) -> str:
  """A path that starts with ~ or ~name with that home folder instead; shells leave it alone behind `--flag=`.

  Raises:
    InputError: ~ of a user without a home folder.
  """
  path = os.fspath(path)
  full = os.path.expanduser(path)
  if full == path and re.match(r"~($|/)", path):
    raise InputError(f"{path}: there is no home folder here that ~ could mean ($HOME is not set); write the whole path")
  return full


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
  """Deletes what killed runs left half written in a folder; what a process that lives is writing stays."""
  for path in Path(folder).glob(".*.tmp*"):
    owner = re.search(r"\.(\d+)\.tmp", path.name)
    if path.is_file() and not (owner and _runs_beside(int(owner.group(1)))):
      path.unlink(missing_ok=True)


def _runs_beside(process: int) -> bool:
  """Whether a process of that number lives that is not this one."""
  if os.name == "nt" or process == os.getpid():
    return False
  try:
    os.kill(process, 0)  # asks only
  except PermissionError:  # somebody else's
    return True
  except (OSError, OverflowError):
    return False
  return True


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False, wait: Callable[[], None] | None = None) -> Iterator[None]:
  """Holds a lock file inside the block; the system lifts the lock when the process ends, however it ends.

  The block runs without a lock where there can be none: on a file system without, and in a folder that is not there or
  cannot be written, in which a run has nothing to protect.

  Args:
    path: of the lock file; it stays.
    shared: others may hold it as well, as long as all of them share.
    wait: called if others hold it, before it is waited for; None: there is no waiting.

  Raises:
    BlockingIOError: others hold it and `wait` is None.
  """
  try:
    file = open(path, "a")
  except OSError:
    yield
    return
  kind = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
  with file:
    waited = False
    while True:
      try:
        portalocker.lock(file, kind | portalocker.LockFlags.NON_BLOCKING)
      except portalocker.AlreadyLocked as error:
        if wait is None:
          raise BlockingIOError(f"{path}: others hold it") from error
        if not waited:
          wait()
          waited = True
        time.sleep(_PAUSE)
        continue
      except portalocker.LockException:  # a file system without locks
        pass
      break
    yield


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
  """Keeps a second run out of an output folder inside the block.

  Raises:
    InputError: another run holds it.
    OSError: the folder cannot be written.
  """
  path = Path(folder) / ".lock"
  path.touch()  # says by an OSError that nothing can be written here
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(lock(path))
    except BlockingIOError:
      raise InputError(f"{folder}: another run is writing here; wait for it or choose another --output_path") from None
    yield


def _sync_folder(folder: Path) -> None:
  with contextlib.suppress(OSError):  # not every system can open a folder
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)
