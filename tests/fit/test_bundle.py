"""Landmark least squares on heads whose truth is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import landmark_model

from vht_jax import cameras, rotation
from vht_jax.config import Weights
from vht_jax.fit import assemble, clip, frame, observed, unknowns
from vht_jax.fit.solvers.uncertainty import beyond_prior, shape_information
from vht_jax.fit.terms import landmarks, openings, priors
from vht_jax.head import motion
from vht_jax.head import points as pts
from vht_jax.layout import Layout
from vht_jax.results import align, person
from vht_jax.tracking.pure import landmarks_only

SIZE = (1000, 800)  # H, W px
F = 10  # frames of the synthetic clips


@pytest.fixture(scope="module")
def weights():
  return Weights()


@pytest.fixture(scope="module")
def lm(small_head, weights):
  """The 68 + 2 landmarks only."""
  return landmark_model(small_head, weights, 0)


def frames(rng, n_expr: int, yaw_deg: float = 35.0, n_frames: int = F, at_camera: bool = False) -> np.ndarray:
  """(F, E + 14) unknowns of a head that turns, nods, comes and goes, speaks and looks around, or at the camera."""
  t = np.arange(n_frames) / n_frames
  phase = rng.uniform(0, 2 * np.pi, 3)
  x = np.zeros((n_frames, n_expr + 14), np.float32)
  x[:, :n_expr] = np.maximum(rng.standard_normal((n_frames, n_expr)) - 0.5, 0) * 0.3 * (rng.random(n_expr) < 0.4)
  pose = x[:, n_expr:]
  pose[:, 0] = np.deg2rad(15) * np.sin(2 * np.pi * 1.7 * t + phase[0])
  pose[:, 1] = np.deg2rad(yaw_deg) * np.sin(2 * np.pi * t + phase[1])
  pose[:, 2] = np.deg2rad(4) * rng.standard_normal(n_frames)
  pose[:, 3:5] = 0.03 * rng.standard_normal((n_frames, 2))
  pose[:, 5] = 1.1 + 0.15 * np.sin(2 * np.pi * 0.8 * t + phase[2])
  pose[:, 6:9] = 0.03 * rng.standard_normal((n_frames, 3))
  opening = np.deg2rad(6) * np.abs(rng.standard_normal(n_frames)) + np.deg2rad(5)
  pose[:, 9] = np.arctanh(opening / np.deg2rad(65) * 2 - 1)
  gaze = 0.1 * rng.standard_normal((n_frames, 2))
  if at_camera:
    gaze[:, 1] -= pose[:, 1]
  pose[:, 10:12], pose[:, 12:] = gaze, gaze
  return x


def to_px(uv):
  return np.asarray(uv) * max(SIZE) + np.array([SIZE[1] / 2, SIZE[0] / 2])


@pytest.fixture(scope="module")
def synthesise(lm):
  """make(seed, bias, noise, **) -> (tracks, xs, shared): bias (of points of the head, m) and noise (of the image) in
  units of the eye distance; points slide with the view as the mean of people does."""
  predict = jax.jit(jax.vmap(landmarks.predict, (None, 0, None)))
  make_tracks = jax.jit(jax.vmap(lambda p, c: observed.observe_landmarks(lm, p, c, SIZE)))

  def make(seed, bias=0.0, noise=0.0, focal=1.9, shape_sd=1.0, **motion):
    rng = np.random.default_rng(seed)
    n, _, s = lm.points.shapedirs.shape
    shape = shape_sd * rng.standard_normal(s)
    size_axis = np.asarray(lm.size_gradient)
    shape -= size_axis * (size_axis @ shape) / (size_axis @ size_axis)  # one camera cannot see the size of a head
    eye = float(lm.eye_distance)
    shared = clip.initial_shared(lm, focal).replace(
      shape=jnp.asarray(shape, jnp.float32), offset=jnp.asarray(bias * eye * rng.standard_normal((n, 3)), jnp.float32)
    )
    xs = jnp.asarray(frames(rng, lm.points.exprdirs.shape[-1], **motion))
    scale = jnp.exp(xs[:, -9])
    uv = np.asarray(predict(lm, xs, shared))
    uv = uv + noise * eye * np.asarray(scale)[:, None, None] * rng.standard_normal(uv.shape)
    px = jnp.asarray(to_px(uv), jnp.float32)
    return make_tracks(px, jnp.ones(px.shape[:2], jnp.float32)), xs, shared

  return make


@pytest.fixture(scope="module")
def adjust():
  """`bundle_adjust` as one compiled program: (model, tracks, weights, focal length to start from, sd of the prior)."""

  @jax.jit
  def run(model, tracks, weights, start, focal_sd):
    return clip.bundle_adjust(model, tracks, weights, log_focal=(jnp.log(start), focal_sd), max_steps=30)

  default = float(np.exp(cameras.LOG_FOCAL_MEAN))
  return lambda model, tracks, weights, start=default, focal_sd=cameras.LOG_FOCAL_SD: run(
    model, tracks, weights, jnp.float32(start), jnp.float32(focal_sd)
  )


@jax.jit
@jax.vmap
def head_rotation(x):
  """Root times neck: which of the two turns the head can hardly be seen."""
  root, neck = (rotation.axis_angle_to_matrix(r) for r in (x[-14:-11], x[-8:-5]))
  return root @ jnp.array(motion.FRONTAL) @ neck


def rotation_error_deg(xs, truth):
  R, R0 = np.asarray(head_rotation(xs)), np.asarray(head_rotation(truth))
  cosine = (np.einsum("fij,fij->f", R, R0) - 1) / 2
  return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_landmark_model_points_and_units(small_head, lm, weights):
  dense = landmark_model(small_head, weights, 6)
  assert dense.points.template.shape[0] == 70 + len(np.arange(0, len(small_head.dense_index), 6))
  assert lm.points.template.shape[0] == 70
  np.testing.assert_allclose(lm.relative_sd[30], weights.sd_landmark)
  assert lm.relative_sd[0] > 2 * lm.relative_sd[30]  # the contour slides
  assert 0.07 < lm.eye_distance < 0.12  # m
  assert lm.one_sided
  # d log(size) / d shape by finite differences of the rms distance from the mean.
  template, dirs = (np.asarray(a, np.float64)[:68] for a in (lm.points.template, lm.points.shapedirs))

  def log_size(shape):
    p = template + dirs @ shape
    return np.log(np.sqrt(((p - p.mean(0)) ** 2).sum(-1).mean()))

  numeric = [(log_size(e * 1e-4) - log_size(-e * 1e-4)) / 2e-4 for e in np.eye(10)]
  np.testing.assert_allclose(lm.size_gradient, numeric, atol=1e-5)


def pack(shared):
  return unknowns.extract(unknowns.shared_layout(shared), shared)


def unpack(flat, like):
  return unknowns.insert(unknowns.shared_layout(like), flat, like)


def test_pack_unpack(lm):
  flat = jnp.arange(10 + 3 + 3.0 * 70)
  shared = unpack(flat, clip.initial_shared(lm))
  np.testing.assert_array_equal(pack(shared), flat)
  assert shared.log_focal == 10 and shared.offset.shape == (70, 3)


def test_tracks_are_in_units_of_the_longer_side(synthesise):
  tracks, xs, shared = synthesise(0)
  np.testing.assert_allclose(tracks.uv.mean(1), xs[:, -11:-9], atol=0.05)
  # The observed size of a head is close to its scale, turned or not.
  np.testing.assert_allclose(tracks.bias_scale, np.exp(xs[:, -9]), rtol=0.25)


@pytest.mark.faults
def test_missing_points_do_not_matter(lm):
  """Neither their coordinates nor their absence disturbs the scale of the others."""
  rng = np.random.default_rng(0)
  head = np.asarray(lm.points.template)
  px = np.stack([500 + 2000 * head[:, 0], 500 - 2000 * head[:, 1]], -1).astype(np.float32) + 200
  missing = rng.permutation(68)[:15]
  confidence = np.ones(70, np.float32)
  make = jax.jit(lambda p, c: observed.observe_landmarks(lm, p, c, SIZE))
  full = make(jnp.asarray(px), jnp.asarray(confidence))
  confidence[missing] = 0
  variants = []
  for value in (0.0, 1e6, np.nan):
    moved = px.copy()
    moved[missing] = value
    variants.append(make(jnp.asarray(moved), jnp.asarray(confidence)))
  for tracks in variants:
    for a, b in zip(jax.tree.leaves(tracks), jax.tree.leaves(variants[0]), strict=True):
      np.testing.assert_array_equal(a, b)
    assert np.all(tracks.inverse_sd[missing] == 0)
  np.testing.assert_allclose(variants[0].bias_scale, full.bias_scale, rtol=1e-4)


def test_irises_of_closed_eyes_lose_their_weight(lm):
  head = np.asarray(lm.points.template)
  px = np.stack([500 + 2000 * head[:, 0], 500 - 2000 * head[:, 1]], -1).astype(np.float32)
  make = jax.jit(lambda p: observed.observe_landmarks(lm, p, jnp.ones(70, jnp.float32), SIZE).inverse_sd)
  open_ = make(px)
  assert open_[68] > 0 and open_[69] > 0
  closed = px.copy()
  closed[[37, 38, 40, 41], 1] = closed[[36, 39], 1].mean()
  shut = make(closed)
  assert shut[68] == 0
  np.testing.assert_allclose(shut[69], open_[69], rtol=1e-2)
  openness = observed.eye_openness(jnp.asarray(closed))
  assert openness[0] < 0.1 < 0.25 < openness[1]


@pytest.fixture(scope="module")
def affine_start(lm):
  """Unknowns -> those that the affine camera finds, seen from far away (focal length 20)."""

  @jax.jit
  def run(x):
    uv = pts.locate(lm.points, x, clip.initial_shared(lm, 20.0))
    px = uv * max(SIZE) + jnp.array([[SIZE[1] / 2, SIZE[0] / 2]])
    return frame.initial_unknowns(lm, observed.observe_landmarks(lm, px, jnp.ones(70, jnp.float32), SIZE))

  return run


@pytest.mark.parametrize("yaw", [-60.0, -30.0, 0.0, 60.0])
def test_initial_unknowns_of_a_rigid_mean_head(lm, affine_start, yaw):
  """The closed form gives rotation and place of the mean head nearly exactly; only perspective is left."""
  pose = [0.2, np.deg2rad(yaw), -0.1, 0.05, -0.1, 0.8, 0, 0, 0, np.arctanh(2 * 5 / 65 - 1), 0, 0, 0, 0]  # mouth closed
  x = jnp.zeros(unknowns.n_unknowns(lm.points)).at[-14:].set(jnp.array(pose, jnp.float32))
  found = affine_start(x)
  np.testing.assert_array_less(rotation_error_deg(found[None], x[None]), 2.0)
  np.testing.assert_allclose(found[-11:-9], x[-11:-9], atol=0.01)
  np.testing.assert_allclose(found[-9], x[-9], atol=0.05)


@pytest.mark.parametrize("roll", [45.0, 90.0, 135.0, 180.0, -90.0])
def test_initial_unknowns_of_a_head_that_is_not_upright(lm, affine_start, roll):
  pose = [0.1, np.deg2rad(25), 0, 0.05, -0.1, 0.8, 0, 0, 0, np.arctanh(2 * 5 / 65 - 1), 0, 0, 0, 0]
  turn = rotation.axis_angle_to_matrix(jnp.array([0.0, 0.0, np.deg2rad(roll)], jnp.float32))
  facing = rotation.axis_angle_to_matrix(jnp.array(pose[:3], jnp.float32))
  pose[:3] = rotation.matrix_to_axis_angle(jnp.matmul(turn, facing, precision="highest"))
  x = jnp.zeros(unknowns.n_unknowns(lm.points)).at[-14:].set(jnp.array(pose, jnp.float32))
  found = affine_start(x)
  np.testing.assert_array_less(rotation_error_deg(found[None], x[None]), 2.0)
  np.testing.assert_allclose(found[-11:-9], x[-11:-9], atol=0.01)


@pytest.mark.faults
def test_initial_unknowns_without_landmarks_are_finite(lm):
  tracks = observed.ObservedLandmarks(jnp.zeros((70, 2)), jnp.zeros(70), jnp.ones(()), jnp.zeros(7))
  assert np.isfinite(jax.jit(frame.initial_unknowns)(lm, tracks)).all()


def frame_prior(lm, x, weights):
  return priors.FramePrior(lm.one_sided, lm.lids, weights).linearise(unknowns.At(x, None))


@pytest.mark.differentiable
def test_frame_prior_is_the_model_of_its_cost(lm, weights):
  """gradient = half of autodiff's; the matrix = half of the Hessian but for the jaw, which is Gauss-Newton's, and for
  units that are more than 0, whose weights are IRLS's: the slope over the unit, above the Hessian."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(0.3 * rng.standard_normal(unknowns.n_unknowns(lm.points)), jnp.float32)
  assert (x[:40] < 0).any() and (x[:40] > 0).any()
  cost = lambda x: frame_prior(lm, x, weights).cost
  prior, gradient, hessian = jax.jit(lambda x: (frame_prior(lm, x, weights), jax.grad(cost)(x), jax.hessian(cost)(x)))(
    x
  )
  np.testing.assert_allclose(prior.gradient, gradient / 2, rtol=1e-4, atol=1e-3)
  jaw = len(x) - 5
  expected = np.array(hessian / 2)
  expected[jaw, jaw] = prior.matrix[jaw, jaw]
  active = np.setdiff1d(np.flatnonzero(x[:40] > 0), lm.lids)
  np.testing.assert_allclose(prior.matrix[active, active], gradient[active] / 2 / x[active], rtol=1e-4)
  assert (prior.matrix[active, active] > expected[active, active]).all()
  expected[active, active] = prior.matrix[active, active]
  np.testing.assert_allclose(prior.matrix, expected, rtol=1e-4, atol=1e-2)
  d_jaw = (float(motion.jaw_angle(x[jaw] + 1e-2)) - float(motion.jaw_angle(x[jaw] - 1e-2))) / 2e-2
  np.testing.assert_allclose(prior.matrix[jaw, jaw], (d_jaw / weights.sd_jaw) ** 2, rtol=1e-3)


