"""The keyframes as another frame sees the head: what a pixel of the frame would show if the skin looked as in the
keyframe. The mesh, drawn in the frame, says which point of the skin a pixel sees; posed as in the keyframe, where that
point is there.
"""

from __future__ import annotations

import jax.numpy as jnp

from vht_jax.render.image import sample_bilinear
from vht_jax.texture_tracks.following.lucas_kanade import PATCH
from vht_jax.texture_tracks.following.view import CELL, project
from vht_jax.texture_tracks.types import View
from vht_jax.types import AnyArray, Array

MIN_COSINE = 0.3  # of the skin to the line of sight, in both frames
BEHIND = 0.004  # m: skin so far behind what the keyframe sees there is hidden; a mesh is not surer of its own depth
# The warp is looked up at cells two pixels apart, one of which lies beside either end of a patch, and is linear between
# them: weights of the two cells about a patch's even and odd pixels, by how much the images are reduced. Cells are as
# large as the pixels of images that are reduced by `CELL`; of others, their centres lie between pixels.
_BETWEEN = {1: ((0.75, 0.25), (0.25, 0.75)), CELL: ((0.5, 0.5), (0.0, 1.0))}
_CELLS = PATCH // 2 + 2
FACTORS = tuple(_BETWEEN)


def base_of(px: Array, factor: int) -> Array:
  """(N, 2) i32: the pixels nearest to window px (N, 2), of an image reduced by `factor`, that patches can be about."""
  if factor == 1:  # odd ones, so that patches begin at the same place between cells
    return 2 * jnp.round((px - 1.5) / 2).astype(jnp.int32) + 1
  return jnp.floor(px / factor).astype(jnp.int32)


def patches(
  faces: Array, view: View, keys: View, images: Array, keyframe: Array, base: Array, factor: int
) -> tuple[Array, Array]:
  """Patches of the keyframes, warped into a frame.

  Args:
    faces: (f, 3) the mesh.
    view: the frame.
    keys: the k keyframes, leading axis k.
    images: (k, C / factor, C / factor) the keyframes' images, reduced.
    keyframe: (N,) i32 which keyframe each patch is of.
    base: (N, 2) i32 of `base_of`.
    factor: static, one of `FACTORS`.

  Returns:
    Patches (N, PATCH, PATCH), and which of their pixels both frames see (N, PATCH, PATCH) f32, 0 or 1.
  """
  size = view.face.shape[0]
  first = (base - PATCH // 2 - 1) * factor // CELL
  cells = first[:, None] + jnp.arange(_CELLS, dtype=jnp.int32)[None, :, None] * factor  # (N, m, 2)
  across, down = cells[:, None, :, 0], cells[:, :, None, 1]
  cell = jnp.stack([across + 0 * down, down + 0 * across], -1)
  inside = jnp.all((cell >= 0) & (cell < size), -1)
  cell = jnp.clip(cell, 0, size - 1)
  index = cell[..., 1] * size + cell[..., 0]
  face = view.face.reshape(-1)[index]
  seen = inside & (face >= 0)
  face = jnp.maximum(face, 0)
  key = keyframe[:, None, None]
  X = keys.X.reshape(-1, 3)[key[..., None] * keys.X.shape[1] + faces[face]]  # (N, m, m, 3, 3)
  X = jnp.sum(X * view.bary.reshape(-1, 3)[index][..., None], axis=-2)
  lens = keys.lens[keyframe][:, None, None]
  there = X[..., :2] * (lens[..., :1] / jnp.where(X[..., 2:] > 1e-6, X[..., 2:], 1.0)) + lens[..., 1:]
  at = jnp.floor(there / CELL).astype(jnp.int32)
  on = jnp.all((at >= 0) & (at < size), -1)
  at = jnp.clip(at, 0, size - 1)
  depth = keys.depth.reshape(-1)[key * size**2 + at[..., 1] * size + at[..., 0]]
  facing = jnp.minimum(view.cosine[face], keys.cosine.reshape(-1)[key * faces.shape[0] + face]) > MIN_COSINE
  seen = seen & on & facing & (depth > 0) & (X[..., 2] < depth + BEHIND)
  there = jnp.where(seen[..., None], there, 0.0) / factor
  fine = _refine(jnp.concatenate([there, seen[..., None].astype(there.dtype)], -1), _BETWEEN[factor])
  where, both = fine[..., :2], (fine[..., 2] > 0.999).astype(there.dtype)
  # One picture of all keyframes above each other; a patch stays within its own.
  side = images.shape[1]
  down = jnp.stack([jnp.zeros_like(keyframe), keyframe * side], -1).astype(where.dtype)
  where = jnp.clip(where, 0.5, side - 0.5) + down[:, None, None]
  return sample_bilinear(images.reshape(-1, side, 1), where, forward_mode=True)[..., 0], both


def _refine(values: Array, between: tuple[tuple[float, float], ...]) -> Array:
  """(N, m, m, c) of the cells -> (N, PATCH, PATCH, c) of the pixels between them."""
  for axis in (1, 2):
    a = jnp.moveaxis(values, axis, 0)
    both = jnp.stack([a[:-1] * p + a[1:] * q for p, q in between], 1).reshape(-1, *a.shape[1:])
    values = jnp.moveaxis(both[:PATCH], 0, axis)
  return values


def place(view: View, faces: Array, face: AnyArray, bary: AnyArray) -> tuple[Array, Array]:
  """Window px (N, 2) of points on triangles `face` (N,), and the cosines (N,) under which they are seen."""
  X = jnp.sum(view.X[faces[face]] * bary[..., None], axis=-2)
  return project(X, view.lens), view.cosine[face]
