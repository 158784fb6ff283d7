"""Frames without a face: paths with closed forms, ends, cuts, and what a bridge must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax import rotation
from vht_jax.errors import InputError
from vht_jax.tracking import pipeline
from vht_jax.tracking.keyframes import frame_times
from vht_jax.tracking.motion import gaps
from vht_jax.tracking.motion.gaps import bridge
from vht_jax.types import Pose, Status


def poses_along(signal, turns=None):
  """(T,) or (T, 3) values as translation, expression and jaw, and rotations of the axis-angle vectors `turns`."""
  x = np.asarray(signal, np.float32)
  x = x if x.ndim == 2 else np.stack([x, -2 * x, 0 * x + 1], axis=1)
  n = len(x)
  f32 = lambda a: np.asarray(a, np.float32)
  return Pose(
    expr=f32(x), rotation=f32(np.zeros((n, 3)) if turns is None else turns), translation=f32(x),
    neck=f32(np.zeros((n, 3))), jaw=f32(0.1 * x), eyes=f32(np.zeros((n, 2, 3))),
  )  # fmt: skip


def without(poses, known, value=np.nan):
  rows = lambda a: jnp.asarray(np.where(known.reshape(-1, *[1] * (a.ndim - 1)), a, np.float32(value)))
  return jax.tree.map(rows, poses)


def gap(n, first, last):
  known = np.ones(n, bool)
  known[first:last] = False
  return known


matrices_of, angles_of = (jax.jit(jax.vmap(f)) for f in (rotation.axis_angle_to_matrix, rotation.matrix_to_axis_angle))


def matrices(r):
  return np.asarray(matrices_of(np.asarray(r, np.float32)))


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_steady_motion_goes_on_exactly(length):
  """Also of a head that turns about one axis, through |r| = pi."""
  n = 52  # of all, so that they share a program
  k = np.arange(n)
  turns = (np.pi - 0.3 + 0.05 * k)[:, None] * np.array([[0.0, 0.8, 0.6]])
  truth, known = poses_along(0.02 * k, turns), gap(n, 6, 6 + length)
  found, status = bridge(without(truth, known), known)
  np.testing.assert_allclose(found.translation, truth.translation, atol=1e-5)
  np.testing.assert_allclose(found.expr, truth.expr, atol=1e-5)
  np.testing.assert_allclose(matrices(found.rotation), matrices(truth.rotation), atol=1e-5)
  np.testing.assert_array_equal(status == Status.INTERPOLATED, ~known)


def test_known_frames_stay_bit_by_bit():
  rng = np.random.default_rng(0)
  truth = poses_along(rng.standard_normal((30, 3)), rng.uniform(-3, 3, (30, 3)))
  known = rng.uniform(size=30) < 0.6
  found, _ = bridge(without(truth, known), known)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
    np.testing.assert_array_equal(np.asarray(a)[known], np.asarray(b)[known])
    assert np.isfinite(a).all()


def test_a_short_gap_is_the_cubic_with_the_speeds_at_its_ends():
  """Straight motion before and after, at different speeds: between them the one cubic that fits both."""
  n, first, last = 30, 8, 17  # the gap goes from frame 7 to frame 17
  k = np.arange(n, dtype=float)
  a, b, va, vb = 0.3, 0.1, 0.05, -0.04
  size = last - (first - 1)
  assert size <= gaps.REACH
  s = (k - (first - 1)) / size
  cubic = (2 * s**3 - 3 * s**2 + 1) * a + (s**3 - 2 * s**2 + s) * size * va
  cubic += (3 * s**2 - 2 * s**3) * b + (s**3 - s**2) * size * vb
  truth = np.where(s < 0, a + va * s * size, np.where(s > 1, b + vb * (k - last), cubic))
  known = gap(n, first, last)
  found, _ = bridge(without(poses_along(truth), known), known)
  np.testing.assert_allclose(found.translation[:, 0], truth, atol=1e-6)


def test_speeds_of_a_turning_head_are_kept_across_axes():
  """Two turns about different axes: where the gap begins and ends the head goes on turning as it did."""
  n, first, last = 30, 10, 20
  known = gap(n, first, last)
  turns = np.zeros((n, 3))
  turns[:, 1] = np.pi + 0.12 * (np.arange(n) - first)
  tilt = np.stack([0.35 - 0.1 * np.arange(n - last), np.full(n - last, np.pi), np.full(n - last, 0.1)], axis=1)
  turns[last:] = tilt
  found, _ = bridge(without(poses_along(np.zeros(n), turns), known), known)
  R = matrices(found.rotation)
  angle = lambda A: np.asarray(angles_of(A))
  steps = angle(np.swapaxes(R[:-1], -1, -2) @ R[1:])  # (n - 1, 3) rad per frame, in the head's own axes
  jumps = np.linalg.norm(np.diff(steps, axis=0), axis=1)  # [i]: at frame i + 1
  ends = np.isin(np.arange(n), [first - 1, last])
  L = matrices(bridge(without(poses_along(np.zeros(n), turns), ends), ends)[0].rotation)[first - 1 : last + 1]
  arc = angle(np.swapaxes(L[:-1], -1, -2) @ L[1:])
  assert np.ptp(arc, axis=0).max() < 1e-5  # two frames alone: the shortest arc, at a steady rate
  edge = np.linalg.norm(arc[[0, -1]] - steps[[first - 2, last]], axis=1).min()  # what that would be in speed
  assert max(jumps[first - 2], jumps[last - 1]) < 0.4 * edge and jumps.max() < 0.6 * edge


def test_a_long_gap_is_a_straight_line_but_for_its_ends():
  n, first, last, v = 140, 10, 130, 0.1
  k = np.arange(n)
  x = np.where(k < first, v * (k - first + 1), 0.0) + np.where(k >= last, 0.5 + v * (k - last), 0.0)
  known = gap(n, first, last)
  found, _ = bridge(without(poses_along(x), known), known)
  y = np.asarray(found.translation[:, 0])
  line = np.interp(k, [first - 1, last], [0.0, 0.5])
  slope = 0.5 / (last - first + 1)
  inside = slice(first - 1 + gaps.REACH, last - gaps.REACH + 1)
  np.testing.assert_allclose(y[inside], line[inside], atol=1e-5)
  assert np.abs(y - line)[first:last].max() <= 4 / 27 * gaps.REACH * (v - slope) + 1e-6
  second = np.abs(np.diff(y, n=2))
  assert second.max() < 0.35 * (v - slope)  # a straight line alone has an edge of all of it


def test_expression_and_joints_stay_within_what_the_clip_has_shown():
  x = np.concatenate([np.linspace(1.0, 0.1, 10), np.zeros(20), np.linspace(0.0, 1.0, 10)])  # closes, and opens later
  known = gap(40, 10, 30)
  found, _ = bridge(without(poses_along(x), known), known)
  assert np.asarray(found.translation)[10:30, 0].min() < -0.05
  assert np.asarray(found.jaw)[:, 0].min() >= 0 and np.asarray(found.expr)[:, 0].min() >= 0


def test_a_bad_frame_next_to_a_gap_does_not_throw_the_head_away():
  x = np.zeros(40)
  x[9] = 1.0  # frame 9 is the last before the gap
  known = gap(40, 10, 30)
  found, _ = bridge(without(poses_along(x), known), known)
  y = np.asarray(found.translation[:, 0])
  assert y[10:30].max() <= 1.0 and y[10:30].min() >= 0.0


def test_speed_is_not_read_across_a_cut_or_another_gap():
  x = np.concatenate([50.0 + np.zeros(6), np.zeros(2), np.zeros(8), np.ones(4)])
  known = gap(20, 8, 16)
  found, _ = bridge(without(poses_along(x), known), known, cuts=[6])
  np.testing.assert_allclose(found.translation[8:16, 0], gaps_of_rest(9), atol=1e-6)
  known = gap(20, 8, 16)
  known[5] = False  # frames 6 and 7 are what is known before the gap
  found, _ = bridge(without(poses_along(x), known), known)
  np.testing.assert_allclose(found.translation[8:16, 0], gaps_of_rest(9), atol=1e-6)


def gaps_of_rest(size):
  """From rest at 0 to rest at 1."""
  s = np.arange(1, size) / size
  return 3 * s**2 - 2 * s**3


def test_a_frame_between_two_gaps_gives_no_speed():
  known = np.zeros(9, bool)
  known[[0, 4, 8]] = True
  found, _ = bridge(without(poses_along(np.array([0, 9, 9, 9, 4, 9, 9, 9, 0.0])), known), known)
  np.testing.assert_allclose(found.translation[:, 0], [0, 1, 2, 3, 4, 3, 2, 1, 0], atol=1e-6)


def test_the_pure_function_does_the_same():
  rng = np.random.default_rng(1)
  truth = poses_along(rng.standard_normal((25, 3)), rng.uniform(-1, 1, (25, 3)) + [0, np.pi, 0])
  seen, good = rng.uniform(size=(2, 25)) < 0.8
  broken = without(truth, seen & good)
  a, status = bridge(broken, seen, good)
  b, again = jax.jit(lambda *of: bridge(*of))(broken, seen, good)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)
  np.testing.assert_array_equal(status, again)


def test_derivatives_are_finite():
  known = gap(16, 5, 10)
  turns = np.tile([0.0, np.pi, 0.0], (16, 1))
  poses = without(poses_along(np.zeros(16), turns), known)

  def total(poses):
    filled, _ = bridge(poses, jnp.asarray(known), jnp.ones(16, bool))
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(filled))

  slopes = jax.jit(jax.grad(total))(poses)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


# --- time, and pictures without one -----------------------------------------------------------------------------------


def test_steady_motion_goes_on_at_uneven_times():
  times = np.cumsum(np.random.default_rng(3).choice([0.5, 1.0, 2.0], 30))
  truth, known = poses_along(0.02 * times, 0.03 * times[:, None] * np.array([[0.0, 0.6, 0.8]])), gap(30, 10, 17)
  found, _ = bridge(without(truth, known), known, times=times)
  np.testing.assert_allclose(found.translation, truth.translation, atol=1e-5)
  np.testing.assert_allclose(matrices(found.rotation), matrices(truth.rotation), atol=1e-5)


def test_even_times_bridge_as_none_do():
  rng = np.random.default_rng(4)
  truth, known = poses_along(rng.standard_normal((30, 3)), rng.uniform(-1, 1, (30, 3))), gap(30, 8, 13)
  pairs = zip(*(jax.tree.leaves(bridge(without(truth, known), known, times=t)[0]) for t in (None, np.arange(30.0))))
  for a, b in pairs:
    np.testing.assert_array_equal(a, b)


def test_a_speed_is_trusted_only_where_the_frames_agree_on_one():
  """Frames that jump about have no speed: between them and frames at rest the head goes along the line's side."""
  x = np.zeros(30)
  x[6:10] = [0.3, -0.2, 0.4, 0.0]
  found, _ = bridge(without(poses_along(x), gap(30, 10, 16)), gap(30, 10, 16))
  np.testing.assert_allclose(found.translation[10:16, 0], 0.0, atol=1e-6)
  x[6:10] = [-0.31, -0.2, -0.1, 0.0]
  found, _ = bridge(without(poses_along(x), gap(30, 10, 16)), gap(30, 10, 16))
  assert found.translation[11, 0] > 0.08


