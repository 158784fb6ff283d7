"""A run's outcome: what is written of it (`write`) and exported (`result.after`)."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax import results
from vht_jax.app.options.settings import Settings
from vht_jax.app.record import FILES
from vht_jax.app.report.advice import advice, logged_warnings
from vht_jax.dataset.folder import FrameFolder
from vht_jax.head import flame
from vht_jax.tracking.evidence.examine import faded
from vht_jax.types import FlameModel, Status, TrackResult


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a run has come to, and of what."""

  output: Path  # its folder
  settings: Settings
  model: FlameModel  # what the codes are of
  dataset: FrameFolder
  result: TrackResult

  @functools.cached_property
  def person(self) -> FlameModel:
    """The head as the person has it: with their offsets."""
    return flame.with_offset(self.model, self.result.identity.static_offset)

  @functools.cached_property
  def status(self) -> np.ndarray:
    """(T,) `Status`."""
    return np.asarray(self.result.status)

  @functools.cached_property
  def visible(self) -> np.ndarray | None:
    """(T, R) how visible the regions of the face are, if that is known."""
    return None if self.result.visible is None else np.asarray(self.result.visible)

  @functools.cached_property
  def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detected landmarks (T, 70, 2) px, their confidence (T, 70), less where they are hidden; the head's (T, 70, 2)."""
    landmarks, confidence, _ = self.dataset.landmarks()
    if self.visible is not None:
      confidence = faded(confidence, self.visible)
    return landmarks, confidence, results.projected_landmarks(self.model, self.result, self.dataset.size)

  @property
  def fitted_difference(self) -> float | None:
    """Mean over the tracked frames of the difference that the fit has left; None where colours were not fitted."""
    values = np.asarray(self.result.energies.get("photometric_l1", []), np.float64)
    values = values[(self.status == Status.TRACKED) & np.isfinite(values)] if len(values) else values
    return float(values.mean()) if len(values) else None

  def advice(self, summary: dict[str, Any]) -> list[dict[str, str]]:
    """`advice.advice` on this run; the log says what it warned of, before interruptions too."""
    return advice(self.result, summary, logged_warnings(self.output / FILES["log"]))

  @property
  def style(self) -> str:
    """What the overlay shows; 'none' if there is none."""
    return self.settings.app.output.overlay

  @property
  def frame_rate(self) -> float:
    """Of the overlay, frames per second."""
    return self.settings.app.output.frame_rate or self.dataset.fps

  @property
  def video_times(self) -> np.ndarray | None:
    """(T,) s, when the overlay shows each frame, where the source's rate varies: it plays in real time; else None."""
    return None if self.settings.app.output.frame_rate or self.dataset.steady else self.dataset.times
