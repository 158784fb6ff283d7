"""The identity from every frame of a clip at once: a Gauss-Newton step whose memory does not grow with the clip.

Frames share shape, focal length and principal point. Near the solution a frame's energy in its own unknowns x and the
shared ones s is a quadratic; minimised over x it leaves one in s alone (the Schur complement), and these add up.
So a clip is walked through in batches of frames of which only the sum is kept, the shared step is one small solve, and
the frames follow by being solved again. Texture, light and the detector's bias are held.

Frames are not independent: what the model does not know about a face (its hair, its highlights, its landmarks' bias) is
the same in all of them. So the sum is scaled to what a few frames would say, however long the clip is.
"""

from __future__ import annotations

import operator

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.config import Weights
from vht_jax.fit import bundle, photometric
from vht_jax.fit.bundle import LandmarkModel, Tracks
from vht_jax.fit.least_squares import ArrowNormal, damped_cholesky, eliminate_frames
from vht_jax.fit.photometric import Crop, Surface
from vht_jax.head.points import Shared
from vht_jax.render import shade
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class Reduced:
  """The energy of some frames as a quadratic of the shared unknowns [shape, log focal, principal], poses minimised."""

  cost: Array  # ()
  gradient: Array  # (S + 3,)
  matrix: Array  # (S + 3, S + 3)
  count: Array  # () frames

  def __add__(self, other: Reduced) -> Reduced:
    return jax.tree.map(operator.add, self, other)


def reduce_frames(
  surface: Surface, model: LandmarkModel, albedo: Array, light: Array, shared: Shared, tracks: Tracks,
  crops: Crop | None, weights: Weights, xs: Array, valid: Array, *, n_samples: int,
) -> Reduced:  # fmt: skip
  """Landmarks, colours and priors of F frames, their poses eliminated.

  Args:
    surface, model: of the unfolded head.
    albedo: (Ht, Wt, 3) map of the clip; light: (9, 3).
    tracks, crops, xs, valid: leading axis F; without `crops` the landmarks alone count. Frames that are not `valid`
      count nothing.
    n_samples: pixels per frame, static.
  """
  n_shape = model.points.shapedirs.shape[-1]
  m = n_shape + 3

  def one(args):
    x, track, crop, ok = args
    x = jnp.where(ok, x, 0.0)
    residual, d_x, d_shared, _, cost = bundle._whitened(model, x, shared, track)
    J, G, r = d_x.reshape(-1, x.shape[0]), d_shared.reshape(-1, m), residual.reshape(-1)
    prior = bundle.frame_prior(model, x, weights)
    mul = lambda a, b: jnp.matmul(a.T, b, precision=HIGHEST)
    normal = (cost + prior.cost, mul(J, r) + prior.gradient, mul(J, J) + prior.matrix, mul(J, G), mul(G, r), mul(G, G))
    if crop is not None:
      samples = photometric.sample_pixels(surface, x, shared, crop, n_samples, weights.photo_pixels)
      colors = shade.sample_texture(albedo, samples.uv)
      gain = photometric.estimate_gain(samples, colors, light, weights)
      image9 = photometric.with_gradient(crop.rgb) / gain
      res = photometric.residuals(samples, colors, light, x, shared, crop, image9, weights)
      J, G, r = res.d_x.reshape(-1, x.shape[0]), res.d_shared.reshape(-1, m), res.r.reshape(-1)
      photo = (res.cost, mul(J, r), mul(J, J), mul(J, G), mul(G, r), mul(G, G))
      normal = jax.tree.map(jnp.add, normal, photo)
    cost, g, H, C, gs, Hs = normal
    arrow = ArrowNormal(cost, g[None], H[None], C[None], gs, Hs)
    _, solved, matrix, gradient = eliminate_frames(arrow, jnp.zeros((), x.dtype))
    # What the frame gains by moving to its minimum belongs to the constant.
    cost = cost - jnp.sum(solved[..., -1] ** 2)
    found = Reduced(cost, gradient, matrix, jnp.ones((), x.dtype))
    fine = ok & jnp.isfinite(cost) & jnp.all(jnp.isfinite(matrix)) & jnp.all(jnp.isfinite(gradient))
    return jax.tree.map(lambda a: jnp.where(fine, a, 0.0), found)

  return jax.tree.map(lambda a: jnp.sum(a, axis=0), jax.lax.map(one, (xs, tracks, crops, valid)))


def shared_step(
  model: LandmarkModel, shared: Shared, total: Reduced, weights: Weights, focal_prior: tuple[Array, ...],
  n_independent: float | Array, damping: float | Array,
):  # fmt: skip
  """The shared unknowns after one damped Gauss-Newton step on the whole clip.

  Args:
    total: sum over the clip.
    focal_prior: mean and standard deviation of log focal, and of the principal point if it is known
      (`bundle.camera_prior`).
    n_independent: () a clip counts for at most so many frames.
    damping: () Marquardt's, relative to the diagonal.

  Returns:
    `Shared` after the step; the energy at the start (); the standard deviation of log focal ().
  """
  n_shape = shared.shape.shape[0]
  scale = jnp.minimum(n_independent / jnp.maximum(total.count, 1.0), 1.0)
  flat = jnp.concatenate([shared.shape, shared.log_focal[None], shared.principal])
  camera, camera_precision = bundle.camera_prior(focal_prior, flat.dtype)
  mean = jnp.zeros_like(flat).at[n_shape:].set(camera)
  precision = jnp.concatenate([jnp.ones(n_shape, flat.dtype) * weights.w_identity, camera_precision])
  size = jnp.concatenate([model.size_gradient, jnp.zeros(3, flat.dtype)]) / weights.sd_size
  size_residual = jnp.sum(size * flat)
  matrix = scale * total.matrix + jnp.diag(precision) + jnp.outer(size, size)
  gradient = scale * total.gradient + precision * (flat - mean) + size * size_residual
  step = -jax.scipy.linalg.cho_solve((damped_cholesky(matrix, damping), True), gradient)
  step = jnp.where(jnp.all(jnp.isfinite(step)), step, 0.0)
  flat_new = flat + step
  cost = scale * total.cost + jnp.sum(precision * (flat - mean) ** 2) + size_residual**2
  moved = shared.replace(
    shape=flat_new[:n_shape], log_focal=flat_new[n_shape], principal=flat_new[n_shape + 1 : n_shape + 3]
  )
  return moved, cost, bundle.focal_deviation(matrix, n_shape)
