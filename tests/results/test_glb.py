"""The .glb export against a second reader that shares no code with it (`glb_reader`)."""

import io
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from export_clip import MISTAKES, TIMES, assert_reprojects, assert_wrong, mistaken
from glb_reader import Glb

from vht_jax import cameras
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.results.export.glb import glb_bytes, to_glb
from vht_jax.results.export.motion import matrices, quaternions
from vht_jax.types import Identity, Status, TrackResult

SIZE = (360, 500)  # H, W px


@pytest.fixture(scope="module")
def clip(open_head):
  """Eight frames with every degree of freedom in use, seen by a camera whose principal point is not in the middle."""
  n, rng = 8, np.random.default_rng(3)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  neutral = flame.neutral_pose(open_head)
  poses = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), neutral)
  poses = poses.replace(
    expr=0.5 * jnp.abs(draw(n, 40)).at[:, 7].set(0.0),
    rotation=poses.rotation + 0.4 * draw(n, 3),
    translation=poses.translation + 0.1 * draw(n, 3),
    neck=0.2 * draw(n, 3),
    jaw=jnp.abs(draw(n, 3)) * jnp.array([[0.3, 0.001, 0.001]]),
    eyes=0.2 * draw(n, 2, 3),
  )
  identity = Identity(
    shape=draw(open_head.shapedirs.shape[-1]),
    texture=0.3 * draw(open_head.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)).at[0].set(3.5),
    camera=cameras.make_camera(1.9, (0.46, 0.57)),
    lmk_offset=jnp.zeros((70, 3)),
    texture_layer=0.05 * draw(16, 16, 3),
  )
  return TrackResult(identity=identity, poses=poses, energies={}, status=jnp.full(n, Status.TRACKED))


@pytest.fixture(scope="module")
def truth(open_head, clip):
  """(T, V, 3) vertices in our world, (T, V, 2) their pixels."""
  vertices = jax.jit(jax.vmap(lambda pose: flame.skin(open_head, clip.identity.shape, pose)))(clip.poses)
  pixels = cameras.project(clip.identity.camera, vertices, SIZE)[..., :2]
  return np.asarray(vertices, np.float64), np.asarray(pixels)


@pytest.mark.parametrize("compact, most_mm", [(False, 0.001), (True, 0.05)])
def test_another_reader_finds_the_same_vertices_and_pixels(open_head, clip, truth, compact, most_mm):
  file = Glb(glb_bytes(open_head, clip, SIZE, compact=compact))
  times, vertices = file.frames()
  np.testing.assert_allclose(times, np.arange(8) / 25, atol=1e-6)
  mesh = file.json["meshes"][0]["primitives"][0]
  number = file.array(mesh["attributes"]["_VERTEX"])[:, 0].astype(int)
  assert set(number) == set(np.unique(open_head.faces))
  world_to_opengl = np.diag([-1.0, 1.0, -1.0])
  for key in range(8):
    found = vertices(key)
    error = np.linalg.norm(found - truth[0][key][number] @ world_to_opengl, axis=1)
    assert 1000 * error.max() < most_mm
    assert np.abs(file.pixels(found) - truth[1][key][number]).max() < 0.02


def test_the_comparison_can_fail(open_head, clip, truth):
  """A transposed rotation, a flipped axis and a principal point counted from the bottom are seen."""
  file = Glb(glb_bytes(open_head, clip, SIZE))
  number = file.array(file.json["meshes"][0]["primitives"][0]["attributes"]["_VERTEX"])[:, 0].astype(int)
  points = file.frames()[1](0)
  off = lambda p: np.abs(file.pixels(p) - truth[1][0][number]).max()
  assert off(points) < 0.02
  assert off(points * [1, -1, 1]) > 5
  centre = points.mean(0)
  assert off((points - centre) @ matrices(np.asarray(clip.poses.neck[0])) + centre) > 5
  flipped = clip.replace(identity=clip.identity.replace(camera=cameras.make_camera(1.9, (0.46, 0.43))))
  wrong = Glb(glb_bytes(open_head, flipped, SIZE))
  assert np.abs(wrong.pixels(wrong.frames()[1](0)) - truth[1][0][number]).max() > 5


