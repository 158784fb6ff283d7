"""Stage 2b: points of the skin's texture are followed through the clip; they say where the head is and how long the
lens, and landmarks what is left: which point of the face is which, and the expression.

Frames whose landmarks were wrong or missing are looked at too, from poses between those of their neighbours: what a
detector loses is mostly still there, and with it what these frames say of the camera.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from vht_jax.fit import own_slide
from vht_jax.fit.observed import is_iris
from vht_jax.fit.terms.skin import N_PLACED, ObservedSkin, Skin, at_places, common_fields
from vht_jax.fit.unknowns import from_pose, join, part, principal_of, raw_jaw, split
from vht_jax.head import flame, view_bias
from vht_jax.head import points as pts
from vht_jax.host.programs import rehearsing, rows_of, stored
from vht_jax.texture_tracks import observe
from vht_jax.texture_tracks.bundle.poses import moved, with_lens
from vht_jax.texture_tracks.bundle.rigid import SHARED, usual_camera
from vht_jax.texture_tracks.rounds import N_POINTS
from vht_jax.texture_tracks.types import Rigid, TextureTracks
from vht_jax.tracking.keyframes import finite_rows
from vht_jax.tracking.motion.gaps import REACH, bridge
from vht_jax.tracking.run import Run
from vht_jax.tracking.stages import landmarks
from vht_jax.tracking.stages.camera import DOUBT, adjusted, bundle_frames, told_by_landmarks, with_landmark_focal
from vht_jax.tracking.state import TrackState, known, on_host
from vht_jax.types import Status, TrackResult

# Tracks are believed where the head turns that far (rad, rms angle of its views), or where their own noise leaves the
# log focal length that sure. Scanned and drawn heads, which tracks help, turn by .35 to .48; of real clips with neither
# (.03 to .29, .074 and more) what is followed is shading, make-up and compression as much as skin.
FAR_TURN, MOST_UNSURE = 0.32, 0.06
NO_ACTION = "Nothing has to be done"  # in a note: it is none of the warnings
# Standard deviations between focal lengths of landmarks and tracks: one in eighty by chance, as landmarks are off by
# 1.3 times what they say on 14 scanned and drawn heads.
MOST_APART = 3.3


def follow_skin(state: TrackState, run: Run) -> TrackState:
  """Camera, identity and all poses anew with texture tracks; as they were where the clip shows none."""
  run.progress.stage("tracks", 1)
  shared, xs = known(state.shared), known(state.xs)
  good = run.seen & finite_rows(xs)
  first, before = by_landmarks(state, run, good), landmarks.camera(state, run)
  found = observe(run.model, run.clip, first, camera=_known(run), sure=run.sure)
  run.progress.advance(1)
  tracks, rigid = found.tracks, found.rigid
  reason = found.reason if tracks is None or rigid is None else disagreement(state, run, rigid)
  if tracks is None or rigid is None or reason:
    run.progress.note(
      f"the head's motion is that of the face's landmarks alone. Points of the skin, which are followed through the "
      f"video to steady it, are left out: {reason}. {NO_ACTION}; a sharp, evenly lit video in which the head turns "
      "further gives them more to go by"
    )
    return state
  skin = on_host(_skin(run.model, *_padded(tracks, rigid, run), shared.shape, run.lm.eye_distance))
  camera = with_lens(before, rigid, run.size)
  shared = shared.replace(log_focal=np.log(rigid.focal), principal=np.asarray(principal_of(camera, run.size)))
  motion = on_host((first.poses, rigid.turn, rigid.shift))
  move = lambda rows: _moved(run.lm.points, *rows, before, shared.shape, camera, shared.principal)
  anew = run.per_frame(lambda index: move(rows_of(motion, index)))
  regained = ~good & rigid.used
  if regained.any() and not rehearsing():
    run.progress.note(
      f"of {(~good).sum()} frames without landmarks that can be used the skin's texture shows how the head moves in "
      f"{regained.sum()}"
    )
  state = state.replace(
    shared=run.with_held(shared),
    xs=np.where((good | regained)[:, None], anew, xs),
    skin=skin,
    tracked=True,
    regained=regained,
    focal_sd=float(rigid.focal_sd) if run.given()[0] is None else 0.0,
  )
  # The shape by tracks: slopes of landmarks look like depth, and beside a wrong shape they would bear it out. Then
  # landmarks say what they know best: their own offsets, and expressions.
  chosen, _ = bundle_frames(run)
  state, _ = adjusted(state, run, chosen, DOUBT)
  state = state.replace(slide=_own_slide(state, run, good & run.sure & rigid.used))
  state, fit = adjusted(state, run, chosen, DOUBT)
  state = told_by_landmarks(state, run, fit)
  state, _ = adjusted(state, run, chosen, hold_shape=True)
  return landmarks.refit(with_landmark_focal(state), run)[0]


def by_landmarks(state: TrackState, run: Run, good: np.ndarray) -> TrackResult:
  """The head as landmarks have it, from where its skin is looked for.

  Frames that are not `good` (T,) have poses between those of their neighbours: within a shot, and up to `REACH` frames
  from a good one, as farther on nobody knows where to look.
  """
  data = run.config.data
  poses, status = bridge(landmarks.poses(state, run), good, None, data.cutframes, run.times, data.unordered)
  status = np.where(scipy.ndimage.binary_dilation(good, iterations=REACH), status, Status.NO_FACE)
  return TrackResult(identity=landmarks.identity(state, run), poses=poses, energies={}, status=jnp.asarray(status))


def _own_slide(state: TrackState, run: Run, good: np.ndarray) -> np.ndarray:
  """(N, 3, 2) m: `own_slide.solve` of the `good` (T,) frames, whose poses are the texture's."""
  xs = known(state.xs)
  expr = np.median(part(xs[good], "expr"), axis=0)
  jaw = np.median(part(xs[good], "jaw"))
  model, shared = landmarks.fold_landmarks(run.lm, known(state.shared))

  def moments(index, weight):
    return _moments(model, run.observed_of(index), shared, np.nan_to_num(xs[index]), expr, jaw, weight)

  total = run.summed(moments, good)
  if rehearsing():  # the sums are blank, and so are the priors
    return np.zeros((*run.lm.relative_sd.shape, 3, 2), np.float32)
  eye = np.asarray(run.lm.eye_distance)
  found = own_slide.solve(total, eye**2 * np.asarray(view_bias.deviation_covariance(run.groups, run.lm.normals)))
  # People keep looking at something while they turn: what irises do with the view is gaze.
  found[is_iris(len(found))] = 0.0
  return found


