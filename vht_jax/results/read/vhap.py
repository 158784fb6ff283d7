"""VHAP's `tracked_flame_params_*.npz`: FLAME 2023 before a camera at (0, 0, 1), its principal point in the middle."""

from __future__ import annotations

import logging

import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export.flame_codes.places import from_vhap_camera
from vht_jax.results.export.motion import matrices
from vht_jax.results.read.common import frame_numbers, judged, made, numbers
from vht_jax.results.vht_npz import Tracked, read_npz
from vht_jax.types import FlameModel

_NOTICED = 1e-4  # m; offsets of vertices above this are told of

log = logging.getLogger("vht_jax")


def load(path: str, model: FlameModel | None, *, focal: float, other_head: bool) -> Tracked:
  """As `read.load_tracked`."""
  arrays = read_npz(path)
  verdict = judged(path, "VHAP", model, other_head)
  assert model is not None
  names = [str(t) for t in np.ravel(arrays["timestep_id"])]
  n = len(names)
  get = lambda name, *shape: numbers(path, name, arrays.get(name), shape)
  expr, shape = get("expr", n, None), get("shape", None)
  angles = {name: get(name, n, width) for name, width in (("neck_pose", 3), ("jaw_pose", 3), ("eyes_pose", 6))}
  size_read = get("image_size", 2)
  size = (int(size_read[0]), int(size_read[1]))
  if "focal_length" in arrays:
    f = float(np.ravel(numbers(path, "focal_length", np.ravel(arrays["focal_length"])[:1], (1,)))[0]) * max(size)
  elif focal > 0:
    f = focal * max(size)
  else:
    raise InputError(
      f"{path}: the key 'focal_length' is missing, as in VHAP's calibrated runs; give it: --calibrated with --focal "
      "(of the longer side) or --fov"
    )
  cx, cy = size[1] / 2.0, size[0] / 2.0
  if "vht_jax_image_size" in arrays:  # an export of ours, of images that were padded: the lens of those before
    lens = get("vht_jax_lens", n, 3)
    if np.ptp(lens, axis=0).max(initial=0.0) > 1e-3:
      raise InputError(f"{path}: exported from a crop that follows the head, whose camera is not one: export without")
    f, cx, cy = lens[0].tolist()
    own = get("vht_jax_image_size", 2)
    size = (int(own[0]), int(own[1]))
  _tell_of_offsets(path, arrays)
  rotation, position = from_vhap_camera(
    matrices(get("rotation", n, 3)), get("translation", n, 3), root_joints(model, shape, expr)
  )
  return made(
    path, verdict, model, shape=shape, expr=expr, rotation=rotation, position=position, neck=angles["neck_pose"],
    jaw=angles["jaw_pose"], eyes=angles["eyes_pose"], lens=(f, cx, cy), size=size,
    frames=frame_numbers(path, names, start=0), n_processed=int(arrays.get("n_processed_frames", n)),
  )  # fmt: skip


def root_joints(model: FlameModel, shape: np.ndarray, expr: np.ndarray) -> np.ndarray:
  """(T, 3) unposed root joint, head frame, m, of codes (S,) and (T, E), as far as the model has them."""
  n_shape = model.shapedirs.shape[-1]
  dirs = np.asarray(model.j_shapedirs, np.float64)[0]
  s, e = min(n_shape, len(shape)), min(dirs.shape[-1] - n_shape, expr.shape[1])
  still = np.asarray(model.j_template, np.float64)[0] + dirs[:, :s] @ shape[:s]
  return still + expr[:, :e] @ dirs[:, n_shape : n_shape + e].T


def _tell_of_offsets(path: str, arrays: dict[str, np.ndarray]) -> None:
  for name in ("static_offset", "dynamic_offset"):
    if name in arrays and (size := float(np.abs(arrays[name]).max(initial=0.0))) > _NOTICED:
      log.warning("%s: %s, up to %.1f mm, is left out: joints of VHAP move with it", path, name, 1000 * size)
