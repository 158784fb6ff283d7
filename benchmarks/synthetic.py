"""Clips whose truth is known: an animated head rendered by our own renderer, with a detector's errors on top.

The renderer's image formation is deliberately richer than the tracker's model (`Realism`): texture detail outside the
albedo basis, specular highlights, an exposure that drifts, noise and 8 bits.

The detector slides as MediaPipe does (`head/view_bias.py`): by what people have in common, by each person's own, drawn
with the spread among scanned people, and by errors that a frame's points share. `Realism(slide=False)` errs at random
alone, which no detector does.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import cameras
from vht_jax.head import flame, view_bias
from vht_jax.render import raster, shade
from vht_jax.types import FlameModel, Identity, Pose


@dataclasses.dataclass(frozen=True)
class Realism:
  texture_detail: float = 0.04  # standard deviation of albedo outside the basis
  specular: float = 0.15  # strength of a Blinn-Phong highlight
  exposure_drift: float = 0.05  # amplitude of a slow gain over the clip
  image_noise: float = 0.01
  landmark_noise: float = 0.005  # of the outer eye distance, per coordinate and frame
  landmark_bias: float = 0.01  # the same, constant per landmark, in the head frame
  slide: bool = True  # points move over the skin with the view, and a frame's points err together


@dataclasses.dataclass
class SyntheticClip:
  """Implements `tracking.protocols.Clip`; `identity` and `poses` are the truth."""

  size: tuple[int, int]
  identity: Identity
  poses: Pose
  frames: np.ndarray  # (T, H, W, 3) uint8
  points: np.ndarray  # (T, 70, 2) px, as a detector would give them
  dense: np.ndarray | None  # (T, 478, 2)

  def __len__(self):
    return len(self.frames)

  def landmarks(self):
    return self.points, np.ones(self.points.shape[:2], np.float32), self.dense

  def images(self, indices):
    return self.frames[np.asarray(indices)]


def smooth(rng, n_frames: int, n: int, length: float) -> np.ndarray:
  """(T, n) samples of a Gaussian process of unit variance with a squared exponential kernel of `length` frames."""
  t = np.arange(n_frames)
  kernel = np.exp(-0.5 * ((t[:, None] - t) / length) ** 2) + 1e-6 * np.eye(n_frames)
  return np.linalg.cholesky(kernel) @ rng.standard_normal((n_frames, n))


def animate(model: FlameModel, rng, n_frames: int, yaw_deg: float = 35.0, focal: float | None = None):
  """A camera and smooth poses: a head that turns, nods, comes and goes, speaks, blinks and looks around."""
  n_expr = model.exprdirs.shape[-1]
  t = np.linspace(0, 1, n_frames)
  phase = rng.uniform(0, 2 * np.pi, 4)
  focal = focal or float(np.exp(rng.uniform(np.log(1.2), np.log(2.5))))
  yaw = np.deg2rad(yaw_deg) * np.sin(2 * np.pi * t + phase[0])
  pitch = np.deg2rad(yaw_deg * 0.4) * np.sin(2 * np.pi * 1.7 * t + phase[1])
  roll = np.deg2rad(5) * smooth(rng, n_frames, 1, 15)[:, 0]
  expr = np.zeros((n_frames, n_expr), np.float32)
  if model.expr_one_sided:
    on = rng.random(n_expr) < 0.35
    expr = np.maximum(smooth(rng, n_frames, n_expr, 8) - 0.2, 0) * on * 0.45
    blink = np.clip(2 * (smooth(rng, n_frames, 1, 2) - 0.9), 0, 1)
    expr[:, -2:] = blink
  else:
    expr = 0.7 * smooth(rng, n_frames, n_expr, 8)
  jaw = np.maximum(smooth(rng, n_frames, 1, 6)[:, 0], 0) * np.deg2rad(8)
  gaze = np.clip(smooth(rng, n_frames, 2, 6) * np.deg2rad(9), -0.4, 0.4)
  neck = smooth(rng, n_frames, 3, 20) * np.deg2rad(3)
  zero = np.zeros(n_frames)
  eyes = np.stack([np.stack([gaze[:, 0], gaze[:, 1], zero], 1)] * 2, 1)

  place = 0.5 + 0.03 * smooth(rng, n_frames, 2, 20)  # where the head is in the image, of the longer side
  face_height = 0.42 / (1 + 0.2 * np.sin(2 * np.pi * 0.8 * t + phase[2]))
  poses = place_heads(
    model,
    focal,
    euler=np.stack([pitch, yaw, roll], 1),
    place=place,
    face_height=face_height,
    expr=expr,
    neck=neck,
    jaw=np.stack([jaw, zero, zero], 1),
    eyes=eyes,
  )
  return cameras.make_camera(focal), poses


def plain_identity(model: FlameModel, rng, camera_) -> Identity:
  """A shape N(0, 1) under a camera, without looks: for clips of landmarks only."""
  return Identity(
    shape=jnp.asarray(rng.standard_normal(model.shapedirs.shape[-1]), jnp.float32),
    texture=jnp.zeros(model.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)),
    camera=camera_,
    lmk_offset=jnp.zeros((70, 3)),
  )


def place_heads(model: FlameModel, focal: float, *, euler, place, face_height, expr, neck, jaw, eyes) -> Pose:
  """Poses (T, ...) from how a head looks in the image.

  Args:
    model: the head.
    focal: focal length in units of the longer side.
    euler: (T, 3) pitch, yaw, roll rad against a head that faces the camera.
    place: (T, 2) where the head is in the image, in units of the longer side, from the top left of a square image.
    face_height: (T,) of a face of 0.2 m, in units of the longer side.
    expr, neck, jaw, eyes: as in `Pose`.
  """

  def head_to_world(angles):
    x, y, z = (flame.rotation.axis_angle_to_matrix(angles[k] * jnp.eye(3)[k]) for k in range(3))
    facing = flame.rotation.axis_angle_to_matrix(jnp.array([0.0, jnp.pi, 0.0]))
    return flame.rotation.matrix_to_axis_angle(facing @ z @ y @ x)

  f32 = lambda a: jnp.asarray(a, jnp.float32)
  root = np.asarray(model.j_template[0])
  distance = focal * 0.2 / face_height
  x, y = (-(place[:, k] - 0.5) * distance / focal for k in range(2))
  return Pose(
    expr=f32(expr),
    rotation=jax.vmap(head_to_world)(f32(euler)),
    translation=f32(np.stack([x, y + root[1], distance], 1)),
    neck=f32(neck),
    jaw=f32(jaw),
    eyes=f32(eyes),
  )


def random_light(rng) -> np.ndarray:
  """(9, 3) VHT coefficients of a soft key light from the front and above, slightly coloured."""
  direction = rng.standard_normal(3)
  direction = np.array([direction[0], abs(direction[1]) * 0.7, -abs(direction[2]) - 1.0])
  direction /= np.linalg.norm(direction)
  light = np.zeros((9, 3), np.float32)
  tint = 1 + 0.03 * rng.standard_normal(3)
  light[0] = 0.85 * tint / shade.SH_FACTORS[0]
  light[1:4] = direction[:, None] * 0.18 * tint / shade.SH_FACTORS[1]
  light[4:] = 0.02 * rng.standard_normal((5, 1))
  return light


class Surface(NamedTuple):
  """What is drawn: the head, and whatever is appended to it."""

  faces: jax.Array  # (F, 3)
  uv: jax.Array  # (F, 3, 2)
  albedo: jax.Array  # (Ht, Wt, 3)
  tone: jax.Array  # (V,) factor on the light: what lies in a cavity gets less of it
  gloss: jax.Array  # (V,) factor on the highlights


def head_surface(model: FlameModel, albedo: jax.Array) -> Surface:
  """The head alone, evenly lit and glossy."""
  ones = jnp.ones(model.v_template.shape[0])
  return Surface(model.faces, model.uv, albedo, tone=ones, gloss=ones)


@functools.partial(jax.jit, static_argnames=("size",))
def render_frame(surface: Surface, vertices, identity: Identity, background, specular, gain, size):
  """A frame of posed vertices (V, 3) at twice the size, averaged down: (H, W, 3)."""
  big = (2 * size[0], 2 * size[1])
  screen = cameras.project(identity.camera, vertices, big)
  fragments = raster.rasterize(screen, surface.faces, big)
  normals = flame.vertex_normals(vertices, surface.faces)
  attributes = jnp.concatenate([normals, surface.tone[:, None], surface.gloss[:, None]], -1)
  values = shade.interpolate(attributes, screen, surface.faces, fragments)
  n, tone, gloss = values[..., :3], values[..., 3:4], values[..., 4:]
  n = n / jnp.maximum(jnp.linalg.norm(n, axis=-1, keepdims=True), 1e-6)
  uv = shade.interpolate_corners(surface.uv, fragments)
  color = shade.shade(shade.sample_texture(surface.albedo, uv), shade.shading(identity.light, n)) * tone
  half = jnp.array([0.35, 0.45, -0.82])
  color = color + specular * gloss * jnp.maximum(jnp.sum(n * half[None, None], -1, keepdims=True), 0.0) ** 40
  hit = (fragments.pix_to_face >= 0)[..., None]
  image = jnp.where(hit, color * jnp.broadcast_to(gain, color.shape), jnp.repeat(jnp.repeat(background, 2, 0), 2, 1))
  image = jnp.clip(image, 0.0, 1.0)
  return image.reshape(size[0], 2, size[1], 2, 3).mean((1, 3))


# Walls, wood, plants, textiles: the colours of a room.
ROOM_COLORS = np.array(
  [
    (0.72, 0.68, 0.62), (0.52, 0.50, 0.47), (0.45, 0.36, 0.28), (0.60, 0.47, 0.35), (0.35, 0.42, 0.40),
    (0.40, 0.46, 0.36), (0.32, 0.38, 0.46), (0.50, 0.56, 0.60), (0.55, 0.38, 0.34), (0.80, 0.77, 0.70),
  ],
  np.float32,
)  # fmt: skip


def room_background(rng, size) -> np.ndarray:
  """(H, W, 3) a room out of focus: soft boxes and discs of muted colours before a wall that darkens downwards."""
  import cv2

  height, width = size
  wall = ROOM_COLORS[rng.integers(len(ROOM_COLORS))] * 0.5 + 0.3
  out = np.tile(wall * np.linspace(1.05, 0.8, height, dtype=np.float32)[:, None, None], (1, width, 1))
  side = max(size)
  for depth in range(3):  # what is farther away is more out of focus
    layer, cover = np.zeros_like(out), np.zeros((height, width), np.float32)
    for _ in range(9 + 4 * depth):
      color = [float(c) for c in ROOM_COLORS[rng.integers(len(ROOM_COLORS))] * rng.uniform(0.55, 1.1)]
      x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
      tall = int(rng.integers(3))
      w, h = (int(side * rng.uniform(0.03, 0.12) * (1 if depth else 2)) for _ in range(2))
      for canvas, value in ((layer, color), (cover, 1.0)):
        if tall:
          cv2.rectangle(canvas, (x - w, y - tall * h), (x + w, y + tall * h), value, -1)
        else:
          cv2.circle(canvas, (x, y), w, value, -1)
    sigma = side / (22, 32, 48)[depth]
    layer = cv2.GaussianBlur(layer, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    cover = cv2.GaussianBlur(cover, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[..., None]
    alpha = 0.75 * np.minimum(cover, 1)
    out = out * (1 - alpha) + layer / np.maximum(cover, 1e-3) * alpha
  return np.clip(out, 0, 1)


def texture_detail(rng, size, sd: float) -> np.ndarray:
  """(Ht, Wt, 3) smooth random albedo that no basis contains."""
  import cv2

  out = np.zeros((*size, 3), np.float32)
  for sigma in (1.5, 3, 8):
    noise = rng.standard_normal((*size, 3)) * [1, 0.8, 0.7] + rng.standard_normal((*size, 1))
    out += cv2.GaussianBlur(noise.astype(np.float32), (0, 0), sigma) * sigma
  return out / out.std() * sd


def make_clip(
  model: FlameModel,
  seed: int,
  n_frames: int = 60,
  size: tuple[int, int] = (512, 512),
  realism: Realism = Realism(),
  yaw_deg: float = 35.0,
  identity_sd: float = 1.0,
  focal: float | None = None,
) -> SyntheticClip:
  """A clip of a random identity; everything follows from `seed`."""
  rng = np.random.default_rng(seed)
  n_shape, n_texture = model.shapedirs.shape[-1], model.texture_basis.shape[-1]
  cam, poses = animate(model, rng, n_frames, yaw_deg, focal)
  identity = Identity(
    shape=jnp.asarray(identity_sd * rng.standard_normal(n_shape), jnp.float32),
    texture=jnp.asarray(0.7 * rng.standard_normal(n_texture), jnp.float32),
    light=jnp.asarray(random_light(rng)),
    camera=cam,
    lmk_offset=jnp.zeros((70, 3)),
  )
  albedo = flame.albedo(model, identity.texture)
  albedo = jnp.clip(albedo + texture_detail(rng, albedo.shape[:2], realism.texture_detail), 0, 1)
  background = jnp.asarray(room_background(rng, size))
  gain = 1 + realism.exposure_drift * np.sin(2 * np.pi * (np.arange(n_frames) / n_frames + rng.random()))
  frames = np.zeros((n_frames, *size, 3), np.uint8)
  surface = head_surface(model, albedo)
  skin = jax.jit(flame.skin)
  for k in range(n_frames):
    vertices = skin(model, identity.shape, jax.tree.map(lambda a: a[k], poses))
    image = render_frame(surface, vertices, identity, background, realism.specular, float(gain[k]), size)
    image = np.asarray(image) + realism.image_noise * rng.standard_normal(image.shape)
    frames[k] = np.round(np.clip(image, 0, 1) * 255)
  points, dense = detections(model, identity, poses, size, realism, rng)
  return SyntheticClip(size, identity, poses, frames, points, dense)


def detections(model, identity, poses, size, realism: Realism, rng):
  """What a detector with constant and view-dependent bias and noise would report: (T, 70, 2) and (T, 478, 2) px."""
  index = np.asarray(model.dense_index)
  n_points = 70 + len(index)
  neutral = _on_skin(model, flame.shape_blend(model, identity.shape, jnp.zeros(model.exprdirs.shape[-1])))
  eye = jnp.linalg.norm(neutral[36] - neutral[45])
  bias = realism.landmark_bias * eye * rng.standard_normal((n_points, 3))
  moved = np.broadcast_to(bias.astype(np.float32), (poses.expr.shape[0], n_points, 3))
  if realism.slide:
    moved = moved + slide(model, identity.shape, poses, rng)

  @jax.jit
  def seen(pose, moved):
    R = flame.rotation.axis_angle_to_matrix(pose.rotation)
    points = _on_skin(model, flame.skin(model, identity.shape, pose))
    points = points + jnp.matmul(moved, R.T, precision=view_bias.HIGHEST)
    return cameras.project(identity.camera, points, size)

  out = []
  for k in range(poses.expr.shape[0]):
    screen = np.asarray(seen(jax.tree.map(lambda a: a[k], poses), moved[k]))
    px = float(identity.camera.focal) * max(size) / screen[:, 2].mean() * float(eye)
    out.append(screen[:, :2] + realism.landmark_noise * px * rng.standard_normal((n_points, 2)))
  out = np.stack(out).astype(np.float32)
  dense = np.full((len(out), 478, 2), np.nan, np.float32)
  dense[:, index] = out[:, 70:]
  return out[:, :70], dense


def slide(model: FlameModel, shape, poses: Pose, rng) -> jax.Array:
  """(T, N, 3) head, m: how far a person's landmarks move over the skin with the view, and a frame's together.

  The landmarks are the 68, the irises and the dense ones; `shape` is of the person.
  """
  head = flame.shape_blend(model, shape, jnp.zeros(model.exprdirs.shape[-1]))
  points = _on_skin(model, head)
  groups = view_bias.groups_of(model)
  corners = np.concatenate([model.lmk_vertices, model.dense_vertices])
  normals = flame.vertex_normals(head, model.faces)[corners[:, 0]]
  middle, eye = points[:68].mean(0), jnp.linalg.norm(points[36] - points[45])
  spread = np.linalg.cholesky(np.asarray(view_bias.deviation_covariance(groups, normals)) + 1e-12 * np.eye(3))
  own = eye * jnp.einsum("nkij,nkj->nik", spread[:, 1:], rng.standard_normal((len(points), 2, 3)))
  gains = jnp.asarray(np.array(view_bias.GAIN_SD) * rng.standard_normal(2), jnp.float32)
  fields = view_bias.fields(model.view_bias, points, middle, eye) + view_bias.gain_fields(points, middle) * gains + own
  together = view_bias.common_error_basis(points, middle, eye, own_slopes=True)
  errors = jnp.asarray(correlated(rng, poses.expr.shape[0], together.shape[-1], view_bias.LAG_COMMON), jnp.float32)

  def frame(pose, errors):
    R = flame.rotation.axis_angle_to_matrix(pose.rotation)
    sines = view_bias.view(R, flame.landmarks(model, flame.skin(model, shape, pose))[:68].mean(0))
    return view_bias.displacement(fields, sines) + together @ errors

  return jax.jit(jax.vmap(frame))(poses, errors)


def _on_skin(model: FlameModel, vertices) -> jax.Array:
  return jnp.concatenate([flame.landmarks(model, vertices), flame.dense_landmarks(model, vertices)])


def correlated(rng, n_frames: int, n: int, lag: float) -> np.ndarray:
  """(T, n) of unit variance, consecutive frames correlated by `lag`."""
  out = rng.standard_normal((n_frames, n))
  for k in range(1, n_frames):
    out[k] = lag * out[k - 1] + np.sqrt(1 - lag**2) * out[k]
  return out
