"""Detectors, the geometry of their points, and VHT's landmark files."""

import enum
import json
import socket
import subprocess
import sys
import threading
import types
import urllib.request

import numpy as np
import pytest

from vht_jax import landmarks as lm
from vht_jax.dataset import annotate
from vht_jax.dataset.extract import extract_frames
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.keypoints import read_keypoints, write_keypoints
from vht_jax.errors import InputError
from vht_jax.head.mesh_points import IBUG68, IRISES
from vht_jax.landmarks import mirror
from vht_jax.landmarks.crop import CropTracker
from vht_jax.landmarks.detection import AZIMUTH, USUALLY_APART, inside_polygon, point_belief
from vht_jax.landmarks.mirror import MIRROR, Seen, mirrored_mean, square_crop
from vht_jax.landmarks.person import ALIKE, Person, overlap, portrait
from vht_jax.video.codec import read_video, write_video

# Mirror image of each of the 68 points.
MIRROR68 = np.array(
  [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1)]
  + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
  + [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
)


def box(x, y, size, score=0.9):
  return np.array([x, y, x + size, y + size, score], np.float32)


def face3d():
  """A crude face, (68, 3) in eye distances; x right, y down, z towards the camera: depth by the azimuth table."""
  rng = np.random.default_rng(0)
  points = np.zeros((68, 3))
  points[:, 0] = np.sin(AZIMUTH)
  points[:, 2] = np.cos(AZIMUTH)
  points[:, 1] = rng.uniform(-1, 1, 68)
  points[36:42] = [
    [-4.45, 0, 3.2],
    [-3.7, -0.3, 3.7],
    [-2.7, -0.3, 3.9],
    [-1.9, 0, 3.8],
    [-2.7, 0.3, 3.8],
    [-3.7, 0.3, 3.6],
  ]
  points[42:48] = points[MIRROR68[42:48]] * [-1, 1, 1]
  points[27:31] = [[0, 0, 5.2], [0, 1.5, 6.3], [0, 2.9, 7.2], [0, 3.7, 7.6]]
  return points


def turned(yaw_degrees, scale=20.0):
  """The crude face turned so that its nose points to the image's right, (68, 2) px."""
  a = np.radians(yaw_degrees)
  points = face3d()
  x = np.cos(a) * points[:, 0] + np.sin(a) * points[:, 2]
  return (np.stack([x, points[:, 1]], axis=1) * scale + 300).astype(np.float32)


# --- geometry ---


def test_the_68_points_are_those_of_the_reference(shared_data):
  path = shared_data.parent / "reference" / "mp_to_68.json"
  if not path.is_file():
    pytest.skip(f"{path} not present")
  assert IBUG68.tolist() == json.loads(path.read_text())["ibug68"]


def test_mirror_tables_agree():
  np.testing.assert_allclose(AZIMUTH[MIRROR68], -AZIMUTH, atol=1e-9)
  np.testing.assert_array_equal(MIRROR[MIRROR], np.arange(478))
  np.testing.assert_array_equal(MIRROR[IBUG68], IBUG68[MIRROR68])
  np.testing.assert_array_equal(MIRROR[IRISES], IRISES[::-1])
  assert (MIRROR[[1, 4, 152, 168]] == [1, 4, 152, 168]).all()  # nose and chin


@pytest.mark.parametrize("yaw", [-40, -20, 0, 15, 45])
def test_yaw_is_measured_and_signed(yaw):
  assert np.degrees(lm.estimate_yaw(turned(yaw))) == pytest.approx(yaw, abs=1.0)


def test_far_side_of_the_jaw_loses_confidence():
  frontal = lm.landmark_confidence(turned(0), None)
  right = lm.landmark_confidence(turned(30), None)
  assert (frontal[:68] > 0.9).all()
  assert (right[13:17] <= 0.15).all() and (right[0:4] == 1).all() and (right[27:36] > 0.9).all()
  left = lm.landmark_confidence(turned(-30), None)
  np.testing.assert_allclose(left[:68][MIRROR68], right[:68], atol=1e-5)


def test_irises_without_a_place_or_behind_lids_have_no_confidence():
  points = turned(0)
  iris = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0)])
  assert (lm.landmark_confidence(points, iris)[68:] == 1).all()
  one = iris.copy()
  one[0] = np.nan
  assert lm.landmark_confidence(points, one)[68:].tolist() == [0, 1]
  shut = points.copy()
  shut[36:48, 1] = 300
  assert (lm.landmark_confidence(shut, iris)[68:] == 0).all()
  assert (lm.landmark_confidence(points, None)[68:] == 0).all()


def test_point_in_polygon():
  hexagon = np.array([[0, 0], [2, -1], [4, -1], [6, 0], [4, 1], [2, 1]], float)
  assert inside_polygon(np.array([3, 0.2]), hexagon) and inside_polygon(np.array([0.5, 0.1]), hexagon)
  for outside in ([-0.1, 0], [6.1, 0], [3, 1.01], [3, -1.01], [0.5, 0.6]):
    assert not inside_polygon(np.array(outside, float), hexagon)


def test_iris_outside_its_eye_is_dropped():
  points = turned(0)
  centres = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0)])
  np.testing.assert_allclose(lm.plausible_iris(points, centres), centres)
  swapped = lm.plausible_iris(points, centres[::-1])
  assert swapped is None
  one = lm.plausible_iris(points, np.stack([centres[0], centres[1] + 100]))
  assert np.isfinite(one[0]).all() and np.isnan(one[1]).all()


# --- VHT's file ---


