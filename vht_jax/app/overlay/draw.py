"""The overlay's pictures: the head in the window of a frame (`picture`), the panels (`compose`)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import flax.struct
import jax.numpy as jnp
import numpy as np

from vht_jax.app.overlay.window import in_one_row, panel_size
from vht_jax.cameras import project
from vht_jax.head import flame
from vht_jax.head.mesh import open_ends
from vht_jax.head.mouth import inside_mouth, lit_mouth
from vht_jax.host.programs import stored
from vht_jax.render.edges import antialias, edge_table
from vht_jax.render.edges.table import EdgeTable
from vht_jax.render.gather import map_frames
from vht_jax.render.raster import rasterize
from vht_jax.render.shade import interpolate, sample_texture, shading
from vht_jax.results.appearance import evenly_lit, eyeballs, lit, relative_light
from vht_jax.types import Array, Camera, FlameModel, Identity, Pose

STYLES = ("compare", "mesh", "texture", "landmarks")
DETECTED, PROJECTED = (60, 220, 60), (255, 60, 200)  # RGB of the points
BACKGROUND = 40  # grey behind the rendered head
OPACITY = 0.65  # of the head over the image in the panel that compares them
CAPTION_SHADE = 0.3  # what is left of the image behind the caption

FADE_START, FADE_END = 0.004, 0.04  # m above the neck's open end, where the head becomes visible and is so entirely
CLAY, CLAY_LIGHT = 0.75, (0.55, 0.35, 0.45)  # albedo and light (ambient, from above, from the camera) of `mesh`


class Look(flax.struct.PyTreeNode):
  """What is drawn beside the geometry, made once per clip."""

  faces: Array  # (F, 3) i32
  uv: Array  # (F, 3, 2)
  texture: Array  # (Ht, Wt, 3) as `results.appearance.evenly_lit`
  light: Array  # (9, 3) of that
  fade: Array  # (V,) 0 where the neck ends, 1 on the head
  eyes: Array  # (V,) 1 for eyeballs
  inside: Array  # (V,) 1 for teeth, tongue and mouth cavity
  edges: EdgeTable


def make_look(model: FlameModel, identity: Identity) -> Look:
  """The look of a head with this identity's texture. Host side: the head's outline edges are listed."""
  return Look(
    faces=model.faces,
    uv=model.uv,
    texture=jnp.asarray(evenly_lit(model, identity)),
    light=jnp.asarray(relative_light(identity)),
    fade=jnp.asarray(neck_fade(np.asarray(model.v_template), np.asarray(model.faces)), jnp.float32),
    eyes=jnp.asarray(eyeballs(model), jnp.float32),
    inside=jnp.asarray(inside_mouth(model), jnp.float32),
    edges=edge_table(model.faces),
  )


def neck_fade(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """(V,) from 0 to 1 by the height above the plane in which the neck ends; 1 for a mesh without an open end.

  Args:
    vertices: (V, 3) of the template, y up, m.
    faces: (F, 3).
  """
  # Eyes and mouth may be open too: the neck's is the lowest of the loops.
  loops = [vertices[end] for end in open_ends(faces)]
  ring = min((loop for loop in loops if len(loop) > 8), key=lambda loop: loop[:, 1].mean(), default=None)
  if ring is None:
    return np.ones(len(vertices), np.float32)
  centre = ring.mean(axis=0)
  normal = np.linalg.svd(ring - centre)[2][2]
  normal = normal * np.sign(normal[1] or 1.0)
  height = (vertices - centre) @ normal - ((ring - centre) @ normal).max()
  t = np.clip((height - FADE_START) / (FADE_END - FADE_START), 0.0, 1.0)
  return (t * t * (3 - 2 * t)).astype(np.float32)


@functools.partial(stored, static_argnames=("size", "clay"), by_frame={"poses": 0, "origins": 0})
def pictures(model, look, identity, poses, origins, scale, frame, size, clay):
  """rgb (n, h, w, 3) and alpha (n, h, w) of n poses, see `picture`."""
  one = lambda row: picture(model, look, identity, row[0], row[1], scale, frame, size, clay=clay)
  return map_frames(one)((poses, origins))


def picture(
  model: FlameModel,
  look: Look,
  identity: Identity,
  pose: Pose,
  origin: Array,
  scale: Array,
  frame: Array,
  size: tuple[int, int],
  *,
  clay: bool = False,
) -> tuple[Array, Array]:
  """The head in a window of the frame, with antialiased outlines, a shaded mouth and a neck that fades out.

  Args:
    model, look, identity, pose: the head.
    origin: (2,) upper left corner of the window, px of the frame.
    scale: (2,) pixels of the picture for one of the frame, along x and y.
    frame: (2,) height and width of the frame, px.
    size: (h, w) of the picture, static.
    clay: grey under a fixed light instead of texture and light of the clip; static.

  Returns:
    rgb (h, w, 3) and alpha (h, w), in [0, 1].
  """
  vertices = flame.skin(model, identity.shape, pose)
  light, vertices = lit_mouth(model, vertices, look.inside)
  # In units of the longer side from the principal point: so one program serves frames of all sizes.
  centred = project(identity.camera.replace(principal=jnp.zeros(2)), vertices, (1, 1))
  pixels = centred[:, :2] * jnp.max(frame) + (identity.camera.principal * frame[::-1])[None]
  screen = jnp.concatenate([(pixels - origin[None]) * scale[None], centred[:, 2:]], axis=-1)
  fragments = rasterize(screen, look.faces, size)
  hit = (fragments.pix_to_face >= 0)[..., None]
  normals = flame.vertex_normals(vertices, look.faces)
  surface = jnp.concatenate([normals, jnp.stack([light, look.fade, look.eyes], axis=-1)], axis=-1)[look.faces]
  values = interpolate(jnp.concatenate([look.uv, surface], axis=-1), screen, look.faces, fragments)
  normals, dark, fade, eye = values[..., 2:5], values[..., 5:6], values[..., 6:7], values[..., 7:8]
  if clay:
    rgb = jnp.broadcast_to(CLAY * _clay_light(normals, identity.camera), normals.shape)
  else:
    even = sample_texture(look.texture, jnp.where(hit, values[..., :2], -1.0))
    rgb = lit(even, shading(look.light, normals, "vht"), eye)
  cover = hit.astype(rgb.dtype)
  both = jnp.concatenate([jnp.clip(rgb * dark, 0.0, 1.0) * cover, cover, fade * cover], axis=-1)
  both = antialias(both, screen, look.faces, look.edges, fragments)
  # Colours are blended with the black beside them: divided by the coverage they are the surface's own.
  cover = jnp.maximum(both[..., 3:4], 1e-3)
  return both[..., :3] / cover, jnp.clip(both[..., 4], 0.0, 1.0)


def _clay_light(normals: Array, camera: Camera) -> Array:
  """(h, w, 1) of (h, w, 3) world normals."""
  unit = normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
  to_camera, above = -camera.R[2], -camera.R[1]  # the camera looks along its +z, and its y points down
  facing, up = unit @ to_camera, 0.5 + 0.5 * (unit @ above)
  ambient, sky, head = CLAY_LIGHT
  return (ambient * 0.5 + sky * up + head * jnp.maximum(facing, 0.0))[..., None]


class Shown(NamedTuple):
  """One frame, ready to be composed."""

  image: np.ndarray  # (h, w, 3) uint8, the window
  rgb: np.ndarray  # (h, w, 3) of the head
  alpha: np.ndarray  # (h, w)
  detected: np.ndarray  # (70, 2) px of the picture
  confidence: np.ndarray  # (70,)
  projected: np.ndarray  # (70, 2)
  caption: str = ""
  inset: np.ndarray | None = None  # (h', w', 3) uint8: the whole frame with the window marked


def crop(image: np.ndarray, origin: np.ndarray, window: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
  """The (h, w) picture of the window at `origin` of an (H, W, 3) uint8 image."""
  x, y = (int(n) for n in origin)
  part = image[y : y + window[0], x : x + window[1]]
  if part.shape[:2] == size:
    return part
  mode = cv2.INTER_AREA if part.shape[0] > size[0] else cv2.INTER_CUBIC
  return cv2.resize(part, size[::-1], interpolation=mode)


def inset(image: np.ndarray, origin: np.ndarray, window: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
  """The whole frame, a third of a panel of `size` wide at most, with the window marked."""
  height, width = panel_size(image.shape[:2], max(max(size) // 3, 16))
  small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
  scale = height / image.shape[0]
  corner = np.round(np.asarray(origin) * scale).astype(int)
  opposite = np.round((np.asarray(origin) + [window[1], window[0]]) * scale).astype(int) - 1
  cv2.rectangle(small, corner.tolist(), opposite.tolist(), (255, 255, 255), 1)
  return small


def compose(shown: Shown, style: str = "compare") -> np.ndarray:
  """One picture of the overlay.

  Args:
    shown: the frame.
    style: `compare`: input | head | head over input | landmarks, in two rows (portraits: in one); or only one of them:
      `mesh` and `texture` the head over the input, `landmarks` the points.

  Returns:
    (h, w, 3) uint8 with even sides.
  """
  if style == "landmarks":
    picture = _marked(shown)
  elif style in ("mesh", "texture"):
    picture = _over(shown, 1.0)
  else:
    box = seen_box(shown.alpha)
    a = np.repeat(shown.alpha[box][..., None], 3, axis=-1)
    head = np.full(shown.image.shape, BACKGROUND, np.uint8)
    head[box] = np.clip(shown.rgb[box] * (255.0 * a) + BACKGROUND * (1.0 - a), 0, 255).astype(np.uint8)
    parts = [shown.image.copy(), head, _over(shown, OPACITY), _marked(shown)]
    if shown.inset is not None:
      height, width = shown.inset.shape[:2]
      parts[0][:height, :width] = shown.inset
    rows = [parts] if in_one_row(shown.image.shape[:2]) else [parts[:2], parts[2:]]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in rows])
  return _captioned(picture, shown.caption)


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
  """The picture with white words on a dark ground in its lower left corner: to be read on any image."""
  if not text:
    return picture
  font, scale, room = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 6
  (width, height), below = cv2.getTextSize(text, font, scale, 1)
  top = max(len(picture) - height - below - room, 0)
  ground = picture[top:, : width + 2 * room]
  ground[:] = (CAPTION_SHADE * ground).astype(np.uint8)
  foot = (room, len(picture) - below - room // 2)
  cv2.putText(picture, text, foot, font, scale, (255, 255, 255), 1, cv2.LINE_AA)
  return picture


def _over(shown: Shown, opacity: float) -> np.ndarray:
  box = seen_box(shown.alpha)
  a = (opacity * shown.alpha[box])[..., None]
  picture = shown.image.copy()
  picture[box] = np.clip(shown.image[box] * (1.0 - a) + shown.rgb[box] * (255.0 * a), 0, 255).astype(np.uint8)
  return picture


def seen_box(alpha: np.ndarray) -> tuple[slice, slice]:
  """Rows and columns of an (h, w) picture outside of which there is nothing of the head."""
  found = [np.flatnonzero(alpha.max(axis=axis)) for axis in (1, 0)]
  rows, columns = (slice(at[0], at[-1] + 1) if len(at) else slice(0) for at in found)
  return rows, columns


def _marked(shown: Shown) -> np.ndarray:
  """The image with its detected landmarks, green, joined to the head's, pink."""
  picture = shown.image.copy()
  # Sub-pixel drawing: OpenCV takes 1/16 px, and its pixel centres are whole numbers where ours are halves.
  fixed = [
    np.round((np.nan_to_num(p) - 0.5) * 16).astype(int).clip(-(2**18), 2**18) for p in (shown.detected, shown.projected)
  ]
  face = float(np.ptp(np.nan_to_num(shown.projected[:68]), axis=0).max())
  radius = round(16 * float(np.clip(face / 120.0, 1.0, 6.0)))  # 1/16 px: a few on each lid, whatever the face's size
  for i in range(len(shown.detected)):
    if shown.confidence[i] > 0:
      cv2.line(picture, fixed[0][i], fixed[1][i], (255, 255, 255), 1, cv2.LINE_AA, 4)
      cv2.circle(picture, fixed[0][i], radius, DETECTED, -1, cv2.LINE_AA, 4)
    cv2.circle(picture, fixed[1][i], radius, PROJECTED, -1, cv2.LINE_AA, 4)
  return picture
