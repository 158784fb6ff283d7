"""A small network that corrects a detector's landmarks, trained end to end through the tracker.

The detector is wrong in every frame in the same way (2 % of the eye distance per landmark, turning with the head) and
noisy on top. The network never sees corrected landmarks: its loss is the error of the tracked vertices, and the
gradient comes back through Levenberg-Marquardt by the implicit function theorem. Compared with the tracker without
the network on poses that neither has seen. Writes out/examples/correct_landmarks.png.

  python examples/correct_landmarks.py
"""

from __future__ import annotations

from pathlib import Path

import common
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vht_jax.config import Weights
from vht_jax.fit.solvers.adjoint import Implicit
from vht_jax.tracking.pure import fit_frames

NOISE, BIAS = 0.006, 0.02  # of the eye distance
BATCH = 32


class Corrector(nn.Module):
  """(N, 70, 2) px landmarks -> corrected ones; starts as the identity."""

  width: int = 64

  @nn.compact
  def __call__(self, landmarks):
    x = nn.gelu(nn.Dense(self.width)(common.normalised(landmarks)))
    x = nn.gelu(nn.Dense(self.width)(x))
    move = nn.Dense(140, kernel_init=nn.initializers.zeros)(x).reshape(landmarks.shape)
    spread = jnp.std(landmarks, axis=(1, 2), keepdims=True)
    return landmarks + 0.1 * spread * move


def run(steps: int = 150, n_train: int = 512, n_test: int = 64, jit=jax.jit) -> dict:
  model = common.small_head()
  identity = common.make_identity(model)
  train = common.make_frames(model, identity, n_train, 1, noise=NOISE, bias=BIAS)
  test = common.make_frames(model, identity, n_test, 2, noise=NOISE, bias=BIAS)
  network, weights = Corrector(), Weights()
  params = network.init(jax.random.key(0), test.observations.landmarks)

  def error(params, frames, model, identity):
    observations = frames.observations
    if params is not None:
      observations = observations.replace(landmarks=network.apply(params, observations.landmarks))
    poses, _ = fit_frames(
      model, observations, identity, common.CONFIG, weights, size=common.SIZE, adjoint=Implicit(unconverged="zero")
    )
    return common.vertex_error(model, identity, poses, frames.poses)

  optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
  state = optimiser.init(params)
  update, judge = jit(common.train_step(error, optimiser)), jit(error)
  uncorrected = float(judge(None, test, model, identity))
  history, checks = [], []
  for step in range(steps):
    pick = jnp.arange(step * BATCH, (step + 1) * BATCH) % n_train
    params, state, value = update(params, state, jax.tree.map(lambda a: a[pick], train), model, identity)
    history.append(float(value))
    if step % max(steps // 10, 1) == 0 or step == steps - 1:
      checks.append((step, float(judge(params, test, model, identity))))
  return {"uncorrected": uncorrected, "corrected": checks[-1][1], "history": history, "checks": checks}


def main(output: Path = Path("out/examples/correct_landmarks.png")) -> None:
  out = run()
  gain = 100 * (1 - out["corrected"] / out["uncorrected"])
  print(f"vertex error on unseen poses: {out['uncorrected']:.3f} mm without the network,")
  print(f"  {out['corrected']:.3f} mm with it ({gain:.0f} % less)")
  n = len(out["history"])
  curves = {
    "training batches": (range(n), out["history"]),
    "unseen, corrected": tuple(zip(*out["checks"])),
    "unseen, uncorrected": ((0, n - 1), (out["uncorrected"],) * 2),
  }
  common.save_plot(output, "A landmark network trained through the tracker", "step", "vertex error, mm", curves)
  print("plot:", output)


if __name__ == "__main__":
  main()
