"""A mesh per frame: OBJ and PLY sequences, and a PC2 cache. All vertices in the head's order, metres.

Axes are those of the .glb: an OpenGL camera at the origin (x right, y up, z towards the camera), which also is what
three.js and, after their usual import, Blender and Unity expect. The camera itself is in NAME_FORMAT_camera.json.
"""

from __future__ import annotations

import json
import struct

import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.png import rgb_png
from vht_jax.results.export.scene import OPENGL, Scene

_MATERIAL = "skin"
UNIT = "# vht_jax: metres\n"  # the first line of an OBJ


def to_obj(scene: Scene) -> Files:
  """NAME_00001.obj, ... with texture coordinates, NAME.mtl and NAME.png, NAME_obj_camera.json. Numbers
  count the frames."""
  yield from _surroundings(scene, "obj")
  yield from _material(scene)
  surface = obj_surface(np.asarray(scene.model.faces), np.asarray(scene.model.uv))
  head = f"{UNIT}mtllib {scene.name}.mtl\nusemtl {_MATERIAL}\n"
  for i in range(len(scene)):
    yield numbered(scene, i, "obj"), obj(vertices_of(scene, i), surface, head)


def to_ply(scene: Scene) -> Files:
  """NAME_00001.ply, ...: binary, with the texture's colours at the vertices; NAME_ply_camera.json."""
  yield from _surroundings(scene, "ply")
  faces, colors = np.asarray(scene.model.faces), vertex_colors(scene)
  for i in range(len(scene)):
    yield numbered(scene, i, "ply"), ply(vertices_of(scene, i), faces, colors)


def to_pc2(scene: Scene) -> Files:
  """NAME.pc2, a point cache with a sample per frame, and NAME.obj, the mesh it moves (Blender: Mesh Cache modifier)."""
  yield from _surroundings(scene, "pc2")
  surface = obj_surface(np.asarray(scene.model.faces), np.asarray(scene.model.uv))
  yield from _material(scene)
  head = f"{UNIT}mtllib {scene.name}.mtl\nusemtl {_MATERIAL}\n"
  yield f"{scene.name}.obj", obj(vertices_of(scene, 0), surface, head)
  count = len(scene.model.v_template)
  if len(scene) * count * 12 > 1 << 31:
    raise InputError(f"pc2: {len(scene)} frames of {count} vertices are more than 2 GB; export a part of the clip")
  frames = [vertices_of(scene, i).astype("<f4").tobytes() for i in range(len(scene))]
  header = struct.pack("<12siiffi", b"POINTCACHE2\0", 1, count, 0.0, 1.0, len(scene))
  yield f"{scene.name}.pc2", header + b"".join(frames)


def vertices_of(scene: Scene, i: int) -> np.ndarray:
  """(V, 3) of frame i before an OpenGL camera, m."""
  return scene.camera_vertices(i) @ OPENGL.T


def numbered(scene: Scene, i: int, suffix: str) -> str:
  """The file of frame i, counted from 1 without holes: programs that play sequences want that."""
  return f"{scene.name}_{i + 1:05d}.{suffix}"


def obj(vertices: np.ndarray, surface: str, head: str = "") -> bytes:
  """Wavefront OBJ of vertices (V, 3); `surface`: `obj_surface` of its faces, `head`: lines before all."""
  return f"{head}{_lines('v %.7f %.7f %.7f', vertices)}{surface}".encode()


def obj_surface(faces: np.ndarray, uv: np.ndarray | None = None) -> str:
  """The lines of faces (F, 3) and, if there are any, texture coordinates (F, 3, 2): the same for every frame."""
  if uv is None:
    return _lines("f %d %d %d", faces + 1)
  unique, inverse = np.unique(uv.reshape(-1, 2), axis=0, return_inverse=True)
  ids = np.stack([faces + 1, inverse.reshape(faces.shape) + 1], axis=-1)
  return _lines("vt %.6f %.6f", unique) + _lines("f %d/%d %d/%d %d/%d", ids.reshape(-1, 6))


def _lines(pattern: str, rows: np.ndarray) -> str:
  return f"{pattern}\n" * len(rows) % tuple(rows.ravel().tolist())


def ply(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None = None) -> bytes:
  """Binary PLY of vertices (V, 3), faces (F, 3) and, if there are any, sRGB colours (V, 3) uint8."""
  points = np.empty(len(vertices), [("xyz", "<f4", 3), *([] if colors is None else [("rgb", "u1", 3)])])
  points["xyz"] = vertices
  if colors is not None:
    points["rgb"] = colors
  triangles = np.empty(len(faces), [("n", "u1"), ("ids", "<i4", 3)])
  triangles["n"], triangles["ids"] = 3, faces
  properties = [f"property float {a}" for a in "xyz"]
  if colors is not None:
    properties += [f"property uchar {c}" for c in ("red", "green", "blue")]
  lines = [
    "ply", "format binary_little_endian 1.0", "comment vht_jax: metres", f"element vertex {len(vertices)}", *properties,
    f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", "",
  ]  # fmt: skip
  return "\n".join(lines).encode() + points.tobytes() + triangles.tobytes()


def vertex_colors(scene: Scene) -> np.ndarray:
  """(V, 3) uint8 of the texture at every vertex, at one of its corners where it has several; grey without a face."""
  faces, uv, texture = np.asarray(scene.model.faces), np.asarray(scene.model.uv), scene.texture
  height, width = texture.shape[:2]
  vertex, first = np.unique(faces.ravel(), return_index=True)
  u, v = uv.reshape(-1, 2)[first].T
  column, row = (u * width).astype(int).clip(0, width - 1), ((1 - v) * height).astype(int).clip(0, height - 1)
  colors = np.full((len(scene.model.v_template), 3), 128, np.uint8)
  colors[vertex] = texture[row, column]
  return colors


def camera_json(scene: Scene, suffix: str = "") -> bytes:
  """The camera of each frame: pixels from the top left, pixel centres at i + 0.5."""
  names = ("fl_x", "fl_y", "cx", "cy")
  frames = []
  for i, (f, cx, cy) in enumerate(scene.intrinsics.tolist()):
    frame = {"time": float(scene.times[i]), "frame": int(scene.frame_ids[i]), **dict(zip(names, (f, f, cx, cy)))}
    frames.append({"file": numbered(scene, i, suffix), **frame} if suffix else frame)
  content = {
    "axes": "OpenGL camera at the origin: x right, y up, z towards the camera; metres",
    "projection": "column = cx - fl_x x / z, row = cy + fl_y y / z",
    "w": scene.size[1],
    "h": scene.size[0],
    "fps": scene.fps,
    "frames": frames,
  }
  return json.dumps(content, indent=1).encode()


def _material(scene: Scene) -> Files:
  yield f"{scene.name}.mtl", f"newmtl {_MATERIAL}\nKd 1 1 1\nmap_Kd {scene.name}.png\n".encode()
  yield f"{scene.name}.png", rgb_png(scene.texture)


def _surroundings(scene: Scene, suffix: str) -> Files:
  # A name of its own: of two formats or two clips in one folder each keeps its camera.
  yield f"{scene.name}_{suffix}_camera.json", camera_json(scene, suffix if suffix != "pc2" else "")
