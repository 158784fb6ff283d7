"""Whether landmarks move as the image does: faces of two frames, each brought into one place by its own landmarks.

Landmarks that are right in both bring every feature to where the other frame's landmarks have it, however the head has
moved in between, also across a jump. Landmarks that were shifted, scaled, mirrored, taken from another face or frozen
while the face moved do not, although a head may fit them perfectly. Features are followed by Lucas and Kanade's method,
forwards and back; those that do not return to where they began say nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GROUPS = (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(27, 36), slice(48, 68))  # brows ... mouth
SIDE = 96  # px of a patch
_PLACES = np.array([[0.35, 0.40], [0.65, 0.40], [0.5, 0.72]])  # of the eyes and of the mouth in it
_RETURN = 1.0  # px: a feature that comes back further away is lost
_FEWEST = 2  # features of a group that have to be left
_WINDOW = 15  # px
FARTHEST = 0.25  # eye distances: features that seem to be further away are others that look alike
# Less of the features than this, or windows that differ by more (grey levels; the contrast is 40): another place that
# looks alike by chance. Frames beside each other keep 0.7 to 1 of them and differ by 3 to 15.
_SHARE, _UNLIKE = 0.4, 20.0
# As a face turns its features slide. Above this share and below this difference what was found of right faces is less
# than 3 % of the eye distance off, else up to 27 % (renderings of four people that turn by up to 3 degrees a frame).
_CLEAR_SHARE, _CLEAR_UNLIKE = 0.8, 12.0
_CUTS = 2  # times that a patch is cut where a face is guessed


class Patch(NamedTuple):
  """A face in its place."""

  grey: np.ndarray  # (SIDE, SIDE) uint8, of equal mean and contrast
  points: np.ndarray  # (68, 2) f32 px
  eye: float  # px between the outer eye corners, at least a third of the patch
  to_patch: np.ndarray  # (2, 3) px of the image to px of the patch


def patch(rgb: np.ndarray, landmarks: np.ndarray) -> Patch | None:
  """The face at (68, 2) px in an (H, W, 3) uint8 image; None if it is not in the image."""
  import cv2  # late: a tracker without pictures needs no OpenCV

  p = landmarks.astype(np.float64)
  source = np.array([p[36:42].mean(0), p[42:48].mean(0), p[48:60].mean(0)])
  a, b = (q[:, 0] + 1j * q[:, 1] for q in (source, _PLACES * SIDE))  # complex numbers scale and turn
  if not np.isfinite(a).all():
    return None
  a, b, centre, place = a - a.mean(), b - b.mean(), a.mean(), b.mean()
  turn = np.vdot(a, b) / max(np.vdot(a, a).real, 1e-6)
  if not 1e-3 < abs(turn) < 1e2:
    return None
  height, width = rgb.shape[:2]
  half = 0.8 * SIDE / abs(turn)
  x0, y0 = max(int(centre.real - half), 0), max(int(centre.imag - half), 0)
  x1, y1 = min(int(centre.real + half) + 1, width), min(int(centre.imag + half) + 1, height)
  if x1 - x0 < 8 or y1 - y0 < 8:
    return None
  grey = cv2.cvtColor(np.ascontiguousarray(rgb[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
  if abs(turn) < 1:  # reduced without aliasing first
    factor = max(abs(turn), 8.0 / min(grey.shape))
    grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
  scale = np.array([grey.shape[1] / (x1 - x0), grey.shape[0] / (y1 - y0)])
  shift = place - turn * centre
  to_patch = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
  matrix = to_patch.copy()
  matrix[:, 2] += to_patch[:, :2] @ [x0, y0]
  matrix[:, :2] /= scale
  grey = cv2.warpAffine(grey, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
  value = grey.astype(np.float32)
  inner = value[SIDE // 6 : -SIDE // 6, SIDE // 6 : -SIDE // 6]
  value = 128 + 40 * (value - inner.mean()) / max(float(inner.std()), 2.0)
  points = (p @ to_patch[:, :2].T + to_patch[:, 2]).astype(np.float32)
  eye = max(float(np.linalg.norm(points[36] - points[45])), SIDE / 3)
  return Patch(np.clip(value, 0, 255).astype(np.uint8), points, eye, to_patch)


def displacement(a: Patch, b: Patch) -> np.ndarray:
  """(6, 2) by how much the landmarks of b are beside those of a, per group, in eye distances; NaN where unknown."""
  away = (b.points[17:] - follow(a, b)[0]) / b.eye
  out = by_group(away)
  out[np.linalg.norm(out, axis=-1) > FARTHEST] = np.nan
  return out


def by_group(away: np.ndarray) -> np.ndarray:
  """(6, 2) medians of (51, 2) over `GROUPS`, NaN where too few are known."""
  good = np.isfinite(away[:, 0])
  out = np.full((len(GROUPS), 2), np.nan)
  for k, group in enumerate(GROUPS):
    part = slice(group.start - 17, group.stop - 17)
    if good[part].sum() >= _FEWEST:
      out[k] = np.median(away[part][good[part]], axis=0)
  return out


def follow(a: Patch, b: Patch) -> tuple[np.ndarray, bool]:
  """(51, 2) px of patch b: where it shows what a shows at its points 17 to 67; NaN where that is not found.

  And whether the two are so alike that this is beyond doubt.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  start = np.ascontiguousarray(a.points[17:, None])
  options = {"winSize": (_WINDOW, _WINDOW), "maxLevel": 2}
  there, found, error = cv2.calcOpticalFlowPyrLK(a.grey, b.grey, start, None, **options)
  back, returned, _ = cv2.calcOpticalFlowPyrLK(b.grey, a.grey, there, None, **options)
  good = (found[:, 0] > 0) & (returned[:, 0] > 0) & (np.linalg.norm(back - start, axis=-1)[:, 0] < _RETURN)
  share, unlike = good.mean(), np.median(error[good]) if good.any() else np.inf
  if share < _SHARE or unlike > _UNLIKE:
    good[:] = False
  return np.where(good[:, None], there[:, 0], np.nan), bool(share >= _CLEAR_SHARE and unlike <= _CLEAR_UNLIKE)


