"""The mask of a scene's images, and its fade below the neck."""

from __future__ import annotations

import numpy as np

from vht_jax.masks import Neck, neck_fade, neck_of
from vht_jax.results.export.scene import Scene
from vht_jax.types import FlameModel

_NECKS: dict[int, tuple[FlameModel, Neck]] = {}  # of the last head


def mask_of(scene: Scene, i: int, *, fade: bool = False) -> np.ndarray:
  """(H, W) uint8 of frame i: 255 where its image is to be seen; without a mask everywhere but in padding.

  `fade`: not below the neck, as datasets of heads want it.
  """
  found = None if scene.pictures is None else scene.pictures.alpha(i)
  mask = np.full(scene.size, 255, np.uint8) if found is None else found
  return np.minimum(mask, np.round(fade_of(scene, i) * 255).astype(np.uint8)) if fade else mask


def fade_of(scene: Scene, i: int) -> np.ndarray:
  """float32 (H, W) of frame i: 1 on the head, 0 below the neck (`masks.neck_fade`)."""
  neck = _neck(scene.model)
  pixels, points = scene.pixels(i), scene.camera_vertices(i)
  apart = np.linalg.norm(points[neck.left] - points[neck.right])
  apart = apart * scene.intrinsics[i, 0] / points[[neck.left, neck.right], 2].mean()
  return neck_fade(pixels[list(neck)], float(apart), scene.size)


def _neck(model: FlameModel) -> Neck:
  if id(model) not in _NECKS:
    _NECKS.clear()
    _NECKS[id(model)] = model, neck_of(model)
  return _NECKS[id(model)][1]
