"""Which frames the tracks start in: a handful, spread in view and expression; and choosing as if none were missing.

What follows from a clip hangs on which frames were chosen, and farthest points hang on each other: one frame less, and
half of the others may be exchanged, by which the whole clip moves (docs/accuracy.md, "Invented landmarks"). So frames
whose landmarks are missing or wrong take part with what lies between their neighbours, and those of them that are
chosen hand over to the frame that is most like them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FEWEST, MOST = 3, 6
VIEW_STEP = np.deg2rad(20.0)  # views so far apart are better tracked from a keyframe of their own
EXPRESSION_STEP = 0.015  # m, rms motion of the skin in the head: clearly another expression

LONGEST = 25  # frames without landmarks in a row: over a longer time a head may have been anywhere


def filled(values: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """What frames are like, of those between good ones too.

  Args:
    values: (T, ...), of any kind; only those of good frames count.
    good: (T,) bool.

  Returns:
    (T, ...) float64, in gaps of up to `LONGEST` frames on the way from one side to the other; (T,) bool, frames that
    have such.
  """
  frames = np.flatnonzero(good)
  values, there = np.array(values, np.float64), np.array(good, bool)
  for a, b in zip(frames[:-1], frames[1:]):
    if 1 < b - a <= LONGEST + 1:
      share = (np.arange(1, b - a) / (b - a)).reshape(-1, *[1] * (values.ndim - 1))
      values[a + 1 : b] = values[a] + share * (values[b] - values[a])
      there[a + 1 : b] = True
  return values, there


def handed_over(chosen: np.ndarray, good: np.ndarray, away: Callable[[int], np.ndarray]) -> np.ndarray:
  """Sorted good frames, as many as were chosen where there are enough: each that is not good gives way to another.

  Args:
    chosen: (n,) positions.
    good: (T,) bool.
    away: (T,) how far all frames are from one.
  """
  free = np.array(good, bool)
  free[chosen] = False
  out = []
  for k in chosen:
    if not good[k]:
      if not free.any():
        continue
      k = int(np.argmin(np.where(free, away(k), np.inf)))
      free[k] = False
    out.append(k)
  return np.sort(np.array(out, int))


def choose(axes: np.ndarray, shapes: np.ndarray, good: np.ndarray) -> np.ndarray:
  """Farthest point sampling of frames, begun in the middle of all views.

  With three keyframes a clip's camera comes out as well as with nine; more of them are only chosen where some frame
  would be more than a step away from all.

  Args:
    axes: (T, 3) unit vectors, the camera's axis in the head frame: roll does not count.
    shapes: (T, P, 3) m, some points of the head in its own frame: the expression.
    good: (T,) bool, frames to choose from.

  Returns:
    Sorted positions of at most `MOST` frames.
  """
  if not good.any():
    return np.flatnonzero(good)
  axes, there = filled(axes, good)
  axes = np.where(there[:, None], axes, 0.0)
  axes /= np.maximum(np.linalg.norm(axes, axis=-1, keepdims=True), 1e-6)
  shapes = np.where(there[:, None, None], filled(shapes, good)[0], 0.0)
  middle = np.median(axes[there], axis=0)

  def away(i):
    view = np.arccos(np.clip(axes @ axes[i], -1, 1)) / VIEW_STEP
    return np.hypot(view, np.sqrt(((shapes - shapes[i]) ** 2).sum(-1).mean(-1)) / EXPRESSION_STEP)

  chosen = [int(np.argmax(np.where(there, axes @ middle, -np.inf)))]
  distance = np.where(there, away(chosen[0]), -1.0)
  while len(chosen) < min(MOST, good.sum()):
    k = int(np.argmax(distance))
    if len(chosen) >= FEWEST and distance[k] <= 1.0:
      break
    chosen.append(k)
    distance = np.minimum(distance, away(k))
    distance[chosen] = -1.0
  return handed_over(np.array(chosen), good, away)


def turn(axes: np.ndarray, good: np.ndarray) -> float:
  """How far the head turns, rad: between the 2nd and 98th percentile along the direction of most turning."""
  v = axes[good]
  if len(v) < 2:
    return 0.0
  v = v - v.mean(0)
  along = v @ np.linalg.svd(v, full_matrices=False)[2][0]
  return float(np.ptp(np.percentile(along, [2, 98])))
