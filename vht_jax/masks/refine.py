"""A coarse matte brought to the image's edges, and calmed over time.

*Edges*: the guided filter (He, Sun and Tang, 2013), in which the matte is locally a linear function of the colours,
with its coefficients computed on the small image and applied to the large one (He and Sun, "Fast guided filter", 2015).

*Time*: a pixel's matte is the mean over the frames before and after it in which the pixel looks the same. As many lie
before as after, so nothing lags; where something moves the colours differ, and the frame stands for itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

RADIUS = 4  # px of the small image: what the model's outlines are off by (it gives 256 px, from 64 px of features)
# Variance of the colours (in [0, 1]) below which an area counts as flat: 0.02^2, about a camera's noise.
EPS = 4e-4
# Per frame away, how much less it counts; and the difference of colours, as rms of the channels in [0, 1], at which it
# counts by 1 / e: a few times the noise, so that a change that can be seen is none that is averaged over.
REACH, FALL, ALIKE = 3, 0.75, 0.04
# Below and above, a matte is background and person: the model never says 0 or 1 near an outline, and the filter leaves
# traces of lines of the background that end at the person.
LEVELS = (0.1, 0.9)
_BLUR = 1.0  # px of the small image, of the colours that are compared: noise and codecs make pixels differ


def guide(rgb: np.ndarray, factor: float) -> np.ndarray:
  """float32 (h, w, 3) in [0, 1] of an image uint8 (H, W, 3), reduced by `factor` <= 1."""
  if factor < 1:
    rgb = cv2.resize(rgb, small_size(rgb.shape[:2], factor)[::-1], interpolation=cv2.INTER_AREA)
  return rgb.astype(np.float32) * np.float32(1 / 255)


def blurred(image: np.ndarray) -> np.ndarray:
  """What is compared of an image (h, w, 3): without the noise of single pixels."""
  return cv2.GaussianBlur(image, (0, 0), _BLUR)


def levelled(matte: np.ndarray) -> np.ndarray:
  """The matte with what is below `LEVELS` 0, above them 1."""
  low, high = LEVELS
  return np.clip((matte - np.float32(low)) * np.float32(1 / (high - low)), 0.0, 1.0)


def small_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
  """(h, w) of an image of a size (H, W), reduced by `factor` <= 1."""
  return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def calmed(mattes: Sequence[np.ndarray], guides: Sequence[np.ndarray], now: int) -> np.ndarray:
  """The matte (h, w) of frame `now` of a few that follow each other, see the module; `levelled`.

  Args:
    mattes: (h, w) float32 in [0, 1] each.
    guides: (h, w, 3), their images in [0, 1], `blurred`.
    now: which of them; a frame counts only with the one at the same distance on the other side.
  """
  reach = min(now, len(mattes) - 1 - now, REACH)
  total, weights = mattes[now].copy(), np.ones_like(mattes[now])
  for k in range(1, reach + 1):
    for i in (now - k, now + k):
      apart = guides[i] - guides[now]
      weight = FALL**k * np.exp(np.einsum("hwc,hwc->hw", apart, apart) * np.float32(-1 / (3 * ALIKE**2)))
      total += weight * mattes[i]
      weights += weight
  return levelled(total / weights)


def guided(matte: np.ndarray, image: np.ndarray, radius: int = RADIUS, eps: float = EPS) -> np.ndarray:
  """Coefficients (h, w, 4) of the guided filter: the matte is `[r, g, b, 1]` times them.

  Args:
    matte: (h, w) float32.
    image: (h, w, 3) float32 in [0, 1].
    radius: of the windows, px.
    eps: variance of colours that is no edge.
  """
  mean = lambda a: cv2.blur(a, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)
  m_image, m_matte = mean(image), mean(matte)
  pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
  rr, rg, rb, gg, gb, bb = (
    mean(image[..., i] * image[..., j]) - m_image[..., i] * m_image[..., j] + (eps if i == j else 0.0) for i, j in pairs
  )
  cov = mean(image * matte[..., None]) - m_image * m_matte[..., None]
  # The inverse of the symmetric 3 x 3 by its cofactors.
  c00, c01, c02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
  c11, c12, c22 = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
  determinant = np.maximum(rr * c00 + rg * c01 + rb * c02, np.float32(1e-14))  # eps^3 is 6e-11
  r, g, b = cov[..., 0], cov[..., 1], cov[..., 2]
  a = np.stack([c00 * r + c01 * g + c02 * b, c01 * r + c11 * g + c12 * b, c02 * r + c12 * g + c22 * b], axis=-1)
  a /= determinant[..., None]
  offset = m_matte - np.einsum("hwc,hwc->hw", a, m_image)
  return np.dstack([mean(a), mean(offset)])


def applied(coefficients: np.ndarray, rgb: np.ndarray) -> np.ndarray:
  """float32 (H, W) in [0, 1], `levelled`: `guided`'s coefficients (H, W, 4), enlarged, on the image uint8 (H, W, 3)."""
  matte = np.einsum("hwc,hwc->hw", coefficients[..., :3], rgb.astype(np.float32)) * np.float32(1 / 255)
  return levelled(matte + coefficients[..., 3])
