"""Clips of heads that the tracker's model does not contain, with truth: `python benchmarks/truth_clips.py --out DIR`.

People drawn from the open head (CC0), then made others: a smooth random warp of the whole head (a millimetre or so on
the face, more on the skull), skin with pores, freckles, moles, blotches and stubble drawn at six times the texture's
resolution, other focal lengths than the prior expects. Rendered by our own renderer with four samples a pixel, noise
and H.264. So neither shape nor looks lie in the model's space, but the renderer is the tracker's own and the make of
the face the open head's: real scans by another renderer say more. Files are as those of scanned heads, and `scans.py`
reads both:

  NAME.mp4, NAME.truth.npz   camera K (pixel i covers [i, i+1)), M (n, 4, 4) from the head's frame in mm to OpenCV's
                             camera, yaw, pitch, roll in degrees, focal in longer sides; weights, gaze where animated
  PERSON.npz                 v0, f0, uv0: neutral vertices in mm (x left, y up, z out of the face, origin between the
                             eyes), delta_targets and target_names where animated
  PERSON.surface.npz         points of the outer skin, normals, nose: its tip
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import cv2
import jax.numpy as jnp
import make_demo_clip
import numpy as np
import synthetic
from scipy.spatial.transform import Rotation

from vht_jax import cameras
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.types import FlameModel, Identity
from vht_jax.video.codec import write_video

N_FRAMES, FPS, SIZE = 72, 24, (640, 640)
YAW, PITCH, ROLL, DEPTH = 35.0, 12.0, 8.0, 0.1  # degrees and share of the distance: amplitudes
FACE_HEIGHT = 0.42  # of the image, of a face of 0.2 m
DETAIL = 6  # the drawn texture's resolution over the model's
IMAGE_NOISE = 2 / 255
INNER = ("teeth", "tongue", "mouth_cavity", "eye_socket", "left_eyeball", "right_eyeball")
LINEAR_JAW = np.deg2rad(16)  # jawOpen's target: this turn of the jaw, gone in a straight line
N_SURFACE = 20000


@dataclasses.dataclass(frozen=True)
class Clip:
  name: str
  person: str
  seed: int
  focal: float  # of the longer side
  animated: bool = False


CLIPS = (
  Clip("ada_f14", "ada", 1, 1.4),
  Clip("ben_f09", "ben", 2, 0.9),
  Clip("ben_f24", "ben", 2, 2.4),
  Clip("cleo_f17", "cleo", 3, 1.7),
  Clip("dora_f14", "dora", 4, 1.4, animated=True),
)
# Names of the targets, as ARKit has them, and the open head's units.
TARGETS = {
  "browInnerUp": "browInnerUp", "browDown_L": "browDownLeft", "browDown_R": "browDownRight",
  "mouthSmile_L": "mouthSmileLeft", "mouthSmile_R": "mouthSmileRight", "mouthPucker": "mouthPucker",
  "eyeBlink_L": "eyelidLeft", "eyeBlink_R": "eyelidRight",
}  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--only", nargs="*", help="names of clips")
  args = parser.parse_args()
  model = load_head(model="open")
  args.out.mkdir(parents=True, exist_ok=True)
  for clip in CLIPS:
    if not args.only or clip.name in args.only:
      make(model, clip, args.out)
      print(clip.name, flush=True)


class Warp:
  """A smooth random displacement of space: a few waves, weak on the face and stronger towards the back of the skull."""

  def __init__(self, rng, face_mm: float = 1.5, skull_mm: float = 6.0):
    self.face, self.skull = face_mm / 1e3, skull_mm / 1e3
    self.direction = rng.standard_normal((2, 10, 3))
    length = np.stack([rng.uniform(0.045, 0.10, 10), rng.uniform(0.10, 0.2, 10)])  # m
    way = rng.standard_normal((2, 10, 3))
    self.wave = 2 * np.pi * way / np.linalg.norm(way, axis=-1, keepdims=True) / length[..., None]
    self.phase = rng.uniform(0, 2 * np.pi, (2, 10))

  def __call__(self, points: np.ndarray) -> np.ndarray:
    """(N, 3) head, m: moved."""
    fields = [
      np.sin(points @ w.T + p) @ d / np.sqrt(len(w) / 2 * 3) for w, p, d in zip(self.wave, self.phase, self.direction)
    ]
    back = np.clip((0.01 - points[:, 2:]) / 0.08, 0, 1)  # 0 at the cheeks and before them
    back = back**2 * (3 - 2 * back)
    return points + self.face * fields[0] * np.sqrt(3) + back * self.skull * fields[1] * np.sqrt(3)


def skin(model: FlameModel, rng, albedo: np.ndarray) -> np.ndarray:
  """(Ht, Wt, 3) the albedo (256 px) drawn finer, with what no basis holds."""
  h, w = (DETAIL * n for n in albedo.shape[:2])
  fine = cv2.resize(albedo.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
  noise = lambda sigma: _unit(cv2.GaussianBlur(rng.standard_normal((h, w)).astype(np.float32), (0, 0), sigma))
  pores = np.minimum(noise(1.1), 0) * 0.035 + 0.018 * noise(2.2) + 0.02 * noise(5)
  fine = fine * (1 + pores[..., None])
  fine = fine + 0.02 * noise(22)[..., None] * np.array([1.0, 0.3, 0.3]) + 0.012 * noise(40)[..., None]
  for radius, count, depth in ((2.2, rng.integers(100, 900), 0.14), (4.5, rng.integers(5, 30), 0.4)):  # freckles, moles
    spots = np.zeros((h, w), np.float32)
    x, y = rng.integers(0, w, count), rng.integers(0, h, count)
    spots[y, x] = rng.uniform(0.4, 1.0, count)
    spots = cv2.GaussianBlur(spots, (0, 0), radius * 0.6) * 2 * np.pi * (radius * 0.6) ** 2
    fine = fine * (1 - depth * np.clip(spots, 0, 1)[..., None] * np.array([0.8, 1.0, 1.1]))
  if rng.random() < 0.6:  # stubble, where a beard grows
    cover = _beard(model, (h, w))
    grain = np.clip(noise(0.9) - 0.4, 0, 1.5) * np.clip(1 + 0.5 * noise(30), 0, 2)
    fine = fine * (1 - 0.28 * rng.uniform(0.5, 1) * (cover * (0.3 + grain))[..., None])
  return np.clip(fine, 0, 1)


def _unit(image: np.ndarray) -> np.ndarray:
  return (image - image.mean()) / image.std()


def _beard(model: FlameModel, size: tuple[int, int]) -> np.ndarray:
  """(H, W) in the texture: chin, jaw and upper lip, soft at the edge."""
  v, faces = np.asarray(model.v_template), np.asarray(model.faces)
  lips, nose = (np.asarray(model.masks[k]) for k in ("lips", "nose"))
  middle = v[lips].mean(0)
  here = (v[:, 1] < middle[1] + 0.016) & np.asarray(model.masks["face"]) & ~lips & ~nose & (v[:, 1] > middle[1] - 0.06)
  out = np.zeros(size, np.float32)
  corners = np.asarray(model.uv)[here[faces].all(1)] * [size[1], -size[0]] + [0, size[0]]
  cv2.fillPoly(out, [c for c in np.round(corners).astype(np.int32)], 1.0)
  return cv2.GaussianBlur(out, (0, 0), size[0] / 60)


def make(model: FlameModel, clip: Clip, out: Path) -> None:
  rng = np.random.default_rng(7000 + clip.seed)  # the person
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  shape = f32(0.8 * rng.standard_normal(model.shapedirs.shape[-1]))
  warp = Warp(rng)
  texture = 0.6 * rng.standard_normal(model.texture_basis.shape[-1])
  for k, value in make_demo_clip.TEXTURE.items():
    texture[k] += 0.7 * value
  albedo = skin(model, rng, np.asarray(flame.albedo(model, f32(texture))))
  light = f32(synthetic.random_light(rng))
  specular = float(rng.uniform(0.05, 0.2))

  body = lambda **changes: _posed(model, shape, **changes)
  rest = body()
  neutral = warp(rest)
  origin = neutral[_eyes(model)].mean(0)
  targets = {"jawOpen": warp(body(jaw=LINEAR_JAW)) - neutral}
  for name, unit in TARGETS.items():
    targets[name] = warp(body(unit=unit)) - neutral
  names, deltas = list(targets), np.stack(list(targets.values()))

  rng = np.random.default_rng([7000 + clip.seed, round(100 * clip.focal)])  # the clip
  M, angles = motion(rng, clip.focal)
  weights = activity(rng, names) if clip.animated else np.zeros((N_FRAMES, len(names)))
  gaze = 9 * synthetic.smooth(rng, N_FRAMES, 2, 6).clip(-2, 2) if clip.animated else np.zeros((N_FRAMES, 2))

  identity = Identity(
    shape=shape,
    texture=f32(texture),
    light=light,
    camera=cameras.make_camera(clip.focal),
    lmk_offset=jnp.zeros((70, 3)),
  )
  tone = 0.25 + 0.75 * make_demo_clip.openness(neutral, np.asarray(model.faces))
  surface = synthetic.head_surface(model, f32(albedo))._replace(tone=f32(tone))
  background = f32(synthetic.room_background(rng, SIZE))
  world = np.diag([-1.0, -1.0, 1.0])  # of OpenCV's axes
  balls = np.asarray(model.masks["left_eyeball"]) | np.asarray(model.masks["right_eyeball"])
  frames = []
  for t in range(N_FRAMES):
    vertices = neutral + np.tensordot(weights[t], deltas, 1)
    if clip.animated:
      vertices[balls] = warp(body(gaze=np.deg2rad(gaze[t])))[balls]
    camera = 1e-3 * M[t, :3, 3] + (vertices - origin) @ M[t, :3, :3].T
    gain = 1 + 0.03 * np.sin(2 * np.pi * t / N_FRAMES + 1)
    image = synthetic.render_frame(surface, f32(camera @ world), identity, background, specular, gain, SIZE)
    noisy = np.asarray(image) + IMAGE_NOISE * rng.standard_normal((*SIZE, 3))
    frames.append(np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8))
  write_video(out / f"{clip.name}.mp4", frames, FPS)

  f = clip.focal * max(SIZE)
  truth = dict(
    scan=clip.person, K=np.array([[f, 0, SIZE[1] / 2], [0, f, SIZE[0] / 2], [0, 0, 1]]), size=np.array(SIZE), M=M,
    yaw=angles[:, 0], pitch=angles[:, 1], roll=angles[:, 2], focal=clip.focal,
  )  # fmt: skip
  person = dict(
    v0=1e3 * (neutral - origin), f0=np.asarray(model.faces), uv0=np.asarray(model.uv), parts=1,
    eyes=1e3 * np.stack([_ball(model, neutral, "right"), _ball(model, neutral, "left")]) - 1e3 * origin,
  )  # fmt: skip
  if clip.animated:
    truth |= dict(weights=weights, gaze=gaze)
    person |= dict(delta_targets=(1e3 * deltas).astype(np.float32), target_names=np.array(names), target_part=0)
  np.savez_compressed(out / f"{clip.name}.truth.npz", **truth)
  np.savez_compressed(out / f"{clip.person}.npz", **person)
  np.savez_compressed(out / f"{clip.person}.surface.npz", **outer_surface(model, person["v0"]))


def _posed(model: FlameModel, shape, jaw: float = 0.0, unit: str | None = None, gaze=(0.0, 0.0)) -> np.ndarray:
  """(V, 3) m, the head unturned; `gaze` up and to the subject's left, rad."""
  rest = flame.neutral_pose(model)
  expr = np.zeros(len(model.expr_names), np.float32)
  if unit:
    expr[model.expr_names.index(unit)] = 1.0
  pose = rest.replace(
    expr=jnp.asarray(expr),
    rotation=jnp.zeros(3),
    translation=jnp.zeros(3),
    jaw=jnp.array([jaw, 0.0, 0.0], jnp.float32),
    eyes=jnp.asarray(np.tile([-gaze[0], gaze[1], 0.0], (2, 1)), jnp.float32),
  )
  return np.asarray(flame.skin(model, shape, pose), np.float64)


