"""From pixels as a file stores them to upright, square, opaque ones."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from absl import logging

from vht_jax.errors import InputError

MAX_SIDE = 16384  # px, of an image or a video
BACKGROUND = 128  # mid-grey: neither a bright face nor dark hair ends in an edge that is not there
MAX_ASPECT = 4.0  # H.264's table of pixel aspects ends at 2.2; beyond this the file is taken to be wrong


class Picture(NamedTuple):
  """One frame of a source, ready to be stored."""

  rgb: np.ndarray  # uint8 (H, W, 3), upright, square pixels, over `BACKGROUND` where it is transparent
  alpha: np.ndarray | None  # uint8 (H, W), 255: foreground; None: opaque
  time: float | None  # s, on the source's clock; None: the source does not say
  source: str  # file name of an image, or name#index (0-based) of a frame of a video or of an image with several
  focal_35mm: float | None = None  # mm, equivalent focal length by EXIF


def over_background(rgba: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
  """RGB (H, W, 3) of straight (not premultiplied) RGBA uint8 over `BACKGROUND`, and alpha unless it is all opaque.

  What lies under transparent pixels is whatever the encoder left there.
  """
  alpha = np.ascontiguousarray(rgba[..., 3])
  if alpha.min() == 255:
    return np.ascontiguousarray(rgba[..., :3]), None
  a = alpha[..., None].astype(np.uint32)
  return ((rgba[..., :3] * a + BACKGROUND * (255 - a) + 127) // 255).astype(np.uint8), alpha


def square_size(size: tuple[int, int], aspect: float, what: str) -> tuple[int, int]:
  """Size (H, W) with square pixels of a picture whose pixels are `aspect` times as wide as high.

  The shorter sampled side is enlarged, so that no detail is lost.

  Raises:
    InputError: it would be too large.
  """
  if not (1 / MAX_ASPECT <= aspect <= MAX_ASPECT):
    logging.warning("%s: claims pixels %.3g times as wide as high; not believed, taken as square", what, aspect)
    return size
  height, width = size
  squared = (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)
  if max(squared) > MAX_SIDE:
    raise InputError(f"{what}: {squared[1]}x{squared[0]} with square pixels; expected up to {MAX_SIDE} a side")
  if squared != size:
    logging.info(
      "%s: pixels %.4g times as wide as high; %dx%d (width x height) becomes %dx%d with square pixels",
      what, aspect, width, height, squared[1], squared[0],
    )  # fmt: skip
  return squared


def enlarge(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """uint8 (h, w[, c]) at `size` (H, W), not smaller than it is."""
  return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)


def turn(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """Turns and mirrors (H, W[, c]) as a video's display matrix says.

  Args:
    matrix: (2, 2) of the mapping (x', y') = (x, y) @ matrix, x to the right and y down; only multiples of a quarter
      turn count, others are left to the tracker.
  """
  (a, b), (c, d) = np.sign(np.where(np.abs(matrix) > 0.5 * np.abs(matrix).max(), matrix, 0)).astype(int)
  if a and d and not (b or c):
    flip_x, flip_y = a < 0, d < 0
  elif b and c and not (a or d):
    image, flip_x, flip_y = image.swapaxes(0, 1), c < 0, b < 0
  else:
    return image
  return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