def test_two_sided_prior_of_flame_codes(lm, weights):
  """FLAME's expressions are in standard deviations: unit precision, either sign."""
  x = jnp.zeros(unknowns.n_unknowns(lm.points)).at[0].set(-1.5).at[1].set(1.5)
  prior = jax.jit(frame_prior)(lm.replace(one_sided=False), x, weights)
  np.testing.assert_allclose(prior.gradient[:2], [-1.5, 1.5])


def test_units_are_used_seldom_and_fully(lm, weights):
  """Near 0 a unit costs by its square, five spreads from it in proportion to it, and below 0 as if it were five times
  as far; lids, which shut whole, always by their square."""
  at = jax.jit(
    lambda unit, to: frame_prior(lm, jnp.zeros(unknowns.n_unknowns(lm.points)).at[unit].set(to), weights).cost
  )
  rest, sd = float(at(0, 0.0)), float(weights.sd_expr)
  cost = lambda unit, to: float(at(unit, to)) - rest
  assert 0 not in lm.lids and len(lm.lids) == 2
  np.testing.assert_allclose(cost(0, 0.1 * sd), 0.01, rtol=5e-3)
  np.testing.assert_allclose(cost(0, 7 * sd) - cost(0, 5 * sd), 2 * 2, rtol=0.02)
  np.testing.assert_allclose(cost(0, -0.1 * sd), priors.NEGATIVE_EXPR * 0.01, rtol=1e-3)
  for to in (-0.2, 0.5, 1.0):
    times = priors.NEGATIVE_EXPR if to < 0 else 1.0
    np.testing.assert_allclose(cost(lm.lids[0], to), times * (to / priors.LID_EXPR) ** 2, rtol=1e-3)


