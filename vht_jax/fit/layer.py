"""The free albedo layer: colour of a head beyond the texture basis, in closed form."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.config import Weights
from vht_jax.fit.pixels.samples import MIN_COSINE
from vht_jax.fit.pixels.surface import Crop, Surface, rasterise, to_screen, to_world
from vht_jax.fit.unknowns import Shared
from vht_jax.head import flame
from vht_jax.head.flame import LAYER_SIZE
from vht_jax.render import shade
from vht_jax.types import AnyArray, Array

HIGHEST = jax.lax.Precision.HIGHEST
EYES_FREE = 100.0  # times `sd_layer`, of the eyes' own colours: all that is seen of them, as they place nothing
LARGEST, LARGEST_OF_EYES = 0.5, 2.0  # of a layer; the latter leaves an eye any colour, whatever the texture code makes


class Appearance(flax.struct.PyTreeNode):
  """Colour of the head in a clip."""

  texture: AnyArray  # (T,) texture code
  layer: AnyArray  # (LAYER_SIZE, LAYER_SIZE, 3) free albedo on top of it
  light: AnyArray  # (9, 3)


def albedo_map(surface: Surface, appearance: Appearance) -> Array:
  """(Ht, Wt, 3) albedo of the clip, clipped to [0, 1]."""
  base = surface.texture_mean + jnp.matmul(surface.texture_basis, appearance.texture, precision=HIGHEST)
  layer = jax.image.resize(appearance.layer, base.shape, "linear")
  return jnp.clip(base + layer, 0.0, 1.0)


def estimate_layer(surface: Surface, shared: Shared, appearance: Appearance, xs: Array, crops: Crop, gains: Array,
                   weights: Weights, exact: bool = False) -> Array:  # fmt: skip
  """The free albedo layer (LAYER_SIZE, LAYER_SIZE, 3) that best explains the keyframes, everything else fixed.

  Where in its triangle a pixel's centre lies is constant, unless it is to be `exact`: then it is differentiated.

  Per texel the ridge solution of (albedo + layer + 1) * shading - 1 = image over all pixels that show it, with the
  robust weights of the current fit.
  """
  base = surface.texture_mean + jnp.matmul(surface.texture_basis, appearance.texture, precision=HIGHEST)

  def one(args):
    x, crop, gain = args
    X, _, fragments = rasterise(surface, x, shared, crop)
    if exact:
      fragments = shade.differentiable_barycentrics(fragments, to_screen(X, shared, crop), surface.faces)
    normals = flame.vertex_normals(X, surface.faces)
    n = shade.interpolate_corners(normals[surface.faces], fragments, forward_mode=exact)
    hit = fragments.pix_to_face >= 0
    if exact:
      n = jnp.where(hit[..., None], n, 1.0)  # the length of 0 has no derivative
    n = n / jnp.maximum(jnp.linalg.norm(n, axis=-1, keepdims=True), 1e-6)
    uv = shade.interpolate_corners(surface.uv, fragments, forward_mode=exact)
    S = shade.shading(jnp.asarray(appearance.light), to_world(n))
    albedo = shade.sample_texture(base, uv, forward_mode=exact)
    face = jnp.maximum(fragments.pix_to_face, 0)
    wanted = (crop.rgb / gain + 1.0) / jnp.maximum(S, 0.1) - 1.0 - albedo  # what the layer would have to be
    cosine = -n[..., 2]
    usable = hit & surface.explained[face] & (crop.inside > 0)
    w = jnp.where(usable, jnp.clip((cosine - MIN_COSINE) / 0.3, 0.0, 1.0), 0.0)
    layer = jax.image.resize(appearance.layer, base.shape, "linear")
    current = shade.sample_texture(layer, uv, forward_mode=exact)
    error = jnp.sqrt(jnp.mean(((wanted - current) * S) ** 2, -1)) / weights.sd_color
    w = w / jnp.maximum(error, 1.0)
    cell = jnp.clip((jnp.stack([1.0 - uv[..., 1], uv[..., 0]], -1) * LAYER_SIZE).astype(jnp.int32), 0, LAYER_SIZE - 1)
    index = jnp.where(w > 0, cell[..., 0] * LAYER_SIZE + cell[..., 1], LAYER_SIZE**2).reshape(-1)
    eye = jnp.where((surface.explained & ~surface.used)[face], w, 0.0)
    values = jnp.concatenate([wanted * w[..., None], jnp.stack([w, eye], -1)], -1).reshape(-1, 5)
    return jnp.zeros((LAYER_SIZE**2, 5), x.dtype).at[index].add(values, mode="drop")

  total = jnp.sum(jax.lax.map(one, (xs, crops, gains)), 0)
  count, of_eyes = total[:, 3:4], total[:, 4:]
  eye = of_eyes > 0.5 * count
  ridge = (weights.sd_color / (weights.sd_layer * jnp.where(eye, EYES_FREE, 1.0))) ** 2
  largest = jnp.where(eye, LARGEST_OF_EYES, LARGEST)
  layer = jnp.clip(total[:, :3] / (count + ridge), -largest, largest)
  return layer.reshape(LAYER_SIZE, LAYER_SIZE, 3)
