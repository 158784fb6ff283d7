"""What an export format is, and an option that some of them have. Each room of formats lists its own."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from vht_jax.errors import InputError

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
  pictures: bool = False  # cannot be without the clip's images
  options: tuple[str, ...] = ()  # names in an `OPTIONS` list that the function takes as keywords
  instead: str = "glb, usda, obj or arkit"  # what other heads are exported to

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
