"""Corners of a keyframe in other frames of a rendered head whose motion is known."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax import rotation
from vht_jax.render.image import sample_bilinear
from vht_jax.render.raster import rasterize
from vht_jax.texture_tracks.following import corners as corner
from vht_jax.texture_tracks.following import follow, view, warp
from vht_jax.texture_tracks.skin import skin_of
from vht_jax.texture_tracks.types import REGIONS, Corners

SIZE, FOCAL, DISTANCE, N = 256, 900.0, 0.8, 48
LENS = jnp.array([FOCAL, SIZE / 2, SIZE / 2], jnp.float32)


@pytest.fixture(scope="module")
def skin(open_head):
  return skin_of(open_head)


def pose(skin, yaw, pitch=0.0, move=(0.0, 0.0)):
  """Camera coordinates of the skin, and the camera's axis in the head."""
  turn = rotation.axis_angle_to_matrix(jnp.deg2rad(jnp.array([pitch, yaw, 0.0])))
  R = turn @ jnp.diag(jnp.array([1.0, -1.0, -1.0]))
  X = skin.template - jnp.mean(skin.template, 0, keepdims=True)
  return X @ R.T + jnp.array([[*move, DISTANCE]]), R[2]


@jax.jit
def draw(faces, X, detail):
  """A grey picture (SIZE, SIZE) uint8 of skin with a texture in space, drawn at twice the size."""
  big = 2 * SIZE
  fragments = rasterize(jnp.concatenate([view.project(X[0], LENS) * 2, X[0][:, 2:]], -1), faces, (big, big))
  at = jnp.sum(X[1][faces[jnp.maximum(fragments.pix_to_face, 0)]] * fragments.bary_coords[..., None], -2)
  texture = sample_bilinear(detail, (at[..., :2] + 0.12) * (detail.shape[0] / 0.24), forward_mode=True)[..., 0]
  light = 140 + 25 * texture
  image = jnp.where(fragments.pix_to_face >= 0, light, 60.0)
  return jnp.clip(jnp.round(image.reshape(SIZE, 2, SIZE, 2).mean((1, 3))), 0, 255).astype(jnp.uint8)


def detail(seed=0, sd=2.5):
  """(512, 512, 1) noise over 24 cm of the face, seen from the front."""
  image = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((512, 512)).astype(np.float32), (0, 0), sd)
  return jnp.asarray(image / image.std())[..., None]


look_at = jax.jit(lambda faces, X, axis, picture: view.see(faces, X, axis, picture, LENS))
coarse = jax.jit(
  lambda faces, here, keys, corners: follow.coarse(
    faces, here, keys, corners, jax.vmap(lambda a: view.pool(a, view.CELL))(keys.image), view.CELL
  )
)
fine = jax.jit(follow.fine)


def picture_of(skin, X, texture):
  centred = skin.template - jnp.mean(skin.template, 0, keepdims=True)
  return np.asarray(draw(skin.faces, (X, centred), texture))


@pytest.fixture(scope="module")
def keyframe(skin):
  X, axis = pose(skin, 0.0)
  grey = picture_of(skin, X, detail())
  here = look_at(skin.faces, X, axis, jnp.asarray(view.local_contrast(grey)))
  seen = jax.tree.map(np.asarray, here)
  px = corner.find(grey, seen.face, seen.cosine, N)
  face, bary = corner.lift(px, seen.face, np.asarray(skin.faces), seen.X, seen.lens)
  pad = N - len(px)
  corners = Corners(
    keyframe=jnp.asarray([0] * len(px) + [-1] * pad, jnp.int32), px=jnp.asarray(np.pad(px, ((0, pad), (0, 0)))),
    face=jnp.asarray(np.pad(face, (0, pad)), jnp.int32), bary=jnp.asarray(np.pad(bary, ((0, pad), (0, 0)))),
  )  # fmt: skip
  return here, jax.tree.map(lambda a: a[None], here), corners, px


def track(skin, keyframe, X, axis, grey, believed=None):
  """Points, deviations, how many were sought; `believed` (X, axis): the mesh that the tracker thinks is there."""
  _, keys, corners, _ = keyframe
  here = look_at(skin.faces, *(believed or (X, axis)), jnp.asarray(view.local_contrast(grey)))
  found = fine(skin.faces, here, keys, corners, coarse(skin.faces, here, keys, corners))
  return [np.asarray(a) for a in found]


def truth(skin, keyframe, X):
  _, _, corners, _ = keyframe
  at = jnp.sum(X[skin.faces[corners.face]] * corners.bary[..., None], 1)
  return np.asarray(view.project(at, LENS))


def test_the_skin_is_a_face_with_three_regions(skin, open_head):
  ids = np.asarray(skin.vertex)
  for name in ("left_eyeball", "right_eyeball", "teeth", "scalp", "neck"):
    assert not np.asarray(open_head.masks[name])[ids].all()
  assert not (np.asarray(open_head.lbs_weights)[ids, 3:] > 0.5).any()
  middle = np.asarray(skin.template)[np.asarray(skin.faces)].mean(1)
  region = np.asarray(skin.region)
  height = [np.median(middle[region == k, 1]) for k in range(len(REGIONS))]
  assert height[0] > height[1] > height[2]  # forehead to nose, cheeks, mouth and jaw
  bare = open_head.replace(masks={})  # a head that comes without masks
  others = set(np.asarray(skin_of(bare).vertex).tolist())
  assert len(others & set(ids.tolist())) > 0.5 * len(others)


