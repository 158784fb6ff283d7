"""What the images say about the landmarks, before anything is fitted to them: the one place that weighs detections.

Frames whose landmarks are not on the face that the other frames show are given up, and are bridged later. Regions of a
face that cannot be seen lose their weight, so that there a fit falls back on its priors and on the rest of the face.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import flax.struct
import numpy as np

from vht_jax.config import Data, TrackConfig
from vht_jax.host.prefetch import prefetched
from vht_jax.landmarks.motion import GROUPS, displacement, patch
from vht_jax.landmarks.regions import COVERED, POINTS, REGIONS, visibility
from vht_jax.tracking.evidence import irises, lids, outliers
from vht_jax.tracking.evidence.blinks import without_blinks
from vht_jax.tracking.evidence.retrial import retried
from vht_jax.tracking.protocols import Clip, Progress
from vht_jax.types import FlameModel

CHUNK = 16  # frames read at once
USUAL_RATE = 25.0  # frames per second, of clips without times
LEAST = 0.1  # a region of less visibility has no weight at all
SURELY_SHUT = 0.5  # of `lids.closed`: the colours between the lids no longer count
_IRIS_OF = (0, 1)  # region of points 68 and 69


class Evidence(flax.struct.PyTreeNode):
  """Of T frames."""

  visible: np.ndarray  # (T, R) f32 in [0, 1], of `REGIONS`; 1 where there is no face or nothing can be said
  misplaced: np.ndarray  # (T,) f32 how far the landmarks are beside the face, in eye distances; NaN: not comparable
  wrong: np.ndarray  # (T,) bool, frames whose landmarks are not used
  lids: np.ndarray | None = None  # (T, 2) f32 of `lids.seen_open`; None in what an older version kept
  in_doubt: np.ndarray | None = None  # (T,) bool of `outliers.in_doubt`; None likewise
  irises: np.ndarray | None = None  # (T, 2, 2) f32 px of `irises.followed`; None likewise


def examine(clip: Clip, config: TrackConfig, progress: Progress) -> Evidence:
  """Looks at every frame of a clip (`protocols.Clip`) once.

  Pictures that are no video (`config.data.unordered`) are not compared with each other.
  """
  landmarks, confidence, _ = clip.landmarks()
  n = len(landmarks)
  seen = np.asarray((confidence[:, :68] > 0).any(axis=1))
  in_order = not config.data.unordered
  cuts = config.data.cutframes
  visible = np.ones((n, len(REGIONS)), np.float32)
  opened = np.full((n, 2), np.nan, np.float32)
  eyes = np.zeros((n, 2, irises.SIDE, irises.SIDE), np.uint8)
  links = outliers.pairs(n, seen if in_order else np.zeros(n, bool), cuts)
  of_later = collections.defaultdict(list)
  for row, (i, j) in enumerate(links):
    of_later[int(j)].append((row, int(i)))
  away = np.full((len(links), len(GROUPS), 2), np.nan)
  recent: collections.deque = collections.deque(maxlen=max(outliers.OFFSETS) + 1)  # (frame, patch)
  faces = np.flatnonzero(seen)
  progress.stage("examine", len(faces))
  chunks = [faces[start : start + CHUNK] for start in range(0, len(faces), CHUNK)]

  def looked_at(chunk: np.ndarray) -> np.ndarray:  # in a thread beside the comparison of frames
    images = clip.images(chunk)
    for j, image in zip(chunk, images):
      points = np.asarray(landmarks[j, :68], np.float32)
      visible[j] = visibility(image, points, confidence[j, :68])
      opened[j] = lids.seen_open(image, points)
      if in_order:
        eyes[j] = irises.cut(image, landmarks[j])
    return images

  for chunk, images in zip(chunks, prefetched(looked_at, chunks)):
    for j, image in zip(chunk, images):
      if in_order:
        points = np.asarray(landmarks[j, :68], np.float32)
        recent.append((int(j), patch(image, points)))
        before = dict(recent)
        for row, i in of_later[int(j)]:
          if before.get(i) is not None and before[int(j)] is not None:
            away[row] = displacement(before[i], before[int(j)])
    progress.advance(len(chunk))
  moved = np.zeros((n, 2, 2), np.float32)
  wrong, misplaced, compared, doubted = np.zeros(n, bool), np.zeros(n), np.zeros(n), np.zeros(n, bool)
  if in_order:
    points = np.asarray(landmarks[:, :68], np.float32)
    shot = outliers.shots(n, cuts)
    visible = without_blinks(visible, points, seen, _seconds(clip, n), shot, lambda i: clip.images([i])[0])
    same = outliers.copies(points, seen)
    misplaced, compared = outliers.explain(n, links, away, np.where(same, outliers.COPY_BELIEF, 1.0))
    asked = outliers.doubtful(seen, misplaced, links, away, compared, same)
    party = outliers.parties(n, links, away)
    again, leaders = retried(points, seen & ~asked, asked, same, party, cuts, lambda i: clip.images([i])[0])
    misplaced, compared = np.where(asked, again, misplaced), np.where(asked, np.isfinite(again), compared)
    wrong = outliers.wrong(points, seen, misplaced, compared, same, leaders, cuts)
    right = ~seen | leaders | ((compared > 0) & (misplaced <= outliers.SURE))
    doubted = outliers.in_doubt(wrong, right, cuts)
    moved = irises.followed(eyes, landmarks, seen & ~wrong)
  if wrong[seen].all():  # nothing to hold on to
    wrong[:] = False
  if (wrong | doubted)[seen].all():
    doubted[:] = False
  misplaced = np.where(compared > 0, misplaced, np.nan).astype(np.float32)
  return Evidence(visible, misplaced, wrong, opened, doubted, moved)


def _seconds(clip: Clip, n: int) -> np.ndarray:
  """(n,) s, when the frames were taken, as far as the clip says so."""
  times = getattr(clip, "times", None)
  return np.arange(n) / USUAL_RATE if times is None else np.asarray(times, np.float64)


class Weighed:
  """A clip whose landmarks count as much as the evidence allows; a `protocols.Clip` itself."""

  def __init__(self, clip, evidence: Evidence, model: FlameModel, data: Data):
    self.clip, self.size = clip, clip.size
    self.evidence = evidence
    landmarks, confidence, dense = clip.landmarks()
    if evidence.irises is not None:
      landmarks = np.concatenate([landmarks[:, :68], landmarks[:, 68:] + evidence.irises], axis=1)
    regions = dense_regions(model)
    self._points = weigh(landmarks, confidence, dense, evidence, regions)
    beliefs = clip.beliefs() if hasattr(clip, "beliefs") else None
    points, shut = self._points[0], np.zeros((len(landmarks), 2), np.float32)
    if evidence.lids is not None:
      n = len(landmarks)
      shot = np.arange(n) if data.unordered else outliers.shots(n, data.cutframes)
      points, shut = lids.closed(points, evidence.lids, _seconds(clip, n), shot)
    self._settled = settled(points, self._points[1], beliefs, evidence, regions, shut)
    self.hidden = [_hidden_points(*frame) for frame in zip(landmarks, evidence.visible, shut)]

  def __len__(self) -> int:
    return len(self.clip)

  def landmarks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    return self._points

  def settled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`settled` of its frames."""
    return self._settled

  def images(self, indices) -> np.ndarray:
    return self.clip.images(indices)

  def __getattr__(self, name: str):
    """What a clip may have beside: masks, times, numbers of its frames."""
    return getattr(self.clip, name)


