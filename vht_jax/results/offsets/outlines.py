"""What a view's mask says of the mesh: which points of its outline should be where."""

from __future__ import annotations

import cv2
import numpy as np

from vht_jax.fit.terms.silhouette import Pulls
from vht_jax.results.offsets.views import View

N_PULLS = 4096  # of a frame; an outline in a window has some 1000 points
SD = 0.003  # m, of a mask's outline: the model that makes it has pixels of 2 mm
ALONG = 0.01  # m along the outline within which its errors are the same
ALIKE = 0.5  # cosine between the outlines' normals from which on they are taken for the same
_NORMALS = 2.0  # px, blur of the mesh's silhouette for its normals


def pulls_of(
  view: View, faces: np.ndarray, seen: np.ndarray, bary: np.ndarray, per_metre: float, doubt: float
) -> Pulls:
  """Of the mesh's outline each point to the mask's, and of the mask's each point to the mesh's, where both are alike.

  Args:
    view: a frame.
    faces: (F, 3) of the mesh.
    seen: (S, S) i32 face that each pixel of the window sees, -1: none.
    bary: (S, S, 3) where on it.
    per_metre: px of the window per metre at the head.
    doubt: m, distance at which a point counts half (Cauchy).
  """
  hit = seen >= 0
  rim = _rim(hit) & view.known
  mesh_normals = _outward(cv2.GaussianBlur(hit.astype(np.float32), (0, 0), _NORMALS))
  mask_normals = _outward(view.field)
  y, x = np.nonzero(rim)
  # The mesh's points, half a pixel within its outline: along the field's slope to where that is half a pixel.
  parts = [(y, x, mask_normals[y, x], view.field[y, x] - 0.5, np.sum(mask_normals[y, x] * mesh_normals[y, x], -1))]
  # The mask's points: from the nearest of the mesh's onto their tangent.
  other = _rim(view.matte > 0.5) & view.known
  v, u = np.nonzero(other)
  if len(y) and len(v):
    _, labels = cv2.distanceTransformWithLabels(
      (~rim).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = np.asarray(labels).astype(int)
    at = np.zeros(labels.max() + 1, int)
    at[labels[y, x]] = np.arange(len(y))
    near = at[labels[v, u]]
    way = np.stack([u - x[near], v - y[near]], -1).astype(np.float32)
    normal = mask_normals[v, u]
    cosine = np.sum(normal * mesh_normals[y[near], x[near]], -1)
    along = np.sum(way * normal, -1)
    # What lies beside the nearest point rather than before it is of a part that the mesh does not have.
    cosine = np.where(np.abs(along) >= ALIKE * np.linalg.norm(way, axis=-1), cosine, 0.0)
    parts.append((y[near], x[near], normal, along, cosine))
  y, x, normal, distance, cosine = (np.concatenate(a) for a in zip(*parts))
  robust = 1.0 / (1.0 + (distance / (doubt * per_metre)) ** 2)
  weight = robust * (cosine > ALIKE) / (SD * per_metre) ** 2 / (ALONG * per_metre) / len(parts)
  pad = lambda a: np.concatenate([a[:N_PULLS], np.zeros((max(N_PULLS - len(a), 0), *a.shape[1:]), a.dtype)])
  return Pulls(
    corners=pad(faces[seen[y, x]].astype(np.int32)),
    bary=pad(bary[y, x].astype(np.float32)),
    normal=pad(normal.astype(np.float32)),
    distance=pad(distance.astype(np.float32)),
    weight=pad(weight.astype(np.float32)),
  )


def _rim(mask: np.ndarray) -> np.ndarray:
  """(S, S) bool: the outermost pixels of a mask; those at the window's edge are none."""
  return mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) == 0)


def _outward(field: np.ndarray) -> np.ndarray:
  """(S, S, 2) f32 unit vectors down the slope of a field; 0 where it has none."""
  down, across = np.gradient(field)
  slope = -np.stack([across, down], axis=-1)
  return (slope / np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-6)).astype(np.float32)
