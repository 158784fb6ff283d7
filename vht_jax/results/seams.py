"""Seams: where the skin is cut open to lie flat, the two sides of the cut have one colour.

A texture basis does not know of its cut, so a code that makes one side of a head darker makes a step at its back.
"""

from __future__ import annotations

import numpy as np

from vht_jax.types import FlameModel

SIDE = 256  # texels at which steps are looked for
REACH = 0.06  # of the texture's side, over which a step is levelled out: some 4 cm of a head
INWARD = 0.3  # of the way from a corner to the middle of its faces: there a colour is surely its own
_NEAREST = 8  # places of a seam that are mixed


def without_seams(model: FlameModel, texture: np.ndarray) -> np.ndarray:
  """A texture (Ht, Wt, 3) whose sides agree at the cut through the largest island, half of the step given to each.

  Where islands meet, as at the lips, there may be an edge of colour. Row 0 is v = 1.
  """
  import cv2
  from scipy.sparse import coo_matrix
  from scipy.sparse.csgraph import connected_components
  from scipy.spatial import KDTree

  # Corners of the texture: one for each vertex and each place it has there.
  faces, uv = np.asarray(model.faces), np.asarray(model.uv, np.float64)
  places = np.concatenate([faces.reshape(-1, 1), np.round(uv.reshape(-1, 2) * (1 << 16))], axis=1).astype(np.int64)
  unique, corner = np.unique(places, axis=0, return_inverse=True)
  vertex, at, corner = unique[:, 0], unique[:, 1:] / (1 << 16), corner.reshape(-1, 3)
  n = len(unique)
  sides = corner[:, [0, 1, 1, 2]].reshape(-1, 2)
  _, island = connected_components(coo_matrix((np.ones(len(sides)), sides.T), shape=(n, n)), directed=False)
  _, same, count = np.unique(np.stack([vertex, island]), axis=1, return_inverse=True, return_counts=True)
  skin = np.bincount(island).argmax()
  seam = np.flatnonzero((count[same] > 1) & (island == skin))
  if not len(seam):
    return texture

  small = cv2.resize(np.asarray(texture, np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
  middle, faces_at = np.zeros((n, 2)), np.bincount(corner.ravel(), minlength=n)
  np.add.at(middle, corner, uv.mean(axis=1)[:, None])
  inside = at + INWARD * (middle / faces_at[:, None] - at)
  x, y = (inside * [SIDE, -SIDE] + [-0.5, SIDE - 0.5]).T.astype(np.float32)
  colour = cv2.remap(small, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(-1, 3)
  mean = np.zeros((len(count), 3))
  np.add.at(mean, same, colour)
  step = (mean / count[:, None])[same] - colour

  centres = (np.arange(SIDE) + 0.5) / SIDE
  texels = np.stack(np.meshgrid(centres, 1.0 - centres), axis=-1).reshape(-1, 2)
  near = np.flatnonzero(island[KDTree(at).query(texels)[1]] == skin)
  away, which = KDTree(at[seam]).query(texels[near], k=min(_NEAREST, len(seam)))
  weight = np.exp(-((away / REACH) ** 2))
  mixed = (weight[..., None] * step[seam][which]).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12)[:, None]
  change = np.zeros((SIDE * SIDE, 3))
  change[near] = weight[:, :1] * mixed
  change = cv2.resize(change.reshape(SIDE, SIDE, 3).astype(np.float32), texture.shape[1::-1])
  return texture + change
