"""Cameras around a head at rest (nerfstudio, instant-ngp, COLMAP): readers of their own, and COLMAP's."""

import io
import json

import numpy as np
import pytest
from export_clip import MISTAKES, SIZE, assert_reprojects, assert_wrong, background, mistaken
from PIL import Image
from scipy.spatial.transform import Rotation

from vht_jax.errors import InputError
from vht_jax.results.export import export, to_colmap, to_nerf


def head_points(scene, i):
  """(V, 3) of frame i in the head's frame: the root's and the neck's rotations undone about their joints."""
  pose, joints = scene.result.poses, scene.joints[i]
  neck = Rotation.from_rotvec(np.asarray(pose.neck[i], float)).as_matrix()
  return (scene.head_vertices(i) - joints[1]) @ neck + joints[1]


def nerf_pixels(files, scene, transpose=False, flip=(1, -1, -1)):
  """nerfstudio: camera-to-world, columns 1 and 2 negated, inverted, pinhole."""
  content = json.loads(files["transforms.json"])
  assert content["camera_model"] == "OPENCV" and not any(content[k] for k in ("k1", "k2", "p1", "p2"))
  frames = sorted(content["frames"], key=lambda f: f["file_path"])
  assert [f["file_path"] for f in frames] == [f["file_path"] for f in content["frames"]]
  found = []
  for i, frame in enumerate(frames):
    lens = content | frame
    c2w = np.array(frame["transform_matrix"]) * [*flip, 1]
    if transpose:
      c2w[:3, :3] = c2w[:3, :3].T
    w2c = np.linalg.inv(c2w)
    q = head_points(scene, i) @ w2c[:3, :3].T + w2c[:3, 3]
    found.append(q[:, :2] / q[:, 2:] * [lens["fl_x"], lens["fl_y"]] + [lens["cx"], lens["cy"]])
  return np.array(found)


def colmap_pixels(files, scene):
  rows = lambda name: [line.split() for line in files[f"sparse/0/{name}"].decode().split("\n") if line[:1] != "#"]
  cameras = {row[0]: row[1:] for row in rows("cameras.txt") if row}
  lines = rows("images.txt")
  found = []
  for i, row in enumerate(lines[0:12:2]):
    assert row[-1] == f"{i + 1:05d}.png" and lines[2 * i + 1] == []
    w, x, y, z, *place = map(float, row[1:8])
    kind, width, height, *lens = cameras[row[8]]
    assert (kind, width, height) == ("PINHOLE", "500", "360")
    fx, fy, cx, cy = map(float, lens)
    q = head_points(scene, i) @ Rotation.from_quat([x, y, z, w]).as_matrix().T + place
    found.append(q[:, :2] / q[:, 2:] * [fx, fy] + [cx, cy])
  return np.array(found)


READERS = {"nerf": (to_nerf, nerf_pixels), "colmap": (to_colmap, colmap_pixels)}


@pytest.mark.parametrize("kind", READERS)
def test_all_vertices_reproject(kind, clip_scene):
  write, read = READERS[kind]
  assert_reprojects(read(dict(write(clip_scene)), clip_scene), clip_scene)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("kind", READERS)
def test_mistakes_are_seen(kind, mistake, clip_scene):
  write, read = READERS[kind]
  assert_wrong(read(dict(write(mistaken(clip_scene)[mistake])), clip_scene), clip_scene)


def test_a_reader_with_other_axes_is_seen(clip_scene):
  files = dict(to_nerf(clip_scene))
  assert_wrong(nerf_pixels(files, clip_scene, transpose=True), clip_scene)
  assert_wrong(nerf_pixels(files, clip_scene, flip=(1, 1, 1)), clip_scene)


def test_lenses_that_follow_the_head(clip_scene):
  import dataclasses

  moving = dataclasses.replace(clip_scene, intrinsics=clip_scene.intrinsics + np.arange(6)[:, None] * [0, 2, 3])
  for kind, (write, read) in READERS.items():
    found = read(dict(write(moving)), clip_scene)
    assert_reprojects(found - np.arange(6)[:, None, None] * [2, 3], clip_scene), kind


def test_images_are_those_of_the_frames(clip_with_images, tmp_path):
  for kind, where in (("nerf", "images"), ("colmap", "images")):
    files = dict(READERS[kind][0](clip_with_images))
    for i, number in enumerate(clip_with_images.frame_ids):
      image = np.asarray(Image.open(io.BytesIO(files[f"{where}/{i + 1:05d}.png"])))
      assert image.shape == (*SIZE, 3) and tuple(image[0, 0]) == background(number)
    assert not any("mask" in name for name in files) and "mask_path" not in files.get("transforms.json", b"").decode()
    assert not any(n.startswith("images/") for n in dict(READERS[kind][0](clip_with_images, images=False)))


class Masked:
  masks = "drawn"

  def rgb(self, i):
    return np.full((*SIZE, 3), 10 * i, np.uint8)

  def alpha(self, i):
    return np.full(SIZE, 20 * i, np.uint8)


def test_bridged_frames_are_left_out(clip_scene):
  import dataclasses

  status = np.array([0, 1, 0, 0, 2, 0])
  bridged = dataclasses.replace(clip_scene, pictures=Masked(), result=clip_scene.result.replace(status=status))
  kept = np.flatnonzero(status == 0)
  files = dict(to_nerf(bridged))
  frames = json.loads(files["transforms.json"])["frames"]
  whole = json.loads(dict(to_nerf(clip_scene))["transforms.json"])["frames"]
  for k, frame in enumerate(frames):
    assert frame["transform_matrix"] == whole[kept[k]]["transform_matrix"]
    assert np.asarray(Image.open(io.BytesIO(files[frame["mask_path"]])))[0, 0] == 20 * kept[k]
  assert len(frames) == 4 and dict(to_colmap(bridged))["sparse/0/images.txt"].count(b".png") == 4
  with pytest.raises(InputError, match="no frame of this result was tracked"):
    dict(to_colmap(dataclasses.replace(clip_scene, result=clip_scene.result.replace(status=status * 0 + 1))))


def test_masks_are_where_readers_look(clip_scene):
  import dataclasses

  masked = dataclasses.replace(clip_scene, pictures=Masked())
  files = dict(to_nerf(masked))
  frame = json.loads(files["transforms.json"])["frames"][4]
  assert np.asarray(Image.open(io.BytesIO(files[frame["mask_path"]])))[0, 0] == 80
  assert np.asarray(Image.open(io.BytesIO(files[frame["file_path"]])))[0, 0].tolist() == [40, 40, 40, 80]
  assert "masks/00005.png.png" in dict(to_colmap(masked))


def test_without_a_dataset(clip_scene, tmp_path):
  with pytest.raises(InputError, match="--data_path"):
    export(clip_scene, "nerf", tmp_path, images=True)
  export(clip_scene, "nerf", tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {"transforms.json", "points.ply", ".vht_export.json"}


def test_colmap_reads_it(clip_scene, tmp_path):
  pycolmap = pytest.importorskip("pycolmap")
  export(clip_scene, "colmap", tmp_path)
  model = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
  assert len(model.images) == 6 and len(model.points3D) == len(clip_scene.model.v_template)
  found = []
  for i, image in sorted((k - 1, image) for k, image in model.images.items()):
    points = image.cam_from_world() * head_points(clip_scene, i)
    found.append(image.camera.img_from_cam(points))
  assert_reprojects(found, clip_scene)
