"""Formats that hand FLAME's codes on, against second readers that share no code with the writers (`flame_readers`)."""

import dataclasses
import io
import json

import export_clip
import flame_readers as readers
import jax.numpy as jnp
import numpy as np
import pytest
from export_clip import assert_reprojects, assert_wrong, true_pixels
from flame_clip import SIDE, flipped, into_middle, of_lens, of_release, square, within_limits, without_neck, written
from parity import parity_model

from vht_jax.errors import InputError

MISTAKES = ("transposed", "axis")


@pytest.fixture(scope="module")
def scene_2020(flame_scene):
  return within_limits(flame_scene)


@pytest.fixture(scope="module")
def scene_without_neck(flame_scene):
  return without_neck(flame_scene)


@pytest.fixture(scope="module")
def square_scene(flame_scene):
  return square(flame_scene)


def read_gaussian_avatars(files, scene, wrong="", of=None):
  """The second reader's pixels in the clip's images."""
  top = json.loads(files["transforms.json"])
  return readers.gaussian_avatars(files, scene.model, wrong) - into_middle(of or scene, top["w"], top["h"])


def read_vhap(files, scene, wrong="", of=None):
  height, width = readers.npz(files["tracked_flame_params_0.npz"])["image_size"]
  return readers.vhap(files, scene.model, wrong) - into_middle(of or scene, width, height)


@pytest.mark.parametrize("motion", ["camera", "head"])
def test_gaussian_avatars(flame_scene, motion):
  files = written("gaussian-avatars", flame_scene, motion=motion)
  read = lambda f, wrong="", of=None: read_gaussian_avatars(f, flame_scene, wrong, of)
  assert_reprojects(read(files), flame_scene)
  for wrong in MISTAKES if motion == "camera" else ("axis",):  # a camera without rotation has no transpose
    assert_wrong(read(files, wrong), flame_scene)
  other = flipped(flame_scene)
  assert_wrong(read(written("gaussian-avatars", other, motion=motion), of=other), flame_scene)
  frames = json.loads(files["transforms_train.json"])["frames"]
  assert len(frames) == 5 and len(json.loads(files["transforms_test.json"])["frames"]) == 1  # 0.7 of 6, rounded up
  places = np.array([f["transform_matrix"] for f in frames])[:, :3, 3]
  radius = np.linalg.norm(places - places.mean(0), axis=1).max()  # what GaussianAvatars' learning rate hangs on
  assert radius > 0.05 if motion == "camera" else radius == 0
  canonical = readers.npz(files["canonical_flame_param.npz"])
  assert canonical["jaw_pose"].tolist() == [[np.float32(0.3), 0, 0]] and not canonical["expr"].any()
  np.testing.assert_array_equal(canonical["shape"], readers.npz(files["flame_param/00000.npz"])["shape"])


def test_vhap(flame_scene):
  files = written("vhap", flame_scene)
  read = lambda f, wrong="", of=None: read_vhap(f, flame_scene, wrong, of)
  assert_reprojects(read(files), flame_scene)
  for wrong in MISTAKES:
    assert_wrong(read(files, wrong), flame_scene)
  other = flipped(flame_scene)
  assert_wrong(read(written("vhap", other), of=other), flame_scene)
  motion = readers.npz(files["motion.npz"])
  assert all(a.dtype == np.float32 for a in motion.values()) and motion["dynamic_offset"].shape == (6, 5143, 3)


@pytest.mark.parametrize("block", ["opencv", "camera"])
def test_metrical_without_neck(scene_without_neck, block):
  files = written("metrical", scene_without_neck, neck="drop")
  read = lambda f, wrong="": readers.metrical(f, scene_without_neck.model, wrong, block)
  assert_reprojects(read(files), scene_without_neck)
  assert_reprojects(read(written("metrical", scene_without_neck, neck="fold")), scene_without_neck)
  for wrong in MISTAKES:
    assert_wrong(read(files, wrong), scene_without_neck)
  assert_wrong(read(written("metrical", flipped(scene_without_neck), neck="drop")), scene_without_neck)


