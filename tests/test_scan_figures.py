"""The measurement of tracked clips against scans (benchmarks/): closed forms, and that known errors come out."""

import sys

import numpy as np
import pytest
from conftest import REPO
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(REPO / "benchmarks"))

import scan_figures
import truth_clips
import view_bias_scans


@pytest.fixture(scope="module")
def bowl():
  """A dented half sphere of 80 mm: vertices and faces, open below."""
  n = 24
  polar, around = np.meshgrid(np.linspace(0.02, 1.4, n), np.linspace(0, 2 * np.pi, 2 * n), indexing="ij")
  radius = 80 + 6 * np.sin(3 * around) * np.sin(polar) + 5 * np.cos(4 * polar)
  v = radius[..., None] * np.stack(
    [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=-1
  )
  k = np.arange(v.shape[0] * v.shape[1]).reshape(v.shape[:2])
  a, b, c, d = k[:-1, :-1].ravel(), k[1:, :-1].ravel(), k[:-1, 1:].ravel(), k[1:, 1:].ravel()
  return v.reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([c, b, d], 1)])


def test_nearest_point_of_a_triangle():
  triangle = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]])
  points = np.array([[0.5, 0.5, 3], [-1, -1, 0], [1, -2, 1], [2, 2, 0], [5, 0, 0], [-3, 0.5, 0]])
  expected = [[0.5, 0.5, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0], [0, 0.5, 0]]
  np.testing.assert_allclose(scan_figures.on_triangles(points, np.tile(triangle, (6, 1, 1))), expected, atol=1e-12)


def test_similarity_is_recovered():
  rng = np.random.default_rng(0)
  x, R = rng.normal(0, 1, (20, 3)), Rotation.from_rotvec([0.3, -0.8, 0.2]).as_matrix()
  scale, found, shift = scan_figures.similarity(x, 1.3 * x @ R.T + [1, 2, 3])
  assert scale == pytest.approx(1.3)
  np.testing.assert_allclose(found, R, atol=1e-9)
  np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-9)


def test_registration_undoes_a_similarity_and_sees_what_is_left(bowl):
  v, faces = bowl
  mesh = scan_figures.Mesh(v, faces)
  rng = np.random.default_rng(1)
  pick, weight = rng.integers(0, len(faces), 1500), rng.dirichlet([1, 1, 1], 1500)
  on, normals = np.einsum("nk,nkc->nc", weight, mesh.corners[pick]), mesh.normals[pick]
  R = Rotation.from_rotvec([0.05, 0.08, -0.06]).as_matrix()
  points, normals = 1.02 * on @ R.T + [2, -3, 1], normals @ R.T
  scale, found, shift = scan_figures.register(points, normals, mesh, (1.0, np.eye(3), np.zeros(3)), rounds=60)
  assert scale == pytest.approx(1.02, abs=2e-3)
  np.testing.assert_allclose(found, R, atol=4e-3)
  left = mesh.nearest((points + 1.5 * normals - shift) @ found / scale)[2] * scale
  assert np.median(left) == pytest.approx(1.5, abs=0.1)


def test_rotation_figures_know_gains_and_ignore_a_constant_turn():
  t = np.linspace(0, 2 * np.pi, 60)
  upright = np.diag([1.0, -1.0, -1.0])
  of = lambda yaw, pitch: upright @ Rotation.from_euler("YX", np.column_stack([yaw, pitch]), degrees=True).as_matrix()
  yaw, pitch = 30 * np.sin(t), 10 * np.cos(1.7 * t)
  constant = Rotation.from_rotvec([0.1, 0.05, -0.03]).as_matrix()
  mean, most, yaw_gain, pitch_gain = view_bias_scans.rotation_figures(of(yaw, pitch) @ constant, of(yaw, pitch))
  assert most < 1e-3 and (yaw_gain, pitch_gain) == pytest.approx((1, 1), abs=1e-6)
  mean, _, yaw_gain, pitch_gain = view_bias_scans.rotation_figures(of(0.9 * yaw, 0.8 * pitch), of(yaw, pitch))
  assert (yaw_gain, pitch_gain) == pytest.approx((0.9, 0.8), abs=0.01)
  expected = np.hypot(0.1 * yaw, 0.2 * pitch).mean()
  assert mean == pytest.approx(expected, rel=0.1)


def test_pixels_are_lifted_onto_the_surface(bowl):
  v, faces = bowl
  camera = v * [1, -1, -1] + [10.0, 5.0, 400.0]  # it bulges towards the camera
  K = np.array([[800.0, 0, 320], [0, 800, 240], [0, 0, 1]])
  rng = np.random.default_rng(2)
  pick, weight = rng.integers(0, len(faces) // 3, 40), rng.dirichlet([1, 1, 1], 40)  # near the top: all are seen
  true = np.einsum("nk,nkc->nc", weight, camera[faces[pick]])
  face, bary = view_bias_scans.lift(true[:, :2] / true[:, 2:] * 800 + K[:2, 2], camera, faces, K)
  np.testing.assert_allclose(np.einsum("nk,nkc->nc", bary, camera[faces[face]]), true, atol=1e-6)


def test_truth_clips_move_as_their_truth_says():
  M, angles = truth_clips.motion(np.random.default_rng(0), 1.4)
  np.testing.assert_allclose(
    np.einsum("tij,tkj->tik", M[:, :3, :3], M[:, :3, :3]), np.tile(np.eye(3), (72, 1, 1)), atol=1e-9
  )
  euler = Rotation.from_matrix(np.diag([1.0, -1, -1]) @ M[:, :3, :3]).as_euler("YXZ", degrees=True)
  np.testing.assert_allclose(euler, angles, atol=1e-6)
  assert np.abs(angles).max(0) == pytest.approx([35, 12, 8], abs=1.0)
  assert (M[:, 2, 3] > 0).all()
  assert np.abs(M[:, :2, 3] / M[:, 2:3, 3]).max() * 1.4 < 0.06  # of the longer side: it stays in the image


def test_warp_is_smooth_and_of_the_stated_size():
  warp = truth_clips.Warp(np.random.default_rng(0))
  face = np.random.default_rng(1).uniform([-0.06, -0.08, 0.02], [0.06, 0.08, 0.07], (2000, 3))
  moved = warp(face) - face
  assert 0.5e-3 < np.sqrt((moved**2).mean()) < 3e-3  # 1.5 mm meant, per coordinate
  step = 1e-4 * np.array([1.0, 0, 0])
  stretched = np.linalg.norm(warp(face + step) - warp(face), axis=1) / 1e-4
  assert 0.6 < stretched.min() and stretched.max() < 1.4  # no folds
