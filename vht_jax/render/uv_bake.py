"""Textures from images: the surface drawn in UV space, and what the frames show projected into it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from vht_jax.cameras import project, world_to_camera
from vht_jax.head import flame
from vht_jax.render.image import sample_bilinear
from vht_jax.render.raster import rasterize
from vht_jax.render.shade import interpolate_corners, shading, unshade
from vht_jax.types import Array, Camera, Fragments


def rasterize_uv(
  uv: Float[Array, "F 3 2"], size: tuple[int, int], depth: Float[Array, " F"] | None = None
) -> Fragments:
  """Which point of the surface each texel shows.

  Args:
    uv: (F, 3, 2) texture coordinates of the face corners in [0, 1], v up; either winding.
    size: (Ht, Wt) of the texture, static.
    depth: (F,) above 0; where islands overlap the face with the least one wins. None: the lowest face.

  Returns:
    `Fragments` of size (Ht, Wt); row 0 is v = 1.
  """
  height, width = size
  u, v = uv[..., 0], uv[..., 1]
  depth = jnp.ones_like(u) if depth is None else jnp.broadcast_to(depth[:, None], u.shape)
  corners = jnp.stack([u * width, (1.0 - v) * height, depth], axis=-1).reshape(-1, 3)
  faces = jnp.arange(corners.shape[0], dtype=jnp.int32).reshape(-1, 3)
  return rasterize(corners, faces, size, cull_backfaces=False)


def bake_texture(
  vertices: Float[Array, "T V 3"],
  faces: Int[Array, "F 3"],
  uv: Float[Array, "F 3 2"],
  camera: Camera,
  images: Float[Array, "T H W C"],
  size: tuple[int, int],
  *,
  light: Float[Array, "9 3"] | None = None,
  formula: str = "vht",
  sharpness: float = 4.0,
  depth_tolerance: float = 4e-3,
) -> tuple[Float[Array, "Ht Wt C"], Float[Array, "Ht Wt"]]:
  """The texture that a tracked clip shows.

  Every texel is looked up in every frame in which its point of the surface is in front, and the colours are averaged
  with the weight cos(angle between normal and view)^sharpness.

  Args:
    vertices: (T, V, 3) world, m, the mesh in each frame.
    faces: (F, 3) i32.
    uv: (F, 3, 2), v up.
    camera: the camera.
    images: (T, H, W, C).
    size: (Ht, Wt) of the texture, static.
    light: (9, 3); if given the shading is divided out (`shade.unshade`) and the result is an albedo.
    formula: see `shade.shade`; static.
    sharpness: how much frontal views are preferred, traced.
    depth_tolerance: m, how far behind the depth buffer a point still counts as seen; traced.

  Returns:
    texture (Ht, Wt, C), 0 where nothing is seen, and the summed weights (Ht, Wt).
  """
  texels = rasterize_uv(uv, size)

  def accumulate(sums, frame):
    v, picture = frame
    color, weight, normal = texels_seen(
      texels, v, faces, camera, picture, sharpness=sharpness, depth_tolerance=depth_tolerance
    )
    if light is not None:
      color = unshade(color, shading(light, normal, formula), formula)
    return (sums[0] + weight[..., None] * color, sums[1] + weight), None

  init = jnp.zeros((*size, images.shape[-1]), images.dtype), jnp.zeros(size, images.dtype)
  (color, weight), _ = jax.lax.scan(accumulate, init, (vertices, images))
  return color / jnp.maximum(weight, 1e-6)[..., None] * (weight > 1e-6)[..., None].astype(color.dtype), weight


def texels_seen(
  texels: Fragments,
  vertices: Float[Array, "V 3"],
  faces: Int[Array, "F 3"],
  camera: Camera,
  image: Float[Array, "H W C"],
  *,
  sharpness: float = 4.0,
  depth_tolerance: float = 4e-3,
  groups: Int[Array, " F"] | None = None,
) -> tuple[Float[Array, "Ht Wt C"], Float[Array, "Ht Wt"], Float[Array, "Ht Wt 3"]]:
  """What ONE frame shows of the texels.

  Args:
    texels: of `rasterize_uv`.
    vertices: (V, 3) world, m.
    faces, camera, sharpness, depth_tolerance: as for `bake_texture`.
    image: (H, W, C).
    groups: number of the group that each face is of: a texel is seen only where the image sees one of the same. For
      what lies closer behind something else than the tolerance, as eyes behind lids.

  Returns:
    colour (Ht, Wt, C) of the image at every texel, its weight cos(angle between normal and view)^sharpness (Ht, Wt), 0
    where another surface or nothing is seen, and the normals (Ht, Wt, 3), world.
  """
  height, width = image.shape[:2]
  seen = rasterize(project(camera, vertices, (height, width)), faces, (height, width))
  normals = flame.vertex_normals(vertices, faces)
  corners = jnp.concatenate([vertices, normals], -1)[faces]
  point, normal = jnp.split(interpolate_corners(corners, texels), [3], axis=-1)
  normal = normal / jnp.maximum(jnp.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)

  screen = project(camera, point, (height, width))
  pixel = jnp.clip(jnp.nan_to_num(jnp.floor(screen[..., :2])), -1.0, float(max(height, width))).astype(jnp.int32)
  inside = jnp.all((pixel >= 0) & (pixel < jnp.array([[[width, height]]])), axis=-1)
  pixel = jnp.where(inside[..., None], pixel, 0)
  depth = seen.zbuf[pixel[..., 1], pixel[..., 0]]
  visible = (texels.pix_to_face >= 0) & inside & (depth > 0) & (screen[..., 2] <= depth + depth_tolerance)

  if groups is not None:
    behind = seen.pix_to_face[pixel[..., 1], pixel[..., 0]]
    visible = visible & (groups[jnp.maximum(behind, 0)] == groups[jnp.maximum(texels.pix_to_face, 0)])

  to_camera = -world_to_camera(camera, point)
  to_camera = to_camera / jnp.maximum(jnp.linalg.norm(to_camera, axis=-1, keepdims=True), 1e-6)
  normal_camera = jnp.matmul(normal, camera.R.T, precision=jax.lax.Precision.HIGHEST)
  cosine = jnp.maximum(jnp.sum(normal_camera * to_camera, axis=-1), 0.0)
  return sample_bilinear(image, screen[..., :2]), jnp.where(visible, cosine**sharpness, 0.0), normal
