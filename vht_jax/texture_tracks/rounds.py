"""Texture tracks of a clip: finds them from a first estimate of the head, and the rigid head that they say.

Two rounds. The first one's mesh is as the landmarks say, some pixels beside the skin; the second one's poses and camera
are those of the first round's tracks.
"""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import camera as cameras
from vht_jax import flame, rotation
from vht_jax.planes import map_frames
from vht_jax.programs import in_chunks, prefetched, rows_of, stored
from vht_jax.texture_tracks import corners as corner
from vht_jax.texture_tracks import keyframes, rigid, uncertainty
from vht_jax.texture_tracks.follow import follow
from vht_jax.texture_tracks.skin import REGION_NOISE, cut, skin_of
from vht_jax.texture_tracks.types import Corners, Observed, Rigid, TextureTracks
from vht_jax.texture_tracks.view import lens_of, look, see, window_of
from vht_jax.types import FlameModel, Status, TrackResult

HIGHEST = jax.lax.Precision.HIGHEST
WINDOW = 320  # px, side of the windows through which frames are seen
N_POINTS = 192  # corners of all keyframes together; about half of them are seen in a frame
BATCH = 8  # frames per call
BUNDLE_FRAMES = 64  # at most, of the rigid bundle; the poses of the others follow from its points
LEVELS = (4, 2, 1), (1,)  # of the two rounds, see `follow`
MIN_TURN = np.deg2rad(5.0)  # a head that turns less says nothing of its camera, and landmarks are steady
FEWEST_CORNERS = 10  # per keyframe
FEWEST_SEEN = 20  # points in a frame, median: fewer are no better than landmarks
LEAST_LIGHT = 20.0  # of 255, median of the face: below, a camera's noise is its texture


