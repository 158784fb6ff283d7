"""What all frames show of a texture comes back from them, whatever single frames say; what none shows is filled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.app.overlay import draw
from vht_jax.cameras import make_camera
from vht_jax.head import flame
from vht_jax.head.flame import EYEBALLS
from vht_jax.render.picture import render_head
from vht_jax.render.uv_bake import rasterize_uv
from vht_jax.results.texture import baked, grown, n_looks
from vht_jax.results.texture.bake import belief_of, clear, exposed
from vht_jax.results.texture.fill import PAINTED, pushed_and_pulled, spread
from vht_jax.types import Identity, Status, TrackResult

SIZE, SIDE, T = (160, 176), 256, 6


class Film:
  """A `tracking.protocols.Clip` of images alone."""

  def __init__(self, images):
    self.frames, self.size = images, images.shape[1:3]

  def __len__(self):
    return len(self.frames)

  def images(self, indices):
    return self.frames[np.asarray(indices)]


@pytest.fixture(scope="module")
def filmed(small_head):
  """A head with spots that its basis does not have, in six views; its result has no free albedo."""
  y, x = np.mgrid[:SIDE, :SIDE] / SIDE
  spots = 0.12 * np.sin(60 * x) * np.cos(50 * y)
  layer = jnp.asarray(np.repeat(spots[..., None], 3, -1), jnp.float32)
  light = jnp.zeros((9, 3)).at[0].set(0.95 * np.sqrt(4 * np.pi)).at[3].set(-0.2)
  identity = Identity(
    shape=jnp.zeros(small_head.shapedirs.shape[-1]), texture=jnp.zeros(small_head.texture_basis.shape[-1]),
    light=light, camera=make_camera(2.4), lmk_offset=jnp.zeros((70, 3)), texture_layer=layer,
  )  # fmt: skip
  yaws = jnp.pi + jnp.linspace(-0.5, 0.5, T)
  poses = jax.tree.map(lambda a: jnp.repeat(a[None], T, 0), flame.neutral_pose(small_head))
  poses = poses.replace(rotation=jnp.zeros((T, 3)).at[:, 1].set(yaws))
  draw = jax.jit(jax.vmap(lambda pose: render_head(small_head, identity, pose, SIZE, background=jnp.ones(3)).rgb))
  images = np.array(draw(poses))
  result = TrackResult(
    identity=identity.replace(texture_layer=None), poses=poses, energies={}, status=jnp.full(T, int(Status.TRACKED))
  )
  return images, result, layer


@pytest.fixture(scope="module")
def found(small_head, filmed):
  """What is baked of that film, and what was told of its progress."""
  images, result, _ = filmed
  looked = []
  return baked(small_head, Film(as_bytes(images)), result, SIDE, looked.append), looked


# As programs: operation by operation there are a hundred.
texels_of = jax.jit(rasterize_uv, static_argnums=1)
albedo_of = jax.jit(flame.albedo)


def as_bytes(images):
  return np.clip(np.round(255 * images), 0, 255).astype(np.uint8)


def error_of(small_head, result, layer):
  """Median difference of albedo from the truth over the face, seen from the front."""
  face = np.asarray(small_head.masks["face"])[np.asarray(small_head.faces)].all(1)
  ids = np.asarray(texels_of(small_head.uv, (SIDE, SIDE)).pix_to_face)
  there = (ids >= 0) & face[np.maximum(ids, 0)]
  identity = result.identity
  found = albedo_of(small_head, identity.texture, identity.texture_layer)
  truth = albedo_of(small_head, identity.texture, layer)
  return float(np.median(np.abs(np.asarray(found) - np.asarray(truth))[there]))


def test_detail_of_the_images_is_in_the_texture(small_head, filmed, found):
  _, result, layer = filmed
  found, looked = found
  assert found.identity.texture_layer.shape == (SIDE, SIDE, 3)
  assert error_of(small_head, found, layer) < 0.25 * error_of(small_head, result, layer)
  assert len(looked) == n_looks(result) == 2 * T


def test_what_a_single_frame_shows_is_not_in_it(small_head, filmed, found):
  """A dark hand before one frame, another frame at half the exposure."""
  images, result, layer = filmed
  other = images.copy()
  other[2, 40:120, 60:120] = 0.1
  other[4] *= 0.6
  plain = error_of(small_head, found[0], layer)
  assert error_of(small_head, baked(small_head, Film(as_bytes(other)), result, SIDE), layer) < plain + 0.01


def test_frames_that_are_not_tracked_do_not_count(small_head, filmed):
  images, result, _ = filmed
  status = np.asarray(result.status).copy()
  status[3] = Status.INTERPOLATED
  result = result.replace(status=jnp.asarray(status))
  black = images.copy()
  black[3] = 0.0
  found = [baked(small_head, Film(as_bytes(a)), result, SIDE).identity.texture_layer for a in (images, black)]
  np.testing.assert_array_equal(*found)
  nobody = result.replace(status=jnp.full(T, int(Status.NO_FACE)))
  assert baked(small_head, Film(as_bytes(images)), nobody, SIDE) is nobody


def test_an_exposure_is_found_beside_an_occluder():
  rng = np.random.default_rng(0)
  expected = rng.uniform(0.2, 0.8, (64, 64, 3)).astype(np.float32)
  color = expected * [0.8, 0.7, 0.9]
  color[:20] = 0.0
  at_gain, weight, gain = exposed(jnp.asarray(color), jnp.asarray(expected), jnp.ones((64, 64)), 0.06)
  np.testing.assert_allclose(at_gain[20:], expected[20:], atol=0.02)
  np.testing.assert_allclose(gain, 1 / np.array([0.8, 0.7, 0.9]), rtol=0.02)
  assert weight[:20].max() < 0.2 < 0.9 < weight[20:].min()


def test_an_exposure_is_not_too_small_where_much_is_not_explained():
  rng = np.random.default_rng(0)
  color, expected = 0.5 + 0.1 * rng.standard_normal((2, 512, 512, 3)).astype(np.float32)
  gain = exposed(jnp.asarray(color), jnp.asarray(expected), jnp.ones((512, 512)), 0.2)[2]
  np.testing.assert_allclose(gain, 1.0, atol=0.01)


def test_holes_are_filled_from_around_and_what_is_known_stays():
  x = np.linspace(0, 1, 64, dtype=np.float32)
  values = np.repeat(np.broadcast_to(x, (64, 64))[..., None], 3, -1)
  weight = np.ones((64, 64), np.float32)
  weight[24:40, 24:40] = 0.0
  found = pushed_and_pulled(values * weight[..., None], weight)
  known = weight > 0
  np.testing.assert_array_equal(found[known], values[known])
  np.testing.assert_allclose(found[~known], values[~known], atol=0.1)
  nothing = pushed_and_pulled(np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32))
  np.testing.assert_array_equal(nothing, 0.0)


@pytest.mark.slow
def test_what_nobody_saw_has_the_colour_of_the_rest(small_head, filmed):
  """A head that is darker all over than people are, which the fit has seen from the front."""
  images, result, _ = filmed
  ids = np.asarray(texels_of(small_head.uv, (SIDE, SIDE)).pix_to_face)
  scalp = np.asarray(small_head.masks["scalp"])[np.asarray(small_head.faces)].all(1)
  depth = np.asarray(small_head.v_template)[np.asarray(small_head.faces)].mean(1)[:, 2]
  layer = jnp.full((SIDE, SIDE, 3), -0.15)
  identity = result.identity.replace(texture_layer=layer)
  dark = np.array(jax.jit(jax.vmap(lambda pose: render_head(small_head, identity, pose, SIZE).rgb))(result.poses))
  known = ((ids >= 0) & (depth[ids] > 0.02))[..., None]
  fitted = result.identity.replace(texture_layer=jnp.where(known, layer, 0.0))
  found = baked(small_head, Film(as_bytes(dark)), result.replace(identity=fitted), SIDE).identity
  truth, ours = (albedo_of(small_head, result.identity.texture, a) for a in (layer, found.texture_layer))
  behind = (ids >= 0) & scalp[ids] & (depth[ids] < -0.05)
  assert behind.sum() > 1000
  assert np.abs(np.asarray(truth) - np.asarray(ours))[behind].mean() < 0.2 * 0.15


def test_values_spread_over_the_surface_and_not_over_the_texture(small_head):
  faces, rng = np.asarray(small_head.faces), np.random.default_rng(0)
  corners, bary = faces[rng.integers(0, len(faces), 4 * len(faces))], np.full((4 * len(faces), 3), 1 / 3)
  painted = flame.region(small_head, PAINTED) & ~flame.region(small_head, ("lips",))
  front = np.asarray(small_head.v_template)[corners].mean(1)[:, 2] > 0.02
  weight = (front & ~painted[corners].any(1)).astype(float)  # the front's skin is seen
  known = weight[:, None] * [0.1, -0.2, 0.0]
  found = spread(small_head, corners, bary, known, weight)
  skin = flame.region(small_head, ("scalp", "neck")) & ~painted
  np.testing.assert_allclose(found[skin], np.broadcast_to([0.1, -0.2, 0.0], (skin.sum(), 3)), atol=0.03)
  np.testing.assert_array_equal(found[painted], 0.0)


def test_many_views_from_the_side_do_not_make_a_texel_known():
  grazing, straight = 0.15**4, 0.9**4
  assert belief_of(np.float64(1000 * grazing), np.float64(grazing)) == 0.0
  assert belief_of(np.float64(3 * straight), np.float64(straight)) > 0.75


def test_texels_beside_hidden_ones_count_less_and_those_at_a_cut_do_not():
  n = 512
  inside = np.ones((n, n), bool)
  inside[:, 300:] = False  # the island ends, and nothing hides it
  seen = inside.copy()
  seen[:, :100] = False
  found = np.asarray(clear(jnp.asarray(seen), jnp.asarray(inside)))
  assert found[200, 100] < 0.35 and (found[:, 108:300] > 1 - 1e-4).all()
  assert (np.diff(found[200, 95:110]) >= -1e-6).all()


@pytest.mark.slow
def test_eyes_and_mouth_have_the_colours_of_the_images(small_head, filmed):
  """People's own irises and teeth; a layer that images have made is taken for them, the fit's is not."""
  _, result, _ = filmed
  eyes, teeth = (flame.region(small_head, names) for names in (EYEBALLS, ("teeth",)))
  jaw = jnp.zeros((T, 3)).at[:, 0].set(0.35)
  result = result.replace(poses=result.poses.replace(jaw=jaw))
  texels = texels_of(small_head.uv, (SIDE, SIDE))
  of = lambda mask: np.asarray(mask[np.asarray(small_head.faces)].all(1)[np.maximum(texels.pix_to_face, 0)])
  layer = jnp.asarray(np.where(of(eyes)[..., None], [0.0, 0.1, 0.3], np.where(of(teeth)[..., None], -0.4, 0.0)))
  look = draw.make_look(small_head, result.identity.replace(texture_layer=layer.astype(jnp.float32)))
  size = jnp.array([float(n) for n in SIZE])

  @jax.jit
  def frame(look):
    shot = lambda pose: draw.picture(small_head, look, result.identity, pose, jnp.zeros(2), jnp.ones(2), size, SIZE)[0]
    return jax.vmap(shot)(result.poses)

  truth = np.array(frame(look))
  found = baked(small_head, Film(as_bytes(truth)), result, SIDE).identity
  plain, ours = (np.array(frame(draw.make_look(small_head, i))) for i in (result.identity, found))
  changed = np.abs(truth - plain).max(-1) > 0.05
  assert changed.sum() > 50
  assert np.abs(ours - truth)[changed].mean() < 0.4 * np.abs(plain - truth)[changed].mean()


@pytest.mark.slow
def test_what_has_grown_gets_its_colours_from_images_and_the_face_keeps_the_fits(small_head, filmed):
  images, result, _ = filmed
  vertices = np.asarray(small_head.v_template)
  offset = np.where(np.asarray(small_head.masks["scalp"])[:, None], 0.02, 0.0) * vertices / 0.1
  grown_result = result.replace(identity=result.identity.replace(static_offset=jnp.asarray(offset, jnp.float32)))
  found = grown.coloured(small_head, Film(as_bytes(images)), grown_result).identity.texture_layer
  assert found is not None and len(found) == grown.SIDE and flame.of_images(found)
  texture = result.identity.texture
  before = jax.image.resize(albedo_of(small_head, texture), found.shape, "linear")
  change = np.abs(np.asarray(albedo_of(small_head, texture, found)) - np.asarray(before))
  ids = np.asarray(texels_of(small_head.uv, (grown.SIDE, grown.SIDE)).pix_to_face)
  eyes = flame.region(small_head, EYEBALLS)
  face = np.asarray(small_head.masks["face"]) & ~eyes & (np.linalg.norm(offset, axis=1) == 0)
  of = lambda mask: (ids >= 0) & mask[np.asarray(small_head.faces)].all(1)[np.maximum(ids, 0)]
  assert change[of(face)].max() < 1e-3
  assert change[of(np.asarray(small_head.masks["scalp"]) & (vertices[:, 2] > 0.0))].mean() > 0.005


def test_a_share_reaches_beyond_the_islands_of_the_texture(small_head, filmed, found):
  """Texels beside them are looked up together with theirs: a rim of skin would be a bright line on clothes."""
  images, result, _ = filmed
  everywhere = np.ones(len(small_head.v_template), np.float32)
  shared = baked(small_head, Film(as_bytes(images)), result, SIDE, share=everywhere)
  np.testing.assert_allclose(shared.identity.texture_layer, found[0].identity.texture_layer, atol=1e-4)
