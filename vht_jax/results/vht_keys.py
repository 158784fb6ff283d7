"""Single keys of VHT's result file: cameras and rotations as it writes them, and the keys that are ours, checked."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import cameras, rotation
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.host.programs import stored
from vht_jax.landmarks.regions import REGIONS
from vht_jax.types import POSE_FIELDS, Camera, Identity, Pose

CHUNK = 256  # frames converted at once


def vht_camera(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
  """VHT's K (3,) = [f, cx, cy from the bottom], normalised, and RT (3, 4), world -> PyTorch3D's view axes."""
  flip = np.asarray(cameras.WORLD_TO_OPENCV, np.float32)  # its own inverse
  RT = flip @ np.concatenate([np.asarray(camera.R), np.asarray(camera.T)[:, None]], axis=1)
  return np.asarray(vht_intrinsics(camera)), RT + 0.0  # + 0.0: no negative zeros


def camera_from_vht(K: np.ndarray, RT: np.ndarray | None, size: tuple[int, int], path: Any = "K") -> Camera:
  """Inverse of `vht_camera`. K may also be the (3, 3) pixel matrix that NHA accepts, cy from the bottom as well."""
  if K.shape == (3, 3):
    K = np.array([K[0, 0] / max(size), K[0, 2] / size[1], K[1, 2] / size[0]])
  if K.shape != (3,) or K[0] <= 0:
    raise InputError(f"{path}: K: expected (f, cx, cy) with f > 0 or a 3x3 matrix; found {K.tolist()}")
  camera = cameras.from_vht_intrinsics(jnp.asarray(K, jnp.float32))
  if RT is None:
    return camera
  if RT.shape != (3, 4):
    raise InputError(f"{path}: RT: expected shape (3, 4); found {RT.shape}")
  flipped = jnp.asarray(np.asarray(cameras.WORLD_TO_OPENCV) @ RT + 0.0, jnp.float32)
  return camera.replace(R=flipped[:, :3], T=flipped[:, 3])


def continuous(rotations: Any) -> np.ndarray:
  """(T, 3) axis-angle vectors of the same rotations without jumps of 2 pi between frames."""
  rotations = np.asarray(rotations, np.float32)
  n = len(rotations)
  padded = rotations[np.minimum(np.arange(n + -n % CHUNK), n - 1)]  # few lengths: few programs
  return np.asarray(_continuous(padded))[:n]


@functools.partial(stored, rough=True)
def _continuous(rotations):
  def follow(previous, r):
    r = rotation.nearest_axis_angle(r, previous)
    return r, r

  return jax.lax.scan(follow, rotations[0], rotations)[1]


@functools.partial(stored, rough=True)
def unlimit(poses):
  return jax.vmap(flame.unlimit_pose)(poses)


@functools.partial(stored, rough=True)
def limit(raw):
  return jax.vmap(flame.limit_pose)(raw)


@functools.partial(stored, rough=True)
def vht_intrinsics(camera):
  return cameras.to_vht_intrinsics(camera)


def of_frames(arrays: dict[str, np.ndarray], path: str | Path, name: str, n: int, kind: str) -> np.ndarray | None:
  values = arrays.get(name)
  if values is not None and (values.shape != (n,) or values.dtype.kind != kind):
    raise InputError(f"{path}: {name}: expected one for each of {n} frames; found {values.shape} of {values.dtype}")
  return values


def rows(values: np.ndarray, path: str | Path, name: str, n: int) -> jax.Array:
  """One number per frame."""
  if values.shape != (n,) or values.dtype.kind not in "fiu":
    raise InputError(f"{path}: {name}: expected {n} numbers; found {values.shape} of {values.dtype}")
  return jnp.asarray(values.astype(np.float32) if values.dtype.kind == "f" else values.astype(np.int32))


def regions(arrays: dict[str, np.ndarray], path: str | Path, name: str, n: int) -> jax.Array | None:
  """(n, R) numbers of the regions that this version knows; None without them."""
  values, names = arrays.get(name), arrays.get("vht_jax_regions")
  if values is None or names is None or names.tolist() != list(REGIONS):
    return None
  if values.shape != (n, len(REGIONS)) or values.dtype.kind != "f":
    raise InputError(f"{path}: {name}: expected numbers {(n, len(REGIONS))}; found {values.shape} of {values.dtype}")
  return jnp.asarray(values, jnp.float32)


def pose_sd(arrays: dict[str, np.ndarray], path: str | Path, poses: Pose) -> Pose | None:
  """Standard deviations in the shapes of `poses`; None when there are none (the expression's may be shorter)."""
  fields = {}
  for name in POSE_FIELDS:
    values, like = arrays.get(f"vht_jax_sd_{name}"), np.shape(getattr(poses, name))
    if values is None:
      return None
    if name == "expr" and values.ndim == 2 and values.shape[0] == like[0]:
      like = values.shape
    if values.shape != like or values.dtype.kind != "f" or not (values >= 0).all():
      raise InputError(f"{path}: vht_jax_sd_{name}: expected standard deviations {like}; found {values.shape}")
    fields[name] = jnp.asarray(values, jnp.float32)
  return Pose(**fields)


def focal_sd(arrays: dict[str, np.ndarray], path: str | Path) -> jax.Array | None:
  value = arrays.get("vht_jax_focal_sd")
  if value is None:
    return None
  if value.shape != () or value.dtype.kind != "f" or not value >= 0:
    raise InputError(f"{path}: vht_jax_focal_sd: expected a standard deviation; found {value.shape} of {value.dtype}")
  return jnp.asarray(value, jnp.float32)


def static_offset(arrays: dict[str, np.ndarray], path: str | Path) -> jax.Array | None:
  """(V, 3) m; in the file (1, V, 3), as VHAP has it."""
  found = arrays.get("static_offset")
  if found is None:
    return None
  if found.ndim != 3 or found.shape[::2] != (1, 3) or found.dtype.kind != "f" or not np.isfinite(found).all():
    raise InputError(f"{path}: static_offset: expected finite numbers (1, vertices, 3); found {found.shape}")
  return jnp.asarray(found[0], jnp.float32)


def dynamic_offset(arrays: dict[str, np.ndarray], path: str | Path, n: int) -> jax.Array | None:
  """(n, V, 3) m, VHAP's key and shape; in the file in 16 bits."""
  found = arrays.get("dynamic_offset")
  if found is None:
    return None
  if found.ndim != 3 or found.shape[::2] != (n, 3) or found.dtype.kind != "f" or not np.isfinite(found).all():
    raise InputError(f"{path}: dynamic_offset: expected finite numbers ({n}, vertices, 3); found {found.shape}")
  return jnp.asarray(found, jnp.float32)


def surface(identity: Identity, poses: Pose) -> dict[str, np.ndarray]:
  """Free albedo and offsets, as `layer`, `static_offset` and `dynamic_offset` read them.

  What there is much of has 16 bits: an albedo larger than the fit's (`results.texture`), where 1e-3 is less than an
  image has, and what frames do to the surface, a hundredth of a millimetre of a centimetre.
  """
  found = {}
  if identity.texture_layer is not None:
    layer = np.asarray(identity.texture_layer)
    found["vht_jax_texture_layer"] = layer.astype(np.float16) if flame.of_images(layer) else layer
  if identity.static_offset is not None:
    found["static_offset"] = np.asarray(identity.static_offset, np.float32)[None]
  if poses.offset is not None:
    found["dynamic_offset"] = np.asarray(poses.offset, np.float16)
  return found


def layer(arrays: dict[str, np.ndarray], path: str | Path) -> jax.Array | None:
  layer = arrays.get("vht_jax_texture_layer")
  if layer is None:
    return None
  if layer.ndim != 3 or layer.shape[2] != 3 or layer.dtype.kind != "f" or not np.isfinite(layer).all():
    raise InputError(f"{path}: vht_jax_texture_layer: expected finite numbers (height, width, 3); found {layer.shape}")
  return jnp.asarray(layer, jnp.float32)
