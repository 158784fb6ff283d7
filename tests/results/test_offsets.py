"""A head grows to the outline that masks show, where it may, and stays a head; off is as before."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree

from vht_jax import results
from vht_jax.app.result.source import open_result, scene_of
from vht_jax.cameras import make_camera
from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.masks import silhouette
from vht_jax.results.export.flame_codes.consumers import coded
from vht_jax.results.export.scene import make_scene, of_codes
from vht_jax.results.offsets import with_offsets
from vht_jax.results.offsets.bust import bust_of
from vht_jax.results.offsets.estimate import drawn
from vht_jax.results.offsets.folds import LEAST, normals_of, unfolded
from vht_jax.results.offsets.skin import EARS, INSIDE, free, make_skin
from vht_jax.results.offsets.views import chosen_frames, make_view
from vht_jax.tracking.protocols import NoProgress
from vht_jax.types import Identity, Status, TrackResult

SIZE = (360, 400)
FALL = 0.45  # slope of shoulders
VIEWS = [(yaw, pitch) for pitch in (-0.15, 0.15) for yaw in (-0.6, -0.2, 0.2, 0.6)]


@pytest.fixture(scope="module")
def tracked(small_head):
  """A result whose poses are right, of a head that looks to both sides."""
  n = len(VIEWS)
  rng = np.random.default_rng(0)
  poses = jax.tree.map(lambda a: jnp.repeat(a[None], n, 0), flame.neutral_pose(small_head))
  turns = jnp.asarray([(pitch, np.pi + yaw, 0.0) for yaw, pitch in VIEWS], jnp.float32)
  neck = jnp.asarray(0.1 * rng.standard_normal((n, 3)), jnp.float32)
  identity = Identity(
    shape=jnp.asarray(rng.standard_normal(small_head.shapedirs.shape[-1]), jnp.float32),
    texture=jnp.zeros(small_head.texture_basis.shape[-1]), light=jnp.zeros((9, 3)).at[0].set(3.5),
    camera=make_camera(2.0, (0.52, 0.55)), lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  return TrackResult(
    identity=identity, poses=poses.replace(rotation=turns, neck=neck), energies={}, status=jnp.full(n, Status.TRACKED)
  )


@pytest.fixture(scope="module")
def scene(small_head, tracked):
  return make_scene(small_head, tracked, SIZE)


@pytest.fixture(scope="module")
def hair(small_head, scene):
  """(V, 3) m: two to five centimetres of hair from the head's middle, more at the top and on one side.

  It begins within 25 mm of the face and ends at the height of the ears; nothing of it is the prior's.
  """
  v = scene.neutral
  scalp, face = (np.asarray(small_head.masks[name]) for name in ("scalp", "face"))
  middle = v[scalp].mean(0)
  away = (v - middle) / np.linalg.norm(v - middle, axis=1, keepdims=True)
  begins = np.clip(np.linalg.norm(v[:, None] - v[face][None, ::4], axis=-1).min(1) / 0.025, 0, 1)
  ends = np.clip((v[:, 1] - middle[1] + 0.04) / 0.03, 0, 1)
  thickness = 0.03 + 0.015 * away[:, 1] + 0.005 * away[:, 0]
  return (np.where(scalp, begins * ends * thickness, 0.0)[:, None] * away).astype(np.float32)


def test_only_frames_that_are_tracked_and_sure_are_looked_at(small_head, tracked):
  status = np.array([Status.TRACKED, Status.NO_FACE] + [Status.TRACKED] * (len(VIEWS) - 2))
  confidence = np.array([0.9, 0.9, 0.1] + [0.9] * (len(VIEWS) - 3), np.float32)
  doubted = tracked.replace(status=jnp.asarray(status), confidence=jnp.asarray(confidence))
  scene = make_scene(small_head, doubted, SIZE)
  assert chosen_frames(scene).tolist() == [0, *range(3, len(VIEWS))]
  few = chosen_frames(scene, 3)
  assert len(few) == 3 and not {1, 2} & set(few.tolist())


class Masked:
  """A clip of masks alone."""

  size = SIZE
  has_alpha = True

  def __init__(self, masks):
    self._masks = np.stack(masks)

  def masks(self, indices):
    return self._masks[np.asarray(indices)]


def having(tracked, offset):
  return tracked.replace(identity=tracked.identity.replace(static_offset=jnp.asarray(offset, jnp.float32)))


@pytest.fixture(scope="module")
def masks(small_head, tracked, hair):
  """Of every frame the head with its hair, above shoulders."""
  person = make_scene(small_head, having(tracked, hair), SIZE)
  found = []
  for i in range(len(person)):
    screen = np.concatenate([person.pixels(i), person.camera_vertices(i)[:, 2:]], 1)
    mask = silhouette(screen, np.asarray(small_head.faces), SIZE)
    x, y = np.percentile(person.pixels(i)[np.asarray(small_head.masks["neck"])], 80, axis=0)
    found.append(cv2.ellipse(mask, (int(x), int(y) + 60), (130, 60), 0, 0, 360, 255, -1))
  return found


@pytest.fixture(scope="module")
def offset(small_head, tracked, masks):
  """(V, 3) m, as it is found."""
  return np.asarray(with_offsets(small_head, Masked(masks), tracked).identity.static_offset)


def to_surface(points, vertices, faces):
  """(N,) m from points to a mesh: along its normal at the nearest vertex."""
  near = KDTree(vertices).query(points)[1]
  normal = np.asarray(flame.vertex_normals(jnp.asarray(vertices, jnp.float32), jnp.asarray(faces)))[near]
  return np.abs(np.sum((points - vertices[near]) * normal, -1))


def test_hair_is_found(small_head, scene, hair, offset):
  """Of the whole head, its unseen back included, less than half of the error is left, and of the surface's a third."""
  v, faces = scene.neutral, small_head.faces
  before, after = (np.linalg.norm(hair - o, axis=1) for o in (0, offset))
  assert after.mean() < 0.55 * before.mean()
  assert to_surface(v + hair, v + offset, faces).mean() < 0.42 * to_surface(v + hair, v, faces).mean()
  back = np.asarray(small_head.masks["scalp"]) & (v[:, 2] < -0.1)
  assert before[back].mean() > 0.015 and after[back].mean() < 0.5 * before[back].mean()
  neck = np.asarray(small_head.masks["neck"])
  assert np.linalg.norm(offset[neck], axis=1).mean() < 1e-3


