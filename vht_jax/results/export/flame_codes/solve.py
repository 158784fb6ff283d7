"""Codes and pose whose vertices lie on given ones: the identity of a face, then frame by frame (Gauss-Newton, float64).

For FLAME and for heads made of FLAME's file that turn its joints in another way (`Kind`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vht_jax.layout import Layout
from vht_jax.results.export import lbs
from vht_jax.results.export.motion import matrices

# Components that hardly move a vertex must not take up what no component can express: a code of one standard deviation
# costs as much as this distance of one vertex.
PRIOR_MM = 0.02
STEPS = 4  # of Gauss-Newton; the vertices move by less than 1e-5 mm after the third
_STEP = 1e-4  # rad, of the central differences of the joints


class Kind(NamedTuple):
  """How a program turns the joints of FLAME's file."""

  turns: tuple[tuple[int, ...], ...]  # the free rotations: which joints each of them turns
  features: tuple[int, ...]  # the joints whose rotations go into the correctives
  bias: float  # how often the identity is taken from them before
  chained: bool  # joints turn with their parents
  about_root: bool  # the head's own rotation is about the root joint, else about the origin of FLAME's frame


FLAME = Kind(turns=((1,), (2,), (3,), (4,)), features=(1, 2, 3, 4), bias=1.0, chained=True, about_root=True)


class Frame(NamedTuple):
  """A pose of one frame before a camera."""

  expr: np.ndarray  # (E,)
  rotation: np.ndarray  # (3, 3) head -> camera
  position: np.ndarray  # (3,) in the camera's frame, m, of what the rotation is about
  joints: np.ndarray  # (5, 3, 3)


def vertices(kind: Kind, head: lbs.Head, shape: np.ndarray, frame: Frame) -> np.ndarray:
  """(V', 3) in the camera's frame."""
  return _place(kind, frame, _posed(kind, head, lbs.shaped(head, np.concatenate([shape, frame.expr])), frame.joints))


def fit_identity(kind: Kind, head: lbs.Head, n_shape: int, neutral: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """(S,) code whose neutral face lies on `neutral` (V', 3) but for a shift; `weights` (V',) of the vertices."""
  share = weights / weights.sum()
  directions = head.dirs[..., :n_shape]
  at_rest = np.broadcast_to(np.eye(3), (5, 3, 3))
  rest = neutral - head.template - np.tensordot(_feature(kind, at_rest), head.posedirs, axes=1)
  directions = directions - np.tensordot(share, directions, axes=1)
  root = np.sqrt(weights)
  jacobian = (root[:, None, None] * directions).reshape(-1, n_shape)
  return _least_squares(jacobian, (root[:, None] * (rest - share @ rest)).ravel(), n_shape, np.zeros(n_shape))


def fit_frame(
  kind: Kind, head: lbs.Head, shape: np.ndarray, wanted: np.ndarray, weights: np.ndarray, frame: Frame
) -> Frame:
  """The pose whose vertices lie on `wanted` (V', 3), from a start near it; `weights` (V',) of the vertices."""
  n_shape, n_expr, n_turns = len(shape), len(frame.expr), len(kind.turns)
  layout = Layout.of(expr=(n_expr,), rotation=(3,), position=(3,), turns=(n_turns, 3))
  root = np.sqrt(weights)
  for _ in range(STEPS):
    unposed = lbs.shaped(head, np.concatenate([shape, frame.expr]))
    posed = _posed(kind, head, unposed, frame.joints)
    placed = _place(kind, frame, posed)
    expression = lbs.along(head, posed, frame.joints, slice(n_shape, None), kind.chained)
    if kind.about_root:
      expression = expression - head.j_dirs[0, :, n_shape:]  # the root moves with the expression, and is kept in place
    columns = [np.tensordot(frame.rotation, expression, axes=(1, 1)).transpose(1, 0, 2)]
    columns.append(np.cross(np.eye(3)[None], (placed - frame.position)[:, None]).transpose(0, 2, 1))
    columns.append(np.broadcast_to(np.eye(3), (len(placed), 3, 3)))
    for turned in kind.turns:
      for k in range(3):
        sides = [
          _place(kind, frame, _posed(kind, head, unposed, _turned(frame.joints, turned, side * np.eye(3)[k])))
          for side in (_STEP, -_STEP)
        ]
        columns.append(((sides[0] - sides[1]) / (2 * _STEP))[..., None])
    jacobian = (root[:, None, None] * np.concatenate(columns, axis=-1)).reshape(-1, layout.size)
    step = layout.split(_least_squares(jacobian, (root[:, None] * (wanted - placed)).ravel(), n_expr, frame.expr))
    joints = frame.joints
    for turned, angles in zip(kind.turns, step["turns"]):
      joints = _turned(joints, turned, angles)
    frame = Frame(
      frame.expr + step["expr"],
      matrices(step["rotation"]) @ frame.rotation,
      frame.position + step["position"],
      joints,
    )
  return frame


def _feature(kind: Kind, joints: np.ndarray) -> np.ndarray:
  return (joints[list(kind.features)] - kind.bias * np.eye(3)).reshape(36)


def _posed(kind: Kind, head: lbs.Head, unposed: tuple[np.ndarray, np.ndarray], joints: np.ndarray) -> lbs.Posed:
  return lbs.pose(head, unposed, joints, _feature(kind, joints), kind.chained)


def _place(kind: Kind, frame: Frame, posed: lbs.Posed) -> np.ndarray:
  centre = posed.joints[0] if kind.about_root else np.zeros(3)
  return (posed.vertices - centre) @ frame.rotation.T + frame.position


def _turned(joints: np.ndarray, which: tuple[int, ...], angles: np.ndarray) -> np.ndarray:
  """Joints with some of them turned further, in their parents' frames."""
  joints = joints.copy()
  for j in which:
    joints[j] = matrices(angles) @ joints[j]
  return joints


def _least_squares(jacobian: np.ndarray, residual: np.ndarray, n_codes: int, at: np.ndarray) -> np.ndarray:
  """The step (n,) to the least squares, with the prior on the first `n_codes` columns, whose codes are now `at`."""
  weight = np.square(PRIOR_MM / 1000.0)
  normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
  codes = np.arange(n_codes)
  normal[codes, codes] += weight
  gradient[:n_codes] -= weight * at
  # A joint that moves nothing (a head without eyeballs) leaves rows of zeros: it stays where it is.
  diagonal = np.diag_indices_from(normal)
  normal[diagonal] += 1e-12 * np.trace(normal) / len(normal)
  return np.linalg.solve(normal, gradient)
