"""The dataset of GaussianAvatars in VHAP's layout, which its forks and LAM read as well.

GaussianAvatars takes the principal point to be in the middle: images are padded so that it is. Its learning rate is
multiplied by how far the cameras lie apart, which is nothing for a camera that stands still: by default the head rests
and the camera moves about it.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np

from vht_jax.head.teeth import N_TEETH
from vht_jax.host.npz import npz_bytes
from vht_jax.results.export.flame_codes.consumers import Consumer, for_consumer, notes_file, padded, picture, pictured
from vht_jax.results.export.flame_codes.places import VHAP_CAMERA, camera_to_world, still_head
from vht_jax.results.export.flame_family.vhap import vhap_poses
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.centred import centred
from vht_jax.results.export.images.png import grey_png, over_white
from vht_jax.results.export.scene import OPENGL, Scene

GAUSSIAN_AVATARS = Consumer("gaussian-avatars", "2023", 300, 100)
TRAIN_SHARE = 0.7  # of the frames, from the first; VHAP's
_OPEN_JAW = 0.3  # rad, of the canonical face; VHAP's

log = logging.getLogger("vht_jax")


def to_gaussian_avatars(
  scene: Scene,
  *,
  motion: str = "camera",
  images: bool = True,
  flame_model_path: str | None = None,
  flame_release: str | None = None,
) -> Files:
  """The dataset; frames are numbered anew from 0.

  Args:
    motion: "camera", the head rests, or "head", as VHAP writes it.
    images: write the images and their masks, if there are any.
  """
  scene, notes = for_consumer(scene, GAUSSIAN_AVATARS, flame_model_path, flame_release, training=True)
  scene = centred(scene)[0]
  if motion == "head":
    log.warning("gaussian-avatars: one still camera; GaussianAvatars does not train with it (--motion=camera)")
  log.info("gaussian-avatars: one camera knows little of how looks change with the view: train with --sh_degree 0")
  pictures = pictured(scene, images, "gaussian-avatars", notes)
  frames = _frames(scene, motion == "head", pictures)
  n_train = math.ceil(TRAIN_SHARE * len(frames))
  train, test = frames[:n_train], frames[n_train:]
  # With one camera the validation set is empty, of the training set's time steps.
  for name, part, times in (("", frames, frames), ("_train", train, train), ("_val", [], train), ("_test", test, test)):
    yield f"transforms{name}.json", json.dumps(_transforms(part, times, frames[0])).encode()

  shared = {
    "shape": padded(scene.shape, GAUSSIAN_AVATARS.n_shape),
    "static_offset": np.zeros((1, len(scene.neutral) + N_TEETH, 3), np.float32),
  }
  poses = vhap_poses(scene, rest=motion != "head")
  still = {name: np.zeros((1, values.shape[1]), np.float32) for name, values in poses.items()}
  still["jaw_pose"][0, 0] = _OPEN_JAW
  yield "canonical_flame_param.npz", npz_bytes({**still, **shared}, compressed=True)
  for i, frame in enumerate(frames):
    one = {name: values[i : i + 1] for name, values in poses.items()}
    yield frame["flame_param_path"], npz_bytes({**one, **shared}, compressed=True)
    if pictures:
      rgb, alpha, mask = picture(scene, i, fade=True)  # as VHAP hands them on
      yield frame["file_path"], over_white(rgb, alpha)
      if mask is not None:
        yield frame["fg_mask_path"], grey_png(mask)
  yield notes_file(notes)


def _frames(scene: Scene, head_moves: bool, pictures: bool) -> list[dict[str, Any]]:
  height, width = scene.size
  if head_moves:
    poses = np.tile(np.eye(4), (len(scene), 1, 1))
    poses[:, :3, 3] = VHAP_CAMERA
  else:
    poses = camera_to_world(*still_head(scene), OPENGL)
  masks = pictures and scene.pictures is not None and bool(scene.pictures.masks)
  frames = []
  for i, (f, cx, cy) in enumerate(scene.intrinsics.tolist()):
    frames.append(
      {
        "timestep_index": i,
        "timestep_index_original": i,
        "timestep_id": f"{int(scene.frame_ids[i]) - 1:06d}",
        "camera_index": 0,
        "camera_id": "00",
        "cx": cx, "cy": cy, "fl_x": f, "fl_y": f, "h": height, "w": width,
        "camera_angle_x": 2 * math.atan(width / (2 * f)),
        "camera_angle_y": 2 * math.atan(height / (2 * f)),
        "transform_matrix": poses[i].tolist(),
        "file_path": f"images/{i:05d}_00.png",
        **({"fg_mask_path": f"fg_masks/{i:05d}_00.png"} if masks else {}),
        "flame_param_path": f"flame_param/{i:05d}.npz",
      }
    )  # fmt: skip
  return frames


def _transforms(part: list[dict[str, Any]], times: list[dict[str, Any]], lens: dict[str, Any]) -> dict[str, Any]:
  """The part's frames, with the lens at the top for other readers of such files."""
  names = ("cx", "cy", "fl_x", "fl_y", "h", "w", "camera_angle_x", "camera_angle_y")
  return {
    "frames": part,
    **{name: lens[name] for name in names},
    "timestep_indices": [f["timestep_index"] for f in times],
    "camera_indices": [0] if part else [],
  }
