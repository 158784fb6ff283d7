"""A scene's images and masks in the forms that consumers want, and as PNG."""

from __future__ import annotations

import cv2
import numpy as np

from vht_jax.dataset.extract import encode_png
from vht_jax.errors import InputError
from vht_jax.results.export.images.neck import fade_of
from vht_jax.results.export.images.views import OUTSIDE
from vht_jax.results.export.scene import Pictures, Scene


def mask_of(scene: Scene, i: int, *, fade: bool = False) -> np.ndarray:
  """(H, W) uint8 of frame i: 255 where its image is to be seen; without a mask everywhere but in padding.

  `fade`: not below the neck.
  """
  found = _pictures(scene).alpha(i)
  mask = np.full(scene.size, 255, np.uint8) if found is None else found
  return np.minimum(mask, np.round(fade_of(scene, i) * 255).astype(np.uint8)) if fade else mask


def rgb_on(scene: Scene, i: int, background: int = OUTSIDE, *, fade: bool = False) -> np.ndarray:
  """(H, W, 3) uint8 of frame i over a grey, by its mask; `fade` as for `mask_of`."""
  rgb, mask = _pictures(scene).rgb(i), mask_of(scene, i, fade=fade)
  alpha = mask[..., None].astype(np.uint16)
  return ((rgb * alpha + np.uint16(background) * (255 - alpha) + 127) // 255).astype(np.uint8)


def rgba(scene: Scene, i: int, *, fade: bool = False) -> np.ndarray:
  """(H, W, 4) uint8 of frame i, not premultiplied: its mask is alpha; `fade` as for `mask_of`."""
  return np.dstack([_pictures(scene).rgb(i), mask_of(scene, i, fade=fade)])


def png(image: np.ndarray) -> bytes:
  """PNG of uint8 grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4)."""
  if image.ndim == 3 and image.shape[2] == 4:
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
      raise OSError("PNG encoding failed")
    return data.tobytes()
  return encode_png(image)


def _pictures(scene: Scene) -> Pictures:
  if scene.pictures is None:
    raise InputError("this export needs the clip's images, and there is no dataset beside the result: --data_path")
  return scene.pictures
