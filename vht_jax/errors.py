"""The one exception for what a user can cause; the app prints it as one line and exits with a non-zero code."""


class InputError(ValueError):
  """Bad input: says which file, what was expected, what was found and what to do."""
