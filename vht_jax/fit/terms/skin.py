"""Texture tracks: points that stay on the skin, in every frame; and what their places in space say of the shape.

A track's point is a corner of the skin's texture. Its place on the head is known from a rigid bundle adjustment
(`texture_tracks.bundle.rigid`) and moves with the expression as the mesh does there. So tracks hold the head's motion,
where landmarks slide; landmarks keep what tracks do not know: which point of the face is which, and lids and lips.

What tracks of one clip have in common in error is unknown too: on smooth skin they follow shading as well, which lags
behind a head that turns, and how deep all of them lie is begun by the landmarks' head. Without that a hundred points
that lag together would count as a hundred witnesses, and colours bend the shape to what the poses should be.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.fit.terms.landmarks import robust
from vht_jax.fit.terms.priors import Near
from vht_jax.fit.terms.term import Entry, Linearised
from vht_jax.fit.unknowns import At, Shared, part
from vht_jax.head import points as pts
from vht_jax.head import view_bias
from vht_jax.head.motion import product
from vht_jax.head.points import Points
from vht_jax.types import AnyArray, Array

HIGHEST = jax.lax.Precision.HIGHEST
CAUCHY = 1.0  # standard deviations at which a residual counts half, in the rigid bundle too
# m, of a point's place across the skin, times its region's noise: 0.2 to 0.4 mm from scans on average. Beyond
# `landmarks.HUBER` of it a point's pull grows no more, but it does not vanish as Cauchy's does: the landmarks' shape,
# which is begun with, may be half a centimetre beside a whole forehead.
PLACE_SD = 0.0005
# Of what all tracks have in common beside where the landmarks put them, in units of the noise that is beyond that of
# sharp texture: how much less than the head they turn, and how much deeper they are. Gains of yaw that are wrong by 5 %
# belong to twice the noise, those of scans, within 1 %, to .5 to 1.9 times.
GAIN_SD = 0.02
RADIUS = 0.05  # m: what lags turns about anything between the face's middle and the head's, so far behind
N_PLACED, N_LAGGING = 7, 4  # of the columns of `common_fields`
N_COMMON = N_PLACED + N_LAGGING
COMMON = "skin"  # the shared unknown (N_COMMON,) that the tracks bring, in standard deviations


class ObservedSkin(flax.struct.PyTreeNode):
  """Tracks of one frame."""

  uv: AnyArray  # (K, 2) units of the longer side, from the image centre
  inverse_sd: AnyArray  # (K,) 1 / those units; 0: not seen


class Skin(flax.struct.PyTreeNode):
  """The tracked points of a clip; always as many, so that one program serves all clips."""

  points: Points  # K, the identity folded in; posed with the clip's middle expression they are where the tracks say
  fields: AnyArray  # (K, 3, N_COMMON) m, head axes: of `common_fields`
  observed: ObservedSkin  # leading axis T
  by_shape: AnyArray  # (K, S) m: how far the shape moves the mesh there, along its normal
  place: AnyArray  # (K,) m: along the normal, from the mesh of the shape 0 to the tracked point
  by_common: AnyArray  # (K, N_COMMON) m: how far what they have in common moves `place`
  belief: AnyArray  # (K,) in `place`: 1 / noise of the tracks, of which 1 is that of sharp texture; 0 for padding


class SkinPoints(flax.struct.PyTreeNode):
  """Every track beside its point; knows the head, the camera and what the tracks have in common."""

  points: Points
  fields: AnyArray  # of `Skin`

  def linearise(self, at: At, observation: ObservedSkin) -> Linearised:
    camera = at.shared.replace(shape=at.shared.shape[:0])
    fields = jnp.asarray(self.fields, at.x.dtype)
    weighed = fields * common_of(at.shared)[None, None]
    slide = weighed[..., N_PLACED::2] + weighed[..., N_PLACED + 1 :: 2]  # (K, 3, 2) by the sines
    beside = lambda sines: (jnp.sum(weighed[..., :N_PLACED], -1) + view_bias.displacement(slide, sines), slide)
    seen, sines = view_bias.see_beside(self.points, pts.placed_by(self.points, at.x, camera), camera, beside)
    scale = observation.inverse_sd[:, None]
    residual = seen.off(observation.uv) * scale
    shared = {name: d for name, d in seen.d_shared.items() if name != "shape"}
    in_view = jnp.concatenate([jnp.ones(N_PLACED, sines.dtype), jnp.repeat(sines, 2)])
    shared[COMMON] = product("nij,njk->nik", seen.by_head, fields * in_view[None, None])
    shared = {name: d * scale[..., None] for name, d in shared.items()}
    return Linearised(residual, {"head": seen.d_x * scale[..., None]}, shared, *cauchy(residual))


class SkinShape(flax.struct.PyTreeNode):
  """The mesh passes through the tracked points; knows the shape and what the points have in common."""

  by_shape: AnyArray  # of `Skin`, as the others
  place: AnyArray
  by_common: AnyArray
  belief: AnyArray

  def linearise(self, at: At, observation: None = None) -> Linearised:
    del observation
    by_shape, scale = jnp.asarray(self.by_shape), self.belief / PLACE_SD
    by_common = jnp.asarray(self.by_common)
    place = self.place + jnp.matmul(by_common, common_of(at.shared), precision=HIGHEST)
    off = (jnp.matmul(by_shape, at.shared.shape, precision=HIGHEST) - place) * scale
    by = lambda columns: (columns * scale[:, None])[:, None]
    return Linearised(off[:, None], {}, {"shape": by(by_shape), COMMON: by(-by_common)}, *robust(off[:, None]))


def common_of(shared: Shared) -> Array:
  """(N_COMMON,) what the tracks have in common: nothing where nobody has asked for it."""
  return (shared.own or {}).get(COMMON, jnp.zeros(N_COMMON, shared.log_focal.dtype))


def common_fields(places: Array, pivot: Array, noise: Array, eye_distance: Array) -> Array:
  """(K, 3, N_COMMON) m, head axes: where tracks are seen minus where their points are, in columns of one sd.

  They were put on the head where landmarks had it in a few frames, so they may be turned and moved as these err
  together (`view_bias.common_error_basis`), and as deep as the landmarks' head is (N_PLACED columns). On smooth skin
  they follow shading, which lags behind a turn: by the sine of yaw, two columns, and of pitch. Sharp texture does not:
  the noise that is beyond its own tells how much may lag.

  Args:
    places: (K, 3) m, head; pivot (3,) of `Points`.
    noise: (K,) of the tracks, in units of what they have on skin with sharp texture.
    eye_distance: () m.
  """
  about = places - pivot[None]
  deep = about * jnp.array([[0.0, 0.0, 1.0]], about.dtype)
  turn = view_bias.gain_fields(places, pivot)
  move = RADIUS * jnp.broadcast_to(jnp.eye(3, dtype=about.dtype)[None], (len(about), 3, 3))
  lag = jnp.stack([deep, turn[..., 0], move[..., 0], turn[..., 1], move[..., 1]], -1)
  together = view_bias.common_error_basis(places, pivot, eye_distance)
  excess = jnp.sqrt(jnp.maximum(noise**2 - 1.0, 0.0))
  return jnp.concatenate([together, GAIN_SD * excess[:, None, None] * lag], -1)


def cauchy(residual: Array) -> tuple[Array, Array]:
  """Cauchy on the length of vectors (N, k): square roots of the IRLS weights (N,), and the cost ()."""
  square = jnp.sum(residual**2, -1) / CAUCHY**2
  return jax.lax.rsqrt(1 + square), CAUCHY**2 * jnp.sum(jnp.log1p(square))


def skin_entries(skin: Skin | None) -> list[Entry]:
  """What tracks know of frames; of one frame or, with the leading axis, of many."""
  return [] if skin is None else [(SkinPoints(skin.points, skin.fields), skin.observed)]


def skin_priors(skin: Skin | None) -> list[Entry]:
  if skin is None:
    return []
  shape = SkinShape(skin.by_shape, skin.place, skin.by_common, skin.belief)
  return [(shape, None), (Near(COMMON, np.zeros((), np.float32), np.ones((), np.float32)), None)]


def skin_unknowns(skin: Skin | None) -> dict[str, AnyArray] | None:
  """What tracks bring for `Shared.own`, at the start."""
  return None if skin is None else {COMMON: np.zeros(N_COMMON, np.float32)}


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
