"""What the user sees of a run: progress, log file, TensorBoard and the summary."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.app.report.advice import DOUBTFUL
from vht_jax.errors import InputError
from vht_jax.host.files import write_atomic
from vht_jax.landmarks.regions import COVERED, REGIONS
from vht_jax.types import Status, TrackResult

log = logging.getLogger("vht_jax")

# Order and meaning of the summary's lines; the names are those of summary.json.
_LINES = (
  ("landmarks", (("nme68_median", "68 points {:.2f} %"), ("nme51_median", "inner 51 {:.2f} %"),
                 ("iris_median", "irises {:.2f} %"), ("jitter_ratio", "jitter {:.2f} x the detector's"))),
  ("image", (("photometric_l1", "mean difference {:.4f} of 1"),)),
  ("truth", (("vertex_mm", "vertices {:.2f} mm"), ("face_mm", "face {:.2f} mm"),
             ("vertex_rigid_mm", "rigid {:.2f} mm"), ("face_rigid_mm", "face {:.2f} mm"))),
  ("", (("focal_error", "focal length {:.1%}"), ("rotation_deg", "rotation {:.2f} deg"), ("jaw_deg", "jaw {:.2f} deg"),
        ("gaze_deg", "gaze {:.2f} deg"))),
  ("time", (("seconds_total", "{:.1f} s"), ("frames_per_second", "{:.2f} frames/s"), ("peak_rss_mb", "{:.0f} MB"))),
)  # fmt: skip


class Progress:
  """Told by the tracker and the app what happens: a bar on a terminal, silent elsewhere; seconds per stage.

  Energies given to `advance` go to TensorBoard when there is a `writer`.
  """

  def __init__(self, writer: Any = None, every: int = 1, silent: bool = False):
    self.seconds: dict[str, float] = {}
    self.writer, self.every, self.silent = writer, every, silent
    self.bar: Any = None
    self.name = ""
    self.placed: Callable[..., None] = lambda identity, poses, seen: None  # as `tracking.protocols.Progress.placed`

  def stage(self, name: str, total: int) -> None:
    from tqdm import tqdm

    self.close()
    self.name, self.start, self.step, self.energies = name, time.perf_counter(), 0, {}
    # None: tqdm is silent when stderr is not a terminal
    disable = self.silent or None
    self.bar = tqdm(total=total, desc=f"{name:<10s}", disable=disable, leave=False, dynamic_ncols=True, unit="frame")

  def advance(self, n: int = 1, **energies: float) -> None:
    if self.bar is None:
      return
    self.step += n
    self.bar.update(n)
    if energies:
      self.energies = energies
      self.bar.set_postfix({k: f"{float(v):.4g}" for k, v in energies.items()}, refresh=False)
      if self.writer is not None and self.step % self.every < n:
        for name, value in energies.items():
          self.writer.add_scalar(f"{self.name}/{name}", float(value), self.step)

  def at(self, done: int, total: int) -> None:
    """The same for callers that count themselves."""
    if self.bar is not None and total:
      self.bar.total = total
    self.advance(done - self.step)

  def note(self, message: str) -> None:
    log.warning(message)

  def remark(self, message: str) -> None:
    """Something that is no warning: in the log, and if there is a terminal on it, beside the bar."""
    from tqdm import tqdm

    log.info(message)
    if not self.silent and sys.stderr.isatty():
      tqdm.write(f"vht-track: {message}", file=sys.stderr)

  def close(self) -> None:
    """Ends the current stage."""
    if self.bar is not None:
      self.bar.close()
      self.bar = None
      elapsed = time.perf_counter() - self.start
      self.seconds[self.name] = self.seconds.get(self.name, 0.0) + elapsed
      last = "".join(f", {k} {float(v):.4g}" for k, v in self.energies.items())
      log.info("%s: %d done in %.1f s%s", self.name, self.step, elapsed, last)


class _BesideBars(logging.Handler):
  """Prints warnings to stderr without tearing a progress bar; errors are the app's to print."""

  def emit(self, record: logging.LogRecord) -> None:
    from tqdm import tqdm

    if record.levelno < logging.ERROR:
      tqdm.write(f"vht-track: {record.getMessage()}", file=sys.stderr)


