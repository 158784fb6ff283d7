"""Which frames' landmarks are wrong, from how they agree with those of the frames before and after. Plain NumPy.

What is compared are displacements between the landmarks of two frames as the image sees them (`landmarks.motion`): 0
when both are right. Most frames are taken to be right: the displacements are explained by errors of as few frames as
possible. So a frame that is wrong for itself is told from its neighbours, and a run of frozen landmarks, that leaves
the face by little in every frame, is found by its end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from vht_jax.head.mesh import connected

OFFSETS = (1, 3, 8, 20)  # frames between the two that are compared
SHRINK = 0.3  # what an error of a frame costs, in units of what a displacement that is not explained costs
_KNEE = 0.005  # eye distances: smaller ones count by their square
_SAME = 1e-3  # px: landmarks that have not moved at all
COPY_BELIEF = 0.02  # of landmarks that are copies
_ROUNDS = 12  # of weighting anew
FEWEST_GROUPS = 3  # parts of the face that a frame has to be compared in
# Beside where they belong by more than this landmarks are not used: against what the frames around have on average, and
# in themselves. Detectors follow the same face with 0.5 to 1 %, and slide over it by up to 7 % as it turns.
WRONG, ASTRAY, _AROUND = 0.05, 0.10, 10  # eye distances, eye distances, frames on both sides
# Beside it by less they are right for sure: three times what detectors follow a face with. Copies of the frame before
# are no observation, so they are used no further than that.
SURE = 0.025
ENOUGH = 0.5  # share of the parts that a frame has to be compared in, of all in all its pairs
# Where the image cannot be compared: how far the place of the landmarks may be from the way between the neighbours that
# are right, and their form, for itself and for each frame in between; a quarter of the way on top of both.
_WAY = 0.25
_UNUSUAL, _FEWEST_TRUSTED = 2.0, 8  # times what 9 of 10 trusted frames are off; so few do not tell
_JUMP, _FORM, _FORM_STEP, REACH = 0.10, 0.06, 0.02, 12  # eye distances, the same, the same, frames


def shots(n: int, cuts: Sequence[int]) -> np.ndarray:
  """(n,) number of each frame's shot; cuts: first frames of new ones."""
  return np.searchsorted(np.sort(np.asarray(cuts, int)), np.arange(n), side="right")


def pairs(n: int, seen: np.ndarray, cuts: Sequence[int] = ()) -> np.ndarray:
  """(E, 2) frames to compare: all that are `OFFSETS` apart, have a face both (`seen` (n,) bool) and lie in one shot."""
  shot = shots(n, cuts)
  first = np.concatenate([np.arange(n - k) for k in OFFSETS if k < n] or [np.zeros(0, int)])
  second = np.concatenate([np.arange(k, n) for k in OFFSETS if k < n] or [np.zeros(0, int)])
  use = seen[first] & seen[second] & (shot[first] == shot[second])
  return np.stack([first[use], second[use]], axis=1).astype(int)


def doubtful(
  seen: np.ndarray, misplaced: np.ndarray, links: np.ndarray, away: np.ndarray, compared: np.ndarray, same: np.ndarray
) -> np.ndarray:
  """(n,) bool: frames to be asked about again (`retrial`); the others that are `seen` are trusted.

  Features that are far off are not found, or others in their place. So frames are in doubt as well that miss more than
  half of what could be compared.

  Args:
    seen, same: (n,) bool, frames with a face, and those that are `copies`.
    misplaced, compared: of `explain`.
    links, away: as `explain` got them.
  """
  n = len(seen)
  known = np.isfinite(away).all(axis=-1).mean(axis=1)
  share = np.bincount(links.ravel(), known.repeat(2), n) / np.maximum(np.bincount(links.ravel(), minlength=n), 1)
  return seen & ((compared == 0) | (misplaced > SURE) | same | (share < ENOUGH))


def parties(n: int, links: np.ndarray, away: np.ndarray) -> np.ndarray:
  """(n,) number of the party that each frame belongs to: its landmarks are on the same face in the same place.

  Args:
    n, links, away: as in `explain`.
  """
  known = np.all(np.isfinite(away), axis=-1)
  length = np.where(known, np.linalg.norm(np.where(known[..., None], away, 0.0), axis=-1), 0.0)
  agree = (known.sum(axis=1) >= FEWEST_GROUPS) & (length.sum(axis=1) < SURE * known.sum(axis=1))
  return connected(n, links[agree])


