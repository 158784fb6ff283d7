"""The ways in which a face may bend beside its first estimate."""

import numpy as np
import pytest

from vht_jax.texture_tracks.bundle.modes import MODES_SD, N_MODES, modes_at, unit_moves


def skin(seed, n_expr):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(40, 3)), rng.normal(size=(40, 3, n_expr)), rng.normal(size=(40, 3)), rng


def test_a_rigid_motion_of_all_of_the_skin_bends_nothing():
  X, exprdirs, by_jaw, rng = skin(0, 3)
  turn, shift = rng.normal(size=3), rng.normal(size=3)
  exprdirs[..., 1] = np.cross(turn, X) + shift
  moves = unit_moves(X, exprdirs, by_jaw)
  np.testing.assert_allclose(moves[1], 0.0, atol=1e-5)
  # What is left has no rigid part: no mean, no moment of rotation.
  np.testing.assert_allclose(moves.mean(1), 0.0, atol=1e-6)
  np.testing.assert_allclose(np.cross(X - X.mean(0), moves).sum(1), 0.0, atol=1e-4)
  # Nor is more taken away than that: it is the nearest such move.
  taken = np.moveaxis(exprdirs, -1, 0) - moves[:3]
  np.testing.assert_allclose(np.einsum("evk,evk->e", taken, moves[:3]), 0.0, atol=1e-4)


@pytest.mark.parametrize("n_expr", [2, 30])
def test_modes_are_the_principal_components_of_points(n_expr):
  _, exprdirs, by_jaw, rng = skin(1, n_expr)
  triangles, bary = rng.integers(0, 40, (25, 3)), rng.dirichlet(np.ones(3), 25)
  moves = unit_moves(*skin(1, n_expr)[:3])
  modes = modes_at(moves, triangles, bary)
  assert modes.shape == (N_MODES, 25, 3)
  at = np.sum(moves[:, triangles] * bary[None, :, :, None], 2).reshape(n_expr + 1, -1)
  values = np.linalg.eigvalsh(at.T @ at)[::-1]
  flat = modes.reshape(N_MODES, -1).astype(np.float64)
  gram = flat @ flat.T
  np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-5 * gram.max())
  n = min(N_MODES, n_expr + 1)
  np.testing.assert_allclose(np.diag(gram)[:n], values[:n] * MODES_SD**2 * 25 / values.sum(), rtol=1e-4)
  np.testing.assert_allclose(flat[n:], 0.0)


def test_points_that_cannot_move_have_modes_of_nothing():
  modes = modes_at(np.zeros((5, 40, 3), np.float32), np.zeros((6, 3), int), np.full((6, 3), 1 / 3))
  np.testing.assert_array_equal(modes, 0.0)
