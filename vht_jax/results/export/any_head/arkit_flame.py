"""Expressions as ARKit's curves where the head has other codes: there is no exact map, so it is a fit to the vertices.

What the expression does to the vertices, before the jaw turns, is approached by what the curves do to them
(`arkit_shapes`), with weights from 0 to 1, in least squares. The jaw's turn is a curve by itself: the head's own, of
the size that comes nearest to the shape of that name. How good the fit is, is said.
"""

from __future__ import annotations

import logging

import numpy as np
from scipy.optimize import lsq_linear

from vht_jax.results.export.any_head.arkit_shapes import JAW, JAW_ASIDE, JAW_OPEN, Shapes, turns
from vht_jax.results.export.scene import Scene

# A ridge on the weights, in squared metres per squared weight of all vertices: shapes that hardly move the face (a
# millimetre at one vertex) are not made large to explain noise.
_RIDGE = 1e-6
_MOVED = 1e-4  # m; vertices that no shape moves further are left out of what is said of the fit

log = logging.getLogger("vht_jax")


def fitted_curves(scene: Scene, shapes: Shapes) -> dict[str, np.ndarray]:
  """Name -> (T,) weights of all curves but the looks; what they leave unexplained is logged in mm."""
  n = len(scene.shape)
  own = dict(zip(("jawOpen", "jawLeft"), turns(scene.surface, scene.neutral, scene.motion.rest)))
  artists = dict(zip(shapes.names, shapes.offsets))
  full = _full(artists.get("jawOpen"), own["jawOpen"], JAW_OPEN)
  aside = _full(artists.get("jawLeft"), own["jawLeft"], JAW_ASIDE)
  columns = {name: d for name, d in artists.items() if name not in JAW and not name.startswith("eyeLook")}
  columns |= dict(zip(JAW, (full * own["jawOpen"], aside * own["jawLeft"], -aside * own["jawLeft"])))
  names = list(columns)
  A = np.stack(list(columns.values()))
  eyes = scene.surface.weights[:, 3:].sum(axis=1) > 0.5  # they are told of by their angles
  rows = np.flatnonzero((np.linalg.norm(A, axis=2).max(axis=0) > _MOVED) & ~eyes)
  A = A[:, rows].reshape(len(names), -1).T
  dirs = scene.surface.dirs[rows, :, n:].reshape(len(A), -1)
  # |A x - b|^2 + ridge |x|^2 is |R x - R^-T A^T b|^2 up to a constant: the same solution from far fewer rows.
  R = np.linalg.cholesky(A.T @ A + _RIDGE * np.eye(len(names))).T
  goals = np.linalg.solve(R.T, (A.T @ dirs) @ scene.expr.T).T
  turned = np.zeros((len(scene), len(names)))  # what the jaw's own turn is of the curves already
  opened, sideways = scene.angles["jaw"][:, 0] / full, scene.angles["jaw"][:, 1] / aside
  turned[:, -3:] = np.stack([opened, sideways, -sideways], axis=1).clip(0.0, 1.0)
  found = np.zeros_like(turned)
  left, all_of_it = 0.0, 0.0
  for i, goal in enumerate(goals):
    found[i] = lsq_linear(R, goal, (-turned[i], 1.0 + 1e-9 - turned[i]), method="bvls").x
    offset = dirs @ scene.expr[i]
    left += np.square(A @ found[i] - offset).sum()
    all_of_it += np.square(offset).sum()
  mean = lambda total: 1000 * np.sqrt(total / (len(rows) * len(scene)))
  log.info(
    "arkit: expressions fitted by %s: %.2f mm left of %.2f mm (root mean square of the vertices that they move)",
    shapes.about, mean(left), mean(all_of_it),
  )  # fmt: skip
  return {name: (found + turned)[:, k] for k, name in enumerate(names)}


def _full(shape: np.ndarray | None, turn: np.ndarray, otherwise: float) -> float:
  """rad: the angle at which a turn (V, 3) m/rad comes nearest to a shape (V, 3); without one `otherwise`."""
  return otherwise if shape is None else max(float((shape * turn).sum() / np.square(turn).sum()), 1e-3)
