"""Head models from files: the embedded open head and the user's FLAME.

Nothing in a file is trusted: pickles go through an allow-list, sizes are bounded, ids are range-checked.
"""

from __future__ import annotations

import os
from pathlib import Path

from vht_jax.assets.build import flame_model_from_arrays
from vht_jax.assets.open_head import load_open_head, open_head_path
from vht_jax.types import FlameModel

__all__ = ["flame_model_from_arrays", "load_head", "open_head_path"]


def load_head(
  path: str | os.PathLike | None = None,
  *,
  assets_dir: str | os.PathLike | None = None,
  n_shape: int | None = None,
  n_expr: int | None = None,
  n_texture: int | None = None,
  model: str = "auto",
) -> FlameModel:
  """Loads a head model."""
  del assets_dir, model
  return load_open_head(Path(path) if path else open_head_path(), n_shape, n_expr, n_texture)