def _eyes(model: FlameModel) -> np.ndarray:
  return np.asarray(model.masks["left_eyeball"]) | np.asarray(model.masks["right_eyeball"])


def _ball(model: FlameModel, vertices: np.ndarray, side: str) -> np.ndarray:
  return vertices[np.asarray(model.masks[f"{side}_eyeball"])].mean(0)


def motion(rng, focal: float) -> tuple[np.ndarray, np.ndarray]:
  """(T, 4, 4) head in mm -> camera, and (T, 3) yaw, pitch, roll in degrees."""
  t = np.arange(N_FRAMES) / N_FRAMES
  phase = rng.uniform(0, 2 * np.pi, 6)
  wave = lambda k, turns: np.sin(2 * np.pi * turns * t + phase[k])
  angles = np.stack([YAW * wave(0, 1), PITCH * wave(1, 1.7), ROLL * wave(2, 0.8)], 1)
  turned = Rotation.from_euler("YXZ", angles, degrees=True).as_matrix()
  distance = 200 * focal / FACE_HEIGHT * (1 + DEPTH * wave(3, 0.9))
  M = np.tile(np.eye(4), (N_FRAMES, 1, 1))
  M[:, :3, :3] = np.diag([1.0, -1.0, -1.0]) @ turned
  shift = np.stack([0.03 * wave(4, 1.3), 0.02 * wave(5, 0.7) - 0.01], 1)
  M[:, :2, 3] = shift * (distance / focal)[:, None]
  M[:, 2, 3] = distance
  return M, angles


