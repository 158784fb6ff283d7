"""MediaPipe's Tasks API as a detector, with a stand-in for its models: small faces are looked for in windows."""

import sys
import types

import numpy as np
import pytest
from test_orientation import PORTRAIT, picture

from vht_jax.head.mesh_points import IBUG68
from vht_jax.landmarks.detectors.mediapipe_tasks import TasksDetector
from vht_jax.landmarks.mirror import MIRROR

SHORT_RANGE = 0.15  # of an image's longer side: smaller faces are not seen
SIZE = (600, 1000)  # px


def mesh():
  """(478, 2) of a face in its square, the mirror image of itself."""
  points = np.full((478, 2), 0.5)
  points[IBUG68] = PORTRAIT
  points[[10, 152]] = [[0.5, 0], [0.5, 1]]
  points[[127, 356]] = [[0, 0.5], [1, 0.5]]
  return (points + points[MIRROR] * [-1, 1] + [1, 0]) / 2


class Landmarker:
  """Sees the squares of `picture` that are upright, complete and large enough."""

  calls = 0

  @classmethod
  def create_from_options(cls, options):
    return cls()

  def detect(self, image):
    Landmarker.calls += 1
    faces = [self.face(image, *box) for box in squares(image) if box[2] >= SHORT_RANGE * max(image.shape[:2])]
    return types.SimpleNamespace(face_landmarks=faces)

  def detect_for_video(self, image, milliseconds):
    return types.SimpleNamespace(face_landmarks=[self.face(image, *box) for box in squares(image)])

  def face(self, image, x, y, size):
    points = (mesh() * size + [x, y]) / [image.shape[1], image.shape[0]]
    return [types.SimpleNamespace(x=float(x), y=float(y)) for x, y in points]

  def close(self):
    pass


def squares(image):
  """x, y, side of the bright squares with a brighter top."""
  import cv2

  n, labels, stats, _ = cv2.connectedComponentsWithStats((image[..., 0] > 100).astype(np.uint8))
  for x, y, width, height, _ in stats[1:]:
    top, bottom = image[y + height // 10, x + width // 2, 0], image[y + height // 2, x + width // 2, 0]
    if 0.9 * width < height < 1.1 * width and top > 200 > bottom:
      yield x, y, width


@pytest.fixture
def detector(monkeypatch, tmp_path):
  options = lambda **given: types.SimpleNamespace(**given)
  vision = types.SimpleNamespace(
    FaceLandmarker=Landmarker, FaceLandmarkerOptions=options, RunningMode=types.SimpleNamespace(IMAGE=0, VIDEO=1)
  )
  python = types.ModuleType("mediapipe.tasks.python")
  python.BaseOptions, python.vision = options, vision
  top = types.ModuleType("mediapipe")
  top.__version__, top.ImageFormat = "1.2.3", types.SimpleNamespace(SRGB=0)
  top.Image = lambda image_format, data: data
  for name, module in (("mediapipe", top), ("mediapipe.tasks", types.ModuleType("tasks")), (python.__name__, python)):
    monkeypatch.setitem(sys.modules, name, module)
  (tmp_path / "face_landmarker.task").write_bytes(b"")
  made = TasksDetector(tmp_path / "face_landmarker.task")
  Landmarker.calls = 0
  yield made
  made.close()


@pytest.mark.parametrize(("size", "looks"), [(160, 1), (90, 1 + 6), (50, 1 + 6 + 15)])
def test_small_faces_are_looked_for_in_ever_smaller_windows(detector, size, looks):
  for x, y in ((0, 0), (SIZE[1] - size, SIZE[0] - size), (301, 222), (480, 370)):
    Landmarker.calls = 0
    (box,) = detector.faces(picture(x, y, size, shape=SIZE))
    np.testing.assert_allclose(box[:4], [x, y, x + size, y + size], atol=1.5)
    assert Landmarker.calls == looks
  found = detector.detect(picture(301, 222, size, shape=SIZE))
  np.testing.assert_allclose(found.bounding_box[:4], [301, 222, 301 + size, 222 + size], atol=1.5)
  # what is followed is not looked for again
  Landmarker.calls = 0
  found = detector.detect(picture(305, 222, size, shape=SIZE))
  np.testing.assert_allclose(found.bounding_box[:4], [305, 222, 305 + size, 222 + size], atol=1.5)
  assert Landmarker.calls == 0


def test_each_face_is_counted_once(detector):
  both = np.maximum(picture(330, 200, 60, shape=SIZE), picture(700, 260, 55, shape=SIZE))  # in two windows each
  boxes = detector.faces(both)
  assert sorted(np.round(box[0]) for box in boxes) == [330, 700]
  assert detector.faces(np.zeros((*SIZE, 3), np.uint8)) == []
