"""Texture tracks as a term: derivatives, points where the tracks say, points that nobody sees, a clip's state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_landmark_errors import a_frame, central
from tiny import cast, landmark_model, quick_jit, tiny_head

from vht_jax.config import Weights
from vht_jax.fit import clip, frame, observed, unknowns
from vht_jax.fit.terms import skin as sk
from vht_jax.fit.unknowns import At
from vht_jax.head import points as pts
from vht_jax.texture_tracks.rounds import N_POINTS
from vht_jax.tracking.run import nowhere
from vht_jax.tracking.state import TrackState, restore, save

K, SIZE = 12, (1000, 800)


@pytest.fixture(scope="module")
def head(open_head):
  return tiny_head(open_head)


@pytest.fixture(scope="module")
def lm(head):
  return landmark_model(head, Weights(), 0)


@pytest.fixture(scope="module")
def points(head):
  """K places of the face's skin, the identity folded in."""
  rng = np.random.default_rng(0)
  faces = np.asarray(head.faces)
  on_face = faces[np.asarray(head.masks["face"])[faces].all(1)]
  corners = jnp.asarray(rng.choice(on_face, K, replace=False))
  bary = jnp.asarray(rng.dirichlet([2.0, 2.0, 2.0], K), jnp.float32)
  shape = jnp.asarray(0.5 * rng.standard_normal(head.shapedirs.shape[-1]), jnp.float32)
  return quick_jit(lambda: pts.fold_shape(pts.surface_points(head, corners, bary), shape))()


@pytest.mark.differentiable
def test_tracks_derivatives_are_differences(lm, points):
  """Residuals, cost and its gradient, by the head, the camera and what the tracks have in common; the shape is folded
  in and moves nothing."""
  with jax.enable_x64(True):
    lm, points = cast(lm, np.float64), cast(points, np.float64)
    x, shared = a_frame(lm)
    n = len(x)
    shared = shared.replace(own={sk.COMMON: jnp.linspace(-1.2, 1.5, sk.N_COMMON)})
    layout = unknowns.shared_layout(shared).only(("log_focal", "principal", sk.COMMON))
    rng = np.random.default_rng(1)
    fields = sk.common_fields(points.template, points.pivot, jnp.asarray(rng.uniform(1, 3, K)), jnp.asarray(0.09))
    uv = quick_jit(pts.locate)(points, x, shared.replace(shape=shared.shape[:0]))
    off = 1e-3 * rng.standard_normal(uv.shape) * np.linspace(0.2, 8, K)[:, None]  # beyond Cauchy's bend as well
    seen = sk.ObservedSkin(uv + off, jnp.full(K, 400.0).at[3].set(0.0))
    at = lambda z: At(z[:n], unknowns.insert(layout, z[n:], shared))
    rows = lambda z: sk.SkinPoints(points, fields).linearise(at(z), seen)
    z = jnp.concatenate([x, unknowns.extract(layout, shared)])
    found = quick_jit(rows)(z)
    assert found.shared.keys() == {*layout.names} and found.frame.keys() == {"head"}
    J = np.concatenate([found.frame["head"], *(found.shared[name] for name in layout.names)], -1)
    expected = np.moveaxis(central(lambda z: rows(z).residual, z), 0, -1)
    np.testing.assert_allclose(J, expected, atol=1e-6 * np.abs(expected).max())
    gradient = np.einsum("kpi,kp,k->i", J, found.residual, found.root**2)
    expected = central(lambda z: rows(z).cost, z) / 2
    np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max())
    assert (J[3] == 0).all() and (found.residual[3] == 0).all()


