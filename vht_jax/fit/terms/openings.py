"""Openings: how far lids and lips are apart.

Offsets are constant, so an eye that the detector sees shut stays ajar by as much as open eyes are seen too narrow. But
lids that touch are seen to touch, whatever the bias of single points. So these rows are without offsets, and they fade
out where the opening is observed to be wide, because there a difference is as biased as its points are.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks
from vht_jax.fit.terms.landmarks import predicted, robust
from vht_jax.fit.terms.term import Linearised
from vht_jax.fit.unknowns import At, where
from vht_jax.head import points as pts

HIGHEST = jax.lax.Precision.HIGHEST
# Opposite points of the lids and of the inner lips: upper, lower.
OPENINGS = np.array([(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)])
OPEN = 0.04  # in outer eye distances; an eye is 0.1 open, and here the weight of an opening has fallen to a half


@flax.struct.dataclass
class Openings:
  """Differences of opposite points, 7 rows; knows the head, shape and camera."""

  model: LandmarkModel

  def linearise(self, at: At, observation: ObservedLandmarks) -> Linearised:
    model, x = self.model, at.x
    upper, lower = OPENINGS.T
    apart = lambda a: a[upper] - a[lower]
    offset, turn = apart(at.shared.offset), where("rotation")
    seen = predicted(model, at, observation.bias_scale)

    def shift(angles):  # what the offsets add to the predicted differences
      rows = pts.frontal_rotation(angles)[:2]
      return observation.bias_scale * jnp.matmul(offset, rows.T, precision=HIGHEST)

    d_x = apart(seen.d_x).at[:, :, turn].add(-jax.jacfwd(shift)(x[turn]))
    both = observation.inverse_sd[upper] * observation.inverse_sd[lower]
    both = jnp.where(both > 0, jnp.sqrt(jnp.where(both > 0, both, 1.0)), 0.0)  # the root has no derivative at 0
    # From the points' own 1 / sd, which knows their confidence and the size of the head in the image.
    relative = jnp.sqrt(model.relative_sd[upper] * model.relative_sd[lower]) / model.relative_opening_sd
    wide = jnp.sum(apart(observation.uv) ** 2, -1) / (OPEN * model.eye_distance * observation.bias_scale) ** 2
    scale = (both * relative / (1 + wide))[:, None]
    residual = (apart(seen.uv - observation.uv) - shift(x[turn])) * scale
    root, cost = robust(residual)
    scale = scale[..., None]
    return Linearised(
      residual, {"head": d_x * scale}, {name: apart(d) * scale for name, d in seen.d_shared.items()}, root, cost
    )
