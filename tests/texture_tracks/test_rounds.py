"""Whole clips of a rendered head: what comes out, and when nothing does."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax import cameras, rotation, texture_tracks
from vht_jax.head import flame
from vht_jax.render.image import sample_bilinear
from vht_jax.render.raster import rasterize
from vht_jax.texture_tracks import rounds, windows
from vht_jax.texture_tracks.bundle.rigid import SHARED, usual_camera
from vht_jax.types import Identity, Status, TrackResult

SIZE, FOCAL, FRAMES = (320, 320), 1.4, 24


class Clip:
  size = SIZE

  def __init__(self, frames):
    self.frames = frames

  def __len__(self):
    return len(self.frames)

  def images(self, indices):
    return self.frames[np.asarray(indices)]


def result(head, yaw_deg, focal=FOCAL, gain=1.0):
  """A head that turns about its own middle as a tracker with this focal length and yaw gain would have it."""
  neutral = flame.neutral_pose(head)
  turns = jnp.stack([0 * yaw_deg, jnp.deg2rad(gain * yaw_deg), 0 * yaw_deg], -1).astype(jnp.float32)
  facing = rotation.axis_angle_to_matrix(neutral.rotation)
  R = jnp.einsum("ij,tjk->tik", facing, jax.vmap(rotation.axis_angle_to_matrix)(turns))
  n = len(yaw_deg)
  repeat = lambda a: jnp.repeat(a[None], n, 0)
  distance = jnp.array([[0.0, 0.0, 0.62 * focal / FOCAL]], jnp.float32)
  poses = jax.tree.map(repeat, neutral).replace(
    rotation=jax.vmap(rotation.matrix_to_axis_angle)(R), translation=distance + R @ head.j_template[0]
  )
  identity = Identity(
    shape=jnp.zeros(head.shapedirs.shape[-1]), texture=jnp.zeros(head.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)), camera=cameras.make_camera(focal), lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  return TrackResult(identity=identity, poses=poses, energies={}, status=jnp.zeros(n, jnp.int32))


def yaw():
  return jnp.asarray(28 * np.sin(np.linspace(0, 2 * np.pi, FRAMES)), jnp.float32)


def vertices(head, truth):
  one = lambda pose: cameras.project(truth.identity.camera, flame.skin(head, truth.identity.shape, pose), SIZE)
  return jax.lax.map(one, truth.poses)


def draw(head, truth, sd=2.0, contrast=25.0):
  """(T, H, W, 3) uint8: skin with a texture in space, drawn at twice the size."""
  detail = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((768, 768)).astype(np.float32), (0, 0), sd)
  detail = jnp.asarray(detail / detail.std())[..., None]
  big = (2 * SIZE[0], 2 * SIZE[1])

  @jax.jit
  def one(screen):
    fragments = rasterize(screen * jnp.array([[2.0, 2.0, 1.0]]), head.faces, big)
    at = head.v_template[head.faces[jnp.maximum(fragments.pix_to_face, 0)]] * fragments.bary_coords[..., None]
    at = jnp.sum(at, -2) - jnp.mean(head.v_template, 0).reshape(1, 1, 3)
    spots = sample_bilinear(detail, (at[..., :2] + 0.2) * (768 / 0.4), forward_mode=True)[..., 0]
    image = jnp.where(fragments.pix_to_face >= 0, 140 + contrast * spots, 60.0)
    return jnp.clip(jnp.round(image.reshape(SIZE[0], 2, SIZE[1], 2).mean((1, 3))), 0, 255)

  frames = np.stack([np.asarray(one(screen)) for screen in vertices(head, truth)]).astype(np.uint8)
  noise = np.random.default_rng(1).normal(0, 2, frames.shape)
  return np.clip(frames + noise, 0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def errors(head, truth, tracks):
  """Errors of what is seen, px, and what they are said to be.

  A corner is the point of the skin that its keyframe shows there; the mesh is true up to the start's error.
  """
  screen = np.asarray(vertices(head, truth))[..., :2]
  where = np.einsum("tkci,kc->tki", screen[:, tracks.vertices], tracks.bary)
  beside = (tracks.points - where)[tracks.keyframe, np.arange(len(tracks.keyframe))]
  seen = np.isfinite(tracks.sd)
  return np.linalg.norm(tracks.points - where - beside[None], axis=-1)[seen], tracks.sd[seen]


@pytest.fixture
def small(monkeypatch):
  monkeypatch.setattr(windows, "WINDOW", 256)
  monkeypatch.setattr(rounds, "N_POINTS", 120)
  monkeypatch.setattr(rounds, "BUNDLE_FRAMES", FRAMES)


@pytest.mark.slow
def test_tracks_and_camera_of_a_turning_head(small_head, small):
  truth = result(small_head, yaw())
  clip = Clip(draw(small_head, truth))
  start = result(small_head, yaw(), focal=0.8 * FOCAL, gain=0.93)
  found = texture_tracks.observe(small_head, clip, start)
  assert found.reason == ""
  tracks, rigid = found.tracks, found.rigid

  seen = np.isfinite(tracks.sd)
  assert seen.sum(1).min() > 25
  assert (tracks.points[~seen] == 0).all()
  error, _ = errors(small_head, truth, tracks)
  assert np.median(error) < 0.2 and np.quantile(error, 0.9) < 0.6

  assert abs(np.log(float(rigid.focal) / FOCAL)) < 3 * float(rigid.focal_sd)
  assert abs(float(rigid.focal) / FOCAL - 1) < 0.05  # from 20 % too short
  R = np.asarray(jax.vmap(rotation.axis_angle_to_matrix)(truth.poses.rotation))
  R = np.asarray(cameras.WORLD_TO_OPENCV) @ R
  C = np.linalg.svd(np.einsum("tji,tjk->ik", R, rigid.R))
  aligned = np.einsum("tij,kj->tik", rigid.R, C[0] @ C[2])
  angle = np.arccos(np.clip((np.einsum("tij,tij->t", R, aligned) - 1) / 2, -1, 1))
  assert np.rad2deg(angle).mean() < 0.25  # from 1.2 degrees

  dark = texture_tracks.observe(small_head, Clip(clip.frames // 12), start)
  assert dark.tracks is None and "dark" in dark.reason
  smooth = texture_tracks.observe(small_head, Clip(draw(small_head, truth, contrast=0.0)), start)
  assert smooth.tracks is None and "texture" in smooth.reason
  blur = lambda sd: Clip(np.stack([cv2.GaussianBlur(f, (0, 0), sd * (1 + k % 2)) for k, f in enumerate(clip.frames)]))
  blurred = texture_tracks.observe(small_head, blur(12.0), start)
  assert blurred.tracks is None and blurred.reason
  somewhat = texture_tracks.observe(small_head, blur(3.0), start)  # with what is left of the texture, or not at all
  if somewhat.tracks is not None:
    error, sd = errors(small_head, truth, somewhat.tracks)
    assert np.quantile(error / sd, 0.9) < 2.5
    assert abs(np.log(float(somewhat.rigid.focal) / FOCAL)) < 3 * float(somewhat.rigid.focal_sd)


@pytest.mark.slow
def test_rounds_go_on_until_the_lens_stays(small_head, small, monkeypatch):
  """The first one looks at all frames, and the one after the lens has stayed; those between at the bundle's."""
  monkeypatch.setattr(rounds, "BUNDLE_FRAMES", FRAMES // 2)
  truth = result(small_head, yaw())
  clip, start = Clip(draw(small_head, truth)), result(small_head, yaw(), focal=1.25 * FOCAL)
  track, solve, looked, lenses = rounds._track, rounds._solve, [], []

  def tracked(skin, head, cam, poses, windows, rows, *more):
    looked.append(len(rows))
    return track(skin, head, cam, poses, windows, rows, *more)

  def solved(*problem):
    state, found = solve(*problem)
    if lenses:
      state.focal = lenses.pop(0)
    return state, found

  monkeypatch.setattr(rounds, "_track", tracked)
  monkeypatch.setattr(rounds, "_solve", solved)
  part = FRAMES // 2
  for wanted, given in (
    ([FRAMES, part, part, FRAMES], [1.6, 1.5, 1.498]),  # and after the last nobody asks
    ([FRAMES, part, FRAMES], [1.745, 1.74]),  # landmarks' own lens is no witness
    ([FRAMES, *[part] * (rounds.ROUNDS - 2), FRAMES], [1.7, 1.6, 1.5, 1.4, 1.3]),
  ):
    looked.clear()
    lenses[:] = given
    assert texture_tracks.observe(small_head, clip, start).reason == ""
    assert looked == wanted
  mean, sd = usual_camera()
  mean[SHARED.at("log_focal")], sd[SHARED.at("log_focal")] = np.log(1.25 * FOCAL), 1e-4
  looked.clear()
  texture_tracks.observe(small_head, clip, start, camera=(mean, sd))
  assert looked == [FRAMES, FRAMES]  # a lens that is known


@pytest.mark.slow
def test_frames_without_landmarks_are_found_by_the_skin(small_head, small):
  """Poses that stand in are led back to the head, and help to tell the lens; where the head is covered they stay."""
  truth = result(small_head, yaw())
  frames = draw(small_head, truth)
  frames[16:19] = np.random.default_rng(2).integers(0, 255, frames[16:19].shape)
  lost, covered = np.r_[8:12], np.r_[16:19]
  gone = np.union1d(lost, covered)
  there = np.setdiff1d(np.arange(FRAMES), gone)
  bridged = jnp.asarray(np.interp(np.arange(FRAMES), there, np.asarray(yaw())[there]), jnp.float32)
  start = result(small_head, bridged, focal=0.8 * FOCAL)
  start = start.replace(status=start.status.at[gone].set(Status.INTERPOLATED))
  found = texture_tracks.observe(small_head, Clip(frames), start)
  assert found.rigid.used[there].all() and found.rigid.used[lost].all() and not found.rigid.used[covered].any()
  assert not np.isfinite(found.tracks.sd[covered]).any()

  yaw_of = lambda R: np.rad2deg(np.arctan2(R[:, 0, 2], R[:, 2, 2]))
  turned = yaw_of(found.rigid.R) - yaw_of(found.rigid.R)[[0]]
  assert np.abs(np.abs(turned) - np.abs(np.asarray(yaw())))[lost].max() < 0.5
  assert np.abs(np.asarray(bridged - yaw()))[lost].max() > 2

  # Whoever has no pose that stands in is not looked for.
  alone = start.replace(status=start.status.at[gone].set(Status.NO_FACE))
  assert not texture_tracks.observe(small_head, Clip(frames), alone).rigid.used[gone].any()


def test_a_head_that_hardly_turns_has_none(small_head):
  still = result(small_head, 0.04 * yaw())
  found = texture_tracks.observe(small_head, Clip(np.zeros((FRAMES, *SIZE, 3), np.uint8)), still)
  assert found.tracks is None and found.rigid is None and "turns by" in found.reason
  lost = still.replace(status=jnp.full(FRAMES, 2, jnp.int32).at[3].set(0))
  found = texture_tracks.observe(small_head, Clip(np.zeros((FRAMES, *SIZE, 3), np.uint8)), lost)
  assert found.tracks is None and "only 1 frames" in found.reason


def test_frames_of_the_bundle_are_few_and_hold_the_turns():
  angle = np.deg2rad(30) * np.sin(np.linspace(0, 60, 1000)) * (np.arange(1000) > 900)
  axes = np.stack([np.sin(angle), 0 * angle, -np.cos(angle)], -1)
  good = np.ones(1000, bool)
  good[950] = False
  chosen = rounds._bundle_frames(axes, good, np.array([5, 930]))
  assert len(chosen) == rounds.BUNDLE_FRAMES == len(np.unique(chosen)) and good[chosen].all()
  assert 5 in chosen and 930 in chosen and (chosen > 900).sum() > 20 and (chosen < 900).sum() > 20
