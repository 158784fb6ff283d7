"""Stages 3 and 4 by Gauss-Newton: the identity from the images of a few keyframes, then every pose from its image."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import bundle, flame, photometric
from vht_jax import points as pts
from vht_jax.checkpoint import pack, unpack
from vht_jax.photometric import Crop
from vht_jax.track.frames import finite_rows, strayed
from vht_jax.track.landmark_stage import LandmarkFit, pose_deviation
from vht_jax.types import Pose

# The bundle adjustment's own uncertainty does not know that a detector's bias depends on the view.
FOCAL_BIAS_SD = 0.1
CROP_METRES = 0.28  # side of the crop at the head's distance


class PhotometricFit:
  """Stages 3 and 4; refines the unknowns of a `LandmarkFit` with the images."""

  def __init__(self, fit: LandmarkFit, clip):
    self.fit, self.clip, self.config = fit, clip, fit.config
    self.model = flame.without_lower_neck(fit.model) if fit.config.ignore_lower_neck else fit.model

  def crops(self, index: np.ndarray) -> Crop:
    heads = zip(self.clip.images(index), np.nan_to_num(self.fit.xs[index]))
    rgb, inside, scale, offset = zip(*(crop_head(image, x, self.config.crop_size) for image, x in heads))
    f32 = lambda a: jnp.asarray(np.stack(a), jnp.float32)
    return Crop(rgb=f32(rgb) / 255.0, inside=f32(inside), scale=f32(scale), offset=f32(offset))

  def fit_identity(self, progress) -> None:
    fit, config = self.fit, self.config
    index = fit.keyframes()
    progress.stage("identity", 1)
    surface = _surface(self.model, fit.shared.shape)
    # A head that hardly turns does not show the focal length: its colours only seem to know.
    free = fit.turns and config.focal <= 0
    sd = np.hypot(fit.focal_sd, FOCAL_BIAS_SD) if free else 2e-3
    focal_prior = (fit.shared.log_focal, jnp.asarray(sd, jnp.float32))
    fit.shared, fit.appearance, xs, pixels, cost, focal_sd = _fit_identity(
      surface,
      fit.lm,
      fit.shared,
      fit.appearance,
      jax.tree.map(lambda a: a[index], fit.tracks),
      self.crops(index),
      jnp.asarray(fit.xs[index]),
      fit.weights,
      focal_prior,
      jnp.asarray(fit.pixels, jnp.float32),
      config.n_samples,
      config.identity_steps,
    )
    fit.pixels = float(pixels)
    if free:
      fit.focal_sd = float(focal_sd)
    fit.xs = np.array(fit.xs)
    fit.xs[index] = np.asarray(xs)
    self.identity_cost = np.asarray(cost)
    progress.advance(1, cost=float(cost[-1]))

  def fit_frames(self, progress, checkpoint) -> None:
    fit, config = self.fit, self.config
    sequential = config.schedule == "sequential"
    n, batch = len(fit.seen), 1 if sequential else config.batch_size
    progress.stage("frames", n)
    surface = photometric.fold_identity(_surface(self.model, fit.shared.shape), fit.shared.shape)
    lm, shared = bundle.with_identity(fit.lm, fit.shared)
    # Colours tell the detector's bias from the shape of the face: the bias is believed as far as they are.
    belief = min(fit.pixels / float(fit.weights.photo_pixels), 1.0)
    shared = shared.replace(offset=shared.offset * np.float32(belief))
    albedo = photometric.albedo_map(surface, fit.appearance)
    weights = fit.weights.replace(photo_pixels=min(fit.pixels, float(fit.weights.frame_pixels)))
    done = checkpoint.load("frames")
    xs, l1, sds = ([done["xs"]], [done["l1"]], [unpack(Pose, done, "sd")]) if done else ([], [], [])
    progress.advance(sum(map(len, xs)))
    for start in range(sum(map(len, xs)), n, batch):
      index = np.minimum(np.arange(start, start + batch), n - 1)
      x0 = fit.xs[index]
      if sequential and start > 0 and start not in config.cutframes:
        x0 = xs[-1][-1:]  # where the previous frame ended
      tracks, crops = jax.tree.map(lambda a: a[index], fit.tracks), self.crops(index)

      def solve(weights, x0):
        found = _fit_photometric(
          surface, lm, albedo, fit.appearance.light, shared, tracks, crops, weights, jnp.asarray(x0), fit.camera(),
          config.n_samples, config.frame_steps,
        )  # fmt: skip
        return jax.tree.map(np.array, found)

      x0 = np.where(finite_rows(x0)[:, None], x0, fit.xs[index])
      x, error, sd = guarded(solve, weights, x0, fit.xs[index], fit.seen[index])
      keep = min(batch, n - start)
      xs.append(x[:keep])
      l1.append(error[:keep])
      sds.append(jax.tree.map(lambda a: a[:keep], sd))
      progress.advance(keep, photometric_l1=float(np.nan_to_num(error[:keep]).mean()))
      if checkpoint.due():
        checkpoint.save("frames", pack(xs=np.concatenate(xs), l1=np.concatenate(l1), sd=_joined(sds)))
    fit.xs, self.l1, fit.sd = np.concatenate(xs), np.concatenate(l1), _joined(sds)


def guarded(
  solve, weights, x0: np.ndarray, landmark_fit: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Pose]:
  """`solve(weights, x0)` of a batch of frames; those that go astray once more, from their landmarks and damped.

  Damped: their colours count a tenth. The other frames keep what they have; what strays again is not a number.
  """
  x, error, sd = solve(weights, x0)
  bad = strayed(x, landmark_fit) & seen
  if bad.any():
    again, error_again, sd_again = solve(weights.replace(photo_pixels=weights.photo_pixels * 0.1), landmark_fit)
    x[bad], error[bad] = again[bad], error_again[bad]
    for rows, rows_again in zip(jax.tree.leaves(sd), jax.tree.leaves(sd_again)):
      rows[bad] = rows_again[bad]
    bad &= strayed(x, landmark_fit)
    x[bad], error[bad] = np.nan, np.nan
  return x, error, sd


def _joined(parts: list[Pose]) -> Pose:
  return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def crop_head(image: np.ndarray, x: np.ndarray, size: int):
  """The square around a head whose unknowns are about `x`: rgb, inside mask, and the map from unit coordinates."""
  import cv2

  height, width = image.shape[:2]
  side = max(height, width)
  place = x[-pts.N_POSE + 3 : -pts.N_POSE + 6]
  w = int(np.clip(CROP_METRES * np.exp(place[2]) * side, 16, 4 * side))
  x0, y0 = int(place[0] * side + width / 2 - w / 2), int(place[1] * side + height / 2 - w / 2)
  left, top, right, bottom = max(-x0, 0), max(-y0, 0), max(x0 + w - width, 0), max(y0 + w - height, 0)
  part = image[max(y0, 0) : max(y0 + w, 0), max(x0, 0) : max(x0 + w, 0)]
  mask = np.ones(part.shape[:2], np.uint8)
  if part.size == 0:
    part, mask = np.zeros((w, w, 3), np.uint8), np.zeros((w, w), np.uint8)
  elif left or top or right or bottom:
    part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_REPLICATE)
    mask = cv2.copyMakeBorder(mask, top, bottom, left, right, cv2.BORDER_CONSTANT)
  mode = cv2.INTER_AREA if w > size else cv2.INTER_LINEAR
  part, mask = (
    cv2.resize(part, (size, size), interpolation=mode),
    cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST),
  )
  k = size / w
  return part, mask, side * k, (np.array([width / 2 - x0, height / 2 - y0]) * k)


@jax.jit
def _surface(model, shape):
  return photometric.make_surface(model, shape)


@functools.partial(jax.jit, static_argnames=("n_samples", "outer_steps"))
def _fit_identity(
  surface, lm, shared, appearance, tracks, crops, xs, weights, focal_prior, pixels, n_samples, outer_steps
):
  return photometric.fit_identity(
    surface, lm, shared, appearance, tracks, crops, xs, weights, focal_prior, pixels,
    n_samples=n_samples, outer_steps=outer_steps,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("n_samples", "outer_steps"))
def _fit_photometric(surface, lm, albedo, light, shared, tracks, crops, weights, x0, cam, n_samples, outer_steps):
  def one(tracks, crop, x):
    x, normal = photometric.fit_frame(
      surface, lm, albedo, light, shared, tracks, crop, weights, x, n_samples=n_samples, outer_steps=outer_steps
    )
    sd = pose_deviation(lm.points, x, shared, cam, normal.matrix)
    return x, photometric.photometric_l1(surface, albedo, light, shared, crop, x), sd

  return jax.vmap(one)(tracks, crops, x0)
