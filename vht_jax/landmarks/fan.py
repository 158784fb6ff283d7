"""The `face-alignment` package's 3D FAN, VHT's detector, behind the same interface."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vht_jax.errors import InputError, brief
from vht_jax.files import user_cache
from vht_jax.landmarks.detection import Detection, plausible_iris
from vht_jax.landmarks.mediapipe_mesh import MediaPipeDetector
from vht_jax.landmarks.person import Person, overlap


class _Fetch(OSError):
  """Something wants a file from the network."""


class FaceAlignmentDetector:
  """68 points of face-alignment's THREE_D networks; irises and dense points from MediaPipe where that is installed.

  The package downloads its weights when they are missing. Here it may not: nothing is fetched during a run.

  Args:
    device: 'cpu', 'cuda', 'mps', or None for the best that torch has.
    face: who is tracked, see `Person`.

  Raises:
    InputError: the package or its weights are missing: which file to fetch, and where to put it.
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
      with _offline():
        self._fan = face_alignment.FaceAlignment(kind, **options)
    except _Fetch as error:
      raise InputError(
        f"face-alignment lacks a file of weights, and none is downloaded during a run: fetch {error} into "
        f"{_checkpoints()} ($TORCH_HOME chooses another folder; it may then ask for up to two more), or use mediapipe"
      ) from error
    except (OSError, RuntimeError) as error:
      raise InputError(
        f"face-alignment cannot load its weights ({brief(error)}); if a file in {_checkpoints()} is damaged, delete it "
        "and fetch it again, or use mediapipe"
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


@contextlib.contextmanager
def _offline() -> Iterator[None]:
  """Whatever asks for a URL or a host's address gets a `_Fetch`; torch's announcement of a download is dropped."""

  def no_url(opener, url, *_, **__):
    raise _Fetch(getattr(url, "full_url", url))

  def no_host(host, *_, **__):
    raise _Fetch(host if isinstance(host, str) else repr(host))

  opened, resolved = urllib.request.OpenerDirector.open, socket.getaddrinfo
  urllib.request.OpenerDirector.open, socket.getaddrinfo = no_url, no_host
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      yield
  finally:
    urllib.request.OpenerDirector.open, socket.getaddrinfo = opened, resolved


def _checkpoints() -> Path:
  """Where torch looks for weights."""
  cache = user_cache() or Path()
  return Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"


def _best_device() -> str:
  with contextlib.suppress(ImportError, AttributeError):
    import torch

    if torch.cuda.is_available():
      return "cuda"
    if torch.backends.mps.is_available():
      return "mps"
  return "cpu"
