"""Two-sided smoothing of a clip's unknowns, by how sure each frame is and how noisy the clip has turned out to be.

Per unknown the maximum of a posterior: each frame's estimate with its variance, and accelerations (second differences)
as the prior; all frames are solved for at once, so there is no lag. Noise and acceleration are measured on the clip
itself: what really moves fast, as lids and lips do, is left alone.

The prior has heavy tails (Cauchy's): heads rest, and then they move. A Gaussian one takes a sudden motion or a wrong
frame for an impossible acceleration and spreads it over the frames around, and its width, from the mean square, is that
of the few wild frames and too wide for all others. Here an acceleration that is far too large to be the usual costs
next to nothing, so a step stays a step, and the frames beside a bad one stay where they are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vht_jax.types import Array

HIGHEST = lax.Precision.HIGHEST
MOST_NOISE = 10.0  # times the predicted variance
SHORT = 10  # frames: so few cannot tell motion from noise and are left alone; twice as many are believed
WILD = 3.0  # robust standard deviations: second differences count as no larger when noise and motion are measured
TAIL = 1.0  # inverse degrees of freedom of the accelerations' t distribution: 1 is Cauchy's, 0 Gauss's
SOLVES = 4  # times that the accelerations are weighted anew; with 10 the result is the same within 1 % of its jitter
LEAST_MOTION = 0.02  # variance of second differences over that of the noise: less cannot be told from none
RIDGE = 1e-4  # of a typical estimate's weight, where there is none at all


def measure_noise(x: Array, variance: Array) -> tuple[Array, Array]:
  """Variances of white noise () and of true second differences () in a sequence.

  White noise of variance r has second differences d with autocovariances c0 = 6 r and c1 = -4 r; a smooth motion's
  differ little from frame to frame and add the same to both. So r = (c0 - c1) / 10, and the motion has the rest.
  A few wild frames shall not pass for either: differences are cut off at `WILD` times what their median says.
  Pictures that have nothing to do with each other look like noise too: what is far above the claimed variances is none.

  Args:
    x: (T,) estimates, T >= 4.
    variance: (T,) as the frames claim; inf for those that do not count.
  """
  known = jnp.isfinite(variance)
  claimed = jnp.sum(jnp.where(known, variance, 0.0)) / _count(known, x.dtype)
  d = x[2:] - 2 * x[1:-1] + x[:-2]
  ok = known[2:] & known[1:-1] & known[:-2]
  most = WILD * 1.4826 * jnp.nan_to_num(jnp.nanmedian(jnp.where(ok, jnp.abs(d), jnp.nan)))
  d = jnp.where(ok, jnp.clip(d, -most, most), 0.0)
  count = _count(ok, x.dtype)
  c0 = jnp.sum(d**2) / count
  c1 = jnp.sum(d[1:] * d[:-1]) / _count(ok[1:] & ok[:-1], x.dtype)
  noise = jnp.maximum(jnp.clip((c0 - c1) / 10.0, 1e-6 * claimed, MOST_NOISE * claimed), 1e-20)
  believed = jnp.clip(count / SHORT - 1.0, 1e-6, 1.0)
  return believed * noise, jnp.maximum(c0 - 6.0 * noise, LEAST_MOTION * noise)


def smooth(x: Array, variance: Array, noise: Array, acceleration: Array, tail: float = TAIL) -> Array:
  """A minimum over y of sum_t w_t (y_t - x_t)^2 / noise + sum_t rho((y_{t-1} - 2 y_t + y_{t+1})^2 / acceleration).

  The weights w_t are inverse to the frames' variances, 1 on average. rho(z) = (1 + 1/tail) log(1 + tail z), which is
  z (1 + tail) for usual accelerations and grows slowly from there on; rho(z) = z without a tail. It is found by solving
  `SOLVES` + 1 linear systems, each with the weights that rho gives to the accelerations of the former.

  Args:
    x: (T,) estimates; something between the neighbours where there is none.
    variance: (T,) as the frames claim; inf where there is no estimate.
    noise, acceleration: () variances, of `measure_noise`.
    tail: inverse degrees of freedom of the accelerations.

  Returns:
    (T,).
  """
  known = jnp.isfinite(variance)
  precision = jnp.where(known, 1.0 / jnp.maximum(variance, 1e-30), 0.0)
  weight = precision * _count(known, x.dtype) / jnp.maximum(jnp.sum(precision), 1e-30)
  second = jnp.diff(jnp.eye(len(x), dtype=x.dtype), n=2, axis=0)  # (T - 2, T)
  own = jnp.matmul(second, x, precision=HIGHEST)

  def weights(d: Array, usual: Array) -> Array:
    return (1.0 + tail) / (1.0 + tail * d**2 / usual)

  def change(usual: Array) -> Array:
    # Solved for the change, whose right side is the estimates' own acceleration: nothing large cancels.
    stiffness = noise / acceleration * usual
    matrix = jnp.diag(weight + RIDGE) + jnp.matmul(second.T * stiffness[None], second, precision=HIGHEST)
    right = -jnp.matmul(second.T, stiffness * own, precision=HIGHEST)
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)

  def again(_, usual: Array) -> Array:
    return weights(own + jnp.matmul(second, change(usual), precision=HIGHEST), acceleration)

  # The estimates' own accelerations have the noise of three frames in them.
  usual = weights(own, acceleration + 6.0 * noise)
  if tail > 0:
    usual = lax.fori_loop(0, SOLVES, again, usual)
  return x + change(usual)


def _count(mask: Array, dtype) -> Array:
  return jnp.maximum(jnp.sum(mask.astype(dtype)), 1.0)