def test_metrical_with_the_neck_in_the_camera(scene_2020):
  """The head is right but for the neck's correctives; the shoulders are not; without the neck nothing is."""
  still = scene_2020.model.posedirs.at[:9].set(0.0)
  scene = dataclasses.replace(scene_2020, model=scene_2020.model.replace(posedirs=still))
  head = np.flatnonzero(np.asarray(scene.model.lbs_weights)[:, 0] == 0)
  read = lambda **options: readers.metrical(written("metrical", scene, **options), scene.model)
  folded, dropped = read(neck="fold"), read(neck="drop")
  assert len(head) > 1000
  assert_reprojects(folded[:, head], scene, head)
  assert_wrong(folded, scene)
  assert_wrong(dropped[:, head], scene, head)


def test_what_lies_beside_the_frames(scene_without_neck):
  files = written("metrical", scene_without_neck)
  parts = {name: readers.insta(files, name) for name in ("train", "val", "test")}
  assert not set(parts["train"][0]) & set(parts["test"][0]) and len(parts["train"][0]) == 4
  ply = files["mesh/00002.ply"]
  header, _, body = ply.partition(b"end_header\n")
  assert b"element vertex 5023" in header
  vertices = np.frombuffer(body, "<f4", 3 * 5023).reshape(-1, 3)
  c2w, K = parts["train"][0]["images/00002.png"], parts["train"][1]
  w2c = np.linalg.inv(c2w)
  q = (vertices @ w2c[:3, :3].T + w2c[:3, 3]) @ K.T
  assert np.abs(q[:, :2] / q[:, 2:] - true_pixels(scene_without_neck)[2]).max() < 0.02
  code = np.array(files["flame/exp/00002.txt"].split(), np.float64)
  np.testing.assert_allclose(code, np.asarray(scene_without_neck.expr)[2], atol=1e-7)
  assert files["canonical.obj"].count(b"\nv ") == 5022  # and the first line


def test_imavatar(square_scene):
  files = written("imavatar", square_scene)
  assert_reprojects(readers.imavatar(files, square_scene.model, SIDE), square_scene)
  for wrong in (*MISTAKES, "cy"):
    assert_wrong(readers.imavatar(files, square_scene.model, SIDE, wrong), square_scene)
  frames = json.loads(files["flame_params.json"])["frames"]
  for frame, pixels in zip(frames, true_pixels(square_scene)):
    x0, y0, x1, y1 = (np.array(frame["bbox"]) + 1) * SIDE / 2
    inside = np.clip(pixels, 0, SIDE)
    assert x0 <= inside[:, 0].min() + 1e-3 and y1 >= inside[:, 1].max() - 1e-3
    assert np.array(frame["flame_keypoints"]).shape == (68, 2)


def test_imavatar_wants_square_images(scene_2020):
  with pytest.raises(InputError, match="square; these are 500 x 360 px: add --crop"):
    written("imavatar", scene_2020)


def test_nha(scene_2020):
  files = written("nha", scene_2020)
  assert_reprojects(readers.nha(files, scene_2020.model), scene_2020)
  for wrong in (*MISTAKES, "cy"):
    assert_wrong(readers.nha(files, scene_2020.model, wrong), scene_2020)
  person = json.loads(files["frame_0005/keypoints_static_0000.json"])["people"][0]
  face = np.array(person["face_keypoints_2d"]).reshape(68, 3)
  corners, bary = np.asarray(scene_2020.model.lmk_vertices), np.asarray(scene_2020.model.lmk_bary)
  points = (true_pixels(scene_2020)[3][corners] * bary[..., None]).sum(1)
  np.testing.assert_allclose(face[:, :2], points[:68], atol=0.02)
  irises = np.array(person["iris_keypoints_2d"]).reshape(2, 3)
  np.testing.assert_allclose(irises[:, :2], points[[69, 68]], atol=0.02)


def test_nersemble(flame_scene):
  files = written("nersemble", flame_scene)
  assert_reprojects(readers.nersemble(files, flame_scene.model), flame_scene)
  for wrong in (*MISTAKES, "cy"):
    assert_wrong(readers.nersemble(files, flame_scene.model, wrong), flame_scene)


def test_gagavatar(scene_without_neck):
  scene = of_lens(scene_without_neck, 6.0, (0.5, 0.5))
  files = written("gagavatar", scene)
  assert_reprojects(readers.gagavatar(files, scene.model), scene)
  for wrong in MISTAKES:
    assert_wrong(readers.gagavatar(files, scene.model, wrong), scene)
  assert "moved_px" not in json.loads(files["vht_jax_notes.json"])


