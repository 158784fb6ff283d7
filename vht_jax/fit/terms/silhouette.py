"""The outline of a posed head against the outline of a person's mask: by how much the surface has to grow there.

Points on the mesh's outline are moved along a direction of their vertices' own, each by a height that is estimated
(`fit.offsets`). A point should come to lie on a line of the image: that of the mask's signed distance field where the
point is, or the tangent of a point of the mask's outline to which it is the nearest.
"""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp

from vht_jax.types import AnyArray, Array

IMPOSSIBLE = 2.5  # standard deviations of a height at which a point counts half


class Moved(flax.struct.PyTreeNode):
  """The vertices of one frame in a window of its image, and how they go with their heights."""

  pixels: Array  # (V, 2) px of the window
  slopes: Array  # (V, 2) px per metre of height
  per_metre: Array  # () px of the window per metre at the head


class Pulls(flax.struct.PyTreeNode):
  """N points of the outline of one frame, and where they should be."""

  corners: AnyArray  # (N, 3) i32 vertex ids
  bary: AnyArray  # (N, 3) f32
  normal: AnyArray  # (N, 2) f32 unit vectors of the image, along which the distance is
  distance: AnyArray  # (N,) f32 px of the window, by which the point should move along the normal
  weight: AnyArray  # (N,) f32, 1 / variance, 1 / px^2


def residual(moved: Moved, pulls: Pulls, change: Array) -> Array:
  """(N,) px by which the points lack their lines when the vertices are `change` (V,) metres farther out than now."""
  way = jnp.sum(pulls.bary[..., None] * (change[:, None] * moved.slopes)[pulls.corners], axis=1)
  return jnp.sum(way * pulls.normal, axis=-1) - pulls.distance


def normal_diagonal(moved: Moved, pulls: Pulls, height: Array, sd: Array) -> tuple[Array, Array]:
  """A sum of squares of one height each that lies above that of `residual` everywhere and touches it where it is now.

  A point's height is a mean of its corners' h, and the square of a mean is at most the mean of the squares: so each
  corner is asked for the whole distance, with its share of the weight. The normal matrix has a diagonal only.

  Args:
    moved, pulls: of a frame.
    height: (V,) m of the vertices at `moved`; the minimum is sought among heights on the same scale.
    sd: (V,) m, what heights there are. A point that would need `IMPOSSIBLE` of them is of something else.

  Returns:
    (V,) curvatures and (V,) right sides, in units of variances: the minimum of one is at right side / curvature.
  """
  slope = jnp.sum(moved.slopes[pulls.corners] * pulls.normal[:, None], axis=-1)  # (N, 3) px per m
  wanted = pulls.distance[:, None] + slope * height[pulls.corners]
  usual = jnp.sum(wanted**2, 1) / jnp.maximum(jnp.sum((slope * sd[pulls.corners]) ** 2, 1), 1e-12)
  weight = (pulls.weight / (1.0 + (usual / IMPOSSIBLE**2) ** 2))[:, None] * pulls.bary
  zero = jnp.zeros_like(height)
  return zero.at[pulls.corners].add(weight * slope**2), zero.at[pulls.corners].add(weight * slope * wanted)
