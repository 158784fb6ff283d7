"""FLAME's expressions as ARKit's units: there is no exact map, so it is a fit, and the fit says how good it is.

FLAME's face is compared with the open head's units at the 468 points of MediaPipe's face mesh, which both heads have
tables of: the displacement of FLAME's points from its neutral face is approached by the units' displacements with
weights from 0 to 1, in least squares. Head, neck and eyes are left out; the jaw's turn goes in as a unit of its own.
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
_SMALL_TURN = 1e-2  # rad; of the jaw, below which its chord is its tangent

log = logging.getLogger("vht_jax")


def fitted_units(scene: Scene) -> dict[str, np.ndarray]:
  """Name -> (T,) weights of all units but the looks; what they leave unexplained is logged in mm.

  Raises:
    InputError: FLAME was read without MediaPipe's points.
  """
  model, open_head = scene.model, load_head(model="open")
  known = [np.asarray(head.dense_index) for head in (model, open_head)]
  index, rows, open_rows = np.intersect1d(*known, return_indices=True)
  if len(index) < 100:
    raise InputError("arkit: FLAME has none of MediaPipe's points here; track with --landmarks=mediapipe")
  points = _Points(model, rows)
  neutral = points.at(scene.neutral)
  theirs = _OpenUnits(open_head, open_rows)
  names, scale = theirs.names, _size(neutral) / _size(theirs.base)
  units = np.zeros((len(scene), len(names)))
  left, moved = np.zeros(len(scene)), np.zeros(len(scene))
  exprdirs = points.at_directions(np.asarray(model.exprdirs, np.float64))
  for i in range(len(scene)):
    face = points.posed(neutral + exprdirs @ scene.expr[i], scene.angles["jaw"][i], scene.joints[i, 2])
    offset = (face - neutral).ravel()
    A = scale * theirs.at(scene.angles["jaw"][i, 0]).reshape(len(names), -1).T
    # |A x - b|^2 + ridge |x|^2 is |R x - R^-T A^T b|^2 up to a constant: the same solution from far fewer rows.
    R = np.linalg.cholesky(A.T @ A + _RIDGE * np.eye(len(names))).T
    solution = lsq_linear(R, np.linalg.solve(R.T, A.T @ offset), bounds=(0.0, 1.0), method="bvls")
    units[i] = solution.x
    left[i] = np.sqrt(np.square(A @ solution.x - offset).reshape(-1, 3).sum(1).mean())
    moved[i] = np.sqrt(np.square(offset).reshape(-1, 3).sum(1).mean())
  log.info(
    "arkit: FLAME's expressions fitted by ARKit's units: %.2f mm left of %.2f mm (root mean square of the face)",
    1000 * np.sqrt(np.square(left).mean()), 1000 * np.sqrt(np.square(moved).mean()),
  )  # fmt: skip
  return {LIDS.get(name, name): units[:, k] for k, name in enumerate(names)}


class _Points:
  """Points on the surface of a head."""

  def __init__(self, model: FlameModel, rows: np.ndarray):
    self.corners = np.asarray(model.dense_vertices)[rows]
    self.bary = np.asarray(model.dense_bary, np.float64)[rows]
    weights = np.asarray(model.lbs_weights, np.float64)
    self.jaw = np.einsum("nk,nk->n", self.bary, weights[self.corners][..., 2])
    corrective = np.asarray(model.posedirs, np.float64).reshape(36, -1, 3)[9:18]  # the jaw's
    self.correctives = np.einsum("nk,jnkc->jnc", self.bary, corrective[:, self.corners])

  def at(self, vertices: np.ndarray) -> np.ndarray:
    """(N, 3) on (V, 3) vertices."""
    return np.einsum("nk,nkc->nc", self.bary, vertices[self.corners])

  def at_directions(self, directions: np.ndarray) -> np.ndarray:
    """(N, 3, E) of (V, 3, E)."""
    return np.einsum("nk,nkce->nce", self.bary, directions[self.corners])

  def posed(self, points: np.ndarray, jaw: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """(N, 3) points with the jaw turned by an axis-angle about its joint."""
    turn = matrices(jaw)
    points = points + np.einsum("j,jnc->nc", (turn - np.eye(3)).ravel(), self.correctives)
    return points + self.jaw[:, None] * ((points - joint) @ turn.T + joint - points)


class _OpenUnits:
  """What every unit of the open head and of its jaw does to points of its surface."""

  def __init__(self, model: FlameModel, rows: np.ndarray):
    self.points = _Points(model, rows)
    self.base = self.points.at(np.asarray(model.v_template, np.float64))
    self.joint = np.asarray(model.j_template, np.float64)[2]
    units = np.moveaxis(self.points.at_directions(np.asarray(model.exprdirs, np.float64)), -1, 0)
    aside = [self._turned(0.0, side * JAW_ASIDE) for side in (1, -1)]
    self.units = np.concatenate([units, aside])
    self.names = [*model.expr_names, "jawLeft", "jawRight", "jawOpen"]

  def at(self, jaw: float) -> np.ndarray:
    """(K, N, 3) m per unit, that of the jaw along the chord of its turn by `jaw`, rad: a turn is not linear."""
    jaw = float(np.clip(jaw, _SMALL_TURN, JAW_OPEN))
    return np.concatenate([self.units, [self._turned(jaw, 0.0) * (JAW_OPEN / jaw)]])

  def _turned(self, opened: float, aside: float) -> np.ndarray:
    return self.points.posed(self.base, np.array([opened, aside, 0.0]), self.joint) - self.base


def _size(points: np.ndarray) -> float:
  """Of a face: root mean square distance from its middle."""
  return float(np.sqrt(np.square(points - points.mean(0)).sum(1).mean()))
