"""The head's surface as it is seen in a crop of an image: what a pixel's colour needs.

Frames are looked at through square crops around the head, so the cost does not depend on the resolution of the video
and one compiled program serves all videos.
"""

from __future__ import annotations

from collections.abc import Iterable

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.fit.unknowns import Shared, part
from vht_jax.head import flame
from vht_jax.head import points as pts
from vht_jax.head.points import Points
from vht_jax.render import shade
from vht_jax.render.raster import rasterize
from vht_jax.types import AnyArray, Array, FlameModel

HIGHEST = jax.lax.Precision.HIGHEST
UNEXPLAINED = ("teeth", "tongue", "mouth_cavity", "eye_socket")  # masks; in the shade of something else


class Crop(flax.struct.PyTreeNode):
  """A square view of one frame; pixel = scale * (u, v) + offset, (u, v) being the unit coordinates of `points`."""

  rgb: AnyArray  # (C, C, 3) f32 in [0, 1]
  inside: AnyArray  # (C, C) f32, 1 where the crop shows the frame and not the padding
  scale: AnyArray  # () px per unit
  offset: AnyArray  # (2,) px


class Surface(flax.struct.PyTreeNode):
  """The whole head as points, with what a pixel's colour needs. Made once per clip."""

  vertices: Points  # all V vertices
  faces: Array  # (F, 3)
  uv: Array  # (F, 3, 2)
  explained: Array  # (F,) bool: faces whose colour the model can explain
  used: Array  # (F,) bool: those of them whose colour says where the head is: not the eyes'
  normal_dirs: Array  # (V, 3, E + S) d(unit normal) / d[expression, shape]
  texture_mean: Array  # (Ht, Wt, 3)
  texture_basis: Array  # (Ht, Wt, 3, T)


def placing_faces(model: FlameModel) -> Array:
  """(F,) bool: faces whose colour says where the head is.

  What is seen of an eye does not say where it looks: lashes, the shade of the lids and reflections, of which the model
  knows nothing, are as strong as the edge of an iris and turn it by 8 degrees (docs/accuracy.md, "Irises"). Images say
  it otherwise: `tracking.evidence.irises`.
  """
  return explained_faces(model) & ~faces_within(model, flame.EYEBALLS)


def explained_faces(model: FlameModel) -> Array:
  """(F,) bool: faces whose colour the model can explain: not those inside the mouth or behind the eyeballs."""
  return ~faces_within(model, UNEXPLAINED)


def faces_within(model: FlameModel, names: Iterable[str]) -> Array:
  """(F,) bool: faces all of whose corners are in one of these masks, of those that the head has."""
  found = jnp.zeros(model.faces.shape[0], bool)
  for name in names:
    if name in model.masks:
      found = found | jnp.all(model.masks[name][model.faces], axis=1)
  return found


def make_surface(model: FlameModel, shape: Array) -> Surface:
  """Prepares a head whose identity is near `shape` (S,); normals are linearised there."""
  n_vertices = model.v_template.shape[0]
  vertices = Points(
    template=model.v_template,
    shapedirs=model.shapedirs,
    exprdirs=model.exprdirs,
    posedirs=jnp.moveaxis(model.posedirs.reshape(36, n_vertices, 3), 0, -1),
    lbs_weights=model.lbs_weights,
    j_template=model.j_template,
    j_shapedirs=model.j_shapedirs[..., : model.shapedirs.shape[-1]],
    j_exprdirs=model.j_shapedirs[..., model.shapedirs.shape[-1] :],
    pivot=jnp.mean(model.v_template[model.lmk_vertices[:68]], axis=(0, 1)),
  )
  neutral = model.v_template + jnp.matmul(model.shapedirs, shape, precision=HIGHEST)
  dirs = jnp.concatenate([model.exprdirs, model.shapedirs], axis=-1)

  def normals(vertices):
    return flame.vertex_normals(vertices, model.faces)

  def push(direction):
    return jax.jvp(normals, (neutral,), (direction,))[1]

  normal_dirs = jnp.moveaxis(jax.lax.map(push, jnp.moveaxis(dirs, -1, 0), batch_size=8), 0, -1)
  return Surface(
    vertices=vertices,
    faces=model.faces,
    uv=model.uv,
    explained=explained_faces(model),
    used=placing_faces(model),
    normal_dirs=normal_dirs,
    texture_mean=model.texture_mean,
    texture_basis=model.texture_basis,
  )


def fold_surface(surface: Surface, shape: Array) -> Surface:
  """The surface of one person: shape in the template, no shape directions."""
  n_expr = surface.vertices.exprdirs.shape[-1]
  return surface.replace(
    vertices=pts.fold_shape(surface.vertices, shape), normal_dirs=surface.normal_dirs[..., :n_expr]
  )


def to_pixels(uv: Array, crop: Crop) -> Array:
  return uv * crop.scale + crop.offset[None]


def pose_mesh(surface: Surface, x: Array, shared: Shared):
  """Camera coordinates (V, 3) of all vertices and the rotations (V, 3, 3) of their neighbourhoods."""
  shaped, joints = pts.shaped_points(surface.vertices, shared.shape, part(x, "expr"))
  X, (dX, _) = pts.camera_points(
    surface.vertices, shaped, joints, x[-pts.N_POSE :], jnp.exp(shared.log_focal), shared.principal
  )
  return X, dX


def rasterise(surface: Surface, x: Array, shared: Shared, crop: Crop):
  """Rasterises the head into the crop: camera vertices, their neighbourhoods' rotations, fragments."""
  X, dX = pose_mesh(surface, x, shared)
  height, width, _ = crop.rgb.shape
  return X, dX, rasterize(to_screen(X, shared, crop), surface.faces, (height, width))


def to_screen(X: Array, shared: Shared, crop: Crop) -> Array:
  """Camera coordinates (V, 3) as (V, 3): pixels of the crop and the depth."""
  screen = to_pixels(pts.project(X, jnp.exp(shared.log_focal), shared.principal), crop)
  return jnp.concatenate([screen, X[:, 2:]], -1)


def to_world(directions: Array) -> Array:
  """Directions in OpenCV camera axes -> world, where the light lives: half a turn about z."""
  return jnp.concatenate([-directions[..., :2], directions[..., 2:]], axis=-1)


def photometric_l1(surface: Surface, albedo: Array, light: Array, shared: Shared, crop: Crop, x: Array) -> Array:
  """Mean absolute colour difference over all visible pixels of one frame that place it, freshly rasterised ()."""
  X, _, fragments = rasterise(surface, x, shared, crop)
  color, usable = shaded(surface, X, fragments, albedo, light, crop)
  return jnp.sum(jnp.abs(color - crop.rgb) * usable[..., None]) / jnp.maximum(3 * jnp.sum(usable), 1.0)


def shaded(surface: Surface, X: Array, fragments, albedo: Array, light: Array, crop: Crop):
  """Colours (C, C, 3) at the pixels and which of them place the head (C, C)."""
  normals = to_world(flame.vertex_normals(X, surface.faces))
  n = shade.interpolate_corners(normals[surface.faces], fragments)
  n = n / jnp.maximum(jnp.linalg.norm(n, axis=-1, keepdims=True), 1e-6)
  uv = shade.interpolate_corners(surface.uv, fragments)
  color = shade.shade(shade.sample_texture(albedo, uv), shade.shading(light, n))
  hit = fragments.pix_to_face >= 0
  usable = hit & surface.used[jnp.maximum(fragments.pix_to_face, 0)] & (crop.inside > 0)
  return color, usable.astype(jnp.float32)
