"""Schedule 'joint': identity and camera from the images of all frames at once, and all poses again."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from vht_jax.fit import clip
from vht_jax.fit.assemble import Reduced
from vht_jax.fit.layer import albedo_map
from vht_jax.fit.pixels.surface import make_surface
from vht_jax.host.programs import stored
from vht_jax.host.programs.spread import shares
from vht_jax.tracking.crops import crops_of
from vht_jax.tracking.keyframes import finite_rows
from vht_jax.tracking.protocols import NoCheckpoint
from vht_jax.tracking.run import Run
from vht_jax.tracking.stages.camera import landmarks_of, skin_entries_of
from vht_jax.tracking.stages.frames import fit_frames
from vht_jax.tracking.stages.identity import focal_prior
from vht_jax.tracking.stages.landmarks import frames_axis
from vht_jax.tracking.state import TrackState, known

JOINT_STEPS = 2  # of the identity from all frames
DAMPING = 1e-3  # Marquardt's, of these steps


def fit_jointly(state: TrackState, run: Run) -> TrackState:
  """After the frames. A step that does not lower the energy of the clip is taken back and is the last."""
  prior = focal_prior(state, run)
  valid = run.sure & finite_rows(known(state.xs))
  again = dataclasses.replace(run, checkpoint=NoCheckpoint())
  before: tuple[float, TrackState] | None = None
  for k in range(JOINT_STEPS + 1):
    total = _reduced(state, run, valid)
    moved, cost = _shared_step(
      landmarks_of(state, run, beside_colours=True),
      known(state.shared),
      total,
      run.weights,
      prior,
      float(run.config.n_keyframes),
      [run.held_shape(run.shape)],
    )
    run.progress.advance(0, cost=float(cost))
    if before is not None and not float(cost) < before[0]:
      return before[1]
    if k == JOINT_STEPS:
      break
    before = float(cost), state
    state = state.replace(
      shared=run.with_held(jax.tree.map(np.asarray, moved)),
      done=0,
    )
    state = fit_frames(state, again)
  return state


def _reduced(state: TrackState, run: Run, valid: np.ndarray) -> Reduced:
  """The energy of the `valid` (T,) frames in what they share, batch by batch; host side."""
  config, n = run.config, run.n_frames
  run.progress.stage("joint", n)
  shared, appearance, every = known(state.shared), known(state.appearance), known(state.xs)
  surface, albedo = _coloured(run.colored, shared.shape, appearance)
  total: Any = None
  batch = run.batch * shares()
  for start in range(0, n, batch):
    rows = np.arange(start, start + batch)
    index = np.minimum(rows, n - 1)
    xs, lm = every[index], landmarks_of(state, run, beside_colours=True)
    parts = _reduce(
      surface, lm, albedo, appearance.light, shared, run.observed_of(index),
      crops_of(run.clip, index, xs, config.gauss_newton.crop_size), run.weights, state.photo_pixels, np.nan_to_num(xs),
      valid[index] & (rows < n), skin_entries_of(state, run, index), config.gauss_newton.n_samples,
    )  # fmt: skip
    parts = jax.tree.map(np.asarray, parts)
    for share in range(len(parts.cost)):
      part = jax.tree.map(lambda a: a[share], parts)
      total = part if total is None else total + part
    run.progress.advance(min(batch, n - start))
  return total


@stored
def _coloured(model, shape, appearance):
  surface = make_surface(model, shape)
  return surface, albedo_map(surface, appearance)


@functools.partial(
  stored, static_argnames=("n_samples",),
  by_frame={"observed": 0, "crops": 0, "xs": 0, "valid": 0, "more": frames_axis},
)  # fmt: skip
def _reduce(surface, lm, albedo, light, shared, observed, crops, weights, pixels, xs, valid, more, n_samples):
  weights = weights.replace(photo_pixels=pixels)  # as in the identity stage
  total = clip.reduce_frames(
    surface, lm, albedo, light, shared, observed, crops, weights, xs, valid, n_samples=n_samples, more=more
  )
  return jax.tree.map(lambda a: a[None], total)  # of the frames of one share


@stored
def _shared_step(lm, shared, total, weights, focal_prior, n_independent, more_priors):
  return clip.shared_step(lm, shared, total, weights, focal_prior, n_independent, DAMPING, more_priors)
