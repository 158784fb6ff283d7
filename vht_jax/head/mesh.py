"""What a mesh's connections alone say. Host side."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csgraph


def connected(n: int, links: np.ndarray) -> np.ndarray:
  """(n,) number of the connected part that each of n things is in: vertices, corners of a texture, frames.

  Args:
    n: how many there are.
    links: (E, 2) of them that belong together.
  """
  graph = coo_array((np.ones(len(links)), tuple(links.T)), shape=(n, n))
  return csgraph.connected_components(graph, directed=False)[1]


def sides(faces: np.ndarray) -> np.ndarray:
  """(2 F, 2) two sides of every triangle (F, 3): they connect what the three do."""
  return faces[:, [0, 1, 1, 2]].reshape(-1, 2)


def open_ends(faces: np.ndarray) -> list[np.ndarray]:
  """Vertices of each of a mesh's open ends, ascending: of the sides that only one of the triangles (F, 3) has."""
  edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
  edges, count = np.unique(edges, axis=0, return_counts=True)
  edges = edges[count == 1]
  ids, links = np.unique(edges, return_inverse=True)
  label = connected(len(ids), links.reshape(edges.shape))
  return [ids[label == k] for k in np.unique(label)]
