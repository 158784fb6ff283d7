"""Settings as text: values, and .ini files both ways.

VHT's files are read as they are: any section names or none (the config.ini that VHT writes has none), lists in
brackets, Python's None.
"""

from __future__ import annotations

import difflib
import re
import typing
from pathlib import Path
from typing import Any

from vht_jax.app.options.app_config import ALL, Settings
from vht_jax.errors import InputError
from vht_jax.host.files import write_atomic
from vht_jax.option import Option, get, options, title

PACKAGE = Path(__file__).resolve().parents[2]


def packaged(name: str) -> Path:
  """Path of a file or folder that ships with the package, e.g. 'configs/vht.ini'.

  It lies inside an installed package, at the top of a checkout.
  """
  inside, beside = PACKAGE / name, PACKAGE.parent / name
  return beside if beside.exists() and not inside.exists() else inside


def read_value(option: Option, text: str, where: str) -> dict[str, Any]:
  """Key and value of a setting's text; a focal length with its unit goes to the key of that unit.

  Raises:
    InputError: it does not spell such a value, or one out of its range; the message starts with `where`.
  """
  if option.key != "focal":
    value = cast(option, text, where)
    option.check(value, where)
    return {option.key: value}
  found = re.fullmatch(r"([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*(|px|mm)", text.strip().lower())
  if not found:
    raise InputError(
      f"{where}: expected a number in units of the longer image side, or one of pixels (1200px) or of a 35 mm camera's "
      f"millimetres (28mm); found {text!r}"
    )
  number, unit = found.groups()
  value = _cast(float, number, where)
  option.check(value, where)
  if unit and value == 0:
    raise InputError(f"{where}: expected a positive length; found {value}{unit}")
  return {{"": "focal", "px": "focal_px", "mm": "focal_35mm"}[unit]: value}


def cast(option: Option, text: str, where: str) -> Any:
  """The value that `text` spells as a setting's type: bool, int, float, str, a tuple of these, or None.

  Raises:
    InputError: it does not; the message starts with `where`.
  """
  text = text.strip()
  if option.optional and text in ("", "None", "none"):
    return None
  if not option.many:
    return dict(option.facts.words).get(text, text) if option.facts.words else _cast(option.plain_kind, text, where)
  kinds = typing.get_args(option.plain_kind)
  items = [item for item in re.split(r"[\s,]+", text.strip("[]() \t")) if item]
  if kinds[-1] is not Ellipsis and len(items) != len(kinds):
    raise InputError(f"{where}: expected {len(kinds)} values ({option.facts.help}); found {text!r}")
  return tuple(_cast(kinds[0], item, where) for item in items)


def _cast(kind: Any, text: str, where: str) -> Any:
  if kind is bool:
    if text.lower() in ("true", "yes", "on", "1"):
      return True
    if text.lower() in ("false", "no", "off", "0"):
      return False
    raise InputError(f"{where}: expected true or false; found {text!r}")
  if kind is int:
    try:
      if float(text) == int(float(text)):
        return int(float(text))
    except (ValueError, OverflowError):
      pass
    raise InputError(f"{where}: expected a whole number; found {text!r}")
  if kind is float:
    try:
      return float(text)
    except ValueError:
      raise InputError(f"{where}: expected a number; found {text!r}") from None
  return text


def spelled(value: Any) -> str:
  """The text that `cast` reads as `value`."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, tuple):
    return "[" + ", ".join(repr(v) for v in value) + "]"
  return str(value)


def read_ini(path: str | Path) -> dict[str, Any]:
  """The keys and values of an .ini file, of the settings' types.

  Args:
    path: a file, or the name of a preset in configs/.

  Raises:
    InputError: no such file, not a text file, an unknown key, a value of the wrong kind; with the line's number.
  """
  file = Path(path)
  if not file.exists() and re.fullmatch(r"\w+", str(path)):
    file = packaged(f"configs/{path}.ini")
  try:
    lines = _decoded(file.read_bytes()).splitlines()
  except (FileNotFoundError, NotADirectoryError):
    presets = ", ".join(sorted(p.stem for p in packaged("configs").glob("*.ini")))
    raise InputError(f"{path}: no such config file (presets: {presets})") from None
  except UnicodeError:
    raise InputError(f"{file}: expected an .ini text file; this is not text (save it as UTF-8)") from None
  except OSError as error:
    raise InputError(f"{file}: cannot be read ({error.strerror})") from None

  values = {}
  for number, line in enumerate(lines, 1):
    line = line.strip()
    if not line or line[0] in "#;[":
      continue
    # key = value, the value in quotes or up to a comment.
    match = re.fullmatch(r"""([^=:#;]+?)\s*[=:]\s*(?:(["'])(.*)\2|(.*?))(?:\s*(?<=\s)[#;].*)?""", line)
    if not match:
      raise InputError(f"{file}:{number}: expected 'key = value'; found {line[:60]!r}")
    name, quote, quoted, plain = match.groups()
    if name not in ALL:
      raise InputError(f"{file}:{number}: unknown key {name!r}{suggestion(name)}")
    values |= read_value(ALL[name], quoted if quote else plain, f"{file}:{number}: {name}")
  return values


def _decoded(data: bytes) -> str:
  """The text of a file: UTF-8, with the mark at its front that editors on Windows put there, or UTF-16 with one.

  Raises:
    UnicodeError: it is something else.
  """
  wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
  text = data.decode("utf-16" if wide else "utf-8-sig")
  if "\0" in text:  # UTF-16 without a mark passes for UTF-8
    raise UnicodeError("zero bytes")
  return text


def write_ini(path: str | Path, settings: Settings) -> None:
  """Writes every key with a line of explanation; `read_ini` gives the same values back."""
  lines = []
  for name, part in zip(("app", "tracking", "weights"), settings):
    heading = ""
    for option in options(type(part)).values():
      if heading != (heading := _heading(option, name)):
        lines += ["", f"[{heading}]"]
      value = option.default if option.facts.momentary else get(part, option.key)
      text = f'"{value}"' if isinstance(value, str) and re.search("[#;'\"]", value) else spelled(value)
      lines.append(f"{f'{option.key} = {text}':<40s}  # {option.text}")
  write_atomic(Path(path), "\n".join([*lines[1:], ""]).encode())


def _heading(option: Option, part: str) -> str:
  """The section of a file under which a setting is written; for people, `read_ini` does not look at it."""
  if option.facts.method:
    return f"{part}: {title(option.method)}"
  return option.within[-1] if option.within else part


def suggestion(name: str) -> str:
  """The key that an unknown one may be meant to be, as the end of a sentence."""
  near = difflib.get_close_matches(name, list(ALL), n=1)
  return f"; did you mean {near[0]!r}?" if near else ""
