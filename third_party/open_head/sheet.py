"""Draws docs/open_head.png with the package's own renderer: views, expressions, gaze, identities, textures.

Run: python third_party/open_head/sheet.py --out docs/open_head.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.cameras import make_camera
from vht_jax.render.picture import render_head
from vht_jax.rotation import axis_angle_to_matrix, matrix_to_axis_angle
from vht_jax.types import Identity

CELL, COLUMNS, SUPERSAMPLING = 256, 6, 2
LABEL = 22  # px of each cell for its caption
BACKGROUND = 0.94


def both(*names: str, amount: float = 1.0) -> dict[str, float]:
  return {name + side: amount for name in names for side in ("Left", "Right")}


def cells():
  """(caption, settings) of every picture. Angles in degrees, codes in standard deviations."""
  yield "front", {}
  yield "three quarters", {"yaw": 40}
  yield "profile", {"yaw": 90}
  yield "back", {"yaw": 180}
  yield "from below", {"pitch": 30}
  yield "close up", {"zoom": 1.7}
  yield "jaw 12 deg", {"jaw": (12, 0)}
  yield "jaw 24 deg", {"jaw": (24, 0), "yaw": 30}
  yield "jaw sideways", {"jaw": (8, 5)}
  yield "blink", {"expr": both("eyelid")}
  yield "smile", {"expr": both("mouthSmile", "cheekSquint", amount=0.8), "jaw": (3, 0)}
  yield "pucker", {"expr": {"mouthPucker": 1}}
  surprise = {"browInnerUp": 1, **both("browOuterUp", "eyeWide")}
  yield "surprise", {"expr": surprise, "jaw": (14, 0)}
  yield "anger", {"expr": both("browDown", "noseSneer", "mouthFrown", amount=0.9)}
  yield "cheeks", {"expr": {"cheekPuff": 1}}
  yield "look up", {"eyes": (-15, 0), "zoom": 1.7}
  yield "look down", {"eyes": (20, 0), "zoom": 1.7}
  yield "look aside", {"eyes": (0, 22), "zoom": 1.7}
  for i in range(6):
    yield f"random identity {i + 1}", {"identity": i + 1, "yaw": (0, 30, 0, -30, 0, -60)[i]}
  for i in range(6):
    yield f"random texture {i + 1}", {"identity": i + 7, "texture": i + 1, "yaw": (0, -25, 0, 25, 0, 45)[i]}


def picture(model, draw, *, yaw=0.0, pitch=0.0, zoom=1.0, jaw=(0, 0), eyes=(0, 0), expr=None, identity=0, texture=0):
  """One rendering as (CELL, CELL, 3) uint8."""
  pose = flame.neutral_pose(model)
  turn = axis_angle_to_matrix(jnp.radians(jnp.array([0.0, float(yaw), 0.0])))
  tilt = axis_angle_to_matrix(jnp.radians(jnp.array([float(pitch), 0.0, 0.0])))
  facing = tilt @ axis_angle_to_matrix(pose.rotation) @ turn
  middle = jnp.array([0.0, 0.0, -0.02]) if zoom > 1 else jnp.array([0.0, -0.012, -0.03])
  code = np.zeros(model.exprdirs.shape[-1], np.float32)
  for name, amount in (expr or {}).items():
    code[model.expr_names.index(name)] = amount
  shape = np.random.RandomState(identity).normal(size=model.shapedirs.shape[-1]) * (identity > 0)
  paint = np.random.RandomState(100 + texture).normal(size=model.texture_basis.shape[-1]) * (texture > 0)
  shape, paint = jnp.asarray(shape, jnp.float32), jnp.asarray(paint, jnp.float32)
  pose = pose.replace(
    expr=jnp.asarray(code),
    rotation=matrix_to_axis_angle(facing),
    translation=facing @ (flame.joints(model, shape, jnp.asarray(code))[0] - middle) + jnp.array([0.0, 0.0, 1.0]),
    jaw=jnp.radians(jnp.array([*jaw, 0.0], jnp.float32)),
    eyes=jnp.radians(jnp.broadcast_to(jnp.array([*eyes, 0.0], jnp.float32), (2, 3))),
  )
  light = np.zeros((9, 3), np.float32)
  light[:4] = np.sqrt(4 * np.pi) * np.array([[0.60], [0.08], [0.14], [-0.24]])  # soft, from the front, above, our right
  who = Identity(
    shape=shape,
    texture=paint,
    light=jnp.asarray(light),
    camera=make_camera(3.3 * zoom),
    lmk_offset=jnp.zeros((70, 3)),
  )
  image = np.asarray(draw(model, who, pose))
  image = np.clip(image, 0, 1)
  return cv2.resize((image * 255).astype(np.uint8), (CELL, CELL), interpolation=cv2.INTER_AREA)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--head", type=Path, help="an open head other than the packaged one")
  flags = parser.parse_args()
  model = load_head(flags.head, model="open")
  size = (CELL * SUPERSAMPLING, CELL * SUPERSAMPLING)
  background = jnp.full(3, BACKGROUND)
  draw = jax.jit(lambda m, i, p: render_head(m, i, p, size, background=background, formula="lambert").rgb)
  tiles = []
  for caption, settings in cells():
    tile = np.full((CELL + LABEL, CELL, 3), round(BACKGROUND * 255), np.uint8)
    tile[LABEL:] = picture(model, draw, **settings)
    cv2.putText(tile, caption, (8, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    tiles.append(tile)
  rows = [np.concatenate(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)]
  cv2.imwrite(str(flags.out), np.concatenate(rows)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
  main()
