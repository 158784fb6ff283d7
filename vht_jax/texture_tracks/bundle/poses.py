"""The rigid head's poses as those of the tracker."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import rotation
from vht_jax.texture_tracks.types import Rigid
from vht_jax.types import Array, Camera, Pose

HIGHEST = jax.lax.Precision.HIGHEST


def with_lens(camera: Camera, rigid: Rigid, size: tuple[int, int]) -> Camera:
  """The camera with the focal length and principal point of a rigid head; `size` = (H, W) of the clip's images."""
  height, width = size
  principal = np.asarray(rigid.principal, np.float32) / np.array([width, height], np.float32)
  return camera.replace(focal=np.float32(rigid.focal), principal=principal)


def moved(pose: Pose, camera: Camera, turn: Array, shift: Array) -> Pose:
  """One frame's pose after its mesh has moved rigidly in the camera, X -> turn X + shift (`Rigid`).

  Neck, jaw, eyes and expression stay; the axis-angle vector is the one nearest to the former.

  Args:
    pose: of the first estimate.
    camera: whose R and T place the world.
    turn: (3, 3).
    shift: (3,) m.
  """
  product = lambda *a: jnp.linalg.multi_dot(a, precision=HIGHEST)  # noqa: E731
  before = rotation.axis_angle_to_matrix(pose.rotation)
  after = rotation.matrix_to_axis_angle(product(camera.R.T, turn, camera.R, before))
  root = jnp.matmul(camera.R, pose.translation, precision=HIGHEST) + camera.T
  root = jnp.matmul(turn, root, precision=HIGHEST) + shift
  return pose.replace(
    rotation=rotation.nearest_axis_angle(after, pose.rotation),
    translation=jnp.matmul(camera.R.T, root - camera.T, precision=HIGHEST),
  )
