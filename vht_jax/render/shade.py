"""Shading of what the rasteriser saw: attributes, textures and spherical harmonics lighting.

All functions take one frame; `vmap` over frames runs the lookups of all frames at once.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vht_jax.render.image import sample_bilinear
from vht_jax.render.interpolate import sample_corners, sample_corners_forward, sample_planes, sample_planes_forward
from vht_jax.types import Array, Fragments

# Real spherical harmonics up to degree 2, convolved with a clamped cosine (Ramamoorthi and Hanrahan 2001): the factors
# of [1, x, y, z, xy, xz, yz, x^2 - y^2, 3 z^2 - 1]. The cosine lobe is scaled to 1, 2 pi / 3, pi / 4 as in VHT.
SH_FACTORS = (
  1 / math.sqrt(4 * math.pi),
  *(3 * (2 * math.pi / 3 * math.sqrt(3 / (4 * math.pi)),)),
  *(3 * (math.pi / 4 * 3 * math.sqrt(5 / (12 * math.pi)),)),
  math.pi / 4 * 1.5 * math.sqrt(5 / (12 * math.pi)),
  math.pi / 4 * 0.5 * math.sqrt(5 / (4 * math.pi)),
)
# The lobe of a surface that reflects what arrives and no more, irradiance / pi: 1, 2 / 3, 1 / 4.
PHYSICAL_SH_FACTORS = (SH_FACTORS[0], *(f / math.pi for f in SH_FACTORS[1:]))
FORMULAS = ("vht", "lambert", "physical")


def interpolate(
  attributes: Float[Array, "V C"] | Float[Array, "F 3 C"],
  screen: Float[Array, "V 3"],
  faces: Int[Array, "F 3"],
  fragments: Fragments,
  *,
  forward_mode: bool = False,
) -> Float[Array, "H W C"]:
  """Perspective-correct attributes at the pixel centres.

  What is differentiated: the attribute and the triangle that a pixel centre lies in, with visibility held fixed.
  (VHT holds the barycentrics fixed as well: `interpolate_corners`.)

  Args:
    attributes: (V, C) per vertex or (F, 3, C) per face corner (UVs).
    screen: (V, 3) x px, y px, depth z m.
    faces: (F, 3) i32.
    fragments: of `rasterize`; only pix_to_face is used.
    forward_mode: static; plain operations that `jvp`, `jacfwd` and second derivatives can pass through. The default
      is 15-20x faster in reverse mode and supports only that.

  Returns:
    (H, W, C), 0 in the background.
  """
  if attributes.ndim == 3:
    corners = jnp.concatenate([screen[faces], attributes], axis=-1)
  else:
    corners = jnp.concatenate([screen, attributes], axis=-1)[faces]
  if forward_mode:
    return sample_planes_forward(corners, fragments.pix_to_face)
  return sample_planes(corners[None], fragments.pix_to_face[None])[0]


def interpolate_corners(
  attributes: Float[Array, "F 3 C"], fragments: Fragments, *, forward_mode: bool = False
) -> Float[Array, "H W C"]:
  """Corner attributes at the pixels, weighted by the fragments' barycentrics.

  Args:
    attributes: (F, 3, C) per face corner: UVs, or `vertex_attributes[faces]` (VHT's interpolation).
    fragments: of `rasterize`, whose barycentrics are constants, or of `differentiable_barycentrics`.
    forward_mode: as for `interpolate`.

  Returns:
    (H, W, C), 0 in the background; differentiable in `attributes`, with `forward_mode` also in the barycentrics.
  """
  bary, pix_to_face = fragments.bary_coords, fragments.pix_to_face
  if forward_mode:
    return sample_corners_forward(attributes, bary, pix_to_face)
  return sample_corners(attributes[None], jax.lax.stop_gradient(bary)[None], pix_to_face[None])[0]


def differentiable_barycentrics(
  fragments: Fragments, screen: Float[Array, "V 3"], faces: Int[Array, "F 3"]
) -> Fragments:
  """The same fragments with barycentrics that know how they move with the screen (V, 3): any mode and order.

  Which face a pixel sees stays as it is.
  """
  corners = jnp.broadcast_to(jnp.eye(3, dtype=screen.dtype), (faces.shape[0], 3, 3))
  bary = interpolate(corners, screen, faces, fragments, forward_mode=True)
  return fragments.replace(bary_coords=jnp.where(fragments.pix_to_face[..., None] >= 0, bary, -1.0))


def sample_texture(
  texture: Float[Array, "Ht Wt C"], uv: Float[Array, "*n 2"], *, forward_mode: bool = False
) -> Float[Array, "*n C"]:
  """Bilinear texture lookup, zero outside (`grid_sample`, align_corners=False).

  Args:
    texture: (Ht, Wt, C); row 0 is v = 1 (OBJ convention).
    uv: (..., 2) in [0, 1], v up.
    forward_mode: as for `interpolate`.

  Returns:
    (..., C), differentiable in both.
  """
  height, width = texture.shape[:2]
  xy = jnp.stack([uv[..., 0] * width, (1.0 - uv[..., 1]) * height], axis=-1)
  return sample_bilinear(texture, xy, forward_mode=forward_mode)


def spherical_harmonics(normals: Float[Array, "*n 3"], formula: str = "vht") -> Float[Array, "*n 9"]:
  """The 9 basis functions of the lighting at normals (..., 3) -> (..., 9); formula as for `shading`."""
  return jnp.stack(_harmonics(normals, formula), axis=-1)


def _harmonics(normals: Array, formula: str) -> list[Array]:
  """`spherical_harmonics`, each (...)."""
  _check(formula)
  factors = PHYSICAL_SH_FACTORS if formula == "physical" else SH_FACTORS
  x, y, z = normals[..., 0], normals[..., 1], normals[..., 2]
  basis = [jnp.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3.0 * z * z - 1.0]
  return [f * b for f, b in zip(factors, basis, strict=True)]


def turned_light(light: Float[Array, "9 3"], R: Float[Array, "3 3"]) -> Float[Array, "9 3"]:
  """(9, 3) the same light in a frame whose coordinates are R (3, 3) times those of the old one.

  shading(turned_light(light, R), R n) == shading(light, n) for every normal n: harmonics of one degree turn into each
  other, so nine directions determine the coefficients.
  """
  # Spread over the sphere (a golden spiral): the nine harmonics are independent there.
  k = np.arange(64) + 0.5
  z, turn = 1.0 - 2.0 * k / 64, np.pi * (1.0 + 5.0**0.5) * k
  normals = np.stack([np.sqrt(1.0 - z**2) * np.cos(turn), np.sqrt(1.0 - z**2) * np.sin(turn), z], -1)
  with jax.ensure_compile_time_eval():
    inverse = np.linalg.pinv(np.asarray(spherical_harmonics(jnp.asarray(normals))))  # (9, 64)
  product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  return product(jnp.asarray(inverse, light.dtype), shading(light, product(jnp.asarray(normals, light.dtype), R)))


def shading(light: Float[Array, "9 3"], normals: Float[Array, "*n 3"], formula: str = "vht") -> Float[Array, "*n 3"]:
  """Irradiance per colour channel, up to the scale of the formula.

  Args:
    light: (9, 3) coefficients; light[0] = sqrt(4 pi) and 0 elsewhere is a constant shading of 1.
    normals: (..., 3) unit, in the frame of the light (world).
    formula: see `shade`. With 'physical' the result is irradiance / pi and the coefficients are those of the
      surroundings' radiance in real, orthonormal spherical harmonics; with the others, VHT's, degrees 1 and 2 count
      pi times as much. Static.

  Returns:
    (..., 3), not clamped.

  Raises:
    ValueError: on another formula.
  """
  # Not a matrix product of nine images, which takes half of the time of a whole picture.
  rows = [row.reshape((1,) * (normals.ndim - 1) + (-1,)) for row in light]
  parts = [basis[..., None] * row for basis, row in zip(_harmonics(normals, formula), rows, strict=True)]
  return functools.reduce(jnp.add, parts)


def shade(albedo: Array, shading: Array, formula: str = "vht") -> Array:
  """Colour of a surface.

  Args:
    albedo: (..., 3) in [0, 1].
    shading: (..., 3).
    formula: 'vht', (albedo + 1) * shading - 1: VHT lights an albedo that it takes to be in [-1, 1]; 'lambert',
      albedo * shading, under the light of a VHT track; or 'physical', the same under light that is radiance
      (`shading`), which conserves energy: a track's light with its degrees 1 and 2 times pi. Static.

  Returns:
    (..., 3), not clamped.

  Raises:
    ValueError: on another formula.
  """
  _check(formula)
  return (albedo + 1.0) * shading - 1.0 if formula == "vht" else albedo * shading


def unshade(color: Array, shading: Array, formula: str = "vht") -> Array:
  """Inverse of `shade`: the albedo (..., 3) that shows as `color` under `shading` (at least 0.05 per channel)."""
  _check(formula)
  shading = jnp.maximum(shading, 0.05)
  return (color + 1.0) / shading - 1.0 if formula == "vht" else color / shading


def _check(formula: str) -> None:
  if formula not in FORMULAS:
    raise ValueError(f"shade: formula must be one of {', '.join(FORMULAS)}, got {formula!r}")
