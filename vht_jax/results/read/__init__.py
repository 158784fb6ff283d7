"""Results of other trackers, read as ours: VHAP, the NeRSemble benchmark, metrical-tracker, and exports like theirs."""

from __future__ import annotations

import importlib
from pathlib import Path

from vht_jax.results import vht_npz
from vht_jax.results.read.kinds import content, exists, kind_of
from vht_jax.results.vht_npz import Tracked
from vht_jax.types import FlameModel

__all__ = ["content", "exists", "kind_of", "load_tracked"]

_READERS = {"VHAP": "vhap", "NeRSemble": "nersemble", "metrical-tracker": "metrical"}


def load_tracked(
  path: str | Path, model: FlameModel | None = None, *, focal: float = 0.0, other_head: bool = False
) -> Tracked:
  """Reads a result: a tracked_flame_params.npz of ours or of VHT, or that of another tracker.

  Of other trackers: VHAP's tracked_flame_params_30.npz, NeRSemble's flame2023_tracking.npz (`file.npz@222200037` names
  the camera of its calibration), metrical-tracker's folder of .frame files (or one of them).

  Args:
    path: the file or folder.
    model: the head that the codes are for: they are cut or zero-padded to what it has. By default they stay as they
      are in the file, whatever head they are of. Other trackers' results need it: it says where the joints are.
    focal: known focal length in units of the longer side for a file without a camera (VHT's and VHAP's calibrated
      runs write none): the principal point is the centre then.
    other_head: codes of another head than `model` are no error; they stay as they are, and `verdict` says so.

  Raises:
    InputError: no such file, truncated, a key missing, shapes that do not fit together, numbers that are not finite;
      codes of another head.
  """
  kind = kind_of(path)
  if kind is None:
    return vht_npz.load_tracked(path, model, focal=focal, other_head=other_head)
  reader = importlib.import_module(f"{__name__}.{_READERS[kind]}")  # late: most results are ours
  return reader.load(str(path), model, focal=focal, other_head=other_head)
