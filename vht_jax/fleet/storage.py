"""Places where clips are read and results are written: folders of this machine, and URLs of fsspec (s3://, gs://, ...).

A place is a text. One without "://" is a path of this machine and is worked in directly; of a URL, `file://` too, a
copy is made in a scratch folder, and what came of it is sent back.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from vht_jax.errors import InputError, brief
from vht_jax.host.files import expanded, write_atomic

LAST = "run.json"  # sent when all else is there: a result without it is not whole
_OURS = re.compile(r"\.lock|\..*\.lock|\..*\.tmp.*")  # of running programs, in any folder


class Entry(NamedTuple):
  """Something in a folder."""

  place: str
  name: str
  is_folder: bool


def is_url(place: str) -> bool:
  """Whether a place is reached through fsspec."""
  return "://" in place


def path_of(place: str) -> str:
  """A place as a path: a URL without its protocol."""
  return place.partition("://")[2] if is_url(place) else place


def file_system(place: str) -> tuple[Any, str]:
  """fsspec's file system of a URL, and the path in it.

  Raises:
    InputError: no such protocol, or its package is not installed.
  """
  import fsspec  # late: files of this machine do without

  try:
    return fsspec.core.url_to_fs(place)
  except ImportError as error:
    raise InputError(f"{place}: {brief(error)}") from None
  except ValueError as error:
    raise InputError(f"{place}: not a place that fsspec knows ({brief(error)})") from None


def join(place: str, *names: str) -> str:
  """A place within another."""
  return "/".join([place.rstrip("/"), *names]) if is_url(place) else os.path.join(place, *names)


def exists(place: str) -> bool:
  """Whether there is a file or a folder."""
  if not is_url(place):
    return os.path.exists(expanded(place))
  fs, path = file_system(place)
  return fs.exists(path)


def is_folder(place: str) -> bool:
  """Whether there is a folder."""
  if not is_url(place):
    return os.path.isdir(expanded(place))
  fs, path = file_system(place)
  return fs.isdir(path)


def entries(place: str) -> list[Entry]:
  """What is in a folder, in the order of the names; hidden things are left out.

  Raises:
    InputError: it cannot be read.
  """
  try:
    if not is_url(place):
      found = [Entry(join(place, e.name), e.name, e.is_dir()) for e in os.scandir(expanded(place))]
    else:
      fs, path = file_system(place)
      listed = fs.ls(path, detail=True)
      names = [(row["name"].rstrip("/").rpartition("/")[2], row["type"] == "directory") for row in listed]
      found = [Entry(join(place, name), name, folder) for name, folder in names]
  except OSError as error:
    raise InputError(f"{place}: cannot be read ({brief(error)})") from None
  return sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)


def matching(pattern: str) -> list[str]:
  """The places that a pattern with * and ? matches, in order."""
  if not is_url(pattern):
    return sorted(glob.glob(expanded(pattern), recursive=True))
  fs, path = file_system(pattern)
  protocol = pattern.partition("://")[0]
  return sorted(f"{protocol}://{found.lstrip('/') if protocol != 'file' else found}" for found in fs.glob(path))


def read(place: str) -> bytes:
  """A file's content.

  Raises:
    InputError: it cannot be read.
  """
  try:
    if not is_url(place):
      return Path(expanded(place)).read_bytes()
    fs, path = file_system(place)
    return fs.cat_file(path)
  except OSError as error:
    raise InputError(f"{place}: cannot be read ({brief(error)})") from None


def write(place: str, data: bytes) -> None:
  """Writes a file, with the folders that it is in.

  Raises:
    InputError: it cannot be written.
  """
  try:
    if not is_url(place):
      path = Path(expanded(place))
      path.parent.mkdir(parents=True, exist_ok=True)
      write_atomic(path, data)
      return
    fs, path = file_system(place)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, data)
  except OSError as error:
    raise InputError(f"{place}: cannot be written ({brief(error)})") from None


def version(place: str) -> str:
  """A text that is another one when the file is: size and time, or what the storage calls its version; '' if unknown.

  A folder's is that of the files right in it.
  """
  try:
    if is_url(place):
      fs, path = file_system(place)
      if fs.isdir(path):
        return " ".join(
          sorted(f"{row['name'].rpartition('/')[2]}:{row.get('size')}" for row in fs.ls(path, detail=True))
        )
      info = fs.info(path)
      told = [f"{info[k]}" for k in ("etag", "ETag", "md5Hash", "mtime", "LastModified", "created") if info.get(k)]
      return " ".join([f"{info.get('size')}", *told[:1]])
    path = Path(expanded(place))
    if path.is_dir():
      return " ".join(sorted(f"{e.name}:{e.stat().st_size}" for e in os.scandir(path) if e.is_file()))
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"
  except OSError:
    return ""


def fetch(place: str, target: Path) -> int:
  """Copies a file or a folder to this machine, where it appears whole or not at all; what is there already stays.

  Returns:
    The bytes that were copied.

  Raises:
    InputError: there is none, or it cannot be read.
  """
  if target.exists():
    return 0
  target.parent.mkdir(parents=True, exist_ok=True)
  part = target.with_name(f".{target.name}.part")
  try:
    fs, path = file_system(place)
    _delete(part)
    if fs.isdir(path):
      part.mkdir()
      files = fs.find(path)
      base = path.rstrip("/") + "/"
      local = [part / name.removeprefix(base) for name in files]
      for folder in {file.parent for file in local}:
        folder.mkdir(parents=True, exist_ok=True)
      if files:
        fs.get(files, [str(file) for file in local])
    else:
      fs.get_file(path, str(part))
  except FileNotFoundError:
    raise InputError(f"{place}: no such file or folder") from None
  except OSError as error:
    raise InputError(f"{place}: cannot be copied to this machine ({brief(error)})") from None
  os.replace(part, target)
  return sum(size for size, _ in stamps(target).values()) if target.is_dir() else target.stat().st_size


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
  """Path within a folder -> (bytes, time in ns) of every file that belongs to a result."""
  found = {}
  for where, _, names in os.walk(folder):
    for name in names:
      if not _OURS.fullmatch(name):
        status = os.stat(os.path.join(where, name))
        found[os.path.relpath(os.path.join(where, name), folder)] = (status.st_size, status.st_mtime_ns)
  return found


def send(
  folder: Path, place: str, *, known: dict[str, tuple[int, int]] | None = None,
  wanted: Callable[[str], bool] = lambda name: True,
) -> int:  # fmt: skip
  """Copies a folder's files to a place; `LAST` when the others are there.

  Args:
    folder: of this machine.
    place: a URL.
    known: `stamps` of what is there already; such files are left out.
    wanted: told a path within the folder; whether it is to be sent.

  Returns:
    The bytes that were copied.

  Raises:
    InputError: it cannot be written.
  """
  now = stamps(folder)
  changed = sorted((n for n in now if wanted(n) and now[n] != (known or {}).get(n)), key=lambda n: (n == LAST, n))
  fs, path = file_system(place)
  try:
    for names in ([n for n in changed if n != LAST], [n for n in changed if n == LAST]):
      targets = [f"{path.rstrip('/')}/{name.replace(os.sep, '/')}" for name in names]
      for parent in {target.rpartition("/")[0] for target in targets}:
        fs.makedirs(parent, exist_ok=True)
      if names:
        fs.put([str(folder / name) for name in names], targets)
  except OSError as error:
    raise InputError(f"{place}: cannot be written ({brief(error)})") from None
  return sum(now[name][0] for name in changed)


def remove(place: str, names: Iterable[str]) -> None:
  """Deletes files or folders within a place, as far as they are there."""
  for name in names:
    if not is_url(place):
      _delete(Path(expanded(place)) / name)
      continue
    fs, path = file_system(join(place, name))
    if fs.exists(path):
      fs.rm(path, recursive=True)


def _delete(path: Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
