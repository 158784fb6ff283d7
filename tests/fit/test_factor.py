"""Factorisations in plain operations, and Newton's step within a trust region."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.fit.solvers import factor, newton


def some(n, batch=(), dtype=np.float64):
  rng = np.random.default_rng(n)
  J = rng.standard_normal((*batch, 2 * n, n)) * np.logspace(0, -3, n)
  return jnp.asarray(np.einsum("...ij,...ik->...jk", J, J), dtype)


BOTH = pytest.mark.parametrize("root", [factor.by_library, factor.by_products])


@BOTH
@pytest.mark.parametrize("n", [1, 3, factor.ROWS, factor.ROWS + 1, 70, factor.HALVED + 5])
def test_inverse_root_is_that_of_lapack(n, root):
  """By rows, halves, blocks, and halves of blocks."""
  with jax.enable_x64(True):
    A = some(n)
    X = jax.jit(root)(A)
    np.testing.assert_allclose(X @ A @ X.T, np.eye(n), atol=1e-9)
    np.testing.assert_array_equal(np.triu(X, 1), 0.0)
    np.testing.assert_allclose(X @ np.linalg.cholesky(A), np.eye(n), atol=1e-9)
    b = jnp.arange(1.0, n + 1)
    np.testing.assert_allclose(A @ factor.solve_vector(X, b), b, rtol=1e-6)


@BOTH
def test_batches_are_factored_one_by_one(root):
  A = some(20, (2, 3), np.float32)
  X = jax.jit(root)(A)
  for i, j in np.ndindex(2, 3):
    np.testing.assert_allclose(X[i, j], root(A[i, j]), rtol=1e-4, atol=1e-2)
  assert np.isnan(root(-A)).any()  # not positive definite


def test_derivatives_of_the_inverse_root():
  with jax.enable_x64(True):
    A, rng = some(6) + jnp.eye(6), np.random.default_rng(0)
    W, D = (jnp.asarray(rng.standard_normal((6, 6))) for _ in range(2))
    D = D + D.T
    own = lambda t: jnp.sum(W * factor.inverse_root(A + t * D))
    lapack = lambda t: jnp.sum(W * jnp.linalg.inv(jnp.linalg.cholesky(A + t * D)))
    expected = pytest.approx(float(jax.jit(jax.grad(lapack))(0.0)), rel=1e-9)
    assert float(jax.jit(lambda t: jax.jvp(own, (t,), (1.0,))[1])(0.0)) == expected
    assert float(jax.jit(jax.grad(own))(0.0)) == expected


@pytest.mark.parametrize("lone", [True, False])
def test_one_system_is_solved_without_the_inverse_and_its_derivatives_are_those_of_the_solution(lone, monkeypatch):
  monkeypatch.setattr(factor, "for_one_device", lambda: lone)
  with jax.enable_x64(True):
    A, b = some(9, (2,)) + jnp.eye(9)[None], jnp.arange(18.0).reshape(2, 9)
    np.testing.assert_allclose(factor.solve_once(A, b), jnp.linalg.solve(A, b[..., None])[..., 0], rtol=1e-9)
    D = jnp.asarray(np.random.default_rng(1).standard_normal((2, 9, 9)))
    D = D + jnp.swapaxes(D, -1, -2)
    own = lambda t: jnp.sum(jnp.sin(factor.solve_once(A + t * D, b + t)))
    lapack = lambda t: jnp.sum(jnp.sin(jnp.linalg.solve(A + t * D, (b + t)[..., None])))
    expected = pytest.approx(float(jax.grad(lapack)(0.1)), rel=1e-8)
    assert float(jax.jvp(own, (0.1,), (1.0,))[1]) == expected
    assert float(jax.grad(own)(0.1)) == expected


TALL = """
import hashlib, jax, numpy as np
from vht_jax.fit.solvers.factor import over_rows
rng = np.random.default_rng(0)
for shape in ((3000, 60), (8, 452, 19), (1000, 3)):
  a = rng.standard_normal(shape).astype(np.float32)
  found = jax.jit(over_rows)(a, a[..., :50])
  np.testing.assert_allclose(found, np.swapaxes(a, -1, -2) @ a[..., :50], atol=1e-2)
  print(hashlib.sha256(np.asarray(found).tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_sums_over_many_rows_do_not_depend_on_the_number_of_threads():
  found = []
  for threads in (2, 16):  # the plain product of the first has other bits with 4 and 16 than with 2
    env = os.environ | {"NPROC": str(threads), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", TALL], env=env, capture_output=True, text=True, check=True)
    found.append(done.stdout.split())
  assert len(found[0]) == 3
  assert found[0] == found[1]


def step_of(H, g, radius):
  H, g = jnp.asarray(H), jnp.asarray(g)
  scale = jnp.array([1.0, 0.5, 2.0])  # the metric's inverse
  return newton.truncated_step(lambda d: H @ d, g, lambda b: scale * b, jnp.asarray(radius), jnp.bool_(True)), scale


def test_steps_in_a_trust_region():
  with jax.enable_x64(True):
    H, g = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 0.5]]), np.array([1.0, -2.0, 0.5])
    free, _ = step_of(H, g, 100.0)
    np.testing.assert_allclose(free.step, -np.linalg.solve(H, g), rtol=1e-2)
    assert bool(free.convex)
    assert float(free.predicted) == pytest.approx(float(g @ np.linalg.solve(H, g)), rel=1e-3)
    for bent in (H, H - 3 * np.eye(3)):  # too far, and of negative curvature
      found, scale = step_of(bent, g, 0.7)
      z = np.asarray(found.step)
      assert np.sqrt(np.sum(z**2 / scale)) == pytest.approx(0.7, rel=1e-6)  # on the edge
      assert float(found.length) == pytest.approx(0.7, rel=1e-6)
      assert float(found.predicted) == pytest.approx(-(2 * g @ z + z @ bent @ z), rel=1e-6)
      assert float(found.predicted) > 0
    assert not bool(found.convex)
