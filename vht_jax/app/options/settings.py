"""From a command line and an .ini file to `AppConfig`, `TrackConfig` and `Weights`.

Every setting is a key of the .ini and a flag of the same name; both are read by the same code. Precedence: flag > .ini
> default. VHT's space separated lists are read on the command line, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from absl import flags

from vht_jax.app.options import lens
from vht_jax.app.options.app_config import ALL, TEXTURES, AppConfig, Settings
from vht_jax.app.options.effects import check_effects
from vht_jax.app.options.ini import packaged, read_ini, read_value, spelled, suggestion, write_ini
from vht_jax.app.options.several import expand, names
from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.host import arguments
from vht_jax.host.device import kind_of_device
from vht_jax.host.files import expanded
from vht_jax.option import Option, having, options, values

__all__ = ["Settings", "describe", "make_settings", "packaged", "parse", "parse_all", "read_ini", "write_ini"]

_FOCALS = ("fov", "focal", "focal_px", "focal_35mm")  # one quantity with several names


class _Parser(flags.ArgumentParser):
  """Reads a flag's text as its setting's value, as in a file: {key: value}, since a unit may name another key."""

  def __init__(self, option: Option):
    self.option = option

  def parse(self, argument: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(argument, dict):
      return argument
    if self.option.facts.path and argument.startswith("--"):
      raise InputError(f"--{self.option.key}: expected a path; found the flag {argument}")
    return read_value(self.option, argument, f"--{self.option.key}")


def _flags() -> flags.FlagValues:
  """A flag of its type for every setting; its value is None unless it is given."""
  found = flags.FlagValues()
  for key, option in ALL.items():
    how = {"flag_values": found, "short_name": option.facts.short or None}
    if option.kind is bool:
      flags.DEFINE_boolean(key, None, option.text, **how)
    else:
      flags.DEFINE(_Parser(option), key, None, option.text, **how)
  return found


def parse(argv: list[str]) -> Settings:
  """The settings of a command line (without the program's name) that names at most one input.

  Raises:
    InputError: unknown flag or key, or a value of the wrong kind.
  """
  found = parse_all(argv)
  if len(found) > 1:
    raise InputError(f"expected one input; found {len(found)}")
  return found[0]


def parse_all(argv: list[str]) -> list[Settings]:
  """The same for each of the inputs that a command line names: `a.mp4 b.mp4`, `'clips/*.mp4'`, `--video=a.mp4`.

  Each of several goes into a folder of its own under --output_path (by default out/).

  Raises:
    InputError: unknown flag or key, a value of the wrong kind, or a pattern that matches nothing.
  """
  parsed = _flags()
  joined, bare = join_lists(argv)
  rest = arguments.parse(parsed, "vht-track", joined, suggestion)

  given: dict[str, Any] = {}
  for key in ALL:
    if (value := parsed[key].value) is not None:
      given |= value if isinstance(value, dict) else {key: value}
  ini = read_ini(expanded(given["config"])) if given.get("config") else {}
  if any(name in given for name in _FOCALS):
    for name in _FOCALS:
      ini.pop(name, None)
  for path, flag in bare.items():  # --overlay foo
    if path in rest and not os.path.exists(expanded(path)):
      known = ", ".join(ALL[flag].facts.choices)
      raise InputError(f"{path}: no such input; if it is a value of --{flag}, write --{flag}={path} (one of {known})")
  inputs = expand(rest)
  if inputs and "video" in given:
    raise InputError(f"unexpected argument {rest[0]!r} beside --video={given['video']}; name the inputs in one way")
  if len(inputs) > 1 and (given.get("data_path") or ini.get("data_path")):
    raise InputError("--data_path is one clip's: leave it out with several inputs, whose outputs have their own")
  chosen = {**ini, **given}
  output = Path(chosen.get("output_path") or "out")
  found = []
  for path, name in zip(inputs, names(inputs)) if inputs else [("", "")]:
    where = {"output_path": str(output / name)} if len(inputs) > 1 else {}
    settings = make_settings({**chosen, **({"video": path} if path else {}), **where})
    check_effects(settings, given)
    found.append(settings)
  return found


def named_inputs(argv: list[str]) -> list[str]:
  """The arguments of a command line that are no flags nor their values: its inputs, patterns not matched yet.

  Raises:
    InputError: unknown flag, or a value of the wrong kind.
  """
  return arguments.parse(_flags(), "vht-track", join_lists(argv)[0], suggestion)


def join_lists(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  """`--keyframes 1 2 3`, as VHT has it, becomes `--keyframes=1,2,3`, as absl wants it; `--nooverlay` a value.

  Returns:
    The arguments; and those that follow a flag whose value may be left out without being one of its values, with its
    name: an input, or a value that is misspelled.
  """
  out: list[str] = []
  bare: dict[str, str] = {}
  i = 0
  while i < len(argv):
    argument, name = argv[i], argv[i].lstrip("-")
    i += 1
    option = ALL.get(name) or ALL.get(name.removeprefix("no"))
    if not argument.startswith("-") or option is None:
      out.append(argument)
    elif option.facts.words and name != option.key:
      out.append(f"--{option.key}=false")
    elif option.facts.words and (i == len(argv) or argv[i] not in option.facts.choices):
      out.append(f"--{name}=true")
      if i < len(argv) and not argv[i].startswith("-"):
        bare[argv[i]] = name
    elif option.many and name == option.key:
      items = []
      while i < len(argv) and re.fullmatch(r"[-+\[(]?[\d.,\[\]()eE+-]+", argv[i]):
        items.append(argv[i])
        i += 1
      out.append(f"--{name}={','.join(items)}")
    else:
      out.append(argument)
  return out, bare


def make_settings(chosen: dict[str, Any]) -> Settings:
  """Settings with these values in place of the defaults, checked.

  Raises:
    InputError: a value out of its range.
  """
  for key, value in chosen.items():
    ALL[key].check(value)
  chosen = chosen | {key: expanded(value) for key, value in chosen.items() if ALL[key].facts.path and value}
  kind_of_device(chosen.get("device", "auto"))
  face = chosen.get("face", "largest")
  if face not in ("largest", "all") and not re.fullmatch("[0-9]{1,2}", face):
    raise InputError(f"--face: expected largest, all or a number; found {face!r}")
  if 0 < chosen.get("texture", 0) < TEXTURES[0]:
    raise InputError(f"--texture: expected 0, or {TEXTURES[0]} to {TEXTURES[1]} px; found {chosen['texture']}")
  if chosen.get("texture") and not chosen.get("photometric", True):
    raise InputError("--texture needs the light of the clip, which only the fit to the images knows: leave out one of "
                     "--texture and --nophotometric")  # fmt: skip
  focals = [name for name in _FOCALS if chosen.get(name)]
  if len(focals) > 1:
    units = "--focal=1200px is --focal_px, --focal=28mm is --focal_35mm"
    raise InputError(f"give --{focals[0]} or --{focals[1]}, not both ({units})")
  if chosen.get("focal"):
    lens.check_bare(chosen["focal"])
  if chosen.get("fov"):
    lens.check_fov(chosen["fov"])
    chosen |= {"focal": lens.focal_of_fov(chosen["fov"]), "fov": 0.0}

  of = lambda kind: {key: chosen[key] for key in options(kind) if key in chosen}
  settings = Settings(having(AppConfig(), **of(AppConfig)), TrackConfig.of(**of(TrackConfig)), Weights(**of(Weights)))
  if settings.track.camera.calibrated and not (focals or settings.app.head.load_tracked_flame_params):
    raise InputError(
      "calibrated: the focal length must be given, by --focal or --fov, or a camera by --load_tracked_flame_params"
    )
  return settings


def describe(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
  """What determines the result, and what only the report on it: key -> value as text."""
  texts = {key: spelled(value) for part in settings for key, value in values(part).items()}
  of = lambda role: {key: text for key, text in texts.items() if ALL[key].facts.role == role}
  return of("result"), dict(sorted(of("report").items()))
