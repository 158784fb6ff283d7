"""Texture tracks of a clip: finds them from a first estimate of the head, and the rigid head that they say.

In rounds. The first one's mesh is as the landmarks say, some pixels beside the skin; those of the next ones have the
poses and the camera of the round before, until the camera stays.
"""

from __future__ import annotations

import time

import jax
import numpy as np

from vht_jax.host.programs import in_chunks, rehearsing, rows_of
from vht_jax.texture_tracks import compiled, keyframes
from vht_jax.texture_tracks.bundle import rigid
from vht_jax.texture_tracks.bundle.modes import JAW_UNIT, modes_at, unit_moves
from vht_jax.texture_tracks.following import corners as corner
from vht_jax.texture_tracks.following.follow import NOISE_FACTOR
from vht_jax.texture_tracks.following.view import CELL
from vht_jax.texture_tracks.skin import REGION_NOISE, skin_of
from vht_jax.texture_tracks.types import Corners, Observed, Rigid, Skin, TextureTracks, View
from vht_jax.texture_tracks.windows import BATCH, Estimate, Windows
from vht_jax.types import FlameModel, Status, TrackResult

N_POINTS = 192  # corners of all keyframes together; about half of them are seen in a frame
BUNDLE_FRAMES = 64  # at most, of the rigid bundle; the poses of the others follow from its points
# The first round starts from landmarks and looks far away, too; another follows in any case. A wrong lens puts points
# where skin is found that is a little beside, and bears itself out by it: so rounds are made while the lens (its log)
# changes by more than SETTLED. Only the first and the last of them look at more than the bundle's frames.
ROUNDS, SETTLED = 6, 0.01
MIN_TURN = np.deg2rad(5.0)  # a head that turns less says nothing of its camera, and landmarks are steady
FEWEST_CORNERS = 10  # per keyframe
LEAST_SHARE = 0.1  # of the points that should be seen: by chance .4 % are found (patches of another part of the face)
FEWEST_SEEN = 20  # points in a frame, median: fewer are no better than landmarks
LEAST_LIGHT = 20.0  # of 255, median of the face: below, a camera's noise is its texture


CameraPrior = tuple[np.ndarray, np.ndarray]


class NoTracks(Exception):
  """Why a clip has none."""


def refuse(condition: bool | np.bool_, reason: str) -> None:
  """Raises `NoTracks`, but in a rehearsal, whose clip is blank: there everything is gone through."""
  if condition and not rehearsing():
    raise NoTracks(reason)


def observe(
  model: FlameModel, clip, result: TrackResult, *, min_turn: float = MIN_TURN, camera: CameraPrior | None = None,
  sure: np.ndarray | None = None,
) -> Observed:  # fmt: skip
  """Follows the skin's texture through a clip.

  Args:
    model: the head.
    clip: `Clip` of the tracking; only `size` and `images` are asked for.
    result: an estimate of all poses and of the camera, e.g. of the landmarks alone. Frames of status `INTERPOLATED`,
      whose poses stand in, are looked for too: the skin shows the head where its landmarks were lost.
    min_turn: rad, of the head over the clip: below, there are no tracks.
    camera: what is known of it: mean and standard deviations (3,) as of `rigid.usual_camera`, the default.
    sure: (T,) bool, tracked frames that may be keyframes and speak for the head and the camera; None: all of them.

  Returns:
    Tracks and a rigid head, or why there are none.
  """
  clock = _Clock()
  try:
    tracks, head = _observe(model, clip, result, min_turn, camera or rigid.usual_camera(), sure, clock)
  except NoTracks as reason:
    return Observed(None, None, str(reason), clock.seconds)
  return Observed(tracks, head, "", clock.seconds)