def test_file_round_trip_and_vhts_layout(tmp_path):
  rng = np.random.default_rng(1)
  face, dense = rng.uniform(0, 500, (68, 2)).astype(np.float32), rng.uniform(0, 500, (478, 2)).astype(np.float32)
  iris = np.array([[100.5, 200.25], [300.125, 201]], np.float32)
  path = tmp_path / "keypoints_static_0000.json"
  write_keypoints(path, lm.Detection(box(1, 2, 3), face, iris, dense, 0.9), "test")
  person = json.loads(path.read_text())["people"][0]
  assert len(person["face_keypoints_2d"]) == 204 and len(person["bounding_box"]) == 5
  assert person["iris_keypoints_2d"] == [300.125, 201, 1, 100.5, 200.25, 1]  # eye 42-47 first
  read = read_keypoints(path)
  np.testing.assert_allclose(read.landmarks, face, atol=1e-3)
  np.testing.assert_allclose(read.dense, dense, atol=1e-3)
  np.testing.assert_array_equal(read.iris, iris)
  assert read.score == pytest.approx(0.9, abs=1e-3) and read.disagreement is None

  write_keypoints(path, lm.Detection(box(1, 2, 3), face, disagreement=0.00512), "test")
  assert json.loads(path.read_text())["people"][0]["disagreement"] == 0.00512
  assert read_keypoints(path).disagreement == 0.00512 and read.apart is None

  apart = rng.uniform(0, 0.1, 478).astype(np.float32)
  write_keypoints(path, lm.Detection(box(1, 2, 3), face, iris, dense, 0.9, 0.005, apart), "test")
  np.testing.assert_allclose(read_keypoints(path).apart, apart, atol=1e-4)

  iris[0] = np.nan
  write_keypoints(path, lm.Detection(box(1, 2, 3), face, iris), "test")
  assert json.loads(path.read_text())["people"][0]["iris_keypoints_2d"] == [300.125, 201, 1, -1, -1, -1]
  assert np.isnan(read_keypoints(path).iris[0]).all() and read_keypoints(path).dense is None
  write_keypoints(path, None, "test")
  assert json.loads(path.read_text())["no_face"] is True and read_keypoints(path) is None
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


# --- choosing and following ---


def head(x, y, size, skin):
  """68 points that fill a square, and a painter of a face of that skin colour around them."""
  points = (turned(0) - turned(0).min(axis=0)) / np.ptp(turned(0), axis=0) * size + [x, y]

  def paint(image):
    image[y : y + size, x : x + size] = skin
    image[y + size // 4 : y + size // 3, x + size // 4 : x + 3 * size // 4] = np.array(skin) // 3  # eyes

  return points.astype(np.float32), paint


PALE, BLUE = (230, 190, 170), (30, 80, 220)


def test_the_person_at_the_start():
  small, large, right = box(200, 0, 50), box(300, 0, 100), box(500, 0, 60)
  boxes, image = [large, small, right], np.zeros((10, 10, 3), np.uint8)
  assert Person().choose([], image, None) is None
  assert Person().choose(boxes, image, None) is large
  assert [Person(i).choose(boxes, image, None) for i in range(4)] == [small, large, right, None]


def test_the_person_is_followed_by_overlap_and_found_again_by_likeness():
  image = np.full((200, 700, 3), 90, np.uint8)
  (pale, paint_pale), (blue, paint_blue) = head(20, 20, 100, PALE), head(400, 40, 120, BLUE)
  paint_pale(image), paint_blue(image)
  here, there = box(20, 20, 100), box(400, 40, 120)
  points = {20: pale, 400: blue}
  locate = lambda found: points[int(found[0])]
  person = Person()
  person.saw(here, image, pale)
  assert person.choose([there, here], image, locate) is here  # though the other one is larger
  person.missed()
  assert person.choose([there], image, locate) is None  # somebody else
  person.lost = 1000
  assert person.choose([there], image, locate) is there  # after seconds what is somewhat alike will do
  person.cut, person.lost = True, 0
  assert person.choose([there, here], image, locate) is here  # a new shot with the same person
  assert person.choose([there], image, locate) is None  # and one of somebody else
  moved, paint = head(550, 60, 80, PALE)
  paint(image)
  points[550] = moved
  person.cut = False
  assert person.choose([there, box(550, 60, 80)], image, locate)[0] == 550  # back in another place


def test_the_latest_portraits_are_kept_and_the_first_ones():
  person, size = Person(), 16
  for value in range(0, 50 * 20, 50):  # 5 apart
    seen = np.full((size, size, 3), value, np.int16)
    person.saw_portrait(seen)
  assert [int(p[0, 0, 0]) for p in person.portraits] == [0, 50, 100, 150, 800, 850, 900, 950]
  person.saw_portrait(np.full((size, size, 3), 5000, np.int16))  # somebody else
  assert len(person.portraits) == 8 and person.portraits[-1][0, 0, 0] == 950


def test_a_portrait_does_not_depend_on_place_size_or_brightness():
  image = np.full((300, 700, 3), 90, np.uint8)
  a, paint_a = head(20, 20, 80, PALE)
  b, paint_b = head(300, 50, 200, PALE)
  paint_a(image), paint_b(image)
  difference = lambda p, q: np.abs(p - q).mean() / 10
  same = portrait(image, a)
  assert difference(same, portrait(image, b)) < ALIKE / 2
  darker = (image * 0.85).astype(np.uint8)
  assert difference(same, portrait(darker, a)) < ALIKE / 2
  c, paint_c = head(20, 20, 80, BLUE)
  paint_c(image)
  assert difference(same, portrait(image, c)) > ALIKE
  portrait(image, c + 5000), portrait(image, c * 0)  # outside the image, or a point: no crash


def test_a_persons_state_is_json():
  image = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
  person, other = Person(), Person()
  person.saw(box(3.1, 4.7, 50.3), image, head(20, 20, 100, PALE)[0])
  person.missed()
  other.restore(json.loads(json.dumps(person.state())))
  assert other.state() == person.state() and other.lost == 1
  np.testing.assert_array_equal(other.last, person.last)


def test_overlap_is_intersection_over_union():
  assert overlap(box(0, 0, 10), box(0, 0, 10)) == pytest.approx(1)
  assert overlap(box(0, 0, 10), box(5, 0, 10)) == pytest.approx(50 / 150)
  assert overlap(box(0, 0, 10), box(20, 0, 10)) == 0


def test_crop_is_padded_and_reduced():
  image = np.random.default_rng(0).integers(1, 256, (60, 80, 3)).astype(np.uint8)
  crop = square_crop(image, (-10, 20), 50)
  assert crop.shape == (50, 50, 3) and (crop[:, :10] == 0).all() and (crop[40:] == 0).all()
  np.testing.assert_array_equal(crop[:40, 10:], image[20:60, :40])
  assert square_crop(image, (100, 100), 40).max() == 0
  assert square_crop(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 1500).shape == (512, 512, 3)


def test_tracker_keeps_its_crop_until_the_face_leaves_it():
  """A stand-in model that sees where a bright square is."""
  calls = []

  def locate(image):
    y, x = np.nonzero(image[..., 0] > 128)
    return None if len(x) == 0 else np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)

  def find(rgb):
    calls.append("find")
    where = locate(rgb)
    return [] if where is None else [np.append(where, np.float32(0.8))]

  def mesh(crop, fresh):
    calls.append("fresh" if fresh else "follow")
    where = locate(crop)
    if where is None:
      return None
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 20)), axis=-1).reshape(-1, 2)[:478]
    grid[-1] = 1.0
    grid[IBUG68] = (turned(0) - turned(0).min(axis=0)) / np.ptp(turned(0), axis=0)
    return Seen((where[:2] + grid * (where[2:] - where[:2])) / len(crop), 0.0)

  tracker = CropTracker(find, mesh)
  for step in range(40):
    image = np.zeros((400, 900, 3), np.uint8)
    x = 50 + 10 * step
    image[100:200, x : x + 100] = 255
    detection = tracker.detect(image)
    np.testing.assert_allclose(detection.bounding_box, [x, 100, x + 100, 200, 0.8], atol=1.5)
  # in all four orientations in the first frame, and once more in the one that was best
  assert calls.count("find") == 1 and 6 <= calls.count("fresh") <= 12, calls
  assert calls.count("fresh") + calls.count("follow") == 40 + 4  # and no frame is looked at twice after that
  assert tracker.detect(np.zeros((400, 900, 3), np.uint8)) is None
  assert calls.count("find") == 5  # a face that is not there is looked for in every orientation
  assert tracker.detect(image) is not None and calls.count("find") == 6
  with pytest.raises(InputError, match="uint8"):
    tracker.detect(np.zeros((4, 4, 3)))


