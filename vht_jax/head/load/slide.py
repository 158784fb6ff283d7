"""How MediaPipe's points slide with the view, on average: a table of ours (third_party/view_bias)."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from vht_jax.errors import InputError
from vht_jax.head.load.asset import asset_path
from vht_jax.host.npz import read_npz
from vht_jax.types import FlameModel, ViewBias

TABLE = "view_bias.npz"


def view_bias(model: FlameModel) -> ViewBias:
  """The mean slide of a head's 70 landmarks and then its dense ones, all of `dense_index`.

  Raises:
    InputError: the table is missing or damaged.
  """
  table = _table()
  slopes = np.concatenate([table["landmark"], table["dense"][np.asarray(model.dense_index)]])
  return ViewBias(gain=jnp.asarray(table["gain"]), slopes=jnp.asarray(slopes))


@functools.cache
def _table() -> dict[str, np.ndarray]:
  path = asset_path(TABLE)
  table = read_npz(path, ("gain", "landmark", "dense"))
  shapes = {key: value.shape for key, value in table.items()}
  if shapes != {"gain": (2,), "landmark": (70, 3, 2), "dense": (468, 3, 2)}:
    raise InputError(
      f"{path}: expected gain, landmark, dense of 2, (70, 3, 2), (468, 3, 2), found {shapes}: install again"
    )
  return table
