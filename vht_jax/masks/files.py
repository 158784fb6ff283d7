"""The user's own mattes: a folder of images, a video, or a dataset's mask_0000.png, matched to the frames by name."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vht_jax.dataset.child import extract_in_child
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.layout import MASK, frame_folders, png_size, read_png
from vht_jax.errors import InputError
from vht_jax.masks.matching import matched


class UserMattes:
  """The matte of each frame of a clip, from files; white, or opaque, is the person.

  Images and videos are decoded in a process of their own, as a clip's are.

  Args:
    path: a folder of images, a video, or a dataset with mask_0000.png beside its images.
    sources: of every frame what it was made from (`FrameFolder.sources`).
    frame_ids: (T,) of every frame, from 1.
    size: (H, W) px of the frames as they were extracted.

  Raises:
    InputError: no such file, not one matte for every frame, or mattes of another size.
  """

  def __init__(self, path: str | Path, sources: Sequence[str], frame_ids: Sequence[int], size: tuple[int, int]):
    path = Path(path)
    if not path.exists():
      raise InputError(f"{path}: no such file; expected a folder or a video of mattes")
    self.origin = f"mattes of {path}"
    self._files: list[Path] = []
    self._folder: FrameFolder | None = None
    masks = _dataset_masks(path)
    if masks:
      missing = [int(i) for i in frame_ids if int(i) not in masks]
      if missing:
        raise InputError(f"{path}: frame {missing[0]} has no {MASK}; expected one for every frame")
      self._files = [masks[int(i)] for i in frame_ids]
      sizes = [(file, png_size(file)) for file in self._files]
    elif path.is_dir() and frame_folders(path):
      raise InputError(f"{path}: expected {MASK} in the folders of this dataset, found none; its frames have no mattes")
    else:
      place = tempfile.mkdtemp(prefix="vht_mattes_")
      weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)  # with these mattes, at the latest at the end
      extract_in_child(path, place)
      self._folder = FrameFolder(place, cache_bytes=0)
      self._rows, by = matched(self._folder.sources, sources, frame_ids, str(path))
      self.origin += f", matched by {by}"
      sizes = [(path, self._folder.source_size)]
    for file, found in sizes:
      if found != tuple(size):
        raise InputError(
          f"{file}: mattes of {found[0]}x{found[1]}, the frames have {size[0]}x{size[1]} (height x width)"
        )

  def __call__(self, i: int) -> np.ndarray:
    """(H, W) uint8 of frame i."""
    if self._folder is None:
      return np.ascontiguousarray(read_png(self._files[i])[..., 0])
    row = self._rows[i]
    alpha = self._folder.alpha(row) if self._folder.has_alpha else None
    return np.round(self._folder.source_image(row).mean(axis=-1)).astype(np.uint8) if alpha is None else alpha


def _dataset_masks(path: Path) -> dict[int, Path]:
  if not path.is_dir():
    return {}
  folders = {number: folder / MASK for number, folder in frame_folders(path).items()}
  return {number: file for number, file in folders.items() if file.is_file()}
