"""Faces out of line with their neighbours: found, looked for again, given up; and a killed second pass."""

import dataclasses
import json

import numpy as np
import pytest
from test_landmarks import turned

from vht_jax import landmarks as lm
from vht_jax.dataset import annotate, resume
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.keypoints import write_keypoints
from vht_jax.dataset.second_look import look_again, out_of_line
from vht_jax.errors import InputError
from vht_jax.landmarks.detection import estimate_roll
from vht_jax.video.codec import write_video


def face(x=300.0, y=300.0, size=1.0, roll=0.0, disagreement=0.004):
  """A face with its centre at (x, y) px, roll in degrees clockwise."""
  points = turned(0).astype(np.float64)
  points[48:60] = [300, 420]  # the stand-in has no mouth of its own
  points = (points - points.mean(axis=0)) * size
  a = np.radians(roll)
  points = points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + [x, y]
  box = np.array([*points.min(axis=0), *points.max(axis=0), 0.9], np.float32)
  return lm.Detection(box, points.astype(np.float32), None, None, 0.9, disagreement)


SIZE = float(np.sqrt(((face().landmarks - face().landmarks.mean(axis=0)) ** 2).sum(axis=1).mean()))  # px


@pytest.mark.parametrize("roll", [0, 30, 90, 135, 180, -60])
def test_roll_is_measured_and_signed(roll):
  assert np.degrees(estimate_roll(face(roll=roll).landmarks)) % 360 == pytest.approx(roll % 360, abs=2)


