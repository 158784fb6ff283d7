"""What may be asked of the pure functions: methods, adjoints and weights that have derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vht_jax.config import Adam, GaussNewton, Landmarks, TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled, no_derivative
from vht_jax.fit.terms.term import Entry
from vht_jax.option import options
from vht_jax.types import Array, FlameModel, Observations, TrackResult

ENDLESS = 1e8  # of deviations: as good as infinite, and so are derivatives by what is divided by them finite
OF_POINTS = ("sd_landmark", "sd_dense")  # deviations
NEEDED = "sd_offset"  # of the deviations: nothing else holds what it belongs to
LOOKS = ("uv", "texture_mean", "texture_basis")  # of a head
NO_COLOURS = "a fit of landmarks does not look at images"


def check_adjoint(
  config: TrackConfig, adjoint: Implicit | Unrolled | None, terms: Sequence[Entry] = ()
) -> Implicit | Unrolled:
  """The adjoint for a method; raises `InputError` where there is none, another one is needed or terms are not read."""
  if terms and config.by_adam:
    raise InputError("track_fn: solver='adam' has VHT's energy and no terms beside it")
  if not config.by_adam:
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


def without_influence(config: TrackConfig, *, known_identity: bool, dense: bool) -> dict[str, str]:
  """The weights that a method does not read, by name, and why: from what the settings themselves say (`option.Facts`).

  Args:
    known_identity: it is given and kept.
    dense: dense points are fitted.
  """
  reads: set[type] = {Adam} if config.by_adam else {Landmarks}
  if config.photometric and not config.by_adam:
    reads.add(GaussNewton)
  if config.by_adam and not known_identity:
    reads.add(Landmarks)  # which the start comes from
  whose = {Adam: "solver='adam'", GaussNewton: "Gauss-Newton on images", Landmarks: "the fit of landmarks"}
  found = {}
  for name, weight in options(Weights).items():
    facts = weight.facts
    if facts.ignored:
      found[name] = "nothing reads it"
    elif weight.method not in reads:
      found[name] = f"it belongs to {whose[weight.method]}, and this fit does not read it"
    elif facts.estimates and known_identity:
      found[name] = "it shapes the estimate of the identity, which is given here and kept"
    elif facts.needs == "dense_landmarks" and not dense:
      found[name] = "there are no dense points"
  return found


def as_read(weights: Weights, dtype: Any) -> Weights:
  """The weights in a fit's precision, those that are already numbers checked.

  A deviation may be infinite: what it belongs to is then not known. That of points is left so, which then do not count
  (`fit.observed`). Others become a number beside which all else vanishes, as derivatives would be 0 times infinity; by
  that deviation itself it is 0.

  Raises:
    InputError: a number out of its range.
  """

  endless = [name for name in vars(weights) if name.startswith("sd_")]
  for name, value in vars(weights).items():
    known = not isinstance(value, jax.core.Tracer) and not np.ndim(value)
    if known and not (name in endless and name != NEEDED and float(value) == math.inf):
      try:
        options(Weights)[name].check(float(value))
      except InputError as error:
        raise InputError(f"weights.{error}") from None
  weights = weights.of(dtype)
  least = lambda value: min(value, ENDLESS) if isinstance(value, float | int) else jnp.minimum(value, ENDLESS)
  return weights.replace(**{name: least(getattr(weights, name)) for name in endless if name not in OF_POINTS})


def used_weights(weights: Weights, config: TrackConfig, *, known_identity: bool, dense: bool) -> Weights:
  """The weights, of which those that the method does not read refuse to be differentiated.

  Such a derivative would be zero and look like an answer. Differentiate with respect to the weights that you mean:
  `jax.grad(lambda sd: loss(weights.replace(sd_landmark=sd)))`.
  """
  why = without_influence(config, known_identity=known_identity, dense=dense)
  message = "track_fn: no derivative with respect to weights.{}: {}"
  return weights.replace(**{n: no_derivative(getattr(weights, n), message.format(n, why[n])) for n in why})


def used_observations(observations: Observations, config: TrackConfig, *, dense: bool) -> Observations:
  """The same for what is observed."""
  by_colours = config.photometric and not config.by_adam
  whole = "masks only say which pixels count" if by_colours else "this method does not look at masks"
  why = {"alpha": whole}
  if not config.photometric:
    why["rgb"] = NO_COLOURS
  if not dense:
    why["dense"] = "the dense points are not fitted"
  fields = {name: getattr(observations, name) for name in why}
  message = "track_fn: no derivative with respect to observations.{}: {}"
  return observations.replace(
    **{n: no_derivative(a, message.format(n, why[n])) for n, a in fields.items() if a is not None}
  )


def used_head(model: FlameModel, config: TrackConfig, *, dense: bool) -> FlameModel:
  """The same for the arrays of the head."""
  why: dict[str, str] = {} if config.photometric else {name: NO_COLOURS for name in LOOKS}
  if not dense:
    why["dense_bary"] = "the dense points are not fitted"
  message = "track_fn: no derivative with respect to model.{}: {}"
  return model.replace(**{n: no_derivative(getattr(model, n), message.format(n, why[n])) for n in why})


def used_start(init: TrackResult | None, config: TrackConfig) -> TrackResult | None:
  """The same for the identity that is given.

  Raises:
    InputError: images of a person on whom no light falls, if that is already known.
  """
  if init is None:
    return init
  if config.photometric:
    light = init.identity.light
    if not isinstance(light, jax.core.Tracer) and not np.any(np.asarray(light)):
      raise InputError(
        "track_fn: init.identity.light is 0: there is nothing of a person without light to compare with images; take "
        "vht.initial_result's, or that of a result of vht.track"
      )
    return init
  fields = {name: getattr(init.identity, name) for name in ("texture", "light", "texture_layer")}
  message = "track_fn: no derivative with respect to init.identity.{}: {}"
  used = {n: no_derivative(a, message.format(n, NO_COLOURS)) for n, a in fields.items() if a is not None}
  return init.replace(identity=init.identity.replace(**used))


def fits_dense(model: FlameModel, observations: Observations, config: TrackConfig) -> bool:
  """Whether dense points are there, and wanted."""
  return config.landmarks.dense_landmarks and observations.dense is not None and model.dense_index.shape[0] > 0


def check_shapes(
  model: FlameModel, observations: Observations, config: TrackConfig, size: tuple[int, int] | None, *,
  frames: bool = True,
) -> None:  # fmt: skip
  """Raises `InputError` for observations that are no clip (`frames`), or no frame, and for a head that lacks a mesh."""
  lead = ("T",) if frames else ()
  points = jnp.shape(observations.landmarks)
  if frames and len(points) == 2:
    raise InputError(
      f"track_fn: landmarks {points} have no time axis; expected (T, 70, 2): add it to every field"
      " (jax.tree.map(lambda a: a[None], observations)), or call fit_frame"
    )
  if points[-2:] == (68, 2):
    raise InputError(
      "track_fn: landmarks of 68 points; expected 70: append the irises, or two points of confidence 0"
      " (vht.observations does)"
    )
  expected = {"landmarks": (70, 2), "confidence": (70,), "valid": ()}
  count = points[:1]
  for name, rest in expected.items():
    shape = jnp.shape(getattr(observations, name))
    if len(shape) != len(lead) + len(rest) or shape[len(lead) :] != rest or (frames and shape[:1] != count):
      wanted = f"({', '.join(map(str, (*lead, *rest)))}{',' if len(lead + rest) == 1 else ''})"
      raise InputError(f"track_fn: observations.{name} of shape {shape}; expected {wanted}")
  if config.photometric and not model.faces.shape[0]:
    raise InputError("track_fn: this head has no faces (landmarks_only): a fit of images needs the whole head")
  if config.photometric and observations.rgb is None:
    raise InputError("track_fn: photometric, but observations.rgb is None; give images, or photometric=False")
  if config.photometric and size is not None and tuple(observations.rgb.shape[-3:-1]) != tuple(size):
    raise InputError(f"track_fn: size {size}, but images of {observations.rgb.shape}; expected (..., H, W, 3)")


def frames_with_face(observations: Observations) -> Array:
  """(T,) bool: frames that are valid and show at least two of the 68 landmarks, in different places.

  What is in one place has no size and no direction: it is no face, whatever confidence it has.
  """
  seen = (observations.confidence[..., :68] > 0)[..., None]
  points = observations.landmarks[..., :68, :]
  most, least = (jnp.max(jnp.where(seen, sign * points, -jnp.inf), axis=-2) for sign in (1, -1))
  return observations.valid & jnp.any(most + least > 0, axis=-1)


def image_size(observations: Observations, size: tuple[int, int] | None) -> tuple[int, int]:
  if size is not None:
    return size
  if observations.rgb is None:
    raise InputError("track_fn: observations without images do not say how large the image is: give size=(H, W)")
  height, width = observations.rgb.shape[-3:-1]
  return height, width
