"""The NeRSemble benchmark's `flame2023_tracking.npz`, with the calibration that lies three folders above it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from vht_jax.errors import InputError, brief
from vht_jax.results.export.flame_codes.angles import times
from vht_jax.results.export.flame_family.nersemble import SERIAL
from vht_jax.results.read.common import judged, made, numbers
from vht_jax.results.read.kinds import split
from vht_jax.results.read.vhap import root_joints
from vht_jax.results.vht_npz import Tracked, read_npz
from vht_jax.types import FlameModel

SIZES = ((512, 512), (1604, 1100))  # (H, W) of the images of its tasks: the calibration does not say
_NEAR = 0.1  # of a side; a principal point is at most this far from the middle

log = logging.getLogger("vht_jax")


def load(path: str, model: FlameModel | None, *, focal: float, other_head: bool) -> Tracked:
  """As `read.load_tracked`; the calibration's camera is used, whatever `focal` is."""
  file, camera = split(path)
  arrays = read_npz(file)
  verdict = judged(path, "NeRSemble", model, other_head)
  assert model is not None
  expr = numbers(file, "expression", arrays["expression"], (None, None))
  n = len(expr)
  get = lambda name, *shape: numbers(file, name, arrays[name], shape)
  shape = get("shape", 1, None)[0]
  R, t = get("rotation_matrices", n, 3, 3), get("translation", n, 3)
  scale = float(np.ravel(arrays["scale"])[0])
  if not scale > 0:
    raise InputError(f"{file}: scale: expected a number above 0; found {scale:.4g}")
  world_to_camera, K, size = _camera(file, camera)
  # The head has no scale here: the world is scaled instead, which no camera sees.
  turned = world_to_camera[:3, :3] @ R
  placed = (t @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]) / scale
  position = times(turned, root_joints(model, shape, expr)) + placed
  return made(
    path, verdict, model, shape=shape, expr=expr, rotation=turned, position=position, neck=get("neck", n, 3),
    jaw=get("jaw", n, 3), eyes=get("eyes", n, 6), lens=(float(K[0, 0]), float(K[0, 2]), float(K[1, 2])), size=size,
    frames=get("frames", n).astype(int) + 1,
  )  # fmt: skip


def _camera(file: str, camera: str | None) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
  """World -> camera (4, 4), K (3, 3) px and the images' (H, W)."""
  path = _calibration(Path(file))
  try:
    content = json.loads(path.read_text())
    poses, lenses = content["world_2_cam"], content["intrinsics"]
    sizes = content.get("vht_jax_image_size", {})
    names = list(poses)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f"{path}: expected world_2_cam and intrinsics; found {brief(error)}") from None
  name = camera or (SERIAL if SERIAL in names else names[0] if len(names) == 1 else None)
  if name not in names:
    asked = f"no camera {camera!r}" if camera else "several cameras"
    raise InputError(f"{path}: {asked}; name one of {', '.join(names)}: {file}@{names[0]}")
  lens = lenses[name] if isinstance(lenses, dict) else lenses
  pose, K = numbers(str(path), "world_2_cam", poses[name], (4, 4)), numbers(str(path), "intrinsics", lens, (3, 3))
  if name in sizes:
    return pose, K, (int(sizes[name][0]), int(sizes[name][1]))
  found = [s for s in SIZES if all(abs(K[k, 2] - s[1 - k] / 2) < _NEAR * s[1 - k] for k in (0, 1))]
  if len(found) != 1:
    raise InputError(
      f"{path}: its principal point ({K[0, 2]:.0f}, {K[1, 2]:.0f}) is not in the middle of the benchmark's images, "
      + " or ".join(f"{w}x{h}" for h, w in SIZES)
    )
  return pose, K, found[0]


def _calibration(file: Path) -> Path:
  """camera_params.json of a tracking: of the participant's folder, or beside the file."""
  places = [file.parent, *(p / "calibration" for p in list(file.resolve().parents)[:5])]
  found = next((p / "camera_params.json" for p in places if (p / "camera_params.json").is_file()), None)
  if found is None:
    raise InputError(f"{file}: lacks its cameras: put the participant's calibration/camera_params.json beside it")
  return found
