"""The app: `python -m vht_jax`, `vht-track`, and under VHT's name `python vht_jax/optimize_tracking.py`.

A command line becomes settings, one run for each input (`run`), and an exit code.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING

from vht_jax.app.options.manual import usage
from vht_jax.app.options.settings import parse_all
from vht_jax.errors import InputError, brief

if TYPE_CHECKING:
  from vht_jax.app.run import Until

log = logging.getLogger("vht_jax")


def main(argv: list[str], prepare=lambda settings: settings, until: Until = "all") -> int:
  """Runs the app with a command line (without the program's name); returns the exit code.

  Several inputs are tracked one after the other; one that cannot be does not stop the rest.

  Args:
    argv: flags.
    prepare: changes the parsed settings before the run (the demo's defaults).
    until: as for `run`.

  Returns:
    0; 2 for what the user can cause; 1 for any other error; 130 when interrupted. Errors are one line on stderr, and
    with --json a line on stdout for each input that fails.
  """
  if any(a.lstrip("-") in ("h", "help", "helpfull") and a.startswith("-") for a in argv):
    try:
      print(usage(full=any(a.endswith("helpfull") for a in argv)), flush=True)
    except BrokenPipeError:  # `| head` has seen enough; what is left would be written once more at the exit
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  debug = "--debug" in argv
  try:
    todo = [prepare(settings) for settings in parse_all(argv)]
  except InputError as error:
    return _say_error(error, debug)[0]
  from vht_jax.app.run import run, say  # late: --help and a wrong flag are answered twice as soon

  failed: dict[str, int] = {}
  several = len(todo) > 1
  for i, settings in enumerate(todo):
    name = str(settings.app.input.video or settings.app.input.data_path)
    if several:
      say(settings, f"[{i + 1}/{len(todo)}] {name}")
    try:
      run(settings, until=until)
    except KeyboardInterrupt:
      print("\nvht-track: interrupted; the same command goes on from here", file=sys.stderr)
      return 130
    except Exception as error:
      failed[name], text = _say_error(error, debug)
      if settings.app.output.json:
        print(json.dumps({"input": name, "error": text, "exit_code": failed[name]}), flush=True)
  if several and failed:
    print(f"vht-track: {len(failed)} of {len(todo)} inputs failed: {', '.join(failed)}", file=sys.stderr)
  return max(failed.values(), key=lambda code: code == 1, default=0)


def _say_error(error: Exception, debug: bool) -> tuple[int, str]:
  """Prints an error as one line on stderr and returns its exit code and what it says; with `debug` it is raised."""
  if debug:
    raise error
  if isinstance(error, InputError):
    log.debug("input error", exc_info=True)
    code, text, hint = 2, brief(error, 1000), ""
  else:
    first = brief((str(error).strip() or "no message").splitlines()[0])
    where = getattr(error, "vht_log", None)
    hint = f" (traceback in {where})" if where else " (use --debug for the traceback)"
    code, text = 1, f"{type(error).__name__}: {first}"
  print(f"vht-track: error: {text}{hint}", file=sys.stderr)
  return code, text
