"""Blending along the silhouettes, with its derivative. The method is described in the package's docstring."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from vht_jax.render.edges.crossings import LINES, Crossings
from vht_jax.render.edges.table import EdgeTable
from vht_jax.render.gather import merge_vmap
from vht_jax.render.raster import NEAR
from vht_jax.types import Array, Fragments


def antialias(
  image: Float[Array, "H W C"],
  screen: Float[Array, "V 3"],
  faces: Int[Array, "F 3"],
  edges: EdgeTable,
  fragments: Fragments,
  *,
  cull_backfaces: bool = True,
) -> Float[Array, "H W C"]:
  """Blends the pixels along the silhouettes by the area that each side covers.

  Args:
    image: (H, W, C) what was rendered at the pixel centres: colours, masks, or anything else that may be averaged.
    screen: (V, 3) x px, y px (y down, pixel centres at i + 0.5), depth z m, as given to `raster.rasterize`.
    faces: (F, 3) i32.
    edges: `edge_table(faces)`.
    fragments: of `rasterize(screen, faces, (H, W))`.
    cull_backfaces: as given to `rasterize`; static.

  Returns:
    (H, W, C). Differentiable in reverse mode with respect to `image` (the blend) and the x, y of `screen` (the motion
    of the silhouettes); interior motion reaches `screen` through `image`. Pixels away from silhouettes are returned
    unchanged. A silhouette within half a pixel of the image border has no pixel on its other side and is left as it
    is, as are features so thin that no pixel centre sees them.

  Raises:
    ValueError: on wrong shapes.
  """
  if image.ndim != 3 or image.shape[:2] != fragments.pix_to_face.shape:
    raise ValueError(f"antialias: expected image {(*fragments.pix_to_face.shape, 'C')}, got {image.shape}")
  if screen.ndim != 2 or screen.shape[1] != 3:
    raise ValueError(f"antialias: expected screen (V, 3), got {screen.shape}")
  if edges.vertices.shape[0] >= 2**20:
    raise ValueError(f"antialias: at most {2**20 - 1} edges, got {edges.vertices.shape[0]}")
  if edges.vertices.shape[0] == 0:
    return image
  silhouettes = _silhouettes(lax.stop_gradient(screen), faces, edges, cull_backfaces)
  fragments = jax.tree.map(lax.stop_gradient, fragments)
  args = (image, screen, silhouettes, fragments.pix_to_face, fragments.zbuf)
  return _blend(*(a[None] for a in args))[0]


def _silhouettes(screen: Array, faces: Array, edges: EdgeTable, cull_backfaces: bool) -> Array:
  """(E, 2) i32 vertex ids, directed so that the drawn surface has negative area beside a -> b; -1 for other edges."""
  x, y, z = (screen[:, i][faces] for i in range(3))
  area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
  drawn = jnp.all((z > NEAR) & jnp.isfinite(x) & jnp.isfinite(y) & jnp.isfinite(z), axis=1)
  facing = jnp.where(drawn, -jnp.sign(area), 0.0).astype(jnp.int32)
  if cull_backfaces:
    facing = jnp.maximum(facing, 0)
  first, second = edges.faces[:, 0], edges.faces[:, 1]
  side0 = facing[first]
  side1 = jnp.where(second >= 0, -facing[second], 0)
  ends = jnp.asarray(edges.vertices, jnp.int32)
  ends = jnp.where((side0 + side1 < 0)[:, None], ends[:, ::-1], ends)
  return jnp.where((side0 + side1 != 0)[:, None], ends, -1)


@jax.custom_vjp
def _blend(image, screen, silhouettes, pix_to_face, zbuf):
  return _forward(image, screen, silhouettes, pix_to_face, zbuf)[0]


def _blend_fwd(*args):
  out, winners = _forward(*args)
  return out, (args, winners)


def _blend_bwd(residuals, ct):
  args, winners = residuals
  ct_image, ct_screen = _backward(*args, winners, ct)
  return ct_image, ct_screen, None, None, None


_blend.defvjp(_blend_fwd, _blend_bwd)


@merge_vmap
def _forward(image, screen, silhouettes, pix_to_face, zbuf):
  """The blended images (B, H, W, C) and, per scan line and pixel pair, the outermost silhouette."""
  if _too_many(image):
    return lax.map(lambda args: jax.tree.map(lambda o: o[0], _forward(*(a[None] for a in args))),
                   (image, screen, silhouettes, pix_to_face, zbuf))  # fmt: skip
  n_frames, height, width, n_channels = image.shape
  crossings = Crossings(screen, silhouettes, pix_to_face, zbuf)
  n_pixels = n_frames * height * width

  def mark(k, winners):
    own, other = crossings.lines(crossings.chunk(k))
    cell, key = (jnp.concatenate([getattr(own, f), getattr(other, f)]) for f in ("cell", "key"))
    return winners.at[cell].max(key, mode="drop")

  winners = crossings.loop(mark, jnp.full(2 * n_pixels * LINES, -1, jnp.int32))
  flat = image.reshape(n_pixels, n_channels)

  def add(k, out):
    c = crossings.chunk(k)
    weight = crossings.weight(c, winners)
    jump = flat[c.inside] - flat[c.outside]
    change = [((weight * p.shadow)[:, None] * jump).astype(image.dtype) for p in c.pieces]
    return out.at[jnp.concatenate([p.pixel for p in c.pieces])].add(jnp.concatenate(change), mode="drop")

  out = crossings.loop(add, flat)
  return out.reshape(image.shape), winners.reshape(n_frames, -1)


@merge_vmap
def _backward(image, screen, silhouettes, pix_to_face, zbuf, winners, ct):
  """Cotangents of image and screen; walks the same crossings as `_forward`."""
  if _too_many(image):
    return lax.map(lambda args: jax.tree.map(lambda o: o[0], _backward(*(a[None] for a in args))),
                   (image, screen, silhouettes, pix_to_face, zbuf, winners, ct))  # fmt: skip
  crossings = Crossings(screen, silhouettes, pix_to_face, zbuf)
  winners = winners.reshape(-1)
  flat, ct = image.reshape(-1, image.shape[-1]), ct.reshape(-1, image.shape[-1])
  n_pixels = flat.shape[0]
  n_vertices = screen.shape[0] * screen.shape[1]

  def add(k, carry):
    ct_image, ct_xy = carry
    c = crossings.chunk(k)
    weight = crossings.weight(c, winners)
    jump = flat[c.inside] - flat[c.outside]
    blend = to_a = to_b = jnp.asarray(0.0)
    for p in c.pieces:
      ct_pixel = jnp.where((p.pixel < n_pixels)[:, None], ct[jnp.minimum(p.pixel, n_pixels - 1)], 0.0) * weight[:, None]
      blend += p.shadow[:, None] * ct_pixel
      flux = jnp.sum(ct_pixel * jump, axis=1) * (p.end - p.start)  # per unit of the edge's parameter
      middle = 0.5 * (p.start + p.end)
      to_a += flux * (1.0 - middle)
      to_b += flux * middle
    seen = weight > 0
    drop = lambda index, n: jnp.where(seen, index, n)  # noqa: E731
    pixels = jnp.concatenate([drop(c.inside, n_pixels), drop(c.outside, n_pixels)])
    ct_image = ct_image.at[pixels].add(jnp.concatenate([blend, -blend]).astype(ct_image.dtype), mode="drop")
    normal = jnp.stack([c.normal_x, c.normal_y], axis=1)
    vertices = jnp.concatenate([drop(c.a, n_vertices), drop(c.b, n_vertices)])
    xy = jnp.concatenate([to_a[:, None] * normal, to_b[:, None] * normal]).astype(ct_xy.dtype)
    return ct_image, ct_xy.at[vertices].add(xy, mode="drop")

  ct_image, ct_xy = crossings.loop(add, (ct, jnp.zeros((n_vertices, 2), screen.dtype)))
  ct_screen = jnp.concatenate([ct_xy, jnp.zeros((n_vertices, 1), screen.dtype)], axis=1)
  return ct_image.reshape(image.shape), ct_screen.reshape(screen.shape)


def _too_many(image: Array) -> bool:
  """Whether the winner buffer of the batch outgrows i32 indices."""
  n_frames, height, width, _ = image.shape
  return n_frames > 1 and 2 * n_frames * height * width * LINES >= 2**31
