"""Which frames to look at, and what to do about those that show no face."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.head.points import N_POSE
from vht_jax.host.programs import stored
from vht_jax.tracking import gaps
from vht_jax.types import Pose, Status

EVEN = 0.1  # times the usual spacing: times are rounded to milliseconds, of 16 to 40
HEAD_METRES = 0.2  # about the height of a face


def check_frames(config: TrackConfig, seen: np.ndarray) -> None:
  """Raises `InputError` for what cannot be tracked at all."""
  n = len(seen)
  if n == 0:
    raise InputError("the dataset has no frames")
  if config.schedule == "joint" and not (config.photometric and config.solver == "gn"):
    raise InputError("schedule: joint is for Gauss-Newton on images; leave out --solver=adam or --nophotometric")
  if not seen.any():
    raise InputError(f"no face was found in any of the {n} frames; is there a person in the video?")
  check_positions(config, n)
  for k in config.keyframes:
    if not seen[k]:
      raise InputError(f"keyframes: no face was found in frame {k}; choose another")


def check_positions(config: TrackConfig, n: int) -> None:
  """Raises `InputError` for keyframes and cuts that a clip of n frames does not have."""
  for name in ("keyframes", "cutframes"):
    for k in getattr(config, name):
      if not 0 <= k < n:
        raise InputError(f"{name}: {k} is out of range; positions are 0-based, the dataset has {n} frames (0..{n - 1})")


def frame_times(clip) -> np.ndarray | None:
  """(T,) when the frames were taken, in units of the usual spacing, from 0; None: evenly spaced.

  A clip's `times` (T,) in seconds, or else the numbers of its files (`frame_ids`): those that are missing count.

  Raises:
    InputError: times that do not rise.
  """
  times = getattr(clip, "times", None)
  times = getattr(clip, "frame_ids", None) if times is None else times
  if times is None or len(times) < 3:
    return None
  times = np.asarray(times, np.float64)
  steps = np.diff(times)
  if not (np.isfinite(times).all() and (steps >= 0).all()):
    raise InputError("the times of the frames do not rise; make the dataset anew (--restart)")
  usual = np.median(steps)
  if usual <= 0 or np.abs(steps / usual - 1).max() < EVEN:
    return None
  return (times - times[0]) / usual


def finite_rows(*arrays) -> np.ndarray:
  """(T,) bool: frames all of whose numbers are finite."""
  return np.all([np.isfinite(np.asarray(a)).reshape(len(a), -1).all(axis=1) for a in arrays], axis=0)


def strayed(x: np.ndarray, start: np.ndarray) -> np.ndarray:
  """(B,) bool: unknowns (B, n) that are not finite, or whose head has left the place `start` in which it was seen.

  The landmarks place a head within a few per cent of its size, so half of it is a fit that went wrong.
  """
  place, origin = x[:, -N_POSE + 3 : -N_POSE + 6], start[:, -N_POSE + 3 : -N_POSE + 6]
  with np.errstate(invalid="ignore", over="ignore"):
    head = HEAD_METRES * np.exp(origin[:, 2])
    moved = np.linalg.norm(place[:, :2] - origin[:, :2], axis=1) > 0.5 * head
    grown = np.abs(place[:, 2] - origin[:, 2]) > 0.5
  return ~finite_rows(x) | (finite_rows(start) & (moved | grown))


def view_features(x0: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """(T, 5) what distinguishes frames: yaw, pitch, distance, mouth and eye opening, each in units of a clear change."""
  rotation, log_scale = x0[:, -14:-11], x0[:, -9]
  p = landmarks[:, :68]
  eye = np.linalg.norm(p[:, 36] - p[:, 45], axis=-1)
  spread = np.sqrt(((p - p.mean(1, keepdims=True)) ** 2).sum(-1).mean(1))
  size = np.maximum(np.maximum(eye, spread), 1e-3)
  mouth = np.linalg.norm(p[:, 62] - p[:, 66], axis=-1) / size
  eyes = np.linalg.norm(p[:, 37] + p[:, 43] - p[:, 41] - p[:, 47], axis=-1) / size
  return np.stack([rotation[:, 1] / 0.2, rotation[:, 0] / 0.2, log_scale / 0.3, mouth / 0.2, eyes / 0.15], axis=1)


def spread_frames(features: np.ndarray, candidates: np.ndarray, n: int) -> np.ndarray:
  """Farthest point sampling: at most n of the candidate frames, as different from each other as possible, sorted.

  Starts at the candidate nearest to the median (an unremarkable frame); outliers beyond the 1st and 99th percentile
  are clipped, so that a detector's glitch is not taken for a remarkable view.
  """
  f = features[candidates]
  f = np.clip(f, np.percentile(f, 1, axis=0), np.percentile(f, 99, axis=0))
  first = int(np.argmin(np.linalg.norm(f - np.median(f, axis=0), axis=1)))
  chosen = [first]
  distance = np.linalg.norm(f - f[first], axis=1)
  distance[first] = -1.0
  while len(chosen) < min(n, len(candidates)):
    k = int(np.argmax(distance))
    chosen.append(k)
    distance = np.minimum(distance, np.linalg.norm(f - f[k], axis=1))
    distance[chosen] = -1.0  # frames that look alike are still different frames
  return np.sort(candidates[np.array(chosen)])


def bridge(
  poses: Pose,
  seen: np.ndarray,
  good: np.ndarray | None = None,
  cuts: Sequence[int] = (),
  times: np.ndarray | None = None,
  unordered: bool = False,
) -> tuple[Pose, np.ndarray]:
  """Fills frames without a face, or whose fit is not `good`, from their neighbours.

  Returns the poses and the `Status` of every frame.

  Between two tracked frames every parameter goes on with the speed it has at both (`gaps.fill`); before the first and
  after the last one it stays as it is there. Nothing is interpolated across a cut (`cuts`: first frames of new shots):
  there the frames take what is nearest in their own shot, if that has any. Pictures that are no video (`unordered`)
  say nothing of each other: one without a face has the status `NO_FACE` and, so that every row is a possible head, the
  pose of the nearest position that has one. `times` (T,): as in `frame_times`.
  """
  n = len(seen)
  good = np.ones(n, bool) if good is None else good
  status = np.where(seen, np.where(good, Status.TRACKED, Status.DIVERGED), Status.INTERPOLATED).astype(np.int32)
  known = seen & good
  if known.all():
    return poses, status
  if not known.any():
    return poses, np.where(status == Status.INTERPOLATED, Status.NO_FACE, status)
  shot = np.arange(n) if unordered else np.searchsorted(np.sort(np.asarray(cuts, int)), np.arange(n), side="right")
  if unordered:
    status = np.where(status == Status.INTERPOLATED, Status.NO_FACE, status).astype(np.int32)
  times = None if times is None else jnp.asarray(times, jnp.float32)
  return _fill(poses, jnp.asarray(known), jnp.asarray(shot, jnp.int32), times), status


_fill = stored(gaps.fill)
