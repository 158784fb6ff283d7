"""Hard cuts, from thumbnails of the frames."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 16  # px
_LEAST = 15.0  # of 255: mean change of a thumbnail below which nothing is a cut
_RATIO = 3.0  # a cut stands out so far from the changes around it; flashes and fast motion come in runs
_AROUND = 2  # frames


def thumbnail(rgb: np.ndarray) -> np.ndarray:
  """(16, 16, 3) uint8, area means of an image (H, W, 3) uint8."""
  return cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def find_cuts(thumbnails: np.ndarray) -> list[int]:
  """Positions of the first frames of new shots.

  A cut changes the picture at once and by more than the frames around it change. Changes of brightness alone, such as
  a camera's automatic exposure makes, do not count. Measured on four sample videos: pans, fast heads and automatic
  exposure reach 11 of 255, cuts between shots start at 21.

  Args:
    thumbnails: (n, 16, 16, 3) uint8, see `thumbnail`.
  """
  n = len(thumbnails)
  frames = thumbnails.astype(np.float32).reshape(n, -1, 3)
  frames = frames - frames.mean(axis=(1, 2), keepdims=True)
  change = np.zeros(n, np.float32)
  change[1:] = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))
  cuts = []
  for i in np.flatnonzero(change > _LEAST):
    around = np.concatenate([change[max(i - _AROUND, 1) : i], change[i + 1 : i + 1 + _AROUND]])
    if change[i] > _RATIO * max(float(around.max(initial=0.0)), 1.0):
      cuts.append(int(i))
  return cuts
