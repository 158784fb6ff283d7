"""Stage 1: camera, identity and the detector's bias from the landmarks of some frames."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import LOG_FOCAL_MEAN, LOG_FOCAL_SD, PRINCIPAL_SD
from vht_jax.fit import clip, frame
from vht_jax.fit.clip import BundleResult
from vht_jax.fit.layer import Appearance
from vht_jax.fit.observed import LandmarkModel, by_axis
from vht_jax.fit.solvers.uncertainty import shape_information
from vht_jax.fit.terms.priors import HELD_SD
from vht_jax.fit.terms.skin import Skin, skin_entries, skin_priors, skin_unknowns
from vht_jax.fit.terms.term import Entry
from vht_jax.fit.unknowns import N_LANDMARKS, Shared, part, principal_of, shared_layout
from vht_jax.head import view_bias
from vht_jax.host.programs import rehearsing, rows_of, stored
from vht_jax.render import shade
from vht_jax.tracking.camera_knowledge import turned_world
from vht_jax.tracking.keyframes import finite_rows, spread_frames, view_features
from vht_jax.tracking.run import Run
from vht_jax.tracking.state import TrackState, known, on_host, plain_appearance
from vht_jax.types import AnyArray, TrackResult

MIN_YAW_SPAN = math.radians(15.0)  # below this a clip's landmarks do not determine the focal length
USUAL_FOCAL = LOG_FOCAL_MEAN, LOG_FOCAL_SD  # of log focal length, before anything is seen
# Factor on the landmarks' noise where they tell the focal length: on scanned heads an honest answer (docs/accuracy.md).
DOUBT = 10.0
# What a user reads of a focal length that is not known well: `doubt`, and the app of the final one.
GUESS = "the focal length is a guess"
UNSURE_LENS = (
  "The head lies over the image as well as with another one, but its distance and its depth from nose to ears are as "
  "unsure. If you know the lens, give its field of view (--fov=50) or focal length (--focal=28mm); else film the head "
  "turning further to both sides"
)


def adjust_camera(state: TrackState, run: Run) -> TrackState:
  """Bundle adjustment of the frames that differ most; of a former result (`run.init`) the same is taken over.

  Landmarks slide over the face in a way that looks like another lens, and their errors are not independent: for the
  focal length alone they are doubted (`DOUBT`); then it is held, and they say what they know of the rest. A shape that
  is known is held only then: beside one the slide passes for another lens (docs/fleet.md, "Measured").
  """
  if run.init is not None:
    return _taken_over(state, run, run.init)
  chosen, yaw_span = bundle_frames(run)
  run.progress.stage("camera", 1)
  focal, _ = run.given()
  if focal is None:
    doubted = _bundle_of(state, run, chosen, USUAL_FOCAL, DOUBT)
    log_focal, focal_sd = doubted.shared.log_focal, float(doubted.focal_relative_sd)
  else:
    log_focal, focal_sd = np.log(focal), 0.0
  result = _bundle_of(state, run, chosen, (log_focal, HELD_SD[0]), shape=run.shape)
  shared = run.with_held(result.shared)
  state = state.replace(
    shared=shared,
    appearance=plain_appearance(run.model.texture_basis.shape[-1]),
    turns=bool(yaw_span > MIN_YAW_SPAN),
    focal_sd=focal_sd,
  )
  state = told_by_landmarks(state, run, result)
  run.progress.advance(1, focal=float(np.exp(shared.log_focal)))
  if focal is None and not state.turns:
    run.progress.note(doubt(len(chosen), yaw_span, state.focal_sd))
  return with_landmark_focal(state)


def adjusted(
  state: TrackState, run: Run, chosen: np.ndarray, doubt: float = 1.0, hold_shape: bool = False
) -> tuple[TrackState, BundleResult]:
  """Identity and landmarks' offsets anew, by landmarks and texture tracks, with the camera of the state; and the fit.

  Args:
    chosen: of `bundle_frames`.
    doubt: as for `_bundle_of`.
    hold_shape: the identity is the state's.
  """
  shared = known(state.shared)
  shape = shared.shape if hold_shape else run.shape
  result = _bundle_of(state, run, chosen, (shared.log_focal, HELD_SD[0]), doubt, shape)
  held = result.shared.replace(log_focal=shared.log_focal, principal=shared.principal)
  return state.replace(shared=run.with_held(held)), result


def bundle_frames(run: Run) -> tuple[np.ndarray, float]:
  """The frames of a bundle adjustment, and by how many rad the head turns in them."""
  x0 = initial_unknowns(run)
  usable = run.sure & finite_rows(x0)
  chosen = spread_frames(view_features(x0, run.landmarks), usable, run.config.landmarks.n_calibration_frames)
  return chosen, float(np.ptp(yaw_of(x0[chosen])))


def _bundle_of(
  state: TrackState, run: Run, chosen: np.ndarray, log_focal: tuple, doubt: float = 1.0, shape: AnyArray | None = None
) -> BundleResult:
  """Bundle adjustment of some frames.

  Args:
    log_focal: prior's mean and standard deviation.
    doubt: factor on the landmarks' standard deviations.
    shape: (S,) an identity that is held; None: it is estimated.
  """
  # A fixed number of frames keeps the compiled program the same for every clip: repeat some in short ones.
  padded = np.resize(chosen, run.config.landmarks.n_calibration_frames)
  counts = np.bincount(padded, minlength=run.n_frames)[padded].astype(np.float32)
  rarer = lambda rows, by: rows.replace(inverse_sd=rows.inverse_sd / (np.sqrt(counts)[:, None] * np.float32(by)))
  more = [(term, rarer(rows, 1)) for term, rows in skin_entries_of(state, run, padded)]
  principal = known(state.shared).principal if state.tracked else run.given()[1]
  prior = (np.zeros(2), PRINCIPAL_SD) if principal is None else (principal, HELD_SD[1])
  f32 = lambda pair: tuple(np.asarray(a, np.float32) for a in pair)
  return on_host(
    _bundle(
      landmarks_of(state, run), rarer(run.observed_of(padded), doubt), run.weights, f32(log_focal), f32(prior), more,
      [*skin_priors(skin_of(state, run)), run.held_shape(shape)], skin_unknowns(skin_of(state, run)),
    )
  )  # fmt: skip


def told_by_landmarks(state: TrackState, run: Run, fit: BundleResult) -> TrackState:
  """`with_information` of a fit without images; where there are some, the stage of the identity has the last word."""
  return state if run.config.photometric else with_information(state, run, fit.information, fit.shared)


def with_information(state: TrackState, run: Run, information: AnyArray, shared: Shared) -> TrackState:
  """With what a fit says of the shape, in place of what an earlier one said.

  Args:
    information: (m, m) of what frames share, in the order of `shared_layout(shared)`.
    shared: what the fit has found.
  """
  if run.shape is not None or rehearsing():
    return state
  found = shape_information(information, shared_layout(shared), state.focal_sd)
  return state.replace(shape_information=found)


def landmarks_of(state: TrackState, run: Run, beside_colours: bool = False) -> LandmarkModel:
  """The landmarks as they slide over this face, as far as that is known.

  Beside colours alone they do not give way together: colours move a head as much as a detector errs, and no better
  (without tracks, NME 68 of a real clip is 1.6 with and 1.3 % without; one scan's rotation is the same).
  Where landmarks alone hold the head, the face's sides have nothing in common: what they see of the side that is turned
  away would turn the head instead (with it, focal lengths of scans were 4 to 8 % longer).
  """
  if state.slide is None and not beside_colours:
    return run.lm.replace(pair_sd=np.full_like(run.lm.pair_sd, np.inf))
  if state.slide is None:
    return run.lm.replace(common=np.zeros_like(run.lm.common))
  surer = np.array(view_bias.COMMON_SD, np.float32) / np.array(view_bias.COMMON_SD_MEAN_ONLY, np.float32)
  slide, common = np.asarray(run.lm.slide) + state.slide, np.asarray(run.lm.common) * surer[None, None]
  # Where tracks say how deep the skin is, offsets may be as large as they are.
  spread = np.asarray(by_axis(view_bias.constant_spread(run.groups)))
  bias = np.maximum(run.lm.relative_bias, spread).astype(np.float32)
  return run.lm.replace(slide=slide, common=common, relative_bias=bias)


def skin_of(state: TrackState, run: Run) -> Skin | None:
  """Texture tracks, or as many points that nobody sees."""
  return run.no_skin if state.skin is None else state.skin


def skin_entries_of(state: TrackState, run: Run, index: np.ndarray) -> list[Entry]:
  """The tracks' term with what is seen of it in some frames."""
  skin = skin_of(state, run)
  return [] if skin is None else skin_entries(skin.replace(observed=rows_of(skin.observed, index)))


def yaw_of(x: np.ndarray) -> np.ndarray:
  """(...) rad, of unknowns (..., n)."""
  return part(x, "rotation")[..., 1]


def doubt(n_views: int, yaw_span: float, focal_sd: float) -> str:
  """What a user should know of a focal length that nothing determines; `yaw_span` in rad, `focal_sd` relative."""
  why = f"the head turns by only {np.rad2deg(yaw_span):.0f} degrees" if n_views > 1 else "one picture shows no turn"
  return f"{why}: {GUESS} (+-{100 * focal_sd:.0f} %). {UNSURE_LENS}"


def initial_unknowns(run: Run) -> np.ndarray:
  """(T, n) unknowns of the mean head, from which the fits start."""
  return run.per_frame(lambda index: initial(run.lm, run.observed_of(index)))


def _taken_over(state: TrackState, run: Run, init: TrackResult) -> TrackState:
  identity = init.identity
  shared = clip.initial_shared(run.lm, float(identity.camera.focal))
  shared = shared.replace(
    shape=jnp.asarray(identity.shape),
    principal=principal_of(identity.camera, run.size),
    offset=shared.offset.at[:N_LANDMARKS].set(identity.lmk_offset),
  )
  light = identity.light
  if run.place is not None:
    light = shade.turned_light(light, jnp.asarray(turned_world(run.place)))
  plain = plain_appearance(run.model.texture_basis.shape[-1])
  layer = plain.layer if identity.texture_layer is None else identity.texture_layer
  appearance = Appearance(texture=identity.texture, layer=layer, light=light)
  return with_landmark_focal(state.replace(shared=on_host(shared), appearance=on_host(appearance)))


def with_landmark_focal(state: TrackState) -> TrackState:
  return state.replace(landmark_focal=np.array([known(state.shared).log_focal, state.focal_sd], np.float32))


@functools.partial(stored, rough=True)
def initial(model, observed):
  return jax.vmap(lambda t: frame.initial_unknowns(model, t))(observed)


@stored
def _bundle(model, observed, weights, log_focal, principal, more, more_priors, own):
  return clip.bundle_adjust(
    model, observed, weights, log_focal=log_focal, principal=principal, more=more, more_priors=more_priors, own=own
  )
