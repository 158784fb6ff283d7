"""From a mesh and a camera to a picture: camera -> raster -> shade -> composite.

Three backends make the picture differentiable in different places:

* ``hard``: one sample per pixel. Exact in the interior of faces; moving an outline has no gradient.
* ``edge``: the same picture with antialiased outlines (`edges.antialias`), through which they get a gradient.
* ``soft``: SoftRas (`soft.soft_render`), every face blurred over the screen: wide basins, biased and slow; textures
  and light are evaluated at the corners of the faces only.

All functions take one frame. `vmap` works anywhere; `map_frames` is the `vmap` to use around whole pictures.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float, Int

from vht_jax.cameras import project
from vht_jax.head import flame
from vht_jax.render.edges import EdgeTable, antialias, edge_table
from vht_jax.render.gather import map_frames
from vht_jax.render.raster import rasterize
from vht_jax.render.shade import interpolate, sample_texture, shade, shading
from vht_jax.render.soft import soft_render
from vht_jax.types import Array, Camera, FlameModel, Identity, Pose, Rendered

__all__ = ["BACKENDS", "map_frames", "render_head", "render_mesh"]

BACKENDS = ("hard", "edge", "soft")


def render_head(
  model: FlameModel,
  identity: Identity,
  pose: Pose,
  size: tuple[int, int],
  *,
  backend: str = "hard",
  background: Float[Array, " 3"] | Float[Array, "H W 3"] | None = None,
  edges: EdgeTable | None = None,
  formula: str = "vht",
  sigma: float | Float[Array, ""] = 1e-5,
  gamma: float | Float[Array, ""] = 1e-4,
) -> Rendered:
  """A picture of the head.

  Args:
    model: the head; `flame.without_lower_neck(model)` draws what VHT draws.
    identity: shape, texture, light and camera.
    pose: of the frame.
    size: (H, W) px, static.
    backend, background, edges, formula, sigma, gamma: as for `render_mesh`.

  Returns:
    `Rendered`, three channels.
  """
  return render_mesh(
    flame.skin(model, identity.shape, pose), model.faces, identity.camera, size, uv=model.uv,
    texture=flame.albedo(model, identity.texture, identity.texture_layer), light=identity.light, backend=backend,
    background=background, edges=edges, formula=formula, sigma=sigma, gamma=gamma,
  )  # fmt: skip


def render_mesh(
  vertices: Float[Array, "V 3"],
  faces: Int[Array, "F 3"],
  camera: Camera,
  size: tuple[int, int],
  *,
  colors: Float[Array, "V C"] | Float[Array, "F 3 C"] | None = None,
  uv: Float[Array, "F 3 2"] | None = None,
  texture: Float[Array, "Ht Wt C"] | None = None,
  light: Float[Array, "9 3"] | None = None,
  backend: str = "hard",
  background: Float[Array, " C"] | Float[Array, "H W C"] | None = None,
  edges: EdgeTable | None = None,
  formula: str = "lambert",
  cull_backfaces: bool = True,
  sigma: float | Float[Array, ""] = 1e-5,
  gamma: float | Float[Array, ""] = 1e-4,
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
    sigma, gamma: blur of the outlines (NDC^2) and in depth, for the 'soft' backend; traced.

  Returns:
    `Rendered`. 'soft' colours faces between their corners and blends with `background` by coverage; its `fragments`
    are those of a hard picture.

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

  # What varies over the surface, at the face corners; looked up at the pixels in one pass.
  surface = [jnp.ones((faces.shape[0], 3, 1), screen.dtype)] if colors is None and uv is None else []
  surface += [] if uv is None else [uv]
  surface += [] if colors is None else [colors if colors.ndim == 3 else colors[faces]]
  surface += [] if light is None else [flame.vertex_normals(vertices, faces)[faces]]
  corners = jnp.concatenate(surface, axis=-1)

  def color(values, seen):
    n = 0 if light is None else 3
    base, normals = values[..., : values.shape[-1] - n], values[..., values.shape[-1] - n :]
    if texture is not None:
      # uv = -1 is outside of the texture: nothing is looked up in the background, nor summed backwards.
      base = sample_texture(texture, jnp.where(seen, base, -1.0))
    return base if light is None else shade(base, shading(light, normals, formula), formula)

  if backend == "soft":
    at_corners = color(corners, True)
    rgb, alpha = soft_render(screen, faces, at_corners, size, sigma=sigma, gamma=gamma, cull_backfaces=cull_backfaces)
    alpha = alpha[..., None]
  else:
    rgb, alpha = color(interpolate(corners, screen, faces, fragments), hit), hit.astype(screen.dtype)
  background = jnp.zeros(rgb.shape[-1], rgb.dtype) if background is None else background
  rgb = alpha * rgb + (1.0 - alpha) * jnp.broadcast_to(background, rgb.shape)

  if backend == "edge":
    edges = edge_table(faces) if edges is None else edges
    both = jnp.concatenate([rgb, alpha], axis=-1)
    both = antialias(both, screen, faces, edges, fragments, cull_backfaces=cull_backfaces)
    rgb, alpha = both[..., :-1], both[..., -1:]
  return Rendered(rgb=rgb, alpha=alpha[..., 0], fragments=fragments)
