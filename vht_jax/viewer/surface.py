"""What is drawn of one frame: vertices, colours, landmarks, errors. JAX inside, NumPy at the boundary."""

from __future__ import annotations

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import project
from vht_jax.head import flame
from vht_jax.head.mouth import inside_mouth, lit_mouth
from vht_jax.render.image import sample_bilinear
from vht_jax.render.picture import render_mesh
from vht_jax.render.shade import shading
from vht_jax.render.uv_bake import rasterize_uv
from vht_jax.results.appearance import even_light, evenly_lit, eyeballs, lit, seen_side
from vht_jax.types import Camera, FlameModel, Identity, Pose
from vht_jax.video.pixels import resize_antialiased
from vht_jax.viewer.editing.session import Session

ERROR_SIDE = 256  # px, longest side of the pictures that are compared for the error colours
ERROR_RANGE = 0.25  # mean absolute difference of colours, of 1, at the end of the colour scale
DISTANCE_RANGE = 5.0  # mm at the end of the colour scale of two results' distance
_DEPTH_TOLERANCE = 4e-3  # m, as in `render.uv_bake`: how far behind the depth buffer a vertex still counts as seen
_GREY = 0.65  # albedo of the head without its texture
_UNSEEN = (0.55, 0.55, 0.57)  # colour where there is nothing to compare


