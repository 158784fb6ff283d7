"""Face meshes of an image and of its mirror image, averaged, as VHT lets face-alignment do (`flip_input`).

A mesh's errors on an image and on its mirror image differ by 0.5 to 1.1 % of the eye distance on average over a clip
and by 0.6 to 1 % more from frame to frame (four sample videos); the mean has half of both. It jitters 9 to 17 % less.

How far the two are apart says whether what was found is a face in that pose at all: see `Seen`. Here are also the
crops and quarter turns of images that the meshes are shown.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

_CROP_PIXELS = 512  # wider crops are reduced to this: the mesh sees 192 pixels of about half of it, without aliasing


class Seen(NamedTuple):
  """What a mesh and its mirror image found.

  The disagreement is the mean distance per coordinate over the length of the face's longer side. On eight clips it is
  0.004 to 0.007 (0.012 at most, with a hand before the face); of 600 meshes fitted to faces that stood on their head
  the least had 0.0107, half of them more than 0.05. On 743 faces made worse (blur, few pixels, covered, cut off, dark)
  the landmarks' mean error is about 5 times the disagreement in units of the eye distance; it exceeds a tenth of it in
  2 % of those below 0.01, 23 % from there to 0.015, 34 % from there to 0.02 and 59 % above.
  """

  points: np.ndarray  # (478, 2)
  disagreement: float  # inf where one of the two found nothing
  apart: np.ndarray | None = None  # (478,) the same of each point, without what all have in common


Mesh = Callable[[np.ndarray, bool], np.ndarray | None]

# fmt: off
# Number of the mirror image of points 0-247 of MediaPipe's canonical face; those on the midline are their own.
_HALF = (
  0, 1, 2, 248, 4, 5, 6, 249, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 250, 251, 252, 253, 254, 255, 256, 257,
  258, 259, 260, 261, 262, 263, 264, 265, 266, 267, 268, 269, 270, 271, 272, 273, 274, 275, 276, 277, 278, 279, 280,
  281, 282, 283, 284, 285, 286, 287, 288, 289, 290, 291, 292, 293, 294, 295, 296, 297, 298, 299, 300, 301, 302, 303,
  304, 305, 306, 307, 308, 309, 310, 311, 312, 313, 314, 315, 316, 317, 318, 319, 320, 321, 322, 323, 94, 324, 325,
  326, 327, 328, 329, 330, 331, 332, 333, 334, 335, 336, 337, 338, 339, 340, 341, 342, 343, 344, 345, 346, 347, 348,
  349, 350, 351, 352, 353, 354, 355, 356, 357, 358, 359, 360, 361, 362, 363, 364, 365, 366, 367, 368, 369, 370, 371,
  372, 373, 374, 375, 376, 377, 378, 379, 151, 152, 380, 381, 382, 383, 384, 385, 386, 387, 388, 389, 390, 164, 391,
  392, 393, 168, 394, 395, 396, 397, 398, 399, 175, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412,
  413, 414, 415, 416, 417, 418, 195, 419, 197, 420, 199, 200, 421, 422, 423, 424, 425, 426, 427, 428, 429, 430, 431,
  432, 433, 434, 435, 436, 437, 438, 439, 440, 441, 442, 443, 444, 445, 446, 447, 448, 449, 450, 451, 452, 453, 454,
  455, 456, 457, 458, 459, 460, 461, 462, 463, 464, 465, 466, 467,
)
# fmt: on
_IRISES = (473, 476, 475, 474, 477, 468, 471, 470, 469, 472)  # centre, then four points around it


def _table() -> np.ndarray:
  table = np.arange(478)
  table[:248] = _HALF
  table[np.array(_HALF)] = np.arange(248)
  table[468:] = _IRISES
  return table


MIRROR = _table()  # (478,) each point's mirror image


def mirrored_mean(mesh: Mesh, mirror_mesh: Mesh) -> Callable[[np.ndarray, bool], Seen | None]:
  """A mesh function (see `CropTracker`) out of two of the same kind, each of which follows one of the images.

  Both run at the same time: MediaPipe releases the GIL.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  beside = ThreadPoolExecutor(1, thread_name_prefix="mirror")

  def mirrored_crop(crop: np.ndarray, fresh: bool) -> np.ndarray | None:
    return mirror_mesh(cv2.flip(crop, 1), fresh)

  def run(crop: np.ndarray, fresh: bool) -> Seen | None:
    waiting = beside.submit(mirrored_crop, crop, fresh)
    try:
      points = mesh(crop, fresh)
    finally:
      mirrored = waiting.result()
    if points is None:
      return None
    if mirrored is None:
      return Seen(points, np.inf)
    mirrored = mirrored[MIRROR] * [-1, 1] + [1, 0]
    # Far apart they do not see the same face, or one of them is wrong; then the plain image counts.
    difference = (points - mirrored) / max(np.ptp(points, axis=0).max(), 1e-9)
    disagreement = float(np.abs(difference).mean())
    apart = np.abs(difference - np.median(difference, axis=0)).mean(axis=1)
    return Seen((points + mirrored) / 2 if disagreement < 0.05 else points, disagreement, apart)

  return run


def turned(rgb: np.ndarray, quarter: int) -> np.ndarray:
  """An image turned counter-clockwise by so many quarters."""
  return np.ascontiguousarray(np.rot90(rgb, quarter)) if quarter else rgb


def turned_back(points: np.ndarray, quarter: int, size: tuple[float, float]) -> np.ndarray:
  """Where points (..., 2) x, y of `turned(image, quarter)` are in that image of `size` (width, height)."""
  width, height = size if quarter % 2 == 0 else size[::-1]  # of the turned image
  for _ in range(quarter % 4):
    points = np.stack([height - points[..., 1], points[..., 0]], axis=-1)
    width, height = height, width
  return points


def quarter_of(roll: float) -> int:
  """How often a crop is to be turned for a face with that roll in radians."""
  return round(roll / (np.pi / 2)) % 4


def square_crop(rgb: np.ndarray, origin: tuple[int, int], side: int) -> np.ndarray:
  """The (side, side) px square of an image with its top left corner at `origin` (x, y), black outside the image,
  reduced to at most 512 px."""
  import cv2  # late: a tracker without pictures needs no OpenCV

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


class CutOut:
  """`square_crop` and `turned` of an image; of one that is expected they are made by a thread beside other work."""

  def __init__(self):
    self._beside = ThreadPoolExecutor(1, thread_name_prefix="crop")
    self._coming: collections.deque = collections.deque(maxlen=2)  # (image, where, what a thread makes of it)

  def expect(self, rgb: np.ndarray, origin: tuple[int, int], side: int, quarter: int) -> None:
    """It will probably be asked for this, after one other image."""
    self._coming.append((rgb, (origin, side, quarter), self._beside.submit(_cut_out, rgb, origin, side, quarter)))

  def __call__(self, rgb: np.ndarray, origin: tuple[int, int], side: int, quarter: int) -> np.ndarray:
    for image, where, made in self._coming:
      if image is rgb and where == (origin, side, quarter):
        return made.result()
    return _cut_out(rgb, origin, side, quarter)


def _cut_out(rgb: np.ndarray, origin: tuple[int, int], side: int, quarter: int) -> np.ndarray:
  return turned(square_crop(rgb, origin, side), quarter)
