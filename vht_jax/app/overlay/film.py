"""overlay.mp4: frames are rendered, composed and encoded, each in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.app.overlay import draw
from vht_jax.dataset.folder import FrameFolder
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
    style: see `overlay.compose`.
    fps: frames per second.
    times: (T,) s, when each frame is shown, if not at that rate.
    progress: told how many frames are done.
    show: called with every frame's number and picture.

  Returns:
    Mean over the tracked frames that were rendered of `photometric_l1`.
  """
  n, size = len(dataset), dataset.size
  sampled = sorted({round(i) for i in np.linspace(0, n - 1, min(n, SAMPLED))})
  frame = draw.windows(points[2][:, :68], size)
  panel = draw.window_panel(frame)
  scale = np.array([panel[1] / frame.size[1], panel[0] / frame.size[0]], np.float32)
  look = draw.make_look(model, result.identity)
  origins, whole = frame.origin.astype(np.float32), np.array(size, np.float32)

  def rendered(chosen: list[int], clay: bool) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    def render(chunk: list[int]) -> tuple[np.ndarray, np.ndarray]:
      rows = np.array(chunk + chunk[-1:] * (CHUNK - len(chunk)))  # always as many: one compilation
      rgb, alpha = draw.pictures(
        model, look, result.identity, rows_of(result.poses, rows), origins[rows], scale, whole, panel, clay
      )
      return np.asarray(rgb), np.asarray(alpha)

    chunks = [chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK)]
    for chunk, pictures in zip(chunks, prefetched(render, chunks)):
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
    write_video(path, ahead(pictures(), AHEAD), fps, times)
  if path is None or style in ("mesh", "landmarks"):
    for i, rgb, alpha in rendered(sampled, False):
      measured(i, draw.crop(dataset.image(i), origins[i], frame.size, panel), rgb, alpha)
      if path is None:
        progress(1)
  finite = [d for d in differences if np.isfinite(d)]
  return float(np.mean(finite)) if finite else float("nan")


def still(model: FlameModel, identity: Identity, poses: Pose, dataset: FrameFolder, i: int) -> np.ndarray:
  """(h, w, 3) uint8: the head over frame i, half transparent.

  The program is the one that renders the film of a head that fills the frame.
  """
  size = dataset.size
  panel = draw.panel_size(size, draw.PANEL)
  origins = np.zeros((CHUNK, 2), np.float32)
  scale = np.array([panel[1] / size[1], panel[0] / size[0]], np.float32)
  rows = rows_of(poses, np.full(CHUNK, i))
  rgb, alpha = draw.pictures(
    model, draw.make_look(model, identity), identity, rows, origins, scale, np.array(size, np.float32), panel, False
  )
  image = draw.crop(dataset.image(i), origins[0], size, panel)
  nothing = np.zeros((0, 2))
  head = np.asarray(rgb[0]), draw.OPACITY * np.asarray(alpha[0])
  return draw.compose(draw.Shown(image, *head, nothing, np.zeros(0), nothing, f"frame {i}"), "texture")


def ahead(items: Iterable[Any], depth: int) -> Iterator[Any]:
  """`items`, made by a thread of their own that is at most `depth` in front; its error is raised here.

  When the caller stops early the thread ends as well.
  """
  waiting: queue.Queue = queue.Queue(depth)
  stopped = threading.Event()
  end = object()

  def put(item: Any) -> bool:
    while not stopped.is_set():
      try:
        waiting.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def work() -> None:
    try:
      for item in items:
        if not put((item, None)):
          return
      put((end, None))
    except BaseException as error:
      put((end, error))

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  try:
    while True:
      item, error = waiting.get()
      if error is not None:
        raise error
      if item is end:
        return
      yield item
  finally:
    stopped.set()
    thread.join()


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
