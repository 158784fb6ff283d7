"""Inputs that are named without a flag: which they are, and a folder's name for each."""

from __future__ import annotations

import collections
import glob
import os
from collections.abc import Callable
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


def names(inputs: list[str], is_file: Callable[[Path], bool] = Path.is_file) -> list[str]:
  """A folder's name for each input: its own without suffix, with more of its path where that does not tell it apart.

  `is_file`: of inputs that are elsewhere than on this machine, whether a path's last part has a suffix.
  """
  paths = [Path(path).resolve() for path in inputs]
  found = [path.stem if is_file(path) else path.name for path in paths]
  full = [path.name.replace(".", "_") for path in paths]
  for longer in (full, [f"{path.parent.name}_{name}" for path, name in zip(paths, full)]):
    counts = collections.Counter(found)
    found = [more if counts[name] > 1 else name for name, more in zip(found, longer)]
  first = {name: i for i, name in reversed(list(enumerate(found)))}
  return [name if first[name] == i else f"{name}_{i}" for i, name in enumerate(found)]