def test_both_sides_of_the_face_do_the_same(lm):
  """Derivatives are differences of the residuals; equal sides cost nothing, and a wink costs in proportion."""
  assert len(lm.pairs) == 5 and set(np.asarray(lm.pair_sd)) == set(np.float32([observed.SIDES_SD, observed.LIDS_SD]))
  term = priors.BothSides(lm.pair_sd, lm.pairs)
  rows = jax.jit(lambda x: term.linearise(unknowns.At(x, None)))
  n, (left, _), sd = unknowns.n_unknowns(lm.points), lm.pairs[-1], float(lm.pair_sd[-1])
  x = jnp.asarray(0.1 * np.random.default_rng(0).standard_normal(n), jnp.float32)
  found = rows(x)
  np.testing.assert_allclose(found.frame["head"][:, 0] @ x, found.residual[:, 0], atol=1e-5)
  alike = x
  for a, b in lm.pairs:
    alike = alike.at[b].set(x[a])
  assert rows(alike).cost == 0
  assert sd == np.float32(observed.LIDS_SD)
  free = priors.BothSides(jnp.full_like(lm.pair_sd, jnp.inf), lm.pairs).linearise(unknowns.At(x, None))
  assert free.cost == 0 and not np.any(free.frame["head"])
  winks = [float(rows(alike.at[left].add(amount)).cost) for amount in (0.5, 1.0)]
  np.testing.assert_allclose(winks[1] - winks[0], 2 * landmarks.HUBER * 0.5 / sd, rtol=1e-3)


