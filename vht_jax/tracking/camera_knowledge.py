"""What is known of the camera before anything is tracked."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from vht_jax import cameras
from vht_jax.cameras import make_camera
from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.head.points import HIGHEST
from vht_jax.option import having
from vht_jax.types import Camera, TrackResult


def known_camera(
  config: TrackConfig, init: TrackResult | None, camera: Camera | None
) -> tuple[TrackConfig, TrackResult | None, Camera | None]:
  """Settings, start and camera that say the same.

  Returns:
    `config`, calibrated if there is a known camera; `init` with the focal length of `config`; the camera that is held,
    None if it is estimated or the start's.

  Raises:
    InputError: the camera is said to be calibrated and nowhere given.
  """
  if init is not None:
    return config, refocused(init, config.camera.focal) if config.camera.focal > 0 else init, None
  if camera is not None:
    focal = config.camera.focal if config.camera.focal > 0 else float(camera.focal)
    config, camera = having(config, calibrated=True), camera.replace(focal=jnp.float32(focal))
  elif config.camera.calibrated and config.camera.focal > 0:
    camera = make_camera(config.camera.focal)
  elif config.camera.calibrated:
    raise InputError("calibrated: the focal length must be given, by --focal or --fov, or a result with its camera")
  default = make_camera(1.0)
  if camera is not None and config.by_adam and config.adam.init == "calibration":
    if not (np.array_equal(camera.R, default.R) and np.array_equal(camera.T, default.T)):
      raise InputError("init: calibration is for a camera that stands at the origin; use init = landmarks")
  return config, None, camera


def refocused(init: TrackResult, focal: float) -> TrackResult:
  """A result with another focal length and the heads at the distance at which they appear in the same size."""
  camera = init.identity.camera
  factor = jnp.array([1.0, 1.0, focal / camera.focal], jnp.float32)
  seen = jnp.matmul(init.poses.translation, camera.R.T, precision=HIGHEST) + camera.T[None]
  moved = jnp.matmul(seen * factor[None] - camera.T[None], camera.R, precision=HIGHEST)
  return init.replace(
    identity=init.identity.replace(camera=camera.replace(focal=jnp.float32(focal))),
    poses=init.poses.replace(translation=moved),
  )


def placed(camera: Camera | None) -> Camera | None:
  """The camera if it does not stand where cameras do by default; its R and T then place the world."""
  default = make_camera(1.0)
  if camera is None or (np.array_equal(camera.R, default.R) and np.array_equal(camera.T, default.T)):
    return None
  return camera


def turned_world(place: Camera) -> np.ndarray:
  """(3, 3) turns the world of a camera into the default one."""
  return np.asarray(cameras.WORLD_TO_OPENCV, np.float32) @ np.asarray(place.R)
