"""A tracked clip as one glTF 2.0 file (.glb) that Blender, three.js, Unreal and Unity open.

Exact, not baked: the head is a mesh with one morph target per expression unit and per pose corrective in use, a skin of
five joints, and an animation with a key per frame. The camera stands at the origin and looks along -z (OpenGL's axes),
metres and seconds. Format: Khronos, "glTF 2.0 specification", and its extension KHR_mesh_quantization.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from vht_jax.errors import InputError
from vht_jax.head import flame, mouth
from vht_jax.host.programs import rows_of, stored
from vht_jax.results.export.format import Files
from vht_jax.results.export.gltf import ARRAY, ELEMENTS, SMOOTH, GltfFile
from vht_jax.results.export.motion import JOINTS, PARENTS, Motion, joint_motion, morph_targets, quaternions
from vht_jax.results.export.scene import Lens, Scene, from_zero, lens_of
from vht_jax.types import FlameModel, TrackResult

_JPEG_QUALITY = 92  # of the compact file's texture

_texture = stored(flame.albedo)
_mean_light = stored(mouth.mean_light, rough=True)
_GAMMA = 2.2  # of sRGB: light in the mouth is a factor of the image's values, and vertex colours are linear


def glb_bytes(
  model: FlameModel,
  result: TrackResult,
  size: tuple[int, int],
  times: np.ndarray | None = None,
  *,
  frame_rate: float = 25.0,
  texture: np.ndarray | None = None,
  compact: bool = False,
  lens: Lens | None = None,
) -> bytes:
  """The clip as a .glb file.

  glTF cameras have no principal point: the camera is that of the image padded so that the point is in its middle, and
  its extras say by how much.

  Args:
    model: the head.
    result: T frames.
    size: (H, W) of the tracked images, px.
    times: (T,) s, rising; the first one becomes 0. None: evenly, at `frame_rate`.
    frame_rate: frames per second where there are no times.
    texture: (Ht, Wt, 3) uint8 RGB, row 0 is v = 1; None: the albedo of the result.
    compact: integers rather than floats (KHR_mesh_quantization; vertices within 0.02 mm), a JPEG rather than a PNG,
      and only the expression units that the clip uses.
    lens: of the images, if it is not that of the result, px.

  Raises:
    InputError: times that do not fit the frames, or poses that are not finite.
  """
  n = len(np.asarray(result.poses.expr))
  seconds = _seconds(times, n, frame_rate)
  identity, poses = result.identity, result.poses
  motion = joint_motion(model, np.asarray(identity.shape), poses, identity.camera)
  if not all(np.isfinite(a).all() for a in (*motion, np.asarray(poses.expr))):
    raise InputError("glb: expected finite poses; found NaN or infinity in the result")
  targets, names, weights = morph_targets(model, np.asarray(poses.expr, np.float64), motion, compact)
  head = np.asarray(model.v_template, np.float64) + np.asarray(model.shapedirs, np.float64) @ np.asarray(
    identity.shape, np.float64
  )
  file = GltfFile()
  scale = max(np.abs(head).max(), np.abs(targets).max(initial=0.0)) / 32767 if compact else 1.0
  mesh = _mesh(file, model, head, targets, scale, compact, mouth_colours(model, result))
  mesh["extras"] = {"targetNames": names}
  mesh["weights"] = [0.0] * len(names)
  inverse_bind = np.tile(np.diag([scale, scale, scale, 1.0]), (5, 1, 1))
  inverse_bind[:, :3, 3] = -motion.rest
  data = {
    "asset": {"version": "2.0", "generator": "vht_jax", "extras": {"head": model.name}},
    **({"extensionsUsed": ["KHR_mesh_quantization"]} if compact else {}),
    **({"extensionsRequired": ["KHR_mesh_quantization"]} if compact else {}),
    "scene": 0,
    "scenes": [{"nodes": [0, 1, 2]}],
    "nodes": [{"name": "camera", "camera": 0}, {"name": "head", "mesh": 0, "skin": 0}, *_joint_nodes(motion)],
    "cameras": [_camera(lens_of(identity.camera, size) if lens is None else lens, *size)],
    "meshes": [mesh],
    "skins": [
      {
        "joints": [2, 3, 4, 5, 6],
        "skeleton": 2,
        "inverseBindMatrices": file.accessor(np.swapaxes(inverse_bind, 1, 2).reshape(5, 16).astype(np.float32), "MAT4"),
      }
    ],
    "materials": [
      {
        "name": "skin",
        "doubleSided": True,
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 0.8},
      }
    ],
    "textures": [{"source": 0, "sampler": 0}],
    "samplers": [SMOOTH],
    "images": [_image(file, _albedo(model, result) if texture is None else texture, compact)],
    "animations": [_animation(file, seconds, motion, weights)],
  }
  return file.bytes(data)


def to_glb(scene: Scene, *, compact: bool = False) -> Files:
  """NAME.glb of a scene."""
  data = glb_bytes(
    scene.model, scene.result, scene.size, scene.times, texture=scene.texture, compact=compact, lens=scene.lens
  )
  yield f"{scene.name}.glb", data


def _seconds(times: np.ndarray | None, n: int, frame_rate: float) -> np.ndarray:
  return from_zero("glb", np.arange(n) / frame_rate if times is None else np.asarray(times, np.float64), n)


def mouth_colours(model: FlameModel, result: TrackResult) -> np.ndarray | None:
  """(V, 4) uint8, linear factors of the colour: the light that comes into the mouth (`head.mouth`), on average over the
  clip as such a file cannot change it; None for a head whose mouth is empty."""
  inside = mouth.inside_mouth(model)
  if not inside.any():
    return None
  rows = mouth.shown_frames(len(result.poses.expr))
  light = _mean_light(model, inside.astype(np.float32), result.identity.shape, rows_of(result.poses, rows))
  grey = np.round(255.0 * np.asarray(light, np.float64)[:, None] ** _GAMMA)
  return np.concatenate([np.repeat(grey, 3, axis=1), np.full_like(grey, 255.0)], axis=1).astype(np.uint8)


def _mesh(
  file: GltfFile, model: FlameModel, head: np.ndarray, targets: np.ndarray, scale: float, compact: bool,
  colours: np.ndarray | None,
) -> dict[str, Any]:  # fmt: skip
  """The mesh with its vertices split where the texture has a seam; the attribute _VERTEX has the head's numbers."""
  faces = np.asarray(model.faces)
  corners = np.concatenate([faces.reshape(-1, 1), np.round(np.asarray(model.uv).reshape(-1, 2) * 65535)], axis=1)
  split, corner_ids = np.unique(corners, axis=0, return_inverse=True)
  vertex = split[:, 0].astype(int)
  uv = split[:, 1:] / 65535
  uv[:, 1] = 1.0 - uv[:, 1]  # glTF counts v from the top

  def positions(values, sparse=False):
    values = values[vertex] / scale
    quantised = np.round(values).astype(np.int16) if compact else values.astype(np.float32)
    return file.sparse(quantised) if sparse else file.accessor(quantised, "VEC3", ARRAY, bounds=True)

  def unit(values, sparse=False):
    values = values[vertex]
    small = np.round(np.clip(values, -1, 1) * 127).astype(np.int8) if compact else values.astype(np.float32)
    return file.sparse(small, True) if sparse else file.accessor(small, "VEC3", ARRAY, normalised=compact)

  normals = _normals(head, faces)
  joints, weights = _influences(np.asarray(model.lbs_weights, np.float64)[vertex])
  uvs = np.round(uv * 65535).astype(np.uint16) if compact else uv.astype(np.float32)
  attributes = {
    "POSITION": positions(head),
    "NORMAL": unit(normals),
    "TEXCOORD_0": file.accessor(uvs, "VEC2", ARRAY, normalised=compact),
    "JOINTS_0": file.accessor(joints, "VEC4", ARRAY),
    "WEIGHTS_0": file.accessor(weights, "VEC4", ARRAY, normalised=True),
    **({} if colours is None else {"COLOR_0": file.accessor(colours[vertex], "VEC4", ARRAY, normalised=True)}),
    "_VERTEX": file.accessor(vertex.astype(np.float32)[:, None], "SCALAR", ARRAY),
  }
  morphs = [
    {"POSITION": positions(t, sparse=True), "NORMAL": unit(_normals(head + t, faces) - normals, sparse=True)}
    for t in targets
  ]
  triangles = corner_ids.reshape(-1, 1).astype(np.uint16 if len(split) < 65535 else np.uint32)
  indices = file.accessor(triangles, "SCALAR", ELEMENTS)
  return {
    "name": "head",
    "primitives": [{"attributes": attributes, "indices": indices, "material": 0, "targets": morphs}],
  }


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """(V, 3) area-weighted unit normals; 0 where no face is."""
  a, b, c = np.moveaxis(vertices[faces], 1, 0)
  cross = np.cross(b - a, c - a)
  summed = np.stack(
    [np.bincount(faces.T.ravel(), np.tile(cross[:, k], 3), minlength=len(vertices)) for k in range(3)], axis=1
  )
  return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-20)


