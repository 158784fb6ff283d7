"""Learns the defaults of the tracker's weights: hyper-gradients through camera, person and poses of whole clips.

Noise levels and priors are what makes a fit of landmarks believe one thing and not the other. Here ten of them descend
the errors of tracked clips whose truth is known: people and detector of `benchmarks/synthetic.py`, whose points have a
constant bias, slide with the view and err together. What is lowered is the mean of the logarithms of four errors
(vertices, rotation, jaw, gaze), so that none counts by its unit. Ten numbers go in, so the derivative is taken in
forward mode, through the implicit function theorem. Judged on people who were not trained on; in a long run, every
weight that moved is also put back alone, so that it is seen what each is worth. Writes
out/examples/learn_defaults.png.

  python examples/learn_defaults.py [--people 8] [--steps 20]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
import synthetic

import vht_jax as vht
from vht_jax.head import flame
from vht_jax.types import Array, FlameModel, Identity, Observations, Pose

LEARNED = (
  "sd_landmark", "sd_dense", "sd_offset", "sd_closure", "w_identity", "sd_expr", "sd_neck", "sd_jaw", "sd_gaze",
  "sd_size",
)  # fmt: skip
FIGURES = ("vertices mm", "rotation deg", "jaw deg", "gaze deg", "focal %")
LOWERED = 4  # of these, the first ones; the focal length of a few clips is chance
SIZE = (512, 512)  # H, W px
APART = 5  # frames of the animation between those that are tracked
SHORT = 1e-6  # added to squares under roots


class Clip(NamedTuple):
  observations: Observations
  identity: Identity
  poses: Pose


def make_clip(model: FlameModel, seed: int, n_frames: int, dense: bool) -> Clip:
  """A drawn person, as a detector that slides sees them; `model` is the whole head."""
  rng = np.random.default_rng(seed)
  camera, poses = synthetic.animate(model, rng, APART * n_frames)
  poses = jax.tree.map(lambda a: a[::APART], poses)
  identity = synthetic.plain_identity(model, rng, camera)
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # JAX's own, as of a script
    points, mesh = synthetic.detections(model, identity, poses, SIZE, synthetic.Realism(), rng)
  return Clip(vht.observations(points, dense=mesh if dense else None), identity, poses)


def errors(model: FlameModel, identity: Identity, poses: Pose, clip: Clip) -> Array:
  """(5,) `FIGURES`."""
  length = lambda d: jnp.sqrt(jnp.sum(d**2, -1) + SHORT**2)
  shapes = identity.shape, clip.identity.shape

  def one(found, true):
    u, v = (flame.skin(model, shape, pose) for shape, pose in zip(shapes, (found, true)))
    u = u * (jnp.mean(v[:, 2]) / jnp.mean(u[:, 2]))  # one camera sees neither size nor distance
    a, b = (flame.pose_matrices(pose) for pose in (found, true))  # (5, 3, 3): root, neck, jaw, eyes
    heads = a[0] @ a[1], b[0] @ b[1]
    angle = lambda p, q: jnp.sqrt(jnp.sum((p - q) ** 2, (-2, -1)) + SHORT**2) / jnp.sqrt(2.0)  # of small ones
    turned = angle(*heads), angle(a[2], b[2]), jnp.mean(length(a[3:, :, 2] - b[3:, :, 2]))
    return jnp.stack([1e3 * jnp.mean(length(u - v)), *(jnp.rad2deg(t) for t in turned)])

  focal = jnp.log(identity.camera.focal / clip.identity.camera.focal)
  return jnp.append(jnp.mean(jax.vmap(one)(poses, clip.poses), 0), 100 * jnp.sqrt(focal**2 + SHORT))


def weights_of(log_weights: dict[str, Any]) -> vht.Weights:
  return vht.Weights().replace(**{name: jnp.exp(w) for name, w in log_weights.items()})


def compiled(model: FlameModel, config: vht.TrackConfig, jit: Callable) -> Callable:
  """(log weights, clip) -> figures (5,) and their derivatives, {name: (5,)}: one program for all people."""

  def figures(log_weights, clip):
    how = vht.Implicit(unconverged="zero")
    result = vht.track_fn(model, clip.observations, config, weights_of(log_weights), size=SIZE, adjoint=how)
    return errors(model, result.identity, result.poses, clip)

  return jit(common.value_and_slopes(figures))


def descend(step: Callable, clips: Sequence[Clip], start: dict[str, float], steps: int, rate: float):
  """Adam on the mean logarithm of the errors: [(loss, log weights)] before every step and after the last."""
  names, w = list(start), np.array(list(start.values()))
  mean, square, way = np.zeros_like(w), np.zeros_like(w), []
  for k in range(1, steps + 2):
    log_weights = {name: np.float32(v) for name, v in zip(names, w)}
    found = [jax.tree.map(np.asarray, step(log_weights, clip)) for clip in clips]
    figures = np.mean([value for value, _ in found], axis=0)[:LOWERED]
    slopes = np.mean([[slope[name] for name in names] for _, slope in found], axis=0)[:, :LOWERED]
    way.append((float(np.log(figures).mean()), log_weights))
    print(f"step {k - 1}: {np.exp(way[-1][0]):.4f}", *(f"{n} {np.exp(v):.4g}" for n, v in zip(names, w)), flush=True)
    g = (slopes / figures).mean(1)
    mean, square = 0.8 * mean + 0.2 * g, 0.95 * square + 0.05 * g**2
    w = w - rate * (mean / (1 - 0.8**k)) / (np.sqrt(square / (1 - 0.95**k)) + 1e-8)
  return way


def run(
  model: FlameModel, *, people: int = 8, unseen: int = 16, n_frames: int = 24, steps: int = 20, rate: float = 0.15,
  learned: Sequence[str] = LEARNED, dense: bool = True, jit: Callable = jax.jit,
) -> dict[str, Any]:  # fmt: skip
  """Descends, and judges: `model` is the whole head; `dense`: its mesh is seen too."""
  config = vht.TrackConfig.of(photometric=False, dense_landmarks=dense)
  step = compiled(vht.landmarks_only(model, dense=dense), config, jit)
  clips = lambda first, count: [make_clip(model, first + k, n_frames, dense) for k in range(count)]
  start = {name: float(np.log(getattr(vht.Weights(), name))) for name in learned}
  way = descend(step, clips(100, people), start, steps, rate)
  best = min(way, key=lambda at: at[0])[1]
  others = clips(1000, unseen)
  judge = lambda w: np.array([step({n: np.float32(v) for n, v in w.items()}, clip)[0] for clip in others])
  return {
    "history": [float(np.exp(loss)) for loss, _ in way],
    "weights": {name: float(np.exp(w)) for name, w in best.items()},
    "before": judge(start),  # (people, 5)
    "after": judge(best),
    "judge": judge,
    "best": best,
    "start": start,
  }


def main(output: Path = Path("out/examples/learn_defaults.png")) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--people", type=int, default=8)
  parser.add_argument("--unseen", type=int, default=16)
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--each", action="store_true", help="also what every weight is worth: put back alone")
  args = parser.parse_args()
  out = run(vht.load_head(model="open"), people=args.people, unseen=args.unseen, steps=args.steps)
  print("of", args.unseen, "people who were not trained on:", ", ".join(FIGURES))
  show = lambda name, found: print(f"{name:12s}", " ".join(f"{v:8.3f}" for v in found.mean(0)), flush=True)
  show("defaults", out["before"])
  show("learned", out["after"])
  print("better in", (out["after"] < out["before"]).sum(0), "of", args.unseen)
  for name, value in out["weights"].items():
    print(f"  {name:12s} {getattr(vht.Weights(), name):8.4f} -> {value:8.4f}")
  for name in out["weights"] if args.each else ():
    show(f"-{name}", out["judge"](out["best"] | {name: out["start"][name]}))
  n = len(out["history"])
  curves = {"people trained on": (range(n), out["history"])}
  common.save_plot(output, "Defaults learned through the tracker", "step", "geometric mean of the errors", curves)
  print("plot:", output)


if __name__ == "__main__":
  main()
