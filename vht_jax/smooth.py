"""Two-sided smoothing of a clip's unknowns, by how sure each frame is and how noisy the clip has turned out to be.

Per unknown the maximum of a Gaussian posterior: each frame's estimate with its variance, and accelerations (second
differences) as the prior; all frames are solved for at once, so there is no lag. Noise and acceleration are measured on
the clip itself: what really moves fast, as lids and lips do, is left alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vht_jax.types import Array

HIGHEST = lax.Precision.HIGHEST
MOST_NOISE = 10.0  # times the predicted variance
LEAST_MOTION = 0.02  # variance of second differences over that of the noise: less cannot be told from none
RIDGE = 1e-4  # of a typical estimate's weight, where there is none at all


def measure_noise(x: Array, variance: Array) -> tuple[Array, Array]:
  """Variances of white noise () and of true second differences () in a sequence.

  White noise of variance r has second differences d with autocovariances c0 = 6 r and c1 = -4 r; a smooth motion's
  differ little from frame to frame and add the same to both. So r = (c0 - c1) / 10, and the motion has the rest.
  Pictures that have nothing to do with each other look like noise too: what is far above the claimed variances is none.

  Args:
    x: (T,) estimates, T >= 4.
    variance: (T,) as the frames claim; inf for those that do not count.
  """
  known = jnp.isfinite(variance)
  claimed = jnp.sum(jnp.where(known, variance, 0.0)) / _count(known, x.dtype)
  d = x[2:] - 2 * x[1:-1] + x[:-2]
  ok = known[2:] & known[1:-1] & known[:-2]
  d = jnp.where(ok, d, 0.0)
  c0 = jnp.sum(d**2) / _count(ok, x.dtype)
  c1 = jnp.sum(d[1:] * d[:-1]) / _count(ok[1:] & ok[:-1], x.dtype)
  noise = jnp.maximum(jnp.clip((c0 - c1) / 10.0, 1e-6 * claimed, MOST_NOISE * claimed), 1e-20)
  return noise, jnp.maximum(c0 - 6.0 * noise, LEAST_MOTION * noise)


def smooth(x: Array, variance: Array, noise: Array, acceleration: Array) -> Array:
  """argmin over y of sum_t w_t (y_t - x_t)^2 / noise + sum_t (y_{t-1} - 2 y_t + y_{t+1})^2 / acceleration.

  The weights w_t are inverse to the frames' variances, and 1 on average.

  Args:
    x: (T,) estimates; something between the neighbours where there is none.
    variance: (T,) as the frames claim; inf where there is no estimate.
    noise, acceleration: () variances, of `measure_noise`.

  Returns:
    (T,).
  """
  known = jnp.isfinite(variance)
  precision = jnp.where(known, 1.0 / jnp.maximum(variance, 1e-30), 0.0)
  weight = precision * _count(known, x.dtype) / jnp.maximum(jnp.sum(precision), 1e-30)
  second = jnp.diff(jnp.eye(len(x), dtype=x.dtype), n=2, axis=0)  # (T - 2, T)
  stiffness = noise / acceleration
  matrix = jnp.diag(weight + RIDGE) + stiffness * jnp.matmul(second.T, second, precision=HIGHEST)
  # Solved for the change, whose right side is the estimates' own acceleration: nothing large cancels.
  right = -stiffness * jnp.matmul(second.T, jnp.matmul(second, x, precision=HIGHEST), precision=HIGHEST)
  return x + jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)


def _count(mask: Array, dtype) -> Array:
  return jnp.maximum(jnp.sum(mask.astype(dtype)), 1.0)
