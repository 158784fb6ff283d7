"""Pictures and masks as the bytes of PNG files."""

from __future__ import annotations

import cv2
import numpy as np

from vht_jax.dataset.extract import encode_png
from vht_jax.results.export.images.views import OUTSIDE


def rgb_png(rgb: np.ndarray) -> bytes:
  """(H, W, 3) uint8."""
  return encode_png(np.ascontiguousarray(rgb))


def grey_png(values: np.ndarray) -> bytes:
  """(H, W) uint8."""
  return encode_png(np.ascontiguousarray(values))


def rgba_png(rgb: np.ndarray, alpha: np.ndarray | None) -> bytes:
  """(H, W, 3) uint8, not premultiplied, with a mask (H, W) uint8; opaque without."""
  alpha = np.full(rgb.shape[:2], 255, np.uint8) if alpha is None else alpha
  ok, data = cv2.imencode(".png", np.dstack([rgb[..., ::-1], alpha]), [cv2.IMWRITE_PNG_COMPRESSION, 1])
  if not ok:
    raise OSError("PNG encoding failed")
  return data.tobytes()


def over_white(rgb: np.ndarray, alpha: np.ndarray | None) -> bytes:
  """(H, W, 3) uint8 with white where the mask (H, W) uint8 has nothing; as it is without a mask."""
  if alpha is None:
    return rgb_png(rgb)
  share = alpha[..., None].astype(np.uint16)
  return rgb_png(((rgb * share + np.uint16(OUTSIDE) * (255 - share) + 127) // 255).astype(np.uint8))
