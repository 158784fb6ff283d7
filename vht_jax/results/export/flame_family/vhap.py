"""VHAP's `tracked_flame_params_0.npz`: for its viewers, for driving GaussianAvatars, and to compare results with it.

Its camera stands at (0, 0, 1), looks along -z, and has its principal point in the image's middle: the file is of the
image padded so that it is.
"""

from __future__ import annotations

import numpy as np

from vht_jax.head.teeth import N_TEETH
from vht_jax.host.npz import npz_bytes
from vht_jax.results.export.flame_codes.angles import continuous_angles
from vht_jax.results.export.flame_codes.consumers import Consumer, for_consumer, notes_file, padded
from vht_jax.results.export.flame_codes.places import before_vhap_camera
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.centred import centred
from vht_jax.results.export.scene import Scene

VHAP = Consumer("vhap", "2023", 300, 100)
FILE = "tracked_flame_params_0.npz"  # VHAP opens the largest number
MOTION_FILE = "motion.npz"


def to_vhap(scene: Scene, *, flame_model_path: str | None = None, flame_release: str | None = None) -> Files:
  """`tracked_flame_params_0.npz`, and motion.npz, which drives a trained avatar (`--motion_path`)."""
  scene, notes = for_consumer(scene, VHAP, flame_model_path, flame_release)
  poses = vhap_poses(scene)
  middle = centred(scene)[0]
  size, focal = middle.size, middle.lens.f
  n, n_vertices = len(scene), len(scene.neutral) + N_TEETH  # VHAP's own teeth, whichever ours are
  arrays = {
    **poses,
    "shape": padded(scene.shape, VHAP.n_shape),
    "static_offset": np.zeros((1, n_vertices, 3), np.float32),
    "focal_length": np.array([focal / max(size)], np.float32),
    "lights": np.asarray(scene.result.identity.light, np.float32),
    "timestep_id": np.array([f"{k - 1:06d}" for k in scene.frame_ids]),
    "n_processed_frames": np.asarray(n),
    "image_size": np.array(size),
    # Readers pass over these; they bring the padded image back to the clip's.
    "vht_jax_lens": scene.intrinsics.astype(np.float32),
    "vht_jax_image_size": np.array(scene.size),
  }
  yield FILE, npz_bytes(arrays, compressed=True)
  yield MOTION_FILE, npz_bytes({**poses, "dynamic_offset": np.zeros((n, n_vertices, 3), np.float32)}, compressed=True)
  yield notes_file(notes)


def vhap_poses(scene: Scene, rest: bool = False) -> dict[str, np.ndarray]:
  """Per-frame arrays, float32, plain axis-angle; `rest`: the head neither turns nor moves."""
  rotation, translation = before_vhap_camera(scene)
  arrays = {
    "rotation": np.zeros((len(scene), 3)) if rest else continuous_angles(rotation),
    "translation": np.zeros((len(scene), 3)) if rest else translation,
    "neck_pose": scene.angles["neck"],
    "jaw_pose": scene.angles["jaw"],
    "eyes_pose": scene.angles["eyes"],
    "expr": padded(scene.expr, VHAP.n_expr),
  }
  return {name: np.asarray(values, np.float32) for name, values in arrays.items()}
