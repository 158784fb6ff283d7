"""overlay.mp4: frames are rendered, composed and encoded, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from vht_jax.app.overlay import draw, window
from vht_jax.dataset.folder import FrameFolder
from vht_jax.host.prefetch import made_ahead
from vht_jax.host.programs import prefetched, rows_of
from vht_jax.types import FlameModel, Identity, Pose, Status, TrackResult
from vht_jax.video.codec import write_video

CHUNK = 4  # frames rendered at once
AHEAD = 8  # pictures that wait for the encoder
SAMPLED = 50  # frames that are rendered for the mean difference alone


def film(
  model: FlameModel,
  result: TrackResult,
  dataset: FrameFolder,
  points: tuple[np.ndarray, np.ndarray, np.ndarray],
  path: Path | None,
  *,
  style: str = "compare",
  fps: float = 25.0,
  times: np.ndarray | None = None,
  progress: Callable[[int], None] = lambda n: None,
  show: Callable[[int, np.ndarray], None] = lambda i, picture: None,
) -> float:
  """Writes the overlay of a result.

  Args:
    model, result, dataset: of the run.
    points: detected landmarks (T, 70, 2) px, their confidence (T, 70), the head's landmarks (T, 70, 2) px.
    path: the .mp4; None: only the difference is measured, on some frames.
    style: see `draw.compose`.
    fps: frames per second.
    times: (T,) s, when each frame is shown, if not at that rate.
    progress: told how many frames are done.
    show: called with every frame's number and picture.

  Returns:
    Mean over the tracked frames that were rendered of `photometric_l1`.
  """
  n = len(dataset)
  sampled = sorted({round(i) for i in np.linspace(0, n - 1, min(n, SAMPLED))})
  frame = window.windows(points[2][:, :68], dataset.size)
  studio = Studio(model, result.identity, dataset.size, frame)
  panel, scale, origins = studio.panel, studio.scale, studio.origins

  def rendered(chosen: list[int], clay: bool) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    chunks = [chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK)]
    for chunk, pictures in zip(chunks, prefetched(lambda chunk: studio.render(result.poses, chunk, clay), chunks)):
      yield from zip(chunk, *pictures)

  status, differences = np.asarray(result.status), []

  def measured(i: int, image: np.ndarray, rgb: np.ndarray, alpha: np.ndarray) -> None:
    if status[i] == Status.TRACKED:
      differences.append(photometric_l1(image, rgb, alpha))

  def pictures() -> Iterator[np.ndarray]:
    nothing = np.zeros((*panel, 3), np.float32), np.zeros(panel, np.float32)
    todo = list(range(n))
    for i, rgb, alpha in ((i, *nothing) for i in todo) if style == "landmarks" else rendered(todo, style == "mesh"):
      full = dataset.image(i)
      image = draw.crop(full, origins[i], frame.size, panel)
      if style in ("compare", "texture"):
        measured(i, image, rgb, alpha)
      detected, projected = ((p[i] - origins[i]) * scale for p in (points[0], points[2]))
      inset = draw.inset(full, origins[i], frame.size, panel) if frame.zoomed and style == "compare" else None
      text = caption(dataset.frame_ids[i], status[i])
      shown = draw.Shown(image, rgb, alpha, detected, points[1][i], projected, text, inset)
      picture = draw.compose(shown, style)
      show(i, picture)
      progress(1)
      yield picture

  if path is not None:
    write_video(path, made_ahead(pictures(), AHEAD), fps, None if times is None else times.tolist())
  if path is None or style in ("mesh", "landmarks"):
    for i, rgb, alpha in rendered(sampled, False):
      measured(i, draw.crop(dataset.image(i), origins[i], frame.size, panel), rgb, alpha)
      if path is None:
        progress(1)
  finite = [d for d in differences if np.isfinite(d)]
  return float(np.mean(finite)) if finite else float("nan")


class Pictures(Protocol):
  """Frames to be drawn on."""

  size: tuple[int, int]  # (H, W) px
  frame_ids: np.ndarray  # (T,) the numbers of their folders

  def __len__(self) -> int: ...

  def image(self, i: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    ...


def still(model: FlameModel, identity: Identity, poses: Pose, dataset: Pictures, i: int) -> np.ndarray:
  """(h, w, 3) uint8: the head over frame i, half transparent.

  The program is the one that renders the film of a head that fills the frame.
  """
  frame = window.whole_window(len(dataset), dataset.size)
  studio = Studio(model, identity, dataset.size, frame)
  rgb, alpha = studio.render(poses, [i])
  image = draw.crop(dataset.image(i), studio.origins[i], frame.size, studio.panel)
  nothing = np.zeros((0, 2))
  head = rgb[0], draw.OPACITY * alpha[0]
  return draw.compose(draw.Shown(image, *head, nothing, np.zeros(0), nothing, caption(dataset.frame_ids[i])), "texture")


class Studio:
  """Renders the head of a clip in the windows of its frames."""

  def __init__(self, model: FlameModel, identity: Identity, size: tuple[int, int], frame: window.Window):
    """`size`: (H, W) px of the frames; `frame`: what of each is looked at."""
    self.model, self.identity, self.look = model, identity, draw.make_look(model, identity)
    self.panel = window.window_panel(frame)
    self.scale = np.array([self.panel[1] / frame.size[1], self.panel[0] / frame.size[0]], np.float32)
    self.origins, self.whole = frame.origin.astype(np.float32), np.array(size, np.float32)

  def render(self, poses: Pose, chosen: list[int], clay: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """rgb (CHUNK, h, w, 3) and alpha (CHUNK, h, w) of at most `CHUNK` of the frames, the last one repeated.

    Always as many: one compilation.
    """
    rows = np.array(chosen + chosen[-1:] * (CHUNK - len(chosen)))
    rgb, alpha = draw.pictures(
      self.model, self.look, self.identity, rows_of(poses, rows), self.origins[rows], self.scale, self.whole,
      self.panel, clay,
    )  # fmt: skip
    return np.asarray(rgb), np.asarray(alpha)


def photometric_l1(image: np.ndarray, rgb: np.ndarray, alpha: np.ndarray) -> float:
  """Mean absolute difference between a (H, W, 3) uint8 image and its rendering where the head is; NaN if nowhere."""
  inside = alpha > 0.5
  if not inside.any():
    return float("nan")
  seen = image[inside].astype(np.float32) / np.float32(255)
  return float(np.abs(seen - np.clip(rgb[inside], 0.0, 1.0)).mean(dtype=np.float64))


def caption(frame: int, status: int = Status.TRACKED) -> str:
  """What is written on a frame of the overlay: its id, and how it came about if it was not tracked."""
  text = f"frame {frame}"
  return text if status == Status.TRACKED else f"{text}: {Status(status).name.lower().replace('_', ' ')}"
