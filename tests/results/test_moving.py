"""Offsets of single frames: hair that swings on a drawn head, what is kept where nothing is seen, files and exports."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax import cameras, results
from vht_jax.app.options.settings import parse
from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.masks import silhouette
from vht_jax.results.export.registry import export
from vht_jax.results.export.scene import make_scene, of_codes
from vht_jax.results.offsets import with_moving_surface
from vht_jax.results.offsets.folds import normals_of
from vht_jax.results.offsets.skin import make_skin
from vht_jax.results.quality import projected_landmarks
from vht_jax.types import Identity, Status, TrackResult
from vht_jax.viewer.editing.session import Session

SIZE, N = (180, 160), 4
LOST = 2  # a frame that is not tracked


class Masks:
  """A clip that is its own alpha."""

  size, has_alpha = SIZE, True

  def __init__(self, masks):
    self._masks = masks

  def masks(self, indices):
    return np.stack([self._masks[i] for i in indices])


def still(head):
  """N frames of a head that looks ahead; one is lost."""
  neutral = flame.neutral_pose(head)
  poses = jax.tree.map(lambda x: jnp.repeat(x[None], N, 0), neutral)
  identity = Identity(
    shape=jnp.zeros(head.shapedirs.shape[-1]), texture=jnp.zeros(head.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)).at[0].set(3.5), camera=cameras.make_camera(2.0), lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  status = np.full(N, Status.TRACKED)
  status[LOST] = Status.INTERPOLATED
  return TrackResult(identity=identity, poses=poses, energies={}, status=jnp.asarray(status))


def outline(head, result, t):
  """(H, W) uint8 of frame t."""
  scene = make_scene(head, result, SIZE)
  return silhouette(np.concatenate([scene.pixels(t), scene.camera_vertices(t)[:, 2:]], 1), np.asarray(head.faces), SIZE)


def likeness(a, b):
  a, b = a > 127, b > 127
  return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def swinging(small_head):
  """Head, its result as codes have it, the true one whose hair swings to one side, masks, what is found."""
  result = still(small_head)
  skin = make_skin(small_head, np.zeros(small_head.shapedirs.shape[-1]))
  aside = np.tanh(np.asarray(small_head.v_template)[:, 0] / 0.05)  # out on one side, in on the other
  swing = np.array([0.0, 0.2, 0.3, 0.4], np.float32)
  true = swing[:, None, None] * (aside * skin.sd)[None, :, None] * np.asarray(skin.direction)[None]
  moved = result.replace(poses=result.poses.replace(offset=jnp.asarray(true)))
  masks = [outline(small_head, moved, t) for t in range(N)]
  return small_head, result, moved, masks, with_moving_surface(small_head, Masks(masks), result)


def test_outline_follows_and_the_face_does_not(swinging):
  head, result, _, masks, found = swinging
  before, after = ([likeness(outline(head, r, t), masks[t]) for t in range(N)] for r in (result, found))
  assert after[0] > 0.999 and (np.array(after) >= np.array(before))[1:].all(), (before, after)
  assert after[3] > 1 - 0.6 * (1 - before[3])
  offset = np.asarray(found.poses.offset)
  assert offset.shape == (N, *head.v_template.shape) and not offset[:, np.asarray(head.masks["face"])].any()
  size = np.linalg.norm(offset, axis=-1).max(1)
  assert size[0] < 0.5 * size[3] and 0 < size[LOST] <= size.max()  # nothing is seen there: as its neighbours are
  for name in ("expr", "rotation", "translation", "neck", "jaw", "eyes"):
    np.testing.assert_array_equal(getattr(found.poses, name), getattr(result.poses, name))
  before = normals_of(np.asarray(head.v_template), np.asarray(head.faces))
  for one in offset:
    after = normals_of(np.asarray(head.v_template) + one, np.asarray(head.faces))
    assert (np.sum(before * after, 1)[before.any(1)] > 0).all()  # no triangle turns over


def test_shots_say_nothing_of_each_other(swinging):
  head, result, _, masks, found = swinging
  apart = np.asarray(with_moving_surface(head, Masks(masks), result, starts=range(N)).poses.offset)
  assert not apart[LOST].any()
  assert np.abs(apart[3]).max() >= np.abs(np.asarray(found.poses.offset)[3]).max()


def test_landmarks_do_not_move(swinging):
  head, result, _, _, found = swinging
  np.testing.assert_array_equal(*(projected_landmarks(head, r, SIZE) for r in (result, found)))


def test_skinning_has_it_once(swinging):
  head, result, moved, _, _ = swinging
  shape = result.identity.shape
  pose = jax.tree.map(lambda x: x[3], moved.poses)
  own = flame.skin(flame.with_offset(head, pose.offset), shape, pose.replace(offset=None))
  np.testing.assert_array_equal(flame.skin(head, shape, pose), own)
  scene = make_scene(head, moved, SIZE)
  assert np.abs(scene.camera_vertices(3) - scene.camera_vertices(0)).max() > 0.01
  assert of_codes(scene).result.poses.offset is None


def test_file_and_refusals(swinging, tmp_path):
  head, _, moved, _, _ = swinging
  config = TrackConfig.of(n_shape=10, n_expr=head.exprdirs.shape[-1], n_tex=4)
  path = tmp_path / results.FILE_NAME
  results.save_tracked(path, moved, np.arange(1, N + 1), SIZE, config, head)
  with np.load(path) as data:
    assert data["dynamic_offset"].shape == (N, *head.v_template.shape)  # VHAP's key and shape
    arrays = dict(data)
  again = results.load_tracked(path, head).result.poses
  np.testing.assert_allclose(again.offset, moved.poses.offset, atol=1e-5)
  for broken in (
    arrays["dynamic_offset"][:2],
    arrays["dynamic_offset"][:, :7],
    np.full_like(arrays["dynamic_offset"], np.inf),
  ):
    np.savez(path, **{**arrays, "dynamic_offset": broken})
    with pytest.raises(InputError, match="dynamic_offset: expected"):
      results.load_tracked(path, head)
  with pytest.raises(InputError, match="--dynamic_offsets has no effect without --offsets"):
    parse(["--video=a.mp4", "--dynamic_offsets"])


def test_editing_leaves_it(swinging, tmp_path):
  head, _, moved, _, _ = swinging
  config = TrackConfig.of(n_shape=10, n_expr=head.exprdirs.shape[-1], n_tex=4)
  path = tmp_path / results.FILE_NAME
  results.save_tracked(path, moved, np.arange(1, N + 1), SIZE, config, head)
  session = Session(results.load_tracked(path, head).result)
  session.change(1, "neck", neck=np.array([0.1, 0.0, 0.0]))
  assert session.blend(1, 2) and session.edited.tolist() == [True, True, True, True]
  arrays = results.read_npz(path)
  session.save(tmp_path / "edited.npz", arrays)
  with np.load(tmp_path / "edited.npz") as data:
    np.testing.assert_array_equal(data["dynamic_offset"], arrays["dynamic_offset"])
    assert (data["neck_pose"] != arrays["neck_pose"])[:, 0].all()


def test_formats_that_cannot_have_it_say_so(swinging, tmp_path, caplog):
  head, result, moved, _, _ = swinging
  with caplog.at_level(logging.WARNING, "vht_jax"):
    export(make_scene(head, moved, SIZE), "glb,ply", tmp_path / "a")
  assert [r.message for r in caplog.records if "single frames" in r.message] == [
    "glb: has one surface for the clip: the offsets of single frames (--dynamic_offsets) are left out"
  ]
  export(make_scene(head, result, SIZE), "glb,ply", tmp_path / "b")
  glb, ply = (sorted((tmp_path / "a").rglob(f"*.{kind}")) for kind in ("glb", "ply"))
  same = lambda path: path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
  assert same(glb[0]) and same(ply[0]) and not same(ply[3])
