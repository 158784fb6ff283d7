"""Stages 3 and 4 by Gauss-Newton: the identity from the images of a few keyframes, then every pose from its image."""

from __future__ import annotations

import functools

import jax
import numpy as np

from vht_jax.app.record import pack, unpack
from vht_jax.fit import bundle, joint, photometric
from vht_jax.fit.photometric import Crop
from vht_jax.head import flame
from vht_jax.head import points as pts
from vht_jax.head.points import Shared
from vht_jax.host.programs import prefetched, rows_of, stored
from vht_jax.tracking.evidence.examine import mask_hidden
from vht_jax.tracking.frames import finite_rows, strayed
from vht_jax.tracking.stages.landmark_stage import LandmarkFit, pose_deviation
from vht_jax.types import Pose

# The bundle adjustment's own uncertainty does not know that a detector's bias depends on the view.
FOCAL_BIAS_SD = 0.1
IRIS_BELIEF = 0.7  # with 1 some real eyes are off by 2.4 % of the eye distance, with 0 rendered ones by 4 degrees
JOINT_STEPS = 2  # of the identity from all frames
FOREGROUND = 128  # of 255: a mask's value from which on a pixel is the person's
CROP_METRES = 0.28  # side of the crop at the head's distance


class PhotometricFit:
  """Stages 3 and 4; refines the unknowns of a `LandmarkFit` with the images."""

  def __init__(self, fit: LandmarkFit, clip):
    self.fit, self.clip, self.config = fit, clip, fit.config
    self.model = flame.without_lower_neck(fit.model) if fit.config.ignore_lower_neck else fit.model

  def crops(self, index: np.ndarray) -> Crop:
    """The heads of some frames; what a mask calls background is as unknown as what lies outside of the image."""
    xs, size = np.nan_to_num(self.fit.xs[index]), self.config.crop_size
    heads = zip(self.clip.images(index), xs)
    rgb, inside, scale, offset = zip(*(crop_head(image, x, size) for image, x in heads))
    masks = self.clip.masks(index) if hasattr(self.clip, "masks") else None
    if masks is not None:
      masks = [crop_head(np.repeat(mask[..., None], 3, -1), x, size)[0][..., 0] for mask, x in zip(masks, xs)]
      inside = [a * (mask >= FOREGROUND) for a, mask in zip(inside, masks)]
    for k, i in enumerate(index):
      mask_hidden(inside[k], self.clip.hidden[i], scale[k], offset[k], self.clip.size)
    f32 = lambda a: np.stack(a).astype(np.float32)
    return Crop(rgb=f32(rgb) / np.float32(255), inside=f32(inside), scale=f32(scale), offset=f32(offset))

  def fit_identity(self, progress) -> None:
    fit, config = self.fit, self.config
    index = fit.keyframes()
    progress.stage("identity", 1)
    surface = _surface(self.model, fit.shared.shape)
    fit.shared, fit.appearance, xs, pixels, cost, focal_sd = _fit_identity(
      surface,
      fit.lm,
      fit.shared,
      fit.appearance,
      rows_of(fit.tracks, index),
      self.crops(index),
      fit.xs[index],
      fit.weights,
      self.focal_prior(),
      np.float32(fit.pixels),
      config.n_samples,
      config.identity_steps,
    )
    fit.shared, fit.pixels = fit.held(fit.shared), float(pixels)
    if self.free:
      fit.focal_sd = float(focal_sd)
    fit.xs = np.array(fit.xs)
    fit.xs[index] = np.asarray(xs)
    self.identity_cost = np.asarray(cost)
    progress.advance(1, cost=float(self.identity_cost[-1]))

  def believed(self) -> Shared:
    """What the frames share, as their poses are estimated by it.

    Colours tell the detector's bias from the shape of the face: the bias is believed as far as they are. There is no
    shape to tell that of the irises from, but somebody may look aside throughout: it is believed at least by
    `IRIS_BELIEF`, lest the eyes turn instead.
    """
    offset = np.array(self.fit.shared.offset)
    belief = np.full((len(offset), 1), min(self.fit.pixels / float(self.fit.weights.photo_pixels), 1.0), np.float32)
    belief[68:70] = np.maximum(belief[68:70], IRIS_BELIEF)
    return self.fit.shared.replace(offset=offset * belief)

  def fit_jointly(self, progress) -> None:
    """Identity and camera from all frames at once, and all poses again; after `fit_frames`.

    A step that does not lower the energy of the clip is taken back and is the last.
    """
    fit, config = self.fit, self.config
    focal_prior = self.focal_prior()
    n, batch = len(fit.seen), config.batch_size
    valid = fit.seen & finite_rows(fit.xs)
    weights = fit.weights.replace(photo_pixels=fit.pixels)  # as in the identity stage
    last = None
    for k in range(JOINT_STEPS + 1):
      progress.stage("joint", n)
      surface, albedo = _coloured(self.model, fit.shared.shape, fit.appearance)
      total = None
      for start in range(0, n, batch):
        index = np.minimum(np.arange(start, start + batch), n - 1)
        counts = valid[index] & (np.arange(start, start + batch) < n)
        part = _reduce(
          surface, fit.lm, albedo, fit.appearance.light, fit.shared, rows_of(fit.tracks, index),
          self.crops(index), weights, np.nan_to_num(fit.xs[index]), counts, config.n_samples,
        )  # fmt: skip
        part = jax.tree.map(np.asarray, part)
        total = part if total is None else total + part
        progress.advance(min(batch, n - start))
      moved, cost, focal_sd = _shared_step(
        fit.lm, fit.shared, total, fit.weights, focal_prior, float(config.n_keyframes)
      )
      progress.advance(0, cost=float(cost))
      if last is not None and not float(cost) < last[0]:
        _, fit.shared, fit.xs, self.l1, fit.sd, fit.focal_sd = last
        return
      if k == JOINT_STEPS:
        return
      last = float(cost), fit.shared, fit.xs, self.l1, fit.sd, fit.focal_sd
      fit.shared = fit.held(moved)
      if self.free:
        fit.focal_sd = float(focal_sd)
      self.fit_frames(progress)

  @property
  def free(self) -> bool:
    """Whether the images may move the focal length: a head that hardly turns only seems to show it."""
    return self.fit.turns and self.fit.given()[0] is None

  def focal_prior(self) -> tuple[np.ndarray, ...]:
    """Mean and standard deviation of log focal in the stages with images: the landmarks' answer, or a known camera."""
    mean, sd = self.fit.landmark_focal
    if self.fit.known is not None:
      focal_sd, principal_sd = np.float32(bundle.HELD_SD)
      return np.float32(mean), focal_sd, self.fit.given()[1], principal_sd
    return np.float32(mean), np.float32(np.hypot(sd, FOCAL_BIAS_SD) if self.free else 2e-3)

  def state(self) -> dict[str, np.ndarray]:
    return {**self.fit.state(), "l1": self.l1}

  def restore(self, state: dict[str, np.ndarray]) -> None:
    self.fit.restore(state)
    self.l1 = state["l1"]

  def fit_frames(self, progress, checkpoint=None) -> None:
    fit, config = self.fit, self.config
    sequential = config.schedule == "sequential"
    n, batch = len(fit.seen), 1 if sequential else config.batch_size
    progress.stage("frames", n)
    surface, albedo, lm, shared = _person(self.model, fit.lm, fit.shared.shape, self.believed(), fit.appearance)
    weights = fit.weights.replace(photo_pixels=min(fit.pixels, float(fit.weights.frame_pixels)))
    done = checkpoint.load("frames") if checkpoint else {}
    xs, l1, sds = ([done["xs"]], [done["l1"]], [unpack(Pose, done, "sd")]) if done else ([], [], [])
    progress.advance(sum(map(len, xs)))
    starts = range(sum(map(len, xs)), n, batch)
    rows = lambda start: np.minimum(np.arange(start, start + batch), n - 1)
    for start, crops in zip(starts, prefetched(lambda start: self.crops(rows(start)), starts)):
      index = rows(start)
      x0 = fit.xs[index]
      if sequential and start > 0 and start not in config.cutframes:
        x0 = xs[-1][-1:]  # where the previous frame ended
      tracks, light = rows_of(fit.tracks, index), fit.appearance.light

      def solve(weights, x0):
        found = _fit_photometric(
          surface, lm, albedo, light, shared, tracks, crops, weights, x0, fit.camera(),
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
      if checkpoint and checkpoint.due():
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


@stored
def _surface(model, shape):
  return photometric.make_surface(model, shape)


@stored
def _coloured(model, shape, appearance):
  surface = photometric.make_surface(model, shape)
  return surface, photometric.albedo_map(surface, appearance)


@stored
def _person(model, lm, shape, believed, appearance):
  surface = photometric.fold_identity(photometric.make_surface(model, shape), shape)
  return surface, photometric.albedo_map(surface, appearance), *bundle.with_identity(lm, believed)


@functools.partial(stored, static_argnames=("n_samples", "outer_steps"))
def _fit_identity(
  surface, lm, shared, appearance, tracks, crops, xs, weights, focal_prior, pixels, n_samples, outer_steps
):
  return photometric.fit_identity(
    surface, lm, shared, appearance, tracks, crops, xs, weights, focal_prior, pixels,
    n_samples=n_samples, outer_steps=outer_steps,
  )  # fmt: skip


@functools.partial(stored, static_argnames=("n_samples",))
def _reduce(surface, lm, albedo, light, shared, tracks, crops, weights, xs, valid, n_samples):
  return joint.reduce_frames(surface, lm, albedo, light, shared, tracks, crops, weights, xs, valid, n_samples=n_samples)


@stored
def _shared_step(lm, shared, total, weights, focal_prior, n_independent):
  return joint.shared_step(lm, shared, total, weights, focal_prior, n_independent, 1e-3)


@functools.partial(stored, static_argnames=("n_samples", "outer_steps"))
def _fit_photometric(surface, lm, albedo, light, shared, tracks, crops, weights, x0, cam, n_samples, outer_steps):
  def one(tracks, crop, x):
    x, normal, difference = photometric.fit_frame(
      surface, lm, albedo, light, shared, tracks, crop, weights, x, n_samples=n_samples, outer_steps=outer_steps
    )
    sd = pose_deviation(lm.points, x, shared, cam, normal.matrix)
    return x, difference, sd

  return jax.vmap(one)(tracks, crops, x0)
