"""Frames without a face in VHT's landmark files.

The readers of VHT and Neural Head Avatars take `people[0]` of every file, believe its 68 points, and take its irises
for missing where a coordinate is -1. So such a frame gets one person whose points lie where its neighbours' would put
them, of confidence 0, with the irises missing. That nobody was seen is what `"no_face": true` says, to us.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vht_jax.host.files import write_atomic

if TYPE_CHECKING:
  from vht_jax.dataset.folder import FrameFolder

MARK = "no_face"


def write_absent(path: Path, points: np.ndarray, origin: str) -> None:
  """Writes the file of a frame without a face, whole or not at all; `points` (68, 2) px are a placeholder."""
  rows = np.column_stack([np.asarray(points, np.float64), np.zeros(len(points))])
  person = {
    "bounding_box": [0.0] * 5,
    "face_keypoints_2d": np.round(rows, 3).ravel().tolist(),
    "iris_keypoints_2d": [-1.0] * 6,
  }
  write_atomic(Path(path), json.dumps({"origin": origin, MARK: True, "people": [person]}).encode())


def fill_absent(dataset: FrameFolder, origin: str) -> None:
  """Puts the placeholders of a dataset's frames without a face between their neighbours' landmarks.

  Readers that know of no confidence would drag the head into the corner of the image otherwise. Only files that bear
  the mark are written, and only where something changes.
  """
  valid = np.asarray(dataset.valid)
  if valid.all() or not valid.any():
    return
  known = np.flatnonzero(valid)
  points = np.stack([d.landmarks.ravel() for d in dataset.detections if d is not None])
  for i in np.flatnonzero(~valid).tolist():
    path = dataset.keypoint_path(i)
    before = json.loads(path.read_text()) if path.is_file() else {}
    if not before.get(MARK):
      continue
    k = np.searchsorted(known, i)
    a, b = max(k - 1, 0), min(k, len(known) - 1)
    ids = dataset.frame_ids[[known[a], known[b], i]]
    t = (ids[2] - ids[0]) / (ids[1] - ids[0]) if a != b else 0.0
    between = ((1 - t) * points[a] + t * points[b]).reshape(-1, 2)
    written = np.array(before["people"][0]["face_keypoints_2d"]).reshape(-1, 3)[:, :2]
    if not np.array_equal(written, np.round(between.astype(np.float64), 3)):
      write_absent(path, between, origin)
