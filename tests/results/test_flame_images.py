"""Images and masks of the formats that hand FLAME's codes on: each program finds each frame's by its own rule."""

import dataclasses
import json

import export_clip
import numpy as np
import pytest
from export_clip import true_pixels
from flame_clip import FORMAT, into_middle, of_lens, square, within_limits, without_neck, written


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
def test_images_are_those_of_their_frames(name, flame_scene, tmp_path):
  """Each program finds, by its own rule, the frame's image, and the head in it where the dot is; masks fit."""
  import cv2

  if name == "gagavatar":
    lmdb = pytest.importorskip("lmdb")
  still = without_neck(flame_scene)
  scene = {
    "metrical": still, "imavatar": square(flame_scene), "nha": within_limits(flame_scene),
    "gagavatar": of_lens(still, 2.0, (0.5, 0.5)),
  }.get(name, flame_scene)  # fmt: skip
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
