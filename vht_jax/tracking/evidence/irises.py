"""How irises move, as the images show it: a detector follows them in part, and goes with the lids.

On drawn eyes a detected iris moves by .1 to .7 of what the eye turns, on scanned ones by .7 (docs/accuracy.md), and no
constant offset mends that. But an iris looks the same in all frames of a clip. So a picture of it is averaged over
frames, found again in each, averaged anew from there, and so on: the image says how far it has moved, exactly (.2 mm, a
degree), and the detector, on average over the clip, where it is. Only what lies well between the lids is looked at,
because lids, lashes and their shadows do not go with the iris.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vht_jax.landmarks.detection import EYES, eye_openness
from vht_jax.tracking.evidence.lids import warped

SPREAD = 55.6  # mm, of the 68 points about their middle as seen from the front, on the open head
STEP = 0.4  # mm of the face per px of what is cut out
SIDE = 57  # px: the iris wherever it is looked for
RADIUS = 7.2  # mm: an iris has 5.9, and beyond its edge is the white that shows it
REACH = 3.6  # mm from where the detector sees it
LIDS = 1.4  # mm between the lids' landmarks and what is looked at
LIKELY = 1.5  # mm that a detected iris is off, beside what it is off by on average
INDEPENDENT = 6.0  # px of a patch for one independent pixel
ROUNDS = 6  # of averaging and finding again
PICTURED = 96  # frames that are averaged, at the most
ALIKE = 0.8  # correlation with the picture from which on it is found
LEAST_ALIKE = 0.9  # of the picture's frames, usually; else it is no iris
UNSURE = 0.5  # mm, standard deviation above which nothing is found
FEWEST = 25.0  # px that show something
BOTH = 8  # frames with both eyes, from which on it can be said how far they agree
OPEN = 0.12  # height over width of eyes that are looked at
_NOISE = 4.0  # squared grey levels: in the dark noise is no pattern
_RESTS = 0.02  # of the variance: nothing is alike exactly
_FFT = 64  # px, of which the places within reach do not wrap around
_CHUNK = 256  # frames at once

_HALF, _TO, _FAR = SIDE // 2, int(RADIUS / STEP), int(REACH / STEP)
_AXIS = (np.arange(SIDE) - _HALF) * STEP  # mm
_CENTRE = slice(_HALF - _TO, _HALF + _TO + 1)
_DISC = (np.hypot(_AXIS[_CENTRE, None], _AXIS[None, _CENTRE]) < RADIUS).astype(np.float32)


class Picture(NamedTuple):
  """What an iris looks like in a clip."""

  grey: np.ndarray  # (2 _TO + 1, 2 _TO + 1) f32
  known: np.ndarray  # the same, in [0, 1], how well each pixel is known
  centre: np.ndarray  # (2,) mm, where frames show it on average, beside the detector's iris


def axes(landmarks: np.ndarray) -> np.ndarray:
  """(T, 2, 2) px per mm of the face: columns to its left in the image and down, of landmarks (T, 68 or more, 2)."""
  points = np.asarray(landmarks[:, :68], np.float64)
  spread = np.sqrt(np.mean(np.sum((points - points.mean(axis=1, keepdims=True)) ** 2, axis=-1), axis=1))
  along = points[:, 45] - points[:, 36]
  along = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
  down = np.stack([-along[:, 1], along[:, 0]], axis=-1)
  return np.stack([along, down], axis=-1) * (spread / SPREAD)[:, None, None]


def cut(rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """(2, SIDE, SIDE) uint8 lightness around the irises of (70, 2) landmarks; 0 where the image does not show it all."""
  found = np.zeros((2, SIDE, SIDE), np.uint8)
  by = axes(landmarks[None])[0] * STEP
  for eye, centre in enumerate(np.asarray(landmarks[68:70], np.float64)):
    if np.isfinite(by).all() and np.isfinite(centre).all():
      patch = warped(rgb, centre - 0.5 - by @ [_HALF, _HALF], by, (SIDE, SIDE))
      found[eye] = 0 if patch is None else np.round(patch.mean(axis=-1))
  return found


def followed(patches: np.ndarray, landmarks: np.ndarray, seen: np.ndarray) -> np.ndarray:
  """(T, 2, 2) px by which irises lie beside where the detector sees them, as far as that is believed; 0: unknown.

  Args:
    patches: (T, 2, SIDE, SIDE) uint8 of `cut`.
    landmarks: (T, 70, 2) px.
    seen: (T,) bool, frames with landmarks that are not known to be wrong.
  """
  to_px = axes(landmarks)
  seen = seen & np.isfinite(to_px).all(axis=(1, 2))
  to_px = np.where(seen[:, None, None], to_px, 0.0)
  found = np.full((len(patches), 2, 2), np.nan)  # mm
  opened = np.array([eye_openness(p) if s else (0.0, 0.0) for p, s in zip(landmarks, seen)]).reshape(-1, 2)
  for eye, lids in enumerate(EYES):
    there = np.flatnonzero(seen & (opened[:, eye] > OPEN) & patches[:, eye].any(axis=(1, 2)))
    between = lambda index: _between(landmarks[index, 68 + eye], landmarks[index][:, lids], to_px[index])
    shown = there[np.linspace(0, len(there) - 1, min(len(there), PICTURED)).astype(int)]
    picture = _picture(patches[shown, eye], between(shown), opened[shown, eye]) if len(shown) else None
    if picture is None:
      continue
    for start in range(0, len(there), _CHUNK):
      index = there[start : start + _CHUNK]
      at, alike, sure = _find(_spectra(patches[index, eye], between(index)), picture)
      found[index, eye] = np.where((sure & (alike > ALIKE))[:, None], at - picture.centre, np.nan)
  return np.einsum("nij,nej->nei", to_px, believed(found)).astype(np.float32)


def believed(found: np.ndarray) -> np.ndarray:
  """Displacements (T, 2 eyes, 2), NaN where unknown, as far as both eyes say the same; 0 where neither says anything.

  Eyes look at one point, so what a detector makes of that is alike for both, and what is not alike is noise. What one
  eye does not say is the other's. Best linear prediction: the covariance of both over the variance of what is known.
  """
  known = np.asarray(np.isfinite(found).all(axis=-1))  # (T, 2)
  both = found[np.logical_and(known[:, 0], known[:, 1])]
  if len(both) < BOTH:
    return np.zeros_like(found)
  centred = both - both.mean(axis=0)
  alike = np.maximum((centred[:, 0] * centred[:, 1]).mean(axis=0), 0.0)  # (2,) right or left, up or down
  noise = np.maximum(((centred[:, 0] - centred[:, 1]) ** 2).mean(axis=0) / 2, 1e-9)
  number = known.sum(axis=1)[:, None, None]
  filled = np.where(known[..., None], found, found[:, ::-1])
  return np.where(number > 0, filled * alike / (alike + noise / np.maximum(number, 1)), 0.0)


def _between(centre: np.ndarray, lids: np.ndarray, to_px: np.ndarray) -> np.ndarray:
  """(n, SIDE, SIDE) f32, 1 well between the lids of patches about (n, 2) px; lids (n, 6, 2) px around the eye."""
  corner = np.einsum("nij,nkj->nki", np.linalg.inv(to_px), lids - centre[:, None])  # mm
  edge = np.roll(corner, -1, axis=1) - corner
  edge = edge / np.maximum(np.linalg.norm(edge, axis=-1, keepdims=True), 1e-9)
  across = lambda a: a[:, :, None, None]
  inside = across(edge[..., 0]) * (_AXIS[:, None] - across(corner[..., 1]))
  inside = inside - across(edge[..., 1]) * (_AXIS[None] - across(corner[..., 0]))
  turn = np.sign(np.sum(edge[..., 0] * np.roll(edge[..., 1], -1, 1) - edge[..., 1] * np.roll(edge[..., 0], -1, 1), 1))
  return np.clip(((inside * turn[:, None, None, None]).min(axis=1) - LIDS) / STEP + 0.5, 0.0, 1.0).astype(np.float32)


def _picture(patches: np.ndarray, inside: np.ndarray, opened: np.ndarray) -> Picture | None:
  """The iris of patches (n, SIDE, SIDE), of which `inside` counts, of eyes `opened` (n,); None if they differ."""
  spectra = _spectra(patches, inside)
  used = opened >= np.median(opened)
  at, picture, alike = np.zeros((len(patches), 2)), None, np.zeros(len(patches))
  for _ in range(ROUNDS):
    picture = _average(patches, inside, at, used, picture)
    found, alike, sure = _find(spectra, picture)
    at = np.where(sure[:, None], found, at)
    used = sure & (alike > ALIKE)
    if used.sum() < max(2, len(patches) // 4):
      return None
  if picture is None or np.median(alike[used]) < LEAST_ALIKE:
    return None
  return picture._replace(centre=np.median(at[used], axis=0))


def _average(
  patches: np.ndarray, inside: np.ndarray, at: np.ndarray, used: np.ndarray, before: Picture | None
) -> Picture:
  """The mean of what those that are `used` (n,) show about `at` (n, 2) mm, each by its own gain and level."""
  import cv2  # late: a tracker without pictures needs no OpenCV

  def about(image, place):
    matrix = np.array([[1, 0, place[0] / STEP], [0, 1, place[1] / STEP]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=flags)[_CENTRE, _CENTRE]

  index = np.flatnonzero(used)
  shown = np.stack([about(patches[i].astype(np.float32), at[i]) for i in index])
  weight = np.stack([about(inside[i], at[i]) for i in index]) * _DISC
  total = np.maximum(weight.sum(axis=0), 1e-6)
  if before is not None:
    by = weight * before.known
    mean = lambda a: (by * a).sum(axis=(1, 2), keepdims=True) / np.maximum(by.sum(axis=(1, 2), keepdims=True), 1e-6)
    picture = before.grey - mean(before.grey)
    gain = np.maximum(mean(picture * (shown - mean(shown))) / np.maximum(mean(picture**2), 1.0), 0.2)
    shown = (shown - mean(shown)) / gain + mean(before.grey)
  average = (weight * shown).sum(axis=0) / total
  for _ in range(2):  # highlights move otherwise
    away = np.abs(shown - average)
    scale = 1.5 * np.median(away[weight > 0.5]) + 1.0 if (weight > 0.5).any() else 1.0
    robust = weight / np.maximum(1.0, (away / scale) ** 2)
    average = (robust * shown).sum(axis=0) / np.maximum(robust.sum(axis=0), 1e-6)
  known = np.minimum(total / (0.15 * len(index)), 1.0) * _DISC
  return Picture(average.astype(np.float32), known.astype(np.float32), np.median(at[index], axis=0))


def _spectra(patches: np.ndarray, inside: np.ndarray) -> np.ndarray:
  """(3, n, ...) Fourier transforms of what is inside: 1, the lightness and its square."""
  level = patches.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
  shown = patches - level
  return np.fft.rfft2(np.stack([inside, inside * shown, inside * shown**2]), (_FFT, _FFT))


def _find(spectra: np.ndarray, picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where patches show the picture, (n, 2) mm; the correlation there (n,); whether that is one place (n,) bool."""
  known, centre = picture.known, picture.centre
  shown = picture.grey - (known * picture.grey).sum() / max(known.sum(), 1e-6)
  kernels = np.conj(np.fft.rfft2(np.stack([known, known * shown, known * shown**2]), (_FFT, _FFT)))
  window = np.arange(-_FAR - 1, _FAR + 2) + _HALF - _TO

  def correlate(a, b):
    return np.fft.irfft2(spectra[a] * kernels[b], (_FFT, _FFT))[:, window[:, None], window[None]]

  n = np.maximum(correlate(0, 0), 1e-3)
  mean, of_picture = correlate(1, 0) / n, correlate(0, 1) / n
  variance = np.maximum(correlate(2, 0) / n - mean**2, _NOISE)
  expected = np.maximum(correlate(0, 2) / n - of_picture**2, 1.0)
  alike = (correlate(1, 1) / n - mean * of_picture) / np.sqrt(variance * expected)
  alike = np.where(n < FEWEST, 0.0, np.clip(alike, 0.0, 1.0))
  place = (window - _HALF + _TO) * STEP
  prior = ((place[:, None] - centre[1]) / LIKELY) ** 2 + ((place[None] - centre[0]) / LIKELY) ** 2
  energy = n / INDEPENDENT * np.log(1.0 - alike**2 + _RESTS) + prior
  inner = energy[:, 1:-1, 1:-1]
  row, column = np.unravel_index(inner.reshape(len(inner), -1).argmin(axis=1), inner.shape[1:])
  row, column, i = row + 1, column + 1, np.arange(len(inner))
  at, deviation = [], []
  for before, after, k in (
    (energy[i, row, column - 1], energy[i, row, column + 1], column),
    (energy[i, row - 1, column], energy[i, row + 1, column], row),
  ):
    bend = before + after - 2.0 * energy[i, row, column]  # of a parabola through three
    bent = np.maximum(bend, 1e-6)
    at.append(place[k] + STEP * np.clip((before - after) / (2.0 * bent), -0.5, 0.5))
    deviation.append(STEP * np.sqrt(2.0 / bent))
  sure = (np.max(deviation, axis=0) < UNSURE) & (n[i, row, column] >= FEWEST)
  return np.stack(at, axis=-1), alike[i, row, column], sure