def test_mirrored_units_are_found_by_name():
  names = ("mouthSmileLeft", "mouthSmileRight", "browDownRight", "jawOpen", "browDownLeft", "eyelidRight", "eyelidLeft")
  assert observed.mirrored_units(names) == (((4, 2), (6, 5)), (observed.SIDES_SD, observed.LIDS_SD))
  assert observed.mirrored_units(()) == ((), ())


def test_huber_weights_belong_to_the_cost():
  """IRLS: the gradient of the cost is 2 w r; continuous where quadratic becomes linear."""
  radii = jnp.array([0.0, 1.0, landmarks.HUBER - 1e-3, landmarks.HUBER + 1e-3, 10.0, 1e4])
  r = radii[:, None] * jnp.array([[0.6, -0.8]])
  root, cost = landmarks.robust(r)
  gradient = jax.jit(jax.grad(lambda r: landmarks.robust(r)[1]))(r)
  np.testing.assert_allclose(gradient, 2 * (root**2)[:, None] * r, rtol=1e-4)
  np.testing.assert_allclose(root[:3], 1.0)
  each = np.array([float(landmarks.robust(r[k : k + 1])[1]) for k in range(6)])
  np.testing.assert_allclose(each.sum(), cost, rtol=1e-5)
  np.testing.assert_allclose(each[3] - each[2], 4 * landmarks.HUBER * 1e-3, rtol=0.1)