def disagreement(state: TrackState, run: Run, rigid: Rigid) -> str:
  """Why the tracks cannot be believed, '' if they can: highlights and shadows can be followed too, and do not stay on
  the skin. Landmarks know little of the lens, but know how little."""
  if run.given()[0] is not None or rehearsing():
    return ""
  if rigid.view_spread < FAR_TURN and rigid.focal_noise_sd > MOST_UNSURE:
    return "they move too little against each other"
  log_focal, sd = known(state.landmark_focal)
  if rigid.focal_sd > sd:
    return "not all of them stay on the skin"
  apart = abs(float(np.log(rigid.focal)) - log_focal) / np.hypot(sd, rigid.focal_sd)
  if apart <= MOST_APART:
    return ""
  return (
    f"they and the landmarks contradict each other about the lens, {rigid.focal:.2f} and {np.exp(log_focal):.2f} image "
    "sides: highlights or shadows are among them, which move over the skin"
  )


def _known(run: Run) -> tuple[np.ndarray, np.ndarray]:
  """What is known of the camera, as `rigid.usual_camera`."""
  mean, sd = usual_camera()
  focal, principal = run.given()
  if focal is not None:
    where = SHARED.at("log_focal")
    mean[where], sd[where] = np.log(focal), 1e-4
  if principal is not None:
    where = SHARED.at("principal")
    mean[where], sd[where] = principal, 1e-5
  return mean, sd