def painted(image, colour):
  """(H, W) bool: which pixels have that colour; channel by channel ten times faster than along the last axis."""
  return (image[..., 0] == colour[0]) & (image[..., 1] == colour[1]) & (image[..., 2] == colour[2])


class Crossing:
  """Finder and mesh of squares with eyes. The mesh stays with what it followed until another square covers it."""

  COLOURS = (PALE, BLUE)

  def __init__(self):
    self.grid = np.stack(np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 20)), axis=-1).reshape(-1, 2)[:478]
    self.grid[-1] = 1.0
    self.grid[IBUG68] = (turned(0) - turned(0).min(axis=0)) / np.ptp(turned(0), axis=0)
    self.last = None

  def visible(self, image):
    """Boxes of the squares of which at least half is to be seen."""
    found = []
    for colour in self.COLOURS:
      y, x = np.nonzero(painted(image, colour) | painted(image, np.array(colour) // 3))
      if len(x) and len(x) > 0.5 * (y.max() - y.min() + 1) ** 2 and x.max() - x.min() > 0.8 * (y.max() - y.min()):
        found.append(np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32))
    return found

  def find(self, rgb):
    return [np.append(where, np.float32(0.8)) for where in self.visible(rgb)]

  def mesh(self, crop, fresh):
    boxes = self.visible(crop)
    middle = np.full(2, len(crop) / 2) if fresh or self.last is None else self.last
    if not boxes:
      return None
    where = min(boxes, key=lambda b: np.abs((b[:2] + b[2:]) / 2 - middle).max())
    self.last = (where[:2] + where[2:]) / 2
    return Seen((where[:2] + self.grid * (where[2:] - where[:2])) / len(crop), 0.0)


def crossing(k):
  """A pale face that stands still, and a blue one, a little smaller, that walks by before it."""
  image = np.full((300, 700, 3), 90, np.uint8)
  head(300, 80, 120, PALE)[1](image), head(20 + 16 * k, 100, 110, BLUE)[1](image)
  return image


def test_the_person_is_kept_when_another_one_crosses_before_them():
  people = Crossing()
  tracker = CropTracker(people.find, people.mesh)
  found = [tracker.detect(crossing(k)) for k in range(34)]
  hidden = np.array([d is None for d in found])
  assert 3 < hidden.sum() < 16 and not hidden[:10].any() and not hidden[-8:].any()
  np.testing.assert_allclose([d.bounding_box[0] for d in found if d is not None], 300, atol=12)  # never the blue one
  marked = CropTracker(people.find, people.mesh)
  k = int(np.flatnonzero(hidden)[2])
  for i in range(k):
    marked.detect(crossing(i))
  again = CropTracker(people.find, people.mesh)
  again.resume(json.loads(json.dumps(marked.mark())))
  rest = [again.detect(crossing(i)) for i in range(k, 34)]
  assert [d is None for d in rest] == hidden[k:].tolist()  # a killed search remembers whom it waits for


def test_what_is_expected_is_cut_out_beside_and_changes_nothing(monkeypatch):
  """A face that walks, so that crops move too; an image that does not come, and one that nobody announced."""
  main, cut = threading.current_thread(), []
  make = mirror.square_crop
  monkeypatch.setattr(mirror, "square_crop", lambda *a: cut.append(threading.current_thread() is main) or make(*a))
  people, images = Crossing(), [np.full((300, 700, 3), 90, np.uint8) for _ in range(20)]
  for k, image in enumerate(images):
    head(60 + 15 * k, 80, 120, PALE)[1](image)
  plain, told = (CropTracker(people.find, people.mesh) for _ in range(2))
  wanted = [plain.detect(image) for image in images]
  assert all(cut)
  cut.clear()
  for k, image in enumerate(images):
    if k + 1 < len(images) and k != 7:
      told.expect(images[k + 1] if k != 3 else images[0])
    found = told.detect(image)
    np.testing.assert_array_equal(found.landmarks, wanted[k].landmarks)
  assert 0 < sum(cut) < len(cut) / 2  # the first, and where the crop has moved


def test_who_is_found_where_the_person_was_lost_is_not_taken_either():
  people = Crossing()
  tracker = CropTracker(people.find, people.mesh)
  blank, image, other = (np.full((300, 700, 3), 90, np.uint8) for _ in range(3))
  head(300, 80, 120, PALE)[1](image), head(370, 80, 120, BLUE)[1](other)  # half a face farther
  assert tracker.detect(image) is not None and tracker.detect(blank) is None
  assert all(tracker.detect(other) is None for _ in range(40)) and tracker._person.last[0] == pytest.approx(300, abs=12)
  assert tracker.detect(image).bounding_box[0] == pytest.approx(300, abs=12)


def test_a_person_in_another_light_is_believed_after_a_second():
  image = np.full((300, 700, 3), 90, np.uint8)
  points, paint = head(100, 50, 120, PALE)
  paint(image)
  person = Person()
  person.saw(box(100, 50, 120), image, points)
  other = np.full((300, 700, 3), 90, np.uint8)
  head(100, 50, 120, BLUE)[1](other)
  locate = lambda _: points
  lost = 0
  while person.choose([box(100, 50, 120)], other, locate) is None or person.doubts(other, points, followed=False):
    person.missed()
    lost += 1
  assert 20 <= lost <= 30
  person.saw(box(100, 50, 120), other, points)
  assert not person.wary
  moved = points + [200, 0]
  hopped = Person()
  hopped.saw(box(100, 50, 120), image, points)
  far = np.full((300, 700, 3), 90, np.uint8)
  head(300, 50, 120, BLUE)[1](far)
  assert hopped.doubts(far, moved, followed=True) and hopped.patience > 50  # somebody else, and not another light


def test_mirrored_mean_averages_and_guards():
  points = np.random.default_rng(0).uniform(0.3, 0.7, (478, 2))
  seen = []

  def model(error, name):
    def mesh(crop, fresh):
      seen.append((name, crop[0, 0, 0], fresh))
      if crop[0, 0, 0]:  # the image as it is has a bright left side
        return points + error
      return points[MIRROR] * [-1, 1] + [1, 0] + error

    return mesh

  crop = np.zeros((8, 8, 3), np.uint8)
  crop[:, :4] = 255
  mean = mirrored_mean(model(0.002, "a"), model(0.002, "b"))(crop, True)
  np.testing.assert_allclose(mean.points, points + [0, 0.002], atol=1e-9)  # the horizontal error cancels
  size = np.ptp(points, axis=0).max()
  assert mean.disagreement == pytest.approx(0.002 / size)  # 0.004 across, 0 down: the mean of both over the size
  assert sorted(seen) == [("a", 255, True), ("b", 0, True)]  # side by side, in any order
  far = mirrored_mean(model(0.0, "a"), model(0.3, "b"))(crop, False)
  np.testing.assert_allclose(far.points, points)
  assert far.disagreement == pytest.approx(0.3 / size)
  assert mirrored_mean(lambda *_: None, model(0.0, "b"))(crop, False) is None
  one = mirrored_mean(model(0.0, "a"), lambda *_: None)(crop, False)
  np.testing.assert_allclose(one.points, points)
  assert one.disagreement == np.inf and one.apart is None  # so that nobody believes it


def test_the_two_meshes_say_where_they_are_apart():
  points = np.random.default_rng(0).uniform(0.3, 0.7, (478, 2))

  def mesh(error):
    return lambda crop, _: (points if crop[0, 0, 0] else points[MIRROR] * [-1, 1] + [1, 0]) + error

  crop = np.zeros((8, 8, 3), np.uint8)
  crop[:, :4] = 255
  one = np.zeros((478, 2))
  one[33] = [0.0, 0.03]
  seen = mirrored_mean(mesh(one), mesh(np.array([0.0, 0.01])))(crop, True)  # all are shifted: that is none of them
  size = np.ptp(points + one, axis=0).max()
  assert seen.apart[33] == pytest.approx(0.015 / size, rel=1e-6)
  np.testing.assert_allclose(np.delete(seen.apart, 33), 0, atol=1e-12)


def test_points_lose_belief_with_their_neighbours_disagreement():
  grid = np.stack(np.meshgrid(np.linspace(0, 100, 21), np.linspace(0, 100, 21)), -1).reshape(-1, 2)
  even = lambda apart: point_belief(grid, np.full(len(grid), apart))
  np.testing.assert_array_equal(even(0.5 * USUALLY_APART), 1.0)
  np.testing.assert_allclose(even(3 * USUALLY_APART), 1 / 9, rtol=1e-5)
  apart = np.where((np.abs(grid - 20) < 11).all(1), 4 * USUALLY_APART, 0.2 * USUALLY_APART)
  belief = point_belief(grid, apart)
  at = lambda x, y: belief[np.abs(grid - [x, y]).sum(1).argmin()]
  assert 1 / 16 < at(20, 20) < 1 / 10 and at(20, 20) < at(20, 30) < 1
  np.testing.assert_array_equal(belief[(grid > 60).any(1)], 1.0)
  np.testing.assert_allclose(point_belief(7 * grid, apart), belief, rtol=1e-4)  # whatever the face's size


def test_a_folder_says_how_far_points_are_believed(tmp_path):
  write_video(tmp_path / "clip.mp4", (np.full((64, 64, 3), 20 * i, np.uint8) for i in range(3)), 25)
  extract_frames(tmp_path / "clip.mp4", tmp_path / "data")
  rng = np.random.default_rng(0)
  dense = rng.uniform(10, 50, (478, 2)).astype(np.float32)
  apart = rng.uniform(0, 0.03, 478).astype(np.float32)
  face = dense[IBUG68]
  write = lambda i, *of: write_keypoints(tmp_path / f"data/frame_{i:04d}/keypoints_static_0000.json", *of)
  for i in (1, 2, 3):
    write(i, lm.Detection(box(10, 10, 40), face, None, dense, 0.9, 0.005), "test")
  folder = FrameFolder(tmp_path / "data")
  assert folder.beliefs() is None
  write(2, lm.Detection(box(10, 10, 40), face, None, dense, 0.9, 0.005, apart), "test")
  write(3, lm.Detection(box(10, 10, 40), face + 3, None, dense, 0.9, 0.005, apart), "test")  # another detector's points
  folder.reload_keypoints()
  landmarks, mesh = folder.beliefs()
  np.testing.assert_allclose(mesh[1], point_belief(dense, apart), rtol=0.05)  # rounded in the file
  assert (mesh[0] == 1).all() and (landmarks[0] == 1).all() and mesh[1].min() < 0.2
  np.testing.assert_array_equal(landmarks[1:, 68:], mesh[1:, IRISES])
  np.testing.assert_array_equal(landmarks[1, :68], mesh[1, IBUG68])
  assert (landmarks[2, :68] == 1).all()


# --- MediaPipe on real faces ---


@pytest.fixture(scope="module")
def faces(shared_data, mediapipe_mesh):
  """Three frames of each sample video."""
  folder, found = shared_data / "videos", {}
  for name in ("duda_1080p", "frontal_512", "webcam_400x300"):
    path = folder / f"{name}.mp4"
    if not path.is_file():
      pytest.skip(f"{path} not present")
    _, frames = read_video(path)
    found[name] = [next(frames) for _ in range(3)]
  return found


@pytest.fixture
def detector():
  detector = lm.make_detector("mediapipe")
  yield detector
  detector.close()


def check_face(detection, size):
  points = detection.landmarks
  assert points.shape == (68, 2) and detection.dense.shape == (478, 2) and points.dtype == np.float32
  eye_distance = np.hypot(*(points[45] - points[36]))
  assert eye_distance > 15
  # order and sides: the eye 36-41 is on the image's left, brows above eyes above nose above mouth above chin
  assert points[36, 0] < points[39, 0] < points[42, 0] < points[45, 0]
  assert points[0, 0] < points[8, 0] < points[16, 0] and points[48, 0] < points[54, 0]
  heights = [points[a:b, 1].mean() for a, b in ((17, 27), (36, 48), (31, 36), (48, 60))] + [points[8, 1]]
  assert np.all(np.diff(heights) > 0)
  for row, eye in enumerate((slice(36, 42), slice(42, 48))):
    assert np.hypot(*(detection.iris[row] - points[eye].mean(axis=0))) < 0.1 * eye_distance
  assert (detection.bounding_box[:2] >= -5).all() and detection.bounding_box[2] < size[1] + 5
  assert 0.5 <= detection.score <= 1


@pytest.mark.parametrize("name", ["duda_1080p", "frontal_512", "webcam_400x300"])
def test_mediapipe_finds_faces_of_all_sizes(faces, name, capfd):
  detector = lm.make_detector("mediapipe")
  for frame in faces[name]:
    check_face(detector.detect(frame), frame.shape)
  detector.close()
  assert capfd.readouterr().err == "", "MediaPipe's chatter must not reach the user"


def test_points_do_not_depend_on_where_the_face_is(faces, detector):
  frame = faces["frontal_512"][0]
  moved = np.full((700, 900, 3), 90, np.uint8)
  moved[120:632, 300:812] = frame
  here, there = detector.detect(frame), lm.make_detector("mediapipe").detect(moved)
  eye_distance = np.hypot(*(here.landmarks[45] - here.landmarks[36]))
  error = np.abs(there.landmarks - [300, 120] - here.landmarks).mean()
  assert error < 0.02 * eye_distance


def test_a_small_face_in_a_large_picture_is_found_if_there_is_no_larger_one(faces, tmp_path):
  import cv2

  frame = faces["frontal_512"][0]
  large = lm.make_detector("mediapipe")
  width = np.ptp(large.detect(frame).bounding_box[[0, 2]])
  small = cv2.resize(frame, None, fx=40 / width, fy=40 / width, interpolation=cv2.INTER_AREA)
  noise = np.random.default_rng(0).integers(80, 110, (1440, 2560, 3)).astype(np.uint8)
  noise[700 : 700 + len(small), 1900 : 1900 + small.shape[1]] = small

  def dataset(name, pictures):
    (tmp_path / name).mkdir()
    for i, picture in enumerate(pictures):
      cv2.imwrite(str(tmp_path / name / f"{i}.png"), picture[..., ::-1])
    extract_frames(tmp_path / name, tmp_path / f"{name}_data")
    return FrameFolder(tmp_path / f"{name}_data")

  found = dataset("alone", [noise, noise])
  detector = lm.make_detector("mediapipe")
  assert annotate.count_faces(found, detector) == 1 and detector.closer
  assert annotate.annotate(found, detector) == 2
  scale = 40 / width
  expected = large.detect(frame).landmarks * scale + [1900, 700]
  error = np.hypot(*(found.detections[0].landmarks - expected).T).mean()
  assert error < 0.03 * np.hypot(*(expected[45] - expected[36]))
  noise[100 : 100 + len(frame), 100 : 100 + frame.shape[1]] = frame  # a person, and a picture on the wall
  annotate.look_closer(dataset("beside", [noise]), detector)
  assert not detector.closer
  for used in (large, detector):
    used.close()


def test_a_mirrored_image_gives_mirrored_points(faces, detector):
  frame = faces["frontal_512"][0]
  here = detector.detect(frame)
  there = lm.make_detector("mediapipe").detect(np.ascontiguousarray(frame[:, ::-1]))
  mirrored = there.dense[MIRROR] * [-1, 1] + [frame.shape[1], 0]
  eye_distance = np.hypot(*(here.landmarks[45] - here.landmarks[36]))
  # not exactly: the two crops differ; a single pass differs by about 0.015
  assert np.hypot(*(mirrored - here.dense).T).mean() < 0.01 * eye_distance


def test_no_face_and_recovery(faces, detector):
  frame = faces["frontal_512"][0]
  noise = np.random.default_rng(0).integers(0, 256, frame.shape).astype(np.uint8)
  assert detector.detect(np.zeros_like(frame)) is None and detector.detect(noise) is None
  first = detector.detect(frame)
  assert detector.detect(np.zeros_like(frame)) is None
  np.testing.assert_allclose(detector.detect(frame).landmarks, first.landmarks, atol=2)


def test_of_two_faces_the_larger_and_then_the_same(faces, detector):
  import cv2

  large = faces["frontal_512"][0]
  small = cv2.resize(faces["frontal_512"][1], (256, 256), interpolation=cv2.INTER_AREA)
  canvas = np.full((512, 1024, 3), 60, np.uint8)
  canvas[:, :512] = large
  canvas[128:384, 640:896] = small
  assert detector.detect(canvas).landmarks[30, 0] < 512
  # the person on the left steps back and the other one comes nearer: still the same person
  canvas[:, :] = 60
  canvas[128:384, 128:384] = small
  canvas[:, 512:] = large
  assert detector.detect(canvas).landmarks[30, 0] < 512


def test_a_face_that_fills_the_image(faces, detector):
  import cv2

  found = detector.detect(faces["frontal_512"][0])
  x0, y0, x1, y1 = found.bounding_box[:4].astype(int)
  close = cv2.resize(faces["frontal_512"][0][y0:y1, x0:x1], (640, 720), interpolation=cv2.INTER_CUBIC)
  assert lm.make_detector("mediapipe").detect(close) is not None


@pytest.mark.faults
@pytest.mark.parametrize(
  ("fault", "hint"), [("missing", "pip install"), ("library", "apt install"), ("too_new", "no mp.solutions")]
)
def test_unusable_mediapipe_is_one_line(monkeypatch, fault, hint):
  if fault == "missing":
    monkeypatch.setitem(sys.modules, "mediapipe", None)
  elif fault == "library":

    class Broken:
      def find_spec(self, name, path=None, target=None):
        if name == "mediapipe":
          raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    for name in [m for m in sys.modules if m.split(".")[0] == "mediapipe"]:
      monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
  else:
    monkeypatch.setitem(sys.modules, "mediapipe", types.SimpleNamespace(__version__="1.2.2"))
  with pytest.raises(InputError, match=hint) as error:
    lm.make_detector("mediapipe")
  assert "\n" not in str(error.value)


@pytest.mark.faults
def test_make_detector_explains_itself(monkeypatch, tmp_path):
  with pytest.raises(InputError, match=r"magic.*mediapipe"):
    lm.make_detector("magic")
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("VHT_FACE_LANDMARKER", raising=False)
  with pytest.raises(InputError, match=r"face_landmarker\.task"):
    lm.make_detector("tasks")
  (tmp_path / "bad.task").write_text("no model")
  with pytest.raises(InputError, match=r"bad\.task") as error:
    lm.make_detector("tasks", face_landmarker=tmp_path / "bad.task")
  assert "\n" not in str(error.value)
  monkeypatch.setitem(sys.modules, "mediapipe", None)
  monkeypatch.setitem(sys.modules, "face_alignment", None)
  with pytest.raises(InputError, match=r"mediapipe: .*tasks: .*face_alignment: "):
    lm.make_detector("auto")


# --- face-alignment, as a stand-in ---


def fake_face_alignment(boxes, log, names=("THREE_D",), with_compile=True, error=None):
  """A module with the interface of face-alignment 1.5 (or of its predecessors)."""

  class FaceAlignment:
    def __init__(self, kind, flip_input=False, device="cuda", **options):
      if error is not None:
        raise error
      log.update(kind=kind, flip_input=flip_input, device=device, **options)
      self.face_detector = types.SimpleNamespace(detect_from_image=lambda image: [list(b) for b in boxes])

    def get_landmarks_from_image(self, image, detected_faces=None):
      x0, y0, x1, y1 = detected_faces[0][:4]
      flat = (turned(0) - turned(0).min(axis=0)) / np.ptp(turned(0), axis=0)
      return [np.column_stack([flat * [x1 - x0, y1 - y0] + [x0, y0], np.zeros(68)])]

  if with_compile:

    class FaceAlignment(FaceAlignment):
      def __init__(self, kind, flip_input=False, device="cuda", compile=True, **options):
        super().__init__(kind, flip_input, device, compile=compile, **options)

  kinds = enum.Enum("LandmarksType", {n: i for i, n in enumerate(names)})
  return types.SimpleNamespace(LandmarksType=kinds, FaceAlignment=FaceAlignment)


@pytest.mark.parametrize("current", [True, False])
def test_face_alignment_adapter(monkeypatch, current):
  log = {}
  module = fake_face_alignment(
    [box(10, 10, 40), box(200, 20, 100)], log, ("THREE_D",) if current else ("_3D",), with_compile=current
  )
  monkeypatch.setitem(sys.modules, "face_alignment", module)
  monkeypatch.setitem(sys.modules, "mediapipe", None)
  detector = lm.make_detector("face-alignment", device="cpu")
  assert log["kind"].name == ("THREE_D" if current else "_3D") and log["flip_input"] and log["device"] == "cpu"
  assert log.get("compile", False) is False
  detection = detector.detect(np.zeros((200, 400, 3), np.uint8))
  assert detection.landmarks.shape == (68, 2) and detection.iris is None and detection.dense is None
  np.testing.assert_allclose(detection.bounding_box, box(200, 20, 100))
  assert detection.landmarks[:, 0].min() == pytest.approx(200)
  detector.close()


def test_face_alignment_takes_irises_from_mediapipe(monkeypatch, faces):
  frame = faces["frontal_512"][0]
  reference = lm.make_detector("mediapipe").detect(frame)
  module = fake_face_alignment([reference.bounding_box], {})
  module.FaceAlignment.get_landmarks_from_image = lambda self, image, detected_faces: [
    np.column_stack([reference.landmarks, np.zeros(68)])
  ]
  monkeypatch.setitem(sys.modules, "face_alignment", module)
  detection = lm.make_detector("face_alignment", device="cpu").detect(frame)
  np.testing.assert_allclose(detection.iris, reference.iris, atol=1)
  assert detection.dense.shape == (478, 2)


def test_face_alignment_keeps_the_person_too(monkeypatch):
  people, module = Crossing(), fake_face_alignment([], {})
  monkeypatch.setitem(sys.modules, "face_alignment", module)
  monkeypatch.setitem(sys.modules, "mediapipe", None)
  detector = lm.make_detector("face_alignment", device="cpu")
  detector._fan.face_detector.detect_from_image = people.find
  found = [detector.detect(crossing(k)) for k in range(34)]
  assert found[0] is not None and found[-1] is not None
  np.testing.assert_allclose([d.landmarks[:, 0].min() for d in found if d is not None], 300, atol=12)


@pytest.mark.faults
def test_face_alignment_without_package_or_weights(monkeypatch):
  monkeypatch.setitem(sys.modules, "face_alignment", None)
  with pytest.raises(InputError, match="pip install face-alignment"):
    lm.make_detector("face_alignment")
  broken = RuntimeError("PytorchStreamReader failed\nreading zip archive")
  monkeypatch.setitem(sys.modules, "face_alignment", fake_face_alignment([], {}, error=broken))
  with pytest.raises(InputError, match=r"cannot load its weights \(PytorchStreamReader .*checkpoints") as error:
    lm.make_detector("face_alignment", device="cpu")
  assert "\n" not in str(error.value)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["urlopen", "socket"])
