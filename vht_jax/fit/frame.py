"""The pose of one frame, identity and camera known: from its landmarks, or from landmarks and colours. `vmap` them."""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax import rotation
from vht_jax.config import Weights
from vht_jax.fit import assemble, unknowns
from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks, affine_camera
from vht_jax.fit.pixels.samples import with_gradient
from vht_jax.fit.pixels.surface import Crop, Surface
from vht_jax.fit.solvers import factor
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled, minimise, recomputed, scan
from vht_jax.fit.solvers.least_squares import Normal, Solution
from vht_jax.fit.terms.colour import Colours, differences, mean_difference, observe_colours
from vht_jax.fit.terms.landmarks import N_COMMON, CommonError, Landmarks
from vht_jax.fit.terms.openings import Openings
from vht_jax.fit.terms.priors import BothSides, FramePrior
from vht_jax.fit.terms.term import Entry
from vht_jax.fit.unknowns import At, Shared, join, raw_jaw
from vht_jax.head import points as pts
from vht_jax.head.motion import FRONTAL
from vht_jax.types import Array, Stationary

HIGHEST = jax.lax.Precision.HIGHEST
INNER_STEPS = 2  # Levenberg-Marquardt steps per rasterisation
START_JAW = 0.02  # rad, how far a mouth is open before anything is known of it


def landmark_entries(model: LandmarkModel, observed: ObservedLandmarks, weights: Weights) -> list[Entry]:
  """What is known of a frame without its image; `observed` of one frame, or of many."""
  return [
    (Landmarks(model), observed),
    (Openings(model), observed),
    (FramePrior(model.one_sided, model.lids, weights), None),
    *([(BothSides(model.pair_sd, model.pairs), None)] if model.pairs else []),
  ]


def frame_normal(
  model: LandmarkModel,
  x: Array,
  shared: Shared,
  observed: ObservedLandmarks,
  weights: Weights,
  more: Sequence[Entry] = (),
) -> Normal:
  """Landmarks and priors of one frame whose shared unknowns are known.

  Args:
    x: (E + 14,) the head's unknowns, or (E + 14 + 6,) with what the landmarks have in common.
  """
  n = unknowns.n_unknowns(model.points)
  own = {"common": x[n:]} if x.shape[0] > n else {}
  entries = [*landmark_entries(model, observed, weights), *more]
  if own:
    entries.append((CommonError(), None))
  return assemble.frame_normal(entries, At(x[:n], shared, own))


def with_common(x: Array) -> Array:
  """A frame's unknowns (..., n) and a start of what its landmarks have in common."""
  return jnp.concatenate([x, jnp.zeros((*x.shape[:-1], N_COMMON), x.dtype)], axis=-1)


def marginal(found: Normal, n: int) -> Normal:
  """The normal equations of the first n unknowns at the minimum, the others marginalised."""
  H = found.matrix
  cross = H[:n, n:]
  known = jnp.matmul(cross, factor.solve(factor.inverse_root(H[n:, n:]), cross.T), precision=HIGHEST)
  return Normal(found.cost, found.gradient[:n], H[:n, :n] - known)


def fit_frame(
  model: LandmarkModel,
  observed: ObservedLandmarks,
  shared: Shared,
  weights: Weights,
  x0: Array | None = None,
  max_steps: int = 8,
  adjoint: Implicit | Unrolled | None = None,
  more: Sequence[Entry] = (),
) -> Solution:
  """Landmark-only pose of one frame: a `Solution` of the frame's unknowns.

  Args:
    model: with the identity folded in (`fold_landmarks`) and `shared.shape` empty.
    observed: the frame's landmarks.
    shared: camera and offsets of the clip.
    x0: start; the affine camera's pose by default.
    adjoint: how derivatives pass, None: they do not.
    more: terms beside the landmarks with their observations of this frame.
  """
  x0 = initial_unknowns(model, observed) if x0 is None else x0
  n = x0.shape[0]
  normal = lambda theta, x: frame_normal(theta[0], x, *theta[1:])
  found = minimise(normal, (model, shared, observed, weights, list(more)), with_common(x0), adjoint, max_steps)
  return found.replace(x=found.x[:n], normal=marginal(found.normal, n))


