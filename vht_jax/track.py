"""The tracker: from a clip's images and landmarks to its identity and the pose of every frame.

  stage 1  camera     bundle adjustment of the landmarks of some 24 frames: camera, identity, detector bias
  stage 2  landmarks  the pose of every frame from its landmarks, all frames at once
  stage 3  identity   shape, texture, light and camera from the images of a few keyframes
  stage 4  frames     every pose from its image, many frames at once

`jit` and everything that happens on the host lives here; the functions that it calls are pure.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Callable, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import bundle, camera, flame
from vht_jax import points as pts
from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.types import FlameModel, Identity, Pose, Status, TrackResult

LANDMARK_CHUNK = 128  # frames per call of the landmark fit
DENSE_STEP = 3  # every third of MediaPipe's 468 points: more cost time and add nothing (solver.md)
MIN_YAW_SPAN = np.deg2rad(15.0)  # below this the focal length is not determined


class Clip(Protocol):
  """What the tracker needs to know of a video; `video.FrameFolder` is one."""

  size: tuple[int, int]  # (H, W) of the images as tracked

  def __len__(self) -> int: ...

  def landmarks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(T, 70, 2) px, confidence (T, 70) with 0 for what is missing, dense (T, 478, 2) px or None (NaN: missing)."""

  def images(self, indices) -> np.ndarray:
    """(n, H, W, 3) uint8 RGB."""


