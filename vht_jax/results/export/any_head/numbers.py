"""Plain numbers: a table with a row per frame (CSV), and arrays (npz) for those who want no format at all."""

from __future__ import annotations

import csv
import io

import numpy as np

from vht_jax.host.npz import npz_bytes
from vht_jax.results.export import lbs
from vht_jax.results.export.format import Files
from vht_jax.results.export.motion import axis_angles
from vht_jax.results.export.scene import Scene
from vht_jax.types import Status

# Columns: name in the file, that of `plain.frame_numbers`, decimals.
_COLUMNS = (
  ("head_turn_left_deg", "turn", 4), ("head_nod_up_deg", "nod", 4), ("head_tilt_left_deg", "tilt", 4),
  ("gaze_left_deg", "gaze_side", 4), ("gaze_up_deg", "gaze_up", 4), ("jaw_open_deg", "jaw", 4),
  ("blink_left", "blink_left", 5), ("blink_right", "blink_right", 5), ("distance_m", "distance", 6),
)  # fmt: skip


def to_csv(scene: Scene) -> Files:
  """NAME_frames.csv: times, angles in degrees, lengths in metres, expression units; left and right are the subject's.

  Angles of the head are those it has before the camera: 0 looks into it. gaze is the eyes' mean direction in the head.
  *_sd columns are standard deviations as each frame alone knows the angle. Positions are the root joint's before the
  camera: x right, y down, z away.
  """
  from vht_jax.results.plain import frame_numbers, number_sds  # which is written with this room's joints

  numbers, deviations = frame_numbers(scene.model, scene.result), number_sds(scene.result)
  confidence = scene.result.confidence
  columns: dict[str, list[str]] = {
    "frame": [str(int(i)) for i in scene.frame_ids],
    "time_s": _texts(scene.times, 6),
    "status": [Status(int(s)).name.lower() for s in np.asarray(scene.result.status)],
    "confidence": [""] * len(scene) if confidence is None else _texts(np.asarray(confidence), 4),
  }
  for title, name, digits in _COLUMNS:
    columns[title] = _texts(numbers[name], digits)
    if name in deviations:
      columns[f"{title.removesuffix('_deg')}_sd_deg"] = _texts(deviations[name], digits)
  for k, axis in enumerate("xyz"):
    columns[f"position_{axis}_m"] = _texts(scene.root_position[:, k], 6)
  for k, unit in enumerate(scene.expr_names):
    columns[unit] = _texts(scene.expr[:, k], 5)
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(columns)
  writer.writerows(zip(*columns.values()))
  yield f"{scene.name}_frames.csv", out.getvalue().encode()


def to_arrays(scene: Scene) -> Files:
  """NAME_arrays.npz: meshes, joints, plain axis-angle angles and cameras, float32, in the camera's frame.

  Axes are OpenCV's (x right, y down, z away), metres, rad, px from the top left with pixel centres at i + 0.5. A vertex
  projects to `K @ vertices`. `rotation` and `translation` take the head with its root kept still to the camera about
  its root joint, `joints_unposed[:, 0]`; `pose` are the plain angles of neck, jaw, left and right eye within it.
  """
  n = len(scene)
  vertices = np.stack([scene.camera_vertices(i) for i in range(n)]).astype(np.float32)
  K = np.tile(np.eye(3), (n, 1, 1))
  K[:, 0, 0] = K[:, 1, 1] = scene.intrinsics[:, 0]
  K[:, :2, 2] = scene.intrinsics[:, 1:]
  angles = scene.angles
  numbers = {
    "vertices": vertices,
    "joints": posed_joints(scene),
    "joints_unposed": scene.joints,
    "rotation": axis_angles(scene.root_rotation),
    "translation": scene.root_position,
    "pose": np.concatenate([angles["neck"], angles["jaw"], angles["eyes"]], axis=1),
    "expression": scene.expr,
    "shape": scene.shape,
    "K": K,
    "uv": np.asarray(scene.model.uv),
  }
  arrays = {name: np.asarray(values, np.float32) for name, values in numbers.items()}
  arrays |= {
    "times": scene.times,
    "frames": np.asarray(scene.frame_ids, np.int64),
    "status": np.asarray(scene.result.status, np.int32),
    "faces": np.asarray(scene.model.faces, np.int32),
    "image_size": np.array(scene.size, np.int64),
    "expression_names": np.array(scene.expr_names),
    "head": np.array(scene.model.name),
    "texture": scene.texture,
  }
  if scene.result.confidence is not None:
    arrays["confidence"] = np.asarray(scene.result.confidence, np.float32)
  yield f"{scene.name}_arrays.npz", npz_bytes(arrays, compressed=True)


def posed_joints(scene: Scene) -> np.ndarray:
  """(T, 5, 3) joints as they stand in the camera's frame (OpenCV), m."""
  rotations = np.concatenate([scene.root_rotation[:, None], scene.rotations[:, 1:]], axis=1)
  placed = np.stack([lbs.chain(r, joints)[1] for r, joints in zip(rotations, scene.joints)])
  return placed - placed[:, :1] + scene.root_position[:, None]  # the chain leaves the root where it was


def _texts(values: np.ndarray, digits: int) -> list[str]:
  return [f"{v:.{digits}f}" if np.isfinite(v) else "" for v in np.asarray(values, np.float64)]
