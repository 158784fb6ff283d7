"""Stages 3 and 4 by VHT's method: Adam on its energy, keyframes first, then the frames."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.head import flame
from vht_jax.host.programs import stored
from vht_jax.tracking.keyframes import finite_rows
from vht_jax.tracking.run import Run
from vht_jax.tracking.stages import landmarks
from vht_jax.tracking.state import AdamState, TrackState, known, on_host, save
from vht_jax.types import Identity, Observations, Pose, RawPose
from vht_jax.vht import adam, calibrate

START_MARGIN = 0.02  # poses start this far inside the joint limits, where tanh still has a slope
SLOWER = 0.1  # times the learning rates, for frames that have diverged


def adam_identity(state: TrackState, run: Run) -> TrackState:
  """Where VHT's method starts, and the identity from the keyframes; that of a former result (`run.init`) is kept."""
  if getattr(run.clip, "has_alpha", False):
    run.progress.note("the masks are not used: VHT's method knows none (Gauss-Newton does)")
  # VHT's keyframe stage always includes the first frame; here the first one with a face.
  keyframes = np.union1d(np.flatnonzero(run.seen)[:1], landmarks.keyframes(state, run))
  if run.init is not None:
    return state.replace(adam=_started(run.init.identity, run.init.poses))
  if state.shared is not None:
    start = _started(landmarks.identity(state, run), landmarks.poses(state, run))
  else:
    start = _calibrated(run, keyframes)
  run.progress.stage("identity", 1)
  identity, rows, energies = _fit_identity(
    run.colored, observations(run, keyframes), start.identity, _rows(start.raw, keyframes), run.config, run.weights
  )
  raw = jax.tree.map(np.array, start.raw)
  _put(raw, keyframes, rows)
  run.progress.advance(1, energy=float(energies["total"][-1, -1]))
  return state.replace(adam=AdamState(identity=on_host(identity), raw=raw, terms={}))


def adam_frames(state: TrackState, run: Run) -> TrackState:
  """Every pose by the frame's image; goes on after `state.done` frames, and saves what it has whenever that is due."""
  config, n = run.config, run.n_frames
  sequential = config.schedule == "sequential"
  size = 1 if sequential else run.batch
  run.progress.stage("frames", n)
  begun = known(state.adam)
  identity, raw = begun.identity, jax.tree.map(np.array, begun.raw)
  terms: dict[str, Any] = {name: np.array(values) for name, values in begun.terms.items()}
  # VHT's order: the first frame keeps what the keyframe stage gave it, every later one starts at its predecessor.
  first = int(np.argmax(run.seen)) + 1 if sequential else 0
  if state.done:
    run.progress.advance(state.done - first)
    first = state.done
  so_far = lambda done: state.replace(adam=AdamState(identity=identity, raw=raw, terms=terms), done=done)
  for start in range(first, n, size):
    index = np.minimum(np.arange(start, start + size), n - 1)
    source = np.array([last_sound(raw, index[0] - 1)]) if sequential else index
    rows = _rows(raw, source)
    if sequential and not run.seen[start]:
      _put(raw, index, rows)
      run.progress.advance(1)
      continue
    steps = config.adam.init_steps if sequential and start in config.data.cutframes else config.adam.steps_per_frame
    rows, last = solve(run, identity, index, rows, steps)
    _put(raw, index, rows)
    for name, values in last.items():
      terms.setdefault(name, np.zeros(n, np.float32))[index] = values
    run.progress.advance(min(size, n - start), energy=float(last["total"].mean()))
    if run.checkpoint.due():
      run.checkpoint.save("frames", save(so_far(min(start + size, n))))
  return so_far(n)


def poses(state: TrackState) -> Pose:
  """Leading axis T."""
  return jax.vmap(flame.limit_pose)(jax.tree.map(jnp.asarray, known(state.adam).raw))


