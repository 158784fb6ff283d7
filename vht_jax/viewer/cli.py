"""`vht-view RESULT [RESULT2]`: shows results in the browser."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import Any

from absl import flags

from vht_jax.errors import InputError, run_program
from vht_jax.host import arguments

USAGE = """\
vht-view: shows a tracked head in the browser, compares two results, edits one.

  vht-view out/clip                                   the output folder of a run, or a tracked_flame_params.npz
  vht-view out/clip out/other                         two results side by side, or their difference

  --port=8080               of the page; the next free one if it is taken
  --host=localhost          who may connect: localhost is this machine alone (and SSH port forwarding to it), 0.0.0.0
                            everybody who reaches it; whoever connects can save files beside the result
  --data_path=FOLDER        the dataset with the images, if it is not beside the result (of the first result)
  --data_path2=FOLDER       the same for the second
  --assets=FOLDER           FLAME's files, for results that were tracked with FLAME
  --model=auto              open, flame or a model file, instead of the head that the result names
  --debug                   show the traceback of an error"""


@dataclasses.dataclass(frozen=True)
class Options:
  results: tuple[str, ...]
  port: int = 8080
  host: str = "localhost"
  data_path: str | None = None
  data_path2: str | None = None
  assets: str | None = None
  model: str = "auto"


def main(argv: list[str]) -> int:
  """Runs the viewer until it is interrupted; returns the exit code: 0, 2 for what the user can cause, else 1."""

  def view() -> None:
    options = parse(argv)
    require_viser()
    from vht_jax.viewer import serve  # late: viser is an optional extra, and `--help` should not wait for jax

    try:
      serve.run(options)
    except KeyboardInterrupt:
      print("\nvht-view: ended", file=sys.stderr)

  return run_program("vht-view", argv, lambda: USAGE, view)


def parse(argv: list[str]) -> Options:
  """The options of a command line (without the program's name).

  Raises:
    InputError: unknown flag, a value of the wrong kind, none or too many results.
  """
  values = flags.FlagValues()
  for field in dataclasses.fields(Options)[1:]:
    flags.DEFINE_string(field.name, None, "", flag_values=values)
  flags.DEFINE_boolean("debug", False, "", flag_values=values)
  rest = arguments.parse(values, "vht-view", argv)
  if not 1 <= len(rest) <= 2:
    raise InputError(f"expected one or two results; found {len(rest)}. vht-view out/clip (see --help)")
  given: dict[str, Any] = {f.name: values[f.name].value for f in dataclasses.fields(Options)[1:]}
  given = {name: value for name, value in given.items() if value is not None}
  if "port" in given:
    if not given["port"].isdigit() or not 1 <= int(given["port"]) <= 65535:
      raise InputError(f"--port: expected a number from 1 to 65535; found {given['port']!r}")
    given["port"] = int(given["port"])
  if given.get("data_path2") and len(rest) < 2:
    raise InputError("--data_path2 is of a second result; only one is named")
  return Options(results=tuple(rest), **given)


def require_viser() -> None:
  """
  Raises:
    InputError: viser is not installed.
  """
  if importlib.util.find_spec("viser") is None:
    raise InputError("vht-view needs viser: pip install 'vht-jax[viewer]' (in a checkout `make view` does it)")
