"""How a detector errs, as terms know it: offsets, slide, common errors, points seen once, a person's own slide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import cast, landmark_model, quick_jit, tiny_head

from vht_jax.config import Weights
from vht_jax.fit import clip, frame, observed, own_slide, unknowns
from vht_jax.fit.solvers.least_squares import Normal
from vht_jax.fit.terms import landmarks, openings
from vht_jax.fit.unknowns import At
from vht_jax.head import points as pts
from vht_jax.head import view_bias
from vht_jax.head.mesh_points import IBUG68, IRISES

SIZE = (1000, 800)  # H, W px
predict, locate = quick_jit(landmarks.predict), quick_jit(pts.locate)
DENSE_STEP = 20


@pytest.fixture(scope="module")
def head(open_head):
  return tiny_head(open_head)


@pytest.fixture(scope="module")
def lm(head):
  return landmark_model(head, Weights(), DENSE_STEP)


def a_frame(lm, seed=0, yaw=0.5):
  """(x, shared) with everything that moves points: an expression, joints, a turn, offsets, a camera off centre."""
  rng = np.random.default_rng(seed)
  dtype = lm.points.template.dtype
  x = 0.1 * rng.standard_normal(unknowns.n_unknowns(lm.points))
  x[unknowns.where("rotation")] += [0.2, yaw, 0.1]
  x[unknowns.where("place")] = [0.1, -0.15, 1.1]
  x[unknowns.where("jaw")] = -1.0
  shared = clip.initial_shared(lm, 1.9)
  shared = shared.replace(
    shape=jnp.asarray(0.5 * rng.standard_normal(shared.shape.shape), dtype),
    principal=jnp.asarray([0.02, -0.03], dtype),
    offset=jnp.asarray(1e-3 * rng.standard_normal(shared.offset.shape), dtype),
  )
  return jnp.asarray(x, dtype), shared


def central(fun, z, step=1e-6):
  """(n, ...) derivatives of an array by each of the numbers z (n,)."""
  one = lambda d: (fun(z + step * d) - fun(z - step * d)) / (2 * step)
  return np.asarray(quick_jit(jax.vmap(one))(jnp.eye(len(z), dtype=z.dtype)))


# --- landmarks -------------------------------------------------------------------------------------------------------


@pytest.mark.differentiable
def test_landmarks_derivatives_are_differences(lm):
  """By the head (the view's slide and the turning offsets included), camera, shape, offsets and common errors."""
  with jax.enable_x64(True):
    lm = cast(lm, np.float64)
    x, shared = a_frame(lm)
    n, n_points = len(x), len(shared.offset)
    rng = np.random.default_rng(1)
    common = jnp.asarray(rng.standard_normal(landmarks.N_COMMON))
    uv = predict(lm, x, shared, common)
    seen = observed.ObservedLandmarks(
      uv + 1e-3 * rng.standard_normal(uv.shape), jnp.full(n_points, 300.0), jnp.ones(()), jnp.zeros(7)
    )
    along = jnp.asarray(1e-3 * rng.standard_normal(shared.offset.shape))  # every point's offset, in a random direction
    layout = unknowns.shared_layout(shared).only(("shape", "log_focal", "principal"))

    def at(z):
      moved = unknowns.insert(layout, z[n + 6 : -1], shared)
      return At(z[:n], moved.replace(offset=shared.offset + z[-1] * along), {"common": z[n : n + 6]})

    def residual(z):
      a = at(z)
      return (landmarks.predict(lm, a.x, a.shared, a.own["common"]) - seen.uv) * seen.inverse_sd[:, None]

    z = jnp.concatenate([x, common, unknowns.extract(layout, shared), jnp.zeros(1)])
    rows = quick_jit(lambda z: landmarks.Landmarks(lm).linearise(at(z), seen))(z)
    by_offset = np.einsum("npi,ni->np", rows.shared["offset"].by_row, along)
    names = ("shape", "log_focal", "principal")
    found = [rows.frame["head"], rows.frame["common"], *(rows.shared[k] for k in names), by_offset[..., None]]
    found = np.moveaxis(np.concatenate(found, -1), -1, 0)
    expected = central(residual, z)
    np.testing.assert_allclose(rows.residual, quick_jit(residual)(z), atol=1e-12)
    largest = np.abs(expected).max((1, 2), keepdims=True)
    assert (largest[:, 0, 0] > 0).all()
    np.testing.assert_allclose(found / largest, expected / largest, atol=1e-6)
    # The slide is among them: without it the derivatives by the head's turn are others.
    placed = quick_jit(pts.placed_by)(lm.points, x, shared)
    still = quick_jit(landmarks.predict_and_jacobian)(lm.replace(slide=0 * lm.slide), placed, shared, common)
    turn = unknowns.where("rotation")
    assert (
      np.abs(still.d_x[..., turn] - rows.frame["head"][..., turn] / 300).max()
      > 0.02 * np.abs(still.d_x[..., turn]).max()
    )


def test_an_offset_is_of_the_head(lm):
  """Points of a rigid head that are displaced, seen from anywhere: as if the head had been made with them there."""
  x, shared = a_frame(lm)
  rigid = lambda x, yaw: x.at[unknowns.where("neck", "eyes")].set(0.0).at[unknowns.where("jaw")].set(
    unknowns.raw_jaw(jnp.float32(0))
  ).at[unknowns.where("rotation")].add(jnp.array([0.0, yaw, 0.0]))  # fmt: skip
  model = lm.replace(slide=0 * lm.slide)
  other = lm.points.replace(template=lm.points.template + shared.offset)
  for yaw in (-1.0, 0.0, 0.7):
    at = rigid(x, yaw)
    seen = predict(model, at, shared)
    np.testing.assert_allclose(seen, locate(other, at, shared), atol=2e-6)
    assert np.abs(seen - locate(lm.points, at, shared)).max() > 1e-3


def test_points_slide_with_the_view_and_err_together(lm):
  """By hand, from the direction in which the camera is."""
  x, shared = a_frame(lm)
  common = jnp.asarray(np.random.default_rng(2).standard_normal(6), jnp.float32)
  focal = jnp.exp(shared.log_focal)

  @quick_jit
  def place():
    shaped, joints = pts.shaped_points(lm.points, shared.shape, unknowns.part(x, "expr"))
    X, _ = pts.camera_points(lm.points, shaped, joints, x[-14:], focal, shared.principal)
    return X, *pts.rigid(unknowns.split(x), focal, shared.principal)

  X, R, t = place()
  camera = np.asarray(R).T @ -np.asarray(t) / np.linalg.norm(t)  # from the head
  sines = np.array([-camera[0], camera[1]])
  assert np.abs(sines).min() > 0.05 and np.abs(lm.slide).max() > 1e-3
  moved = np.asarray(shared.offset) + np.asarray(lm.slide) @ sines + np.asarray(lm.common) @ np.asarray(common)
  expected = pts.project(X + jnp.asarray(moved @ np.asarray(R).T), focal, shared.principal)
  np.testing.assert_allclose(predict(lm, x, shared, common), expected, atol=2e-6)
  np.testing.assert_allclose(quick_jit(landmarks.view_of)(x, shared), sines, atol=1e-5)


def test_openings_know_nothing_of_offsets_and_slides(lm):
  x, shared = a_frame(lm)
  uv = predict(lm, x, shared)
  seen = observed.ObservedLandmarks(uv, jnp.full(len(uv), 300.0), jnp.float32(3.0), jnp.zeros(7))
  linearise = quick_jit(lambda lm, x, shared, own: openings.Openings(lm).linearise(At(x, shared, own), seen))
  rows = linearise(lm, x, shared, {"common": jnp.ones(6)})
  plain = lm.replace(slide=0 * lm.slide, common=0 * lm.common)
  without = linearise(plain, x, shared.replace(offset=0 * shared.offset), {})
  assert rows.frame.keys() == {"head"} and "offset" not in rows.shared
  assert np.abs(rows.residual).max() > 0
  for a, b in zip(jax.tree.leaves(rows), jax.tree.leaves(without), strict=True):
    np.testing.assert_array_equal(a, b)


def test_points_that_touch_are_seen_alike(lm):
  """An upper lid is seen where the lower one's errors put it, the derivatives by the view too; open ones as ever."""
  x, shared = a_frame(lm)
  common = jnp.ones(6)
  upper, lower = observed.OPENINGS.T
  uv = predict(lm, x, shared, common)

  @quick_jit
  def rows(touching):
    seen = observed.ObservedLandmarks(uv, jnp.ones(len(uv)), jnp.float32(3.0), touching)
    found = landmarks.Landmarks(lm).linearise(At(x, shared, {"common": common}), seen)
    return found.residual, found.frame["head"], found.frame["common"]

  @quick_jit
  def moved_by_hand(share):
    move = lambda a: a.at[upper].set((1 - share) * a[upper] + share * a[lower])
    model = lm.replace(slide=move(lm.slide), common=move(lm.common))
    seen = observed.ObservedLandmarks(uv, jnp.ones(len(uv)), jnp.float32(3.0), jnp.zeros(7))
    at = At(x, shared.replace(offset=move(shared.offset)), {"common": common})
    found = landmarks.Landmarks(model).linearise(at, seen)
    return found.residual, found.frame["head"], found.frame["common"]

  np.testing.assert_allclose(rows(jnp.zeros(7))[0], 0, atol=1e-6)
  for share in (0.3, 1.0):
    for a, b in zip(rows(jnp.full(7, share)), moved_by_hand(share), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(rows(jnp.full(7, share))[0][upper]).max() > 1e-4


def test_a_point_touches_another_as_far_as_the_gap_is_small():
  apart = jnp.zeros((70, 2)).at[observed.OPENINGS[:, 0], 1].set(jnp.array([0.0, 0.02, 0.04, 0.1, 0.4, 0.04, 0.04]))
  for size in (1.0, 0.3):
    found = observed.touching(size * apart, jnp.float32(size))
    np.testing.assert_allclose(found, [1, 0.8, 0.5, 1 / 7.25, 1 / 101, 0.5, 0.5], rtol=1e-5)


def test_an_eye_that_is_seen_shut_is_shut_although_open_ones_are_seen_narrower(open_head):
  """The detector sees this person's open eyes 2 mm narrower than they are; here they are shut, and so it sees them."""
  lm = landmark_model(open_head, Weights(), 0)
  x, shared = a_frame(lm, yaw=0.1)
  model, known = frame.fold_landmarks(lm, shared.replace(offset=0 * shared.offset, shape=0 * shared.shape))
  model = model.replace(slide=0 * model.slide)
  lids = np.array([open_head.expr_names.index(name) for name in ("eyelidRight", "eyelidLeft")])
  shut = x.at[: -pts.N_POSE].set(0.0).at[lids].set(1.0)
  uv = locate(model.points, shut, known)
  narrow = known.replace(offset=known.offset.at[observed.OPENINGS[:4, 0], 1].set(-0.002))

  @quick_jit
  def closed(touching):
    seen = observed.ObservedLandmarks(uv, jnp.full(len(uv), 640.0), jnp.float32(3.0), touching)
    return frame.fit_frame(model, seen, narrow, Weights(), shut).x[lids]

  assert (np.abs(closed(observed.touching(uv, 0.09 * jnp.float32(3.0))) - 1) < 0.07).all()
  assert (np.abs(closed(jnp.zeros(7)) - 1) > 0.1).all()


# --- what a frame's points have in common ----------------------------------------------------------------------------


def test_marginal_is_the_block_of_the_inverse():
  rng = np.random.default_rng(0)
  n, m = 7, 6
  A = rng.standard_normal((30, n + m))
  H = A.T @ A
  found = frame.marginal(Normal(jnp.float32(1.0), jnp.arange(13.0), jnp.asarray(H, jnp.float32)), n)
  np.testing.assert_allclose(np.linalg.inv(found.matrix), np.linalg.inv(H)[:n, :n], rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(found.gradient, np.arange(7.0))
  assert found.cost == 1


def test_landmarks_alone_keep_their_pose_and_know_how_little_they_know(lm):
  """Common errors look like the pose: they do not change it, and its variance is the points' plus theirs.

  Of a neutral mean head whose points do not slide: a turn changes the slide, an error that looks like it does not.
  """
  lm = lm.replace(slide=0 * lm.slide)
  x, shared = a_frame(lm, yaw=0.2)
  x = x.at[: -pts.N_POSE].set(0.0).at[unknowns.where("neck")].set(0.0)
  x = x.at[unknowns.where("jaw")].set(unknowns.raw_jaw(jnp.float32(0.001)))
  shared = shared.replace(shape=0 * shared.shape, offset=0 * shared.offset)
  model, known = frame.fold_landmarks(lm, shared)
  uv = locate(lm.points, x, shared)
  seen = observed.ObservedLandmarks(uv, jnp.full(len(uv), 640.0), jnp.float32(3.0), jnp.zeros(7))
  fit = quick_jit(lambda model: frame.fit_frame(model, seen, known, Weights(), x))
  found, sure = fit(model), fit(model.replace(common=1e-4 * model.common))
  turn = unknowns.where("rotation")
  np.testing.assert_allclose(found.x[turn], sure.x[turn], atol=2e-3)
  variance = lambda s: np.diag(np.linalg.inv(np.asarray(s.normal.matrix, np.float64)))[turn]
  yaw, pitch, roll = view_bias.COMMON_SD_MEAN_ONLY[:3]
  np.testing.assert_allclose(variance(found), variance(sure) + np.square([pitch, yaw, roll]), rtol=0.1)


# --- points that are seen twice --------------------------------------------------------------------------------------


def test_dense_points_that_are_landmarks_have_no_weight(head):
  every = landmark_model(head, Weights(), 1)
  again = np.isin(np.asarray(head.dense_index), np.concatenate([IBUG68, IRISES]))
  assert again.sum() > 20
  np.testing.assert_array_equal(np.isinf(every.relative_sd[70:]), again)
  assert np.isfinite(every.relative_sd[:70]).all() and np.isfinite(every.relative_bias).all()
  px = 500.0 + 2000.0 * every.points.template[:, :2] * jnp.array([[1.0, -1.0]])
  seen = quick_jit(lambda px: observed.observe_landmarks(every, px, jnp.ones(len(px)), SIZE))(px)
  assert (seen.inverse_sd[70:][again] == 0).all() and (seen.inverse_sd[70:][~again] > 0).all()


@pytest.mark.differentiable
def test_points_without_weight_have_derivatives(lm):
  """An infinite standard deviation stays out of the others' slopes."""
  assert np.isinf(lm.relative_sd).any()
  x, shared = a_frame(lm)
  px = predict(lm, x, shared) * max(SIZE) + 400.0
  total = lambda px, lm: jnp.sum(observed.observe_landmarks(lm, px, jnp.ones(len(px)), SIZE).inverse_sd)
  by_px, by_model = quick_jit(jax.grad(total, (0, 1), allow_int=True))(px, lm)
  assert np.isfinite(by_px).all() and np.abs(by_px).max() > 0
  assert np.isfinite(by_model.relative_sd).all()
  forward = quick_jit(lambda px: jax.jvp(lambda px: total(px, lm), (px,), (px,))[1])(px)
  assert np.isfinite(forward)


# --- a person's own slide --------------------------------------------------------------------------------------------


def clip_of(lm, shared, own, noise, n_frames=40):
  """(unknowns (T, n), observations) of a head that turns and nods and whose landmarks slide by `own` more."""
  rng = np.random.default_rng(5)
  xs = np.tile(np.asarray(a_frame(lm)[0]), (n_frames, 1))
  xs[:, unknowns.where("rotation")] = np.stack(
    [rng.uniform(-0.4, 0.4, n_frames), rng.uniform(-0.7, 0.7, n_frames), np.zeros(n_frames)], 1
  )
  xs = jnp.asarray(xs)
  uv = quick_jit(jax.vmap(lambda x: landmarks.predict(lm.replace(slide=lm.slide + own), x, shared)))(xs)
  sd = noise * lm.eye_distance * jnp.exp(xs[0][unknowns.where("place")][2])
  uv = uv + sd * rng.standard_normal(uv.shape)
  weight = jnp.full(uv.shape[:2], 1 / sd)
  return xs, observed.ObservedLandmarks(uv, weight, jnp.ones(n_frames), jnp.zeros((n_frames, 7)))


def moments_of(lm, shared, xs, seen):
  model, known = frame.fold_landmarks(lm, shared)
  each = quick_jit(jax.vmap(lambda t, x: own_slide.moments(model, t, known, x)))(seen, xs)
  return jax.tree.map(lambda a: np.asarray(a).sum(0), each)


@pytest.fixture(scope="module")
def persons(head, lm):
  """Prior covariances (N, 3, 3, 3) m^2, and a person's constants and slopes (N, 3 of [constant, yaw, pitch], 3)."""
  groups = view_bias.groups_of(head)
  groups = np.concatenate([groups[:70], groups[70:][::DENSE_STEP]])
  covariance = float(lm.eye_distance) ** 2 * np.asarray(view_bias.deviation_covariance(groups, lm.normals), np.float64)
  drawn = np.random.default_rng(4).standard_normal(covariance.shape[:3])
  return covariance, np.einsum("nkij,nkj->nki", np.linalg.cholesky(covariance), drawn)


def test_own_slide_finds_slopes_that_were_planted(lm, persons):
  covariance, own = persons
  slopes = np.moveaxis(own[:, 1:], 1, 2)
  with jax.enable_x64(True):
    lm = cast(lm, np.float64)
    _, shared = a_frame(lm)
    # Small ones, for which perspective is linear.
    planted = shared.replace(offset=shared.offset + 0.1 * own[:, 0])
    xs, seen = clip_of(lm, planted, 0.1 * slopes, noise=1e-5)
    found = own_slide.solve(moments_of(lm, shared, xs, seen), covariance)
  assert found.shape == slopes.shape
  np.testing.assert_allclose(found, 0.1 * slopes, atol=0.02 * 0.1 * np.abs(slopes).max())


def test_own_slide_of_noisy_points_is_nearer_than_the_mean(lm, persons):
  """With usual noise what is found is nearer to the truth than the mean of people is, in every group of points."""
  covariance, own = persons
  slopes = np.moveaxis(own[:, 1:], 1, 2)
  _, shared = a_frame(lm)
  planted = shared.replace(offset=shared.offset + jnp.asarray(own[:, 0], jnp.float32))
  xs, seen = clip_of(lm, planted, jnp.asarray(slopes, jnp.float32), noise=0.006)
  found = own_slide.solve(moments_of(lm, shared, xs, seen), covariance)
  error, usual = (np.linalg.norm(a, axis=(1, 2)) for a in (found - slopes, slopes))
  for part in (slice(0, 17), slice(17, 27), slice(27, 36), slice(36, 48), slice(48, 68), slice(70, None)):
    assert error[part].mean() < 0.8 * usual[part].mean(), part


def test_own_slide_without_data_is_the_mean(lm, persons):
  covariance, own = persons
  _, shared = a_frame(lm)
  xs, seen = clip_of(lm, shared, jnp.asarray(np.moveaxis(own[:, 1:], 1, 2), jnp.float32), noise=0.006)
  nobody = seen.replace(inverse_sd=seen.inverse_sd.at[:, 5].set(0.0))
  found = own_slide.solve(moments_of(lm, shared, xs, nobody), covariance)
  assert (found[5] == 0).all() and np.abs(np.delete(found, 5, 0)).max((1, 2)).min() > 0
  # Points that are where they should be have no slopes of their own.
  xs, seen = clip_of(lm, shared, 0.0, noise=0.006)
  exact = seen.replace(uv=quick_jit(jax.vmap(lambda x: landmarks.predict(lm, x, shared)))(xs))
  assert np.abs(own_slide.solve(moments_of(lm, shared, xs, exact), covariance)).max() < 2e-5
