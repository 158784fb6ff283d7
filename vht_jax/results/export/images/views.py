"""Crops, padding and scaling of a clip's images, with the cameras that belong to them.

A view shows of an image what is at `pixel' = (pixel - origin) * scale`, pixel centres at i + 0.5 in both. So a camera
with focal length f and principal point c becomes one with f * scale and (c - origin) * scale, exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from vht_jax.results.export.scene import Pictures, Scene

OUTSIDE = 255  # what padding shows: avatar methods put people before white
_WHOLE = 1e-6  # px by which a view may be off whole pixels and still be a copy of them


class Views(NamedTuple):
  """What T images of one size show."""

  origin: np.ndarray  # (T, 2) x, y px of their top left corners in the images that they are views of
  scale: np.ndarray  # (T,) their pixels per pixel of those
  size: tuple[int, int]  # (H, W) px

  def intrinsics(self, lenses: np.ndarray) -> np.ndarray:
    """(T, 3) f, cx, cy px of the views for those (T, 3) of the images."""
    points = (lenses[:, 1:] - self.origin) * self.scale[:, None]
    return np.concatenate([lenses[:, :1] * self.scale[:, None], points], axis=1)

  def of(self, first: Views) -> Views:
    """These views of `first` as views of what `first` shows."""
    return Views(first.origin + self.origin / first.scale[:, None], first.scale * self.scale, self.size)


class Viewed:
  """`scene.Pictures` through views.

  Args:
    image: frame -> RGB uint8 (H, W, 3).
    mask: frame -> uint8 (H, W) of the same size, 255: foreground; None: there is none.
    origin: where the mask is from, for people.
    views: of the images in pixels of the scene, of which an image has `stretch` (x, y) of its own to one.
    side: of the square images that the user asked for, px.
  """

  def __init__(
    self,
    image: Callable[[int], np.ndarray],
    mask: Callable[[int], np.ndarray | None] | None,
    origin: Callable[[], str],
    views: Views,
    stretch: tuple[float, float] = (1.0, 1.0),
    side: int | None = None,
  ):
    self.image, self.mask, self.origin = image, mask, origin
    self.views, self.stretch, self.side = views, np.array(stretch, np.float64), side

  @property
  def masks(self) -> str:
    return self.origin() if self.mask is not None else ""

  def rgb(self, i: int) -> np.ndarray:
    return resampled(self.image(i), self._box(i), self.views.size)

  def alpha(self, i: int) -> np.ndarray | None:
    found = None if self.mask is None else self.mask(i)
    if found is not None:
      return resampled(found, self._box(i), self.views.size, 0)
    height, width = self.image(i).shape[:2]
    inside = inside_of(self._box(i), self.views.size, (height, width))
    return None if inside.all() else inside.astype(np.uint8) * np.uint8(255)

  def seen(self, views: Views, side: int | None = None) -> Viewed:
    """What these pictures show through further views."""
    return Viewed(
      self.image, self.mask, self.origin, views.of(self.views), (self.stretch[0], self.stretch[1]), side or self.side
    )

  def only(self, rows: np.ndarray) -> Viewed:
    """The pictures at these positions (N,)."""
    image, mask = self.image, self.mask
    return Viewed(
      lambda i: image(int(rows[i])), None if mask is None else lambda i: mask(int(rows[i])), self.origin,
      Views(self.views.origin[rows], self.views.scale[rows], self.views.size), (self.stretch[0], self.stretch[1]),
      self.side,
    )  # fmt: skip

  def _box(self, i: int) -> np.ndarray:
    """(4,) x0, y0, x1, y1 px that the view of frame i shows of its image."""
    low = self.views.origin[i]
    high = low + np.array(self.views.size[::-1]) / self.views.scale[i]
    return np.concatenate([low * self.stretch, high * self.stretch])


def seen_through(scene: Scene, views: Views, side: int | None = None) -> Scene:
  """The scene of other images: their size, their cameras, and their pixels if the scene has pictures."""
  pictures = scene.pictures
  if pictures is not None:
    pictures = as_viewed(pictures, scene.size, len(scene)).seen(views, side)
  return dataclasses.replace(scene, size=views.size, intrinsics=views.intrinsics(scene.intrinsics), pictures=pictures)


def as_viewed(pictures: Pictures, size: tuple[int, int], n: int) -> Viewed:
  """Any pictures of n frames as what views can be laid on."""
  if isinstance(pictures, Viewed):
    return pictures
  return Viewed(pictures.rgb, pictures.alpha, lambda: pictures.masks, whole(size, n))


def whole(size: tuple[int, int], n: int) -> Views:
  """Views that show n images as they are."""
  return Views(np.zeros((n, 2)), np.ones(n), size)


def resampled(image: np.ndarray, box: np.ndarray, size: tuple[int, int], outside: int = OUTSIDE) -> np.ndarray:
  """uint8 (h, w[, 3]) of `size`: what a box of an image shows; a copy where it is a whole number of whole pixels.

  Else cubic, where it is reduced with a filter as wide as the reduction (Pillow's), so that nothing is displaced.

  Args:
    image: uint8 (H, W[, 3]).
    box: (4,) x0, y0, x1, y1 px, may reach beyond the image.
    size: (h, w) px.
    outside: value of pixels whose centres are not in the image.
  """
  height, width = image.shape[:2]
  step = (box[2:] - box[:2]) / np.array(size[::-1])  # pixels of the image per pixel of the result
  corner = np.round(box[:2])
  copied = np.abs(box[:2] - corner).max() < _WHOLE and np.abs(step - 1).max() * max(size) < _WHOLE
  reach = 0 if copied else math.ceil(2 * max(float(step.max()), 1.0)) + 1  # of the cubic filter
  x0, y0 = (int(np.floor(v)) - reach for v in (corner if copied else box[:2]))
  shape = (size[0], size[1]) if copied else tuple(int(np.ceil(v)) + reach - low for v, low in zip(box[:1:-1], (y0, x0)))
  part = _padded(image, x0, y0, shape)
  if not copied:
    local = tuple((box - [x0, y0, x0, y0]).tolist())
    part = np.asarray(Image.fromarray(part).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=local))
  inside = inside_of(box, size, (height, width))
  if inside.all():
    return np.ascontiguousarray(part)
  return np.where(inside[..., None] if part.ndim == 3 else inside, part, np.uint8(outside))


def inside_of(box: np.ndarray, size: tuple[int, int], image: tuple[int, int]) -> np.ndarray:
  """(h, w) bool: which pixels of a box's view of `size` have their centres in an image of (H, W)."""
  flags = []
  for low, high, n, length in zip(box[1::-1], box[:1:-1], size, image):
    centres = low + (np.arange(n) + 0.5) * ((high - low) / n)
    flags.append((centres >= 0) & (centres <= length))
  return flags[0][:, None] & flags[1][None]


def _padded(image: np.ndarray, x0: int, y0: int, shape: tuple[int, ...]) -> np.ndarray:
  """The part of `shape` (h, w) at x0, y0; the image's outermost pixels go on beyond it, for filters."""
  height, width = image.shape[:2]
  if x0 >= 0 and y0 >= 0 and y0 + shape[0] <= height and x0 + shape[1] <= width:
    return np.ascontiguousarray(image[y0 : y0 + shape[0], x0 : x0 + shape[1]])
  take = [
    np.clip(np.arange(low, low + n), 0, length - 1)
    for low, n, length in ((y0, shape[0], height), (x0, shape[1], width))
  ]
  return np.ascontiguousarray(image[np.ix_(*take)])