def _observe(model, clip, result, min_turn, camera: CameraPrior, sure, clock) -> tuple[TextureTracks, Rigid]:
  poses, cam = jax.tree.map(np.asarray, result.poses), result.identity.camera
  finite = np.isfinite(poses.rotation).all(1) & np.isfinite(poses.expr).all(1)
  tracked = finite & (np.asarray(result.status) == Status.TRACKED)
  good = tracked | (finite & (np.asarray(result.status) == Status.INTERPOLATED))
  speaks = tracked if sure is None else tracked & sure
  refuse(speaks.sum() < keyframes.FEWEST, f"only {speaks.sum()} frames show a tracked face")
  skin = skin_of(model)
  head = compiled.person(model, result.identity.shape, skin.vertex)
  rest = np.median(poses.expr[speaks], 0), np.median(poses.jaw[speaks], 0)
  middle = np.asarray(compiled.unposed(head, *rest))
  opened = np.asarray(compiled.unposed(head, rest[0], rest[1] + np.array([JAW_UNIT, 0, 0], np.float32)))
  moves = unit_moves(middle, head.exprdirs, opened - middle)
  R, t, shapes = in_chunks(lambda i: compiled.align(head, rows_of(poses, i), cam, middle), len(good), 128)
  axes = R[:, 2]
  turn = keyframes.turn(axes, speaks)
  refuse(turn < min_turn, f"the head turns by {np.rad2deg(turn):.1f} degrees only")
  keys = keyframes.choose(axes, shapes, speaks)
  clock("poses")

  principal = np.asarray(cam.principal) * [clip.size[1], clip.size[0]]
  state = Estimate(R, t, R, t, float(cam.focal), principal.astype(np.float32), max(clip.size))
  windows = Windows(clip, np.flatnonzero(good), state, middle.mean(0))
  clock("windows")
  refuse(np.median(windows.bright) < LEAST_LIGHT, f"the face is too dark: {np.median(windows.bright):.0f} of 255")
  held = rigid.SHARED.split(camera[1])["log_focal"] < SETTLED
  frames, last = windows.frames, False
  for number in range(1, ROUNDS + 1):
    far = number == 1
    rows = np.flatnonzero(last | np.isin(windows.frames, frames))
    tracks, triangles = _track(skin, head, cam, poses, windows, rows, state, keys, tracked, far, clock)
    shown = np.isfinite(tracks.sd).any(1)  # a frame of which too few points are found has none
    if far or last:
      frames = _bundle_frames(axes, speaks if far else speaks | (shown & ~tracked), keys)
    X0 = np.einsum("kci,kc->ki", middle[triangles], tracks.bary).astype(np.float32)
    looked = windows.frames[rows]

    def move(index):
      i = looked[index]
      return compiled.bent(head, rows_of(poses, i), cam, state.R0[i], state.t0[i], middle, triangles, tracks.bary)

    bent = _spread(in_chunks(move, len(looked), 128), looked, len(good), 0.0)
    modes, before = modes_at(moves, triangles, tracks.bary), state.focal
    state, found = _solve(tracks, X0, bent, modes, state, frames, clip.size, camera, rest, last)
    clock("rigid")
    if last:
      break
    settled = abs(np.log(state.focal / before)) < SETTLED and (held or not far)
    last = rehearsing() or settled or number == ROUNDS - 1
  kept = np.isfinite(tracks.sd).sum(0) > 1
  points = lambda a: a[kept]  # noqa: E731
  tracks = TextureTracks(
    vertices=points(tracks.vertices), bary=points(tracks.bary), points=tracks.points[:, kept], sd=tracks.sd[:, kept],
    keyframe=points(tracks.keyframe), region=points(tracks.region),
  )  # fmt: skip
  return tracks, found.replace(points=points(found.points))


class _Clock:
  """Seconds of the parts that are finished."""

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self.last = time.perf_counter()

  def __call__(self, name: str) -> None:
    now = time.perf_counter()
    self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
    self.last = now


