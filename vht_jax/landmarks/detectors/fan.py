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
from vht_jax.landmarks.crop import quarter_of, turned, turned_back
from vht_jax.landmarks.detection import Detection, estimate_roll, plausible_iris
from vht_jax.landmarks.detectors.mediapipe_mesh import MediaPipeDetector
from vht_jax.landmarks.person import Person, bounds, overlap

# Mean distance in eye distances from MediaPipe's points at which one of the two is wrong. Two detectors that are right
# are 0.035 to 0.05 apart (dlib and MediaPipe on three videos), a face found upside down 0.9 or more.
_APART = 0.3


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
      import face_alignment  # an optional extra
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
    quarter = 0 if mesh is None else quarter_of(estimate_roll(mesh.landmarks))
    locate = lambda box: self._locate(rgb, box, quarter)
    box = self._person.choose(self._find(rgb, quarter), rgb, locate)
    detection = None if box is None else self._detection(box, locate(box), mesh)
    followed = not self._person.wary
    if box is None or detection is None or self._person.doubts(rgb, detection.landmarks, followed=followed):
      self._person.missed()
      return None
    self._person.saw(box, rgb, detection.landmarks)
    return detection

  def look(self, rgb: np.ndarray, box: np.ndarray) -> Detection | None:
    """The face at `box` (4,) px, looked for from nothing."""
    mesh = None if self._mesh is None else self._mesh.look(rgb, box)
    quarter = 0 if mesh is None else quarter_of(estimate_roll(mesh.landmarks))
    near = max(self._find(rgb, quarter), key=lambda other: overlap(other, box), default=None)
    if near is None or overlap(near, box) < 0.1:
      return None
    return self._detection(near, self._locate(rgb, near, quarter), mesh)

  def faces(self, rgb: np.ndarray) -> list[np.ndarray]:
    """(5,) x0, y0, x1, y1 px, score of every face in an image."""
    return self._find(rgb, 0)

  def _find(self, rgb: np.ndarray, quarter: int) -> list[np.ndarray]:
    """`faces` of the image turned by so many quarters, where they are in the image."""
    boxes = []
    for found in self._fan.face_detector.detect_from_image(turned(rgb, quarter)):
      found = np.asarray(found, np.float32)[:5]
      corners = turned_back(found[:4].reshape(2, 2), quarter, (rgb.shape[1], rgb.shape[0]))
      boxes.append(np.append(bounds(corners), found[4]).astype(np.float32))
    return boxes

  def _locate(self, rgb: np.ndarray, box: np.ndarray, quarter: int) -> np.ndarray | None:
    """(68, 2) px of the face in `box` from the image turned by so many quarters."""
    height, width = rgb.shape[:2]
    size = (width, height) if quarter % 2 == 0 else (height, width)
    box = np.append(bounds(turned_back(box[:4].reshape(2, 2), -quarter % 4, size)), box[4])
    found = self._fan.get_landmarks_from_image(turned(rgb, quarter), detected_faces=[box])
    return turned_back(np.asarray(found[0], np.float32)[:68, :2], quarter, (width, height)) if found else None

  def _detection(self, box: np.ndarray, landmarks: np.ndarray | None, mesh: Detection | None) -> Detection | None:
    """None when MediaPipe's mesh of the same face says something else."""
    if landmarks is None:
      return None
    if mesh is None or overlap(mesh.bounding_box, box) <= 0.3:
      return Detection(box, landmarks, None, None, float(box[4]))
    apart = np.hypot(*(landmarks - mesh.landmarks).T).mean()
    if apart > _APART * max(float(np.hypot(*(mesh.landmarks[45] - mesh.landmarks[36]))), 1.0):
      return None
    iris = plausible_iris(landmarks, mesh.iris)
    return Detection(box, landmarks, iris, mesh.dense, float(box[4]), mesh.disagreement, mesh.apart)

  def cut(self) -> None:
    """The next frame is the first of another shot."""
    self._person.next_shot()
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
  opener: Any = urllib.request.OpenerDirector
  opener.open, socket.getaddrinfo = no_url, no_host
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      yield
  finally:
    opener.open, socket.getaddrinfo = opened, resolved


def _checkpoints() -> Path:
  """Where torch looks for weights."""
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"  # on every system; torch does not know platformdirs
  return Path(os.environ.get("TORCH_HOME") or os.path.expanduser(f"{cache}/torch")) / "hub" / "checkpoints"


def _best_device() -> str:
  with contextlib.suppress(ImportError, AttributeError):
    import torch  # comes with face_alignment

    if torch.cuda.is_available():
      return "cuda"
    if torch.backends.mps.is_available():
      return "mps"
  return "cpu"
