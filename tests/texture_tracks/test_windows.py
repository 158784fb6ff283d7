"""Estimates of where the head is, against closed forms."""

import numpy as np
from scipy.spatial.transform import Rotation

from vht_jax.texture_tracks.windows import Estimate

SIDE, PIVOT, PRINCIPAL = 640, np.array([0.01, -0.02, 0.03]), np.array([330.0, 250.0])


def estimate(n=9, seed=0):
  rng = np.random.default_rng(seed)
  R = Rotation.from_rotvec(rng.normal(0, 0.3, (n, 3))).as_matrix()
  t = rng.normal(0, 0.03, (n, 3)) + [0, 0, 0.6]
  return Estimate(R, t, R, t, 1.4, PRINCIPAL, SIDE)


def seen(estimate, focal, principal):
  """Place (T, 2) and px per m (T,) of the pivot."""
  at = estimate.t + estimate.R @ PIVOT
  return at[:, :2] / at[:, 2:] * focal * SIDE + principal, focal * SIDE / at[:, 2]


def test_another_lens_shows_heads_at_the_same_place_and_size():
  before, principal = estimate(), PRINCIPAL + [5.0, -3.0]
  after = before.moved(before.R, before.t, np.zeros(9, bool), 1.1, principal, PIVOT)
  for a, b in zip(seen(before, 1.4, PRINCIPAL), seen(after, 1.1, principal)):
    np.testing.assert_allclose(a, b, rtol=1e-9)
  np.testing.assert_array_equal(after.R, before.R)


def test_frames_that_are_not_known_move_as_those_around_them():
  """A head whose own axes are turned and shifted a little is so in all frames."""
  before = estimate()
  turn, shift = Rotation.from_rotvec([0.05, -0.08, 0.03]).as_matrix(), np.array([0.004, -0.002, 0.006])
  R, t = before.R @ turn, before.t + before.R @ shift
  known = np.array([True, False, True, False, False, True, True, True, False])
  blank = lambda a: np.where(known.reshape(-1, *[1] * (a.ndim - 1)), a, 7.0)
  after = before.moved(blank(R), blank(t), known, 1.4, PRINCIPAL, PIVOT)
  np.testing.assert_allclose(after.R, R, atol=1e-9)
  np.testing.assert_allclose(after.t, t, atol=1e-9)


def test_a_correction_leads_from_then_to_now():
  before = estimate()
  other = estimate(seed=1)
  after = before.moved(other.R, other.t, np.ones(9, bool), 1.4, PRINCIPAL, PIVOT)
  turn, shift = after.correction()
  point = np.array([0.02, 0.05, -0.01])
  np.testing.assert_allclose(
    np.einsum("tij,tj->ti", turn, before.R @ point + before.t) + shift, after.R @ point + after.t, atol=1e-6
  )
