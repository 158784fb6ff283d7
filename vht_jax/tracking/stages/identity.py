"""Stage 3 by Gauss-Newton: shape, texture, light and camera from the images of a few keyframes."""

from __future__ import annotations

import functools

import numpy as np

from vht_jax.cameras import PRINCIPAL_SD
from vht_jax.fit import identity
from vht_jax.fit.pixels.surface import make_surface
from vht_jax.fit.terms.priors import HELD_SD
from vht_jax.fit.terms.skin import skin_priors
from vht_jax.host.programs import stored
from vht_jax.tracking.crops import crops_of
from vht_jax.tracking.run import Run
from vht_jax.tracking.stages.camera import landmarks_of, skin_entries_of, skin_of, with_information
from vht_jax.tracking.stages.landmarks import keyframes, refit
from vht_jax.tracking.state import TrackState, known, on_host

# The bundle adjustment's own uncertainty does not know that a detector's bias depends on the view.
FOCAL_BIAS_SD = 0.1
# Of log focal length where it is as good as given: the landmarks cannot tell it, or the user has.
FIXED_FOCAL_SD = 2e-3


def fit_identity(state: TrackState, run: Run) -> TrackState:
  """What the keyframes' images say of the person and the camera, and all frames anew from their landmarks.

  The focal length is stated no surer than before: what colours say of it begins with where landmarks put the head.
  """
  config = run.config
  index = keyframes(state, run)
  run.progress.stage("identity", 1)
  begun, xs = known(state.shared), np.array(known(state.xs))
  surface = _surface(run.colored, begun.shape)
  shared, appearance, xs_of_keyframes, pixels, cost, information = on_host(
    _fit_keyframes(
      surface,
      landmarks_of(state, run, beside_colours=True),
      begun,
      known(state.appearance),
      run.observed_of(index),
      crops_of(run.clip, index, xs[index], config.gauss_newton.crop_size),
      xs[index],
      run.weights,
      focal_prior(state, run),
      np.float32(state.photo_pixels),
      skin_entries_of(state, run, index),
      [*skin_priors(skin_of(state, run)), run.held_shape(run.shape)],
      config.gauss_newton.n_samples,
      config.gauss_newton.identity_steps,
    )
  )
  xs[index] = xs_of_keyframes
  state = state.replace(
    shared=run.with_held(shared),
    appearance=appearance,
    xs=xs,
    photo_pixels=float(pixels),
  )
  colours = {"texture": appearance.texture, "light": appearance.light}
  state = with_information(state, run, information, shared.replace(own={**(shared.own or {}), **colours}))
  run.progress.advance(1, cost=float(cost[-1]))
  return refit(state, run, settled=True)[0]


def focal_is_free(state: TrackState, run: Run) -> bool:
  """Whether the images may move the focal length: a head that hardly turns only seems to show it, and beside a shape
  that is known the landmarks' slide passes for another lens (`camera.adjust_camera`)."""
  return state.turns and not state.tracked and run.given()[0] is None and run.shape is None


def focal_prior(state: TrackState, run: Run) -> tuple[np.ndarray | np.float32, ...]:
  """Means and standard deviations of log focal and principal point in the stages with images (`camera_priors`): the
  landmarks' answer, or a known camera. Always of both, so that one program serves either."""
  mean, sd = known(state.landmark_focal)
  f32 = lambda a: np.asarray(a, np.float32)  # noqa: E731
  if run.held is not None or state.tracked:
    focal_sd, principal_sd = HELD_SD
    return f32(mean), f32(focal_sd), f32(known(state.shared).principal), f32(principal_sd)
  focal_sd = np.hypot(sd, FOCAL_BIAS_SD) if focal_is_free(state, run) else FIXED_FOCAL_SD
  return f32(mean), f32(focal_sd), np.zeros(2, np.float32), f32(PRINCIPAL_SD)


@stored
def _surface(model, shape):
  return make_surface(model, shape)


@functools.partial(stored, static_argnames=("n_samples", "outer_steps"))
def _fit_keyframes(
  surface, lm, shared, appearance, observed, crops, xs, weights, focal_prior, pixels, more, more_priors, n_samples,
  outer_steps,
):  # fmt: skip
  return identity.fit_keyframes(
    surface, lm, shared, appearance, observed, crops, xs, weights, focal_prior, pixels,
    n_samples=n_samples, outer_steps=outer_steps, more=more, more_priors=more_priors,
  )[:-1]  # fmt: skip
