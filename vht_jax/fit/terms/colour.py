"""Colours: the head's shaded colours against the image.

The residual is VHT's (in the spirit of face2face, Thies et al. 2016): the colour of a surface point, shaded by
spherical harmonics, minus the image sampled where the point projects to. Visibility is held fixed for one
Gauss-Newton solve and then found again. A sampled pixel becomes a surface point (`head.points`), so that the Jacobian
is a few matrix products; its normal moves with the expression too, without which the energy rises instead of falling.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.config import Weights
from vht_jax.fit.pixels.samples import Samples, estimate_gain, sample_pixels
from vht_jax.fit.pixels.surface import Crop, Surface, to_pixels, to_world
from vht_jax.fit.terms.term import Linearised
from vht_jax.fit.unknowns import At, Shared
from vht_jax.head import motion
from vht_jax.head import points as pts
from vht_jax.render import shade
from vht_jax.render.image import sample_bilinear, sample_cubic
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
N_CHANNELS = 3
ROUND = 0.02  # albedo, from where to where about the ends of its range it bends in fits that are differentiated


class ObservedColours(flax.struct.PyTreeNode):
  """What a frame's image shows at samples of the head."""

  samples: Samples
  albedo: Array  # (N, 3) at the samples; of `UnknownColours` without what the texture code adds
  crop: Crop
  image: Array  # of `look_up`, without the frame's exposure
  basis: Array | None = None  # (N, 3, T) texture basis at the samples


def observe_colours(
  surface: Surface, x: Array, shared: Shared, crop: Crop, image: Array, albedo: Array, light: Array, weights: Weights,
  n_samples: int,
) -> ObservedColours:  # fmt: skip
  """One frame's colours as they are visible at x, under its own exposure.

  Args:
    image: the crop's, as `look_up` takes it.
    albedo: (Ht, Wt, 3) map of the clip; light: (9, 3).
    n_samples: pixels, static.
  """
  samples = sample_pixels(surface, x, shared, crop, n_samples, weights.photo_pixels)
  colors = shade.sample_texture(albedo, samples.uv, forward_mode=True)
  return ObservedColours(samples, colors, crop, image / estimate_gain(samples, colors, light, weights))


class Colours(flax.struct.PyTreeNode):
  """Colours of a head whose texture and light are known; knows the head, shape and camera."""

  light: Array  # (9, 3)
  weights: Weights

  def linearise(self, at: At, observation: ObservedColours) -> Linearised:
    found = differences(observation, observation.albedo, self.light, at.x, at.shared)
    return whitened(found, found.d_shared, observation.samples, self.weights)


class UnknownColours(flax.struct.PyTreeNode):
  """The same with the shared unknowns "texture" (T,) and "light" (9, 3), which the term brings."""

  weights: Weights
  rounded: bool = flax.struct.field(pytree_node=False, default=False)  # of `within_range`

  def linearise(self, at: At, observation: ObservedColours) -> Linearised:
    texture, light = at.shared.brought("texture"), at.shared.brought("light")
    basis = observation.basis
    assert basis is not None, "`UnknownColours` need the texture basis at the samples"
    albedo = observation.albedo + jnp.matmul(basis, texture, precision=HIGHEST)
    clipped, free = within_range(albedo, self.rounded)
    found = differences(observation, clipped, light, at.x, at.shared)
    channel = jnp.eye(N_CHANNELS, dtype=albedo.dtype)
    d_light = jnp.einsum("nc,nk,cd->nckd", found.gain, found.d_light, channel)
    d_own = {
      "texture": basis * (found.d_albedo * free)[..., None],
      "light": d_light.reshape(*albedo.shape, light.size),
    }
    return whitened(found, {**found.d_shared, **d_own}, observation.samples, self.weights)


def within_range(albedo: Array, rounded: bool) -> tuple[Array, Array]:
  """Albedos clipped to [0, 1], and the slopes of that.

  Args:
    rounded: static; bent over 2 `ROUND` at the ends of the range, for fits that are differentiated. A sum of squares of
      what has a corner can be least in the corner, and of some hundred samples one is: where no gradient vanishes.
  """
  if not rounded:
    return jnp.clip(albedo, 0.0, 1.0), ((albedo > 0) & (albedo < 1)).astype(albedo.dtype)
  above_0, above_1 = (jnp.clip(albedo - end, -ROUND, ROUND) + ROUND for end in (0.0, 1.0))
  beyond_0, beyond_1 = (jnp.maximum(albedo - end - ROUND, 0.0) for end in (0.0, 1.0))
  bent = (above_0**2 - above_1**2) / (4 * ROUND) + beyond_0 - beyond_1
  return bent, (above_0 - above_1) / (2 * ROUND)


