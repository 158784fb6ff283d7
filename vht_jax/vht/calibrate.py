"""VHT's initialisation: camera and rigid poses of a few frames from their landmarks and the neutral head (OpenCV).

Host side and eager. The bundle adjustment of landmarks (`fit.clip.bundle_adjust`) is the better start: the focal length
that comes out here is far too short for most faces (docs/parity.md), because the neutral head takes part in it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import WORLD_TO_OPENCV, make_camera
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.types import Camera, FlameModel, Identity, Pose, RawPose
from vht_jax.vht.energy import neutral_raw

MIN_CONFIDENCE = 0.2  # landmarks below are left out
MIN_POINTS = 6  # per frame, what a pose with an unknown focal length needs
# Beyond these the calibration has failed.
FOCAL_RANGE = 0.2, 50.0  # in units of the longer image side
MAX_DISTANCE = 100.0  # m


class Calibration(NamedTuple):
  """Camera and rigid poses of F frames."""

  camera: Camera
  rotation: np.ndarray  # (F, 3) f32, as Pose.rotation, |r| <= pi
  translation: np.ndarray  # (F, 3) f32, as Pose.translation
  rms: float  # reprojection error, px


def neutral_landmarks(model: FlameModel) -> np.ndarray:
  """(70, 3) landmarks of the neutral mean head, relative to its root joint, m."""
  zero = jnp.zeros(3, model.v_template.dtype)
  pose: Pose = flame.neutral_pose(model, zero).replace(rotation=zero)
  vertices = flame.skin(model, jnp.zeros(model.shapedirs.shape[-1], zero.dtype), pose)
  return np.asarray(flame.landmarks(model, vertices))


def calibrate(
  model: FlameModel, landmarks: np.ndarray, confidence: np.ndarray, size: tuple[int, int], *, focal: float = 0.0
) -> Calibration:
  """Focal length and rigid poses that bring the neutral head's landmarks closest to the observed ones.

  The principal point stays in the image centre and there is no distortion.

  Args:
    model: the head.
    landmarks: (F, 70, 2) px, one row per frame, preferably with different head poses.
    confidence: (F, 70); landmarks below `MIN_CONFIDENCE` may hold anything.
    size: (H, W) of the images in pixels.
    focal: known focal length in units of the longer side; 0: estimated, starting from 1.

  Raises:
    InputError: too few landmarks, or no sensible solution.
  """
  landmarks = np.asarray(landmarks, np.float32)
  usable = (np.asarray(confidence) > MIN_CONFIDENCE) & np.isfinite(landmarks).all(axis=-1)
  if len(landmarks) == 0:
    raise InputError("camera calibration: there are no frames with landmarks")
  for k, n in enumerate(usable.sum(axis=1)):
    if n < MIN_POINTS:
      raise InputError(
        f"camera calibration: at least {MIN_POINTS} landmarks are needed in every keyframe, keyframe number {k} has"
        f" {n}; choose keyframes with a visible face"
      )
  points = neutral_landmarks(model)
  world = [np.ascontiguousarray(points[u]) for u in usable]
  image = [np.ascontiguousarray(xy[u]) for xy, u in zip(landmarks, usable, strict=True)]
  return _calibrate(world, image, size, focal)


def _calibrate(world: list[np.ndarray], image: list[np.ndarray], size: tuple[int, int], focal: float) -> Calibration:
  """From point pairs: world [(N, 3)] relative to the root joint, image [(N, 2)] px."""
  import cv2  # late: a tracker without pictures needs no OpenCV

  height, width = size
  side = max(height, width)
  guess = side * (focal or 1.0)
  K = np.array([[guess, 0.0, width / 2], [0.0, guess, height / 2], [0.0, 0.0, 1.0]])
  flags = (
    cv2.CALIB_USE_INTRINSIC_GUESS
    | cv2.CALIB_FIX_ASPECT_RATIO
    | cv2.CALIB_FIX_PRINCIPAL_POINT
    | cv2.CALIB_ZERO_TANGENT_DIST
    | cv2.CALIB_FIX_K1
    | cv2.CALIB_FIX_K2
    | cv2.CALIB_FIX_K3
  )
  if focal:
    flags |= cv2.CALIB_FIX_FOCAL_LENGTH
  try:
    rms, K, _, rvecs, tvecs = cv2.calibrateCamera(world, image, (width, height), K, None, flags=flags)
  except cv2.error as error:
    raise InputError(f"camera calibration failed ({str(error).strip()}); {_ADVICE}") from error

  # OpenCV's camera axes -> world axes: half a turn about z, which is its own inverse.
  flip = np.array(WORLD_TO_OPENCV)
  rotation = np.stack([cv2.Rodrigues(flip @ cv2.Rodrigues(r)[0])[0].ravel() for r in rvecs])
  translation = np.stack([flip @ np.ravel(t) for t in tvecs])
  found = K[0, 0] / side
  finite = np.isfinite([rms, found]).all() and np.isfinite(rotation).all() and np.isfinite(translation).all()
  depth = translation[:, 2]
  placed = FOCAL_RANGE[0] <= found <= FOCAL_RANGE[1] and (depth > 0).all() and (depth < MAX_DISTANCE).all()
  if not (finite and placed):
    raise InputError(
      f"camera calibration failed: focal length {found:.3g} times the longer image side, heads at"
      f" {depth.min():.3g} to {depth.max():.3g} m; {_ADVICE}"
    )
  return Calibration(make_camera(found), rotation.astype(np.float32), translation.astype(np.float32), float(rms))


_ADVICE = "choose other keyframes, give the focal length (--focal or --fov), or use init = landmarks"


def neutral_start(model: FlameModel, calibration: Calibration) -> tuple[Identity, RawPose]:
  """VHT's starting values: mean head, mean texture, uniform white light, neutral faces at the calibrated poses.

  Returns:
    Identity, and poses with a leading axis F.
  """
  dtype = model.v_template.dtype
  n_frames = len(calibration.rotation)
  neutral = {k: jnp.broadcast_to(v, (n_frames, *v.shape)) for k, v in neutral_raw(dtype).items()}
  raw = RawPose(
    expr=jnp.zeros((n_frames, model.exprdirs.shape[-1]), dtype),
    rotation=jnp.asarray(calibration.rotation, dtype),
    translation=jnp.asarray(calibration.translation, dtype),
    **neutral,
  )
  identity = Identity(
    shape=jnp.zeros(model.shapedirs.shape[-1], dtype),
    texture=jnp.zeros(model.texture_basis.shape[-1], dtype),
    light=jnp.zeros((9, 3), dtype).at[0].set(math.sqrt(4.0 * math.pi)),  # a shading of 1 everywhere
    camera=calibration.camera,
    lmk_offset=jnp.zeros((model.lmk_vertices.shape[0], 3), dtype),
  )
  return identity, raw
