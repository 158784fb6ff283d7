"""A height for each vertex, by which a person's head is farther out than its codes say: hair, ears, the neck.

What is estimated is one number for each vertex, along a direction that is smooth over the head (`Skin.direction`): the
thickness of what lies on the skull. Outlines show it where they pass, and a thickness that bends little is the best
guess for the rest. Where landmarks know the surface, on the face, it is 0.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.types import AnyArray, Array

SLOPE_SD = 0.5  # standard deviation of the height's slope: hair grows by a centimetre in two
BEND_SD = 20.0  # 1/m, of its Laplacian
MIRROR_SD = 0.02  # m, of the difference between both sides
# m; means over squares of this side are independent of each other, of slopes and of heights.
SLOPE_PATCH, PATCH = 0.01, 0.1
CG_STEPS, CG_TOL = 400, 1e-4


class Skin(flax.struct.PyTreeNode):
  """What is known of heights before anything is seen, on one head."""

  direction: AnyArray  # (V, 3) f32 unit vectors, head frame
  sd: AnyArray  # (V,) f32, m, of the height; 0 where it is none
  area: AnyArray  # (V,) f32, m^2, of the surface around each vertex
  neighbours: AnyArray  # (V, D) i32, padded with the vertex itself
  weights: AnyArray  # (V, D) f32, of the Laplacian's integral over `area`; 0 in the padding; symmetric
  mirrored: AnyArray  # (V,) i32, the vertex on the other side; itself where there is none


def laplacian(skin: Skin, height: AnyArray) -> AnyArray:
  """(V,) integral of the height's Laplacian over each vertex' area, m."""
  return jnp.sum(skin.weights * (height[skin.neighbours] - height[:, None]), axis=1)


def prior_of(skin: Skin, height: AnyArray) -> AnyArray:
  """(V,) the prior's normal matrix times heights (V,), in 1 / m."""
  curved = laplacian(skin, height)
  bend = laplacian(skin, curved / skin.area) / (BEND_SD * SLOPE_PATCH) ** 2
  slope = curved / (SLOPE_SD * SLOPE_PATCH) ** 2
  other = 0.5 * (skin.area + skin.area[skin.mirrored]) * (height - height[skin.mirrored])
  return bend - slope + 2.0 * other / (MIRROR_SD * PATCH) ** 2


def solve(skin: Skin, curvature: Array, right: Array, start: Array) -> Array:
  """The most probable heights (V,), m, given what outlines say; by conjugate gradients.

  Args:
    skin: the prior.
    curvature, right: (V,) sums over frames of `silhouette.normal_diagonal`, in metres.
    start: (V,) heights to begin with.
  """
  sd = skin.sd  # heights are sought in units of it, so that those that are held stay 0
  own = sd**2 * curvature + skin.area / PATCH**2
  total = jnp.sum(skin.weights, 1)
  bend = total**2 / skin.area + jnp.sum(skin.weights**2 / skin.area[skin.neighbours], 1)
  scale = own + sd**2 * (bend / (BEND_SD * SLOPE_PATCH) ** 2 + total / (SLOPE_SD * SLOPE_PATCH) ** 2)

  def matrix(u: Array) -> AnyArray:
    return own * u + sd * prior_of(skin, sd * u)

  first = jnp.where(sd > 0, start / jnp.where(sd > 0, sd, 1.0), 0.0)
  found = jax.scipy.sparse.linalg.cg(matrix, sd * right, first, tol=CG_TOL, maxiter=CG_STEPS, M=lambda u: u / scale)
  return sd * found[0]
