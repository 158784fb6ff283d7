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

from vht_jax import bundle, camera, flame, photometric
from vht_jax import points as pts
from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.photometric import Appearance, Crop
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
  energies = {}
  if config.photometric:
    photo = PhotometricFit(fit, clip)
    with stage(timing, "identity"):
      photo.fit_identity(progress)
    with stage(timing, "landmarks"):
      fit.fit_all(progress)
    with stage(timing, "frames"):
      photo.fit_frames(progress)
    energies["photometric_l1"] = jnp.asarray(photo.l1)
  identity = fit.identity()
  poses = fit.poses()
  poses, status = bridge(poses, seen)
  return TrackResult(
    identity=identity,
    poses=poses,
    energies={"landmarks": jnp.asarray(fit.cost), **energies},
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
    self.xs = None
    self.appearance = Appearance(
      texture=jnp.zeros(self.model.texture_basis.shape[-1]),
      layer=jnp.zeros((photometric.LAYER_SIZE, photometric.LAYER_SIZE, 3)),
      light=jnp.zeros((9, 3)).at[0].set(np.sqrt(4 * np.pi)),
    )
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
    # Without parallax the data say little and are biased: lean on a focal length that is common for portraits.
    focal_sd = bundle.LOG_FOCAL_SD if np.ptp(yaw) > MIN_YAW_SPAN else bundle.LOG_FOCAL_SD / 4
    result = _bundle(self.lm, tracks, self.weights, focal, jnp.asarray(focal_sd, jnp.float32))
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
      tracks = jax.tree.map(lambda a: a[index], self.tracks)
      x0 = _initial(model, tracks) if self.xs is None else jnp.asarray(self.xs[index])
      solution = _fit_frames(model, tracks, shared, self.weights, x0)
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
      texture=self.appearance.texture,
      light=self.appearance.light,
      camera=self.camera(),
      lmk_offset=self.shared.offset[:70],
    )

  def poses(self) -> Pose:
    return _to_poses(self.lm.points, jnp.asarray(self.xs), self.shared.shape, self.camera(), self.shared.principal)


class PhotometricFit:
  """Stages 3 and 4; refines the unknowns of a `LandmarkFit` with the images."""

  def __init__(self, fit: LandmarkFit, clip: Clip):
    self.fit, self.clip, self.config = fit, clip, fit.config
    self.model = flame.without_lower_neck(fit.model) if fit.config.ignore_lower_neck else fit.model

  def keyframes(self) -> np.ndarray:
    if self.config.keyframes:
      return np.unique(np.array(self.config.keyframes))
    features = view_features(self.fit.xs, self.fit.landmarks)
    return spread_frames(features, np.flatnonzero(self.fit.seen), self.config.n_keyframes)

  def crops(self, index: np.ndarray) -> Crop:
    rgb, inside, scale, offset = zip(
      *(crop_head(im, x, self.config.crop_size) for im, x in zip(self.clip.images(index), self.fit.xs[index]))
    )
    f32 = lambda a: jnp.asarray(np.stack(a), jnp.float32)
    return Crop(rgb=f32(rgb) / 255.0, inside=f32(inside), scale=f32(scale), offset=f32(offset))

  def fit_identity(self, progress: Progress) -> None:
    fit, config = self.fit, self.config
    index = self.keyframes()
    progress.stage("identity", 1)
    surface = _surface(self.model, fit.shared.shape)
    # Colours know the focal length less well than the landmarks of many views: hold it at the bundle adjustment's.
    focal_prior = (fit.shared.log_focal, jnp.asarray(2e-3, jnp.float32))
    fit.shared, fit.appearance, xs, cost = _fit_identity(
      surface,
      fit.lm,
      fit.shared,
      fit.appearance,
      jax.tree.map(lambda a: a[index], fit.tracks),
      self.crops(index),
      jnp.asarray(fit.xs[index]),
      fit.weights,
      focal_prior,
      config.n_samples,
      config.identity_steps,
    )
    self.identity_cost = np.asarray(cost)
    progress.advance(1, cost=float(cost[-1]))

  def fit_frames(self, progress: Progress) -> None:
    fit, config = self.fit, self.config
    n, batch = len(fit.seen), config.batch_size
    progress.stage("frames", n)
    surface = photometric.fold_identity(_surface(self.model, fit.shared.shape), fit.shared.shape)
    lm, shared = bundle.with_identity(fit.lm, fit.shared)
    albedo = photometric.albedo_map(surface, fit.appearance)
    xs, l1 = [], []
    for start in range(0, n, batch):
      index = np.minimum(np.arange(start, start + batch), n - 1)
      x, _, error = _fit_photometric(
        surface, lm, albedo, fit.appearance.light, shared,
        jax.tree.map(lambda a: a[index], fit.tracks), self.crops(index), fit.weights, jnp.asarray(fit.xs[index]),
        config.n_samples, config.frame_steps,
      )  # fmt: skip
      keep = min(batch, n - start)
      xs.append(np.asarray(x)[:keep])
      l1.append(np.asarray(error)[:keep])
      progress.advance(keep, photometric_l1=float(l1[-1].mean()))
    fit.xs, self.l1 = np.concatenate(xs), np.concatenate(l1)


