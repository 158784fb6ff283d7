"""Drawn people whose hair swings: what `--dynamic_offsets` makes of it beside `--offsets` alone, against the truth.

    python benchmarks/moving_hair.py [--people=6]

The people of `whole_head.py`; their hair swings to the sides and lifts, the more the lower and the thicker it is.
Poses, codes and camera are the true ones. Masks are as a segmenter makes them: the true outline with a pixel of wobble,
new in every frame. Silhouettes are compared with the true ones. "Left out": frames whose mask is not looked at.
"""

from __future__ import annotations

import argparse
import time

import cv2
import jax.numpy as jnp
import numpy as np
import whole_head
from whole_head import N_FRAMES, SIZE, STYLES

from vht_jax import cameras
from vht_jax.head.load import load_head
from vht_jax.masks import silhouette
from vht_jax.results.export.scene import make_scene
from vht_jax.results.offsets import with_moving_surface, with_offsets
from vht_jax.results.offsets.folds import normals_of
from vht_jax.types import FlameModel, Identity, Status, TrackResult

SIDEWAYS, LIFT = 0.012, 0.006  # m, of the tips
PERIODS = 16, 11  # frames
WOBBLE, ALIKE = 1.0, 6  # px, of a mask's outline: its size, and along it


class Masks:
  size, has_alpha = SIZE, True

  def __init__(self, masks: np.ndarray):
    self._masks = masks

  def masks(self, indices):
    return self._masks[np.asarray(indices)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--people", type=int, default=6)
  args = parser.parse_args()
  model = load_head(model="open")
  print("person     IoU: static -> dynamic   left out: static -> dynamic   swing mm: true, left   turned  CPU s/frame")
  for k in range(args.people):
    result, swing, masks = person(model, k)
    rng = np.random.default_rng(k)
    seen = np.stack([wobbly(mask, rng) for mask in masks])
    static = with_offsets(model, Masks(seen), result)
    start = time.process_time()
    found = with_moving_surface(model, Masks(seen), static)
    seconds = (time.process_time() - start) / N_FRAMES
    odd = jnp.where(jnp.arange(N_FRAMES) % 2 == 1, int(Status.TRACKED), int(Status.INTERPOLATED))
    guessed = with_moving_surface(model, Masks(seen), static.replace(status=odd))
    even = range(0, N_FRAMES, 2)
    likeness = [[overlap(model, r, t, masks[t]) for t in times] for r, times in (
      (static, range(N_FRAMES)), (found, range(N_FRAMES)), (static, even), (guessed, even))]  # fmt: skip
    ahead = np.linalg.norm(swing, axis=-1).max(0) > 0.5 * np.linalg.norm(swing, axis=-1).max()
    beside = swing - swing.mean(0) - (offsets(found) - offsets(found).mean(0))
    left = [1000 * np.linalg.norm(a[:, ahead], axis=-1).mean() for a in (swing - swing.mean(0), beside)]
    numbers = [np.mean(values) for values in likeness]
    print(
      f"{k} {STYLES[k % len(STYLES)]:8s}   {numbers[0]:.4f} -> {numbers[1]:.4f}         {numbers[2]:.4f} -> "
      f"{numbers[3]:.4f}              {left[0]:.1f}, {left[1]:.1f}          {turned(model, found)}      {seconds:.2f}",
      flush=True,
    )


def offsets(result: TrackResult) -> np.ndarray:
  return np.asarray(result.poses.offset, np.float64)


def person(model: FlameModel, k: int) -> tuple[TrackResult, np.ndarray, np.ndarray]:
  """The clip in codes, how its hair swings (T, V, 3) m, and the true masks (T, H, W)."""
  rng = np.random.default_rng(9000 + k)
  shape = jnp.asarray(0.7 * rng.standard_normal(model.shapedirs.shape[-1]), jnp.float32)
  focal = float(rng.uniform(1.4, 2.4))
  identity = Identity(
    shape=shape, texture=jnp.zeros(model.texture_basis.shape[-1]), light=jnp.zeros((9, 3)),
    camera=cameras.make_camera(focal), lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  neutral = np.asarray(model.v_template + model.shapedirs @ shape, np.float64)
  hair = whole_head.hair(model, neutral, STYLES[k % len(STYLES)], rng)
  thick = np.linalg.norm(hair, axis=1)
  low = np.clip((neutral[:, 1].max() - 0.03 - neutral[:, 1]) / 0.12, 0, 1)
  t = 2 * np.pi * np.arange(N_FRAMES)[:, None, None]
  aside = SIDEWAYS * np.sin(t / PERIODS[0] + k) * np.array([1.0, 0.0, 0.0])
  lifted = LIFT * np.sin(t / PERIODS[1] + 1 + k) * hair[None] / np.maximum(thick, 1e-9)[None, :, None]
  swing = (aside + lifted) * (low * thick / thick.max())[None, :, None]
  status = jnp.full(N_FRAMES, int(Status.TRACKED))
  result = TrackResult(identity=identity, poses=whole_head.moving(model, focal, rng), energies={}, status=status)
  true = result.replace(poses=result.poses.replace(offset=jnp.asarray(hair[None] + swing, jnp.float32)))
  return result, swing, np.stack([outline(model, true, i) for i in range(N_FRAMES)])


def outline(model: FlameModel, result: TrackResult, t: int) -> np.ndarray:
  """(H, W) uint8: the silhouette of frame t."""
  scene = make_scene(model, result, SIZE)
  screen = np.concatenate([scene.pixels(t), scene.camera_vertices(t)[:, 2:]], 1)
  return silhouette(screen, np.asarray(model.faces), SIZE)


def overlap(model: FlameModel, result: TrackResult, t: int, mask: np.ndarray) -> float:
  ours, theirs = outline(model, result, t) > 127, mask > 127
  return (ours & theirs).sum() / (ours | theirs).sum()


def turned(model: FlameModel, result: TrackResult) -> int:
  """How many triangles turn over in any frame."""
  faces, person = np.asarray(model.faces), make_scene(model, result, SIZE).neutral
  before = normals_of(person, faces)
  return sum(int((np.sum(before * normals_of(person + o, faces), 1) < 0).sum()) for o in offsets(result))


def wobbly(mask: np.ndarray, rng) -> np.ndarray:
  """A mask whose outline is not quite where it should be."""
  inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 5) for m in (mask > 127, mask <= 127))
  noise = cv2.GaussianBlur(rng.standard_normal(mask.shape).astype(np.float32), (0, 0), ALIKE)
  return np.clip(128 + 128 * (inside - outside + WOBBLE * noise / noise.std()), 0, 255).astype(np.uint8)


if __name__ == "__main__":
  main()
