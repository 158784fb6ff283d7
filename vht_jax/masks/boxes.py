"""Where the heads are: squares around the tracked person's face in every frame, and the other faces."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vht_jax.errors import InputError, brief
from vht_jax.landmarks import make_detector
from vht_jax.landmarks.crop import quarter_of
from vht_jax.landmarks.detection import Detection, estimate_roll
from vht_jax.landmarks.person import overlap

EVERY = 5  # frames, the distance of those in which other people are looked for: a fifth of a second
SMOOTH = 2.0  # frames, sigma: crops must not shake with the landmarks, and the head must not leave them
_SAME = 0.2  # overlap at which two boxes are of one face: they are drawn by different rules

log = logging.getLogger("vht_jax")

Faces = Callable[[np.ndarray], list[np.ndarray]]  # image -> boxes (5,) x0, y0, x1, y1 px, score


class Heads(NamedTuple):
  """The tracked person's head in each of n frames."""

  centre: np.ndarray  # (n, 2) px, of the face
  size: np.ndarray  # (n,) px, the longer side of the landmarks' box
  quarter: np.ndarray  # (n,) int: turned counter-clockwise by so many quarters the head is upright


def heads_of(detections: Sequence[Detection | None], cuts: Sequence[int] = ()) -> Heads:
  """Boxes of landmarks, bridged where there are none and smoothed within the shots that begin at `cuts`.

  Raises:
    ValueError: no frame has a face.
  """
  return heads_of_points([None if d is None else d.landmarks for d in detections], cuts)


def heads_of_points(landmarks: Sequence[np.ndarray | None], cuts: Sequence[int] = ()) -> Heads:
  """`heads_of` of landmarks (68, 2) px."""
  known = [i for i, p in enumerate(landmarks) if p is not None]
  if not known:
    raise ValueError("heads_of: no frame has a face")
  seen = np.array([_head(p) for p in landmarks if p is not None])
  n = len(landmarks)
  rows = np.stack([np.interp(np.arange(n), known, column) for column in seen[:, :3].T], axis=1)
  nearest = np.abs(np.arange(n)[:, None] - np.array(known)[None]).argmin(axis=1)
  for start, end in _shots(n, cuts):
    inside = [k for k, i in enumerate(known) if start <= i < end]
    if inside:  # nothing of another shot
      at = [known[k] for k in inside]
      rows[start:end] = np.stack([np.interp(np.arange(start, end), at, c) for c in seen[inside, :3].T], axis=1)
    rows[start:end] = smoothed(rows[start:end])
  return Heads(rows[:, :2], np.exp(rows[:, 2]), seen[nearest, 3].astype(int))


def other_faces(heads: Heads, image: Callable[[int], np.ndarray], faces: Faces) -> list[np.ndarray]:
  """Of every frame the faces that are not the tracked person's, (k, 3): centre px and longer side px.

  Args:
    heads: of n frames.
    image: position -> RGB uint8 (H, W, 3).
    faces: a detector's. Asked in every `EVERY`-th frame.
  """
  n = len(heads.size)
  looked = sorted({*range(0, n, EVERY), n - 1})
  found = []
  for i in looked:
    half = heads.size[i] / 2
    own = np.concatenate([heads.centre[i] - half, heads.centre[i] + half])
    others = [box for box in faces(image(i)) if overlap(box, own) < _SAME and not _within(own, box)]
    rows = [[*(box[:2] + box[2:4]) / 2, max(box[2] - box[0], box[3] - box[1])] for box in others]
    found.append(np.array(rows, np.float64).reshape(-1, 3))
  return [found[int(np.abs(np.array(looked) - i).argmin())] for i in range(n)]


@contextlib.contextmanager
def face_finder(topic: str) -> Iterator[Faces | None]:
  """A detector of faces for `other_faces`; None, with a line in the log for `topic`, where there is none."""
  try:
    detector = make_detector()
  except InputError as error:
    log.info("%s: other people are not looked for (%s)", topic, brief(error))
    yield None
    return
  try:
    yield detector.faces
  finally:
    detector.close()


def _within(own: np.ndarray, box: np.ndarray) -> bool:
  """Whether a box's centre lies in one's own: a part of the face, as large faces give."""
  x, y = (box[:2] + box[2:4]) / 2
  return bool(own[0] < x < own[2] and own[1] < y < own[3])


def smoothed(rows: np.ndarray, sigma: float = SMOOTH) -> np.ndarray:
  """(n, k) along the frames by a Gaussian; as symmetric at the ends as in the middle, so constants and lines stay."""
  n = len(rows)
  out = np.empty_like(rows)
  for i in range(n):
    reach = min(i, n - 1 - i, int(3 * sigma))
    k = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (k / sigma) ** 2)
    out[i] = weights @ rows[i - reach : i + reach + 1] / weights.sum()
  return out


def _head(landmarks: np.ndarray) -> tuple[float, float, float, int]:
  low, high = landmarks.min(axis=0), landmarks.max(axis=0)
  x, y = (low + high) / 2
  size = np.log(max(float((high - low).max()), 1.0))
  return float(x), float(y), float(size), quarter_of(estimate_roll(landmarks))


def _shots(n: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
  starts = sorted({0, *(c for c in cuts if 0 < c < n)})
  return list(zip(starts, [*starts[1:], n]))
