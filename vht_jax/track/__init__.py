"""The tracker: from a clip's images and landmarks to its identity and the pose of every frame.

  stage 1  camera     bundle adjustment of the landmarks of some 24 frames: camera, identity, detector bias
  stage 2  landmarks  the pose of every frame from its landmarks, all frames at once
  stage 3  identity   shape, texture, light and camera from the images of a few keyframes
  stage 4  frames     every pose from its image, many frames at once

`jit` and everything that happens on the host lives in this folder; the functions that it calls are pure.
"""

from __future__ import annotations

import time
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from vht_jax.config import TrackConfig, Weights
from vht_jax.track.adam_stage import AdamFit
from vht_jax.track.frames import bridge, check_frames, spread_frames, view_features
from vht_jax.track.landmark_stage import LandmarkFit
from vht_jax.track.photometric_stage import PhotometricFit, crop_head
from vht_jax.types import FlameModel, TrackResult

__all__ = [
  "AdamFit", "Clip", "LandmarkFit", "PhotometricFit", "Progress",
  "bridge", "check_frames", "crop_head", "spread_frames", "track", "view_features",
]  # fmt: skip


class Clip(Protocol):
  """What the tracker needs to know of a video; `video.FrameFolder` is one."""

  size: tuple[int, int]  # (H, W) of the images as tracked

  def __len__(self) -> int: ...

  def landmarks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(T, 70, 2) px, confidence (T, 70) with 0 for what is missing, dense (T, 478, 2) px or None (NaN: missing)."""

  def images(self, indices) -> np.ndarray:
    """(n, H, W, 3) uint8 RGB."""


class Progress:
  """Receives what happens; this one ignores it, `report.Progress` draws a bar."""

  def stage(self, name: str, total: int) -> None: ...

  def advance(self, n: int = 1, **energies: float) -> None: ...

  def note(self, message: str) -> None: ...


def track(
  model: FlameModel,
  clip: Clip,
  config: TrackConfig = TrackConfig(),
  weights: Weights = Weights(),
  *,
  init: TrackResult | None = None,
  progress: Progress | None = None,
) -> TrackResult:
  """Tracks a clip.

  Args:
    model: the head, cut to the number of components to fit.
    clip: images and landmarks.
    config, weights: see `config`.
    init: a former result of the same clip to go on from; its identity is kept and its poses are refined.
    progress: told about every stage.

  Returns:
    The identity, a pose per frame, energies and a status per frame; `timing` in seconds per stage.

  Raises:
    InputError: no frame has a face; a keyframe is out of range or has no face; the camera cannot be calibrated.
  """
  progress = progress or Progress()
  clock = Clock()
  landmarks, confidence, dense = clip.landmarks()
  seen = (confidence[:, :68] > 0).any(axis=1)
  check_frames(config, seen)

  energies = {}
  first = LandmarkFit(model, clip.size, config, weights)
  with clock("camera"):
    first.observe(landmarks, confidence, dense)
  vht_start = config.photometric and config.solver == "adam" and config.init == "calibration"
  if not vht_start:
    with clock("camera"):
      first.adjust_camera(init, progress)
    with clock("landmarks"):
      first.fit_all(progress, init)
    energies["landmarks"] = jnp.asarray(first.cost)

  if config.photometric and config.solver == "adam":
    fit = AdamFit(model, clip, config, weights, seen)
    keyframes = np.union1d(first_face(seen), first.keyframes())
    with clock("identity"):
      if init is not None:
        fit.start(init.identity, init.poses)
      elif not vht_start:
        fit.start(first.identity(), first.poses())
      else:
        fit.calibrate(keyframes)
      if init is None:
        fit.fit_identity(keyframes, progress)
    with clock("frames"):
      fit.fit_frames(progress)
    identity, poses, good = fit.identity, fit.poses(), finite_rows(fit.raw.rotation, fit.raw.expr)
    energies.update({k: jnp.asarray(v) for k, v in fit.terms.items()})
  else:
    if config.photometric:
      photo = PhotometricFit(first, clip)
      if init is None:
        with clock("identity"):
          photo.fit_identity(progress)
        with clock("landmarks"):
          first.fit_all(progress)
      with clock("frames"):
        photo.fit_frames(progress)
      energies["photometric_l1"] = jnp.asarray(photo.l1)
    identity, poses, good = first.identity(), first.poses(), finite_rows(first.xs)

  poses, status = bridge(poses, seen, good)
  return TrackResult(
    identity=identity, poses=poses, energies=energies, status=jnp.asarray(status), timing=clock.seconds
  )


def first_face(seen: np.ndarray) -> np.ndarray:
  """VHT's keyframe stage always includes the first frame; here the first one with a face."""
  return np.flatnonzero(seen)[:1]


def finite_rows(*arrays) -> np.ndarray:
  """(T,) bool: frames all of whose numbers are finite."""
  return np.all([np.isfinite(np.asarray(a)).reshape(len(a), -1).all(axis=1) for a in arrays], axis=0)


class Clock:
  """`with clock(name)` adds the wall seconds of the block to `seconds[name]`."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  def __call__(self, name: str) -> Clock:
    self.name = name
    return self

  def __enter__(self):
    self.start = time.perf_counter()

  def __exit__(self, *_):
    self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.start
