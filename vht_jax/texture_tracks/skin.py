"""Which part of a head carries texture tracks: the skin of the face, without eyeballs and what lies in the mouth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.head import flame
from vht_jax.texture_tracks.types import Skin
from vht_jax.types import FlameModel

NOT_SKIN = ("left_eyeball", "right_eyeball", "teeth", "tongue", "mouth_cavity", "eye_socket")  # masks
EYEBALL = 0.5  # of a vertex's weight on the eyes' joints, for heads without masks
REACH = 0.035  # m from the nearest landmark: the skin of heads without a mask of the face
# How far the tracked surface of people who speak is beside their skin, after a similarity: .3-.5 px on forehead,
# brows, eyes, .4-1.2 on cheeks, .8-1.3 on mouth and jaw. Factors on the noise of `REGIONS`.
REGION_NOISE = np.array([1.0, 2.0, 2.6], np.float32)
_UPPER = (*range(17, 48),)  # brows, nose and eyes of the 68 landmarks; the forehead is nearest to the brows
_MOUTH = (*range(4, 13), *range(48, 68))  # lips, chin and the front of the jaw
_CHEEKS = ((31, 2), (31, 4), (35, 14), (35, 12), (36, 3), (45, 13))  # pairs of which a cheek is the middle


def skin_of(model: FlameModel) -> Skin:
  """The face's skin; host side, because its size depends on the head."""
  mesh = np.asarray(model.v_template)
  corners, bary = np.asarray(model.lmk_vertices)[:68], np.asarray(model.lmk_bary)[:68]
  landmarks = np.sum(mesh[corners] * bary[..., None], axis=1)
  masks = {name: np.asarray(mask) for name, mask in model.masks.items()}
  if "face" in masks:
    keep = masks["face"].copy()
  else:
    near = np.linalg.norm(mesh[:, None] - landmarks[None], axis=-1).min(1) < REACH
    keep = near & (np.asarray(flame.vertex_normals(model.v_template, model.faces))[:, 2] > 0)
  keep &= np.asarray(model.lbs_weights)[:, 3:].max(1) < EYEBALL
  for name in NOT_SKIN:
    if name in masks:
      keep &= ~masks[name]
  faces = np.asarray(model.faces)
  faces = faces[keep[faces].all(1)]
  vertex = np.unique(faces)
  centres = mesh[faces].mean(1)
  cheeks = np.array([landmarks[[a, b]].mean(0) for a, b in _CHEEKS])
  anchors = [landmarks[list(_UPPER)], cheeks, landmarks[list(_MOUTH)]]
  away = [np.linalg.norm(centres[:, None] - a[None], axis=-1).min(1) for a in anchors]
  return Skin(
    template=jnp.asarray(mesh[vertex]),
    faces=jnp.asarray(np.searchsorted(vertex, faces), jnp.int32),
    vertex=jnp.asarray(vertex, jnp.int32),
    region=jnp.asarray(np.argmin(away, axis=0), jnp.int32),
  )


def cut(model: FlameModel, vertex: jax.Array) -> FlameModel:
  """The head with only these vertices, for `flame.skin`; faces, landmarks and texture stay as they are and are void."""
  return model.replace(
    v_template=model.v_template[vertex],
    shapedirs=model.shapedirs[vertex],
    exprdirs=model.exprdirs[vertex],
    posedirs=model.posedirs.reshape(36, -1, 3)[:, vertex].reshape(36, -1),
    lbs_weights=model.lbs_weights[vertex],
  )
