"""Learns the tracker's weights: descends the vertex error of tracked frames with respect to priors and noise levels.

Five numbers go in and one comes out, so the derivative is taken in forward mode (`jax.jacfwd`), through the implicit
function theorem. The detector here is three times as noisy as the default weights expect. Judged on frames that were
not used. Writes out/examples/learn_weights.png.

  python examples/learn_weights.py
"""

from __future__ import annotations

from pathlib import Path

import common
import jax
import jax.numpy as jnp
import optax

from vht_jax.config import Weights
from vht_jax.fit.solvers.adjoint import Implicit
from vht_jax.tracking.pure import fit_frames

LEARNED = ("sd_landmark", "sd_expr", "sd_neck", "sd_jaw", "sd_gaze")
NOISE = 0.02  # of the eye distance


def run(steps: int = 30, n_frames: int = 128, rate: float = 0.1, jit=jax.jit) -> dict:
  model = common.small_head()
  identity = common.make_identity(model)
  train, test = (common.make_frames(model, identity, n_frames, seed, noise=NOISE) for seed in (1, 2))

  def error(log_weights, frames, model, identity):
    weights = Weights().replace(**{name: jnp.exp(w) for name, w in log_weights.items()})
    poses, _ = fit_frames(
      model,
      frames.observations,
      identity,
      common.CONFIG,
      weights,
      size=common.SIZE,
      adjoint=Implicit(unconverged="zero"),
    )
    return common.vertex_error(model, identity, poses, frames.poses)

  optimiser = optax.adam(rate)
  log_weights = {name: jnp.log(jnp.float32(getattr(Weights(), name))) for name in LEARNED}
  state = optimiser.init(log_weights)
  # The state never enters the compiled program: one compilation serves every setting of the weights.
  step, judge = jit(common.train_step(error, optimiser, common.value_and_slopes)), jit(error)
  before, history = float(judge(log_weights, test, model, identity)), []
  for _ in range(steps):
    log_weights, state, value = step(log_weights, state, train, model, identity)
    history.append(float(value))
  after = float(judge(log_weights, test, model, identity))
  return {
    "before": before,
    "after": after,
    "history": history,
    "weights": {name: float(jnp.exp(w)) for name, w in log_weights.items()},
  }


def main(output: Path = Path("out/examples/learn_weights.png")) -> None:
  out = run()
  print(f"vertex error on unseen frames: {out['before']:.3f} mm with the defaults, {out['after']:.3f} mm learned")
  for name, value in out["weights"].items():
    print(f"  {name:12s} {getattr(Weights(), name):8.4f} -> {value:8.4f}")
  n = len(out["history"])
  curves = {
    "training frames": (range(n), out["history"]),
    "defaults, unseen frames": ((0, n - 1), (out["before"],) * 2),
    "learned, unseen frames": ((0, n - 1), (out["after"],) * 2),
  }
  common.save_plot(output, "Weights learned through the tracker", "step", "vertex error, mm", curves)
  print("plot:", output)


if __name__ == "__main__":
  main()
