"""Outlines against a mask's: the sum of squares of single heights that stands for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.fit import offsets
from vht_jax.fit.offsets import PATCH, Skin, solve
from vht_jax.fit.terms import silhouette
from vht_jax.fit.terms.silhouette import IMPOSSIBLE, Moved, Pulls, residual

V, N = 40, 25

prior_of, normal_diagonal = jax.jit(offsets.prior_of), jax.jit(silhouette.normal_diagonal)


@pytest.fixture(scope="module")
def outline():
  rng = np.random.default_rng(0)
  f = lambda a: jnp.asarray(a, jnp.float32)
  angle = rng.uniform(0, 2 * np.pi, N)
  bary = rng.dirichlet(np.ones(3), N)
  moved = Moved(pixels=f(rng.uniform(10, 90, (V, 2))), slopes=f(rng.normal(0, 300, (V, 2))), per_metre=f(800))
  corners = jnp.asarray(np.stack([rng.permutation(V)[:3] for _ in range(N)]).astype(np.int32))
  normal = f(np.stack([np.cos(angle), np.sin(angle)], -1))
  pulls = Pulls(
    corners=corners, bary=f(bary), normal=normal, distance=f(rng.normal(0, 3, N)), weight=f(rng.uniform(0.1, 1, N))
  )
  return moved, pulls, f(rng.uniform(0, 0.02, V))


@jax.jit
def cost(moved, pulls, change):
  return jnp.sum(pulls.weight * residual(moved, pulls, change) ** 2)


def test_single_heights_have_the_terms_slope_and_lie_above_it(outline):
  moved, pulls, height = outline
  curvature, right = normal_diagonal(moved, pulls, height, jnp.full(V, 1e3))
  assert (curvature >= 0).all()
  gradient = jax.jit(jax.grad(lambda change: 0.5 * cost(moved, pulls, change)))(jnp.zeros(V))
  np.testing.assert_allclose(curvature * height - right, gradient, rtol=2e-4, atol=2e-3 * jnp.abs(gradient).max())
  upper = lambda change: jnp.sum(curvature * (height + change) ** 2 - 2 * right * (height + change))
  start = upper(jnp.zeros(V)) - cost(moved, pulls, jnp.zeros(V))
  rng = np.random.default_rng(2)
  for _ in range(20):
    change = jnp.asarray(rng.normal(0, 0.01, V), jnp.float32)
    assert upper(change) - start >= cost(moved, pulls, change) * (1 - 1e-3) - 1e-2


def test_the_terms_slope_is_that_of_differences(outline):
  moved, pulls, _ = outline
  gradient = jax.jit(jax.grad(lambda change: cost(moved, pulls, change)))(jnp.zeros(V))
  step = 1e-3
  for i in (0, 7, 31):
    one = jnp.zeros(V).at[i].set(step)
    ahead, behind = cost(moved, pulls, one), cost(moved, pulls, -one)
    np.testing.assert_allclose((ahead - behind) / (2 * step), gradient[i], rtol=1e-2, atol=1.0)


def test_what_no_head_has_counts_little(outline):
  moved, pulls, _ = outline
  zero = jnp.zeros(V)
  far = pulls.replace(distance=jnp.full(N, 100.0))
  usual = lambda sd: normal_diagonal(moved, far, zero, jnp.full(V, sd))[0].sum()
  assert usual(1e-3) < 1e-3 * usual(10.0)
  slopes = jnp.sum(moved.slopes[pulls.corners] * pulls.normal[:, None], -1)
  half = 100.0 * np.sqrt(3) / IMPOSSIBLE / jnp.sqrt(jnp.sum(slopes**2, 1))  # of each point's own
  one = jax.tree.map(lambda a: a[:1], far)
  whole, doubted = (normal_diagonal(moved, one, zero, jnp.full(V, sd))[0].sum() for sd in (1e3, float(half[0])))
  np.testing.assert_allclose(doubted, 0.5 * whole, rtol=1e-3)


def square(side=12, step=0.01):
  """The prior of a flat square cloth, whose rim on one side is held."""
  n = side * side
  number = np.arange(n).reshape(side, side)
  neighbours, weights = np.repeat(np.arange(n, dtype=np.int32)[:, None], 4, 1), np.zeros((n, 4), np.float32)
  for slot, (dy, dx) in enumerate(((0, 1), (0, -1), (1, 0), (-1, 0))):
    for y in range(side):
      for x in range(side):
        if 0 <= y + dy < side and 0 <= x + dx < side:
          neighbours[number[y, x], slot], weights[number[y, x], slot] = number[y + dy, x + dx], 1.0
  sd = np.full(n, 0.02, np.float32)
  sd[number[:, 0]] = 0.0
  return Skin(
    direction=np.tile(np.float32([[0, 0, 1]]), (n, 1)), sd=sd, area=np.full(n, step**2, np.float32),
    neighbours=neighbours, weights=weights, mirrored=number[::-1].ravel().astype(np.int32),
  )  # fmt: skip


def test_the_prior_is_symmetric_and_a_constant_costs_nothing_but_its_height():
  skin = square()
  n = len(skin.sd)
  matrix = np.asarray(jax.vmap(lambda e: prior_of(skin, e))(jnp.eye(n)))
  np.testing.assert_allclose(matrix, matrix.T, atol=1e-5 * np.abs(matrix).max())
  assert np.linalg.eigvalsh(matrix.astype(np.float64)).min() > -1e-5 * np.abs(matrix).max()
  np.testing.assert_allclose(prior_of(skin, jnp.ones(n)), 0.0, atol=1e-5 * np.abs(matrix).max())


def test_heights_solve_the_normal_equations_and_held_ones_are_0():
  skin = square()
  n = len(skin.sd)
  curvature, right = np.zeros(n, np.float32), np.zeros(n, np.float32)
  curvature[[50, 100]], right[[50, 100]] = 1e6, 1e6 * 0.02
  found = np.asarray(solve(skin, jnp.asarray(curvature), jnp.asarray(right), jnp.zeros(n)))
  assert (found[skin.sd == 0] == 0).all()
  assert (found[[50, 100]] > 0.01).all()
  free = skin.sd > 0
  prior = np.asarray(jax.vmap(lambda e: prior_of(skin, e))(jnp.eye(n)), np.float64)
  matrix = prior + np.diag(curvature + skin.area / PATCH**2 / np.maximum(skin.sd, 1e-9) ** 2)
  exact = np.linalg.solve(matrix[np.ix_(free, free)], right[free].astype(np.float64))
  np.testing.assert_allclose(found[free], exact, atol=1e-4)
