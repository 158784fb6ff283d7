"""The one exception for what a user can cause; the app prints it as one line and exits with a non-zero code."""


class InputError(ValueError):
  """Bad input: says which file, what was expected, what was found and what to do."""


def brief(error: BaseException | str, limit: int = 200) -> str:
  """What an error says, fit for one line: some quote whole pieces of the file that they could not read."""
  text = "".join(c if c.isprintable() else " " for c in str(error))
  text = " ".join(text.split()) or type(error).__name__
  return text if len(text) <= limit else text[:limit] + " ..."
