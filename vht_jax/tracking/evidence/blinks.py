"""Shut lids that look like a cover: a blink shows less between the lids than an open eye does, but it hides nothing.

What tells them apart is time, the landmarks and the skin around the eyes. A blink is short, both eyes shut by the
landmarks and open again; what is between the lids then has the colour of the skin around them, and that is the same as
before and after. What is put before an eye stays longer, or changes the colours around it too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vht_jax.landmarks.detection import eye_openness
from vht_jax.landmarks.regions import COVERED, REGIONS, eye_colours

LONGEST = 0.5  # s from open to open; people's blinks last 0.1 to 0.4 s
SHUT = 0.5  # times the opening before and after
ALIKE = 10.0  # Lab: colours that are farther apart are different at a glance
_EYES, _CONTOUR = slice(0, 2), REGIONS.index("contour")


def without_blinks(
  visible: np.ndarray, landmarks: np.ndarray, seen: np.ndarray, seconds: np.ndarray, shot: np.ndarray,
  image: Callable[[int], np.ndarray],
) -> np.ndarray:  # fmt: skip
  """`visible` with the eyes of a blink as visible as they are before and after it.

  Args:
    visible: (T, R) of `regions.REGIONS`.
    landmarks: (T, 68, 2) px.
    seen: (T,) bool, frames with a face.
    seconds: (T,) s, when each frame was taken.
    shot: (T,) number of the shot.
    image: of a frame, (H, W, 3) uint8.
  """
  out = np.array(visible)
  for i, (before, after) in sides(visible, landmarks, seen, seconds, shot).items():
    there = [found for k in (before, i, after) if (found := eye_colours(image(k), landmarks[k])) is not None]
    if len(there) < 3:
      continue
    (_, around_before), (lids, around), (_, around_after) = there
    away = np.maximum(*(np.linalg.norm(around - other, axis=-1) for other in (around_before, around_after)))
    shut = (visible[i, _EYES] < COVERED) & (np.linalg.norm(lids - around, axis=-1) < ALIKE) & (away < ALIKE)
    out[i, _EYES] = np.where(shut, np.minimum(visible[before, _EYES], visible[after, _EYES]), out[i, _EYES])
    if (out[i, :_CONTOUR] >= COVERED).all():
      out[i, _CONTOUR] = min(visible[before, _CONTOUR], visible[after, _CONTOUR])
  return out


def sides(
  visible: np.ndarray, landmarks: np.ndarray, seen: np.ndarray, seconds: np.ndarray, shot: np.ndarray
) -> dict[int, tuple[int, int]]:
  """Frames with an eye that looks covered, while both are shut, and the frames before and after with open eyes.

  Only those whose sides are in the same shot and no more than `LONGEST` apart; arguments as for `without_blinks`.
  """
  opening = np.array([eye_openness(p) if s else (0.0, 0.0) for p, s in zip(landmarks, seen)])
  free = seen & (visible[:, _EYES] >= COVERED).all(axis=1)
  found = {}
  for i in np.flatnonzero(seen & ~free).tolist():
    open_ = free & (shot == shot[i]) & (np.abs(seconds - seconds[i]) < LONGEST)
    open_ &= (SHUT * opening >= opening[i]).all(axis=1)
    before, after = np.flatnonzero(open_[:i])[-1:], i + np.flatnonzero(open_[i:])[:1]
    if len(before) and len(after) and seconds[after[0]] - seconds[before[0]] <= LONGEST:
      found[i] = int(before[0]), int(after[0])
  return found
