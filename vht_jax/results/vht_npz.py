"""Results on disk, in VHT's format both ways.

`tracked_flame_params.npz` has VHT's keys, shapes and raw values: neck, jaw and eyes are stored *before* the tanh that
bounds them (see `flame.limit_pose`); readers of VHT's files find what they expect. What VHT has no key for is stored
under names that begin with `vht_jax_`, which its readers do not look at.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from vht_jax.config import TrackConfig
from vht_jax.errors import InputError, brief
from vht_jax.head.teeth import has_teeth, offset_for
from vht_jax.host import npz
from vht_jax.host.files import write_atomic
from vht_jax.host.programs import in_chunks, rows_of
from vht_jax.landmarks.regions import REGIONS
from vht_jax.results import heads, vht_keys
from vht_jax.types import POSE_FIELDS, FlameModel, Identity, RawPose, Status, TrackResult

FILE_NAME = "tracked_flame_params.npz"

# VHT's keys of a frame and the width of their rows (None: as many as there are components).
_PER_FRAME = {"rotation": 3, "translation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "expr": None}


@dataclasses.dataclass(frozen=True)
class Tracked:
  """The content of a tracked_flame_params.npz."""

  result: TrackResult
  frames: np.ndarray  # (T,) frame ids, 1-based: the numbers in the folders' names
  n_processed: int  # rows from here on were never tracked (an interrupted run of VHT)
  image_size: tuple[int, int]  # (H, W) of the tracked images
  head: str  # name of the head model; '' in VHT's files
  verdict: heads.Verdict | None = None  # whether the codes are of the model that was asked about
  times: np.ndarray | None = None  # (T,) s, when each frame was taken; None in VHT's files
  sources: np.ndarray | None = None  # (T,) str, what each frame was made from; None in VHT's files
  head_id: str = ""  # of the head model (`heads.head_id`); '' where only its name is known
  teeth: bool = False  # it is FLAME with teeth (`head.teeth`)


def save_tracked(
  path: str | Path,
  result: TrackResult,
  frames: Shaped[np.ndarray, " T"],
  size: tuple[int, int],
  config: TrackConfig,
  head: str | FlameModel = "",
  *,
  times: Shaped[np.ndarray, " T"] | None = None,
  sources: Sequence[str] | None = None,
) -> None:
  """Writes a result in VHT's format, atomically.

  Args:
    path: the file to write.
    result: T tracked frames.
    frames: (T,) frame ids from the folders' names.
    size: (H, W) of the tracked images.
    config: shape, expression and texture codes are zero-padded to its n_shape, n_expr and n_tex.
    head: the head model, or its name alone. The codes mean nothing without it.
    times: (T,) s, when each frame was taken.
    sources: (T,) what each frame was made from.
  """
  name, identifier = (head, "") if isinstance(head, str) else (head.name, heads.head_id(head))
  teeth = not isinstance(head, str) and has_teeth(head)
  names = None if sources is None else np.asarray(sources, str)
  tracked = Tracked(
    result, frames, len(frames), size, name, times=times, sources=names, head_id=identifier, teeth=teeth
  )  # fmt: skip
  write_npz(path, tracked_arrays(tracked, config))


def tracked_arrays(tracked: Tracked, config: TrackConfig) -> dict[str, np.ndarray]:
  """What `save_tracked` writes, by its key in the file."""
  result, times, sources = tracked.result, tracked.times, tracked.sources
  identity, poses = result.identity, result.poses
  n = len(np.asarray(poses.expr))
  coded = poses.replace(offset=None)
  raw = in_chunks(lambda index: vht_keys.unlimit(rows_of(coded, index)), n, vht_keys.CHUNK)
  K, RT = vht_keys.vht_camera(identity.camera)
  arrays = {
    "rotation": vht_keys.continuous(raw.rotation),
    "translation": raw.translation,
    "neck_pose": raw.neck,
    "jaw_pose": raw.jaw,
    "eyes_pose": np.asarray(raw.eyes).reshape(n, 6),
    "shape": _resized(identity.shape, config.components.n_shape),
    "expr": _resized(raw.expr, config.components.n_expr),
    "texture": _resized(identity.texture, config.components.n_tex),
    "light": np.broadcast_to(np.asarray(identity.light), (n, 9, 3)),
    "K": K,
    "RT": RT,
    "vht_jax_lmk_offset": identity.lmk_offset,
    **{f"vht_jax_energy_{name}": value for name, value in result.energies.items()},
    **({} if result.focal_sd is None else {"vht_jax_focal_sd": result.focal_sd}),
  }
  if result.pose_sd is not None:
    arrays |= {f"vht_jax_sd_{name}": getattr(result.pose_sd, name) for name in POSE_FIELDS}
  if result.shape_information is not None:
    arrays |= {f"vht_jax_shape_{name}": rows for name, rows in vars(result.shape_information).items()}
  arrays = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
  arrays |= {
    "frame": np.asarray(tracked.frames, np.int64),
    "view": np.array(["image_0000.png"] * n, "<U14"),
    "n_processed": np.asarray(tracked.n_processed, np.int64),
    "image_size": np.asarray(tracked.image_size, np.int64),
    **vht_keys.surface(identity, poses),
    "vht_jax_status": np.asarray(result.status, np.int32),
    **({} if result.confidence is None else {"vht_jax_confidence": np.asarray(result.confidence, np.float32)}),
    "vht_jax_head": np.asarray(tracked.head),
    **({"vht_jax_head_id": np.asarray(tracked.head_id)} if tracked.head_id else {}),
    **({"vht_jax_teeth": np.asarray(True)} if tracked.teeth else {}),
    **({} if times is None else {"vht_jax_times": np.asarray(times, np.float64)}),
    **({} if sources is None else {"vht_jax_source": sources}),
  }
  regions = {"vht_jax_confidence_regions": result.region_confidence, "vht_jax_visible_regions": result.visible}
  regions = {name: np.asarray(rows, np.float32) for name, rows in regions.items() if rows is not None}
  return arrays | regions | ({"vht_jax_regions": np.array(REGIONS)} if regions else {})


def load_tracked(
  path: str | Path, model: FlameModel | None = None, *, focal: float = 0.0, other_head: bool = False
) -> Tracked:
  """Reads a tracked_flame_params.npz, written by VHT or by us.

  Args:
    path: the file.
    model: the head that the codes are for: they are cut or zero-padded to what it has. By default they stay as they
      are in the file, whatever head they are of. To pose the person, give it the result's offsets, if there are any:
      `flame.with_offset(model, result.identity.static_offset)`.
    focal: known focal length in units of the longer side for a file without a camera (VHT's calibrated runs write
      none): the principal point is the centre then.
    other_head: codes of another head than `model` are no error; they stay as they are, and `verdict` says so.

  Raises:
    InputError: no such file, truncated, a key missing, shapes that do not fit together, numbers that are not finite;
      codes of another head.
  """
  return tracked_of(read_npz(path), path, model, focal=focal, other_head=other_head)


def tracked_of(
  arrays: dict[str, np.ndarray],
  path: str | Path,
  model: FlameModel | None = None,
  *,
  focal: float = 0.0,
  other_head: bool = False,
) -> Tracked:
  """`load_tracked` of a file that has been read; `path` for messages."""
  missing = [k for k in (*_PER_FRAME, "shape", "texture", "light", "frame", "image_size") if k not in arrays]
  if missing:
    raise InputError(f"{path}: expected VHT's tracked parameters; the key {missing[0]!r} is missing")
  if "K" not in arrays:
    if not focal > 0:
      raise InputError(
        f"{path}: the key 'K', the camera, is missing, as in VHT's calibrated runs; give it: --calibrated with --focal "
        "(of the longer side) or --fov"
      )
    arrays["K"] = np.array([focal, 0.5, 0.5], np.float32)
  for name in (*_PER_FRAME, "shape", "texture", "light", "frame", "image_size", "K", "RT", "n_processed"):
    if name in arrays and arrays[name].dtype.kind not in "fiu":
      raise InputError(f"{path}: {name}: expected numbers; found {arrays[name].dtype}")
  if arrays["frame"].ndim != 1 or len(arrays["frame"]) == 0:
    raise InputError(f"{path}: frame: expected the frames' numbers; found shape {arrays['frame'].shape}")
  n = len(arrays["frame"])
  n_processed = int(arrays.get("n_processed", n))
  for name, width in _PER_FRAME.items():
    shape = arrays[name].shape
    if len(shape) != 2 or shape[0] != n or shape[1] != (width or shape[1]):
      raise InputError(f"{path}: {name}: expected shape ({n}, {width or 'components'}); found {shape}")
  for name in (*_PER_FRAME, "shape", "texture", "light", "K"):
    if not np.isfinite(arrays[name][:n_processed] if name in _PER_FRAME else arrays[name]).all():
      raise InputError(f"{path}: {name}: expected finite numbers; found NaN or infinity")

  size = tuple(int(x) for x in np.ravel(arrays["image_size"]))
  if len(size) != 2 or min(size) < 1:
    raise InputError(f"{path}: image_size: expected (height, width); found {size}")
  light, offset = arrays["light"], arrays.get("vht_jax_lmk_offset", np.zeros((70, 3)))
  if light.shape != (n, 9, 3):
    raise InputError(f"{path}: light: expected shape ({n}, 9, 3); found {light.shape}")
  if offset.shape != (70, 3) or offset.dtype.kind != "f" or not np.isfinite(offset).all():
    raise InputError(f"{path}: vht_jax_lmk_offset: expected finite numbers (70, 3); found {offset.shape}")

  def rows(key: str) -> Any:
    return np.asarray(arrays[key], np.float32)

  raw = RawPose(
    expr=rows("expr"),
    rotation=rows("rotation"),
    translation=rows("translation"),
    neck=rows("neck_pose"),
    jaw=rows("jaw_pose"),
    eyes=rows("eyes_pose").reshape(n, 2, 3),
  )
  limited = in_chunks(lambda index: vht_keys.limit(rows_of(raw, index)), n, vht_keys.CHUNK)
  poses = jax.tree.map(jnp.asarray, limited).replace(offset=vht_keys.dynamic_offset(arrays, path, n))
  status = np.where(np.arange(n) < n_processed, Status.TRACKED, Status.NO_FACE)
  identity = Identity(
    shape=jnp.asarray(arrays["shape"], jnp.float32),
    texture=jnp.asarray(arrays["texture"], jnp.float32),
    light=jnp.asarray(light[0], jnp.float32),
    camera=vht_keys.camera_from_vht(arrays["K"], arrays.get("RT"), size, path),
    lmk_offset=jnp.asarray(offset, jnp.float32),
    texture_layer=vht_keys.layer(arrays, path),
    static_offset=vht_keys.static_offset(arrays, path),
  )
  confidence = arrays.get("vht_jax_confidence")
  result = TrackResult(
    identity=identity,
    poses=poses,
    energies={
      k.removeprefix("vht_jax_energy_"): vht_keys.rows(a, path, k, n)
      for k, a in arrays.items()
      if k.startswith("vht_jax_energy_")
    },
    status=vht_keys.rows(arrays.get("vht_jax_status", status), path, "vht_jax_status", n).astype(jnp.int32),
    confidence=None if confidence is None else vht_keys.rows(confidence, path, "vht_jax_confidence", n),
    region_confidence=vht_keys.regions(arrays, path, "vht_jax_confidence_regions", n),
    visible=vht_keys.regions(arrays, path, "vht_jax_visible_regions", n),
    pose_sd=vht_keys.pose_sd(arrays, path, poses),
    focal_sd=vht_keys.focal_sd(arrays, path),
  )
  head, identifier = (str(arrays.get(f"vht_jax_head{suffix}", "")) for suffix in ("", "_id"))
  verdict = None
  if model is not None:
    processed = arrays["expr"][:n_processed]
    verdict = heads.judge(head, identifier, arrays["shape"], processed, model)
    if verdict.same:
      result = fit_components(result, model)
      heads.check_offsets(result, model, path)
      if verdict.reason:
        logging.getLogger("vht_jax").warning("%s: %s", path, verdict.reason)
    elif not other_head:
      raise InputError(
        f"{path}: its codes are of {verdict.reason}; on this run's head, {model.name!r}, they are another face. Track "
        "with its head (--assets, --model), or take nothing but its camera: --allow_other_head"
      )
  return Tracked(
    result, np.asarray(arrays["frame"], np.int64), n_processed, size, head, verdict,
    times=vht_keys.of_frames(arrays, path, "vht_jax_times", n, "f"),
    sources=vht_keys.of_frames(arrays, path, "vht_jax_source", n, "U"), head_id=identifier,
    teeth=bool(np.any(arrays.get("vht_jax_teeth", False))),
  )  # fmt: skip


def fit_components(result: TrackResult, model: FlameModel) -> TrackResult:
  """The result with its shape, expression and texture codes, and its offsets, cut or zero-padded to what `model` has.

  Offsets are those of FLAME with teeth or without; of another mesh they stay as they are.
  """
  identity, poses = result.identity, result.poses
  return result.replace(
    identity=identity.replace(
      shape=jnp.asarray(_resized(identity.shape, model.shapedirs.shape[-1], cut=True)),
      texture=jnp.asarray(_resized(identity.texture, model.texture_basis.shape[-1], cut=True)),
      static_offset=offset_for(model, identity.static_offset),
    ),
    poses=poses.replace(
      expr=jnp.asarray(_resized(poses.expr, model.exprdirs.shape[-1], cut=True)), offset=offset_for(model, poses.offset)
    ),
    pose_sd=result.pose_sd
    and result.pose_sd.replace(expr=jnp.asarray(_resized(result.pose_sd.expr, model.exprdirs.shape[-1], cut=True))),
  )


def for_frames(tracked: Tracked, frames: np.ndarray) -> TrackResult:
  """The result for another list of frame ids: rows by id; the frames it lacks get their nearest row and `NO_FACE`.

  Raises:
    InputError: it has none of the frames.
  """
  frames = np.asarray(frames)
  known = np.isin(frames, tracked.frames)
  if not known.any():
    raise InputError(f"{FILE_NAME}: has none of the dataset's frames ({frames[0]}, ...); is it of another video?")
  order = np.argsort(tracked.frames)
  nearest = [order[np.abs(tracked.frames[order] - f).argmin()] for f in frames]

  def take(x):
    return jnp.asarray(x)[jnp.asarray(nearest)]

  result = tracked.result
  return result.replace(
    poses=jax.tree.map(take, result.poses),
    energies={name: take(value) for name, value in result.energies.items()},
    **{
      name: None if getattr(result, name) is None else take(getattr(result, name))
      for name in ("confidence", "region_confidence", "visible", "misplaced")
    },
    pose_sd=jax.tree.map(take, result.pose_sd),
    status=jnp.where(jnp.asarray(known), take(result.status), jnp.asarray(Status.NO_FACE, jnp.int32)),
  )


def write_npz(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
  """np.savez; the file appears whole or not at all."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomic(path, npz.npz_bytes(arrays), durable=True)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
  """Every array of an npz file; nothing in it is executed, and no header can make it allocate more than the file holds.

  Raises:
    InputError: no such file, or not a complete npz file of plain arrays.
  """
  if not Path(path).is_file():
    raise InputError(f"{path}: no such file")
  try:
    return {name: array.copy() for name, array in npz.read_npz(Path(path)).items()}  # writable
  except InputError as error:
    message = f"{path}: expected an npz file of plain arrays; it is damaged or of another kind ({brief(error)})"
    raise InputError(message) from None


def _resized(code: Any, size: int, cut: bool = False) -> np.ndarray:
  """`code` with its last axis zero-padded to `size`, and cut to it when asked."""
  code = np.asarray(code, np.float32)
  missing = size - code.shape[-1]
  if missing > 0:
    return np.concatenate([code, np.zeros((*code.shape[:-1], missing), np.float32)], axis=-1)
  return code[..., :size] if cut else code
