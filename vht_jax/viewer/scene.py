"""The 3D nodes of one result in the browser: head, video frame as the camera's image plane, landmarks.

The scene is the package's world (x left, y up, z away from the camera), so nothing is converted: the browser's camera
at the tracking camera's place, with the same axis, sees the head over the frame exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import viser.transforms as transforms

from vht_jax import cameras
from vht_jax.app.result.source import Source
from vht_jax.types import Camera
from vht_jax.video.pixels import resize_antialiased
from vht_jax.viewer import glb
from vht_jax.viewer.surface import DISTANCE_RANGE, ERROR_RANGE, Surface, behind_pixels, scale_colors

LOOKS = ("texture", "shading", "normals", "wireframe", "clay", "error")
DIFFERENCE = "difference"  # look of the first of two results
# Landmarks are drawn this much nearer to the camera than they are, so that the skin does not hide half of each. Seen
# from the camera they stay where they are.
_IN_FRONT = 0.99
_POINT = 0.0013  # of the points' distance: their radius
_PLANE_MARGIN = 0.25  # m behind the clip's farthest root joint: behind every head, which are 0.2 m deep
_PLANE_SIDE = 1080  # px, of the frames that are sent to the browser
_PLAIN = ("wireframe", "clay")  # looks of a mesh of one colour, which is moved in place
_DETECTED, _MODEL = (60, 220, 60), (255, 60, 200)  # the overlay video's colours


@dataclasses.dataclass(frozen=True)
class View:
  """How things are shown."""

  look: str = "texture"
  opacity: float = 1.0
  image: bool = True
  landmarks: bool = False


class _Turns:
  """Two nodes in turn: one is shown while the browser unpacks what was sent to the other."""

  def __init__(self):
    self._nodes: list[Any] = [None, None]
    self._at = 0

  def send(self, update: Callable[[Any], None], add: Callable[[int], Any]) -> None:
    """To the node that is not shown; adds it, hidden and with its number in the name, when there is none yet."""
    self._at = 1 - self._at
    if self._nodes[self._at] is None:
      self._nodes[self._at] = add(self._at)
    else:
      update(self._nodes[self._at])

  def show(self, visible: bool) -> None:
    """The node that was sent to last, or none."""
    for i, node in enumerate(self._nodes):
      if node is not None:
        node.visible = visible and i == self._at


def root_depths(source: Source) -> np.ndarray:
  """m from the camera to the root joint, along its axis, in the frames that were tracked."""
  camera = source.tracked.result.identity.camera
  roots = np.asarray(source.tracked.result.poses.translation, np.float64)
  depth = (roots @ np.asarray(camera.R, np.float64).T + np.asarray(camera.T, np.float64))[:, 2]
  depth = depth[np.isfinite(depth) & (depth > 0)]
  return depth if len(depth) else np.ones(1)


def plane_of(camera: Camera, size: tuple[int, int], distance: float) -> tuple[np.ndarray, float, float]:
  """Where the image lies at a distance: its centre (3,) in the world, its width and height in m."""
  height, width = size
  f = float(camera.focal) * max(size)
  centre = behind_pixels(camera, np.array([[width / 2, height / 2]]), np.array([distance]), size)[0]
  return centre, distance * width / f, distance * height / f


def camera_place(camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Position (3,), a point ahead on the optical axis (3,) and the up direction (3,) of a camera, world."""
  R, T = np.asarray(camera.R, np.float64), np.asarray(camera.T, np.float64)
  return -T @ R, (np.array([0.0, 0.0, 1.0]) - T) @ R, -R[1]


def field_of_view(camera: Camera, size: tuple[int, int], aspect: float) -> float:
  """rad, vertical: what a window of `aspect` = width / height needs to show the whole image about the optical axis."""
  height, width = size
  f = float(camera.focal) * max(size)
  cx, cy = np.asarray(camera.principal, np.float64) * [width, height]
  half = max(cy, height - cy, max(cx, width - cx) / aspect)
  return 2.0 * math.atan(half / f)


def wxyz(rotation: np.ndarray) -> tuple[float, float, float, float]:
  """Unit quaternion of a (3, 3) rotation matrix."""
  w, x, y, z = transforms.SO3.from_matrix(np.asarray(rotation, np.float64)).wxyz
  return float(w), float(x), float(y), float(z)


