"""The keyframes as another frame sees the head: what a pixel of the frame would show if the skin looked as in the
keyframe. The mesh, drawn in the frame, says which point of the skin a pixel sees; posed as in the keyframe, where that
point is there.
"""

from __future__ import annotations

import jax.numpy as jnp

from vht_jax.image import sample_bilinear
from vht_jax.texture_tracks.lucas_kanade import PATCH
from vht_jax.texture_tracks.types import Array, View
from vht_jax.texture_tracks.view import project

MIN_COSINE = 0.3  # of the skin to the line of sight, in both frames
BEHIND = 0.004  # m: skin so far behind what the keyframe sees there is hidden; a mesh is not surer of its own depth
_STEP = 2  # px: the warp is smooth, and is looked up at every second pixel
_GRID = jnp.arange(-(PATCH // 2 + 1), PATCH // 2 + 2, _STEP, dtype=jnp.int32)  # one pixel more on either side


def patches(faces: Array, view: View, keys: View, images: Array, keyframe: Array, base: Array, factor: int):
  """Patches of the keyframes, warped into a frame.

  Args:
    faces: (f, 3) the mesh.
    view: the frame.
    keys: the k keyframes, leading axis k.
    images: (k, C / factor, C / factor) the keyframes' images, reduced.
    keyframe: (N,) i32 which keyframe each patch is of.
    base: (N, 2) i32 the pixels of the reduced frame that the patches are about.
    factor: static, how much the images are reduced.

  Returns:
    Patches (N, PATCH, PATCH), and which of their pixels both frames see (N, PATCH, PATCH) f32, 0 or 1.
  """
  size = view.face.shape[0]
  n, m = base.shape[0], _GRID.shape[0]
  x = (base[:, :1] + _GRID[None]).astype(jnp.float32) * factor + factor / 2  # window px
  y = (base[:, 1:] + _GRID[None]).astype(jnp.float32) * factor + factor / 2
  at = jnp.stack([jnp.broadcast_to(x[:, None, :], (n, m, m)), jnp.broadcast_to(y[:, :, None], (n, m, m))], -1)
  inside = jnp.all((at >= 0) & (at < size), -1)
  pixel = jnp.clip(at.astype(jnp.int32), 0, size - 1)
  beside = at - pixel.astype(jnp.float32) - 0.5  # to the pixel's centre, where the mesh is known
  index = pixel[..., 1] * size + pixel[..., 0]
  face = view.face.reshape(-1)[index]
  seen = inside & (face >= 0)
  face = jnp.maximum(face, 0)
  bary = view.bary.reshape(-1, 3)[index]
  key = keyframe[:, None, None]
  X = keys.X.reshape(-1, 3)[key[..., None] * keys.X.shape[1] + faces[face]]  # (N, m, m, 3, 3)
  X = jnp.sum(X * bary[..., None], axis=-2)
  lens = keys.lens[keyframe][:, None, None]
  z = jnp.where(X[..., 2:] > 1e-6, X[..., 2:], 1.0)
  there = X[..., :2] * (lens[..., :1] / z) + lens[..., 1:]
  there_pixel = jnp.floor(there).astype(jnp.int32)
  on = jnp.all((there_pixel >= 0) & (there_pixel < size), -1)
  there_pixel = jnp.clip(there_pixel, 0, size - 1)
  depth = keys.depth.reshape(-1)[key * size**2 + there_pixel[..., 1] * size + there_pixel[..., 0]]
  facing = jnp.minimum(view.cosine[face], keys.cosine.reshape(-1)[key * faces.shape[0] + face]) > MIN_COSINE
  seen = seen & on & facing & (depth > 0) & (X[..., 2] < depth + BEHIND)
  there = jnp.where(seen[..., None], there + beside, 0.0)
  fine = _refine(jnp.concatenate([there / factor, seen[..., None].astype(there.dtype)], -1))
  where, both = fine[..., :2], (fine[..., 2] > 0.999).astype(there.dtype)
  # One picture of all keyframes above each other; a patch stays within its own.
  side = images.shape[1]
  where = jnp.clip(where, 0.5, side - 0.5) + jnp.stack([jnp.zeros_like(keyframe), keyframe], -1)[:, None, None] * side
  return sample_bilinear(images.reshape(-1, side, 1), where, forward_mode=True)[..., 0], both


def _refine(values: jnp.ndarray) -> jnp.ndarray:
  """(N, m, m, c) at every second pixel -> (N, 2 m - 3, 2 m - 3, c) at all but the first and last."""
  for axis in (1, 2):
    a = jnp.moveaxis(values, axis, 0)
    between = (a[1:] + a[:-1]) / 2
    both = jnp.stack([a[:-1], between], 1).reshape(-1, *a.shape[1:])[1:]
    values = jnp.moveaxis(both, 0, axis)
  return values


def place(view: View, faces: Array, face: Array, bary: Array) -> tuple[Array, Array]:
  """Window px (N, 2) of points on triangles `face` (N,), and the cosines (N,) under which they are seen."""
  X = jnp.sum(view.X[faces[face]] * bary[..., None], axis=-2)
  return project(X, view.lens), view.cosine[face]
