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
from parity import parity_model

from vht_jax import cameras
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.results.export import make_scene
from vht_jax.results.export.flame_family import FORMATS

FORMAT = {f.name: f for f in FORMATS}
MISTAKES = ("transposed", "axis")
SIDE = 420  # px, of the square clip


def written(name, scene, **options):
  """An export as {name: bytes}."""
  return dict(FORMAT[name].load()(scene, **options))


def of_release(scene, file):
  return dataclasses.replace(scene, model=scene.model.replace(name=f"FLAME ({file})"))


@pytest.fixture(scope="module")
def scene_2020(flame_scene):
  """Its angles are within VHT's limits, which NHA has as well."""
  poses = flame_scene.result.poses
  jaw = jnp.asarray(np.clip(poses.jaw, *flame.JOINT_LIMITS["jaw"]))
  result = flame_scene.result.replace(poses=poses.replace(jaw=jaw))
  return of_release(dataclasses.replace(flame_scene, result=result), "generic_model.pkl")


@pytest.fixture(scope="module")
def scene_without_neck(flame_scene):
  poses = flame_scene.result.poses
  result = flame_scene.result.replace(poses=poses.replace(neck=0 * poses.neck))
  return of_release(dataclasses.replace(flame_scene, result=result), "generic_model.pkl")


@pytest.fixture(scope="module")
def square_scene(flame_scene):
  """Codes within what IMavatar reads, a square image, the principal point beside its middle."""
  result = flame_scene.result
  used = lambda code, n: jnp.where(jnp.arange(code.shape[-1]) < n, code, 0.0)
  result = result.replace(
    identity=result.identity.replace(shape=used(result.identity.shape, 100)),
    poses=result.poses.replace(expr=used(result.poses.expr, 50)),
  )
  scene = make_scene(flame_scene.model, result, (SIDE, SIDE), frame_ids=export_clip.FRAMES)
  return of_release(scene, "generic_model.pkl")


def flipped(scene):
  """The scene of a tracker that counts the principal point from the bottom."""
  camera = scene.result.identity.camera
  other = cameras.make_camera(camera.focal, (camera.principal[0], 1 - camera.principal[1]))
  result = scene.result.replace(identity=scene.result.identity.replace(camera=other))
  return make_scene(scene.model, result, scene.size, frame_ids=scene.frame_ids, times=scene.times, name=scene.name)


def into_middle(scene, width, height):
  """Where the image's corner is on a canvas whose middle is the principal point, which it has to cover."""
  _, cx, cy = scene.intrinsics[0]
  corner = np.array([width, height]) / 2 - [cx, cy]
  assert (corner > -0.02).all() and (corner + scene.size[::-1] < np.array([width, height]) + 0.02).all()
  assert width * height < 1.5 * scene.size[0] * scene.size[1]  # no larger than it takes
  return corner


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


def of_lens(scene, focal, principal, side=512):
  """The clip seen by another camera, in a square image."""
  camera = cameras.make_camera(focal, principal)
  result = scene.result.replace(identity=scene.result.identity.replace(camera=camera))
  return make_scene(scene.model, result, (side, side), frame_ids=scene.frame_ids)


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