CORRUPTIONS = {
  "shrunk": dict(size=0.65),
  "grown": dict(size=1.6),
  "upside down": dict(roll=180),
  "tilted": dict(roll=40),
  "elsewhere": dict(x=300 + 2.5 * SIZE),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("where", [0, 10, 19])
def test_a_face_out_of_line_is_seen_and_no_other(name, where):
  clip = [face(x=300 + 3 * np.sin(i), size=1 + 0.01 * i, roll=5 * np.sin(i / 3)) for i in range(20)]
  assert out_of_line(clip) == {}
  truth, clip[where] = clip[where], face(**CORRUPTIONS[name])
  found = out_of_line(clip)
  assert list(found) == [where]
  assert found[where].fits(truth) and not found[where].fits(clip[where])
  assert type(found[where]).restore(json.loads(json.dumps(found[where].state()))) == found[where]


def test_quick_motion_is_in_line():
  """A face that crosses the image, grows by half, spins, and one that shakes from frame to frame."""
  moving = [face(x=300 + 0.7 * SIZE * i, size=1.05**i, roll=12 * i) for i in range(20)]
  assert out_of_line(moving) == {}
  rng = np.random.default_rng(0)
  any_face = lambda: face(rng.normal(300, SIZE), size=np.exp(rng.normal(0, 0.3)), roll=rng.normal(0, 40))
  shaking = [any_face() for _ in range(40)]
  assert len(out_of_line(shaking)) <= 2  # photographs: no order, nothing to be out of


def test_shots_do_not_judge_each_other():
  clip = [face() for _ in range(10)] + [face(x=900, size=2) for _ in range(3)] + [face() for _ in range(10)]
  assert list(out_of_line(clip)) == [10, 11, 12] and out_of_line(clip, cuts=[10, 13]) == {}
  clip[4] = None
  assert out_of_line(clip, cuts=[10, 13]) == {}


class Looker:
  """`look` finds what it is told to, in the order of the calls."""

  def __init__(self, *found):
    self.found = list(found)

  def look(self, rgb, box):
    return self.found.pop(0)


def test_a_second_look_finds_again_keeps_or_gives_up():
  clip = [face() for _ in range(9)]
  clip[4] = face(size=0.65)
  expected = out_of_line(clip)[4]
  right = face(x=303)
  assert look_again(None, clip[4], expected, Looker(right)) is right
  # nothing fits: it must be seen once more, by a mesh that agrees with its mirror image
  assert look_again(None, clip[4], expected, Looker(None, face(size=0.66))) is clip[4]
  assert look_again(None, clip[4], expected, Looker(None, face(size=0.66, disagreement=0.014))) is None
  assert look_again(None, clip[4], expected, Looker(None, face(size=0.66, disagreement=None))) is None
  assert look_again(None, clip[4], expected, Looker(None, face(roll=180))) is None
  assert look_again(None, clip[4], expected, Looker(None, None)) is None
  far = face(x=2000)  # seen again, but another face: the person is not there
  assert look_again(None, far, expected, Looker(None)) is None


# --- the second pass over a dataset ---


class Follower:
  """The face is as many px to the right as the image is bright; frame 6 of 12 is wrong, and 9 hopeless."""

  name = "follower"

  def __init__(self):
    self.calls = 0

  def mark(self):
    return {"calls": self.calls}

  def resume(self, mark):
    self.calls = mark["calls"]

  def faces(self, rgb):
    return [np.array([0, 0, 10, 10, 0.9], np.float32)] * 2

  def cut(self):
    pass

  def detect(self, rgb):
    self.calls += 1
    where = float(rgb.mean())
    return face(where, size=0.6) if self.calls in (6, 9) else face(where)

  def look(self, rgb, box):
    where = float(rgb.mean())
    return None if 85 < where < 95 else face(where, disagreement=0.005)


@pytest.fixture
def dataset(tmp_path):
  from vht_jax.dataset.extract import extract_frames

  write_video(tmp_path / "clip.mp4", (np.full((64, 64, 3), 10 * i + 10, np.uint8) for i in range(12)), 25)
  extract_frames(tmp_path / "clip.mp4", tmp_path / "data")
  return FrameFolder(tmp_path / "data")


def files(dataset):
  return [dataset.keypoint_path(i).read_text() for i in range(len(dataset))]


def test_the_second_pass_mends_and_gives_up(dataset):
  assert not resume.is_annotated(dataset)
  assert annotate.annotate(dataset, Follower()) == 11
  assert resume.is_annotated(dataset)
  assert dataset.valid.tolist() == [i != 8 for i in range(12)]
  assert dataset.detections[5].disagreement == 0.005 and dataset.detections[4].disagreement == 0.004
  heights = [np.ptp(d.landmarks[:, 1]) for d in dataset.detections if d is not None]
  assert max(heights) - min(heights) < 0.01


class Kill(Exception):
  pass


@pytest.mark.parametrize("at", range(12, 19))
def test_a_killed_second_pass_ends_with_the_same_files(dataset, monkeypatch, at):
  """Killed before or after each file that it writes; then some are deleted."""
  annotate.annotate(dataset, Follower())
  before = files(dataset)
  for i in range(12):
    dataset.keypoint_path(i).unlink()
  (dataset.path / "landmarks.json").unlink()
  written = [0]

  def deadly(*args):
    if written[0] == at:
      raise Kill
    written[0] += 1

  for module in ("vht_jax.dataset.keypoints", "vht_jax.dataset.absent", "vht_jax.dataset.resume"):
    original = __import__(module, fromlist=["write_atomic"]).write_atomic
    monkeypatch.setattr(f"{module}.write_atomic", lambda *a, f=original: (deadly(), f(*a)))
  with pytest.raises(Kill):
    annotate.annotate(dataset, Follower())
  written[0] = -1000
  fresh = FrameFolder(dataset.path)
  assert not resume.is_annotated(fresh)
  annotate.annotate(fresh, Follower())
  assert files(fresh) == before and resume.is_annotated(fresh)
  for i in (5, 8, 11):
    fresh.keypoint_path(i).unlink()
  annotate.annotate(FrameFolder(dataset.path), Follower())
  assert files(dataset) == before


def test_a_detector_that_cannot_look_again_is_believed(dataset):
  class Plain(Follower):
    look = None  # it is no `LooksAgain`

  assert annotate.annotate(dataset, Plain()) == 12 and resume.is_annotated(dataset)


def test_frames_that_are_added_are_looked_at_too(dataset):
  part = FrameFolder(dataset.path, max_frames=7)
  assert annotate.annotate(part, Follower()) == 7 and resume.is_annotated(part) and not resume.is_annotated(dataset)
  assert annotate.annotate(FrameFolder(dataset.path), Follower()) == 11
  assert resume.is_annotated(part)


def test_a_dataset_of_others_is_left_as_it_is(dataset):
  """VHT's, or one from before there was a second look."""
  follower = Follower()
  for i in range(12):
    write_keypoints(dataset.keypoint_path(i), follower.detect(dataset.source_image(i)), "VHT")
  assert resume.is_annotated(dataset)
  assert annotate.annotate(dataset, Follower()) == 12


@pytest.mark.faults
@pytest.mark.parametrize("second", [{"frames": 12, "expected": {"3": {}}}, {"frames": 99}, {"frames": "x"}])
def test_a_damaged_second_look_is_one_line(dataset, second):
  annotate.annotate(dataset, Follower())
  path = dataset.path / "landmarks.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"second_look": second}))
  assert not resume.is_annotated(dataset)
  with pytest.raises(InputError, match=r"landmarks\.json: damaged"):
    annotate.annotate(dataset, Follower())


def test_a_number_beyond_the_faces_says_how_many_there_are(dataset):
  nobody = Follower()
  nobody.detect = lambda rgb: None
  third = FrameFolder(dataset.path, face=5)
  with pytest.raises(InputError, match=r"face 5 was asked for, but at most 2 faces are seen in one .*--face=0 or 1"):
    annotate.annotate(third, nobody)
  assert resume.is_annotated(third)
  with pytest.raises(InputError, match="face 5 was asked for"):  # and the next run does as well
    annotate.annotate(third, nobody)
  with pytest.raises(InputError, match="no face found in any of the 12 frames"):
    annotate.annotate(FrameFolder(dataset.path, face=1), nobody)


def test_expected_is_frozen_and_plain():
  expected = out_of_line([face() for _ in range(8)] + [face(size=2)])[8]
  assert dataclasses.is_dataclass(expected) and json.loads(json.dumps(expected.state()))
