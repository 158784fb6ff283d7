"""Where a head may grow, and in which direction: the prior of a person's offsets, on one mesh. Host side."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve
from scipy.spatial import KDTree

from vht_jax.fit.offsets import Skin
from vht_jax.fit.pixels.surface import UNEXPLAINED
from vht_jax.head import flame
from vht_jax.head.mesh import connected, sides
from vht_jax.types import FlameModel

# m: hair of people is 1 to 5 cm thick, and where it hangs beside and behind a neck, which is 2 cm narrower than the
# skull on either side, it stands off by as much more; a throat is as thick as the model's to a cm, ears stand off by as
# much more or less. Hair before an ear goes around it: behind it the head grows.
HEAD_SD, NECK_SD, THROAT_SD, EAR_SD = 0.025, 0.045, 0.01, 0.005
# m, of how far shoulders are beside the neck's end; and how stiff the mesh is from there on, of what hair is: shoulders
# spread by a centimetre and a half in one.
BUST_SD, BUST_STIFFNESS = 0.08, 0.3
THROAT = (0.4, 0.8)  # of the way from a neck's axis to its front, over which it becomes the throat
# m from the face on which heights are 0, where they become free: landmarks lie up to the hairline and the ears.
FREE_FROM, FREE_AT = 0.0, 0.02
SMOOTHED = 0.03  # m, over which directions are smoothed: an ear, whose own normals point everywhere, goes with the head
EARS = ("left_ear", "right_ear")
INSIDE = (*flame.EYEBALLS, *UNEXPLAINED)
_SAME = 0.004  # m from the mirror image within which a vertex is its other side


def make_skin(model: FlameModel, shape: np.ndarray, bust: np.ndarray | float = 0.0) -> Skin:
  """The prior for a person with this identity (S,), whose vertices are the bust's as far as (V,) says."""
  template = np.asarray(model.v_template, np.float64)
  vertices = template + np.asarray(model.shapedirs, np.float64) @ np.asarray(shape, np.float64)
  faces = np.asarray(model.faces)
  neighbours, weights, area = laplace(vertices, faces)
  direction = _directions(vertices, faces, neighbours, weights, area)
  direction[:, 1] *= 1.0 - bust  # sideways: how far down it goes is known
  direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
  sd = free(model)
  sd = sd + bust * (1.0 - _throat(model)) * (BUST_SD - sd)
  stiff = np.broadcast_to(1.0 - bust * (1.0 - BUST_STIFFNESS), len(vertices))
  return Skin(
    direction=direction.astype(np.float32),
    sd=sd.astype(np.float32),
    area=area.astype(np.float32),
    neighbours=neighbours,
    weights=(weights * stiff[:, None] * stiff[neighbours]).astype(np.float32),
    mirrored=mirror_of(template),
  )


def free(model: FlameModel) -> np.ndarray:
  """(V,) m, standard deviation of a height: 0 on and in the face, that of hair or of a neck elsewhere."""
  vertices, faces = np.asarray(model.v_template, np.float64), np.asarray(model.faces)
  held = flame.region(model, ("face", *INSIDE)) | ~_outer(faces, len(vertices))
  face = flame.region(model, ("face",))
  for corners in (model.lmk_vertices, model.dense_vertices):
    face[np.asarray(corners).ravel()] = True
  away = KDTree(vertices[face]).query(vertices)[0] if face.any() else np.full(len(vertices), np.inf)
  neck = np.maximum(np.asarray(model.lbs_weights, np.float64)[:, 0], flame.region(model, ("neck",)))
  sd = HEAD_SD + neck * (NECK_SD + _throat(model) * (THROAT_SD - NECK_SD) - HEAD_SD)
  sd = np.where(flame.region(model, EARS), EAR_SD, sd)
  return np.where(held, 0.0, eased(away, FREE_FROM, FREE_AT) * sd)


def _throat(model: FlameModel) -> np.ndarray:
  """(V,) how far each vertex is on the side of the throat, by the axis from root to neck."""
  vertices = np.asarray(model.v_template, np.float64)
  root, neck = np.asarray(model.j_template)[:2]
  along = np.clip((vertices[:, 1] - root[1]) / (neck[1] - root[1]), 0.0, 1.0)
  away = (vertices - root - along[:, None] * (neck - root))[:, [0, 2]]
  return eased(away[:, 1] / np.maximum(np.linalg.norm(away, axis=1), 1e-6), *THROAT)


def eased(values: np.ndarray, low: float, high: float) -> np.ndarray:
  t = np.clip((values - low) / (high - low), 0.0, 1.0)
  return t * t * (3 - 2 * t)


def _outer(faces: np.ndarray, n: int) -> np.ndarray:
  """(V,) bool: vertices of the largest piece of the mesh; others are eyeballs, teeth and such."""
  label = connected(n, sides(faces))
  return label == np.bincount(label[faces.ravel()]).argmax()


def laplace(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The Laplacian of a mesh: neighbours (V, D), cotangent weights (V, D) and areas (V,), m^2.

  Weights below 0, of obtuse triangles, are taken for 0: heights then never leave the range of their neighbours'.
  """
  n = len(vertices)
  a, b, c = (vertices[faces[:, k]] for k in range(3))
  double = np.linalg.norm(np.cross(b - a, c - a), axis=1)
  double = np.maximum(double, 1e-3 * np.median(double))
  cot = [np.sum((p - o) * (q - o), 1) / double for o, p, q in ((a, b, c), (b, c, a), (c, a, b))]
  rows = np.concatenate([faces[:, [1, 2, 0]].T.ravel(), faces[:, [2, 0, 1]].T.ravel()])
  columns = np.concatenate([faces[:, [2, 0, 1]].T.ravel(), faces[:, [1, 2, 0]].T.ravel()])
  both = coo_matrix((0.5 * np.tile(np.concatenate(cot), 2), (rows, columns)), (n, n)).tocsr()
  both.sum_duplicates()
  area = np.bincount(faces.ravel(), np.repeat(double / 6, 3), minlength=n)
  count = np.diff(both.indptr)
  slot = np.arange(both.nnz) - np.repeat(both.indptr[:-1], count)
  owner = np.repeat(np.arange(n), count)
  neighbours = np.repeat(np.arange(n, dtype=np.int32)[:, None], count.max(), axis=1)
  weights = np.zeros(neighbours.shape)
  neighbours[owner, slot], weights[owner, slot] = both.indices, np.maximum(both.data, 0.0)
  return neighbours, weights, np.maximum(area, 1e-3 * np.median(area))


def _directions(vertices, faces, neighbours, weights, area) -> np.ndarray:
  """(V, 3) normals, smoothed over `SMOOTHED` by implicit diffusion."""
  normals = np.asarray(flame.vertex_normals(vertices.astype(np.float32), faces), np.float64)
  n, width = neighbours.shape
  owner = np.repeat(np.arange(n), width)
  off = coo_matrix((weights.ravel(), (owner, neighbours.ravel())), (n, n)).tocsr()
  matrix = diags(area + SMOOTHED**2 * weights.sum(1)) - SMOOTHED**2 * off
  smooth = np.asarray(spsolve(matrix.tocsc(), area[:, None] * normals))
  return smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-9)


def mirror_of(vertices: np.ndarray) -> np.ndarray:
  """(V,) i32: the vertex at the mirror image of each, if it is so both ways; else itself."""
  far, other = (np.asarray(a) for a in KDTree(vertices).query(vertices * [-1.0, 1.0, 1.0]))
  own = np.arange(len(vertices))
  return np.where((far < _SAME) & (other[other] == own), other, own).astype(np.int32)