def test_the_mesh_is_drawn_to_the_tracked_points():
  """Linear in the shape: residuals are distances along the normal over their deviation, as far as they are believed."""
  rng = np.random.default_rng(0)
  by_shape, shape = rng.standard_normal((K, 3)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
  place = rng.standard_normal(K).astype(np.float32)
  by_common = rng.standard_normal((K, sk.N_COMMON)).astype(np.float32)
  common = rng.standard_normal(sk.N_COMMON).astype(np.float32)
  belief = np.linspace(0.3, 1.0, K).astype(np.float32)
  belief[-2:] = 0
  own = {sk.COMMON: jnp.asarray(common)}
  at = At(None, unknowns.Shared(jnp.asarray(shape), jnp.zeros(()), jnp.zeros(2), jnp.zeros((70, 3)), own))
  rows = sk.SkinShape(*map(jnp.asarray, (by_shape, place, by_common, belief))).linearise(at)
  expected = belief * (by_shape.astype(np.float64) @ shape - place - by_common @ common) / sk.PLACE_SD
  np.testing.assert_allclose(rows.residual[:, 0], expected, rtol=1e-3, atol=1e-2)
  np.testing.assert_allclose(rows.shared["shape"][:, 0], belief[:, None] * by_shape / sk.PLACE_SD, rtol=1e-5)
  np.testing.assert_allclose(rows.shared[sk.COMMON][:, 0], -belief[:, None] * by_common / sk.PLACE_SD, rtol=1e-5)
  far = np.maximum(np.abs(expected) / 2.5, 1.0)  # a point beside the skin pulls no more than one that is nearer
  np.testing.assert_allclose(rows.root, far**-0.5, rtol=1e-3)
  cost = np.where(far > 1, 5 * np.abs(expected) - 6.25, expected**2)
  np.testing.assert_allclose(rows.cost, cost.sum(), rtol=1e-4)


def test_points_are_put_at_their_places(lm, points):
  """Posed with joints turned, a mouth open and an expression, in any place of the head."""
  with jax.enable_x64(True):
    lm, points = cast(lm, np.float64), cast(points, np.float64)
    x, shared = a_frame(lm)
    places = jnp.asarray(np.asarray(points.template) + 2e-3 * np.random.default_rng(2).standard_normal((K, 3)))

    @quick_jit
    def placed(x):
      put = sk.at_places(points, places, x.at[unknowns.where("rotation", "place")].set(0.3))
      shaped, joints = pts.shaped_points(put, x[:0], unknowns.part(x, "expr"))
      focal = jnp.exp(shared.log_focal)
      X, _ = pts.camera_points(put, shaped, joints, x[-pts.N_POSE :], focal, shared.principal)
      return put, X, *pts.rigid(unknowns.split(x), focal, shared.principal)

    put, X, R, t = placed(x)
    back = (np.asarray(X) - np.asarray(t)) @ np.asarray(R) + np.asarray(put.pivot)
    np.testing.assert_allclose(back, places, atol=1e-9)
    assert np.abs(put.template - points.template).max() > 5e-3  # more than by the 2 mm: they are unposed


# --- points that nobody sees -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_points_that_nobody_sees_change_nothing(head, lm):
  """The equations of frames, of a clip and of joint steps are as if there were none."""
  weights, n = Weights(), 3
  hidden = nowhere(head, n)
  assert hidden.observed.uv.shape == (n, N_POINTS, 2)
  x, shared = a_frame(lm)
  x = x.at[: -pts.N_POSE].set(jnp.abs(x[: -pts.N_POSE]))
  xs = jnp.stack([x.at[unknowns.where("rotation").start + 1].set(yaw) for yaw in (-0.4, 0.0, 0.5)])

  @quick_jit
  @jax.vmap
  def observe(x):
    px = pts.locate(lm.points, x, shared) * max(SIZE) + jnp.array([[SIZE[1] / 2, SIZE[0] / 2]])
    return observed.observe_landmarks(lm, px, jnp.ones(len(px)), SIZE)

  seen = observe(xs)
  model, known = frame.fold_landmarks(lm, shared)

  own = jnp.zeros((n, 6))
  shared = shared.replace(own=sk.skin_unknowns(hidden))
  in_common = sk.skin_priors(hidden)[-1]  # of what tracks bring

  @quick_jit
  def everything(skin):
    more, priors = sk.skin_entries(skin), sk.skin_priors(skin) or [in_common]
    one = lambda t, x, more: frame.frame_normal(model, frame.with_common(x), known, t, weights, more)
    frames = jax.vmap(one, (0, 0, [(None, 0)] * len(more)))(seen, xs, more)
    flat = unknowns.extract(unknowns.shared_layout(shared), shared)
    prior = (jnp.float32(0.5), jnp.float32(0.35))
    arrow = clip.bundle_normal(
      lm, jnp.concatenate([xs, own], 1), flat, seen, weights, prior, more, priors, shared=shared
    )
    total = clip.reduce_frames(
      None, lm, None, None, shared, seen, None, weights, xs, jnp.ones(n, bool), n_samples=0, more=more
    )
    return frames, arrow, total

  with_points, without = everything(hidden), everything(None)
  for a, b in zip(jax.tree.leaves(with_points), jax.tree.leaves(without), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_a_clip_s_tracks_survive_being_saved(head, lm):
  state = TrackState(skin=nowhere(head, 4), tracked=True, slide=np.ones((70, 3, 2), np.float32), focal_sd=0.02)
  rng = np.random.default_rng(0)
  drawn = lambda a: rng.standard_normal(a.shape).astype(np.float32)
  shared = clip.initial_shared(lm).replace(own=sk.skin_unknowns(state.skin))
  state = state.replace(skin=jax.tree.map(drawn, state.skin), shared=jax.tree.map(np.asarray, shared))
  arrays = save(state)
  again = restore(TrackState, arrays)
  assert again.tracked is True and again.focal_sd == 0.02
  assert isinstance(again.skin, sk.Skin)
  for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(a, b)
  assert restore(TrackState, save(TrackState())).skin is None
