"""The edges of a mesh; built once, on the host."""

from __future__ import annotations

import flax.struct
import jax.core
import numpy as np
from jaxtyping import Int

from vht_jax.types import AnyArray, Array


class EdgeTable(flax.struct.PyTreeNode):
  """The edges of a mesh, in the direction in which the first adjacent face runs along them."""

  vertices: Array  # (E, 2) i32 vertex ids
  faces: Array  # (E, 2) i32 adjacent faces; the second runs the other way, or is -1 at a boundary


def edge_table(faces: Int[AnyArray, "F 3"]) -> EdgeTable:
  """The unique edges of a mesh; on the host, in numpy.

  A regular edge is one row. Where more than two faces meet, or two run the same way (inconsistent orientation), faces
  of opposite direction are paired and the rest become boundary rows of their own. Faces that repeat a vertex have no
  area and are ignored.

  Args:
    faces: (F, 3) vertex ids, concrete (not traced).

  Returns:
    `EdgeTable` of numpy arrays.

  Raises:
    ValueError: if faces is not (F, 3) integers, or traced.
  """
  if isinstance(faces, jax.core.Tracer):
    raise ValueError("edge_table: faces are traced; build the table once, outside jit, and pass it as an argument")
  faces = np.asarray(faces)
  if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
    raise ValueError(f"edge_table: expected integer faces (F, 3), got {faces.dtype} {faces.shape}")
  start, end = faces.ravel().astype(np.int64), np.roll(faces, -1, axis=1).ravel().astype(np.int64)
  repeats = (faces == np.roll(faces, -1, axis=1)).any(axis=1)
  keep = ~np.repeat(repeats, 3)
  start, end, face = start[keep], end[keep], np.repeat(np.arange(len(faces)), 3)[keep]

  # The n-th face that runs low -> high along an edge is paired with the n-th that runs high -> low.
  low, high, backward = np.minimum(start, end), np.maximum(start, end), start > end
  order = np.lexsort((face, backward, high, low))
  low, high, backward, face = low[order], high[order], backward[order], face[order]
  position = np.arange(len(low))
  first = _starts(low, high, backward)
  rank = position - np.maximum.accumulate(np.where(first, position, 0))
  order = np.lexsort((backward, rank, high, low))
  low, high, rank, backward, face = (a[order] for a in (low, high, rank, backward, face))
  first = np.flatnonzero(_starts(low, high, rank))
  size = np.diff(np.append(first, len(low)))
  second = np.where(size == 2, face[np.minimum(first + 1, max(len(face) - 1, 0))], -1)
  ends = np.stack([np.where(backward, high, low), np.where(backward, low, high)], axis=1)[first]
  return EdgeTable(
    vertices=ends.astype(np.int32), faces=np.stack([face[first], second], axis=1).astype(np.int32).reshape(-1, 2)
  )


def _starts(*columns: np.ndarray) -> np.ndarray:
  """Which rows of sorted columns differ from the row before."""
  out = np.ones(len(columns[0]), bool)
  out[1:] = np.any([c[1:] != c[:-1] for c in columns], axis=0)
  return out
