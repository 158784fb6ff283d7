"""A person's own slide: how the detector's points move over this face with the view, beyond what people have in common.

Where the head is in every frame is known from its texture (`texture_tracks`), so what landmarks do beside it is theirs:
for each landmark, a constant and slopes in yaw and pitch by linear least squares, with the spread over people as the
prior (`view_bias.deviation_covariance`). Expression counts as noise; errors of consecutive frames are alike, so that
frames count for less than their number.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks
from vht_jax.fit.terms.landmarks import predict_and_jacobian, view_of
from vht_jax.fit.unknowns import Shared
from vht_jax.head import points as pts
from vht_jax.head import view_bias
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
# Frames over what they are worth with errors of this correlation from one to the next (first-order autoregression).
ALIKE = (1 + view_bias.LAG_NOISE) / (1 - view_bias.LAG_NOISE)


class Moments(flax.struct.PyTreeNode):
  """Sums over frames for N landmarks with 9 unknowns each: constant, slope in yaw, slope in pitch."""

  matrix: Array  # (N, 9, 9)
  vector: Array  # (N, 9)
  square: Array  # (N,)
  count: Array  # (N,) coordinates


def moments(model: LandmarkModel, observed: ObservedLandmarks, shared: Shared, x: Array) -> Moments:
  """Of one frame.

  Args:
    model: with the identity folded in, and no slide but the mean.
    x: the pose is the texture's, the expression the clip's middle one.
  """
  seen = predict_and_jacobian(model, pts.placed_by(model.points, x, shared), shared)
  sines = view_of(x, shared)
  factors = jnp.concatenate([jnp.ones(1, sines.dtype), sines])
  by = (factors[None, None, :, None] * seen.by_head[:, :, None, :]).reshape(*seen.beside.shape, 9)
  by = by * observed.inverse_sd[:, None, None]
  off = -seen.off(observed.uv) * observed.inverse_sd[:, None]
  product = lambda spec, *a: jnp.einsum(spec, *a, precision=HIGHEST)
  return Moments(
    matrix=product("npi,npj->nij", by, by),
    vector=product("npi,np->ni", by, off),
    square=jnp.sum(off**2, -1),
    count=2.0 * (observed.inverse_sd > 0).astype(off.dtype),
  )


def solve(total: Moments, covariance: np.ndarray) -> np.ndarray:
  """(N, 3, 2) m, head axes by [yaw, pitch]: slopes of each landmark beyond the mean; host side.

  Args:
    total: sums over the frames.
    covariance: (N, 3, 3, 3) m^2, priors of constant, yaw and pitch.
  """
  A, b, square, count = (np.asarray(a, np.float64) for a in (total.matrix, total.vector, total.square, total.count))
  prior = np.zeros((len(A), 9, 9))
  for k in range(3):
    prior[:, 3 * k : 3 * k + 3, 3 * k : 3 * k + 3] = np.linalg.inv(np.asarray(covariance[:, k], np.float64))

  def fit(inflation):
    share = (1 / (ALIKE * inflation))[:, None]
    return np.linalg.solve(A * share[..., None] + prior, (b * share)[..., None])[..., 0]

  first = fit(np.ones(len(A)))
  left = square - 2 * np.einsum("ni,ni->n", b, first) + np.einsum("ni,nij,nj->n", first, A, first)
  found = fit(np.maximum(left / np.maximum(count, 1), 1.0))
  return np.moveaxis(found.reshape(-1, 3, 3)[:, 1:], 1, 2).astype(np.float32)