def test_face_alignment_downloads_nothing(monkeypatch, tmp_path, capfd, how):
  """The package fetches weights that are missing; here it is told which file to ask the user for."""
  module = fake_face_alignment([], {})
  address = "https://localhost:9/python-fan/s3fd-619a316812.pth"

  def load(self, *_, **__):
    print(f"Downloading: {address}", file=sys.stderr)
    if how == "urlopen":
      urllib.request.urlopen(urllib.request.Request(address))
    socket.create_connection(("weights.example", 443))

  module.FaceAlignment.__init__ = load
  monkeypatch.setitem(sys.modules, "face_alignment", module)
  monkeypatch.setenv("TORCH_HOME", str(tmp_path))
  before = urllib.request.OpenerDirector.open, socket.getaddrinfo
  with pytest.raises(InputError, match="none is downloaded during a run") as error:
    lm.make_detector("face_alignment", device="cpu")
  assert (address if how == "urlopen" else "weights.example") in str(error.value)
  assert str(tmp_path / "hub" / "checkpoints") in str(error.value) and "\n" not in str(error.value)
  assert capfd.readouterr().err == "" and before == (urllib.request.OpenerDirector.open, socket.getaddrinfo)


# --- annotation ---


class FakeDetector:
  name = "fake"

  def __init__(self, empty=()):
    self.calls, self.empty, self.cuts = 0, empty, []

  def faces(self, rgb):
    return [box(1, 2, 30)] * (1 + int(rgb.mean() > 50))

  def cut(self):
    self.cuts.append(self.calls)

  def mark(self):
    return {"calls": self.calls}

  def resume(self, mark):
    self.calls = mark["calls"]

  def detect(self, rgb):
    self.calls += 1
    if self.calls in self.empty:
      return None
    return lm.Detection(box(1, 2, 30), turned(0) + self.calls, None, np.ones((478, 2), np.float32), 0.9)

  def close(self):
    pass


