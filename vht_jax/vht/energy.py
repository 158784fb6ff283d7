"""VHT's energy: one function per term, all for one frame, and `energy`, which pools the terms of a batch as VHT does.

The total is

  w_lmk lmk + w_eyes_lmk eyes_lmk + w_photo photo + w_shape_reg shape_reg + w_expr_reg expr_reg + w_tex_reg tex_reg
  + w_eyes_sym eyes_sym + pos

with, over the F frames of the batch: landmark terms, expression, joint poses and eye symmetry averaged; photometric
residuals divided by the number of pixels of all frames together; the distance of the translations to their reference
*summed*. Pose regularisers act on the values before the tanh that bounds the angles, read as if they were axis-angle
vectors: that is what VHT minimises.

Visibility is decided beforehand (`visible_pixels`) and held fixed, as VHT does for the sub-steps of a step: `energy`
is differentiable in `Identity` and `RawPose`, in reverse mode.
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax import rotation
from vht_jax.cameras import project, screen_to_unit
from vht_jax.config import Weights
from vht_jax.head import flame
from vht_jax.host.machine import position
from vht_jax.render.image import sample_bilinear
from vht_jax.render.raster import rasterize
from vht_jax.render.shade import differentiable_barycentrics, interpolate_corners, sample_texture, shade, shading
from vht_jax.types import Array, FlameModel, Fragments, Identity, Observations, Pose, RawPose

TERMS = ("lmk", "eyes_lmk", "photo", "expr_reg", "shape_reg", "tex_reg", "pos", "eyes_sym")


class Pixels(flax.struct.PyTreeNode):
  """The pixels that the photometric term of one frame looks at, P of them; all constants of the optimisation."""

  fragments: Fragments  # of size (1, P)
  uv: Array  # (1, P, 2) where on the texture
  count: Array  # () f32, how many pixels the head covers; P may hold fewer (`pixel_budget`) or more (background)
  albedo: Array | None = None  # (1, P, 3) colour before shading, if the texture is not being optimised


def visible_pixels(
  model: FlameModel,
  identity: Identity,
  pose: Pose,
  size: tuple[int, int],
  *,
  scale: float = 1.0,
  budget: int = 0,
  phase: Array | float = 0.5,
  frozen: bool = True,
) -> Pixels:
  """Rasterises one frame for the photometric term.

  Args:
    model: the head, without the faces that are to be ignored.
    identity, pose: what to draw.
    size: (H, W) of the image in pixels; static.
    scale: the head is sampled at int(scale * size) pixels (VHT's sampling_scale); static.
    budget: use at most that many of the pixels that see the head, evenly spread; 0: all. Static.
    phase: () in [0, 1), which of the pixels a budget picks; another one in every step visits all of them in time.
    frozen: static; no gradient flows from the pixels. Otherwise the surface points move so as to stay at the pixels'
      centres, which derivatives of a whole optimisation have to know; which face a pixel sees is constant anyway.
  """
  fine = int(size[0] * scale), int(size[1] * scale)
  vertices = flame.skin(model, _shape_for(model, identity), pose)
  screen = project(identity.camera, vertices, size)
  screen = screen * jnp.array([[fine[1] / size[1], fine[0] / size[0], 1.0]], screen.dtype)
  fragments = rasterize(screen, model.faces, fine)
  if not frozen:
    fragments = differentiable_barycentrics(fragments, screen, model.faces)
  return pixels_of(model, fragments, budget=budget, phase=phase, frozen=frozen)


def pixels_of(
  model: FlameModel, fragments: Fragments, *, budget: int = 0, phase: Array | float = 0.5, frozen: bool = True
) -> Pixels:
  """`Pixels` of the (H, W) fragments of a rasteriser; arguments as for `visible_pixels`."""
  face = fragments.pix_to_face.reshape(-1)
  bary = fragments.bary_coords.reshape(-1, 3)
  zbuf = fragments.zbuf.reshape(-1)
  seen = face >= 0
  count = jnp.sum(seen, dtype=jnp.int32)
  if 0 < budget < face.shape[0]:
    # The slots take every (count / budget)-th visible pixel in scan order; all of them if they are few enough.
    stride = jnp.maximum(count.astype(jnp.float32) / budget, 1.0)
    slot = jnp.arange(budget, dtype=jnp.float32)
    rank = jnp.floor((slot + jnp.where(stride > 1.0, phase, 0.0)) * stride).astype(jnp.int32)
    pixel = position(jnp.cumsum(seen, dtype=jnp.int32), rank + 1)
    used = (rank < count) & (pixel < face.shape[0])
    pixel = jnp.where(used, pixel, 0)
    face = jnp.where(used, face[pixel], -1)
    bary = jnp.where(used[:, None], bary[pixel], -1.0)
    zbuf = jnp.where(used, zbuf[pixel], -1.0)
  picked = Fragments(pix_to_face=face[None], bary_coords=bary[None], zbuf=zbuf[None])
  uv = interpolate_corners(model.uv, picked, forward_mode=not frozen)
  return Pixels(fragments=picked, uv=uv, count=count.astype(bary.dtype))


def energy(
  model: FlameModel, identity: Identity, raw: RawPose, observations: Observations, targets: Array, pixels: Pixels,
  weights: Weights, *, reference: Array | None = None, screen_gradient: Array | None = None,
  forward_mode: bool = False,
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
  """VHT's total energy of a batch of F frames.

  Args:
    model: the head; it may have `identity.shape` folded in (`flame.with_identity`).
    identity: shared by the frames.
    raw: leading axis F.
    observations: leading axis F. A landmark without confidence, or of a frame that is not valid, does not count; the
      photometric term and the regularisers remain.
    targets: (F, H, W, 3) what the surface is compared with: the frames, possibly blurred.
    pixels: leading axis F, of `visible_pixels`.
    weights: traced.
    reference: (3,) or (F, 3) translation that a frame is drawn to, world, m: the previous frame's. None: the mean of
      the batch (VHT's keyframes).
    screen_gradient: () factor of the derivative of where a surface point is seen, None: 1; 0 gives VHT's gradient in
      the first sub-step after rasterising, which lacks it by accident (docs/parity.md).
    forward_mode: static; plain operations, through which second derivatives pass and derivatives by `pixels`. The
      default is much faster and differentiable once, in reverse mode.

  Returns:
    () total and the terms of `TERMS`, unweighted except for `pos`, which contains the w_pos_* (as VHT logs them).
  """
  weights = weights.of(raw.expr.dtype)
  texture = flame.albedo(model, identity.texture, identity.texture_layer) if pixels.albedo is None else None
  size = targets.shape[1], targets.shape[2]

  def frame(raw, observation, target, pixels):
    vertices = flame.skin(model, _shape_for(model, identity), flame.limit_pose(raw))
    lmk, eyes_lmk = landmark_energy(predict_landmarks(model, identity, raw, vertices, size), observation, size)
    if texture is not None:
      albedo = sample_texture(texture, pixels.uv, forward_mode=forward_mode)
    else:
      albedo = pixels.albedo
    screen = project(identity.camera, vertices, size)
    normals = flame.vertex_normals(vertices, model.faces)
    photo = photometric_energy(
      screen,
      normals,
      model.faces,
      pixels,
      albedo,
      identity.light,
      target,
      screen_gradient=screen_gradient,
      forward_mode=forward_mode,
    )
    return {
      "lmk": lmk,
      "eyes_lmk": eyes_lmk,
      "photo": photo,
      "expr_reg": squared_norm(raw.expr),
      "pos": joint_energy(raw, weights),
      "eyes_sym": eye_symmetry_energy(raw.eyes),
    }

  terms = jax.vmap(frame)(raw, observations, targets, pixels)
  absolute, n_values = terms.pop("photo")
  terms = {name: jnp.mean(value) for name, value in terms.items()}
  terms["photo"] = jnp.sum(absolute) / jnp.maximum(jnp.sum(n_values), 1.0)
  terms["shape_reg"] = squared_norm(identity.shape)
  terms["tex_reg"] = squared_norm(identity.texture)
  if reference is None:
    reference = jnp.mean(raw.translation, axis=0)
  reference = jnp.broadcast_to(reference, raw.translation.shape)
  terms["pos"] += weights.w_pos_trans * jnp.sum(jax.vmap(translation_energy)(raw.translation, reference))
  return total_energy(terms, weights), {name: terms[name] for name in TERMS}


def total_energy(terms: dict[str, Array], weights: Weights) -> Array:
  """The weighted sum of the terms of `TERMS`."""
  return (
    weights.w_lmk * terms["lmk"]
    + weights.w_eyes_lmk * terms["eyes_lmk"]
    + weights.w_photo * terms["photo"]
    + weights.w_shape_reg * terms["shape_reg"]
    + weights.w_expr_reg * terms["expr_reg"]
    + weights.w_tex_reg * terms["tex_reg"]
    + weights.w_eyes_sym * terms["eyes_sym"]
    + terms["pos"]
  )


def predict_landmarks(
  model: FlameModel, identity: Identity, raw: RawPose, vertices: Array, size: tuple[int, int]
) -> Array:
  """Where the detector should see the 70 landmarks of a posed head (V, 3) world: (70, 3) screen.

  `Identity.lmk_offset`, the detector's constant bias, turns with the head; it is 0 for VHT.
  """
  turn = rotation.axis_angle_to_matrix(raw.rotation)
  offset = jnp.matmul(identity.lmk_offset, turn.T, precision=jax.lax.Precision.HIGHEST)
  return project(identity.camera, flame.landmarks(model, vertices) + offset, size)


def landmark_energy(landmarks: Array, observation: Observations, size: tuple[int, int]) -> tuple[Array, Array]:
  """Mean L1 distance of the 68 landmarks and of the 2 irises, in units of half the image side along each axis.

  Args:
    landmarks: (70, 3) or (70, 2) screen px.
    observation: landmarks without confidence may hold anything, NaN included.
    size: (H, W) px; static.
  """
  confidence = jnp.where(observation.valid, observation.confidence, 0.0)
  counts = confidence > 0.0
  observed = jnp.where(counts[:, None], observation.landmarks, 0.0)
  distance = jnp.sum(jnp.abs(screen_to_unit(observed, size) - screen_to_unit(landmarks, size)), axis=-1)
  weighted = jnp.where(counts, distance * confidence, 0.0)
  return jnp.mean(weighted[:68]), jnp.mean(weighted[68:])


def photometric_energy(
  screen: Array,
  normals: Array,
  faces: Array,
  pixels: Pixels,
  albedo: Array,
  light: Array,
  target: Array,
  *,
  screen_gradient: Array | None = None,
  forward_mode: bool = False,
) -> tuple[Array, Array]:
  """L1 distance between the shaded surface and the image where the surface is seen.

  A pixel stands for the surface point at its barycentric coordinates, which are constants; the point's projection
  moves with the vertices and reads the image there. (VHT weights the *projected* corners with the perspective-correct
  barycentrics, so that the point starts up to 0.1 px away from the pixel centre; so does this.)

  Args:
    screen: (V, 3) projected vertices, px of the image.
    normals: (V, 3) world, unit.
    faces: (F, 3).
    pixels: what is seen.
    albedo: (1, P, 3) of the pixels.
    light: (9, 3).
    target: (H, W, 3) in [0, 1].
    screen_gradient, forward_mode: see `energy`.

  Returns:
    () sum of |rendered - observed| over the pixels and colour channels that the head covers, and () their number. A
    pixel budget scales the sum up to all pixels.
  """
  xy = screen[:, :2]
  if screen_gradient is not None:
    xy = _scale_gradient(xy, screen_gradient.astype(xy.dtype))
  corners = jnp.concatenate([xy, normals], axis=-1)[faces]
  surface = interpolate_corners(corners, pixels.fragments, forward_mode=forward_mode)
  rendered = shade(albedo, shading(light, surface[..., 2:]))
  observed = sample_bilinear(target, surface[..., :2], forward_mode=forward_mode)
  seen = pixels.fragments.pix_to_face >= 0
  absolute = jnp.sum(jnp.where(seen[..., None], jnp.abs(rendered - observed), 0.0))
  used = jnp.maximum(jnp.sum(seen, dtype=absolute.dtype), 1.0)
  return absolute * (pixels.count / used), pixels.count * target.shape[-1]


@jax.custom_vjp
def _scale_gradient(x: Array, factor: Array) -> Array:
  """x, whose cotangent is multiplied by `factor`; a derivative of that gradient still sees all of x."""
  return x


_scale_gradient.defvjp(lambda x, factor: (x, factor), lambda factor, ct: (factor * ct, jnp.zeros_like(factor)))


def squared_norm(code: Array) -> Array:
  """Regulariser of the shape, expression and texture codes, whose unit is a standard deviation."""
  return jnp.sum(jnp.square(code))


def joint_energy(raw: RawPose, weights: Weights) -> Array:
  """Weighted squared distances of the rotation matrices of neck, jaw and eyes to the neutral ones.

  The raw values before the tanh are taken for axis-angle vectors, those of the neutral pose as well: the closed jaw
  is a "rotation" by -1.24 (docs/parity.md, point 5).
  """
  neutral = neutral_raw(raw.neck.dtype)
  matrices, at_rest = (
    jax.vmap(rotation.axis_angle_to_matrix)(jnp.concatenate([neck[None], jaw[None], eyes]))
    for neck, jaw, eyes in ((raw.neck, raw.jaw, raw.eyes), (neutral["neck"], neutral["jaw"], neutral["eyes"]))
  )
  neck, jaw, *eyes = jnp.sum(jnp.square(matrices - at_rest), axis=(1, 2))
  return weights.w_pos_neck * neck + weights.w_pos_jaw * jaw + weights.w_pos_eyes * sum(eyes)


def eye_symmetry_energy(eyes: Array) -> Array:
  """Squared difference of the two eyes' raw values (2, 3)."""
  return jnp.sum(jnp.square(eyes[0] - eyes[1]))


def translation_energy(translation: Array, reference: Array) -> Array:
  """Squared distance of two translations (3,), m^2."""
  return jnp.sum(jnp.square(translation - reference))


def neutral_raw(dtype=jnp.float32) -> dict[str, Array]:
  """The values before the tanh that give angle 0: neck (3,), jaw (3,), eyes (2, 3). Only the jaw's x is not 0."""
  lower, upper = (float(side[0]) for side in flame.JOINT_LIMITS["jaw"])
  jaw = math.atanh(-2.0 * lower / (upper - lower) - 1.0)
  return {"neck": jnp.zeros(3, dtype), "jaw": jnp.array([jaw, 0.0, 0.0], dtype), "eyes": jnp.zeros((2, 3), dtype)}


def _shape_for(model: FlameModel, identity: Identity) -> Array:
  """The identity's shape, or (0,) for a model that has it folded in."""
  return identity.shape if model.shapedirs.shape[-1] else identity.shape[:0]
