"""The calibration against the original's numbers, on heads of known pose, and its failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import parity_file, parity_model

from vht_jax import rotation
from vht_jax.cameras import make_camera, project, to_vht_intrinsics
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.vht import calibrate as cal

SIZE = (240, 320)


@pytest.mark.parametrize("name", "ABC")
def test_calibration_equals_the_originals(shared_data, name):
  pack = parity_file(shared_data, "parity_calib.npz")
  model = parity_model(shared_data)
  width, height = pack[f"{name}_image_size_wh"]
  image = pack[f"{name}_image_pts"]
  ours = cal.calibrate(model, image, np.ones(image.shape[:2]), (height, width))
  assert np.abs(cal.neutral_landmarks(model) - pack[f"{name}_world_pts"][0]).max() < 1e-6
  assert ours.rms == pytest.approx(float(pack[f"{name}_cv_rms"]), rel=1e-4)
  assert np.asarray(to_vht_intrinsics(ours.camera)) == pytest.approx(pack[f"{name}_K"], rel=1e-3)
  assert np.abs(ours.rotation - pack[f"{name}_rotation"]).max() < 1e-3
  assert np.abs(ours.translation - pack[f"{name}_translation"]).max() < 1e-3


def test_start_equals_the_originals(shared_data):
  pack = parity_file(shared_data, "parity_calib.npz")
  golden = parity_file(shared_data, "parity_traj.npz")
  model = parity_model(shared_data)
  image = pack["C_image_pts"]
  identity, raw = cal.neutral_start(model, cal.calibrate(model, image, np.ones(image.shape[:2]), (128, 128)))
  keyframes = [0, 2]
  for name, ours in {
    "expr": raw.expr,
    "rotation": raw.rotation,
    "translation": raw.translation,
    "neck_pose": raw.neck,
    "jaw_pose": raw.jaw,
    "eyes_pose": raw.eyes.reshape(-1, 6),
  }.items():
    assert np.asarray(ours) == pytest.approx(golden[f"init_frame0_{name}"][keyframes], abs=1e-3), name
  for name in ("shape", "texture", "light"):
    assert np.asarray(getattr(identity, name)) == pytest.approx(golden[f"init_frame0_{name}"], abs=1e-6), name


@pytest.fixture(scope="module")
def views(open_head):
  """Landmarks of the neutral head in three poses, with the truth."""
  camera = make_camera(2.0)
  poses = []
  for angles, z in (((0.0, 0.0), 1.0), ((0.5, 0.1), 1.1), ((-0.4, -0.2), 0.9)):
    turn = rotation.axis_angle_to_matrix(jnp.array([angles[1], angles[0], 0.0]))
    frontal = rotation.axis_angle_to_matrix(jnp.array([0.0, jnp.pi, 0.0]))
    r = rotation.matrix_to_axis_angle(turn @ frontal)
    poses.append(flame.neutral_pose(open_head, jnp.array([0.02, -0.1, z])).replace(rotation=r))
  shape = jnp.zeros(open_head.shapedirs.shape[-1])
  posed = jax.jit(lambda pose: flame.landmarks(open_head, flame.skin(open_head, shape, pose)))
  landmarks = np.stack([np.asarray(project(camera, posed(pose), SIZE)[:, :2]) for pose in poses])
  return landmarks, np.ones(landmarks.shape[:2]), poses


def same_rotation(ours, theirs):
  difference = rotation.axis_angle_to_matrix(jnp.asarray(ours)) - rotation.axis_angle_to_matrix(jnp.asarray(theirs))
  return float(jnp.abs(difference).max())


@pytest.mark.parametrize("focal", [0.0, 2.0])
def test_known_poses_and_focal_length_come_back(open_head, views, focal):
  landmarks, confidence, poses = views
  confidence, landmarks = confidence.copy(), landmarks.copy()
  confidence[1, 68:], landmarks[1, 68:] = 0.0, np.nan  # missing irises do not take part
  ours = cal.calibrate(open_head, landmarks, confidence, SIZE, focal=focal)
  assert float(ours.camera.focal) == pytest.approx(2.0, rel=1e-3)
  assert ours.rms < 1e-2
  for k, pose in enumerate(poses):
    assert same_rotation(ours.rotation[k], pose.rotation) < 1e-3
    assert ours.translation[k] == pytest.approx(np.asarray(pose.translation), abs=1e-3)


@pytest.mark.faults
def test_too_few_landmarks_are_named(open_head, views):
  landmarks, confidence, _ = views
  few = confidence.copy()
  few[1, 5:] = 0.0
  with pytest.raises(InputError, match="keyframe number 1 has 5"):
    cal.calibrate(open_head, landmarks, few, SIZE)
  with pytest.raises(InputError, match="no frames"):
    cal.calibrate(open_head, landmarks[:0], confidence[:0], SIZE)


@pytest.mark.faults
def test_nonsense_is_an_input_error(open_head, views):
  landmarks, confidence, _ = views
  scattered = np.random.default_rng(0).uniform(0, 200, landmarks.shape)
  for nonsense in (np.full_like(landmarks, 12.0), scattered):
    with pytest.raises(InputError, match="camera calibration failed"):
      cal.calibrate(open_head, nonsense, confidence, SIZE)
