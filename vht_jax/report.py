"""What the user sees of a run: progress, log file, overlay video, TensorBoard and the summary."""

from __future__ import annotations

import functools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vht_jax.errors import InputError
from vht_jax.files import write_atomic
from vht_jax.landmarks.regions import COVERED, REGIONS
from vht_jax.programs import rows_of, stored
from vht_jax.render import render_head
from vht_jax.types import FlameModel, Identity, Pose, Status, TrackResult

log = logging.getLogger("vht_jax")

PANEL = 640  # px, longest side of one of the overlay's four pictures
DETECTED, PROJECTED = (60, 220, 60), (255, 60, 200)  # RGB of the points
RENDER_CHUNK = 4  # frames rendered at once

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

  def __init__(self, writer: Any = None, every: int = 1):
    self.seconds: dict[str, float] = {}
    self.writer, self.every = writer, every
    self.bar: Any = None
    self.name = ""

  def stage(self, name: str, total: int) -> None:
    from tqdm import tqdm

    self.close()
    self.name, self.start, self.step, self.energies = name, time.perf_counter(), 0, {}
    # disable=None: tqdm is silent when stderr is not a terminal
    self.bar = tqdm(total=total, desc=f"{name:<10s}", disable=None, leave=False, dynamic_ncols=True, unit="frame")

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


def start_log(path: Path) -> Callable[[], None]:
  """Sends every message of the package to a file and warnings to the terminal as well; returns a function to stop."""
  file = _LogFile(path, encoding="utf-8")  # appends: a run may have been interrupted
  file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
  terminal = _BesideBars(logging.WARNING)
  for handler in (file, terminal):
    handler.addFilter(_Once())
  names = ("vht_jax", "absl")  # some modules log through absl
  before = []
  for name in names:
    logger = logging.getLogger(name)
    before.append((logger, logger.level, logger.propagate))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(file)
    logger.addHandler(terminal)

  def stop():
    for logger, level, propagate in before:
      logger.removeHandler(file)
      logger.removeHandler(terminal)
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


# The overlay video


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
  """(h, w) of one of the overlay's pictures of frames of `size` (H, W): even (H.264 wants it), at most `PANEL`."""
  scale = min(1.0, PANEL / max(size))
  height, width = (max(2, round(n * scale / 2) * 2) for n in size)
  return height, width


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """An (H, W, 3) uint8 image as (h, w, 3), averaging."""
  import cv2

  return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def panels(
  image: np.ndarray,
  rgb: np.ndarray,
  alpha: np.ndarray,
  detected: np.ndarray,
  confidence: np.ndarray,
  projected: np.ndarray,
  caption: str = "",
) -> np.ndarray:
  """One picture of the overlay: input | render | overlay | landmarks, in two rows (portraits: in one).

  Args:
    image: (H, W, 3) uint8, of `panel_size`.
    rgb, alpha: (H, W, 3), (H, W) rendering in [0, 1].
    detected: (70, 2) px, green; those with (70,) `confidence` 0 are left out.
    projected: (70, 2) px, pink, joined to the detected ones.
    caption: written on the landmarks.

  Returns:
    (h, w, 3) uint8 with even sides.
  """
  import cv2

  height, width = image.shape[:2]
  a = np.clip(alpha, 0.0, 1.0)[..., None]
  render = np.clip(rgb, 0.0, 1.0) * a * 255.0 + 40.0 * (1.0 - a)
  mixed = image * (1.0 - 0.65 * a) + np.clip(rgb, 0.0, 1.0) * 255.0 * 0.65 * a
  pictures = [p.astype(np.uint8) for p in (image, render, mixed, image)]
  points = pictures[3]
  # Sub-pixel drawing: OpenCV takes 1/16 px, and its pixel centres are whole numbers where ours are halves.
  fixed = [np.round((np.nan_to_num(p) - 0.5) * 16).astype(int).clip(-(2**18), 2**18) for p in (detected, projected)]
  radius = max(2, round(max(height, width) / 280))
  for i in range(len(detected)):
    if confidence[i] > 0:
      cv2.line(points, fixed[0][i], fixed[1][i], (255, 255, 255), 1, cv2.LINE_AA, 4)
      cv2.circle(points, fixed[0][i], radius * 16, DETECTED, -1, cv2.LINE_AA, 4)
    cv2.circle(points, fixed[1][i], radius * 16, PROJECTED, -1, cv2.LINE_AA, 4)
  for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
    cv2.putText(points, caption, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, thickness, cv2.LINE_AA)
  if height > 1.4 * width:
    return np.concatenate(pictures, axis=1)
  return np.concatenate([np.concatenate(pictures[:2], axis=1), np.concatenate(pictures[2:], axis=1)])