def carried(a: Patch, rgb: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, bool] | None:
  """(51, 2) px of an image: where it shows what patch a shows at its points 17 to 67; NaN where that is not found.

  Landmarks of the image are not asked, only a guess where the face is: the patch is cut there, then again where its
  features were found. So it does not matter how far off landmarks are.

  Args:
    a: a face whose landmarks are right.
    rgb: (H, W, 3) uint8.
    guess: (68, 2) px, about where the face is in the image.

  Returns:
    The points, and whether they are beyond doubt; None if the face is not there.
  """
  back = np.linalg.inv(a.to_patch[:, :2])
  source = (a.points - a.to_patch[:, 2]) @ back.T  # (68, 2) px of a's image
  for _ in range(_CUTS):
    b = patch(rgb, guess)
    if b is None:
      return None
    there, clear = follow(a, b)
    there = (there - b.to_patch[:, 2]) @ np.linalg.inv(b.to_patch[:, :2]).T
    good = np.isfinite(there[:, 0])
    if not good.any():
      return None
    guess = _moved(source, source[17:][good], there[good])
  return there, clear


def _moved(points: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Points (N, 2) moved by the similarity that fits source to target (M, 2), without the half that fits worst."""
  use = np.ones(len(source), bool)
  for _ in range(3):
    a, b = source[use] @ [1, 1j], target[use] @ [1, 1j]
    turn = np.vdot(a - a.mean(), b - b.mean()) / max(np.vdot(a - a.mean(), a - a.mean()).real, 1e-6)
    move = lambda p, a=a, b=b, turn=turn: turn * (p @ [1, 1j] - a.mean()) + b.mean()
    off = np.abs(move(source) - target @ [1, 1j])
    use = off <= np.median(off)
  z = move(points)
  return np.stack([z.real, z.imag], axis=-1)
