"""Makes the demo clip: `python benchmarks/make_demo_clip.py` writes assets/demo/demo.mp4 and truth.npz.

A person drawn at random speaks, turns, blinks and looks around in front of a blurred room. Rendered by our own
renderer, with what the tracker's model has not got: skin detail, highlights, darkness in the mouth and under the
chin, a shirt that hides the neck, exposure that drifts, noise, video compression. Everything follows from --seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import synthetic

from vht_jax import cameras, results
from vht_jax.config import TrackConfig
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.render import raster
from vht_jax.types import FlameModel, Identity, Pose, Status, TrackResult
from vht_jax.video.codec import write_video

FPS = 24
N_FRAMES = 72
SIZE = (512, 512)
IDENTITY_SD = 0.7  # of the components' own: a draw of N(0, 1) exaggerates
TEXTURE_SD = 0.3
TEXTURE = {3: -0.3, 4: 0.1, 5: 0.9, 6: 1.3, 13: -1.0}  # pale lips, dark brows and hair, dark inside of the mouth
IMAGE_NOISE = 0.006

# Mouth shapes of speech: jaw opening in degrees and expression units.
VISEMES = (
  (11.0, {"mouthLowerDown": 0.35, "mouthUpperUp": 0.15}),  # a
  (6.0, {"mouthStretch": 0.35, "mouthSmile": 0.2, "mouthLowerDown": 0.3}),  # e
  (3.5, {"mouthSmile": 0.4, "mouthStretch": 0.3, "mouthLowerDown": 0.25, "mouthUpperUp": 0.2}),  # i
  (8.0, {"mouthFunnel": 0.6, "mouthLowerDown": 0.15}),  # o
  (4.0, {"mouthPucker": 0.7, "mouthFunnel": 0.25}),  # u
  (0.3, {"mouthPress": 0.35, "mouthRollLower": 0.2}),  # m, b, p
  (2.0, {"mouthRollLower": 0.35, "mouthUpperUp": 0.2}),  # f, v
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "assets" / "demo")
  args = parser.parse_args()
  model = load_head(model="open")
  truth, frames = make(model, args.seed)
  write_video(args.out / "demo.mp4", frames, FPS)
  write_truth(args.out / "truth.npz", model, truth)
  print(f"{args.out}: {len(frames)} frames, {(args.out / 'demo.mp4').stat().st_size / 1e6:.2f} MB")


def make(model: FlameModel, seed: int) -> tuple[TrackResult, np.ndarray]:
  """The truth and the (T, H, W, 3) uint8 frames."""
  rng = np.random.default_rng(seed)
  shape = IDENTITY_SD * rng.standard_normal(model.shapedirs.shape[-1])
  texture = TEXTURE_SD * rng.standard_normal(model.texture_basis.shape[-1])
  texture[list(TEXTURE)] = list(TEXTURE.values())
  focal = float(np.exp(rng.uniform(np.log(1.2), np.log(2.0))))
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  identity = Identity(
    shape=f32(shape),
    texture=f32(texture),
    light=f32(1.07 * synthetic.random_light(rng)),
    camera=cameras.make_camera(focal),
    lmk_offset=jnp.zeros((70, 3)),
  )
  poses = animate(model, rng, focal)

  albedo = np.asarray(flame.albedo(model, identity.texture))
  albedo = np.clip(albedo + synthetic.texture_detail(rng, albedo.shape[:2], 0.014), 0, 1)
  neutral = np.asarray(flame.shape_blend(model, identity.shape, jnp.zeros(model.exprdirs.shape[-1])))
  surface, shirt = dress(model, rng, albedo, neutral)
  background = f32(synthetic.room_background(rng, SIZE))
  gain = 1 + 0.03 * np.sin(2 * np.pi * (np.arange(N_FRAMES) / N_FRAMES + rng.random()))

  @jax.jit
  def posed(pose):
    head = flame.skin(model, identity.shape, pose)
    # The body turns a third as far as the head.
    R = flame.rotation.axis_angle_to_matrix(jnp.array([0.0, jnp.pi, 0.0]))
    yaw = flame.rotation.matrix_to_axis_angle(R.T @ flame.rotation.axis_angle_to_matrix(pose.rotation))[1]
    body = R @ flame.rotation.axis_angle_to_matrix(jnp.array([0.0, 1.0, 0.0]) * yaw / 3)
    return jnp.concatenate([head, shirt @ body.T + pose.translation[None]])

  frames = np.zeros((N_FRAMES, *SIZE, 3), np.uint8)
  for k in range(N_FRAMES):
    vertices = posed(jax.tree.map(lambda a: a[k], poses))
    image = synthetic.render_frame(surface, vertices, identity, background, 0.1, float(gain[k]), SIZE)
    image = np.asarray(image) + IMAGE_NOISE * rng.standard_normal((*SIZE, 3))
    frames[k] = np.round(np.clip(image, 0, 1) * 255)
  truth = TrackResult(identity, poses, energies={}, status=np.full(N_FRAMES, Status.TRACKED))
  return truth, frames


def animate(model: FlameModel, rng, focal: float) -> Pose:
  """Turning, nodding, coming and going; speech; blinks; eyes that mostly stay on the camera."""
  t = np.arange(N_FRAMES) / FPS
  phase = rng.uniform(0, 2 * np.pi, 4)
  zero = np.zeros(N_FRAMES)
  yaw = np.deg2rad(30) * np.sin(2 * np.pi * t / 3 + phase[0])
  pitch = np.deg2rad(8) * np.sin(2 * np.pi * t / 1.9 + phase[1]) + np.deg2rad(2)
  roll = np.deg2rad(4) * synthetic.smooth(rng, N_FRAMES, 1, 14)[:, 0]
  expr, jaw = speak(model, rng)

  # Fixations of about half a second, reached in two frames. The eyes make up for most of the head's turn.
  target = rng.normal(0, np.deg2rad(6), (8, 2))
  fixation = np.repeat(target, rng.permutation([10, 13, 14, 9, 12, 12, 14, 16]), 0)
  fixation = smooth_rows(fixation[:N_FRAMES], 0.7)
  gaze = fixation + np.stack([-0.6 * pitch, -0.7 * yaw], 1)
  eyes = np.stack([np.stack([gaze[:, 0], gaze[:, 1], zero], 1)] * 2, 1)
  return synthetic.place_heads(
    model,
    focal,
    euler=np.stack([pitch, yaw, roll], 1),
    place=np.array([0.5, 0.47]) + 0.015 * synthetic.smooth(rng, N_FRAMES, 2, 20),
    face_height=0.45 / (1 + 0.12 * np.sin(2 * np.pi * t / 3.7 + phase[2])),
    expr=expr,
    neck=np.deg2rad(2.5) * synthetic.smooth(rng, N_FRAMES, 3, 20),
    jaw=np.stack([jaw, zero, zero], 1),
    eyes=eyes,
  )


def speak(model: FlameModel, rng) -> tuple[np.ndarray, np.ndarray]:
  """(T, E) expression and (T,) jaw angle, rad: five syllables a second, a pause, brows that stress, blinks."""
  names = list(model.expr_names)
  t = np.arange(N_FRAMES) / FPS
  expr = np.zeros((N_FRAMES, len(names)))
  jaw = np.full(N_FRAMES, np.deg2rad(0.5))

  def add(unit: str, curve):
    for name in (unit, unit + "Left", unit + "Right"):
      if name in names:
        expr[:, names.index(name)] += curve

  def bump(at, width):
    return np.exp(-0.5 * ((t - at) / width) ** 2)

  at = 0.15
  while at < t[-1]:
    opening, units = VISEMES[rng.integers(len(VISEMES))]
    strength = rng.uniform(0.7, 1.1)
    jaw += np.deg2rad(opening) * strength * bump(at, 0.065)
    for unit, value in units.items():
      add(unit, value * strength * bump(at, 0.075))
    at += rng.uniform(0.15, 0.24) + (0.35 if rng.random() < 0.12 else 0.0)
  for start in (0.6, 1.7, 2.5):  # stressed words
    add("browInnerUp", 0.35 * rng.random() * bump(start, 0.18))
    add("browOuterUp", 0.4 * rng.random() * bump(start, 0.18))
  add("mouthSmile", 0.15 + 0.1 * np.sin(2 * np.pi * t / 3))
  for start in (rng.uniform(0.3, 0.6), rng.uniform(1.8, 2.2)):
    closed = np.interp(t - start, [-0.09, 0.0, 0.06, 0.2], [0, 1, 1, 0])
    add("eyelid", closed)
    add("browDown", 0.08 * closed)
  return expr, jaw


def smooth_rows(x: np.ndarray, sigma: float) -> np.ndarray:
  """Gaussian smoothing of (T, n) along its first axis, ends held."""
  k = np.arange(-4, 5)
  w = np.exp(-0.5 * (k / sigma) ** 2)
  padded = np.pad(x, ((4, 4), (0, 0)), mode="edge")
  return sum(wi * padded[4 + i : 4 + i + len(x)] for wi, i in zip(w / w.sum(), k))


def dress(model: FlameModel, rng, albedo: np.ndarray, neutral: np.ndarray):
  """The head with a shirt.

  Args:
    model: the head.
    rng: for the weave.
    albedo: (Ht, Wt, 3) of the head.
    neutral: (V, 3) the person's vertices, unposed.

  Returns:
    The `synthetic.Surface` of head and shirt, and the shirt's vertices (N, 3) in the head's axes from the root joint.
  """
  rings, segments = 48, 96
  # Collar, shoulders, chest: half width, half depth, height and forward tilt of elliptic sections, m.
  profile = np.array(
    [
      (0.045, 0.035, -0.185, 0.33),
      (0.062, 0.051, -0.150, 0.33),
      (0.068, 0.056, -0.128, 0.33),
      (0.073, 0.061, -0.121, 0.33),
      (0.078, 0.065, -0.126, 0.33),
      (0.084, 0.069, -0.136, 0.32),
      (0.115, 0.078, -0.150, 0.25),
      (0.155, 0.092, -0.168, 0.12),
      (0.190, 0.105, -0.195, 0.04),
      (0.208, 0.115, -0.235, 0.0),
      (0.214, 0.120, -0.300, 0.0),
      (0.216, 0.120, -0.420, 0.0),
    ]
  )
  at = np.linspace(0, len(profile) - 1, rings)
  columns = np.stack([np.interp(at, np.arange(len(profile)), column) for column in profile.T], 1)
  rounded = smooth_rows(columns, 1.8)
  a, b, height, tilt = np.where((at < 5)[:, None], columns, rounded).T
  angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
  x = a[:, None] * np.cos(angle)
  depth = b[:, None] * np.sin(angle)
  y = height[:, None] - tilt[:, None] * depth
  z = depth - 0.079
  shirt = np.stack([x, y, z], -1).reshape(-1, 3) - np.asarray(model.j_template[0])
  i, j = (k.reshape(-1) for k in np.meshgrid(np.arange(rings - 1), np.arange(segments), indexing="ij"))
  k = (j + 1) % segments
  p, q, r, s = i * segments + j, i * segments + k, (i + 1) * segments + j, (i + 1) * segments + k
  faces = np.concatenate([np.stack([p, q, r], 1), np.stack([q, s, r], 1)])

  # One atlas: the head's map above, cloth with a fine weave below.
  height_px, width_px = albedo.shape[:2]
  cloth = np.array([0.21, 0.25, 0.29]) + 0.015 * rng.standard_normal((height_px, width_px, 1))
  atlas = np.concatenate([albedo, cloth])
  grid = np.stack([(j + 0.0) / segments, 0.02 + 0.46 * (1 - i / rings)], 1)
  du, dv = np.array([1 / segments, 0.0]), np.array([0.0, -0.46 / rings])
  uv = np.concatenate([np.stack([grid, grid + du, grid + dv], 1), np.stack([grid + du, grid + du + dv, grid + dv], 1)])
  head_uv = np.asarray(model.uv) * [1.0, 0.5] + [0.0, 0.5]

  n_head = model.v_template.shape[0]
  tone = 0.25 + 0.75 * openness(neutral, np.asarray(model.faces))
  for name, least in (("teeth", 0.6), ("tongue", 0.45)):  # hidden in the neutral head, but light falls in as it speaks
    tone = np.where(np.asarray(model.masks[name]), np.maximum(tone, least), tone)
  tone = np.where(np.asarray(model.masks["neck"]), 0.85 * tone, tone)  # in the head's shadow
  tone = blur_over_mesh(tone, np.asarray(model.faces), 1)
  gloss = np.ones(n_head)
  gloss[np.asarray(model.masks["neck"])] = 0.3
  gloss[np.asarray(model.masks["mouth_cavity"])] = 0.0
  shirt_tone = np.repeat(np.interp(at, [1.0, 3.0, 4.5, 6.0], [0.3, 1.0, 0.85, 1.0]), segments)
  f32 = lambda array: jnp.asarray(array, jnp.float32)
  surface = synthetic.Surface(
    faces=jnp.concatenate([model.faces, jnp.asarray(faces + n_head, jnp.int32)]),
    uv=f32(np.concatenate([head_uv, uv])),
    albedo=f32(np.clip(atlas, 0, 1)),
    tone=f32(np.concatenate([tone, shirt_tone])),
    gloss=f32(np.concatenate([gloss, np.zeros(len(shirt))])),
  )
  return surface, f32(shirt)


def openness(vertices: np.ndarray, faces: np.ndarray, n_directions: int = 96, resolution: int = 384) -> np.ndarray:
  """(V,) how much of the light of a bright room reaches each vertex of the neutral head, about 1 in the open.

  Looks at the head from many directions, most of them in front and above, as a soft key light would; a vertex gets
  the light of those that see it.
  """
  k = np.arange(n_directions)
  z = 1 - (2 * k + 1) / n_directions  # a Fibonacci sphere
  around = k * np.pi * (3 - np.sqrt(5))
  directions = np.stack([np.sqrt(1 - z**2) * np.cos(around), np.sqrt(1 - z**2) * np.sin(around), z], 1)
  strength = np.clip(0.6 + 0.5 * directions[:, 1] + 0.5 * directions[:, 2], 0, None)
  v = jnp.asarray(vertices, jnp.float32)
  f = jnp.asarray(faces)
  normals = flame.vertex_normals(v, f)

  @jax.jit
  def seen_from(direction):
    right = jnp.cross(jnp.array([0.12, 0.99, 0.07]), direction)
    right = right / jnp.linalg.norm(right)
    axes = jnp.stack([-right, -jnp.cross(direction, right), -direction])
    p = jnp.matmul(v - v.mean(0), axes.T, precision="highest") * jnp.array([resolution / 0.36] * 2 + [1.0])
    screen = p + jnp.array([resolution / 2, resolution / 2, 1.0])  # orthographic: depth matters only for its order
    depth = raster.rasterize(screen, f, (resolution, resolution), cull_backfaces=False)
    ij = jnp.clip(screen[:, :2].astype(jnp.int32), 0, resolution - 1)
    hit = depth.pix_to_face[ij[:, 1], ij[:, 0]] >= 0
    visible = ~hit | (screen[:, 2] < depth.zbuf[ij[:, 1], ij[:, 0]] + 3e-3)
    return visible * jnp.maximum(jnp.matmul(normals, direction), 0.0), jnp.maximum(jnp.matmul(normals, direction), 0.0)

  reached, possible = np.zeros(len(vertices)), np.zeros(len(vertices))
  for direction, light in zip(directions, strength):
    a, b = seen_from(jnp.asarray(direction, jnp.float32))
    reached += light * np.asarray(a)
    possible += light * np.asarray(b)
  return reached / np.maximum(possible, 1e-6)


def blur_over_mesh(values: np.ndarray, faces: np.ndarray, times: int) -> np.ndarray:
  """(V,) averaged with the neighbours."""
  for _ in range(times):
    total, count = np.zeros(len(values)), np.zeros(len(values))
    np.add.at(total, faces, values[faces].mean(1, keepdims=True))
    np.add.at(count, faces, 1.0)
    values = np.where(count > 0, total / np.maximum(count, 1), values)
  return values


def write_truth(path: Path, model: FlameModel, truth: TrackResult) -> None:
  """The truth in the format of tracked_flame_params.npz, and where its landmarks are in the frames (px)."""
  results.save_tracked(path, truth, np.arange(1, N_FRAMES + 1), SIZE, TrackConfig(), model.name)
  landmarks = results.projected_landmarks(model, truth, SIZE)
  results.write_npz(path, results.read_npz(path) | {"vht_jax_landmarks": landmarks.astype(np.float32)})


if __name__ == "__main__":
  main()
