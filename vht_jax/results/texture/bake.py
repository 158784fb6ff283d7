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

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.fit.pixels.surface import faces_within
from vht_jax.head import flame
from vht_jax.head.mouth import INSIDE, inside_mouth, lit_mouth
from vht_jax.host.programs import prefetched, rows_of, stored
from vht_jax.render.shade import interpolate_corners, shading, unshade
from vht_jax.render.uv_bake import rasterize_uv, texels_seen
from vht_jax.results.appearance import even_light, evenly_lit, lit
from vht_jax.results.texture.fill import PAINTED, filled, pushed_and_pulled
from vht_jax.tracking.protocols import Clip
from vht_jax.types import AnyArray, Array, FlameModel, Pose, Status, TrackResult

FIRST_ROUND = 64  # frames of the first round at most, spread over the clip
# Colour differences, of 1, at which a pixel counts half, in the first and second round. The fit's own colours lack all
# detail, and are off by .03 to .06 on real faces.
DOUBT = (0.12, 0.06)
OWN_DOUBT = (1.0, 0.12)  # the same of eyes and mouth, whose colours to begin with are the head's and not the person's
SHARPNESS = 4.0  # power of the cosine to the view
# Weight of a texel, in frames that look at it straight, at which half of its colour is the images': one frame is wrong
# by half of what texels differ from those around them.
SURE = 0.25
# Cosine to the view of a texel's best frame up to which it is not known, and from which on it is: a surface that is d
# beside its place is taken for one d tan(angle) away, 5 d at 78 and 1.7 d at 60 degrees.
GRAZING = (0.2, 0.5)
BESIDE = 0.006  # of the texture's side, over which a texel beside one that is hidden counts less: some 4 mm
DARKEST = 0.05  # least light inside a mouth that a colour is told from
_EXPOSURE = (0.5, 2.0)
_EXPOSURE_ROUNDS, _EVERY = 3, 4  # and every so many texels along either axis


def baked(
  model: FlameModel,
  clip: Clip,
  result: TrackResult,
  side: int,
  progress: Callable[[int], None] = lambda n: None,
  *,
  share: np.ndarray | None = None,
  most: int | None = None,
) -> TrackResult:
  """A result whose free albedo holds what all of its frames show.

  Args:
    model: the head.
    clip: of the result; its images are read once or twice.
    result: T frames; those that are not tracked are left out.
    side: texels per side.
    progress: told of every image that is looked at.
    share: (V,) how far colours become those of the images, elsewhere they stay as they are; None: everywhere.
    most: frames that are looked at, spread over the clip; None: all.

  Returns:
    `result` with `identity.texture_layer` (side, side, 3).
  """
  first, frames = _rounds(result, most)
  if not len(frames):
    return result
  identity, balls = result.identity, even_light(result.identity).astype(np.float32)[None, None]
  inside = inside_mouth(model).astype(np.float32)
  painted = (evenly_lit(model, identity) + 1.0) / balls - 1.0
  texels, kinds, base, usual, fitted = _texels(model, identity, painted.astype(np.float32), side)
  albedo = fitted
  for index, doubt in zip((first, frames), zip(DOUBT, OWN_DOUBT)):
    nothing = np.zeros((side, side), np.float32)
    sums, gains = (np.zeros((side, side, 3), np.float32), nothing, nothing), []
    for i, image in zip(index, prefetched(lambda i: clip.images([i])[0], index)):
      pose = rows_of(result.poses, np.asarray(i))
      sums, gain = _add(
        model, identity, texels, kinds, inside, balls, albedo, pose, image, np.array(doubt, np.float32), sums
      )
      gains.append(gain)
      progress(1)
    color, weight, best = (np.asarray(a) for a in sums)
    found = color / np.maximum(weight, 1e-6)[..., None]
    # At the median of the frames' exposures, as the clip is drawn; by the even light, which is near enough.
    found = (((found + 1.0) * balls - 1.0) / np.median(gains, axis=0) + 1.0) / balls - 1.0
    albedo = filled(model, texels, found, belief_of(weight, best, kinds.painted), np.asarray(usual))
  if share is not None:
    within = np.asarray(texels.pix_to_face >= 0, np.float32)
    known = np.repeat(np.asarray(_at_texels(model, texels, share)) * within[..., None], 3, axis=-1)
    # Beside the islands too, whose texels are looked up together with theirs.
    albedo = fitted + pushed_and_pulled(known, within) * (albedo - fitted)
  layer = jnp.asarray(albedo - np.asarray(base))
  return result.replace(identity=identity.replace(texture_layer=layer))


def n_looks(result: TrackResult, most: int | None = None) -> int:
  """How many images `baked` looks at, those that it looks at twice included."""
  return sum(map(len, _rounds(result, most)))


def _rounds(result: TrackResult, most: int | None) -> tuple[np.ndarray, np.ndarray]:
  """Positions of the frames of the first and the second round."""
  frames = np.flatnonzero(np.asarray(result.status) == Status.TRACKED)
  spread = lambda n: frames[np.linspace(0, max(len(frames) - 1, 0), min(len(frames), n)).round().astype(int)]
  last = spread(len(frames) if most is None else most)
  return spread(min(FIRST_ROUND, len(last))), last


