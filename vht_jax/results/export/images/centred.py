"""Images padded so that the principal point is in their middle, for consumers that take it to be there.

Padding is background: white, alpha 0.
"""

from __future__ import annotations

import logging

import numpy as np

from vht_jax.results.export.images.views import Viewed, Views, seen_through
from vht_jax.results.export.scene import Scene

EXACT = 0.01  # px: a principal point this near to the middle is in it

log = logging.getLogger("vht_jax")


def centred(scene: Scene) -> tuple[Scene, np.ndarray]:
  """The scene with the principal point of every frame in the middle of its image.

  The images are padded by whole pixels; where the point lies at a fraction of a pixel they are shifted by it as well.
  Square images of a size that was asked for keep it. A scene without pictures gets the camera.

  Returns:
    The scene, and (T, 2) px of it that were added at the left and at the top.
  """
  n, (height, width) = len(scene), scene.size
  points = scene.intrinsics[:, 1:]
  if np.abs(points - [width / 2, height / 2]).max() < EXACT:
    return scene, np.zeros((n, 2))
  half = np.maximum(points, np.array([width, height]) - points).max(axis=0)
  pictures = scene.pictures
  side = pictures.side if isinstance(pictures, Viewed) else None
  if side is not None:
    length = 2 * float(half.max())
    views = Views(points - length / 2, np.full(n, side / length), (side, side))
  else:
    # An even number of pixels, or an odd one: whichever leaves the smaller fraction.
    sides = [min(_sizes(h), key=lambda k: float(np.abs(_fraction(p - k / 2)).max())) for h, p in zip(half, points.T)]
    origin = points - np.array(sides) / 2
    whole = np.abs(_fraction(origin)) < EXACT
    views = Views(np.where(whole, np.round(origin), origin), np.ones(n), (sides[1], sides[0]))
  found = seen_through(scene, views)
  scaled = "" if side is None else " and scaled back"
  log.info("images: %d x %d px padded until the principal point is in the middle%s: %d x %d px", width, height, scaled,
           *found.size[::-1])  # fmt: skip
  return found, -views.origin * views.scale[:, None]


def _sizes(half: float) -> tuple[int, int]:
  least = int(np.ceil(2 * half - 2 * EXACT))
  return least, least + 1


def _fraction(x: np.ndarray) -> np.ndarray:
  return x - np.round(x)