def test_corners_are_spread_and_lifted_to_where_they_are(skin, keyframe):
  here, _, corners, px = keyframe
  assert len(px) > 0.7 * N
  np.testing.assert_allclose(truth(skin, keyframe, here.X)[: len(px)], px, atol=2e-3)
  away = np.linalg.norm(px[:, None] - px[None], axis=-1) + 1e3 * np.eye(len(px))
  assert away.min() > 5
  cosine = np.asarray(here.cosine)[np.asarray(corners.face)[: len(px)]]
  assert (cosine > np.cos(np.deg2rad(corner.MAX_ANGLE)) - 0.1).all()


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (12.0, 5.0), (-25.0, -6.0)])
def test_known_motion_comes_back(skin, keyframe, yaw, pitch):
  X, axis = pose(skin, yaw, pitch, move=(0.01, -0.004))
  px, sd, sought = track(skin, keyframe, X, axis, picture_of(skin, X, detail()))
  seen = np.isfinite(sd)
  error = np.linalg.norm(px - truth(skin, keyframe, X), axis=-1)[seen]
  assert seen.sum() > 0.75 * sought and sought > 0.4 * N
  assert np.median(error) < 0.1 and np.quantile(error, 0.9) < 0.3
  assert (error < 3 * sd[seen]).all()


def test_a_mesh_some_pixels_beside_does_not_matter(skin, keyframe):
  X, axis = pose(skin, 10.0)
  believed = pose(skin, 12.0, 1.5, move=(0.003, 0.002))  # 5 px away and turned
  px, sd, sought = track(skin, keyframe, X, axis, picture_of(skin, X, detail()), believed)
  seen = np.isfinite(sd)
  error = np.linalg.norm(px - truth(skin, keyframe, X), axis=-1)[seen]
  beside = np.linalg.norm(truth(skin, keyframe, believed[0]) - truth(skin, keyframe, X), axis=-1)[seen]
  assert np.median(beside) > 3 and seen.sum() > 0.7 * sought
  assert np.median(error) < 0.15


def test_what_covers_the_face_is_refused(skin, keyframe):
  X, axis = pose(skin, 8.0)
  grey = picture_of(skin, X, detail()).copy()
  other = picture_of(skin, X, detail(seed=5))
  grey[:, : SIZE // 2] = other[:, : SIZE // 2]  # another skin over one half
  px, sd, _ = track(skin, keyframe, X, axis, grey)
  where = truth(skin, keyframe, X)[:, 0]
  covered, free = where < SIZE / 2 - 10, where > SIZE / 2 + 10
  assert np.isfinite(sd[covered]).mean() < 0.15
  assert np.isfinite(sd[free]).sum() > 8


def test_blur_and_flat_skin_are_refused(skin, keyframe):
  X, axis = pose(skin, 8.0)
  grey = picture_of(skin, X, detail())
  for spoiled in (cv2.GaussianBlur(grey, (0, 0), 9.0), np.full_like(grey, 140)):
    _, sd, sought = track(skin, keyframe, X, axis, spoiled)
    assert np.isfinite(sd).sum() <= 0.2 * sought


def test_what_the_keyframe_did_not_see_is_not_sought(skin, keyframe):
  X, axis = pose(skin, 50.0)  # beyond 45 degrees
  _, sd, sought = track(skin, keyframe, X, axis, picture_of(skin, X, detail()))
  assert sought == 0 and not np.isfinite(sd).any()


def test_windows_and_their_pixels(skin):
  ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
  for scale, where in ((1.0, (20.0, 30.0)), (0.5, (7.25, 10.0)), (0.3, (10.5, 20.0))):
    grey = view.look(ramp, scale, np.array(where), 40).astype(float)
    want = where[0] + (np.arange(40) + 0.5) / scale - 0.5  # what a pixel's centre shows: i at i + 0.5
    assert np.abs(grey[20] - want).max() < 0.75
  scale, where = view.window_of(np.array([500.0, 400.0, 4000.0]), 512)
  assert scale < 1 and abs(where[0] + 256 / scale - 500) < 1e-6
  assert view.window_of(np.array([500.0, 400.0, 300.0]), 512)[0] == 1.0  # never enlarged


def test_patches_show_the_pixels_about_their_base(skin, keyframe):
  """Warped to its own view a keyframe is itself, at both resolutions."""
  here, keys, corners, px = keyframe
  for factor in warp.FACTORS:
    image = view.pool(here.image, factor)
    base = warp.base_of(jnp.asarray(px), factor)
    patch, both = jax.jit(warp.patches, static_argnums=6)(
      skin.faces, here, keys, image[None], jnp.zeros(len(px), jnp.int32), base, factor
    )
    half = patch.shape[1] // 2
    for k in range(0, len(px), 5):
      x, y = np.asarray(base[k])
      want = np.asarray(image)[y - half : y + half + 1, x - half : x + half + 1]
      sure = np.asarray(both[k]) > 0
      assert sure.mean() > 0.7
      assert np.abs(np.asarray(patch[k]) - want)[sure].max() < 0.05