def look_up(image: Array, xy: Array) -> tuple[Array, Array]:
  """Colours (N, 3) of an image at xy (N, 2) px, and their slopes (N, 3, 2).

  Args:
    image: (C, C, 3), looked up bicubically, with the lookup's own slopes: for fits that are differentiated, whose
      gradient has to be that of their cost. Or (C, C, 9) of `with_gradient`, whose colours and slopes are both looked
      up bilinearly: not the derivative of a lookup, and quicker.
  """
  if image.shape[-1] == N_CHANNELS:
    return sample_cubic(image, xy)
  color, by_x, by_y = jnp.split(sample_bilinear(image, xy), 3, axis=-1)
  return color, jnp.stack([by_x, by_y], axis=-1)


class Differences(flax.struct.PyTreeNode):
  """Colour differences of the samples with their derivatives, not weighted."""

  r: Array  # (N, 3)
  d_x: Array  # (N, 3, E + 14)
  d_shared: dict[str, Array]  # (N, 3, size): shape, log focal, principal
  d_albedo: Array  # (N, 3): derivative of channel c by the albedo of channel c
  d_light: Array  # (N, 9): derivative of channel c by light[:, c], equal for all channels but for `gain`
  gain: Array  # (N, 3): d r_c / d light[k, c] = gain_c * d_light_k


def differences(seen: ObservedColours, albedo: Array, light: Array, x: Array, shared: Shared) -> Differences:
  """(albedo + 1) * shading - 1 - image (VHT's colour formula) of one frame's samples; albedo (N, 3)."""
  samples, crop = seen.samples, seen.crop
  p = samples.points
  n_expr = p.exprdirs.shape[-1]
  shaped, joints = pts.shaped_points(p, shared.shape, x[:n_expr])
  change = jnp.concatenate([x[:n_expr] - samples.expr, shared.shape - samples.shape])
  local = samples.normal + jnp.matmul(samples.normal_dirs, change, precision=HIGHEST)

  def shading_of(normal):  # in OpenCV camera axes
    unit = normal / jnp.maximum(jnp.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    basis = shade.spherical_harmonics(to_world(unit))
    return jnp.matmul(basis, light, precision=HIGHEST), basis

  placed = pts.place(p, shaped, x[n_expr:], shared, joints)
  X, dX, focal = placed.X, placed.d_point, jnp.exp(shared.log_focal)
  normal, d_normal_z = pts.turn(p, placed, local)
  S, basis = shading_of(normal)
  color, slope = look_up(seen.image, to_pixels(pts.project(X, focal, shared.principal), crop))
  G = slope * crop.scale  # (N, 3, 2) d image / d uv
  gain = albedo + 1.0

  product = lambda a, b: motion.product("nij,njk->nik", a, b)
  image_by_point = product(G, pts.project_derivative(X, focal))  # (N, 3, 3)
  d_shading = jax.vmap(jax.jacfwd(lambda q: shading_of(q)[0]))(normal)  # (N, 3, 3)
  color_by_normal = gain[..., None] * d_shading
  columns = product(color_by_normal, d_normal_z) - product(image_by_point, placed.d_X)
  columns = columns - product(G, pts.camera_columns(X, focal))
  # By the unskinned normal and by the shaped point: two (N, 3, 3) maps, then one product each.
  maps = jnp.concatenate([product(color_by_normal, dX), -product(image_by_point, dX)], -1)
  d_x, d_shared = pts.by_unknowns(
    p,
    columns,
    maps,
    jnp.concatenate([samples.normal_dirs[..., :n_expr], p.exprdirs], axis=1),  # (N, 6, E)
    jnp.concatenate([samples.normal_dirs[..., n_expr:], p.shapedirs], axis=1),
  )
  return Differences(gain * S - 1.0 - color, d_x, d_shared, S, basis, gain)


def whitened(found: Differences, d_shared: dict[str, Array], samples: Samples, weights: Weights) -> Linearised:
  """Huber on the colour difference: one weight per pixel, so that an occluder or highlight counts linearly."""
  length = jnp.sqrt(jnp.mean(found.r**2, -1) + 1e-12) / weights.sd_color
  inside = length < 1.0
  counted = samples.weight > 0
  root = jnp.where(counted, jnp.sqrt(jnp.where(counted, samples.weight, 1.0)), 0.0)  # which has no derivative at 0
  counts = (root / weights.sd_color)[:, None]
  scale = counts[..., None]
  return Linearised(
    residual=found.r * counts,
    frame={"head": found.d_x * scale},
    shared={name: d * scale for name, d in d_shared.items()},
    root=jnp.sqrt(1.0 / jnp.maximum(1.0, length)),
    cost=jnp.sum(samples.weight * jnp.where(inside, length**2, 2 * length - 1)) * N_CHANNELS,
  )


def mean_difference(found: Differences, samples: Samples) -> Array:
  """() mean absolute difference of the colours that count, not weighted."""
  counted = (samples.weight > 0).astype(found.r.dtype)
  return jnp.sum(jnp.mean(jnp.abs(found.r), -1) * counted) / jnp.maximum(jnp.sum(counted), 1.0)