def test_the_face_and_all_landmarks_stay(small_head, tracked, offset):
  person = flame.with_offset(small_head, offset)

  @jax.jit
  def posed(head, pose):
    vertices = flame.skin(head, tracked.identity.shape, pose)
    return vertices, flame.landmarks(head, vertices), flame.dense_landmarks(head, vertices)

  face = np.asarray(small_head.masks["face"])
  for i in (0, 5):
    pose = jax.tree.map(lambda a, i=i: a[i], tracked.poses)
    (plain, *of_plain), (grown, *of_grown) = (jax.tree.map(np.asarray, posed(h, pose)) for h in (small_head, person))
    np.testing.assert_array_equal(plain[face], grown[face])
    for there, here in zip(of_plain, of_grown, strict=True):
      np.testing.assert_array_equal(there, here)


def test_no_triangle_turns_over(small_head, scene, offset):
  faces = np.asarray(small_head.faces)
  turned = np.sum(normals_of(scene.neutral, faces) * normals_of(scene.neutral + offset, faces), -1)
  assert turned.min() >= LEAST - 1e-3


def test_a_hand_in_one_frame_and_a_mask_of_somebody_else_change_little(small_head, tracked, masks, offset):
  other = [mask.copy() for mask in masks]
  scene = make_scene(small_head, tracked, SIZE)
  x, y = scene.pixels(2)[np.asarray(small_head.masks["scalp"])].mean(0).astype(int)
  cv2.rectangle(other[2], (x + 45, y - 25), (x + 110, y + 10), 255, -1)
  other[5][:] = 0
  found = np.asarray(with_offsets(small_head, Masked(other), tracked).identity.static_offset)
  assert np.linalg.norm(found - offset, axis=1).mean() < 5e-4
  assert np.linalg.norm(found - offset, axis=1).max() < 0.012


def test_masks_that_do_not_show_the_head_give_none_and_it_is_told(small_head, tracked):
  told = []

  class Told(NoProgress):
    def note(self, message):
      told.append(message)

  nobody = Masked([np.zeros(SIZE, np.uint8)] * len(VIEWS))
  assert with_offsets(small_head, nobody, tracked, Told()).identity.static_offset is None
  assert len(told) == 1 and "masks" in told[0]
  lost = tracked.replace(status=jnp.full(len(VIEWS), int(Status.NO_FACE)))
  assert with_offsets(small_head, nobody, lost, Told()).identity.static_offset is None