def test_pictures_that_are_no_video_are_not_bridged():
  known = np.ones(12, bool)
  known[[4, 5]] = False
  x = np.random.default_rng(5).standard_normal(12)
  found, status = bridge(without(poses_along(x), known), known, unordered=True)
  assert (np.asarray(status)[~known] == Status.NO_FACE).all()
  np.testing.assert_allclose(found.translation[[4, 5], 0], x[[3, 3]], atol=1e-6)


def test_times_of_frames():
  clip = lambda **fields: type("Clip", (), fields)()
  assert frame_times(clip()) is None
  assert frame_times(clip(frame_ids=np.arange(1, 9))) is None
  assert frame_times(clip(times=np.round(np.arange(50) / 30, 3))) is None
  np.testing.assert_allclose(frame_times(clip(frame_ids=np.array([3, 4, 5, 9, 10]))), [0, 1, 2, 6, 7])
  np.testing.assert_allclose(frame_times(clip(times=np.array([1, 1.04, 1.08, 1.2]))), [0, 1, 2, 5], atol=1e-6)
  with pytest.raises(InputError, match="rise"):
    frame_times(clip(times=np.array([0.0, 0.2, 0.1])))


def test_a_regained_frame_has_the_motion_of_its_own_and_a_bridged_face():
  own, bridged = poses_along(np.arange(6), turns=np.ones((6, 3))), poses_along(-np.arange(6.0))
  regained = np.arange(6) == 2
  found = pipeline.with_regained(bridged, own, regained)
  for name in ("rotation", "translation", "neck"):
    np.testing.assert_array_equal(getattr(found, name)[2], getattr(own, name)[2])
  for name in ("expr", "jaw", "eyes"):
    np.testing.assert_array_equal(getattr(found, name), getattr(bridged, name))
  np.testing.assert_array_equal(found.translation[~regained], bridged.translation[~regained])
