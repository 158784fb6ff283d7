"""The tracker: from a clip's images and landmarks to its identity and the pose of every frame.

  stage 0  examine    which landmarks are on the face, and which of its regions can be seen
  stage 1  camera     bundle adjustment of the landmarks of some 24 frames: camera, identity, detector bias
  stage 2  landmarks  the pose of every frame from its landmarks, all frames at once
           tracks     points of the skin's texture in every frame; camera, identity and poses anew by them
  stage 3  identity   shape, texture, light and camera from the images of a few keyframes
  stage 4  frames     every pose from its image, many frames at once
           settle     (without images) every pose from its landmarks once more: less of what is guessed, eyes shut
           joint      (schedule 'joint') identity and camera from all images, and the poses again
  stage 5  smooth     all poses together, as far as their noise asks for it

Each is a function `stage(state, run) -> state` (`TrackState`, `Run`), and nothing is written into what another one
gave. `jit` and everything that happens on the host lives in this folder; the functions that it calls are pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit.solvers.uncertainty import MISFIT, beyond_prior
from vht_jax.fit.terms.priors import prior_of_shape
from vht_jax.tracking.camera_knowledge import known_camera
from vht_jax.tracking.checks import check_stage
from vht_jax.tracking.evidence.examine import Evidence, Weighed, examine
from vht_jax.tracking.keyframes import check_frames, finite_rows
from vht_jax.tracking.motion.gaps import bridge
from vht_jax.tracking.protocols import Checkpoint, Clip, NoCheckpoint, NoProgress, Progress
from vht_jax.tracking.run import Run, make_run
from vht_jax.tracking.stages import adam, landmarks
from vht_jax.tracking.stages.camera import adjust_camera
from vht_jax.tracking.stages.frames import fit_frames
from vht_jax.tracking.stages.identity import fit_identity
from vht_jax.tracking.stages.joint import fit_jointly
from vht_jax.tracking.stages.landmarks import fit_landmarks, settle
from vht_jax.tracking.stages.smooth import smooth_frames
from vht_jax.tracking.stages.tracks import follow_skin
from vht_jax.tracking.state import TrackState, restore, save
from vht_jax.types import AnyArray, Camera, FlameModel, Identity, Pose, Status, TrackResult

__all__ = ["Checkpoint", "Clip", "Progress", "Stage", "stages_of", "track"]

ASTRAY = "the fit went astray"  # of frames, in a note


class Stage(NamedTuple):
  name: str
  run: Callable[[TrackState, Run], TrackState]
  kept: bool = True  # its end is saved, so that it is not done again
  resumes: bool = False  # saves itself what it has so far, and goes on from there


TRACKS = Stage("tracks", follow_skin)
CAMERA, LANDMARKS = Stage("camera", adjust_camera), Stage("landmarks", fit_landmarks)
IDENTITY, JOINT = Stage("identity", fit_identity), Stage("joint", fit_jointly)
SETTLE = Stage("settle", settle, kept=False)
FRAMES = Stage("frames", fit_frames, kept=False, resumes=True)
SMOOTH = Stage("smooth", smooth_frames, kept=False)
ADAM_IDENTITY = Stage("identity", adam.adam_identity)
ADAM_FRAMES = Stage("frames", adam.adam_frames, kept=False, resumes=True)


def stages_of(config: TrackConfig, going_on: bool = False) -> list[Stage]:
  """The stages that these settings ask for, in order; `going_on` from a former result, whose identity is kept."""
  smooth = [] if config.data.unordered or config.schedule == "sequential" else [SMOOTH]
  if config.by_adam:
    return [*([] if config.adam.init == "calibration" else [CAMERA, LANDMARKS]), ADAM_IDENTITY, ADAM_FRAMES]
  if going_on:
    return [CAMERA, LANDMARKS, FRAMES if config.photometric else SETTLE, *smooth]
  tracks = [TRACKS] if config.tracks else []
  if not config.photometric:
    return [CAMERA, LANDMARKS, *tracks, SETTLE, *smooth]
  return [CAMERA, LANDMARKS, *tracks, IDENTITY, FRAMES, *([JOINT] if config.schedule == "joint" else []), *smooth]


def track(
  model: FlameModel,
  clip: Clip,
  config: TrackConfig = TrackConfig(),
  weights: Weights = Weights(),
  *,
  init: TrackResult | None = None,
  camera: Camera | None = None,
  shape: Float[AnyArray, " S"] | None = None,
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
      length only if `config.camera.focal` does not say another one) and its poses are refined.
    camera: a camera that is known and held; by default that of `config.camera.focal` if `config.camera.calibrated`.
    shape: (S,) the person's identity code, if it is known: it is held, and all else is estimated as without it. Not
      for VHT's method, nor beside `init`, which has its own.
    progress: told about every stage.
    checkpoint: keeps the ends of the stages. The stages that it has are not done again, and the result is the same
      bit by bit.
    debug_checks: check the head of every frame after each stage (slow; see `checks`).

  Returns:
    The identity, a pose per frame, energies and a status per frame; `timing` in seconds per stage.

  Raises:
    InputError: no frame has a face; a keyframe is out of range or has no face; the camera cannot be calibrated; a known
      shape that is not this head's, or that would not be held.
    FloatingPointError: `debug_checks` found a number that is not finite.
  """
  progress, checkpoint = progress or NoProgress(), checkpoint or NoCheckpoint()
  clock = Clock()
  _, confidence, _ = clip.landmarks()
  check_frames(config, np.any(confidence[:, :68] > 0, axis=1))
  if shape is not None:
    check_shape(shape, model, held=init is None and not config.by_adam)
  config, init, held = known_camera(config, init, camera)
  with clock("examine"):
    evidence = examined(clip, config, progress, checkpoint)
    run = make_run(
      model, Weighed(clip, evidence, model, config.data), config, weights,
      init=init, held=held, shape=shape, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip

  state, stages = resumed(stages_of(config, going_on=init is not None), progress, checkpoint)
  for stage in stages:
    with clock(stage.name):
      state = stage.run(state, run)
    if stage.kept:
      checkpoint.save(stage.name, save(state))
    if debug_checks and stage is LANDMARKS:
      check(stage.name, state, run)
  if debug_checks:
    check("frames", state, run)
  return finished(state, run, evidence, clock.seconds)


def check_shape(shape: AnyArray, model: FlameModel, held: bool) -> None:
  """Raises `InputError` for a shape that is known and not this head's, or would not be `held`."""
  n = model.shapedirs.shape[-1]
  if np.shape(shape) != (n,) or not np.isfinite(shape).all():
    raise InputError(f"shape: expected {n} finite numbers, the head's identity code; found {np.shape(shape)}")
  if not held:
    raise InputError("shape: is held by Gauss-Newton without a former result; leave `init`, or solver 'adam', out")


def examined(clip: Clip, config: TrackConfig, progress: Progress, checkpoint: Checkpoint) -> Evidence:
  """Stage 0, or what was kept of it."""
  kept = checkpoint.load("examine")
  evidence = restore(Evidence, kept) if kept else examine(clip, config, progress)
  if not kept:
    checkpoint.save("examine", save(evidence))
  if evidence.wrong.any():
    frames = np.flatnonzero(evidence.wrong)
    progress.note(
      f"the landmarks of {len(frames)} frames (from 1: {_some(frames + 1)}) are not on the face that the other frames "
      "show: poses between those of the neighbours stand in. If it is the right face, look at these frames' landmarks"
    )
  return evidence


def resumed(stages: list[Stage], progress: Progress, checkpoint: Checkpoint) -> tuple[TrackState, list[Stage]]:
  """The state after the last stage of which something was kept, and the stages that are still to be done."""
  for k in reversed(range(len(stages))):
    kept = checkpoint.load(stages[k].name)
    if kept:
      try:
        return restore(TrackState, kept), stages[k if stages[k].resumes else k + 1 :]
      except ValueError as error:
        progress.note(f"what was kept of the stage {stages[k].name} is of another version ({error}): it is done again")
  return TrackState(), stages


def finished(state: TrackState, run: Run, evidence: Evidence, seconds: dict[str, float]) -> TrackResult:
  """The result, with poses for the frames that have none."""
  config, seen, good = run.config, run.seen, finite(state)
  if not good[seen].all():
    frames = np.flatnonzero(seen & ~good)
    run.progress.note(
      f"{ASTRAY} in {len(frames)} frames (from 1: {_some(frames + 1)}): poses between those of the neighbours "
      "stand in. They are marked as doubtful"
    )
  identity, poses = person(state, run)
  unordered = config.data.unordered or state.unordered
  bridged, status = bridge(poses, seen, good, config.data.cutframes, run.times, unordered)
  poses = with_regained(bridged, poses, good & landmarks.posed(state, run) & (status == Status.INTERPOLATED))
  found = {"landmarks": state.cost, "photometric_l1": state.l1, **(state.adam.terms if state.adam else {})}
  certainty = {}
  if state.adam is None:
    tracked = status == Status.TRACKED
    rows = lambda a: jnp.asarray(np.where(tracked.reshape(-1, *[1] * (a.ndim - 1)), a, np.inf))
    certainty = {"pose_sd": jax.tree.map(rows, state.pose_sd), "focal_sd": jnp.asarray(state.focal_sd, jnp.float32)}
    if state.shape_information is not None:
      misfit = MISFIT if config.photometric else 0.0
      before = prior_of_shape(run.lm, run.weights)
      certainty["shape_information"] = beyond_prior(state.shape_information, before, misfit)
  return TrackResult(
    identity=identity,
    poses=poses,
    energies={name: jnp.asarray(values) for name, values in found.items() if values is not None},
    status=jnp.asarray(status),
    timing=seconds,
    visible=jnp.asarray(evidence.visible),
    misplaced=jnp.asarray(evidence.misplaced),
    **certainty,
  )


def person(state: TrackState, run: Run) -> tuple[Identity, Pose]:
  """The identity, and the pose of every frame."""
  if state.adam is not None:
    return jax.device_put(state.adam.identity), adam.poses(state)
  return landmarks.identity(state, run), landmarks.poses(state, run)


def finite(state: TrackState) -> np.ndarray:
  """(T,) bool: frames whose fit has given numbers."""
  return finite_rows(state.xs) if state.adam is None else finite_rows(state.adam.raw.rotation, state.adam.raw.expr)


def with_regained(bridged: Pose, poses: Pose, regained: np.ndarray) -> Pose:
  """Poses of which frames that are `regained` (T,) have the head's motion of their own, and the rest bridged."""
  own = lambda a, b: jnp.where(jnp.asarray(regained)[:, None], a, b)
  moved = {name: own(getattr(poses, name), getattr(bridged, name)) for name in ("rotation", "translation", "neck")}
  return bridged.replace(**moved)


def check(name: str, state: TrackState, run: Run) -> None:
  """`checks.check_stage` of the frames with a face."""
  identity, poses = person(state, run)
  check_stage(name, run.model, identity, poses, np.flatnonzero(run.seen), run.size)


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