def wrong(
  landmarks: np.ndarray,
  seen: np.ndarray,
  misplaced: np.ndarray,
  compared: np.ndarray,
  same: np.ndarray,
  leaders: np.ndarray,
  cuts: Sequence[int] = (),
) -> np.ndarray:
  """(n,) bool: frames whose landmarks are better not used.

  Args:
    landmarks: (n, 68, 2) px.
    seen, same: (n,) bool, frames with a face, and those that are `copies`.
    misplaced, compared: of `explain` and of `retrial`.
    leaders: (n,) bool, frames that could not be compared but are right if any there are (`retrial`).
    cuts: first frames of new shots.
  """
  astray = seen & np.where(same, (compared == 0) | (misplaced > SURE), (compared > 0) & (misplaced > WRONG))
  astray &= ~leaders
  trusted = seen & ((compared > 0) | leaders) & ~astray
  # Outwards from the frames that most others agree with: who stands where they lead is one of them.
  while True:
    asked = seen & ~trusted & ~astray
    jump, reached = jumps(landmarks, trusted, asked, cuts)
    joined = asked & reached & ~jump
    if not joined.any():
      return astray | jump
    trusted = trusted | joined


def in_doubt(wrong: np.ndarray, right: np.ndarray, cuts: Sequence[int] = ()) -> np.ndarray:
  """(n,) bool: frames that are used, but not asked about what all frames share: they may belong to what is wrong.

  A detector errs for some frames in a row, and by less at the ends than in the middle. So who is not known to be right
  and is joined to a wrong frame by such frames is taken for one of them.

  Args:
    wrong: (n,) bool, of `wrong`.
    right: (n,) bool, frames that are beside the face by no more than `SURE`, or that lead (`retrial`).
    cuts: first frames of new shots.
  """
  n = len(wrong)
  shot = shots(n, cuts)
  found = np.array(wrong, bool)
  for order in (np.arange(n), np.arange(n)[::-1]):
    for before, i in zip(order[:-1], order[1:]):
      found[i] |= found[before] and not right[i] and shot[before] == shot[i]
  return found & ~wrong


def copies(landmarks: np.ndarray, seen: np.ndarray) -> np.ndarray:
  """(n,) bool: frames whose landmarks (n, 68, 2) are those of the frame before, to the last digit: nobody looked."""
  same = np.abs(np.diff(landmarks, axis=0)).max(axis=(1, 2), initial=0.0) < _SAME
  return np.concatenate([[False], same & seen[1:] & seen[:-1]])


def explain(
  n: int, links: np.ndarray, away: np.ndarray, belief: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """By how much the landmarks of every frame are misplaced.

  Landmarks slide over a head as it turns. What the frames around a frame have in common is such, as long as it is less
  than `ASTRAY`, and counts in proportion (`WRONG` / `ASTRAY`); what a frame has for itself counts fully.

  The minimum over m of sum |m_j - m_i - away_ij| + `SHRINK` * sum |m_i|, per part of the face, by weighted squares.

  Args:
    n: number of frames.
    links: (E, 2) pairs i, j.
    away: (E, G, 2) displacement of j against i in eye distances, NaN where unknown.
    belief: (n,) factor on `SHRINK`, for frames that are more likely to be wrong than others; 1 by default.

  Returns:
    misplaced: (n,) mean length over the parts, in eye distances; more than `WRONG` is wrong. 0 without any part.
    compared: (n,) with how many frames each could be compared in `FEWEST_GROUPS` parts or more; 0 for those that only
      agree among themselves, and not with most of their shot.
  """
  belief = np.ones(n) if belief is None else belief
  known = np.all(np.isfinite(away), axis=-1)
  enough = known.sum(axis=1) >= FEWEST_GROUPS
  compared = np.bincount(links[enough].ravel(), minlength=n) * _with_most(n, links, links[enough], belief)
  total, count = np.zeros(n), np.zeros(n)
  for g in range(away.shape[1]):
    use = known[:, g] & enough
    if not use.any():
      continue
    m = _least(n, links[use], away[use, g], belief)
    there = np.bincount(links[use].ravel(), minlength=n) > 0
    length = np.linalg.norm(m - _median_around(m, there), axis=-1)
    total += np.where(there, np.maximum(length, WRONG / ASTRAY * np.linalg.norm(m, axis=-1)), 0.0)
    count += there
  return total / np.maximum(count, 1), compared


def _with_most(n: int, asked: np.ndarray, links: np.ndarray, belief: np.ndarray) -> np.ndarray:
  """(n,) bool: frames that `links` (E, 2) join to most frames of their shot, which all pairs `asked` (E', 2) join."""
  shot, part = connected(n, asked), connected(n, links)
  size = np.bincount(part, belief)
  largest = np.zeros(n)
  np.maximum.at(largest, shot, size[part])
  return size[part] >= largest[shot]


def _least(n: int, links: np.ndarray, away: np.ndarray, belief: np.ndarray) -> np.ndarray:
  """(n, 2) minimum of `explain` for one part; links (E, 2), away (E, 2) without NaN."""
  i, j = links.T
  width = max(OFFSETS)
  m = np.zeros((n, 2))
  weight, own = 1.0 / np.maximum(np.linalg.norm(away, axis=-1), _KNEE), SHRINK * belief / _KNEE
  for _ in range(_ROUNDS):
    band = np.zeros((width + 1, n))  # the lower half: band[k, i] couples i and i + k
    band[0] = own + np.bincount(i, weight, n) + np.bincount(j, weight, n)
    np.add.at(band, (j - i, i), -weight)
    right = np.stack([np.bincount(j, weight * a, n) - np.bincount(i, weight * a, n) for a in away.T], axis=1)
    m = scipy.linalg.solveh_banded(band, right, lower=True)
    weight = 1.0 / np.maximum(np.linalg.norm(m[j] - m[i] - away, axis=-1), _KNEE)
    own = SHRINK * belief / np.maximum(np.linalg.norm(m, axis=-1), _KNEE)
  return m


def _median_around(m: np.ndarray, there: np.ndarray) -> np.ndarray:
  """(n, 2) median of the frames around each, as far as they are `there` (n,)."""
  padded = np.pad(np.where(there[:, None], m, np.nan), ((_AROUND, _AROUND), (0, 0)), constant_values=np.nan)
  windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1, axis=0)
  known = np.isfinite(windows[:, 0]).any(axis=-1)
  found = np.zeros_like(m)
  found[known] = np.nanmedian(windows[known], axis=-1)
  return found