class Dots:
  """Pictures that say their frame by their colour, with a white dot where a vertex is; half of each is the person."""

  masks = "drawn"

  def __init__(self, scene, vertex, masks=True):
    self.scene, self.vertex = scene, vertex
    self.masks = "drawn" if masks else ""

  def rgb(self, i):
    image = np.full((*self.scene.size, 3), export_clip.background(self.scene.frame_ids[i]), np.uint8)
    x, y = np.floor(true_pixels(self.scene)[i, self.vertex]).astype(int)
    image[y - 2 : y + 3, x - 2 : x + 3] = 255
    return image

  def alpha(self, i):
    alpha = np.zeros(self.scene.size, np.uint8)
    alpha[self.scene.size[0] // 2 :] = 255
    return alpha if self.masks else None


def seen_vertex(scene):
  """One that lies in the lower half of every image."""
  height, width = scene.size
  pixels = true_pixels(scene)
  inside = (pixels > [5, height / 2 + 5]) & (pixels < [width - 5, height - 5])
  return int(np.flatnonzero(inside.all((0, 2)))[0])


@pytest.mark.parametrize("name", ["gaussian-avatars", "metrical", "imavatar", "nha", "cap4d", "gagavatar"])
def test_images_are_those_of_their_frames(name, flame_scene, scene_without_neck, scene_2020, square_scene, tmp_path):
  """Each program finds, by its own rule, the frame's image, and the head in it where the dot is; masks fit."""
  import cv2

  square = of_lens(scene_without_neck, 2.0, (0.5, 0.5))
  scene = {"gaussian-avatars": flame_scene, "metrical": scene_without_neck, "imavatar": square_scene, "nha": scene_2020,
           "cap4d": flame_scene, "gagavatar": square}[name]  # fmt: skip
  scene = dataclasses.replace(scene)  # its own cache
  vertex = seen_vertex(scene)
  scene = dataclasses.replace(scene, pictures=Dots(scene, vertex))
  files = cap4d_files(scene, tmp_path) if name == "cap4d" else written(name, scene)
  decode = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
  shift, ids = np.zeros(2), range(6)
  if name == "gaussian-avatars":
    frames = json.loads(files["transforms.json"])["frames"]
    image = lambda i: (decode(files[frames[i]["file_path"]]), decode(files[frames[i]["fg_mask_path"]]))
    shift = into_middle(scene, frames[0]["w"], frames[0]["h"])
  elif name == "metrical":
    both = [decode(files[f"images/{i:05d}.png"]) for i in ids]
    assert files["images/00003.png"] == files["input/00003.png"]
    image = lambda i: (both[i][..., :3], both[i][..., 3])
  elif name == "imavatar":
    paths = [f["file_path"] for f in json.loads(files["flame_params.json"])["frames"]]
    image = lambda i: (
      decode(files[paths[i][2:] + ".png"])[..., :3], decode(files[paths[i][2:].replace("image", "mask") + ".png"])
    )  # fmt: skip
  elif name == "nha":
    image = lambda i: (decode(files[f"frame_{scene.frame_ids[i]:04d}/image_0000.png"]), None)
  elif name == "cap4d":
    names, masks = (sorted(n for n in files if n.startswith(p)) for p in ("images/cam0/", "bg/cam0/"))
    image = lambda i: (decode(files[names[i]]), decode(files[masks[i]]))
    order = json.loads(files["reference_images.json"])
    assert sorted(k for _, k in order) == list(ids) and order[0][0] == "cam0"
    facing = (scene.root_rotation @ scene.rotations[:, 1])[:, 2, 2]  # the face's axis against the camera's
    assert order[0][1] == int(np.argmin(facing))
  else:
    lmdb = pytest.importorskip("lmdb")
    (tmp_path / "data.mdb").write_bytes(files["img_lmdb/data.mdb"])
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as database, database.begin() as transaction:
      stored = [transaction.get(f"head_{i}".encode()) for i in ids]
    image = lambda i: (decode(stored[i]), None)
  for i in ids:
    rgb, mask = image(i)
    x, y = np.floor(true_pixels(scene)[i, vertex] + shift).astype(int)
    colour = export_clip.background(scene.frame_ids[i])
    assert np.abs(rgb[y, x, ::-1].astype(int) - 255).max() < 3
    assert np.abs(rgb[y + 8, x + 8, ::-1].astype(int) - colour).max() < 3
    if mask is not None:
      assert mask[y, x] == 255 and mask[int(shift[1]) + 20, x] == 0
  assert "masks" not in json.loads(files["vht_jax_notes.json"]) or name not in ("nha", "gagavatar")


def cap4d_files(scene, folder):
  """Fitted to the head itself, which has no trouble with its file's landmarks."""
  from vht_jax.results.export.flame_family import cap4d

  original = cap4d.load_target
  cap4d.load_target = lambda path: scene.model
  try:
    return dict(FORMAT["cap4d"].load()(scene, flame_model_path="flame2023_no_jaw.pkl"))
  finally:
    cap4d.load_target = original


def test_images_without_masks(flame_scene, caplog):
  scene = dataclasses.replace(flame_scene)
  scene = dataclasses.replace(scene, pictures=Dots(scene, 0, masks=False))
  files = written("gaussian-avatars", scene)
  assert "images/00000_00.png" in files and not any(n.startswith("fg_masks") for n in files)
  assert "there are no masks (--mask)" in caplog.text
  assert "fg_mask_path" not in json.loads(files["transforms.json"])["frames"][0]
  assert not any(n.endswith(".png") for n in written("gaussian-avatars", scene, images=False))


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
