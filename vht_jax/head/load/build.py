"""From plain arrays in FLAME's layout to a checked `FlameModel`: the one place where every loader ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vht_jax.errors import InputError
from vht_jax.types import FlameModel

PARENTS = (-1, 0, 1, 1, 1)  # root, neck, jaw, left eye, right eye: the tree that `flame.skin` walks
N_LANDMARKS = 70


def flame_model_from_arrays(
  *,
  v_template: np.ndarray,
  faces: np.ndarray,
  shapedirs: np.ndarray,
  posedirs: np.ndarray,
  weights: np.ndarray,
  J_regressor: np.ndarray,
  exprdirs: np.ndarray | None = None,
  kintree_table: np.ndarray | None = None,
  vt: np.ndarray | None = None,
  faces_vt: np.ndarray | None = None,
  texture_mean: np.ndarray | None = None,
  texture_basis: np.ndarray | None = None,
  lmk_faces: np.ndarray | None = None,
  lmk_bary: np.ndarray | None = None,
  dense_faces: np.ndarray | None = None,
  dense_bary: np.ndarray | None = None,
  dense_index: np.ndarray | None = None,
  masks: Mapping[str, np.ndarray] | None = None,
  lower_neck_faces: np.ndarray | None = None,
  expr_names: tuple[str, ...] = (),
  expr_one_sided: bool = False,
  name: str = "",
) -> FlameModel:
  """Checks arrays in the layout of FLAME's files and makes a `FlameModel` of them.

  Args:
    v_template: (V, 3) m.
    faces: (F, 3) vertex ids.
    shapedirs: (V, 3, S) identity, m per standard deviation.
    posedirs: (V, 3, 36) pose correctives, m.
    weights: (V, 5) skinning weights.
    J_regressor: (5, V), dense.
    exprdirs: (V, 3, E) expression; none by default.
    kintree_table: (2, 5), row 0 the parents; checked to be FLAME's tree.
    vt, faces_vt: (U, 2) UVs and (F, 3) their ids per corner; all UVs 0 by default.
    texture_mean: (Ht, Wt, 3) RGB in [0, 1]; one grey texel by default.
    texture_basis: (Ht, Wt, 3, T) in the same unit; no components by default.
    lmk_faces, lmk_bary: (70,), (70, 3) landmark embedding; no landmarks by default.
    dense_faces, dense_bary, dense_index: (M,), (M, 3), (M,) MediaPipe embedding; no points by default.
    masks: region name -> vertex ids, or (V,) bool.
    lower_neck_faces: face ids dropped by `flame.without_lower_neck`. Kept as the masks "lower_neck_faces" ((F,) bool,
      the one mask over faces) and "lower_neck" ((V,) bool, the vertices that only such faces use).
    expr_names: (E,) names of the expression units.
    expr_one_sided: the units run from 0 to 1.
    name: of the model.

  Raises:
    InputError: an array has the wrong shape, ids out of range or numbers that are not finite.
  """
  what = name or "head model"
  v_template = _floats(what, "v_template", v_template, (None, 3))
  n_vertices = len(v_template)
  faces = _ids(what, "faces", faces, (None, 3), n_vertices)
  n_faces = len(faces)
  shapedirs = _floats(what, "shapedirs", shapedirs, (n_vertices, 3, None))
  exprdirs = np.zeros((n_vertices, 3, 0), np.float32) if exprdirs is None else exprdirs
  exprdirs = _floats(what, "exprdirs", exprdirs, (n_vertices, 3, None))
  posedirs = _floats(what, "posedirs", posedirs, (n_vertices, 3, 36))
  weights = _floats(what, "weights", weights, (n_vertices, 5))
  if np.abs(weights.sum(1) - 1.0).max() > 1e-3:
    raise InputError(f"{what}: rows of the skinning weights must sum to 1, found {weights.sum(1).min():.4g} to "
                     f"{weights.sum(1).max():.4g}")  # fmt: skip
  regressor = _floats(what, "J_regressor", J_regressor, (5, n_vertices), np.float64)
  if kintree_table is not None:
    # FLAME writes the root's parent as 4294967295, which is -1 in unsigned 32 bits
    parents = np.asarray(kintree_table)[0].astype(np.int64).astype(np.int32)
    if tuple(parents[1:]) != PARENTS[1:] or len(parents) != 5:
      raise InputError(f"{what}: expected FLAME's joint tree {PARENTS}, found parents {tuple(parents.tolist())}")
  if expr_names and len(expr_names) != exprdirs.shape[-1]:
    raise InputError(f"{what}: {len(expr_names)} expression names for {exprdirs.shape[-1]} expression components")

  # The regressor is linear in the vertices, so it is folded in once, in double precision.
  j_template = regressor @ v_template.astype(np.float64)
  blend = np.concatenate([shapedirs, exprdirs], axis=-1)
  j_shapedirs = np.tensordot(regressor.astype(np.float32), blend, axes=1)

  if vt is None or faces_vt is None:
    uv = np.zeros((n_faces, 3, 2), np.float32)
  else:
    vt = _floats(what, "vt", vt, (None, 2))
    uv = vt[_ids(what, "faces_vt", faces_vt, (n_faces, 3), len(vt))]

  texture_mean = np.full((1, 1, 3), 0.5, np.float32) if texture_mean is None else texture_mean
  texture_mean = _floats(what, "texture_mean", texture_mean, (None, None, 3))
  texture_basis = np.zeros((*texture_mean.shape, 0), np.float32) if texture_basis is None else texture_basis
  texture_basis = _floats(what, "texture_basis", texture_basis, (*texture_mean.shape, None))

  lmk_vertices, lmk_bary = _embedding(what, "landmark", faces, lmk_faces, lmk_bary)
  if len(lmk_vertices) not in (0, N_LANDMARKS):
    raise InputError(f"{what}: expected {N_LANDMARKS} landmarks (68 and 2 irises), found {len(lmk_vertices)}")
  dense_vertices, dense_bary = _embedding(what, "dense landmark", faces, dense_faces, dense_bary)
  dense_index = np.zeros(0, np.int32) if dense_index is None else dense_index
  dense_index = _ids(what, "dense_index", dense_index, (len(dense_vertices),), 478)

  regions = {key: _vertex_mask(what, key, value, n_vertices) for key, value in (masks or {}).items()}
  if lower_neck_faces is not None:
    drop = np.zeros(n_faces, bool)
    drop[_ids(what, "lower_neck_faces", lower_neck_faces, (None,), n_faces)] = True
    used = np.zeros(n_vertices, bool)
    used[faces[~drop]] = True
    dropped = np.zeros(n_vertices, bool)
    dropped[faces[drop]] = True
    regions["lower_neck"] = dropped & ~used
    regions["lower_neck_faces"] = drop

  arrays: dict[str, Any] = dict(  # of NumPy, until they are put on a device
    v_template=v_template, shapedirs=shapedirs, exprdirs=exprdirs,
    posedirs=np.ascontiguousarray(posedirs.reshape(-1, 36).T), j_template=j_template.astype(np.float32),
    j_shapedirs=j_shapedirs, lbs_weights=weights, faces=faces, uv=uv, texture_mean=texture_mean,
    texture_basis=texture_basis, lmk_vertices=lmk_vertices, lmk_bary=lmk_bary, dense_vertices=dense_vertices,
    dense_bary=dense_bary, dense_index=dense_index, masks=regions, expr_names=tuple(expr_names),
    expr_one_sided=expr_one_sided, name=name,
  )  # fmt: skip
  return jax.device_put(FlameModel(**arrays))


def resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resamples the first two axes of (H, W, ...) to `size`, pixel centres at i + 0.5, edges clamped; float32."""
  out = image.astype(np.float32)
  for axis, n_out in enumerate(size):
    n_in = out.shape[axis]
    position = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    low = np.minimum(position.astype(int), max(n_in - 2, 0))
    share = (position - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(out.ndim)])
    high = np.minimum(low + 1, n_in - 1)
    out = np.take(out, low, axis) * (1 - share) + np.take(out, high, axis) * share
  return out


