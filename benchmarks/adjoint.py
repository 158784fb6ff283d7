"""Cost of derivatives through the tracker: an implicit gradient against the fit that it belongs to.

Forward fit, and value with gradient by every landmark, or by every pixel, are timed alternately in one process, so that
a load on the machine hits both alike; the ratio of the medians counts. Also the memory that both need, and that an
unrolled gradient needs, by checkpoint setting. Writes build/bench/adjoint.json.

  python benchmarks/adjoint.py [--frames 64] [--images 8] [--repeats 15] [--output build/bench/adjoint.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from synthetic import Realism, animate, detections

from vht_jax.config import TrackConfig, Weights
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.render.picture import render_head
from vht_jax.tracking.pure import landmarks_only, track_fn
from vht_jax.types import Identity, Observations, TrackResult

SIZE = (512, 512)
SMALL = (128, 128)  # of images
CONFIG = TrackConfig.of(photometric=False, dense_landmarks=False)
BY_IMAGES = TrackConfig.of(dense_landmarks=False)


def make_problem(n_frames: int):
  """The open head, a clip of it as a detector would see it, and the truth."""
  model = load_head(model="open")
  rng = np.random.default_rng(0)
  camera, poses = animate(model, rng, n_frames)
  identity = Identity(
    shape=jnp.asarray(rng.standard_normal(model.shapedirs.shape[-1]), jnp.float32),
    texture=jnp.zeros(model.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)),
    camera=camera,
    lmk_offset=jnp.zeros((70, 3)),
  )
  points, _ = detections(model, identity, poses, SIZE, Realism(), rng)
  observations = Observations(
    rgb=None,
    landmarks=jnp.asarray(points),
    confidence=jnp.ones(points.shape[:2]),
    valid=jnp.ones(n_frames, bool),
  )
  truth = TrackResult(identity=identity, poses=poses, energies={}, status=jnp.zeros(n_frames, jnp.int32))
  return landmarks_only(model, dense=False), observations, truth


def make_images(n_frames: int):
  """The open head without its lower neck, small images of a clip of it with its landmarks, and the truth."""
  model = flame.without_lower_neck(load_head(model="open"))
  _, observations, truth = make_problem(n_frames)
  small = SMALL[0] / SIZE[0]
  light = truth.identity.light.at[0].set(3.5).at[1].set(0.3)
  truth = truth.replace(identity=truth.identity.replace(light=light))
  rgb = jax.lax.map(jax.jit(lambda pose: render_head(model, truth.identity, pose, SMALL).rgb), truth.poses)
  return model, observations.replace(landmarks=small * observations.landmarks, rgb=rgb), truth


def scalar(result: TrackResult):
  return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves((result.identity.shape, result.poses)))


def programs(model, observations, known: TrackResult | None, adjoint):
  """(forward, value and gradient by the landmarks), compiled."""
  if known is not None:  # from neutral faces, roughly placed: a start like the app's
    known = known.replace(poses=known.poses.replace(expr=0 * known.poses.expr, jaw=0 * known.poses.jaw))

  def loss(landmarks, model, known):
    observed = observations.replace(landmarks=landmarks)
    return scalar(track_fn(model, observed, CONFIG, Weights(), known, size=SIZE, adjoint=adjoint))

  arguments = observations.landmarks, model, known
  return [jax.jit(f).lower(*arguments).compile() for f in (loss, jax.value_and_grad(loss))], arguments


def image_programs(model, observations, known: TrackResult):
  """`programs` of the poses of a known person, by the images."""

  def loss(rgb, model, known):
    return scalar(track_fn(model, observations.replace(rgb=rgb), BY_IMAGES, Weights(), known))

  arguments = observations.rgb, model, known
  return [jax.jit(f).lower(*arguments).compile() for f in (loss, jax.value_and_grad(loss))], arguments


def measure(compiled, arguments, repeats: int) -> dict[str, Any]:
  seconds = [[], []]
  for _ in range(repeats + 1):
    for kept, program in zip(seconds, compiled):
      start = time.perf_counter()
      jax.block_until_ready(program(*arguments))
      kept.append(time.perf_counter() - start)
  forward, both = (statistics.median(s[1:]) for s in seconds)
  memory = [program.memory_analysis().temp_size_in_bytes for program in compiled]
  return {
    "forward_s": forward,
    "value_and_gradient_s": both,
    "gradient_over_forward": (both - forward) / forward,
    "temporaries_bytes": memory,
    "finite": bool(np.isfinite(compiled[1](*arguments)[1]).all()),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--frames", type=int, default=64)
  parser.add_argument("--images", type=int, default=8, help="frames of the clip of images; 0: none")
  parser.add_argument("--repeats", type=int, default=15)
  parser.add_argument("--output", type=Path, default=Path("build/bench/adjoint.json"))
  args = parser.parse_args()
  model, observations, truth = make_problem(args.frames)
  report = {"frames": args.frames, "jax": jax.__version__, "backend": jax.default_backend()}
  cases = {
    "poses, known identity": lambda: programs(model, observations, truth, Implicit()),
    "bundle adjustment": lambda: programs(model, observations, None, Implicit()),
  }
  if args.images:
    cases["poses by images"] = lambda: image_programs(*make_images(args.images))
  for name, made in cases.items():
    r = report[name] = measure(*made(), args.repeats)
    print(
      f"{name}: forward {1e3 * r['forward_s']:.0f} ms, gradient {r['gradient_over_forward']:.2f} x as much more;",
      end=" ",
    )
    print("temporaries {:.0f} MB and {:.0f} MB".format(*(b / 1e6 for b in r["temporaries_bytes"])), flush=True)
  report["unrolled temporaries, bytes"] = {}
  for checkpoint in (0, 4, 1):
    (_, gradient), _ = programs(model, observations, truth, Unrolled(checkpoint=checkpoint, max_steps=8))
    report["unrolled temporaries, bytes"][checkpoint] = gradient.memory_analysis().temp_size_in_bytes
  print("unrolled LM gradient, temporaries by checkpoint:", report["unrolled temporaries, bytes"])
  args.output.parent.mkdir(parents=True, exist_ok=True)
  args.output.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
  main()
