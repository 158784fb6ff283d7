"""Several people, cuts, and a person who leaves: clips put together from the sample videos, searched by MediaPipe."""

import contextlib
import json
import shutil

import cv2
import numpy as np
import pytest

from vht_jax import landmarks as lm
from vht_jax.dataset import annotate, pieces, resume
from vht_jax.dataset.extract import extract_frames
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.pieces.helper import help_search
from vht_jax.video.codec import read_video, write_video

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SIDE = 360


def squared(frame):
  """The frame's middle as a square."""
  height, width = frame.shape[:2]
  side = min(height, width)
  y, x = (height - side) // 2, (width - side) // 2
  return cv2.resize(frame[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def people(shared_data, mediapipe_mesh):
  """60 frames of two people each."""
  found = {}
  for name in ("outdoor", "frontal_512"):
    path = shared_data / "videos" / f"{name}.mp4"
    if not path.is_file():
      pytest.skip(f"{path} not present")
    _, frames = read_video(path)
    found[name] = [squared(next(frames)) for _ in range(60)]
  return found["outdoor"], found["frontal_512"]


def detect(frames, tmp_path, name="clip", **options):
  """The dataset of these frames, searched; cuts are found as in the app."""
  write_video(tmp_path / f"{name}.mp4", frames, 25)
  extract_frames(tmp_path / f"{name}.mp4", tmp_path / name)
  dataset = FrameFolder(tmp_path / name)
  detector = lm.make_detector("mediapipe", **options)
  try:
    annotate.annotate(dataset, detector, cuts=dataset.find_cuts())
  finally:
    detector.close()
  return dataset


def centres(dataset):
  """(n, 2) px of each frame's face, NaN without one."""
  return np.array([[np.nan] * 2 if d is None else d.landmarks.mean(axis=0) for d in dataset.detections])


@pytest.fixture(scope="module")
def alone(people, tmp_path_factory):
  """What the detector finds of each person alone."""
  folder = tmp_path_factory.mktemp("alone")
  return [centres(detect(frames, folder, f"person{i}")) for i, frames in enumerate(people)]


def beside(a, b):
  return [np.concatenate(pair, axis=1) for pair in zip(a, b)]


@pytest.mark.parametrize("face", [0, 1])
def test_two_faces_each_is_followed_through_the_clip(people, alone, tmp_path, face):
  dataset = detect(beside(*people), tmp_path, face=face)
  found = centres(dataset) - [SIDE * face, 0]
  assert dataset.valid.all()
  assert np.abs(found - alone[face]).max() < 6
  detector = lm.make_detector("mediapipe")
  assert annotate.count_faces(dataset, detector, 4) == 2
  detector.close()


def test_the_other_person_is_not_taken_while_one_is_away(people, alone, tmp_path):
  """The person on the left is behind a wall for 20 frames and comes back on the right of the other."""
  a, b = people
  wall = np.full((SIDE, SIDE, 3), 100, np.uint8)
  frames = []
  for i in range(60):
    left = a[i] if i < 20 else wall
    right = a[i] if i >= 40 else wall
    frames.append(np.concatenate([left, b[i], right], axis=1))
  dataset = detect(frames, tmp_path, face=0)
  found = centres(dataset)
  assert dataset.valid[:20].all() and not dataset.valid[22:38].any() and dataset.valid[42:].all()
  assert np.abs(found[:20] - alone[0][:20]).max() < 6
  assert np.abs(found[42:] - [2 * SIDE, 0] - alone[0][42:]).max() < 6


def test_after_a_cut_the_same_person_is_found(people, alone, tmp_path):
  """The two change places at a cut: the person, not the place, is followed."""
  a, b = people
  frames = beside(a[:30], b[:30]) + beside(b[30:], a[30:])
  dataset = detect(frames, tmp_path, face=0)
  assert dataset.find_cuts() == [30]
  found = centres(dataset)
  assert dataset.valid.all()
  assert np.abs(found[:30] - alone[0][:30]).max() < 6
  assert np.abs(found[30:] - [SIDE, 0] - alone[0][30:]).max() < 6


def test_a_face_that_leaves_for_20_frames(people, alone, tmp_path):
  frames = [f.copy() for f in people[0]]
  for i in range(20, 40):
    frames[i][:] = 100
  dataset = detect(frames, tmp_path)
  seen = np.ones(60, bool)
  seen[20:40] = False
  np.testing.assert_array_equal(dataset.valid, seen)
  assert np.abs(centres(dataset) - alone[0])[seen].max() < 6


def test_a_killed_search_ends_with_the_same_files(people, tmp_path, monkeypatch):
  """With the real detector, whose graphs remember the frames before: bit by bit."""
  monkeypatch.setattr("vht_jax.dataset.resume.SEGMENT", 20)
  dataset = detect(people[1], tmp_path)
  before = [dataset.keypoint_path(i).read_bytes() for i in range(60)]
  for start in (47, 13):
    for i in range(start, 60):
      dataset.keypoint_path(i).unlink()
    detector = lm.make_detector("mediapipe")
    annotate.annotate(dataset, detector, cuts=dataset.find_cuts())
    detector.close()
    assert [dataset.keypoint_path(i).read_bytes() for i in range(60)] == before
  assert list(json.loads((dataset.path / "landmarks.json").read_text())["marks"]) == ["0", "20", "40"]


def test_marks_do_not_disturb_the_landmarks(people, tmp_path, monkeypatch):
  """At a mark the detector starts afresh on its crop: no jump beyond the landmarks' own jitter."""
  monkeypatch.setattr("vht_jax.dataset.resume.SEGMENT", 1000)
  plain = np.stack([d.landmarks for d in detect(people[1], tmp_path, "plain").detections])
  monkeypatch.setattr("vht_jax.dataset.resume.SEGMENT", 10)
  marked = np.stack([d.landmarks for d in detect(people[1], tmp_path, "marked").detections])
  eye = np.linalg.norm(plain[:, 45] - plain[:, 36], axis=-1).mean()
  difference = np.linalg.norm(marked - plain, axis=-1).mean(axis=1) / eye
  assert difference.max() < 0.012 and np.median(difference) < 0.002, difference


@pytest.mark.parametrize("people_seen", [1, 2])
def test_a_search_that_was_helped_ends_with_the_same_files(people, tmp_path, monkeypatch, people_seen):
  """With the real detector, in pieces that begin at a cut and at renewals, by helpers of whom one dies: bit by bit."""
  monkeypatch.setattr(resume, "SEGMENT", 10)
  monkeypatch.setattr(pieces, "RENEW", 20)
  monkeypatch.setattr(pieces, "LEAST", 5)
  a, b = people if people_seen == 2 else (people[0], [np.full((SIDE, SIDE, 3), 100, np.uint8)] * 60)
  frames = beside(a[:30], b[:30]) + beside(b[30:], a[30:])
  alone = detect(frames, tmp_path, "alone")
  before = [alone.keypoint_path(i).read_bytes() for i in range(60)]
  dataset = FrameFolder(shutil.copytree(tmp_path / "alone", tmp_path / "helped"))
  for path in (*dataset.path.rglob("keypoints*.json"), dataset.path / "landmarks.json"):
    path.unlink()
  cuts = dataset.find_cuts()

  class Kill(Exception):
    pass

  def helped(detector, after=99):
    def alive():
      if len(searched) == after:
        raise Kill

    pieces.Pieces(dataset, detector, cuts).announce()
    with contextlib.suppress(Kill):
      help_search(dataset, detector, alive)

  killed = lambda detector: helped(detector, 16)  # of 20 frames, of which 10 are marked
  for search in (killed, helped, lambda detector: annotate.annotate(dataset, detector, cuts=cuts)):
    detector = lm.make_detector("mediapipe")
    searched, plain = [], detector.detect
    monkeypatch.setattr(detector, "detect", lambda rgb: searched.append(0) or plain(rgb))
    search(detector)
    detector.close()
  assert [dataset.keypoint_path(i).read_bytes() for i in range(60)] == before
  assert (dataset.path / "landmarks.json").read_bytes() == (alone.path / "landmarks.json").read_bytes()
  assert len(searched) == 20 and cuts == [30], (len(searched), cuts)


def test_renewals_do_not_disturb_the_landmarks(people, tmp_path, monkeypatch):
  """A crop that is chosen anew: no jump beyond that of a crop that follows the face."""
  plain = np.stack([d.landmarks for d in detect(people[1], tmp_path, "plain").detections])
  monkeypatch.setattr(pieces, "RENEW", 10)
  renewed = np.stack([d.landmarks for d in detect(people[1], tmp_path, "renewed").detections])
  eye = np.linalg.norm(plain[:, 45] - plain[:, 36], axis=-1).mean()
  difference = np.linalg.norm(renewed - plain, axis=-1).mean(axis=1) / eye
  assert difference.max() < 0.012 and np.median(difference) < 0.005, difference
