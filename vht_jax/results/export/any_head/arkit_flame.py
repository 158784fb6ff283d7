"""FLAME's expressions as ARKit's units: there is no exact map, so it is a fit, and the fit says how good it is.

The two heads are compared at the 468 points of MediaPipe's face mesh, which both have tables of. What FLAME's
expression does to its points, before the jaw turns, is approached by what the open head's units do to theirs, with
weights from 0 to 1, in least squares. The jaw's turn is a unit by itself: FLAME's own, of the size that the open head's
has at its full opening.
"""

from __future__ import annotations

import logging

import numpy as np
from scipy.optimize import lsq_linear

from vht_jax.errors import InputError
from vht_jax.head.load import load_head
from vht_jax.results.export.any_head.arkit import JAW_ASIDE, JAW_OPEN, LIDS
from vht_jax.results.export.motion import matrices
from vht_jax.results.export.scene import Scene
from vht_jax.types import FlameModel

# A ridge on the weights, in squared metres per squared weight of all points: units that hardly move the face
# (a millimetre at one point) are not made large to explain noise.
_RIDGE = 1e-6
_SMALL_TURN = 1e-3  # rad, at which a turn is its tangent

log = logging.getLogger("vht_jax")


def fitted_units(scene: Scene) -> dict[str, np.ndarray]:
  """Name -> (T,) weights of all units but the looks; what they leave unexplained is logged in mm.

  Raises:
    InputError: FLAME was read without MediaPipe's points.
  """
  open_head = load_head(model="open")
  of_flame, of_open = (np.asarray(head.dense_index) for head in (scene.model, open_head))
  index, rows, open_rows = np.intersect1d(of_flame, of_open, return_indices=True)
  if len(index) < 100:
    raise InputError("arkit: FLAME has none of MediaPipe's points here; track with --landmarks=mediapipe")
  points = _Points(scene.model, rows, scene.neutral, scene.motion.rest[2])
  theirs = _Points(open_head, open_rows, np.asarray(open_head.v_template), np.asarray(open_head.j_template)[2])
  scale = _size(points.neutral) / _size(theirs.neutral)
  size_of_turn = lambda of: np.linalg.norm(of.turned(_SMALL_TURN, 0.0))
  ratio = scale * size_of_turn(theirs) / size_of_turn(points)  # FLAME's angle by the open head's for as wide a mouth
  full, aside = ratio * JAW_OPEN, ratio * JAW_ASIDE
  jaw = [points.turned(_SMALL_TURN, 0.0) * full, points.turned(0.0, _SMALL_TURN) * aside]
  names = [*open_head.expr_names, "jawOpen", "jawLeft", "jawRight"]
  units = np.moveaxis(theirs.directions(open_head), -1, 0) * scale
  A = np.concatenate([units, np.array([jaw[0], jaw[1], -jaw[1]]) / _SMALL_TURN]).reshape(len(names), -1).T
  # |A x - b|^2 + ridge |x|^2 is |R x - R^-T A^T b|^2 up to a constant: the same solution from far fewer rows.
  R = np.linalg.cholesky(A.T @ A + _RIDGE * np.eye(len(names))).T
  offsets = np.einsum("nce,te->tnc", points.directions(scene.model), scene.expr).reshape(len(scene), -1)
  turned = np.zeros((len(scene), len(names)))  # what the jaw's own turn is of the units already
  opened, sideways = scene.angles["jaw"][:, 0], scene.angles["jaw"][:, 1]
  turned[:, -3:] = np.stack([opened / full, sideways / aside, -sideways / aside], axis=1).clip(0.0, 1.0)
  found = np.zeros_like(turned)
  for i, offset in enumerate(offsets):
    solved = lsq_linear(R, np.linalg.solve(R.T, A.T @ offset), (-turned[i], 1.0 + 1e-9 - turned[i]), method="bvls")
    found[i] = solved.x
  mean = lambda values: 1000 * np.sqrt(3 * np.square(values).mean())
  log.info(
    "arkit: FLAME's expressions fitted by ARKit's units: %.2f mm left of %.2f mm (root mean square of the face)",
    mean(found @ A.T - offsets), mean(offsets),
  )  # fmt: skip
  return {LIDS.get(name, name): (found + turned)[:, k] for k, name in enumerate(names)}


class _Points:
  """Points on the surface of a head."""

  def __init__(self, model: FlameModel, rows: np.ndarray, vertices: np.ndarray, jaw_joint: np.ndarray):
    """Those of `rows` of the head's dense ones, on its neutral face (V, 3)."""
    self.corners = np.asarray(model.dense_vertices)[rows]
    self.bary = np.asarray(model.dense_bary, np.float64)[rows]
    self.neutral = self._on(np.asarray(vertices, np.float64))
    self.joint = np.asarray(jaw_joint, np.float64)
    self.jaw = self._on(np.asarray(model.lbs_weights, np.float64))[:, 2:3]
    correctives = np.asarray(model.posedirs, np.float64).reshape(36, -1, 3)[9:18]  # the jaw's
    self.correctives = self._on(np.moveaxis(correctives, 0, -1))

  def directions(self, model: FlameModel) -> np.ndarray:
    """(N, 3, E) m per unit of the head's expression."""
    return self._on(np.asarray(model.exprdirs, np.float64))

  def turned(self, opened: float, aside: float) -> np.ndarray:
    """(N, 3) m: how far a turn of the jaw moves the points of the neutral face, rad."""
    turn = matrices(np.array([opened, aside, 0.0]))
    correction = self.correctives @ (turn - np.eye(3)).ravel()
    from_joint = self.neutral + correction - self.joint
    return correction + self.jaw * (from_joint @ turn.T - from_joint)

  def _on(self, values: np.ndarray) -> np.ndarray:
    return np.einsum("nk,nk...->n...", self.bary, values[self.corners])


def _size(points: np.ndarray) -> float:
  """Of a face: root mean square distance from its middle."""
  return float(np.sqrt(np.square(points - points.mean(0)).sum(1).mean()))
