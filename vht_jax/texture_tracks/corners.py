"""Corners of the skin in a keyframe, lifted onto its mesh."""

from __future__ import annotations

import numpy as np

WINDOW = 17  # px, side of the square that is tracked: `lucas_kanade.WINDOW`
MAX_ANGLE = 50.0  # degrees between the skin and the line of sight: beyond, a corner is smeared and its place uncertain
QUALITY = 0.003  # of the best corner's smaller eigenvalue
BLOCK = 7  # px
DENSITY = 0.6  # least distance, in units of the spacing that an even grid of as many would have


def find(grey: np.ndarray, face: np.ndarray, cosine: np.ndarray, n: int) -> np.ndarray:
  """At most n corners (k, 2) px, evenly spread over the skin that is seen well.

  Args:
    grey: (C, C) uint8 window.
    face: (C, C) triangle at each pixel, -1: none; what has none beside it (eyes, the mouth, the border) is kept off.
    cosine: (f,) of the triangles, see `View`.
  """
  import cv2

  seen = (face >= 0) & (cosine[np.maximum(face, 0)] > np.cos(np.deg2rad(MAX_ANGLE)))
  mask = cv2.erode(seen.astype(np.uint8), np.ones((WINDOW, WINDOW), np.uint8), borderValue=0)
  if not mask.any():
    return np.zeros((0, 2), np.float32)
  spacing = max(DENSITY * np.sqrt(mask.sum() / n), 3.0)
  found = cv2.goodFeaturesToTrack(grey, n, QUALITY, spacing, mask=mask, blockSize=BLOCK)
  if found is None:
    return np.zeros((0, 2), np.float32)
  return found[:, 0] + np.float32(0.5)  # OpenCV counts from the first pixel's centre
