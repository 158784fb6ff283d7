"""MediaPipe's face mesh through `mp.solutions`, whose wheels (until 0.10.21) carry the models."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vht_jax.errors import InputError
from vht_jax.host.quiet import quiet_stderr
from vht_jax.landmarks.crop import CropTracker
from vht_jax.landmarks.detection import Detection
from vht_jax.landmarks.mirror import mirrored_mean
from vht_jax.landmarks.person import distinct

BLACK = np.zeros((64, 64, 3), np.uint8)
# px. The full-range model sees 192 pixels of an image: faces of a twelfth of it (heads of three clips pasted into
# pictures: from 24 to 36 px in windows of 384), and in larger pictures those of `crop.SMALL` of them.
WINDOWS = (768, 384)


def import_mediapipe():
  """The package.

  Raises:
    InputError: it is missing, or a system library that it needs.
  """
  # protobuf 4 says so for every result that mediapipe 0.10.14 reads
  warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype", category=UserWarning)
  try:
    with quiet_stderr():
      import mediapipe  # takes seconds
  except (ImportError, OSError) as error:  # OSError: a shared library of the system is missing
    hint = "install it with: pip install 'mediapipe>=0.10.13,<0.10.15'"
    if ".so" in str(error):
      hint = "a system library is missing; on Debian and Ubuntu: apt install libgl1 libegl1 libgles2"
    reason = str(error).splitlines()[0]
    raise InputError(f"the MediaPipe landmark detector cannot be loaded ({reason}); {hint}") from error
  return mediapipe


class CropDetector:
  """A detector all of whose work is its tracker's."""

  _tracker: CropTracker

  def detect(self, rgb: np.ndarray) -> Detection | None:
    """The tracked person's face in the next frame (H, W, 3) uint8, None when there is none."""
    return self._tracker.detect(rgb)

  def expect(self, rgb: np.ndarray) -> None:
    """As `CropTracker.expect`."""
    self._tracker.expect(rgb)

  def faces(self, rgb: np.ndarray) -> list[np.ndarray]:
    """(5,) x0, y0, x1, y1 px, score of every face in an image."""
    return self._tracker.faces(rgb)

  def look(self, rgb: np.ndarray, box: np.ndarray) -> Detection | None:
    """The face at `box` (4,) px, looked for from nothing."""
    return self._tracker.look(rgb, box)

  def cut(self) -> None:
    """The next frame is the first of another shot."""
    self._tracker.cut()

  def renew(self) -> None:
    """As `CropTracker.renew`."""
    self._tracker.renew()

  def suppose(self, mark: dict[str, Any] | None) -> None:
    """As `CropTracker.suppose`."""
    self._tracker.suppose(mark)

  def asked(self) -> list[list[Any]]:
    """As `CropTracker.asked`."""
    return self._tracker.asked()

  def confirm(self, asked: list[list[Any]], mark: dict[str, Any]) -> dict[str, Any] | None:
    """As `CropTracker.confirm`."""
    return self._tracker.confirm(asked, mark)

  def mark(self) -> dict[str, Any]:
    """Forgets everything but what it returns."""
    return self._tracker.mark()

  def resume(self, mark: dict[str, Any]) -> None:
    """Goes on as the detector that gave `mark` did."""
    self._tracker.resume(mark)


class MediaPipeDetector(CropDetector):
  """68 + 2 + 478 points from MediaPipe's attention mesh, with the models that its wheel carries.

  Holds the state of one clip: feed it the frames of one video in order. `face` says who is tracked, see `Person`.

  Raises:
    InputError: mediapipe is missing, lacks a system library, or is too new to have `mp.solutions`.
  """

  name = "mediapipe"
  closer: bool  # small faces are looked for in windows of the image

  def __init__(self, min_confidence: float = 0.5, face: str | int = "largest"):
    mp: Any = import_mediapipe()
    try:
      face_detection, face_mesh = mp.solutions.face_detection, mp.solutions.face_mesh
    except AttributeError as error:
      raise InputError(
        f"mediapipe {mp.__version__} has no mp.solutions and no models in its wheel; use "
        "'mediapipe>=0.10.13,<0.10.15' (Python 3.11, 3.12), or give a face_landmarker.task file"
      ) from error

    def face_mesh_graph():
      return face_mesh.FaceMesh(
        refine_landmarks=True, min_detection_confidence=min_confidence, min_tracking_confidence=min_confidence
      )

    with quiet_stderr(), contextlib.ExitStack() as stack:
      # Full range first: it sees small faces. The short-range model is for those that fill the image.
      self._finders = [
        stack.enter_context(face_detection.FaceDetection(min_confidence, model_selection)) for model_selection in (1, 0)
      ]
      meshes = [stack.enter_context(face_mesh_graph()) for _ in range(2)]
      for graph in (*self._finders, *meshes):
        graph.process(BLACK)  # the graphs report their start-up here and not among the user's messages
      self._close = stack.pop_all().close
    self._tracker = CropTracker(self._find, mirrored_mean(*(functools.partial(_run, graph) for graph in meshes)), face)
    self.closer = False

  def close(self) -> None:
    """Frees the models."""
    self._close()

  def _find(self, rgb: np.ndarray) -> list[np.ndarray]:
    return self._find_large(rgb) or (in_windows(self._find_large, rgb, WINDOWS) if self.closer else [])

  def _find_large(self, rgb: np.ndarray) -> list[np.ndarray]:
    height, width = rgb.shape[:2]
    for finder in self._finders:
      found = finder.process(rgb).detections or []
      if found:
        boxes = [(detection.location_data.relative_bounding_box, detection.score[0]) for detection in found]
        return [
          np.array(
            [b.xmin * width, b.ymin * height, (b.xmin + b.width) * width, (b.ymin + b.height) * height, score],
            np.float32,
          )
          for b, score in boxes
        ]
    return []


def in_windows(
  find: Callable[[np.ndarray], list[np.ndarray]], rgb: np.ndarray, sides: Iterable[int]
) -> list[np.ndarray]:
  """The faces in square windows of an image, of the first of the `sides` (px) in which there are any.

  Args:
    find: rgb -> boxes (5,) x0, y0, x1, y1 px, score.
    rgb: (H, W, 3) uint8.
    sides: falling.
  """
  height, width = rgb.shape[:2]
  for side in sides:
    boxes: list[np.ndarray] = []
    for y in _starts(height, side):
      for x in _starts(width, side):
        for box in find(np.ascontiguousarray(rgb[y : y + side, x : x + side])):
          boxes.append(box + np.array([x, y, x, y, 0], np.float32))
    if boxes:
      return distinct(sorted(boxes, key=lambda box: -box[4]))
  return []


def _starts(length: int, side: int) -> list[int]:
  """Of windows of `side` that cover `length` and overlap by a third at least."""
  if side >= length:
    return [0]
  n = int(np.ceil((length - side) / (side * 2 / 3))) + 1
  return np.linspace(0, length - side, n).astype(int).tolist()


def _run(graph, crop: np.ndarray, fresh: bool) -> np.ndarray | None:
  """One pass of a `FaceMesh` that follows its last result: (478, 2) in units of the crop."""
  if fresh:
    # An image without a face makes the graph forget its last region; a reset would load the models again (35 ms).
    graph.process(BLACK)
    graph.process(crop)  # so that the pass below follows landmarks, like all later ones, and not a detection
  faces = graph.process(crop).multi_face_landmarks
  return np.array([(p.x, p.y) for p in faces[0].landmark]) if faces else None
