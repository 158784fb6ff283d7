"""What of every frame the overlay looks at, and how large its pictures are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PANEL = 512  # px, longest side of a picture
ZOOMED = (384, 512)  # px, sides of the picture of a head that is followed: few, because each is a program to compile

ZOOM_BELOW = 0.25  # share of the frame that the head covers: below it the head is looked at more closely
HEAD = 2.2  # side of a head's box in units of the 68 landmarks' box, which has no skull
ROOM = 1.5  # side of the window in units of the largest head in it
FOLLOW = 12.0  # frames, standard deviation over which the window's motion is smoothed


class Window(NamedTuple):
  """The part of every frame that is looked at, px of the frame; all of one size."""

  origin: np.ndarray  # (T, 2) x, y of its upper left corner
  size: tuple[int, int]  # (h, w)
  zoomed: bool  # whether it is less than the frame


def whole_window(n: int, size: tuple[int, int]) -> Window:
  """The window of n frames of `size` (H, W) px that leaves nothing out."""
  return Window(np.zeros((n, 2)), size, False)


def windows(points: np.ndarray, size: tuple[int, int]) -> Window:
  """The whole frame; or, where the head is small in most frames, a square that follows it.

  Args:
    points: (T, 68, 2) px, the head's landmarks in every frame.
    size: (H, W) px.
  """
  height, width = size
  low, high = points.min(axis=1), points.max(axis=1)
  head = HEAD * (high - low).max(axis=1)
  if not np.isfinite(head).any() or np.nanmedian(head) ** 2 >= ZOOM_BELOW * height * width:
    return whole_window(len(points), size)
  side = int(min(ROOM * np.nanpercentile(head, 95), height, width))
  side = max(side - side % 2, 16)
  centre = np.clip((low + high) / 2, 0, [width, height])
  centre[:, 1] -= 0.1 * head  # landmarks have no skull
  reach = int(3 * FOLLOW)
  weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / FOLLOW) ** 2)
  padded = np.pad(centre, ((reach, reach), (0, 0)), mode="edge")
  centre = np.stack([np.convolve(column, weights / weights.sum(), "valid") for column in padded.T], axis=1)
  return Window(np.clip(np.round(centre - side / 2), 0, [width - side, height - side]), (side, side), True)


def panel_size(size: tuple[int, int], most: int = PANEL) -> tuple[int, int]:
  """(h, w) of a picture of `size` (H, W): even (H.264 wants it), and at most `most`."""
  scale = min(1.0, most / max(size))
  height, width = (max(2, round(n * scale / 2) * 2) for n in size)
  return height, width


def window_panel(window: Window) -> tuple[int, int]:
  """(h, w) of the picture of a window."""
  if not window.zoomed:
    return panel_size(window.size)
  side = next((side for side in ZOOMED if side >= window.size[0]), ZOOMED[-1])
  return side, side


def in_one_row(size: tuple[int, int]) -> bool:
  """Whether the four pictures of `size` (h, w) lie side by side: those of portraits do."""
  return size[0] > 1.4 * size[1]


def panel_boxes(size: tuple[int, int], style: str = "compare") -> list[tuple[str, float, float, float, float]]:
  """Where `compose` puts the pictures of a window of `size` (H, W): name, left, top, width, height, as shares of 1."""
  names = ("input", "render", "overlay", "landmarks")
  if style != "compare":
    return []
  if in_one_row(panel_size(size)):
    return [(name, i / 4, 0.0, 0.25, 1.0) for i, name in enumerate(names)]
  return [(name, i % 2 / 2, i // 2 / 2, 0.5, 0.5) for i, name in enumerate(names)]
