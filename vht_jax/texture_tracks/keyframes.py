"""Which frames the tracks start in: a handful, spread in view and expression."""

from __future__ import annotations

import numpy as np

FEWEST, MOST = 3, 6
VIEW_STEP = np.deg2rad(20.0)  # views so far apart are better tracked from a keyframe of their own
EXPRESSION_STEP = 0.015  # m, rms motion of the skin in the head: clearly another expression


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
  frames = np.flatnonzero(good)
  if not len(frames):
    return frames
  axes, shapes = axes[frames], shapes[frames]
  shapes = shapes - np.median(shapes, axis=0)
  middle = np.median(axes, axis=0)

  def away(i):
    view = np.arccos(np.clip(axes @ axes[i], -1, 1)) / VIEW_STEP
    return np.hypot(view, np.sqrt(((shapes - shapes[i]) ** 2).sum(-1).mean(-1)) / EXPRESSION_STEP)

  chosen = [int(np.argmax(axes @ middle))]
  distance = away(chosen[0])
  while len(chosen) < min(MOST, len(frames)):
    k = int(np.argmax(distance))
    if len(chosen) >= FEWEST and distance[k] <= 1.0:
      break
    chosen.append(k)
    distance = np.minimum(distance, away(k))
    distance[chosen] = -1.0
  return np.sort(frames[np.array(chosen)])


def turn(axes: np.ndarray, good: np.ndarray) -> float:
  """How far the head turns, rad: between the 2nd and 98th percentile along the direction of most turning."""
  v = axes[good]
  if len(v) < 2:
    return 0.0
  v = v - v.mean(0)
  along = v @ np.linalg.svd(v, full_matrices=False)[2][0]
  return float(np.ptp(np.percentile(along, [2, 98])))
