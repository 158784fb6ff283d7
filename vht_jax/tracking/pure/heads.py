"""Heads for the pure functions: posed, and cut to what a fit of landmarks reads."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.head import flame
from vht_jax.types import Array, FlameModel, Pose


class PosedHead(flax.struct.PyTreeNode):
  """A head in one frame."""

  vertices: Array  # (V, 3) world, m
  joints: Array  # (5, 3) world, m
  landmarks: Array  # (70, 3) world, m


def with_pose(person: FlameModel, pose: Pose) -> PosedHead:
  """Poses a head whose identity is folded in (`with_identity`).

  `with_pose(with_identity(model, shape), pose).vertices == skin(model, shape, pose)` up to rounding.
  """
  shape = jnp.zeros(person.shapedirs.shape[-1], pose.expr.dtype)
  vertices, joints = flame.skin_head(person, shape, pose.expr, flame.pose_matrices(pose))
  move = (pose.translation - joints[0])[None]
  return PosedHead(vertices + move, joints + move, flame.landmarks(person, vertices + move))


def landmarks_only(model: FlameModel, *, dense: bool = True) -> FlameModel:
  """The head reduced to the corners of the landmarks' triangles: all that a fit of landmarks reads. Host side.

  A fifth of the vertices, or a thirtieth without the dense landmarks, and neither faces nor texture: cheaper to
  differentiate, to send and to bake into an export.
  """
  if not dense:
    keep = lambda a: a[:0]
    model = model.replace(
      dense_vertices=keep(model.dense_vertices), dense_bary=keep(model.dense_bary), dense_index=keep(model.dense_index)
    )
  corners = np.concatenate([np.asarray(model.lmk_vertices), np.asarray(model.dense_vertices)])
  kept, new = np.unique(corners, return_inverse=True)
  new = new.reshape(corners.shape).astype(np.int32)
  n_vertices, n_landmarks = model.v_template.shape[0], len(model.lmk_vertices)
  return model.replace(
    v_template=model.v_template[kept],
    shapedirs=model.shapedirs[kept],
    exprdirs=model.exprdirs[kept],
    posedirs=model.posedirs.reshape(-1, n_vertices, 3)[:, kept].reshape(-1, 3 * len(kept)),
    lbs_weights=model.lbs_weights[kept],
    faces=model.faces[:0],
    uv=model.uv[:0],
    texture_mean=model.texture_mean[:1, :1],
    texture_basis=model.texture_basis[:1, :1],
    lmk_vertices=jax.device_put(new[:n_landmarks]),
    dense_vertices=jax.device_put(new[n_landmarks:]),
    masks={},
  )
