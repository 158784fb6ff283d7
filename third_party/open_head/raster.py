"""A small rasteriser in numpy, for baking textures: the build must not depend on the package it builds for."""

from __future__ import annotations

import numpy as np


def rasterize(points: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Nearest triangle at each pixel centre.

  Args:
    points: (F, 3, 3) or (V, 3) corners in pixels, x right, y down, z away from the viewer.
    faces: (F, 3) ids into points; ignored when points are given per corner.
    size: edge of the square image.

  Returns:
    (size, size) face ids, -1 in the background, and (size, size, 3) barycentric coordinates.
  """
  corners = points if points.ndim == 3 else points[faces]
  depth = np.full((size, size), np.inf)
  face_id = np.full((size, size), -1)
  bary = np.zeros((size, size, 3))
  low = np.clip(np.floor(corners[..., :2].min(1) - 0.5), 0, size).astype(int)
  high = np.clip(np.ceil(corners[..., :2].max(1) + 0.5), 0, size).astype(int)
  edge = corners[:, 1:, :2] - corners[:, :1, :2]
  area = edge[:, 0, 0] * edge[:, 1, 1] - edge[:, 0, 1] * edge[:, 1, 0]
  for f in np.nonzero((high > low).all(1) & (np.abs(area) > 1e-12))[0]:
    (x0, y0), (x1, y1) = low[f], high[f]
    dx = np.arange(x0, x1) + 0.5 - corners[f, 0, 0]
    dy = (np.arange(y0, y1) + 0.5 - corners[f, 0, 1])[:, None]
    b1 = (dx * edge[f, 1, 1] - dy * edge[f, 1, 0]) / area[f]
    b2 = (dy * edge[f, 0, 0] - dx * edge[f, 0, 1]) / area[f]
    b = np.stack([1 - b1 - b2, b1, b2], 2)
    z = b @ corners[f, :, 2]
    window = (slice(y0, y1), slice(x0, x1))
    nearer = (b.min(2) >= -1e-9) & (z < depth[window])
    depth[window][nearer] = z[nearer]
    face_id[window][nearer] = f
    bary[window][nearer] = b[nearer]
  return face_id, bary
