"""Levenberg-Marquardt against closed forms, and the arrow solver against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.fit.solvers import least_squares
from vht_jax.fit.solvers.least_squares import ArrowNormal, Normal, levenberg_marquardt, levenberg_marquardt_shared

F, N, M, R = 4, 3, 2, 9  # frames, unknowns per frame, shared unknowns, residuals per frame


def normal_of(residual):
  """The `Normal` of a residual function by forward mode."""

  def normal(x):
    r, J = residual(x), jax.jacfwd(residual)(x)
    return Normal(jnp.sum(r**2), J.T @ r, J.T @ J)

  return normal


def arrow_of(residual):
  """The `ArrowNormal` of residual(frame unknowns (n,), shared (m,), frame index) plus a weak prior on all unknowns."""

  def one(x, s, f):
    r, (J, G) = residual(x, s, f), jax.jacfwd(residual, (0, 1))(x, s, f)
    return jnp.sum(r**2), J.T @ r, J.T @ J, J.T @ G, G.T @ r, G.T @ G

  def normal(xs, s):
    cost, g, H, C, gs, Hs = jax.vmap(one, (0, None, 0))(xs, s, jnp.arange(xs.shape[0]))
    return ArrowNormal(jnp.sum(cost), g, H, C, jnp.sum(gs, 0), jnp.sum(Hs, 0))

  return normal


def rosenbrock(x):
  return jnp.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])


@jax.jit
def solve_rosenbrock(x, units, max_steps):
  return levenberg_marquardt(normal_of(lambda y: rosenbrock(y * units)), x, max_steps=max_steps)


@jax.jit
def solve_linear(A, B, b, prior, max_steps, damping):
  """The arrow solver on sum |A_f x_f + B_f s - b_f|^2 + prior |x|^2 from ones: its solution, and the model there."""

  def normal(xs, s):
    arrow = arrow_of(lambda x, s, f: A[f] @ x + B[f] @ s - b[f])(xs, s)
    return arrow.replace(
      cost=arrow.cost + prior * jnp.sum(xs**2),
      frame_gradient=arrow.frame_gradient + prior * xs,
      frame_matrix=arrow.frame_matrix + prior * jnp.eye(N)[None],
    )

  start = jnp.ones((F, N)), jnp.ones(M)
  solution = levenberg_marquardt_shared(normal, *start, max_steps=max_steps, damping=damping, tol=1e-7)
  return solution, least_squares.eliminate_frames(normal(*start), jnp.zeros(()))[2:]


@pytest.fixture(scope="module")
def linear():
  """A random arrow least-squares problem: per frame A (R, N), B (R, M), b (R,)."""
  rng = np.random.default_rng(0)
  f32 = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  return f32(F, R, N), f32(F, R, M), f32(F, R)


def dense_system(A, B, b):
  """The same problem as one matrix (F R, F N + M) and right side."""
  rows = np.zeros((F * R, F * N + M))
  for f in range(F):
    rows[f * R : (f + 1) * R, f * N : (f + 1) * N] = A[f]
    rows[f * R : (f + 1) * R, F * N :] = B[f]
  return rows, np.asarray(b).reshape(-1)


def test_linear_least_squares_closed_form(linear):
  A, b = linear[0][0], linear[2][0]
  solution = jax.jit(lambda x0: levenberg_marquardt(normal_of(lambda x: A @ x - b), x0, max_steps=10))(jnp.full(N, 3.0))
  x, residual, *_ = np.linalg.lstsq(np.asarray(A, np.float64), np.asarray(b, np.float64))
  np.testing.assert_allclose(solution.x, x, atol=1e-5)
  np.testing.assert_allclose(solution.normal.cost, residual[0], rtol=1e-5)
  np.testing.assert_allclose(solution.normal.gradient, 0, atol=1e-4)
  assert solution.converged and solution.steps < 10


def test_rosenbrock_and_vmap_equals_loop():
  starts = jnp.array([[-1.2, 1.0], [2.0, -3.0], [0.3, 0.3], [-2.0, 2.0]])
  together = jax.vmap(solve_rosenbrock, (0, None, None))(starts, jnp.ones(2), 100)
  np.testing.assert_allclose(together.x, 1.0, atol=2e-3)
  assert len(set(np.asarray(together.steps).tolist())) > 1  # the frames do stop at different times
  for k, x in enumerate(starts):
    single = solve_rosenbrock(x, jnp.ones(2), 100)
    np.testing.assert_allclose(together.x[k], single.x, atol=1e-5)
    assert together.steps[k] == single.steps


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_non_finite_steps_are_rejected(bad):
  """The Gauss-Newton step of sqrt's residual from 4 jumps below zero, where the cost is not finite."""

  def residual(x):
    return jnp.where(x > 0, jnp.log(jnp.maximum(x, 1e-9)) + 2.0, bad)

  solution = jax.jit(lambda x: levenberg_marquardt(normal_of(residual), x, max_steps=40))(jnp.array([4.0]))
  full_step = 4.0 - 4.0 * (np.log(4.0) + 2.0)
  assert full_step < 0
  np.testing.assert_allclose(solution.x, np.exp(-2.0), rtol=1e-3)
  assert np.isfinite(solution.normal.cost)


