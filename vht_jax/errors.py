"""The one exception for what a user can cause; the app prints it as one line and exits with a non-zero code."""

import sys
from collections.abc import Callable


class InputError(ValueError):
  """Bad input: says which file, what was expected, what was found and what to do."""


def run_program(
  program: str, argv: list[str], usage: Callable[[], str], run: Callable[[], int | None], hint: str = ""
) -> int:
  """Runs a program; returns its exit code: what `run` returns or 0, as `exit_code` for errors, 130 when interrupted.

  Args:
    program: its name.
    argv: flags; asked for help, it prints `usage` and does nothing else.
    usage, run: how it is used, what it does.
    hint: said behind "interrupted".
  """
  if any(a in ("-h", "-help", "--help", "--helpfull") for a in argv):
    print(usage())
    return 0
  try:
    return run() or 0
  except KeyboardInterrupt:
    print(f"\n{program}: interrupted{hint}", file=sys.stderr)
    return 130
  except Exception as error:
    return exit_code(program, error, argv)


def exit_code(program: str, error: Exception, argv: list[str]) -> int:
  """Says an error as one line on stderr: 2 for what the user can cause, else 1; with --debug it is raised."""
  if "--debug" in argv:
    raise error
  if isinstance(error, InputError):
    print(f"{program}: error: {brief(error, 1000)}", file=sys.stderr)
    return 2
  text = f"{type(error).__name__}: {brief(error)}"
  print(f"{program}: error: {text} (use --debug for the traceback)", file=sys.stderr)
  return 1


def brief(error: BaseException | str, limit: int = 200) -> str:
  """What an error says, fit for one line: some quote whole pieces of the file that they could not read."""
  text = "".join(c if c.isprintable() else " " for c in str(error))
  text = " ".join(text.split()) or type(error).__name__
  return text if len(text) <= limit else text[:limit] + " ..."
