"""A network that says where the tracker should begin, trained with the tracker as its loss.

It looks at where the start that the tracker would take (an affine camera and a neutral face) puts the landmarks
beside where they are, and moves that start to one that the solver finishes from in fewer steps. No true
pose is used: the loss is how much the tracker's own cost at the network's start exceeds the cost that its solver ends
at. (The cost after one more solver step, through `Unrolled`, is a loss too, but it is dearer and a rejected step
teaches nothing: a network trained on by 100 steps of that needed twice the iterations again.)
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

from vht_jax.config import Weights
from vht_jax.fit import frame
from vht_jax.fit.terms import landmarks

NOISE = 0.006  # of the eye distance
YAW = 0.7  # rad, standard deviation
BATCH = 128
EXCESS = 0.01  # a fit is done when its cost is this close to the converged one
MAX_STEPS = 8
KINK = 0.25  # spreads of an expression unit: those below start where the prior is stiff


class Starter(nn.Module):
  """(N, 140) residuals and (N, E + 14) start, both of unit spread -> (N, E + 14) change of the start; begins at 0.

  A Gauss-Newton step is a matrix that depends on the pose, times the residuals. So is this, with learned matrices.
  """

  n_unknowns: int
  width: int = 256
  matrices: int = 24

  @nn.compact
  def __call__(self, residuals, start):
    x = jnp.concatenate([residuals, start], -1)
    for _ in range(2):
      x = nn.gelu(nn.Dense(self.width)(x))
    zeros = nn.initializers.zeros
    steps = nn.Dense(self.matrices * self.n_unknowns, kernel_init=zeros)(residuals)
    mixed = jnp.einsum("nk,nku->nu", nn.Dense(self.matrices)(x), steps.reshape(-1, self.matrices, self.n_unknowns))
    return mixed + nn.Dense(self.n_unknowns, kernel_init=zeros)(x)


def run(steps: int = 1500, n_train: int = 8192, n_test: int = 256, jit=jax.jit) -> dict:
  model = common.small_head()
  identity, weights = common.make_identity(model), Weights()
  person, shared, track = common.landmark_fit(model, identity, weights)
  n_expr = person.points.exprdirs.shape[-1]
  normal = lambda t, x: frame.frame_normal(person, x, shared, t, weights)
  fit = lambda t, x, **how: frame.fit_frame(person, t, shared, weights, x, **how).normal.cost

  def prepare(observations):
    """What does not change while training: tracks, the affine start, its residuals, converged cost, mean matrix."""
    tracks = track(observations)

    def one(t):
      x = frame.initial_unknowns(person, t)
      off = (landmarks.predict(person, x, shared) - t.uv) * t.inverse_sd[:, None]
      return x, off.reshape(-1), fit(t, x, max_steps=MAX_STEPS), normal(t, x).matrix

    x, off, best, matrix = jax.vmap(one)(tracks)
    return (tracks, x, off, best), jnp.mean(matrix, axis=0)

  frames = lambda n, seed: common.make_frames(model, identity, n, seed, noise=NOISE, yaw=YAW).observations
  prepared = jit(prepare)
  train, matrix = prepared(frames(n_train, 1))
  test, _ = prepared(frames(n_test, 2))
  # The network's output is in standard deviations of the fit: all of its numbers matter alike.
  spread = 3 * jnp.linalg.inv(jnp.linalg.cholesky(matrix))
  scale = [(jnp.mean(a, 0, keepdims=True), jnp.std(a, 0, keepdims=True) + 1e-3) for a in train[1:3]]
  unit = lambda x, off: ((off - scale[1][0]) / scale[1][1], (x - scale[0][0]) / scale[0][1])
  network = Starter(n_expr + 14)
  params = network.init(jax.random.key(0), *unit(*test[1:3]))

  def guess(params, x, off):
    return x + jnp.matmul(network.apply(params, *unit(x, off)), spread)

  def start(params, x, off):
    if params is None:
      return x
    x = guess(params, x, off)
    # Below 0 an expression costs 25 times as much. A solver that starts close to that kink on the wrong side
    # overshoots, has its step rejected and loses iterations. Moving units that are surely used there loses some too.
    small = x[:, :n_expr] < KINK * weights.sd_expr
    return x.at[:, :n_expr].set(jnp.where(small, -1e-3, x[:, :n_expr]))

  def loss(params, tracks, x, off, best):
    cost = jax.vmap(lambda t, x: normal(t, x).cost)(tracks, guess(params, x, off))
    return jnp.mean(jnp.log(jnp.maximum(cost / best - 1, 0.0) + 3 * EXCESS))

  def costs(params, tracks, x, off, best):
    """(MAX_STEPS + 1, N) cost after every iteration."""
    x0 = start(params, x, off)
    first = jax.vmap(lambda t, x: normal(t, x).cost)(tracks, x0)

    def after(k):  # without an adjoint the number of iterations need not be static
      return jax.vmap(lambda t, x: fit(t, x, max_steps=k))(tracks, x0)

    return jnp.concatenate([first[None], jax.lax.map(after, jnp.arange(1, MAX_STEPS + 1, dtype=jnp.int32))])

  optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
  state = optimiser.init(params)
  update, follow = jit(common.train_step(loss, optimiser)), jit(costs)
  history = []
  for step in range(steps):
    pick = (step * BATCH + jnp.arange(BATCH)) % n_train
    params, state, value = update(params, state, *jax.tree.map(lambda a: a[pick], train))
    history.append(float(value))
  plain, learned = (np.asarray(follow(p, *test)) for p in (None, params))
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
  affine, learned = ((range(MAX_STEPS + 1), np.log10(1 + 1e3 * np.maximum(e, 0.0))) for e in out["excess"])
  curves = {"affine start": affine, "learned start": learned}
  label = "log10(1 + 1000 x excess cost), median"
  common.save_plot(output, "Where the solver begins", "Levenberg-Marquardt iterations", label, curves)
  print("plot:", output)


if __name__ == "__main__":
  main()