def weigh(
  landmarks: np.ndarray, confidence: np.ndarray, dense: np.ndarray | None, evidence: Evidence, regions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """`Clip.landmarks` with the evidence in it.

  Args:
    landmarks, confidence, dense: (T, 70, 2), (T, 70), (T, 478, 2) or None.
    evidence: of the T frames.
    regions: (478,) of `dense_regions`.

  Returns:
    The same landmarks; confidence 0 in frames that are wrong and less in regions that are covered; dense points of
    both are NaN, because they have no confidence.
  """
  confidence = faded(confidence, evidence.visible)
  confidence[evidence.wrong] = 0.0
  if dense is not None:
    gone = evidence.wrong[:, None] | ((regions >= 0) & (evidence.visible[:, regions] < COVERED))
    dense = np.where(gone[..., None], np.nan, dense).astype(np.float32)
  return landmarks, confidence, dense


def settled(
  landmarks: np.ndarray,
  confidence: np.ndarray,
  beliefs: tuple[np.ndarray, np.ndarray] | None,
  evidence: Evidence,
  regions: np.ndarray,
  shut: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What is known of the landmarks where frames are fitted one by one, and nothing that they share depends on it.

  There points that the detector guesses count less, and eyes are shut that the image shows shut. For what frames share
  the same points would be missing wherever the head turns away, and a focal length would hang on the others (8 % on one
  scan).

  Args:
    landmarks, confidence: (T, 70, 2), (T, 70) of `weigh`, eyes shut by `lids.closed`.
    beliefs: of `Clip.beliefs`.
    evidence: of the T frames.
    regions: (478,) of `dense_regions`.
    shut: (T, 2), how surely each eye is shut.

  Returns:
    Landmarks (T, 70, 2); their confidence (T, 70); the share (T, 478) of its weight that each dense point has.
  """
  share = np.ones((len(landmarks), len(regions)), np.float32)
  if beliefs is not None:
    confidence, share = confidence * beliefs[0], np.array(beliefs[1], np.float32)
  if evidence.lids is not None:
    # People blink with both eyes (`priors.BothSides`): beside one that is shut, one that is not seen is guessed.
    guessed = np.where(np.isfinite(evidence.lids), 0.0, shut[:, ::-1]).astype(np.float32)
    confidence = np.array(confidence)
    for eye in _IRIS_OF:
      confidence[:, POINTS[eye]] *= 1.0 - guessed[:, eye, None]
      # The mesh's own lids are not moved.
      share[:, regions == eye] *= 1.0 - np.maximum(shut, guessed)[:, eye, None]
  return landmarks, confidence, share


def faded(confidence: np.ndarray, visible: np.ndarray) -> np.ndarray:
  """Confidence (T, 70) of landmarks in regions that are (T, R) visible."""
  weight = np.where(visible < LEAST, 0.0, visible).astype(np.float32)
  confidence = np.array(confidence, np.float32)
  for r, part in enumerate(POINTS):
    confidence[:, part] *= weight[:, r, None]
  for iris, r in enumerate(_IRIS_OF):
    confidence[:, 68 + iris] *= weight[:, r]
  return confidence


def dense_regions(model: FlameModel) -> np.ndarray:
  """(478,) region of each of MediaPipe's points: that of the nearest of the 68 landmarks on the head; -1: of none."""
  region = np.full(478, -1)
  if not len(model.dense_index):
    return region
  at = lambda vertices, bary: np.einsum("nk,nkc->nc", np.asarray(bary), np.asarray(model.v_template)[vertices])
  points = at(np.asarray(model.lmk_vertices), np.asarray(model.lmk_bary))[:68]
  dense = at(np.asarray(model.dense_vertices), np.asarray(model.dense_bary))
  nearest = np.linalg.norm(dense[:, None] - points[None], axis=-1).argmin(axis=1)
  of_point = np.full(68, -1)
  for r, part in enumerate(POINTS):
    of_point[part] = r
  region[np.asarray(model.dense_index)] = of_point[nearest]
  region[468:473], region[473:478] = _IRIS_OF
  return region


def mask_hidden(inside: np.ndarray, polygons: Sequence[np.ndarray], scale: float, offset: np.ndarray, size) -> None:
  """Takes what covers the face out of the mask of a crop, in place.

  Args:
    inside: (S, S) uint8, 1 where the image is.
    polygons: (N, 2) px of the image.
    scale: px of the crop per unit of the image's longer side.
    offset: (2,) px of the crop at which the middle of the image lies.
    size: (H, W) of the image.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  height, width = size
  factor = scale / max(height, width)
  for polygon in polygons:
    points = (polygon - [width / 2, height / 2]) * factor + offset
    hull = cv2.convexHull(np.round(points).astype(np.int32))
    cv2.fillConvexPoly(inside, hull, 0)


def _hidden_points(landmarks: np.ndarray, visible: np.ndarray, shut: np.ndarray) -> list[np.ndarray]:
  """Polygons (N, 2) px around the covered regions of one frame, half as large again as those are; eyes that are shut.

  A mesh has the colours of its lids from open eyes, and what it shows of a shut one opens it.
  """
  found = []
  covered = visible < COVERED
  covered[:2] |= shut > SURELY_SHUT
  for r in np.flatnonzero(covered[:3]):
    points = landmarks[POINTS[r]]
    if r == 2 and covered[3]:  # what covers the mouth reaches down to the chin
      points = np.concatenate([points, landmarks[3:14], landmarks[31:36]])
      found.append(points)
      continue
    middle = points.mean(axis=0)
    found.append(middle + 1.5 * (points - middle))
  return found
