"""Gradients through the tracker in single precision against double: how many digits a real clip leaves.

The fit of landmarks of a dataset's first frames (`vht-track` writes one beside its results), default settings with 20
identity and 20 expression components; what is differentiated is a random sum of shape, expression, poses and gaze. Of
random directions of all landmarks the slopes are compared, in parts of their rms.

  python benchmarks/precision.py DATASET [--frames 48]
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vht_jax as vht
from vht_jax.dataset.folder import FrameFolder

SPREADS = {"shape": 1.0, "expr": 0.2, "rotation": 0.02, "translation": 0.01, "jaw": 0.05, "eyes": 0.05}
DIRECTIONS = 64


def slopes(dtype: Any, folder: str, n_frames: int) -> np.ndarray:
  """(n_frames, 70, 2) by the landmarks, and how far from its minimum the fit ended is printed."""
  cast = lambda a: jnp.asarray(a, dtype if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype)
  head = jax.tree.map(cast, vht.landmarks_only(vht.load_head(model="open", n_shape=20, n_expr=20)))
  seen = jax.tree.map(cast, vht.observations_from(folder, range(n_frames)))
  size = FrameFolder(folder).size
  config = vht.TrackConfig(photometric=False)

  def loss(landmarks):
    result = vht.track_fn(head, seen.replace(landmarks=landmarks), config, vht.Weights(), size=size)
    rng = np.random.default_rng(0)
    found = [getattr(result.identity if name == "shape" else result.poses, name) for name in SPREADS]
    weigh = lambda a, spread: jnp.sum(a * jnp.asarray(rng.standard_normal(a.shape) / spread, dtype))
    return sum(map(weigh, found, SPREADS.values())), result

  program = vht.compiled(jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(seen.landmarks))
  (_, result), found = program(seen.landmarks)
  farthest = float(jnp.max(result.stationary.frames))
  print(f"{dtype.__name__}: {farthest:.0e} sd from the minimum, {int(result.left_out)} frames left out", flush=True)
  return np.asarray(found, np.float64)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("dataset", help="folder of frames with landmarks")
  parser.add_argument("--frames", type=int, default=48)
  args = parser.parse_args()
  single = slopes(np.float32, args.dataset, args.frames)
  jax.config.update("jax_enable_x64", True)
  double = slopes(np.float64, args.dataset, args.frames)
  directions = np.random.default_rng(1).standard_normal((DIRECTIONS, double.size))
  of = directions @ double.ravel()
  off = np.abs(directions @ (single - double).ravel()) / np.sqrt(np.mean(of**2))
  print(f"single against double precision: {np.sqrt(np.mean(off**2)):.1e} of the rms slope, at most {off.max():.1e}")


if __name__ == "__main__":
  main()
