"""A network that says where the tracker should begin, trained with the tracker as its loss.

It looks at a frame's landmarks and moves the start that the tracker would take (an affine camera and a neutral face)
to one that the solver finishes from in half the iterations. No true pose is used: the loss is the tracker's own cost
after one Levenberg-Marquardt step from the network's start, differentiated through that step (`Unrolled`).
Writes out/examples/amortised_start.png.

  python examples/amortised_start.py
"""

from __future__ import annotations

from pathlib import Path

import common
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vht_jax import bundle
from vht_jax.adjoint import Unrolled
from vht_jax.config import Weights

NOISE = 0.006  # of the eye distance
BATCH = 64
EXCESS = 0.01  # a fit is done when its cost is this close to the converged one
MAX_STEPS = 8


class Starter(nn.Module):
  """(N, 70, 2) px landmarks -> (N, E + 14) change of the start; starts at 0."""

  n_unknowns: int
  width: int = 128

  @nn.compact
  def __call__(self, landmarks):
    x = common.normalised(landmarks)
    for _ in range(2):
      x = nn.gelu(nn.Dense(self.width)(x))
    return 0.3 * nn.Dense(self.n_unknowns, kernel_init=nn.initializers.zeros)(x)


def run(steps: int = 400, n_train: int = 2048, n_test: int = 128, jit=jax.jit) -> dict:
  model = common.small_head()
  identity, weights = common.make_identity(model), Weights()
  person, shared, track = common.landmark_fit(model, identity, weights)
  train, test = (common.make_frames(model, identity, n, seed, noise=NOISE) for n, seed in ((n_train, 1), (n_test, 2)))
  network = Starter(person.points.exprdirs.shape[-1] + 14)
  params = network.init(jax.random.key(0), test.observations.landmarks)

  def start(params, observations, tracks):
    x0 = jax.vmap(lambda t: bundle.initial_unknowns(person, t))(tracks)
    return x0 if params is None else x0 + network.apply(params, observations.landmarks)

  def loss(params, observations):
    tracks = track(observations)
    x0 = start(params, observations, tracks)
    cost = jax.vmap(lambda x, t: bundle.frame_normal(person, x, shared, t, weights).cost)(x0, tracks)
    one_step = lambda t, x: bundle.fit_frame(person, t, shared, weights, x, adjoint=Unrolled(max_steps=1))
    after = jax.vmap(one_step)(tracks, x0).normal.cost
    return jnp.mean(jnp.log(after)) + 0.3 * jnp.mean(jnp.log(cost))

  def costs(params, observations):
    """(MAX_STEPS + 1, N) cost after every iteration."""
    tracks = track(observations)
    x0 = start(params, observations, tracks)
    first = jax.vmap(lambda x, t: bundle.frame_normal(person, x, shared, t, weights).cost)(x0, tracks)

    def after(k):  # without an adjoint the number of iterations need not be static
      run = lambda t, x: bundle.fit_frame(person, t, shared, weights, x, max_steps=k).normal.cost
      return jax.vmap(run)(tracks, x0)

    return jnp.concatenate([first[None], jax.lax.map(after, jnp.arange(1, MAX_STEPS + 1, dtype=jnp.int32))])

  optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
  state = optimiser.init(params)
  update, follow = jit(common.train_step(loss, optimiser)), jit(costs)
  history = []
  for step in range(steps):
    pick = jnp.arange(step * BATCH, (step + 1) * BATCH) % n_train
    params, state, value = update(params, state, jax.tree.map(lambda a: a[pick], train.observations))
    history.append(float(value))
  plain, learned = (np.asarray(follow(p, test.observations)) for p in (None, params))
  best = np.minimum(plain, learned).min(axis=0)
  needed = lambda c: np.argmax(np.concatenate([c <= (1 + EXCESS) * best, np.ones((1, c.shape[1]), bool)]), axis=0)
  return {
    "affine": float(needed(plain).mean()),
    "learned": float(needed(learned).mean()),
    "excess": tuple(np.median(c / best - 1, axis=1) for c in (plain, learned)),
    "history": history,
  }


def main(output: Path = Path("out/examples/amortised_start.png")) -> None:
  out = run()
  print(f"iterations until the cost is within {100 * EXCESS:.0f} % of the converged one, mean over unseen frames:")
  print(f"  affine camera, neutral face {out['affine']:.2f}; learned start {out['learned']:.2f}")
  affine, learned = ((range(MAX_STEPS + 1), np.log10(1 + 1e3 * e)) for e in out["excess"])
  curves = {"affine start": affine, "learned start": learned}
  label = "log10(1 + 1000 x excess cost), median"
  common.save_plot(output, "Where the solver begins", "Levenberg-Marquardt iterations", label, curves)
  print("plot:", output)


if __name__ == "__main__":
  main()
