"""VHT's landmark file of a frame, keypoints_static_0000.json: a `Detection` to JSON and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vht_jax.dataset.absent import MARK, write_absent
from vht_jax.errors import InputError, brief
from vht_jax.host.files import write_atomic
from vht_jax.landmarks.detection import N_DENSE, N_FACE, Detection

FARTHEST = 1e5  # px, of a coordinate in a file


def write_keypoints(path: Path, detection: Detection | None, origin: str) -> None:
  """Writes VHT's keypoints_static_0000.json, whole or not at all; without a face as `absent` says.

  VHT stores the irises as [eye 42-47, eye 36-41] and a missing one as -1, -1, -1. `dense_keypoints_2d`, `disagreement`
  and `dense_apart` are ours.
  """
  if detection is None:
    write_absent(path, np.zeros((N_FACE, 2)), origin)
    return
  iris = np.full((2, 3), -1.0)
  if detection.iris is not None:
    seen = np.isfinite(detection.iris).all(axis=1)
    iris[seen] = np.column_stack([detection.iris, np.ones(2)])[seen]
  person = {
    "bounding_box": np.round(np.asarray(detection.bounding_box, np.float64), 3).tolist(),
    "face_keypoints_2d": _triplets(detection.landmarks),
    "iris_keypoints_2d": np.round(iris[::-1], 3).ravel().tolist(),
  }
  if detection.dense is not None:
    person["dense_keypoints_2d"] = _triplets(detection.dense)
  if detection.disagreement is not None:
    person["disagreement"] = round(float(detection.disagreement), 5)
  if detection.apart is not None:
    person["dense_apart"] = np.round(np.asarray(detection.apart, np.float64), 4).tolist()
  write_atomic(Path(path), json.dumps({"origin": origin, "people": [person]}).encode())


def read_origin(path: Path) -> str:
  """Which detector a file of `write_keypoints` or of VHT names; "" if it names none or cannot be read."""
  try:
    return str(json.loads(Path(path).read_text()).get("origin", ""))
  except (OSError, ValueError, AttributeError):
    return ""


def read_keypoints(path: Path) -> Detection | None:
  """Reads a file of `write_keypoints` or of VHT; None when it has no face: it says so, or `people` is empty.

  Raises:
    InputError: the file cannot be read, is no JSON, or has not 68 points.
  """
  path = Path(path)
  try:
    content = json.loads(path.read_text())
    people = content["people"]
    if not people or content.get(MARK) is True:
      return None
    person = people[0]
    face = np.array(person["face_keypoints_2d"], np.float64)[: 3 * N_FACE].reshape(N_FACE, 3)
    box = np.array(person.get("bounding_box", []), np.float32).ravel()
    iris = person.get("iris_keypoints_2d")
    iris = None if iris is None else np.array(iris, np.float64).reshape(-1, 3)[[1, 0]]
    dense = person.get("dense_keypoints_2d")
    dense = None if dense is None else np.array(dense, np.float32).reshape(N_DENSE, 3)[:, :2]
    disagreement = person.get("disagreement")
    disagreement = None if disagreement is None else float(disagreement)
    apart = person.get("dense_apart")
    apart = None if apart is None else np.array(apart, np.float32).reshape(N_DENSE)
    for points in (face, dense, apart):
      if points is not None and not (np.abs(points) < FARTHEST).all():  # NaN is not less either
        raise ValueError("a coordinate is not finite, or far outside any image")
  except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
    raise InputError(
      f"{path}: not a landmark file (expected people[0].face_keypoints_2d with 68 x, y, z triplets, found: "
      f"{type(error).__name__}: {brief(error)}); delete it to have it made again"
    ) from error
  landmarks = face[:, :2].astype(np.float32)
  if iris is not None:
    missing = (iris[:, :2] == -1).any(axis=1) | ~np.isfinite(iris[:, :2]).all(axis=1)
    iris = np.where(missing[:, None], np.nan, iris[:, :2]).astype(np.float32)
    iris = None if missing.all() else iris
  if box.size < 4:
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
  score = float(box[4]) if box.size > 4 else 1.0
  return Detection(np.append(box[:4], np.float32(score)), landmarks, iris, dense, score, disagreement, apart)


def _triplets(points: np.ndarray) -> list[float]:
  rows = np.column_stack([np.asarray(points, np.float64), np.ones(len(points))])
  return np.round(rows, 3).ravel().tolist()
