"""Where MediaPipe sees its points on FLAME's mesh, and where that is the open head's: a table of ours.

How it is made: third_party/flame_landmarks.

FLAME's own landmark embedding says where another kind of detector puts the 68 points: MediaPipe's lie 4 to 9 % of the
eye distance elsewhere, the brows up to 13 %.
"""

from __future__ import annotations

import functools

import numpy as np

from vht_jax.head.load.asset import asset_path
from vht_jax.host.npz import read_npz

# `--landmarks`, `Detector.name` and the origin in landmark files begin so.
_MEDIAPIPE = ("mediapipe", "tasks")


def of_mediapipe(detector: str) -> bool:
  """Whether the detector of that name finds MediaPipe's face mesh."""
  return detector.lower().startswith(_MEDIAPIPE)


def mediapipe_points(faces: np.ndarray) -> dict[str, np.ndarray] | None:
  """MediaPipe's points on FLAME's mesh, as `flame_model_from_arrays` wants them.

  The vertices have the same numbers in every year's model, but files differ in the order of faces and corners, so the
  table names the vertices.

  Args:
    faces: (F, 3) vertex ids.

  Returns:
    lmk_faces (70,), lmk_bary (70, 3), dense_faces (468,), dense_bary (468, 3), dense_index (468,); None if the mesh
    lacks a face of the table, so that it is not FLAME's.
  """
  face_of = {frozenset(corners): i for i, corners in enumerate(np.asarray(faces).tolist())}
  points = {}
  for ours, name in (("landmark", "lmk"), ("dense", "dense")):
    corners, bary = _table()[f"{ours}_vertices"].astype(int), _table()[f"{ours}_bary"]
    if not all(frozenset(triple) in face_of for triple in corners.tolist()):
      return None
    found = [face_of[frozenset(triple)] for triple in corners.tolist()]
    order = np.argmax(np.asarray(faces)[found][:, :, None] == corners[:, None], axis=2)
    points |= {f"{name}_faces": np.array(found), f"{name}_bary": np.take_along_axis(bary, order, axis=1)}
  return points | {"dense_index": np.arange(len(points["dense_faces"]))}


def open_head_on_flame() -> tuple[np.ndarray, np.ndarray]:
  """For FLAME's vertices the same places of the open head: (5023, 3) of its vertices, (5023, 3) what each counts.

  Nothing counts for FLAME's eyeballs.
  """
  return _table()["surface_vertices"].astype(int), _table()["surface_bary"].astype(np.float64)


@functools.cache
def _table() -> dict[str, np.ndarray]:
  return read_npz(asset_path("flame_landmarks.npz"))
