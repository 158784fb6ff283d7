"""metrical-tracker's `.frame` files: FLAME 2020 at rest, without a neck, before a camera that moves.

They are files of torch with NumPy arrays inside; nothing in them is executed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.errors import InputError
from vht_jax.head.load.unpickle import load_torch
from vht_jax.results.export.flame_codes.angles import continuous_angles, from_six, times
from vht_jax.results.read.common import frame_numbers, judged, made, numbers
from vht_jax.results.read.kinds import frame_files
from vht_jax.results.read.vhap import root_joints
from vht_jax.results.vht_npz import Tracked
from vht_jax.types import FlameModel

_NOTICED = 0.05  # of an eyelid; above this it is told that they are left out

_SHAPES: dict[str, tuple[int | None, ...]] = {
  "exp": (None,), "shape": (None,), "eyes": (12,), "jaw": (6,), "eyelids": (2,), "R": (3, 3), "t": (3,), "K": (3, 3),
}  # fmt: skip

log = logging.getLogger("vht_jax")


def load(path: str, model: FlameModel | None, *, focal: float, other_head: bool) -> Tracked:
  """As `read.load_tracked`; a single file stands for its folder. The files' camera is used, whatever `focal` is."""
  file = Path(path)
  files = frame_files(file if file.is_dir() else file.parent)
  verdict = judged(path, "metrical-tracker", model, other_head)
  assert model is not None
  frames = [_frame(p) for p in files]
  shape, size, K = frames[0]["shape"], frames[0]["size"], frames[0]["K"]
  for p, frame in zip(files, frames):
    for name, value in (("shape", shape), ("img_size", np.array(size)), ("K", K)):
      found = np.array(frame["size"]) if name == "img_size" else frame[name]
      if found.shape != value.shape or not np.allclose(found, value, rtol=1e-5, atol=1e-4):
        raise InputError(f"{p}: {name} differs from that of {files[0].name}: of another run?")
  stack = lambda name: np.stack([f[name] for f in frames])
  expr, R = stack("exp"), stack("R")
  if (lids := np.abs(stack("eyelids")).max()) > _NOTICED:
    log.warning("%s: the eyelids, up to %.2f, have no place in a result here and are left out", path, lids)
  n = len(frames)
  position = stack("t") + times(R, root_joints(model, shape, expr))
  eyes = [continuous_angles(from_six(stack("eyes")[:, k : k + 6])) for k in (0, 6)]
  return made(
    path, verdict, model, shape=shape, expr=expr, rotation=R, position=position, neck=np.zeros((n, 3)),
    jaw=continuous_angles(from_six(stack("jaw"))), eyes=np.concatenate(eyes, axis=1),
    lens=(float(K[0, 0]), float(K[0, 2]), float(K[1, 2])), size=size,
    frames=_frame_ids(path, files, frames),
  )  # fmt: skip


def _frame_ids(path: str, files: list[Path], frames: list[dict[str, Any]]) -> np.ndarray:
  """(T,) ids, from 1; exports of ours leave out frames and say which these are."""
  own = [f["id"] for f in frames]
  if all(isinstance(i, int) and i > 0 for i in own) and len(set(own)) == len(own):
    return np.array(own)
  return frame_numbers(path, [p.stem for p in files], start=0)


def _frame(path: Path) -> dict[str, Any]:
  """The numbers of one file."""
  content = load_torch(path)
  try:
    flame, opencv, size = content["flame"], content["opencv"], np.ravel(content["img_size"])
    picked = {name: flame[name] for name in ("exp", "shape", "eyes", "jaw", "eyelids")} | dict(opencv)
  except (KeyError, TypeError, ValueError):
    raise InputError(f"{path}: expected a .frame of metrical-tracker, with flame, opencv and img_size") from None
  out: dict[str, Any] = {k: numbers(str(path), k, picked.get(k), (1, *s))[0] for k, s in _SHAPES.items()}
  if size.shape != (2,) or size.dtype.kind not in "iu" or size.min() < 1:
    raise InputError(f"{path}: img_size: expected height and width; found {size.tolist()}")
  return out | {"size": (int(size[0]), int(size[1])), "id": content.get("vht_jax_frame")}
