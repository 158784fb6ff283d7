"""Which files of a folder exports wrote, and may therefore replace: kept in the folder itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from vht_jax.host.files import write_atomic

RECORD = ".vht_export.json"
JOURNAL = ".vht_export.part"  # the files of an export that goes on, or was killed, or had no more room: a line each


class Record:
  """Format -> names of the files that exports wrote into a folder."""

  def __init__(self, folder: Path):
    self.folder = folder
    self.known = _read(folder)

  @property
  def names(self) -> set[str]:
    """Of all formats."""
    return {name for names in self.known.values() for name in names}

  @contextlib.contextmanager
  def adding(self, kind: str) -> Iterator[Journal]:
    """While a format is written: each file is noted before it is there; at the end, whatever that is, all are known."""
    journal = Journal(self.folder / JOURNAL, kind)
    try:
      yield journal
    finally:
      if journal.names:
        self.save(kind, list(dict.fromkeys([*self.known.get(kind, ()), *journal.names])))

  def save(self, kind: str, names: list[str]) -> None:
    """From now on these files are the format's."""
    self.known[kind] = names
    write_atomic(self.folder / RECORD, json.dumps(self.known).encode())
    (self.folder / JOURNAL).unlink(missing_ok=True)


class Journal:
  """The files of one export as they are written."""

  def __init__(self, path: Path, kind: str):
    self.path, self.kind = path, kind
    self.names: list[str] = []

  def add(self, name: str) -> None:
    """Before the file is written."""
    with self.path.open("a", encoding="utf-8") as file:
      file.write(json.dumps([self.kind, name]) + "\n")
    self.names.append(name)


def _read(folder: Path) -> dict[str, list[str]]:
  """What both files say; nothing of what they cannot mean."""
  found: dict[str, list[str]] = {}
  with contextlib.suppress(OSError, ValueError):
    content = json.loads((folder / RECORD).read_text())
    if isinstance(content, dict):
      found = {kind: [n for n in names if _inside(n)] for kind, names in content.items() if isinstance(names, list)}
  with contextlib.suppress(OSError):
    for line in (folder / JOURNAL).read_text().splitlines():
      with contextlib.suppress(ValueError, TypeError):  # the last line may be half
        kind, name = json.loads(line)
        if isinstance(kind, str) and _inside(name):
          found.setdefault(kind, []).append(name)
  return found


def _inside(name: object) -> bool:
  return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