def test_gagavatar_of_another_camera(scene_without_neck):
  """Seen where it was, as near as the fixed camera can show it, which the notes say."""
  scene = of_lens(scene_without_neck, 4.0, (0.47, 0.55))
  files = written("gagavatar", scene)
  error = np.linalg.norm(readers.gagavatar(files, scene.model) - true_pixels(scene), axis=-1)
  notes = json.loads(files["vht_jax_notes.json"])
  assert error.mean() == pytest.approx(notes["moved_px"], rel=0.1) and 0.1 < notes["moved_px"] < 8
  with pytest.raises(InputError, match="512 x 512 px; these have 500 x 360: add --crop=head --size=512"):
    written("gagavatar", scene_without_neck)


def test_flame_arrays(scene_2020):
  files = written("flame-arrays", scene_2020)
  load = lambda name: np.load(io.BytesIO(files[name]))
  expr, poses, shape = load("expressions.npy"), load("poses.npy"), load("shape.npy")
  assert expr.shape == (6, 100) and poses.shape == (6, 15) and shape.shape == (300,) and expr.dtype == np.float32
  flame = readers.Flame(scene_2020.model, 300, 100)
  f, cx, cy = scene_2020.lens
  found = []
  for i in range(6):
    v, joints = flame(shape, expr[i], [readers.rodrigues(a) for a in poses[i].reshape(5, 3)])
    place = scene_2020.root_position[i]  # the arrays do not say where the head is
    q = (v - joints[0]) @ readers.OPENGL_TO_OPENCV + place
    found.append(f * q[:, :2] / q[:, 2:] + [cx, cy])
  assert_reprojects(found, scene_2020)


def insta_pixels(files):
  """INSTA: the mesh at rest through OpenCV's camera-to-world and K, of all frames of its three files."""
  cameras = {}
  for part in ("train", "val", "test"):
    poses, K = readers.insta(files, part)
    cameras |= {name: (pose, K) for name, pose in poses.items()}
  found = []
  for i, name in enumerate(sorted(cameras)):
    vertices = np.frombuffer(files[f"mesh/{i:05d}.ply"].partition(b"end_header\n")[2], "<f4", 3 * 5023).reshape(-1, 3)
    w2c = np.linalg.inv(cameras[name][0])
    q = (vertices @ w2c[:3, :3].T + w2c[:3, 3]) @ cameras[name][1].T
    found.append(q[:, :2] / q[:, 2:])
  return np.array(found)


READERS = {  # (files, the scene that is right, the one that was written) -> pixels in its images
  "gaussian-avatars": lambda files, scene, of: read_gaussian_avatars(files, scene, of=of),
  "gaussian-avatars --motion=head": lambda files, scene, of: read_gaussian_avatars(files, scene, of=of),
  "vhap": lambda files, scene, of: read_vhap(files, scene, of=of),
  "metrical": lambda files, scene, of: readers.metrical(files, scene.model, block="opencv"),
  "metrical, its other camera": lambda files, scene, of: readers.metrical(files, scene.model, block="camera"),
  "metrical, INSTA": lambda files, scene, of: insta_pixels(files),
  "imavatar": lambda files, scene, of: readers.imavatar(files, scene.model, SIDE),
  "nha": lambda files, scene, of: readers.nha(files, scene.model),
  "nersemble": lambda files, scene, of: readers.nersemble(files, scene.model),
  "gagavatar": lambda files, scene, of: readers.gagavatar(files, scene.model),
}


@pytest.mark.parametrize("mistake", export_clip.MISTAKES)
@pytest.mark.parametrize("kind", READERS)
def test_mistakes_of_every_writer_are_seen(kind, mistake, flame_scene, scene_2020, scene_without_neck, square_scene):
  scene = {"vhap": flame_scene, "nersemble": flame_scene, "imavatar": square_scene, "nha": scene_2020}.get(kind)
  if kind.startswith("metrical"):
    scene = scene_without_neck
  elif kind == "gagavatar":  # its camera is fixed: where the middle is the principal point there is none to mistake
    scene = of_lens(scene_without_neck, 6.0, (0.5, 0.55 if "principal" in mistake else 0.5))
  elif kind.startswith("gaussian"):
    scene = flame_scene
  options = {"motion": "head"} if "--motion" in kind else {}
  read = lambda of: READERS[kind](written(kind.partition(",")[0].partition(" ")[0], of, **options), scene, of)
  if scene.lens.cy == scene.size[0] / 2 or kind != "gagavatar":
    assert_reprojects(read(scene), scene)
  assert_wrong(read(export_clip.mistaken(scene)[mistake]), scene)


