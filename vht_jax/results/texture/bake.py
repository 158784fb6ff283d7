"""The images of all frames, projected into the head's texture.

The fit has seen some 24 keyframes through crops of 256 px and keeps their colours in 128 x 128 texels. Here every frame
counts with its own pixels: freckles, stubble and wrinkles come out as far as poses are exact. A frame's light is
divided out by the clip's light and an exposure of the frame's own; what disagrees with the texture so far (a hand, a
highlight, hair in the wind) counts less, by Cauchy's weight. So there are two rounds: the first against the fit's own
colours, which are smooth, the second against the first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.fit.terms.surface import explained_faces, faces_within
from vht_jax.head import flame
from vht_jax.host.programs import prefetched, rows_of, stored
from vht_jax.render.shade import shade, shading, unshade
from vht_jax.render.uv_bake import rasterize_uv, texels_seen
from vht_jax.results.appearance import EYEBALLS
from vht_jax.results.texture.fill import PAINTED, filled
from vht_jax.tracking.protocols import Clip
from vht_jax.types import AnyArray, Array, FlameModel, Pose, Status, TrackResult

FIRST_ROUND = 64  # frames of the first round at most, spread over the clip
# Colour differences, of 1, at which a pixel counts half, in the first and second round. The fit's own colours lack all
# detail, and are off by .03 to .06 on real faces.
DOUBT = (0.12, 0.06)
SHARPNESS = 4.0  # power of the cosine to the view
# Weight of a texel, in frames that look at it straight, at which half of its colour is the images': one frame is wrong
# by half of what texels differ from those around them.
SURE = 0.25
# Cosine to the view of a texel's best frame up to which it is not known, and from which on it is: a surface that is d
# beside its place is taken for one d tan(angle) away, 5 d at 78 and 1.7 d at 60 degrees.
GRAZING = (0.2, 0.5)
BESIDE = 0.006  # of the texture's side, over which a texel beside one that is hidden counts less: some 4 mm
_EXPOSURE = (0.5, 2.0)
_EXPOSURE_ROUNDS, _EVERY = 3, 4  # and every so many texels along either axis


def baked(
  model: FlameModel, clip: Clip, result: TrackResult, side: int, progress: Callable[[int], None] = lambda n: None
) -> TrackResult:
  """A result whose free albedo holds what all of its frames show.

  Args:
    model: the head.
    clip: of the result; its images are read once or twice.
    result: T frames; those that are not tracked are left out.
    side: texels per side.
    progress: told of every image that is looked at.

  Returns:
    `result` with `identity.texture_layer` (side, side, 3).
  """
  first, frames = _rounds(result)
  if not len(frames):
    return result
  texels, wanted, base, usual = _texels(model, result.identity.texture, side)
  albedo = _albedo(model, result.identity, side)
  for index, doubt in zip((first, frames), DOUBT):
    nothing = np.zeros((side, side), np.float32)
    sums = np.zeros((side, side, 3), np.float32), nothing, nothing
    for i, image in zip(index, prefetched(lambda i: clip.images([i])[0], index)):
      pose = rows_of(result.poses, np.asarray(i))
      sums = _add(model, result.identity, texels, wanted, albedo, pose, image, np.float32(doubt), sums)
      progress(1)
    color, weight, best = (np.asarray(a) for a in sums)
    found = color / np.maximum(weight, 1e-6)[..., None]
    albedo = filled(model, texels, found, belief_of(weight, best), np.asarray(usual))
  layer = jnp.asarray(albedo - np.asarray(base))
  return result.replace(identity=result.identity.replace(texture_layer=layer))


def n_looks(result: TrackResult) -> int:
  """How many images `baked` looks at, those that it looks at twice included."""
  return sum(map(len, _rounds(result)))


def _rounds(result: TrackResult) -> tuple[np.ndarray, np.ndarray]:
  """Positions of the frames of the first and the second round."""
  frames = np.flatnonzero(np.asarray(result.status) == Status.TRACKED)
  some = np.linspace(0, max(len(frames) - 1, 0), min(len(frames), FIRST_ROUND))
  return frames[some.round().astype(int)], frames


def belief_of(weight: np.ndarray, best: np.ndarray) -> np.ndarray:
  """(N, N) in [0, 1] of the images' colours, by the weights of all frames (N, N) and the largest (N, N) of one.

  Many frames that see a texel at the same small angle are wrong alike, by as much as the outline is beside its place:
  their number does not make it known.
  """
  straight = np.clip((best ** (1 / SHARPNESS) - GRAZING[0]) / (GRAZING[1] - GRAZING[0]), 0.0, 1.0)
  return straight * weight / (weight + SURE)


@functools.partial(stored, static_argnames=("side",))
def _texels(model, texture, side):
  """`rasterize_uv`, which texels (side, side) are wanted, the basis' albedo (side, side, 3), and what is usual.

  Usual on skin is the mean of people. The clip's own code is not: it explains what is seen, and what it says of the
  back of a head, by components that are large there, nobody has asked for.
  """
  texels = rasterize_uv(model.uv, (side, side))
  used = explained_faces(model) & ~faces_within(model, EYEBALLS)  # which turn, and lie in the shade of the lids
  wanted = (texels.pix_to_face >= 0) & used[jnp.maximum(texels.pix_to_face, 0)]
  base = model.texture_mean + jnp.matmul(model.texture_basis, texture, precision=jax.lax.Precision.HIGHEST)
  base, mean = (jax.image.resize(a, (side, side, 3), "linear") for a in (base, model.texture_mean))
  painted = faces_within(model, PAINTED)[jnp.maximum(texels.pix_to_face, 0)]
  return texels, wanted, base, jnp.where(painted[..., None], base, mean)


@functools.partial(stored, static_argnames=("side",))
def _albedo(model, identity, side):
  return jax.image.resize(flame.albedo(model, identity.texture, identity.texture_layer), (side, side, 3), "linear")


@stored
def _add(model, identity, texels, wanted, albedo, pose: Pose, image, doubt, sums):
  """The weighted sums of albedo (side, side, 3) and weight (side, side), its maximum, and ONE frame more."""
  vertices = flame.skin(model, identity.shape, pose)
  image = image.astype(jnp.float32) / 255.0
  color, weight, normal = texels_seen(texels, vertices, model.faces, identity.camera, image, sharpness=SHARPNESS)
  weight = jnp.where(wanted, weight, 0.0) * clear(weight > 0, texels.pix_to_face >= 0)
  light = shading(identity.light, normal)
  color, robust = exposed(color, shade(albedo, light), weight, doubt)
  return sums[0] + robust[..., None] * unshade(color, light), sums[1] + robust, jnp.maximum(sums[2], robust)


def clear(seen: Array, inside: Array) -> AnyArray:
  """(N, N) from 1 to 0 where texels (N, N) that are seen meet such that are not, of those inside the islands (N, N).

  The edge of what hides them is a little beside its place, and one of the pixels of an image; so is its shadow.
  """
  radius = max(round(BESIDE * seen.shape[0]), 1)
  window = 2 * radius + 1

  def mean(values):  # running sums along either axis: as fast for any radius
    for axis in (0, 1):
      pad = [(radius + 1, radius) if axis == k else (0, 0) for k in (0, 1)]
      total = jnp.cumsum(jnp.pad(values, pad), axis=axis)
      take = lambda a, b: jax.lax.slice_in_dim(total, a, b, axis=axis)
      values = (take(window, total.shape[axis]) - take(0, total.shape[axis] - window)) / window
    return values

  share = mean(seen.astype(jnp.float32)) / jnp.maximum(mean(inside.astype(jnp.float32)), 1e-6)
  return jnp.clip(2.0 * share - 1.0, 0.0, 1.0)


def exposed(color, expected, weight, doubt):
  """A frame's colours (H, W, 3) at the exposure of what is expected (H, W, 3), and what is left of their weight (H, W).

  The exposure is a factor per channel, by least squares with the weights 1 / (1 + (difference / doubt)^2) over some of
  the texels.
  """
  robust = lambda color, expected, weight: weight / (1.0 + jnp.mean((color - expected) ** 2, axis=-1) / doubt**2)
  some = color[::_EVERY, ::_EVERY], expected[::_EVERY, ::_EVERY], weight[::_EVERY, ::_EVERY]
  gain = jnp.ones((1, 1, color.shape[-1]), color.dtype)
  for k in range(_EXPOSURE_ROUNDS):
    w = (some[2] if k == 0 else robust(some[0] * gain, *some[1:]))[..., None]
    total = lambda values: jnp.sum(w * values, axis=(0, 1), keepdims=True)
    gain = jnp.clip(total(some[1] * some[0]) / jnp.maximum(total(some[0] ** 2), 1e-6), *_EXPOSURE)
  return color * gain, robust(color * gain, expected, weight)