def _track(
  skin: Skin, head, cam, poses, windows: Windows, rows, state: Estimate, keys, tracked: np.ndarray, far: bool, clock
) -> tuple[TextureTracks, np.ndarray]:
  """One round: `N_POINTS` tracks, some of them never seen, and their triangles among the skin's vertices (K, 3).

  Looks at the frames of some `rows` (n,) of the windows.
  Frames that are not `tracked` (T,) have points only where `FEWEST_SEEN` of them are found.
  """
  correction = state.correction()
  focal, principal = np.float32(state.focal * state.side), np.asarray(state.principal, np.float32)
  lens = np.asarray(compiled.lenses(focal, principal, windows.scale, windows.corner))

  def frames(index):
    at = windows.frames[index]
    return rows_of(poses, at), rows_of(correction, at), lens[index], windows.contrast(index)

  row = np.searchsorted(windows.frames, np.resize(keys, BATCH))
  views = compiled.views(head, skin.faces, cam, *frames(row))
  found = _corners(skin, views, windows.grey(row[: len(keys)]))
  clock("corners")
  counts = np.bincount(found.keyframe[found.keyframe >= 0], minlength=len(keys))
  refuse(
    np.median(counts) < FEWEST_CORNERS,
    f"the skin shows too little texture ({np.median(counts):.0f} corners in a keyframe)",
  )

  def follow(index):
    here = compiled.views(head, skin.faces, cam, *frames(index))
    shift = np.zeros((BATCH, N_POINTS, 2), np.float32)
    if far:
      shift = compiled.coarse(skin.faces, here, views, found, CELL)
    return compiled.fine(skin.faces, here, views, found, shift)

  px, sd, sought = in_chunks(lambda index: follow(rows[index]), len(rows), BATCH)
  clock("follow")
  at = windows.frames[rows]
  there = tracked[at]
  seen, sought = np.isfinite(sd).sum(1), np.asarray(sought)
  sd = np.where((there | (seen >= FEWEST_SEEN))[:, None], sd, np.inf)
  seen, share = seen[there], seen[there].sum() / max(sought[there].sum(), 1)
  refuse(
    share < LEAST_SHARE or np.median(seen) < FEWEST_SEEN,
    f"the skin's texture is not found again ({100 * share:.0f} % of the points, {np.median(seen):.0f} per frame): "
    "smooth skin, blur or noise",
  )
  region, triangles = np.asarray(skin.region)[found.face], np.asarray(skin.faces)[found.face]
  sd = sd * REGION_NOISE[region] / windows.scale[rows, None]
  px = np.where(np.isfinite(sd)[..., None], windows.to_image(px, rows), 0.0)
  n = len(poses.rotation)
  tracks = TextureTracks(
    vertices=np.asarray(skin.vertex)[triangles],
    bary=found.bary,
    points=_spread(px.astype(np.float32), at, n, 0.0),
    sd=_spread(sd.astype(np.float32), at, n, np.inf),
    keyframe=np.where(found.keyframe >= 0, keys[found.keyframe], -1).astype(np.int32),
    region=region.astype(np.int32),
  )
  return tracks, triangles


def _spread(values: np.ndarray, index: np.ndarray, n: int, fill: float) -> np.ndarray:
  """n rows of which those of `index` are `values`."""
  out = np.full((n, *values.shape[1:]), fill, values.dtype)
  out[index] = values
  return out


