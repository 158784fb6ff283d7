"""Frames without a pose take one from the frames on both sides, without an edge in position or speed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vht_jax import rotation
from vht_jax.types import Array, Pose

# Frames: for so long at most the speed at an end of a gap is felt inside. Heads forget their speed sooner: with 8 what
# is bridged comes nearest to what was there (docs/accuracy.md), but then the head brakes too hard to look right.
REACH = 16
STENCIL = 4  # known frames at each end of a gap from which its speed there is read


def fill(poses: Pose, known: Array, shot: Array) -> Pose:
  """Poses for the frames that are not `known`; those that are stay as they are, bit by bit.

  Between two known frames of a shot every parameter goes along a straight line (rotations about a fixed axis) plus,
  at each end, what it takes to go on with the speed that the frames before or after have: a cubic in a short gap. In a
  long one that dies out within `REACH` frames, so it never strays further from the line than 4/27 `REACH` times the
  difference in speed. Expression and joints stay within the range that the clip has shown: a mouth that closes as its
  owner leaves shall not close further. Outside, the nearest known frame of the shot is kept. A shot without any takes
  the nearest frame of the clip.

  Args:
    poses: leading axis T; numbers in frames that are not known need not be finite.
    known: (T,) bool.
    shot: (T,) i32, which shot a frame belongs to; never falls.
  """
  n = known.shape[0]
  index = jnp.arange(n, dtype=jnp.int32)
  before = lax.cummax(jnp.where(known, index, -1))
  after = lax.cummin(jnp.where(known, index, n), reverse=True)
  nearest = jnp.where(before >= 0, before, jnp.minimum(after, n - 1))
  left, right = jnp.maximum(before, 0), jnp.minimum(after, n - 1)
  usable_left, usable_right = (before >= 0) & (shot[left] == shot), (after < n) & (shot[right] == shot)
  start = jnp.where(usable_left, left, jnp.where(usable_right, right, nearest))
  inside = usable_left & usable_right & ~known
  end = jnp.where(inside, right, start)
  length = jnp.maximum(end - start, 1)

  # (T, STENCIL) frames from the end of the gap outwards, and how many of them are known without a break.
  steps = jnp.arange(STENCIL, dtype=jnp.int32)[None]
  ends = {-1: start, 1: end}
  rows = {side: jnp.clip(ends[side][:, None] + side * steps, 0, n - 1) for side in ends}
  unbroken = {}
  for side, row in rows.items():
    there = known[row] & (shot[row] == shot[:, None]) & (row == ends[side][:, None] + side * steps)
    unbroken[side] = jnp.sum(jnp.cumprod(there.astype(jnp.int32), axis=1), axis=1)

  def path(ahead: Array, back: Array) -> Array:
    """(T, D): where a parameter is, from its values (T, STENCIL, D) at the frames of both stencils."""
    t = (index - start).astype(back.dtype)[:, None]
    size = length.astype(back.dtype)[:, None]
    slope = (ahead[:, 0] - back[:, 0]) / size
    reach = jnp.minimum(size, REACH)
    line = back[:, 0] + slope * t
    out = (_speed(back, unbroken[-1], -1, slope) - slope) * _push(t, reach)
    return line + out - (_speed(ahead, unbroken[1], 1, slope) - slope) * _push(size - t, reach)

  # All components in one table: it takes a third of the time to compile.
  r = jnp.where(jnp.isfinite(poses.rotation), poses.rotation, 0.0)
  leaves, tree = jax.tree.flatten(poses.replace(rotation=None))
  table = jnp.concatenate([leaf.reshape(n, -1) for leaf in leaves], axis=1)
  table = jnp.where(jnp.isfinite(table), table, 0.0)
  sizes = [leaf.size // n for leaf in leaves]
  free = np.repeat([leaf is poses.translation for leaf in leaves], sizes)[None]
  lowest = jnp.min(jnp.where(known[:, None] & ~free, table, jnp.inf), axis=0, keepdims=True)
  highest = jnp.max(jnp.where(known[:, None] & ~free, table, -jnp.inf), axis=0, keepdims=True)
  found = path(table[rows[1]], table[rows[-1]])
  found = jnp.where(inside[:, None], jnp.where(free, found, jnp.clip(found, lowest, highest)), table[start])
  found = jnp.split(jnp.where(known[:, None], table, found), np.cumsum(sizes)[:-1], axis=1)
  filled = tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(found, leaves, strict=True)])
  turned = _along_arcs(r, rows, start, inside, path)
  filled = filled.replace(rotation=jnp.where(known[:, None], r, turned))
  some = jnp.any(known)
  return jax.tree.map(lambda new, old: jnp.where(some, new, old), filled, poses)


def _along_arcs(r: Array, rows: dict, start: Array, inside: Array, path) -> Array:
  """(T, 3): rotations as vectors from the one at the start of the gap, where a straight line is the shortest arc."""
  matrices = jax.vmap(rotation.axis_angle_to_matrix)(r)
  product = lambda a, b: jnp.matmul(a, b, precision=lax.Precision.HIGHEST)

  def relative(row: Array) -> Array:
    turns = product(jnp.swapaxes(matrices[start], -1, -2)[:, None], matrices[row])
    vectors = jax.vmap(jax.vmap(rotation.matrix_to_axis_angle))(turns)
    return jax.vmap(jax.vmap(rotation.nearest_axis_angle, (0, None)))(vectors, vectors[:, 0])

  steps = path(relative(rows[1]), relative(rows[-1]))
  turned = product(matrices[start], jax.vmap(rotation.axis_angle_to_matrix)(steps))
  found = jax.vmap(rotation.nearest_axis_angle)(jax.vmap(rotation.matrix_to_axis_angle)(turned), r[start])
  return jnp.where(inside[:, None], found, r[start])


def _speed(values: Array, unbroken: Array, side: int, slope: Array) -> Array:
  """(T, D) per frame at an end of a gap: the median of up to three differences next to it, `slope` without any.

  The median, because frames next to a gap are often the first bad ones.
  """
  d = side * (values[:, 1:] - values[:, :-1])
  a, b, c = d[:, 0], d[:, 1], d[:, 2]
  count = unbroken[:, None] - 1
  three = jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
  return jnp.where(count >= 3, three, jnp.where(count == 2, 0.5 * (a + b), jnp.where(count == 1, a, slope)))


def _push(t: Array, reach: Array) -> Array:
  """A cubic with slope 1 at t = 0 that is flat and 0 at t = `reach`, and 0 from there on."""
  rest = jnp.maximum(1.0 - t / reach, 0.0)
  return t * rest * rest