class _Once(logging.Filter):
  """Lets a warning pass the first time; a clip of many frames would repeat it for each."""

  def __init__(self):
    super().__init__()
    self.seen: set[str] = set()

  def filter(self, record: logging.LogRecord) -> bool:
    if record.levelno != logging.WARNING:
      return True
    message = record.getMessage()
    new = message not in self.seen
    self.seen.add(message)
    return new


class _LogFile(logging.FileHandler):
  """A full disk must not end a run for its log."""

  def handleError(self, record: logging.LogRecord) -> None: ...


def start_log(path: Path, terminal: bool = True) -> Callable[[], None]:
  """Sends every message of the package to a file and warnings to the terminal as well; returns a function to stop."""
  file = _LogFile(path, encoding="utf-8")  # appends: a run may have been interrupted
  file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
  handlers = [file, *([_BesideBars(logging.WARNING)] if terminal else [])]
  for handler in handlers:
    handler.addFilter(_Once())
  names = ("vht_jax", "absl")  # some modules log through absl
  before = []
  for name in names:
    logger = logging.getLogger(name)
    before.append((logger, logger.level, logger.propagate))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
      logger.addHandler(handler)

  def stop():
    for logger, level, propagate in before:
      for handler in handlers:
        logger.removeHandler(handler)
      logger.setLevel(level)
      logger.propagate = propagate
    file.close()

  return stop


def tensorboard_writer(folder: Path) -> Any:
  """A SummaryWriter of tensorboardX.

  Raises:
    InputError: tensorboardX is not installed.
  """
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    raise InputError("--tensorboard needs tensorboardX: pip install 'vht-jax[tensorboard]'") from None
  return SummaryWriter(str(folder))


def write_scalars(writer: Any, result: TrackResult, frames: np.ndarray, every: int) -> None:
  """Energies per frame as TensorBoard scalars, one point every `every` frames; the step is the frame's id."""
  for name, values in result.energies.items():
    for frame, value in list(zip(frames, np.asarray(values)))[::every]:
      if np.isfinite(value):
        writer.add_scalar(f"frame/{name}", float(value), int(frame))


# The summary


def peak_rss_mb() -> float:
  """Largest resident memory of this process so far; NaN where the system does not say (Windows)."""
  try:
    import resource
  except ImportError:
    return float("nan")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, kB on Linux


COVERED_SHARE = 0.02  # of the frames in which a region has to be covered to be mentioned on the terminal


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


def _covered_text(counts: dict[str, int], frames: int) -> str:
  """Those of `covered` that are no accident, in words; '' without any."""
  counts = {name.replace("_", " "): n for name, n in counts.items() if n >= COVERED_SHARE * frames}
  if not counts:
    return ""
  if "right eye" in counts and counts.get("left eye") == counts["right eye"]:
    counts = {"eyes": counts["left eye"]} | {k: n for k, n in counts.items() if not k.endswith("eye")}
  is_ = lambda name: "are" if name == "eyes" else "is"
  parts = [f"the {name} {is_(name)} covered in {n} of {frames} frames" for name, n in counts.items()]
  return "  " + ", ".join(parts) + ": there the head follows the rest of the face, see frames.csv"


def write_summary(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
  """Writes summary.json and returns what it says; numbers that are not finite become null, as JSON has none."""

  def clean(value):
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
  hidden = _covered_text(summary.get("covered", {}), summary["frames"])
  if hidden:
    lines.append(hidden)
  for title, figures in _LINES:
    parts = [text.format(summary[k]) for k, text in figures if summary.get(k) is not None and _finite(summary[k])]
    if parts:
      lines.append(f"  {title:<10s} {'   '.join(parts)}")
  stages = summary.get("stage_seconds", {})
  if summary.get("head"):
    lines.insert(1, f"  {'head':<10s} {head_text(summary['head'])}")
  if stages:
    lines.append(f"  {'':<10s} {'   '.join(f'{k} {v:.1f}' for k, v in stages.items())}")
  lines.append(f"results in {output}: {', '.join(files)}")
  return "\n".join(lines)


def head_text(name: str) -> str:
  """A head as the terminal names it. VHT's users expect FLAME, and files that look the same."""
  return name if name.startswith("FLAME") or not name else f"{name}; its codes are not FLAME's"


def _finite(value: Any) -> bool:
  return not isinstance(value, float) or math.isfinite(value)
