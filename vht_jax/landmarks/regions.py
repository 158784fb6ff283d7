"""Whether eyes, mouth and contour of a face can be seen where its landmarks say they are, from one image.

Detectors guess what is hidden, and guess well: behind a mask the landmarks fit a head as well as ever. So the image is
asked, along curves that follow the landmarks and so are the same for every face and expression. A mouth is darker and
redder than the skin above and below it, in a certain order; between the lids there is dark and light within a few
pixels, of a shut eye at least the lashes. What covers them has neither. Nothing is compared with the rest of the clip:
a mask is worn throughout. The numbers below were chosen on five people under four kinds of drawn occluders; four others
and the further kinds were looked at meanwhile (docs/accuracy.md), so none of the figures is of unseen data.
"""

from __future__ import annotations

import numpy as np

REGIONS = ("right_eye", "left_eye", "mouth", "contour")  # the subject's: the right eye has the points 36-41
POINTS = (slice(36, 42), slice(42, 48), slice(48, 68), slice(0, 17))  # of the 68
COVERED = 0.5  # a region of less visibility is called covered

# Lab along lines across the mouth from the skin above to the skin below (`mouth_lines`): lightness and red-green, mean
# 0 and of any scale, the mean over five people who are not in the sample clips' other half.
_MOUTH_LIGHT = (70, 81, 86, 81, -41, -75, -99, -117, -114, -90, -40, -25, -18, 47, 70, 86, 98)
_MOUTH_RED = (-84, -82, -71, -45, 73, 87, 81, 42, -28, 11, 84, 105, 96, -30, -67, -84, -88)
# Sum of the correlations with both at which a mouth is half believed, and the width of the step; free mouths have 0.75
# to 1.7, covers -0.7 to 0.6 (textured scarfs up to 0.9).
_MOUTH_LIKE, _MOUTH_LIKE_WIDTH = 0.68, 0.06
_LIGHT_ALONE = 0.75  # covers have correlations with the lightness alone of up to 0.69, most free mouths 0.55 to 0.9
# The same for the contrast, standard deviations of lightness and red-green added: free 10.3 to 31, plain covers 2 to 7.
_MOUTH_CONTRAST, _MOUTH_CONTRAST_WIDTH = 8.0, 0.8
# The same for the spread of lightness (5th to 95th percentile) between the lids: open 13 to 40, shut 9 to 13, covered 3
# to 9.5.
_EYE_CONTRAST, _EYE_CONTRAST_WIDTH = 8.5, 0.6
_GREY = 0.7  # standard deviation of red-green below which a picture has no colours
_FACING = 0.8  # regions whose points are turned away further (`landmark_confidence`) are not judged: they fade anyway
SMALLEST = 30.0  # px between the outer eye corners; smaller faces show too little to be judged
_BLANK = 1.0  # standard deviation of the lightness of a picture that shows nothing at all


def visibility(rgb: np.ndarray, landmarks: np.ndarray, confidence: np.ndarray) -> np.ndarray:
  """How visible each of `REGIONS` is.

  Args:
    rgb: (H, W, 3) uint8.
    landmarks: (68, 2) px.
    confidence: (68,) of `landmark_confidence`, which says what faces away.

  Returns:
    (4,) f32 in [0, 1]; 1 where nothing can be said.
  """
  found = np.ones(len(REGIONS), np.float32)
  there = _look(rgb, landmarks)
  if there is None or there[0][..., 0].std() < _BLANK:
    return found
  lab, points = there
  mouth = _sampled(lab, mouth_lines(points))
  eyes = [_sampled(lab, eye_lines(points, points[part])) for part in POINTS[:2]]
  for k, (part, seen) in enumerate(zip(POINTS, (*map(_eye_seen, eyes), _mouth_seen(mouth)))):
    if confidence[part].mean() >= _FACING:
      found[k] = seen
  found[3] = _contour_seen(lab, points, [*eyes, mouth], found[:3])
  return found


