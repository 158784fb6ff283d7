"""The pose of one frame whose identity is known, and of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vht_jax.config import TrackConfig, Weights
from vht_jax.fit import frame, observed, unknowns
from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled
from vht_jax.fit.terms.landmarks import predict
from vht_jax.fit.terms.term import Entry, OfPerson
from vht_jax.fit.unknowns import shared_of
from vht_jax.head import flame
from vht_jax.tracking.pure import requests
from vht_jax.tracking.pure.colours import fit_colours, painted
from vht_jax.tracking.run import DENSE_STEP, fitted_points
from vht_jax.tracking.stages.adam import to_raw
from vht_jax.types import Array, FlameModel, Identity, Observations, Pose, Stationary
from vht_jax.vht import adam


def fit_frame(
  model: FlameModel, observation: Observations, identity: Identity, config: TrackConfig, weights: Weights,
  start: Pose | None = None, *, size: tuple[int, int] | None = None, adjoint: Implicit | Unrolled | None = None,
  terms: Sequence[Entry] = (),
) -> tuple[Pose, dict[str, Float[Array, ""]]]:  # fmt: skip
  """The pose of one frame whose identity is known; other arguments as for `track_fn`.

  Args:
    observation: one frame, no leading axis.
    start: where to begin; None: the affine camera that brings the neutral head closest to the landmarks. Adam also
      draws the head towards the start's translation (`w_pos_trans`), as VHT does.

  Returns:
    The pose; energies () at it: {"landmarks": cost of the fit of landmarks in squared standard deviations}, by
    Gauss-Newton on images also "total", that of the fit of both, and "photometric_l1", the mean difference of the
    colours; or VHT's terms and their "total".
  """
  how: Any = dict(size=size, adjoint=adjoint, terms=terms)
  return frame_and_distance(model, observation, identity, config, weights, start, **how)[:2]


def frame_and_distance(
  model: FlameModel, observation: Observations, identity: Identity, config: TrackConfig, weights: Weights,
  start: Pose | None = None, *, size: tuple[int, int] | None = None, adjoint: Implicit | Unrolled | None = None,
  terms: Sequence[Entry] = (),
) -> tuple[Pose, dict[str, Array], Stationary | None]:  # fmt: skip
  """`fit_frame`, and how far its fits ended from their minima, the farthest; None for Adam."""
  requests.check_shapes(model, observation, config, size, frames=False)
  size = requests.image_size(observation, size)
  adjoint = requests.check_adjoint(config, adjoint, terms)
  weights = requests.as_read(weights, model.v_template.dtype)
  if config.by_adam and start is not None:
    assert isinstance(adjoint, Unrolled)  # says `check_adjoint`
    raw, energies = adam.fit_frame(
      model, observation, identity, to_raw(start), start.translation, config, weights, adjoint=adjoint
    )
    return flame.limit_pose(raw), {name: value[-1, -1] for name, value in energies.items()}, None
  lm, seen = landmark_problem(model, jax.tree.map(lambda a: a[None], observation), config, weights, size)
  seen = jax.tree.map(lambda a: a[0], seen)
  shared = shared_of(identity, lm.points.template.shape[0], size)
  person, folded = frame.fold_landmarks(lm, shared)
  terms = [(OfPerson(term, shared.shape), rows) for term, rows in terms]
  x0 = None if start is None else unknowns.from_pose(lm.points, start, shared.shape, identity.camera, shared.principal)
  found = frame.fit_frame(person, seen, folded, weights, x0, adjoint=adjoint, more=terms)
  pose = unknowns.to_pose(lm.points, found.x, shared.shape, identity.camera, shared.principal)
  if config.by_adam:
    return frame_and_distance(model, observation, identity, config, weights, pose, size=size, adjoint=adjoint)
  energies, distance = {"landmarks": found.normal.cost}, found.distance
  if not config.photometric:
    return pose, energies, distance
  colours = fit_colours(
    painted(model, lm, identity, weights, size), observation, seen, found.x, config, weights, adjoint, terms
  )  # fmt: skip
  pose = unknowns.to_pose(lm.points, colours.x, shared.shape, identity.camera, shared.principal)
  energies |= {"total": colours.normal.cost, "photometric_l1": colours.difference}
  return pose, energies, jax.tree.map(jnp.maximum, distance, colours.distance)


def fit_frames(
  model: FlameModel, observations: Observations, identity: Identity, config: TrackConfig, weights: Weights,
  start: Pose | None = None, *, size: tuple[int, int] | None = None, adjoint: Implicit | Unrolled | None = None,
  terms: Sequence[Entry] = (),
) -> tuple[Pose, dict[str, Float[Array, " T"]]]:  # fmt: skip
  """`fit_frame` for frames side by side: leading axis T on observations, those of the terms, start and the results."""
  how: Any = dict(size=size, adjoint=adjoint, terms=terms)
  return frames_and_distance(model, observations, identity, config, weights, start, **how)[:2]


def frames_and_distance(
  model: FlameModel, observations: Observations, identity: Identity, config: TrackConfig, weights: Weights,
  start: Pose | None = None, *, size: tuple[int, int] | None = None, adjoint: Implicit | Unrolled | None = None,
  terms: Sequence[Entry] = (),
) -> tuple[Pose, dict[str, Array], Stationary | None]:  # fmt: skip
  """`fit_frames` with the distances of `frame_and_distance` (T,)."""

  def one(observation, start, rows):
    how: Any = dict(size=size, adjoint=adjoint, terms=with_rows(terms, rows))
    return frame_and_distance(model, observation, identity, config, weights, start, **how)

  return jax.vmap(one)(observations, start, rows_of(terms))


def rows_of(terms: Sequence[Entry]) -> list[Any]:
  """The observations of terms alone: what is different in every frame."""
  return [rows for _, rows in terms]


def with_rows(terms: Sequence[Entry], rows: list[Any]) -> list[Entry]:
  return [(term, found) for (term, _), found in zip(terms, rows, strict=True)]


def residuals(
  model: FlameModel,
  identity: Identity,
  pose: Pose,
  observation: Observations,
  weights: Weights,
  *,
  size: tuple[int, int] | None = None,
) -> Float[Array, "70 2"]:
  """(70, 2) landmark residuals of one frame, predicted minus observed, in standard deviations; 0 for missing points.

  These are what the fits of landmarks square and sum (beyond 2.5 linearly), without the priors and without the openings
  of lids and lips (`fit.terms.openings`).
  """
  size = requests.image_size(observation, size)
  one = jax.tree.map(lambda a: a[None], observation)
  lm, seen = landmark_problem(model, one, TrackConfig.of(dense_landmarks=False), weights, size)
  seen = jax.tree.map(lambda a: a[0], seen)
  shared = shared_of(identity, lm.points.template.shape[0], size)
  x = unknowns.from_pose(lm.points, pose, shared.shape, identity.camera, shared.principal)
  return (predict(lm, x, shared) - seen.uv) * seen.inverse_sd[:, None]


def landmark_problem(
  model: FlameModel, observations: Observations, config: TrackConfig, weights: Weights, size: tuple[int, int]
) -> tuple[LandmarkModel, ObservedLandmarks]:
  """The points of the head and what is seen of them (leading axis T); dense points if they are there and wanted."""
  dense = observations.dense if requests.fits_dense(model, observations, config) else None
  step = DENSE_STEP if dense is not None else 0
  lm = observed.landmark_model(model, requests.as_read(weights, model.v_template.dtype), step)
  points, confidence = fitted_points(
    model, jnp.asarray(observations.landmarks), jnp.asarray(observations.confidence), dense, step
  )
  confidence = jnp.where(requests.frames_with_face(observations)[:, None], confidence, 0.0)
  seen = jax.vmap(lambda p, c: observed.observe_landmarks(lm, p, c, size))(points, confidence)
  return lm, seen.replace(touching=None)  # which it is not asked for
