"""The posed head as a chain of rigid joints, in NumPy and float64: what formats with a skeleton are written from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vht_jax.cameras import OPENCV_TO_OPENGL
from vht_jax.types import Camera, FlameModel, Pose

JOINTS = ("root", "neck", "jaw", "eye_left", "eye_right")
PARENTS = (-1, 0, 1, 1, 1)  # FLAME's tree
_SMALLEST = 1e-7  # m; directions that move no vertex further than this are left out


class Motion(NamedTuple):
  """T frames of the five joints; with `rest` they move a vertex v by `rotation (v - rest) + translation` in a chain."""

  rest: np.ndarray  # (5, 3) joints of the face without expression, head frame, m
  local: np.ndarray  # (T, 5, 3, 3) rotations of FLAME's pose: root, neck, jaw, left eye, right eye
  rotation: np.ndarray  # (T, 5, 3, 3) of a joint relative to its parent; the root's is relative to the camera
  translation: np.ndarray  # (T, 5, 3) m, likewise


def matrices(angles: np.ndarray) -> np.ndarray:
  """(..., 3, 3) rotation matrices of (..., 3) axis-angle vectors, rad (Rodrigues)."""
  angles = np.asarray(angles, np.float64)
  angle = np.linalg.norm(angles, axis=-1)[..., None, None]
  x, y, z = np.moveaxis(angles, -1, 0)
  zero = np.zeros_like(x)
  K = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
  return np.eye(3) + np.sinc(angle / np.pi) * K + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (K @ K)


def axis_angles(rotations: np.ndarray) -> np.ndarray:
  """(..., 3) axis-angle vectors of (..., 3, 3) rotations, rad, at most pi long; inverse of `matrices`."""
  rotations = np.asarray(rotations, np.float64)
  q = _quaternions(rotations.reshape(-1, 3, 3)).reshape(*rotations.shape[:-2], 4)
  return angles_of(q * np.where(q[..., 3:] < 0, -1.0, 1.0))


def angles_of(q: np.ndarray) -> np.ndarray:
  """(..., 3) axis-angle vectors, rad, of (..., 4) unit quaternions x, y, z, w; longer than pi where w < 0."""
  sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)  # of half the angle
  return q[..., :3] * np.where(sine > 1e-9, 2.0 * np.arctan2(sine, q[..., 3:]) / np.maximum(sine, 1e-9), 2.0)


def quaternions(rotations: np.ndarray) -> np.ndarray:
  """(T, 4) unit quaternions x, y, z, w of (T, 3, 3) rotations, each on the same side as the one before it."""
  q = _quaternions(np.asarray(rotations, np.float64))
  sides = np.sign((q[1:] * q[:-1]).sum(-1))
  return q * np.cumprod(np.concatenate([[1.0], np.where(sides < 0, -1.0, 1.0)]))[:, None]


def _quaternions(m: np.ndarray) -> np.ndarray:
  """(T, 4) of (T, 3, 3), on either side."""
  diagonal = np.diagonal(m, axis1=-2, axis2=-1)
  # Four candidates, each exact; the one with the largest divisor is taken (Shepperd, 1978).
  xx, yy, zz = diagonal.T
  off = lambda i, j: m[:, i, j] + m[:, j, i]
  skew = lambda i, j: m[:, i, j] - m[:, j, i]
  candidates = np.stack(
    [
      np.stack([1 + xx - yy - zz, off(0, 1), off(0, 2), skew(2, 1)], -1),
      np.stack([off(0, 1), 1 - xx + yy - zz, off(1, 2), skew(0, 2)], -1),
      np.stack([off(0, 2), off(1, 2), 1 - xx - yy + zz, skew(1, 0)], -1),
      np.stack([skew(2, 1), skew(0, 2), skew(1, 0), 1 + xx + yy + zz], -1),
    ],
    axis=1,
  )
  lengths = np.linalg.norm(candidates, axis=-1)
  best = lengths.argmax(axis=1)
  rows = np.arange(len(m))
  return candidates[rows, best] / lengths[rows, best, None]


def opengl_view(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
  """(3, 3), (3,) that take our world to the frame of an OpenGL camera: x right, y up, z backwards."""
  flip = np.asarray(OPENCV_TO_OPENGL, np.float64)
  return flip @ np.asarray(camera.R, np.float64), flip @ np.asarray(camera.T, np.float64)


def joint_motion(model: FlameModel, shape: np.ndarray, poses: Pose, camera: Camera) -> Motion:
  """How the joints of a head move before the camera.

  FLAME regresses its joints from the face with its expression, so they move with it: each frame has translations of its
  own. The chain of `Motion` gives the vertices of `flame.skin`, in the camera's frame with OpenGL's axes.

  Args:
    model: the head.
    shape: (S,) identity.
    poses: T frames.
    camera: what the frames are seen by.
  """
  expr = np.asarray(poses.expr, np.float64)
  n_shape = np.shape(shape)[0]
  j_dirs = np.asarray(model.j_shapedirs, np.float64)
  rest = np.asarray(model.j_template, np.float64) + j_dirs[..., :n_shape] @ np.asarray(shape, np.float64)
  joints = rest + np.einsum("jce,te->tjc", j_dirs[..., n_shape:], expr)
  angles = [np.asarray(a, np.float64)[:, None] for a in (poses.rotation, poses.neck, poses.jaw)]
  local = matrices(np.concatenate([*angles, np.asarray(poses.eyes, np.float64)], axis=1))

  view, shift = opengl_view(camera)
  turned, placed = [view @ local[:, 0]], [np.asarray(poses.translation, np.float64) @ view.T + shift]
  for j in range(1, 5):
    p = PARENTS[j]
    placed.append(placed[p] + np.einsum("tij,tj->ti", turned[p], joints[:, j] - joints[:, p]))
    turned.append(turned[p] @ local[:, j])
  # A skinned format has one rest position per joint: the expression's part goes into the joint's place.
  where = [placed[j] + np.einsum("tij,tj->ti", turned[j], rest[j] - joints[:, j]) for j in range(5)]
  rotation, translation = [turned[0]], [where[0]]
  for j in range(1, 5):
    p = PARENTS[j]
    rotation.append(local[:, j])
    translation.append(np.einsum("tji,tj->ti", turned[p], where[j] - where[p]))
  return Motion(rest, local, np.stack(rotation, 1), np.stack(translation, 1))


def morph_targets(
  model: FlameModel, expr: np.ndarray, motion: Motion, only_used: bool
) -> tuple[np.ndarray, list[str], np.ndarray]:
  """What deforms a head before its joints move it: expression units, then the pose's correctives.

  The correctives are linear in the entries of R - I, so these are the weights.

  Args:
    model: the head.
    expr: (T, E) expressions.
    motion: of the same frames.
    only_used: leave out units that the clip does not use.

  Returns:
    (M, V, 3) targets, m; their M names; their weights (T, M).
  """
  n_expr = expr.shape[1]
  units = np.moveaxis(np.asarray(model.exprdirs, np.float64), -1, 0)
  names = list(model.expr_names) or [f"expression_{i:02d}" for i in range(n_expr)]
  used = np.abs(units).max(axis=(1, 2)) * (np.abs(expr).max(axis=0) if only_used else 1.0) > _SMALLEST
  if not only_used:
    used[:] = True
  entries = (motion.local[:, 1:] - np.eye(3)).reshape(-1, 36)
  correctives = np.asarray(model.posedirs, np.float64).reshape(36, -1, 3)
  moves = 2.0 * np.abs(correctives).max(axis=(1, 2)) > _SMALLEST  # an entry of R - I is 2 at most
  labels = [f"corrective_{JOINTS[1 + i // 9]}_{i % 9 // 3}{i % 3}" for i in range(36)]
  return (
    np.concatenate([units[used], correctives[moves]]),
    [names[i] for i in np.flatnonzero(used)] + [labels[i] for i in np.flatnonzero(moves)],
    np.concatenate([expr[:, used], entries[:, moves]], axis=1),
  )
