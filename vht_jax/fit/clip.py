"""What the frames of a clip share, from their landmarks (bundle adjustment) and from every frame at once (joint steps).

Head size cannot be seen by one camera and is pinned by a prior on its logarithm.

A joint step is a Gauss-Newton step whose memory does not grow with the clip. Near the solution a frame's energy in its
own unknowns x and the shared ones s is a quadratic; minimised over x it leaves one in s alone (the Schur complement),
and these add up. So a clip is walked through in batches of frames of which only the sum is kept, the shared step is one
small solve, and the frames follow by being solved again. Texture, light and the detector's bias are held.

Frames are not independent: what the model does not know about a face (its hair, its highlights, its landmarks' bias) is
the same in all of them. So the sum is scaled to what a few frames would say, however long the clip is.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import LOG_FOCAL_MEAN, LOG_FOCAL_SD
from vht_jax.config import Weights
from vht_jax.fit import assemble
from vht_jax.fit.assemble import Reduced
from vht_jax.fit.frame import initial_unknowns, landmark_entries, with_common
from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks
from vht_jax.fit.pixels.samples import with_gradient
from vht_jax.fit.pixels.surface import Crop, Surface
from vht_jax.fit.solvers import factor
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled, minimise_shared
from vht_jax.fit.solvers.least_squares import ArrowNormal, damped_root
from vht_jax.fit.terms.colour import Colours, observe_colours
from vht_jax.fit.terms.landmarks import N_COMMON, CommonError
from vht_jax.fit.terms.priors import HELD_SD, SmallOffsets, identity_priors
from vht_jax.fit.terms.term import Entry
from vht_jax.fit.unknowns import CAMERA, Shared, Unknowns, extract, insert, n_unknowns, unknowns
from vht_jax.layout import Layout
from vht_jax.types import Array, Stationary


def initial_shared(model: LandmarkModel, focal: float | None = None) -> Shared:
  n_points, _, n_shape = model.points.shapedirs.shape
  dtype = model.points.template.dtype
  return Shared(
    shape=jnp.zeros(n_shape, dtype),
    log_focal=jnp.asarray(LOG_FOCAL_MEAN if focal is None else np.log(focal), dtype),
    principal=jnp.zeros(2, dtype),
    offset=jnp.zeros((n_points, 3), dtype),
  )


def with_landmarks(model: LandmarkModel, shared: Shared, free: tuple[str, ...] | None = None) -> Unknowns:
  """The unknowns of fits of landmarks: what these have in common in a frame is among the frame's."""
  own = {"common": jnp.zeros(N_COMMON, model.points.template.dtype)}
  return unknowns(n_unknowns(model.points), shared, free, own)


def bundle_normal(
  model: LandmarkModel,
  xs: Array,
  flat: Array,
  observed: ObservedLandmarks,
  weights: Weights,
  focal_prior: tuple[Array, ...],
  more: Sequence[Entry] = (),
  more_priors: Sequence[Entry] = (),
  *,
  shared: Shared,
) -> ArrowNormal:
  """All frames (leading axis F of `xs` (F, E + 14 + 6) and `observed`) and all their shared unknowns.

  Args:
    flat: the shared unknowns as a vector, whose layout is that of `shared`.
    focal_prior: as for `priors.camera_priors`.
    more: terms beside the landmarks, leading axis F; `more_priors`: of what they bring.
  """
  free = with_landmarks(model, shared)
  entries = [*landmark_entries(model, observed, weights), (CommonError(), None), *more]
  arrow = assemble.arrow_normal(entries, free, shared, xs, flat)
  priors = [*identity_priors(model, weights, focal_prior), (SmallOffsets(model), None), *more_priors]
  return arrow.with_shared(assemble.shared_normal(priors, free, shared, flat))


class BundleResult(flax.struct.PyTreeNode):
  shared: Shared
  xs: Array  # (F, n)
  cost: Array  # ()
  steps: Array  # () i32
  focal_relative_sd: Array  # () predicted standard deviation of log focal
  information: Array  # (m, m) of the shared unknowns, `ArrowSolution.shared_information`
  distance: Stationary | None = None  # from the minimum; None without an adjoint


