"""A second look at frames whose face is not where, as large or as turned as it is in the frames around them.

A detector that follows a face knows the frames before, not those after. When all have been searched, a face that is out
of line with both sides is looked for again where the others say it should be. It is believed if it fits them, or if the
mesh finds the same once more from another crop; otherwise the frame has no face. What is expected of which frame is
written down before the first file is changed, and looking twice gives the same as looking once: so a killed run ends
with the files of an unbroken one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vht_jax.landmarks.detection import AGREED, Detection, estimate_roll
from vht_jax.landmarks.person import overlap

if TYPE_CHECKING:
  from vht_jax.landmarks import LooksAgain

_REACH = 4  # frames on either side
_ENOUGH = 4  # neighbours; of fewer nobody can say which is out of line
# How far a face may be from the median of its neighbours, beside three times their spread: a share of its size (the
# root mean square distance of the landmarks from their centre, about 0.4 of the face's width), of the size's logarithm,
# and radians. A head does not leave by half its width, change its size by 20 % or roll by 25 degrees and come back
# within a frame; the wrong meshes of a dancer lost a third of their size.
_FLOOR = np.array([1.0, 0.2, np.radians(25)])
_SAME = 0.1  # of the size: mean distance of two results that show the same


@dataclasses.dataclass(frozen=True)
class Expected:
  """Of the face in a frame, by its neighbours."""

  box: tuple[float, float, float, float]  # x0, y0, x1, y1 px
  centre: tuple[float, float]  # px, mean of the landmarks
  size: float  # px
  roll: float  # radians
  within: tuple[float, float, float]  # px, of the logarithm of the size, radians

  def fits(self, detection: Detection) -> bool:
    """Whether that face is in line."""
    centre, size, roll = _features(detection)
    off = np.array([np.hypot(*(centre - self.centre)), abs(np.log(size / self.size)), abs(_wrap(roll - self.roll))])
    return bool((off <= self.within).all())

  def state(self) -> dict[str, Any]:
    """As JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def restore(cls, state: dict[str, Any]) -> Expected:
    """What `state` gave."""
    size, roll = float(state["size"]), float(state["roll"])
    return _made(state["box"][:4], state["centre"][:2], size, roll, state["within"][:3])


def out_of_line(detections: Sequence[Detection | None], cuts: Iterable[int] = ()) -> dict[int, Expected]:
  """Position -> what its neighbours expect, of each face that does not fit them; shots are judged by themselves."""
  shot = np.zeros(len(detections), int)
  shot[[c for c in cuts if 0 <= c < len(detections)]] = 1
  shot = np.cumsum(shot)
  result = {}
  for i, detection in enumerate(detections):
    if detection is None:
      continue
    around = range(max(i - _REACH, 0), min(i + _REACH + 1, len(detections)))
    near = [d for j in around if j != i and shot[j] == shot[i] and (d := detections[j]) is not None]
    if len(near) >= _ENOUGH:
      expected = _expected([_features(d) for d in near], [d.bounding_box[:4] for d in near])
      if not expected.fits(detection):
        result[i] = expected
  return result


def look_again(rgb: np.ndarray, seen: Detection | None, expected: Expected, detector: LooksAgain) -> Detection | None:
  """The face in that image: where it is expected; what was `seen` if it is seen again; or None."""
  found = detector.look(rgb, np.array(expected.box, np.float32))
  if found is not None and expected.fits(found):
    return found
  if seen is not None and overlap(seen.bounding_box, np.array(expected.box)) > 0.1:
    again = detector.look(rgb, seen.bounding_box[:4])
    if again is not None and again.disagreement is not None and again.disagreement <= AGREED:
      distance = np.hypot(*(again.landmarks - seen.landmarks).T).mean()
      if distance < _SAME * _features(seen)[1]:
        return seen
  return None


def _features(detection: Detection) -> tuple[np.ndarray, float, float]:
  """Centre (2,) px, size px, roll in radians."""
  points = detection.landmarks.astype(np.float64)
  centre = points.mean(axis=0)
  size = np.sqrt(((points - centre) ** 2).sum(axis=1).mean())
  return centre, max(float(size), 1e-6), estimate_roll(points)


def _wrap(angle: np.ndarray | float) -> np.ndarray | float:
  return (angle + np.pi) % (2 * np.pi) - np.pi


def _expected(features: list[tuple[np.ndarray, float, float]], boxes: list[np.ndarray]) -> Expected:
  centres = np.stack([f[0] for f in features])
  log_size = np.log([f[1] for f in features])
  rolls = features[0][2] + _wrap(np.array([f[2] for f in features]) - features[0][2])
  centre, size, roll = np.median(centres, axis=0), float(np.exp(np.median(log_size))), float(np.median(rolls))
  away = [np.hypot(*(centres - centre).T), np.abs(log_size - np.log(size)), np.abs(rolls - roll)]
  spread = 1.4826 * np.median(away, axis=1)  # of a normal distribution, the standard deviation
  within = _FLOOR * [size, 1.0, 1.0] + 3 * spread
  box = np.median(np.stack(boxes), axis=0)
  return _made(box, centre, size, float(_wrap(roll)), within)


def _made(box: Iterable[float], centre: Iterable[float], size: float, roll: float, within: Iterable[float]) -> Expected:
  x0, y0, x1, y1 = (float(v) for v in box)
  x, y = (float(v) for v in centre)
  away, scale, turn = (float(v) for v in within)
  return Expected((x0, y0, x1, y1), (x, y), size, roll, (away, scale, turn))
