"""Colours that everything that draws a head shares: even light, eyes that are plausible, and the light in the mouth."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.cameras import make_camera
from vht_jax.head import flame, mouth
from vht_jax.head.lids import WALLS, eyeball_light, lid_light
from vht_jax.render.shade import shade, shading
from vht_jax.results import appearance
from vht_jax.types import Identity

ONE = np.sqrt(4 * np.pi)  # a constant light that leaves an albedo as it is
FRONT = np.array([0.0, 0.0, -1.0])
LUMA = np.array([0.299, 0.587, 0.114])


def identity_of(head, light=None, texture=None):
  light = jnp.zeros((9, 3)).at[0].set(ONE) if light is None else light
  texture = jnp.zeros(head.texture_basis.shape[-1]) if texture is None else texture
  return Identity(
    shape=jnp.zeros(head.shapedirs.shape[-1]), texture=texture, light=light, camera=make_camera(1.6),
    lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip


@pytest.fixture(scope="module")
def eyes(open_head):
  return np.asarray(open_head.masks["left_eyeball"]) | np.asarray(open_head.masks["right_eyeball"])


def test_even_light_and_the_rest_are_the_trackers_shading(open_head, eyes):
  """(texture + 1) relative - 1 = (albedo + 1) light - 1 for every colour and normal, but for the eyes."""
  rng = np.random.default_rng(0)
  light = jnp.asarray(0.1 * rng.standard_normal((9, 3)), jnp.float32).at[0].set(jnp.array([1.1, 1.2, 1.3]) * ONE)
  identity = identity_of(open_head, light)
  normals = rng.standard_normal((50, 1, 3))
  normals = jnp.asarray(normals / np.linalg.norm(normals, axis=-1, keepdims=True), jnp.float32)
  skin = ~appearance._texels(open_head, eyes, open_head.texture_mean.shape[:2])
  albedo = flame.albedo(open_head, identity.texture)[skin][None, ::997]
  even = jnp.asarray(appearance.evenly_lit(open_head, identity)[skin][None, ::997])
  relative = jnp.asarray(appearance.relative_light(identity))
  np.testing.assert_allclose(
    shade(even, shading(relative, normals)), shade(albedo, shading(light, normals)), atol=2e-5
  )  # fmt: skip
  front = shading(relative, jnp.asarray(FRONT, jnp.float32))
  assert np.ptp(front) < 1e-5  # what looks into the camera gets white light


@pytest.mark.parametrize("tint", [(1.0, 1.0, 1.0), (1.17, 1.29, 1.40), (0.95, 0.85, 0.75)])
@pytest.mark.parametrize("code", [0.0, -7.0, 4.0])
def test_eye_whites_that_nothing_was_seen_of_are_neutral_and_but_for_lids_no_darker_than_skin(
  open_head, eyes, tint, code
):
  """Whatever the light and the code that the fit gave them: -6.6 and this light were a real clip's."""
  texture = jnp.zeros(open_head.texture_basis.shape[-1]).at[10:13].set(code)  # iris, iris, white
  light = jnp.zeros((9, 3)).at[0].set(jnp.array(tint) * ONE)
  even = np.clip(appearance.evenly_lit(open_head, identity_of(open_head, light, texture)), 0, 1)
  there = appearance._texels(open_head, eyes, even.shape[:2])
  inner = (
    even[there] / eyeball_light(open_head, np.zeros(open_head.shapedirs.shape[-1]), even.shape[:2])[there][:, None]
  )
  white = inner[inner.mean(-1) >= np.quantile(inner.mean(-1), 0.5)]
  assert np.abs(white - white.mean(-1, keepdims=True)).max() < 0.04  # the painted white's own grain
  face = np.asarray(open_head.masks["face"]) & ~eyes
  skin = np.median(even[appearance._texels(open_head, face, even.shape[:2]) & ~there].mean(-1))
  assert white.mean() > skin - 0.02 and white.max() <= 1.0
  assert inner.mean(-1).min() < 0.35 * white.mean()  # there are pupils


