"""Axis-angle vectors and rotation matrices with derivatives that are right everywhere, and bounded angles.

The textbook formulas divide by the angle. Here every division is taken on a branch where it is safe, and a Taylor
series in the squared angle covers the rest, so forward and reverse derivatives of first and second order are exact at
the identity; frontal heads sit at |r| = pi, where the way back goes through quaternions.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.host.machine import once
from vht_jax.types import Array

TERMS = 7  # of the series in x = t^2: what they leave is below 1e-11 for x <= 1
# [r]_x = _LEVI_CIVITA r
_LEVI_CIVITA = (
  ((0, 0, 0), (0, 0, -1), (0, 1, 0)),
  ((0, 0, 1), (0, 0, 0), (-1, 0, 0)),
  ((0, -1, 0), (1, 0, 0), (0, 0, 0)),
)


def axis_angle_to_matrix(r: Array) -> Array:
  """Rodrigues' formula R = I + sin(t)/t K + (1-cos(t))/t^2 K^2 with t = |r|, K = [r]_x.

  Args:
    r: (3,) axis times angle, rad; any length.

  Returns:
    (3, 3) rotation matrix, acting on column vectors. Derivatives of any order are finite everywhere.
  """
  x = jnp.dot(r, r, precision=jax.lax.Precision.HIGHEST)
  sinc, cosc = _stumpff(2, x)
  # K^2 = r r^T - |r|^2 I
  outer = r[:, None] * r[None, :]
  eye = jnp.eye(3, dtype=r.dtype)
  return eye + sinc * _skew(r) + cosc * (outer - x * eye)


def matrix_and_derivative(r: Array) -> tuple[Array, Array]:
  """`axis_angle_to_matrix` and its derivative (3, 3, 3) by r (last axis), in closed form.

  Half as many operations as forward mode makes of it, which every residual of a pose has: they are compiled sooner.
  """
  x = jnp.dot(r, r, precision=jax.lax.Precision.HIGHEST)
  c = _stumpff(4, x)
  (sinc, cosc), (d_sinc, d_cosc) = c[:2], _slopes(c)
  eye = jnp.eye(3, dtype=r.dtype)
  skew, square = _skew(r), r[:, None] * r[None, :] - x * eye
  d_x = 2.0 * r  # of |r|^2
  d_skew = jnp.asarray(_LEVI_CIVITA, r.dtype)
  d_square = eye[:, None] * r[None, :, None] + eye[None] * r[:, None, None] - eye[..., None] * d_x[None, None]
  by_length = d_sinc * skew + d_cosc * square
  return eye + sinc * skew + cosc * square, sinc * d_skew + cosc * d_square + by_length[..., None] * d_x[None, None]


def matrix_to_axis_angle(R: Array) -> Array:
  """The axis-angle vector of a rotation matrix, with an angle in [0, pi].

  Goes through the quaternion whose largest component is computed first (Shepperd, 1978), so no angle is special:
  accurate to f32 rounding near 0 and near pi, with finite derivatives at both. At exactly pi either sign of the axis
  is right; see `nearest_axis_angle`.

  Args:
    R: (3, 3) rotation matrix.

  Returns:
    (3,) axis times angle, rad.
  """
  (a, b, c), (d, e, f), (g, h, i) = R
  # Row k is the quaternion (w, x, y, z) times 4 q_k; the row with the largest diagonal entry is far from 0.
  rows = jnp.stack(
    [
      jnp.stack([1.0 + a + e + i, h - f, c - g, d - b]),
      jnp.stack([h - f, 1.0 + a - e - i, b + d, c + g]),
      jnp.stack([c - g, b + d, 1.0 - a + e - i, f + h]),
      jnp.stack([d - b, c + g, f + h, 1.0 - a - e + i]),
    ]
  )
  q = rows[jnp.argmax(jnp.diagonal(rows))]
  q = q * jax.lax.rsqrt(jnp.dot(q, q, precision=jax.lax.Precision.HIGHEST))
  q = jnp.where(q[0] < 0.0, -q, q)
  w, v = q[0], q[1:]
  x = jnp.dot(v, v, precision=jax.lax.Precision.HIGHEST)  # sin^2 of half the angle
  small = x < 1e-3
  w_safe = jnp.where(small, w, 1.0)
  ratio = x / jnp.square(w_safe)
  series = 2.0 / w_safe * (1.0 - ratio * (1.0 / 3.0 - ratio * (1.0 / 5.0 - ratio / 7.0)))  # 2 atan(s/w)/s
  s = jnp.sqrt(jnp.where(small, 1.0, x))
  return v * jnp.where(small, series, 2.0 * jnp.arctan2(s, w) / s)


def nearest_axis_angle(r: Array, reference: Array) -> Array:
  """Among all vectors r + 2 pi k r/|r| of the same rotation, the one closest to `reference`.

  Keeps the axis-angle track of a frontal head (|r| about pi) continuous from frame to frame.

  Args:
    r: (3,) rad.
    reference: (3,) rad, e.g. the previous frame's rotation.

  Returns:
    (3,) rad, the same rotation as `r`.
  """
  angle2 = jnp.dot(r, r, precision=jax.lax.Precision.HIGHEST)
  is_zero = angle2 < 1e-12  # the identity is 2 pi about *any* axis: take the reference's
  along = jnp.where(is_zero, reference, r)
  along2 = jnp.dot(along, along, precision=jax.lax.Precision.HIGHEST)
  length = jnp.sqrt(jnp.where(along2 < 1e-12, 1.0, along2))
  axis = along / length
  angle = jnp.where(is_zero, 0.0, length)
  turns = jnp.round((jnp.dot(reference, axis, precision=jax.lax.Precision.HIGHEST) - angle) / (2.0 * math.pi))
  return r + 2.0 * math.pi * jax.lax.stop_gradient(turns) * axis


def bound(raw: Array, lower: Array | float, upper: Array | float) -> Array:
  """VHT's bijection from the real line to (lower, upper), elementwise: lower + (tanh(raw) + 1)/2 (upper - lower)."""
  return lower + (jnp.tanh(raw) + 1.0) * 0.5 * (upper - lower)


