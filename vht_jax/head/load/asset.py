"""Files that come with the package."""

from __future__ import annotations

from pathlib import Path

from vht_jax.errors import InputError


def asset_path(name: str) -> Path:
  """A file that comes with us, in a checkout (assets/ beside the package) or in an installed wheel (inside it).

  Raises:
    InputError: it is in neither place.
  """
  package = Path(__file__).resolve().parents[2]
  tried = [folder / "assets" / name for folder in (package, package.parent)]
  for path in tried:
    if path.is_file():
      return path
  raise InputError(f"{name} not found: the installation is incomplete. Tried " + ", ".join(map(str, tried)))