def eye_colours(rgb: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
  """(2, 3) median colours in Lab between the lids of both eyes, and (2, 3) of the skin above and below them.

  Args:
    rgb: (H, W, 3) uint8.
    landmarks: (68, 2) px.

  Returns:
    None where nothing can be said.
  """
  there = _look(rgb, landmarks)
  if there is None:
    return None
  lab, points = there
  eyes = np.stack([_sampled(lab, eye_lines(points, points[part])) for part in POINTS[:2]])
  middle = lambda rows: np.median(eyes[:, rows].reshape(2, -1, 3), axis=1)
  return middle(slice(4, 9)), middle([0, 1, 2, 10, 11])


def _look(rgb: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
  """The face in Lab, softened, all faces as large, and its landmarks (68, 2) px there; None: too small or not there."""
  import cv2  # late: a tracker without pictures needs no OpenCV

  eye = float(np.linalg.norm(landmarks[36] - landmarks[45]))
  # A turned head's eye corners are near each other, its face is not small.
  size = max(eye, 0.6 * float(np.linalg.norm(landmarks[27] - landmarks[8])))
  if not np.isfinite(size) or size < SMALLEST:
    return None
  height, width = rgb.shape[:2]
  low, high = landmarks.min(axis=0) - 0.4 * size, landmarks.max(axis=0) + 0.4 * size
  x0, y0 = np.clip(np.floor(low), 0, [width, height]).astype(int)
  x1, y1 = np.clip(np.ceil(high), 0, [width, height]).astype(int)
  if x1 - x0 < 8 or y1 - y0 < 8:
    return None
  scale = min(1.0, 120.0 / size)  # all faces are looked at with the same resolution, as far as they have it
  face = rgb[y0:y1, x0:x1]
  if scale < 1.0:
    face = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  points = (landmarks.astype(np.float64) - [x0, y0]) * [face.shape[1] / (x1 - x0), face.shape[0] / (y1 - y0)]
  soft = cv2.GaussianBlur(face, (0, 0), max(scale * size / 60, 0.5)).astype(np.float32) / 255
  return cv2.cvtColor(soft, cv2.COLOR_RGB2LAB), points


def mouth_lines(p: np.ndarray) -> np.ndarray:
  """(17, 11, 2): eleven lines across the mouth of (68, 2), from the skin above over both lips to the skin below."""
  eye = np.linalg.norm(p[36] - p[45])
  t = np.linspace(0.1, 0.9, 11)
  top, bottom = _along(p[48:55], t), _along(p[[48, 59, 58, 57, 56, 55, 54]], t)
  upper, lower = _along(p[60:65], t), _along(p[[60, 67, 66, 65, 64]], t)
  down = _unit((bottom - top).mean(axis=0)) * eye
  return np.stack(
    [top - k * down for k in (0.14, 0.1, 0.06, 0.03)]
    + [top + k * (upper - top) for k in (0.3, 0.5, 0.7)]
    + [upper, (upper + lower) / 2, lower]
    + [lower + k * (bottom - lower) for k in (0.3, 0.5, 0.7)]
    + [bottom + k * down for k in (0.03, 0.06, 0.1, 0.14)]
  )


def eye_lines(p: np.ndarray, eye: np.ndarray) -> np.ndarray:
  """(12, 9, 2): nine lines across an eye (6, 2) of the face (68, 2), from above the lids to below them."""
  t = np.linspace(0.1, 0.9, 9)
  top, bottom = _along(eye[:4], t), _along(eye[[0, 5, 4, 3]], t)
  axis = eye[3] - eye[0]
  down = np.array([-axis[1], axis[0]])
  down = -down if down @ (p[48:60].mean(axis=0) - eye.mean(axis=0)) < 0 else down
  return np.stack(
    [top - k * down for k in (0.3, 0.2, 0.12, 0.06)]
    + [top + k * (bottom - top) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
    + [bottom + k * down for k in (0.08, 0.16, 0.28)]
  )


def _mouth_seen(lab: np.ndarray) -> float:
  spread = lab.std(axis=(0, 1))
  like = []
  for channel, pattern in ((0, _MOUTH_LIGHT), (1, _MOUTH_RED)):
    t = np.array(pattern, np.float64) - np.mean(pattern)
    x = lab[..., channel] - lab[..., channel].mean()
    like.append(float((x * t[:, None]).mean() / max(spread[channel], 1e-3) / t.std()))
  # Lips need not be redder than the skin if light and dark are convincing by themselves.
  likeness = max(sum(like) if spread[1] > _GREY else -1.0, 2 * like[0] - _LIGHT_ALONE)
  contrast = float(spread[0] + spread[1]) if spread[1] > _GREY else 1.5 * float(spread[0])
  return _step(likeness, _MOUTH_LIKE, _MOUTH_LIKE_WIDTH) * _step(contrast, _MOUTH_CONTRAST, _MOUTH_CONTRAST_WIDTH)


def _eye_seen(lab: np.ndarray) -> float:
  import cv2  # late: a tracker without pictures needs no OpenCV

  light = cv2.GaussianBlur(np.ascontiguousarray(lab[..., 0]), (0, 0), 0.7)[2:10]
  return _step(float(np.ptp(np.percentile(light, [5, 95]))), _EYE_CONTRAST, _EYE_CONTRAST_WIDTH)


def _contour_seen(lab: np.ndarray, p: np.ndarray, patches: list[np.ndarray], seen: np.ndarray) -> float:
  """Share of the contour that has not the colour of what covers another region rather than that of the skin.

  The contour has no looks of its own to be known by: a beard is not a mask. So it is only asked how far a cover goes.
  """
  covers = [patch.reshape(-1, 3) for patch, s in zip(patches, seen) if s < COVERED]
  if not covers:
    return 1.0
  nose = p[33] - p[27]
  brows = p[[18, 19, 24, 25]] - 0.35 * nose
  skin = np.concatenate([_sampled(lab, np.concatenate([brows, p[27:29]])[None])[0]]
                        + [patch[-1] for patch, s in zip(patches[:2], seen) if s >= COVERED])  # fmt: skip
  skin = np.median(skin, axis=0)
  inner = _sampled(lab, (p[:17] + 0.15 * (p[30] - p[:17]))[None])[0]
  to_skin = np.linalg.norm(inner - skin, axis=-1)
  to_cover = np.min([np.linalg.norm(inner - np.median(c, axis=0), axis=-1) for c in covers], axis=0)
  return float((to_cover >= 0.6 * to_skin).mean())  # a hand before the eyes has the colour of the skin


def _sampled(image: np.ndarray, points: np.ndarray) -> np.ndarray:
  import cv2  # late: a tracker without pictures needs no OpenCV

  xy = points.astype(np.float32) - 0.5  # OpenCV's pixel centres are whole numbers
  return cv2.remap(image, xy[..., 0], xy[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _along(p: np.ndarray, t: np.ndarray) -> np.ndarray:
  """Points at shares `t` of the length of a polyline (K, 2)."""
  s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
  s = s / max(s[-1], 1e-6)
  return np.stack([np.interp(t, s, p[:, 0]), np.interp(t, s, p[:, 1])], axis=-1)


def _unit(v: np.ndarray) -> np.ndarray:
  return v / max(float(np.linalg.norm(v)), 1e-6)


def _step(value: float, middle: float, width: float) -> float:
  return float(1.0 / (1.0 + np.exp(np.clip((middle - value) / width, -30, 30))))