@pytest.fixture
def dataset(tmp_path):
  from vht_jax.dataset.extract import extract_frames

  write_video(tmp_path / "clip.mp4", (np.full((64, 64, 3), 20 * i, np.uint8) for i in range(5)), 25)
  extract_frames(tmp_path / "clip.mp4", tmp_path / "data")
  return FrameFolder(tmp_path / "data")


def test_annotation_goes_on_where_it_stopped(dataset):
  calls = []
  detector = FakeDetector(empty=(2,))
  assert annotate.annotate(dataset, detector, progress=lambda *counts: calls.append(counts)) == 4
  assert detector.calls == 5 and calls == [(i, 5) for i in range(1, 6)]
  assert dataset.valid.tolist() == [True, False, True, True, True] and dataset.has_dense
  assert json.loads(dataset.keypoint_path(1).read_text())["no_face"] is True
  before = {i: dataset.keypoint_path(i).read_text() for i in range(5)}
  assert annotate.annotate(dataset, detector) == 4 and detector.calls == 5
  dataset.keypoint_path(3).unlink()
  again = FakeDetector(empty=(2,))
  assert annotate.annotate(dataset, again) == 4 and again.calls == 4  # frame 3 depends on those before it
  assert all(dataset.keypoint_path(i).read_text() == text for i, text in before.items())
  assert annotate.annotate(dataset, FakeDetector(), overwrite=True) == 5 and dataset.valid.all()