def belief_of(weight: np.ndarray, best: np.ndarray, painted: AnyArray | bool = False) -> np.ndarray:
  """(N, N) in [0, 1] of the images' colours, by the weights of all frames (N, N) and the largest (N, N) of one.

  Many frames that see a texel at the same small angle are wrong alike, by as much as the outline is beside its place:
  their number does not make it known. Eyes and mouth are framed by lids and lips, and no outline of theirs is seen.
  """
  straight = np.clip((best ** (1 / SHARPNESS) - GRAZING[0]) / (GRAZING[1] - GRAZING[0]), 0.0, 1.0)
  return np.where(painted, 1.0, straight) * weight / (weight + SURE)


class Kinds(flax.struct.PyTreeNode):
  """What the texels of a texture (N, N) are of."""

  wanted: Array  # bool: what images show of them is
  painted: Array  # bool: eyes and what is inside the mouth
  eye: Array  # 1 on eyeballs
  groups: Array  # (F,) i32 of faces: skin, eyes, what is inside the mouth


@functools.partial(stored, static_argnames=("side",))
def _texels(model, identity, painted, side):
  """`rasterize_uv`, its `Kinds`, and albedos (side, side, 3): of the basis, usual ones, and those to begin with.

  Usual on skin is the mean of people. The clip's own code is not: it explains what is seen, and what it says of the
  back of a head, by components that are large there, nobody has asked for. Eyes are as they are `painted` (h, w, 3).
  """
  ahead = jnp.mean(model.v_template[model.faces, 2], axis=1)  # both halves of an eyeball lie on each other
  texels = rasterize_uv(model.uv, (side, side), 1.0 + jnp.max(ahead) - ahead)
  of = lambda faces: (texels.pix_to_face >= 0) & faces[jnp.maximum(texels.pix_to_face, 0)]
  eye, own = of(faces_within(model, flame.EYEBALLS)), of(faces_within(model, PAINTED))
  kinds = Kinds(
    wanted=of(~faces_within(model, ("eye_socket",))), painted=own, eye=eye[..., None].astype(jnp.float32),
    groups=jnp.where(faces_within(model, flame.EYEBALLS), 1, jnp.where(faces_within(model, INSIDE), 2, 0)),
  )  # fmt: skip
  base = model.texture_mean + jnp.matmul(model.texture_basis, identity.texture, precision=jax.lax.Precision.HIGHEST)
  fitted = flame.albedo(model, identity.texture, identity.texture_layer)
  large = (jax.image.resize(a, (side, side, 3), "linear") for a in (base, model.texture_mean, fitted, painted))
  base, mean, fitted, painted = large
  usual = jnp.where(own[..., None], base, mean)
  return texels, kinds, base, *(jnp.where(eye[..., None], painted, a) for a in (usual, fitted))


@stored
def _at_texels(model, texels, values):
  """Values (V,) of vertices at the texels (N, N, 1)."""
  return interpolate_corners(values[model.faces][..., None], texels)


@stored
def _add(model, identity, texels, kinds, inside, balls, albedo, pose: Pose, image, doubt, sums):
  """The weighted sums of albedo (side, side, 3) and weight (side, side), its maximum, and ONE frame more; its exposure.

  Inside the mouth a frame counts by the square of the light that is there, which is least squares of its colours.
  """
  image = image.astype(jnp.float32) / 255.0
  dark, vertices = lit_mouth(model, flame.skin(model, identity.shape, pose), inside)
  color, weight, normal = texels_seen(
    texels, vertices, model.faces, identity.camera, image, sharpness=SHARPNESS, groups=kinds.groups
  )
  beside = jnp.where(kinds.painted, 1.0, clear(weight > 0, texels.pix_to_face >= 0))
  dark = jnp.maximum(_at_texels(model, texels, dark), DARKEST)
  weight = jnp.where(kinds.wanted, weight, 0.0) * beside * dark[..., 0] ** 2
  light = shading(identity.light, normal)
  ball = light / balls
  expected = dark * lit((albedo + 1.0) * balls - 1.0, ball, kinds.eye)
  color, robust, gain = exposed(color, expected, weight, jnp.where(kinds.painted, doubt[1], doubt[0]))
  color = color / dark
  of_ball = (unshade(color, ball, "lambert") + 1.0) / balls - 1.0
  found = unshade(color, light) + kinds.eye * (of_ball - unshade(color, light))
  return (sums[0] + robust[..., None] * found, sums[1] + robust, jnp.maximum(sums[2], robust)), gain


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
  """A frame's colours (H, W, 3) at the exposure of what is expected (H, W, 3), what is left of their weight (H, W), and
  the exposure (3,).

  That is a factor per channel over some of the texels: by least squares at first, which black things before the face
  do not change, then the ratio of means (least squares find it too small, by the share of what is not explained) with
  the weights 1 / (1 + (difference / doubt)^2); doubt (H, W) or ().
  """
  doubt = jnp.broadcast_to(doubt, weight.shape)
  robust = lambda color, expected, weight, doubt: weight / (1.0 + jnp.mean((color - expected) ** 2, axis=-1) / doubt**2)
  every = lambda a: a[::_EVERY, ::_EVERY]
  some = every(color), every(expected), every(weight), every(doubt)
  gain = jnp.ones((1, 1, color.shape[-1]), color.dtype)
  for k in range(_EXPOSURE_ROUNDS):
    w = (some[2] if k == 0 else robust(some[0] * gain, *some[1:]))[..., None]
    w = w * some[0] if k == 0 else w
    total = lambda values: jnp.sum(w * values, axis=(0, 1), keepdims=True)
    gain = jnp.clip(total(some[1]) / jnp.maximum(total(some[0]), 1e-6), *_EXPOSURE)
  return color * gain, robust(color * gain, expected, weight, doubt), gain[0, 0]