@pytest.mark.differentiable
def test_bundle_gradient_equals_autodiff(lm, weights, synthesise):
  """Every block of the arrow's gradient is half the derivative of its cost: priors, Huber, offsets, common, size."""
  tracks, xs, shared = synthesise(3, bias=0.01, noise=0.01)
  rng = np.random.default_rng(0)
  xs = xs[:2] + jnp.asarray(0.02 * rng.standard_normal(xs[:2].shape), jnp.float32)
  common = jnp.asarray(0.3 * rng.standard_normal((2, landmarks.N_COMMON)), jnp.float32)
  xs = jnp.concatenate([xs, common], axis=1)
  tracks = jax.tree.map(lambda a: a[:2], tracks)
  flat = pack(shared)
  flat = flat + jnp.asarray(1e-3 * rng.standard_normal(flat.shape), jnp.float32)
  prior = (jnp.float32(0.5), jnp.float32(0.7))

  @jax.jit
  def both(xs, flat):
    normal = lambda xs, flat: clip.bundle_normal(lm, xs, flat, tracks, weights, prior, shared=shared)
    return normal(xs, flat), jax.grad(lambda a: normal(*a).cost)((xs, flat))

  arrow, (by_frames, by_shared) = both(xs, flat)
  np.testing.assert_allclose(arrow.frame_gradient, by_frames / 2, atol=2e-4 * float(jnp.abs(by_frames).max()))
  for part in (slice(0, 10), slice(10, 11), slice(11, 13), slice(13, None)):
    scale = float(jnp.abs(by_shared[part]).max())
    np.testing.assert_allclose(arrow.shared_gradient[part], by_shared[part] / 2, atol=1e-3 * scale)
  np.testing.assert_allclose(arrow.shared_matrix, arrow.shared_matrix.T, rtol=1e-3, atol=1.0)


@pytest.mark.differentiable
@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_the_identity_prior_has_a_derivative_by_its_strength(lm, weights, strength):
  """Without it too: of the cost that is the code's square, of the gradient the code."""
  free = unknowns.Unknowns(Layout(()), Layout.of(shape=lm.size_gradient.shape))
  shared = clip.initial_shared(lm)
  code = jnp.asarray(np.random.default_rng(0).standard_normal(lm.size_gradient.shape), jnp.float32)

  @jax.jit
  @jax.jacfwd
  def slope(strength):
    of = priors.identity_priors(lm, weights.replace(w_identity=strength), (0.5, 0.7))
    found = assemble.shared_normal(of, free, shared, code)
    return found.cost, found.gradient

  cost, gradient = slope(jnp.float32(strength))
  np.testing.assert_allclose(cost, np.sum(code**2), rtol=1e-4)
  np.testing.assert_allclose(gradient, code, rtol=1e-4)


@pytest.mark.differentiable
@pytest.mark.slow
def test_openings_are_the_model_of_their_residuals(lm, weights, synthesise):
  """Rows, gradient and matrix with lids and lips against forward mode.

  Neither offsets nor the slide nor what a frame's points have in common is in the openings' rows.
  """
  lm = lm.replace(pair_sd=jnp.full_like(lm.pair_sd, jnp.inf))  # it has a test of its own
  tracks, xs, shared = synthesise(4, bias=0.02, noise=0.01)
  one = jax.tree.map(lambda a: a[0], tracks)
  # Closed eyes, so that their rows weigh; one point that is not seen.
  uv = one.uv.at[jnp.array([41, 40])].set(one.uv[jnp.array([37, 38])])
  one = one.replace(uv=uv, inverse_sd=one.inverse_sd.at[62].set(0.0))
  upper, lower = observed.OPENINGS.T
  n = unknowns.n_unknowns(lm.points)

  def residuals(x, flat):
    moved = unpack(flat, shared)
    uv = landmarks.predict(lm, x[:n], moved, x[n:])
    without = pts.locate(lm.points, x[:n], moved)
    opening = without[upper] - without[lower] - (one.uv[upper] - one.uv[lower])
    eye = lm.eye_distance * one.bias_scale
    wide = jnp.linalg.norm(one.uv[upper] - one.uv[lower], axis=-1) / (observed.OPEN * eye)
    # Points of full confidence that are in sight: the opening's sd is the weight's own.
    counts = jnp.sqrt(one.inverse_sd[upper] * one.inverse_sd[lower]) * weights.sd_landmark * eye
    counts *= jnp.where(upper < 48, observed.EYES_NOISE, 1.0)
    scale = counts / (weights.sd_closure * eye) / (1 + wide**2)
    return jnp.concatenate([(uv - one.uv) * one.inverse_sd[:, None], opening * scale[:, None]])

  @jax.jit
  def both(x, flat):
    at = unknowns.At(x[:n], unpack(flat, shared), {"common": x[n:]})
    rows = landmarks.Landmarks(lm).linearise(at, one), openings.Openings(lm).linearise(at, one)
    many = jax.tree.map(lambda a: a[None], one)
    arrow = clip.bundle_normal(lm, x[None], flat, many, weights, (jnp.float32(0.5), jnp.float32(0.7)), shared=shared)
    return rows, arrow, residuals(x, flat), *jax.jacfwd(residuals, (0, 1))(x, flat)

  rng = np.random.default_rng(1)
  common = jnp.asarray(0.3 * rng.standard_normal(landmarks.N_COMMON), jnp.float32)
  x = jnp.concatenate([xs[0] + 0.01, common])
  rows, arrow, expected, J_x, J_shared = both(x, pack(shared))
  together = lambda *parts: np.concatenate([p * t.root.reshape(-1, *[1] * (p.ndim - 1)) for p, t in zip(parts, rows)])
  r = together(*(t.residual for t in rows))
  assert "common" not in rows[1].frame
  by_common = rows[0].frame["common"], np.zeros((len(upper), 2, landmarks.N_COMMON))
  d_x = together(*(np.concatenate([t.frame["head"], c], -1) for t, c in zip(rows, by_common)))
  names = ("shape", "log_focal", "principal")
  d_shared = together(*(np.concatenate([t.shared[name] for name in names], -1) for t in rows))
  d_offset = rows[0].shared["offset"].by_row
  cost = rows[0].cost + rows[1].cost
  root, total = landmarks.robust(expected)
  assert r.shape == (77, 2) and d_offset.shape == (70, 2, 3)
  assert np.abs(expected[70:72]).max() > 0.5 and np.all(r[75] == 0)  # lids weigh; (62, 66) lacks a point
  np.testing.assert_allclose(cost, total, rtol=1e-4)
  np.testing.assert_allclose(r, expected * root[:, None], atol=2e-3)
  J_x, J_shared = J_x * root[:, None, None], J_shared * root[:, None, None]
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max())
  close(d_x, J_x)
  close(d_shared, J_shared[..., :13])
  assert np.all(J_shared[70:, :, 13:] == 0)
  # Both normal equations are made of these rows; the priors are all that is added.
  prior = frame_prior(lm, x[:n], weights)
  prior_gradient = np.concatenate([prior.gradient, common])
  prior_matrix = np.pad(np.asarray(prior.matrix), ((0, len(common)),) * 2)
  prior_matrix[n:, n:] = np.eye(len(common))
  single = jax.jit(frame.frame_normal)(lm, x, shared, one, weights)
  J, e = J_x.reshape(154, -1), (expected * root[:, None]).reshape(-1)
  for normal in ((single.gradient, single.matrix), (arrow.frame_gradient[0], arrow.frame_matrix[0])):
    close(normal[0] - prior_gradient, J.T @ e)
    close(normal[1] - prior_matrix, J.T @ J)
  close(arrow.cross[0], J.T @ J_shared.reshape(154, -1))