@functools.partial(stored, static_argnames=("size",))
def render(model: FlameModel, identity: Identity, poses: Pose, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
  """rgb (n, H, W, 3) and alpha (n, H, W) of the head in n poses, in images of `size` = (H, W)."""

  def one(pose):
    picture = render_head(model, identity, pose, size)
    return picture.rgb, picture.alpha

  return jax.vmap(one)(poses)


def rendered(
  render: Callable[[Pose], tuple[Any, Any]], poses: Pose, indices: Iterable[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
  """(index, rgb (H, W, 3), alpha (H, W)) of some frames; `render` takes `RENDER_CHUNK` poses at once."""
  indices = list(indices)
  for start in range(0, len(indices), RENDER_CHUNK):
    chunk = indices[start : start + RENDER_CHUNK]
    rows = np.array(chunk + chunk[-1:] * (RENDER_CHUNK - len(chunk)))  # always the same size: one compilation
    rgb, alpha = render(rows_of(poses, rows))
    rgb, alpha = np.asarray(rgb), np.asarray(alpha)
    for k, i in enumerate(chunk):
      yield i, rgb[k], alpha[k]


def photometric_l1(image: np.ndarray, rgb: np.ndarray, alpha: np.ndarray) -> float:
  """Mean absolute difference between a (H, W, 3) uint8 image and its rendering where the head is; NaN if nowhere."""
  inside = alpha > 0.5
  if not inside.any():
    return float("nan")
  return float(np.abs(image[inside] / 255.0 - np.clip(rgb[inside], 0.0, 1.0)).mean())


def caption(frame: int, status: int) -> str:
  """What is written on a frame of the overlay: its id, and how it came about if it was not tracked."""
  text = f"frame {frame}"
  return text if status == Status.TRACKED else f"{text}: {Status(status).name.lower().replace('_', ' ')}"


# The summary


def peak_rss_mb() -> float:
  """Largest resident memory of this process so far; NaN where the system does not say (Windows)."""
  try:
    import resource
  except ImportError:
    return float("nan")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, kB on Linux


DOUBTFUL = 0.5  # frames of less confidence are listed
COVERED_SHARE = 0.02  # of the frames in which a region has to be covered to be mentioned on the terminal


def write_frames(
  path: Path,
  frames: np.ndarray,
  status: np.ndarray,
  confidence: np.ndarray,
  regions: np.ndarray | None = None,
  visible: np.ndarray | None = None,
) -> int:
  """frames.csv: how every frame came about and how far it can be trusted, the doubtful ones marked.

  With (n, R) confidences of the `regions` of the face and how `visible` they are also these, and which are covered.

  Returns:
    The number of doubtful frames: not tracked, or of little confidence.
  """
  doubtful = (status != Status.TRACKED) | (confidence < DOUBTFUL)
  rows = [
    f"{frame},{Status(s).name.lower()},{c:.3f},{'doubtful' if d else ''}"
    for frame, s, c, d in zip(frames, status, confidence, doubtful)
  ]
  head = "frame,status,confidence,note"
  if regions is not None and visible is not None:
    names = np.array(REGIONS)
    head += f",covered,{','.join(REGIONS)}"
    hidden = (visible < COVERED) & (status == Status.TRACKED)[:, None]
    rows = [
      f"{row},{' '.join(names[h])},{','.join(f'{c:.3f}' for c in r)}" for row, h, r in zip(rows, hidden, regions)
    ]
  write_atomic(Path(path), ("\n".join([head, *rows]) + "\n").encode())
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


def write_summary(path: Path, summary: dict[str, Any]) -> None:
  """summary.json; numbers that are not finite become null, as JSON has none."""

  def clean(value):
    if isinstance(value, dict):
      return {k: clean(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

  write_atomic(Path(path), (json.dumps(clean(summary), indent=2) + "\n").encode())


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
  if stages:
    lines.append(f"  {'':<10s} {'   '.join(f'{k} {v:.1f}' for k, v in stages.items())}")
  lines.append(f"results in {output}: {', '.join(files)}")
  return "\n".join(lines)


def _finite(value: Any) -> bool:
  return not isinstance(value, float) or math.isfinite(value)
