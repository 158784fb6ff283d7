"""Spreading a change of one pose over others: codes by a part of the change, angles along the arc."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import rotation
from vht_jax.head import flame
from vht_jax.host.programs import in_chunks, rows_of
from vht_jax.types import POSE_FIELDS, Pose

CHUNK = 32  # frames at once: always as many, so that one program serves all


def limited(name: str, value: np.ndarray) -> np.ndarray:
  """A field of `Pose` within `flame.JOINT_LIMITS`."""
  return np.clip(value, *flame.JOINT_LIMITS[name]) if name in flame.JOINT_LIMITS else value


def moved(poses: Pose, before: Pose, after: Pose, weights: np.ndarray) -> Pose:
  """Poses moved by a part of the way from `before` to `after`; fields in which these agree stay bit by bit.

  Args:
    poses: leading axis k.
    before, after: leading axis 1.
    weights: (k,) in [0, 1].
  """
  turned = in_chunks(
    lambda rows: _turned(rows_of(poses, rows), before, after, weights[rows].astype(np.float32)), len(weights), CHUNK
  )
  fields = {}
  for name in POSE_FIELDS:
    same = np.array_equal(getattr(before, name), getattr(after, name))
    fields[name] = getattr(poses, name) if same else limited(name, getattr(turned, name))
  return poses.replace(**fields)


@jax.jit
def _turned(poses: Pose, before: Pose, after: Pose, weights: jax.Array) -> Pose:
  """`moved` without its limits, for a fixed number of frames."""
  matrix, vector = rotation.axis_angle_to_matrix, rotation.matrix_to_axis_angle
  times = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

  def local(r, a, b, weight):  # about the bone's own axes
    way = vector(times(matrix(a).T, matrix(b)))
    return rotation.nearest_axis_angle(vector(times(matrix(r), matrix(weight * way))), r)

  def one(pose, weight):
    a, b = (jax.tree.map(lambda x: x[0], p) for p in (before, after))
    way = vector(times(matrix(b.rotation), matrix(a.rotation).T))  # in the world
    turned = vector(times(matrix(weight * way), matrix(pose.rotation)))
    return Pose(
      expr=pose.expr + weight * (b.expr - a.expr),
      rotation=rotation.nearest_axis_angle(turned, pose.rotation),
      translation=pose.translation + weight * (b.translation - a.translation),
      neck=local(pose.neck, a.neck, b.neck, weight),
      jaw=local(pose.jaw, a.jaw, b.jaw, weight),
      eyes=jax.vmap(local, in_axes=(0, 0, 0, None))(pose.eyes, a.eyes, b.eyes, weight),
    )

  return jax.vmap(one)(poses, weights)
