"""One frame as a file: mesh formats and a picture."""

from __future__ import annotations

import cv2
import numpy as np
import trimesh
from trimesh.exchange.ply import export_ply

from vht_jax.results.export.any_head import meshes


def ply(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> bytes:
  """Binary PLY of vertices (V, 3), faces (F, 3) and their sRGB colours (V, 3) in [0, 1]."""
  rgb = np.round(255.0 * np.clip(colors, 0.0, 1.0)).astype(np.uint8)
  return export_ply(trimesh.Trimesh(vertices, faces, vertex_colors=rgb, process=False))


def obj(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray) -> bytes:
  """Wavefront OBJ of vertices (V, 3), faces (F, 3) and texture coordinates (F, 3, 2).

  Not trimesh's, which has one texture coordinate per vertex: its file would have other vertices than the head.
  """
  axes = "# x to the left of the image, y up, z away from the camera\n"
  return meshes.obj(vertices, meshes.obj_surface(faces, uv), meshes.UNIT + axes)


def picture(rgb: np.ndarray, alpha: np.ndarray, image: np.ndarray | None) -> bytes:
  """PNG of a rendering (H, W, 3) in [0, 1] over an image (H, W, 3) uint8, or alone and transparent around it."""
  shown = np.round(255.0 * rgb)
  if image is None:
    pixels = np.concatenate([shown[..., ::-1], 255.0 * alpha[..., None]], axis=-1)
  else:
    a = np.clip(alpha, 0.0, 1.0)[..., None]
    pixels = (shown * a + image * (1.0 - a))[..., ::-1]
  return cv2.imencode(".png", np.round(pixels).astype(np.uint8))[1].tobytes()


def texture_at_vertices(texture: np.ndarray, n_vertices: int, corners: np.ndarray, uv: np.ndarray) -> np.ndarray:
  """(V, 3) colours of a texture (H, W, 3) at vertices that have corners (N,) with coordinates `uv` (N, 2)."""
  height, width = texture.shape[:2]
  column = np.clip(uv[:, 0] * width, 0, width - 1).astype(int)
  row = np.clip((1.0 - uv[:, 1]) * height, 0, height - 1).astype(int)
  colors = np.full((n_vertices, 3), 0.5)
  colors[corners] = texture[row, column]
  return colors
