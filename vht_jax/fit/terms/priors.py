"""Priors: what is known before anything is seen, of a frame's pose and of what frames share."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import PRINCIPAL_SD
from vht_jax.config import Weights
from vht_jax.fit.observed import LandmarkModel
from vht_jax.fit.solvers.least_squares import Normal
from vht_jax.fit.terms.landmarks import robust
from vht_jax.fit.terms.term import Entry, Linearised, gaussian
from vht_jax.fit.unknowns import At, blocks, split
from vht_jax.head.motion import jaw_angle
from vht_jax.layout import Layout
from vht_jax.types import AnyArray, Array

HELD_SD = 1e-4, 1e-6  # of log focal and of the principal point of a known camera: far below what any clip tells
LID_EXPR = 0.4  # spread of lids, which are shut whenever they move
NEGATIVE_EXPR = 25.0  # one-sided units: how much dearer (in squared terms) a negative activation is
EYES_SD = 0.05  # rad, how far the eyes' angles differ
FREE = 1e-12  # added to the strength of the identity prior, whose root has no derivative at 0


class FramePrior(flax.struct.PyTreeNode):
  """Expression, neck, jaw, gaze of one frame; nothing on where the head is.

  A face uses few units at a time, and those fully: beyond their spread they cost in proportion to what they are
  (pseudo-Huber), else all of them would be used a little. Lids are let be.
  """

  one_sided: bool = flax.struct.field(pytree_node=False)  # as `LandmarkModel.one_sided`
  lids: tuple[int, ...] = flax.struct.field(pytree_node=False)  # likewise
  weights: Weights

  def linearise(self, at: At, observation: None = None) -> Normal:
    del observation
    x, weights, parts = at.x, self.weights, split(at.x)
    expr, eyes = parts["expr"], parts["eyes"]
    if self.one_sided:
      is_lid = np.isin(np.arange(expr.size), self.lids)
      sd = jnp.where(is_lid, LID_EXPR, weights.sd_expr)
      root = jnp.sqrt(1.0 + jnp.where(is_lid | (expr < 0), 0.0, expr / sd) ** 2)
      times = jnp.where(expr < 0, NEGATIVE_EXPR, 1.0) / sd**2
      precision, cost_of_expr = times / root, jnp.sum(times * expr**2 * 2.0 / (1.0 + root))
    else:
      precision, cost_of_expr = jnp.ones_like(expr), jnp.sum(expr**2)  # FLAME's codes are in standard deviations
    d_jaw = jax.grad(jaw_angle)(parts["jaw"])
    jaw = jaw_angle(parts["jaw"]) / weights.sd_jaw
    difference = (eyes[0] - eyes[1]) / EYES_SD
    free = jnp.zeros(3, x.dtype)
    layout = Layout.like(parts)
    gradient = layout.join(
      {
        "expr": precision * expr,
        "rotation": free,
        "place": free,
        "neck": parts["neck"] / weights.sd_neck**2,
        "jaw": jaw * d_jaw / weights.sd_jaw,
        "eyes": eyes / weights.sd_gaze**2 + jnp.stack([difference, -difference]) / EYES_SD,
      }
    )
    diagonal = layout.join(
      {
        "expr": precision,
        "rotation": free,
        "place": free,
        "neck": jnp.ones(3, x.dtype) / weights.sd_neck**2,
        "jaw": (d_jaw / weights.sd_jaw) ** 2,
        "eyes": jnp.ones((2, 2), x.dtype) / weights.sd_gaze**2 + 1.0 / EYES_SD**2,
      }
    )
    one, other = np.arange(x.size)[layout.at("eyes")].reshape(2, 2)
    coupled = np.zeros((x.size, x.size), np.float32)
    coupled[one, other] = coupled[other, one] = 1.0 / EYES_SD**2
    cost = (
      cost_of_expr
      + jnp.sum((parts["neck"] / weights.sd_neck) ** 2)
      + jaw**2
      + jnp.sum((eyes / weights.sd_gaze) ** 2)
      + jnp.sum(difference**2)
    )
    return Normal(cost, gradient, jnp.diag(diagonal) - jnp.asarray(coupled, x.dtype))


class BothSides(flax.struct.PyTreeNode):
  """Both brows and both eyes do the same; a wink costs in proportion to what it is (Huber).

  A detector sees the side that is turned away badly: its lids stay open when they shut, its brow sinks with the turn.
  """

  sd: AnyArray  # (P,); inf: no prior
  pairs: tuple[tuple[int, int], ...] = flax.struct.field(pytree_node=False)  # (P,) of `LandmarkModel`

  def linearise(self, at: At, observation: None = None) -> Linearised:
    del observation
    left, right = np.array(self.pairs).T
    scale = 1.0 / jnp.asarray(self.sd, at.x.dtype)
    residual = ((at.x[left] - at.x[right]) * scale)[:, None]
    unknown = np.arange(at.x.size)[None]
    sign = (unknown == left[:, None]).astype(np.int32) - (unknown == right[:, None]).astype(np.int32)
    root, cost = robust(residual)
    return Linearised(residual, {"head": (scale[:, None] * jnp.asarray(sign, at.x.dtype))[:, None]}, {}, root, cost)


class Near(flax.struct.PyTreeNode):
  """A shared block is near its mean."""

  name: str = flax.struct.field(pytree_node=False)
  mean: AnyArray  # as the block, or () of all its numbers
  sd: AnyArray  # likewise

  def linearise(self, at: At, observation: None = None) -> Linearised:
    del observation
    return gaussian(self.name, blocks(at.shared)[self.name], self.mean, self.sd)


class SmallOffsets(flax.struct.PyTreeNode):
  """The detector's bias of every landmark is small."""

  model: LandmarkModel

  def linearise(self, at: At, observation: None = None) -> Linearised:
    del observation
    return gaussian("offset", at.shared.offset, 0.0, self.model.relative_bias * self.model.eye_distance)


