"""Inputs that are named without a flag: which they are, and a folder's name for each."""

from __future__ import annotations

import collections
import glob
import os
from pathlib import Path

from vht_jax.errors import InputError


def expand(arguments: list[str]) -> list[str]:
  """The inputs that arguments without a flag name: patterns that the shell has left alone are matched, in order.

  Raises:
    InputError: nothing matches.
  """
  found = []
  for argument in arguments:
    if Path(argument).exists() or not glob.has_magic(argument):
      found.append(argument)
    elif matches := sorted(glob.glob(os.path.expanduser(argument), recursive=True)):
      found += matches
    else:
      raise InputError(f"{argument}: nothing matches")
  return list(dict.fromkeys(found))


def names(inputs: list[str]) -> list[str]:
  """A folder's name for each input: its own without suffix, with more of its path where that does not tell it apart."""
  paths = [Path(path).resolve() for path in inputs]
  found = [path.stem if path.is_file() else path.name for path in paths]
  full = [path.name.replace(".", "_") for path in paths]
  for longer in (full, [f"{path.parent.name}_{name}" for path, name in zip(paths, full)]):
    counts = collections.Counter(found)
    found = [more if counts[name] > 1 else name for name, more in zip(found, longer)]
  return [f"{name}_{i}" if name in found[:i] else name for i, name in enumerate(found)]
