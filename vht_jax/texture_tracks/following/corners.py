"""Corners of the skin in a keyframe, lifted onto its mesh."""

from __future__ import annotations

import numpy as np

from vht_jax.texture_tracks.following.lucas_kanade import WINDOW
from vht_jax.texture_tracks.following.view import CELL

MAX_ANGLE = 50.0  # degrees between the skin and the line of sight: beyond, a corner is smeared and its place uncertain
QUALITY = 0.003  # of the best corner's smaller eigenvalue
BLOCK = 7  # px
DENSITY = 0.6  # least distance, in units of the spacing that an even grid of as many would have


def find(grey: np.ndarray, face: np.ndarray, cosine: np.ndarray, n: int) -> np.ndarray:
  """At most n corners (k, 2) window px, evenly spread over the skin that is seen well.

  Args:
    grey: (C, C) uint8 window.
    face: (c, c) of a `View`; what has no skin beside it (eyes, the mouth, the border) is kept off.
    cosine: (f,) likewise.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  seen = (face >= 0) & (cosine[np.maximum(face, 0)] > np.cos(np.deg2rad(MAX_ANGLE)))
  seen = np.repeat(np.repeat(seen.astype(np.uint8), CELL, 0), CELL, 1)
  mask = cv2.erode(seen, np.ones((WINDOW, WINDOW), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
  if not mask.any():
    return np.zeros((0, 2), np.float32)
  spacing = max(DENSITY * np.sqrt(mask.sum() / n), 3.0)
  found = cv2.goodFeaturesToTrack(grey, n, QUALITY, spacing, mask=mask, blockSize=BLOCK)
  if found is None:
    return np.zeros((0, 2), np.float32)
  return found[:, 0] + np.float32(0.5)  # OpenCV counts from the first pixel's centre


def lift(px: np.ndarray, face: np.ndarray, faces: np.ndarray, X: np.ndarray, lens: np.ndarray):
  """Triangles (k,) and barycentrics (k, 3) of corners: in the triangle that is seen by their cell, or just beside it.

  Args:
    px: (k, 2) window px.
    face: (c, c), X: (v, 3), lens: (3,) of the `View`.
    faces: (f, 3) of the mesh.
  """
  x, y = (px // CELL).astype(int).T
  triangle = face[y, x]
  rays = np.concatenate([(px - lens[1:]) / lens[0], np.ones((len(px), 1))], -1)
  weights = np.linalg.solve(np.swapaxes(X[faces[triangle]].astype(np.float64), 1, 2), rays[..., None])[..., 0]
  return triangle, (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
