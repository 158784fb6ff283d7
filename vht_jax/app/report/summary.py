"""The summary of a run, on the terminal and in summary.json, and frames.csv."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.app.options.lens import fov_of
from vht_jax.app.record import FILES
from vht_jax.app.report.advice import DOUBTFUL
from vht_jax.host.files import write_atomic
from vht_jax.landmarks.regions import COVERED, REGIONS
from vht_jax.types import Status

WIDTH = 110  # columns of the warnings on the terminal
# Order and meaning of the summary's lines; the names are those of summary.json.
_LINES = (
  ("landmarks", (("nme68_median", "68 points {:.2f} % of the eyes' distance off"),
                 ("nme51_median", "without the contour {:.2f} %"), ("iris_median", "irises {:.2f} %"))),
  ("", (("jitter_ratio", "trembling {:.2f} times that of the detected points"),)),
  ("image", (("photometric_l1", "mean difference {:.4f} of 1 (all of the head, as drawn)"),
             ("photometric_l1_fitted", "{:.4f} (what is fitted: neither eyes nor the mouth's inside)"))),
  # Every frame is first moved, turned and scaled onto the truth by the very vertices that are counted.
  ("truth", (("vertex_mm", "all vertices {:.2f} mm"), ("face_mm", "the face's {:.2f} mm (mean; frames aligned)"))),
  ("", (("vertex_rigid_mm", "aligned without scaling: all {:.2f} mm"), ("face_rigid_mm", "the face's {:.2f} mm"))),
  ("", (("focal_error", "focal length {:.1%}"), ("rotation_deg", "rotation {:.2f} deg"), ("jaw_deg", "jaw {:.2f} deg"),
        ("gaze_deg", "gaze {:.2f} deg"))),
  ("time", (("seconds_total", "{:.1f} s"), ("frames_per_second", "{:.2f} frames/s"), ("peak_rss_mb", "{:.0f} MB"))),
)  # fmt: skip


def peak_rss_mb() -> float:
  """Largest resident memory of this process so far; NaN where the system does not say (Windows)."""
  try:
    import resource  # of POSIX systems
  except ImportError:
    return float("nan")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, kB on Linux


def write_frames(
  path: Path,
  frames: np.ndarray,
  status: np.ndarray,
  confidence: np.ndarray,
  times: np.ndarray,
  sources: Sequence[str],
  regions: np.ndarray | None = None,
  visible: np.ndarray | None = None,
) -> int:
  """frames.csv: how every frame came about and how far it can be trusted, the doubtful ones marked.

  Args:
    path: the file.
    frames, status, confidence: (n,) ids, `Status`, confidence in [0, 1].
    times, sources: (n,) s and names, see `dataset.folder.FrameFolder`.
    regions, visible: (n, R) confidence of the regions of the face, and how visible they are, if that is known.

  Returns:
    The number of doubtful frames: not tracked, or of little confidence.
  """
  doubtful = (status != Status.TRACKED) | (confidence < DOUBTFUL)
  columns = {
    "frame": frames,
    "status": [Status(s).name.lower() for s in status],
    "confidence": [f"{c:.3f}" for c in confidence],
    "note": ["doubtful" if d else "" for d in doubtful],
  }
  if regions is not None and visible is not None:
    hidden = (visible < COVERED) & (status == Status.TRACKED)[:, None]
    columns["covered"] = [" ".join(np.array(REGIONS)[h]) for h in hidden]
    columns |= {name: [f"{c:.3f}" for c in column] for name, column in zip(REGIONS, regions.T)}
  columns |= {"time_s": [f"{t:.6f}" for t in times], "source": sources}
  text = io.StringIO()
  table = csv.writer(text, lineterminator="\n")
  table.writerows([list(columns), *zip(*columns.values())])
  write_atomic(Path(path), text.getvalue().encode("utf-8", "surrogateescape"))  # names may be no text
  return int(doubtful.sum())


def covered(visible: np.ndarray | None, status: np.ndarray) -> dict[str, int]:
  """In how many tracked frames each region of the face is covered, those that are in any."""
  if visible is None:
    return {}
  counts = (visible[status == Status.TRACKED] < COVERED).sum(axis=0)
  return {name: int(count) for name, count in zip(REGIONS, counts) if count}


def write_summary(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
  """Writes summary.json and returns what it says; numbers that are not finite become null, as JSON has none."""

  def clean(value: Any) -> Any:
    if isinstance(value, dict):
      return {k: clean(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

  cleaned = clean(summary)
  write_atomic(Path(path), (json.dumps(cleaned, indent=2) + "\n").encode())
  return cleaned


def summary_text(summary: dict[str, Any], output: Path, files: Iterable[str]) -> str:
  """The summary on one screen."""
  lines = [f"tracked {summary['tracked']} of {summary['frames']} frames"]
  if summary.get("doubtful"):
    lines[0] += f"; {summary['doubtful']} are doubtful, see frames.csv"
  for title, figures in _LINES:
    parts = [text.format(summary[k]) for k, text in figures if summary.get(k) is not None and _finite(summary[k])]
    if parts:
      lines.append(f"  {title:<10s} {'   '.join(parts)}")
  stages = summary.get("stage_seconds", {})
  if summary.get("focal"):
    lines.insert(1, f"  {'camera':<10s} {lens_text(summary['focal'], summary.get('focal_sd'))}")
  if summary.get("head"):
    lines.insert(1, f"  {'head':<10s} {head_text(summary['head'])}")
  if stages:
    lines.append(f"  {'':<10s} {'   '.join(f'{k} {v:.1f}' for k, v in stages.items())}")
  for level, mark in (("warnings", "!"), ("notes", "-")):
    for text in summary.get(level) or ():
      lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {mark} ", subsequent_indent="    ", break_on_hyphens=False)
  files = list(files)
  lines.append(f"results in {output}: {', '.join(files)}")
  if FILES["report"] in files:
    lines.append(f"open {output / FILES['report']} in a browser to look at it")
  return "\n".join(lines)


def head_text(name: str) -> str:
  """A head as the terminal names it. VHT's users expect FLAME, and files that look the same."""
  return name if name.startswith("FLAME") or not name else f"{name}; its codes are not FLAME's"


def lens_text(focal: float, sd: float | None) -> str:
  """A focal length as the terminal tells it.

  Args:
    focal: in units of the longer side.
    sd: relative standard deviation; 0: it was given; None: nothing is known of it.
  """
  known = ", as given" if sd == 0 else "" if sd is None else f" ± {focal * sd:.2f}"
  return f"focal length {focal:.2f}{known} (1 is the longer side)   field of view {fov_of(focal):.0f} deg"


def _finite(value: Any) -> bool:
  return not isinstance(value, float) or math.isfinite(value)