@pytest.mark.parametrize("missing", [[4], [1], [0, 4], [2, 3], range(5)])
def test_a_killed_annotation_ends_with_the_same_files(dataset, monkeypatch, missing):
  """Also across segments, with a detector whose every answer depends on all before in the segment."""
  monkeypatch.setattr("vht_jax.dataset.resume.SEGMENT", 2)
  annotate.annotate(dataset, FakeDetector(), cuts=[3])
  before = [dataset.keypoint_path(i).read_text() for i in range(5)]
  for i in missing:
    dataset.keypoint_path(i).unlink()
  detector = FakeDetector()
  annotate.annotate(dataset, detector, cuts=[3])
  assert [dataset.keypoint_path(i).read_text() for i in range(5)] == before


def test_killed_before_the_mark_of_a_segment(dataset, monkeypatch):
  """All frames of a segment are there and the next one's mark is not: it begins at the last one that is marked."""
  monkeypatch.setattr("vht_jax.dataset.resume.SEGMENT", 2)
  annotate.annotate(dataset, FakeDetector())
  record = dataset.path / "landmarks.json"
  before = [dataset.keypoint_path(i).read_text() for i in range(5)], json.loads(record.read_text())
  for i in (2, 3, 4):
    dataset.keypoint_path(i).unlink()
  lost = {**before[1], "marks": {"0": before[1]["marks"]["0"]}, "second_look": {}}
  record.write_text(json.dumps(lost))
  detector = FakeDetector()
  annotate.annotate(dataset, detector)
  assert detector.calls >= 5
  assert [dataset.keypoint_path(i).read_text() for i in range(5)] == before[0]
  assert json.loads(record.read_text())["marks"] == before[1]["marks"]


