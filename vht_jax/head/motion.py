"""What moves the head's points: a frame's unknowns as rotations and translations of its joints and of the whole.

How the pose of a frame is written, `POSE`, is explained in `fit.unknowns`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import rotation
from vht_jax.head import flame
from vht_jax.host.machine import once
from vht_jax.layout import Layout
from vht_jax.types import Array

# Unknowns of a frame beside the expression; the names of `joint_angles` and `rigid`.
POSE = Layout.of(rotation=(3,), place=(3,), neck=(3,), jaw=(), eyes=(2, 2))
N_POSE = POSE.size
# Everything that moves shaped points: what `place` differentiates by.
MOTION = POSE + Layout.of(log_focal=(), principal=(2,), joints=(5, 3))
HIGHEST = jax.lax.Precision.HIGHEST
# Head (x left, y up, z out of the face) seen frontally by an OpenCV camera (x right, y down, z into the scene).
FRONTAL = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
# The columns of z by which joints turn: neck, jaw and eyes. Those of jaw and eyes are some of their axis-angles.
_TURNS = MOTION.at("neck", "eyes")
_OWN_ANGLES = np.zeros((3, 3, 5), np.float32)  # (jaw and eyes, axis-angle, jaw and eyes' columns)
_OWN_ANGLES[[0, 1, 1, 2, 2], [0, 0, 1, 0, 1], range(5)] = 1.0
_HANGS = np.eye(5, dtype=np.float32)[1][None] * np.array([0, 1, 1, 1, 1], np.float32)[:, None]  # (joint, on which neck)
_CHILDREN = np.diag(np.array([0, 0, 1, 1, 1], np.float32))


def jaw_angle(raw: Array) -> Array:
  lower, upper = flame.JOINT_LIMITS["jaw"]
  return rotation.bound(raw, float(lower[0]), float(upper[0]))


def joint_angles(pose: dict[str, Array]) -> Array:
  """(5, 3) axis-angles of root (0), neck, jaw and eyes from the blocks of `POSE`."""
  jaw, eyes = jaw_angle(pose["jaw"]), pose["eyes"]
  zero = jnp.zeros((), jaw.dtype)
  return jnp.stack(
    [
      jnp.zeros(3, jaw.dtype),
      pose["neck"],
      jnp.stack([jaw, zero, zero]),
      jnp.stack([eyes[0, 0], eyes[0, 1], zero]),
      jnp.stack([eyes[1, 0], eyes[1, 1], zero]),
    ]
  )


def joint_transforms(angles: Array, joints: Array) -> tuple[Array, Array, Array]:
  """Skinning transforms with the root unturned: rotations (5, 3, 3), translations (5, 3), pose feature (36,)."""
  R = jax.vmap(rotation.axis_angle_to_matrix)(angles)
  eye = jnp.eye(3, dtype=R.dtype)
  mul = lambda a, b: jnp.matmul(a, b, precision=HIGHEST)
  t_neck = joints[1] - mul(R[1], joints[1])
  child = [mul(R[1], R[k]) for k in (2, 3, 4)]
  t_child = [mul(R[1], joints[k]) + t_neck - mul(c, joints[k]) for k, c in zip((2, 3, 4), child)]
  rotations = jnp.stack([eye, R[1], *child])
  translations = jnp.stack([jnp.zeros(3, R.dtype), t_neck, *t_child])
  return rotations, translations, once((R[1:] - eye[None]).reshape(-1))


def rigid(pose: dict[str, Array], focal: Array, principal: Array) -> tuple[Array, Array]:
  """Head -> camera rotation (3, 3) and the camera position (3,) of the pivot, m."""
  place = pose["place"]
  z = focal * jnp.exp(-place[2])
  return frontal_rotation(pose["rotation"]), jnp.concatenate([(place[:2] - principal) * (z / focal), z[None]])


def frontal_rotation(angles: Array) -> Array:
  """Head -> camera rotation (3, 3) of the axis-angle (3,) relative to the frontal view."""
  frontal = jnp.array(FRONTAL, angles.dtype)
  return jnp.matmul(rotation.axis_angle_to_matrix(angles), frontal, precision=HIGHEST)


def product(spec: str, a: Array, b: Array) -> Array:
  """`jnp.einsum` of two arrays for sums over few numbers, as multiplications and a sum.

  XLA makes a program of its own of every matrix product, and these are done with what is around them: on a CPU that is
  compiled in half the time, and batches of small matrices are faster so.
  """
  inputs, out = spec.split("->")
  names = inputs.split(",")
  order = out + "".join(name for name in dict.fromkeys("".join(names)) if name not in out)

  def spread(array: Array, has: str) -> Array:
    array = jnp.transpose(array, [has.index(name) for name in order if name in has])
    return jnp.expand_dims(array, [i for i, name in enumerate(order) if name not in has])

  return jnp.sum(spread(a, names[0]) * spread(b, names[1]), axis=tuple(range(len(out), len(order))))


def joint_motion(pose: dict[str, Array], joints: Array):
  """`joint_transforms` and their derivatives by z (last axis, 32), in closed form.

  What does not depend on the joints' places is the same for all points of a head: written so, XLA makes it once for
  all terms of a fit, and compiles it once.
  """
  local, d_local = jax.vmap(rotation.matrix_and_derivative)(joint_angles(pose)[1:])  # (4, 3, 3), (4, 3, 3, 3)
  slope = jax.grad(jaw_angle)(pose["jaw"])
  d_angle = jnp.asarray(_OWN_ANGLES, slope.dtype) * jnp.concatenate([slope[None], jnp.ones(4, slope.dtype)])[None, None]
  neck, d_neck, child = local[0], d_local[0], local[1:]
  own = product("kacm,kmj->kacj", d_local[1:], d_angle)  # (3, 3, 3, 5)
  whole = product("ab,kbc->kac", neck, child)
  d_child = jnp.concatenate([product("abn,kbc->kacn", d_neck, child), product("ab,kbcj->kacj", neck, own)], -1)
  d_neck = jnp.pad(d_neck, ((0, 0), (0, 0), (0, 5)))
  eye = jnp.eye(3, dtype=neck.dtype)
  rotations = jnp.concatenate([eye[None], neck[None], whole])
  d_rotations = jnp.concatenate([jnp.zeros_like(d_neck)[None], d_neck[None], d_child])  # (5, 3, 3, 8)
  feature = once((local - eye[None]).reshape(-1))
  d_feature = jnp.concatenate([d_neck[None], jnp.pad(own, ((0, 0), (0, 0), (0, 0), (3, 0)))]).reshape(-1, 8)

  # A joint stays where it is when it turns: t_neck = J - R J, and what hangs on the neck is moved by it as well.
  hangs, children = jnp.asarray(_HANGS, neck.dtype), jnp.asarray(_CHILDREN, neck.dtype)
  by_joints = hangs[:, None, :, None] * (eye - neck)[None, :, None]
  by_joints = by_joints + children[:, None, :, None] * (neck[None] - rotations)[:, :, None]  # (5, 3, 5, 3)
  translations = product("jaic,ic->ja", by_joints, joints)
  by_turns = jnp.sum(children, 1)[:, None, None] * product("jabk,jb->jak", d_neck[None] - d_rotations, joints)
  by_turns = by_turns - jnp.sum(hangs, 1)[:, None, None] * product("abk,b->ak", d_neck, joints[1])[None]

  first, last = _TURNS.start, MOTION.size - _TURNS.stop
  spread = lambda a: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(first, last)])
  to_joints = MOTION.at("joints").start - _TURNS.stop
  middle = jnp.zeros((5, 3, to_joints), neck.dtype)
  d_translations = jnp.concatenate(
    [jnp.zeros((5, 3, first), neck.dtype), by_turns, middle, by_joints.reshape(5, 3, 15)], -1
  )
  return rotations, translations, feature, spread(d_rotations), d_translations, spread(d_feature)


def rigid_motion(pose: dict[str, Array], focal: Array, principal: Array) -> tuple[Array, Array, Array, Array]:
  """`rigid` and its derivatives by z: (3, 3, 32), (3, 32)."""
  R, d_R = rotation.matrix_and_derivative(pose["rotation"])
  frontal = jnp.array(FRONTAL, R.dtype)
  R = product("ab,bc->ac", R, frontal)
  d_R = product("abn,bc->acn", d_R, frontal)
  inverse = jnp.exp(-pose["place"][2])  # z over the focal length
  t = jnp.concatenate([(pose["place"][:2] - principal) * inverse, (focal * inverse)[None]])
  across = inverse * jnp.eye(3, 2, dtype=t.dtype)
  blocks = {
    "place": jnp.concatenate([across, -t[:, None]], -1),
    "log_focal": jnp.stack([jnp.zeros_like(inverse)] * 2 + [focal * inverse])[:, None],
    "principal": -across,
  }
  sizes = {name: MOTION.at(name).stop - MOTION.at(name).start for name in MOTION.names}
  d_t = jnp.concatenate([blocks.get(name, jnp.zeros((3, size), t.dtype)) for name, size in sizes.items()], -1)
  return R, t, jnp.pad(d_R, ((0, 0), (0, 0), (0, MOTION.size - 3))), d_t
