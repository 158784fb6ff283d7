"""Command lines by absl's flags, with errors as ours."""

from __future__ import annotations

from collections.abc import Callable

from absl import flags

from vht_jax.errors import InputError


def parse(
  values: flags.FlagValues, program: str, argv: list[str], suggestion: Callable[[str], str] = lambda name: ""
) -> list[str]:
  """Reads flags into `values`; returns the other arguments.

  Args:
    argv: without the program's name.
    suggestion: words to add where a flag is not known.

  Raises:
    InputError: unknown flag, or a value of the wrong kind.
  """
  try:
    return values([program, *argv])[1:]
  except flags.UnrecognizedFlagError as error:
    raise InputError(f"unknown flag --{error.flagname}{suggestion(error.flagname)} (see --help)") from None
  except flags.Error as error:
    if isinstance(error.__context__, InputError):  # ours; absl adds words
      raise error.__context__ from None
    raise InputError(" ".join(str(error).split())) from None
