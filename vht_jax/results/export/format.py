"""What an export format is, and an option that some of them have. Each room of formats lists its own."""

from __future__ import annotations

import dataclasses
import importlib
import numbers
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vht_jax.errors import InputError

INSTEAD = "glb, usda, obj or arkit"  # what other heads than FLAME are exported to
Files = Iterator[tuple[str, bytes]]  # path below the folder that is written to, with "/", and content


@dataclasses.dataclass(frozen=True)
class Format:
  """A format by its name.

  Its function is `function(scene, **options) -> Files`: it yields one file after the other, so that a long clip is
  never held at once, writes nothing itself, and raises `InputError` before the first file for what it cannot express.
  """

  name: str
  help: str  # one line: what it is and who reads it
  function: str  # "module:function"; imported when it is used
  flame: bool = False  # hands FLAME's codes to a program that evaluates its own FLAME
  release: str = ""  # of FLAME, which that program has (`flame_codes.releases`)
  refits: bool = False  # always fits FLAME's codes anew, to a file that has to be named
  folder: bool = False  # many files: they get a folder of their own
  one_surface: bool = False  # a mesh for the whole clip, which cannot have what single frames' surfaces do
  pictures: bool = False  # cannot be without the clip's images
  options: tuple[str, ...] = ()  # names in an `OPTIONS` list that the function takes as keywords
  instead: str = INSTEAD

  def load(self) -> Callable[..., Files]:
    module, _, name = self.function.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclasses.dataclass(frozen=True)
class Option:
  """A flag of `vht-export` that some formats take."""

  name: str
  help: str
  kind: type = str  # str, int, float or bool
  choices: tuple[str, ...] = ()

  def check(self, value: Any) -> None:
    """Refuses a value of another kind, or none of the choices (`InputError`)."""
    kinds = {str: (str, os.PathLike), int: numbers.Integral, float: numbers.Real, bool: (bool, np.bool_)}
    fits = isinstance(value, kinds[self.kind]) and (self.kind is bool or not isinstance(value, bool))
    if self.choices and value not in self.choices:
      raise InputError(f"--{self.name}: expected one of {', '.join(self.choices)}; found {value!r}")
    if not fits:
      named = {str: "text or a path", int: "a whole number", float: "a number", bool: "True or False"}
      raise InputError(f"--{self.name}: expected {named[self.kind]}; found {value!r}")

  def read(self, text: str) -> Any:
    """The value of a flag's text.

    Raises:
      InputError: of another kind, or none of the choices.
    """
    if self.choices and text not in self.choices:
      raise InputError(f"--{self.name}: expected one of {', '.join(self.choices)}; found {text!r}")
    if self.kind is bool:
      if text.lower() not in ("true", "false"):
        raise InputError(f"--{self.name}: expected --{self.name} or --no{self.name}; found {text!r}")
      return text.lower() == "true"
    try:
      return self.kind(text)
    except ValueError:
      raise InputError(f"--{self.name}: expected a number; found {text!r}") from None
