"""Which frames can be tracked, when they were taken, and which ones differ most."""

from __future__ import annotations

import numpy as np

from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.fit.unknowns import part
from vht_jax.texture_tracks.keyframes import filled, handed_over

EVEN = 0.1  # times the usual spacing: times are rounded to milliseconds, of 16 to 40


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
  for k in config.data.keyframes:
    if not seen[k]:
      raise InputError(f"keyframes: no face was found in frame {k}; choose another")


def check_positions(config: TrackConfig, n: int) -> None:
  """Raises `InputError` for keyframes and cuts that a clip of n frames does not have."""
  for name in ("keyframes", "cutframes"):
    for k in getattr(config.data, name):
      if k >= n:  # no setting is negative
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


def view_features(x0: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """(T, 5) what distinguishes frames: yaw, pitch, distance, mouth and eye opening, each in units of a clear change."""
  rotation, log_scale = part(x0, "rotation"), part(x0, "place")[:, 2]
  p = landmarks[:, :68]
  eye = np.linalg.norm(p[:, 36] - p[:, 45], axis=-1)
  spread = np.sqrt(((p - p.mean(1, keepdims=True)) ** 2).sum(-1).mean(1))
  size = np.maximum(np.maximum(eye, spread), 1e-3)
  mouth = np.linalg.norm(p[:, 62] - p[:, 66], axis=-1) / size
  eyes = np.linalg.norm(p[:, 37] + p[:, 43] - p[:, 41] - p[:, 47], axis=-1) / size
  return np.stack([rotation[:, 1] / 0.2, rotation[:, 0] / 0.2, log_scale / 0.3, mouth / 0.2, eyes / 0.15], axis=1)


def spread_frames(features: np.ndarray, good: np.ndarray, n: int) -> np.ndarray:
  """Farthest point sampling: at most n of the good frames, as different from each other as possible, sorted.

  Starts at the frame nearest to the median (an unremarkable one); outliers beyond the 1st and 99th percentile
  are clipped, so that a detector's glitch is not taken for a remarkable view. Frames between good ones take part and
  hand over (`texture_tracks.keyframes`), so that one frame less changes little.

  Args:
    features: (T, k), only those of good frames count.
    good: (T,) bool.
    n: how many.
  """
  f, there = filled(features, good)
  low, high = (np.percentile(f[there], q, axis=0) for q in (1, 99))
  f = np.clip(np.where(there[:, None], f, low), low, high)
  away = lambda k: np.linalg.norm(f - f[k], axis=1)
  to_middle = np.linalg.norm(f - np.median(f[there], axis=0), axis=1)
  chosen = [int(np.argmin(np.where(there, to_middle, np.inf)))]
  distance = np.where(there, away(chosen[0]), -1.0)
  distance[chosen] = -1.0
  while len(chosen) < min(n, good.sum()):
    k = int(np.argmax(distance))
    chosen.append(k)
    distance = np.minimum(distance, away(k))
    distance[chosen] = -1.0  # frames that look alike are still different frames
  return handed_over(np.array(chosen), good, away)
