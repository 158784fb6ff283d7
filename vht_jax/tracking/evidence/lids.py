"""Whether the image shows an eye shut: detectors see it ajar.

A mesh fitted to a shut eye stays open by a fifth to a half of what the open one is, and no offset of its points, which
is the same in all frames, mends that. But a shut eye is easily seen: between the lids there is nothing but skin. So the
height of what is less coloured or much darker than the skin above and below (white, iris) is measured, and compared
with what it usually is in this clip. It only ever closes an eye, and only one that the detector sees half shut too, or
a moment before and after that: lashes, make-up and shadows look like open eyes, and hair or a hand like shut ones.
"""

from __future__ import annotations

import numpy as np

# (inner or outer corner, the other), (upper lid, the point below) twice; of the subject's right and left eye.
_EYES = (((36, 39), ((37, 41), (38, 40))), ((42, 45), ((43, 47), (44, 46))))
_WIDTH = 0.33  # of an eye, in outer eye distances
_PATCH = (32, 48)  # columns over the middle half of an eye, rows
_REACH = 0.45  # widths that the rows reach above and below the line between the corners
_ABOVE, _BELOW, _BETWEEN = slice(2, 10), slice(38, 46), slice(8, 42)  # rows of skin, and of what may be eye
_PALE = 0.35  # of log(red / green) + log(green / blue), less than the skin's: white
_DARK, _DARKER = 0.55, 1.05  # of log lightness below the skin's: an iris, for half and for certain
_FLOOR = 8.0  # of 255, so that noise in the dark is no colour
# Openings over the clip's usual ones, the image's and the detector's, at which an eye is surely shut and surely not. In
# blinks of five clips (two real) the image has .03 to .16 and, of real lids with their lashes and shadows, .34 to .76;
# the detector .13 to .6, and on the way up to .87. Open eyes have at least .67 in the image (docs/accuracy.md).
SHUT, OPEN = 0.35, 0.62
HALF_SHUT, WIDE = 0.8, 0.95
BLINK = 0.1  # s beside a shut eye in which it shuts or opens: half of a short blink
LINE = 0.1  # of the usual opening that the line between shut lids looks like, above
LEAST_USUAL = 0.1  # of the eye's width: less is not seen to be an eye
LEAST_TURNED = 0.75  # of the other eye's width; one that is turned away further shows the nose or the background
SMALLEST = 30.0  # px between the outer eye corners


