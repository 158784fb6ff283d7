"""What `track_fn` takes, made of plain arrays or of a dataset, and checked where it is made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Shaped

from vht_jax.cameras import make_camera
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.tracking.protocols import Clip
from vht_jax.tracking.state import plain_appearance
from vht_jax.types import AnyArray, FlameModel, Identity, Observations, Pose, TrackResult


def observations(
  landmarks: Shaped[AnyArray, "T N 2"],
  confidence: Shaped[AnyArray, "T N"] | None = None,
  *,
  valid: Bool[AnyArray, " T"] | None = None,
  rgb: Shaped[AnyArray, "T H W 3"] | None = None,
  dense: Shaped[AnyArray, "T M 2"] | None = None,
  alpha: Shaped[AnyArray, "T H W"] | None = None,
) -> Observations:
  """A clip of T frames as `track_fn` takes it; arrays may be traced.

  Args:
    landmarks: (T, 70, 2) px, x right, y down, the first pixel's centre at 0.5: the 68 of iBUG and the irises; or
      (T, 68, 2), whose irises are missing then. Points that are not finite count as missing.
    confidence: (T, 70) or (T, 68) in [0, 1], 0 for what is missing; None: 1.
    valid: (T,) bool, a face was found; None: where any landmark is there.
    rgb: (T, H, W, 3) in [0, 1] or uint8; not needed for fits of landmarks.
    dense: (T, 478, 2) px of MediaPipe's face mesh.
    alpha: (T, H, W) in [0, 1], foreground.

  Raises:
    InputError: other shapes, or images that are neither uint8 nor floating-point.
  """
  points = _array(landmarks)
  if points.ndim != 3 or points.shape[1] not in (68, 70) or points.shape[2] != 2:
    raise InputError(f"observations: landmarks of shape {points.shape}; expected (T, 70, 2) or (T, 68, 2)")
  n, count = points.shape[:2]
  known = jnp.ones((n, count), points.dtype) if confidence is None else _array(confidence)
  _check("confidence", known, (n, count))
  if count == 68:
    points = jnp.concatenate([points, jnp.zeros((n, 2, 2), points.dtype)], axis=1)
    known = jnp.concatenate([known, jnp.zeros((n, 2), known.dtype)], axis=1)
  there = jnp.all(jnp.isfinite(points), axis=-1)
  points, known = jnp.where(there[..., None], points, 0.0), jnp.where(there, known, 0.0)
  found = jnp.any(known[:, :68] > 0, axis=-1) if valid is None else jnp.asarray(valid, bool)
  _check("valid", found, (n,))
  images: Any = None
  if rgb is not None:
    images = jnp.asarray(rgb)
    if images.dtype == jnp.uint8:
      images = images.astype(points.dtype) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise InputError(f"observations: rgb of {images.dtype}; expected uint8, or floating-point in [0, 1]")
    if images.ndim != 4:
      raise InputError(f"observations: rgb of shape {images.shape}; expected ({n}, H, W, 3)")
    _check("rgb", images, (n, *images.shape[1:3], 3))
  more = {}
  for name, value in {"dense": dense, "alpha": alpha}.items():
    if value is not None:
      more[name] = _array(value)
      _check(name, more[name], (n, 478, 2) if name == "dense" else (n, *more[name].shape[1:3]))
  return Observations(rgb=images, landmarks=points, confidence=known, valid=found, **more)


def observations_from(
  folder: str | Path | Clip, frames: Iterable[int] | None = None, *, images: bool = False
) -> Observations:
  """A dataset as `track_fn` takes it: its landmarks and, if they are wanted, its images.

  Args:
    folder: of frames with landmark files (`annotate` writes them), or a `FrameFolder`, or any other `Clip`. Without
      images `track_fn` has to be told their size, which is `FrameFolder(folder).size`.
    frames: positions; None: all.

  Raises:
    InputError: no such folder, no frame there, or no landmarks.
  """
  if isinstance(folder, str | Path):
    from vht_jax.dataset.folder import FrameFolder  # reads images, which nothing else here does

    clip, name = FrameFolder(folder), str(folder)
  else:
    clip, name = folder, "observations_from"
  index = list(range(len(clip))) if frames is None else [int(i) for i in frames]
  wrong = [i for i in index if not 0 <= i < len(clip)]
  if wrong or not index:
    raise InputError(f"{name}: has frames 0 to {len(clip) - 1}; asked for {wrong[0] if wrong else 'none'}")
  points, confidence, dense = (None if a is None else a[index] for a in clip.landmarks())
  assert points is not None and confidence is not None
  if not (confidence > 0).any():
    raise InputError(f"{name}: no landmarks in these frames; vht_jax.annotate (or vht-track) makes them")
  if dense is not None:
    dense = np.nan_to_num(dense)  # of frames without a face
  return observations(points, confidence, rgb=clip.images(index) if images else None, dense=dense)


def initial_result(
  model: FlameModel,
  n_frames: int,
  *,
  focal: Shaped[AnyArray, ""] | float,
  principal: Shaped[AnyArray, " 2"] | tuple[float, float] = (0.5, 0.5),
  shape: Shaped[AnyArray, " S"] | None = None,
  poses: Pose | None = None,
) -> TrackResult:
  """What `track_fn` takes as `init`: a known person and camera, and poses to start from; arrays may be traced.

  Args:
    focal: () focal length in units of the longer image side.
    principal: (2,) principal point in image widths and heights, from the top left corner.
    shape: (S,) identity, S as the model has; None: the mean head.
    poses: leading axis n_frames; None: neutral ones that look into the camera. They matter to methods that take few
      steps from there; a fit of landmarks finds its way.

  Raises:
    InputError: numbers that the model does not have, or other shapes.
  """
  dtype = model.v_template.dtype
  n_shape = model.shapedirs.shape[-1]
  code = jnp.zeros(n_shape, dtype) if shape is None else jnp.asarray(shape, dtype)
  if code.shape != (n_shape,):
    raise InputError(f"initial_result: shape of {code.shape}; this head has ({n_shape},)")
  neutral = flame.neutral_pose(model)
  begin = poses or jax.tree.map(lambda a: jnp.broadcast_to(a, (n_frames, *a.shape)), neutral)
  for (path, found), expected in zip(jax.tree.leaves_with_path(begin), jax.tree.leaves(neutral), strict=True):
    if jnp.shape(found) != (n_frames, *expected.shape):
      name = jax.tree_util.keystr(path, simple=True)
      raise InputError(f"initial_result: poses.{name} of {jnp.shape(found)}; expected {(n_frames, *expected.shape)}")
  camera = make_camera(jnp.asarray(focal, dtype), jnp.asarray(principal, dtype))
  appearance = jax.tree.map(jnp.asarray, plain_appearance(model.texture_basis.shape[-1], dtype))
  identity = Identity(
    shape=code, texture=appearance.texture, light=appearance.light, camera=camera,
    lmk_offset=jnp.zeros((70, 3), dtype),
  )  # fmt: skip
  return TrackResult(identity=identity, poses=begin, energies={}, status=jnp.zeros(n_frames, jnp.int32))


def _array(value: AnyArray) -> jax.Array:
  found = jnp.asarray(value)
  if not jnp.issubdtype(found.dtype, jnp.floating):
    found = found.astype(jnp.float32)
  return found


def _check(name: str, value: AnyArray, shape: tuple[int, ...]) -> None:
  if value.shape != shape:
    raise InputError(f"observations: {name} of shape {value.shape}; expected {shape}")
