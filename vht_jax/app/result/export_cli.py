"""`vht-export RESULT --to=FORMAT[,FORMAT]`: a result in the formats of other programs."""

from __future__ import annotations

import contextlib
import logging
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from vht_jax.app.result.after import FOLDER
from vht_jax.app.result.source import NO_DATASET, open_result, scene_of
from vht_jax.errors import InputError, run_program
from vht_jax.host import arguments
from vht_jax.host.files import expanded
from vht_jax.results.export.registry import FORMATS, OPTIONS, export, named

USAGE = """\
vht-export: a tracked head in the formats of other programs (docs/export.md).

  vht-export out/clip --to=glb                        the output folder of a run, or a tracked_flame_params.npz
  vht-export out/clip --to=glb,arkit --out=for_unreal

  --to=FORMAT[,FORMAT]      one or more of the formats below
  --out=FOLDER              where to; by default export/ beside the result. One format alone is written right into it,
                            of several each that has many files gets a folder of its own in it
  --data_path=FOLDER        the dataset with the images, if it is not beside the result
  --assets=FOLDER           FLAME's files, for results that were tracked with FLAME
  --model=auto              open, flame or a model file, instead of the head that the result names
  --debug                   show the traceback of an error"""

_OWN = ("to", "out", "data_path", "assets", "model")


def main(argv: list[str]) -> int:
  """Exports; returns the exit code: 0, 2 for what the user can cause, else 1. Errors are one line on stderr."""

  def export() -> None:
    path, own, options = parse(argv)
    with _notes_shown():
      for written in run(path, own, options):
        print(written)

  return run_program("vht-export", argv, usage, export)


def parse(argv: list[str]) -> tuple[str, dict[str, str], dict[str, Any]]:
  """The result, the program's own flags that are given, and the formats' options that are given.

  Raises:
    InputError: unknown flag, a value of the wrong kind, none or several results.
  """
  values = flags.FlagValues()
  for name in _OWN:
    flags.DEFINE_string(name, None, "", flag_values=values)
  flags.DEFINE_boolean("debug", False, "", flag_values=values)
  for name, option in OPTIONS.items():
    if option.kind is bool:
      flags.DEFINE_boolean(name, None, option.help, flag_values=values)
    else:
      flags.DEFINE_string(name, None, option.help, flag_values=values)
  rest = arguments.parse(values, "vht-export", argv)
  if len(rest) != 1:
    raise InputError(f"expected one result; found {len(rest)}. vht-export out/clip --to=glb (see --help)")
  given = lambda names: {n: value for n in names if (value := values[n].value) is not None}
  for name, value in (("RESULT", rest[0]), *((f"--{n}", v) for n, v in given((*_OWN, *OPTIONS)).items())):
    if value == "":
      raise InputError(f"{name}: expected a value; found nothing. Give one or leave it out (see --help)")
  options = {n: v if OPTIONS[n].kind is bool else OPTIONS[n].read(v) for n, v in given(OPTIONS).items()}
  return rest[0], given(_OWN), options


def run(path: str, own: dict[str, str], options: dict[str, Any]) -> list[Path]:
  """Exports a result; returns what was written. Arguments of `parse`."""
  named(own.get("to", ""))  # before anything is read
  own = {name: value if name == "to" else expanded(value) for name, value in own.items()}
  source = open_result(expanded(path), own.get("data_path"), own.get("assets"), own.get("model", "auto"))
  scene = scene_of(source)
  for note in source.notes:
    if note == NO_DATASET:  # formats with images say so themselves; the others need none
      continue
    logging.getLogger("vht_jax").warning("%s", note)
  out = own.get("out")
  return export(scene, own["to"], out or source.path.parent / FOLDER, apart=out is None, **options)


def usage() -> str:
  """The text of --help."""
  wrap = lambda text, indent: textwrap.fill(text, 118, initial_indent=indent, subsequent_indent=" " * 28)
  lines = [USAGE, "", "formats"]
  for one in FORMATS.values():
    lines.append(wrap(one.help + (" [FLAME only]" if one.flame else ""), f"  {one.name:<24}  "))
  lines += ["", "of some formats"]
  for option in OPTIONS.values():
    value = "" if option.kind is bool else "=" + ("|".join(option.choices) or option.kind.__name__.upper())
    lines.append(wrap(option.help, f"  --{option.name + value:<22}  "))
  return "\n".join(lines)


@contextlib.contextmanager
def _notes_shown() -> Iterator[None]:
  """Inside the block what the package logs goes to stderr, without times."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  logger = logging.getLogger("vht_jax")
  before = logger.handlers, logger.propagate, logger.level
  logger.handlers, logger.propagate = [handler], False
  logger.setLevel(logging.INFO)
  try:
    yield
  finally:
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])
