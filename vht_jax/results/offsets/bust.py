"""The lowest part of a neck becomes the bust: it ends below the throat all around, and spreads to the shoulders.

A head's mesh is cut off aslant, higher at its sides and behind than in front, and what is seen of a person beside the
throat's end is more than a neck. So the mesh's rim is let down to below its front, and the rings above it with it; how
far they spread is estimated as all heights are (`skin.make_skin`).
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from vht_jax.head.mesh import open_ends
from vht_jax.masks import neck_of
from vht_jax.results.offsets.skin import eased, free
from vht_jax.types import FlameModel

REACH = 0.05  # m from the rim over which the neck becomes the bust
BELOW = 0.015  # m below the throat's end, where the rim comes to lie: heads nod


def bust_of(model: FlameModel) -> tuple[np.ndarray, np.ndarray]:
  """(V,) f32 how far each vertex is the bust's: 1 on the rim, 0 on neck and head; (V, 3) f32 m, by how much it is let
  down."""
  vertices = np.asarray(model.v_template, np.float64)
  rim = _rim_of(vertices, np.asarray(model.faces))
  away, nearest = KDTree(vertices[rim]).query(vertices)
  share = np.where(free(model) > 0, eased(-away, -REACH, 0.0), 0.0)
  end = vertices[neck_of(model).front, 1] - BELOW
  down = share * np.maximum(vertices[rim[nearest], 1] - end, 0.0)
  return share.astype(np.float32), (down[:, None] * [0.0, -1.0, 0.0]).astype(np.float32)


def _rim_of(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """(R,) vertices of the lowest of a mesh's open ends; of a closed one its lowest vertex."""
  lowest = np.array([vertices[:, 1].argmin()])
  return min(open_ends(faces), key=lambda end: vertices[end, 1].mean(), default=lowest)
