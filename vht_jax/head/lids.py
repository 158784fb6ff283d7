"""Light between the lids: what lids and lashes leave of the surroundings to a point of the eyeball.

A lid stands up from the ball like a long wall. A point at distance s from a wall of height h loses (1 - cos a) / 2 of
what it would see, tan a = h / s (form factor of an element to a wall at right angles without an end; the other half of
the sky is beyond it); of what one lid leaves the other takes its share. The upper wall is the thickness of the lid and
half of the lashes, which let light through.

It is taken with open lids and the eye at rest, so that it is part of a texture: files and browsers show it, too.
"""

from __future__ import annotations

import numpy as np

from vht_jax.head import flame
from vht_jax.types import FlameModel

WALLS = 0.004, 0.0015  # m, of the upper lid and of the lower one
EYES = slice(36, 42), slice(42, 48)  # landmarks: along the upper lid, back along the lower one
_ALONG = 33  # points of a lid's edge
_AHEAD = 0.3  # radii in front of a ball's middle: no more of it can be seen


def lid_light(points: np.ndarray, lids: np.ndarray) -> np.ndarray:
  """(N,) light in [0, 1] at points (N, 3) of a ball, m, y up; under a lid what there is at its edge.

  Args:
    points: of one eyeball.
    lids: (6, 3) landmarks of its eye, in the order of `EYES`.
  """
  light = np.ones(len(points))
  for edge, height, above in ((lids[:4], WALLS[0], 1.0), (lids[[3, 4, 5, 0]], WALLS[1], -1.0)):
    t = np.linspace(0.0, 3.0, _ALONG)
    curve = np.stack([np.polyval(np.polyfit(np.arange(4.0), axis, 3), t) for axis in edge.T], axis=-1)
    away = np.linalg.norm(points[:, None] - curve[None], axis=-1)
    order = np.argsort(curve[:, 0])
    under = above * (points[:, 1] - np.interp(points[:, 0], curve[order, 0], curve[order, 1])) > 0
    s = np.where(under, 0.0, away.min(axis=1))
    light *= 0.5 * (1.0 + s / np.hypot(s, height))
  return light


def eyeball_light(model: FlameModel, shape: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """(Ht, Wt) `lid_light` of a texture's texels of a size; 1 but for eyeballs. Host side.

  Args:
    model: the head; one whose eyeballs are not known gets ones.
    shape: (S,).
    size: of the texture.
  """
  vertices = np.asarray(model.v_template, np.float64) + np.asarray(model.shapedirs, np.float64) @ np.asarray(shape)
  corners = vertices[np.asarray(model.lmk_vertices)]
  landmarks = (np.asarray(model.lmk_bary, np.float64)[..., None] * corners).sum(axis=1)
  height, width = size
  v, u = np.meshgrid(1.0 - (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
  light = np.ones(size)
  for name in flame.EYEBALLS:
    ball = flame.region(model, (name,))
    if not ball.any():
      continue
    faces = np.flatnonzero(ball[np.asarray(model.faces)].all(axis=1))
    xyz = vertices[np.asarray(model.faces)[faces]].reshape(-1, 3)
    uv = np.asarray(model.uv, np.float64)[faces].reshape(-1, 2)
    centre = 0.5 * (xyz.min(axis=0) + xyz.max(axis=0))
    radius = np.linalg.norm(xyz - centre, axis=1).mean()
    front = xyz[:, 2] > centre[2] + _AHEAD * radius
    # The island is the front of the ball seen from ahead, or nearly: a cubic takes its texels there.
    low, high = uv[front].min(axis=0), uv[front].max(axis=0)
    there = (u >= low[0]) & (u <= high[0]) & (v >= low[1]) & (v <= high[1])
    found = _cubic(uv[front], low, high)
    weights = np.linalg.lstsq(found, xyz[front], rcond=None)[0]
    points = _cubic(np.stack([u[there], v[there]], axis=-1), low, high) @ weights
    eye = min((landmarks[lids] for lids in EYES), key=lambda lids: np.linalg.norm(lids.mean(axis=0) - centre))
    light[there] = lid_light(points, eye)
  return light


def _cubic(uv: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """(N, 10) monomials of (N, 2) texture coordinates, scaled to [-1, 1]."""
  x, y = (2.0 * (uv - low) / (high - low) - 1.0).T
  return np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], axis=-1)