def jumps(
  landmarks: np.ndarray, trusted: np.ndarray, asked: np.ndarray, cuts: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
  """Frames that are `asked` about and whose landmarks are not where those of trusted neighbours lead.

  For frames that the image cannot tell about: blurred, hidden, or landmarks that are not on a face at all. Place is
  compared, and for itself what is left without it, size, turn and shape, which change less from frame to frame. How far
  frames may be is measured on the trusted ones as well: of pictures without an order none is where the others lead.

  Args:
    landmarks: (n, 68, 2) px.
    trusted, asked: (n,) bool.
    cuts: first frames of new shots.

  Returns:
    (n,) bool those that jump, (n,) bool those that have a trusted frame near enough to tell.
  """
  n = len(landmarks)
  shot = shots(n, cuts)
  ratio = np.full(n, np.nan)
  for i in np.flatnonzero(trusted | asked).tolist():
    ratio[i] = _off_the_way(landmarks, i, *sides(trusted, i, shot))
  known = ratio[trusted & np.isfinite(ratio)]
  bound = max(1.0, _UNUSUAL * np.quantile(known, 0.9)) if len(known) >= _FEWEST_TRUSTED else np.inf
  reached = asked & np.isfinite(ratio)
  return reached & (ratio > bound), reached


def sides(trusted: np.ndarray, i: int, shot: np.ndarray) -> list[int]:
  """The nearest trusted frames before and after frame i, up to `REACH` away in the same shot."""
  window = np.arange(max(i - REACH, 0), min(i + REACH + 1, len(trusted)))
  window = window[trusted[window] & (shot[window] == shot[i])]
  return [*window[window < i][-1:].tolist(), *window[window > i][:1].tolist()]


def _off_the_way(landmarks: np.ndarray, i: int, *sides: int) -> float:
  """How far the landmarks of frame i are from the way between one or two others, over what is allowed; NaN: no others.

  In place or in form, whichever is farther.
  """
  if not sides:
    return np.nan
  length = lambda p: float(np.linalg.norm(p, axis=-1).mean())
  centred = lambda p: p - p.mean(axis=0)
  a, b = landmarks[sides[0]], landmarks[sides[-1]]
  t = (i - sides[0]) / max(sides[-1] - sides[0], 1)
  eye = 0.8 * max(length((p[27] - p[8])[None]) for p in (a, b))  # about the eye distance, at any yaw
  steps = min(abs(i - s) for s in sides)
  off, way = landmarks[i] - (a + t * (b - a)), b - a
  place = _JUMP * (1 if len(sides) == 2 else steps) * eye + _WAY * length(way)
  form = (_FORM + _FORM_STEP * steps) * eye + _WAY * length(centred(way))
  return max(length(off.mean(axis=0)[None]) / max(place, 1e-6), length(centred(off)) / max(form, 1e-6))