def activity(rng, names: list[str]) -> np.ndarray:
  """(T, K) weights of the targets: both sides of a face mostly move together."""
  weights = np.zeros((N_FRAMES, len(names)))
  soft = lambda: np.clip(synthetic.smooth(rng, N_FRAMES, 1, 5)[:, 0] - 0.3, 0, 1.5) * 0.6
  for stem in ("jawOpen", "browInnerUp", "browDown", "mouthSmile", "mouthPucker"):
    curve = soft()
    for k, name in enumerate(names):
      if name.startswith(stem):
        weights[:, k] = np.clip(curve * rng.uniform(0.7, 1.0), 0, 1)
  t = np.arange(N_FRAMES)
  for start in rng.permutation(np.arange(6, N_FRAMES - 8, 14))[:4]:
    closed = np.interp(t - start, [-2, 0, 1, 4], [0, 1, 1, 0])
    for k, name in enumerate(names):
      if name.startswith("eyeBlink"):
        weights[:, k] = np.maximum(weights[:, k], closed)
  return weights


def outer_surface(model: FlameModel, vertices: np.ndarray) -> dict[str, np.ndarray]:
  """Points spread evenly over the outer skin above the neck, their normals, and the nose's tip, mm."""
  faces = np.asarray(model.faces)
  hidden = np.any([np.asarray(model.masks[name]) for name in (*INNER, "neck", "boundary")], axis=0)
  faces = faces[~hidden[faces].any(1)]
  a, b, c = (vertices[faces[:, k]] for k in range(3))
  cross = np.cross(b - a, c - a)
  area = np.linalg.norm(cross, axis=1)
  rng = np.random.default_rng(0)
  pick = rng.choice(len(faces), N_SURFACE, p=area / area.sum())
  u, v = np.sqrt(rng.random((N_SURFACE, 1))), rng.random((N_SURFACE, 1))
  points = (1 - u) * a[pick] + u * (1 - v) * b[pick] + u * v * c[pick]
  nose = vertices[np.asarray(model.masks["nose"])]
  f32 = lambda x: x.astype(np.float32)
  return dict(points=f32(points), normals=f32(cross[pick] / area[pick, None]), nose=nose[nose[:, 2].argmax()])


if __name__ == "__main__":
  main()