def observe(model: FlameModel, clip, result: TrackResult, *, min_turn: float = MIN_TURN) -> Observed:
  """Follows the skin's texture through a clip.

  Args:
    model: the head.
    clip: `track.Clip`; only `size`, `images` and the frames' number are asked for.
    result: an estimate of all poses and of the camera, e.g. of the landmarks alone.
    min_turn: rad, of the head over the clip: below, there are no tracks.

  Returns:
    Tracks and a rigid head, or why there are none.
  """
  clock = {}
  n = len(np.asarray(result.status))
  good = np.asarray(result.status) == Status.TRACKED
  good &= np.isfinite(np.asarray(result.poses.rotation)).all(1) & np.isfinite(np.asarray(result.poses.expr)).all(1)
  none = lambda reason: Observed(None, None, reason, clock)  # noqa: E731
  if good.sum() < keyframes.FEWEST:
    return none(f"only {good.sum()} frames show a tracked face")
  tick = _Clock(clock)
  skin = skin_of(model)
  head = _person(model, result.identity.shape, skin.vertex)
  middle = _unposed(head, np.median(np.asarray(result.poses.expr)[good], 0), np.median(np.asarray(result.poses.jaw)[good], 0))
  middle = np.asarray(middle)
  cam = result.identity.camera
  poses = jax.tree.map(np.asarray, result.poses)
  R0, t0, shapes, fit = in_chunks(lambda i: _align(head, rows_of(poses, i), cam, middle), n, 128)
  tick("meshes")
  axes = R0[:, 2]
  turn = keyframes.turn(axes, good)
  if turn < min_turn:
    return none(f"the head turns by {np.rad2deg(turn):.1f} degrees only")
  keys = keyframes.choose(axes, shapes, good)

  size, side = clip.size, max(clip.size)
  focal, principal = float(cam.focal), np.asarray(cam.principal) * [size[1], size[0]]
  seen = np.flatnonzero(good)
  scale, origin, grey = _windows(clip, seen, R0, t0, middle.mean(0), focal * side, principal)
  tick("windows")
  light = float(np.median([np.median(g[WINDOW // 4 : -WINDOW // 4, WINDOW // 4 : -WINDOW // 4]) for g in grey[:: max(len(grey) // 20, 1)]]))
  if light < LEAST_LIGHT:
    return none(f"the face is too dark: {light:.0f} of 255")

  row = np.full(n, -1)
  row[seen] = np.arange(len(seen))
  state = _Estimate(R0, t0, R0.copy(), t0.copy(), focal, principal)
  bundle_frames = _bundle_frames(axes, good, keys)
  for k, levels in enumerate(LEVELS):
    correction = state.correction()
    lens = np.asarray(_lenses(np.float32(state.focal * side), state.principal.astype(np.float32), scale, origin))

    def look_at(index, lens=lens, correction=correction):
      frames = seen[index]
      return rows_of(poses, frames), rows_of(correction, frames), lens[index], grey[index]

    padded = np.resize(keys, keyframes.MOST)
    views = _views(head, skin.faces, cam, *look_at(row[padded]))
    found = _corners(skin, views, grey[row[padded]], len(keys))
    tick("corners")
    counts = np.bincount(found.keyframe[found.keyframe >= 0], minlength=len(keys))
    if np.median(counts) < FEWEST_CORNERS:
      return none(f"the skin shows too little texture ({int(np.median(counts))} corners in a keyframe)")
    points, sd = in_chunks(
      lambda index: _follow(head, skin.faces, cam, *look_at(index), views, found, levels), len(seen), BATCH
    )
    tick("follow")
    with np.errstate(invalid="ignore"):
      points = np.where(np.isfinite(sd)[..., None], points / scale[:, None, None] + origin[:, None], 0.0)
    region = np.asarray(skin.region)[found.face]
    sd = sd * REGION_NOISE[region] * np.maximum(1.0, 1 / scale)[:, None]
    per_frame = np.isfinite(sd).sum(1)
    if np.median(per_frame) < FEWEST_SEEN:
      return none(
        f"the skin's texture is not found again ({int(np.median(per_frame))} points per frame): blur, noise or a "
        "covered face"
      )
    full = lambda a, fill: _rows(a, seen, n, fill)  # noqa: E731
    tracks = TextureTracks(
      vertices=np.asarray(skin.vertex)[np.asarray(skin.faces)[found.face]],
      bary=np.asarray(found.bary, np.float32),
      points=full(points.astype(np.float32), 0.0),
      sd=full(sd.astype(np.float32), np.inf),
      keyframe=np.where(found.keyframe >= 0, keys[np.maximum(found.keyframe, 0)], -1).astype(np.int32),
      region=region.astype(np.int32),
    )
    X0 = np.einsum("kci,kc->ki", middle[np.asarray(skin.faces)[found.face]], found.bary).astype(np.float32)
    state, head_found = _solve(tracks, X0, state, bundle_frames, size)
    tick("rigid")
  kept = np.isfinite(tracks.sd).sum(0) > 1
  tracks = TextureTracks(
    vertices=tracks.vertices[kept], bary=tracks.bary[kept], points=tracks.points[:, kept], sd=tracks.sd[:, kept],
    keyframe=tracks.keyframe[kept], region=tracks.region[kept],
  )  # fmt: skip
  return Observed(tracks, head_found.replace(points=head_found.points[kept]), "", clock)


class _Estimate:
  """Poses of the mean head as they were given and as they are thought to be now, and the camera."""

  def __init__(self, R0, t0, R, t, focal: float, principal):
    self.R0, self.t0, self.R, self.t, self.focal, self.principal = R0, t0, R, t, focal, principal

  def correction(self) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3, 3), (T, 3): camera coordinates of then -> of now."""
    turn = np.einsum("tij,tkj->tik", self.R, self.R0)
    return turn.astype(np.float32), (self.t - np.einsum("tij,tj->ti", turn, self.t0)).astype(np.float32)


class _Clock:
  def __init__(self, seconds: dict[str, float]):
    self.seconds, self.last = seconds, time.process_time()

  def __call__(self, name: str) -> None:
    now = time.process_time()
    self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
    self.last = now


def _rows(values: np.ndarray, index: np.ndarray, n: int, fill: float) -> np.ndarray:
  """n rows of which those of `index` are `values`."""
  out = np.full((n, *values.shape[1:]), fill, values.dtype)
  out[index] = values
  return out


def _windows(clip, frames, R, t, middle, focal_px: float, principal):
  """Scale (n,), corner (n, 2) and picture (n, WINDOW, WINDOW) of the windows of some frames."""
  at = R[frames] @ middle + t[frames]
  places = np.concatenate([at[:, :2] / at[:, 2:] * focal_px + principal, focal_px / at[:, 2:]], -1)
  spans = [window_of(place, WINDOW) for place in places]
  scale, origin = np.array([s for s, _ in spans], np.float32), np.array([c for _, c in spans], np.float32)
  grey = np.zeros((len(frames), WINDOW, WINDOW), np.uint8)

  def work(start):
    index = np.arange(start, min(start + BATCH, len(frames)))
    for k, image in zip(index, clip.images(frames[index])):
      grey[k] = look(image, float(scale[k]), origin[k], WINDOW)

  for _ in prefetched(work, range(0, len(frames), BATCH)):
    pass
  return scale, origin, grey


def _corners(skin, views, grey: np.ndarray, n_keys: int) -> Corners:
  """`N_POINTS` corners of the first n_keys views, as many from each."""
  share = N_POINTS // n_keys
  face, bary, cosine = np.asarray(views.face), np.asarray(views.bary), np.asarray(views.cosine)
  out = Corners(
    keyframe=np.full(N_POINTS, -1, np.int32), px=np.zeros((N_POINTS, 2), np.float32),
    face=np.zeros(N_POINTS, np.int32), bary=np.full((N_POINTS, 3), 1 / 3, np.float32),
  )  # fmt: skip
  at = 0
  for k in range(n_keys):
    px = corner.find(grey[k], face[k], cosine[k], share)
    x, y = px.astype(int).T
    rows = slice(at, at + len(px))
    out.keyframe[rows], out.px[rows], out.face[rows], out.bary[rows] = k, px, face[k, y, x], bary[k, y, x]
    at += len(px)
  return out


def _bundle_frames(axes, good, keys) -> np.ndarray:
  """At most `BUNDLE_FRAMES` positions: the keyframes, half spread in time, the rest in view."""
  frames = np.flatnonzero(good)
  if len(frames) <= BUNDLE_FRAMES:
    return frames
  even = frames[np.linspace(0, len(frames) - 1, BUNDLE_FRAMES // 2).astype(int)]
  chosen = list(np.union1d(even, keys))
  distance = np.min(np.arccos(np.clip(axes @ axes[chosen].T, -1, 1)), axis=1)
  distance[~good] = -1
  while len(chosen) < BUNDLE_FRAMES:
    k = int(np.argmax(distance))
    chosen.append(k)
    distance = np.minimum(distance, np.arccos(np.clip(axes @ axes[k], -1, 1)))
    distance[chosen] = -1
  return np.sort(np.array(chosen))


def _solve(tracks: TextureTracks, X0, state: _Estimate, frames, size) -> tuple[_Estimate, Rigid]:
  """The rigid bundle of some frames, and the poses of all from its points."""
  enough = np.isfinite(tracks.sd).sum(1) >= rigid.FEWEST_POINTS
  inverse = np.where(np.isfinite(tracks.sd) & enough[:, None], 1 / tracks.sd, 0.0).astype(np.float32)
  pivot = X0.mean(0)
  at = (state.t + state.R @ pivot).astype(np.float32)
  f32 = lambda a: np.asarray(a, np.float32)  # noqa: E731
  padded = np.resize(frames, BUNDLE_FRAMES)
  counts = np.arange(BUNDLE_FRAMES) < len(frames)
  problem = rigid.Problem(
    X0=X0 - pivot, uv=tracks.points[padded], inverse_sd=inverse[padded] * counts[:, None], region=tracks.region,
    side=np.float32(max(size)), centre=f32([size[1] / 2, size[0] / 2]),
  )  # fmt: skip
  camera = np.float32(state.focal), f32(state.principal)
  solved, noise, sd = _bundle(problem, f32(state.R[padded]), at[padded], *camera)

  def poses(index):
    all_frames = problem.replace(uv=tracks.points[index], inverse_sd=inverse[index])
    return _resect(all_frames, solved, f32(state.R[index]), at[index], noise)

  R, t, focal, principal = in_chunks(poses, len(inverse), 128)
  R = np.where(enough[:, None, None], R, state.R)
  t = np.where(enough[:, None], t - R @ pivot, state.t)
  found = Rigid(
    points=X0 + np.asarray(rigid.POINT_SD * np.asarray(solved.moved), np.float32), R=f32(R), t=f32(t),
    focal=focal[0], principal=principal[0], focal_sd=np.asarray(sd), noise=np.asarray(noise), used=enough,
  )  # fmt: skip
  return _Estimate(state.R0, state.t0, R, t, float(focal[0]), principal[0]), found


@stored
def _person(model, shape, vertex):
  return flame.with_identity(cut(model, vertex), shape)


@stored
def _unposed(head, expr, jaw):
  """(v, 3) the head with this expression, unturned, about its root."""
  pose = flame.neutral_pose(head)
  zero = jnp.zeros(3, jnp.float32)
  return flame.skin(head, jnp.zeros(0), pose.replace(expr=expr, jaw=jaw, rotation=zero, translation=zero))


def _posed(head, pose, cam):
  return cameras.world_to_camera(cam, flame.skin(head, jnp.zeros(0), pose))


@stored
def _align(head, poses, cam, middle):
  """Rigid motions of the mean head to the posed ones, (B, 3, 3) and (B, 3), and some points in its frame."""
  mean = jnp.mean(middle, axis=0)

  def one(pose):
    X = _posed(head, pose, cam)
    at = jnp.mean(X, axis=0)
    product = jnp.matmul((X - at).T, middle - mean, precision=HIGHEST)
    U, _, Vt = jnp.linalg.svd(product)
    sign = jnp.sign(jnp.linalg.det(jnp.matmul(U, Vt, precision=HIGHEST)))
    R = jnp.matmul(U * jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign])[None], Vt, precision=HIGHEST)
    t = at - jnp.matmul(R, mean, precision=HIGHEST)
    back = jnp.matmul(X[:: X.shape[0] // 64] - t, R, precision=HIGHEST)
    return R, t, back, jnp.zeros(())

  return jax.vmap(one)(poses)


def _look(head, faces, cam, pose, correction, lens, grey):
  turn, shift = correction
  X = jnp.matmul(_posed(head, pose, cam), turn.T, precision=HIGHEST) + shift
  matrices = [turn, cam.R, *(rotation.axis_angle_to_matrix(r) for r in (pose.rotation, pose.neck))]
  R = functools.reduce(lambda a, b: jnp.matmul(a, b, precision=HIGHEST), matrices)
  return see(faces, X, R[2], grey, lens)


@stored
def _views(head, faces, cam, poses, correction, lens, grey):
  one = lambda pose, correction, lens, grey: _look(head, faces, cam, pose, correction, lens, grey)
  return map_frames(one)(poses, correction, lens, grey)


@functools.partial(stored, static_argnames=("levels",))
def _follow(head, faces, cam, poses, correction, lens, grey, keys, corners, levels):
  def one(pose, correction, lens, grey):
    return follow(faces, _look(head, faces, cam, pose, correction, lens, grey), keys, corners, levels)

  return map_frames(one)(poses, correction, lens, grey)


@stored
def _lenses(focal_px, principal_px, scale, corner):
  return jax.vmap(lambda s, c: lens_of(focal_px, principal_px, s, c))(scale, corner)


@stored
def _bundle(problem, R, t, focal, principal):
  state, weighed, noise = rigid.adjust(problem, rigid.start(problem, R, t, focal, principal))
  sd, _ = uncertainty.focal_deviation(weighed, state)
  return state, noise, sd


@stored
def _resect(problem, solved, R, t, noise):
  f, principal = jnp.exp(solved.shared[0]), problem.centre + solved.shared[1:] * problem.side
  weighed = problem.replace(inverse_sd=problem.inverse_sd / noise[problem.region][None])
  start = rigid.start(problem, R, t, f, principal).replace(shared=solved.shared, moved=solved.moved)
  found = rigid.resect(weighed, start)
  t, _, _ = rigid.translations(problem, found)
  n = R.shape[0]
  return found.R, t, jnp.broadcast_to(f, (n,)), jnp.broadcast_to(principal, (n, 2))
