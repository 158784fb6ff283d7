"""Stage 1: camera, identity and the detector's bias from the landmarks of some frames."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.fit import clip, frame
from vht_jax.fit.layer import Appearance
from vht_jax.fit.terms.priors import LOG_FOCAL_SD
from vht_jax.fit.unknowns import part, principal_of
from vht_jax.host.programs import namespace, stored
from vht_jax.render import shade
from vht_jax.tracking.camera_knowledge import turned_world
from vht_jax.tracking.keyframes import finite_rows, spread_frames, view_features
from vht_jax.tracking.run import Run
from vht_jax.tracking.state import TrackState, on_host, plain_appearance
from vht_jax.types import Array, TrackResult

MIN_YAW_SPAN = math.radians(15.0)  # below this a clip's landmarks do not determine the focal length


def adjust_camera(state: TrackState, run: Run) -> TrackState:
  """Bundle adjustment of the frames that differ most; of a former result (`run.init`) the same is taken over."""
  if run.init is not None:
    return _taken_over(state, run, run.init)
  x0 = initial_unknowns(run)
  usable = np.flatnonzero(run.seen & finite_rows(x0))
  chosen = spread_frames(view_features(x0, run.landmarks), usable, run.config.landmarks.n_calibration_frames)
  yaw_span = np.ptp(yaw_of(x0[chosen]))
  run.progress.stage("camera", 1)
  # A fixed number of frames keeps the compiled program the same for every clip: repeat some in short ones.
  padded = np.resize(chosen, run.config.landmarks.n_calibration_frames)
  counts = np.bincount(padded, minlength=run.n_frames)[padded].astype(np.float32)
  tracks = run.tracks_of(padded)
  tracks = tracks.replace(inverse_sd=tracks.inverse_sd / np.sqrt(counts)[:, None])
  focal, principal = run.given()
  focal_sd = np.float32(focal_prior_sd(yaw_span))
  result = on_host(_bundle(run.lm, tracks, run.weights, focal, focal_sd, principal))
  shared = run.with_held(result.shared)
  state = state.replace(
    shared=shared,
    appearance=plain_appearance(run.model.texture_basis.shape[-1]),
    turns=bool(yaw_span > MIN_YAW_SPAN),
    focal_sd=float(result.focal_relative_sd) if run.held is None else 0.0,
  )
  run.progress.advance(1, focal=float(np.exp(shared.log_focal)))
  if focal is None and not state.turns:
    run.progress.note(doubt(len(chosen), yaw_span, state.focal_sd))
  return _with_landmark_focal(state)


def yaw_of(x: Array) -> Array:
  """(...) rad, of unknowns (..., n)."""
  return part(x, "rotation")[..., 1]


def doubt(n_views: int, yaw_span: float, focal_sd: float) -> str:
  """What a user should know of a focal length that nothing determines; `yaw_span` in rad, `focal_sd` relative."""
  why = f"the head turns by only {np.rad2deg(yaw_span):.0f} degrees" if n_views > 1 else "one picture shows no turn"
  return f"{why}: the focal length is a guess (+-{100 * focal_sd:.0f} %); give --focal or --fov if you know it"


def focal_prior_sd(yaw_span: float | Array) -> Array:
  """() standard deviation of the prior of log focal length for landmarks of a head that turns by `yaw_span` (), rad.

  Without parallax the landmarks say little about it and are biased: lean on a length that is common for portraits.
  """
  return LOG_FOCAL_SD * namespace(yaw_span).where(yaw_span > MIN_YAW_SPAN, 1.0, 0.25)


def initial_unknowns(run: Run) -> np.ndarray:
  """(T, n) unknowns of the mean head, from which the fits start."""
  return run.per_frame(lambda index: initial(run.lm, run.tracks_of(index)))


def _taken_over(state: TrackState, run: Run, init: TrackResult) -> TrackState:
  identity = init.identity
  shared = clip.initial_shared(run.lm, float(identity.camera.focal))
  shared = shared.replace(
    shape=jnp.asarray(identity.shape),
    principal=principal_of(identity.camera, run.size),
    offset=shared.offset.at[:70].set(identity.lmk_offset),
  )
  light = identity.light if run.place is None else shade.turned_light(identity.light, turned_world(run.place))
  plain = plain_appearance(run.model.texture_basis.shape[-1])
  layer = plain.layer if identity.texture_layer is None else identity.texture_layer
  appearance = Appearance(texture=identity.texture, layer=layer, light=light)
  return _with_landmark_focal(state.replace(shared=on_host(shared), appearance=on_host(appearance)))


def _with_landmark_focal(state: TrackState) -> TrackState:
  return state.replace(landmark_focal=np.array([state.shared.log_focal, state.focal_sd], np.float32))


@stored
def initial(model, tracks):
  return jax.vmap(lambda t: frame.initial_unknowns(model, t))(tracks)


@stored
def _bundle(model, tracks, weights, focal, focal_sd, principal):
  return clip.bundle_adjust(model, tracks, weights, focal=focal, focal_sd=focal_sd, principal=principal)
