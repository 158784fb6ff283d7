"""Stage 2: the pose of every frame from its landmarks; and what a state says of the head in all frames."""

from __future__ import annotations

import functools

import jax
import numpy as np

from vht_jax.fit import frame, unknowns
from vht_jax.fit.solvers import uncertainty
from vht_jax.fit.unknowns import Shared, camera_of
from vht_jax.host.programs import stored
from vht_jax.host.programs.spread import shares
from vht_jax.tracking.keyframes import finite_rows, spread_frames, view_features
from vht_jax.tracking.run import Run
from vht_jax.tracking.stages.camera import initial, initial_unknowns, landmarks_of, skin_entries_of
from vht_jax.tracking.state import TrackState, identity_of, known
from vht_jax.types import Camera, Identity, Pose


def fit_landmarks(state: TrackState, run: Run) -> TrackState:
  """Every frame by itself, from the best affine camera for the mean head or from a former result (`run.init`)."""
  if run.init is not None:
    shared = known(state.shared)
    xs = _from_poses(run.lm.points, run.init.poses, shared.shape, camera(state, run), shared.principal)
    state = state.replace(xs=np.asarray(xs))
  state, cost = refit(state, run)
  state = state.replace(cost=cost)
  run.progress.placed(identity(state, run), poses(state, run), run.seen)
  return state


def settle(state: TrackState, run: Run) -> TrackState:
  """All frames once more, now that what they share is settled: with less of what is guessed, and eyes shut."""
  return state if run.settled is run.observed else refit(state, run, settled=True)[0]


def refit(state: TrackState, run: Run, settled: bool = False) -> tuple[TrackState, np.ndarray]:
  """All frames by their landmarks with the camera and identity of the state; and what each frame costs (T,).

  Args:
    settled: nothing that frames share depends on it any more (`Run.settled_of`).
  """
  model, shared = fold_landmarks(landmarks_of(state, run), known(state.shared))
  run.progress.stage("landmarks" if state.cost is None else "landmarks again", run.n_frames)

  observed_of = run.settled_of if settled else run.observed_of
  begun = run.per_frame(lambda index: initial(model, observed_of(index))) if state.xs is None else state.xs

  def solve(index):
    more = skin_entries_of(state, run, index)
    found = _fit_frames(model, observed_of(index), shared, run.weights, begun[index], camera(state, run), more)
    run.progress.advance(len(np.unique(index)))
    return found

  xs, cost, pose_sd = run.per_frame(solve, shares())
  return state.replace(xs=xs, pose_sd=pose_sd), cost


def keyframes(state: TrackState, run: Run) -> np.ndarray:
  """The configured keyframes, or frames that differ most in view and expression."""
  named = np.unique(np.array(run.config.data.keyframes, int))
  named = named[run.seen[named]]  # without those whose landmarks have turned out to be wrong
  if len(named):
    return named
  xs = initial_unknowns(run) if state.xs is None else state.xs
  features = view_features(xs, run.landmarks)
  return spread_frames(features, run.sure & finite_rows(xs), run.config.n_keyframes)


# --- what a state says -----------------------------------------------------------------------------------------------


def camera(state: TrackState, run: Run) -> Camera:
  return camera_of(known(state.shared), run.size, run.place)


def identity(state: TrackState, run: Run) -> Identity:
  shared, appearance = known(state.shared), known(state.appearance)
  return jax.device_put(identity_of(shared, appearance, run.size, run.place, layer=run.config.photometric))


def posed(state: TrackState, run: Run) -> np.ndarray:
  """(T,) bool: frames with landmarks, or whose skin shows the head without."""
  return run.seen if state.regained is None else run.seen | state.regained


def poses(state: TrackState, run: Run) -> Pose:
  """Leading axis T."""
  cam, shared, xs = camera(state, run), known(state.shared), known(state.xs)
  to_poses = lambda index: _to_poses(run.lm.points, xs[index], shared.shape, cam, shared.principal)
  return jax.device_put(run.per_frame(to_poses))


def pose_deviation(points, x, shared: Shared, cam, information) -> Pose:
  """Standard deviations of the pose of one frame; shapes as in `uncertainty.pose_deviation`."""
  to_pose = lambda x: unknowns.to_pose(points, x, shared.shape, cam, shared.principal)
  return uncertainty.pose_deviation(to_pose, x, information)


@functools.partial(stored, rough=True)
def fold_landmarks(model, shared):
  """`frame.fold_landmarks`: the landmarks of one person."""
  return frame.fold_landmarks(model, shared)


def frames_axis(more: list) -> list:
  """`in_axes` of terms with their observations: only these have the frames' axis."""
  return [(None, 0) for _ in more]


@functools.partial(stored, by_frame={"observed": 0, "x0": 0, "more": frames_axis})
def _fit_frames(model, observed, shared, weights, x0, cam, more):
  def one(t, x, more):
    found = frame.fit_frame(model, t, shared, weights, x, more=more)
    return found.x, found.normal.cost, pose_deviation(model.points, found.x, shared, cam, found.normal.matrix)

  return jax.vmap(one, in_axes=(0, 0, frames_axis(more)))(observed, x0, more)


@functools.partial(stored, rough=True)
def _to_poses(points, xs, shape, cam, principal):
  return jax.vmap(lambda x: unknowns.to_pose(points, x, shape, cam, principal))(xs)


@functools.partial(stored, rough=True)
def _from_poses(points, poses, shape, cam, principal):
  return jax.vmap(lambda p: unknowns.from_pose(points, p, shape, cam, principal))(poses)
