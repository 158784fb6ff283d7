"""A run's outcome, and what is written of it beside the result: overlay, scalars, frames.csv, summary, page."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vht_jax import results
from vht_jax.app import console
from vht_jax.app.record import FILES
from vht_jax.app.report import summary as summary_
from vht_jax.app.report.advice import advice, logged_warnings
from vht_jax.head import flame
from vht_jax.tracking.evidence.examine import faded
from vht_jax.types import FlameModel, Status, TrackResult

if TYPE_CHECKING:
  from vht_jax.app.options.settings import Settings
  from vht_jax.dataset.folder import FrameFolder


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


def write_report(outcome: Outcome, progress: console.Progress, writer: Any, start: float) -> dict[str, Any]:
  """Writes overlay, scalars, frames.csv, summary and page; returns the summary.

  Args:
    outcome: of the run.
    progress: told of every frame of the overlay.
    writer: TensorBoard's, or None.
    start: when the run began, by `time.perf_counter`.
  """
  options, dataset, result = outcome.settings.app.output, outcome.dataset, outcome.result
  frames = np.asarray(dataset.frame_ids)
  if writer is not None:
    console.write_scalars(writer, result, frames, options.energy_log_freq)
  landmarks, confidence, projected = outcome.points
  tracked = outcome.status == Status.TRACKED
  trust = np.ones(len(frames)) if result.confidence is None else np.asarray(result.confidence)
  regions = None if result.region_confidence is None else np.asarray(result.region_confidence)
  doubtful = summary_.write_frames(
    outcome.output / FILES["frames"], frames, outcome.status, trust, dataset.times, dataset.sources, regions,
    outcome.visible,
  )  # fmt: skip
  difference = write_overlay(outcome, progress, writer)
  progress.close()
  seconds = time.perf_counter() - start
  summary = {
    "input": outcome.settings.app.input.video or outcome.settings.app.input.data_path,
    "output": str(outcome.output),
    "frames": len(frames),
    "tracked": int(tracked.sum()),
    "doubtful": doubtful,
    "covered": summary_.covered(outcome.visible, outcome.status),
    **results.landmark_figures(projected, landmarks, confidence, tracked & (confidence[:, :68] > 0).any(axis=1)),
    "photometric_l1": difference,
    "photometric_l1_fitted": outcome.fitted_difference,
    **(results.geometry_figures(outcome.person, result, frames, options.truth) if options.truth else {}),
    "seconds_total": seconds,
    "frames_per_second": len(frames) / seconds,
    "stage_seconds": {**progress.seconds, **{k: float(v) for k, v in result.timing.items()}},
    "peak_rss_mb": summary_.peak_rss_mb(),
    "head": outcome.model.name,
    "focal": float(result.identity.camera.focal),
    "image_size": [int(x) for x in dataset.size],
    "source_first": dataset.sources[0],
    "source_last": dataset.sources[-1],
    "seconds_of_video": float(dataset.times[-1]),
    "times_assumed": dataset.times_assumed,
  }
  told = outcome.advice(summary)
  summary |= {level + "s": [a["text"] for a in told if a["level"] == level] for level in ("warning", "note")}
  summary = summary_.write_summary(outcome.output / FILES["summary"], summary)
  if options.report:
    from vht_jax.app.report import page

    page.write_page(outcome.output / FILES["report"], outcome.person, result, page.run_of(outcome, summary))
  if options.export:
    from vht_jax.app.result.after import export_run

    export_run(outcome, options.export)
  return summary


def write_overlay(outcome: Outcome, progress: console.Progress, writer: Any) -> float:
  """Writes overlay.mp4 (`film.film`); arguments as for `write_report`.

  Returns:
    Mean over the tracked frames of `film.photometric_l1`.
  """
  from vht_jax.app.overlay.film import SAMPLED, film

  dataset, options = outcome.dataset, outcome.settings.app.output
  written = outcome.style != "none"

  def show(i: int, picture: np.ndarray) -> None:
    if writer is not None and i % options.img_log_freq == 0:
      writer.add_image("tracking_result", picture, int(dataset.frame_ids[i]), dataformats="HWC")

  progress.stage("report", len(dataset) if written else min(len(dataset), SAMPLED))
  return film(
    outcome.person, outcome.result, dataset, outcome.points, outcome.output / FILES["overlay"] if written else None,
    style=outcome.style if written else "compare", fps=outcome.frame_rate,
    times=outcome.video_times, progress=progress.advance, show=show,
  )  # fmt: skip
