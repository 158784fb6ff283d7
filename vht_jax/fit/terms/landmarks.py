"""Landmarks: where a detector sees points of the head, and how it errs.

The accuracy limit of landmark tracking is not the solver but the detector, whose errors do not average out over frames:

* A point is not quite where the head's table of landmarks has it: an unknown offset of every point, constant in the
  head's frame and kept small by a prior. In three dimensions: shifted in the image alone, offsets that are right for
  one view are wrong for another, and the focal length takes the difference (by 10 to 40 %).
* Points slide over the face with the view: the mean of people (`head.view_bias`) is part of the model.
* What is left of that is common to all points of a frame: "common", six numbers of each frame with a prior of one
  standard deviation (`view_bias.common_error_basis`). Landmarks alone keep their pose by it and learn how little they
  know of it; beside other evidence all of them give way together. It is there when the frame's unknowns have it.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.fit.observed import OPENINGS, LandmarkModel, ObservedLandmarks
from vht_jax.fit.terms.term import Linearised, Own
from vht_jax.fit.unknowns import At, Shared
from vht_jax.head import points as pts
from vht_jax.head import view_bias
from vht_jax.head.motion import product
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
HUBER = 2.5  # residuals beyond this many standard deviations count linearly
N_COMMON = 6


class Landmarks(flax.struct.PyTreeNode):
  """Every landmark beside its point of the head; knows the head, shape, camera and the points' offsets."""

  model: LandmarkModel

  def linearise(self, at: At, observation: ObservedLandmarks) -> Linearised:
    common = at.own.get("common")
    model, known = self.model, at.shared
    if observation.touching is not None:
      model, known = seen_alike(model, known, observation.touching)
    seen = predict_and_jacobian(model, at.placed(model.points), known, common)
    scale = observation.inverse_sd[:, None]
    residual = seen.off(observation.uv) * scale
    root, cost = robust(residual)
    scale = scale[..., None]
    frame = {"head": seen.d_x * scale}
    if common is not None:
      frame["common"] = product("nij,njk->nik", seen.by_head, model.common) * scale
    shared = {**{name: d * scale for name, d in seen.d_shared.items()}, "offset": Own(seen.by_head * scale)}
    return Linearised(residual, frame, shared, root, cost)


def seen_alike(model: LandmarkModel, shared: Shared, touching: Array) -> tuple[LandmarkModel, Shared]:
  """The detector's errors in a frame where points touch (7,): an upper lid or lip then errs as the lower one does.

  Offsets are those of open eyes: the detector may see them two millimetres narrower than they are, and shut ones shut.
  Where offsets are unknowns nothing touches: there is no derivative of an upper point by the lower one's offset.
  """
  upper, lower = OPENINGS.T

  def alike(errors: Array) -> Array:
    share = touching.reshape(-1, *[1] * (errors.ndim - 1))
    return errors.at[upper].add(share * (errors[lower] - errors[upper]))

  return (
    model.replace(slide=alike(model.slide), common=alike(model.common)),
    shared.replace(offset=alike(shared.offset)),
  )


class CommonError(flax.struct.PyTreeNode):
  """The prior of what a frame's landmarks have in common."""

  def linearise(self, at: At, observation: None = None) -> Linearised:
    del observation
    common = at.own["common"]
    return Linearised(common[:, None], {"common": jnp.eye(N_COMMON, dtype=common.dtype)[:, None]}, {})


def robust(residual: Array) -> tuple[Array, Array]:
  """Huber on the length of 2-vectors (N, 2): square roots of the IRLS weights (N,), and the cost ()."""
  square = jnp.sum(residual**2, -1)
  length = jnp.sqrt(square + 1e-12)
  inside = length < HUBER
  cost = jnp.where(inside, square, 2 * HUBER * length - HUBER**2)
  return jnp.sqrt(jnp.where(inside, 1.0, HUBER / length)), jnp.sum(cost)


def predict(model: LandmarkModel, x: Array, shared: Shared, common: Array | None = None) -> Array:
  """Where the detector should see the points, (N, 2) units of the longer side from the image centre.

  Args:
    x: (E + 14,) the unknowns of a frame.
    common: (6,) what its points have in common; None: nothing.
  """
  points, focal = model.points, jnp.exp(shared.log_focal)
  shaped, joints = pts.shaped_points(points, shared.shape, x[: -pts.N_POSE])
  X, (_, R) = pts.camera_points(points, shaped, joints, x[-pts.N_POSE :], focal, shared.principal)
  moved = _moved(model, shared, _sines(pts.POSE.split(x[-pts.N_POSE :]), focal, shared.principal), common)
  return pts.project(X + jnp.matmul(moved, R.T, precision=HIGHEST), focal, shared.principal)


def predict_and_jacobian(
  model: LandmarkModel, placed: pts.Placed, shared: Shared, common: Array | None = None
) -> pts.Seen:
  """`predict` of the model's points as they are placed, with its derivatives; those by the offsets are `by_head`."""
  beside = lambda sines: (_moved(model, shared, sines, common), model.slide)
  return view_bias.see_beside(model.points, placed, shared, beside)[0]


def view_of(x: Array, shared: Shared) -> Array:
  """(2,) sines of yaw and pitch under which a frame's head is seen."""
  return _sines(pts.POSE.split(x[-pts.N_POSE :]), jnp.exp(shared.log_focal), shared.principal)


def _sines(pose: dict[str, Array], focal: Array, principal: Array) -> Array:
  """(2,) of `view_bias.view`; the neck's small turn is left out."""
  R, t = pts.rigid(pose, focal, principal)
  return view_bias.view(R, t)


def _moved(model: LandmarkModel, shared: Shared, sines: Array, common: Array | None) -> Array:
  """(N, 3) m, head axes: where the detector sees the points minus where they are."""
  moved = shared.offset + view_bias.displacement(model.slide, sines)
  return moved if common is None else moved + jnp.matmul(model.common, common, precision=HIGHEST)