def test_the_detector_hears_of_cuts_and_people_are_counted(dataset):
  detector = FakeDetector()
  annotate.annotate(dataset, detector, cuts=[2, 4])
  assert detector.cuts == [2, 4]
  assert annotate.count_faces(dataset, detector) == 2


@pytest.mark.faults
def test_another_detector_does_not_complete_the_landmarks(dataset):
  annotate.annotate(dataset, FakeDetector())
  dataset.keypoint_path(3).unlink()
  other = FakeDetector()
  other.name = "other"
  with pytest.raises(InputError, match="made by fake.*--restart"):
    annotate.annotate(dataset, other)


@pytest.mark.faults
@pytest.mark.parametrize("mark", [{}, {"calls": 1}, 3, {"crop": [0, 0, 10**9], "factor": 1, "person": {}}])
def test_a_damaged_mark_is_one_line(dataset, mark):
  annotate.annotate(dataset, FakeDetector())
  path = dataset.path / "landmarks.json"
  path.write_text(json.dumps({"detector": "fake", "marks": {"250": mark}}))
  from vht_jax.dataset.resume import Marks

  detector = CropTracker(lambda rgb: [], lambda crop, fresh: None)
  detector.name = "fake"
  with pytest.raises(InputError, match=r"landmarks\.json: damaged"):
    Marks(dataset, detector, anew=False).enter(250)


