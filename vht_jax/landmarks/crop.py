"""Face meshes on a square crop that follows the face: what MediaPipe's two generations of API have in common.

MediaPipe's mesh finds faces with its short-range detector, which misses heads below about 15 % of the image (a quarter
of the frames of a 1080p speaker), and its points jitter least when it follows its own last result on an unmoved crop.
So: find the face in the whole image once, crop around it, and keep that crop until the face leaves its middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vht_jax.errors import InputError
from vht_jax.landmarks.detection import N_DENSE, Detection, plausible_iris
from vht_jax.landmarks.person import Person, area, bounds, overlap

# MediaPipe mesh points that stand for iBUG's 68, chosen for the least distance to dlib's on three videos and exactly
# symmetric on the canonical mesh; then the irises of eyes 36-41 and 42-47.
IBUG68 = np.array(
  [127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356]
  + [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]
  + [168, 197, 5, 4, 75, 97, 2, 326, 305]
  + [33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380]
  + [61, 40, 37, 0, 267, 270, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87]
)
IRISES = np.array([468, 473])

_CROP_SIDES = (3.0, 2.0, 1.5)  # of the face box; the wide one leaves room to move, the tight ones shut neighbours out
_LARGEST_CROP = 1 << 15  # px; no face is so large
_CROP_PIXELS = 512  # wider crops are reduced to this: the mesh sees 192 pixels of about half of it, without aliasing


def square_crop(rgb: np.ndarray, origin: tuple[int, int], side: int) -> np.ndarray:
  """The (side, side) px square of an image with its top left corner at `origin` (x, y), black outside the image,
  reduced to at most 512 px."""
  import cv2

  height, width = rgb.shape[:2]
  x, y = origin
  inside = rgb[max(y, 0) : max(min(y + side, height), 0), max(x, 0) : max(min(x + side, width), 0)]
  if inside.shape[:2] != (side, side):
    top, left = max(-y, 0), max(-x, 0)
    padded = np.zeros((side, side, 3), np.uint8)
    padded[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    inside = padded
  if side > _CROP_PIXELS:
    inside = cv2.resize(inside, (_CROP_PIXELS, _CROP_PIXELS), interpolation=cv2.INTER_AREA)
  return np.ascontiguousarray(inside)


class CropTracker:
  """`detect` for a mesh model and a face finder, keeping to one person and to one crop as long as it can."""

  def __init__(
    self,
    find: Callable[[np.ndarray], list[np.ndarray]],
    mesh: Callable[[np.ndarray, bool], np.ndarray | None],
    face: str | int = "largest",
  ):
    """Args:
    find: rgb (H, W, 3) uint8 -> boxes (5,) x0, y0, x1, y1 px, score.
    mesh: (crop (S, S, 3) uint8, fresh) -> (478, 2) in units of the crop, or None; `fresh` says that the crop is not
      that of the call before, so that nothing may be carried over from there.
    face: who is tracked, see `Person`.
    """
    self._find = find
    self._mesh = mesh
    self._crop: tuple[tuple[int, int], int] | None = None  # origin (x, y), side
    self._factor = _CROP_SIDES[0]  # side of the crop in units of the face's size
    self._fresh = True  # the crop has moved since the mesh saw it
    self._person = Person(face)

  def detect(self, rgb: np.ndarray) -> Detection | None:
    """The tracked person's face in the next frame, None when there is none."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
      raise InputError(f"a detector expects RGB uint8 (H, W, 3), found {rgb.dtype} {rgb.shape}")
    points = self._follow(rgb)
    if points is None:
      points = self._search(rgb)
    if points is None:
      self._crop = None
      self._person.missed()
      return None
    score = float(self._person.last[4])
    box = np.append(bounds(points), np.float32(score)).astype(np.float32)
    landmarks = points[IBUG68]
    self._person.saw(box, rgb, landmarks)
    self._recentre(box)
    return Detection(box, landmarks, plausible_iris(landmarks, points[IRISES]), points, score)

  def cut(self) -> None:
    """The next frame is the first of another shot: the person may be anywhere."""
    self._crop = None
    self._person.cut = True

  def mark(self) -> dict[str, Any]:
    """Forgets everything but what it returns, as JSON."""
    self._fresh = True
    crop = None if self._crop is None else [*self._crop[0], self._crop[1]]
    return {"crop": crop, "factor": self._factor, "person": self._person.state()}

  def resume(self, mark: dict[str, Any]) -> None:
    """Goes on as the tracker that gave `mark` did."""
    self._fresh = True
    crop = mark["crop"]
    if crop is not None and not 0 < int(crop[2]) <= _LARGEST_CROP:
      raise ValueError(f"a crop of {crop[2]} pixels")
    self._crop = None if crop is None else ((int(crop[0]), int(crop[1])), int(crop[2]))
    self._factor = float(mark["factor"])
    self._person.restore(mark["person"])

  def _run(self, rgb: np.ndarray) -> np.ndarray | None:
    origin, side = self._crop
    points = self._mesh(square_crop(rgb, origin, side), self._fresh)
    self._fresh = False
    if points is None:
      return None
    points = (points[:N_DENSE, :2] * side + np.array(origin)).astype(np.float32)
    box = bounds(points)
    frame = np.array([0, 0, rgb.shape[1], rgb.shape[0]])
    visible = np.concatenate([np.maximum(box[:2], 0), np.minimum(box[2:], frame[2:])])
    return points if area(visible) > 0.4 * area(box) and min(box[2:] - box[:2]) > 4 else None

  def _follow(self, rgb: np.ndarray) -> np.ndarray | None:
    if self._crop is None:
      return None
    points = self._run(rgb)
    # A model that lost its face may have found the neighbour's in the same crop.
    return points if points is not None and overlap(bounds(points), self._person.last) > 0.1 else None

  def _search(self, rgb: np.ndarray) -> np.ndarray | None:
    def locate(box):
      points = self._at(rgb, box)
      return None if points is None else points[IBUG68]

    found = self._person.choose(self._find(rgb), rgb, locate)
    points = None if found is None else self._at(rgb, found)
    if points is not None:
      self._person.last = found
    return points

  def _at(self, rgb: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """The points of the face in `box`."""
    for factor in _CROP_SIDES:
      self._place(box, factor)
      points = self._run(rgb)
      if points is not None and overlap(bounds(points), box) > 0.2:
        return points
    return None

  def _place(self, box: np.ndarray, factor: float) -> None:
    centre = (box[:2] + box[2:4]) / 2
    side = max(round(factor * float(np.max(box[2:4] - box[:2]))), 16)
    self._crop = (tuple(round(float(c) - side / 2) for c in centre), side)
    self._factor, self._fresh = factor, True

  def _recentre(self, box: np.ndarray) -> None:
    """Moves the crop for the next frame once the face nears its edge or has changed its size."""
    origin, side = self._crop
    size = float(np.max(box[2:4] - box[:2]))
    shift = float(np.max(np.abs((box[:2] + box[2:4]) / 2 - np.array(origin) - side / 2)))
    if shift > 0.5 * side - 0.65 * size or not 0.6 < self._factor * size / side < 1.6:
      self._place(box, self._factor)
