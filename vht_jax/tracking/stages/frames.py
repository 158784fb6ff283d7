"""Stage 4 by Gauss-Newton: every pose from its image, many frames at once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vht_jax.config import Weights
from vht_jax.fit import frame
from vht_jax.fit.layer import albedo_map
from vht_jax.fit.observed import is_iris
from vht_jax.fit.pixels.surface import fold_surface, make_surface
from vht_jax.fit.unknowns import Shared, part
from vht_jax.host.prefetch import begun_ahead
from vht_jax.host.programs import namespace, prefetched, stored
from vht_jax.host.programs.spread import shares
from vht_jax.tracking.crops import crops_of
from vht_jax.tracking.keyframes import finite_rows
from vht_jax.tracking.run import Run
from vht_jax.tracking.stages.camera import landmarks_of, skin_entries_of
from vht_jax.tracking.stages.landmarks import camera, frames_axis, pose_deviation, posed
from vht_jax.tracking.state import TrackState, known, save
from vht_jax.types import AnyArray, Pose

IRIS_BELIEF = 0.7  # with 1 some real eyes are off by 2.4 % of the eye distance, with 0 rendered ones by 4 degrees
HEAD_METRES = 0.2  # about the height of a face
DAMPED = 0.1  # what the colours of a frame count for that has gone astray with all of them


def fit_frames(state: TrackState, run: Run) -> TrackState:
  """Goes on after `state.done` frames, and saves what it has whenever that is due."""
  config, n = run.config, run.n_frames
  sequential = config.schedule == "sequential"
  batch = 1 if sequential else run.batch * shares()
  run.progress.stage("frames", n)
  surface, albedo, lm, shared = _person(
    run.colored,
    landmarks_of(state, run, beside_colours=True),
    known(state.shared).shape,
    believed(state, run.weights),
    known(state.appearance),
  )
  cam, light = camera(state, run), known(state.appearance).light
  pixels = min(state.photo_pixels, float(run.weights.frame_pixels))
  there = posed(state, run)
  begun = known(state.xs)  # of frames that are not done yet, where their landmarks place them
  xs, pose_sd = np.array(begun), jax.tree.map(np.array, state.pose_sd)
  l1 = np.full(n, np.nan, np.float32) if state.l1 is None else np.array(state.l1)
  so_far = lambda done: state.replace(xs=xs, pose_sd=pose_sd, l1=l1, done=done)
  run.progress.advance(state.done)
  starts = range(state.done, n, batch)
  rows = lambda start: np.minimum(np.arange(start, start + batch), n - 1)
  look = lambda start: crops_of(run.clip, rows(start), begun[rows(start)], config.gauss_newton.crop_size)

  def begin(start: int, crops: Any) -> tuple:
    index = rows(start)
    x0 = begun[index]
    if sequential and start > 0 and start not in config.data.cutframes:
      x0 = xs[start - 1 : start]  # where the previous frame ended
    x0 = np.where(finite_rows(x0)[:, None], x0, begun[index])
    observed, more = run.settled_of(index), skin_entries_of(state, run, index)

    def solve(pixels, x0):
      return _fit_photometric(
        surface, lm, albedo, light, shared, observed, crops, run.weights, pixels, x0, cam, more,
        config.gauss_newton.n_samples, config.gauss_newton.frame_steps,
      )  # fmt: skip

    return start, index, solve(pixels, x0), solve  # sent to the device, not waited for

  work = itertools.starmap(begin, zip(starts, prefetched(look, starts)))
  # Two programs at once can take all of XLA's threads on a CPU and wait for each other for ever.
  for start, index, found, solve in begun_ahead(work, ahead=not sequential and jax.default_backend() != "cpu"):
    found = guarded(found, solve, pixels, begun[index], there[index])
    keep = min(batch, n - start)
    for whole, batch_rows in zip(jax.tree.leaves((xs, l1, pose_sd)), jax.tree.leaves(found)):
      whole[start : start + keep] = batch_rows[:keep]
    run.progress.advance(keep, photometric_l1=float(np.nan_to_num(found[1][:keep]).mean()))
    if run.checkpoint.due():
      run.checkpoint.save("frames", save(so_far(start + keep)))
  return so_far(n)


def believed(state: TrackState, weights: Weights) -> Shared:
  """What the frames share, as their poses are estimated by it.

  Colours tell the detector's bias from the shape of the face: the bias is believed as far as they are, and wholly
  where the skin's texture holds the head (`stages.tracks`). There is no
  shape to tell that of the irises from, but somebody may look aside throughout: it is believed at least by
  `IRIS_BELIEF`, lest the eyes turn instead.
  """
  shared = known(state.shared)
  share = 1.0 if state.tracked else min(state.photo_pixels / float(weights.photo_pixels), 1.0)
  return shared.replace(offset=believed_offset(np.asarray(shared.offset), np.asarray(share, np.float32)))


def believed_offset(offset: AnyArray, share: AnyArray) -> Any:
  """The detector's bias (N, 3) as far as it is believed: by `share` (), of irises by `IRIS_BELIEF` at least."""
  xp = namespace(share)
  of_iris = xp.maximum(share, xp.asarray(IRIS_BELIEF, share.dtype))
  return offset * xp.where(is_iris(len(offset))[:, None], of_iris, share)