def test_a_finite_start_stays_where_nothing_is_better():
  """Everything but the start is NaN: the solver returns the start."""
  x0 = jnp.array([1.0, 2.0])

  def normal(x):
    there = jnp.all(x == x0)
    return Normal(jnp.where(there, 1.0, jnp.nan), jnp.ones(2), jnp.eye(2))

  solution = jax.jit(lambda x: levenberg_marquardt(normal, x, max_steps=50))(x0)
  np.testing.assert_array_equal(solution.x, x0)
  assert solution.normal.cost == 1.0
  assert solution.steps < 50  # the damping limit ends the search


def test_max_steps():
  start = jnp.array([-1.2, 1.0])
  none, three, four = (solve_rosenbrock(start, jnp.ones(2), n) for n in (0, 3, 4))
  assert none.steps == 0
  np.testing.assert_array_equal(none.x, start)
  assert three.steps == 3 and not three.converged
  assert four.normal.cost <= three.normal.cost


def test_damping_scales_with_the_diagonal():
  """Marquardt's step is invariant to the units of the unknowns."""
  start, units = jnp.array([-1.2, 1.0]), jnp.array([1e-2, 30.0])
  plain = solve_rosenbrock(start, jnp.ones(2), 4)
  scaled = solve_rosenbrock(start / units, units, 4)
  np.testing.assert_allclose(scaled.x * units, plain.x, rtol=1e-3)


def test_normals_add():
  total = Normal(jnp.ones(()), jnp.ones(2), jnp.eye(2)) + Normal(jnp.ones(()), jnp.zeros(2), jnp.ones((2, 2)))
  assert total.cost == 2.0
  np.testing.assert_array_equal(total.gradient, [1, 1])
  np.testing.assert_array_equal(total.matrix, [[2, 1], [1, 2]])


def test_arrow_solver_equals_dense_solve(linear):
  solution, _ = solve_linear(*linear, 0.0, 12, 1e-6)
  rows, right = dense_system(*linear)
  expected, residual, *_ = np.linalg.lstsq(rows, right)
  np.testing.assert_allclose(solution.frames.reshape(-1), expected[: F * N], atol=2e-5)
  np.testing.assert_allclose(solution.shared, expected[F * N :], atol=2e-5)
  np.testing.assert_allclose(solution.cost, residual[0], rtol=1e-5)
  # The inverse of the shared block of the joint covariance.
  covariance = np.linalg.inv(rows.T @ rows)[F * N :, F * N :]
  np.testing.assert_allclose(solution.shared_information, np.linalg.inv(covariance), rtol=1e-4)


def test_one_damped_arrow_step_equals_the_damped_dense_step(linear):
  """Damping multiplies the whole diagonal, shared unknowns included, before the frames are eliminated."""
  solution, _ = solve_linear(*linear, 0.0, 1, 0.3)
  rows, right = dense_system(*linear)
  H = rows.T @ rows
  start = np.ones(F * N + M)
  expected = start - np.linalg.solve(H + 0.3 * np.diag(np.diag(H)), rows.T @ (rows @ start - right))
  np.testing.assert_allclose(solution.frames.reshape(-1), expected[: F * N], atol=1e-5)
  np.testing.assert_allclose(solution.shared, expected[F * N :], atol=1e-5)


def test_eliminate_frames_is_the_schur_complement(linear):
  _, (matrix, gradient) = solve_linear(*linear, 0.0, 0, 1e-3)
  rows, right = dense_system(*linear)
  H, n = rows.T @ rows, F * N
  g = rows.T @ (rows @ np.ones(n + M) - right)
  np.testing.assert_allclose(matrix, H[n:, n:] - H[n:, :n] @ np.linalg.solve(H[:n, :n], H[:n, n:]), atol=1e-4)
  np.testing.assert_allclose(gradient, g[n:] - H[n:, :n] @ np.linalg.solve(H[:n, :n], g[:n]), atol=1e-4)


