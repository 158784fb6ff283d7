"""Draws docs/gallery.png: what the renderer returns, its three backends, and a texture baked from its own pictures."""

from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import make_camera, project
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.render.edges import edge_table
from vht_jax.render.picture import render_head
from vht_jax.render.shade import interpolate
from vht_jax.render.uv_bake import bake_texture
from vht_jax.types import Identity

SIZE = (256, 256)
model = load_head(model="open")
edges = edge_table(np.asarray(model.faces))
light = jnp.zeros((9, 3)).at[0].set(jnp.array([3.1, 3.0, 2.9])).at[3].set(-0.55).at[1].set(0.35).at[2].set(0.25)
neutral = flame.neutral_pose(model)


def head(seed, focal=3.1):
  shape = 0.8 * jax.random.normal(jax.random.key(seed), (model.shapedirs.shape[-1],)) * (seed > 0)
  texture = 0.5 * jax.random.normal(jax.random.key(seed + 99), (model.texture_basis.shape[-1],)) * (seed > 0)
  return Identity(shape=shape, texture=texture, light=light, camera=make_camera(focal), lmk_offset=jnp.zeros((70, 3)))


def turned(yaw, jaw=0.0):
  return neutral.replace(rotation=neutral.rotation.at[1].add(yaw), jaw=jnp.array([jaw, 0.0, 0.0]))


@jax.jit
def draw(model, edges, identity, pose):
  pictures = [
    render_head(model, identity, pose, SIZE, backend=b, edges=edges, formula="lambert", background=jnp.full(3, 0.93))
    for b in ("hard", "edge", "soft")
  ]
  vertices = flame.skin(model, identity.shape, pose)
  seen = pictures[0].fragments
  normals = flame.vertex_normals(vertices, model.faces)
  normals = interpolate(normals, project(identity.camera, vertices, SIZE), model.faces, seen)
  hit = (seen.pix_to_face >= 0)[..., None]
  depth = jnp.where(hit[..., 0], seen.zbuf, jnp.inf)
  near, far = depth.min(), jnp.where(hit[..., 0], depth, 0).max()
  depth = jnp.where(hit, ((far - depth) / (far - near))[..., None], 0.93)
  colored = jnp.where(hit, 0.5 - 0.5 * normals * jnp.array([1.0, -1.0, 1.0]), 0.93)
  return [p.rgb for p in pictures], colored, jnp.broadcast_to(depth, colored.shape), vertices


@jax.jit
def baked(model, identity, vertices, pictures):
  return bake_texture(
    vertices, model.faces, model.uv, identity.camera, pictures, SIZE, light=identity.light, formula="lambert"
  )[0]


def zoom(picture, row=36, column=52, side=64):
  return cv2.resize(
    np.asarray(picture)[row : row + side, column : column + side], SIZE, interpolation=cv2.INTER_NEAREST
  )


first = [draw(model, edges, head(0), turned(yaw, 0.25 * (yaw > 0))) for yaw in (-0.9, -0.45, 0.0, 0.45, 0.9)]
others = [draw(model, edges, head(seed), turned(0.3)) for seed in (3, 5)]
(hard, edge, soft), normals, depth, _ = first[3]
texture = baked(model, head(0), jnp.stack([f[3] for f in first]), jnp.stack([f[0][0] for f in first]))
rows = [
  [first[1][0][1], edge, others[0][0][1], others[1][0][1]],
  [normals, depth, texture, soft],
  [zoom(hard), zoom(edge), zoom(soft), first[0][0][1]],
]
sheet = np.concatenate([np.concatenate([np.asarray(p) for p in row], axis=1) for row in rows])
path = Path(__file__).resolve().parent.parent / "docs/gallery.png"
cv2.imwrite(str(path), (np.clip(sheet, 0, 1)[..., ::-1] * 255).astype(np.uint8))
print(path)