def guarded(
  found: tuple[AnyArray, AnyArray, Pose], solve: Callable, pixels: float, landmark_fit: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Pose]:
  """What is `found` of a batch of frames by `solve(pixels, x0)`; frames that have gone astray once more, from their
  landmarks and damped.

  The other frames keep what they have; what strays again is not finite.
  """
  x, error, sd = jax.tree.map(np.array, found)  # copies, to be written into
  bad = strayed(x, landmark_fit) & seen
  if bad.any():
    again, error_again, sd_again = jax.tree.map(np.asarray, solve(pixels * DAMPED, landmark_fit))
    x[bad], error[bad] = again[bad], error_again[bad]
    for rows, rows_again in zip(jax.tree.leaves(sd), jax.tree.leaves(sd_again)):
      rows[bad] = rows_again[bad]
    bad &= strayed(x, landmark_fit)
    x[bad], error[bad] = np.nan, np.nan
  return x, error, sd


def strayed(x: np.ndarray, start: np.ndarray) -> np.ndarray:
  """(B,) bool: unknowns (B, n) that are not finite, or whose head has left the place `start` in which it was seen.

  The landmarks place a head within a few per cent of its size, so half of it is a fit that went wrong.
  """
  place, origin = part(x, "place"), part(start, "place")
  with np.errstate(invalid="ignore", over="ignore"):
    head = HEAD_METRES * np.exp(origin[:, 2])
    moved = np.linalg.norm(place[:, :2] - origin[:, :2], axis=1) > 0.5 * head
    grown = np.abs(place[:, 2] - origin[:, 2]) > 0.5
  return ~finite_rows(x) | (finite_rows(start) & (moved | grown))


@stored
def _person(model, lm, shape, believed, appearance):
  surface = fold_surface(make_surface(model, shape), shape)
  return surface, albedo_map(surface, appearance), *frame.fold_landmarks(lm, believed)


@functools.partial(
  stored, static_argnames=("n_samples", "outer_steps"),
  by_frame={"observed": 0, "crops": 0, "x0": 0, "more": frames_axis},
)  # fmt: skip
def _fit_photometric(
  surface, lm, albedo, light, shared, observed, crops, weights, pixels, x0, cam, more, n_samples, outer_steps
):
  weights = weights.replace(photo_pixels=pixels)

  def one(observed, crop, x, more):
    found = frame.fit_frame_colours(
      surface, lm, albedo, light, shared, observed, crop, weights, x, n_samples=n_samples, outer_steps=outer_steps,
      more=more,
    )  # fmt: skip
    sd = pose_deviation(lm.points, found.x, shared, cam, found.normal.matrix)
    return found.x, found.difference, sd

  return jax.vmap(one, in_axes=(0, 0, 0, frames_axis(more)))(observed, crops, x0, more)