def seen_open(rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """(2,) f32 how far the image shows the right and the left eye open, in eye widths; NaN where it shows too little.

  Args:
    rgb: (H, W, 3) uint8.
    landmarks: (68, 2) px or more.
  """
  found = np.full(2, np.nan, np.float32)
  width = _WIDTH * float(np.linalg.norm(landmarks[36] - landmarks[45]))
  spans = np.array([np.linalg.norm(landmarks[b] - landmarks[a]) for (a, b), _ in _EYES])
  if not np.isfinite(spans).all() or not width >= _WIDTH * SMALLEST or spans.min() < 1.0:
    return found
  for k, ((a, b), _) in enumerate(_EYES):
    if spans[k] >= LEAST_TURNED * spans[1 - k]:
      patch = _patch(rgb, landmarks[a], landmarks[b], width)
      if patch is not None:
        found[k] = _height(patch)
  return found


def closed(
  landmarks: np.ndarray, seen: np.ndarray, seconds: np.ndarray, shot: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Landmarks whose upper lids come down where images show the eyes shut.

  Args:
    landmarks: (T, 70, 2) px.
    seen: (T, 2) of `seen_open`.
    seconds: (T,) s, when each frame was taken.
    shot: (T,) number of the shot.

  Returns:
    Landmarks (T, 70, 2), and how surely each eye is shut (T, 2) in [0, 1].
  """
  landmarks = np.array(landmarks, np.float32)
  image, detected = _openings(landmarks, seen)
  surely = _falling(image, SHUT, OPEN) * _falling(detected, HALF_SHUT, WIDE)
  # An eye is half shut before and after it is shut, whatever the detector makes of that.
  blink = _beside(surely.max(axis=1), seconds, shot)
  sure = np.maximum(surely, blink[:, None] * _falling(image, OPEN, WIDE))
  shown = np.maximum(image - LINE, 0.0) / (1.0 - LINE)
  left = 1.0 - sure * np.maximum(1.0 - shown / np.maximum(detected, 1e-6), 0.0)
  for k, (_, lids) in enumerate(_EYES):
    for upper, lower in lids:
      apart = landmarks[:, upper] - landmarks[:, lower]
      landmarks[:, upper] = landmarks[:, lower] + apart * left[:, k, None]
  return landmarks, sure.astype(np.float32)


def _beside(shut: np.ndarray, seconds: np.ndarray, shot: np.ndarray) -> np.ndarray:
  """(T,) the largest of `shut` (T,) within `BLINK` in the same shot."""
  found = shut.copy()
  for k in range(1, len(shut)):
    near = (seconds[k:] - seconds[:-k] < BLINK) & (shot[k:] == shot[:-k])
    if not near.any():  # nor further away: times rise
      break
    found[k:] = np.maximum(found[k:], np.where(near, shut[:-k], 0.0))
    found[:-k] = np.maximum(found[:-k], np.where(near, shut[k:], 0.0))
  return found


def _openings(landmarks: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(T, 2) twice: openings over the usual ones, the image's (inf where it shows too little) and the detector's."""
  image, detected = np.full(seen.shape, np.inf), np.ones(seen.shape)
  width = _WIDTH * np.linalg.norm(landmarks[:, 36] - landmarks[:, 45], axis=-1)
  for k, (_, lids) in enumerate(_EYES):
    there = np.isfinite(seen[:, k]) & (width > 0)
    if not there.any():
      continue
    high = np.mean([np.linalg.norm(landmarks[there, u] - landmarks[there, l], axis=-1) for u, l in lids], axis=0)
    shown, high = seen[there, k], high / width[there]
    usual = np.median(shown), np.median(high)
    if usual[0] < LEAST_USUAL or usual[1] <= 0:
      continue
    image[there, k], detected[there, k] = shown / usual[0], high / usual[1]
  return image, detected


def _falling(x: np.ndarray, low: float, high: float) -> np.ndarray:
  t = np.clip((high - x) / (high - low), 0.0, 1.0)
  return t * t * (3.0 - 2.0 * t)


def _patch(rgb: np.ndarray, a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray | None:
  """(48, 32, 3) f32 of the middle of the eye between the corners a and b (2,); None outside of the image."""
  along = np.asarray(b - a, np.float64)
  down = np.array([-along[1], along[0]]) / np.linalg.norm(along)
  columns, rows = _PATCH
  by = np.stack([0.5 * along / columns, 2 * _REACH * width * down / rows], axis=1)
  return warped(rgb, (np.asarray(a, np.float64) + b) / 2 - by @ ((np.array(_PATCH) - 1) / 2), by, _PATCH)


def warped(rgb: np.ndarray, first: np.ndarray, by: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
  """Part of an image (H, W, 3) uint8 as (rows, columns, 3) f32; None if the image does not have all of it.

  Args:
    first: (2,) px, where the first pixel lies; 0 is the middle of the image's first.
    by: (2, 2) px of the image from a column to the next, and from a row.
    size: columns, rows.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  corners = first + np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * size @ by.T
  low, high = np.floor(corners.min(0)).astype(int) - 4, np.ceil(corners.max(0)).astype(int) + 4
  if (low < 0).any() or (high > rgb.shape[1::-1]).any():
    return None
  part = np.ascontiguousarray(rgb[low[1] : high[1], low[0] : high[0]])
  row = float(np.linalg.norm(by[:, 1]))
  if row > 1.2:  # pixels are averaged, not picked
    part = cv2.GaussianBlur(part, (0, 0), row / 2)
  matrix = np.concatenate([by, (first - low)[:, None]], axis=1)
  return cv2.warpAffine(part, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP).astype(np.float32)


def _height(patch: np.ndarray) -> float:
  """Height of what is no skin, in eye widths: mean over the columns of (48, 32, 3)."""
  log = np.log(patch + _FLOOR)
  colour, light = log[..., 0] - log[..., 2], log.mean(axis=-1)
  t = np.linspace(0.0, 1.0, _PATCH[1])[:, None]
  skin = lambda a: (1 - t) * np.median(a[_ABOVE]) + t * np.median(a[_BELOW])
  pale = (skin(colour) - colour) / _PALE
  dark = (skin(light) - light - _DARK) / (_DARKER - _DARK)
  eye = np.clip(np.maximum(pale, dark), 0.0, 1.0)
  return float(eye[_BETWEEN].sum(axis=0).mean() / _PATCH[1] * 2 * _REACH)