CROP_METRES = 0.28  # side of the crop at the head's distance


def crop_head(image: np.ndarray, x: np.ndarray, size: int):
  """The square around a head whose unknowns are about `x`: rgb, inside mask, and the map from unit coordinates."""
  import cv2

  height, width = image.shape[:2]
  side = max(height, width)
  place = x[-pts.N_POSE + 3 : -pts.N_POSE + 6]
  w = int(np.clip(CROP_METRES * np.exp(place[2]) * side, 16, 4 * side))
  x0, y0 = int(place[0] * side + width / 2 - w / 2), int(place[1] * side + height / 2 - w / 2)
  left, top, right, bottom = max(-x0, 0), max(-y0, 0), max(x0 + w - width, 0), max(y0 + w - height, 0)
  part = image[max(y0, 0) : max(y0 + w, 0), max(x0, 0) : max(x0 + w, 0)]
  mask = np.ones(part.shape[:2], np.uint8)
  if part.size == 0:
    part, mask = np.zeros((w, w, 3), np.uint8), np.zeros((w, w), np.uint8)
  elif left or top or right or bottom:
    part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_REPLICATE)
    mask = cv2.copyMakeBorder(mask, top, bottom, left, right, cv2.BORDER_CONSTANT)
  mode = cv2.INTER_AREA if w > size else cv2.INTER_LINEAR
  part, mask = cv2.resize(part, (size, size), interpolation=mode), cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
  k = size / w
  return part, mask, side * k, (np.array([width / 2 - x0, height / 2 - y0]) * k)


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
def _bundle(model, tracks, weights, focal, focal_sd):
  return bundle.bundle_adjust(model, tracks, weights, focal=focal, focal_sd=focal_sd)


@jax.jit
def _fit_frames(model, tracks, shared, weights, x0):
  return jax.vmap(lambda t, x: bundle.fit_frame(model, t, shared, weights, x))(tracks, x0)


@jax.jit
def _surface(model, shape):
  return photometric.make_surface(model, shape)


@functools.partial(jax.jit, static_argnames=("n_samples", "outer_steps"))
def _fit_identity(surface, lm, shared, appearance, tracks, crops, xs, weights, focal_prior, n_samples, outer_steps):
  return photometric.fit_identity(
    surface, lm, shared, appearance, tracks, crops, xs, weights, focal_prior,
    n_samples=n_samples, outer_steps=outer_steps,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("n_samples", "outer_steps"))
def _fit_photometric(surface, lm, albedo, light, shared, tracks, crops, weights, x0, n_samples, outer_steps):
  def one(tracks, crop, x):
    x, normal = photometric.fit_frame(
      surface, lm, albedo, light, shared, tracks, crop, weights, x, n_samples=n_samples, outer_steps=outer_steps
    )
    return x, normal.cost, photometric.photometric_l1(surface, albedo, light, shared, crop, x)

  return jax.vmap(one)(tracks, crops, x0)


@jax.jit
def _to_poses(points, xs, shape, cam, principal):
  return jax.vmap(lambda x: pts.to_pose(points, x, shape, cam, principal))(xs)
