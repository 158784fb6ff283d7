"""The corners of the keyframes in another frame: predicted, found, checked."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.texture_tracks.following import lucas_kanade as lk
from vht_jax.texture_tracks.following import warp
from vht_jax.texture_tracks.following.view import pool
from vht_jax.texture_tracks.types import Corners, View
from vht_jax.types import Array

MAX_TURN = np.deg2rad(45.0)  # between the views of frame and keyframe
WAY_BACK = 0.35  # px, at most, between where a point starts and where the way back ends
LEAST_CORRELATION = 0.6
COARSE_CORRELATION = 0.5  # of a reduced image's answer, else it is none
REACH = 10.0  # px of an image, how far a point may be from where it is looked for
NOISE, NOISE_OF_TURN = 0.1, 0.006  # px, and px per degree between the views
NOISE_FACTOR = 3.0  # the errors of a track are correlated: so many times they count less
AT_ONCE = 128  # points that are followed in one frame: those of the nearest views


class Sought(flax.struct.PyTreeNode):
  """The N points that are looked for in one frame."""

  pick: Array  # (N,) i32 which of the corners
  usable: Array  # (N,) bool
  key: Array  # (N,) i32 keyframe
  expected: Array  # (N, 2) window px
  turn: Array  # (N,) rad, between the views of frame and keyframe


def sought(faces: Array, view: View, keys: View, corners: Corners) -> Sought:
  """Where a frame should show the corners: those that it can show and of them the ones whose keyframe looks most alike.

  Args:
    faces: (f, 3) the mesh.
    view: the frame.
    keys: the keyframes, leading axis k.
    corners: K of them.
  """
  size = view.image.shape[0]
  key = jnp.maximum(corners.keyframe, 0)
  expected, cosine = warp.place(view, faces, corners.face, corners.bary)
  turn = jnp.arccos(jnp.clip(jnp.sum(view.axis[None] * keys.axis[key], -1), -1.0, 1.0))
  inside = jnp.all((expected > lk.HALF + 1) & (expected < size - lk.HALF - 1), -1)
  usable = (corners.keyframe >= 0) & inside & (cosine > warp.MIN_COSINE) & (turn <= MAX_TURN)
  _, pick = jax.lax.top_k(jnp.where(usable, -turn, -jnp.inf), min(AT_ONCE, corners.px.shape[0]))
  return Sought(pick=pick, usable=usable[pick], key=key[pick], expected=expected[pick], turn=turn[pick])


def coarse(faces: Array, view: View, keys: View, corners: Corners, images: Array, factor: int) -> Array:
  """Displacements (K, 2) px from where the mesh says, in a reduced image: finds what is far; 0 where it finds nothing.

  Args:
    images: (k, C / factor, C / factor) those of the keyframes, reduced.
    factor: static, of `warp.FACTORS`.
  """
  points = sought(faces, view, keys, corners)
  base = warp.base_of(points.expected, factor)
  patch, both = warp.patches(faces, view, keys, images, points.key, base, factor)
  weight = lk.inner(both)
  found, correlation = lk.there(pool(view.image, factor), patch, weight, base, 0.0 * points.expected, REACH)
  sure = points.usable & (correlation > COARSE_CORRELATION) & (jnp.mean(weight, (1, 2)) > 0.5)
  return jnp.zeros_like(corners.px).at[points.pick].set(jnp.where(sure[:, None], found * factor, 0.0))


def fine(faces: Array, view: View, keys: View, corners: Corners, shift: Array) -> tuple[Array, Array, Array]:
  """Looks for the corners at full resolution, and checks what it finds.

  Args:
    shift: (K, 2) px, by how much what is sought may be beside where the mesh says.

  Returns:
    Where they are, window px (K, 2); their standard deviation (K,) without that of their region, inf where one is not
    seen or not found for sure; and how many () should have been seen.
  """
  points, n = sought(faces, view, keys, corners), corners.px.shape[0]
  base = warp.base_of(points.expected, 1)
  patch, both = warp.patches(faces, view, keys, keys.image, points.key, base, 1)
  weight = lk.inner(both)
  found, correlation = lk.there(view.image, patch, weight, base, shift[points.pick], REACH)
  way_back = lk.back(view.image, patch, base, found)
  seen = points.usable & (jnp.min(weight, (1, 2)) > 0)  # a window on skin that both frames show
  moved = jnp.max(jnp.abs(found), -1) < REACH - 0.01
  good = seen & moved & (correlation > LEAST_CORRELATION) & (way_back < WAY_BACK)
  sd = NOISE_FACTOR * (NOISE + NOISE_OF_TURN * jnp.rad2deg(points.turn))
  px = jnp.where(good[:, None], points.expected + found, 0.0)
  px = jnp.zeros((n, 2), px.dtype).at[points.pick].set(px)
  sd = jnp.full(n, jnp.inf, sd.dtype).at[points.pick].set(jnp.where(good, sd, jnp.inf))
  return px, sd, jnp.sum(seen)
