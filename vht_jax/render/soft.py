"""SoftRas (Liu, Li, Chen and Li 2019): a renderer in which every face contributes to every pixel near it.

With d the distance (NDC: the shorter image side has length 2) from a pixel centre to the boundary of the triangle on
the screen, face j covers the pixel with probability

  D_j = sigmoid(+d^2 / sigma) inside, sigmoid(-d^2 / sigma) outside, where d^2 <= sigma log(1 / 1e-4 - 1), else 0,

and the silhouette is the probability that any face does, alpha = 1 - prod_j (1 - D_j). Colours are a softmax over the
faces and the background by coverage and nearness z'_j = (far - z_j) / (far - near):

  w_j = D_j exp((z'_j - s) / gamma),   w_b = exp(-s / gamma): the background is at far,
  rgb = (sum_j w_j c_j + w_b background) / (sum_j w_j + w_b).

The shift s = max(0, max_j z'_j) only prevents overflow: it cancels, in rgb and in all derivatives, and so may be held
constant in them. z_j and c_j are interpolated with perspective-correct barycentric coordinates, clipped to the triangle
outside it. The truncation, clipping and units are PyTorch3D's. (PyTorch3D also keeps w_b >= 1e-10, which does depend
on s; where a face just reaches a pixel, D_j = 1e-4, that moves the colour by 1e-6 of its distance to the background.)

The gradient is that of these formulas. As a gradient of the silhouette of a *hard* image it is biased in magnitude
(`edges.antialias` is not), but it reaches as far as sigma lets it. As w_b is negligible near any surface, rgb hardly
changes across a silhouette; composite it, `rgb * alpha + background * (1 - alpha)`, where its edges matter.

Sums over faces do not depend on their order, so faces need no sorting and no number of faces per pixel is fixed: blocks
of (face, tile) are enumerated (`tiles.Blocks`) and added to the image; the backward pass enumerates them again, so
memory does not grow with the number of faces.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from vht_jax.render.gather import merge_vmap
from vht_jax.render.raster import NEAR
from vht_jax.render.tiles import Blocks, default_chunk_size, most_frames
from vht_jax.types import Array

_TINY = 1e-15  # no 0 / 0, should rounding let a pixel see a face in the pass over depths and not in that over colours
_RADIUS = math.log(1 / 1e-4 - 1)  # faces whose coverage is below 1e-4 are left out; in units of sigma
_MIN_AREA = 2e-8  # NDC^2, twice the area; smaller faces have no usable barycentric coordinates
_FAR_OUT = 1e8  # px (and m); faces that reach further are dropped, before squares overflow
_TILE = 4  # px


def soft_render(
  screen: Float[Array, "V 3"],
  faces: Int[Array, "F 3"],
  colors: Float[Array, "V C"] | Float[Array, "F 3 C"],
  size: tuple[int, int],
  *,
  sigma: float | Float[Array, ""] = 1e-4,
  gamma: float | Float[Array, ""] = 1e-4,
  background: float | Float[Array, ""] = 0.0,
  near: float | Float[Array, ""] = 0.1,
  far: float | Float[Array, ""] = 10.0,
  cull_backfaces: bool = True,
) -> tuple[Float[Array, "H W C"], Float[Array, "H W"]]:
  """Soft colours and silhouette.

  Args:
    screen: (V, 3) x px, y px (y down, pixel centres at i + 0.5), depth z m: `cameras.project`. A face with a vertex at
      z <= `raster.NEAR`, a non-finite one or one beyond 1e8 px is dropped.
    faces: (F, 3) i32.
    colors: (V, C) per vertex, or (F, 3, C) per corner.
    size: (H, W) px; static.
    sigma: NDC^2; the width of a silhouette is about sqrt(sigma) * min(H, W) / 2 px.
    gamma: sharpness of the choice between faces in depth, as a fraction of far - near.
    background: () or (C,) colour.
    near, far: m; only far - near matters, except to faces beyond far.
    cull_backfaces: whether faces seen from behind are left out; static.

  Returns:
    rgb (H, W, C) and alpha (H, W), float32, or float64 if `screen` is. Differentiable in reverse mode in all arguments
    that are not static or integers.

  Raises:
    ValueError: on wrong shapes or dtypes.
  """
  corners, drawn = _corners(screen, faces, size, cull_backfaces)
  if colors.ndim == 2 and colors.shape[0] == screen.shape[0]:
    colors = colors[faces]
  if colors.ndim != 3 or colors.shape[:2] != faces.shape:
    raise ValueError(f"soft_render: expected colors (V, C) or (F, 3, C), got {colors.shape} for faces {faces.shape}")
  sigma_px, gamma, near, far = (jnp.asarray(x, corners.dtype) for x in (_sigma_px(sigma, size), gamma, near, far))
  parameters = jnp.stack([sigma_px, gamma * (far - near), far])
  sums, nearest = _aggregate(size)(corners[None], colors.astype(corners.dtype)[None], parameters[None], drawn[None])
  log_miss, weight, *weighted = (s[0] for s in sums)
  shift = (far - lax.stop_gradient(nearest[0])) / (far - near)
  rest = jnp.maximum(jnp.exp(-shift / gamma), _TINY)
  background = jnp.broadcast_to(jnp.asarray(background, corners.dtype), colors.shape[-1:])
  # As a departure from the background: where there is no face, derivatives vanish exactly and not up to rounding.
  rgb = jnp.stack(
    [background[c] + (w - weight * background[c]) / (weight + rest) for c, w in enumerate(weighted)], axis=-1
  )
  return rgb, -jnp.expm1(log_miss)


def soft_silhouette(
  screen: Float[Array, "V 3"],
  faces: Int[Array, "F 3"],
  size: tuple[int, int],
  *,
  sigma: float | Float[Array, ""] = 1e-4,
  cull_backfaces: bool = True,
) -> Float[Array, "H W"]:
  """The alpha (H, W) of `soft_render` alone, at a fraction of its cost; arguments as there."""
  corners, drawn = _corners(screen, faces, size, cull_backfaces)
  parameters = jnp.stack([jnp.asarray(p, corners.dtype) for p in (_sigma_px(sigma, size), 1, 1)])
  no_colors = jnp.zeros((faces.shape[0], 3, 0), corners.dtype)
  (log_miss,), _ = _aggregate(size)(corners[None], no_colors[None], parameters[None], drawn[None])
  return -jnp.expm1(log_miss[0])


def _sigma_px(sigma, size: tuple[int, int]):
  return sigma * (0.5 * min(size)) ** 2


def _corners(screen: Array, faces: Array, size: tuple[int, int], cull_backfaces: bool) -> tuple[Array, Array]:
  """Screen corners (F, 3, 3) of the faces, and which faces are drawn (F,). Those of other faces are a dummy."""
  if screen.ndim != 2 or screen.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or faces.shape[0] == 0:
    raise ValueError(f"soft: expected screen (V, 3) and faces (F > 0, 3), got {screen.shape} and {faces.shape}")
  if not jnp.issubdtype(faces.dtype, jnp.integer):
    raise ValueError(f"soft: faces must be integers, got {faces.dtype}")
  corners = screen[faces] if screen.dtype == jnp.float64 else screen[faces].astype(jnp.float32)
  t = lax.stop_gradient(corners)
  (ux, uy), (vx, vy) = ((t[:, i, 0] - t[:, 0, 0], t[:, i, 1] - t[:, 0, 1]) for i in (1, 2))
  area = ux * vy - uy * vx  # negative: front
  drawn = jnp.all(jnp.abs(t) < _FAR_OUT, axis=(1, 2)) & jnp.all(t[..., 2] > NEAR, axis=1)
  drawn &= (-area if cull_backfaces else jnp.abs(area)) > _MIN_AREA * (0.5 * min(size)) ** 2
  return jnp.where(drawn[:, None, None], corners, jnp.asarray(_DUMMY, corners.dtype)[None]), drawn


_DUMMY = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0))  # a harmless triangle, so that no gradient is 0 * inf


def _coverage(t: Array, px: Array, py: Array, sigma: Array) -> tuple[Array, Array, list[Array]]:
  """Logit of the coverage (n, P), whether it counts (n, P), and 3 clipped barycentric coordinates on the screen.

  Args:
    t: (n, 3, 3) corners.
    px, py: (n, P) pixel centres.
    sigma: (n, 1) px^2.
  """
  x, y = t[..., 0:1], t[..., 1:2]  # (n, 3, 1)
  squared, areas = None, []
  for i, j in ((1, 2), (2, 0), (0, 1)):
    bx, by = x[:, j] - x[:, i], y[:, j] - y[:, i]
    ux, uy = px - x[:, i], py - y[:, i]
    areas.append(bx * uy - by * ux)
    # The nearest point of the edge is a minimum (or an end point), so its parameter has no derivative to first order.
    s = jnp.clip((ux * bx + uy * by) / jnp.maximum(bx * bx + by * by, 1e-12), 0.0, 1.0)
    s = lax.stop_gradient(s)
    distance = (ux - s * bx) ** 2 + (uy - s * by) ** 2
    squared = distance if squared is None else jnp.minimum(squared, distance)
  area = areas[0] + areas[1] + areas[2]
  weights = [a / area for a in areas]
  inside = (weights[0] >= 0) & (weights[1] >= 0) & (weights[2] >= 0)
  counts = inside | (squared <= _RADIUS * sigma)
  return jnp.where(inside, squared, -squared) / sigma, counts, [jnp.maximum(w, 0.0) for w in weights]


def _depth(t: Array, weights: list[Array]) -> tuple[Array, list[Array]]:
  """Depth (n, P) and perspective-correct barycentric coordinates from those on the screen."""
  over_z = [w / t[:, k, 2:3] for k, w in enumerate(weights)]
  total = over_z[0] + over_z[1] + over_z[2]
  return (weights[0] + weights[1] + weights[2]) / total, [w / total for w in over_z]


def _contributions(t, colors, parameters, px, py, ok, nearest):
  """What blocks add to the sums: log(1 - D), and with colours w and w c for each channel; a list of (n, P)."""
  sigma, scale = parameters[:, 0:1], parameters[:, 1:2]
  logit, counts, weights = _coverage(t, px, py, sigma)
  counts &= ok[:, None]
  log_miss = jnp.where(counts, -jax.nn.softplus(logit), 0.0)
  if colors.shape[-1] == 0:
    return [log_miss]
  z, bary = _depth(t, weights)
  behind = jnp.where(counts, nearest - z, 0.0)  # elsewhere exp could overflow, and its derivative with it
  weight = jnp.where(counts, jax.nn.sigmoid(logit) * jnp.exp(behind / scale), 0.0)
  values = [sum(bary[k] * colors[:, k, c : c + 1] for k in range(3)) for c in range(colors.shape[-1])]
  return [log_miss, weight, *(weight * v for v in values)]


@functools.cache
def _aggregate(size: tuple[int, int]):
  """The sums over faces for a static size: corners (B, F, 3, 3), colors (B, F, 3, C), parameters (B, 3), drawn (B, F)
  -> ([log_miss, w, w c_1, ...], nearest depth), each (B, H, W)."""

  def setup(corners, colors, parameters, drawn):
    n_frames, n_faces = drawn.shape
    radius = jnp.sqrt(_RADIUS * parameters[:, 0])[:, None, None]
    xy = corners[..., :2]
    blocks = Blocks(xy.min(axis=2) - radius, xy.max(axis=2) + radius, drawn, size, _TILE, default_chunk_size())
    flat = (corners.reshape(-1, 3, 3), colors.reshape(n_frames * n_faces, 3, colors.shape[-1]))

    def lookup(chunk):
      t = jnp.where(chunk.ok[:, None, None], flat[0][chunk.face], jnp.asarray(_DUMMY, corners.dtype)[None])
      return t, flat[1][chunk.face], parameters[chunk.face // n_faces]

    return blocks, lookup

  @merge_vmap
  def forward(*args):
    corners, colors, parameters, drawn = args
    if (n := most_frames(drawn.shape[1], size, _TILE, default_chunk_size())) < drawn.shape[0]:
      return lax.map(lambda a: jax.tree.map(lambda x: x[0], forward(*(x[None] for x in a))), args, batch_size=n)
    blocks, lookup = setup(corners, colors, parameters, drawn)
    row = lambda chunk: jnp.minimum(chunk.row, blocks.n_tiles - 1)  # noqa: E731
    n_channels = colors.shape[-1]
    nearest = jnp.repeat(parameters[:, 2], blocks.rows * blocks.cols)[:, None] + blocks.buffer()  # far

    def depths(chunk, nearest):
      t, _, p = lookup(chunk)
      _, counts, weights = _coverage(t, chunk.px, chunk.py, p[:, 0:1])
      z = jnp.where(counts, _depth(t, weights)[0], jnp.inf)
      return nearest.at[chunk.row].min(z, mode="drop")

    if n_channels:
      nearest = blocks.loop(depths, nearest)

    def add(chunk, sums):
      parts = _contributions(*lookup(chunk), chunk.px, chunk.py, chunk.ok, nearest[row(chunk)])
      # One buffer per channel: XLA on CPU evaluates a stacked row once per channel.
      return [s.at[chunk.row].add(part, mode="drop") for s, part in zip(sums, parts, strict=True)]

    sums = blocks.loop(add, [blocks.buffer() for _ in range(2 + n_channels if n_channels else 1)])
    return [blocks.untile(s) for s in sums], blocks.untile(nearest)

  @merge_vmap
  def backward(*args):
    corners, colors, parameters, drawn, nearest, *cotangents = args
    if (n := most_frames(drawn.shape[1], size, _TILE, default_chunk_size())) < drawn.shape[0]:
      return lax.map(lambda a: jax.tree.map(lambda x: x[0], backward(*(x[None] for x in a))), args, batch_size=n)
    blocks, lookup = setup(corners, colors, parameters, drawn)
    nearest = blocks.to_tiles(nearest)
    cotangents = [blocks.to_tiles(ct) for ct in cotangents]
    n_frames, n_faces = drawn.shape

    def add(chunk, sums):
      row = jnp.minimum(chunk.row, blocks.n_tiles - 1)

      def at(t, colors, parameters):
        return _contributions(t, colors, parameters, chunk.px, chunk.py, chunk.ok, nearest[row])

      ct = [jnp.where(chunk.ok[:, None], c[row], 0.0) for c in cotangents]
      ct_t, ct_colors, ct_parameters = jax.vjp(at, *lookup(chunk))[1](ct)
      face = jnp.where(chunk.ok, chunk.face, n_frames * n_faces)
      frame = jnp.where(chunk.ok, chunk.face // n_faces, n_frames)
      return (
        sums[0].at[face].add(ct_t.reshape(-1, 9), mode="drop"),
        sums[1].at[face].add(ct_colors.reshape(face.shape[0], -1), mode="drop"),
        sums[2].at[frame].add(ct_parameters, mode="drop"),
      )

    init = (
      jnp.zeros((n_frames * n_faces, 9), corners.dtype),
      jnp.zeros((n_frames * n_faces, 3 * colors.shape[-1]), corners.dtype),
      jnp.zeros_like(parameters),
    )
    sums = blocks.loop(add, init)
    return sums[0].reshape(corners.shape), sums[1].reshape(colors.shape), sums[2]

  @jax.custom_vjp
  def aggregate(corners, colors, parameters, drawn):
    return forward(corners, colors, parameters, drawn)

  def aggregate_fwd(*args):
    out = forward(*args)
    return out, (args, out[1])

  def aggregate_bwd(residuals, ct):
    args, nearest = residuals
    return (*backward(*args, nearest, *ct[0]), None)

  aggregate.defvjp(aggregate_fwd, aggregate_bwd)
  return aggregate
