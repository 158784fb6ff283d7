"""Where programs want the head: before a camera at (0, 0, 1), at rest while the camera moves, in any world.

Letters of the formulas: R rotation of the root and t its place in the camera's frame, N of the neck, J0 and J1 the
unposed joints of root and neck, u a vertex of FLAME with its root at identity, which is seen at R (u - J0) + t.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import WORLD_TO_OPENCV, make_camera
from vht_jax.results.export.flame_codes.angles import continuous_angles, times
from vht_jax.results.export.motion import matrices
from vht_jax.results.export.scene import OPENGL, Scene
from vht_jax.types import TrackResult

VHAP_CAMERA = np.array([0.0, 0.0, 1.0])  # where VHAP's only camera stands; it looks along -z, y up


def before_vhap_camera(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
  """(T, 3, 3), (T, 3) m: rotation and translation of FLAME before a camera at `VHAP_CAMERA` with OpenGL's axes."""
  translation = scene.root_position @ OPENGL.T + VHAP_CAMERA - scene.joints[:, 0]
  return OPENGL @ scene.root_rotation, translation


def plain_poses(scene: Scene) -> np.ndarray:
  """(T, 15) axis-angle, rad: root, neck, jaw, eyes; the root's before a camera that looks along -z, y up."""
  root = continuous_angles(OPENGL @ scene.root_rotation)
  return np.concatenate([root, scene.angles["neck"], scene.angles["jaw"], scene.angles["eyes"]], axis=1)


def from_vhap_camera(rotation: np.ndarray, translation: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The inverse: rotation of the root and its place in the camera's frame (OpenCV); `root` (T, 3) is J0."""
  return OPENGL @ rotation, (translation - VHAP_CAMERA + root) @ OPENGL.T


def still_head(scene: Scene, neck: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """World -> camera (OpenCV), (T, 3, 3) and (T, 3) m, when FLAME has neither rotation nor translation.

  Args:
    neck: the neck's rotation goes into the camera as well, for programs without a neck: the head is right up to the
      neck's pose correctives, and the shoulders turn with it.
  """
  R, J0, J1 = scene.root_rotation, scene.joints[:, 0], scene.joints[:, 1]
  if not neck:
    return R, scene.root_position - times(R, J0)
  RN = R @ matrices(scene.angles["neck"])
  return RN, times(R, J1 - J0) - times(RN, J1) + scene.root_position


def camera_to_world(rotations: np.ndarray, translations: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
  """(T, 4, 4) inverse of world -> camera (T, 3, 3), (T, 3); `axes` (3, 3): of the camera, from OpenCV's."""
  if axes is not None:
    rotations, translations = axes @ rotations, translations @ axes.T
  back = np.swapaxes(rotations, 1, 2)
  out = np.tile(np.eye(4), (len(rotations), 1, 1))
  out[:, :3, :3], out[:, :3, 3] = back, -times(back, translations)
  return out


def before_usual_camera(scene: Scene) -> TrackResult:
  """The clip's result in the frame of its camera, whose place is then the usual one, with the lens of its images."""
  f, cx, cy = scene.lens
  height, width = scene.size
  camera = make_camera(f / max(scene.size), (cx / width, cy / height))
  rotation, translation = from_opencv(scene.root_rotation, scene.root_position)
  poses = scene.result.poses.replace(rotation=rotation, translation=translation)
  return scene.result.replace(identity=scene.result.identity.replace(camera=camera), poses=poses)


def from_opencv(rotations: np.ndarray, positions: np.ndarray) -> tuple[Any, Any]:
  """`Pose.rotation`, `Pose.translation` (T, 3) f32 of the root's rotation and place in the usual camera's frame."""
  flip = np.array(WORLD_TO_OPENCV)
  return jnp.asarray(continuous_angles(flip.T @ rotations), jnp.float32), jnp.asarray(positions @ flip, jnp.float32)
