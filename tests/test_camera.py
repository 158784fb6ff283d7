"""Projection against the original's cameras, and the conversions between the conventions."""

import jax.numpy as jnp
import numpy as np
import pytest
from parity import parity_file

from vht_jax import cameras as cam


@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
@pytest.mark.parametrize("K", ["A", "B"])
def test_projection_equals_the_originals(shared_data, size, K):
  pack = parity_file(shared_data, "parity_camera.npz")
  landmarks = jnp.asarray(parity_file(shared_data, "parity_flame.npz")["landmarks"])
  golden = {name: pack[f"{size[0]}x{size[1]}_K{K}_{name}"] for name in ("screen", "normalized", "ndc", "intrinsic")}
  camera = cam.from_vht_intrinsics(jnp.asarray(pack[f"K_{K}"]))
  screen = cam.project(camera, landmarks.reshape(-1, 3), size)
  assert np.abs(np.asarray(screen[:, :2]) - golden["screen"].reshape(-1, 3)[:, :2]).max() < 1e-4
  assert np.abs(np.asarray(cam.screen_to_unit(screen, size)) - golden["normalized"].reshape(-1, 2)).max() < 2e-6
  assert np.abs(np.asarray(cam.screen_to_ndc(screen, size)) - golden["ndc"].reshape(-1, 3)[:, :2]).max() < 2e-6
  ours = np.asarray(cam.intrinsics(camera, size))
  theirs = golden["intrinsic"].reshape(-1, 3, 3)[0]
  assert np.diag(ours) == pytest.approx(np.diag(theirs))
  assert ours[0, 2] == pytest.approx(theirs[0, 2])
  assert ours[1, 2] == pytest.approx(size[0] - theirs[1, 2])  # the original measures cy from the bottom


def test_conversions_invert_each_other():
  size = (48, 64)
  xy = jnp.asarray(np.random.default_rng(0).uniform(0, 64, (20, 2)), jnp.float32)
  assert np.asarray(cam.ndc_to_screen(cam.screen_to_ndc(xy, size), size)) == pytest.approx(np.asarray(xy), abs=1e-4)
  K = jnp.array([1.7, 0.45, 0.56])
  assert np.asarray(cam.to_vht_intrinsics(cam.from_vht_intrinsics(K))) == pytest.approx(np.asarray(K), abs=1e-6)


def test_points_behind_the_camera_stay_finite():
  points = jnp.array([[0.1, 0.1, 0.0], [0.1, 0.1, -1.0], [0.1, 0.1, 1.0]])
  screen = np.asarray(cam.project(cam.make_camera(1.5), points, (40, 40)))
  assert np.isfinite(screen).all()
  assert (screen[:2, 2] <= 0).all()
  assert screen[2, 0] < 20.0 and screen[2, 1] < 20.0  # world x is to the left, y is up