def test_a_camera_that_does_not_stand_where_it_usually_does(scene_2020):
  """The same head in another world, seen by a camera with a place and a turn: the same exports."""
  flame_scene = scene_2020
  turn, shift = readers.rodrigues([0.3, -0.5, 0.2]), np.array([0.4, -0.2, 0.7])
  result = flame_scene.result
  camera, poses = result.identity.camera, result.poses
  R = np.asarray(camera.R, np.float64)
  moved = poses.replace(
    rotation=jnp.asarray([_log(turn @ readers.rodrigues(r)) for r in np.asarray(poses.rotation)], jnp.float32),
    translation=jnp.asarray(np.asarray(poses.translation) @ turn.T + shift, jnp.float32),
  )
  other = camera.replace(R=jnp.asarray(R @ turn.T, jnp.float32), T=jnp.asarray(-R @ turn.T @ shift, jnp.float32))
  there = dataclasses.replace(
    flame_scene, result=result.replace(poses=moved, identity=result.identity.replace(camera=other))
  )
  assert_reprojects(readers.nha(written("nha", there), there.model), flame_scene)
  files = written("gaussian-avatars", there, flame_release="2023")
  assert_reprojects(read_gaussian_avatars(files, flame_scene), flame_scene)


def _log(R):
  from scipy.spatial.transform import Rotation

  return Rotation.from_matrix(R).as_rotvec()


def test_frames_without_a_face_teach_nothing(flame_scene):
  status = jnp.asarray([0, 0, 1, 0, 2, 0], jnp.int32)
  scene = dataclasses.replace(flame_scene, result=flame_scene.result.replace(status=status))
  found = read_gaussian_avatars(written("gaussian-avatars", scene), scene)
  rows = [0, 1, 3, 5]
  assert np.abs(found - true_pixels(flame_scene)[rows]).max() < 0.02
  assert len(readers.npz(written("vhap", scene)["motion.npz"])["expr"]) == 6  # a motion goes on without them
  nothing = dataclasses.replace(scene, result=scene.result.replace(status=jnp.full(6, 2, jnp.int32)))
  with pytest.raises(InputError, match="no frame of this result was tracked"):
    written("gaussian-avatars", nothing)


@pytest.mark.parametrize(
  "name, file, says",
  [
    (
      "gaussian-avatars",
      "generic_model.pkl",
      "evaluates FLAME 2023, .* FLAME 2020, .*--flame_model_path=flame2023.pkl",
    ),
    ("vhap", "flame2023_no_jaw.pkl", "FLAME 2023 without jaw, which are another face there"),
    ("metrical", "flame2023.pkl", "evaluates FLAME 2020, .*--flame_model_path=generic_model.pkl"),
    ("nha", "flame2023.pkl", "evaluates FLAME 2020"),
    ("nersemble", "generic_model.pkl", "evaluates FLAME 2023"),
    ("cap4d", "flame2023.pkl", "always fitted anew: name its FLAME file"),
  ],
)
def test_codes_of_another_release_are_refused(flame_scene, name, file, says):
  with pytest.raises(InputError, match=says) as refused:
    written(name, of_release(flame_scene, file))
  assert "\n" not in str(refused.value)


def test_the_user_may_say_which_release_it_is(flame_scene):
  scene = of_release(flame_scene, "generic_model.pkl")
  assert_reprojects(readers.nersemble(written("nersemble", scene, flame_release="2023"), scene.model), scene)


def test_with_flames_own_mesh(shared_data):
  """Not only with the stand-in: FLAME's joints, weights and correctives, which are much larger than the open head's."""
  model = parity_model(shared_data)
  scene = export_clip.scene_of_head(model.replace(name="FLAME (flame2023.pkl)"))
  assert_reprojects(read_gaussian_avatars(written("gaussian-avatars", scene), scene), scene)
  assert_reprojects(readers.nersemble(written("nersemble", scene), scene.model), scene)
  without = dataclasses.replace(
    scene, result=scene.result.replace(poses=scene.result.poses.replace(neck=0 * scene.result.poses.neck))
  )
  files = written("metrical", without, flame_release="2020")
  assert_reprojects(readers.metrical(files, model, block="camera"), without)