@pytest.mark.faults
@pytest.mark.differentiable
@pytest.mark.slow
def test_openings_without_landmarks_have_derivatives(lm, weights):
  """Missing points, and lids that coincide exactly: no root is differentiated at zero."""
  head = np.asarray(lm.points.template)
  px = np.stack([500 + 2000 * head[:, 0], 500 - 2000 * head[:, 1]], -1).astype(np.float32)
  px[[41, 40]] = px[[37, 38]]
  confidence = np.ones(70, np.float32)
  confidence[[43, 61]] = 0
  shared = clip.initial_shared(lm)

  @jax.jit
  @jax.grad
  def slope(given):
    tracks = observed.observe_landmarks(lm, *given, SIZE)
    return frame.frame_normal(lm, 0.01 + frame.initial_unknowns(lm, tracks), shared, tracks, weights).cost

  for c in (confidence, 0 * confidence):
    assert all(np.isfinite(g).all() for g in slope((px, jnp.asarray(c))))


def test_points_that_face_away_lose_their_weight(small_head, weights):
  """Of the turned head's jaw line the far half is a guess; seen from the front nothing is lost that is in sight."""
  lm = landmark_model(small_head, weights, 3)
  np.testing.assert_allclose(jnp.linalg.norm(lm.normals, axis=-1), 1.0, rtol=1e-5)
  counted = np.flatnonzero(np.isfinite(lm.relative_sd))

  @jax.jit
  @jax.vmap
  def weight(yaw):
    x = jnp.zeros(unknowns.n_unknowns(lm.points)).at[-13].set(yaw).at[-9].set(0.8)
    px = pts.locate(lm.points, x, clip.initial_shared(lm, 20.0)) * max(SIZE) + 500.0
    tracks = observed.observe_landmarks(lm, px, jnp.ones(len(px), jnp.float32), SIZE)
    return (tracks.inverse_sd * lm.relative_sd)[counted] * lm.eye_distance * tracks.bias_scale

  front, right, left = weight(jnp.deg2rad(jnp.array([0.0, 60.0, -60.0])))
  np.testing.assert_allclose(front[:70], 1.0, atol=1e-3)  # folds of lids and lips, whose skin faces back, too
  near, far = (right, left) if right[2] > right[14] else (left, right)
  for w, away, toward in ((near, np.r_[11:17], np.r_[0:6]), (far, np.r_[0:6], np.r_[11:17])):
    np.testing.assert_allclose(w[away], observed.HIDDEN_WEIGHT, atol=1e-3)
    np.testing.assert_allclose(w[toward], 1.0, atol=1e-3)
  assert front.min() >= observed.HIDDEN_WEIGHT - 1e-6 and np.all(weight(jnp.zeros(1)) <= 1 + 1e-6)


