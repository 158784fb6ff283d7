"""Which part of a clip's images a crop shows."""

from __future__ import annotations

import logging

import numpy as np

from vht_jax.errors import InputError
from vht_jax.masks.boxes import smoothed
from vht_jax.results.export.images.views import Viewed, Views, seen_through
from vht_jax.results.export.scene import Scene
from vht_jax.types import Status

CROPS = ("none", "head", "frame", "square")
MARGIN = 0.12  # of the head's longer side, on each side: hair, and room for what the fit is off by
SMOOTH = 4.0  # frames, sigma of the windows that follow a head
_JUMP = 0.5  # of the window's side by which a head moves from one frame to the next only where the film is cut
_BEYOND = 0.5  # of the image by which a head may reach out of it; a pose further off is no reason for a larger crop

log = logging.getLogger("vht_jax")


def cropped(scene: Scene, crop: str = "none", side: int | None = None) -> Scene:
  """The scene of square images.

  Args:
    scene: the clip.
    crop: 'head': one window for all frames, which covers the head in all of them; 'frame': a window for each frame,
      which follows the head; 'square': the whole image; 'none': the image as it is, or with a `side` as 'square'.
    side: of the images, px; None: as many as the window has.

  Raises:
    InputError: no such crop, a side that is no size of an image, or no head in sight.
  """
  if crop not in CROPS:
    raise InputError(f"--crop: expected one of {', '.join(CROPS)}; found {crop!r}")
  if side is not None and not 16 <= side <= 16384:
    raise InputError(f"--size: expected 16 to 16384 pixels; found {side}")
  if crop == "none" and side is None:
    return scene
  n, (height, width) = len(scene), scene.size
  if crop in ("none", "square"):
    length = float(max(scene.size))
    corner = np.floor((np.array([width, height]) - length) / 2)
    corners, lengths = np.tile(corner, (n, 1)), np.full(n, length)
  else:
    corners, lengths = window_of(head_boxes(scene), crop == "frame")
  asked = side
  if side is None:  # whole pixels of the images, so that they are copied; windows that change in size get the largest's
    side = int(np.ceil(lengths.max() - 1e-6))
    corners = np.floor(corners + (lengths[:, None] - side) / 2 + 0.5) if np.ptp(lengths) < 1e-6 else corners
    lengths = np.full(n, float(side)) if np.ptp(lengths) < 1e-6 else lengths
  views = Views(corners, side / lengths, (side, side))
  found = seen_through(scene, views, asked)
  scale = _scale(found, views)
  log.info("images: %d x %d px, crop %s%s", side, side, crop, f", enlarged by {scale:.2g}" if scale > 1.05 else "")
  return found


def head_boxes(scene: Scene) -> np.ndarray:
  """(T, 4) x0, y0, x1, y1 px around the head's surface, within reach of the image; NaN where there is no head.

  Raises:
    InputError: nowhere.
  """
  used = np.unique(np.asarray(scene.model.faces))
  height, width = scene.size
  low, high = -_BEYOND * np.array([width, height]), (1 + _BEYOND) * np.array([width, height])
  boxes = np.full((len(scene), 4), np.nan)
  status = np.asarray(scene.result.status)
  for i in np.flatnonzero(status != Status.NO_FACE).tolist():
    if scene.camera_vertices(i)[used, 2].min() > 0:
      points = scene.pixels(i)[used]
      boxes[i] = np.concatenate([np.clip(points.min(axis=0), low, high), np.clip(points.max(axis=0), low, high)])
  boxes[~((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 1)] = np.nan
  if np.isnan(boxes).all():
    raise InputError("--crop: no frame shows a head to crop to")
  return boxes


def window_of(boxes: np.ndarray, follow: bool) -> tuple[np.ndarray, np.ndarray]:
  """Corners (T, 2) and sides (T,) px of squares around boxes (T, 4) with `MARGIN`; rows of NaN are bridged.

  `follow`: one for each frame, moving smoothly, as large as it takes to cover the head in all of them; else the same
  for all.
  """
  n = len(boxes)
  known = np.flatnonzero(~np.isnan(boxes[:, 0]))
  boxes = np.stack([np.interp(np.arange(n), known, column[known]) for column in boxes.T], axis=1)
  if not follow:
    boxes = np.tile(np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]), (n, 1))
  centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
  if follow:
    rows = np.column_stack([centre, np.log(side)])
    jumps = np.abs(np.diff(centre, axis=0)).max(axis=1) > _JUMP * np.minimum(side[1:], side[:-1])
    for shot in np.split(np.arange(n), np.flatnonzero(jumps) + 1):
      rows[shot] = smoothed(rows[shot], SMOOTH)
    centre, side = rows[:, :2], np.exp(rows[:, 2])
    reach = 2 * np.maximum(boxes[:, 2:] - centre, centre - boxes[:, :2]).max(axis=1)
    side = side * float((reach / side).max())
  side = side * (1 + 2 * MARGIN)
  return centre - side[:, None] / 2, side


def _scale(scene: Scene, views: Views) -> float:
  """Pixels of the pictures per pixel of the files that they are made from, at most."""
  if isinstance(scene.pictures, Viewed):
    return float((scene.pictures.views.scale / scene.pictures.stretch.max()).max())
  return float(views.scale.max())