def test_vertices_go_with_their_heights_as_skinning_has_it(small_head, scene, masks):
  """The closed form against differences, through expression, neck and lens."""
  skin = make_skin(small_head, np.asarray(scene.result.identity.shape))
  view = make_view(scene, 3, masks[3])
  rng = np.random.default_rng(0)
  height = rng.uniform(0, 0.02, len(small_head.v_template)).astype(np.float32)
  moved = drawn(scene, skin, height, view)[0]
  step = 1e-3
  ahead, behind = (drawn(scene, skin, height + np.float32(s), view)[0].pixels for s in (step, -step))
  np.testing.assert_allclose((ahead - behind) / (2 * step), moved.slopes, atol=0.3)  # px per m, of 800
  assert np.abs(moved.slopes).max() > 500


def test_what_may_not_grow_is_held(small_head):
  sd = free(small_head)
  for name in ("face", *INSIDE):
    assert (sd[np.asarray(small_head.masks[name])] == 0).all(), name
  assert (sd[np.asarray(small_head.lmk_vertices)] == 0).all()
  ears, scalp = flame.region(small_head, EARS), np.asarray(small_head.masks["scalp"])
  assert sd[ears].max() < 0.006 and np.median(sd[scalp]) > 0.02


def test_hair_may_hang_beside_and_behind_the_neck_and_not_on_the_throat(small_head):
  sd, v = free(small_head), np.asarray(small_head.v_template)
  low = np.asarray(small_head.masks["neck"]) & (v[:, 1] < -0.08)
  around = np.arctan2(np.abs(v[:, 0]), v[:, 2] - np.median(v[low, 2]))  # 0 is ahead
  throat, rest = low & (around < 0.3), low & (around > 1.7)
  assert throat.sum() > 5 and rest.sum() > 20
  assert sd[throat].max() < 0.012 and sd[rest].min() > 0.02


def test_a_spike_is_lowered_where_it_is_and_the_rest_stays(small_head, scene):
  skin = make_skin(small_head, np.asarray(scene.result.identity.shape))
  height = np.where(free(small_head) > 0, 0.002, 0.0).astype(np.float32)
  top = int(np.argmax(scene.neutral[:, 1]))
  height[top] = 0.05
  faces = np.asarray(small_head.faces)
  found = unfolded(scene.neutral, faces, height, skin.direction)
  after = normals_of(scene.neutral + found[:, None] * skin.direction, faces)
  assert (np.sum(normals_of(scene.neutral, faces) * after, -1) >= LEAST).all()
  assert found[top] < height[top] and (found == height).mean() > 0.98
  np.testing.assert_array_equal(unfolded(scene.neutral, faces, found, skin.direction), found)


def test_the_file_has_it_as_vhap_and_what_does_not_fit_is_refused(small_head, tracked, offset, tmp_path):
  config = TrackConfig.of(n_shape=10, n_expr=40, n_tex=4)
  frames = np.arange(len(VIEWS)) + 1
  path, plain = tmp_path / "a.npz", tmp_path / "b.npz"
  results.save_tracked(plain, tracked, frames, SIZE, config, small_head)
  assert "static_offset" not in results.read_npz(plain)
  assert results.load_tracked(plain, small_head).result.identity.static_offset is None
  results.save_tracked(path, having(tracked, offset), frames, SIZE, config, small_head)
  arrays = results.read_npz(path)
  assert arrays["static_offset"].shape == (1, *offset.shape)
  found = results.load_tracked(path, small_head)
  np.testing.assert_array_equal(found.result.identity.static_offset, offset)
  assert found.verdict.same  # the head is the codes', whatever grows on it
  for wrong in (offset, offset[None, :-1], np.full_like(offset, np.nan)[None]):
    results.write_npz(path, {**arrays, "static_offset": wrong})
    with pytest.raises(InputError, match="static_offset"):
      results.load_tracked(path, small_head)


def test_scenes_have_it_and_programs_that_take_codes_get_the_codes(small_head, tracked, offset, scene, caplog):
  person = make_scene(small_head, having(tracked, offset), SIZE)
  np.testing.assert_allclose(person.neutral - scene.neutral, offset, atol=1e-7)
  assert np.abs(person.pixels(1) - scene.pixels(1)).max() > 10
  alone = of_codes(person)
  np.testing.assert_array_equal(alone.camera_vertices(1), scene.camera_vertices(1))
  assert results.head_id(alone.model) == results.head_id(small_head)
  assert alone.result.identity.static_offset is None and of_codes(scene) is scene
  assert coded(person, "vhap").model is small_head and "offsets" in caplog.text
  with pytest.raises(InputError, match="static_offset"):
    make_scene(small_head, having(tracked, offset[:-1]), SIZE)


