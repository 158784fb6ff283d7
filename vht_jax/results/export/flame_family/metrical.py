"""metrical-tracker's folder of `.frame` files, which INSTA, FlashAvatar, GaussianBlendshapes and RGBAvatar read.

The head rests and the camera moves. Its FLAME has no neck: the neck's rotation goes into the camera, so that the head
is right up to the neck's pose correctives and the shoulders turn with it, or is left out.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np

from vht_jax.cameras import WORLD_TO_OPENCV
from vht_jax.results.export import lbs
from vht_jax.results.export.any_head.meshes import obj, obj_surface, ply
from vht_jax.results.export.flame_codes.angles import six_numbers, six_of_angles
from vht_jax.results.export.flame_codes.consumers import Consumer, for_consumer, notes_file, padded, picture, pictured
from vht_jax.results.export.flame_codes.places import camera_to_world, still_head
from vht_jax.results.export.flame_codes.torch_file import torch_bytes
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.png import rgba_png
from vht_jax.results.export.motion import matrices
from vht_jax.results.export.scene import Scene

METRICAL = Consumer("metrical", "2020", 300, 100)
_N_TEXTURE = 140
_OPEN_JAW = math.radians(12.0)  # of canonical.obj
_N_TEST = 350  # last frames that these programs test on
_NOTICED = 0.5  # degrees of the neck, from which on leaving it out is worth a warning

log = logging.getLogger("vht_jax")


def to_metrical(
  scene: Scene,
  *,
  neck: str = "fold",
  images: bool = True,
  flame_model_path: str | None = None,
  flame_release: str | None = None,
) -> Files:
  """checkpoint/%05d.frame and what its readers want beside it; frames are numbered anew from 0.

  Args:
    neck: "fold" its rotation into the camera, or "drop" it.
    images: write the images, with the mask as alpha, if there are any.
  """
  f, cx, cy = scene.lens
  scene, notes = for_consumer(scene, METRICAL, flame_model_path, flame_release, training=True)
  most = float(np.degrees(np.linalg.norm(scene.angles["neck"], axis=1)).max())
  if most > _NOTICED:
    how = "goes into the camera: shoulders turn with the head" if neck == "fold" else "is left out"
    log.warning("metrical: has no neck; its rotation, %.1f degrees at most, %s (track with the neck held to be exact)",
                most, how)  # fmt: skip
  notes["neck"] = {"treated": neck, "most_degrees": most}
  pictures = pictured(scene, images, "metrical", notes)
  height, width = scene.size
  rotations, translations = still_head(scene, neck=neck == "fold")
  K = np.array([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]])
  half = min(height, width) / 2.0
  f32 = lambda x: np.asarray(x, np.float32)
  flip = np.array(WORLD_TO_OPENCV).T  # OpenCV's axes -> PyTorch3D's
  jaw, eyes = six_of_angles(scene.angles["jaw"]), six_of_angles(scene.angles["eyes"])
  shape, expr = padded(scene.shape, METRICAL.n_shape), padded(scene.expr, METRICAL.n_expr)
  light = np.asarray(scene.result.identity.light, np.float32)
  faces = np.asarray(scene.model.faces)
  for i in range(len(scene)):
    content = {
      "flame": {
        "exp": expr[i : i + 1],
        "shape": shape[None],
        "tex": np.zeros((1, _N_TEXTURE), np.float32),
        "sh": light[None],
        "eyes": f32(eyes[i : i + 1]),
        "eyelids": np.zeros((1, 2), np.float32),  # moved by a file of the reader's, after skinning: not tracked
        "jaw": f32(jaw[i : i + 1]),
      },
      "camera": {
        "R": f32(six_numbers((flip @ rotations[i]).T)[None]),
        "t": f32((flip @ translations[i])[None]),
        "fl": f32([[f / half]]),
        "pp": f32([[(width / 2.0 - cx) / half, (height / 2.0 - cy) / half]]),
      },
      "opencv": {"R": f32(rotations[i : i + 1]), "t": f32(translations[i : i + 1]), "K": f32(K[None])},
      "img_size": np.array([height, width], np.int64),
      "frame_id": f"{i:05d}",
      "global_step": i,
      "vht_jax_frame": int(scene.frame_ids[i]),  # which the readers pass over
    }
    yield f"checkpoint/{i:05d}.frame", torch_bytes(content)
    yield f"flame/exp/{i:05d}.txt", "".join(f"{x:.8f}\n" for x in expr[i].tolist()).encode()
    yield f"mesh/{i:05d}.ply", ply(scene.head_vertices(i, still=2), faces)
    if pictures:
      image = rgba_png(*picture(scene, i)[:2])
      yield f"input/{i:05d}.png", image
      yield f"images/{i:05d}.png", image
  yield "canonical.obj", obj(_canonical(scene), obj_surface(faces))
  for name, content in _transforms(scene, rotations, translations).items():
    yield name, json.dumps(content).encode()
  yield notes_file(notes)


def _canonical(scene: Scene) -> np.ndarray:
  """(V, 3) of the person without expression, the jaw a little open."""
  head, code = scene.surface, np.concatenate([scene.shape, np.zeros(scene.expr.shape[1])])
  rotations = np.tile(np.eye(3), (5, 1, 1))
  rotations[2] = matrices(np.array([_OPEN_JAW, 0.0, 0.0]))
  return lbs.pose(head, lbs.shaped(head, code), rotations, lbs.feature(rotations)).vertices


def _transforms(scene: Scene, rotations: np.ndarray, translations: np.ndarray) -> dict[str, dict[str, Any]]:
  """INSTA's three files: the camera's place with OpenCV's axes, and where a frame's files are."""
  f, cx, cy = scene.lens
  height, width = scene.size
  poses = camera_to_world(rotations, translations)
  frames = [
    {
      "file_path": f"images/{i:05d}.png",
      "mesh_path": f"meshes/{i:05d}.obj",
      "exp_path": f"flame/exp/{i:05d}.txt",
      "depth_path": f"depth/{i:05d}.png",
      "seg_mask_path": f"seg_mask/{i:05d}.png",
      "transform_matrix": pose.tolist(),
    }
    for i, pose in enumerate(poses)
  ]
  angles = [2 * math.atan(side / (2 * f)) for side in (width, height)]
  lens = {
    "w": width, "h": height, "cx": cx, "cy": cy, "fl_x": f, "fl_y": f,
    "camera_angle_x": angles[0], "camera_angle_y": angles[1],
    "x_fov": math.degrees(angles[0]), "y_fov": math.degrees(angles[1]), "integer_depth_scale": 0.001,
  }  # fmt: skip
  n_test = min(_N_TEST, len(frames) // 3)  # short clips keep something to train on
  n_val = min(20, n_test)
  n = len(frames)
  parts = {"train": frames[: n - n_test], "test": frames[n - n_test :], "val": frames[n - n_val :]}
  return {f"transforms_{name}.json": {"frames": part, **lens} for name, part in parts.items()}
