"""Pixels of a frame as surface points, taken anew whenever visibility is found again.

Which triangle a pixel sees is constant. Where in it the pixel's centre lies changes with the head and has derivatives,
as all that is said of a sample: for solves that are differentiated and begin where another one has ended.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.config import Weights
from vht_jax.fit.pixels.surface import Crop, Surface, rasterise, to_world
from vht_jax.fit.unknowns import Shared, part
from vht_jax.head import flame
from vht_jax.head import points as pts
from vht_jax.head.motion import POSE, product
from vht_jax.head.points import Points
from vht_jax.host.machine import position, running_sum
from vht_jax.render import shade
from vht_jax.types import AnyArray, Array

HIGHEST = jax.lax.Precision.HIGHEST
PLASTIC = 1.32471795724474602596  # the real root of x^3 = x + 1
MIN_COSINE = 0.25  # surfaces seen more obliquely carry more modelling error than information


class Samples(flax.struct.PyTreeNode):
  """N pixels of one frame as surface points; frozen during one solve."""

  points: Points
  normal: Array  # (N, 3) unit normal in the frame of the unskinned head
  normal_dirs: Array  # (N, 3, E [+ S])
  expr: Array  # (E,) expression at which `normal` was taken
  shape: Array  # (S,) likewise
  uv: Array  # (N, 2) texture coordinates
  seen_normal: Array  # (N, 3) the normal in camera axes at the pose of the sampling
  color: Array  # (N, 3) of the pixels
  weight: Array  # (N,) sums to the number of pixels that the frame counts for; 0: unusable


def sample_pixels(
  surface: Surface, x: Array, shared: Shared, crop: Crop, n: int, count: Array | float, first: Array | int = 0
) -> Samples:
  """n of the pixels that see an explained face, evenly spread over them.

  They are the first ones of a fixed order (`scattered`), so that a head that moves a little keeps nearly all of them.

  Args:
    count: () number of independent pixels that the frame counts for: the weights sum to about this.
    first: () i32, where in that order to begin: other pixels.
  """
  X, dX, fragments = rasterise(surface, x, shared, crop)
  face_of = fragments.pix_to_face.reshape(-1)
  usable = (face_of >= 0) & surface.used[jnp.maximum(face_of, 0)] & (crop.inside.reshape(-1) > 0)
  scan = scattered(fragments.pix_to_face.shape[0], first)
  order = running_sum(usable[scan])
  total = order[-1]
  share = jnp.minimum(total, n).astype(jnp.float32) / n  # of fewer pixels some count twice
  target = ((jnp.arange(n, dtype=jnp.float32) + 0.5) * share).astype(jnp.int32) + 1
  pixel = scan[jnp.minimum(position(order, target), face_of.shape[0] - 1)]
  face = jnp.maximum(face_of[pixel], 0)
  corner = surface.faces[face]  # (n, 3)
  bary = _on_ray(X[corner], _ray(pixel, shared, crop), face_of[pixel] >= 0)

  def blend(field):
    return jnp.einsum("nk,nk...->n...", bary, field[corner], precision=HIGHEST)

  v = surface.vertices
  expr = part(x, "expr")
  # The pose correctives are frozen at this pose: they are small, and gathering all 36 would dominate the cost.
  _, joints = pts.shaped_points(v, shared.shape, expr)
  _, _, feature = pts.joint_transforms(pts.joint_angles(POSE.split(x[-pts.N_POSE :])), joints)
  correctives = jnp.matmul(v.posedirs, feature, precision=HIGHEST)
  points = Points(
    template=blend(v.template + correctives),
    shapedirs=blend(v.shapedirs),
    exprdirs=blend(v.exprdirs),
    posedirs=jnp.zeros((n, 3, 0), x.dtype),
    lbs_weights=blend(v.lbs_weights),
    j_template=v.j_template,
    j_shapedirs=v.j_shapedirs,
    j_exprdirs=v.j_exprdirs,
    pivot=v.pivot,
  )
  normals = flame.vertex_normals(X, surface.faces)
  seen = blend(normals)
  seen = seen * jax.lax.rsqrt(jnp.maximum(jnp.sum(seen**2, axis=-1, keepdims=True), 1e-12))
  at = blend(X)
  cosine = -jnp.sum(seen * at, -1) / jnp.maximum(jnp.linalg.norm(at, axis=-1), 1e-6)
  good = (cosine > MIN_COSINE) & (total > n // 8)
  return Samples(
    points=points,
    normal=product("nba,nb->na", blend(dX), seen),
    normal_dirs=blend(surface.normal_dirs),
    expr=expr,
    shape=shared.shape,
    uv=product("nk,nkc->nc", bary, surface.uv[face]),
    seen_normal=seen,
    color=crop.rgb.reshape(-1, 3)[pixel],
    weight=jnp.where(good, count / n, 0.0),
  )


def scattered(side: int, first: Array | int = 0) -> Array:
  """(side * side,) i32: the pixels of a square image in an order in which any that follow each other are spread evenly.

  The order of the mask of M. Roberts ("The unreasonable effectiveness of quasirandom sequences", 2018): the distance to
  the nearest of a thousand is .75 to .9 of that in a square grid (random ones: .5).
  """
  y, x = np.mgrid[:side, :side]
  order = np.argsort(((x / PLASTIC + y / PLASTIC**2) % 1.0).ravel(), kind="stable").astype(np.int32)
  return jnp.roll(jnp.asarray(order), -first)


def _ray(pixel: Array, shared: Shared, crop: Crop) -> Array:
  """(n, 3) directions from the camera to the centres of pixels of these numbers, 1 m deep."""
  width = crop.rgb.shape[1]
  dtype = shared.principal.dtype
  px = jnp.stack([pixel % width, pixel // width], axis=-1).astype(dtype) + jnp.asarray(0.5, dtype)
  across = ((px - crop.offset[None]) / crop.scale - shared.principal[None]) / jnp.exp(shared.log_focal)
  return jnp.concatenate([across, jnp.ones_like(across[:, :1])], axis=-1)


def _on_ray(corners: Array, ray: Array, hit: Array) -> Array:
  """(n, 3) barycentrics of where rays (n, 3) meet triangles (n, 3 corners, 3); those of the middle where not `hit`."""
  x, y, _ = jnp.moveaxis(corners - ray[:, None] * corners[..., 2:], -1, 0)  # (n, 3) m, beside the ray
  after, last = lambda a: jnp.roll(a, -1, axis=1), lambda a: jnp.roll(a, 1, axis=1)
  weight = after(x) * last(y) - after(y) * last(x)
  total = jnp.sum(weight, axis=-1, keepdims=True)
  fine = hit[:, None] & (total != 0)
  return jnp.where(fine, weight / jnp.where(fine, total, 1.0), 1.0 / 3)


def estimate_gain(samples: Samples, albedo: Array, light: AnyArray, weights: Weights) -> Array:
  """() robust factor between the image and the model's colours: exposure and white balance drift in real video."""
  model = shade.shade(albedo, shade.shading(jnp.asarray(light), to_world(samples.seen_normal)))
  gain = jnp.ones(())
  for _ in range(3):
    error = jnp.sqrt(jnp.mean((samples.color - gain * model) ** 2, -1) + 1e-12) / weights.sd_color
    w = (samples.weight * (1.0 / jnp.maximum(1.0, error)))[:, None]
    gain = jnp.sum(w * samples.color * model) / jnp.maximum(jnp.sum(w * model**2), 1e-6)
  return jnp.where(jnp.sum(samples.weight) > 0, jnp.clip(gain, 0.3, 3.0), 1.0)


def with_gradient(image: AnyArray) -> Array:
  """(H, W, 3) -> (H, W, 9): the image and its central differences in x and y per pixel."""
  by_x, by_y = (jnp.asarray(jnp.gradient(image, axis=axis)) for axis in (1, 0))
  return jnp.concatenate([image, by_x, by_y], -1)
