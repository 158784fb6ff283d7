"""The tracker: from a clip's images and landmarks to its identity and the pose of every frame.

  stage 0  examine    which landmarks are on the face, and which of its regions can be seen
  stage 1  camera     bundle adjustment of the landmarks of some 24 frames: camera, identity, detector bias
  stage 2  landmarks  the pose of every frame from its landmarks, all frames at once
  stage 3  identity   shape, texture, light and camera from the images of a few keyframes
  stage 4  frames     every pose from its image, many frames at once
           joint      (schedule 'joint') identity and camera from all images, and the poses again
  stage 5  smooth     all poses together, as far as their noise asks for it

`jit` and everything that happens on the host lives in this folder; the functions that it calls are pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.config import TrackConfig, Weights
from vht_jax.tracking.checks import check_stage
from vht_jax.tracking.evidence.examine import Evidence, Weighed, examine
from vht_jax.tracking.evidence.examine import state as evidence_state
from vht_jax.tracking.frames import bridge, check_frames, finite_rows, frame_times, spread_frames, view_features
from vht_jax.tracking.stages.adam_stage import AdamFit
from vht_jax.tracking.stages.known import known_camera
from vht_jax.tracking.stages.landmark_stage import LandmarkFit
from vht_jax.tracking.stages.photometric_stage import PhotometricFit, crop_head
from vht_jax.types import Camera, FlameModel, Identity, Pose, Status, TrackResult

__all__ = [
  "AdamFit", "Checkpoint", "Clip", "LandmarkFit", "PhotometricFit", "Progress",
  "bridge", "check_frames", "crop_head", "spread_frames", "track", "view_features",
]  # fmt: skip


class Clip(Protocol):
  """What the tracker needs to know of a video; `dataset.folder.FrameFolder` is one."""

  size: tuple[int, int]  # (H, W) of the images as tracked

  def __len__(self) -> int: ...

  def landmarks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(T, 70, 2) px, confidence (T, 70) with 0 for what is missing, dense (T, 478, 2) px or None (NaN: missing)."""

  def images(self, indices) -> np.ndarray:
    """(n, H, W, 3) uint8 RGB.

    A clip may also have `masks(indices)`, (n, H, W) uint8 or None: what is below 128 is not the person, and
    Gauss-Newton does not compare it.
    """

  # And, where frames are not evenly spaced, `times` (T,) in seconds or `frame_ids` (T,) (`frames.frame_times`).


class Progress:
  """Receives what happens; this one ignores it, `report.Progress` draws a bar."""

  def stage(self, name: str, total: int) -> None: ...

  def advance(self, n: int = 1, **energies: float) -> None: ...

  def note(self, message: str) -> None: ...

  def placed(self, identity: Identity, poses: Pose, seen: np.ndarray) -> None:
    """Told, once the landmarks are fitted, where the head is in the `seen` (T,) frames; its looks are not known yet."""


class Checkpoint:
  """Keeps what is finished, so that a killed run goes on; this one keeps nothing, `checkpoint.Checkpoint` has files.

  What it gives back is taken for the same clip, head and settings: that is the caller's to check.
  """

  def load(self, stage: str) -> dict[str, np.ndarray]:
    """What was saved for a stage; empty if nothing was."""
    return {}

  def save(self, stage: str, arrays: dict[str, np.ndarray]) -> None:
    """Keeps the end of a stage, or what there is of it so far, in place of what was kept before."""

  def due(self) -> bool:
    """Whether it is time to save within a stage."""
    return False


