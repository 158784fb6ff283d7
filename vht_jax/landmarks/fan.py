"""The `face-alignment` package's 3D FAN, VHT's detector, behind the same interface."""

from __future__ import annotations

import contextlib
import inspect
import urllib.error
from typing import Any

import numpy as np
from absl import logging

from vht_jax.errors import InputError
from vht_jax.landmarks.detection import Detection, plausible_iris
from vht_jax.landmarks.mediapipe_mesh import MediaPipeDetector
from vht_jax.landmarks.person import Person, overlap

WEIGHTS = ("s3fd-619a316812.pth", "3DFAN4-7835d9f11d.pth.tar", "depth-2a464da4ea.pth.tar")


class FaceAlignmentDetector:
  """68 points of face-alignment's THREE_D networks; irises and dense points from MediaPipe where that is installed.

  Args:
    device: 'cpu', 'cuda', 'mps', or None for the best that torch has.
    face: who is tracked, see `Person`.

  Raises:
    InputError: the package or its weights are missing.
  """

  name = "face-alignment"

  def __init__(self, device: str | None = None, face: str | int = "largest"):
    try:
      import face_alignment
    except (ImportError, OSError) as error:
      raise InputError(
        f"the face-alignment landmark detector cannot be loaded ({error}); pip install face-alignment, or use mediapipe"
      ) from error
    kinds = face_alignment.LandmarksType
    kind = kinds.THREE_D if hasattr(kinds, "THREE_D") else kinds._3D  # the name until 1.3.4
    options = {"device": device or _best_device(), "flip_input": True}
    # 1.5 compiles its networks by default, which pays off after thousands of frames only.
    if "compile" in inspect.signature(face_alignment.FaceAlignment).parameters:
      options["compile"] = False
    try:
      self._fan = face_alignment.FaceAlignment(kind, **options)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
      raise InputError(
        f"face-alignment has no weights and could not download them ({error}); put {', '.join(WEIGHTS)} into "
        "$TORCH_HOME/hub/checkpoints (without the variable: ~/.cache/torch/hub/checkpoints), or use mediapipe"
      ) from error
    try:
      self._mesh = MediaPipeDetector(face=face)
    except InputError as error:
      logging.warning("no irises: %s", error)
      self._mesh = None
    self._person = Person(face)

  def detect(self, rgb: np.ndarray) -> Detection | None:
    """The tracked person's face in the next frame (H, W, 3) uint8, None when there is none."""
    mesh = None if self._mesh is None else self._mesh.detect(rgb)  # in every frame: it follows the face

    def locate(box: np.ndarray) -> np.ndarray | None:
      found = self._fan.get_landmarks_from_image(rgb, detected_faces=[box])
      return np.asarray(found[0], np.float32)[:68, :2] if found else None

    box = self._person.choose(self.faces(rgb), rgb, locate)
    landmarks = None if box is None else locate(box)
    if landmarks is None:
      self._person.missed()
      return None
    self._person.saw(box, rgb, landmarks)
    iris = dense = None
    if mesh is not None and overlap(mesh.bounding_box, box) > 0.3:
      iris, dense = mesh.iris, mesh.dense
    return Detection(box, landmarks, plausible_iris(landmarks, iris), dense, float(box[4]))

  def faces(self, rgb: np.ndarray) -> list[np.ndarray]:
    """(5,) x0, y0, x1, y1 px, score of every face in an image."""
    return [np.asarray(box, np.float32)[:5] for box in self._fan.face_detector.detect_from_image(rgb)]

  def cut(self) -> None:
    """The next frame is the first of another shot."""
    self._person.cut = True
    if self._mesh is not None:
      self._mesh.cut()

  def mark(self) -> dict[str, Any]:
    """Forgets everything but what it returns."""
    return {"person": self._person.state(), "mesh": None if self._mesh is None else self._mesh.mark()}

  def resume(self, mark: dict[str, Any]) -> None:
    """Goes on as the detector that gave `mark` did."""
    self._person.restore(mark["person"])
    if self._mesh is not None and mark["mesh"] is not None:
      self._mesh.resume(mark["mesh"])

  def close(self) -> None:
    """Frees the models."""
    if self._mesh is not None:
      self._mesh.close()


def _best_device() -> str:
  with contextlib.suppress(ImportError, AttributeError):
    import torch

    if torch.cuda.is_available():
      return "cuda"
    if torch.backends.mps.is_available():
      return "mps"
  return "cpu"
