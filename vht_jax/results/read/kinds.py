"""Whose result a file or folder is, by what is in it."""

from __future__ import annotations

from pathlib import Path

from vht_jax.errors import InputError
from vht_jax.host import npz

RELEASES = {"VHAP": "2023", "NeRSemble": "2023", "metrical-tracker": "2020"}  # of FLAME
_VHAP = {"rotation", "translation", "neck_pose", "eyes_pose", "timestep_id"}
_NERSEMBLE = {"expression", "rotation_matrices", "translation", "jaw", "neck", "eyes", "shape", "frames", "scale"}


def kind_of(path: str | Path) -> str | None:
  """A key of `RELEASES`; None: ours, VHT's or no result at all."""
  file = file_of(path)
  if file.is_dir() and frame_files(file) or file.suffix == ".frame" and file.is_file():
    return "metrical-tracker"
  if file.suffix != ".npz" or not file.is_file():
    return None
  try:
    keys = set(npz.npz_shapes(file))
  except InputError:
    return None
  if "frame" in keys:  # VHT's
    return None
  return "VHAP" if keys >= _VHAP else "NeRSemble" if keys >= _NERSEMBLE else None


def file_of(path: str | Path) -> Path:
  """The file or folder that a path names, without the camera of `file.npz@camera`."""
  return Path(path) if Path(path).exists() else Path(split(str(path))[0])


def split(path: str) -> tuple[str, str | None]:
  """The file and the camera of `file.npz@camera`."""
  file, mark, camera = path.rpartition("@")
  return (file, camera) if mark and file.endswith(".npz") else (path, None)


def exists(path: str | Path) -> bool:
  """Whether there is what a path names."""
  return file_of(path).exists()


def content(path: str | Path) -> bytes:
  """What a result is told from another by: its bytes, of a folder those of its files in the order of their names."""
  file = file_of(path)
  camera = (split(str(path))[1] or "").encode()
  return camera + (b"".join(p.read_bytes() for p in frame_files(file)) if file.is_dir() else file.read_bytes())


def frame_files(folder: Path) -> list[Path]:
  """The .frame files of a folder, or of checkpoint/ in it, in the order of their names."""
  return sorted(folder.glob("*.frame")) or sorted((folder / "checkpoint").glob("*.frame"))
