"""Drawn people with hair: what `--offsets` and `--texture` make of them, beside the truth.

    python benchmarks/whole_head.py [--people=6] [--picture=docs/whole_head.png]

People are drawn from the open head with hair that its model does not have (thickness, cut, colour, strands) and skin
that its texture does not have (`truth_clips.skin`). Poses, codes and camera are the true ones: what is measured is the
second pass alone. Odd frames are looked at, even ones are scored.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import synthetic
import truth_clips
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from vht_jax import cameras
from vht_jax.app.overlay import draw
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.masks import silhouette
from vht_jax.render.picture import render_head
from vht_jax.render.uv_bake import rasterize_uv
from vht_jax.results.export.scene import make_scene
from vht_jax.results.offsets import with_offsets
from vht_jax.results.texture import baked
from vht_jax.types import FlameModel, Identity, Pose, Status, TrackResult

SIZE, TEXTURE, N_FRAMES = (400, 360), 512, 24
CELL = (160, 150)  # px of the picture's
DISTANCE = 0.84  # m, of the heads that are shown
STYLES = ("short", "bob", "tuft", "cropped", "swept", "round")
HAIR = ((0.04, 0.035, 0.03), (0.16, 0.10, 0.06), (0.34, 0.25, 0.14), (0.28, 0.12, 0.05), (0.30, 0.30, 0.31))  # albedo


class Person(NamedTuple):
  """Truth."""

  identity: Identity  # with texture layer and offsets
  poses: Pose  # (T, ...)
  images: np.ndarray  # (T, H, W, 3) uint8
  masks: np.ndarray  # (T, H, W) uint8


class Frames:
  """Some frames of a person as a clip of their own."""

  size, has_alpha = SIZE, True

  def __init__(self, person: Person, chosen: np.ndarray):
    self.person, self.chosen = person, chosen

  def __len__(self) -> int:
    return len(self.chosen)

  def images(self, indices):
    return self.person.images[self.chosen[np.asarray(indices)]]

  def masks(self, indices):
    return self.person.masks[self.chosen[np.asarray(indices)]]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--people", type=int, default=6)
  parser.add_argument("--picture", help="PNG of all of them")
  args = parser.parse_args()
  model = load_head(model="open")
  rows = []
  print("person   vertices mm    face mm   IoU held out   albedo dB seen  behind, mean diff.   picture dB held out")
  for k in range(args.people):
    person = make_person(model, k)
    odd, even = np.arange(1, N_FRAMES, 2), np.arange(0, N_FRAMES, 2)
    coded = TrackResult(
      identity=person.identity.replace(texture_layer=None, static_offset=None),
      poses=jax.tree.map(lambda a, odd=odd: a[odd], person.poses), energies={},
      status=jnp.full(len(odd), int(Status.TRACKED)),
    )  # fmt: skip
    found = with_offsets(model, Frames(person, odd), coded)
    grown = flame.with_offset(model, found.identity.static_offset)
    found = baked(grown, Frames(person, odd), found, TEXTURE)
    print(f"{k} {STYLES[k % len(STYLES)]:8s}", score(model, person, coded.identity, found.identity, even), flush=True)
    rows.append(row(model, person, coded.identity, found.identity, int(even[4])))
  if args.picture:
    # 256 colours: a third of the bytes, and nobody sees it at this size.
    from PIL import Image

    Image.fromarray(np.concatenate(rows)).quantize(256, dither=Image.Dither.NONE).save(args.picture, optimize=True)


def make_person(model: FlameModel, k: int) -> Person:
  rng = np.random.default_rng(9000 + k)
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  shape = f32(0.7 * rng.standard_normal(model.shapedirs.shape[-1]))
  texture = f32(0.6 * rng.standard_normal(model.texture_basis.shape[-1]))
  focal = float(rng.uniform(1.4, 2.4))
  plain = Identity(
    shape=shape, texture=texture, light=f32(1.05 * synthetic.random_light(rng)), camera=cameras.make_camera(focal),
    lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  neutral = np.asarray(model.v_template + model.shapedirs @ shape, np.float64)
  offset = hair(model, neutral, STYLES[k % len(STYLES)], rng)
  base = np.asarray(flame.albedo(model, texture))
  layer = painted(model, offset, base, np.array(HAIR[k % len(HAIR)]), rng) - cv2.resize(base, (TEXTURE, TEXTURE))
  identity = plain.replace(texture_layer=f32(layer), static_offset=f32(offset))
  poses = moving(model, focal, rng)
  grown = flame.with_offset(model, identity.static_offset)
  background = f32(synthetic.room_background(rng, SIZE))
  rgb, masks = [], []
  scene = make_scene(grown, TrackResult(identity=plain, poses=poses, energies={}, status=jnp.zeros(N_FRAMES)), SIZE)
  for t in range(N_FRAMES):
    picture = _rendered(grown, identity, jax.tree.map(lambda a, t=t: a[t], poses), background)
    gain = 1.0 + 0.08 * np.sin(t)  # the camera's exposure
    rgb.append(gain * np.asarray(picture) + 0.01 * rng.standard_normal((*SIZE, 3)))
    screen = np.concatenate([scene.pixels(t), scene.camera_vertices(t)[:, 2:]], 1)
    masks.append(silhouette(screen, np.asarray(model.faces), SIZE))
  images = np.round(255 * np.clip(np.stack(rgb), 0, 1)).astype(np.uint8)
  return Person(identity, poses, images, np.stack(masks))


@jax.jit
def _rendered(model, identity, pose, background):
  return render_head(model, identity, pose, SIZE, background=background).rgb


def hair(model: FlameModel, neutral: np.ndarray, style: str, rng) -> np.ndarray:
  """(V, 3) m, offsets of hair away from the middle of the skull."""
  scalp, face = (np.asarray(model.masks[name]) for name in ("scalp", "face"))
  middle = neutral[scalp].mean(0)
  away = neutral - middle
  away /= np.linalg.norm(away, axis=1, keepdims=True)
  thickness = {"cropped": 0.006, "short": 0.016, "tuft": 0.02, "swept": 0.022, "bob": 0.026, "round": 0.034}[style]
  thickness = thickness * (1 + 0.4 * np.maximum(away[:, 1], 0) + 0.15 * rng.uniform(-1, 1) * away[:, 0])
  if style == "tuft":
    thickness = thickness + 0.02 * np.exp(-np.sum((away - [0, 0.8, 0.6]) ** 2, 1) / 0.15)
  if style == "swept":
    thickness = thickness + 0.012 * np.clip(2 * away[:, 0], -1, 1)
  low = middle[1] - (0.075 if style == "bob" else 0.04)
  begins = np.clip(KDTree(neutral[face]).query(neutral)[0] / 0.025, 0, 1)
  ends = np.clip((neutral[:, 1] - low) / 0.03, 0, 1)
  return (np.where(scalp, begins * ends * thickness, 0.0)[:, None] * away).astype(np.float32)


def painted(model: FlameModel, offset: np.ndarray, base: np.ndarray, colour: np.ndarray, rng) -> np.ndarray:
  """(N, N, 3) albedo: skin with what no basis holds, and hair with strands where it grows."""
  skin = cv2.resize(truth_clips.skin(model, rng, base), (TEXTURE, TEXTURE), interpolation=cv2.INTER_AREA)
  texels = rasterize_uv(model.uv, (TEXTURE, TEXTURE))
  ids, bary = np.asarray(texels.pix_to_face), np.asarray(texels.bary_coords)
  thick = np.linalg.norm(offset, axis=1)
  grows = np.sum(bary * thick[np.asarray(model.faces)[np.maximum(ids, 0)]], -1)
  cover = np.clip((grows - 0.001) / 0.003, 0, 1) * (ids >= 0)
  noise = rng.standard_normal((TEXTURE, TEXTURE)).astype(np.float32)
  strands = cv2.GaussianBlur(noise, (0, 0), sigmaX=1.2, sigmaY=14)
  strands = 1 + 0.25 * strands / strands.std()
  return skin + cover[..., None] * (np.clip(strands[..., None] * colour, 0, 1) - skin)


def moving(model: FlameModel, focal: float, rng) -> Pose:
  """T poses of a head that turns to both sides, nods and speaks."""
  t = np.linspace(0, 1, N_FRAMES, endpoint=False)
  still = flame.neutral_pose(model)
  poses = jax.tree.map(lambda a: jnp.repeat(a[None], N_FRAMES, 0), still)
  turns = np.stack([0.15 * np.sin(9 * t), np.pi + 0.7 * np.sin(2 * np.pi * t), 0.05 * np.cos(7 * t)], 1)
  jaw = np.zeros((N_FRAMES, 3))
  jaw[:, 0] = 0.2 * np.clip(np.sin(6 * np.pi * t), 0, 1)
  place = np.tile([0.0, 0.0, 0.42 * focal], (N_FRAMES, 1)) + 0.005 * rng.standard_normal((N_FRAMES, 3))
  place = place + np.stack([root(model, turn) for turn in turns])
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  return poses.replace(rotation=f32(turns), jaw=f32(jaw), translation=f32(place))


def root(model: FlameModel, turn: np.ndarray) -> np.ndarray:
  """(3,) m, where the root is when the middle of a head that is turned so is at the origin."""
  return Rotation.from_rotvec(turn).as_matrix() @ np.asarray(model.j_template[0], np.float64)


def score(model: FlameModel, person: Person, coded: Identity, found: Identity, even: np.ndarray) -> str:
  """A line of figures, those of the codes alone first."""
  truth = np.asarray(person.identity.static_offset)
  face = np.asarray(model.masks["face"])
  offsets = [np.zeros_like(truth), np.asarray(found.static_offset)]
  errors = [1000 * np.linalg.norm(o - truth, axis=1) for o in offsets]
  albedos = [np.asarray(flame.albedo(model, i.texture, i.texture_layer)) for i in (coded, found, person.identity)]
  albedos = [a if len(a) == TEXTURE else cv2.resize(a, (TEXTURE, TEXTURE)) for a in albedos]
  ids = np.asarray(rasterize_uv(model.uv, (TEXTURE, TEXTURE)).pix_to_face)
  outer = flame.region(model, ("face", "scalp", "neck"))[np.asarray(model.faces)].all(1)
  depth = np.asarray(model.v_template)[np.asarray(model.faces)].mean(1)[:, 2]
  there = (ids >= 0) & outer[np.maximum(ids, 0)]
  front, back = (there & side[np.maximum(ids, 0)] for side in (depth > -0.02, depth < -0.09))
  decibel = lambda difference: -10 * np.log10(np.mean(difference**2))
  seen = [decibel((a - albedos[2])[front]) for a in albedos[:2]]
  behind = [np.abs(a - albedos[2])[back].mean() for a in albedos[:2]]
  overlap, likeness = [], []
  for identity in (coded, found):
    grown = flame.with_offset(model, identity.static_offset)
    result = TrackResult(identity=coded, poses=person.poses, energies={}, status=jnp.zeros(N_FRAMES))
    scene = make_scene(grown, result, SIZE)
    both, close = [], []
    for t in even:
      screen = np.concatenate([scene.pixels(t), scene.camera_vertices(t)[:, 2:]], 1)
      ours, theirs = silhouette(screen, np.asarray(model.faces), SIZE) > 127, person.masks[t] > 127
      both.append((ours & theirs).sum() / (ours | theirs).sum())
      pose = jax.tree.map(lambda a, t=t: a[t], person.poses)
      picture = np.clip(np.asarray(_rendered(grown, identity, pose, jnp.zeros(3))), 0, 1)
      image = person.images[t] / 255.0
      light = (picture * image)[theirs].sum() / (picture**2)[theirs].sum()  # the frame's exposure
      close.append(decibel((light * picture - image)[theirs]))
    overlap.append(np.mean(both))
    likeness.append(np.mean(close))
  pair = lambda values, digits: " -> ".join(f"{v:.{digits}f}" for v in values)
  return "   ".join(
    (pair([e.mean() for e in errors], 1), pair([e[face].mean() for e in errors], 2), pair(overlap, 3), pair(seen, 1),
     pair(behind, 3), pair(likeness, 1))
  )  # fmt: skip


def row(model: FlameModel, person: Person, coded: Identity, found: Identity, t: int) -> np.ndarray:
  """(h, 6 w, 3) uint8: a frame that was not looked at; codes, offsets, texture; from the side and from behind."""
  frame = cv2.resize(person.images[t], CELL[::-1], interpolation=cv2.INTER_AREA)
  pose = jax.tree.map(lambda a: a[t], person.poses)
  yaw = float(pose.rotation[1])
  heads = [coded, coded.replace(static_offset=found.static_offset), found]
  cells = [frame, *(shown(model, head, yaw) for head in heads)]
  return np.concatenate([*cells, shown(model, found, np.pi + np.pi / 2), shown(model, found, 2 * np.pi - 0.4)], axis=1)


def shown(model: FlameModel, identity: Identity, yaw: float) -> np.ndarray:
  """(h, w, 3) uint8: the head turned, over grey."""
  grown = flame.with_offset(model, identity.static_offset)
  look = draw.make_look(grown, identity)
  turn = np.array([0.0, yaw, 0.0])
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  pose = flame.neutral_pose(model).replace(rotation=f32(turn), translation=f32(root(model, turn) + [0, 0, DISTANCE]))
  rgb, alpha = _picture(grown, look, identity.replace(camera=cameras.make_camera(2.2)), pose)
  alpha = np.asarray(alpha)[..., None]
  return (255 * np.clip(np.asarray(rgb) * alpha + 0.2 * (1 - alpha), 0, 1)).astype(np.uint8)


@jax.jit
def _picture(model, look, identity, pose):
  size = jnp.array([float(n) for n in CELL])
  return draw.picture(model, look, identity, pose, jnp.zeros(2), jnp.ones(2), size, CELL)


if __name__ == "__main__":
  main()
