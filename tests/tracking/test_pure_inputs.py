"""Constructors of what `track_fn` takes: what they fill in and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_head

import vht_jax as vht
from vht_jax.errors import InputError

POINTS = np.arange(4 * 70 * 2, dtype=np.float32).reshape(4, 70, 2)


def test_what_is_left_out_of_observations_is_filled_in():
  missing = POINTS.copy()
  missing[1] = np.nan
  found = vht.observations(missing)
  assert list(np.asarray(found.valid)) == [True, False, True, True]
  np.testing.assert_array_equal(found.confidence[1], 0.0)
  assert np.isfinite(found.landmarks).all()
  short = vht.observations(POINTS[:, :68], rgb=np.full((4, 6, 5, 3), 255, np.uint8))
  assert short.landmarks.shape == (4, 70, 2)
  np.testing.assert_array_equal(short.confidence, np.repeat([[1.0] * 68 + [0.0] * 2], 4, axis=0))
  np.testing.assert_array_equal(short.rgb, 1.0)
  assert jax.eval_shape(vht.observations, POINTS).landmarks.shape == (4, 70, 2)  # traced


@pytest.mark.parametrize(
  "what, message",
  [
    (dict(landmarks=POINTS[0]), r"landmarks of shape \(70, 2\)"),
    (dict(landmarks=POINTS, confidence=np.ones((4, 68))), "confidence of shape"),
    (dict(landmarks=POINTS, valid=np.ones(3, bool)), "valid of shape"),
    (dict(landmarks=POINTS, rgb=np.ones((4, 6, 5, 4), np.float32)), "rgb of shape"),
    (dict(landmarks=POINTS, rgb=np.ones((4, 6, 5, 3), np.int32)), "rgb of int32"),
    (dict(landmarks=POINTS, dense=np.ones((4, 468, 2))), "dense of shape"),
    (dict(landmarks=POINTS, alpha=np.ones((3, 6, 5))), "alpha of shape"),
  ],
)
def test_observations_of_other_shapes_are_refused(what, message):
  with pytest.raises(InputError, match=message):
    vht.observations(**what)


def test_observations_of_a_dataset(clip_folder, tmp_path):
  with pytest.raises(InputError, match="found no frame"):
    vht.observations_from(tmp_path)
  with pytest.raises(InputError, match="asked for 9999"):
    vht.observations_from(clip_folder / "dataset", [9999])
  with pytest.raises(InputError, match="no landmarks"):
    vht.observations_from(clip_folder / "dataset")


class Film:
  """Four frames, the last without a face."""

  size = (6, 5)

  def __len__(self):
    return 4

  def landmarks(self):
    confidence = np.ones((4, 70), np.float32)
    confidence[3] = 0.0
    dense = np.ones((4, 478, 2), np.float32)
    dense[3] = np.nan
    return POINTS, confidence, dense

  def images(self, indices):
    return np.stack([np.full((6, 5, 3), 51 * i, np.uint8) for i in indices])


def test_observations_of_some_frames_of_a_clip():
  found = vht.observations_from(Film(), [1, 3], images=True)
  np.testing.assert_array_equal(found.landmarks, POINTS[[1, 3]])
  assert list(np.asarray(found.valid)) == [True, False]
  np.testing.assert_allclose(found.rgb[:, 0, 0, 0], [0.2, 0.6], rtol=1e-6)
  assert np.isfinite(found.dense).all()
  with pytest.raises(InputError, match="no landmarks"):
    vht.observations_from(Film(), [3])


def test_a_known_person_to_start_from(open_head):
  head = tiny_head(open_head)
  found = vht.initial_result(head, 3, focal=1.8, shape=jnp.array([1.0, 2.0, 3.0]))
  assert found.poses.expr.shape == (3, 5) and found.status.shape == (3,)
  assert float(found.identity.camera.focal) == pytest.approx(1.8)
  with pytest.raises(InputError, match=r"shape of \(4,\)"):
    vht.initial_result(head, 3, focal=1.8, shape=np.zeros(4))
  with pytest.raises(InputError, match="poses"):
    vht.initial_result(head, 2, focal=1.8, poses=found.poses)