def fold_landmarks(model: LandmarkModel, shared: Shared) -> tuple[LandmarkModel, Shared]:
  """Folds the clip's shape into the points."""
  return (
    model.replace(points=pts.fold_shape(model.points, shared.shape)),
    shared.replace(shape=shared.shape[:0]),
  )


def initial_unknowns(model: LandmarkModel, observed: ObservedLandmarks) -> Array:
  """A frame's unknowns from the best affine camera for the mean head (closed form), neutral expression."""
  rows, scale, mean_h, mean_u = affine_camera(model, observed.uv[:68], observed.inverse_sd[:68] > 0)
  R = jnp.concatenate([rows, jnp.cross(rows[0], rows[1])[None]])
  frontal = jnp.array(FRONTAL, R.dtype)
  place = mean_u + scale * jnp.matmul(rows, model.points.pivot - mean_h, precision=HIGHEST)
  zeros = lambda *shape: jnp.zeros(shape, R.dtype)
  return join(
    expr=zeros(model.points.exprdirs.shape[-1]),
    rotation=rotation.matrix_to_axis_angle(jnp.matmul(R, frontal.T, precision=HIGHEST)),
    place=jnp.concatenate([place, jnp.log(scale)[None]]),
    neck=zeros(3),
    jaw=raw_jaw(jnp.asarray(START_JAW, R.dtype)),
    eyes=zeros(2, 2),
  )


class ColourFit(flax.struct.PyTreeNode):
  """The pose of a frame from its landmarks and colours."""

  x: Array  # (E + 14,)
  normal: Normal  # there
  difference: Array  # () mean absolute difference of the samples' colours
  distance: Stationary | None = None  # from the minima of the solves, the largest; by fits that are differentiated


def fit_frame_colours(
  surface: Surface, model: LandmarkModel, albedo: Array, light: Array, shared: Shared, observed: ObservedLandmarks,
  crop: Crop, weights: Weights, x0: Array, *, n_samples: int, outer_steps: int, more: Sequence[Entry] = (),
  adjoint: Implicit | Unrolled | None = None,
) -> ColourFit:  # fmt: skip
  """Photometric and landmark pose of one frame.

  Args:
    surface, model: with the identity folded in.
    albedo: (Ht, Wt, 3) map of the clip.
    light: (9, 3).
    shared: camera and landmark offsets, `shape` empty.
    x0: (E + 14,) start.
    n_samples: pixels per solve, static.
    outer_steps: how often visibility is found anew, static.
    more: as for `fit_frame`.
    adjoint: how derivatives pass, None: they do not. With `Implicit` every solve goes on to its minimum, which depends
      on where the one before has ended by its samples alone.
  """

  image = with_gradient(crop.rgb) if adjoint is None else jnp.asarray(crop.rgb)

  def normal(theta, x):
    model, shared, observed, weights, light, colours, more = theta
    return frame_normal(model, x, shared, observed, weights, [(Colours(light, weights), colours), *more])

  def outer(x, _):
    colours = observe_colours(surface, x[:n], shared, crop, image, albedo, light, weights, n_samples)
    theta = model, shared, observed, weights, light, colours, list(more)
    found = minimise(normal, theta, x, adjoint, INNER_STEPS)
    # Against the image as it is: what the exposure had to explain is a difference too.
    apart = differences(colours.replace(image=image), colours.albedo, light, found.x[:n], shared)
    return found.x, (found.normal, mean_difference(apart, colours.samples), found.distance)

  n = x0.shape[0]
  x, steps = scan(outer, with_common(x0), None, outer_steps, recomputed(adjoint))
  last, difference, _ = jax.tree.map(lambda a: a[-1], steps)
  farthest = jax.tree.map(lambda a: jnp.max(a, axis=0), steps[2])
  return ColourFit(x[:n], marginal(last, n), difference, farthest)
