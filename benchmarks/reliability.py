"""How far the confidence can be trusted: of frames with so much of it, how many are right, on clips with a known truth.

Clips of rendered people as they are, with tampered landmarks (`invented.py`), and with bars painted over mouth or eyes
for half of the frames, where the detector's guesses have three times the noise and lean to one side. A frame is right
if its 68 points are within 2 % of the eye distance and its head within 3 degrees of the truth.

  python benchmarks/reliability.py
"""

from __future__ import annotations

import argparse

import invented
import numpy as np
from synthetic import make_clip

from vht_jax import results
from vht_jax.config import TrackConfig, Weights
from vht_jax.head.load import load_head
from vht_jax.tracking.pipeline import track

NME_PERCENT, ROTATION_DEG = 2.0, 3.0
BINS = (0.0, 0.01, 0.3, 0.5, 0.7, 0.8, 0.9, 1.01)


def covered(clip, seed: int, part: slice) -> invented.Tampered:
  """A grey bar over the points of `part` in the second half of a clip, and landmarks that are guessed there."""
  import cv2

  rng = np.random.default_rng(seed)
  frames, points = clip.frames.copy(), clip.points.copy()
  lean = rng.normal(0, 0.03, 2)
  for i in range(len(clip) // 2, len(clip)):
    eye = float(invented.eye_distance(points[i : i + 1])[0])
    hull = points[i, part]
    hull = hull.mean(axis=0) + 1.8 * (hull - hull.mean(axis=0))
    cv2.fillConvexPoly(frames[i], cv2.convexHull(np.round(hull).astype(np.int32)), (110, 115, 120))
    points[i, part] += (lean + rng.normal(0, 0.015, points[i, part].shape)) * eye
  dense = np.where(np.isfinite(clip.dense), clip.dense, np.nan)
  other = type(clip)(clip.size, clip.identity, clip.poses, frames, points, dense)
  return invented.Tampered(other, points, dense, [])


def frames_of(model, clip, truth_clip, config, weights) -> tuple[np.ndarray, np.ndarray]:
  """Confidence (T,) of a clip's frames and whether they are right (T,)."""
  found = results.judged(model, clip, track(model, clip, config, weights))
  points = results.projected_landmarks(model, found, clip.size)[:, :68]
  truth = invented.truth_of(model, truth_clip)
  error = 100 * np.linalg.norm(points - truth, axis=-1).mean(axis=1) / invented.eye_distance(truth)
  turned = np.array([
    results.pose_errors(*(_rows(poses, i) for poses in (found.poses, truth_clip.poses)))["rotation_deg"]
    for i in range(len(truth))
  ])  # fmt: skip
  return np.asarray(found.confidence), (error < NME_PERCENT) & (turned < ROTATION_DEG)


def _rows(poses, i: int):
  import jax

  return jax.tree.map(lambda a: a[i : i + 1], poses)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--people", type=int, default=2)
  parser.add_argument("--frames", type=int, default=72)
  parser.add_argument("--size", type=int, default=320)
  options = parser.parse_args()
  model = load_head(model="open", n_shape=50, n_texture=20)
  config, weights = TrackConfig(photometric=False), Weights()
  clips = [make_clip(model, 200 + k, options.frames, (options.size,) * 2) for k in range(options.people)]
  trust, right = [], []
  for k, clip in enumerate(clips):
    other = clips[(k + 1) % len(clips)]
    variants = [clip, covered(clip, k, slice(48, 68)), covered(clip, k, slice(36, 48))]
    variants += [invented.tamper(clip, (other.points, other.dense), 10 * k + s) for s in range(3)]
    for variant in variants:
      t, r = frames_of(model, variant, clip, config, weights)
      trust.append(t)
      right.append(r)
  trust, right = np.concatenate(trust), np.concatenate(right)
  print("| confidence | frames | right |\n|---|---|---|")
  for low, high in zip(BINS[:-1], BINS[1:]):
    inside = (trust >= low) & (trust < high)
    share = f"{right[inside].mean():.1%}" if inside.any() else ""
    print(f"| {low:.2f} to {min(high, 1):.2f} | {inside.sum()} | {share} |")


if __name__ == "__main__":
  main()
