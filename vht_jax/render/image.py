"""Images as differentiable functions: bilinear and bicubic lookup, Gaussian blur with a traced width, resizing.

Pixel centres are at i + 0.5, x right, y down, origin at the top left corner.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vht_jax.render.gather import derivative_in_first, merge_vmap, sum_per_row
from vht_jax.types import Array


def sample_bilinear(
  image: Float[Array, "H W C"], xy: Float[Array, "*n 2"], *, forward_mode: bool = False
) -> Float[Array, "*n C"]:
  """Bilinear interpolation, zero outside (`torch.nn.functional.grid_sample`, align_corners=False, zeros).

  Args:
    image: (H, W, C).
    xy: (..., 2) px.
    forward_mode: static; plain operations, differentiable in everything in any mode and order, but slower.

  Returns:
    (..., C), differentiable in `xy` (both modes) and in `image` (reverse mode).
  """
  height, width, n_channels = image.shape
  xy = xy - jnp.asarray(0.5, xy.dtype)
  # Finite coordinates of any size may come in: the clip keeps the conversion to integers in range.
  low = jnp.clip(jnp.floor(jax.lax.stop_gradient(xy)), -2.0, max(height, width) + 1.0)
  t = xy - low
  x0, y0 = low[..., 0].astype(jnp.int32), low[..., 1].astype(jnp.int32)
  taps, weights = [], []
  for j in (0, 1):
    for i in (0, 1):
      x, y = x0 + i, y0 + j
      ok = (x >= 0) & (x < width) & (y >= 0) & (y < height)
      taps.append(jnp.where(ok, y * width + x, -1))
      weights.append((t[..., 0] if i else 1.0 - t[..., 0]) * (t[..., 1] if j else 1.0 - t[..., 1]))
  index, weight = jnp.stack(taps, axis=-1), jnp.stack(weights, axis=-1)
  if forward_mode:
    texels = image.reshape(height * width, n_channels)[jnp.maximum(index, 0)]
    texels = jnp.where((index >= 0)[..., None], texels, 0.0)
  else:
    texels = take_rows(image.reshape(1, height * width, n_channels), index.reshape(1, -1))
    texels = texels.reshape(*index.shape, n_channels)
  return jnp.sum(texels * weight[..., None].astype(image.dtype), axis=-2)


def sample_cubic(image: Float[Array, "H W C"], xy: Float[Array, "N 2"]) -> tuple[Array, Array]:
  """Bicubic interpolation (Catmull and Rom, 1974) and its slopes; outside, what is at the border.

  It goes through the pixels, and its slopes there are their central differences, at the border 0. It is once
  continuously differentiable everywhere, so that a sum of squares of it has a minimum at which its gradient vanishes,
  which one of bilinear lookups need not have.

  Args:
    image: (H, W, C).
    xy: (N, 2) px.

  Returns:
    (N, C), and its derivatives by `xy` (N, C, 2); plain operations, differentiable in any mode and order.
  """
  height, width, n_channels = image.shape
  last = jnp.array([[width - 1, height - 1]], xy.dtype)
  at = jnp.clip(xy - jnp.asarray(0.5, xy.dtype), 0.0, last)
  within = ((xy > 0.5) & (xy < last + 0.5)).astype(xy.dtype)[:, None]
  low = jax.lax.stop_gradient(jnp.minimum(jnp.floor(at), jnp.maximum(last - 1, 0.0)))
  weight, slope = _catmull_rom(at - low)  # (N, 2, 4)
  tap = low.astype(jnp.int32)[..., None] + jnp.arange(-1, 3, dtype=jnp.int32)[None, None]
  # Mirrored at the border, so that the slope ends at 0 there, as it goes on: pixels of the border are looked up too.
  mirrored = lambda i, n: jnp.clip(n - 1 - jnp.abs(n - 1 - jnp.abs(i)), 0, n - 1)
  x, y = mirrored(tap[:, 0], width), mirrored(tap[:, 1], height)
  index = y[:, :, None] * width + x[:, None]  # (N, 4, 4)
  texels = image.reshape(height * width, n_channels)[index]
  blend = lambda a, b: jnp.sum(jnp.sum(texels * b[:, None, :, None], axis=2) * a[:, :, None], axis=1)
  value = blend(weight[:, 1], weight[:, 0])
  slopes = blend(weight[:, 1], slope[:, 0]), blend(slope[:, 1], weight[:, 0])
  return value, jnp.stack(slopes, axis=-1) * within


def _catmull_rom(t: Array) -> tuple[Array, Array]:
  """Weights (..., 4) of the pixels at -1, 0, 1, 2 for a place t (...) in [0, 1], and their derivatives."""
  u = 1 - t
  weight = [-t * u * u, 2 - 5 * t**2 + 3 * t**3, 2 - 5 * u**2 + 3 * u**3, -u * t * t]
  slope = [-u * (u - 2 * t), t * (9 * t - 10), -u * (9 * u - 10), -t * (2 * u - t)]
  return 0.5 * jnp.stack(weight, axis=-1), 0.5 * jnp.stack(slope, axis=-1)


@jax.custom_vjp
def take_rows(table: Array, index: Array) -> Array:
  """Rows of (B, N, C) at (B, M) i32 -> (B, M, C), zeros where the index is negative; `vmap` merges into B."""
  return _take(table, index)


@merge_vmap
def _take(table, index):
  n_frames, n_rows, n_channels = table.shape
  flat = table.reshape(n_frames * n_rows, n_channels)
  offset = (jnp.arange(n_frames, dtype=jnp.int32) * n_rows)[:, None]
  return jnp.where((index >= 0)[..., None], flat[jnp.maximum(index, 0) + offset], 0.0)


@merge_vmap
def _take_transpose(table, index, ct):
  _, n_rows, n_channels = table.shape
  ct = ct.reshape(-1, n_channels)
  return sum_per_row(lambda item, row: ct[item], index, n_rows, n_channels, table.dtype).reshape(table.shape)


take_rows.defvjp(*derivative_in_first(_take, _take_transpose))


def gaussian_blur(image: Array, sigma: Array) -> Array:
  """Gaussian blur with a traced width, truncated and padded as VHT does it (torchvision's `gaussian_blur`).

  The kernel has int((6 sigma // 2) * 2 + 1) taps, that is floor(3 sigma) on either side, and the image is reflected at
  its borders (the border pixel itself is not repeated). Written as a product with one banded matrix per axis, so that
  sigma need not be static. Where 3 sigma is about to reach an integer, float32 decides on the number of taps.

  Args:
    image: (H, W, C).
    sigma: () px; below 1/3 the image is returned as it is.

  Returns:
    (H, W, C).
  """
  sigma = jnp.asarray(sigma, image.dtype)
  precision = jax.lax.Precision.HIGHEST
  out = jnp.einsum("ih,hwc->iwc", _blur_matrix(image.shape[0], sigma), image, precision=precision)
  return jnp.einsum("jw,iwc->ijc", _blur_matrix(image.shape[1], sigma), out, precision=precision)


def _blur_matrix(n: int, sigma: Array) -> Array:
  """(n, n) matrix of a one-dimensional blur: row i holds the weights of output i, reflections folded in."""
  radius = jnp.floor(3.0 * sigma)

  def tap(distance):
    distance = distance.astype(sigma.dtype)
    weight = jnp.exp(-0.5 * jnp.square(distance / jnp.maximum(sigma, 1e-2)))
    return jnp.where(jnp.abs(distance) <= radius, weight, 0.0)

  i, j = jnp.arange(n)[:, None], jnp.arange(n)[None]
  before = jnp.where(j > 0, tap(i + j), 0.0)  # pixel -j shows pixel j
  after = jnp.where(j < n - 1, tap(2 * (n - 1) - j - i), 0.0)
  matrix = tap(j - i) + before + after
  return matrix / jnp.sum(matrix, axis=1, keepdims=True)


def resize(image: Array, size: tuple[int, int]) -> Array:
  """Bilinear resize of (H, W, C) to `size` = (H', W'), antialiased when shrinking."""
  return jax.image.resize(image, (*size, image.shape[-1]), "linear", antialias=True)
