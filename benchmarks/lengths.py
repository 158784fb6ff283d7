"""Cost per frame and memory against the length of the clip; landmark fits per second at 70 points.

  python benchmarks/lengths.py [--lengths 100 1000 10000] [--image_lengths 100 1000 10000]

A synthetic clip of 60 frames is repeated. Every length is run in a process of its own, for its peak memory, and twice,
so that the second time is without compilation; the identity is given, because its cost does not depend on the length.
Writes build/bench/lengths.json. The last line times 512 frames of 70 landmarks, fitted at once from the closed form.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # both as the app does
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import numpy as np
import synthetic

from vht_jax.config import TrackConfig, Weights
from vht_jax.fit import frame, observed
from vht_jax.fit.clip import initial_shared
from vht_jax.fit.unknowns import Shared
from vht_jax.head.load import load_head
from vht_jax.tracking.pipeline import track
from vht_jax.types import TrackResult

ROOT = Path(__file__).resolve().parent.parent
SIZE = (512, 512)


class Repeated:
  """The first n frames of a clip without an end."""

  def __init__(self, clip: synthetic.SyntheticClip, n: int):
    self.clip, self.n, self.size = clip, n, clip.size

  def __len__(self):
    return self.n

  def landmarks(self):
    index = np.arange(self.n) % len(self.clip)
    return tuple(a[index] for a in self.clip.landmarks())

  def images(self, indices):
    return self.clip.images(np.asarray(indices) % len(self.clip))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--lengths", type=int, nargs="*", default=[100, 1000, 10000])
  parser.add_argument("--image_lengths", type=int, nargs="*", default=[100, 1000, 10000])
  parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
  parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench" / "lengths.json")
  args = parser.parse_args()
  jax.config.update("jax_compilation_cache_dir", str(ROOT / "build" / "bench" / "xla"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  if args.one:
    print(json.dumps(measure(int(args.one[0]), args.one[1] == "images")))
    return
  report = {"landmarks": {}, "images": {}}
  for kind, lengths in (("landmarks", args.lengths), ("images", args.image_lengths)):
    for n in lengths:
      command = [sys.executable, __file__, "--one", str(n), kind]
      found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
      report[kind][n] = found
      print(f"{kind:10s} {n:6d} frames  " + "  ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
  report["landmark_frames_per_second"] = fits_per_second(512)
  print(f"landmark fits per second at 70 points: {report['landmark_frames_per_second']:.0f}")
  args.output.parent.mkdir(parents=True, exist_ok=True)
  args.output.write_text(json.dumps(report, indent=2) + "\n")


def measure(n: int, images: bool) -> dict[str, float]:
  """Milliseconds per frame of the stages that depend on the length, and the peak of the resident memory in MB."""
  model = load_head(model="open")
  clip = synthetic.make_clip(model, 0, 60, SIZE)
  known = lambda m: TrackResult(
    clip.identity, jax.tree.map(lambda a: a[np.arange(m) % 60], clip.poses), {}, jnp.zeros(m, jnp.int32)
  )
  config = TrackConfig(photometric=images)
  track(model, Repeated(clip, 100), config, init=known(100))  # compiles
  timing = track(model, Repeated(clip, n), config, init=known(n)).timing
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {f"{k}_ms": 1e3 * timing[k] / n for k in ("landmarks", "frames", "smooth") if k in timing} | {"peak_mb": peak}


def fits_per_second(n: int) -> float:
  """Of the 70 landmarks alone, every frame from its closed-form start, in one call; the best of five."""
  model = load_head(model="open")
  clip = synthetic.make_clip(model, 0, 60, SIZE)
  points, confidence, _ = Repeated(clip, n).landmarks()
  weights = Weights()
  lm = observed.landmark_model(model, weights, dense_step=0)
  shared = initial_shared(lm, float(clip.identity.camera.focal))
  lm, shared = frame.fold_landmarks(lm, shared.replace(shape=jnp.asarray(clip.identity.shape)))

  @jax.jit
  def fit(lm, shared: Shared, points, confidence):
    tracks = jax.vmap(lambda p, c: observed.observe_landmarks(lm, p, c, SIZE))(points, confidence)
    return jax.vmap(lambda t: frame.fit_frame(lm, t, shared, weights).x)(tracks)

  seconds = []
  for _ in range(6):
    start = time.perf_counter()
    fit(lm, shared, jnp.asarray(points), jnp.asarray(confidence)).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return n / min(seconds[1:])


if __name__ == "__main__":
  main()