def test_eyes_have_the_colours_that_were_seen_of_them(open_head, eyes):
  """White and iris each, without the shade of the lids that they were seen in."""
  size = open_head.texture_mean.shape[:2]
  light = eyeball_light(open_head, np.zeros(open_head.shapedirs.shape[-1]), size)
  there = appearance._texels(open_head, eyes, size)
  shade = np.asarray(open_head.texture_mean).mean(-1)
  white, iris = there & (shade > 0.8 * np.quantile(shade[there], 0.9)), there & (shade < 0.4)
  wanted = np.zeros((*size, 3))
  wanted[white], wanted[iris] = 0.6, [0.1, 0.2, 0.4]
  seen = light[..., None] * wanted
  bright = 1.2  # (albedo + 1) bright - 1 is what is seen, and the eyes' albedo may be below 0
  layer = ((seen + 1.0) / bright - 1.0 - np.asarray(open_head.texture_mean)) * there[..., None]
  small = layer.reshape(flame.LAYER_SIZE, size[0] // flame.LAYER_SIZE, flame.LAYER_SIZE, -1, 3).mean((1, 3))
  identity = identity_of(open_head, jnp.zeros((9, 3)).at[0].set(bright * ONE))
  even = appearance.evenly_lit(open_head, identity.replace(texture_layer=jnp.asarray(small, jnp.float32)))

  drawn = even / light[..., None]
  np.testing.assert_allclose(np.median(drawn[white], axis=0), 0.6, atol=0.03)
  found = np.median(drawn[iris & (shade > 0.12)], axis=0)
  assert found @ LUMA == pytest.approx(np.array([0.1, 0.2, 0.4]) @ LUMA, abs=0.05)
  # Half of the tint, in logarithms: the rest is that of skin and lids.
  np.testing.assert_allclose(found[1:] / found[:-1], np.sqrt(2.0), rtol=0.1)
  pupil = there & (shade < 0.1)
  assert pupil.any() and even[pupil].max() < 0.15


def test_whites_are_as_bright_as_what_was_seen_of_them(open_head, eyes):
  """Of the rest of a ball only the head's own colour is known, which a bright light makes too bright."""
  identity = identity_of(open_head, jnp.zeros((9, 3)).at[0].set(1.1 * ONE))
  size = open_head.texture_mean.shape[:2]
  there = appearance._texels(open_head, eyes, size)
  seen = eyeball_light(open_head, np.zeros(open_head.shapedirs.shape[-1]), (flame.LAYER_SIZE, flame.LAYER_SIZE)) > 0.55
  layer = jnp.where(jnp.asarray(seen)[..., None], -0.5, jnp.zeros((flame.LAYER_SIZE, flame.LAYER_SIZE, 3)))
  darker = identity.replace(texture_layer=layer)
  rest = there & ~appearance._fitted(darker, size)
  assert 0.6 < rest.sum() / there.sum() < 0.9
  light = eyeball_light(open_head, np.zeros(open_head.shapedirs.shape[-1]), size)[rest]
  white = lambda who: np.quantile(appearance.evenly_lit(open_head, who)[rest].mean(-1) / light, 0.9)
  before, after = white(identity), white(darker)
  assert before == pytest.approx(0.95, abs=0.03), "as bright as painted eyes may be"
  assert after < before - 0.05


def test_a_white_that_looks_darker_than_lashes_make_it_is_half_as_bright_as_skin(open_head, eyes):
  identity = identity_of(open_head)
  layer = jnp.full((flame.LAYER_SIZE, flame.LAYER_SIZE, 3), -0.9)
  size = open_head.texture_mean.shape[:2]
  there = appearance._texels(open_head, eyes, size)
  even, seen = np.full((*size, 3), 0.6), np.asarray(open_head.texture_mean) - 0.9
  painted = appearance.painted_eyes(open_head, identity.replace(texture_layer=layer), even, seen)
  light = eyeball_light(open_head, np.zeros(open_head.shapedirs.shape[-1]), size)
  assert np.quantile((painted / light[..., None])[there], 0.5) == pytest.approx(0.3, abs=0.03)
  np.testing.assert_array_equal(painted[~there], even[~there])


def test_a_head_without_colours_is_painted_all_the_same(open_head):
  """As in a rehearsal, whose programs give blanks."""
  black = jax.tree.map(jnp.zeros_like, (open_head.texture_mean, open_head.texture_basis))
  head = open_head.replace(texture_mean=black[0], texture_basis=black[1])
  assert np.isfinite(appearance.evenly_lit(head, identity_of(head))).all()


def test_a_lid_takes_light_as_a_long_wall_does():
  """At a distance as long as the wall is high it covers 45 degrees: (1 - cos 45) / 2; at its foot half of all."""
  lids = np.array([[-1, 0, 0], [-1 / 3, 0, 0], [1 / 3, 0, 0], [1, 0, 0], [1 / 3, -9, 0], [-1 / 3, -9, 0]], float)
  high = WALLS[0]
  points = np.array([[0, -high, 0], [0, -1e-9, 0], [0, -100 * high, 0], [0, high, 0]])
  np.testing.assert_allclose(
    lid_light(points, lids), [1 - 0.5 * (1 - np.sqrt(0.5)), 0.5, 1.0, 0.5], atol=2e-3
  )  # fmt: skip


def test_the_top_of_an_eye_is_darker_than_its_middle_and_both_eyes_are_alike(open_head, eyes):
  size = open_head.texture_mean.shape[:2]
  light = eyeball_light(open_head, np.zeros(open_head.shapedirs.shape[-1]), size)
  there = appearance._texels(open_head, eyes, size)
  pupil = there & (np.asarray(open_head.texture_mean).mean(-1) < 0.1)
  assert light[~cv2.dilate(there.astype(np.uint8), np.ones((9, 9))).astype(bool)].min() == 1.0
  assert 0.25 <= light[there].min() < 0.5 and 0.6 < light[pupil].min() <= light[pupil].max() < 0.97
  rows, columns = np.nonzero(pupil)
  for side in (columns < columns.mean(), columns > columns.mean()):
    middle, column = round(rows[side].mean()), round(columns[side].mean())
    upwards = light[middle - 8 : middle + 1, column][::-1]  # rows count down
    assert (np.diff(upwards) < 2e-3).all() and upwards[-1] < upwards[0] - 0.2
  without = {k: v for k, v in open_head.masks.items() if "eyeball" not in k}
  assert (eyeball_light(open_head.replace(masks=without), np.zeros(open_head.shapedirs.shape[-1]), size) == 1.0).all()


def test_eyes_in_the_shade_are_darker_and_not_black(open_head):
  """A fifth less light is a fifth less of every colour of an eye, and the tracker's shading on skin."""
  even, light = jnp.array([[0.1, 0.08, 0.06]]), jnp.full((1, 3), 0.8)
  np.testing.assert_allclose(appearance.lit(even, light, jnp.ones((1, 1))), 0.8 * even, rtol=1e-6)
  np.testing.assert_allclose(appearance.lit(even, light, jnp.zeros((1, 1))), (even + 1) * 0.8 - 1, rtol=1e-5)


def test_the_far_side_has_the_light_of_the_near_one():
  """Whatever camera: what it sees keeps its normal, all else has the mirrored one, which it would see."""
  rng = np.random.default_rng(1)
  unit = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)
  normal, ahead = unit(rng.standard_normal((4, 50, 3))), unit(rng.standard_normal(3))
  found = np.asarray(appearance.seen_side(jnp.asarray(normal, jnp.float32), jnp.asarray(ahead, jnp.float32)))
  facing = normal @ ahead
  np.testing.assert_allclose(found[facing > 0], normal[facing > 0], atol=1e-6)
  np.testing.assert_allclose(found @ ahead, np.abs(facing), atol=1e-6)
  flat = lambda n: n - (n @ ahead)[..., None] * ahead
  np.testing.assert_allclose(flat(found), flat(normal), atol=1e-6)


