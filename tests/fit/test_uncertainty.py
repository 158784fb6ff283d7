"""Standard deviations of poses against closed forms, and against the scatter of fits of noisy landmarks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import landmark_model

from vht_jax.cameras import make_camera
from vht_jax.config import Weights
from vht_jax.fit import clip, frame, observed, unknowns
from vht_jax.fit.solvers import uncertainty
from vht_jax.fit.terms import landmarks
from vht_jax.head import points as pts
from vht_jax.types import Pose

f32 = lambda a: jnp.asarray(a, jnp.float32)


def test_closed_form_of_a_linear_map():
  rng = np.random.default_rng(0)
  A = rng.standard_normal((9, 6))
  H = A.T @ A
  H[:, :3] *= 1e3  # unknowns in other units
  H[:3] *= 1e3
  M = rng.standard_normal((6, 6))

  def to_pose(x):
    y = jnp.matmul(f32(M), x, precision=jax.lax.Precision.HIGHEST)
    zero = jnp.zeros(3)
    return Pose(expr=y[:2], rotation=y[2:5], translation=zero, neck=zero, jaw=zero, eyes=jnp.stack([y[3:], zero]))

  found = jax.jit(lambda H: uncertainty.pose_deviation(to_pose, jnp.zeros(6), H))(f32(H))
  expected = np.sqrt(np.diag(M @ np.linalg.inv(H) @ M.T))
  np.testing.assert_allclose(found.expr, expected[:2], rtol=1e-3)
  np.testing.assert_allclose(found.rotation, expected[2:5], rtol=1e-3)
  np.testing.assert_allclose(found.eyes[0], expected[3:], rtol=1e-3)
  assert (found.translation == 0).all()


def test_what_nothing_is_known_of_is_not_claimed():
  x = jnp.zeros(3)
  to_pose = lambda x: Pose(expr=x, rotation=x, translation=x, neck=x, jaw=x, eyes=jnp.stack([x, x]))
  assert np.isinf(uncertainty.pose_deviation(to_pose, x, jnp.full((3, 3), jnp.nan)).expr).all()
  assert (uncertainty.pose_deviation(to_pose, x, jnp.zeros((3, 3))).rotation > 1e6).all()


@pytest.mark.slow
def test_fits_of_noisy_landmarks_scatter_as_predicted(small_head):
  weights, camera, n = Weights(), make_camera(1.8), 200
  lm = landmark_model(small_head, weights, 0)
  lm, shared = frame.fold_landmarks(lm, clip.initial_shared(lm, 1.8))
  rng = np.random.default_rng(0)
  n_expr = lm.points.exprdirs.shape[-1]
  # Truths are drawn from what the fit believes beforehand.
  x = np.zeros((n, n_expr + pts.N_POSE))
  x[:, :n_expr] = np.abs(rng.standard_normal((n, n_expr))) * float(weights.sd_expr)
  x[:, n_expr : n_expr + 3] = 0.2 * rng.standard_normal((n, 3))
  x[:, n_expr + 3 : n_expr + 5] = 0.05 * rng.standard_normal((n, 2))
  x[:, n_expr + 5] = 0.5
  x[:, n_expr + 6 : n_expr + 9] = float(weights.sd_neck) * rng.standard_normal((n, 3))
  x[:, n_expr + 9] = -1.2
  x[:, n_expr + 10 :] = np.tile(0.1 * rng.standard_normal((n, 2)), 2)
  noise = rng.standard_normal((n, 70, 2))

  @jax.jit
  @jax.vmap
  def fit(x, noise):
    to_pose = lambda x: unknowns.to_pose(lm.points, x, shared.shape, camera, shared.principal)
    uv = landmarks.predict(lm, x, shared)
    clean = observed.observe_landmarks(lm, uv * 512.0 + 256.0, jnp.ones(70), (512, 512))
    seen = clean.inverse_sd > 0  # the irises of closed eyes are not
    sd = jnp.where(seen, 1.0 / jnp.where(seen, clean.inverse_sd, 1.0), 0.0)
    tracks = clean.replace(uv=clean.uv + sd[:, None] * noise)
    solution = frame.fit_frame(lm, tracks, shared, weights)
    return to_pose(x), to_pose(solution.x), uncertainty.pose_deviation(to_pose, solution.x, solution.normal.matrix)

  truth, found, sd = fit(f32(x), f32(noise))
  z = jax.tree.map(lambda a, b, s: np.asarray((a - b) / s), found, truth, sd)
  rms = lambda a: float(np.sqrt(np.median(a**2) / 0.455))  # of a Gaussian with this median square
  for name in ("translation", "expr"):
    assert 0.7 < rms(getattr(z, name)) < 1.3, (name, rms(getattr(z, name)))
  for axis in range(3):
    assert 0.7 < rms(z.rotation[:, axis]) < 1.3, (axis, rms(z.rotation[:, axis]))
  assert all(np.isfinite(a).all() for a in jax.tree.leaves(sd))
