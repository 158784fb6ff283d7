"""A setting: a field of a frozen dataclass that says once what it means, its unit and what it may be.

Settings lie in sections, dataclasses within dataclasses. Their names (`Option.key`) are those of VHT's .ini files and
of the flags, and are unique over all sections, so that a file or a command line names a setting without its section.
Flags, .ini files, checks, --help and docs/settings.md are made from `options`; `having` is `dataclasses.replace` by
key.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from typing import Any, TypeVar

import numpy as np

from vht_jax.errors import InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Facts:
  """What there is to know of a setting beside its name, type and default."""

  help: str
  unit: str = ""
  at_least: float = 0  # of numbers, and of each of several; no setting is ever negative
  at_most: float = math.inf
  positive: bool = False  # not 0 either
  choices: tuple[str, ...] = ()
  words: tuple[tuple[str, str], ...] = ()  # other words for some of the choices
  source: str = ""  # where the default comes from
  method: type | None = None  # of a weight: the section of the method that reads it; of others it is their own
  # What it determines: the result; the report on a finished one; or neither: where things are (what they hold is
  # compared instead), how a run is watched. A run may go on with other values of the latter.
  role: str = "result"  # "result", "report" or "run"
  estimates: bool = False  # chooses or feeds the estimate of the identity, which a loaded result replaces
  needs: str = ""  # has no effect without that other setting
  unless: str = ""  # has no effect beside that other setting
  ignored: bool = False  # VHT's, read so that its files and scripts run
  momentary: bool = False  # how one command prints; not written into files, no later run shall inherit it
  usual: bool = False  # --help shows it; --helpfull shows all
  path: bool = False  # a ~ at its start is the home folder
  short: str = ""  # a letter for the command line


def option(default: Any, help: str, **facts: Any) -> Any:
  """A dataclass field that is a setting; `facts`: see `Facts`."""
  return dataclasses.field(default=default, metadata={"facts": Facts(help, **facts)})


def section(kind: type) -> Any:
  """A dataclass field that is a section: a frozen dataclass of settings with their defaults."""
  return dataclasses.field(default=kind())


@dataclasses.dataclass(frozen=True)
class Option:
  """A setting and where it is."""

  key: str
  kind: Any  # its type: bool, int, float, str, a tuple of these, or one of these or None
  default: Any
  owner: type  # the dataclass whose field it is
  within: tuple[str, ...]  # the sections' fields that lead to it
  facts: Facts

  @property
  def method(self) -> type:
    """The section of the method that reads it."""
    return self.facts.method or self.owner

  @property
  def text(self) -> str:
    """What it means, with its unit."""
    return f"{self.facts.help} ({self.facts.unit})" if self.facts.unit else self.facts.help

  @property
  def optional(self) -> bool:
    """Whether it may be None."""
    return isinstance(self.kind, types.UnionType)

  @property
  def plain_kind(self) -> Any:
    """Its type without None."""
    return next(k for k in typing.get_args(self.kind) if k is not type(None)) if self.optional else self.kind

  @property
  def many(self) -> bool:
    """Whether it is a tuple."""
    return typing.get_origin(self.plain_kind) is tuple

  def check_kind(self, value: Any) -> None:
    """Raises `InputError` for a value of another type; numbers may be NumPy's, and lists are tuples."""
    if value is None and self.optional:
      return
    kind = typing.get_args(self.plain_kind)[0] if self.many else self.plain_kind
    wanted = {bool: (bool, np.bool_), int: numbers.Integral, float: numbers.Real}.get(kind, kind)
    fits = lambda part: isinstance(part, wanted) and (kind is bool or not isinstance(part, bool))
    several = isinstance(value, tuple | list)
    if several != self.many or not all(map(fits, value if several else [value])):
      one = {bool: "True or False", int: "a whole number", float: "a number"}.get(kind, "a text")
      raise InputError(f"{self.key}: expected {'a tuple, each ' if self.many else ''}{one}; found {value!r}")

  def check(self, value: Any, where: str = "") -> None:
    """Raises `InputError` for a value out of its range; `where` it stands, by default the setting's key."""
    facts, where = self.facts, where or self.key
    if facts.choices and value not in facts.choices:
      raise InputError(f"{where}: expected one of {', '.join(facts.choices)}; found {value!r}")
    for number in value if isinstance(value, tuple | list) else (value,):
      if isinstance(number, bool) or not isinstance(number, numbers.Real):
        continue
      number = number if isinstance(number, int) else float(number)
      if not math.isfinite(number):
        raise InputError(f"{where}: expected a finite number; found {number}")
      if number < 0 and facts.at_least == 0 and not facts.positive:
        raise InputError(f"{where}: expected no negative number; found {number}")
      if number <= 0 and facts.positive:
        raise InputError(f"{where}: expected a positive number; found {number}")
      unit = f" {facts.unit}" if facts.unit else ""
      if number < facts.at_least:
        raise InputError(f"{where}: expected at least {facts.at_least:g}{unit}; found {_listed(value)}")
      if number > facts.at_most:
        raise InputError(f"{where}: expected at most {facts.at_most:g}{unit}; found {_listed(value)}")


def _listed(value: Any) -> str:
  return str(list(value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def title(owner: type) -> str:
  """The heading of a section: the first sentence of its docstring."""
  return (owner.__doc__ or owner.__name__).strip().split(".")[0]


@functools.cache
def options(kind: type) -> dict[str, Option]:
  """All settings of a dataclass and its sections by key, its own first."""
  own, nested = {}, {}
  hints = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    if facts := field.metadata.get("facts"):
      own[field.name] = Option(field.name, hints[field.name], field.default, kind, (), facts)
    else:
      for key, found in options(hints[field.name]).items():
        nested[key] = dataclasses.replace(found, within=(field.name, *found.within))
  return own | nested


def get(config: Any, key: str) -> Any:
  """The value of a setting."""
  for name in options(type(config))[key].within:
    config = getattr(config, name)
  return getattr(config, key)


def values(config: Any) -> dict[str, Any]:
  """The values of all settings by key."""
  return {key: get(config, key) for key in options(type(config))}


def check(config: Any) -> None:
  """Raises `InputError` for a setting that is not of its type or out of its range."""
  for key, found in options(type(config)).items():
    value = get(config, key)
    found.check_kind(value)
    found.check(value)


def having(config: T, /, **changes: Any) -> T:
  """`config` with other values of some settings, in whichever section they are.

  Raises:
    TypeError: it has no such setting.
  """
  known = options(type(config))
  by_section: dict[str, dict[str, Any]] = {}
  own = {}
  for key, value in changes.items():
    if key not in known:
      raise TypeError(f"{type(config).__name__} has no setting {key!r}")
    if within := known[key].within:
      by_section.setdefault(within[0], {})[key] = value
    else:
      own[key] = value
  parts = {name: having(getattr(config, name), **part) for name, part in by_section.items()}
  return dataclasses.replace(config, **own, **parts)  # type: ignore[type-var]