def test_visibility_needs_no_mesh(small_head, weights):
  """The head reduced to its landmarks' triangles knows the same normals."""
  reduced = landmarks_only(small_head)
  assert not len(reduced.faces)
  whole, part = (landmark_model(h, weights, 3).normals for h in (small_head, reduced))
  np.testing.assert_allclose(whole, part, atol=1e-6)


# --- recovery --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def confident(lm, weights):
  """Weights and model for landmarks without noise and bias."""
  weights = weights.replace(w_identity=0.05, sd_expr=2.0, sd_neck=0.2, sd_jaw=0.5, sd_gaze=1.0)
  return weights, lm.replace(relative_sd=lm.relative_sd * 0.1, relative_bias=lm.relative_bias * 0.01)


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_noise_free_landmarks_give_camera_and_identity(lm, synthesise, adjust, confident, factor):
  tracks, xs, truth = synthesise(1)
  weights, model = confident
  # Tracks carry the noise model: give the noise-free ones the smaller one.
  tracks = tracks.replace(inverse_sd=tracks.inverse_sd * 10)
  result = adjust(model, tracks, weights, float(jnp.exp(truth.log_focal)) * factor, focal_sd=100.0)
  shared, found = result.shared, result.xs
  assert abs(float(jnp.exp(shared.log_focal - truth.log_focal)) - 1) < 0.02
  np.testing.assert_array_less(rotation_error_deg(found, xs), 1.0)
  vertices = lambda s: np.asarray(lm.points.template + lm.points.shapedirs @ s)
  error = np.linalg.norm(vertices(shared.shape) - vertices(truth.shape), axis=-1).mean()
  start = np.linalg.norm(vertices(truth.shape) - vertices(0 * truth.shape), axis=-1).mean()
  assert error < 0.3 * start
  np.testing.assert_allclose(found[:, -9], xs[:, -9], atol=0.03)


def test_unknown_bias_makes_the_focal_length_right(lm, weights, synthesise, adjust):
  """The product's claim: on landmarks with a constant bias, estimating it beats pretending that there is none.

  Under an identity prior as wide as these identities are; a narrow one (the default leans on the mean head) leaves an
  error of its own that hides the effect.
  """
  weights = weights.replace(w_identity=5.0, sd_neck=0.05)
  errors = {"with": [], "without": []}
  for seed in range(2):
    tracks, _, truth = synthesise(seed, bias=0.015, noise=0.003)
    for name, model in (("with", lm), ("without", lm.replace(relative_bias=lm.relative_bias * 1e-3))):
      shared = adjust(model, tracks, weights).shared
      errors[name].append(abs(float(shared.log_focal - truth.log_focal)))
  assert np.mean(errors["with"]) < 0.05
  assert np.mean(errors["with"]) < 0.7 * np.mean(errors["without"])


def test_bundle_adjust_and_its_uncertainty(lm, weights, synthesise, adjust):
  """From its own start: focal length with a believable standard deviation, and the poses."""
  tracks, xs, truth = synthesise(5, bias=0.01, noise=0.006)
  free = adjust(lm, tracks, weights)
  error = float(free.shared.log_focal - truth.log_focal)
  assert abs(error) < 0.08
  assert abs(error) < 3 * free.focal_relative_sd
  assert 0.003 < free.focal_relative_sd < 0.1
  assert np.median(rotation_error_deg(free.xs, xs)) < 2.0


def test_eyes_that_keep_looking_at_the_camera_turn_against_the_head(lm, weights, synthesise, adjust):
  """A constant bias in depth would do the same to irises, and costs once where gaze costs in every frame."""
  tracks, xs, _ = synthesise(3, bias=0.005, noise=0.006, at_camera=True)
  truth, follows = np.asarray(xs)[:, -3], []
  for model in (lm, lm.replace(relative_bias=jnp.repeat(lm.relative_bias[:, :1], 3, axis=1))):
    found = np.asarray(adjust(model, tracks, weights).xs).reshape(F, -1)[:, [-3, -1]].mean(axis=1)
    follows.append(np.polyfit(truth, found, 1)[0])
  assert 0.78 < follows[0] < 1.0, "the rest is what the priors of gaze and of errors in common take"
  assert follows[1] < follows[0] - 0.1


