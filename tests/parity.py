"""The golden model of ../shared/data/parity as a FlameModel, for the tests that compare with the original tracker."""

from pathlib import Path

import numpy as np
import pytest

from vht_jax.head.load import flame_model_from_arrays
from vht_jax.types import FlameModel


def parity_file(shared_data: Path, name: str) -> dict[str, np.ndarray]:
  """All arrays of ../shared/data/parity/<name>, or skips."""
  path = shared_data / "parity" / name
  if not path.is_file():
    pytest.skip(f"golden file not present ({path})")
  with np.load(path) as data:
    return {key: data[key] for key in data.files}


def parity_model(shared_data: Path) -> FlameModel:
  """The pack's head (40 identity, 20 expression, 6 texture components), its texture as VHT uses it: [::2, ::2]."""
  data = parity_file(shared_data, "parity_model.npz")
  n_shape = int(data["n_shape"])
  texture = {key: data[key][::2, ::2, ::-1].astype(np.float32) / 255.0 for key in ("tex_mean", "tex_dir")}
  return flame_model_from_arrays(
    v_template=data["v_template"],
    faces=data["faces"],
    shapedirs=data["shapedirs"][..., :n_shape],
    exprdirs=data["shapedirs"][..., n_shape:],
    posedirs=data["posedirs"],
    weights=data["weights"],
    J_regressor=data["J_regressor"],
    kintree_table=data["kintree_table"],
    vt=data["vt"],
    faces_vt=data["faces_vt"],
    texture_mean=texture["tex_mean"],
    texture_basis=texture["tex_dir"],
    lmk_faces=data["full_lmk_faces_idx"],
    lmk_bary=data["full_lmk_bary_coords"],
    lower_neck_faces=data["lower_neck_face_idcs"],
    name="parity",
  )