@dataclasses.dataclass
class Progress:
  """Receives what happens; the default prints nothing. `report` has one that draws a bar."""

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
    InputError: no frame has a face; a keyframe is out of range or has no face.
  """
  progress = progress or Progress()
  timing: dict[str, float] = {}
  landmarks, confidence, dense = clip.landmarks()
  seen = (confidence[:, :68] > 0).any(axis=1)
  check_frames(config, seen)

  fit = LandmarkFit(model, clip.size, config, weights)
  with stage(timing, "camera"):
    fit.observe(landmarks, confidence, dense)
    fit.adjust_camera(init, progress)
  with stage(timing, "landmarks"):
    fit.fit_all(progress)
  identity = fit.identity()
  poses = fit.poses()
  poses, status = bridge(poses, seen)
  return TrackResult(
    identity=identity,
    poses=poses,
    energies={"landmarks": jnp.asarray(fit.cost)},
    status=jnp.asarray(status),
    timing=timing,
  )


class stage:
  """Adds the wall seconds of a `with` block to `timing[name]`."""

  def __init__(self, timing: dict[str, float], name: str):
    self.timing, self.name = timing, name

  def __enter__(self):
    self.start = time.perf_counter()

  def __exit__(self, *_):
    self.timing[self.name] = self.timing.get(self.name, 0.0) + time.perf_counter() - self.start


def check_frames(config: TrackConfig, seen: np.ndarray) -> None:
  """Raises `InputError` for what cannot be tracked at all."""
  n = len(seen)
  if n == 0:
    raise InputError("the dataset has no frames")
  if not seen.any():
    raise InputError(f"no face was found in any of the {n} frames; is there a person in the video?")
  for name in ("keyframes", "cutframes"):
    for k in getattr(config, name):
      if not 0 <= k < n:
        raise InputError(f"{name}: {k} is out of range; positions are 0-based, the dataset has {n} frames (0..{n - 1})")
  for k in config.keyframes:
    if not seen[k]:
      raise InputError(f"keyframes: no face was found in frame {k}; choose another")


class LandmarkFit:
  """Stages 1 and 2: everything that needs only landmarks. Arrays are host side, one row per frame."""

  def __init__(self, model: FlameModel, size: tuple[int, int], config: TrackConfig, weights: Weights):
    self.model, self.size, self.config, self.weights = model, size, config, weights
    self.dense_step = DENSE_STEP if config.dense_landmarks else 0

  def observe(self, landmarks, confidence, dense) -> None:
    if dense is None or not np.isfinite(dense).any():
      self.dense_step = 0
    self.lm = bundle.landmark_model(self.model, self.weights, self.dense_step)
    points, present = bundle.observed_points(self.model, landmarks, dense, self.dense_step)
    full = np.ones(present.shape, np.float32)
    full[:, :70] = confidence
    full = np.where(present, full, 0.0).astype(np.float32)
    points = np.where(present[..., None], points, 0.0).astype(np.float32)
    self.seen = (full[:, :68] > 0).any(axis=1)
    self.tracks = _tracks(self.lm, jnp.asarray(points), jnp.asarray(full), self.size)
    self.landmarks = landmarks

  def adjust_camera(self, init: TrackResult | None, progress: Progress) -> None:
    if init is not None:
      self.shared = bundle.initial_shared(self.lm, float(init.identity.camera.focal))
      self.shared = self.shared.replace(
        shape=jnp.asarray(init.identity.shape), offset=self.shared.offset.at[:70].set(init.identity.lmk_offset)
      )
      self.focal_sd = 0.0
      return
    x0 = np.asarray(_initial(self.lm, self.tracks))
    chosen = spread_frames(view_features(x0, self.landmarks), np.flatnonzero(self.seen), self.config.n_calibration_frames)
    yaw = x0[chosen, self.lm.points.exprdirs.shape[-1] + 1]
    progress.stage("camera", 1)
    # A fixed number of frames keeps the compiled program the same for every clip: repeat some in short ones.
    padded = np.resize(chosen, self.config.n_calibration_frames)
    counts = np.bincount(padded, minlength=len(self.seen))[padded].astype(np.float32)
    tracks = jax.tree.map(lambda a: a[padded], self.tracks)
    tracks = tracks.replace(inverse_sd=tracks.inverse_sd / np.sqrt(counts)[:, None])
    focal = jnp.asarray(self.config.focal, jnp.float32) if self.config.focal > 0 else None
    result = _bundle(self.lm, tracks, self.weights, focal)
    self.shared, self.focal_sd = result.shared, float(result.focal_relative_sd)
    progress.advance(1, focal=float(jnp.exp(self.shared.log_focal)))
    if self.config.focal <= 0 and np.ptp(yaw) < MIN_YAW_SPAN:
      progress.note(
        f"the head turns by only {np.rad2deg(np.ptp(yaw)):.0f} degrees: the focal length is a guess "
        f"(+-{100 * self.focal_sd:.0f} %); give --focal or --fov if you know it"
      )

  def fit_all(self, progress: Progress) -> None:
    model, shared = bundle.with_identity(self.lm, self.shared)
    n = len(self.seen)
    progress.stage("landmarks", n)
    xs, costs = [], []
    for start in range(0, n, LANDMARK_CHUNK):
      index = np.minimum(np.arange(start, start + LANDMARK_CHUNK), n - 1)
      solution = _fit_frames(model, jax.tree.map(lambda a: a[index], self.tracks), shared, self.weights)
      keep = min(LANDMARK_CHUNK, n - start)
      xs.append(np.asarray(solution.x)[:keep])
      costs.append(np.asarray(solution.normal.cost)[:keep])
      progress.advance(keep)
    self.xs, self.cost = np.concatenate(xs), np.concatenate(costs)

  def camera(self):
    height, width = self.size
    side = max(height, width)
    principal = 0.5 + np.asarray(self.shared.principal) * side / np.array([width, height])
    return camera.make_camera(jnp.exp(self.shared.log_focal), principal)

  def identity(self) -> Identity:
    return Identity(
      shape=self.shared.shape,
      texture=jnp.zeros(self.model.texture_basis.shape[-1]),
      light=jnp.zeros((9, 3)).at[0].set(np.sqrt(4 * np.pi)),
      camera=self.camera(),
      lmk_offset=self.shared.offset[:70],
    )

  def poses(self) -> Pose:
    return _to_poses(self.lm.points, jnp.asarray(self.xs), self.shared.shape, self.camera(), self.shared.principal)


def view_features(x0: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """(T, 5) what distinguishes frames: yaw, pitch, distance, mouth and eye opening, each in units of a clear change."""
  rotation, log_scale = x0[:, -14:-11], x0[:, -9]
  p = landmarks[:, :68]
  eye = np.linalg.norm(p[:, 36] - p[:, 45], axis=-1)
  spread = np.sqrt(((p - p.mean(1, keepdims=True)) ** 2).sum(-1).mean(1))
  size = np.maximum(np.maximum(eye, spread), 1e-3)
  mouth = np.linalg.norm(p[:, 62] - p[:, 66], axis=-1) / size
  eyes = np.linalg.norm(p[:, 37] + p[:, 43] - p[:, 41] - p[:, 47], axis=-1) / size
  return np.stack(
    [rotation[:, 1] / 0.2, rotation[:, 0] / 0.2, log_scale / 0.3, mouth / 0.2, eyes / 0.15], axis=1
  )


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
  while len(chosen) < min(n, len(candidates)):
    k = int(np.argmax(distance))
    chosen.append(k)
    distance = np.minimum(distance, np.linalg.norm(f - f[k], axis=1))
  return np.sort(candidates[np.array(chosen)])


def bridge(poses: Pose, seen: np.ndarray) -> tuple[Pose, np.ndarray]:
  """Fills frames without a face from their neighbours; returns the poses and the `Status` of every frame.

  Between two tracked frames every parameter is interpolated linearly (rotations along the shortest arc); before the
  first and after the last one it stays as it is there.
  """
  n = len(seen)
  known = np.flatnonzero(seen)
  status = np.where(seen, Status.TRACKED, Status.INTERPOLATED).astype(np.int32)
  if len(known) == n:
    return poses, status
  right = np.searchsorted(known, np.arange(n))
  after, before = known[np.minimum(right, len(known) - 1)], known[np.maximum(right - 1, 0)]
  before = np.where(seen, np.arange(n), before)
  after = np.where(seen, np.arange(n), after)
  inside = (before < np.arange(n)) & (np.arange(n) < after)
  t = np.where(inside, (np.arange(n) - before) / np.maximum(after - before, 1), 0.0).astype(np.float32)
  start = np.where(np.arange(n) < known[0], known[0], before)

  def mix(a):
    a = np.asarray(a)
    w = t.reshape((-1,) + (1,) * (a.ndim - 1))
    return jnp.asarray(a[start] * (1 - w) + a[after] * w)

  nearest = jax.vmap(flame.rotation.nearest_axis_angle)
  rotation = np.asarray(poses.rotation)
  turned = np.asarray(nearest(jnp.asarray(rotation[after]), jnp.asarray(rotation[start])))
  mixed = jax.tree.map(mix, poses)
  w = t[:, None]
  return mixed.replace(rotation=jnp.asarray(rotation[start] * (1 - w) + turned * w)), status


# --- compiled entry points -------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=3)
def _tracks(model, points, confidence, size):
  return jax.vmap(lambda p, c: bundle.make_tracks(model, p, c, size))(points, confidence)


@jax.jit
def _initial(model, tracks):
  return jax.vmap(lambda t: bundle.initial_unknowns(model, t))(tracks)


@jax.jit
def _bundle(model, tracks, weights, focal):
  return bundle.bundle_adjust(model, tracks, weights, focal=focal)


@jax.jit
def _fit_frames(model, tracks, shared, weights):
  return jax.vmap(lambda t: bundle.fit_frame(model, t, shared, weights))(tracks)


@jax.jit
def _to_poses(points, xs, shape, cam, principal):
  return jax.vmap(lambda x: pts.to_pose(points, x, shape, cam, principal))(xs)