def _influences(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The four largest of the five skinning weights: joints (V, 4) uint8, weights (V, 4) uint16 that sum to 65535."""
  joints = np.argsort(-weights, axis=1, kind="stable")[:, :4]
  largest = np.take_along_axis(weights, joints, axis=1)
  whole = np.round(65535 * largest / largest.sum(axis=1, keepdims=True)).astype(np.int64)
  whole[:, 0] += 65535 - whole.sum(axis=1)
  return np.where(whole > 0, joints, 0).astype(np.uint8), whole.astype(np.uint16)


def _joint_nodes(motion: Motion) -> list[dict[str, Any]]:
  """Nodes 2 to 6, as they are in the first frame."""
  nodes = []
  for j, name in enumerate(JOINTS):
    children = [2 + k for k, p in enumerate(PARENTS) if p == j]
    nodes.append(
      {
        "name": name,
        **({"children": children} if children else {}),
        "rotation": _floats(quaternions(motion.rotation[:1, j])[0]),
        "translation": _floats(motion.translation[0, j]),
      }
    )
  return nodes


def _camera(lens: Lens, height: int, width: int) -> dict[str, Any]:
  focal, cx, cy = lens
  half_width, half_height = max(cx, width - cx), max(cy, height - cy)
  return {
    "name": "camera",
    "type": "perspective",
    "perspective": {
      "yfov": 2.0 * float(np.arctan2(half_height, focal)),
      "aspectRatio": half_width / half_height,
      "znear": 0.01,
    },
    "extras": {
      "focal_px": focal,
      "principal_px": [cx, cy],
      "image_size": [width, height],
      "padded_size": [2 * half_width, 2 * half_height],
      "image_offset": [half_width - cx, half_height - cy],
    },
  }


def _animation(file: GltfFile, seconds: np.ndarray, motion: Motion, weights: np.ndarray) -> dict[str, Any]:
  time = file.accessor(seconds.astype(np.float32)[:, None], "SCALAR", bounds=True)
  tracks = [(1, "weights", file.accessor(weights.astype(np.float32).reshape(-1, 1), "SCALAR"))] if weights.size else []
  for j in range(5):
    rotation = quaternions(motion.rotation[:, j]).astype(np.float32)
    tracks.append((2 + j, "rotation", file.accessor(rotation, "VEC4")))
    tracks.append((2 + j, "translation", file.accessor(motion.translation[:, j].astype(np.float32), "VEC3")))
  return {
    "name": "clip",
    "samplers": [{"input": time, "output": output, "interpolation": "LINEAR"} for _, _, output in tracks],
    "channels": [
      {"sampler": i, "target": {"node": node, "path": path}} for i, (node, path, _) in enumerate(tracks)
    ],
  }  # fmt: skip


def _albedo(model: FlameModel, result: TrackResult) -> np.ndarray:
  albedo = _texture(model, result.identity.texture, result.identity.texture_layer)
  return np.round(np.asarray(albedo) * 255).astype(np.uint8)


def _image(file: GltfFile, texture: np.ndarray, compact: bool) -> dict[str, Any]:
  data = io.BytesIO()
  kind, options = ("jpeg", {"quality": _JPEG_QUALITY, "subsampling": 0}) if compact else ("png", {})
  Image.fromarray(np.asarray(texture, np.uint8)).save(data, kind, **options)
  return {"name": "albedo", "mimeType": f"image/{kind}", "bufferView": file.view(data.getvalue())}


def _floats(values: np.ndarray) -> list[float]:
  return [float(v) for v in values]
