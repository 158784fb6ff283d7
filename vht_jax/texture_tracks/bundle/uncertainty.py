"""How sure the focal length of a rigid bundle is.

The errors of tracks are not independent: those of a point are correlated in time, and those of neighbouring points
have the same causes (light, a mesh that is beside the skin). The normal matrix counts every observation as a witness
of its own and understates the focal length's standard deviation several times. So the skin is divided into regions that
count as independent, and how much the answer depends on them is seen by leaving out one after the other (a jackknife
over groups, Tukey 1958; the sandwich estimator is its limit for many observations per unknown, which these are not).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vht_jax.fit.solvers.least_squares import arrow_step, eliminate_frames
from vht_jax.texture_tracks.bundle.rigid import N_SHARED, SHARED, Problem, State, system
from vht_jax.types import AnyArray, Array

N_CLUSTERS = 20  # regions of the skin, some 6 cm^2 each
# What all regions have in common, of the focal length: measured on scanned heads whose views spread by so much (rms).
# What a camera's perspective makes of a turning head grows with the angle, so the floor falls with it.
FLOOR, SPREAD = 0.015, 0.4  # rad


def clusters(X: AnyArray, seen: Array, n: int = N_CLUSTERS) -> Array:
  """(K,) i32: points grouped by the nearest of n of them that are far from each other (K, 3); `seen` (K,) count."""
  far = jnp.where(seen, jnp.inf, -1.0)

  def pick(distance, _):
    k = jnp.argmax(distance)
    own = jnp.sum((X - X[k][None]) ** 2, -1)
    return jnp.minimum(distance, jnp.where(seen, own, -1.0)), own

  _, distances = jax.lax.scan(pick, far.astype(X.dtype), None, length=n)
  return jnp.argmin(distances, axis=0).astype(jnp.int32)


def view_spread(problem: Problem, state: State) -> Array:
  """() rad, rms angle of the camera's axis in the head frame to its mean, over the frames that see points."""
  counts = jnp.any(problem.inverse_sd > 0, 1).astype(state.R.dtype)[:, None]
  axes = state.R[:, 2]
  n = jnp.maximum(jnp.sum(counts), 1.0)
  mean = jnp.sum(counts * axes, 0) / n
  return jnp.sqrt(jnp.sum(counts * (axes - mean[None]) ** 2) / n)


def focal_deviation(problem: Problem, state: State) -> tuple[Array, Array]:
  """Standard deviations () of log focal at a solution: honest, and by the normal matrix alone."""
  _, _, matrix, _ = eliminate_frames(system(problem, state), 0.0)
  focal = matrix.shape[0] + SHARED.from_end("log_focal").start
  unit = jnp.zeros(matrix.shape[0], matrix.dtype).at[focal].set(1.0)
  column = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), unit)
  seen = jnp.any(problem.inverse_sd > 0, 0)
  cluster = clusters(problem.X0, seen)
  used = jnp.zeros(N_CLUSTERS, bool).at[cluster].max(seen)

  def without(c):  # how far log focal goes, to first order
    rest = problem.replace(inverse_sd=jnp.where((cluster == c)[None], 0.0, problem.inverse_sd))
    return arrow_step(system(rest, state), 0.0)[1][focal]

  moves = jax.lax.map(without, jnp.arange(N_CLUSTERS, dtype=jnp.int32))
  n = jnp.maximum(jnp.sum(used.astype(moves.dtype)), 2.0)
  moves = jnp.where(used, moves, 0.0)
  moves = jnp.where(used, moves - jnp.sum(moves) / n, 0.0)
  # What the priors of the camera contribute, which no region says.
  prior = jnp.sum(column[-N_SHARED:] ** 2 * (1 / problem.sd**2))
  floor = FLOOR * jnp.maximum(1.0, SPREAD / jnp.maximum(view_spread(problem, state), 1e-3))
  sd = jnp.sqrt((n - 1) / n * jnp.sum(moves**2) + prior + floor**2)
  # The prior alone knows it as well as this; a matrix that is not positive definite knows nothing.
  by_prior = SHARED.split(problem.sd)["log_focal"]
  return jnp.where(jnp.isfinite(sd), jnp.minimum(sd, by_prior), by_prior), jnp.sqrt(column[focal])
