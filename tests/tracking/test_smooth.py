"""Smoothing against dense algebra and on signals whose noise is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.fit.solvers import uncertainty
from vht_jax.tracking.motion import smooth
from vht_jax.tracking.stages import smooth as smooth_stage

f32 = lambda a: np.asarray(a, np.float32)
smoothed, left_out = (jax.jit(f, static_argnames="tail") for f in (smooth.smooth, smooth.left_out))
measure_noise, white_share, followed = map(jax.jit, (smooth.measure_noise, smooth.white_share, smooth.followed))


def test_equals_the_least_squares_solution():
  rng = np.random.default_rng(0)
  T, noise, acceleration = 12, 0.3, 0.7
  x, variance = rng.standard_normal(T), rng.uniform(0.2, 2.0, T)
  variance[5] = np.inf  # a frame without an estimate
  weight = 1 / variance
  weight *= 11 / weight.sum()
  D = np.diff(np.eye(T), n=2, axis=0)
  expected = np.linalg.solve(np.diag(weight / noise) + D.T @ D / acceleration, weight / noise * x)
  found = smoothed(f32(x), f32(variance), f32(noise), f32(acceleration), tail=0.0)
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_straight_line_is_not_changed_and_gaps_are_bridged_along_it():
  line = np.linspace(0, 1, 20)
  seen = np.ones(20, bool)
  seen[7:10] = False
  variance = np.where(seen, 1.0, np.inf)
  found = smoothed(f32(np.where(seen, line, line + 0.3)), f32(variance), f32(1.0), f32(0.01))
  np.testing.assert_allclose(found, line, atol=5e-3)


def test_noise_and_motion_are_told_apart():
  rng = np.random.default_rng(1)
  t = np.arange(4000)
  signal = np.stack([np.sin(t / 20), np.sin(t / 5), 0 * t])
  sd = np.array([0.01, 0.01, 0.02])
  x = f32(signal + sd[:, None] * rng.standard_normal(signal.shape))
  noise, acceleration = jax.jit(jax.vmap(smooth.measure_noise))(x, f32(np.full(x.shape, 2e-4)))
  np.testing.assert_allclose(np.sqrt(noise), sd, rtol=0.05)
  np.testing.assert_allclose(acceleration[1], np.diff(signal[1], n=2).var(), rtol=0.2)
  assert acceleration[2] < 0.5 * noise[2]


def test_smoothing_brings_the_estimate_closer_to_the_truth_without_lag():
  rng = np.random.default_rng(2)
  truth = np.sin(np.arange(400) / 15)
  x, claimed = f32(truth + 0.02 * rng.standard_normal(400)), f32(np.full(400, 1e-3))
  found = np.asarray(smoothed(x, claimed, *measure_noise(x, claimed)))
  error = lambda a: np.sqrt(((a - truth) ** 2).mean())
  assert error(found) < 0.7 * error(np.asarray(x))
  jitter = lambda a: np.abs(np.diff(a, n=2)).mean()
  assert jitter(found) < 0.2 * jitter(np.asarray(x))
  # The shift that fits the truth best, from the slope: zero if nothing lags.
  slope = np.gradient(truth)
  assert abs(((truth - found) * slope).sum() / (slope**2).sum()) < 0.1


def test_an_uncertain_frame_gives_way():
  x, variance = np.zeros(30), np.ones(30)
  x[15], variance[15] = 1.0, 1e4
  found = smoothed(f32(x), f32(variance), f32(1.0), f32(1.0))
  assert abs(found[15]) < 0.01


def test_it_is_a_minimum_of_what_it_says():
  """As far as five solves come: the slope of the cost at the end is small beside the slope at the start."""
  rng = np.random.default_rng(7)
  x = f32(np.cumsum(rng.standard_t(2, 60)) + rng.standard_normal(60))
  noise, acceleration, tail = 0.5, 0.3, 1.0

  @jax.jit
  @jax.value_and_grad
  def cost(y):
    z = jnp.diff(y, n=2) ** 2 / acceleration
    return jnp.sum((y - x) ** 2) / noise + (1 + 1 / tail) * jnp.sum(jnp.log1p(tail * z))

  found = smoothed(x, f32(np.ones(60)), f32(noise), f32(acceleration), tail=tail)
  (end, slope), (begin, steep) = cost(found), cost(x)
  assert end < 0.8 * begin
  assert np.linalg.norm(slope) < 0.2 * np.linalg.norm(steep)


def noisy(signal, sd=0.01, seed=6):
  x = f32(signal + sd * np.random.default_rng(seed).standard_normal(len(signal)))
  claimed = f32(np.full(len(signal), sd**2))
  return x, np.asarray(smoothed(x, claimed, *measure_noise(x, claimed)))


def test_a_step_between_two_frames_is_not_smeared():
  k = np.arange(120)
  truth = np.where(k < 60, 0.0, 1.0) + 0.05 * np.sin(k / 15)
  x, found = noisy(truth)
  assert np.abs(found - truth)[55:65].max() < 0.03
  assert np.abs(found - truth).std() < 0.7 * np.abs(np.asarray(x) - truth).std()


@pytest.mark.parametrize("length", [1, 8])
def test_bad_frames_do_not_pull_their_neighbours(length):
  k = np.arange(120)
  truth = 0.05 * np.sin(k / 15)
  bad = (k >= 50) & (k < 50 + length)
  x, found = noisy(truth + 0.5 * bad)
  beside = (k >= 45) & (k < 55 + length) & ~bad
  assert np.abs(found - truth)[beside].max() < 0.03
  # And all others are smoothed as if there were no bad frame.
  without = noisy(truth)[1]
  apart = (k < 40) | (k > 60 + length)
  np.testing.assert_allclose(found[apart], without[apart], atol=0.01)
  jitter = lambda a: np.abs(np.diff(a[70:], n=2)).mean()
  assert jitter(found) < 0.05 * jitter(np.asarray(x))


def test_fast_motion_is_followed_while_rest_is_smoothed():
  """A head that rests, turns within six frames, and rests."""
  k = np.arange(200)
  truth = 1 / (1 + np.exp(-(k - 100) / 1.0))
  x, found = noisy(truth)
  moving = (k > 90) & (k < 110)
  assert np.abs(found - truth)[moving].max() < 0.04
  jitter = lambda a: np.abs(np.diff(a, n=2))[110:].mean()
  assert jitter(found) < 0.25 * jitter(np.asarray(x))


def test_unrelated_pictures_are_left_alone():
  rng = np.random.default_rng(4)
  x, claimed = f32(rng.standard_normal(40)), f32(np.full(40, 1e-4))
  found = smoothed(x, claimed, *measure_noise(x, claimed))
  np.testing.assert_allclose(found, x, atol=0.02)


def test_marginal_variance_is_the_diagonal_of_the_inverse():
  a = np.random.default_rng(5).standard_normal((4, 9))
  H = a @ a.T
  np.testing.assert_allclose(uncertainty.marginal_variance(f32(H)), np.diag(np.linalg.inv(H)), rtol=1e-3)
  assert not np.isfinite(uncertainty.marginal_variance(jnp.full((4, 4), jnp.nan))).any()


# --- strength ---------------------------------------------------------------------------------------------------------


def follow(x, variance, others=(), times=None):
  """What the tracker does with one unknown of a clip; `others` move as the head does."""
  rows = [f32(x), *map(f32, others)]
  share = white_share(np.stack(rows), np.stack([f32(variance)] * len(rows)), times)
  noise, acceleration = measure_noise(f32(x), f32(variance), times, share)
  left = left_out(f32(x), f32(variance), noise, smooth.USUAL * acceleration, times=times)
  return np.asarray(x + followed(*left, f32(variance), noise))


@pytest.mark.parametrize("uneven", [False, True])
def test_leaving_one_out_in_closed_form(uneven):
  rng = np.random.default_rng(8)
  n, noise, acceleration = 14, 0.4, 0.3
  x, variance = rng.standard_normal(n), rng.uniform(0.5, 2.0, n)
  times = f32(np.cumsum(rng.uniform(0.5, 2, n))) if uneven else None
  error, free = left_out(f32(x), f32(variance), f32(noise), f32(acceleration), tail=0.0, times=times)
  for t in (0, 5, 13):
    without = np.where(np.arange(n) == t, np.inf, variance)
    # The noise is that of a usual frame: which is another one now.
    usual = float(smooth.claimed_variance(f32(without)) / smooth.claimed_variance(f32(variance)))
    others = np.where(np.arange(n) == t, 0.0, x)
    y = smoothed(f32(others), f32(without), f32(noise * usual), f32(acceleration), tail=0.0, times=times)
    np.testing.assert_allclose(error[t], x[t] - y[t], atol=2e-2)
  y = smoothed(f32(x), f32(variance), f32(noise), f32(acceleration), tail=0.0, times=times)
  np.testing.assert_allclose(x - np.asarray(error * free), y, atol=1e-4)


@pytest.mark.parametrize("size", [4.0, 10.0, 100.0])
def test_white_motion_is_not_taken_for_noise(size):
  """Standard deviations of the motion; what the frame claims is right. No smoothing leaves an error of 1."""
  rng = np.random.default_rng(9)
  truth, head = rng.standard_normal((2, 120)) * [[size], [100.0]]
  found = follow(truth + rng.standard_normal(120), np.ones(120), [head + rng.standard_normal(120)])
  assert np.sqrt(((found - truth) ** 2).mean()) < 1.05


@pytest.mark.parametrize("step", [1, 4, 15, 60])
def test_a_clip_of_which_every_nth_frame_is_there(step):
  """A head that moves within some ten frames: smoothed as long as there is something to gain, never worse."""
  rng = np.random.default_rng(10)
  k = np.arange(60 * step)
  waves = [np.sin(k / length + phase) for length, phase in ((9, 0.3), (4.7, 1.1), (21, 2.0))]
  truth = (30 * sum(waves))[::step]
  x = truth + rng.standard_normal(60)
  error = np.sqrt(((follow(x, np.ones(60)) - truth) ** 2).mean()) / np.sqrt(((x - truth) ** 2).mean())
  assert error < (0.95 if step == 1 else 1.05)


def test_a_step_and_a_blink_stay():
  rng = np.random.default_rng(11)
  k = np.arange(150)
  truth = 20.0 * (k >= 60) + 15.0 * np.isin(k, [100, 101, 102]) + 3 * np.sin(k / 20)
  found = follow(truth + rng.standard_normal(150), np.ones(150))
  assert np.abs(found - truth)[[58, 59, 60, 61, 99, 100, 101, 102, 103]].max() < 3.0
  assert np.abs(found - truth)[110:].std() < 0.7


def test_slow_motion_with_noise_that_frames_do_not_admit():
  rng = np.random.default_rng(12)
  truth = 10 * np.sin(np.arange(200) / 25)
  x = truth + 2.5 * rng.standard_normal(200)  # 6 times the variance
  assert np.std(follow(x, np.ones(200)) - truth) < 0.6 * np.std(x - truth)


def test_a_corrupt_frame_leaves_its_neighbours_alone():
  rng = np.random.default_rng(13)
  x = 10 * np.sin(np.arange(120) / 12) + rng.standard_normal(120)
  bad = x + 80.0 * (np.arange(120) == 50)
  difference = np.abs(follow(bad, np.ones(120)) - follow(x, np.ones(120)))
  assert difference[np.arange(120) != 50].max() < 1.0  # standard deviation of a frame


def test_how_white_motion_is():
  rng = np.random.default_rng(14)
  variance = np.ones((2, 200))
  slow = 100 * np.stack([np.sin(np.arange(200) / 10), np.cos(np.arange(200) / 15)])
  assert white_share(f32(100 * rng.standard_normal((2, 200))), f32(variance)) > 0.9
  assert white_share(f32(slow + rng.standard_normal((2, 200))), f32(variance)) < 0.1
  assert white_share(f32(2 * rng.standard_normal((2, 200))), f32(variance)) < 0.1  # may be noise


def test_errors_in_the_coordinates_are_independent():
  a = np.random.default_rng(15).standard_normal((9, 5))
  V = smooth.coordinates(a.T @ a)
  np.testing.assert_allclose(V.T @ np.linalg.inv(a.T @ a) @ V, np.eye(5), atol=1e-4)


def test_a_frame_leaves_its_estimate_no_further_than_it_may():
  H, change = f32(np.diag([1.0, 100.0])), f32([1.0, 1.0])
  np.testing.assert_allclose(smooth.within(change, H, f32(4.0)), np.ones(2) * np.sqrt(4 / 101), rtol=1e-5)
  np.testing.assert_array_equal(smooth.within(change, H, f32(200.0)), change)


# --- time -------------------------------------------------------------------------------------------------------------


def test_accelerations_of_uneven_times():
  times = np.array([0.0, 1.0, 1.5, 4.0, 4.8, 6.0])
  second, span = smooth.second_differences(6, f32(times))
  np.testing.assert_allclose(second @ f32(3 * times**2 - times + 2), 6 * np.ones(4), rtol=1e-4)
  np.testing.assert_allclose(span, (times[2:] - times[:-2]) / 2, rtol=1e-6)


def test_what_accelerates_at_the_same_moments_is_smoothed_better_together():
  """Six sequences that rest, but for bursts that they share; one of them alone, and all in one."""
  rng = np.random.default_rng(19)
  burst = np.repeat(rng.random(20) < 0.3, 6)
  truth = np.cumsum(np.cumsum(burst * rng.standard_normal((6, 120)), axis=1), axis=1)
  x, ones = truth + rng.standard_normal((6, 120)), np.ones((6, 120))
  noise, acceleration = f32(np.ones(6)), f32(np.full(6, 0.1))
  together = smoothed(f32(x), f32(ones), noise, acceleration)
  alone = jax.jit(jax.vmap(smooth.smooth))(f32(x), f32(ones), noise, acceleration)
  error = lambda y: np.sqrt(np.square(np.asarray(y) - truth).mean())
  assert error(together) < 0.95 * error(alone)
  # One sequence in k is the same as by itself, to roundings: values of 180 are known to 1e-5.
  single = smoothed(f32(x[:1]), f32(ones[:1]), noise[:1], acceleration[:1])[0]
  np.testing.assert_allclose(single, alone[0], rtol=4 * np.finfo(np.float32).eps, atol=1e-5)


def test_even_times_change_nothing():
  rng = np.random.default_rng(16)
  x, variance, times = rng.standard_normal(40), rng.uniform(0.5, 2, 40), f32(np.arange(40))
  for a, b in zip(measure_noise(f32(x), f32(variance)), measure_noise(f32(x), f32(variance), times)):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  of = (f32(x), f32(variance), f32(0.3), f32(0.2))
  np.testing.assert_allclose(smoothed(*of), smoothed(*of, times=times), atol=1e-6)


def test_noise_and_motion_at_uneven_times():
  rng = np.random.default_rng(17)
  times = np.cumsum(rng.choice([0.5, 1.0, 1.5, 3.0], 3000))
  x = np.sin(times / 40) + 0.02 * rng.standard_normal(3000)
  noise, _ = measure_noise(f32(x), f32(np.full(3000, 4e-4)), f32(times))
  np.testing.assert_allclose(np.sqrt(noise), 0.02, rtol=0.05)
  steady = 0.1 * times[:60]
  found = smoothed(f32(steady), f32(np.ones(60)), f32(1.0), f32(0.01), times=f32(times[:60]))
  np.testing.assert_allclose(found, steady, atol=5e-3)


# --- is it a video ----------------------------------------------------------------------------------------------------


def test_pictures_without_an_order_are_told_from_a_video():
  rng = np.random.default_rng(18)
  pairs = lambda n: np.ones(n - 1, bool)
  walk = np.cumsum(rng.standard_normal((40, 6)), axis=0) * 10
  assert smooth_stage.in_order(walk, pairs(40), 1.0)
  assert smooth_stage.in_order(walk[:12], pairs(12), 1.0)
  assert smooth_stage.in_order(rng.standard_normal((40, 6)), pairs(40), 1.0)  # a still head, noise
  wrong = [smooth_stage.in_order(100 * rng.standard_normal((24, 6)), pairs(24), 1.0) for _ in range(30)]
  assert sum(wrong) <= 2
  assert not smooth_stage.in_order(walk[rng.permutation(40)], pairs(40), 1.0)
