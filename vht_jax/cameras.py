"""The camera: projection, and every axis flip and pixel convention of the package in one place.

Frames of reference are described in `types`. PyTorch3D's view frame (x left, y up) is our world frame; OpenCV's
(x right, y down) is our camera frame; OpenGL's (x right, y up, z backwards) is offered for exporters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from vht_jax.types import AnyArray, Array, Camera

# world (PyTorch3D view: x left, y up, z in) -> camera (OpenCV: x right, y down, z in): half a turn about z.
WORLD_TO_OPENCV = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
OPENCV_TO_OPENGL = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
# A camera that nothing is known of, in longer sides: portraits have 1.65, times or by 1.4.
LOG_FOCAL_MEAN, LOG_FOCAL_SD = 0.5, 0.35
PRINCIPAL_SD = 0.01  # of the principal point about the image's centre


def make_camera(
  focal: Shaped[AnyArray, ""] | float,
  principal: Shaped[AnyArray, " 2"] | tuple[float, float] = (0.5, 0.5),
  R: Shaped[AnyArray, "3 3"] | None = None,
  T: Shaped[AnyArray, " 3"] | None = None,
) -> Camera:
  """A `Camera` with default extrinsics (the world seen from its origin).

  Args:
    focal: () focal length in units of the longer image side.
    principal: (2,) principal point (cx / W, cy / H), from the top left.
    R, T: (3, 3), (3,) world -> OpenCV camera; defaults to `WORLD_TO_OPENCV`, 0.
  """
  return Camera(
    focal=jnp.asarray(focal, jnp.float32),
    principal=jnp.asarray(principal, jnp.float32),
    R=jnp.asarray(WORLD_TO_OPENCV if R is None else R, jnp.float32),
    T=jnp.asarray((0.0, 0.0, 0.0) if T is None else T, jnp.float32),
  )


def intrinsics(camera: Camera, size: tuple[int, int]) -> Float[Array, "3 3"]:
  """OpenCV's (3, 3) pixel matrix for an image of `size` = (H, W); pixel centres at i + 0.5."""
  height, width = size
  f = camera.focal * max(height, width)
  zero, one = jnp.zeros_like(f), jnp.ones_like(f)
  cx, cy = camera.principal[0] * width, camera.principal[1] * height
  return jnp.stack([jnp.stack([f, zero, cx]), jnp.stack([zero, f, cy]), jnp.stack([zero, zero, one])])


def world_to_camera(camera: Camera, points: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
  """(..., 3) world m -> (..., 3) OpenCV camera m."""
  rotated = jnp.matmul(points, camera.R.T, precision=jax.lax.Precision.HIGHEST)
  return rotated + jnp.broadcast_to(camera.T, points.shape)


def project(camera: Camera, points: Float[Array, "*n 3"], size: tuple[int, int]) -> Float[Array, "*n 3"]:
  """Perspective projection of world points.

  Args:
    camera: the camera.
    points: (..., 3) world, m.
    size: (H, W) of the image in pixels.

  Returns:
    (..., 3): x px, y px (origin top left, pixel centres at i + 0.5) and depth z m. Points at or behind the camera keep
    their z (<= 0), by which the rasteriser drops them; their x, y are finite but meaningless.
  """
  height, width = size
  p = world_to_camera(camera, points)
  z = p[..., 2]
  inv_z = 1.0 / jnp.where(z > 1e-6, z, 1.0)
  f = camera.focal * max(height, width)
  x = f * p[..., 0] * inv_z + camera.principal[0] * width
  y = f * p[..., 1] * inv_z + camera.principal[1] * height
  return jnp.stack([x, y, z], axis=-1)


def screen_to_unit(xy: Float[Array, "*n 2"], size: tuple[int, int]) -> Float[Array, "*n 2"]:
  """Screen px -> [-1, 1] per axis by its own length (VHT's landmark residuals; `grid_sample` coordinates)."""
  height, width = size
  return jnp.stack([xy[..., 0] * (2.0 / width), xy[..., 1] * (2.0 / height)], axis=-1) - 1.0


def screen_to_ndc(xy: Float[Array, "*n 2"], size: tuple[int, int]) -> Float[Array, "*n 2"]:
  """Screen px -> PyTorch3D's NDC: x left, y up, the shorter side spans [-1, 1]."""
  height, width = size
  scale = 2.0 / min(height, width)
  return jnp.stack([(width / 2 - xy[..., 0]) * scale, (height / 2 - xy[..., 1]) * scale], axis=-1)


def ndc_to_screen(ndc: Float[Array, "*n 2"], size: tuple[int, int]) -> Float[Array, "*n 2"]:
  """Inverse of `screen_to_ndc`."""
  height, width = size
  scale = min(height, width) / 2.0
  return jnp.stack([width / 2 - ndc[..., 0] * scale, height / 2 - ndc[..., 1] * scale], axis=-1)


def to_vht_intrinsics(camera: Camera) -> Float[Array, " 3"]:
  """VHT's K = [f, cx, cy]: normalised, cy measured from the *bottom* of the image (docs/parity.md, point 8)."""
  return jnp.stack([camera.focal, camera.principal[0], 1.0 - camera.principal[1]])


def from_vht_intrinsics(K: Float[Array, " 3"]) -> Camera:
  """Inverse of `to_vht_intrinsics`, default extrinsics."""
  return make_camera(K[0], jnp.stack([K[1], 1.0 - K[2]]))
