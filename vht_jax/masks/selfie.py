"""MediaPipe's selfie segmentation: how far each pixel of an image belongs to a person.

The model sees 256 x 256 pixels and knows people at arm's length: `matte` gives it crops like that.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vht_jax.errors import InputError, brief
from vht_jax.host.files import expanded
from vht_jax.host.quiet import quiet_stderr
from vht_jax.landmarks.detectors.mediapipe_mesh import BLACK, import_mediapipe

SIDE = 256  # px, what the model sees
_GENERAL = 0  # of MediaPipe's two models the one for square images
# Read by `_find_model`, where the wheel has no models.
VARIABLE, FILE = "VHT_SELFIE_SEGMENTER", "assets/selfie_segmenter.tflite"


class Segmenter(Protocol):
  """Knows nothing of other frames, so it serves any number of clips; one thread at a time."""

  name: str

  def __call__(self, rgb: np.ndarray) -> np.ndarray:
    """RGB uint8 (h, w, 3) -> float32 (h, w) in [0, 1]: 1 is a person."""
    ...

  def close(self) -> None:
    """Frees the model."""


def make_segmenter(model: str | Path | None = None) -> Segmenter:
  """The segmentation that works here: the one in MediaPipe's wheel, else its Tasks API with a model file.

  Args:
    model: MediaPipe's selfie_segmenter.tflite; None: the wheel's, or the file that $VHT_SELFIE_SEGMENTER names.

  Raises:
    InputError: MediaPipe is missing or has no model: what to do about it.
  """
  mp = import_mediapipe()
  solution = getattr(getattr(mp, "solutions", None), "selfie_segmentation", None)
  if model is None and solution is not None:
    return _Solution(solution)
  return _Task(mp, _find_model(mp, model))


class _Solution:
  """`mp.solutions`, whose wheels carry the model."""

  name = "MediaPipe's selfie segmentation"

  def __init__(self, solution: Any):
    with quiet_stderr():
      self._graph = solution.SelfieSegmentation(_GENERAL)
      self._graph.process(BLACK)  # the graph reports its start-up here and not among the user's messages

  def __call__(self, rgb: np.ndarray) -> np.ndarray:
    return np.array(self._graph.process(np.ascontiguousarray(rgb)).segmentation_mask, np.float32)

  def close(self) -> None:
    self._graph.close()


class _Task:
  """The Tasks API with a model file: the only way on Python 3.13."""

  name = "MediaPipe's selfie segmentation"

  def __init__(self, mp: Any, path: Path):
    self._mp = mp
    warnings.filterwarnings("ignore", message="MessageFactory class", category=UserWarning)  # of mediapipe's protobuf
    try:
      with quiet_stderr():
        from mediapipe.tasks.python import BaseOptions, vision  # takes seconds

        options = vision.ImageSegmenterOptions(
          base_options=BaseOptions(model_asset_path=str(path)),
          running_mode=vision.RunningMode.IMAGE,
          output_confidence_masks=True,
          output_category_mask=False,
        )
        self._segmenter = vision.ImageSegmenter.create_from_options(options)
        self(BLACK)
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
      raise InputError(
        f"{path}: mediapipe {mp.__version__} cannot use it as a segmentation model ({brief(error)}); expected "
        "MediaPipe's selfie_segmenter.tflite"
      ) from error

  def __call__(self, rgb: np.ndarray) -> np.ndarray:
    image = self._mp.Image(image_format=self._mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
    # One mask: the person. Of a model with classes the first is the background.
    masks = [np.array(m.numpy_view(), np.float32) for m in self._segmenter.segment(image).confidence_masks]
    return np.squeeze(masks[0] if len(masks) == 1 else 1.0 - masks[0])

  def close(self) -> None:
    self._segmenter.close()


def _find_model(mp: Any, model: str | Path | None) -> Path:
  tried = [Path(expanded(p)) for p in ([model] if model else [os.environ.get(VARIABLE), FILE]) if p]
  for path in tried:
    if path.is_file():
      return path
  raise InputError(
    f"the person's mask needs MediaPipe's selfie_segmenter.tflite, which mediapipe {mp.__version__} does not bring "
    f"(tried {', '.join(map(str, tried))}); name it by ${VARIABLE}, or use --mask=head, none or a folder of mattes"
  )
