"""Checks inside a compiled program (`--debug_checks`): the first non-finite number, and where it came from."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from vht_jax import cameras
from vht_jax.head import flame
from vht_jax.types import POSE_FIELDS, FlameModel, Identity, Pose


def check_stage(
  name: str, model: FlameModel, identity: Identity, poses: Pose, frames: np.ndarray, size: tuple[int, int]
) -> None:
  """Poses the head in each of the frames with JAX's checks of every operation, and looks whether the camera sees it.

  Args:
    name: of the stage that the numbers come from.
    model, identity: the head.
    poses: of all frames.
    frames: positions to check, those with a face.
    size: (H, W) px of the images.

  Raises:
    FloatingPointError: a number is not finite, or a head is behind the camera; with the stage, the position of the
      frame and, for an operation, its place in the source.
  """
  for i in frames:
    error, _ = _checked(size)(model, identity, jax.tree.map(lambda a: jnp.asarray(a)[i], poses))
    if error.get():
      raise FloatingPointError(f"after stage {name}, frame at position {i}: {error.get()}")


@functools.cache
def _checked(size: tuple[int, int]):
  def one(model, identity, pose):
    posed = {name: getattr(pose, name) for name in POSE_FIELDS}
    for field, value in {**vars(identity.camera), **posed, "shape": identity.shape}.items():
      checkify.check(jnp.isfinite(value).all(), f"{field} is not finite")
    points = flame.landmarks(model, flame.skin(model, identity.shape, pose))
    z = cameras.project(identity.camera, points, size)[:, 2]
    checkify.check((z > 0).all(), "the head is behind the camera, its nearest landmark at {z} m", z=z.min())
    return z

  return jax.jit(checkify.checkify(one, errors=checkify.user_checks | checkify.float_checks))
