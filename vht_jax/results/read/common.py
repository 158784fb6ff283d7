"""What readers of other trackers' results have in common: checked arrays in, a `Tracked` in the camera's frame out."""

from __future__ import annotations

import logging
from typing import Any

import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import make_camera
from vht_jax.errors import InputError
from vht_jax.results.export.flame_codes.places import from_opencv
from vht_jax.results.export.flame_codes.releases import FILES, release_of
from vht_jax.results.heads import Verdict
from vht_jax.results.read.kinds import RELEASES
from vht_jax.results.vht_npz import Tracked, fit_components
from vht_jax.types import FlameModel, Identity, Pose, Status, TrackResult

_AMBIENT = 3.5449077  # sqrt(4 pi): white light from everywhere, where a file's light is not in our terms

log = logging.getLogger("vht_jax")


def numbers(path: str, name: str, values: Any, shape: tuple[int | None, ...]) -> np.ndarray:
  """An array of a file, float64, checked; None in `shape`: any size.

  Raises:
    InputError: it is missing, of another shape, or holds what are no finite numbers.
  """
  if values is None:
    raise InputError(f"{path}: the key {name!r} is missing")
  array = np.asarray(values)
  if array.dtype.kind not in "fiu":
    raise InputError(f"{path}: {name}: expected numbers; found {array.dtype}")
  if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape)):
    wanted = ", ".join("any" if n is None else str(n) for n in shape)
    raise InputError(f"{path}: {name}: expected shape ({wanted}); found {array.shape}")
  if not np.isfinite(array).all():
    raise InputError(f"{path}: {name}: expected finite numbers; found NaN or infinity")
  return array.astype(np.float64)


def judged(path: str, tracker: str, model: FlameModel | None, other_head: bool) -> Verdict:
  """Whether codes of a tracker, a key of `RELEASES`, are those of `model`.

  Raises:
    InputError: no model, or one of another release without `other_head`.
  """
  if model is None:
    raise InputError(f"{path}: a result of {tracker}: FLAME's files are needed to read it (--assets)")
  release = RELEASES[tracker]
  found = release_of(model.name) if model.name.startswith("FLAME") else ""
  if found == release:
    return Verdict(True, f"of {tracker}, taken for codes of {model.name}, FLAME {release} by its name")
  if not other_head:
    raise InputError(
      f"{path}: {tracker}'s codes are of FLAME {release}; on this head, {model.name!r}, they are another face: name "
      f"that file, --model={FILES[release]}"
    )
  return Verdict(False, f"FLAME {release} ({tracker})")


def made(
  path: str,
  verdict: Verdict,
  model: FlameModel,
  *,
  shape: np.ndarray,
  expr: np.ndarray,
  rotation: np.ndarray,
  position: np.ndarray,
  neck: np.ndarray,
  jaw: np.ndarray,
  eyes: np.ndarray,
  lens: tuple[float, float, float],
  size: tuple[int, int],
  frames: np.ndarray,
  n_processed: int | None = None,
) -> Tracked:
  """A result of T frames.

  Args:
    shape, expr: (S,), (T, E) codes.
    rotation, position: (T, 3, 3), (T, 3) of the root joint in the camera's frame (OpenCV), m.
    neck, jaw, eyes: (T, 3), (T, 3), (T, 6) axis-angle, rad.
    lens: f, cx, cy, px from the top left.
    size: (H, W) px.
    frames: (T,) ids, from 1.
    n_processed: rows from here on were never tracked.
  """
  f32 = lambda x: jnp.asarray(np.asarray(x, np.float32))
  n = len(expr)
  turned, placed = from_opencv(rotation, position)
  poses = Pose(
    expr=f32(expr), rotation=turned, translation=placed, neck=f32(neck), jaw=f32(jaw), eyes=f32(eyes).reshape(n, 2, 3)
  )
  f, cx, cy = lens
  if not f > 0:
    raise InputError(f"{path}: expected a focal length above 0; found {f:.4g}")
  identity = Identity(
    shape=f32(shape),
    texture=jnp.zeros(model.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)).at[0].set(_AMBIENT),
    camera=make_camera(f / max(size), (cx / size[1], cy / size[0])),
    lmk_offset=jnp.zeros((70, 3)),
  )
  done = n if n_processed is None else n_processed
  status = np.where(np.arange(n) < done, Status.TRACKED, Status.NO_FACE).astype(np.int32)
  result = TrackResult(identity=identity, poses=poses, energies={}, status=jnp.asarray(status))
  if verdict.same:
    result = fit_components(result, model)
    log.info("%s: %s", path, verdict.reason)
  return Tracked(result, np.asarray(frames, np.int64), done, size, model.name if verdict.same else "", verdict)


def frame_numbers(path: str, names: list[str], start: int) -> np.ndarray:
  """(T,) frame ids, from 1, of names that are numbers from `start` on; 1, 2, ... where they are none."""
  found = [name.rsplit("_", 1)[-1] for name in names]
  if all(f.isdigit() for f in found) and len(set(found)) == len(found):
    return np.array([int(f) for f in found]) + 1 - start
  log.info("%s: its frames have no numbers; taken for 1, 2, ...", path)
  return np.arange(1, len(names) + 1)
