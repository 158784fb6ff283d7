"""From a mesh and a camera to a picture: camera -> raster -> shade -> composite.

Three backends make the picture differentiable in different places:

* ``hard``: one sample per pixel. Exact in the interior of faces; moving an outline has no gradient.
* ``edge``: the same picture with antialiased outlines (`edges.antialias`), through which they get a gradient.
* ``soft``: SoftRas (`soft.soft_render`), every face blurred over the screen: wide basins, biased and slow.
"""

from __future__ import annotations

import jax.numpy as jnp

from vht_jax import flame
from vht_jax.camera import project
from vht_jax.raster import rasterize
from vht_jax.shade import interpolate, sample_texture, shade, shading
from vht_jax.types import Array, Camera, FlameModel, Identity, Pose, Rendered

BACKENDS = ("hard", "edge", "soft")


def render_head(
  model: FlameModel,
  identity: Identity,
  pose: Pose,
  size: tuple[int, int],
  *,
  backend: str = "hard",
  background: Array | None = None,
  edges=None,
  formula: str = "vht",
) -> Rendered:
  """A picture of the head.

  Args:
    model: the head; `flame.without_lower_neck(model)` draws what VHT draws.
    identity: shape, texture, light and camera.
    pose: of the frame.
    size: (H, W) px, static.
    backend, background, edges, formula: as for `render_mesh`.

  Returns:
    `Rendered`, three channels.
  """
  return render_mesh(
    flame.skin(model, identity.shape, pose),
    model.faces,
    identity.camera,
    size,
    uv=model.uv,
    texture=flame.albedo(model, identity.texture),
    light=identity.light,
    backend=backend,
    background=background,
    edges=edges,
    formula=formula,
  )


def render_mesh(
  vertices: Array,
  faces: Array,
  camera: Camera,
  size: tuple[int, int],
  *,
  colors: Array | None = None,
  uv: Array | None = None,
  texture: Array | None = None,
  light: Array | None = None,
  backend: str = "hard",
  background: Array | None = None,
  edges=None,
  formula: str = "lambert",
  cull_backfaces: bool = True,
) -> Rendered:
  """A picture of any triangle mesh; works under `jit`, `vmap` and `grad`.

  Args:
    vertices: (V, 3) world, m.
    faces: (F, 3) i32, counter-clockwise seen from outside.
    camera: the camera.
    size: (H, W) px, static.
    colors: (V, C) or (F, 3, C) surface colour; or give `uv` and `texture`; white (one channel) by default.
    uv: (F, 3, 2) texture coordinates in [0, 1] per corner, v up.
    texture: (Ht, Wt, C), row 0 is v = 1.
    light: (9, 3) spherical harmonics coefficients, world; None leaves the surface colour unlit.
    backend: 'hard', 'edge' or 'soft' (see the module), static.
    background: (C,) or (H, W, C); black by default.
    edges: `edges.edge_table(faces)` for the 'edge' backend, made once outside `jit`. If `faces` are concrete it may be
      left out.
    formula: how light meets colour, see `shade.shade`; static.
    cull_backfaces: static.

  Returns:
    `Rendered`.

  Raises:
    ValueError: on an unknown backend, on missing `texture` or `uv`, or when `edges` is needed and cannot be made.
  """
  if backend not in BACKENDS:
    raise ValueError(f"render_mesh: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
  if (uv is None) != (texture is None) or (colors is not None and uv is not None):
    raise ValueError("render_mesh: give either colors, or both uv and texture, or none of them")
  screen = project(camera, vertices, size)
  fragments = rasterize(screen, faces, size, cull_backfaces=cull_backfaces)
  hit = (fragments.pix_to_face >= 0)[..., None]

  # Everything that varies over the surface is looked up in one pass.
  surface = [] if uv is None else [uv]
  if colors is not None:
    surface.append(colors if colors.ndim == 3 else colors[faces])
  if light is not None:
    surface.append(flame.vertex_normals(vertices, faces)[faces])
  values = interpolate(jnp.concatenate(surface, axis=-1), screen, faces, fragments) if surface else None

  if uv is not None:
    # No texel is looked up in the background, forwards or backwards: uv = -1 is outside of the texture.
    rgb = sample_texture(texture, jnp.where(hit, values[..., :2], -1.0))
  elif colors is not None:
    rgb = values[..., : colors.shape[-1]]
  else:
    rgb = jnp.ones((*size, 1), screen.dtype)
  if light is not None:
    rgb = shade(rgb, shading(light, values[..., -3:]), formula)
  background = jnp.zeros(rgb.shape[-1], rgb.dtype) if background is None else background
  rgb = jnp.where(hit, rgb, jnp.broadcast_to(background, rgb.shape))
  alpha = hit.astype(rgb.dtype)
  if backend == "edge":
    from vht_jax.edges import antialias, edge_table

    edges = edge_table(faces) if edges is None else edges
    both = jnp.concatenate([rgb, alpha], axis=-1)
    both = antialias(both, screen, faces, edges, fragments, cull_backfaces=cull_backfaces)
    rgb, alpha = both[..., :-1], both[..., -1:]
  return Rendered(rgb=rgb, alpha=alpha[..., 0], fragments=fragments)