def test_fit_frame_recovers_poses_and_ignores_outliers(lm, synthesise, confident):
  """Known camera and identity; then one landmark is put 100 px away and hardly matters."""
  tracks, xs, truth = synthesise(2)
  weights, model = confident
  tracks = tracks.replace(inverse_sd=tracks.inverse_sd * 10)
  folded, shared = frame.fold_landmarks(model, truth)
  fit = jax.jit(jax.vmap(lambda t: frame.fit_frame(folded, t, shared, weights, max_steps=12)))
  solution = fit(tracks)
  np.testing.assert_array_less(rotation_error_deg(solution.x, xs), 1.0)
  np.testing.assert_allclose(solution.x[:, -11:-8], xs[:, -11:-8], atol=0.02)
  bad = fit(tracks.replace(uv=tracks.uv.at[:, 33].add(0.1)))
  np.testing.assert_array_less(rotation_error_deg(bad.x, xs), 3.0)
  # A frame without any landmark stays finite (it is bridged later).
  empty = fit(tracks.replace(inverse_sd=tracks.inverse_sd.at[0].set(0.0), uv=tracks.uv.at[0].set(0.0)))
  assert np.isfinite(empty.x).all()
  np.testing.assert_allclose(empty.x[1:], solution.x[1:], atol=1e-5)


def test_a_closed_eye_is_fitted_closed_although_lids_are_biased(lm, weights, synthesise):
  """The offsets say that this detector sees eyes too narrow, but an eye whose lids touch is shut."""
  tracks, _, truth = synthesise(2)
  eye = lm.eye_distance
  upper, lower = observed.OPENINGS[:4].T
  lids = tracks.uv.at[:, upper].set((tracks.uv[:, upper] + tracks.uv[:, lower]) / 2)
  tracks = tracks.replace(uv=lids.at[:, lower].set(lids[:, upper]), inverse_sd=tracks.inverse_sd.at[:, 68:].set(0.0))
  shared = truth.replace(offset=truth.offset.at[upper, 1].add(-0.012 * eye).at[lower, 1].add(0.012 * eye))
  folded, biased = frame.fold_landmarks(lm, shared)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, None, None))
  def openness(t, sd, offset):
    shared = biased.replace(offset=offset)
    x = frame.fit_frame(folded.replace(relative_opening_sd=sd), t, shared, weights, max_steps=12).x
    return observed.eye_openness(pts.locate(folded.points, x, shared))

  fitted = lambda sd, offset: float(openness(tracks, jnp.float32(sd), offset).mean())
  shut = fitted(1e6, truth.offset)  # what a detector without bias would give
  off, default, strict = (fitted(sd, biased.offset) - shut for sd in (1e6, weights.sd_closure, 0.003))
  print(f"openness {shut:.3f}, more by {off:.3f} without the openings, {default:.3f} with them, {strict:.3f} strictly")
  assert off > 0.03
  assert default < 0.7 * off
  assert strict < 0.2 * off


@pytest.mark.slow
def test_two_clips_know_a_person_better_than_one(lm, weights, synthesise, adjust):
  """Halves of drawn clips: the shapes together are nearer to the truth than each alone, and fit no other person."""
  prior = priors.prior_of_shape(lm, weights)

  def estimate(tracks):
    found = adjust(lm, tracks, weights)
    layout = unknowns.shared_layout(found.shared)
    known = beyond_prior(shape_information(found.information, layout, float(found.focal_relative_sd)), prior)
    return person.Estimate(np.asarray(found.shared.shape, np.float64), np.float64(known.prior), np.float64(known.data))

  template, dirs = (np.asarray(points)[:68] for points in (lm.points.template, lm.points.shapedirs))
  place = lambda shape: (template + dirs @ shape)[None]
  # mm, wherever the head is and however large: cameras see neither.
  error = lambda shape, truth: 1e3 * np.linalg.norm(align(place(shape), place(truth)) - place(truth), axis=-1).mean()
  alone, together, people, off_by = [], [], [], []
  for seed in range(8):
    tracks, _, shared = synthesise(seed, noise=0.01, shape_sd=float(1 / np.sqrt(weights.w_identity)), n_frames=2 * F)
    halves = [estimate(jax.tree.map(lambda a, at=at: a[at : at + F], tracks)) for at in (0, F)]
    truth = np.asarray(shared.shape)
    alone.append([error(half.shape, truth) for half in halves])
    together.append(error(person.together(halves)[0], truth))
    people.append(halves)
    off_by += [(half.shape - truth) @ (half.before + half.added) @ (half.shape - truth) / len(truth) for half in halves]
  assert np.mean(together) < 0.95 * np.mean(alone)
  chances = [person.difference(one, [other]).p for one, other in people]
  strangers = [person.difference(a[0], [b[1]]).p for a, b in zip(people, people[1:])]
  assert min(chances) > person.OTHER > max(strangers)
  assert 0.2 < np.mean(off_by) < 2  # chi-square over what it is for shapes that are as sure as they say


def test_a_fit_that_is_lost_says_nothing_of_the_shape():
  layout = Layout((("shape", (2,)), ("log_focal", ()), ("offset", (3,))))
  assert shape_information(np.eye(layout.size), layout, 0.1) is not None
  for lost in (np.full((layout.size, layout.size), np.nan), np.zeros((layout.size, layout.size))):
    assert shape_information(lost, layout, 0.1) is None
