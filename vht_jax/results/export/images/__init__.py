"""Images, masks and crops of an exported clip."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export.format import Format, Option
from vht_jax.results.export.images.centred import centred
from vht_jax.results.export.images.choice import Choice, check_kind
from vht_jax.results.export.images.masks import mask_of
from vht_jax.results.export.images.pictures import FolderPictures, straight
from vht_jax.results.export.images.views import Viewed, Views, seen_through
from vht_jax.results.export.images.windows import CROPS, cropped
from vht_jax.results.export.scene import Scene

__all__ = ["FORMATS", "OF_PICTURES", "OPTIONS", "SCENE_OPTIONS", "centred", "mask_of", "prepared"]

FORMATS: tuple[Format, ...] = ()
OPTIONS: tuple[Option, ...] = (
  Option(
    "mask",
    "what of the images is the person: auto (the clip's own alpha, else person), person (MediaPipe's selfie "
    "segmentation), head (the tracked head's silhouette), none, or a folder or video of mattes",
  ),
  Option(
    "crop",
    "square images, with their camera: head (one window for the clip), frame (a window that follows the head), square "
    "(the whole image, padded), none",
    choices=CROPS,
  ),
  Option("size", "side of the square images, px", kind=int),
)
SCENE_OPTIONS = ("mask", "crop", "size")  # those of `OPTIONS` that change the scene that every format is given
OF_PICTURES = ("mask",)  # those that mean nothing to formats without images


def prepared(scene: Scene, mask: str | os.PathLike[str] = "auto", crop: str = "none", size: int | None = None) -> Scene:
  """The scene with the images that the options ask for, and the camera that belongs to them.

  Images are those that the dataset has, even if the clip was tracked at a smaller size.

  Args:
    scene: the clip as it was tracked.
    mask, crop, size: the options.

  Raises:
    InputError: a mask that cannot be made, or a crop that cannot be.
  """
  mask = os.fspath(mask)
  check_kind(mask)
  pictures = scene.pictures
  if isinstance(pictures, FolderPictures):
    scene = _in_full(scene, pictures, mask)
  elif pictures is None and mask not in ("auto", "none"):
    raise InputError(f"--mask={mask} needs the clip's images, and there is no dataset beside the result: --data_path")
  return cropped(scene, crop, size)


def _in_full(scene: Scene, pictures: FolderPictures, mask: str) -> Scene:
  """The scene at the size of the dataset's images, with a mask."""
  folder, n = pictures.folder, len(scene)
  tracked, source = np.array(scene.size[::-1], float), np.array(folder.source_size[::-1], float)
  scale = float(source.max() / tracked.max())  # the camera's pixels are square
  views = Views(np.zeros((n, 2)), np.full(n, scale), folder.source_size)
  full = seen_through(dataclasses.replace(scene, pictures=None), views)
  chosen = None if mask == "none" else Choice(mask, full, folder, pictures.rows)

  def image(i: int) -> np.ndarray:
    rgb = folder.source_image(int(pictures.rows[i]))
    alpha = folder.source_alpha(int(pictures.rows[i])) if chosen is not None and folder.has_alpha else None
    return rgb if alpha is None else straight(rgb, alpha)

  sx, sy = source / tracked
  shown = Viewed(
    image, chosen, (lambda: "") if chosen is None else (lambda: chosen.origin),
    views, (float(sx), float(sy)),
  )  # fmt: skip
  return dataclasses.replace(full, pictures=shown)
