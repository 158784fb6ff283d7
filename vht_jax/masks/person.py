"""The tracked person's matte in every frame of a clip.

The model is looked through at crops around the head, each twice as wide as the one before, until the image is covered:
what is near the head gets the model's 256 pixels for itself, the hands get theirs. Then everybody else is taken off,
and the matte is calmed over time and brought to the edges of the image (`refine`).
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from vht_jax.masks import refine
from vht_jax.masks.boxes import Heads
from vht_jax.masks.selfie import SIDE

FIRST = 3.2  # the narrowest crop, in sizes of the face: head, hair and shoulders, as selfies show them
GROWTH = 2.0  # from one crop to the next
_RAISED = 0.08  # of a crop's side by which the face lies above its middle
_RAMP = 0.15  # of a crop's side over which it gives way to the next one, so that no seam is seen
_PERSON = 0.3  # what is more a person than this may be part of the tracked one
_GAP = 0.15  # sizes of the face by which parts of one person may be apart: a scarf, a microphone before the neck
_SEED = 0.35  # radius around the face's centre that is the tracked person for certain
_BELOW = 0.4  # a distance downward counts by so much: people are taller than wide, and the face is at their top
# (down, of a head that is upright after so many quarter turns counter-clockwise)
_DOWN = ((0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0))

Segment = Callable[[np.ndarray], np.ndarray]


def person_mattes(
  image: Callable[[int], np.ndarray],
  segment: Segment,
  heads: Heads,
  others: Sequence[np.ndarray] | None = None,
  cuts: Iterable[int] = (),
  indices: Sequence[int] | None = None,
) -> Iterator[np.ndarray]:
  """The matte of each frame, in order.

  Args:
    image: position -> RGB uint8 (H, W, 3); asked once per frame, in order.
    segment: a `selfie.Segmenter`.
    heads: of all n frames.
    others: (k, 3) of every frame, the faces of other people: centre and longer side, px (`boxes.other_faces`).
    cuts: positions of frames that begin a shot.
    indices: which frames, rising; all by default. Those beside each other steady each other.

  Yields:
    (H, W) uint8, 255: the tracked person.
  """
  wanted = range(len(heads.size)) if indices is None else indices
  # One small image for all frames, since they are compared: the narrowest crop has the model's size there.
  factor = min(1.0, SIDE / (FIRST * float(np.median(heads.size))))
  for run in _runs(wanted, set(cuts)):
    window: collections.deque[_Look] = collections.deque()  # what is known of the frames around
    ahead = collections.deque(run)
    for k in range(len(run)):
      while ahead and ahead[0] <= run[k] + refine.REACH:
        i = ahead.popleft()
        window.append(_look(image(i), segment, heads, None if others is None else others[i], i, factor))
      if k > refine.REACH:
        window.popleft()
      yield _refined(list(window), min(k, refine.REACH))


class _Look(NamedTuple):
  """One frame as the model sees it."""

  rgb: np.ndarray  # uint8 (H, W, 3)
  guide: np.ndarray  # float32 (h, w, 3) in [0, 1], reduced
  blurred: np.ndarray  # float32 (h, w, 3)
  matte: np.ndarray  # float32 (h, w)


def _refined(window: list[_Look], now: int) -> np.ndarray:
  """(H, W) uint8 of frame `now` of a few that follow each other; only where there is a person in them at all."""
  rgb, guide = window[now].rgb, window[now].guide
  out = np.zeros(rgb.shape[:2], np.uint8)
  there = np.any([look.matte > refine.LEVELS[0] for look in window], axis=0)
  rows, columns = (_span(there.any(axis=axis)) for axis in (1, 0))
  if rows.stop == 0:
    return out
  part = (rows, columns)
  matte = refine.calmed([look.matte[part] for look in window], [look.blurred[part] for look in window], now)
  coefficients = refine.guided(matte, guide[part])
  # The same part of the large image, whose pixels need not be a whole number of small ones.
  scale = [n / m for n, m in zip(rgb.shape, guide.shape[:2])]
  low = [math.ceil(s.start * k) for s, k in zip(part, scale)]
  high = [math.floor(s.stop * k) for s, k in zip(part, scale)]
  large = slice(low[0], high[0]), slice(low[1], high[1])
  fine = refine.applied(_enlarged(coefficients, part, scale, large), rgb[large])
  out[large] = np.round(fine * 255).astype(np.uint8)
  return out


def _span(there: np.ndarray) -> slice:
  """From the first to behind the last True, with as many pixels more as the guided filter looks around itself."""
  found = np.flatnonzero(there)
  if not len(found):
    return slice(0, 0)
  reach = 2 * refine.RADIUS + 1
  return slice(max(int(found[0]) - reach, 0), min(int(found[-1]) + 1 + reach, len(there)))


def _enlarged(small: np.ndarray, part: tuple[slice, slice], scale: list[float], large: tuple[slice, slice]):
  """Values at the small pixels of `part`, at the large pixels of `large`, in between linearly."""
  rows, columns = (
    (np.arange(to.start, to.stop, dtype=np.float32) + 0.5) / k - 0.5 - of.start for of, k, to in zip(part, scale, large)
  )
  if small.shape[:2] == (len(rows), len(columns)):
    return small
  across, down = np.meshgrid(columns, rows)
  return cv2.remap(small, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _runs(indices: Sequence[int], cuts: set[int]) -> Iterator[list[int]]:
  """Frames that follow each other without a gap or a cut."""
  run: list[int] = []
  for i in indices:
    if run and (i != run[-1] + 1 or i in cuts):
      yield run
      run = []
    run.append(int(i))
  if run:
    yield run


def _look(rgb: np.ndarray, segment: Segment, heads: Heads, others: np.ndarray | None, i: int, factor: float) -> _Look:
  guide = refine.guide(rgb, factor)
  scale = np.array([guide.shape[1] / rgb.shape[1], guide.shape[0] / rgb.shape[0]])
  centre, size = heads.centre[i] * scale, float(heads.size[i]) * factor
  down = np.array(_DOWN[int(heads.quarter[i])])
  small = np.round(guide * 255).astype(np.uint8)
  matte = coarse_matte(segment, small, centre, size, int(heads.quarter[i]))
  rows = None if others is None or not len(others) else others * np.array([*scale, factor])
  return _Look(rgb, guide, refine.blurred(guide), only_person(matte, centre, size, down, rows))


def coarse_matte(segment: Segment, rgb: np.ndarray, centre: np.ndarray, size: float, quarter: int = 0) -> np.ndarray:
  """How far each pixel belongs to anybody: float32 (h, w) in [0, 1].

  Args:
    segment: the model.
    rgb: uint8 (h, w, 3).
    centre, size: (2,) and () px, of the tracked face.
    quarter: turned counter-clockwise by so many quarters it is upright.
  """
  height, width = rgb.shape[:2]
  sides = [FIRST * size]
  while not _covers(_crop(centre, sides[-1], quarter, (height, width)), (height, width)):
    sides.append(GROWTH * sides[-1])
  matte = np.zeros((height, width), np.float32)
  for side in reversed(sides):
    x0, y0, x1, y1 = box = _crop(centre, side, quarter, (height, width))
    crop = cv2.resize(rgb[y0:y1, x0:x1], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    seen = np.rot90(segment(np.ascontiguousarray(np.rot90(crop, quarter))), -quarter)
    seen = cv2.resize(np.ascontiguousarray(seen), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    weight = _ramps(box, (height, width), _RAMP * side)
    matte[y0:y1, x0:x1] += weight * (seen - matte[y0:y1, x0:x1])
  return matte


def only_person(
  matte: np.ndarray, centre: np.ndarray, size: float, down: np.ndarray, others: np.ndarray | None = None
) -> np.ndarray:
  """Of people's matte (h, w) what belongs to the one whose face is at `centre`: nearer to it than to any other face,
  in the faces' own sizes, and in one piece with it.

  Args:
    matte: float32 in [0, 1].
    centre, size: (2,) and () px, of the tracked face.
    down: (2,) unit vector from the head's top to its chin.
    others: (k, 3) centre and size, px, of the other faces.
  """
  rows, columns = np.mgrid[: matte.shape[0], : matte.shape[1]].astype(np.float32) + np.float32(0.5)

  def distance(x: float, y: float, face: float) -> np.ndarray:
    along = (columns - np.float32(x)) * np.float32(down[0]) + (rows - np.float32(y)) * np.float32(down[1])
    across = (columns - np.float32(x)) * np.float32(down[1]) - (rows - np.float32(y)) * np.float32(down[0])
    return np.hypot(across, np.where(along > 0, along * np.float32(_BELOW), along)) / np.float32(face)

  own = distance(float(centre[0]), float(centre[1]), size)
  if others is not None and len(others):
    matte = np.where(own <= np.min([distance(*other) for other in others], axis=0), matte, np.float32(0))
  solid = (matte > _PERSON).astype(np.uint8)
  gap = 2 * max(round(_GAP * size / 2), 1) + 1
  ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
  labels = cv2.connectedComponents(cv2.dilate(solid, ellipse))[1]
  seeds = np.unique(labels[(own < _SEED) & (solid > 0)])
  if not len(seeds):  # nothing at the face: then nothing can be said
    return matte
  return np.where(np.isin(labels, seeds), matte, np.float32(0))


def _crop(centre: np.ndarray, side: float, quarter: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
  """x0, y0, x1, y1 px of the square around a face, moved into the image and cut where the image is smaller."""
  middle = centre + _RAISED * side * np.array(_DOWN[quarter])
  box = []
  for m, length in zip(middle, size[::-1]):
    start = float(np.clip(m - side / 2, 0, max(length - side, 0)))
    low, high = round(start), min(round(start + side), length)
    box.append((low, max(high, low + 1)))
  return box[0][0], box[1][0], box[0][1], box[1][1]


def _covers(box: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
  return box == (0, 0, size[1], size[0])


def _ramps(box: tuple[int, int, int, int], size: tuple[int, int], width: float) -> np.ndarray:
  """(y1 - y0, x1 - x0): 1 within the box, falling to 0 at those of its sides that are not the image's."""
  x0, y0, x1, y1 = box

  def along(low: int, high: int, length: int) -> np.ndarray:
    t = np.arange(low, high, dtype=np.float32) + np.float32(0.5)
    far = np.full_like(t, np.inf)
    near = np.minimum(t - low if low > 0 else far, high - t if high < length else far)
    return np.clip(near / np.float32(width), 0.0, 1.0).astype(np.float32)

  return np.minimum(along(y0, y1, size[0])[:, None], along(x0, x1, size[1])[None])
