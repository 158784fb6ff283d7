"""Cameras around a head at rest (nerfstudio, instant-ngp, COLMAP): readers of their own, and COLMAP's."""

import importlib.util
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from export_clip import (
  BESIDE,
  MISTAKES,
  SIZE,
  WITHIN,
  assert_reprojects,
  assert_wrong,
  background,
  mistaken,
  true_pixels,
)
from PIL import Image
from scipy.spatial.transform import Rotation

from vht_jax.errors import InputError
from vht_jax.results.export import export, to_colmap, to_nerf
from vht_jax.results.export.images import prepared


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


def test_one_frame_is_no_still_scene(clip_scene):
  from vht_jax.results.export.selection import frames_of

  for write, _ in READERS.values():
    with pytest.raises(InputError, match="a still scene needs several views"):
      dict(write(frames_of(clip_scene, np.array([2]))))


def test_padding_is_masked_without_masks_too(clip_with_images):
  """A crop that reaches beyond the image: what is added there is no part of the scene."""
  scene = prepared(clip_with_images, mask="none", crop="square")
  assert scene.size == (500, 500) and not scene.pictures.masks
  added = np.ones((500, 500), bool)
  added[70:430] = False
  for kind, mask_name in (("nerf", "masks/00003.png"), ("colmap", "masks/00003.png.png")):
    files = dict(READERS[kind][0](scene))
    image = np.asarray(Image.open(io.BytesIO(files["images/00003.png"])))
    mask = np.asarray(Image.open(io.BytesIO(files[mask_name])))
    np.testing.assert_array_equal(image[..., 3], np.where(added, 0, 255))
    np.testing.assert_array_equal(mask, image[..., 3])
  frames = json.loads(dict(to_nerf(scene))["transforms.json"])["frames"]
  assert frames[2]["mask_path"] == "masks/00003.png"


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


# nerfstudio's own parser, and its own rays through our pixels: how far they pass by our vertices, px; its masks.
NERFSTUDIO = """
import sys
from pathlib import Path
import numpy as np, torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
folder, points, pixels, out = sys.argv[1:]
points, pixels = np.load(points), np.load(pixels)
config = NerfstudioDataParserConfig(
  data=Path(folder), center_method="none", auto_scale_poses=False, downscale_factor=1, eval_mode="all")
outputs = config.setup().get_dataparser_outputs("train")
seen = outputs.cameras
beside = []
for i in range(len(points)):
  pose = seen.camera_to_worlds[i].double().numpy()
  rays = seen.generate_rays(i, coords=torch.tensor(pixels[i][:, ::-1].copy(), dtype=torch.float32))
  origin, direction = rays.origins.double().numpy(), rays.directions.double().numpy()
  to = points[i] - origin
  to /= np.linalg.norm(to, axis=1, keepdims=True)
  direction /= np.linalg.norm(direction, axis=1, keepdims=True)
  beside.append(np.linalg.norm(np.cross(to, direction), axis=1) * float(seen.fx[i]))
names = [[Path(p).name for p in files] for files in (outputs.image_filenames, outputs.mask_filenames or [])]
np.savez(out, beside=beside, images=names[0], masks=names[1])
"""


@pytest.mark.slow
def test_nerfstudio_reads_it(clip_scene, tmp_path):
  """With nerfstudio in this Python, or in that of $NERFSTUDIO_PYTHON: the package wants PyTorch and pins a lot."""
  python = os.environ.get("NERFSTUDIO_PYTHON") or (sys.executable if importlib.util.find_spec("nerfstudio") else None)
  if python is None:
    pytest.skip("nerfstudio is not installed, and $NERFSTUDIO_PYTHON names no Python that has it")
  import dataclasses

  points = np.array([head_points(clip_scene, i) for i in range(6)])
  np.save(tmp_path / "points.npy", points)
  np.save(tmp_path / "pixels.npy", true_pixels(clip_scene))

  def beside(scene, name):
    export(dataclasses.replace(scene, pictures=Masked()), "nerf", tmp_path / name)
    files = [tmp_path / name, *(tmp_path / f for f in ("points.npy", "pixels.npy", "found.npz"))]
    subprocess.run([python, "-c", NERFSTUDIO, *map(str, files)], check=True, stdout=subprocess.DEVNULL, timeout=600)
    with np.load(tmp_path / "found.npz") as found:
      return dict(found)

  found = beside(clip_scene, "right")
  assert found["beside"].shape == points.shape[:2] and found["beside"].max() < WITHIN, found["beside"].max()
  assert found["images"].tolist() == found["masks"].tolist() == [f"{i + 1:05d}.png" for i in range(6)]
  for mistake, scene in mistaken(clip_scene).items():
    assert beside(scene, mistake.replace(" ", "_"))["beside"].max() > BESIDE, mistake
