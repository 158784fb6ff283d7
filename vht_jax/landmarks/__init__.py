"""Facial landmarks: detectors behind one protocol, and the annotation of a folder of frames in VHT's format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from absl import logging

from vht_jax.errors import InputError
from vht_jax.files import expanded, sweep
from vht_jax.landmarks.absent import fill_absent
from vht_jax.landmarks.detection import (
  N_DENSE,
  Detection,
  estimate_yaw,
  eye_openness,
  landmark_confidence,
  plausible_iris,
  read_keypoints,
  write_keypoints,
)
from vht_jax.landmarks.fan import FaceAlignmentDetector
from vht_jax.landmarks.marks import SEGMENT, Marks
from vht_jax.landmarks.mediapipe_mesh import MediaPipeDetector
from vht_jax.landmarks.mediapipe_tasks import TasksDetector

if TYPE_CHECKING:
  import numpy as np

  from vht_jax.video import FrameFolder

__all__ = [
  "N_DENSE",
  "SEGMENT",
  "Detection",
  "Detector",
  "FaceAlignmentDetector",
  "MediaPipeDetector",
  "TasksDetector",
  "annotate",
  "count_faces",
  "estimate_yaw",
  "eye_openness",
  "landmark_confidence",
  "make_detector",
  "plausible_iris",
  "read_keypoints",
  "write_keypoints",
]


class Detector(Protocol):
  """Finds the tracked person's face; it may remember the frames before, so it serves one clip, in order."""

  name: str

  def detect(self, rgb: np.ndarray) -> Detection | None:
    """(H, W, 3) RGB uint8 -> the face in pixels of that image, or None."""

  def faces(self, rgb: np.ndarray) -> list[np.ndarray]:
    """(5,) x0, y0, x1, y1 px, score of every face in an image; changes nothing."""

  def cut(self) -> None:
    """The next frame is the first of another shot: the person may be anywhere."""

  def mark(self) -> dict[str, Any]:
    """Forgets everything about the frames before but what it returns, as JSON."""

  def resume(self, mark: dict[str, Any]) -> None:
    """Goes on exactly as the detector that gave `mark` did."""

  def close(self) -> None:
    """Frees the models."""


NAMES = ("auto", "mediapipe", "tasks", "face_alignment")


def make_detector(
  name: str = "auto",
  *,
  face_landmarker: str | Path | None = None,
  device: str | None = None,
  min_confidence: float = 0.5,
  face: str | int = "largest",
) -> Detector:
  """The detector of that name.

  Args:
    name: 'mediapipe'; 'tasks' (MediaPipe's newer API, needs `face_landmarker`); 'face_alignment' (VHT's own; also
      'face-alignment'); 'auto': the first of these that works here.
    face_landmarker: the .task file; without it $VHT_FACE_LANDMARKER and ./assets/face_landmarker.task are tried.
    device: torch's device for face_alignment, None for the best there is.
    min_confidence: below which MediaPipe discards a face.
    face: whom to track: 'largest', or a number: faces are counted from the left in the first image that has so many.

  Raises:
    InputError: unknown name, or the detector cannot run here: what is missing and how to get it.
  """
  name = name.replace("-", "_").lower()
  makers: dict[str, Callable[[], Detector]] = {
    "mediapipe": lambda: MediaPipeDetector(min_confidence, face),
    "tasks": lambda: TasksDetector(_find_task(face_landmarker), min_confidence, face),
    "face_alignment": lambda: FaceAlignmentDetector(device, face),
  }
  if name in makers:
    return makers[name]()
  if name != "auto":
    raise InputError(f"unknown landmark detector '{name}': expected one of {', '.join(NAMES)}")
  reasons = []
  for candidate, make in makers.items():
    try:
      return make()
    except InputError as error:
      reasons.append(f"{candidate}: {error}")
  raise InputError("no landmark detector works here. " + " | ".join(reasons))


def _find_task(path: str | Path | None) -> Path:
  tried = [path] if path else [os.environ.get("VHT_FACE_LANDMARKER"), "assets/face_landmarker.task"]
  tried = [Path(expanded(p)) for p in tried if p]
  for candidate in tried:
    if candidate.is_file():
      return candidate
  raise InputError(
    f"MediaPipe's face_landmarker.task was not found (tried {', '.join(map(str, tried))}); get it from Google's "
    "MediaPipe models page and name it by $VHT_FACE_LANDMARKER"
  )


def count_faces(dataset: FrameFolder, detector: Detector, n_frames: int = 12) -> int:
  """How many people a clip shows: the most faces in one of `n_frames` evenly spaced frames."""
  indices = sorted({round(i) for i in _spaced(len(dataset), n_frames)})
  return max(len(detector.faces(image)) for image in dataset.source_images(indices))


def annotate(
  dataset: FrameFolder,
  detector: Detector,
  progress: Callable[[int, int], None] | None = None,
  overwrite: bool = False,
  cuts: Iterable[int] = (),
) -> int:
  """Writes the landmark file beside every image of a dataset that has none yet.

  A killed run goes on where it stopped and ends with the same files as an unbroken one: files appear whole or not at
  all, and every `SEGMENT` frames the detector is brought into a state that is kept in landmarks.json; frames from
  there on are searched again. A frame without a face gets a placeholder (`absent`).

  Args:
    dataset: the frames; they are searched at full resolution.
    detector: see `make_detector`; fresh.
    progress: called with (frames done, all frames) after each frame.
    overwrite: search frames again that have a file.
    cuts: positions at which a new shot starts.

  Returns:
    The number of frames with a face.

  Raises:
    InputError: no frame has a face, an image or an existing file cannot be read, or the files that are there were made
      by another detector.
  """
  n, cuts = len(dataset), set(cuts)
  todo = {i for i in range(n) if overwrite or not dataset.keypoint_path(i).exists()}
  marks = Marks(dataset, detector, anew=len(todo) == n)
  done = n - len(todo)
  indices = marks.schedule(todo)
  for i, rgb in zip(indices, dataset.source_images(indices)):
    marks.enter(i)
    if i in cuts:
      detector.cut()
    detection = detector.detect(rgb)
    if i not in todo:
      continue
    path = dataset.keypoint_path(i)
    try:
      sweep(path.parent)
      write_keypoints(path, detection, detector.name)
    except OSError as error:
      raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    done += 1
    if progress is not None:
      progress(done, n)
  dataset.reload_keypoints()
  fill_absent(dataset, detector.name)
  missing = [dataset.frame_ids[i] for i in range(n) if not dataset.valid[i]]
  if len(missing) == n:
    raise InputError(
      f"{dataset.path}: no face found in any of the {n} frames; a face should be upright, at least 30 pixels wide "
      "and not fully turned away"
    )
  if missing:
    shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    logging.warning("no face in %d of %d frames (ids %s)", len(missing), n, shown)
  return n - len(missing)


def _spaced(n: int, k: int) -> list[float]:
  return [i * (n - 1) / max(k - 1, 1) for i in range(k)]
