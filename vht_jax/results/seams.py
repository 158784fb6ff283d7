"""Seams: where the skin is cut open to lie flat, the two sides of the cut have one colour.

A texture basis does not know of its cut, so a code that makes one side of a head darker makes a step at its back.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from vht_jax.head.mesh import connected, sides
from vht_jax.types import FlameModel

SIDE = 256  # texels at which steps are looked for
REACH = 0.06  # of the texture's side, over which a step is levelled out: some 4 cm of a head
INWARD = 0.3  # of the way from a corner to the middle of its faces: there a colour is surely its own
_NEAREST = 8  # places of a seam that are mixed


class Cut(NamedTuple):
  """Where a mesh is cut: C corners of its texture, M texels near the cut and, for each, the K corners nearest to it."""

  same: np.ndarray  # (C,) corners of one number are one vertex on one island: they have one colour
  xy: np.ndarray  # (C, 2) f32 px where a corner's colour is surely its own, in a texture of `SIDE`
  texels: np.ndarray  # (M,) of the largest island
  corners: np.ndarray  # (M, K) at the cut
  weights: np.ndarray  # (M, K) of their steps


def without_seams(model: FlameModel, texture: np.ndarray) -> np.ndarray:
  """A texture (Ht, Wt, 3) whose sides agree at the cut through the largest island, half of the step given to each.

  Where islands meet, as at the lips, there may be an edge of colour. Row 0 is v = 1.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  cut = _cut(np.asarray(model.faces, np.int64).tobytes(), np.asarray(model.uv, np.float64).tobytes())
  if cut is None:
    return texture
  small = cv2.resize(np.asarray(texture, np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
  x, y = cut.xy.T
  colour = cv2.remap(small, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(-1, 3)
  count = np.bincount(cut.same)
  mean = np.zeros((len(count), 3))
  np.add.at(mean, cut.same, colour)
  step = (mean / count[:, None])[cut.same] - colour
  change = np.zeros((SIDE * SIDE, 3))
  change[cut.texels] = (cut.weights[..., None] * step[cut.corners]).sum(axis=1)
  change = cv2.resize(change.reshape(SIDE, SIDE, 3).astype(np.float32), texture.shape[1::-1])
  return texture + change


@functools.lru_cache(maxsize=4)  # .1 s; a run asks three times for one head
def _cut(faces_i64: bytes, uv_f64: bytes) -> Cut | None:
  """The cut of a mesh, faces (F, 3) and uv (F, 3, 2); None for one that has none."""
  faces, uv = np.frombuffer(faces_i64, np.int64).reshape(-1, 3), np.frombuffer(uv_f64).reshape(-1, 3, 2)
  # Corners of the texture: one for each vertex and each place it has there.
  places = np.concatenate([faces.reshape(-1, 1), np.round(uv.reshape(-1, 2) * (1 << 16))], axis=1).astype(np.int64)
  unique, corner = np.unique(places, axis=0, return_inverse=True)
  vertex, at, corner = unique[:, 0], unique[:, 1:] / (1 << 16), corner.reshape(-1, 3)
  n = len(unique)
  island = connected(n, sides(corner))
  _, same, count = np.unique(np.stack([vertex, island]), axis=1, return_inverse=True, return_counts=True)
  skin = np.bincount(island).argmax()
  seam = np.flatnonzero((count[same] > 1) & (island == skin))
  if not len(seam):
    return None

  middle, faces_at = np.zeros((n, 2)), np.bincount(corner.ravel(), minlength=n)
  np.add.at(middle, corner, uv.mean(axis=1)[:, None])
  inside = at + INWARD * (middle / faces_at[:, None] - at)
  xy = (inside * [SIDE, -SIDE] + [-0.5, SIDE - 0.5]).astype(np.float32)

  centres = (np.arange(SIDE) + 0.5) / SIDE
  texels = np.stack(np.meshgrid(centres, 1.0 - centres), axis=-1).reshape(-1, 2)
  near = np.flatnonzero(island[KDTree(at).query(texels)[1]] == skin)
  away, which = KDTree(at[seam]).query(texels[near], k=min(_NEAREST, len(seam)))
  weight = np.exp(-((away / REACH) ** 2))
  mixed = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
  return Cut(same, xy, near, seam[which], weight[:, :1] * mixed)
