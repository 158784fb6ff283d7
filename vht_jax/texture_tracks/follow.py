"""The corners of the keyframes in another frame: predicted, found, checked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.texture_tracks import lucas_kanade as lk
from vht_jax.texture_tracks import warp
from vht_jax.texture_tracks.types import Corners, View
from vht_jax.texture_tracks.view import pool
from vht_jax.types import Array

MAX_TURN = np.deg2rad(45.0)  # between the views of frame and keyframe
WAY_BACK = 0.35  # px, at most, between where a point starts and where the way back ends
LEAST_CORRELATION = 0.6
COARSE_CORRELATION = 0.5  # of a reduced image's answer, else it is none
REACH = 8.0  # px of an image, how far a point may be from where it is looked for
NOISE, NOISE_OF_TURN = 0.1, 0.006  # px, and px per degree between the views
NOISE_FACTOR = 3.0  # the errors of a track are correlated: so many times they count less
AT_ONCE = 128  # points that are followed in one frame: those of the nearest views


def follow(faces: Array, view: View, keys: View, corners: Corners, levels: tuple[int, ...]) -> tuple[Array, Array]:
  """Looks for all corners in one frame.

  Args:
    faces: (f, 3) the mesh.
    view: the frame.
    keys: the keyframes, leading axis k.
    corners: K of them.
    levels: static; how much the images are reduced, from coarse to fine, the last one 1. Coarse ones find what is far
      from where the mesh says.

  Returns:
    Where they are, window px (K, 2), and their standard deviation (K,) without that of their region, inf where one is
    not seen or not found for sure.
  """
  n = corners.px.shape[0]
  size = view.image.shape[0]
  key = jnp.maximum(corners.keyframe, 0)
  expected, cosine = warp.place(view, faces, corners.face, corners.bary)
  turn = jnp.arccos(jnp.clip(jnp.sum(view.axis * keys.axis[key], -1), -1.0, 1.0))
  inside = jnp.all((expected > lk.HALF + 1) & (expected < size - lk.HALF - 1), -1)
  usable = (corners.keyframe >= 0) & inside & (cosine > warp.MIN_COSINE) & (turn <= MAX_TURN)
  _, pick = jax.lax.top_k(jnp.where(usable, -turn, -jnp.inf), min(AT_ONCE, n))
  usable, expected, turn, key = usable[pick], expected[pick], turn[pick], key[pick]

  shift = jnp.zeros_like(expected)
  for factor in levels:
    images, image = jax.vmap(lambda a: pool(a, factor))(keys.image), pool(view.image, factor)
    base = warp.base_of(expected, factor)
    patch, both = warp.patches(faces, view, keys, images, key, base, factor)
    weight = lk.inner(both)
    found, correlation = lk.there(image, patch, weight, base, shift / factor, REACH)
    if factor > 1:
      sure = (correlation > COARSE_CORRELATION) & (jnp.mean(weight, (1, 2)) > 0.5)
      shift = jnp.where(sure[:, None], found * factor, shift)
  whole = jnp.min(weight, (1, 2)) > 0
  way_back = lk.back(image, patch, base, found)
  moved = jnp.max(jnp.abs(found), -1) < REACH - 0.01
  good = usable & whole & moved & (correlation > LEAST_CORRELATION) & (way_back < WAY_BACK)
  sd = NOISE_FACTOR * (NOISE + NOISE_OF_TURN * jnp.rad2deg(turn))
  px = jnp.zeros((n, 2), expected.dtype).at[pick].set(jnp.where(good[:, None], expected + found, 0.0))
  return px, jnp.full(n, jnp.inf, sd.dtype).at[pick].set(jnp.where(good, sd, jnp.inf))
