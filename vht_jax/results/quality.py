"""Figures that say how good a result is: against the detected landmarks, and against a known truth. Plain NumPy.

Errors of landmarks are in percent of the distance between the detected outer eye corners.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np

from vht_jax import cameras
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.host.programs import in_chunks, rows_of, stored
from vht_jax.landmarks.regions import POINTS
from vht_jax.results.vht_npz import load_tracked, read_npz
from vht_jax.tracking.pure import landmarks_only
from vht_jax.types import FlameModel, Pose, Status, TrackResult

_CHUNK = 64  # frames posed at once
MISPLACED = 0.05  # eye distances beside the face; usual are 0.005 to 0.02
UNCOMPARED = 0.7  # factor for a frame that could not be compared with any other


def nme(projected: np.ndarray, detected: np.ndarray, confidence: np.ndarray, points: slice | list[int]) -> np.ndarray:
  """Normalised mean error of some landmarks.

  Args:
    projected: (T, 70, 2) px.
    detected: (T, 70, 2) px.
    confidence: (T, 70); points with 0 do not count.
    points: which of the 70.

  Returns:
    (T,) percent of the detected outer eye corners' distance (points 36 and 45); NaN without a usable point.
  """
  unit = np.linalg.norm(detected[:, 36] - detected[:, 45], axis=-1)
  usable = confidence[:, points] > 0
  error = np.where(usable, np.linalg.norm(projected[:, points] - detected[:, points], axis=-1), 0.0)
  with np.errstate(divide="ignore", invalid="ignore"):
    return 100.0 * error.sum(1) / usable.sum(1) / np.where(unit > 0, unit, np.nan)


def jitter(points: np.ndarray, valid: np.ndarray) -> float:
  """Median length of the second difference in time of (T, N, 2) points over runs of three valid frames; NaN if none."""
  runs = valid[:-2] & valid[1:-1] & valid[2:]
  second = points[:-2] - 2.0 * points[1:-1] + points[2:]
  lengths = np.linalg.norm(second[runs], axis=-1)
  return float(np.median(lengths)) if lengths.size else float("nan")


def landmark_figures(
  projected: np.ndarray, detected: np.ndarray, confidence: np.ndarray, valid: np.ndarray
) -> dict[str, float]:
  """nme68_median, nme51_median, iris_median (percent) and jitter_ratio (projected / detected, of the 68 points).

  Args:
    projected, detected: (T, 70, 2) px.
    confidence: (T, 70).
    valid: (T,) frames with a face, and tracked.
  """
  ours, theirs, sure = (x[valid] for x in (projected, detected, confidence))

  def median(points):
    values = nme(ours, theirs, sure, points)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")

  of_detector = jitter(detected[:, :68], valid)
  return {
    "nme68_median": median(slice(0, 68)),
    "nme51_median": median(slice(17, 68)),
    "iris_median": median(slice(68, 70)),
    "jitter_ratio": jitter(projected[:, :68], valid) / of_detector if of_detector > 0 else float("nan"),
  }


def align(source: np.ndarray, target: np.ndarray, scale: bool = True) -> np.ndarray:
  """`source` moved onto `target` by the best similarity (Umeyama, 1991) or, without scale, rigid motion.

  Args:
    source, target: (..., V, 3) corresponding points.
    scale: whether the size may change.

  Returns:
    (..., V, 3) moved source, float64.
  """
  source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
  mean_s, mean_t = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
  s, t = source - mean_s, target - mean_t
  u, d, vt = np.linalg.svd(np.swapaxes(t, -1, -2) @ s)
  sign = np.ones_like(d)
  sign[..., -1] = np.sign(np.linalg.det(u) * np.linalg.det(vt))  # a rotation, not a reflection
  R = (u * sign[..., None, :]) @ vt
  factor = (d * sign).sum(-1) / np.square(s).sum((-1, -2)) if scale else np.ones(d.shape[:-1])
  return factor[..., None, None] * (s @ np.swapaxes(R, -1, -2)) + mean_t


def vertex_errors(vertices: np.ndarray, truth: np.ndarray, face: np.ndarray) -> dict[str, float]:
  """Mean distance to the true vertices in mm, each frame aligned on the vertices that are averaged.

  Args:
    vertices, truth: (T, V, 3) m.
    face: (V,) bool, the face region.

  Returns:
    vertex_mm, face_mm after similarity alignment (one camera cannot see size); *_rigid_mm after rigid alignment.
  """
  errors = {}
  for region, chosen in (("vertex", slice(None)), ("face", face)):
    a, b = vertices[:, chosen], truth[:, chosen]
    for name, scale in (("mm", True), ("rigid_mm", False)):
      errors[f"{region}_{name}"] = 1000.0 * float(np.linalg.norm(align(a, b, scale) - b, axis=-1).mean())
  return errors


def angle_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """(...,) angle between (..., 3, 3) rotation matrices, degrees."""
  relative = np.swapaxes(np.asarray(a, np.float64), -1, -2) @ np.asarray(b, np.float64)
  # |R - I|_F = 2 sqrt(2) sin(angle / 2) is accurate for small angles, where the trace formula is not.
  half_sine = np.linalg.norm(relative - np.eye(3), axis=(-1, -2)) / (2.0 * np.sqrt(2.0))
  return np.degrees(2.0 * np.arcsin(np.clip(half_sine, 0.0, 1.0)))


def direction_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """(...,) angle between (..., 3) directions, degrees."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)))


