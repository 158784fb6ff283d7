"""The NeRSemble benchmark's tracking: `flame2023_tracking.npz` and the calibration of its cameras.

FLAME with its root at identity is turned by `rotation_matrices`, scaled and moved into the calibration's world, which
is the frame of our camera.
"""

from __future__ import annotations

import json

import numpy as np

from vht_jax.host.npz import npz_bytes
from vht_jax.results.export.flame_codes.angles import euler_xyz
from vht_jax.results.export.flame_codes.consumers import Consumer, for_consumer, notes_file, padded
from vht_jax.results.export.flame_codes.places import still_head
from vht_jax.results.export.format import Files
from vht_jax.results.export.scene import Scene

NERSEMBLE = Consumer("nersemble", "2023", 300, 100)
SERIAL = "222200037"  # the camera that the benchmark trains on: what its tools look for
CALIBRATION, TRACKING = "calibration/camera_params.json", "sequences/{name}/tracking/flame2023_tracking.npz"


def to_nersemble(scene: Scene, *, flame_model_path: str | None = None, flame_release: str | None = None) -> Files:
  """A participant's folder with one sequence; frames count from 0."""
  f, cx, cy = scene.lens
  scene, notes = for_consumer(scene, NERSEMBLE, flame_model_path, flame_release)
  rotations, translations = still_head(scene)
  f32 = lambda x: np.asarray(x, np.float32)
  # Exactly these: the benchmark's class takes the file's names for its fields.
  arrays = {
    "shape": padded(scene.shape, NERSEMBLE.n_shape)[None],
    "expression": padded(scene.expr, NERSEMBLE.n_expr),
    "rotation": f32(euler_xyz(rotations)),
    "rotation_matrices": f32(rotations),
    "translation": f32(translations),
    "jaw": f32(scene.angles["jaw"]),
    "frames": np.asarray(scene.frame_ids - 1),
    "scale": np.ones((1, 1), np.float32),
    "neck": f32(scene.angles["neck"]),
    "eyes": f32(scene.angles["eyes"]),
  }
  camera = {
    "world_2_cam": {SERIAL: np.eye(4).tolist()},
    "intrinsics": {SERIAL: [[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]]},
    "vht_jax_image_size": {SERIAL: list(scene.size)},  # which the benchmark's readers pass over
  }
  yield CALIBRATION, json.dumps(camera, indent=1).encode()
  yield TRACKING.format(name=scene.name), npz_bytes(arrays, compressed=True)
  yield notes_file(notes)
