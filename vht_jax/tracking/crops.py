"""What the stages with images look at: a square around the head in every frame."""

from __future__ import annotations

import numpy as np

from vht_jax.fit import unknowns
from vht_jax.fit.pixels.surface import Crop
from vht_jax.host.programs import namespace
from vht_jax.tracking.evidence.examine import mask_hidden
from vht_jax.types import AnyArray

FOREGROUND = 128  # of 255: a mask's value from which on a pixel is the person's
CROP_METRES = 0.28  # side of the crop at the head's distance


def crops_of(clip, index: np.ndarray, xs: np.ndarray, size: int) -> Crop:
  """The heads of some frames; what a mask calls background is as unknown as what lies outside of the image.

  Args:
    clip: with evidence (`evidence.examine.Weighed`).
    index: (B,) positions of the frames.
    xs: (B, n) unknowns that say about where their heads are.
    size: px, side of a crop.

  Returns:
    Leading axis B; host side.
  """
  xs = np.nan_to_num(xs)
  rgb, inside, scale, offset = zip(*(crop_head(image, x, size) for image, x in zip(clip.images(index), xs)))
  masks = clip.masks(index) if hasattr(clip, "masks") else None
  if masks is not None:
    masks = [crop_head(np.repeat(mask[..., None], 3, -1), x, size)[0][..., 0] for mask, x in zip(masks, xs)]
    inside = [a * (mask >= FOREGROUND) for a, mask in zip(inside, masks)]
  for k, i in enumerate(index):
    mask_hidden(inside[k], clip.hidden[i], scale[k], offset[k], clip.size)
  f32 = lambda a: np.stack(a).astype(np.float32)
  return Crop(rgb=f32(rgb) / np.float32(255), inside=f32(inside), scale=f32(scale), offset=f32(offset))


def square_of(place: AnyArray, size: tuple[int, int]) -> AnyArray:
  """Left, top and side (3,) of the square around a head, whole px of an image of `size` = (H, W); host side or traced.

  Args:
    place: (3,) of the head's unknowns.
  """
  xp, longer = namespace(place), max(size)
  w = xp.clip(xp.floor(CROP_METRES * xp.exp(place[2]) * longer), 16, 4 * longer)
  return xp.stack([*(xp.trunc(place[k] * longer + (size[1 - k] / 2) - w / 2) for k in (0, 1)), w])


def crop_head(image: np.ndarray, x: np.ndarray, size: int):
  """The square around a head whose unknowns are about `x`: rgb, inside mask, and the map from unit coordinates."""
  import cv2  # late: a tracker without pictures needs no OpenCV

  height, width = image.shape[:2]
  side = max(height, width)
  x0, y0, w = map(int, square_of(unknowns.part(x, "place"), (height, width)))
  left, top, right, bottom = max(-x0, 0), max(-y0, 0), max(x0 + w - width, 0), max(y0 + w - height, 0)
  part = image[max(y0, 0) : max(y0 + w, 0), max(x0, 0) : max(x0 + w, 0)]
  mask = np.ones(part.shape[:2], np.uint8)
  if part.size == 0:
    part, mask = np.zeros((w, w, 3), np.uint8), np.zeros((w, w), np.uint8)
  elif left or top or right or bottom:
    part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_REPLICATE)
    mask = cv2.copyMakeBorder(mask, top, bottom, left, right, cv2.BORDER_CONSTANT)
  mode = cv2.INTER_AREA if w > size else cv2.INTER_LINEAR
  part, mask = (
    cv2.resize(part, (size, size), interpolation=mode),
    cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST),
  )
  k = size / w
  return part, mask, side * k, (np.array([width / 2 - x0, height / 2 - y0]) * k)
