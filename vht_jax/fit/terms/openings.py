"""Openings: how far lids and lips are apart.

Offsets are constant, so an eye that the detector sees shut stays ajar by as much as open eyes are seen too narrow. But
lids that touch are seen to touch, whatever the bias of single points. So these rows are of the points themselves, and
they fade out where the opening is observed to be wide, because there a difference is as biased as its points are.
"""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp

from vht_jax.fit.observed import OPENINGS, LandmarkModel, ObservedLandmarks, touching
from vht_jax.fit.terms.landmarks import robust
from vht_jax.fit.terms.term import Linearised
from vht_jax.fit.unknowns import At
from vht_jax.head import points as pts


class Openings(flax.struct.PyTreeNode):
  """Differences of opposite points, 7 rows; knows the head, shape and camera."""

  model: LandmarkModel

  def linearise(self, at: At, observation: ObservedLandmarks) -> Linearised:
    model = self.model
    upper, lower = OPENINGS.T
    seen = pts.seen(*pts.some(OPENINGS.T.reshape(-1), model.points, at.placed(model.points)), at.shared)
    apart = lambda a: a[: len(OPENINGS)] - a[len(OPENINGS) :]
    both = observation.inverse_sd[upper] * observation.inverse_sd[lower]
    both = jnp.where(both > 0, jnp.sqrt(jnp.where(both > 0, both, 1.0)), 0.0)  # the root has no derivative at 0
    # From the points' own 1 / sd, which knows their confidence and the size of the head in the image. It is 0 where
    # their sd is infinite, which 0 times that would not be.
    sd = jnp.where(jnp.isfinite(model.relative_sd), model.relative_sd, 1.0)
    relative = jnp.sqrt(sd[upper] * sd[lower]) / model.relative_opening_sd
    observed = observation.uv[upper] - observation.uv[lower]
    near = touching(observation.uv, model.eye_distance * observation.bias_scale)
    scale = (both * relative * near)[:, None]
    residual = (apart(seen.beside) - observed) * scale
    root, cost = robust(residual)
    scale = scale[..., None]
    return Linearised(
      residual,
      {"head": apart(seen.d_x) * scale},
      {name: apart(d) * scale for name, d in seen.d_shared.items()},
      root,
      cost,
    )
