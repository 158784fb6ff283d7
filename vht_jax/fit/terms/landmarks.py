"""Landmarks: where a detector saw points of the head, with a constant bias of every point.

The accuracy limit of landmark tracking is not the solver but the detector's *constant* bias, which does not average
out over frames. So every point has an unknown offset in the head frame, shared by all frames and kept small by a prior
(it brings the focal length from 5 % to 0.6 % error).
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks
from vht_jax.fit.terms.term import Linearised, Own
from vht_jax.fit.unknowns import At, Shared, where
from vht_jax.head import points as pts
from vht_jax.head.points import Points
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
HUBER = 2.5  # residuals beyond this many standard deviations count linearly


@flax.struct.dataclass
class Landmarks:
  """Every landmark beside its point of the head; knows the head, shape, camera and the points' offsets."""

  model: LandmarkModel

  def linearise(self, at: At, observation: ObservedLandmarks) -> Linearised:
    seen = predicted(self.model, at, observation.bias_scale)
    scale = observation.inverse_sd[:, None]
    residual = (seen.uv - observation.uv) * scale
    root, cost = robust(residual)
    scale = scale[..., None]
    by_offset = observation.bias_scale * seen.R[:2]
    return Linearised(
      residual,
      {"head": seen.d_x * scale},
      {**{name: d * scale for name, d in seen.d_shared.items()}, "offset": Own(by_offset[None] * scale)},
      root,
      cost,
    )


def robust(residual: Array) -> tuple[Array, Array]:
  """Huber on the length of 2-vectors (N, 2): square roots of the IRLS weights (N,), and the cost ()."""
  square = jnp.sum(residual**2, -1)
  length = jnp.sqrt(square + 1e-12)
  inside = length < HUBER
  cost = jnp.where(inside, square, 2 * HUBER * length - HUBER**2)
  return jnp.sqrt(jnp.where(inside, 1.0, HUBER / length)), jnp.sum(cost)


def predicted(model: LandmarkModel, at: At, bias_scale: Array) -> pts.Seen:
  """`predict_and_jacobian`, once for all terms that look at these points."""
  return at.once((id(model), "predicted"), lambda: predict_and_jacobian(model.points, at.x, at.shared, bias_scale))


def predict(points: Points, x: Array, shared: Shared, bias_scale: Array) -> Array:
  """Where the detector should see the points, (N, 2).

  Args:
    bias_scale: () image units per metre of the head in this frame. The detector's bias is a fixed fraction of the
      face's size in the image, so it is applied in the image at this *observed* scale: applied in 3D it would reward
      a smaller head.
  """
  rows = pts.frontal_rotation(x[where("rotation")])[:2]
  return pts.locate(points, x, shared) + bias_scale * jnp.matmul(shared.offset, rows.T, precision=HIGHEST)


def predict_and_jacobian(points: Points, x: Array, shared: Shared, bias_scale: Array) -> pts.Seen:
  """`predict` with its derivatives; those by the offset of the same point are bias_scale * R[:2] for all points."""
  seen = pts.see(points, x, shared)
  bias = jnp.matmul(shared.offset, seen.R[:2].T, precision=HIGHEST)
  turned = jnp.einsum("abk,nb->nak", seen.d_R[:2], shared.offset, precision=HIGHEST)
  pose = slice(-pts.N_POSE, None)
  return seen.replace(uv=seen.uv + bias_scale * bias, d_x=seen.d_x.at[..., pose].add(bias_scale * turned))
