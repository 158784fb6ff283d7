"""What is written of a run's outcome beside the result: overlay, scalars, frames.csv, summary, page, exports."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vht_jax import results
from vht_jax.app import console
from vht_jax.app.overlay.film import SAMPLED, film
from vht_jax.app.record import FILES
from vht_jax.app.report import page
from vht_jax.app.report import summary as summary_
from vht_jax.app.report.outcome import Outcome
from vht_jax.app.result.after import export_run
from vht_jax.types import Status


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
    "focal_sd": None if result.focal_sd is None else float(result.focal_sd),  # of its logarithm; 0: it was given
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
    page.write_page(outcome.output / FILES["report"], outcome.person, result, page.run_of(outcome, summary))
  if options.export:
    export_run(outcome, options.export)
  return summary


def write_overlay(outcome: Outcome, progress: console.Progress, writer: Any) -> float:
  """Writes overlay.mp4 (`film.film`); arguments as for `write_report`.

  Returns:
    Mean over the tracked frames of `film.photometric_l1`.
  """
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