class HeadScene:
  """Draws one result. Called from one thread at a time."""

  def __init__(self, server, name: str, source: Source, surface: Surface, offset: tuple = (0.0, 0.0, 0.0)):
    """Args:
    server: viser's.
    name: of the top node.
    source, surface: the result and its drawable head.
    offset: (3,) m, where it stands in the scene.
    """
    self.server, self.source, self.surface = server, source, surface
    self.name, self.size = name, source.tracked.image_size
    self.root = server.scene.add_frame(f"/{name}", show_axes=False, position=offset)
    depths = root_depths(source)
    # m to the image plane: the same for the whole clip, so that the plane stays where it is
    self.distance = float(depths.max()) + _PLANE_MARGIN
    self.head_distance = float(np.median(depths))
    self._images, self._heads = _Turns(), _Turns()
    self._content: tuple | None = None  # frame and focal length of the image that was sent last
    self._blank = False  # that frame has none
    self._mesh = None
    self._waiting: tuple | None = None
    self._points: list = []
    self._lines = None

  def show(self, frame: int, view: View, colors: np.ndarray | None = None) -> np.ndarray:
    """Sends a frame, to be seen from `settle` on; returns its vertices (V, 3).

    Args:
      frame: position.
      view: how.
      colors: (V, 3) sRGB instead of the view's look.
    """
    vertices = self.surface.vertices(frame)
    if view.image:
      self._send_image(frame)
    plain = colors is None and view.look in _PLAIN
    if not plain:
      self._send_head(self._packed(vertices, frame, view, colors))
    self._waiting = (frame, view, vertices, plain)
    return vertices

  def hide(self, hidden: bool) -> None:
    self.root.visible = not hidden

  def place(self, offset) -> None:
    """Moves the result in the scene."""
    self.root.position = tuple(float(x) for x in offset)

  @property
  def width(self) -> float:
    """m, of the image plane."""
    return plane_of(self.surface.session.edited_camera, self.size, self.distance)[1]

  def look_colors(self, vertices: np.ndarray, frame: int, look: str) -> np.ndarray | None:
    """(V, 3) sRGB of a look; None for the texture."""
    if look == "normals":
      return self.surface.normals(vertices)
    if look == "error":
      image = self.source.image(frame)
      if image is None:
        return scale_colors(np.full(len(vertices), np.nan), 1.0)
      return scale_colors(self.surface.image_error(vertices, image), ERROR_RANGE)
    if look == "shading":
      return self.surface.shading(vertices)
    return None

  def landmark_pixels(self, vertices: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Of the head and detected (70, 2) px each, and the latter's confidence (70,); None without a detection."""
    source, row = self.source, self.source.image_rows[frame]
    if source.images is None or row < 0:
      return None
    found = source.images.keypoints(int(row))
    if not found.valid:
      return None
    camera = self.surface.session.edited_camera
    model = np.asarray(cameras.project(camera, jnp.asarray(self.surface.landmarks(vertices)), self.size))
    return model[:, :2], found.landmarks, found.confidence

  # Parts

  def _packed(self, vertices: np.ndarray, frame: int, view: View, colors: np.ndarray | None) -> bytes:
    surface, shown = self.surface, self.surface.shown(vertices)
    if colors is None:
      colors = self.look_colors(vertices, frame, view.look)
    if colors is not None:
      return glb.pack(shown, surface.faces, colors=colors, opacity=view.opacity)
    jpeg = glb.texture_jpeg(surface.texture(vertices))
    return glb.pack(shown[surface.corners], surface.split_faces, uv=surface.split_uv, jpeg=jpeg, opacity=view.opacity)

  def _send_head(self, data: bytes) -> None:
    def update(node) -> None:
      node.glb_data = data

    add = lambda i: self.server.scene.add_glb(
      f"/{self.name}/head_{i}", data, cast_shadow=False, receive_shadow=False, visible=False
    )
    self._heads.send(update, add)

  def _send_image(self, frame: int) -> None:
    """Nothing if it was the last one already."""
    camera = self.surface.session.edited_camera
    content = (frame, float(camera.focal))
    if self._content == content:
      return
    image = self.source.image(frame)
    self._content, self._blank = content, image is None
    if image is None:
      return
    height, width = image.shape[:2]
    scale = min(1.0, _PLANE_SIDE / max(height, width))
    sent = resize_antialiased(image, (max(1, round(height * scale)), max(1, round(width * scale))))
    centre, width, height = plane_of(camera, self.size, self.distance)

    def update(node) -> None:
      node.image, node.render_width, node.render_height, node.position = sent, width, height, centre

    # viser's images lie in the x, y plane with x right and y down, as the camera's.
    add = lambda i: self.server.scene.add_image(
      f"/{self.name}/image_{i}", sent, width, height, format="jpeg", jpeg_quality=90, visible=False,
      cast_shadow=False, receive_shadow=False, wxyz=wxyz(np.asarray(camera.R).T), position=centre,
    )  # fmt: skip
    self._images.send(update, add)

  def settle(self) -> None:
    """Brings what `show` has sent to the front, with the landmarks that belong to it; browsers should have taken it in
    (`Pace`)."""
    if self._waiting is None:
      return
    frame, view, vertices, plain = self._waiting
    self._waiting = None
    with self.server.atomic():
      self._heads.show(not plain)
      self._images.show(view.image and not self._blank)
      if plain:
        self._move_mesh(vertices, view)
      if self._mesh is not None:
        self._mesh.visible = plain
      self._show_landmarks(frame, view, vertices)

  def _move_mesh(self, vertices: np.ndarray, view: View) -> None:
    """The plain mesh, whose vertices are moved in place."""
    wire = view.look == "wireframe"
    opacity = view.opacity if view.opacity < 1.0 else None
    if self._mesh is None:
      self._mesh = self.server.scene.add_mesh_simple(
        f"/{self.name}/mesh", vertices, self.surface.faces, visible=False, cast_shadow=False, receive_shadow=False
      )
    self._mesh.vertices = vertices
    self._mesh.wireframe, self._mesh.opacity = wire, opacity
    self._mesh.color = (40, 110, 200) if wire else (200, 195, 190)

  def _show_landmarks(self, frame: int, view: View, vertices: np.ndarray) -> None:
    pixels = self.landmark_pixels(vertices, frame) if view.landmarks else None
    nodes = [*self._points, *([] if self._lines is None else [self._lines])]
    if not view.landmarks:
      for node in nodes:
        node.visible = False
      return
    camera = self.surface.session.edited_camera
    centre = camera_place(camera)[0]
    model = self.surface.landmarks(vertices)
    nearer = centre + _IN_FRONT * (model - centre)
    depth = np.asarray(cameras.world_to_camera(camera, jnp.asarray(model)))[:, 2]
    seen = np.zeros(len(model), bool) if pixels is None else pixels[2] > 0
    detected = (
      nearer
      if pixels is None
      else np.where(seen[:, None], behind_pixels(camera, pixels[1], _IN_FRONT * depth, self.size), nearer)
    )
    size = 2.0 * _POINT * float(np.median(depth))
    if not self._points:
      for name, points, color in (("model", nearer, _MODEL), ("detected", detected, _DETECTED)):
        self._points.append(
          self.server.scene.add_point_cloud(
            f"/{self.name}/landmarks_{name}", points, color, point_size=size, point_shape="circle", precision="float32",
            point_shading="flat",
          )
        )  # fmt: skip
      self._lines = self.server.scene.add_line_segments(
        f"/{self.name}/landmarks_error", np.stack([nearer, detected], 1), (255, 255, 255), thickness=1.5,
        thickness_units="screen",
      )  # fmt: skip
    self._points[0].points, self._points[1].points = nearer, detected
    if self._lines is not None:
      self._lines.points = np.stack([nearer, detected], 1)
      self._lines.visible = pixels is not None
    self._points[0].visible = True
    self._points[1].visible = pixels is not None


def distance_colors(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """mm (V,) between the vertices of two results in the world, and their colours (V, 3)."""
  distance = 1000.0 * np.linalg.norm(a - b, axis=1)
  return distance, scale_colors(distance, DISTANCE_RANGE)
