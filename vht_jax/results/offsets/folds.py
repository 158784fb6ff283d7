"""No triangle may turn over: heights that do that to one are lowered around it."""

from __future__ import annotations

import numpy as np

LEAST = 0.2  # cosine to a triangle's normal without offsets: nearly 80 degrees
_LOWER, _MOST = 0.8, 60  # per pass; after so many a height is 1e-6 of what it was


def unfolded(neutral: np.ndarray, faces: np.ndarray, height: np.ndarray, direction: np.ndarray) -> np.ndarray:
  """(V,) heights by which no triangle turns by more than `LEAST` says.

  Args:
    neutral: (V, 3) the person's head, m.
    faces: (F, 3).
    height: (V,) m, along
    direction: (V, 3).
  """
  before = normals_of(neutral, faces)
  found = height.copy()
  for _ in range(_MOST):
    after = normals_of(neutral + found[:, None] * direction, faces)
    turned = (np.sum(before * after, -1) < LEAST) & before.any(-1)
    if not turned.any():
      return found
    around = np.zeros(len(found), bool)
    around[faces[turned]] = True
    around[faces[around[faces].any(1)]] = True  # and their neighbours, lest there be an edge
    found[around] *= _LOWER
  found[around] = 0.0
  return found


def normals_of(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """(F, 3) unit normals; 0 of triangles without an area."""
  a, b, c = (vertices[faces[:, k]] for k in range(3))
  normal = np.cross(b - a, c - a)
  return normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
