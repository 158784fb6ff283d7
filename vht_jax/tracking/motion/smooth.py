"""Two-sided smoothing of a clip's unknowns, by how sure each frame is and how noisy the clip has turned out to be.

The maximum of a posterior: each frame's estimate with its variance, and accelerations (second differences) as the
prior; all frames are solved for at once, so there is no lag. Noise and acceleration are measured on the clip itself:
what really moves fast, as lids and lips do, is left alone.

The prior has heavy tails (Cauchy's): heads rest, and then they move. A Gaussian one takes a sudden motion or a wrong
frame for an impossible acceleration and spreads it over the frames around, and its width, from the mean square, is that
of the few wild frames and too wide for all others. Here an acceleration that is far too large to be the usual costs
next to nothing, so a step stays a step, and the frames beside a bad one stay where they are. A head is one body: its
rotation and place accelerate at the same moments, and then six coordinates tell better than one which frames rest.

Motion that is white from frame to frame (quick motion, every 15th frame, crops that jump) looks like noise. Four things
keep it from being taken for noise:

* what is smoothed are combinations of unknowns whose errors are independent (`coordinates`). The unknowns themselves
  are known badly one by one but well together (root and neck, position and turn); smoothed one by one they may
  contradict together what a frame is sure of, and noise that the frame's data exclude is believed;
* noise is believed up to `MOST_NOISE` times the variance that the frames claim, and less where what certainly is motion
  (larger than any noise) is itself white (`white_share`);
* a frame follows its neighbours only as far as they have predicted left-out frames as well as they should (`followed`);
* in its own metric a frame leaves its own estimate by no more than the clip's noise explains (`within`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vht_jax.types import Array

HIGHEST = lax.Precision.HIGHEST
# Times the predicted variance. In `coordinates` the head's pose has 0.2 to 6 on seven clips of four sources, lips that
# speak up to 26, of which most is motion; crops that jump have 45, quick heads and every 15th frame 150 and more.
MOST_NOISE = 10.0
SHORT = 10  # frames: so few cannot tell motion from noise and are left alone; twice as many are believed
WILD = 3.0  # standard deviations: second differences count as no larger when noise and motion are measured
TAIL = 1.0  # inverse degrees of freedom of the accelerations' t distribution: 1 is Cauchy's, 0 Gauss's
# Squared scale of the accelerations' t distribution over their variance as measured here, of which wild ones and what
# looks like noise are missing. That of maximum likelihood (by expectation maximisation, noise held): medians of 0.56 to
# 0.73 on four real clips, for the head as for the rest; 0.9 to 1.2 on renderings, whose motion is made of sines.
USUAL = 0.6
SOLVES = 4  # times that the accelerations are weighted anew; with 10 the result is the same within 1 % of its jitter
LEAST_MOTION = 0.02  # variance of second differences over that of the noise: less cannot be told from none
RIDGE = 1e-4  # of a typical estimate's weight, where there is none at all
CORRELATED = 3e-6  # of the unit diagonal: as `uncertainty.RIDGE`, for the same matrices
CLOSEST = 0.1  # times the usual spacing: frames count as no closer in time, because rounded times may coincide


def coordinates(information: np.ndarray) -> np.ndarray:
  """(n, n) matrix V: z = V^T x has independent errors of about unit variance, for unknowns x (n,) of a usual frame.

  The Cholesky factor of the clip's mean information. So z_i is the unknown i, less what the unknowns after it say of
  it, in units of its standard deviation.

  Args:
    information: (n, n) mean normal matrix of the clip's frames.
  """
  information = np.asarray(information, np.float64)
  return np.linalg.cholesky(information + CORRELATED * np.diag(np.diagonal(information)))


def second_differences(n: int, times: Array | None = None, dtype=jnp.float32) -> tuple[Array, Array]:
  """(n - 2, n) matrix of the accelerations of n frames, and (n - 2,) the time that each one stands for.

  Args:
    times: (n,) of the frames, rising, in units of the usual spacing; None: evenly spaced.
  """
  if times is None:
    return jnp.diff(jnp.eye(n, dtype=dtype), n=2, axis=0), jnp.ones(n - 2, dtype)
  steps = jnp.maximum(jnp.diff(times), CLOSEST).astype(dtype)
  before, after = steps[:-1], steps[1:]
  span = 0.5 * (before + after)
  rows = jnp.arange(n - 2)
  matrix = jnp.zeros((n - 2, n), dtype)
  matrix = matrix.at[rows, rows].set(1.0 / (before * span)).at[rows, rows + 2].set(1.0 / (after * span))
  return matrix.at[rows, rows + 1].set(-(1.0 / before + 1.0 / after) / span), span


def claimed_variance(variance: Array) -> Array:
  """() what is claimed for a usual frame of (T,) variances, inf where there is no estimate: their harmonic mean."""
  known = jnp.isfinite(variance)
  precision = jnp.where(known, 1.0 / jnp.maximum(variance, 1e-30), 0.0)
  return _count(known, variance.dtype) / jnp.maximum(jnp.sum(precision), 1e-30)


def spectrum(x: Array, variance: Array, times: Array | None = None) -> tuple[Array, Array, Array]:
  """How much of a sequence is white.

  White noise of variance r has second differences d with autocovariances c0 = 6 r and c1 = -4 r; a smooth motion's
  differ little from frame to frame and add the same to both. So r = (c0 - c1) / 10, and the motion has the rest.
  A few wild frames shall not pass for either: differences are cut off at `WILD` times what their median says.

  Args:
    x: (T,) estimates, T >= 4.
    variance: (T,) as the frames claim; inf for those that do not count.
    times: (T,) as in `second_differences`.

  Returns:
    r (); c0 (); how many second differences were known ().
  """
  known = jnp.isfinite(variance)
  if times is None:
    d, lag = x[2:] - 2 * x[1:-1] + x[:-2], -4.0
  else:
    # In units in which they have the noise of evenly spaced ones.
    before, after = (jnp.maximum(h, CLOSEST) for h in (jnp.diff(times)[:-1], jnp.diff(times)[1:]))
    a, c = 2.0 / (before * (before + after)), 2.0 / (after * (before + after))
    unit = jnp.sqrt(6.0 / (a**2 + c**2 + (a + c) ** 2))
    a, c = a * unit, c * unit
    d, lag = a * x[:-2] - (a + c) * x[1:-1] + c * x[2:], -(a + c)[:-1] * a[1:] - c[:-1] * (a + c)[1:]
  ok = known[2:] & known[1:-1] & known[:-2]
  both = ok[1:] & ok[:-1]
  most = WILD * 1.4826 * jnp.nan_to_num(jnp.nanmedian(jnp.where(ok, jnp.abs(d), jnp.nan)))
  d = jnp.where(ok, jnp.clip(d, -most, most), 0.0)
  c0 = jnp.sum(d**2) / _count(ok, x.dtype)
  c1 = jnp.sum(d[1:] * d[:-1]) / _count(both, x.dtype)
  lag = lag if times is None else jnp.sum(jnp.where(both, lag, 0.0)) / _count(both, x.dtype)
  return (c0 - c1) / (6.0 - lag), c0, jnp.sum(ok.astype(x.dtype))


def white_share(x: Array, variance: Array, times: Array | None = None) -> Array:
  """() how white a clip's motion is, in [0, 1), from what can be nothing else: larger than any noise is believed to be.

  Args:
    x, variance: (n, T) sequences as in `spectrum`, of how the head moves: speech is quicker. times: (T,).
  """
  white, c0, _ = jax.vmap(lambda x, v: spectrum(x, v, times))(x, variance)
  claimed = jax.vmap(claimed_variance)(variance)
  total = c0 / 6.0
  motion = jnp.maximum(total / claimed - MOST_NOISE, 0.0)
  share = jnp.clip(white / jnp.maximum(total, 1e-30), 0.0, 1.0)
  return jnp.sum(motion * share) / (MOST_NOISE + jnp.sum(motion))


def measure_noise(
  x: Array, variance: Array, times: Array | None = None, share: Array | float = 0.0
) -> tuple[Array, Array]:
  """Variances of white noise () and of true accelerations () in a sequence.

  What is white is noise, as far as the clip's motion is not white itself and the frames' own variances can be believed
  to be too small.

  Args:
    x, variance, times: as in `spectrum`.
    share: () of the clip's motion that is white (`white_share`).
  """
  white, c0, count = spectrum(x, variance, times)
  claimed = claimed_variance(variance)
  # White sequences have white / (c0 / 6) = 1 with a standard deviation of .6 / sqrt(count).
  motion = share * (1.0 + 2 * 0.6 / jnp.sqrt(jnp.maximum(count, 1.0))) * c0 / 6.0
  noise = jnp.clip(white - motion, 1e-6 * claimed, MOST_NOISE * claimed)
  noise = jnp.maximum(noise, 1e-20)
  believed = jnp.clip(count / SHORT - 1.0, 1e-6, 1.0)
  return believed * noise, jnp.maximum(c0 - 6.0 * noise, LEAST_MOTION * noise)


def smooth(
  x: Array, variance: Array, noise: Array, acceleration: Array, tail: float = TAIL, times: Array | None = None
) -> Array:
  """A minimum over y of sum_t w_t (y_t - x_t)^2 / noise + sum_t rho(a_t^2 / acceleration) with accelerations a of y.

  The weights w_t are inverse to the frames' variances, 1 on average. rho(z) = (1 + 1/tail) log(1 + tail z), which is
  z (1 + tail) for usual accelerations and grows slowly from there on; rho(z) = z without a tail. It is found by solving
  `SOLVES` + 1 linear systems, each with the weights that rho gives to the accelerations of the former.

  Of k sequences that accelerate at the same moments z is the sum over the k, and 1 in (1 + 1/tail) becomes k: a t
  distribution in k dimensions.

  Args:
    x: (T,) or (k, T) estimates; something between the neighbours where there is none.
    variance: as `x`, as the frames claim; inf where there is no estimate.
    noise, acceleration: () or (k,) variance of the noise, squared scale of the accelerations.
    tail: inverse degrees of freedom of the accelerations.
    times: (T,) as in `second_differences`; an acceleration counts for as long as it stands for.

  Returns:
    As `x`.
  """
  return x + _solve(x, variance, noise, acceleration, tail, times)[0].reshape(x.shape)


def left_out(
  x: Array, variance: Array, noise: Array, acceleration: Array, tail: float = TAIL, times: Array | None = None
) -> tuple[Array, Array]:
  """How far each estimate is from what the others say, and how far `smooth` follows them.

  The last of `smooth`'s systems is linear, y = S x, so that the solution without frame t is known at once: its value
  at t is x_t - (x_t - y_t) / (1 - S_tt).

  Args:
    as `smooth`'s.

  Returns:
    As `x`: estimate minus prediction from all other frames (with the accelerations' weights as they are); 1 - S_tt.
  """
  change, factor, weight = _solve(x, variance, noise, acceleration, tail, times)
  eye = jnp.eye(x.shape[-1], dtype=x.dtype)
  root = jax.vmap(lambda f: jax.scipy.linalg.solve_triangular(f, eye, lower=True))(factor)
  free = jnp.clip(1.0 - jnp.sum(root**2, axis=1) * weight, 1e-6, 1.0)
  return (-change / free).reshape(x.shape), free.reshape(x.shape)


def followed(error: Array, free: Array, variance: Array, noise: Array) -> Array:
  """(T,) change of the estimates towards what their neighbours say, if these have kept the smoother's promise.

  The model of noise and motion that weighs neighbours against the frame itself promises how far off the predictions of
  left-out frames are: each its own, little at rest and much in motion. As long as they keep the promise on average (to
  three standard deviations of a mean square of Gaussian errors), it is believed. If not, the model is wrong, and with
  it what it says of single frames. Then two opinions are weighed, the frame's own, whose variance is the noise, and the
  neighbours', whose variance is their mean square error on left-out frames less the noise in it: that mean is better
  than either, however badly neighbours predict.

  Args:
    error, free: (T,) of `left_out`.
    variance: (T,) as the frames claim; inf where there is no estimate.
    noise: () of `measure_noise`.
  """
  known = jnp.isfinite(variance)
  own = noise * jnp.where(known, variance, 1.0) / claimed_variance(variance)
  most = WILD * 1.4826 * jnp.nan_to_num(jnp.nanmedian(jnp.where(known, jnp.abs(error), jnp.nan)))
  square = jnp.minimum(jnp.abs(error), most) ** 2  # a few wild frames do not count
  mean = lambda a: jnp.sum(jnp.where(known, a, 0.0)) / _count(known, error.dtype)
  theirs = jnp.maximum(mean(square) - noise, 0.0)
  kept = mean(square * free / own) <= 1.0 + WILD * jnp.sqrt(2.0 / _count(known, error.dtype))
  weight = jnp.where(kept, free, jnp.minimum(free, 1.0 / (1.0 + theirs / own)))
  return -jnp.where(known, weight, 1.0) * error


def within(change: Array, information: Array, limit: Array) -> Array:
  """(n,) a frame's change, made shorter where change^T information change would be above `limit` ()."""
  size = jnp.sum(change * jnp.matmul(information, change, precision=HIGHEST))
  return change * jnp.where(size > limit, jnp.sqrt(limit / jnp.maximum(size, 1e-30)), 1.0)


def _solve(x, variance, noise, acceleration, tail, times) -> tuple[Array, Array, Array]:
  """The changes (k, T), the Cholesky factors (k, T, T) of the last systems and the frames' weights (k, T)."""
  n = x.shape[-1]
  x, variance = x.reshape(-1, n), variance.reshape(-1, n)
  noise, acceleration = jnp.reshape(noise, (-1, 1)), jnp.reshape(acceleration, (-1, 1))
  known = jnp.isfinite(variance)
  precision = jnp.where(known, 1.0 / jnp.maximum(variance, 1e-30), 0.0)
  weight = precision * jax.vmap(claimed_variance)(variance)[:, None]
  second, span = second_differences(n, times, x.dtype)
  accelerations = lambda x: jnp.matmul(x, second.T, precision=HIGHEST)
  own = accelerations(x)

  def weights(d: Array, usual: Array) -> Array:
    return (1.0 + tail * len(x)) / (1.0 + tail * jnp.sum(d**2 / usual, axis=0))

  def change(usual: Array) -> tuple[Array, Array]:
    # Solved for the change, whose right side is the estimates' own acceleration: nothing large cancels.
    def one(weight, stiffness, own):
      matrix = jnp.diag(weight + RIDGE) + jnp.matmul(second.T * stiffness[None], second, precision=HIGHEST)
      right = -jnp.matmul(second.T, stiffness * own, precision=HIGHEST)
      factor = jnp.linalg.cholesky(matrix)
      return jax.scipy.linalg.cho_solve((factor, True), right), factor

    return jax.vmap(one)(weight, noise / acceleration * (usual * span)[None], own)

  def again(_, usual: Array) -> Array:
    return weights(own + accelerations(change(usual)[0]), acceleration)

  # The estimates' own accelerations have the noise of three frames in them.
  usual = weights(own, acceleration + 6.0 * noise)
  if tail > 0:
    usual = lax.fori_loop(0, SOLVES, again, usual)
  return *change(usual), weight


def _count(mask: Array, dtype) -> Array:
  return jnp.maximum(jnp.sum(mask.astype(dtype)), 1.0)