class Surface:
  """The drawable head of a session. What depends on the person alone is kept until that changes."""

  def __init__(self, head: FlameModel, session: Session, identity: Identity):
    """Args:
    head: with the faces to draw.
    session: whose poses and person are drawn.
    identity: as loaded, whose colours are drawn.
    """
    self.head, self.session = head, session
    self.albedo = np.asarray(flame.albedo(head, identity.texture, identity.texture_layer))
    self.even, self._even_light = evenly_lit(head, identity), even_light(identity)
    self.faces = np.asarray(head.faces)
    self.corners, self.split_faces, self.split_uv = split_corners(self.faces, np.asarray(head.uv))
    self.inside = inside_mouth(head).astype(np.float32)  # (V,) 1 for teeth, tongue and cavity
    self._eyes = eyeballs(head).astype(np.float32)  # (V,) likewise
    self._slim = head.replace(texture_basis=jnp.zeros((1, 1, 3, 0)), texture_mean=jnp.zeros((1, 1, 3)))
    self._shape: np.ndarray | None = None
    self._folded: FlameModel | None = None

  def vertices(self, frame: int) -> np.ndarray:
    """(V, 3) world, m."""
    shape = self.session.person.shape
    if self._shape is None or not np.array_equal(shape, self._shape):
      self._folded, self._shape = _fold(self._slim, jnp.asarray(shape)), shape
    return np.asarray(_skin(self._folded, self.session.pose(frame)))

  def landmarks(self, vertices: np.ndarray) -> np.ndarray:
    """(70, 3) world, m."""
    ids, bary = np.asarray(self.head.lmk_vertices), np.asarray(self.head.lmk_bary)
    return (vertices[ids] * bary[..., None]).sum(1)

  def texture(self, vertices: np.ndarray) -> np.ndarray:
    """(Ht, Wt, 3) sRGB in [0, 1]: the head (`results.appearance`) under the session's light; what is in the mouth
    with the light that comes in there (`head.mouth`)."""
    light = (np.asarray(self.session.edited_light) / self._even_light).astype(np.float32)
    look = self.inside, self._eyes, self.even, light, self._ahead
    return np.asarray(_lit_texture(self._slim, vertices, *look, *self._texels))

  def shown(self, vertices: np.ndarray) -> np.ndarray:
    """(V, 3) as they are drawn: teeth do not stick out of the lips. Exports have them where they are."""
    return np.asarray(_mouth(self._slim, vertices, self.inside)[1])

  def shading(self, vertices: np.ndarray) -> np.ndarray:
    """(V, 3) sRGB: a grey head under the session's light."""
    return np.asarray(_shaded(self._slim, vertices, self.inside, jnp.asarray(self.session.edited_light), self._ahead))

  def normals(self, vertices: np.ndarray) -> np.ndarray:
    """(V, 3): red to the right of the image, green up, blue to the camera."""
    return np.asarray(_normal_colors(vertices, self.faces))

  def picture(self, vertices: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """rgb (H, W, 3) in [0, 1] and alpha (H, W) by the tracker's own renderer."""
    camera = _jax(self.session.edited_camera)
    rgb, alpha = _picture(self.shown(vertices), self.faces, self.head.uv, self.texture(vertices), camera, size)
    return np.clip(np.asarray(rgb), 0.0, 1.0), np.asarray(alpha)

  def image_error(self, vertices: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(V,) mean absolute difference of colours between picture and image, of 1; NaN for vertices that are not seen.

    Args:
      vertices: (V, 3).
      image: (H, W, 3) uint8, of any size.
    """
    scale = min(1.0, ERROR_SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    small = resize_antialiased(image, size).astype(np.float32) / 255.0
    camera, lit = _jax(self.session.edited_camera), self.texture(vertices)
    return np.asarray(_image_error(self.shown(vertices), self.faces, self.head.uv, lit, camera, small, size))

  @property
  def _ahead(self) -> jax.Array:
    """(3,) world, towards the camera, whose z points away from it."""
    return -jnp.asarray(self.session.edited_camera.R)[2]

  @functools.cached_property
  def _texels(self) -> tuple[jax.Array, jax.Array]:
    """Face (Ht, Wt) and barycentrics (Ht, Wt, 3) of each texel; beside the islands those of the nearest texel."""
    height, width = self.albedo.shape[:2]
    # An eyeball's back lies over its front in the texture: of two faces the one that looks ahead is the one to light.
    ahead = np.asarray(flame.vertex_normals(self.head.v_template, self.head.faces))[:, 2]
    order = np.argsort(-ahead[self.faces].sum(axis=1), kind="stable")
    seen = _rasterize_uv(self.head.uv[order], (height, width))
    faces, bary = np.array(seen.pix_to_face), np.array(seen.bary_coords)
    faces = np.where(faces < 0, -1, order[faces])
    outside = (faces < 0).astype(np.uint8)
    _, found = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    labels = np.asarray(found, int)
    inside = np.flatnonzero(outside.ravel() == 0)
    nearest = np.zeros(labels.max() + 1, int)
    nearest[labels.ravel()[inside]] = inside
    source = nearest[labels.ravel()]
    return (
      jnp.asarray(faces.ravel()[source].reshape(height, width)),
      jnp.asarray(bary.reshape(-1, 3)[source].reshape(height, width, 3)),
    )


def split_corners(faces: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Vertices as browsers want them, one texture coordinate each: seams are doubled.

  Args:
    faces: (F, 3).
    uv: (F, 3, 2).

  Returns:
    (N,) vertex id of each new vertex, (F, 3) new faces, (N, 2) texture coordinates.
  """
  pairs = np.concatenate([faces.reshape(-1, 1).astype(np.float64), uv.reshape(-1, 2)], axis=1)
  unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
  return unique[:, 0].astype(int), inverse.reshape(faces.shape).astype(np.uint32), unique[:, 1:].astype(np.float32)


def behind_pixels(camera: Camera, pixels: np.ndarray, depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """World points (N, 3) that are seen at `pixels` (N, 2) of an image of `size` = (H, W), `depth` (N,) m away."""
  height, width = size
  f = float(camera.focal) * max(size)
  offset = np.asarray(pixels, np.float64) - np.asarray(camera.principal, np.float64) * [width, height]
  seen = np.concatenate([offset / f, np.ones((len(offset), 1))], axis=1) * np.asarray(depth, np.float64)[:, None]
  return (seen - np.asarray(camera.T, np.float64)) @ np.asarray(camera.R, np.float64)


def scale_colors(values: np.ndarray, top: float) -> np.ndarray:
  """(N,) errors -> (N, 3) sRGB from pale (0) over orange to dark red (`top` and above); grey where NaN."""
  stops = np.array([[0.90, 0.92, 0.86], [0.93, 0.78, 0.45], [0.85, 0.45, 0.25], [0.55, 0.15, 0.18]])
  t = np.clip(np.nan_to_num(values) / top, 0.0, 1.0) * (len(stops) - 1)
  low = np.minimum(t.astype(int), len(stops) - 2)
  colors = stops[low] + (t - low)[:, None] * (stops[low + 1] - stops[low])
  return np.where(np.isfinite(values)[:, None], colors, _UNSEEN)


def _jax(tree):
  return jax.tree.map(jnp.asarray, tree)


@jax.jit
def _fold(head: FlameModel, shape):
  return flame.with_identity(head, shape)


@jax.jit
def _skin(head: FlameModel, pose: Pose):
  return flame.skin(head, jnp.zeros(0, head.v_template.dtype), pose)


@functools.partial(jax.jit, static_argnums=1)
def _rasterize_uv(uv, size):
  return rasterize_uv(uv, size)


@jax.jit
def _mouth(head: FlameModel, vertices, inside):
  return lit_mouth(head, vertices, inside)


@jax.jit
def _lit_texture(head: FlameModel, vertices, inside, eyes, even, light, ahead, texel_faces, bary):
  corners = head.faces[texel_faces]  # (Ht, Wt, 3)
  normal = jnp.sum(flame.vertex_normals(vertices, head.faces)[corners] * bary[..., None], axis=-2)
  normal = normal / jnp.maximum(jnp.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
  on_texels = lambda values: jnp.sum(values[corners] * bary, axis=-1, keepdims=True)
  color = lit(even, shading(light, seen_side(normal, ahead)), on_texels(eyes))
  return jnp.clip(color * on_texels(lit_mouth(head, vertices, inside)[0]), 0.0, 1.0)


@jax.jit
def _shaded(head: FlameModel, vertices, inside, light, ahead):
  dark = lit_mouth(head, vertices, inside)[0][:, None]
  normal = seen_side(flame.vertex_normals(vertices, head.faces), ahead)
  return jnp.clip(_GREY * shading(light, normal) * dark, 0.0, 1.0)


@jax.jit
def _normal_colors(vertices, faces):
  return 0.5 + 0.5 * flame.vertex_normals(vertices, faces) * jnp.array([[-1.0, 1.0, -1.0]])  # world: x left, z away


@functools.partial(jax.jit, static_argnames=("size",))
def _picture(vertices, faces, uv, lit, camera, size):
  drawn = render_mesh(vertices, faces, camera, size, uv=uv, texture=lit)
  return drawn.rgb, drawn.alpha


@functools.partial(jax.jit, static_argnames=("size",))
def _image_error(vertices, faces, uv, lit, camera, image, size):
  drawn = render_mesh(vertices, faces, camera, size, uv=uv, texture=lit)
  difference = jnp.mean(jnp.abs(jnp.clip(drawn.rgb, 0.0, 1.0) - image), axis=-1)
  # Where the head is; at its outline the neighbours' mean.
  both = jnp.stack([difference * drawn.alpha, drawn.alpha], axis=-1)
  screen = project(camera, vertices, size)
  height, width = size
  pixel = jnp.floor(screen[:, :2]).astype(jnp.int32)
  inside = jnp.all((pixel >= 0) & (pixel < jnp.array([[width, height]])), axis=-1)
  column, row = jnp.clip(pixel[:, 0], 0, width - 1), jnp.clip(pixel[:, 1], 0, height - 1)
  front = drawn.fragments.zbuf[row, column]
  seen = inside & (front > 0) & (screen[:, 2] > 0) & (screen[:, 2] <= front + _DEPTH_TOLERANCE)
  summed = sample_bilinear(both, screen[:, :2])
  seen = seen & (summed[:, 1] > 0.25)  # at least a quarter of a pixel of head around it
  return jnp.where(seen, summed[:, 0] / jnp.maximum(summed[:, 1], 1e-6), jnp.nan)