def test_a_folder_without_any_face_is_one_line(dataset):
  with pytest.raises(InputError, match="no face found in any of the 5 frames") as error:
    annotate.annotate(dataset, FakeDetector(empty=range(1, 6)))
  assert "\n" not in str(error.value)


def test_video_to_observations(tmp_path, faces):
  from vht_jax.dataset.extract import extract_frames

  write_video(tmp_path / "clip.mp4", [*faces["webcam_400x300"], np.zeros((300, 400, 3), np.uint8)], 25)
  extract_frames(tmp_path / "clip.mp4", tmp_path / "data")
  dataset = FrameFolder(tmp_path / "data", tracking_resolution=[150, 200])
  assert annotate.annotate(dataset, lm.make_detector("mediapipe")) == 3
  observations = dataset.observations(range(4))
  assert observations.valid.tolist() == [True, True, True, False]
  assert observations.dense.shape == (4, 478, 2) and observations.confidence[:3].min() > 0.1
  # MediaPipe's dense points hold the 68 and the irises
  np.testing.assert_allclose(observations.dense[0][IBUG68], observations.landmarks[0, :68], atol=1e-3)


def test_native_noise_is_filtered_and_other_messages_are_not():
  code = (
    "import os, sys\n"
    "from vht_jax.host.quiet import quiet_stderr\n"
    "with quiet_stderr():\n"
    "  os.write(2, b'W0000 00:00:1 1 x.cc:1] noise\\nours: a real problem\\nINFO: Created TensorFlow Lite\\n')\n"
    "  with quiet_stderr():\n"
    "    print('from python', file=sys.stderr)\n"
    "print('after', file=sys.stderr)\n"
  )
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert sorted(result.stderr.splitlines()) == ["after", "from python", "ours: a real problem"]