def _padded(tracks: TextureTracks, rigid: Rigid, run: Run):
  """Everything about the tracks with `N_POINTS` points; units of the fit."""
  height, width = run.size
  side, n = max(height, width), N_POINTS - tracks.points.shape[1]
  rows = lambda a, fill: np.concatenate([a, np.full((n, *a.shape[1:]), fill, a.dtype)])
  columns = lambda a: np.pad(a, ((0, 0), (0, n), *[(0, 0)] * (a.ndim - 2)))
  uv = (tracks.points - np.array([width / 2, height / 2], np.float32)) / side
  seen = np.isfinite(tracks.sd) & rigid.used[:, None]
  inverse_sd = np.where(seen, side / (tracks.sd * rigid.noise[tracks.region]), 0.0).astype(np.float32)
  observed = ObservedSkin(columns(np.where(seen[..., None], uv, 0.0).astype(np.float32)), columns(inverse_sd))
  counted = rows(np.ones(len(tracks.vertices), np.float32), 0.0)
  return (
    rows(tracks.vertices, 0),
    rows(tracks.bary, 1 / 3),
    rows(rigid.points, 0.0),
    rows(np.asarray(rigid.noise[tracks.region], np.float32), 0.0),
    rigid.expr,
    rigid.jaw,
    observed,
    counted,
  )


@functools.partial(stored, rough=True)
def _skin(model, vertices, bary, places, noise, expr, jaw, observed, counted, shape, eye_distance) -> Skin:
  points = pts.surface_points(model, vertices, bary)
  person = pts.fold_shape(points, shape)
  zero = jnp.zeros(3, expr.dtype)
  x = join(expr=expr, rotation=zero, place=zero, neck=zero, jaw=raw_jaw(jaw[0]), eyes=jnp.zeros((2, 2), expr.dtype))
  _, joints = pts.shaped_points(person, shape[:0], expr)
  places = places + joints[:1]  # the tracks' frame has its origin in the root joint
  head = flame.with_identity(model, shape)
  rest = flame.neutral_pose(head).replace(expr=expr, jaw=jaw, rotation=zero, translation=joints[0])
  mesh = flame.skin(head, shape[:0], rest)
  normal = jnp.einsum("nk,nkc->nc", bary, flame.vertex_normals(mesh, model.faces)[vertices])
  normal = normal / jnp.maximum(jnp.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
  by_shape = jnp.einsum("nc,ncs->ns", normal, points.shapedirs)
  at = jnp.einsum("nk,nkc->nc", bary, mesh[vertices])
  place = jnp.sum(normal * (places - at), -1) + by_shape @ shape
  there = counted[:, None] > 0
  places = jnp.where(there, places, at)
  fields = common_fields(places, person.pivot, noise, eye_distance) * counted[:, None, None]
  across = jnp.einsum("nc,nck->nk", normal, fields).at[:, N_PLACED:].set(0.0)  # what lags is where it is from the front
  return Skin(
    points=at_places(person, places, x), fields=fields, observed=observed, by_shape=by_shape * counted[:, None],
    place=place * counted, by_common=across, belief=counted / jnp.maximum(noise, 1.0),
  )  # fmt: skip


@functools.partial(stored, rough=True)
def _moments(model, observed, shared, xs, expr, jaw, weight):
  def one(t, x):
    parts = split(x)
    return own_slide.moments(model, t, shared, join(**{**parts, "expr": expr, "jaw": jaw}))

  found = jax.vmap(one)(observed, xs)
  rows = lambda a: jnp.where(weight.reshape(-1, *[1] * (a.ndim - 1)) > 0, a, 0.0)
  return jax.tree.map(lambda a: jnp.sum(rows(a), axis=0), found)


@functools.partial(stored, rough=True)
def _moved(points, poses, turn, shift, camera, shape, camera_after, principal):
  def one(pose, turn, shift):
    return from_pose(points, moved(pose, camera, turn, shift), shape, camera_after, principal)

  return jax.vmap(one)(poses, turn, shift)
