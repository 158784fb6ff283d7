"""The head's rotation as people say it: turned, nodding, tilted, in degrees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import rotation

_FACING = np.diag([-1.0, 1.0, -1.0])  # head -> world of a face that looks into the camera: half a turn about y


def turn_nod_tilt(vector: np.ndarray) -> tuple[float, float, float]:
  """Degrees of an axis-angle vector (3,), head -> world: R = R_y(turn) R_x(nod) R_z(tilt) facing the camera.

  Positive: towards the left of the image, down, the subject's head falling to the left of the image.
  """
  Q = np.asarray(_matrix(jnp.asarray(vector, jnp.float32)), np.float64) @ _FACING
  turn, nod = np.arctan2(Q[0, 2], Q[2, 2]), np.arcsin(np.clip(-Q[1, 2], -1.0, 1.0))
  tilt = np.arctan2(Q[1, 0], Q[1, 1])
  # About the world's axes, in which y points up and x to the left of the image and the face looks along -z.
  return float(np.degrees(-turn)), float(np.degrees(-nod)), float(np.degrees(-tilt))


def rotation_of(turn: float, nod: float, tilt: float, near: np.ndarray) -> np.ndarray:
  """The axis-angle vector (3,) of such angles; of those of the same rotation the one nearest to `near` (3,)."""
  y, x, z = -np.radians([turn, nod, tilt])
  cy, sy, cx, sx, cz, sz = np.cos(y), np.sin(y), np.cos(x), np.sin(x), np.cos(z), np.sin(z)
  R = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
  R = R @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ _FACING
  return np.asarray(_vector(jnp.asarray(R, jnp.float32), jnp.asarray(near, jnp.float32)))


@jax.jit
def _matrix(vector):
  return rotation.axis_angle_to_matrix(vector)


@jax.jit
def _vector(matrix, near):
  return rotation.nearest_axis_angle(rotation.matrix_to_axis_angle(matrix), near)
