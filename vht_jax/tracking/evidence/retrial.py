"""Frames in doubt are asked again: the landmarks of frames that are trusted are carried to them by the image.

What their own landmarks say of where the face is does not matter here (`motion.carried`), so it can be told how far
beside it they are, however far that is, and frames that are right are told from wrong ones beside them.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

import numpy as np

from vht_jax.landmarks import motion
from vht_jax.tracking.evidence.outliers import FEWEST_GROUPS, REACH, SURE, shots, sides

LEAST = 3  # frames of a party that leads
KEPT = 4 * REACH  # patches remembered


def retried(
  landmarks: np.ndarray,
  trusted: np.ndarray,
  asked: np.ndarray,
  same: np.ndarray,
  party: np.ndarray,
  cuts: Sequence[int],
  image: Callable[[int], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """By how much the landmarks of frames in doubt are beside where the image carries those of trusted frames.

  Outwards from the trusted frames: those that turn out to be right are asked about the next ones. Where
  that ends, as at a quick turn of the head, the largest party among the rest leads.

  Args:
    landmarks: (n, 68, 2) px.
    trusted, asked: (n,) bool.
    same: (n,) bool, `outliers.copies`: they are asked about, but not asked, or their errors would add up.
    party: (n,) of `outliers.parties`.
    cuts: first frames of new shots.
    image: of a frame, (H, W, 3) uint8.

  Returns:
    (n,) eye distances; NaN where nothing can be said; (n,) bool those that lead without having been compared.
  """
  n = len(landmarks)
  shot = shots(n, cuts)
  origin = np.maximum.accumulate(np.where(same, 0, np.arange(n)))
  found, lead = np.full(n, np.nan), np.zeros(n, bool)
  trusted, open_ = trusted.copy(), asked.copy()
  patches: collections.OrderedDict[int, motion.Patch | None] = collections.OrderedDict()

  def patch_of(i: int) -> motion.Patch | None:
    if i not in patches:
      patches[i] = motion.patch(image(i), landmarks[i])
      if len(patches) > KEPT:
        patches.popitem(last=False)
    return patches[i]

  tried: dict[int, list[int]] = {}
  while open_.any():
    around = neighbours(trusted, open_, origin, shot)
    steps = {i: min(abs(i - s) for s in others) for i, others in around.items() if tried.get(i) != others}
    if not steps:  # the largest party among the rest
      rest = open_ & ~same
      size = np.bincount(party[rest], minlength=1)
      if size.max() < LEAST:
        break
      chosen = rest & (party == size.argmax())
      lead, trusted, open_ = lead | chosen, trusted | chosen, open_ & ~chosen
      continue
    # Copies come last and all at once: nobody waits for them.
    nearest = min((k for i, k in steps.items() if not same[i]), default=None)
    for i in (i for i in steps if (same[i] if nearest is None else not same[i] and steps[i] == nearest)):
      tried[i] = around[i]
      found[i] = beside(landmarks, i, around[i], [patch_of(s) for s in around[i]], image(i))
      open_[i] = np.isnan(found[i])
      trusted[i] = found[i] < SURE and not same[i]
  return found, lead


def neighbours(trusted: np.ndarray, asked: np.ndarray, origin: np.ndarray, shot: np.ndarray) -> dict[int, list[int]]:
  """The nearest trusted frames before and after each that is asked about, up to `REACH` away in the same shot.

  A copy without these has the frame that it is a copy of: a still picture may last.

  Args:
    trusted, asked: (n,) bool.
    origin: (n,) the frame itself, or the one that it is a copy of.
    shot: (n,) number of the shot.
  """
  found = {}
  for i in np.flatnonzero(asked).tolist():
    around = sides(trusted, i, shot)
    if not around and origin[i] != i and trusted[origin[i]]:
      around = [int(origin[i])]
    if around:
      found[i] = around
  return found


def beside(
  landmarks: np.ndarray, i: int, around: list[int], patches: list[motion.Patch | None], rgb: np.ndarray
) -> float:
  """How far the landmarks of frame i are from where its neighbours' are carried, in eye distances; NaN: unknown.

  Args:
    landmarks: (n, 68, 2) px.
    i: the frame.
    around, patches: one or two frames with landmarks that are right.
    rgb: image of frame i.
  """
  share = 0.0 if len(around) == 1 else (i - around[0]) / (around[1] - around[0])
  guess = (1 - share) * landmarks[around[0]] + share * landmarks[around[-1]]
  answers = [(own, motion.carried(patch, rgb, guess)) for patch, own in zip(patches, (1 - share, share)) if patch]
  answers = [(own, *answer) for own, answer in answers if answer is not None]
  clear = any(answer[2] for answer in answers)
  total, weight = np.zeros((51, 2)), np.zeros((51, 1))
  for own, there, beyond_doubt in answers:
    known = np.isfinite(there[:, :1]) & (beyond_doubt or not clear)
    total, weight = total + own * np.where(known, there, 0.0), weight + own * known
  with np.errstate(divide="ignore", invalid="ignore"):
    away = (landmarks[i, 17:] - total / weight) / eye_distance(guess)
  length = np.linalg.norm(motion.by_group(away), axis=-1)
  length = length[np.isfinite(length)]
  if len(length) < FEWEST_GROUPS:
    return np.nan
  # As parts, and point by point: errors of single points are not those of their parts.
  found = float(max(length.mean(), np.nanmedian(np.linalg.norm(away, axis=-1))))
  return found if clear or found < SURE else np.nan  # nothing agrees by chance


def eye_distance(points: np.ndarray) -> float:
  """px between the outer eye corners of (68, 2) as if seen from the front (0.8 of nose bridge to chin)."""
  return float(max(np.linalg.norm(points[36] - points[45]), 0.8 * np.linalg.norm(points[27] - points[8])))
