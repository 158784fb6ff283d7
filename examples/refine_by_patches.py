"""A small network that refines landmarks by what the image shows around them, trained through the photometric tracker.

The detector is wrong in the same way in every frame (2 % of the eye distance per landmark) and noisy on top (another
2 %). The network sees a patch of the image round every landmark and moves it; its loss is the error of the vertices
that photometric Gauss-Newton finds with the moved landmarks and the image, and the gradient comes back through its
minimum by the implicit function theorem. Compared with the tracker without the network on pictures that neither has
seen. Writes out/examples/refine_by_patches.png.

  python examples/refine_by_patches.py
"""

from __future__ import annotations

from pathlib import Path

import common
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vht_jax.config import TrackConfig, Weights
from vht_jax.fit.solvers.adjoint import Implicit
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.render.image import sample_bilinear
from vht_jax.render.picture import render_head
from vht_jax.tracking.pure import fit_frames
from vht_jax.types import Array, FlameModel, Identity

NOISE, BIAS = 0.02, 0.02  # of the eye distance
SIZE = (80, 80)  # H, W px
PATCH = 5  # samples per side of a patch
REACH = 0.12  # of the landmarks' spread: half a side of it
CONFIG = TrackConfig.of(crop_size=64, n_samples=200, frame_steps=1, dense_landmarks=False)


class Refiner(nn.Module):
  """Landmarks (N, 70, 2) px in images (N, H, W, 3) -> better ones; starts as the identity."""

  width: int = 32

  @nn.compact
  def __call__(self, landmarks, rgb):
    spread = jnp.std(landmarks, axis=(1, 2), keepdims=True)
    patches = jax.vmap(patches_of)(landmarks, rgb, spread[:, 0, 0])
    name = jnp.broadcast_to(nn.Embed(70, 16)(jnp.arange(70))[None], (*patches.shape[:2], 16))
    x = nn.gelu(nn.Dense(self.width)(jnp.concatenate([patches, name], axis=-1)))
    x = nn.gelu(nn.Dense(self.width)(x))
    return landmarks + 0.1 * spread * nn.Dense(2, kernel_init=nn.initializers.zeros)(x)


def patches_of(landmarks: Array, rgb: Array, spread: Array) -> Array:
  """(70, PATCH^2 * 3) colours round the landmarks of one frame."""
  steps = REACH * spread * jnp.linspace(-1.0, 1.0, PATCH)
  grid = jnp.stack(jnp.meshgrid(steps, steps), axis=-1).reshape(1, -1, 2)
  return sample_bilinear(rgb, landmarks[:, None] + grid, forward_mode=True).reshape(70, -1) - 0.5


def make_person() -> tuple[FlameModel, Identity]:
  """The open head with few components, and somebody under a light from the side."""
  model = flame.without_lower_neck(load_head(model="open", n_shape=6, n_expr=12, n_texture=1))
  light = jnp.zeros((9, 3)).at[0].set(0.85 * np.sqrt(4 * np.pi)).at[1].set(0.25).at[2].set(0.2)
  return model, common.make_identity(model).replace(light=light)


def make_frames(model: FlameModel, identity: Identity, n: int, seed: int) -> common.Frames:
  """`common.make_frames` with their pictures."""
  observations, poses = common.make_frames(model, identity, n, seed, noise=NOISE, bias=BIAS, yaw=0.3)
  rgb = jax.jit(lambda poses: jax.lax.map(lambda p: render_head(model, identity, p, SIZE).rgb, poses))(poses)
  points = observations.landmarks * (SIZE[0] / common.SIZE[0])
  return common.Frames(observations.replace(landmarks=points, rgb=jnp.clip(rgb, 0, 1)), poses)


def run(steps: int = 60, batch: int = 6, n_train: int = 192, n_test: int = 12, jit=jax.jit) -> dict:
  model, identity = make_person()
  train, test = make_frames(model, identity, n_train, 1), make_frames(model, identity, n_test, 2)
  network, weights = Refiner(), Weights()
  params = network.init(jax.random.key(0), test.observations.landmarks, test.observations.rgb)

  def error(params, frames, model, identity):
    observations = frames.observations
    observations = observations.replace(landmarks=network.apply(params, observations.landmarks, observations.rgb))
    poses, _ = fit_frames(
      model, observations, identity, CONFIG, weights, size=SIZE, adjoint=Implicit(unconverged="zero")
    )
    return common.vertex_error(model, identity, poses, frames.poses)

  optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
  state = optimiser.init(params)
  update, judge = jit(common.train_step(error, optimiser)), jit(error)
  before = float(judge(params, test, model, identity))  # an untrained network moves nothing
  history = []
  for step in range(steps):
    pick = jnp.arange(step * batch, (step + 1) * batch) % n_train
    params, state, value = update(params, state, jax.tree.map(lambda a: a[pick], train), model, identity)
    history.append(float(value))
  return {"before": before, "after": float(judge(params, test, model, identity)), "history": history}


def main(output: Path = Path("out/examples/refine_by_patches.png")) -> None:
  out = run()
  gain = 100 * (1 - out["after"] / out["before"])
  print(f"vertex error on unseen pictures: {out['before']:.3f} mm without the network,")
  print(f"  {out['after']:.3f} mm with it ({gain:.0f} % less)")
  n = len(out["history"])
  ends = ((0, n - 1),) * 2
  curves = {
    "training batches": (range(n), out["history"]),
    "unseen, refined": (ends[0], (out["after"],) * 2),
    "unseen, as detected": (ends[1], (out["before"],) * 2),
  }
  common.save_plot(output, "A patch network trained through the tracker", "step", "vertex error, mm", curves)
  print("plot:", output)


if __name__ == "__main__":
  main()
