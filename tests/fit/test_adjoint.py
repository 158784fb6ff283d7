"""The adjoints on problems small enough to know the answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tiny import quick_jit

from vht_jax.errors import InputError
from vht_jax.fit.solvers import adjoint
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled, minimise, minimise_shared, no_derivative
from vht_jax.fit.solvers.least_squares import ArrowNormal, Normal, levenberg_marquardt
from vht_jax.types import Stationary

pytestmark = pytest.mark.differentiable


def curved(theta, x):
  """Residuals whose curvature the Gauss-Newton matrix does not know: an ellipse through scattered points."""
  radius = jnp.stack([jnp.exp(x[0]), jnp.exp(x[1])])
  t = jnp.linspace(0.0, 5.0, 7).astype(x.dtype)
  on = jnp.stack([jnp.cos(t + x[2]), jnp.sin(t + x[2])], -1) * radius[None]
  return (on - theta).reshape(-1)


def normal(theta, x):
  r, J = curved(theta, x), jax.jacfwd(curved, 1)(theta, x)
  return Normal(jnp.sum(r**2), J.T @ r, J.T @ J)


@pytest.fixture
def points():
  rng = np.random.default_rng(0)
  on = np.asarray(quick_jit(curved)(jnp.zeros((7, 2)), jnp.array([0.3, -0.4, 0.2]))).reshape(7, 2)
  return on + 0.3 * rng.standard_normal((7, 2))


def outcome(theta, x0, how):
  return jnp.sum(jnp.array([1.0, -2.0, 0.5], x0.dtype) * minimise(normal, theta, x0, how, 30).x)


EXACT = Implicit(accuracy=1e-12)


def test_implicit_equals_central_differences_and_gauss_newton_alone_does_not(points):
  with jax.enable_x64(True):
    theta, x0 = jnp.asarray(points), jnp.zeros(3)
    outcome_of = lambda p: outcome(p, x0, EXACT)
    run = quick_jit(jax.value_and_grad(outcome_of))
    gradient = run(theta)[1]
    direction = np.random.default_rng(1).standard_normal(points.shape)
    numeric = (run(theta + 1e-4 * direction)[0] - run(theta - 1e-4 * direction)[0]) / 2e-4
    assert float(jnp.sum(gradient * direction)) == pytest.approx(float(numeric), rel=1e-6)
    forward = quick_jit(lambda: jax.jvp(outcome_of, (theta,), (jnp.asarray(direction),))[1])()
    assert float(forward) == pytest.approx(float(numeric), rel=1e-6)

    x = quick_jit(lambda p: minimise(normal, p, x0, EXACT, 30).x)(theta)
    J, mixed = quick_jit(lambda p: (jax.jacfwd(curved, 1)(p, x), jax.jacfwd(lambda p: normal(p, x).gradient)(p)))(theta)
    only = -np.einsum("i,ij,jkl->kl", np.array([1.0, -2.0, 0.5]), np.linalg.inv(J.T @ J), mixed)
    assert abs(np.sum(only * direction) / float(numeric) - 1) > 1e-2


def test_unrolled_agrees_at_convergence_and_knows_the_start(points):
  with jax.enable_x64(True):
    theta, x0 = jnp.asarray(points), jnp.array([0.1, 0.1, 0.0])
    implicit = quick_jit(jax.grad(lambda p: outcome(p, x0, EXACT)))(theta)
    unrolled = quick_jit(jax.grad(lambda p: outcome(p, x0, Unrolled(max_steps=25))))(theta)
    np.testing.assert_allclose(unrolled, implicit, atol=1e-6)
    after_one = lambda x: outcome(theta, x, Unrolled(max_steps=1))
    short = quick_jit(jax.value_and_grad(after_one))
    slope = short(x0)[1]
    numeric = [(short(x0 + 1e-5 * e)[0] - short(x0 - 1e-5 * e)[0]) / 2e-5 for e in np.eye(3)]
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)
    assert (quick_jit(jax.grad(lambda x: outcome(theta, x, EXACT)))(x0) == 0).all()


def test_a_fit_that_did_not_converge_has_no_derivative(points):
  theta, x0 = jnp.asarray(points, jnp.float32), jnp.array([2.0, -2.0, 1.0])
  slope = lambda how: quick_jit(jax.grad(lambda p: outcome(p, x0, how)))(theta)
  loud = slope(Implicit(max_steps=1))
  assert np.isnan(loud).all()
  quiet = slope(Implicit(max_steps=1, unconverged="zero"))
  assert (np.asarray(quiet) == 0).all()
  assert np.isfinite(slope(Implicit())).all()


def test_the_solver_finds_the_gradient_s_zero(points):
  """Levenberg-Marquardt alone stops where the cost rounds, at the root of the precision."""
  with jax.enable_x64(True):
    theta, x0 = jnp.asarray(points), jnp.zeros(3)
    at = functools.partial(normal, theta)
    alone = quick_jit(lambda x0: levenberg_marquardt(at, x0, max_steps=60, tol=1e-8))(x0)
    found = quick_jit(lambda p: minimise(normal, p, x0, EXACT, 30))(theta)
    left = [float(jnp.abs(f.normal.gradient).max()) for f in (alone, found)]
    assert left[1] < 1e-12 < left[0]
    assert float(found.distance.frames) < 1e-12


def test_a_cost_that_rounds_more_than_its_size_says_ends_no_search(points):
  """A residual is a small difference of places in the image and rounds as they do: the cost by more than its own."""

  def far(theta, x):
    r = ((curved(theta, x) + theta.reshape(-1) + 100.0) - (theta.reshape(-1) + 100.0)).astype(x.dtype)
    J = jax.jacfwd(curved, 1)(theta, x)
    return Normal(jnp.sum(r**2), J.T @ r, J.T @ J)

  with jax.enable_x64(True):
    moved = jnp.asarray(points + 0.01 * np.random.default_rng(3).standard_normal((32, *points.shape)))
    found = quick_jit(jax.vmap(lambda p: minimise(far, p, jnp.zeros(3), EXACT, 30)))(moved)
    assert np.asarray(found.distance.frames).max() < 1e-12


def test_second_derivatives_are_those_of_the_gradient(points):
  with jax.enable_x64(True):
    theta, x0 = jnp.asarray(points), jnp.zeros(3)
    slope = jax.grad(lambda p: outcome(p, x0, EXACT))
    direction = np.random.default_rng(2).standard_normal(points.shape)
    along = lambda p: jnp.sum(slope(p) * direction)
    run = quick_jit(slope)
    numeric = (run(theta + 1e-5 * direction) - run(theta - 1e-5 * direction)) / 2e-5
    for outer in (jax.jacfwd, jax.jacrev):
      np.testing.assert_allclose(quick_jit(outer(along))(theta), numeric, rtol=1e-5, atol=1e-6)


def test_vmap_differentiates_each_fit_by_itself(points):
  theta = jnp.asarray(np.stack([points, 1.3 * points, points[::-1]]), jnp.float32)
  gradient = jax.grad(lambda p: outcome(p, jnp.zeros(3), Implicit()))
  slope, together = quick_jit(gradient), quick_jit(jax.vmap(gradient))(theta)
  for k in range(3):
    np.testing.assert_allclose(together[k], slope(theta[k]), rtol=2e-3, atol=1e-4)


def arrow(theta, xs, shared):
  """Frames of 2 unknowns with a common scale and centre."""

  def residual(x, s, p):
    return jnp.concatenate([jnp.exp(s[0]) * p * jnp.cos(x[0] + 0.8) + x[1] + s[1] - jnp.sin(p), 0.1 * x])

  def one(x, p):
    r, (J, G) = residual(x, shared, p), jax.jacfwd(residual, (0, 1))(x, shared, p)
    return jnp.sum(r**2), J.T @ r, J.T @ J, J.T @ G, G.T @ r, G.T @ G

  cost, g, H, C, gs, Hs = jax.vmap(one)(xs, theta)
  return ArrowNormal(
    jnp.sum(cost) + jnp.sum(shared**2), g, H, C, jnp.sum(gs, 0) + shared, jnp.sum(Hs, 0) + jnp.eye(2, dtype=xs.dtype)
  )


def test_shared_unknowns_equal_central_differences():
  with jax.enable_x64(True):
    rng = np.random.default_rng(3)
    theta, xs0 = jnp.asarray(rng.standard_normal((4, 6))), jnp.full((4, 2), 0.3)

    def run(p, how=EXACT):
      found = minimise_shared(arrow, p, xs0, jnp.zeros(2), how, 30)
      return found.shared[0] - 2 * found.shared[1] + jnp.sum(found.frames[:, 1] * jnp.arange(4.0))

    both = quick_jit(jax.value_and_grad(run))
    gradient = both(theta)[1]
    direction = rng.standard_normal((4, 6))
    numeric = (both(theta + 1e-3 * direction)[0] - both(theta - 1e-3 * direction)[0]) / 2e-3
    assert float(jnp.sum(gradient * direction)) == pytest.approx(float(numeric), rel=1e-4)
    unrolled = quick_jit(jax.grad(functools.partial(run, how=Unrolled(max_steps=40))))(theta)
    assert float(jnp.sum(unrolled * direction)) == pytest.approx(float(numeric), rel=1e-4)


@pytest.mark.slow
def test_a_fit_of_any_number_of_frames_is_exported_with_its_derivative():
  theta = jnp.asarray(np.random.default_rng(3).standard_normal((3, 6)), jnp.float32)

  def run(p):
    found = minimise_shared(arrow, p, jnp.full((p.shape[0], 2), 0.3), jnp.zeros(2), Implicit(), 30)
    return found.shared[0] + jnp.sum(found.frames[:, 1])

  (frames,) = export.symbolic_shape("frames")
  program = export.export(jax.jit(run))(jax.ShapeDtypeStruct((frames, 6), np.float32))
  gradient = program.vjp().call(theta, jnp.float32(1.0))[0]
  np.testing.assert_allclose(gradient, quick_jit(jax.grad(run))(theta), rtol=1e-4, atol=1e-5)


class WithoutTheSecond(Implicit):
  """As if the second of four frames had not converged."""

  def kept(self, distance):
    return Stationary(frames=jnp.arange(4) != 1, shared=jnp.ones((), bool))


@pytest.mark.slow
def test_a_frame_that_is_left_out_stays_where_it_is():
  """What the frames share then has the derivative of a fit in which that frame's unknowns are held."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(3)
    theta, xs0 = jnp.asarray(rng.standard_normal((4, 6))), jnp.full((4, 2), 0.3)
    weigh = lambda found: found.shared[0] - 2 * found.shared[1] + jnp.sum(found.frames[:, 1] * jnp.arange(4.0))

    def run(p):
      found = minimise_shared(arrow, p, xs0, jnp.zeros(2), EXACT, 30)
      return weigh(found), found.frames[1]

    with_all, there = quick_jit(jax.grad(run, has_aux=True))(theta)

    def holding(theta, xs, shared):
      model = arrow(theta, xs.at[1].set(there), shared)
      return model.replace(
        cost=model.cost + jnp.sum((xs[1] - there) ** 2),
        frame_gradient=model.frame_gradient.at[1].set(xs[1] - there),
        frame_matrix=model.frame_matrix.at[1].set(jnp.eye(2)),
        cross=model.cross.at[1].set(0.0),
      )

    def with_held(p):
      return weigh(minimise_shared(holding, p, xs0, jnp.zeros(2), EXACT, 30))

    expected = quick_jit(jax.grad(with_held))(theta)
    left_out = WithoutTheSecond(unconverged="zero", accuracy=1e-12)
    partly = lambda p: weigh(minimise_shared(arrow, p, xs0, jnp.zeros(2), left_out, 30))
    np.testing.assert_allclose(quick_jit(jax.grad(partly))(theta), expected, atol=1e-8)
    assert np.abs(with_all - expected).max() > 1e-2
    loud = lambda p: weigh(minimise_shared(arrow, p, xs0, jnp.zeros(2), WithoutTheSecond(), 30))
    assert np.isnan(quick_jit(jax.grad(loud))(theta)).any()


