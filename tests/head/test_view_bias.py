"""The detector's slide with the view: closed forms, the table, and that a planted table is found again."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation
from test_open_head import MIRROR_70

from vht_jax.head import view_bias as vb
from vht_jax.head.motion import FRONTAL
from vht_jax.landmarks.mirror import MIRROR
from vht_jax.rotation import axis_angle_to_matrix
from vht_jax.types import ViewBias

PARTNER = np.concatenate([MIRROR_70, 70 + MIRROR[:468]])
AHEAD = jnp.array([0.0, 0.0, 0.6])


def turned(yaw=0.0, pitch=0.0, roll=0.0):
  """Head -> camera of a head that faces the camera and then turns: roll last, so that it is in the image."""
  about = lambda k, angle: axis_angle_to_matrix(jnp.eye(3)[k] * angle)
  multiply = lambda a, b: jnp.matmul(a, b, precision="highest")
  return multiply(jnp.array(FRONTAL), multiply(about(2, roll), multiply(about(1, yaw), about(0, pitch))))


@pytest.fixture(scope="module")
def bias(open_head):
  return open_head.view_bias


# The view


@pytest.mark.parametrize("roll", [0.0, 0.7])
def test_view_is_the_sine_of_the_turn(roll):
  np.testing.assert_allclose(vb.view(turned(yaw=0.5, roll=roll), AHEAD), [np.sin(0.5), 0.0], atol=1e-6)
  np.testing.assert_allclose(vb.view(turned(pitch=-0.3, roll=roll), AHEAD), [0.0, np.sin(-0.3)], atol=1e-6)


def test_view_is_against_the_direction_to_the_head_not_the_cameras_axis():
  # A head at the right of the image that faces along the camera's axis is seen from its own left (+x): as if it had
  # turned to its right.
  found = vb.view(turned(), jnp.array([0.3, 0.0, 0.6]))
  np.testing.assert_allclose(found, [np.sin(np.arctan2(0.3, 0.6)), 0.0], atol=1e-6)
  # Turned towards the camera it is frontal again.
  np.testing.assert_allclose(vb.view(turned(yaw=-np.arctan2(0.3, 0.6)), jnp.array([0.3, 0.0, 0.6])), 0, atol=1e-6)


def test_view_has_derivatives_everywhere():
  delta = jnp.array([0.2, -0.1, 0.3, 0.05, 0.02, 0.1])

  def of(z, yaw):
    R = jnp.matmul(axis_angle_to_matrix(z[:3]), turned(yaw=yaw), precision="highest")
    return vb.view(R, AHEAD + z[3:])

  compiled = jax.jit(of)
  for yaw in (0.0, np.pi / 2, np.pi):
    check_grads(lambda z: compiled(z, yaw), (0.1 * delta,), order=1, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


# The slide


def test_gain_alone_turns_the_points(open_head):
  """A head that pitches by a looks as if it had pitched by (1 + gain) a, to first order."""
  points = jnp.asarray(np.random.default_rng(0).normal(0, 0.05, (20, 3)), jnp.float32)
  middle = points.mean(0)
  for k, axis in ((0, 1), (1, 0)):  # yaw is about y, pitch about x
    gain = jnp.zeros(2).at[k].set(-0.2)
    slide = vb.fields(ViewBias(gain, jnp.zeros((20, 3, 2))), points, middle, jnp.float32(0.09))
    angle = 0.02
    R = turned(**{("yaw", "pitch")[k]: angle})
    moved = vb.displacement(slide, vb.view(R, AHEAD))
    less = axis_angle_to_matrix(jnp.eye(3)[axis] * (-0.2 * angle))
    expected = jnp.matmul(points - middle[None], less.T - jnp.eye(3), precision="highest")
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_frontal_heads_do_not_slide(bias):
  points = jnp.asarray(np.random.default_rng(0).normal(0, 0.05, (538, 3)), jnp.float32)
  slide = vb.fields(bias, points, points.mean(0), jnp.float32(0.09))
  assert np.abs(vb.displacement(slide, vb.view(turned(), AHEAD))).max() < 1e-7


def test_mirrored_head_slides_like_its_mirror_image(bias, open_head):
  corners, bary = open_head.lmk_vertices, open_head.lmk_bary
  points = jnp.einsum("nk,nkc->nc", bary, open_head.v_template[corners], precision="highest")
  own = ViewBias(bias.gain, bias.slopes[:70])
  slide = vb.fields(own, points, points[:68].mean(0), jnp.float32(0.09))
  one = np.asarray(vb.displacement(slide, jnp.array([0.4, 0.1])))
  other = np.asarray(vb.displacement(slide, jnp.array([-0.4, 0.1])))
  np.testing.assert_allclose(one[MIRROR_70] * [-1, 1, 1], other, atol=2e-6)


def test_common_errors_are_turns_and_moves():
  points = jnp.asarray(np.random.default_rng(1).normal(0, 0.05, (30, 3)), jnp.float32)
  middle = points.mean(0)
  for own in (False, True):
    basis = np.asarray(vb.common_error_basis(points, middle, jnp.float32(0.09), own))
    for k, axis in ((0, 1), (1, 0), (2, 2)):
      sd = (vb.COMMON_SD if own else vb.COMMON_SD_MEAN_ONLY)[k]
      np.testing.assert_allclose(basis[..., k], sd * np.cross(np.eye(3)[axis], points - middle[None]), atol=1e-8)
    np.testing.assert_allclose(basis[..., 3:].std(0), 0, atol=1e-8)
  less = np.asarray(vb.common_error_basis(points, middle, jnp.float32(0.09), True))
  assert (np.abs(less) <= np.abs(np.asarray(vb.common_error_basis(points, middle, jnp.float32(0.09)))) + 1e-9).all()


def test_deviations_are_wide_along_the_skin():
  groups, normals = np.arange(5), jnp.tile(jnp.array([[0.0, 0.6, 0.8]]), (5, 1))
  found = np.asarray(vb.deviation_covariance(groups, normals))
  n, t = np.array([0.0, 0.6, 0.8]), np.array([1.0, 0.0, 0.0])
  for g in range(5):
    np.testing.assert_allclose(n @ found[g, 0] @ n, vb.SPREAD[g, 0] ** 2, rtol=1e-5)
    for k in range(3):
      np.testing.assert_allclose(t @ found[g, k] @ t, vb.SPREAD[g, 1 + k] ** 2, rtol=1e-5)
      assert np.linalg.eigvalsh(found[g, k]).min() > 0


# The table


def test_constants_spread_as_the_table_says():
  """Root mean squares over the three axes of one across the skin and two along it."""
  found = vb.constant_spread(np.arange(len(vb.GROUPS)))
  across, along = vb.SPREAD[:, :2].T
  np.testing.assert_allclose(3 * found**2, vb.TOGETHER * (across**2 + 2 * along**2), rtol=1e-5)
  assert found[0] > 3 * found[1:].max(), "the contour's"


def test_table_is_the_file_that_metadata_records():
  sys.path.insert(0, str(REPO / "third_party" / "open_head"))
  import pack

  with np.load(REPO / "assets" / "view_bias.npz") as stored:
    found = pack.content_sha256({key: stored[key] for key in stored})
  assert found == pack.read_metadata(REPO / "third_party" / "view_bias" / "METADATA")["content_sha256"]


def test_table_is_symmetric_and_of_a_plausible_size(bias, open_head):
  slopes = np.asarray(bias.slopes)
  assert slopes.shape == (70 + len(open_head.dense_index), 3, 2)
  mirrored = slopes[PARTNER] * np.array([-1.0, 1.0, 1.0])[:, None] * np.array([-1.0, 1.0])
  np.testing.assert_allclose(mirrored, slopes, atol=1.1e-4)  # they are rounded to 1e-4
  assert np.abs(slopes).max() < 0.25
  assert -0.25 < bias.gain[1] < -0.05 and abs(bias.gain[0]) < 0.05  # pitch is compressed, yaw hardly


def test_groups(open_head):
  groups = vb.groups_of(open_head)
  assert [int((groups[:68] == k).sum()) for k in range(5)] == [17, 10, 9, 12, 20]
  assert (groups[68:70] == 3).all() and set(groups[70:]) == set(range(5))


def test_partners_of_the_68(open_head):
  corners = open_head.v_template[open_head.lmk_vertices]
  points = np.asarray(jnp.einsum("nk,nkc->nc", open_head.lmk_bary, corners, precision="highest"))
  np.testing.assert_allclose(points[MIRROR_70] * [-1, 1, 1], points, atol=2e-5)


# Estimation


def test_a_planted_slide_is_found_again(monkeypatch):
  """Two families of people with a common slide, own deviations and noise, in known poses."""
  monkeypatch.setattr(sys, "path", [str(REPO / "benchmarks"), *sys.path])
  import view_bias_fit as fit
  from view_bias_clips import Seen

  rng = np.random.default_rng(3)
  n, frames_each, gain = 60, 40, np.array([0.02, -0.15])
  partner = np.concatenate([np.arange(30, 60), np.arange(30)])
  half = np.column_stack([rng.uniform(0.01, 0.07, 30), rng.uniform(-0.06, 0.06, 30), rng.uniform(-0.01, 0.03, 30)])
  head = np.concatenate([half, half * [-1, 1, 1]])
  normals = head + [0, 0, 0.05]
  tangents = fit.tangent_frames(normals / np.linalg.norm(normals, axis=1, keepdims=True))
  groups = np.zeros(n, int)
  common = np.zeros((n, 3, 3))
  common[:30, :, 1:] = np.einsum("nij,njk->nik", tangents[:30, :, 1:], rng.normal(0, 0.04, (30, 2, 2)))
  common[30:] = common[:30] * fit.SIGNS
  eye, focal = 0.09, 900.0
  views = jax.jit(jax.vmap(vb.view))

  def person():
    own = np.einsum("nij,njk->nik", tangents[:, :, 1:], rng.normal(0, 0.01, (n, 2, 3)))
    yaw, pitch = 0.6 * np.sin(np.arange(frames_each) * 0.37), 0.35 * np.sin(np.arange(frames_each) * 0.91)
    euler = np.stack([np.full(frames_each, 0.1), yaw, pitch], axis=1)
    R = np.array(FRONTAL) @ Rotation.from_euler("ZYX", euler).as_matrix()
    position = np.tile([0.02, -0.03, 0.5], (frames_each, 1))
    basis = np.column_stack([np.ones(frames_each), views(R.astype(np.float32), position.astype(np.float32))])
    slide = fit.rigid_field((head - head.mean(0)) / eye, gain) + common + own
    about = head - head.mean(0)
    true = np.einsum("tij,nj->tni", R, about) + position[:, None]
    moved = np.einsum("tij,tnj->tni", R, about + eye * np.einsum("nck,tk->tnc", slide, basis)) + position[:, None]
    seen = focal * moved[..., :2] / moved[..., 2:] + rng.normal(0, 0.5, (frames_each, n, 2))
    return fit.rows(Seen(seen, true, R, position, np.array(focal), np.array(eye)))

  families = [[person() for _ in range(6)] for _ in range(2)]
  found_gain = np.mean([fit.gains(p, tangents, slice(0, n)) for family in families for p in family], axis=0)
  # Random slopes are in part turns of all points together, which the gains take.
  np.testing.assert_allclose(found_gain, gain, atol=0.06)
  means = []
  for family in families:
    known = [fit.rigid_field(p.about, found_gain) for p in family]
    variance = np.mean([fit.residual_variance(p, k, groups) for p, k in zip(family, known)], axis=0)
    systems = [fit.local(*fit.mirrored_too(*fit.equations(p, k), partner), tangents) for p, k in zip(family, known)]
    mean, _, own_sd = fit.population(systems, variance, groups)
    means.append(mean)
    assert 0.004 < own_sd[0, 1, 1] < 0.014  # symmetric parts of 0.01
  slopes, factors = fit.agreed(means, groups)
  total = fit.rigid_field(families[0][0].about, found_gain) + fit.in_head(slopes, tangents)
  expected = fit.rigid_field(families[0][0].about, gain) + common
  along = lambda a: np.swapaxes(tangents, 1, 2)[:, 1:] @ a[..., 1:]  # along the skin, slopes
  error = along(total - expected)
  assert np.sqrt((error**2).mean()) < 0.12 * np.sqrt((along(expected) ** 2).mean())
  assert (factors[0, 1, 1:] > 0.9).all()


def test_what_two_families_do_not_share_is_dropped(monkeypatch):
  monkeypatch.setattr(sys, "path", [str(REPO / "benchmarks"), *sys.path])
  import view_bias_fit as fit

  rng = np.random.default_rng(0)
  shared, *own = rng.normal(0, 1, (3, 400, 3, 3))
  same, factors = fit.agreed([shared, shared], np.zeros(400, int))
  np.testing.assert_allclose(same, shared)
  np.testing.assert_allclose(factors, 1)
  assert fit.agreed(own, np.zeros(400, int))[1].max() < 0.25
  # Half of each variance in common: the mean of both is to be shrunk by 1 / (1 + 1/2).
  mixed = [shared + o for o in own]
  np.testing.assert_allclose(fit.agreed(mixed, np.zeros(400, int))[1], 2 / 3, atol=0.13)
