"""Texture tracks: points that stay on the skin, in every frame; and what their places in space say of the shape.

A track's point is a corner of the skin's texture. Its place on the head is known from a rigid bundle adjustment
(`texture_tracks.bundle.rigid`) and moves with the expression as the mesh does there. So tracks hold the head's motion,
where landmarks slide; landmarks keep what tracks do not know: which point of the face is which, and lids and lips.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.fit.terms.term import Entry, Linearised
from vht_jax.fit.unknowns import At, part
from vht_jax.head import points as pts
from vht_jax.head.points import Points
from vht_jax.types import AnyArray, Array

HIGHEST = jax.lax.Precision.HIGHEST
CAUCHY = 1.0  # standard deviations at which a residual counts half, in the rigid bundle too
# m, of a point's place across the skin, beyond which it counts ever less: 0.2 to 0.4 mm from two scans on
# average, but neighbours err together: a hundred say what twenty would.
PLACE_SD = 0.001


class ObservedSkin(flax.struct.PyTreeNode):
  """Tracks of one frame."""

  uv: AnyArray  # (K, 2) units of the longer side, from the image centre
  inverse_sd: AnyArray  # (K,) 1 / those units; 0: not seen


class Skin(flax.struct.PyTreeNode):
  """The tracked points of a clip; always as many, so that one program serves all clips."""

  points: Points  # K, the identity folded in; posed with the clip's middle expression they are where the tracks say
  observed: ObservedSkin  # leading axis T
  by_shape: AnyArray  # (K, S) m: how far the shape moves the mesh there, along its normal
  place: AnyArray  # (K,) m: along the normal, from the mesh of the shape 0 to the tracked point
  counted: AnyArray  # (K,) 1 for points, 0 for padding


class SkinPoints(flax.struct.PyTreeNode):
  """Every track beside its point; knows the head and the camera."""

  points: Points

  def linearise(self, at: At, observation: ObservedSkin) -> Linearised:
    seen = pts.see(self.points, at.x, at.shared.replace(shape=at.shared.shape[:0]))
    scale = observation.inverse_sd[:, None]
    residual = (seen.uv - observation.uv) * scale
    shared = {name: d * scale[..., None] for name, d in seen.d_shared.items() if name != "shape"}
    return Linearised(residual, {"head": seen.d_x * scale[..., None]}, shared, *cauchy(residual))


class SkinShape(flax.struct.PyTreeNode):
  """The mesh passes through the tracked points; knows the shape."""

  by_shape: AnyArray  # of `Skin`, as the others
  place: AnyArray
  counted: AnyArray

  def linearise(self, at: At, observation: None = None) -> Linearised:
    del observation
    by_shape, scale = jnp.asarray(self.by_shape), self.counted / PLACE_SD
    off = (jnp.matmul(by_shape, at.shared.shape, precision=HIGHEST) - self.place) * scale
    residual, by_shape = off[:, None], (by_shape * scale[:, None])[:, None]
    return Linearised(residual, {}, {"shape": by_shape}, *cauchy(residual))


def cauchy(residual: Array) -> tuple[Array, Array]:
  """Cauchy on the length of vectors (N, k): square roots of the IRLS weights (N,), and the cost ()."""
  square = jnp.sum(residual**2, -1) / CAUCHY**2
  return jax.lax.rsqrt(1 + square), CAUCHY**2 * jnp.sum(jnp.log1p(square))


def skin_entries(skin: Skin | None) -> list[Entry]:
  """What tracks know of frames; of one frame or, with the leading axis, of many."""
  return [] if skin is None else [(SkinPoints(skin.points), skin.observed)]


def skin_priors(skin: Skin | None) -> list[Entry]:
  return [] if skin is None else [(SkinShape(skin.by_shape, skin.place, skin.counted), None)]


def at_places(points: Points, places: Array, x: Array) -> Points:
  """The points with templates such that they are at `places` (K, 3), head frame, when they are posed by `x`.

  Args:
    points: the identity folded in.
    x: (E + 14,); where its pose places the head does not matter.
  """
  _, joints = pts.shaped_points(points, jnp.zeros(0, x.dtype), part(x, "expr"))
  rotations, translations, feature = pts.joint_transforms(pts.joint_angles(pts.POSE.split(x[-pts.N_POSE :])), joints)
  blend_R = jnp.einsum("nj,jab->nab", points.lbs_weights, rotations, precision=HIGHEST)
  blend_t = jnp.matmul(points.lbs_weights, translations, precision=HIGHEST)
  posed = jnp.linalg.solve(blend_R, (places - blend_t)[..., None])[..., 0]
  correctives = jnp.matmul(points.posedirs, feature[: points.posedirs.shape[-1]], precision=HIGHEST)
  moved = jnp.matmul(points.exprdirs, part(x, "expr"), precision=HIGHEST)
  return points.replace(template=posed - correctives - moved)
