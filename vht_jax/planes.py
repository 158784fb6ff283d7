"""Perspective-correct interpolation by planes: the shared arithmetic of `raster` and `shade`.

Over a triangle on the screen 1 / z and a / z are affine functions of the pixel position for every attribute a, so a
face is described by the coefficients of those planes and a pixel needs one lookup of its face instead of three lookups
of its vertices. The lookup dominates the cost of shading on a CPU, and its transpose (a contended scatter-add) even
more; both are written for a whole batch of frames at once, and the transpose visits only the pixels that see a face.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from vht_jax.types import Array

_CHUNK = 32768  # pixels per trip of the backward loop


def merge_vmap(fun: Callable) -> Callable:
  """Makes `vmap` of `fun` one call with a longer first axis.

  Args:
    fun: a function of arrays that all have the same leading (frame) axis, as have all its outputs, and that treats
      frames independently.

  Returns:
    `fun`, whose batching rule merges the mapped axis into the frame axis. (The rule that JAX derives for a gather or
    scatter with batched operands is several times slower.)
  """
  merged = jax.custom_batching.custom_vmap(fun)

  @merged.def_vmap
  def rule(axis_size, in_batched, *args):
    args = [a if b else jnp.broadcast_to(a, (axis_size, *a.shape)) for a, b in zip(args, in_batched, strict=True)]
    n_frames = args[0].shape[1]
    out = merged(*(a.reshape(axis_size * n_frames, *a.shape[2:]) for a in args))
    out = jax.tree.map(lambda o: o.reshape(axis_size, n_frames, *o.shape[1:]), out)
    return out, jax.tree.map(lambda _: True, out)

  return merged


def face_planes(corners: Array, values: Array) -> Array:
  """Coefficients of the planes of every face.

  Args:
    corners: (F, 3, 3) screen x px, y px, depth z m of each face's corners.
    values: (F, 3, C) attributes at the corners.

  Returns:
    (2 + 3 (C + 1), F): anchor x, y px; then the values of [1 / z, a_1 / z, ..., a_C / z] at the anchor, their d/dx and
    their d/dy. Differentiable; finite for faces without area or behind the camera (which no pixel sees).
  """
  x, y, z = (corners[..., i].T for i in range(3))  # each (3, F): corners first, so that the arithmetic vectorises
  ux, uy, vx, vy = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
  area = ux * vy - uy * vx
  inv_area = 1.0 / jnp.where(jnp.abs(area) > 1e-20, area, 1.0)
  inv_z = 1.0 / jnp.where(z > 1e-6, z, 1.0)
  weighted = values.transpose(1, 2, 0) * inv_z[:, None]
  q = jnp.concatenate([inv_z[:, None], weighted], axis=1)  # (3, C + 1, F)
  d1, d2 = q[1] - q[0], q[2] - q[0]
  gx = (d1 * vy[None] - d2 * uy[None]) * inv_area[None]
  gy = (d2 * ux[None] - d1 * vx[None]) * inv_area[None]
  return jnp.concatenate([x[:1], y[:1], q[0], gx, gy])


@jax.custom_vjp
def sample_planes(planes: Array, pix_to_face: Array) -> tuple[Array, Array]:
  """Attributes at the pixel centres.

  Args:
    planes: (B, 2 + 3 (C + 1), F) from `face_planes`.
    pix_to_face: (B, H, W) i32, -1 in the background.

  Returns:
    values (B, C, H, W) and 1 / z (B, H, W), both 0 in the background. Differentiable (reverse mode) in `planes`.
  """
  return _sample(planes, pix_to_face)


def sample_planes_forward(planes: Array, pix_to_face: Array) -> tuple[Array, Array]:
  """`sample_planes` for one frame, (K, F) and (H, W), in plain operations: forward mode and higher derivatives."""
  return _evaluate(planes[:, jnp.maximum(pix_to_face, 0)], pix_to_face >= 0)


def _evaluate(g, hit):
  """Planes g (K, ..., H, W) already looked up for every pixel -> values (C, ..., H, W), 1 / z (..., H, W)."""
  n = (g.shape[0] - 2) // 3
  dx = jax.lax.broadcasted_iota(g.dtype, hit.shape, hit.ndim - 1) + 0.5 - g[0]
  dy = jax.lax.broadcasted_iota(g.dtype, hit.shape, hit.ndim - 2) + 0.5 - g[1]
  q = [g[2 + i] + g[2 + n + i] * dx + g[2 + 2 * n + i] * dy for i in range(n)]
  inv_z = jnp.where(hit, q[0], 1.0)
  z = 1.0 / inv_z
  values = jnp.stack([jnp.where(hit, qi * z, 0.0) for qi in q[1:]]) if n > 1 else jnp.zeros((0, *hit.shape), g.dtype)
  return values, jnp.where(hit, inv_z, 0.0)


@merge_vmap
def _sample(planes, pix_to_face):
  n_frames, n_rows, n_faces = planes.shape
  flat = planes.transpose(1, 0, 2).reshape(n_rows, n_frames * n_faces)
  offset = (jnp.arange(n_frames, dtype=jnp.int32) * n_faces)[:, None, None]
  index = jnp.maximum(pix_to_face, 0) + offset
  looked_up = jnp.stack([flat[i][index] for i in range(n_rows)])
  values, inv_z = _evaluate(looked_up, pix_to_face >= 0)
  return jnp.moveaxis(values, 0, 1), inv_z


def _sample_fwd(planes, pix_to_face):
  return _sample(planes, pix_to_face), (planes, pix_to_face)


def _sample_bwd(residuals, cotangents):
  planes, pix_to_face = residuals
  return _sample_transpose(planes, pix_to_face, *cotangents), None


@merge_vmap
def _sample_transpose(planes, pix_to_face, ct_values, ct_inv_z):
  n_frames, n_rows, n_faces = planes.shape
  n = (n_rows - 2) // 3
  height, width = pix_to_face.shape[1:]
  rows = planes.transpose(0, 2, 1).reshape(n_frames * n_faces, n_rows)
  ct_values = ct_values.transpose(1, 0, 2, 3).reshape(n - 1, -1)
  ct_inv_z = ct_inv_z.reshape(-1)

  def per_pixel(pixel, face):
    g = rows[face]
    dx = (pixel % width).astype(g.dtype)[:, None] + 0.5 - g[:, :1]
    dy = (pixel // width % height).astype(g.dtype)[:, None] + 0.5 - g[:, 1:2]
    q = g[:, 2 : 2 + n] + g[:, 2 + n : 2 + 2 * n] * dx + g[:, 2 + 2 * n :] * dy
    z = 1.0 / q[:, :1]
    ct_q = ct_values[:, pixel].T * z  # a = (a / z) / (1 / z)
    ct_q0 = ct_inv_z[pixel][:, None] - jnp.sum(ct_q * q[:, 1:], axis=1, keepdims=True) * z
    ct_q = jnp.concatenate([ct_q0, ct_q], axis=1)
    return jnp.concatenate([ct_q, ct_q * dx, ct_q * dy], axis=1)

  ct_planes = sum_per_row(per_pixel, pix_to_face, n_faces, 3 * n, planes.dtype)
  value = ct_planes[:, :n]
  ct_x = -jnp.sum(value * rows[:, 2 + n : 2 + 2 * n], axis=1, keepdims=True)
  ct_y = -jnp.sum(value * rows[:, 2 + 2 * n :], axis=1, keepdims=True)
  ct = jnp.concatenate([ct_x, ct_y, ct_planes], axis=1)
  return ct.reshape(n_frames, n_faces, n_rows).transpose(0, 2, 1)


sample_planes.defvjp(_sample_fwd, _sample_bwd)


@jax.custom_vjp
def sample_corners(corners: Array, bary: Array, pix_to_face: Array) -> Array:
  """Attributes at the pixels by constant barycentric weights.

  Args:
    corners: (B, F, 3, C) attributes of each face's corners.
    bary: (B, H, W, 3) weights; no gradient flows into them.
    pix_to_face: (B, H, W) i32, -1 in the background.

  Returns:
    (B, H, W, C), 0 in the background. Differentiable (reverse mode) in `corners`.
  """
  return _corners(corners, bary, pix_to_face)


def sample_corners_forward(corners: Array, bary: Array, pix_to_face: Array) -> Array:
  """`sample_corners` for one frame, (F, 3, C), (H, W, 3), (H, W), in plain operations: forward mode."""
  out = jnp.sum(corners[jnp.maximum(pix_to_face, 0)] * bary[..., None], axis=-2)
  return jnp.where((pix_to_face >= 0)[..., None], out, 0.0)


@merge_vmap
def _corners(corners, bary, pix_to_face):
  n_frames, n_faces, _, n_channels = corners.shape
  flat = corners.transpose(2, 3, 0, 1).reshape(3, n_channels, n_frames * n_faces)
  index = jnp.maximum(pix_to_face, 0) + (jnp.arange(n_frames, dtype=jnp.int32) * n_faces)[:, None, None]
  weights = jnp.where((pix_to_face >= 0)[..., None], bary, 0.0)
  out = [sum(flat[k, c][index] * weights[..., k] for k in range(3)) for c in range(n_channels)]
  return jnp.stack(out, axis=-1)


def _corners_fwd(corners, bary, pix_to_face):
  return _corners(corners, bary, pix_to_face), (corners, bary, pix_to_face)


def _corners_bwd(residuals, ct):
  corners, bary, pix_to_face = residuals
  return _corners_transpose(corners, bary, pix_to_face, ct), jnp.zeros_like(bary), None


@merge_vmap
def _corners_transpose(corners, bary, pix_to_face, ct):
  _, n_faces, _, n_channels = corners.shape
  bary, ct = bary.reshape(-1, 3), ct.reshape(-1, n_channels)

  def per_pixel(pixel, face):
    del face
    return (bary[pixel][:, :, None] * ct[pixel][:, None, :]).reshape(-1, 3 * n_channels)

  sums = sum_per_row(per_pixel, pix_to_face, n_faces, 3 * n_channels, corners.dtype)
  return sums.reshape(corners.shape)


sample_corners.defvjp(_corners_fwd, _corners_bwd)


def sum_per_row(contribution: Callable, index: Array, n_rows: int, width: int, dtype) -> Array:
  """The transpose of a lookup of rows: sums what the items contribute to each row, visiting only items that have one.

  Args:
    contribution: (item (n,), row (n,)) -> (n, width); item counts through `index.reshape(-1)`, row = frame * N + index.
    index: (B, ...) i32 row of each item, negative for none.
    n_rows: N.
    width: length of a row.
    dtype: of the sums.

  Returns:
    (B * N, width).
  """
  n_frames = index.shape[0]
  index = index.reshape(n_frames, -1)
  rows = (index + (jnp.arange(n_frames, dtype=jnp.int32) * n_rows)[:, None]).reshape(-1)
  hit = (index >= 0).reshape(-1)
  n_items = hit.shape[0]
  chunk = min(_CHUNK, n_items)

  position = jnp.cumsum(hit, dtype=jnp.int32)
  total = position[-1]
  compact = jnp.where(hit, position - 1, n_items + chunk)
  items = jnp.zeros(n_items + chunk, jnp.int32)
  items = items.at[compact].set(jnp.arange(n_items, dtype=jnp.int32), mode="drop", unique_indices=True)

  def body(carry):
    k, sums = carry
    item = lax.dynamic_slice(items, (k * chunk,), (chunk,))
    ok = k * chunk + jnp.arange(chunk, dtype=jnp.int32) < total
    row = jnp.where(ok, rows[item], 0)
    return k + 1, sums.at[jnp.where(ok, row, n_frames * n_rows)].add(contribution(item, row), mode="drop")

  init = (jnp.int32(0), jnp.zeros((n_frames * n_rows, width), dtype))
  return lax.while_loop(lambda c: c[0] * chunk < total, body, init)[1]
