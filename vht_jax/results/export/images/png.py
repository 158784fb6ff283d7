"""Pictures and masks as the bytes of PNG files."""

from __future__ import annotations

import numpy as np


def rgb_png(rgb: np.ndarray) -> bytes:
  """(H, W, 3) uint8."""
  return _encoded(rgb[..., ::-1])


def rgba_png(rgb: np.ndarray, alpha: np.ndarray | None) -> bytes:
  """(H, W, 3) uint8 with a mask (H, W) uint8; opaque without."""
  alpha = np.full(rgb.shape[:2], 255, np.uint8) if alpha is None else alpha
  return _encoded(np.concatenate([rgb[..., ::-1], alpha[..., None]], axis=-1))


def over_white(rgb: np.ndarray, alpha: np.ndarray | None) -> bytes:
  """(H, W, 3) uint8 with white where the mask (H, W) uint8 has nothing; as it is without a mask."""
  if alpha is not None:
    share = alpha[..., None] / 255.0
    rgb = np.round(rgb * share + 255.0 * (1.0 - share)).astype(np.uint8)
  return rgb_png(rgb)


def grey_png(values: np.ndarray) -> bytes:
  """(H, W) uint8."""
  return _encoded(values)


def _encoded(image: np.ndarray) -> bytes:
  import cv2  # late: not everybody who exports writes images

  return cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes()
