"""What the examples of training through the tracker share: frames of a known head, and a plot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small factorisations: see README, "As a library"

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import cameras
from vht_jax.config import TrackConfig, Weights
from vht_jax.fit import clip, frame, observed
from vht_jax.fit.unknowns import from_pose
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.tracking import pure
from vht_jax.types import Array, FlameModel, Identity, Observations, Pose

SIZE = (512, 512)  # H, W px
CONFIG = TrackConfig.of(photometric=False, dense_landmarks=False)


class Frames(NamedTuple):
  """N frames of one head whose truth is known; leading axis N."""

  observations: Observations
  poses: Pose


def small_head(n_expr: int = 12) -> FlameModel:
  """The open head with few components, reduced to the corners of its landmarks' triangles."""
  return pure.landmarks_only(load_head(model="open", n_shape=6, n_expr=n_expr, n_texture=1), dense=False)


def make_identity(model: FlameModel, seed: int = 0) -> Identity:
  """A random person before a camera."""
  rng = np.random.default_rng(seed)
  return Identity(
    shape=jnp.asarray(0.7 * rng.standard_normal(model.shapedirs.shape[-1]), jnp.float32),
    texture=jnp.zeros(model.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)),
    camera=cameras.make_camera(1.8),
    lmk_offset=jnp.zeros((70, 3)),
  )


def make_frames(
  model: FlameModel, identity: Identity, n: int, seed: int, *, noise: float = 0.01, bias: float = 0.0, yaw: float = 0.5
) -> Frames:
  """Random poses and their landmarks as a detector would give them.

  Args:
    noise: standard deviation of a landmark coordinate, in units of the outer eye distance.
    bias: the same for an error that a landmark has in every frame, turning with the head; the same for all seeds.
    yaw: standard deviation of the head's yaw, rad.
  """
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  neutral = flame.neutral_pose(model)
  depth = 0.8 + 0.3 * jnp.asarray(rng.random(n), jnp.float32)
  turn = draw(n, 3) * jnp.array([[0.2, yaw, 0.1]])
  facing = flame.rotation.axis_angle_to_matrix(neutral.rotation)
  rotation = jax.vmap(lambda r: flame.rotation.matrix_to_axis_angle(flame.rotation.axis_angle_to_matrix(r) @ facing))(
    turn
  )
  zero = jnp.zeros(n)
  gaze = 0.15 * draw(n, 2)
  gaze = jnp.stack([gaze[:, 0], gaze[:, 1], zero], 1)
  poses = Pose(
    expr=jnp.maximum(0.35 * draw(n, model.exprdirs.shape[-1]), 0.0),
    rotation=rotation,
    translation=neutral.translation[None] * depth[:, None] + 0.03 * draw(n, 3),
    neck=0.02 * draw(n, 3),
    jaw=jnp.stack([jnp.abs(0.12 * draw(n)), zero, zero], 1),
    eyes=jnp.stack([gaze, gaze], 1),
  )
  template = flame.landmarks(model, model.v_template)
  eye = jnp.linalg.norm(template[36] - template[45])
  wrong = bias * eye * jnp.asarray(np.random.default_rng(1234).standard_normal((70, 3)), jnp.float32)

  def detect(pose, error):
    points = flame.landmarks(model, flame.skin(model, identity.shape, pose))
    R = flame.rotation.axis_angle_to_matrix(pose.rotation)
    seen = cameras.project(identity.camera, points + wrong @ R.T, SIZE)
    scale = identity.camera.focal * SIZE[0] * eye / jnp.mean(seen[:, 2])  # px per eye distance
    return seen[:, :2] + noise * scale * error

  observations = Observations(
    rgb=None,
    landmarks=jax.vmap(detect)(poses, draw(n, 70, 2)),
    confidence=jnp.ones((n, 70)),
    valid=jnp.ones(n, bool),
  )
  return Frames(observations, poses)


def vertex_error(model: FlameModel, identity: Identity, poses: Pose, truth: Pose) -> Array:
  """() mean distance in mm of the posed vertices, each frame brought to the same depth: one camera sees direction
  and shape well and distance badly."""

  def one(a, b):
    u, v = (flame.skin(model, identity.shape, p) for p in (a, b))
    u = u * (jnp.mean(v[:, 2]) / jnp.mean(u[:, 2]))
    return jnp.mean(jnp.sqrt(jnp.sum((u - v) ** 2, -1) + 1e-12))

  return 1e3 * jnp.mean(jax.vmap(one)(poses, truth))


