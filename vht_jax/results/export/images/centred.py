"""Images padded so that the principal point is in their middle, for programs that take it to be there.

Padding is background: white, alpha 0. What is left below a pixel is resampled.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from vht_jax.results.export.scene import Pictures, Scene

log = logging.getLogger("vht_jax")

_NEAR = 1e-3  # px; nearer to the middle than this is in it


def centred(scene: Scene) -> tuple[Scene, np.ndarray]:
  """The scene with its principal point in the middle in every frame, and (T, 2) px added at the left and at the top."""
  middle = scene.intrinsics[:, 1:]
  extent = np.array(scene.size[::-1], np.float64)
  size = np.ceil(2 * np.maximum(middle, extent - middle).max(axis=0) - _NEAR)
  offsets = size / 2 - middle
  offsets[np.abs(offsets) < _NEAR] = 0.0
  if not offsets.any():
    return scene, offsets
  intrinsics = scene.intrinsics.copy()
  intrinsics[:, 1:] = size / 2
  whole = (int(size[1]), int(size[0]))
  log.info("images: padded to %d x %d px, the principal point in the middle", *size)
  pictures = scene.pictures and Padded(scene.pictures, offsets, whole)
  return dataclasses.replace(scene, size=whole, intrinsics=intrinsics, pictures=pictures), offsets


class Padded:
  """The pictures of a scene on a larger canvas."""

  def __init__(self, pictures: Pictures, offsets: np.ndarray, size: tuple[int, int]):
    """`offsets` (T, 2): where the left top corner of each comes to be, px; `size`: (H, W) of the canvas."""
    self.pictures, self.offsets, self.size = pictures, offsets, size
    self.masks = pictures.masks

  def rgb(self, i: int) -> np.ndarray:
    return self._moved(self.pictures.rgb(i), i, (255, 255, 255))

  def alpha(self, i: int) -> np.ndarray | None:
    alpha = self.pictures.alpha(i)
    return None if alpha is None else self._moved(alpha, i, (0, 0, 0))

  def _moved(self, image: np.ndarray, i: int, border: tuple[int, int, int]) -> np.ndarray:
    import cv2  # late: not everybody who exports writes images

    x, y = self.offsets[i]
    height, width = self.size
    whole = x == round(x) and y == round(y)
    return cv2.warpAffine(
      image, np.array([[1.0, 0.0, x], [0.0, 1.0, y]]), (width, height),
      flags=cv2.INTER_NEAREST if whole else cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=border,
    )  # fmt: skip