class HeadSize(flax.struct.PyTreeNode):
  """The size of the head, which one camera cannot see."""

  model: LandmarkModel
  sd: Array  # () of its logarithm

  def linearise(self, at: At, observation: None = None) -> Linearised:
    del observation
    by_shape = self.model.size_gradient / self.sd
    return Linearised(jnp.sum(by_shape * at.shared.shape)[None, None], {}, {"shape": by_shape[None, None]})


class HeldFrame(flax.struct.PyTreeNode):
  """The frame stays where it was: observations are its unknowns (n,)."""

  precision: Array  # () of every number

  def linearise(self, at: At, observation: Array) -> Normal:
    moved = at.x - observation
    matrix = self.precision * jnp.eye(moved.size, dtype=moved.dtype)
    return Normal(self.precision * jnp.sum(moved**2), self.precision * moved, matrix)


def camera_priors(prior: tuple[Array, ...], dtype) -> list[Entry]:
  """From (mean, sd) of log focal and, if that is known, (2,) mean and () sd of the principal point; it is near the
  image centre otherwise."""
  focal, focal_sd, *rest = prior
  principal, principal_sd = rest or (jnp.zeros(2, dtype), PRINCIPAL_SD)
  cast = lambda a: jnp.asarray(a, dtype)
  return [
    (Near("log_focal", cast(focal), cast(focal_sd)), None),
    (Near("principal", cast(principal), cast(principal_sd)), None),
  ]


def prior_of_shape(model: LandmarkModel, weights: Weights) -> np.ndarray:
  """(2, S) f64 of `ShapeInformation`: what `identity_priors` say of the shape; host side."""
  by_size = np.asarray(model.size_gradient, np.float64) / float(weights.sd_size)
  return np.stack([np.full_like(by_size, np.sqrt(float(weights.w_identity))), by_size])


def identity_priors(model: LandmarkModel, weights: Weights, focal_prior: tuple[Array, ...]) -> list[Entry]:
  """Of shape, head size and camera (`camera_priors`)."""
  dtype = model.points.template.dtype
  sd = 1.0 / jnp.sqrt(jnp.asarray(weights.w_identity, dtype) + FREE)
  return [
    (Near("shape", jnp.zeros((), dtype), sd), None),
    (HeadSize(model, jnp.asarray(weights.sd_size, dtype)), None),
    *camera_priors(focal_prior, dtype),
  ]
