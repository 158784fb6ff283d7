"""How sure the focal length of a rigid bundle is.

The errors of tracks are not independent: those of a point are correlated in time, and those of neighbouring points
have the same causes (light, a mesh that is beside the skin). The normal matrix counts every observation as a witness
of its own and understates the focal length's standard deviation several times. So the influence of all that a region
of the skin says is summed first, and regions count as independent (a sandwich estimator with clusters).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vht_jax.texture_tracks.rigid import (
  HIGHEST,
  LOG_FOCAL_SD,
  Problem,
  State,
  cauchy,
  jacobians,
  prior_precision,
  reduced,
  residuals,
  system,
)
from vht_jax.types import Array

N_CLUSTERS = 40  # regions of the skin, some 3 cm^2 each
# What all regions have in common, of the focal length: measured on scanned heads whose views spread by so much (rms).
# What a camera's perspective makes of a turning head grows with the angle, so the floor falls with it.
FLOOR, SPREAD = 0.015, 0.4  # rad


def clusters(X: Array, seen: Array, n: int = N_CLUSTERS) -> Array:
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
  """Standard deviations () of log focal at a solution: by clusters, with the floor; and by the normal matrix alone."""
  found = system(problem, state)
  matrix, _, factor, cross = reduced(found, 0.0)
  chol = jnp.linalg.cholesky(matrix)
  focal = matrix.shape[0] - 3
  unit = jnp.zeros(matrix.shape[0], matrix.dtype).at[focal].set(1.0)
  column = jax.scipy.linalg.cho_solve((chol, True), unit)
  naive = jnp.sqrt(column[focal])
  # How a change of the gradient moves log focal: `column`, and through the points that follow.
  half = jnp.einsum("kbm,m->kb", cross, column, precision=HIGHEST)
  of_points = -jax.lax.linalg.triangular_solve(factor, half[..., None], left_side=True, lower=True, transpose_a=True)
  of_points = of_points[..., 0]
  r = residuals(problem, state)
  by_pose, by_shared, by_point = jacobians(problem, state)
  influence = (
    jnp.einsum("tkab,tb->tka", by_pose, column[:-3].reshape(-1, 6), precision=HIGHEST)
    + jnp.einsum("tkab,b->tka", by_shared, column[-3:], precision=HIGHEST)
    + jnp.einsum("tkab,kb->tka", by_point, of_points, precision=HIGHEST)
  )
  said = jnp.einsum("tka,tka,tk->k", influence, r, cauchy(r)[0], precision=HIGHEST)
  said = said + jnp.sum(of_points * state.moved, -1)  # the mesh, from which the points have moved
  cluster = clusters(problem.X0, jnp.any(problem.inverse_sd > 0, 0))
  sums = jnp.zeros(N_CLUSTERS, r.dtype).at[cluster].add(said)
  n = jnp.sum(jnp.zeros(N_CLUSTERS, r.dtype).at[cluster].max(jnp.any(problem.inverse_sd > 0, 0).astype(r.dtype)))
  _, precision = prior_precision(r.dtype)
  variance = jnp.sum(sums**2) * n / jnp.maximum(n - 1, 1.0) + jnp.sum(column[-3:] ** 2 * precision)
  # The prior alone knows it as well as this; a matrix that is not positive definite knows nothing.
  floor = FLOOR * jnp.maximum(1.0, SPREAD / jnp.maximum(view_spread(problem, state), 1e-3))
  sd = jnp.sqrt(variance + floor**2)
  sd = jnp.where(jnp.isfinite(sd), jnp.minimum(sd, LOG_FOCAL_SD), LOG_FOCAL_SD)
  return sd, naive
