"""Whether a FLAME has teeth (`head.load.teeth`), and the same head without them, as FLAME's own programs have it."""

from __future__ import annotations

import jax
import numpy as np

from vht_jax.types import FlameModel

FLAME_VERTICES = 5023
N_TEETH = 120  # vertices behind FLAME's own, as many as VHAP adds
_BY_VERTEX = ("v_template", "shapedirs", "exprdirs", "lbs_weights")


def is_flame(model: FlameModel) -> bool:
  """Whether a head is one of FLAME's files, in FLAME's topology, with teeth or without."""
  return model.name.startswith("FLAME") and len(model.v_template) in (FLAME_VERTICES, FLAME_VERTICES + N_TEETH)


def has_teeth(model: FlameModel) -> bool:
  """Whether teeth were added to a FLAME. The open head has its own."""
  return is_flame(model) and len(model.v_template) > FLAME_VERTICES


def without_teeth(model: FlameModel) -> FlameModel:
  """FLAME as its file has it; any other head as it is. Host side. Codes, joints and landmarks are the same."""
  if not has_teeth(model):
    return model
  n, faces = FLAME_VERTICES, np.asarray(model.faces)
  own = (faces < n).all(axis=1)
  masks = {
    name: np.asarray(mask)[own if name == "lower_neck_faces" else slice(n)] for name, mask in model.masks.items()
  }
  by_vertex = {name: np.asarray(getattr(model, name))[:n] for name in _BY_VERTEX}
  posedirs = np.asarray(model.posedirs)[:, : 3 * n]
  masks = {name: mask for name, mask in masks.items() if mask.any()}
  changed = dict(faces=faces[own], uv=np.asarray(model.uv)[own], posedirs=posedirs, masks=masks, **by_vertex)
  return jax.device_put(model.replace(**changed))


def offset_for(model: FlameModel, offset: jax.Array | None) -> jax.Array | None:
  """Offsets (..., V, 3) of a FLAME for the same one with teeth or without, which have none; others as they are."""
  n = len(model.v_template)
  if offset is None or not is_flame(model) or {offset.shape[-2], n} != {FLAME_VERTICES, FLAME_VERTICES + N_TEETH}:
    return offset
  own = np.asarray(offset)[..., :FLAME_VERTICES, :]
  teeth = np.zeros((*own.shape[:-2], n - FLAME_VERTICES, 3), np.float32)
  return jax.device_put(np.concatenate([own, teeth], axis=-2))
