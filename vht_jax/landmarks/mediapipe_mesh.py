"""MediaPipe's face mesh through its two APIs: `mp.solutions` (models in the wheel, until 0.10.21) and Tasks."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import numpy as np

from vht_jax.errors import InputError
from vht_jax.landmarks.crop import CropTracker, bounds
from vht_jax.landmarks.detection import Detection
from vht_jax.quiet import quiet_stderr


def _import_mediapipe():
  # protobuf 4 says so for every result that mediapipe 0.10.14 reads
  warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype", category=UserWarning)
  try:
    with quiet_stderr():
      import mediapipe
  except (ImportError, OSError) as error:  # OSError: a shared library of the system is missing
    hint = "install it with: pip install 'mediapipe>=0.10.13,<0.10.15'"
    if ".so" in str(error):
      hint = "a system library is missing; on Debian and Ubuntu: apt install libgl1 libegl1 libgles2"
    raise InputError(f"the MediaPipe landmark detector cannot be loaded ({error}); {hint}") from error
  return mediapipe


class MediaPipeDetector:
  """68 + 2 + 478 points from MediaPipe's attention mesh, with the models that its wheel carries.

  Holds the state of one clip: feed it the frames of one video in order.

  Raises:
    InputError: mediapipe is missing, lacks a system library, or is too new to have `mp.solutions`.
  """

  name = "mediapipe"

  def __init__(self, min_confidence: float = 0.5):
    mp = _import_mediapipe()
    try:
      face_detection, face_mesh = mp.solutions.face_detection, mp.solutions.face_mesh
    except AttributeError as error:
      raise InputError(
        f"mediapipe {mp.__version__} has no mp.solutions and no models in its wheel; use "
        "'mediapipe>=0.10.13,<0.10.15' (Python 3.11, 3.12), or give a face_landmarker.task file"
      ) from error
    with quiet_stderr(), contextlib.ExitStack() as stack:
      # Full range first: it sees small faces. The short-range model is for those that fill the image.
      self._finders = [
        stack.enter_context(face_detection.FaceDetection(min_confidence, model_selection)) for model_selection in (1, 0)
      ]
      self._mesh = stack.enter_context(
        face_mesh.FaceMesh(
          refine_landmarks=True, min_detection_confidence=min_confidence, min_tracking_confidence=min_confidence
        )
      )
      self._black = np.zeros((64, 64, 3), np.uint8)
      for graph in (*self._finders, self._mesh):
        graph.process(self._black)  # the graphs report their start-up here and not among the user's messages
      self._close = stack.pop_all().close
    self._tracker = CropTracker(self._find, self._run)

  def detect(self, rgb: np.ndarray) -> Detection | None:
    """The tracked person's face in the next frame (H, W, 3) uint8, None when there is none."""
    return self._tracker.detect(rgb)

  def close(self) -> None:
    """Frees the models."""
    self._close()

  def _find(self, rgb: np.ndarray) -> list[np.ndarray]:
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

  def _run(self, crop: np.ndarray, fresh: bool) -> np.ndarray | None:
    if fresh:
      # An image without a face makes the graph forget its last region; a reset would load the models again (35 ms).
      self._mesh.process(self._black)
      self._mesh.process(crop)  # so that the pass below follows landmarks, like all later ones, and not a detection
    faces = self._mesh.process(crop).multi_face_landmarks
    return np.array([(p.x, p.y) for p in faces[0].landmark]) if faces else None


class TasksDetector:
  """The same points through MediaPipe's Tasks API, for versions without `mp.solutions` (Python 3.13).

  Args:
    path: Google's face_landmarker.task; MediaPipe's wheels do not carry it.

  Raises:
    InputError: mediapipe or the file is missing or unusable.
  """

  name = "mediapipe-tasks"

  def __init__(self, path: str | Path, min_confidence: float = 0.5):
    if not Path(path).is_file():
      raise InputError(f"{path}: no such file (expected MediaPipe's face_landmarker.task)")
    self._mp = mp = _import_mediapipe()
    try:
      with quiet_stderr():
        from mediapipe.tasks.python import BaseOptions, vision

        def landmarker(mode, faces: int):
          return vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
              base_options=BaseOptions(model_asset_path=str(path)),
              running_mode=mode,
              num_faces=faces,
              min_face_detection_confidence=min_confidence,
              min_face_presence_confidence=min_confidence,
              min_tracking_confidence=min_confidence,
            )
          )

        self._finder = landmarker(vision.RunningMode.IMAGE, 4)
        # Two faces, because for one alone the graph smooths over time: that lags by 0.5 % of the eye distance and more.
        self._mesh = landmarker(vision.RunningMode.VIDEO, 2)
        self._black = np.zeros((64, 64, 3), np.uint8)
        self._time = 0
        self._centre = np.array([0.5, 0.5])  # of the face in the crop
        self._finder.detect(self._image(self._black))
        self._process(self._black)
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
      first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
      raise InputError(
        f"{path}: mediapipe {mp.__version__} cannot use it as a face landmarker ({first_line})"
      ) from error
    self._tracker = CropTracker(self._find, self._run)

  def detect(self, rgb: np.ndarray) -> Detection | None:
    """The tracked person's face in the next frame (H, W, 3) uint8, None when there is none."""
    return self._tracker.detect(rgb)

  def close(self) -> None:
    """Frees the models."""
    self._finder.close()
    self._mesh.close()

  def _image(self, rgb: np.ndarray):
    return self._mp.Image(image_format=self._mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))

  def _process(self, crop: np.ndarray) -> np.ndarray | None:
    self._time += 40  # the graph wants rising milliseconds, whatever their distance
    faces = self._mesh.detect_for_video(self._image(crop), self._time).face_landmarks
    if not faces:
      return None
    points = [np.array([(p.x, p.y) for p in face]) for face in faces]
    points = min(points, key=lambda p: np.hypot(*(p.mean(axis=0) - self._centre)))
    self._centre = points.mean(axis=0)
    return points

  def _find(self, rgb: np.ndarray) -> list[np.ndarray]:
    """The task file has a short-range detector only, so small faces are looked for in ever smaller windows."""
    height, width = rgb.shape[:2]
    for share in (1.0, 0.5, 0.3):
      side = round(share * max(height, width))
      boxes = []
      for y in _windows(height, side):
        for x in _windows(width, side):
          window = rgb[y : y + side, x : x + side]
          scale = np.array([window.shape[1], window.shape[0]], np.float32)
          for face in self._finder.detect(self._image(window)).face_landmarks:
            points = np.array([(p.x, p.y) for p in face], np.float32) * scale + np.array([x, y], np.float32)
            boxes.append(np.append(bounds(points), np.float32(1.0)))
      if boxes:
        return boxes
    return []

  def _run(self, crop: np.ndarray, fresh: bool) -> np.ndarray | None:
    if fresh:
      self._process(self._black)
      self._centre = np.array([0.5, 0.5])
      self._process(crop)
    return self._process(crop)


def _windows(length: int, side: int) -> list[int]:
  """Starts of windows of `side` that cover `length` and overlap by a third at least."""
  if side >= length:
    return [0]
  n = int(np.ceil((length - side) / (side * 2 / 3))) + 1
  return np.linspace(0, length - side, n).astype(int).tolist()
