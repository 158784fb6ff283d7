"""Stages 1 and 2: camera, identity and the pose of every frame from the landmarks alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import bundle, camera, photometric, smooth, uncertainty
from vht_jax import points as pts
from vht_jax.checkpoint import pack, unpack
from vht_jax.config import TrackConfig, Weights
from vht_jax.photometric import Appearance
from vht_jax.points import Shared
from vht_jax.programs import in_chunks, rows_of, stored
from vht_jax.track.frames import finite_rows, spread_frames, view_features
from vht_jax.types import FlameModel, Identity, Pose, TrackResult

SMOOTH_CHUNK, SMOOTH_MARGIN = 256, 16  # frames smoothed at once, and more of them on both sides
SMOOTH_FEWEST = 8
LANDMARK_CHUNK = 128  # frames per call of what is done with landmarks
FIRST_PIXELS = 50.0  # independent pixels that a frame's colours count for until the identity stage knows better
DENSE_STEP = 3  # every third of MediaPipe's 468 points: more cost time and add nothing (solver.md)
MIN_YAW_SPAN = np.deg2rad(15.0)  # below this the focal length is not determined


class LandmarkFit:
  """Stages 1 and 2: everything that needs only landmarks. Arrays are host side, one row per frame."""

  def __init__(self, model: FlameModel, size: tuple[int, int], config: TrackConfig, weights: Weights):
    self.model, self.size, self.config, self.weights = model, size, config, weights
    self.dense_step = DENSE_STEP if config.dense_landmarks else 0

  def observe(self, landmarks, confidence, dense) -> None:
    if dense is None or not np.isfinite(dense).any():
      self.dense_step = 0
    self.lm = _landmark_model(self.model, self.weights, self.dense_step)
    points, present = bundle.observed_points(self.model, landmarks, dense, self.dense_step)
    full = np.ones(present.shape, np.float32)
    full[:, :70] = confidence
    full = np.where(present, full, 0.0).astype(np.float32)
    points = np.where(present[..., None], points, 0.0).astype(np.float32)
    self.seen = (full[:, :68] > 0).any(axis=1)
    self.xs = self.cost = self.sd = None
    self.appearance = Appearance(
      texture=np.zeros(self.model.texture_basis.shape[-1], np.float32),
      layer=np.zeros((photometric.LAYER_SIZE, photometric.LAYER_SIZE, 3), np.float32),
      light=np.float32(np.sqrt(4 * np.pi)) * np.eye(9, 1, dtype=np.float32).repeat(3, axis=1),
    )
    self.tracks = self.per_frame(lambda index: _tracks(self.lm, points[index], full[index], self.size))
    self.landmarks = landmarks
    self.pixels = FIRST_PIXELS

  def per_frame(self, solve):
    """`solve(index)` of all frames, host side."""
    return in_chunks(solve, len(self.seen), LANDMARK_CHUNK)

  def initial(self) -> np.ndarray:
    """(T, n) unknowns from which the fits start."""
    return self.per_frame(lambda index: _initial(self.lm, rows_of(self.tracks, index)))

  def adjust_camera(self, init: TrackResult | None, progress) -> None:
    if init is not None:
      height, width = self.size
      shared = bundle.initial_shared(self.lm, float(init.identity.camera.focal))
      self.shared = shared.replace(
        shape=jnp.asarray(init.identity.shape),
        principal=(init.identity.camera.principal - 0.5) * jnp.array([width, height], jnp.float32) / max(height, width),
        offset=shared.offset.at[:70].set(init.identity.lmk_offset),
      )
      self.appearance = self.appearance.replace(texture=init.identity.texture, light=init.identity.light)
      if init.identity.texture_layer is not None:
        self.appearance = self.appearance.replace(layer=init.identity.texture_layer)
      self.focal_sd, self.turns = 0.0, False
      self.landmark_focal = np.array([self.shared.log_focal, self.focal_sd], np.float32)
      return
    x0 = self.initial()
    chosen = spread_frames(
      view_features(x0, self.landmarks), np.flatnonzero(self.seen & finite_rows(x0)), self.config.n_calibration_frames
    )
    yaw = x0[chosen, self.lm.points.exprdirs.shape[-1] + 1]
    progress.stage("camera", 1)
    # A fixed number of frames keeps the compiled program the same for every clip: repeat some in short ones.
    padded = np.resize(chosen, self.config.n_calibration_frames)
    counts = np.bincount(padded, minlength=len(self.seen))[padded].astype(np.float32)
    tracks = rows_of(self.tracks, padded)
    tracks = tracks.replace(inverse_sd=tracks.inverse_sd / np.sqrt(counts)[:, None])
    focal = np.float32(self.config.focal) if self.config.focal > 0 else None
    # Without parallax the data say little and are biased: lean on a focal length that is common for portraits.
    self.turns = bool(np.ptp(yaw) > MIN_YAW_SPAN)
    focal_sd = bundle.LOG_FOCAL_SD if self.turns else bundle.LOG_FOCAL_SD / 4
    result = _bundle(self.lm, tracks, self.weights, focal, np.float32(focal_sd))
    self.shared, self.focal_sd = result.shared, float(result.focal_relative_sd)
    self.landmark_focal = np.array([self.shared.log_focal, self.focal_sd], np.float32)
    progress.advance(1, focal=float(np.exp(self.shared.log_focal)))
    if self.config.focal <= 0 and not self.turns:
      progress.note(
        f"the head turns by only {np.rad2deg(np.ptp(yaw)):.0f} degrees: the focal length is a guess "
        f"(+-{100 * self.focal_sd:.0f} %); give --focal or --fov if you know it"
      )

  def fit_all(self, progress, init: TrackResult | None = None) -> None:
    if init is not None:
      self.xs = np.asarray(
        _from_poses(self.lm.points, init.poses, self.shared.shape, self.camera(), self.shared.principal)
      )
    model, shared = _with_identity(self.lm, self.shared)
    progress.stage("landmarks", len(self.seen))

    def solve(index):
      tracks = rows_of(self.tracks, index)
      x0 = _initial(model, tracks) if self.xs is None else self.xs[index]
      found = _fit_frames(model, tracks, shared, self.weights, x0, self.camera())
      progress.advance(len(np.unique(index)))
      return found

    self.xs, self.cost, self.sd = self.per_frame(solve)

  def smooth(self, good: np.ndarray) -> None:
    """Smooths the unknowns within each shot; `good` (T,) frames count, and the others are bridged later."""
    n, cuts = len(self.seen), sorted(c for c in self.config.cutframes if 0 < c < len(self.seen))
    good = good & self.seen
    if good.sum() < SMOOTH_FEWEST:
      return
    model, shared = _with_identity(self.lm, self.shared)
    frames = np.arange(n)
    # (n_unknowns, T) from here on; the gaps are filled.
    xs = np.stack([np.interp(frames, frames[good], column[good]) for column in np.asarray(self.xs).T])
    xs = xs.astype(np.float32)
    variance = self.per_frame(
      lambda index: _variance(model, rows_of(self.tracks, index), shared, self.weights, xs.T[index])
    )
    variance = np.where(good, variance.T, np.inf).astype(np.float32)
    counted = variance.copy()
    counted[:, cuts] = np.inf  # the difference across a cut is no motion
    noise, acceleration = _noise(xs, counted)
    smoothed = xs.copy()
    for first, last in zip([0, *cuts], [*cuts, n]):
      for start in range(first, last, SMOOTH_CHUNK):
        # A fixed length with some frames before and after, which then change nothing any more.
        rows = np.arange(start - SMOOTH_MARGIN, start + SMOOTH_CHUNK + SMOOTH_MARGIN)
        inside = (rows >= first) & (rows < last)
        rows = np.clip(rows, first, last - 1)
        part = np.asarray(_smooth(xs[:, rows], np.where(inside, variance[:, rows], np.inf), noise, acceleration))
        keep = inside.copy()
        keep[:SMOOTH_MARGIN] = keep[SMOOTH_MARGIN + SMOOTH_CHUNK :] = False
        smoothed[:, rows[keep]] = part[:, keep]
    self.xs = np.where(good[:, None] & np.isfinite(smoothed.T), smoothed.T, self.xs)

  def state(self) -> dict[str, np.ndarray]:
    """All that a finished stage has changed; `restore` puts it back."""
    return pack(
      shared=self.shared, appearance=self.appearance, focal_sd=self.focal_sd, turns=self.turns, pixels=self.pixels,
      xs=self.xs, cost=self.cost, sd=self.sd, landmark_focal=self.landmark_focal,
    )  # fmt: skip

  def restore(self, state: dict[str, np.ndarray]) -> None:
    self.shared, self.appearance = unpack(Shared, state, "shared"), unpack(Appearance, state, "appearance")
    self.focal_sd, self.turns = float(state["focal_sd"]), bool(state["turns"])
    self.pixels, self.landmark_focal = float(state["pixels"]), state["landmark_focal"]
    self.xs, self.cost = state.get("xs"), state.get("cost")
    self.sd = unpack(Pose, state, "sd") if "sd.expr" in state else None

  def keyframes(self) -> np.ndarray:
    """The configured keyframes, or frames that differ most in view and expression."""
    named = np.unique(np.array(self.config.keyframes, int))
    named = named[self.seen[named]]  # without those whose landmarks have turned out to be wrong
    if len(named):
      return named
    xs = self.initial() if self.xs is None else self.xs
    features = view_features(xs, self.landmarks)
    return spread_frames(features, np.flatnonzero(self.seen & finite_rows(xs)), self.config.n_keyframes)

  def camera(self):
    height, width = self.size
    side = max(height, width)
    principal = 0.5 + np.asarray(self.shared.principal) * side / np.array([width, height])
    return camera.make_camera(np.exp(self.shared.log_focal), principal)

  def identity(self) -> Identity:
    identity = Identity(
      shape=self.shared.shape,
      texture=self.appearance.texture,
      light=self.appearance.light,
      camera=self.camera(),
      lmk_offset=np.asarray(self.shared.offset)[:70],
      texture_layer=self.appearance.layer if self.config.photometric else None,
    )
    return jax.device_put(identity)

  def poses(self) -> Pose:
    cam, shared = self.camera(), self.shared
    to_poses = lambda index: _to_poses(self.lm.points, self.xs[index], shared.shape, cam, shared.principal)
    return jax.device_put(self.per_frame(to_poses))


@functools.partial(stored, static_argnames=("dense_step",))
def _landmark_model(model, weights, dense_step):
  return bundle.landmark_model(model, weights, dense_step)


@stored
def _with_identity(model, shared):
  return bundle.with_identity(model, shared)


@functools.partial(stored, static_argnames=("size",))
def _tracks(model, points, confidence, size):
  return jax.vmap(lambda p, c: bundle.make_tracks(model, p, c, size))(points, confidence)


@stored
def _initial(model, tracks):
  return jax.vmap(lambda t: bundle.initial_unknowns(model, t))(tracks)


@stored
def _bundle(model, tracks, weights, focal, focal_sd):
  return bundle.bundle_adjust(model, tracks, weights, focal=focal, focal_sd=focal_sd)


@stored
def _fit_frames(model, tracks, shared, weights, x0, cam):
  def one(t, x):
    found = bundle.fit_frame(model, t, shared, weights, x)
    return found.x, found.normal.cost, pose_deviation(model.points, found.x, shared, cam, found.normal.matrix)

  return jax.vmap(one)(tracks, x0)


def pose_deviation(points, x, shared: Shared, cam, information) -> Pose:
  """Standard deviations of the pose of one frame; shapes as in `uncertainty.pose_deviation`."""
  to_pose = lambda x: pts.to_pose(points, x, shared.shape, cam, shared.principal)
  return uncertainty.pose_deviation(to_pose, x, information)


@stored
def _variance(model, tracks, shared, weights, xs):
  one = lambda t, x: uncertainty.marginal_variance(bundle.frame_normal(model, x, shared, t, weights).matrix)
  return jax.vmap(one)(tracks, xs)


@stored
def _noise(xs, variance):
  return jax.vmap(smooth.measure_noise)(xs, variance)


@stored
def _smooth(xs, variance, noise, acceleration):
  return jax.vmap(smooth.smooth)(xs, variance, noise, acceleration)


@stored
def _to_poses(points, xs, shape, cam, principal):
  return jax.vmap(lambda x: pts.to_pose(points, x, shape, cam, principal))(xs)


@stored
def _from_poses(points, poses, shape, cam, principal):
  return jax.vmap(lambda p: pts.from_pose(points, p, shape, cam, principal))(poses)