def unbound(angle: Array, lower: Array | float, upper: Array | float, margin: float = 1e-6) -> Array:
  """Inverse of `bound`, finite for every input.

  Args:
    angle: values, elementwise within [lower, upper]; values outside count as the limit.
    lower, upper: the limits, same shape as `angle`.
    margin: values closer to a limit than this part of half the range are moved inside by that much. An optimiser
      should start with a larger one (VHT's own inverse has 0.02): tanh has next to no slope at the limit.
  """
  unit = 2.0 * (angle - lower) / (upper - lower) - 1.0
  return jnp.arctanh(jnp.clip(unit, -1.0 + margin, 1.0 - margin))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _stumpff(n: int, x: Array) -> Array:
  """c_k = 1/k! - x/(k+2)! + x^2/(k+4)! - ... of x = t^2 () for k = 1 ... n (Stumpff's functions; c_1 = sin(t)/t,
  c_2 = (1-cos(t))/t^2), (n,), n at least 2.

  Their derivatives are some of them again, so those of any order are a few operations: written out, the ones of sines
  and roots are a fifth of the program of a fit. All at once, and once: each for itself is as many operations, and XLA
  would put them into everything that a rotation is used for.
  """
  small = x < 1.0
  angle = jnp.sqrt(jnp.where(small, 1.0, x))  # never 0: the unused branch must not make NaN derivatives
  # 2 sin^2(t/2) rather than 1 - cos(t), which cancels in f32
  far = [jnp.sin(angle) / angle, 2.0 * jnp.square(jnp.sin(0.5 * angle) / angle)]
  for k in range(3, n + 1):
    far.append((1.0 / math.factorial(k - 2) - far[k - 3]) / jnp.where(small, 1.0, x))
  near = [np.array([(-1.0) ** j / math.factorial(2 * j + k) for k in range(1, n + 1)], x.dtype) for j in range(TERMS)]
  total = jnp.asarray(near[-1])
  for c in near[-2::-1]:  # Horner's scheme
    total = total * x + c
  return once(jnp.where(small, total, jnp.stack(far)))


@_stumpff.defjvp
def _stumpff_jvp(n, primals, tangents):
  c = _stumpff(n + 2, *primals)
  return c[:n], _slopes(c) * tangents[0]


def _slopes(c: Array) -> Array:
  """The derivatives of all but the last two c_k."""
  k = jnp.asarray(np.arange(1, len(c) - 1), c.dtype)
  return 0.5 * (k * c[2:] - c[1:-1])


def _skew(r: Array) -> Array:
  """[r]_x, (3, 3)."""
  zero = jnp.zeros_like(r[0])
  return jnp.stack([zero, -r[2], r[1], r[2], zero, -r[0], -r[1], r[0], zero]).reshape(3, 3)