def to_raw(pose: Pose) -> RawPose:
  """Where Adam starts for the pose of one frame."""
  return flame.unlimit_pose(pose, START_MARGIN)


def solve(
  run: Run, identity: Identity, index: np.ndarray, start: RawPose, steps: int
) -> tuple[RawPose, dict[str, np.ndarray]]:
  """Fits a batch of frames; those that are not finite afterwards once more, at a tenth of the rates."""
  observed = observations(run, index)

  def attempt(weights):
    rows, energies = _fit_frames(run.colored, observed, identity, start, start.translation, run.config, weights, steps)
    return jax.tree.map(np.array, (rows, jax.tree.map(lambda e: e[:, -1, -1], energies)))

  found = attempt(run.weights)
  bad = ~finite_rows(*jax.tree.leaves(found[0])) & run.seen[index]
  if bad.any():
    w = run.weights
    again = attempt(w.replace(lr=w.lr * SLOWER, pos_lr=w.pos_lr * SLOWER, light_lr=w.light_lr * SLOWER))
    found = jax.tree.map(lambda a, b: np.where(bad.reshape(-1, *[1] * (a.ndim - 1)), b, a), found, again)
  return found


def last_sound(raw: RawPose, i: int) -> int:
  """The last frame up to i whose numbers are finite, so that one that diverged is nobody's start."""
  leaves = jax.tree.leaves(raw)
  return next((k for k in range(i, -1, -1) if all(np.isfinite(a[k]).all() for a in leaves)), i)


def observations(run: Run, index: np.ndarray) -> Observations:
  """Of some frames, a leading axis."""
  points, confidence = run.landmarks[index], run.confidence[index]
  there = confidence > 0
  return Observations(
    rgb=jnp.asarray(run.clip.images(index), jnp.float32) / 255.0,
    landmarks=jnp.asarray(np.where(there[..., None], points, 0.0), jnp.float32),
    confidence=jnp.asarray(confidence, jnp.float32),
    valid=jnp.asarray(run.seen[index]),
  )


def _started(identity: Identity, poses: Pose) -> AdamState:
  """From a fit of the landmarks, or from a former result."""
  return AdamState(identity=on_host(identity), raw=on_host(jax.vmap(to_raw)(poses)), terms={})


def _calibrated(run: Run, keyframes: np.ndarray) -> AdamState:
  """VHT's start: the neutral mean head at calibrated poses in the keyframes; elsewhere the nearest keyframe's."""
  focal = run.config.camera.focal if run.held is None else float(run.held.focal)
  found = calibrate.calibrate(run.colored, run.landmarks[keyframes], run.confidence[keyframes], run.size, focal=focal)
  identity, raw = calibrate.neutral_start(run.colored, found)
  if run.held is not None:
    identity = identity.replace(camera=run.held)
  nearest = np.argmin(np.abs(np.arange(run.n_frames)[:, None] - keyframes), axis=1)
  return AdamState(identity=on_host(identity), raw=jax.tree.map(lambda a: np.asarray(a)[nearest], raw), terms={})


def _rows(raw: RawPose, index: np.ndarray) -> RawPose:
  return jax.tree.map(lambda a: jnp.asarray(a[index]), raw)


def _put(raw: RawPose, index: np.ndarray, rows: RawPose) -> None:
  """Writes the rows of some frames; in place."""
  for into, values in zip(jax.tree.leaves(raw), jax.tree.leaves(rows), strict=True):
    into[index] = np.asarray(values)


@functools.partial(stored, static_argnames=("config",))
def _fit_identity(model, observations, identity, raw, config, weights):
  return adam.fit_identity(model, observations, identity, raw, config, weights)


@functools.partial(stored, static_argnames=("config", "n_steps"))
def _fit_frames(model, observations, identity, raw, references, config, weights, n_steps):
  return adam.fit_frames(model, observations, identity, raw, references, config, weights, n_steps=n_steps)