def track(
  model: FlameModel,
  clip: Clip,
  config: TrackConfig = TrackConfig(),
  weights: Weights = Weights(),
  *,
  init: TrackResult | None = None,
  camera: Camera | None = None,
  progress: Progress | None = None,
  checkpoint: Checkpoint | None = None,
  debug_checks: bool = False,
) -> TrackResult:
  """Tracks a clip.

  Args:
    model: the head, cut to the number of components to fit.
    clip: images and landmarks.
    config, weights: see `config`.
    init: a former result of the same clip to go on from; its identity and camera are kept (of the camera the focal
      length only if `config.focal` does not say another one) and its poses are refined.
    camera: a camera that is known and held; by default that of `config.focal` if `config.calibrated`.
    progress: told about every stage.
    checkpoint: keeps the ends of the stages. The stages that it has are not done again, and the result is the same
      bit by bit.
    debug_checks: check the head of every frame after each stage (slow; see `checks`).

  Returns:
    The identity, a pose per frame, energies and a status per frame; `timing` in seconds per stage.

  Raises:
    InputError: no frame has a face; a keyframe is out of range or has no face; the camera cannot be calibrated.
    FloatingPointError: `debug_checks` found a number that is none.
  """
  progress, checkpoint = progress or Progress(), checkpoint or Checkpoint()
  clock = Clock()

  def stage(name: str, fit: LandmarkFit | PhotometricFit | AdamFit, *steps: Callable[[], None]) -> None:
    state = checkpoint.load(name)
    if state:
      fit.restore(state)
      return
    with clock(name):
      for step in steps:
        step()
    checkpoint.save(name, fit.state())

  _, confidence, _ = clip.landmarks()
  check_frames(config, (confidence[:, :68] > 0).any(axis=1))
  kept = checkpoint.load("examine")
  with clock("examine"):
    evidence = Evidence(**kept) if kept else examine(clip, config, progress)
  if not kept:
    checkpoint.save("examine", evidence_state(evidence))
  if evidence.wrong.any():
    frames = np.flatnonzero(evidence.wrong)
    progress.note(
      f"the landmarks of {len(frames)} frames are not on the face that the other frames show; these frames are bridged "
      f"(positions {_some(frames)})"
    )
  clip = Weighed(clip, evidence, model)
  landmarks, confidence, dense = clip.landmarks()
  seen = (confidence[:, :68] > 0).any(axis=1)
  config, init, known = known_camera(config, init, camera)
  times, unordered = frame_times(clip), config.unordered

  energies = {}
  first = LandmarkFit(model, clip.size, config, weights, known, None if init is None else init.identity.camera)
  with clock("camera"):
    first.observe(landmarks, confidence, dense)
  vht_start = config.photometric and config.solver == "adam" and config.init == "calibration"
  if not vht_start:
    stage("camera", first, lambda: first.adjust_camera(init, progress))
    stage("landmarks", first, lambda: first.fit_all(progress, init))
    energies["landmarks"] = jnp.asarray(first.cost)
    progress.placed(first.identity(), first.poses(), seen)
    if debug_checks:
      check_stage("landmarks", model, first.identity(), first.poses(), np.flatnonzero(seen), clip.size)

  if config.photometric and config.solver == "adam":
    fit = AdamFit(model, clip, config, weights, seen)
    if getattr(clip, "has_alpha", False):
      progress.note("the masks are not used: VHT's method knows none (Gauss-Newton does)")
    keyframes = np.union1d(first_face(seen), first.keyframes())

    def start():
      if init is not None:
        fit.start(init.identity, init.poses)
      elif not vht_start:
        fit.start(first.identity(), first.poses())
      else:
        fit.calibrate(keyframes, known)
      if init is None:
        fit.fit_identity(keyframes, progress)

    stage("identity", fit, start)
    with clock("frames"):
      fit.fit_frames(progress, checkpoint)
    identity, poses, good = fit.identity, fit.poses(), finite_rows(fit.raw.rotation, fit.raw.expr)
    energies.update({k: jnp.asarray(v) for k, v in fit.terms.items()})
  else:
    if config.photometric:
      photo = PhotometricFit(first, clip)
      if init is None:
        stage("identity", first, lambda: photo.fit_identity(progress), lambda: first.fit_all(progress))
      with clock("frames"):
        photo.fit_frames(progress, checkpoint)
      if config.schedule == "joint" and init is None:
        stage("joint", photo, lambda: photo.fit_jointly(progress))
      energies["photometric_l1"] = jnp.asarray(photo.l1)
    good = finite_rows(first.xs)
    with clock("smooth"):
      unordered = smooth(first, good, times, progress)
    identity, poses = first.identity(), first.poses()

  if debug_checks:
    check_stage("frames", model, identity, poses, np.flatnonzero(seen), clip.size)
  if not good[seen].all():
    frames = np.flatnonzero(seen & ~good)
    progress.note(f"the fit diverged in {len(frames)} frames, which are bridged (positions {_some(frames)})")
  poses, status = bridge(poses, seen, good, config.cutframes, times, unordered)
  if first.sd is not None and not (config.photometric and config.solver == "adam"):
    tracked = status == Status.TRACKED
    rows = lambda a: jnp.asarray(np.where(tracked.reshape(-1, *[1] * (a.ndim - 1)), a, np.inf))
    certainty = {"pose_sd": jax.tree.map(rows, first.sd), "focal_sd": jnp.asarray(first.focal_sd, jnp.float32)}
  else:
    certainty = {}
  return TrackResult(
    identity=identity, poses=poses, energies=energies, status=jnp.asarray(status), timing=clock.seconds, **certainty,
    visible=jnp.asarray(evidence.visible), misplaced=jnp.asarray(evidence.misplaced),
  )  # fmt: skip


def smooth(fit: LandmarkFit, good: np.ndarray, times: np.ndarray | None, progress: Progress) -> bool:
  """Smooths the poses, if the settings ask for it and the clip is a video; whether it is none.

  Args:
    fit: with the unknowns of all frames.
    good: (T,) frames that count.
    times: (T,) as of `frame_times`.
    progress: is told of a clip that is no video.
  """
  config = fit.config
  if config.unordered or config.schedule == "sequential":
    return config.unordered
  motion = fit.motion(good, times)
  if motion is None:
    return False
  if not motion.is_video():
    progress.note(
      "the frames are pictures without an order, not a video: not smoothed, and those without a face are not bridged "
      "(--unordered says so from the start)"
    )
    return True
  if config.smooth:
    fit.xs = motion.smoothed()
  return False


def first_face(seen: np.ndarray) -> np.ndarray:
  """VHT's keyframe stage always includes the first frame; here the first one with a face."""
  return np.flatnonzero(seen)[:1]


def _some(numbers: np.ndarray) -> str:
  return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")


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
