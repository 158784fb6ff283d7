"""Stages 1 and 2: camera, identity and the pose of every frame from the landmarks alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import cameras
from vht_jax.app.record import pack, unpack
from vht_jax.config import TrackConfig, Weights
from vht_jax.fit import bundle, photometric, uncertainty
from vht_jax.fit.photometric import Appearance
from vht_jax.head import points as pts
from vht_jax.head.points import Shared
from vht_jax.host.programs import in_chunks, rows_of, stored
from vht_jax.render import shade
from vht_jax.tracking.frames import finite_rows, spread_frames, view_features
from vht_jax.tracking.stages.smooth_stage import FEWEST, Motion
from vht_jax.types import Camera, FlameModel, Identity, Pose, TrackResult

LANDMARK_CHUNK = 128  # frames per call of what is done with landmarks
FIRST_PIXELS = 50.0  # independent pixels that a frame's colours count for until the identity stage knows better
DENSE_STEP = 3  # every third of MediaPipe's 468 points: more cost time and add nothing (solver.md)
MIN_YAW_SPAN = np.deg2rad(15.0)  # below this the focal length is not determined


class LandmarkFit:
  """Stages 1 and 2: everything that needs only landmarks. Arrays are host side, one row per frame."""

  def __init__(
    self,
    model: FlameModel,
    size: tuple[int, int],
    config: TrackConfig,
    weights: Weights,
    known: Camera | None = None,
    extrinsics: Camera | None = None,
  ):
    """`known`: a camera that is held; `extrinsics`: one whose R and T place the world (default: the camera's place).

    Inside, the light lives in the default world.
    """
    self.model, self.size, self.config, self.weights = model, size, config, weights
    self.dense_step = DENSE_STEP if config.dense_landmarks else 0
    self.known = known
    place = extrinsics or known
    default = cameras.make_camera(1.0)
    moved = place is not None and not (np.array_equal(place.R, default.R) and np.array_equal(place.T, default.T))
    self.extrinsics = place if moved else None

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
      shared = bundle.initial_shared(self.lm, float(init.identity.camera.focal))
      self.shared = shared.replace(
        shape=jnp.asarray(init.identity.shape),
        principal=self.principal_of(init.identity.camera),
        offset=shared.offset.at[:70].set(init.identity.lmk_offset),
      )
      light = init.identity.light
      if self.extrinsics is not None:
        light = shade.turned_light(light, self.world_to_default())
      self.appearance = self.appearance.replace(texture=init.identity.texture, light=light)
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
    focal, principal = self.given()
    # Without parallax the data say little and are biased: lean on a focal length that is common for portraits.
    self.turns = bool(np.ptp(yaw) > MIN_YAW_SPAN)
    focal_sd = bundle.LOG_FOCAL_SD if self.turns else bundle.LOG_FOCAL_SD / 4
    result = _bundle(self.lm, tracks, self.weights, focal, np.float32(focal_sd), principal)
    self.shared, self.focal_sd = self.held(result.shared), float(result.focal_relative_sd)
    if self.known is not None:
      self.focal_sd = 0.0
    self.landmark_focal = np.array([self.shared.log_focal, self.focal_sd], np.float32)
    progress.advance(1, focal=float(np.exp(self.shared.log_focal)))
    if focal is None and not self.turns:
      progress.note(
        f"the head turns by only {np.rad2deg(np.ptp(yaw)):.0f} degrees: the focal length is a guess "
        f"(+-{100 * self.focal_sd:.0f} %); give --focal or --fov if you know it"
      )

  def principal_of(self, cam: Camera) -> np.ndarray:
    """(2,) a camera's principal point as in `Shared`."""
    height, width = self.size
    return ((np.asarray(cam.principal) - 0.5) * np.array([width, height]) / max(height, width)).astype(np.float32)

  def given(self) -> tuple[np.float32 | None, np.ndarray | None]:
    """Focal length and principal point (as in `Shared`) that are known."""
    if self.known is not None:
      return np.float32(self.known.focal), self.principal_of(self.known)
    return (np.float32(self.config.focal) if self.config.focal > 0 else None), None

  def held(self, shared: Shared) -> Shared:
    """`shared` with a known camera put back exactly where the solver held it by a stiff prior."""
    if self.known is None:
      return shared
    focal, principal = self.given()
    return shared.replace(log_focal=np.log(focal), principal=principal)

  def world_to_default(self) -> np.ndarray:
    """(3, 3) turns the world of `extrinsics` into the default one."""
    return np.asarray(cameras.WORLD_TO_OPENCV, np.float32) @ np.asarray(self.extrinsics.R)

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

  def motion(self, good: np.ndarray, times: np.ndarray | None = None) -> Motion | None:
    """The unknowns of the `good` (T,) frames as a motion in time; None of so few that nothing can be said of it."""
    good = good & self.seen
    return Motion(self, good, times) if good.sum() >= FEWEST else None

  def smooth(self, good: np.ndarray, times: np.ndarray | None = None) -> None:
    """Smooths the unknowns within each shot; `good` (T,) frames count, and the others are bridged later."""
    motion = self.motion(good, times)
    if motion is not None:
      self.xs = motion.smoothed()

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
    found = cameras.make_camera(np.exp(self.shared.log_focal), principal)
    return found if self.extrinsics is None else found.replace(R=self.extrinsics.R, T=self.extrinsics.T)

  def identity(self) -> Identity:
    light = self.appearance.light
    if self.extrinsics is not None:
      light = shade.turned_light(jnp.asarray(light), self.world_to_default().T)
    identity = Identity(
      shape=self.shared.shape,
      texture=self.appearance.texture,
      light=light,
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
def _bundle(model, tracks, weights, focal, focal_sd, principal):
  return bundle.bundle_adjust(model, tracks, weights, focal=focal, focal_sd=focal_sd, principal=principal)


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
def _to_poses(points, xs, shape, cam, principal):
  return jax.vmap(lambda x: pts.to_pose(points, x, shape, cam, principal))(xs)


@stored
def _from_poses(points, poses, shape, cam, principal):
  return jax.vmap(lambda p: pts.from_pose(points, p, shape, cam, principal))(poses)