def test_a_result_that_is_opened_has_them_and_exports_know_the_codes_head(clip_folder, open_head, tmp_path):
  arrays = results.read_npz(clip_folder / results.FILE_NAME)
  grown = np.zeros((1, *open_head.v_template.shape), np.float32)
  grown[0, 5] = [0.0, 0.01, 0.0]
  results.write_npz(tmp_path / "grown.npz", {**arrays, "static_offset": grown})
  source = open_result(str(tmp_path / "grown.npz"))
  np.testing.assert_array_equal(source.head.v_template, open_head.v_template + grown[0])
  np.testing.assert_array_equal(source.whole_head.v_template, open_head.v_template)
  scene = scene_of(source)
  np.testing.assert_array_equal(scene.model.v_template, source.head.v_template)
  assert scene.coded is source.whole_head
  results.write_npz(tmp_path / "other.npz", {**arrays, "static_offset": grown[:, :-1]})
  source = open_result(str(tmp_path / "other.npz"))
  assert source.tracked.result.identity.static_offset is None and any("offsets" in note for note in source.notes)


@pytest.fixture(scope="module")
def bare(small_head, scene):
  """Masks of heads alone."""
  screens = [np.concatenate([scene.pixels(i), scene.camera_vertices(i)[:, 2:]], 1) for i in range(len(scene))]
  return [silhouette(screen, np.asarray(small_head.faces), SIZE) for screen in screens]


@pytest.fixture(scope="module")
def clothed(small_head, scene, bare):
  """The same with shoulders that fall to both sides from where the neck ends, and stay while the head turns."""
  found = []
  for i, mask in enumerate(bare):
    low = scene.pixels(i)[np.asarray(small_head.masks["boundary"])]
    x, y, far = low[:, 0].mean(), low[:, 1].min() - 10, float(SIZE[1])
    outline = [(x, y), (x + far, y + FALL * far), (x + far, 2 * far), (x - far, 2 * far), (x - far, y + FALL * far)]
    found.append(cv2.fillPoly(mask.copy(), [np.round(outline).astype(np.int32)], 255))
  return found


def test_the_rim_comes_to_lie_below_the_throat(small_head):
  share, down = bust_of(small_head)
  v = np.asarray(small_head.v_template)
  rim = np.asarray(small_head.masks["boundary"])
  assert share[rim].min() > 0.99 and np.ptp((v + down)[rim, 1]) < 1e-3
  assert (down[rim, 1] < 0).all() and (v + down)[rim, 1].max() < v[:, 1].min()
  for name in ("face", "scalp", "left_ear"):
    assert (share[np.asarray(small_head.masks[name])] == 0).all(), name
  assert (down[share == 0] == 0).all()


@pytest.mark.slow
def test_a_bust_spreads_to_the_shoulders(small_head, tracked, scene, clothed):
  offset = np.asarray(with_offsets(small_head, Masked(clothed), tracked).identity.static_offset)
  person = make_scene(small_head, having(tracked, offset), SIZE)
  both = {"codes": [], "offsets": []}
  for i, mask in enumerate(clothed):
    known = make_view(scene, i, mask)
    size = known.known.shape
    for name, head in (("codes", scene), ("offsets", person)):
      pixels = (head.pixels(i) - known.origin) * known.scale
      screen = np.concatenate([pixels, head.camera_vertices(i)[:, 2:]], 1)
      ours, theirs = (m & known.known for m in (silhouette(screen, small_head.faces, size) > 127, known.matte > 0.5))
      both[name].append((ours & theirs).sum() / (ours | theirs).sum())
  before, after = np.mean(both["codes"]), np.mean(both["offsets"])
  assert after > 0.95 and 1.0 - after < 0.6 * (1.0 - before)
  faces = np.asarray(small_head.faces)
  turned = np.sum(normals_of(scene.neutral, faces) * normals_of(scene.neutral + offset, faces), -1)
  assert turned.min() > 0
  assert (offset[flame.region(small_head, ("face",))] == 0).all()


@pytest.mark.slow
def test_masks_of_heads_alone_leave_the_rim_where_it_is(small_head, tracked, bare):
  offset = np.asarray(with_offsets(small_head, Masked(bare), tracked).identity.static_offset)
  assert np.linalg.norm(offset[np.asarray(small_head.masks["boundary"])], axis=1).max() < 5e-3