def _embedding(what, kind, faces, face_ids, bary):
  """Landmarks on faces -> vertex triples and barycentric coordinates."""
  if face_ids is None or bary is None:
    return np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32)
  face_ids = _ids(what, f"{kind} faces", np.asarray(face_ids).reshape(-1), (None,), len(faces))
  bary = _floats(what, f"{kind} barycentric coordinates", np.asarray(bary).reshape(-1, 3), (len(face_ids), 3))
  if len(bary) and np.abs(bary.sum(1) - 1.0).max() > 1e-3:
    raise InputError(f"{what}: {kind} barycentric coordinates must sum to 1")
  return faces[face_ids], bary


def _floats(
  what: str, key: str, value, shape: tuple[int | None, ...], dtype: type[np.floating] = np.float32
) -> np.ndarray:
  array = np.asarray(value)
  if array.dtype.kind not in "fiu":
    raise InputError(f"{what}: {key} must hold numbers, found dtype {array.dtype}")
  _check_shape(what, key, array, shape)
  array = array.astype(dtype)
  if not np.isfinite(array).all():
    raise InputError(f"{what}: {key} holds numbers that are not finite")
  return array


def _ids(what: str, key: str, value, shape: tuple[int | None, ...], count: int) -> np.ndarray:
  array = np.asarray(value)
  if array.size and array.dtype.kind not in "iu":
    raise InputError(f"{what}: {key} must hold whole numbers, found dtype {array.dtype}")
  _check_shape(what, key, array, shape)
  if array.size and (int(array.min()) < 0 or int(array.max()) >= count):
    raise InputError(f"{what}: {key} must lie in 0..{count - 1}, found {array.min()}..{array.max()}")
  return array.astype(np.int32)


def _check_shape(what: str, key: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
  if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
    expected = "(" + ", ".join("*" if n is None else str(n) for n in shape) + ")"
    raise InputError(f"{what}: {key} must have shape {expected}, found {array.shape}")


def _vertex_mask(what: str, key: str, value, n_vertices: int) -> np.ndarray:
  array = np.asarray(value)
  if array.dtype == bool:
    _check_shape(what, f"mask {key}", array, (n_vertices,))
    return array
  mask = np.zeros(n_vertices, bool)
  mask[_ids(what, f"mask {key}", array.reshape(-1), (None,), n_vertices)] = True
  return mask