def test_faces_texture_and_normals(open_head, clip):
  from PIL import Image

  file = Glb(glb_bytes(open_head, clip, SIZE, compact=True))
  mesh = file.json["meshes"][0]["primitives"][0]
  array = lambda name: file.array(mesh["attributes"][name])
  number, uv = array("_VERTEX")[:, 0].astype(int), array("TEXCOORD_0")
  triangles = file.array(mesh["indices"]).astype(int).reshape(-1, 3)
  np.testing.assert_array_equal(number[triangles], open_head.faces)
  np.testing.assert_allclose(uv[triangles] * [1, -1] + [0, 1], open_head.uv, atol=2e-5)
  view = file.json["bufferViews"][file.json["images"][0]["bufferView"]]
  image = Image.open(io.BytesIO(file.binary[view["byteOffset"] :][: view["byteLength"]]))
  albedo = np.asarray(flame.albedo(open_head, clip.identity.texture, clip.identity.texture_layer)) * 255
  assert np.abs(np.asarray(image, np.float64) - albedo).mean() < 3
  head = open_head.v_template + open_head.shapedirs @ clip.identity.shape
  normals = np.asarray(flame.vertex_normals(head, open_head.faces))
  assert np.abs(array("NORMAL") - normals[number]).max() < 0.01
  # the normals' morphs: the normals of the face with one unit
  names = file.json["meshes"][0]["extras"]["targetNames"]
  smile = names.index("mouthSmileLeft")
  moved = head + open_head.exprdirs[..., open_head.expr_names.index("mouthSmileLeft")]
  change = np.asarray(flame.vertex_normals(moved, open_head.faces)) - normals
  assert np.abs(file.array(mesh["targets"][smile]["NORMAL"]) - change[number]).max() < 0.01
  units = [name for i, name in enumerate(open_head.expr_names) if i != 7]  # 7 is not used by this clip
  assert names[:39] == units and all(name.startswith("corrective_") for name in names[39:])


def test_times_are_the_frames_own(open_head, clip):
  own = np.array([5.0, 5.1, 5.15, 5.2, 5.3, 5.4, 5.45, 5.5])
  np.testing.assert_allclose(Glb(glb_bytes(open_head, clip, SIZE, own)).frames()[0], own - 5.0, atol=1e-6)
  for wrong in (own[:-1], own[::-1], np.full(8, np.nan)):
    with pytest.raises(InputError, match="8 rising"):
      glb_bytes(open_head, clip, SIZE, wrong)


def test_poses_that_are_not_finite_are_refused(open_head, clip):
  broken = clip.replace(poses=clip.poses.replace(jaw=clip.poses.jaw.at[2, 0].set(jnp.nan)))
  with pytest.raises(InputError, match="finite"):
    glb_bytes(open_head, broken, SIZE)


def test_same_bytes_for_the_same_clip(open_head, clip):
  assert glb_bytes(open_head, clip, SIZE, compact=True) == glb_bytes(open_head, clip, SIZE, compact=True)


def test_quaternions_are_continuous_and_right():
  turns = np.linspace(0, 4 * np.pi, 200)[:, None] * np.array([0.6, 0.0, 0.8])
  q = quaternions(matrices(turns))
  np.testing.assert_allclose(np.linalg.norm(q, axis=1), 1.0)
  assert np.abs(np.diff(q, axis=0)).max() < 0.1
  x, y, z, w = q.T
  np.testing.assert_allclose(1 - 2 * (y * y + z * z), matrices(turns)[:, 0, 0], atol=1e-12)
  np.testing.assert_allclose(2 * (x * y - z * w), matrices(turns)[:, 0, 1], atol=1e-12)
  np.testing.assert_allclose(matrices(np.zeros(3)), np.eye(3))


def test_an_independent_parser_reads_it(open_head, clip):
  pygltflib = pytest.importorskip("pygltflib")
  data = glb_bytes(open_head, clip, SIZE)
  parsed = pygltflib.GLTF2.load_from_bytes(data)
  assert [n.name for n in parsed.nodes] == ["camera", "head", "root", "neck", "jaw", "eye_left", "eye_right"]
  assert parsed.animations[0].name == "clip" and len(parsed.animations[0].channels) == 11
  assert json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])["asset"]["version"] == "2.0"


def pixels_of(scene):
  """(T, V', 2) px of the file's vertices, and their numbers on the head."""
  ((name, data),) = to_glb(scene)
  assert name == "clip.glb"
  file = Glb(data)
  times, vertices = file.frames()
  np.testing.assert_allclose(times, TIMES, atol=1e-6)
  number = file.array(file.json["meshes"][0]["primitives"][0]["attributes"]["_VERTEX"])[:, 0].astype(int)
  return np.array([file.pixels(vertices(key)) for key in range(len(times))]), number


def test_a_scene_of_flames_reprojects(flame_scene):
  found, number = pixels_of(flame_scene)
  assert_reprojects(found, flame_scene, number)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake, clip_scene):
  found, number = pixels_of(mistaken(clip_scene)[mistake])
  assert_wrong(found, clip_scene, number)
