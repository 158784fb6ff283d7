"""Landmarks as points of the head's triangles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TABLE = Path(__file__).parent / "tables" / "landmarks.json"


def closest_points(points: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Nearest point of a triangle soup to each of some points.

  The nearest point is inside the triangle, on one of its edges or at a corner; edges include their corners, so it is
  the best of the projection (where that is inside) and the nearest points of the three edges.

  Args:
    points: (n, 3).
    triangles: (F, 3, 3) corners.

  Returns:
    (n,) triangle and (n, 3) barycentric coordinates. Of equally near triangles the first is taken.
  """
  a, b, c = np.moveaxis(triangles, 1, 0)
  normal = np.cross(b - a, c - a)
  twice_area2 = np.maximum((normal**2).sum(1), 1e-30)
  eye = np.eye(3)
  index = np.zeros(len(points), int)
  bary = np.zeros((len(points), 3))
  for k, p in enumerate(points):
    inside = np.stack([(np.cross(y - x, p - x) * normal).sum(1) / twice_area2 for x, y in ((b, c), (c, a), (a, b))], 1)
    options = [np.where((inside >= 0).all(1)[:, None], inside, np.nan)]
    for i, j in ((0, 1), (1, 2), (2, 0)):
      x, d = triangles[:, i], triangles[:, j] - triangles[:, i]
      t = np.clip(((p - x) * d).sum(1) / np.maximum((d**2).sum(1), 1e-30), 0, 1)[:, None]
      options.append((1 - t) * eye[i] + t * eye[j])
    options = np.stack(options)  # (4, F, 3)
    distance = np.linalg.norm(np.einsum("ofc,fcx->ofx", options, triangles) - p, axis=2)
    distance = np.where(np.isnan(distance), np.inf, distance).round(9)
    option, face = np.unravel_index(np.argmin(distance), distance.shape)
    index[k], bary[k] = face, options[option, face]
  bary = np.clip(bary, 0, None)
  return index, bary / bary.sum(1, keepdims=True)


def embed(
  name: str, points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, allowed: np.ndarray, mirror, seen: bool = True
):
  """Attaches one of the table's landmark sets to the mesh, exactly mirror symmetric.

  Args:
    name: "lmk68" or "mediapipe468".
    points: (N, 3) positions of the base mesh's vertices in the frame of `vertices`.
    vertices: (V, 3) template, m.
    faces: (F, 3).
    allowed: ids of the faces that may carry landmarks.
    mirror: (V,) left/right partners.
    seen: where MediaPipe sees the landmarks on average, not where they are by their definition.

  Returns:
    (L,) faces and (L, 3) barycentric coordinates.
  """
  table = json.loads(TABLE.read_text())[name]
  targets = np.array([np.array(entry["weights"]) @ points[entry["vertices"]] for entry in table])
  if seen:
    targets = targets + 1e-3 * np.array([entry["seen"] for entry in table])
  index, bary = closest_points(targets, vertices[faces[allowed]])
  index = allowed[index]
  # Landmarks on the midline lie on edges between vertices of the midline.
  own = np.array([entry["index"] == entry["mirror"] for entry in table])
  middle = mirror == np.arange(len(mirror))
  touching = allowed[middle[faces[allowed]].sum(1) == 2]
  ends = np.array([[v for v in face if middle[v]] for face in faces[touching]])
  which, along = closest_points(targets[own] * [0, 1, 1], vertices[ends[:, [0, 1, 1]]])
  index[own] = touching[which]
  start = faces[index[own]] == ends[which, :1]
  stop = faces[index[own]] == ends[which, 1:]
  bary[own] = start * along[:, :1] + stop * (1 - along[:, :1])
  bary = bary.round(6)
  face_of = {frozenset(face): f for f, face in enumerate(faces.tolist())}
  count = 1 + max(max(entry["index"], entry["mirror"]) for entry in table)
  out_face, out_bary = np.zeros(count, int), np.zeros((count, 3))
  for entry, f, b in zip(table, index, bary):
    out_face[entry["index"]], out_bary[entry["index"]] = f, b
    if entry["mirror"] != entry["index"]:
      corners = mirror[faces[f]]
      g = face_of[frozenset(corners.tolist())]
      out_face[entry["mirror"]] = g
      out_bary[entry["mirror"]] = [b[list(corners).index(v)] for v in faces[g]]
  return out_face, out_bary


def pupil(joint: np.ndarray, vertices: np.ndarray, faces: np.ndarray, eyeball: np.ndarray) -> tuple[int, np.ndarray]:
  """The point of an eyeball in front of its pupil (the gaze of the template is +z).

  Args:
    joint: (3,) centre of the eyeball.
    vertices, faces: of the head.
    eyeball: ids of the eyeball's faces.

  Returns:
    Face and barycentric coordinates (3,).
  """
  a, b, c = np.moveaxis(vertices[faces[eyeball]][..., :2], 1, 0)
  p = joint[:2]

  def cross(u, w):
    return u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]

  bary = np.stack([cross(b - p, c - p), cross(c - p, a - p), cross(a - p, b - p)], 1)
  total = cross(b - a, c - a)
  bary /= np.where(np.abs(total) > 1e-15, total, np.inf)[:, None]
  hit = np.nonzero((bary >= -1e-9).all(1) & (total > 1e-15))[0][0]  # counter-clockwise from the front
  weights = np.clip(bary[hit], 0, None).round(6)
  return int(eyeball[hit]), weights
