"""The one exception for what a user can cause; the app prints it as one line and exits with a non-zero code."""

import sys


class InputError(ValueError):
  """Bad input: says which file, what was expected, what was found and what to do."""


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