def test_a_frame_without_data_does_not_poison_the_others(linear):
  """A frame with a prior only (no landmarks) goes to its prior and leaves the rest as they are."""
  A, B, b = linear
  solution, _ = solve_linear(A.at[0].set(0.0), B.at[0].set(0.0), b, 1e-3, 12, 1e-6)
  rows, right = dense_system(*linear)
  rows, right = rows[R:, N:], right[R:]  # without the frame
  prior = np.diag(np.r_[np.full((F - 1) * N, 1e-3), np.zeros(M)])
  expected = np.linalg.solve(rows.T @ rows + prior, rows.T @ right)
  np.testing.assert_allclose(solution.frames[0], 0.0, atol=1e-5)
  np.testing.assert_allclose(solution.frames[1:].reshape(-1), expected[:-M], atol=2e-5)
  np.testing.assert_allclose(solution.shared, expected[-M:], atol=2e-5)


def test_nonlinear_shared_problem():
  """Curves a_f exp(-k t) + c_f whose decay k they share: the arrow solver, and plain LM on the stacked unknowns."""
  t = jnp.linspace(0.0, 2.0, 12)
  truth = jnp.array([[2.0, 0.1], [1.0, -0.3], [0.5, 0.7]])
  rng = np.random.default_rng(1)
  data = truth[:, :1] * jnp.exp(-1.7 * t)[None] + truth[:, 1:]
  data = data + jnp.asarray(0.01 * rng.standard_normal(data.shape), jnp.float32)
  residual = lambda x, s, f: x[0] * jnp.exp(-s[0] * t) + x[1] - data[f]
  xs0, s0 = jnp.ones((3, 2)), jnp.array([0.3])
  # A tolerance below float32's rounding: where no step is lower any more, damping has to rise to the end.
  arrow = jax.jit(lambda: levenberg_marquardt_shared(arrow_of(residual), xs0, s0, max_steps=60, tol=1e-7))()
  stacked = lambda z: jnp.concatenate([residual(z[2 * f : 2 * f + 2], z[6:], f) for f in range(3)])
  start = jnp.concatenate([xs0.reshape(-1), s0])
  dense = jax.jit(lambda: levenberg_marquardt(normal_of(stacked), start, max_steps=30, tol=1e-7))()
  np.testing.assert_allclose(arrow.shared, 1.7, atol=0.1)
  np.testing.assert_allclose(arrow.frames.reshape(-1), dense.x[:6], atol=1e-3)
  np.testing.assert_allclose(arrow.shared, dense.x[6:], atol=1e-3)
  np.testing.assert_allclose(arrow.cost, dense.normal.cost, rtol=1e-4)
  assert arrow.converged


@pytest.mark.parametrize("steps", [1, 3])
def test_last_step_of_which_only_the_cost_is_known(steps):
  """It is taken or not as ever, whatever the matrices there are."""
  t = jnp.linspace(0.0, 2.0, 12)
  normal = arrow_of(lambda x, s, f: x[0] * jnp.exp(-s[0] * t) + x[1] - jnp.asarray([2.0, 1.0, 0.5])[f])

  def cost_or_all(xs, s, whole):
    found = normal(xs, s)
    return jax.tree.map(lambda a: jnp.where(whole, a, jnp.nan), found).replace(cost=found.cost)

  start = jnp.ones((3, 2)), jnp.array([0.3])
  plain = jax.jit(lambda: levenberg_marquardt_shared(normal, *start, max_steps=steps))()
  short = jax.jit(lambda: levenberg_marquardt_shared(cost_or_all, *start, max_steps=steps, only_cost=True))()
  for name in ("frames", "shared", "cost", "steps"):
    np.testing.assert_allclose(getattr(short, name), getattr(plain, name), rtol=1e-6)
  assert np.isfinite(short.shared_information).all()


def test_non_finite_shared_steps_are_rejected():
  def residual(x, s, f):
    log = jnp.where(s[0] > 0, jnp.log(jnp.maximum(s[0], 1e-9)) + 2.0, jnp.nan)
    return jnp.stack([log, x[0] - 1.0])

  solve = jax.jit(lambda s: levenberg_marquardt_shared(arrow_of(residual), jnp.zeros((2, 1)), s, max_steps=40))
  solution = solve(jnp.array([4.0]))
  np.testing.assert_allclose(solution.shared, np.exp(-2.0), rtol=1e-3)
  np.testing.assert_allclose(solution.frames, 1.0, atol=1e-3)
