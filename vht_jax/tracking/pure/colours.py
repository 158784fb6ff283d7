"""What images say by Gauss-Newton of a frame's pose, and of the person: the app's stages, with derivatives.

Landmarks, colours and priors are one cost, whose minimum is differentiated (`fit.frame.fit_frame_colours`, and of the
frames with what they share `fit.identity.fit_keyframes`). Constant are which square of the image is looked at, which
pixels of it and which triangles these see; all else has derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax import cameras
from vht_jax.config import TrackConfig, Weights
from vht_jax.fit import frame
from vht_jax.fit.clip import BundleResult
from vht_jax.fit.frame import ColourFit
from vht_jax.fit.identity import fit_keyframes
from vht_jax.fit.layer import Appearance
from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks
from vht_jax.fit.pixels.surface import Crop, Surface, fold_surface, make_surface
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled
from vht_jax.fit.terms.priors import HELD_SD
from vht_jax.fit.terms.term import Entry
from vht_jax.fit.unknowns import Shared, part, shared_of
from vht_jax.head import flame
from vht_jax.render import shade
from vht_jax.tracking.crops import FOREGROUND, square_of
from vht_jax.tracking.pure.requests import frames_with_face
from vht_jax.tracking.stages.frames import believed_offset
from vht_jax.tracking.stages.identity import FOCAL_BIAS_SD
from vht_jax.tracking.state import FIRST_PIXELS, plain_appearance
from vht_jax.types import Array, FlameModel, Identity, Observations, Stationary

HIGHEST = jax.lax.Precision.HIGHEST


class Painted(flax.struct.PyTreeNode):
  """A person whose look is known, folded: what all frames share."""

  surface: Surface
  model: LandmarkModel
  albedo: Array  # (Ht, Wt, 3)
  light: Array  # (9, 3) in the default world
  shared: Shared


def painted(
  model: FlameModel, lm: LandmarkModel, identity: Identity, weights: Weights, size: tuple[int, int]
) -> Painted:
  """The person of an identity, its detector's bias believed as far as beside colours (`stages.frames.believed`)."""
  shared = shared_of(identity, lm.points.template.shape[0], size)
  share = FIRST_PIXELS / jnp.maximum(weights.photo_pixels, FIRST_PIXELS)
  dtype = shared.offset.dtype
  shared = shared.replace(offset=believed_offset(shared.offset, jnp.asarray(share, dtype)))
  lm, folded = frame.fold_landmarks(lm.replace(common=jnp.zeros_like(lm.common)), shared)
  world = jnp.matmul(jnp.asarray(cameras.WORLD_TO_OPENCV, dtype), identity.camera.R, precision=HIGHEST)
  return Painted(
    surface=fold_surface(make_surface(model, shared.shape), shared.shape),
    model=lm,
    albedo=flame.albedo(model, identity.texture, identity.texture_layer),
    light=shade.turned_light(identity.light, world),
    shared=folded,
  )


class Person(flax.struct.PyTreeNode):
  """What images say of a person."""

  shared: Shared
  appearance: Appearance
  xs: Array  # (T, E + 14)
  distance: Stationary  # from the minima of the solves, the largest, those of the landmarks included


def fit_person(
  model: FlameModel, lm: LandmarkModel, observations: Observations, observed: ObservedLandmarks, begun: BundleResult,
  config: TrackConfig, weights: Weights, adjoint: Implicit | Unrolled, terms: Sequence[Entry] = (),
) -> Person:  # fmt: skip
  """Shape, camera, texture, light and the keyframes' poses (`config.data.keyframes`; none: all frames).

  Args:
    observations, observed, terms: leading axis T.
    begun: of their landmarks. The focal length stays near theirs.
  """
  count = begun.xs.shape[0]
  index = jnp.asarray(config.data.keyframes or range(count))
  pick = lambda tree: jax.tree.map(lambda a: a[index], tree)
  xs, seen = pick((begun.xs, frames_with_face(observations)))
  xs = jnp.where(seen[:, None], xs, 0.0)
  crop = lambda seen, x: crop_of(seen.rgb, seen.alpha, x, config.gauss_newton.crop_size)
  crops = jax.vmap(crop)(pick(observations), xs)
  crops = jax.vmap(unseen_without)(seen, crops)
  focal, dtype = begun.shared.log_focal, xs.dtype
  prior: tuple[Array, ...] = (focal, jnp.asarray(HELD_SD[0] if config.camera.focal else FOCAL_BIAS_SD, dtype))
  if config.camera.calibrated:
    prior = (*prior, jnp.zeros(2, dtype), jnp.asarray(HELD_SD[1], dtype))
  plain = jax.tree.map(jnp.asarray, plain_appearance(model.texture_basis.shape[-1], dtype))
  shared, appearance, xs, _, _, _, distance = fit_keyframes(
    make_surface(model, begun.shared.shape), lm.replace(common=jnp.zeros_like(lm.common)), begun.shared, plain,
    pick(observed), crops, xs, weights, prior, jnp.asarray(FIRST_PIXELS, dtype),
    n_samples=config.gauss_newton.n_samples, outer_steps=config.gauss_newton.identity_steps,
    more=[(term, pick(rows)) for term, rows in terms], adjoint=adjoint,
  )  # fmt: skip
  assert begun.distance is not None  # with an adjoint
  frames = begun.distance.frames.at[index].max(distance.frames)
  distance = Stationary(frames=frames, shared=jnp.maximum(begun.distance.shared, distance.shared))
  return Person(shared, appearance, begun.xs.at[index].set(xs), distance)