def landmark_fit(model: FlameModel, identity: Identity, weights: Weights):
  """The fit in its own unknowns: (points of this person, camera, tracks of observations)."""
  lm = observed.landmark_model(model, weights, 0)
  shared = clip.initial_shared(lm).replace(shape=identity.shape, log_focal=jnp.log(identity.camera.focal))
  person, shared = frame.fold_landmarks(lm, shared)
  tracks = lambda o: jax.vmap(lambda p, c: observed.observe_landmarks(person, p, c, SIZE))(o.landmarks, o.confidence)
  return person, shared, tracks


def normalised(landmarks: Array) -> Array:
  """(..., 70, 2) px -> (..., 140) relative to their centre and spread: what the networks look at."""
  centred = landmarks - jnp.mean(landmarks, axis=-2, keepdims=True)
  spread = jnp.sqrt(jnp.mean(centred**2, axis=(-2, -1), keepdims=True))
  return (centred / spread).reshape(*landmarks.shape[:-2], -1)


def unknowns(person, poses: Pose, identity: Identity) -> Array:
  """(N, E + 14) poses as the fit's unknowns."""
  one = lambda p: from_pose(person.points, p, identity.shape[:0], identity.camera, jnp.zeros(2))
  return jax.vmap(one)(poses)


def value_and_slopes(fun):
  """(*arguments) -> fun(*arguments) and its derivatives by the first one, in forward mode: one fit in the program."""
  twice = lambda *arguments: (fun(*arguments),) * 2
  return lambda *arguments: jax.jacfwd(twice, has_aux=True)(*arguments)[::-1]


def train_step(loss, optimiser, value_and_slope=jax.value_and_grad):
  """(params, state, *arguments) -> (params, state, loss): one step of an optax optimiser, to be compiled as a whole."""

  def step(params, state, *arguments):
    value, slope = value_and_slope(loss)(params, *arguments)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of its int32 step count
      update, state = optimiser.update(slope, state)
    return jax.tree.map(lambda p, u: p + u, params, update), state, value

  return step


def save_plot(path: Path, title: str, x_label: str, y_label: str, curves: dict[str, tuple]) -> None:
  """A line plot as a PNG.

  Args:
    curves: label -> (x values, y values).
  """
  import cv2

  width, height, left, right, top, bottom = 900, 520, 90, 30, 70, 70
  ink, palette = (60, 60, 60), [(200, 110, 30), (50, 50, 210), (60, 150, 60), (160, 60, 160)]
  picture = np.full((height, width, 3), 255, np.uint8)
  xs, ys = (np.concatenate([np.asarray(c[k], float) for c in curves.values()]) for k in (0, 1))
  x_range, y_range = (xs.min(), max(xs.max(), xs.min() + 1e-9)), (0.0, 1.08 * ys.max())

  def at(x, y):
    u = left + (np.asarray(x, float) - x_range[0]) / (x_range[1] - x_range[0]) * (width - left - right)
    v = height - bottom - (np.asarray(y, float) - y_range[0]) / (y_range[1] - y_range[0]) * (height - top - bottom)
    return np.stack([u, v], -1).round().astype(np.int32)

  def text(words, x, y, scale=0.5, color=ink):
    cv2.putText(picture, words, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)

  for k in range(6):
    x, y = (r[0] + k / 5 * (r[1] - r[0]) for r in (x_range, y_range))
    u, v = at(x, y_range[0])[0], at(x_range[0], y)[1]
    cv2.line(picture, (left, int(v)), (width - right, int(v)), (230, 230, 230), 1)
    text(f"{y:.3g}", 30, v + 5)
    text(f"{x:.3g}", u - 12, height - bottom + 22)
  for k, (label, (x, y)) in enumerate(curves.items()):
    color = palette[k % len(palette)]
    cv2.polylines(picture, [at(x, y)], False, color, 2, cv2.LINE_AA)
    cv2.line(picture, (width - 330, 16 + 20 * k), (width - 300, 16 + 20 * k), color, 2)
    text(label, width - 290, 21 + 20 * k)
  text(title, left, 30, 0.65)
  text(x_label, width / 2 - 40, height - 18)
  text(y_label, 10, 30 if not title else 46, 0.45)
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), picture)
