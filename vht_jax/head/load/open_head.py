"""The embedded open head: one compressed npz in FLAME's layout, quantised to a micrometre (docs: third_party/)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vht_jax.errors import InputError
from vht_jax.head.load.asset import asset_path
from vht_jax.head.load.build import flame_model_from_arrays, resize_bilinear
from vht_jax.head.load.slide import view_bias
from vht_jax.host.npz import read_npz
from vht_jax.types import FlameModel

_REQUIRED = (
  "v_template", "f", "vt", "ft", "shapedirs_id", "shapedirs_id_step", "shapedirs_exp_named", "shapedirs_exp_named_step",
  "eyelids", "eyelids_step", "exp_names", "posedirs_idx", "posedirs", "posedirs_step", "Jr_idx", "Jr_val", "weights",
  "kintree_table", "lmk70_face", "lmk70_bary", "mp468_face", "mp468_bary", "lower_neck_faces", "tex_mean",
  "tex_basis_i8", "tex_basis_scale",
)  # fmt: skip
# The npz's two eyelid shapes, which the loader appends to the named expression units: joint 3's eye, then joint 4's.
EYELIDS = ("eyelidLeft", "eyelidRight")


def open_head_path() -> Path:
  """The open head's file.

  Raises:
    InputError: it is not where it should be.
  """
  return asset_path("open_head.npz")


def load_open_head(path: Path, n_shape: int | None, n_expr: int | None, n_texture: int | None) -> FlameModel:
  """Reads an open head npz; counts of None mean all components."""
  data = _read(path)
  shapedirs = data["shapedirs_id"][..., :n_shape] * data["shapedirs_id_step"]
  exprdirs = np.concatenate(
    [data["shapedirs_exp_named"] * data["shapedirs_exp_named_step"], data["eyelids"] * data["eyelids_step"]], axis=-1
  )
  names = (*(str(name) for name in data["exp_names"]), *EYELIDS)

  n_vertices = len(data["v_template"])
  posedirs = np.zeros((n_vertices, 3, 36), np.float32)  # only the columns that are not 0 are stored
  posedirs[..., data["posedirs_idx"]] = data["posedirs"] * data["posedirs_step"]
  regressor = np.zeros((5, n_vertices))
  regressor[data["Jr_idx"][:, 0], data["Jr_idx"][:, 1]] = data["Jr_val"]

  mean = data["tex_mean"].astype(np.float32) / 255.0
  basis = np.moveaxis(data["tex_basis_i8"][:n_texture], 0, -1)  # (h, w, 3, T), often at half resolution
  basis = resize_bilinear(basis, mean.shape[:2]) * (data["tex_basis_scale"][:n_texture] / 127.0)

  model = flame_model_from_arrays(
    v_template=data["v_template"],
    faces=data["f"],
    shapedirs=shapedirs,
    exprdirs=exprdirs[..., :n_expr],
    posedirs=posedirs,
    weights=data["weights"].astype(np.float32) / data["weights"].sum(1, keepdims=True, dtype=np.float32),
    J_regressor=regressor,
    kintree_table=data["kintree_table"],
    vt=data["vt"],
    faces_vt=data["ft"],
    texture_mean=mean,
    texture_basis=basis,
    lmk_faces=data["lmk70_face"],
    lmk_bary=data["lmk70_bary"],
    dense_faces=data["mp468_face"],
    dense_bary=data["mp468_bary"],
    dense_index=np.arange(len(data["mp468_face"])),
    masks={key.removeprefix("mask_"): value for key, value in data.items() if key.startswith("mask_")},
    lower_neck_faces=data["lower_neck_faces"],
    expr_names=names[:n_expr],
    expr_one_sided=True,
    name=f"open head ({path.name})",
  )
  return model.replace(view_bias=view_bias(model))


def _read(path: Path) -> dict[str, np.ndarray]:
  data = read_npz(path)
  missing = [key for key in _REQUIRED if key not in data]
  if missing:
    raise InputError(f"{path}: not an open head, it lacks {', '.join(missing)}")
  return data
