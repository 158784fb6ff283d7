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
from vht_jax.landmarks.marks import SEGMENT, Marks, is_annotated
from vht_jax.landmarks.mediapipe_mesh import MediaPipeDetector
from vht_jax.landmarks.mediapipe_tasks import TasksDetector
from vht_jax.landmarks.second_look import look_again, out_of_line

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
  "is_annotated",
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

  def look(self, rgb: np.ndarray, box: np.ndarray) -> Detection | None:
    """The face at `box` (4,) x0, y0, x1, y1 px, looked for anew; changes nothing and depends on nothing else. A
    detector may lack this: then nobody looks twice."""

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


_COUNTED = 100  # frames in which faces are counted when there are fewer than the user says


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
  there on are searched again. In the end faces that are out of line with their neighbours are looked for once more
  (`second_look`). A frame without a face gets a placeholder (`absent`).

  Args:
    dataset: the frames; they are searched at full resolution.
    detector: see `make_detector`; fresh.
    progress: called with (frames done, all frames) after each frame.
    overwrite: search frames again that have a file.
    cuts: positions at which a new shot starts.

  Returns:
    The number of frames with a face.

  Raises:
    InputError: no frame has a face, or not so many as the dataset's number of a face asks for; an image or an existing
      file cannot be read; the files that are there were made by another detector.
  """
  n, cuts = len(dataset), set(cuts)
  todo = {i for i in range(n) if overwrite or not dataset.keypoint_path(i).exists()}
  marks = Marks(dataset, detector, anew=len(todo) == n)
  if todo:
    marks.begin()
  done = n - len(todo)
  indices = marks.schedule(todo)
  for i, rgb in zip(indices, dataset.source_images(indices)):
    marks.enter(i)
    if i in cuts:
      detector.cut()
    detection = detector.detect(rgb)
    if i not in todo:
      continue
    _write(dataset, i, detection, detector)
    done += 1
    if progress is not None:
      progress(done, n)
  dataset.reload_keypoints()
  if not marks.looked or todo:
    _look_again(dataset, detector, marks, todo, cuts)
  missing = [dataset.frame_ids[i] for i in range(n) if not dataset.valid[i]]
  if len(missing) == n:
    raise InputError(f"{dataset.path}: {_why_none(dataset, detector)}")
  if missing:
    shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    logging.warning("no face in %d of %d frames (ids %s)", len(missing), n, shown)
  return n - len(missing)


def _look_again(dataset: FrameFolder, detector: Detector, marks: Marks, todo: set[int], cuts: set[int]) -> None:
  """The second pass, see `second_look`: over what is out of line, of which the files in `todo` are new."""
  n = len(dataset)
  if marks.second_look(n) is None:
    marks.expect(n, out_of_line(dataset.detections, cuts) if hasattr(detector, "look") else {})
  expected = marks.second_look(n)
  again = sorted(i for i in expected if i in todo or not marks.looked)
  for i, rgb in zip(again, dataset.source_images(again)):
    _write(dataset, i, look_again(rgb, dataset.detections[i], expected[i], detector), detector)
  dataset.reload_keypoints()
  fill_absent(dataset, detector.name)
  if not marks.looked:
    marks.finish()
  dataset.reload_keypoints()


def _write(dataset: FrameFolder, i: int, detection: Detection | None, detector: Detector) -> None:
  path = dataset.keypoint_path(i)
  try:
    sweep(path.parent)
    write_keypoints(path, detection, detector.name)
  except OSError as error:
    raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _why_none(dataset: FrameFolder, detector: Detector) -> str:
  n = len(dataset)
  most = 0 if dataset.face is None else count_faces(dataset, detector, min(n, _COUNTED))
  if most == 0 or dataset.face < most:
    return (
      f"no face found in any of the {n} frames; a face should be at least 30 pixels wide and not fully turned away"
    )
  faces, numbers = ("faces are", f"0 to {most - 1}") if most > 1 else ("face is", "0")
  numbers = "0 or 1" if most == 2 else numbers
  return f"face {dataset.face} was asked for, but at most {most} {faces} seen in one frame; --face={numbers}"


def _spaced(n: int, k: int) -> list[float]:
  return [i * (n - 1) / max(k - 1, 1) for i in range(k)]
