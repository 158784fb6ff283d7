"""Frames without a pose take one from the frames on both sides, without an edge in position or speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vht_jax import rotation
from vht_jax.host.programs import namespace, stored
from vht_jax.types import Array, Pose, Status

# Frames: for so long at most the speed at an end of a gap is felt inside. Heads forget their speed sooner: with 8 what
# is bridged comes nearest to what was there (docs/accuracy.md), but then the head brakes too hard to look right.
REACH = 16
SHORTEST = 0.1  # of the usual spacing: frames count as no closer in time, because rounded times may coincide
STENCIL = 4  # known frames at each end of a gap from which its speed there is read


def bridge(
  poses: Pose,
  seen: Array | np.ndarray,
  good: Array | np.ndarray | None = None,
  cuts: Sequence[int] = (),
  times: np.ndarray | None = None,
  unordered: bool = False,
) -> tuple[Pose, Array]:
  """Fills frames without a face, or whose fit is not `good`, from their neighbours; host side or traced.

  Between two tracked frames every parameter goes on with the speed it has at both (`fill`); before the first and after
  the last one it stays as it is there. Nothing is interpolated across a cut: there the frames take what is nearest in
  their own shot, if that has any. Pictures that are no video say nothing of each other: one without a face has the
  status `NO_FACE` and, so that every row is a possible head, the pose of the nearest position that has one.

  Args:
    poses: leading axis T.
    seen, good: (T,) bool; None: all are good.
    cuts: first frames of new shots.
    times: (T,) as in `keyframes.frame_times`.
    unordered: the frames are no video.

  Returns:
    Poses, and the `Status` (T,) of every frame.
  """
  xp, n = namespace(seen), seen.shape[0]
  good = xp.ones(n, bool) if good is None else good
  known: Any = xp.logical_and(seen, good)
  tracked, bridged, no_face, diverged = (kind.value for kind in Status)
  missing = no_face if unordered else xp.where(xp.any(known), bridged, no_face)
  status = xp.where(seen, xp.where(good, tracked, diverged), missing).astype(np.int32)
  if xp is np and (known.all() or not known.any()):  # nothing to fill, or nothing to fill it from
    return poses, status
  index = xp.arange(n, dtype=np.int32)
  shot = index if unordered else xp.searchsorted(np.sort(np.asarray(cuts, np.int32)), index, side="right")
  clock = None if times is None else jnp.asarray(times, jnp.float32)
  filled = _filled if xp is np else fill
  return filled(poses, jnp.asarray(known), jnp.asarray(shot, jnp.int32), clock), status


def fill(poses: Pose, known: Array, shot: Array, times: Array | None = None) -> Pose:
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
    times: (T,) of the frames, rising, in units of the usual spacing; None: evenly spaced.
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
  times = index.astype(poses.rotation.dtype) if times is None else times.astype(poses.rotation.dtype)
  length = jnp.where(end > start, jnp.maximum(times[end] - times[start], SHORTEST), 1.0)

  # (T, 2, STENCIL) frames from both ends of the gap outwards, and how many of them are known without a break (T, 2).
  ends, outwards = jnp.stack([start, end], axis=1), jnp.array([-1, 1], jnp.int32)[None, :, None]
  wanted = ends[..., None] + outwards * jnp.arange(STENCIL, dtype=jnp.int32)[None, None]
  rows = jnp.clip(wanted, 0, n - 1)
  there = known[rows] & (shot[rows] == shot[:, None, None]) & (rows == wanted)
  unbroken = jnp.sum(jnp.cumprod(there.astype(jnp.int32), axis=-1), axis=-1)

  def path(values: Array) -> Array:
    """(T, D): where a parameter is, from its values (T, 2, STENCIL, D) at the frames of both stencils."""
    t, size = (times - times[start])[:, None], length[:, None]
    slope = (values[:, 1, 0] - values[:, 0, 0]) / size
    reach = jnp.minimum(size, REACH)
    line = values[:, 0, 0] + slope * t
    speed = _speed(values, times[rows], unbroken, slope[:, None])
    return line + (speed[:, 0] - slope) * _push(t, reach) - (speed[:, 1] - slope) * _push(size - t, reach)

  # All components in one table, turns as vectors among them: it takes a fifth of the time to compile.
  r = jnp.where(jnp.isfinite(poses.rotation), poses.rotation, 0.0)
  leaves, tree = jax.tree.flatten(poses.replace(rotation=None))
  table = jnp.concatenate([leaf.reshape(n, -1) for leaf in leaves], axis=1)
  table = jnp.where(jnp.isfinite(table), table, 0.0)
  sizes = [leaf.size // n for leaf in leaves]
  free = np.repeat([leaf is poses.translation for leaf in leaves], sizes)[None]
  lowest = jnp.min(jnp.where(known[:, None] & ~free, table, jnp.inf), axis=0, keepdims=True)
  highest = jnp.max(jnp.where(known[:, None] & ~free, table, -jnp.inf), axis=0, keepdims=True)
  matrices = jax.vmap(rotation.axis_angle_to_matrix)(r)
  found = path(jnp.concatenate([table[rows], _turns(matrices, rows, start)], axis=-1))
  found, turned = found[:, :-3], _turned(matrices, found[:, -3:], r, start)
  found = jnp.where(inside[:, None], jnp.where(free, found, jnp.clip(found, lowest, highest)), table[start])
  found = jnp.split(jnp.where(known[:, None], table, found), np.cumsum(sizes)[:-1], axis=1)
  filled = tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(found, leaves, strict=True)])
  turned = jnp.where(inside[:, None], turned, r[start])
  filled = filled.replace(rotation=jnp.where(known[:, None], r, turned))
  some = jnp.any(known)
  return jax.tree.map(lambda new, old: jnp.where(some, new, old), filled, poses)


def _turns(matrices: Array, rows: Array, start: Array) -> Array:
  """(T, 2, STENCIL, 3): rotations as vectors from the one at the start of the gap, where a straight line is the
  shortest arc."""
  turns = _product(jnp.swapaxes(matrices[start], -1, -2)[:, None, None], matrices[rows])
  vectors = jax.vmap(jax.vmap(jax.vmap(rotation.matrix_to_axis_angle)))(turns)
  return jax.vmap(jax.vmap(jax.vmap(rotation.nearest_axis_angle, (0, None))))(vectors, vectors[:, :, 0])


def _turned(matrices: Array, steps: Array, r: Array, start: Array) -> Array:
  """(T, 3): what rotations are `steps` (T, 3) from the start of the gap."""
  turned = _product(matrices[start], jax.vmap(rotation.axis_angle_to_matrix)(steps))
  return jax.vmap(rotation.nearest_axis_angle)(jax.vmap(rotation.matrix_to_axis_angle)(turned), r[start])


def _product(a: Array, b: Array) -> Array:
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _speed(values: Array, times: Array, unbroken: Array, slope: Array) -> Array:
  """(T, 2, D) per unit of time at the ends of a gap, from their frames (T, 2, STENCIL, D) at `times` (T, 2, STENCIL),
  outwards.

  The median of up to three differences next to it, because frames next to a gap are often the first bad ones; `slope`
  (T, 1, D) without any. It is the speed of some frames earlier, so if these disagree on one, what they differ by is the
  error that it has at the end: of what the median differs from `slope`, as much is taken as is more than that (in
  squares).
  """
  steps = times[..., 1:] - times[..., :-1]
  steps = jnp.where(steps < 0, -1.0, 1.0) * jnp.maximum(jnp.abs(steps), SHORTEST)
  d = (values[..., 1:, :] - values[..., :-1, :]) / steps[..., None]
  a, b, c = d[..., 0, :], d[..., 1, :], d[..., 2, :]
  count = unbroken[..., None] - 1
  least, most = jnp.minimum(a, b), jnp.maximum(a, b)
  three = jnp.maximum(least, jnp.minimum(most, c))
  found = jnp.where(count >= 3, three, jnp.where(count == 2, 0.5 * (a + b), jnp.where(count == 1, a, slope)))
  # A speed that changes steadily: the median is that of 1.5 frames before the end, the mean of two that of one frame.
  range_of_three = jnp.maximum(most, c) - jnp.minimum(least, c)
  error = jnp.where(count >= 3, 0.75 * range_of_three, jnp.where(count == 2, most - least, 0.0))
  change = found - slope
  known, doubt = change**2, error**2
  doubtful = error > 0
  trust = jnp.maximum(known - doubt, 0.0) / jnp.where(doubtful, jnp.maximum(jnp.maximum(known, doubt), 1e-15), 1.0)
  return slope + jnp.where(doubtful, trust, 1.0) * change


def _push(t: Array, reach: Array) -> Array:
  """A cubic with slope 1 at t = 0 that is flat and 0 at t = `reach`, and 0 from there on."""
  rest = jnp.maximum(1.0 - t / reach, 0.0)
  return t * rest * rest


_filled = stored(fill)