def test_a_head_without_known_eyes_keeps_its_colours(open_head):
  masks = {k: v for k, v in open_head.masks.items() if "eyeball" not in k}
  head = open_head.replace(masks=masks)
  even = appearance.evenly_lit(head, identity_of(open_head))
  np.testing.assert_allclose(even, flame.albedo(open_head, jnp.zeros(open_head.texture_basis.shape[-1])), atol=1e-5)


def test_light_in_the_mouth_grows_with_the_jaw(open_head):
  """Teeth are in the dark of a closed mouth and get more light the wider it is; the skin all of it."""
  inside = jnp.asarray(mouth.inside_mouth(open_head), jnp.float32)
  neutral = flame.neutral_pose(open_head)
  teeth, cavity = np.asarray(open_head.masks["teeth"]), np.asarray(open_head.masks["mouth_cavity"]) & (inside > 0)

  @jax.jit
  def light(jaw):
    pose = neutral.replace(jaw=jnp.array([1.0, 0.0, 0.0]) * jaw)
    return mouth.lit_mouth(open_head, flame.skin(open_head, jnp.zeros(open_head.shapedirs.shape[-1]), pose), inside)[0]

  found = [np.asarray(light(jnp.float32(jaw))) for jaw in (0.0, 0.15, 0.3, 0.5)]
  assert all((one[inside == 0] == 1.0).all() for one in found)
  for part in (teeth, cavity):
    means = [one[part].mean() for one in found]
    assert (np.diff(means) > 0).all()
  assert found[0][teeth].mean() < 0.2
  # Front teeth are well lit in a wide mouth, the throat never.
  assert 0.5 < np.quantile(found[-1][teeth], 0.9) < 0.98 and np.quantile(found[-1][cavity], 0.1) < 0.1


def test_the_mean_light_counts_frames_by_the_opening(open_head):
  """Of a clip that is closed but for a few frames, a file shows the mouth nearly as these frames do."""
  inside = jnp.asarray(mouth.inside_mouth(open_head), jnp.float32)
  shape = jnp.zeros(open_head.shapedirs.shape[-1])
  neutral = flame.neutral_pose(open_head)
  clip = lambda jaws: dataclasses.replace(
    jax.tree.map(lambda x: jnp.broadcast_to(x, (len(jaws), *x.shape)), neutral),
    jaw=jnp.asarray(jaws, jnp.float32)[:, None] * jnp.array([[1.0, 0.0, 0.0]]),
  )
  mean = jax.jit(mouth.mean_light)
  rows = mouth.shown_frames(40)
  assert len(rows) == len(mouth.shown_frames(3)) and rows[0] == 0 and rows[-1] == 39
  opened, closed = mean(open_head, inside, shape, clip([0.4] * 16)), mean(open_head, inside, shape, clip([0.0] * 16))
  mixed = mean(open_head, inside, shape, clip([0.0] * 12 + [0.4] * 4))
  teeth = np.asarray(open_head.masks["teeth"])
  assert closed[teeth].mean() < 0.35 and abs(mixed - opened)[teeth].mean() < 0.35 * abs(closed - opened)[teeth].mean()
