"""Triangle meshes: which vertices mirror each other, what can be seen, the nearest points of a surface."""

from __future__ import annotations

import collections
import sys
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "open_head"))

from raster import rasterize  # noqa: E402

FLIP = np.array([-1.0, 1.0, 1.0])
APART = 0.008  # m: FLAME's template is asymmetric by 1.3 mm on average; what is farther apart is no mirror image
CANDIDATES = 24  # triangles tried per point, those with the nearest centres
TIE = 1e-12  # m: triangles that share the nearest edge or vertex are as near, but for rounding (1e-16)


def mirror_map(vertices: np.ndarray, faces: np.ndarray, middle: tuple[int, int]) -> np.ndarray:
  """(V,) number of each vertex's mirror image, found by walking over both halves at once.

  The mesh must have the same triangles on both sides, up to a few; its shape may be somewhat asymmetric. What the walk
  does not reach (the eyeballs, and a handful of vertices where the sides differ) gets the nearest mirrored vertex.

  Args:
    vertices: (V, 3), the middle plane near x = 0.
    faces: (F, 3), consistently oriented.
    middle: ends of an edge in the middle plane.
  """
  third = {}
  for face in faces.tolist():
    for i in range(3):
      third[face[i], face[(i + 1) % 3]] = face[(i + 2) % 3]
  found = {v: v for v in middle}
  queue = collections.deque([middle, middle[::-1]])
  done = set()
  while queue:
    a, b = queue.popleft()
    if (a, b) in done:
      continue
    done.add((a, b))
    c, other = third.get((a, b)), third.get((found[b], found[a]))
    if c is None or other is None or c in found or np.linalg.norm(vertices[c] * FLIP - vertices[other]) > APART:
      continue
    found[c] = other
    queue += [(c, b), (a, c)]
  # The eyeballs are the same on both sides but for where they sit.
  mirror = np.zeros(len(vertices), int)
  rest = np.setdiff1d(np.arange(len(vertices)), list(found))
  sides = [rest[vertices[rest, 0] > 0], rest[vertices[rest, 0] <= 0]]
  for here, there in (sides, sides[::-1]):
    centred = [vertices[side] - vertices[side].mean(0) for side in (here, there)]
    mirror[here] = there[cKDTree(centred[1]).query(centred[0] * FLIP)[1]]
  far = rest[np.linalg.norm(vertices[rest] * FLIP - vertices[mirror[rest]], axis=1) > APART]
  mirror[far] = cKDTree(vertices).query(vertices[far] * FLIP)[1]
  mirror[list(found)] = list(found.values())
  return mirror


def symmetric(vertices: np.ndarray, mirror: np.ndarray) -> np.ndarray:
  """The mean of a head and its mirror image."""
  return (vertices + vertices[mirror] * FLIP) / 2


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """(F, 3) unit vectors."""
  a, b, c = np.moveaxis(vertices[faces], 1, 0)
  normal = np.cross(b - a, c - a)
  return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """(V, 3) unit vectors, the faces weighted by their areas."""
  a, b, c = np.moveaxis(vertices[faces], 1, 0)
  normal = np.cross(b - a, c - a)
  total = np.zeros_like(vertices)
  for i in range(3):
    np.add.at(total, faces[:, i], normal)
  return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)


class Picture:
  """What an orthographic view from the front sees: faces, barycentric coordinates, depth."""

  def __init__(self, vertices, faces, yaw=0.0, pitch=0.0, size=1200, width=0.3):
    """Angles in degrees; `width` m of the head, around the origin, fill `size` px."""
    a, b = np.radians(yaw), np.radians(pitch)
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    p = vertices @ (about_x @ about_y).T
    self.scale, self.size = size / width, size
    screen = np.stack([size / 2 + p[:, 0] * self.scale, size / 2 - p[:, 1] * self.scale, -p[:, 2]], 1)
    self.face, self.bary = rasterize(screen, faces, size)
    corners = vertices[faces[np.maximum(self.face, 0)]]
    self.point = np.einsum("yxk,yxkc->yxc", self.bary, corners)  # (size, size, 3) m; meaningless in the background

  def column(self, x: float) -> int:
    """The column of pixels at x, m."""
    return int(round(self.size / 2 + x * self.scale - 0.5))

  def row(self, y: float) -> int:
    """The row of pixels at height y, m."""
    return int(round(self.size / 2 - y * self.scale - 0.5))


def seen_faces(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """(F,) bool: faces that some view from the front or from a side sees, so neither mouth cavity nor eye sockets."""
  seen = np.zeros(len(faces), bool)
  for yaw, pitch in ((0, 0), (0, -30), (0, 30), (-45, 0), (45, 0), (-90, 0), (90, 0)):
    picture = Picture(vertices, faces, yaw, pitch, size=800, width=0.4)
    seen[np.unique(picture.face[picture.face >= 0])] = True
  return seen


def nearest(points, normals, lips, head, allowed, cosine=0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The nearest points of a surface that faces the same way, and of the same lip.

  Of triangles that are as near, as those that share an edge or a vertex are, the first.

  Args:
    points: (n, 3).
    normals: (n, 3) unit vectors.
    lips: (n,) `features.Head.lips` of the points.
    head: `features.Head` whose surface is searched.
    allowed: (F,) bool, faces that count.
    cosine: least cosine between the normals.

  Returns:
    (n,) faces, (n, 3) barycentric coordinates, (n,) distances; inf where no candidate faces the same way.
  """
  ids = np.flatnonzero(allowed)
  triangles = head.vertices[head.faces[ids]]
  facing = face_normals(head.vertices, head.faces[ids])
  lip = head.lips[head.faces[ids]].mean(1)
  _, near = cKDTree(triangles.mean(1)).query(points, CANDIDATES)
  a, b, c = np.moveaxis(triangles[near], 2, 0)  # (n, k, 3)
  p = points[:, None]
  normal = np.cross(b - a, c - a)
  double2 = np.maximum((normal**2).sum(-1), 1e-30)
  inside = np.stack([(np.cross(y - x, p - x) * normal).sum(-1) / double2 for x, y in ((b, c), (c, a), (a, b))], -1)
  options = [np.where((inside >= 0).all(-1, keepdims=True), inside, np.nan)]
  corners, eye = (a, b, c), np.eye(3)
  for i, j in ((0, 1), (1, 2), (2, 0)):
    along = corners[j] - corners[i]
    t = ((p - corners[i]) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-30)
    t = np.clip(t, 0, 1)[..., None]
    options.append((1 - t) * eye[i] + t * eye[j])
  options = np.stack(options, 2)  # (n, k, 4, 3)
  where = np.einsum("nkoi,nkic->nkoc", options, triangles[near])
  distance = np.linalg.norm(where - points[:, None, None], axis=-1)
  wrong = np.einsum("nkc,nc->nk", facing[near], normals) < cosine
  wrong |= lips[:, None] * lip[near] < 0
  distance = np.where(np.isnan(distance) | wrong[..., None], np.inf, distance)
  row = np.arange(len(points))
  beside = distance.min(2)  # (n, k)
  k = np.where(beside <= beside.min(1, keepdims=True) + TIE, near, len(ids)).argmin(1)
  o = distance[row, k].argmin(1)
  bary = np.nan_to_num(np.clip(options[row, k, o], 0, None), nan=1 / 3)
  return ids[near[row, k]], bary / bary.sum(1, keepdims=True), distance[row, k, o]
