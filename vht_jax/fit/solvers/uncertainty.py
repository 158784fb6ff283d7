"""How far a frame's unknowns are known: from the normal matrix of its fit to standard deviations of its pose.

At the minimum of a sum of squares in units of their standard deviations, the inverse of the Gauss-Newton matrix is the
covariance of the unknowns (Gaussian approximation; Triggs et al., "Bundle adjustment - a modern synthesis", 2000). It
holds for the frame alone: identity, camera and the detector's bias count as known, and smoothing makes it smaller.

What a clip says of the person's shape is told likewise, all else that is estimated with it marginalised. But no number
of pixels says more than the models of skin and light hold: what these lack is a discrepancy of the shape (Kennedy and
O'Hagan, "Bayesian calibration of computer models", 2001), in every direction in proportion to how people differ.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vht_jax.fit.solvers.factor import inverse_root
from vht_jax.layout import Layout
from vht_jax.types import AnyArray, Array, Pose, ShapeInformation

HIGHEST = lax.Precision.HIGHEST
LEAST_TOLD = 1e-2  # times what is known before: directions of which a clip tells less are left out
MISFIT = 0.4  # of a shape by images: standard deviations of people by which it is wrong, whatever it has seen
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


def shape_information(information: AnyArray, layout: Layout, focal_sd: float) -> np.ndarray | None:
  """(S, S) inverse covariance of the shape of a clip, prior included; host side, in float64.

  None if there is none: the fit has lost itself, or something in it was not determined at all.

  Args:
    information: (m, m) of what frames share, these being eliminated.
    layout: of the m unknowns; "shape" and "log_focal" are among them.
    focal_sd: standard deviation of log focal length. What `information` says of that is not used: fits hold it
      with a stiff prior. To first order a shape follows it, so that cov = cov(at this focal) + s s^T focal_sd^2.
  """
  A = np.asarray(information, np.float64)
  unit = 1.0 / np.sqrt(np.maximum(np.diagonal(A), 1e-30))  # units differ by orders of magnitude
  A = A * unit[:, None] * unit[None]
  index = np.arange(layout.size)
  shape, focal = index[layout.at("shape")], index[layout.at("log_focal")]
  kept = np.concatenate([shape, focal])
  rest = np.setdiff1d(index, kept)
  try:
    A = A[np.ix_(kept, kept)] - A[np.ix_(kept, rest)] @ np.linalg.solve(A[np.ix_(rest, rest)], A[np.ix_(rest, kept)])
    A = A / unit[kept][:, None] / unit[kept][None]
    covariance = np.linalg.inv(A[:-1, :-1])
    follows = covariance @ A[:-1, -1] * focal_sd
    found = np.linalg.inv(covariance + np.outer(follows, follows))
  except np.linalg.LinAlgError:
    return None
  return 0.5 * (found + found.T) if np.isfinite(found).all() else None


def beyond_prior(information: AnyArray, prior: np.ndarray, misfit: float = 0.0) -> ShapeInformation:
  """A shape's information (S, S) as what was known before, `ShapeInformation.prior` (2, S), and what was added."""
  before = np.diag(prior[0] ** 2) + np.outer(prior[1], prior[1])
  root = np.linalg.cholesky(before)
  added = np.linalg.solve(root, np.linalg.solve(root, np.asarray(information, np.float64) - before).T)
  values, vectors = np.linalg.eigh(0.5 * (added + added.T))
  told = values > LEAST_TOLD
  data = np.sqrt(values[told])[:, None] * (root @ vectors[:, told]).T
  return ShapeInformation(
    prior=prior.astype(np.float32), data=data.astype(np.float32), misfit=np.asarray(misfit, np.float32)
  )


def _or_inf(variance: Array) -> Array:
  return jnp.where(jnp.isfinite(variance), variance, jnp.inf)
