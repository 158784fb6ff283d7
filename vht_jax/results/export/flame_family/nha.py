"""A dataset of Neural Head Avatars: frames in VHT's folders, split.json and the tracking, which is our own format.

What NHA's own scripts make of the images (segmentation, normals, parsing) is left to them.
"""

from __future__ import annotations

import json
import logging
import math

import numpy as np

from vht_jax.config import TrackConfig
from vht_jax.dataset.layout import IMAGE, KEYPOINTS, frame_name
from vht_jax.head.flame import JOINT_LIMITS
from vht_jax.host.npz import npz_bytes
from vht_jax.results.export.flame_codes.consumers import Consumer, for_consumer, notes_file
from vht_jax.results.export.flame_codes.places import before_usual_camera
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.png import rgb_png
from vht_jax.results.export.scene import Scene
from vht_jax.results.heads import head_id
from vht_jax.results.vht_npz import FILE_NAME, Tracked, tracked_arrays

NHA = Consumer("nha", "2020", 300, 100)
_TRAIN_SHARE = 0.7
_BOUND = 0.05  # degrees beyond a joint's limit that are told of

log = logging.getLogger("vht_jax")


def to_nha(
  scene: Scene, *, images: bool = True, flame_model_path: str | None = None, flame_release: str | None = None
) -> Files:
  """`tracked_flame_params.npz`, `split.json`, and frame_%04d/ with landmarks and, if there are any, images."""
  scene, notes = for_consumer(scene, NHA, flame_model_path, flame_release, training=True)
  result = before_usual_camera(scene)
  beyond = _beyond_limits(scene)
  if beyond > _BOUND:
    log.warning("nha: its joints are limited as VHT's; the file's angles are cut by %.2f degrees at most", beyond)
  notes["cut_degrees"] = beyond
  n_texture = len(np.asarray(scene.result.identity.texture))
  config = TrackConfig.of(n_shape=NHA.n_shape, n_expr=NHA.n_expr, n_tex=n_texture)
  tracked = Tracked(
    result, scene.frame_ids, len(scene.frame_ids), scene.size, scene.model.name, times=scene.times,
    head_id=head_id(scene.model),
  )  # fmt: skip
  yield FILE_NAME, npz_bytes(tracked_arrays(tracked, config))
  ids = [int(k) for k in scene.frame_ids]
  n_train = math.ceil(_TRAIN_SHARE * len(ids))
  yield "split.json", json.dumps({"train": ids[:n_train], "val": ids[n_train:]}).encode()
  for i, number in enumerate(ids):
    yield f"{frame_name(number)}/{KEYPOINTS}", _keypoints(scene, i)
    if images and scene.pictures is not None:
      yield f"{frame_name(number)}/{IMAGE}", rgb_png(scene.pictures.rgb(i))
  yield notes_file(notes)


def _keypoints(scene: Scene, i: int) -> bytes:
  """VHT's landmark file of the tracked head's points: x, y, 1 in px, irises of the subject's left eye first."""
  points = scene.landmarks(i)
  rows = np.round(np.column_stack([points, np.ones(len(points))]), 3)
  low, high = points[:68].min(axis=0, initial=0.0), points[:68].max(axis=0, initial=0.0)
  person = {
    "bounding_box": np.round([*low, *high, 1.0], 3).tolist(),
    "face_keypoints_2d": rows[:68].ravel().tolist(),
    "iris_keypoints_2d": rows[[69, 68]].ravel().tolist() if len(rows) == 70 else [-1.0] * 6,
  }
  return json.dumps({"origin": "vht_jax, of the tracked head", "people": [person]}).encode()


def _beyond_limits(scene: Scene) -> float:
  """How far an angle is beyond VHT's limits of the joints, degrees."""
  eyes = scene.angles["eyes"].reshape(-1, 2, 3)
  angles = (("neck", scene.angles["neck"]), ("jaw", scene.angles["jaw"]), ("eyes", eyes))
  over = [max(np.max(values - JOINT_LIMITS[k][1]), np.max(JOINT_LIMITS[k][0] - values)) for k, values in angles]
  return float(np.degrees(max(0.0, *over)))
