"""How far every frame of a result can be trusted, from its clip."""

from __future__ import annotations

import numpy as np

from vht_jax.landmarks.regions import REGIONS
from vht_jax.results.quality import face_detail, frame_confidence, projected_landmarks, region_confidence
from vht_jax.tracking.evidence.examine import CHUNK, faded
from vht_jax.types import FlameModel, TrackResult


def judged(model: FlameModel, clip, result: TrackResult) -> TrackResult:
  """The result of a clip (`tracking.protocols.Clip`) with the confidence of every frame and of its regions."""
  landmarks, confidence, _ = clip.landmarks()
  n = len(landmarks)
  if result.visible is None:
    result = result.replace(visible=np.ones((n, len(REGIONS)), np.float32))
  confidence = faded(confidence, np.asarray(result.visible))
  projected = projected_landmarks(model, result, clip.size)
  difference = result.energies.get("photometric_l1", result.energies.get("photo"))
  difference = None if difference is None else np.asarray(difference)
  detail = np.full((n, 2), np.nan)
  faces = np.flatnonzero((confidence[:, :68] > 0).any(axis=1))
  for start in range(0, len(faces), CHUNK):
    index = faces[start : start + CHUNK]
    for i, image in zip(index, clip.images(index)):
      detail[i] = face_detail(image, landmarks[i, :68])
  misplaced = None if result.misplaced is None else np.asarray(result.misplaced)
  trust = frame_confidence(projected, landmarks, confidence, np.asarray(result.status), difference, detail, misplaced)
  return result.replace(confidence=trust, region_confidence=region_confidence(trust, confidence))
