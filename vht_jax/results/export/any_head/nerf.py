"""transforms.json for nerfstudio and instant-ngp: cameras around a head at rest.

Camera-to-world matrices with OpenGL's axes (x right, y up, z backwards), metres, FLAME's head frame as the world. Give
nerfstudio `--center-method none --auto-scale-poses False` to keep that world.
"""

from __future__ import annotations

import json
import math

import numpy as np

from vht_jax.results.export.any_head import still_head
from vht_jax.results.export.any_head.meshes import ply
from vht_jax.results.export.flame_codes import places
from vht_jax.results.export.format import Files
from vht_jax.results.export.scene import OPENGL, Scene

# instant-ngp's unit cube: a head with its neck, 0.35 m high, fills two thirds of it; its cameras may be outside.
_NGP_SCALE, _NGP_AABB = 2.0, 4


def to_nerf(scene: Scene, *, images: bool = True) -> Files:
  """transforms.json, points.ply and, if there is a dataset, images/ and masks/.

  Raises:
    InputError: a single frame, or none that was tracked.
  """
  scene = still_head.views(scene, "nerf", images)
  pictured = images and scene.pictures is not None
  poses = places.camera_to_world(*places.still_head(scene, neck=True), OPENGL)
  masked = pictured and still_head.masked(scene)
  one_lens = np.ptp(scene.intrinsics, axis=0).max() < 1e-6
  frames = []
  for i in range(len(scene)):
    frames.append(
      {
        "file_path": f"images/{still_head.image_name(i)}",
        **({"mask_path": f"masks/{still_head.image_name(i)}"} if masked else {}),
        "transform_matrix": poses[i].tolist(),
        "time": float(scene.times[i]),
        **({} if one_lens else _lens(scene, i)),
      }
    )
  height, width = scene.size
  content = {
    "camera_model": "OPENCV", "w": width, "h": height,
    **(_lens(scene, 0) if one_lens else {}),
    "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0,
    "aabb_scale": _NGP_AABB, "scale": _NGP_SCALE, "offset": [0.5, 0.5, 0.5],
    "ply_file_path": "points.ply", "orientation_override": "none",
    "frames": frames,
  }  # fmt: skip
  yield "transforms.json", json.dumps(content, indent=1).encode()
  vertices, colors = still_head.points(scene)
  yield "points.ply", ply(vertices, np.asarray(scene.model.faces), colors)
  if pictured:
    yield from still_head.images(scene, "masks/{}")


def _lens(scene: Scene, i: int) -> dict[str, float]:
  f, cx, cy = scene.intrinsics[i].tolist()
  angle = 2.0 * math.atan(scene.size[1] / (2.0 * f))
  return {"fl_x": f, "fl_y": f, "cx": cx, "cy": cy, "camera_angle_x": angle}
