"""The identity from all frames: against dense elimination, and on landmarks whose truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import landmark_model

from vht_jax.config import Weights
from vht_jax.fit import clip, frame, observed, unknowns
from vht_jax.fit.assemble import shared_normal
from vht_jax.fit.terms import landmarks, openings, priors
from vht_jax.fit.terms.priors import identity_priors
from vht_jax.head import points as pts

F, FOCAL, SIZE = 8, 1.9, (800, 1000)


@pytest.fixture(scope="module")
def weights():
  return Weights(w_identity=0.01, sd_size=1.0)


@pytest.fixture(scope="module")
def problem(small_head, weights):
  """(landmark model, tracks, true unknowns, true shared) of F frames without errors."""
  lm = landmark_model(small_head, weights, 0)
  rng = np.random.default_rng(3)
  n_expr, n_shape = lm.points.exprdirs.shape[-1], lm.points.shapedirs.shape[-1]
  x = np.zeros((F, n_expr + pts.N_POSE), np.float32)
  x[:, :5] = 0.3 * rng.random((F, 5))
  x[:, n_expr : n_expr + 3] = np.stack([0.1 * rng.standard_normal(F), np.linspace(-0.6, 0.6, F), np.zeros(F)], 1)
  x[:, n_expr + 5] = 1.0 + 0.1 * rng.standard_normal(F)
  x[:, n_expr + 9] = -1.0
  shared = clip.initial_shared(lm, FOCAL).replace(shape=jnp.asarray(0.7 * rng.standard_normal(n_shape), jnp.float32))

  @jax.jit
  @jax.vmap
  def observe(x):
    uv = landmarks.predict(lm, x, shared)
    px = uv * max(SIZE) + jnp.array([[SIZE[1] / 2, SIZE[0] / 2]])
    return observed.observe_landmarks(lm, px, jnp.ones(70), SIZE)

  lm = lm.replace(pair_sd=jnp.full_like(lm.pair_sd, jnp.inf))  # has a test of its own
  return lm, observe(jnp.asarray(x)), jnp.asarray(x), shared


@pytest.fixture(scope="module")
def reduce(problem, weights):
  """Reduced energy of the landmarks: (shared, xs, valid)."""
  lm, tracks, *_ = problem
  run = lambda shared, xs, valid: clip.reduce_frames(
    None, lm, None, None, shared, tracks, None, weights, xs, valid, n_samples=0
  )
  return jax.jit(run)


def test_equals_dense_elimination_and_leaves_out_what_is_not_valid(problem, weights, reduce):
  lm, tracks, xs, shared = problem
  xs = xs + 0.0005  # within Huber's quadratic part, where residuals are what they seem
  shared = shared.replace(log_focal=shared.log_focal + 0.001)
  n_shape, n, m = shared.shape.shape[0], xs.shape[1], landmarks.N_COMMON

  @jax.jit
  @jax.vmap
  def dense(x, track):
    def residual(x, s):
      moved = shared.replace(shape=s[:n_shape], log_focal=s[n_shape], principal=s[n_shape + 1 :])
      at = unknowns.At(x[:n], moved, {"common": x[n:]})
      terms = landmarks.Landmarks(lm).linearise(at, track), openings.Openings(lm).linearise(at, track)
      return jnp.concatenate([*((t.residual * t.root[:, None]).reshape(-1) for t in terms), x[n:]])

    x = frame.with_common(x)
    s = jnp.concatenate([shared.shape, shared.log_focal[None], shared.principal])
    return (
      residual(x, s),
      *jax.jacfwd(residual, (0, 1))(x, s),
      priors.FramePrior(lm.one_sided, lm.lids, weights).linearise(unknowns.At(x[:n], None)),
    )

  r, J, G, prior = jax.tree.map(lambda a: np.asarray(a, np.float64), dense(xs, tracks))
  valid = np.ones(F, bool)
  valid[2] = False
  cost = gradient = matrix = 0
  for f in np.flatnonzero(valid):
    H = J[f].T @ J[f] + np.pad(prior.matrix[f], ((0, m), (0, m)))
    g, C = J[f].T @ r[f] + np.pad(prior.gradient[f], (0, m)), J[f].T @ G[f]
    cost += r[f] @ r[f] + prior.cost[f] - g @ np.linalg.solve(H, g)
    gradient += G[f].T @ r[f] - C.T @ np.linalg.solve(H, g)
    matrix += G[f].T @ G[f] - C.T @ np.linalg.solve(H, C)
  found = reduce(shared, xs.at[2].set(jnp.nan), jnp.asarray(valid))
  assert found.count == F - 1
  np.testing.assert_allclose(found.matrix, matrix, rtol=1e-2, atol=1e-3 * np.abs(matrix).max())
  np.testing.assert_allclose(found.gradient, gradient, atol=1e-3 * np.abs(gradient).max())
  np.testing.assert_allclose(found.cost, cost, rtol=2e-2, atol=1e-2)


def test_a_long_clip_says_no_more_than_its_independent_frames(problem, weights, reduce):
  lm, _, xs, shared = problem
  total = reduce(shared.replace(shape=0.5 * shared.shape), xs, jnp.ones(F, bool))
  focal_prior = (shared.log_focal, jnp.float32(0.1))
  step = jax.jit(lambda total: clip.shared_step(lm, shared, total, weights, focal_prior, 24.0, 0.0))
  four, eight = (jax.tree.map(lambda a: a * k, total) for k in (4.0, 8.0))
  for a, b in zip(jax.tree.leaves(step(four)), jax.tree.leaves(step(eight)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  assert step(total)[1] < step(four)[1]  # but a short one says less


@pytest.mark.slow
def test_alternating_with_the_frames_finds_shape_and_focal_length(problem, weights, reduce):
  lm, tracks, xs, truth = problem
  prior = (jnp.log(jnp.float32(1.6)), jnp.float32(0.5))

  @jax.jit
  def frames(shared, xs):
    folded, known = frame.fold_landmarks(lm, shared)
    return jax.vmap(lambda t, x: frame.fit_frame(folded, t, known, weights, x).x)(tracks, xs)

  step = jax.jit(lambda shared, total: clip.shared_step(lm, shared, total, weights, prior, 24.0, 1e-3))
  shared, costs = clip.initial_shared(lm, 1.6), []
  for _ in range(8):
    xs = frames(shared, xs)
    total = reduce(shared, xs, jnp.ones(F, bool))
    shared, cost = step(shared, total)
    costs.append(float(cost))
  assert costs[-1] < 0.05 * costs[0]

  @jax.jit
  def deviation(shared, matrix):
    free = clip.joint_unknowns(lm, shared)
    priors = shared_normal(identity_priors(lm, weights, prior), free, shared, unknowns.extract(free.shared, shared))
    return clip.focal_deviation(matrix + priors.matrix, free.shared)

  focal_sd = deviation(shared, total.matrix)
  assert abs(float(jnp.exp(shared.log_focal)) / FOCAL - 1) < max(0.03, 3 * float(focal_sd))
  first = np.linalg.norm(truth.shape)
  assert np.linalg.norm(shared.shape - truth.shape) < 0.5 * first
