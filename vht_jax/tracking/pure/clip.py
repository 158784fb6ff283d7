"""A whole clip as one pure function: what `pipeline.track` does, without the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit import frame, unknowns
from vht_jax.fit.clip import bundle_adjust
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled, scan
from vht_jax.fit.solvers.newton import pruned
from vht_jax.fit.terms.priors import HELD_SD
from vht_jax.fit.terms.term import Entry
from vht_jax.head import flame
from vht_jax.tracking.motion.gaps import bridge
from vht_jax.tracking.pure.colours import fit_person
from vht_jax.tracking.pure.frame import (
  frame_and_distance,
  frames_and_distance,
  landmark_problem,
  rows_of,
  with_rows,
)
from vht_jax.tracking.pure.requests import (
  as_read,
  check_adjoint,
  check_shapes,
  fits_dense,
  frames_with_face,
  image_size,
  used_head,
  used_observations,
  used_start,
  used_weights,
)
from vht_jax.tracking.stages.adam import to_raw
from vht_jax.tracking.state import identity_of, plain_appearance
from vht_jax.types import Array, FlameModel, Identity, Observations, Pose, TrackResult
from vht_jax.vht import adam


def track_fn(
  model: FlameModel,
  observations: Observations,
  config: TrackConfig,
  weights: Weights,
  init: TrackResult | None = None,
  *,
  size: tuple[int, int] | None = None,
  adjoint: Implicit | Unrolled | None = None,
  terms: Sequence[Entry] = (),
) -> TrackResult:
  """Tracks a clip of T frames: pure, traceable and differentiable. `vmap` it over clips.

  Args:
    model: the head, cut to the components to fit; for images without the faces that are to be ignored
      (`flame.without_lower_neck`).
    observations: leading axis T. `rgb` may be None for landmarks only. Missing landmarks have confidence 0, frames
      without a face are not `valid`.
    config: static. `keyframes` are those whose images say who it is (empty: all frames); the landmarks of all valid
      frames count.
    weights: traced; new values do not recompile.
    init: identity and poses to start from; its identity is kept. None: both are estimated, from the landmarks first.
    size: (H, W) px of the images; static; None: that of `observations.rgb`.
    adjoint: how derivatives pass; None: `Implicit()` for Gauss-Newton, `Unrolled()` for Adam.
    terms: own terms with their observations, leading axis T, beside those of the fit (`fit.terms.term`); they and what
      they observe have derivatives. By Gauss-Newton.

  Returns:
    Identity, poses (T, ...), energies (T,), status (T,); by Gauss-Newton also how far the fits ended from their
    minima (`stationary`), and how many frames have no derivative therefore (`left_out`). Differentiable with respect
    to landmarks, confidences, images, weights, learning rates, the arrays of the head and `init`, as far as the method
    reads them: images have no influence on a fit of landmarks, and neither have, with `Implicit`, the start poses.

  Raises:
    InputError: a method without derivatives, an adjoint that does not fit the method, observations of other shapes, or
      a derivative with respect to what has no influence (`without_influence`).
  """
  size = image_size(observations, size)
  adjoint = check_adjoint(config, adjoint, terms)
  check_shapes(model, observations, config, size)
  dense = fits_dense(model, observations, config)
  weights = used_weights(as_read(weights, model.v_template.dtype), config, known_identity=init is not None, dense=dense)
  observations = used_observations(observations, config, dense=dense)
  model, init = used_head(model, config, dense=dense), used_start(init, config)
  seen = frames_with_face(observations)
  how: Any = dict(size=size, adjoint=adjoint, terms=terms)
  distance = None
  if init is None:
    identity, start, energies, distance = _identity_and_distance(model, observations, config, weights, **how)
  else:
    identity, start, energies = init.identity, init.poses, {}
  if init is not None or config.photometric:
    fit = _in_turn if config.schedule == "sequential" else frames_and_distance
    start, energies, later = fit(model, observations, identity, config, weights, start, **how)
    distance = later if distance is None or later is None else jax.tree.map(jnp.maximum, distance, later)
  good = jnp.all(jnp.isfinite(start.rotation), -1) & jnp.all(jnp.isfinite(start.expr), -1)
  poses, status = bridge(start, seen, good)
  result = TrackResult(identity=identity, poses=poses, energies=energies, status=status)
  if distance is None:
    return result
  distance = distance.replace(shared=jnp.max(distance.shared))  # of frames that are fitted one by one: 0 each
  left_out = jnp.zeros((), jnp.int32)
  if isinstance(adjoint, Implicit):
    left_out = jnp.sum(seen & ~adjoint.kept(distance).frames, dtype=jnp.int32)
  return result.replace(stationary=distance, left_out=left_out)


def fit_identity(
  model: FlameModel, observations: Observations, config: TrackConfig, weights: Weights, *,
  size: tuple[int, int] | None = None, adjoint: Implicit | Unrolled | None = None, terms: Sequence[Entry] = (),
) -> tuple[Identity, Pose, dict[str, Float[Array, " T"]]]:  # fmt: skip
  """Camera and identity of a clip with the poses that go with them; arguments as for `track_fn`.

  Landmarks: bundle adjustment of all frames, after which the poses are final. Gauss-Newton on images and Adam start
  there and go on with the images of the keyframes.

  Returns:
    Identity, poses (T, ...), and {"landmarks": (T,) cost of each frame's landmarks and priors}.
  """
  how: Any = dict(size=size, adjoint=adjoint, terms=terms)
  return _identity_and_distance(model, observations, config, weights, **how)[:3]


def _identity_and_distance(model, observations, config, weights, *, size, adjoint, terms=()):
  """`fit_identity`, and the `Stationary` of the bundle adjustment."""
  size = image_size(observations, size)
  adjoint = check_adjoint(config, adjoint, terms)
  weights = as_read(weights, model.v_template.dtype)
  lm, observed = landmark_problem(model, observations, config, weights, size)
  seen = frames_with_face(observations)
  if config.camera.calibrated and not config.camera.focal:
    raise InputError(
      "calibrated: the focal length must be given (config.camera.focal), or a result with its camera (init)"
    )
  found = bundle_adjust(
    lm, observed, weights, focal=config.camera.focal or None,
    principal=(jnp.zeros(2, observed.uv.dtype), HELD_SD[1]) if config.camera.calibrated else None, adjoint=adjoint,
    more=terms,
  )  # fmt: skip
  shared, xs, distance = found.shared, found.xs, found.distance
  by_images = config.photometric and not config.by_adam
  if by_images:
    looks = fit_person(model, lm, observations, observed, found, config, weights, adjoint, terms)
    shared, xs, appearance, distance = looks.shared, looks.xs, looks.appearance, looks.distance
  else:
    appearance = jax.tree.map(jnp.asarray, plain_appearance(model.texture_basis.shape[-1], xs.dtype))
  person, folded = frame.fold_landmarks(lm, shared)
  cost = lambda person, folded, weights, x, seen: frame.frame_normal(person, x, folded, seen, weights).cost
  args = person, folded, weights, xs, observed
  energies = {"landmarks": pruned(jax.vmap(cost, (None, None, None, 0, 0)), *args)(*args)}
  identity = identity_of(shared, appearance, size, layer=by_images)
  to_pose = lambda x: unknowns.to_pose(lm.points, x, shared.shape, identity.camera, shared.principal)
  poses = jax.vmap(to_pose)(xs)
  if config.by_adam:
    assert isinstance(adjoint, Unrolled)  # says `check_adjoint`
    index = jnp.array(config.data.keyframes) if config.data.keyframes else jnp.arange(seen.shape[0])
    pick = lambda tree: jax.tree.map(lambda a: a[index], tree)
    raw = jax.vmap(to_raw)(poses)
    identity, key, _ = adam.fit_identity(
      model, pick(observations), identity, pick(raw), config, weights, adjoint=adjoint
    )
    raw = jax.tree.map(lambda a, b: a.at[index].set(b), raw, key)
    poses = jax.vmap(flame.limit_pose)(raw)
  return identity, poses, energies, distance


def fit_frames_in_turn(
  model: FlameModel, observations: Observations, identity: Identity, config: TrackConfig, weights: Weights,
  start: Pose, *, size: tuple[int, int] | None = None, adjoint: Implicit | Unrolled | None = None,
  terms: Sequence[Entry] = (),
) -> tuple[Pose, dict[str, Array]]:  # fmt: skip
  """`fit_frames` where every frame starts at its predecessor's pose (schedule='sequential'), the first at `start[0]`.

  A frame without a face keeps its predecessor's pose.
  """
  return _in_turn(model, observations, identity, config, weights, start, size=size, adjoint=adjoint, terms=terms)[:2]


def _in_turn(model, observations, identity, config, weights, start, *, size, adjoint, terms=()):
  """`fit_frames_in_turn` with the distances of `frame_and_distance` (T,)."""
  adjoint = check_adjoint(config, adjoint, terms)
  seen = frames_with_face(observations)

  def one(previous, frame):
    observation, seen, rows = frame
    how: Any = dict(size=size, adjoint=adjoint, terms=with_rows(terms, rows))
    pose, energies, distance = frame_and_distance(model, observation, identity, config, weights, previous, **how)
    pose = jax.tree.map(lambda a, b: jnp.where(seen, a, b), pose, previous)
    return pose, (pose, energies, distance)

  first = jax.tree.map(lambda a: a[0], start)
  groups = adjoint.checkpoint if isinstance(adjoint, Unrolled) else 0
  return scan(one, first, (observations, seen, rows_of(terms)), seen.shape[0], groups)[1]
