"""Perspective-correct interpolation of attributes over faces, and its transpose.

Over a triangle on the screen 1 / z and a / z are affine functions of the pixel position for every attribute a, so a
face is described by the coefficients of those planes and a pixel needs one lookup of its face instead of three lookups
of its vertices (`gather`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vht_jax.render.gather import derivative_in_first, map_seen, merge_vmap, sum_per_row
from vht_jax.types import Array


def face_planes(corners: Array) -> Array:
  """Coefficients of the planes of every face.

  Args:
    corners: (F, 3, 3 + C) screen x px, y px, depth z m and attributes of each face's corners.

  Returns:
    (F, 2 + 3 (C + 1)): anchor x, y px; then the values of [1 / z, a_1 / z, ..., a_C / z] at the anchor, their d/dx and
    their d/dy. Differentiable; finite for faces without area or behind the camera (which no pixel sees).
  """
  n_faces, _, n_columns = corners.shape
  # One row per quantity, so that the arithmetic vectorises; split, because its transpose is a plain concatenation.
  parts = lax.split(corners.reshape(n_faces, 3 * n_columns).T, (1, 1, 1, n_columns - 3) * 3)
  (x0, y0), (x1, y1), (x2, y2) = parts[0:2], parts[4:6], parts[8:10]
  ux, uy, vx, vy = x1 - x0, y1 - y0, x2 - x0, y2 - y0
  area = ux * vy - uy * vx
  inv_area = 1.0 / jnp.where(jnp.abs(area) > 1e-20, area, 1.0)

  def weighted(z, values):
    inv_z = 1.0 / jnp.where(z > 1e-6, z, 1.0)
    return jnp.concatenate([inv_z, values * inv_z])

  q0, q1, q2 = (weighted(*parts[4 * k + 2 : 4 * k + 4]) for k in range(3))  # each (C + 1, F)
  d1, d2 = q1 - q0, q2 - q0
  gx = (d1 * vy - d2 * uy) * inv_area
  gy = (d2 * ux - d1 * vx) * inv_area
  return jnp.concatenate([x0, y0, q0, gx, gy]).T


@jax.custom_vjp
def sample_planes(corners: Array, pix_to_face: Array) -> Array:
  """Attributes at the pixel centres.

  Args:
    corners: (B, F, 3, 3 + C) screen x px, y px, depth z m and attributes of each face's corners.
    pix_to_face: (B, H, W) i32, -1 in the background.

  Returns:
    (B, H, W, C), 0 in the background. Differentiable (reverse mode) in `corners`.
  """
  return _sample(corners, pix_to_face)


def sample_planes_forward(corners: Array, pix_to_face: Array) -> Array:
  """`sample_planes` for one frame, (F, 3, 3 + C), (H, W), in plain operations: forward mode, higher derivatives."""
  hit = (pix_to_face >= 0)[..., None]
  pixel = jnp.arange(pix_to_face.size, dtype=jnp.int32)
  rows = face_planes(corners)
  _, q = _at_pixel(rows[jnp.maximum(pix_to_face, 0)], *_centres(pixel, pix_to_face.shape))
  return jnp.where(hit, q[..., 1:] / jnp.where(hit, q[..., :1], 1.0), 0.0)


@merge_vmap
def depth_and_bary(corners: Array, pix_to_face: Array) -> tuple[Array, Array]:
  """Depth and barycentrics at the pixel centres, without gradient.

  Args:
    corners: (B, F, 3, 3) screen x px, y px, depth z m of each face's corners.
    pix_to_face: (B, H, W) i32.

  Returns:
    (B, H, W) and (B, H, W, 3), -1 in the background.
  """
  one_hot = jnp.broadcast_to(jnp.eye(3, 2, dtype=corners.dtype), (*corners.shape[:2], 3, 2))
  columns = _rows(jnp.concatenate([corners, one_hot], axis=-1)).T

  def at(pixel, row):  # one lookup per coefficient and one buffer per result: for few channels the fastest layout
    g, (x, y) = [column[row] for column in columns], _centres(pixel, pix_to_face.shape[1:])
    dx, dy = x.astype(g[0].dtype) + 0.5 - g[0], y.astype(g[0].dtype) + 0.5 - g[1]
    inv_z, *b = (g[2 + i] + g[5 + i] * dx + g[8 + i] * dy for i in range(3))
    z = 1.0 / inv_z
    return z, b[0] * z, b[1] * z

  results = map_seen(at, pix_to_face, corners.shape[1], (1, 1, 1), -1.0, corners.dtype)
  zbuf, b0, b1 = (r[..., 0] for r in results)
  return zbuf, jnp.stack([b0, b1, jnp.where(pix_to_face >= 0, 1.0 - b0 - b1, -1.0)], axis=-1)


def _rows(corners):
  """`face_planes` of all frames' (B, F, 3, 3 + C): (B * F, K)."""
  return face_planes(corners.reshape(-1, *corners.shape[2:]))