def fit_colours(
  person: Painted, observation: Observations, observed: ObservedLandmarks, x: Array, config: TrackConfig,
  weights: Weights, adjoint: Implicit | Unrolled, terms: Sequence[Entry] = (),
) -> ColourFit:  # fmt: skip
  """The pose of one frame.

  Args:
    observation: one frame, and `observed` its landmarks in the units of the fit.
    x: (E + 14,) where the landmarks place the head. Of a frame without a face it does not matter, nor does its image.
    terms: beside these, of this frame; they know the shape (`OfPerson`).
  """
  seen = frames_with_face(observation)
  x = jnp.where(seen, x, 0.0)
  crop = unseen_without(seen, crop_of(observation.rgb, observation.alpha, x, config.gauss_newton.crop_size))
  weights = weights.replace(photo_pixels=jnp.where(seen, weights.frame_pixels, 0.0))
  return frame.fit_frame_colours(
    person.surface, person.model, person.albedo, person.light, person.shared, observed, crop, weights, x,
    n_samples=config.gauss_newton.n_samples, outer_steps=config.gauss_newton.frame_steps, adjoint=adjoint, more=terms,
  )  # fmt: skip


def crop_of(rgb: Array, alpha: Array | None, x: Array, side: int) -> Crop:
  """The square round a head whose unknowns are about x, in `side` px (`tracking.crops.crop_head`): linear in the image.

  Where it lies is in whole pixels and has no derivative. What a mask calls background is as unknown as what lies
  outside of the image.

  Args:
    rgb: (H, W, 3) in [0, 1].
    alpha: (H, W) in [0, 1] or None.
  """
  height, width = rgb.shape[:2]
  left, top, w = square_of(jax.lax.stop_gradient(part(x, "place")), (height, width))
  by_x, there_x = _resampled(width, left, w, side)
  by_y, there_y = _resampled(height, top, w, side)
  shrink = lambda image: jnp.einsum("ih,hwc,jw->ijc", by_y, image, by_x, precision=HIGHEST)
  inside = there_y[:, None] * there_x[None]
  if alpha is not None:
    known = shrink(jax.lax.stop_gradient(alpha)[..., None])[..., 0] >= FOREGROUND / 255
    inside = inside * known.astype(inside.dtype)
  offset = jnp.stack([0.5 * width - left, 0.5 * height - top]) * (side / w)
  return Crop(rgb=shrink(rgb), inside=inside, scale=max(height, width) * side / w, offset=offset)


def unseen_without(seen: Array, crop: Crop) -> Crop:
  """The crop of a frame; of one that is not `seen` () bool nothing counts, whatever numbers its image has."""
  return crop.replace(rgb=jnp.where(seen, crop.rgb, 0.0), inside=jnp.where(seen, crop.inside, 0.0))


def _resampled(n: int, start: Array, length: Array, side: int) -> tuple[Array, Array]:
  """(side, n) the linear map from n pixels to `side` that cover `length` of them from `start` on, each the mean of what
  it covers; beyond the ends what is there goes on. And (side,), 1 for those that lie within."""
  dtype = start.dtype
  each = length / side
  at = start + (jnp.arange(side, dtype=dtype) + 0.5) * each - 0.5
  reach = jnp.maximum(each, 1.0)
  distance = jnp.abs(jnp.clip(at, 0.0, n - 1.0)[:, None] - jnp.arange(n, dtype=dtype)[None])
  weight = jnp.maximum(1.0 - distance / reach, 0.0)
  inside = (at >= -0.5) & (at <= n - 0.5)
  return weight / jnp.sum(weight, axis=1, keepdims=True), inside.astype(dtype)
