"""MediaPipe's face mesh through its Tasks API, the only one of its versions for Python 3.13 and later."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vht_jax.errors import InputError
from vht_jax.host.quiet import quiet_stderr
from vht_jax.landmarks.crop import CropTracker
from vht_jax.landmarks.detectors.mediapipe_mesh import BLACK, CropDetector, import_mediapipe, in_windows
from vht_jax.landmarks.mirror import mirrored_mean
from vht_jax.landmarks.person import bounds


class TasksDetector(CropDetector):
  """The points of `MediaPipeDetector` from Google's face_landmarker.task, which MediaPipe's wheels do not carry.

  Args:
    path: the .task file.
    min_confidence: below which a face is discarded.
    face: who is tracked, see `Person`.

  Raises:
    InputError: mediapipe or the file is missing or unusable.
  """

  name = "mediapipe-tasks"

  def __init__(self, path: str | Path, min_confidence: float = 0.5, face: str | int = "largest"):
    if not Path(path).is_file():
      raise InputError(f"{path}: no such file (expected MediaPipe's face_landmarker.task)")
    mp = import_mediapipe()
    try:
      with quiet_stderr():
        from mediapipe.tasks.python import BaseOptions, vision  # takes seconds

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
        # Two faces, because for one alone the graph smooths over time: that lags by 0.3 % of the eye distance.
        self._meshes = [_Mesh(mp, landmarker(vision.RunningMode.VIDEO, 2)) for _ in range(2)]
        self._image = lambda rgb: _image(mp, rgb)
        self._finder.detect(self._image(BLACK))
        for mesh in self._meshes:
          mesh(BLACK, True)
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      raise InputError(f"{path}: mediapipe {mp.__version__} cannot use it as a face landmarker ({reason})") from error
    self._tracker = CropTracker(self._find, mirrored_mean(*self._meshes), face)

  def close(self) -> None:
    """Frees the models."""
    self._finder.close()
    for mesh in self._meshes:
      mesh.close()

  def _find(self, rgb: np.ndarray) -> list[np.ndarray]:
    """The task file has a short-range detector only, so small faces are looked for in ever smaller windows."""
    longer = max(rgb.shape[:2])
    return in_windows(self._find_large, rgb, [round(share * longer) for share in (1.0, 0.5, 0.3)])

  def _find_large(self, rgb: np.ndarray) -> list[np.ndarray]:
    scale = np.array([rgb.shape[1], rgb.shape[0]], np.float32)
    faces = self._finder.detect(self._image(rgb)).face_landmarks
    points = [np.array([(p.x, p.y) for p in face], np.float32) * scale for face in faces]
    return [np.append(bounds(p), np.float32(1.0)) for p in points]


class _Mesh:
  """One face landmarker that follows its last result."""

  def __init__(self, mp, landmarker):
    self._mp, self._landmarker = mp, landmarker
    self._time = 0
    self._centre = np.array([0.5, 0.5])  # of the face in the crop
    self.close = landmarker.close

  def __call__(self, crop: np.ndarray, fresh: bool) -> np.ndarray | None:
    """(478, 2) in units of the crop, or None."""
    if fresh:
      self._process(BLACK)  # without a face it forgets its last region
      self._centre = np.array([0.5, 0.5])
      self._process(crop)  # so that the pass below follows landmarks and not a detection
    return self._process(crop)

  def _process(self, crop: np.ndarray) -> np.ndarray | None:
    self._time += 40  # the graph wants rising milliseconds, whatever their distance
    faces = self._landmarker.detect_for_video(_image(self._mp, crop), self._time).face_landmarks
    if not faces:
      return None
    points = [np.array([(p.x, p.y) for p in face]) for face in faces]
    points = min(points, key=lambda p: np.hypot(*(p.mean(axis=0) - self._centre)))
    self._centre = points.mean(axis=0)
    return points


def _image(mp, rgb: np.ndarray):
  return mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
