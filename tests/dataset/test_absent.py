"""Frames without a face, as the readers of VHT and Neural Head Avatars see them."""

import json

import numpy as np
import pytest
from test_landmarks import FakeDetector

from vht_jax.dataset import annotate
from vht_jax.dataset.extract import extract_frames
from vht_jax.dataset.folder import FrameFolder
from vht_jax.video.codec import write_video


def read_as_vht(path):
  """What their loaders do, written from a description of them: (68, 3) points, (2, 3) irises of eye 36-41, 42-47."""
  with open(path) as file:
    info = json.load(file)
  face = np.array(info["people"][0]["face_keypoints_2d"]).astype(np.float32)[: 68 * 3].reshape(-1, 3)
  face[:, 2] = 1.0
  iris = np.array(info["people"][0]["iris_keypoints_2d"]).astype(np.float32).reshape(-1, 3)[[1, 0]]
  iris[:, 2] = 0.0 if (iris[:, :2] == -1).any() else 1.0
  return face, iris


@pytest.fixture
def dataset(tmp_path):
  write_video(tmp_path / "clip.mp4", (np.full((64, 64, 3), 20 * i, np.uint8) for i in range(7)), 25)
  extract_frames(tmp_path / "clip.mp4", tmp_path / "data")
  return FrameFolder(tmp_path / "data")


def test_vhts_readers_read_a_clip_that_starts_and_ends_without_a_face(dataset):
  """Frames 2 and 6 (0-based 1 and 5) show a face; beyond them it stays, between it moves evenly."""
  assert annotate.annotate(dataset, FakeDetector(empty=(1, 3, 4, 5, 7))) == 2
  read = [read_as_vht(dataset.keypoint_path(i)) for i in range(7)]
  first, last = read[1][0], read[5][0]
  assert not np.allclose(first, last)
  for i, share in enumerate((0, 0, 0.25, 0.5, 0.75, 1, 1)):
    face, iris = read[i]
    np.testing.assert_allclose(face, (1 - share) * first + share * last, atol=2e-3)
    assert face.shape == (68, 3) and iris.shape == (2, 3) and (iris[:, 2] == 0).all()
  # We know better, also after a fresh start.
  for clip in (dataset, FrameFolder(dataset.path)):
    assert clip.valid.tolist() == [False, True, False, False, False, True, False]
    assert (clip.landmarks()[1][[0, 2, 3, 4, 6]] == 0).all()


def test_placeholders_have_no_confidence_and_settle(dataset):
  annotate.annotate(dataset, FakeDetector(empty=(3,)))
  path = dataset.keypoint_path(2)
  before = path.read_text()
  person = json.loads(before)["people"][0]
  assert not np.array(person["face_keypoints_2d"]).reshape(68, 3)[:, 2].any() and person["bounding_box"][4] == 0
  assert annotate.annotate(dataset, FakeDetector()) == 6 and path.read_text() == before


def test_files_of_former_versions_and_of_others_are_read_and_left_alone(dataset):
  old = json.dumps({"origin": "old", "people": []})
  dataset.keypoint_path(4).write_text(old)
  assert annotate.annotate(dataset, FakeDetector(empty=(2,))) == 5
  assert dataset.keypoint_path(4).read_text() == old
  assert dataset.valid.tolist() == [True, False, True, True, False, True, True]