def _centres(pixel, size):
  """x, y px of the centres of pixels numbered in scan order."""
  height, width = size
  return pixel % width, pixel // width % height


def _at_pixel(g, x, y):
  """Planes g (..., K) at pixels: their distance from the anchor ((..., 1), (..., 1)) and their values (..., C + 1)."""
  n = (g.shape[-1] - 2) // 3
  dx = x.reshape(*g.shape[:-1], 1).astype(g.dtype) + 0.5 - g[..., :1]
  dy = y.reshape(*g.shape[:-1], 1).astype(g.dtype) + 0.5 - g[..., 1:2]
  return (dx, dy), g[..., 2 : 2 + n] + g[..., 2 + n : 2 + 2 * n] * dx + g[..., 2 + 2 * n :] * dy


@merge_vmap
def _sample(corners, pix_to_face):
  rows = _rows(corners)
  n = (rows.shape[-1] - 2) // 3

  def at(pixel, row):
    g, (x, y) = rows[row], _centres(pixel, pix_to_face.shape[1:])
    dx, dy = x.astype(g.dtype) + 0.5 - g[:, 0], y.astype(g.dtype) + 0.5 - g[:, 1]
    z = 1.0 / (g[:, 2] + g[:, 2 + n] * dx + g[:, 2 + 2 * n] * dy)
    weighted = zip((z, z * dx, z * dy), (g[:, 3 : 2 + n], g[:, 3 + n : 2 + 2 * n], g[:, 3 + 2 * n :]), strict=True)
    return (sum(w[:, None] * part for w, part in weighted),)

  return map_seen(at, pix_to_face, corners.shape[1], (n - 1,), 0.0, corners.dtype)[0]


@merge_vmap
def _sample_transpose(corners, pix_to_face, ct):
  rows, vjp = jax.vjp(_rows, corners)
  n = (rows.shape[-1] - 2) // 3
  ct = ct.reshape(-1, n - 1)

  def at(pixel, row):
    (dx, dy), q = _at_pixel(rows[row], *_centres(pixel, pix_to_face.shape[1:]))
    z = 1.0 / q[:, :1]
    ct_q = ct[pixel] * z  # a = (a / z) / (1 / z)
    ct_q = jnp.concatenate([-jnp.sum(ct_q * q[:, 1:], axis=1, keepdims=True) * z, ct_q], axis=1)
    return jnp.concatenate([ct_q, ct_q * dx, ct_q * dy], axis=1)

  sums = sum_per_row(at, pix_to_face, corners.shape[1], 3 * n, corners.dtype)
  ct_x = -jnp.sum(sums[:, :n] * rows[:, 2 + n : 2 + 2 * n], axis=1, keepdims=True)
  ct_y = -jnp.sum(sums[:, :n] * rows[:, 2 + 2 * n :], axis=1, keepdims=True)
  return vjp(jnp.concatenate([ct_x, ct_y, sums], axis=1))[0]


sample_planes.defvjp(*derivative_in_first(_sample, _sample_transpose))


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
  _, n_faces, _, n_channels = corners.shape
  rows, bary = corners.reshape(-1, 3 * n_channels), bary.reshape(-1, 3)

  def at(pixel, row):
    g, b = rows[row], bary[pixel]
    return (sum(g[:, k * n_channels : (k + 1) * n_channels] * b[:, k : k + 1] for k in range(3)),)

  return map_seen(at, pix_to_face, n_faces, (n_channels,), 0.0, corners.dtype)[0]


@merge_vmap
def _corners_transpose(corners, bary, pix_to_face, ct):
  _, n_faces, _, n_channels = corners.shape
  bary, ct = bary.reshape(-1, 3), ct.reshape(-1, n_channels)

  def at(pixel, row):
    del row
    b, c = bary[pixel], ct[pixel]
    return jnp.concatenate([c * b[:, k : k + 1] for k in range(3)], axis=1)

  return sum_per_row(at, pix_to_face, n_faces, 3 * n_channels, corners.dtype).reshape(corners.shape)


sample_corners.defvjp(*derivative_in_first(_corners, _corners_transpose))
