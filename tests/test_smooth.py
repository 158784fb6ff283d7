"""Smoothing against dense algebra and on signals whose noise is known."""

import jax
import jax.numpy as jnp
import numpy as np

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
  found = smooth.smooth(f32(x), f32(variance), f32(noise), f32(acceleration))
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
