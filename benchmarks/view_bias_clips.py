"""Renderings for `calibrate_view_bias.py`: heads drawn at random, turned over the whole range, seen by the detector.

People, looks, lights and rooms as in `make_demo_clip`; nothing but the open head (CC0), FLAME 2023 Open under the open
head's skin (CC-BY-4.0, `flame_standin.py`) and what is drawn by `synthetic`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import make_demo_clip
import numpy as np
import synthetic

from vht_jax import cameras
from vht_jax.head import flame
from vht_jax.rotation import axis_angle_to_matrix, matrix_to_axis_angle
from vht_jax.types import FlameModel, Identity

FIRST_SEED = {
  "open": 5000,
  "flame": 6000,
}  # far from the demo clip's, `calibrate_landmarks`' and those of docs/accuracy.md
SIZE = (448, 448)
YAW, PITCH, ROLL = 42.0, 22.0, 10.0  # degrees, amplitudes of the turns
FOCAL = (0.9, 3.0)  # range of focal lengths, units of the longer side
IDENTITY_SD = 0.9
TEXTURE_SD = 0.6  # further from the mean than the demo's: looks are to vary
# Of `synthetic.animate`'s strength; FLAME has no inside of the mouth, one sees through.
EXPRESSION = {"open": 0.7, "flame": 0.4}
SPECULAR = (0.02, 0.2)


class Seen(NamedTuple):
  """What the detector sees of one person, and the truth.

  Landmarks are the open head's 70 and then its 468 dense ones.
  """

  seen: np.ndarray  # (T, 538, 2) px from the principal point, NaN where nothing was found
  points: np.ndarray  # (T, 538, 3) camera, m: where the landmarks are
  rotation: np.ndarray  # (T, 3, 3) head (the neck's turn included) -> camera
  position: np.ndarray  # (T, 3) camera, m: of the landmarks' middle
  focal_px: np.ndarray  # ()
  eye: np.ndarray  # () m, between the outer corners of the person's eyes


def animate(model: FlameModel, rng, n_frames: int, focal: float, strength: float):
  """Poses that cover yaw and pitch evenly and without correlation; speech-like expression, blinks, gaze."""
  t = np.arange(n_frames) / n_frames
  phase = rng.uniform(0, 2 * np.pi, 3)
  wave = lambda turns, p: np.sin(2 * np.pi * turns * t + p)
  # Between a sine, which stays at its ends, and a triangle.
  even = lambda s: 0.4 * s + 0.6 * (2 / np.pi) * np.arcsin(np.clip(s, -1, 1))
  yaw = np.deg2rad(YAW) * even(wave(1.0, phase[0]))
  pitch = np.deg2rad(PITCH) * even(wave(np.sqrt(7), phase[1]))
  roll = np.deg2rad(ROLL) * np.clip(synthetic.smooth(rng, n_frames, 1, 12)[:, 0], -2, 2) / 2
  _, poses = synthetic.animate(model, rng, n_frames)  # for expression, jaw and eyes
  gaze = np.asarray(poses.eyes) * 0.7
  gaze[:, :, 1] -= (0.5 * yaw)[:, None]  # eyes stay near the camera
  gaze[:, :, 0] -= (0.5 * pitch)[:, None]
  limit = flame.JOINT_LIMITS["eyes"]
  return synthetic.place_heads(
    model,
    focal,
    euler=np.stack([pitch, yaw, roll], 1),
    place=0.5 + 0.06 * synthetic.smooth(rng, n_frames, 2, 16).clip(-2, 2),
    face_height=rng.uniform(0.34, 0.5) / (1 + 0.12 * wave(0.8, phase[2])),
    expr=strength * np.asarray(poses.expr),
    neck=np.asarray(poses.neck),
    jaw=strength * np.asarray(poses.jaw),
    eyes=np.clip(gaze, np.asarray(limit[0]), np.asarray(limit[1])),
  )


def watch(model: FlameModel, family: str, seed: int, n_frames: int, detector, keep=None) -> Seen:
  """Renders the person of that seed and has it looked at.

  Args:
    model: of that family, "open" or "flame".
    detector: fresh: it follows one person.
    keep: called with each frame (H, W, 3) uint8, to look at them.
  """
  missing = {name: jnp.zeros(len(model.v_template), bool) for name in ("teeth", "tongue", "mouth_cavity")}
  model = model.replace(masks=missing | model.masks)
  rng = np.random.default_rng(FIRST_SEED[family] + seed)
  focal = float(np.exp(rng.uniform(*np.log(FOCAL))))
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  texture = TEXTURE_SD * rng.standard_normal(model.texture_basis.shape[-1])
  for k, value in make_demo_clip.TEXTURE.items():
    texture[k] += 0.5 * value
  identity = Identity(
    shape=f32(IDENTITY_SD * rng.standard_normal(model.shapedirs.shape[-1])),
    texture=f32(texture),
    light=f32(rng.uniform(0.85, 1.15) * synthetic.random_light(rng)),
    camera=cameras.make_camera(focal),
    lmk_offset=jnp.zeros((70, 3)),
  )
  poses = animate(model, rng, n_frames, focal, EXPRESSION[family])
  albedo = np.asarray(flame.albedo(model, identity.texture))
  albedo = np.clip(albedo + synthetic.texture_detail(rng, albedo.shape[:2], 0.015), 0, 1)
  neutral = np.asarray(flame.shape_blend(model, identity.shape, jnp.zeros(model.exprdirs.shape[-1])))
  surface, shirt = make_demo_clip.dress(model, rng, albedo, neutral)
  background = f32(synthetic.room_background(rng, SIZE))
  specular = float(rng.uniform(*SPECULAR))
  gain = 1 + 0.05 * np.sin(2 * np.pi * (np.arange(n_frames) / n_frames + rng.random()))
  seen = np.full((n_frames, 70 + len(model.dense_index), 2), np.nan)
  rows = [], [], []
  for k in range(n_frames):
    pose = jax.tree.map(lambda a: a[k], poses)
    vertices, *truth = _posed(model, identity, pose, shirt)
    image = synthetic.render_frame(surface, vertices, identity, background, specular, float(gain[k]), SIZE)
    image = np.asarray(image) + 0.008 * rng.standard_normal((*SIZE, 3))
    frame = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if keep is not None:
      keep(frame)
    found = detector.detect(frame)
    if found is not None:
      iris = np.full((2, 2), np.nan) if found.iris is None else found.iris
      both = np.concatenate([found.landmarks[:68], iris, found.dense[np.asarray(model.dense_index)]])
      seen[k] = both - np.array(SIZE[::-1]) / 2
    for row, value in zip(rows, truth):
      row.append(np.asarray(value, np.float64))
  at_rest = np.asarray(flame.landmarks(model, jnp.asarray(neutral)))
  eye = np.linalg.norm(at_rest[36] - at_rest[45])
  return Seen(seen, *(np.stack(row) for row in rows), np.array(focal * max(SIZE)), eye)


@jax.jit
def _posed(model: FlameModel, identity: Identity, pose, shirt):
  """Vertices (world), and in the camera landmarks (538, 3), rotation of the head and middle of its 68 landmarks."""
  vertices = flame.skin(model, identity.shape, pose)
  points = jnp.concatenate([flame.landmarks(model, vertices), flame.dense_landmarks(model, vertices)])
  points = cameras.world_to_camera(identity.camera, points)
  multiply = lambda a, b: jnp.matmul(a, b, precision="highest")
  root, facing = axis_angle_to_matrix(pose.rotation), axis_angle_to_matrix(jnp.array([0.0, jnp.pi, 0.0]))
  turned = multiply(identity.camera.R, multiply(root, axis_angle_to_matrix(pose.neck)))
  # The body turns a third as far as the head.
  yaw = matrix_to_axis_angle(multiply(facing.T, root))[1]
  body = multiply(facing, axis_angle_to_matrix(jnp.array([0.0, 1.0, 0.0]) * yaw / 3))
  dressed = jnp.concatenate([vertices, multiply(shirt, body.T) + pose.translation[None]])
  return dressed, points, turned, jnp.mean(points[:68], 0)
