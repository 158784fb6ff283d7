"""Whether a mask is one of the tracked person at all."""

from __future__ import annotations

import cv2
import numpy as np

MARGIN = 0.03  # of the head's height at its outline, of which nothing is asked: hair, ears, what the fit is off by


def covered(mask: np.ndarray, silhouette: np.ndarray) -> float:
  """Share of the head's silhouette, without its outermost `MARGIN`, that a mask has; NaN if nothing of it is in sight.

  Args:
    mask: (H, W) uint8, 255: foreground.
    silhouette: (H, W) uint8 of the head.
  """
  rows = np.flatnonzero(silhouette.any(axis=1))
  if not len(rows):
    return float("nan")
  radius = max(round(MARGIN * (rows[-1] - rows[0] + 1)), 1)
  ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
  inner = cv2.erode((silhouette > 127).astype(np.uint8), ellipse, borderType=cv2.BORDER_REPLICATE) > 0
  return float(mask[inner].mean() / 255) if inner.any() else float("nan")
