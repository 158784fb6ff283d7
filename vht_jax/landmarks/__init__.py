"""Facial landmarks: detectors behind one protocol. From one image to a `Detection`, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vht_jax.errors import InputError
from vht_jax.host.files import expanded
from vht_jax.landmarks.detection import (
  N_DENSE,
  Detection,
  estimate_yaw,
  eye_openness,
  landmark_confidence,
  plausible_iris,
)
from vht_jax.landmarks.detectors.fan import FaceAlignmentDetector
from vht_jax.landmarks.detectors.mediapipe_mesh import MediaPipeDetector
from vht_jax.landmarks.detectors.mediapipe_tasks import TasksDetector

__all__ = [
  "N_DENSE",
  "Detection",
  "Detector",
  "Expects",
  "FaceAlignmentDetector",
  "InPieces",
  "LooksAgain",
  "LooksCloser",
  "MediaPipeDetector",
  "TasksDetector",
  "estimate_yaw",
  "eye_openness",
  "landmark_confidence",
  "make_detector",
  "plausible_iris",
]


class Detector(Protocol):
  """Finds the tracked person's face; it may remember the frames before, so it serves one clip, in order."""

  name: str

  def detect(self, rgb: np.ndarray) -> Detection | None:
    """(H, W, 3) RGB uint8 -> the face in pixels of that image, or None."""

  def faces(self, rgb: np.ndarray) -> list[np.ndarray]:
    """(5,) x0, y0, x1, y1 px, score of every face in an image; changes nothing."""
    ...

  def cut(self) -> None:
    """The next frame is the first of another shot: the person may be anywhere."""

  def mark(self) -> dict[str, Any]:
    """Forgets everything about the frames before but what it returns, as JSON."""
    ...

  def resume(self, mark: dict[str, Any]) -> None:
    """Goes on exactly as the detector that gave `mark` did."""

  def close(self) -> None:
    """Frees the models."""


@runtime_checkable
class LooksAgain(Protocol):
  """A detector that can look twice at a place, as where a frame's face is out of line with its neighbours'."""

  def look(self, rgb: np.ndarray, box: np.ndarray) -> Detection | None:
    """The face at `box` (4,) x0, y0, x1, y1 px, looked for anew; changes nothing and depends on nothing else."""


@runtime_checkable
class LooksCloser(Protocol):
  """A detector that can look for small faces in parts of the image as well, which takes its time."""

  closer: bool  # whether it does

  def faces(self, rgb: np.ndarray) -> list[np.ndarray]:
    """As `Detector.faces`."""
    ...


@runtime_checkable
class Expects(Protocol):
  """A detector that can make the image after the next ready while it is at that one."""

  def expect(self, rgb: np.ndarray) -> None:
    """(H, W, 3) RGB uint8, the very array that `detect` is given after the next one; changes no result."""


@runtime_checkable
class InPieces(Protocol):
  """A detector that can search a piece of a clip before the frames in front of it, see `dataset.pieces`."""

  def renew(self) -> None:
    """The next frame is searched as if those before had not been seen, as far as the person is found in it so."""

  def suppose(self, mark: dict[str, Any] | None) -> None:
    """What comes is a piece that begins with `renew` or `cut`; `mark` is one of frames in which the person was seen."""

  def asked(self) -> list[list[Any]]:
    """What has been taken for granted of the person since the last call, as JSON."""
    ...

  def confirm(self, asked: list[list[Any]], mark: dict[str, Any]) -> dict[str, Any] | None:
    """For the detector that has searched the frames before: whether it would have found the same up to a mark of the
    piece's. Then it is where it would be, and this is its own mark; else None, and it has to resume from an own one."""
    ...


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
