"""How far a frame's unknowns are known: from the normal matrix of its fit to standard deviations of its pose.

At the minimum of a sum of squares in units of their standard deviations, the inverse of the Gauss-Newton matrix is the
covariance of the unknowns (Gaussian approximation; Triggs et al., "Bundle adjustment - a modern synthesis", 2000). It
holds for the frame alone: identity, camera and the detector's bias count as known, and smoothing makes it smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from vht_jax.fit.solvers.factor import inverse_root
from vht_jax.types import Array, Pose

HIGHEST = lax.Precision.HIGHEST
RIDGE = 3e-6  # of the unit diagonal: float32 factors a matrix of this condition


def root_covariance(information: Array) -> Array:
  """(n, n) matrix R with R^T R the covariance of the unknowns of one frame, from its normal matrix (n, n).

  Scaled to a unit diagonal first, because the unknowns' units differ by orders of magnitude, and with a little of it
  added, because root and neck can hardly be told apart. A root, so that no variance comes out negative.
  """
  unit = 1.0 / jnp.sqrt(jnp.maximum(jnp.diagonal(information), 1e-30))
  eye = jnp.eye(len(unit), dtype=unit.dtype)
  return inverse_root(information * jnp.outer(unit, unit) + RIDGE * eye) * unit[None]


def marginal_variance(information: Array) -> Array:
  """(n,) variances of the unknowns of one frame from its normal matrix (n, n); inf where that is singular."""
  return _or_inf(jnp.sum(root_covariance(information) ** 2, axis=0))


def pose_deviation(to_pose: Callable[[Array], Pose], x: Array, information: Array) -> Pose:
  """Standard deviations of every number of a frame's pose, to first order.

  Args:
    to_pose: the pose of unknowns.
    x: (n,) the unknowns at the minimum.
    information: (n, n) the normal matrix there.

  Returns:
    A `Pose` of standard deviations, in the units of its fields; inf where the matrix is singular, 0 for what the fit
    holds fixed.
  """
  root = root_covariance(information)

  def deviation(jacobian):
    J = jacobian.reshape(-1, len(x))
    variance = jnp.sum(jnp.matmul(root, J.T, precision=HIGHEST) ** 2, axis=0)
    return jnp.sqrt(_or_inf(variance)).reshape(jacobian.shape[:-1])

  return jax.tree.map(deviation, jax.jacfwd(to_pose)(x))


def _or_inf(variance: Array) -> Array:
  return jnp.where(jnp.isfinite(variance), variance, jnp.inf)
