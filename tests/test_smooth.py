"""Smoothing against dense algebra and on signals whose noise is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax import smooth, uncertainty

f32 = lambda a: jnp.asarray(a, jnp.float32)


def test_equals_the_least_squares_solution():
  rng = np.random.default_rng(0)
  T, noise, acceleration = 12, 0.3, 0.7
  x, variance = rng.standard_normal(T), rng.uniform(0.2, 2.0, T)
  variance[5] = np.inf  # a frame without an estimate
  weight = 1 / variance
  weight *= 11 / weight.sum()
  D = np.diff(np.eye(T), n=2, axis=0)
  expected = np.linalg.solve(np.diag(weight / noise) + D.T @ D / acceleration, weight / noise * x)
  found = smooth.smooth(f32(x), f32(variance), f32(noise), f32(acceleration), tail=0.0)
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_straight_line_is_not_changed_and_gaps_are_bridged_along_it():
  line = np.linspace(0, 1, 20)
  seen = np.ones(20, bool)
  seen[7:10] = False
  variance = np.where(seen, 1.0, np.inf)
  found = smooth.smooth(f32(np.where(seen, line, line + 0.3)), f32(variance), f32(1.0), f32(0.01))
  np.testing.assert_allclose(found, line, atol=5e-3)


def test_noise_and_motion_are_told_apart():
  rng = np.random.default_rng(1)
  t = np.arange(4000)
  signal = np.stack([np.sin(t / 20), np.sin(t / 5), 0 * t])
  sd = np.array([0.01, 0.01, 0.02])
  x = f32(signal + sd[:, None] * rng.standard_normal(signal.shape))
  noise, acceleration = jax.vmap(smooth.measure_noise)(x, jnp.full(x.shape, 2e-4))
  np.testing.assert_allclose(np.sqrt(noise), sd, rtol=0.05)
  np.testing.assert_allclose(acceleration[1], np.diff(signal[1], n=2).var(), rtol=0.2)
  assert acceleration[2] < 0.5 * noise[2]


def test_smoothing_brings_the_estimate_closer_to_the_truth_without_lag():
  rng = np.random.default_rng(2)
  truth = np.sin(np.arange(400) / 15)
  x, claimed = f32(truth + 0.02 * rng.standard_normal(400)), jnp.full(400, 1e-3)
  found = np.asarray(smooth.smooth(x, claimed, *smooth.measure_noise(x, claimed)))
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
  found = smooth.smooth(f32(x), f32(variance), f32(1.0), f32(1.0))
  assert abs(found[15]) < 0.01


def test_it_is_a_minimum_of_what_it_says():
  """As far as five solves come: the slope of the cost at the end is small beside the slope at the start."""
  rng = np.random.default_rng(7)
  x = f32(np.cumsum(rng.standard_t(2, 60)) + rng.standard_normal(60))
  noise, acceleration, tail = 0.5, 0.3, 1.0

  def cost(y):
    z = jnp.diff(y, n=2) ** 2 / acceleration
    return jnp.sum((y - x) ** 2) / noise + (1 + 1 / tail) * jnp.sum(jnp.log1p(tail * z))

  found = smooth.smooth(x, jnp.ones(60), f32(noise), f32(acceleration), tail)
  assert cost(found) < 0.8 * cost(x)
  assert jnp.linalg.norm(jax.grad(cost)(found)) < 0.2 * jnp.linalg.norm(jax.grad(cost)(x))


def noisy(signal, sd=0.01, seed=6):
  x = f32(signal + sd * np.random.default_rng(seed).standard_normal(len(signal)))
  claimed = jnp.full(len(signal), sd**2)
  return x, np.asarray(smooth.smooth(x, claimed, *smooth.measure_noise(x, claimed)))


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
  x, claimed = f32(rng.standard_normal(40)), jnp.full(40, 1e-4)
  found = smooth.smooth(x, claimed, *smooth.measure_noise(x, claimed))
  np.testing.assert_allclose(found, x, atol=0.02)


def test_marginal_variance_is_the_diagonal_of_the_inverse():
  a = np.random.default_rng(5).standard_normal((4, 9))
  H = a @ a.T
  np.testing.assert_allclose(uncertainty.marginal_variance(f32(H)), np.diag(np.linalg.inv(H)), rtol=1e-3)
  assert not np.isfinite(uncertainty.marginal_variance(jnp.full((4, 4), jnp.nan))).any()