def pose_errors(poses: Pose, truth: Pose) -> dict[str, float]:
  """Mean over the frames of rotation_deg (root times neck), jaw_deg, gaze_deg (both eyes, relative to the head)."""
  matrices = lambda p: in_chunks(lambda index: _joints(rows_of(p, index)), len(p.expr), _CHUNK)
  found, true = (matrices(p).astype(np.float64) for p in (poses, truth))
  return {
    "rotation_deg": float(angle_deg(found[:, 0] @ found[:, 1], true[:, 0] @ true[:, 1]).mean()),
    "jaw_deg": float(angle_deg(found[:, 2], true[:, 2]).mean()),
    "gaze_deg": float(direction_deg(found[:, 3:, :, 2], true[:, 3:, :, 2]).mean()),
  }


def frame_confidence(
  projected: np.ndarray, detected: np.ndarray, confidence: np.ndarray, status: np.ndarray,
  photometric_l1: np.ndarray | None = None, detail: np.ndarray | None = None, misplaced: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
  """(T,) in [0, 1]: how far each frame can be trusted, for finding those worth a look; not a probability.

  The product of factors: how much of the face is seen; how much worse than usual in this clip the head fits
  the landmarks (1/2 at three times the median) and the image (1/2 at twice); how much less detail than usual the face
  shows along a row or a column (1/2 at 0.6 of it: it is blurred by motion); how far the landmarks are beside the face
  that other frames show (1/2 at `MISPLACED`). In a clip most of whose landmarks are
  wrong, as of a head that turns far away, what is usual is no measure: more than 2.5 % of the eye distance never counts
  as such. 0 for frames that are not tracked.

  Args:
    projected, detected: (T, 70, 2) px.
    confidence: (T, 70) of the landmarks, less where a region is covered.
    status: (T,) `Status`.
    photometric_l1: (T,) mean difference of colours, if the images were used.
    detail: (T, 2) of `face_detail`, NaN where there is no face.
    misplaced: (T,) of the tracker, eye distances; NaN where frames could not be compared.
  """
  tracked = np.asarray(status) == Status.TRACKED
  seen = np.asarray(confidence)[:, :68].mean(axis=1)

  def usual(error, least, most, factor):
    typical = np.clip(np.median(error[tracked & np.isfinite(error)]), least, most)
    return 1.0 / (1.0 + (np.nan_to_num(error, nan=np.inf) / (factor * typical)) ** 4)

  if not tracked.any():
    return np.zeros(len(tracked), np.float32)
  found = np.minimum(seen, 1.0)
  misfit = nme(projected, detected, confidence, slice(0, 68))
  for error, *limits in ((misfit, 1.0, 2.5, 3.0), (photometric_l1, 0.01, np.inf, 2.0)):
    if error is not None and np.isfinite(np.asarray(error)[tracked]).any():
      found = found * usual(np.asarray(error, np.float64), *limits)
  if detail is not None and np.isfinite(detail[tracked]).any():
    share = detail / np.maximum(np.nanmedian(detail[tracked], axis=0), 1e-6)
    # Four sample videos have 0.8 at the least; blurred by two thirds of the eye distance 0.55, landmarks off by 17 %.
    found = found / (1.0 + (0.6 / np.maximum(np.nan_to_num(share, nan=1.0).min(axis=1), 1e-3)) ** 8)
  if misplaced is not None:
    known = np.isfinite(misplaced)
    placed = 1.0 / (1.0 + (np.where(known, misplaced, 0.0) / MISPLACED) ** 4)
    # Where frames can be compared at all, one that cannot is unlike the others.
    found = found * np.where(known, placed, UNCOMPARED if 2 * known[tracked].sum() > tracked.sum() else 1.0)
  return np.where(tracked, found, 0.0).astype(np.float32)


def region_confidence(trust: np.ndarray, confidence: np.ndarray) -> np.ndarray:
  """(T, R) in [0, 1]: `frame_confidence` (T,) for the parts of the face: each as far as itself is seen.

  Args:
    trust: (T,) of `frame_confidence`.
    confidence: (T, 70) that it was made with.
  """
  seen = np.stack([confidence[:, part].mean(axis=1) for part in POINTS], axis=1)
  rest = trust / np.maximum(confidence[:, :68].mean(axis=1), 1e-6)
  return np.clip(rest[:, None] * seen, 0.0, 1.0).astype(np.float32)


def face_detail(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """(2,) mean difference of neighbours in a row and in a column of the face, in units of its contrast.

  What is compared has the same size for every face, so the numbers of the frames of one clip can be compared. NaN where
  there is nothing to see.

  Args:
    image: (H, W, 3) uint8.
    landmarks: (68, 2) px.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  height, width = image.shape[:2]
  x0, y0 = np.clip(np.floor(landmarks.min(axis=0)), 0, [width, height]).astype(int)
  x1, y1 = np.clip(np.ceil(landmarks.max(axis=0)), 0, [width, height]).astype(int)
  if x1 - x0 < 8 or y1 - y0 < 8:
    return np.full(2, np.nan)
  grey = cv2.cvtColor(np.ascontiguousarray(image[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
  face = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float64)
  return np.array([np.abs(np.diff(face, axis=axis)).mean() for axis in (1, 0)]) / max(float(face.std()), 1.0)


def projected_landmarks(model: FlameModel, result: TrackResult, size: tuple[int, int]) -> np.ndarray:
  """(T, 70, 2) px: the head's landmarks in an image of `size` = (H, W), without the detector's offsets."""
  corners = landmarks_only(jax.tree.map(np.asarray, model), dense=False)
  poses = result.poses.replace(offset=None)  # which is 0 on the face
  project = lambda index: _project(corners, result.identity, rows_of(poses, index), tuple(size))
  return in_chunks(project, len(poses.expr), _CHUNK)


def posed_vertices(model: FlameModel, result: TrackResult) -> np.ndarray:
  """(T, V, 3) vertices in the world, m."""
  skin = lambda index: _skin(model, result.identity.shape, rows_of(result.poses, index))
  return in_chunks(skin, len(result.poses.expr), _CHUNK)


@functools.partial(stored, static_argnames=("size",), rough=True)
def _project(model, identity, poses, size):
  def one(pose):
    points = flame.landmarks(model, flame.skin(model, identity.shape, pose))
    return cameras.project(identity.camera, points, size)[:, :2]

  return jax.vmap(one)(poses)


@functools.partial(stored, rough=True)
def _joints(poses):
  return jax.vmap(flame.pose_matrices)(poses)


@functools.partial(stored, rough=True)
def _skin(model, shape, poses):
  return jax.vmap(lambda pose: flame.skin(model, shape, pose))(poses)


def geometry_figures(
  model: FlameModel, result: TrackResult, frames: np.ndarray, truth_path: str | Path
) -> dict[str, float]:
  """Errors against a known truth, averaged over the tracked frames that the truth has.

  Args:
    model: the head.
    result: T frames.
    frames: (T,) their ids.
    truth_path: an npz in the format of `save_tracked` for the same head; if it also has `vertices` (N, V, 3) in m,
      those are the truth rather than the vertices of its parameters.

  Returns:
    vertex_mm, face_mm, vertex_rigid_mm, face_rigid_mm, focal_error (relative), rotation_deg, jaw_deg, gaze_deg.

  Raises:
    InputError: the truth is of another head or has none of the frames.
  """
  truth = load_tracked(truth_path, model)
  known = read_npz(truth_path).get("vertices")
  if known is not None and known.shape[1:] != model.v_template.shape:
    raise InputError(
      f"{truth_path}: vertices: expected (N, {model.v_template.shape[0]}, 3) of the head {model.name!r}; "
      f"found {known.shape}"
    )
  ours = np.flatnonzero((np.asarray(result.status) == Status.TRACKED) & np.isin(frames, truth.frames))
  if not len(ours):
    raise InputError(f"{truth_path}: has none of the tracked frames {frames[:3].tolist()} ...")
  row_of = {int(f): i for i, f in enumerate(truth.frames)}
  theirs = np.array([row_of[int(f)] for f in np.asarray(frames)[ours]])
  found = result.replace(poses=rows_of(result.poses, ours))
  true = truth.result.replace(poses=rows_of(truth.result.poses, theirs))

  face = np.asarray(model.masks["face"], bool) if "face" in model.masks else np.ones(len(model.v_template), bool)
  true_vertices = posed_vertices(model, true) if known is None else known[theirs]
  true_focal = float(true.identity.camera.focal)
  return {
    **vertex_errors(posed_vertices(model, found), true_vertices, face),
    "focal_error": abs(float(found.identity.camera.focal) - true_focal) / true_focal,
    **pose_errors(found.poses, true.poses),
  }
