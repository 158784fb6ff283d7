"""From pixels as a file stores them to upright, square, opaque ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from absl import logging
from PIL import Image

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


def tracked_size(source: tuple[int, int], resolution: Sequence[int] | None, factor: float) -> tuple[int, int]:
  """Size (H, W) at which frames of a size are tracked: `resolution` in their own shape, else divided by `factor`.

  Raises:
    InputError: fewer than 16 pixels, or more than `MAX_SIDE`.
  """
  if resolution is not None:
    sides = [int(side) for side in resolution]
    if len(sides) != 2 or min(sides) < 16:
      raise InputError(f"tracking_resolution: expected [height, width] of at least 16 pixels, found {list(resolution)}")
    size = sides[0], sides[1]
    # Stretching would change the face's proportions; sides that agree within rounding are taken as they are named.
    factor = min(size[0] / source[0], size[1] / source[1])
    fitted = max(round(source[0] * factor), 16), max(round(source[1] * factor), 16)
    if max(abs(a - b) for a, b in zip(size, fitted)) <= 1:
      return size
    logging.warning(
      "tracking_resolution: frames of %dx%d (height x width) become %dx%d, which keeps their shape, rather than %dx%d",
      *source, *fitted, *size,
    )  # fmt: skip
    return fitted
  if not factor > 0:
    raise InputError(f"downscale_factor: expected a number above 0, found {factor}")
  size = int(source[0] / factor), int(source[1] / factor)
  if not (16 <= min(size) and max(size) <= MAX_SIDE):
    found = f"found frames of {source[0]}x{source[1]} (height x width)"
    made = "" if size == tuple(source) else f", of which downscale_factor {factor} makes {size[0]}x{size[1]}"
    raise InputError(f"expected sides of 16 to {MAX_SIDE} pixels, {found}{made}")
  return size


def resize_antialiased(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes uint8 (H, W[, 3]) with a triangle filter as wide as the reduction: VHT's (torchvision's antialias)."""
  if image.shape[:2] == size:
    return image
  return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
