"""What may be asked of the pure functions: methods, adjoints and weights that have derivatives."""

from __future__ import annotations

import jax.numpy as jnp

from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled, no_derivative
from vht_jax.types import Array, Observations

LEARNING_RATES = ("lr", "pos_lr", "light_lr", "cam_lr")
ENERGY_WEIGHTS = (
  "w_lmk", "w_eyes_lmk", "w_eyes_sym", "w_photo", "w_shape_reg", "w_expr_reg", "w_tex_reg",
  "w_pos_neck", "w_pos_jaw", "w_pos_eyes", "w_pos_trans",
)  # fmt: skip


def check_adjoint(config: TrackConfig, adjoint: Implicit | Unrolled | None) -> Implicit | Unrolled:
  """The adjoint for a method; raises `InputError` where there is none or another one is needed."""
  if config.photometric and config.solver != "adam":
    raise InputError(
      "track_fn: photometric Gauss-Newton cannot be differentiated; use photometric=False (landmarks) or"
      " solver='adam', or vht_jax.tracking.pipeline.track, which has no derivatives"
    )
  if not config.photometric:
    return Implicit() if adjoint is None else adjoint
  if config.adam.init != "landmarks":
    raise InputError("track_fn: init='calibration' runs on the host; use init='landmarks' or give `init`")
  if config.data.cutframes:
    raise InputError("track_fn: cutframes are not supported; call it once per shot")
  if isinstance(adjoint, Implicit):
    raise InputError(
      "track_fn: the implicit adjoint needs a converged least-squares solution, which solver='adam' does not give;"
      " use Unrolled()"
    )
  return Unrolled() if adjoint is None else adjoint


def used_weights(weights: Weights, config: TrackConfig) -> Weights:
  """The weights, of which those that the method does not read refuse to be differentiated.

  Such a derivative would be zero and look like an answer. Differentiate with respect to the weights that you mean:
  `jax.grad(lambda sd: loss(weights.replace(sd_landmark=sd)))`.
  """
  if config.photometric:
    return weights
  fields = {}
  for name in (*LEARNING_RATES, *ENERGY_WEIGHTS):
    kind = "Levenberg-Marquardt has no learning rate" if name in LEARNING_RATES else "it belongs to solver='adam'"
    message = f"track_fn: no derivative with respect to weights.{name}: {kind}"
    fields[name] = no_derivative(getattr(weights, name), f"{message}, and a fit of landmarks does not read it")
  return weights.replace(**fields)


def frames_with_face(observations: Observations) -> Array:
  """(T,) bool: frames that are valid and show at least one of the 68 landmarks."""
  return observations.valid & jnp.any(observations.confidence[..., :68] > 0, axis=-1)


def image_size(observations: Observations, size: tuple[int, int] | None) -> tuple[int, int]:
  if size is not None:
    return size
  if observations.rgb is None:
    raise InputError("track_fn: observations without images do not say how large the image is: give size=(H, W)")
  height, width = observations.rgb.shape[-3:-1]
  return height, width