def _corners(skin: Skin, views: View, grey: np.ndarray) -> Corners:
  """`N_POINTS` corners of the views that pictures (k, WINDOW, WINDOW) are of, the first ones; as many from each."""
  faces, cosine, X = (np.asarray(a) for a in (skin.faces, views.cosine, views.X))
  face, lens = np.asarray(views.face), np.asarray(views.lens)
  out = Corners(
    keyframe=np.full(N_POINTS, -1, np.int32), px=np.zeros((N_POINTS, 2), np.float32),
    face=np.zeros(N_POINTS, np.int32), bary=np.full((N_POINTS, 3), 1 / 3, np.float32),
  )  # fmt: skip
  at = 0
  for k, picture in enumerate(grey):
    px = corner.find(picture, face[k], cosine[k], N_POINTS // len(grey))
    rows = slice(at, at + len(px))
    out.keyframe[rows], out.px[rows] = k, px
    out.face[rows], out.bary[rows] = corner.lift(px, face[k], faces, X[k], lens[k])
    at += len(px)
  return out


def _bundle_frames(axes: np.ndarray, good: np.ndarray, keys: np.ndarray) -> np.ndarray:
  """At most `BUNDLE_FRAMES` positions: the keyframes, half of them even in time, the others far apart in view."""
  frames = np.flatnonzero(good)
  if len(frames) <= BUNDLE_FRAMES:
    return frames
  times = np.linspace(frames[0], frames[-1], BUNDLE_FRAMES // 2)
  even = frames[np.abs(frames[:, None] - times.astype(int)).argmin(axis=0)]  # one frame less moves one of them
  chosen = list(np.union1d(even, keys))
  away = np.arccos(np.clip(axes @ axes[chosen].T, -1, 1)).min(1)
  while len(chosen) < BUNDLE_FRAMES:
    away[~good], away[chosen] = -1.0, -1.0
    chosen.append(int(np.argmax(away)))
    away = np.minimum(away, np.arccos(np.clip(axes @ axes[chosen[-1]], -1, 1)))
  return np.sort(np.array(chosen))


def _solve(
  tracks: TextureTracks,
  X0: np.ndarray,
  bent: np.ndarray,
  modes: np.ndarray,
  state: Estimate,
  frames: np.ndarray,
  size: tuple[int, int],
  camera: CameraPrior,
  rest: tuple[np.ndarray, np.ndarray],
  last: bool,
) -> tuple[Estimate, Rigid]:
  """The rigid bundle of some frames, and the poses of all from its points; `rest`: `Rigid.expr` and `jaw`."""
  f32 = lambda a: np.asarray(a, np.float32)  # noqa: E731
  enough = np.isfinite(tracks.sd).sum(1) >= rigid.FEWEST_POINTS
  inverse = np.where(np.isfinite(tracks.sd) & enough[:, None], 1 / tracks.sd, 0.0).astype(np.float32)
  pivot = X0.mean(0)
  R, t = np.array(state.R, np.float32), f32(state.t + state.R @ pivot)
  # Always as many frames, so that one program serves all clips: short ones have frames that see nothing.
  padded = np.resize(frames, BUNDLE_FRAMES)
  counts = np.arange(BUNDLE_FRAMES)[:, None] < len(frames)
  problem = rigid.Problem(
    X0=X0 - pivot, bent=bent[padded], modes=modes, uv=tracks.points[padded],
    inverse_sd=inverse[padded] * counts, region=tracks.region,
    side=f32(state.side), centre=f32([size[1] / 2, size[0] / 2]), mean=f32(camera[0]), sd=f32(camera[1]),
  )  # fmt: skip
  start = compiled.start(problem, R[padded], t[padded], np.float32(state.focal), f32(state.principal))
  solved = compiled.bundle(problem, start, np.int32(rigid.STEPS))
  noise = np.asarray(compiled.noise(problem, solved))
  # What points are beside the head is their noise alone, without the factor for errors that are correlated. In the
  # bundle the priors would gain by it (an animated scan: focal length 8 instead of 4 % off).
  single = problem.replace(inverse_sd=problem.inverse_sd * NOISE_FACTOR)
  problem = problem.replace(inverse_sd=problem.inverse_sd / noise[problem.region])
  solved = compiled.bundle(problem, solved, np.int32(rigid.MORE_STEPS))
  certainty = compiled.deviation(problem, solved) if last else (np.nan,) * 3  # it costs as much as the rest
  sd, noise_sd, spread = np.asarray(certainty, np.float32)
  focal, principal = rigid.lens(problem, np.asarray(solved.shared))
  focal, principal = float(focal), f32(principal)

  shown = np.flatnonzero(enough)

  def poses(index):
    i = shown[index]
    alone = problem.replace(bent=bent[i], uv=tracks.points[i], inverse_sd=inverse[i] / noise[problem.region])
    return compiled.resect(alone, solved, R[i], t[i])

  R[shown], t[shown] = in_chunks(poses, len(shown), 128)
  state = state.moved(R, t - R @ pivot, enough, focal, principal, pivot)
  turn, shift = state.correction()
  found = Rigid(
    points=X0 + f32(rigid.POINT_SD * np.asarray(solved.moved)), R=f32(R), t=f32(t), turn=turn, shift=shift,
    focal=f32(focal), principal=principal, focal_sd=sd, focal_noise_sd=noise_sd, view_spread=spread,
    noise=np.asarray(compiled.noise(single, solved)), used=enough,
    expr=rest[0], jaw=rest[1],
  )  # fmt: skip
  return state, found