@pytest.mark.slow
def test_what_nothing_depends_on_stays_where_it_is():
  """The place of a frame in which nothing is seen: asking for its derivative too makes no NaN of all the others."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(3)
    theta, xs0 = jnp.asarray(rng.standard_normal((4, 6))), jnp.full((4, 2), 0.3)
    seen = jnp.array([1.0, 0.0, 1.0, 1.0])

    def residual(x, s, p, seen):
      return jnp.concatenate([seen * (jnp.exp(s[0]) * p * jnp.cos(x[0] + 0.8) + x[1] + s[1] - jnp.sin(p)), 0.1 * x[1:]])

    def one(x, s, p, seen):
      r, (J, G) = residual(x, s, p, seen), jax.jacfwd(residual, (0, 1))(x, s, p, seen)
      return jnp.sum(r**2), J.T @ r, J.T @ J, J.T @ G, G.T @ r, G.T @ G

    def frames(theta, xs, s):
      cost, g, H, C, gs, Hs = jax.vmap(one, (0, None, 0, 0))(xs, s, *theta)
      return ArrowNormal(jnp.sum(cost) + jnp.sum(s**2), g, H, C, jnp.sum(gs, 0) + s, jnp.sum(Hs, 0) + jnp.eye(2))

    def alone(theta, x):
      return Normal(*one(x, jnp.array([0.1, -0.2]), *theta)[:3])

    weights = jnp.asarray(rng.standard_normal((4, 2)))

    def loss(theta, seen, weights):
      begin = xs0[: len(seen)]
      both = minimise_shared(frames, (theta, seen), begin, jnp.zeros(2), EXACT, 30)
      each = jax.vmap(lambda *args: minimise(alone, args[:2], args[2], EXACT, 30).x)(theta, seen, begin)
      return jnp.sum(weights * (both.frames + each)) + both.shared[0]

    found = quick_jit(jax.grad(loss))(theta, seen, weights)
    there = np.array([0, 2, 3])
    expected = quick_jit(jax.grad(loss))(theta[there], seen[there], weights[there])
    np.testing.assert_allclose(found[there], expected, atol=1e-8)
    assert (np.asarray(found[1]) == 0).all()
    forward = quick_jit(jax.jacfwd(loss))(theta, seen, weights)
    np.testing.assert_allclose(forward, found, atol=1e-8)


@pytest.mark.parametrize("checkpoint", [0, 1, 3, 7, 20])
def test_scan_in_groups_is_a_scan(checkpoint):
  def step(state, x):
    state = jnp.sin(state * x) + x
    return state, state**2

  xs = jnp.linspace(0.1, 2.0, 11)

  def run(xs, scan):
    state, ys = scan(step, jnp.float32(0.3), xs)
    return state + jnp.sum(ys)

  expected = jax.value_and_grad(run)(xs, jax.lax.scan)
  found = jax.value_and_grad(run)(xs, lambda f, s, x: adjoint.scan(f, s, x, 11, checkpoint))
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


def test_checkpointing_bounds_the_memory():
  """The figure of docs/differentiable.md is that of the tracker itself; this is the same scan on a plain matrix."""
  A = jnp.eye(64) * 0.9

  def step(x, _):
    for _ in range(6):
      x = jnp.tanh(A @ x)
    return x, None

  def temporary(checkpoint):
    loss = lambda x: jnp.sum(adjoint.scan(step, x, None, 32, checkpoint)[0])
    return jax.jit(jax.grad(loss)).lower(jnp.ones((64, 64))).compile().memory_analysis().temp_size_in_bytes

  nothing, four, one = (temporary(k) for k in (0, 4, 1))
  assert one < 0.4 * nothing
  assert one < nothing and four < nothing


def test_a_forbidden_derivative_is_an_error_and_not_a_zero():
  guarded = lambda a, b: jnp.sum(a) + 0 * no_derivative(b, "b has no influence")
  assert float(guarded(jnp.ones(3), 2.0)) == 3.0
  np.testing.assert_array_equal(jax.jit(jax.grad(guarded))(jnp.ones(3), 2.0), np.ones(3))
  np.testing.assert_array_equal(jax.grad(jax.jit(guarded))(jnp.ones(3), 2.0), np.ones(3))
  for slope in (jax.grad(guarded, 1), jax.grad(jax.jit(guarded), 1), jax.jit(jax.jacfwd(guarded, 1))):
    with pytest.raises(InputError, match="no influence"):
      slope(jnp.ones(3), 2.0)
  assert jax.vmap(guarded, (0, None))(jnp.ones((2, 3)), 2.0).shape == (2,)


def test_options_are_checked():
  with pytest.raises(InputError, match="checkpoint"):
    Unrolled(checkpoint=-1)
  with pytest.raises(InputError, match="unconverged"):
    Implicit(unconverged="ignore")
