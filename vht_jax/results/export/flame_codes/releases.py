"""FLAME's releases: their codes are not interchangeable, and nothing looks wrong when they are mixed up."""

from __future__ import annotations

RELEASES = ("2020", "2023", "2023 without jaw")
FILES = {"2020": "generic_model.pkl", "2023": "flame2023.pkl", "2023 without jaw": "flame2023_no_jaw.pkl"}


def release_of(name: str) -> str:
  """The release that the name of a FLAME file or model stands for.

  Those before 2023 are all called generic_model.pkl: taken for 2020, which VHT asks for.
  """
  name = name.lower()
  if "2023" in name:
    return "2023 without jaw" if "no_jaw" in name or "nojaw" in name else "2023"
  return "2020"