def bundle_adjust(
  model: LandmarkModel,
  observed: ObservedLandmarks,
  weights: Weights,
  *,
  focal: Array | float | None = None,
  log_focal: tuple[Array | float, Array | float] = (LOG_FOCAL_MEAN, LOG_FOCAL_SD),
  principal: tuple[Array, Array | float] | None = None,
  max_steps: int = 20,
  adjoint: Implicit | Unrolled | None = None,
  more: Sequence[Entry] = (),
  more_priors: Sequence[Entry] = (),
  own: dict[str, Array] | None = None,
) -> BundleResult:
  """Camera, identity, landmark offsets and the poses of F frames from their landmarks alone.

  Args:
    model: of the unfolded head.
    observed: leading axis F.
    weights: priors.
    focal: () fixed focal length in units of the longer side; None estimates it.
    log_focal: mean and standard deviation of the prior of its logarithm.
    principal: mean (2,), as in `Shared`, and standard deviation () of its prior; None: near the centre.
    adjoint: how derivatives pass, None: they do not.
    more: terms beside the landmarks with their observations, leading axis F.
    more_priors: terms on what is shared.
    own: start of the shared unknowns that these terms bring, by name.
  """
  dtype = observed.uv.dtype
  shared0 = initial_shared(model).replace(own=own)
  if focal is not None:
    log_focal = jnp.log(jnp.asarray(focal, dtype)), HELD_SD[0]
  prior: tuple[Array, ...] = (jnp.asarray(log_focal[0], dtype), jnp.asarray(log_focal[1], dtype))
  shared0 = shared0.replace(log_focal=prior[0])
  if principal is not None:
    shared0 = shared0.replace(principal=jnp.asarray(principal[0], dtype))
    prior = (*prior, shared0.principal, jnp.asarray(principal[1], dtype))
  xs0 = jax.vmap(lambda seen: initial_unknowns(model, seen))(observed)
  layout = with_landmarks(model, shared0).shared
  theta = (model, observed, weights, prior, list(more), list(more_priors)), shared0
  solution = minimise_shared(
    lambda theta, xs, flat: bundle_normal(theta[0][0], xs, flat, *theta[0][1:], shared=theta[1]),
    theta,
    with_common(xs0),
    extract(layout, shared0),
    adjoint,
    max_steps,
  )
  return BundleResult(
    shared=insert(layout, solution.shared, shared0),
    xs=solution.frames[:, : xs0.shape[1]],
    cost=solution.cost,
    steps=solution.steps,
    focal_relative_sd=focal_deviation(solution.shared_information, layout),
    information=solution.shared_information,
    distance=solution.distance,
  )


def focal_deviation(information: Array, layout: Layout) -> Array:
  """() standard deviation of log focal length, from the `shared_information` (m, m) of unknowns of this layout."""
  at = layout.at("log_focal").start
  # Scaled to a unit diagonal, because the unknowns' units differ by orders of magnitude.
  scale = jax.lax.rsqrt(jnp.diagonal(information))
  unit = jnp.zeros_like(scale).at[at].set(1.0)
  column = jnp.linalg.solve(information * scale[:, None] * scale[None], unit)
  return jnp.sqrt(jnp.maximum(column[at], 0.0)) * scale[at]


# --- joint steps -----------------------------------------------------------------------------------------------------


def joint_unknowns(model: LandmarkModel, shared: Shared) -> Unknowns:
  """What joint steps estimate: the frames, shape and camera."""
  return with_landmarks(model, shared, ("shape", *CAMERA))


def reduce_frames(
  surface: Surface, model: LandmarkModel, albedo: Array, light: Array, shared: Shared, observed: ObservedLandmarks,
  crops: Crop | None, weights: Weights, xs: Array, valid: Array, *, n_samples: int, more: Sequence[Entry] = (),
) -> Reduced:  # fmt: skip
  """Landmarks, colours and priors of F frames, their poses eliminated.

  Args:
    surface, model: of the unfolded head.
    albedo: (Ht, Wt, 3) map of the clip; light: (9, 3).
    observed, crops, xs, valid: leading axis F; without `crops` the landmarks alone count. Frames that are not `valid`
      count nothing.
    n_samples: pixels per frame, static.
    more: terms beside these with their observations, leading axis F.
  """
  free = joint_unknowns(model, shared)
  flat = extract(free.shared, shared)

  def one(args):
    x, seen, crop, ok, more_seen = args
    x = jnp.where(ok, x, 0.0)
    more_here = [(term, rows) for (term, _), rows in zip(more, more_seen)]
    entries = [*landmark_entries(model, seen, weights), (CommonError(), None), *more_here]
    if crop is not None:
      image9 = with_gradient(crop.rgb)
      colours = observe_colours(surface, x, shared, crop, image9, albedo, light, weights, n_samples)
      entries.append((Colours(light, weights), colours))
    found = assemble.reduced(entries, free, shared, with_common(x), flat)
    fine = ok & jnp.isfinite(found.cost) & jnp.all(jnp.isfinite(found.matrix)) & jnp.all(jnp.isfinite(found.gradient))
    return jax.tree.map(lambda a: jnp.where(fine, a, 0.0), found)

  return jax.tree.map(
    lambda a: jnp.sum(a, axis=0), jax.lax.map(one, (xs, observed, crops, valid, [rows for _, rows in more]))
  )


def shared_step(
  model: LandmarkModel, shared: Shared, total: Reduced, weights: Weights, focal_prior: tuple[Array, ...],
  n_independent: float | Array, damping: float | Array, more_priors: Sequence[Entry] = (),
):  # fmt: skip
  """The shared unknowns after one damped Gauss-Newton step on the whole clip.

  Args:
    total: sum over the clip.
    focal_prior: mean and standard deviation of log focal, and of the principal point if it is known
      (`priors.camera_priors`).
    n_independent: () a clip counts for at most so many frames.
    damping: () Marquardt's, relative to the diagonal.
    more_priors: terms on shape and camera beside those that all clips have.

  Returns:
    `Shared` after the step; the energy at the start ().
  """
  free = joint_unknowns(model, shared)
  flat = extract(free.shared, shared)
  scale = jnp.minimum(n_independent / jnp.maximum(total.count, 1.0), 1.0)
  priors = [*identity_priors(model, weights, focal_prior), *more_priors]
  prior = assemble.shared_normal(priors, free, shared, flat)
  matrix = scale * total.matrix + prior.matrix
  gradient = scale * total.gradient + prior.gradient
  step = -factor.solve_vector(damped_root(matrix, damping), gradient)
  step = jnp.where(jnp.all(jnp.isfinite(step)), step, 0.0)
  moved = insert(free.shared, flat + step, shared)
  return moved, scale * total.cost + prior.cost
