"""Coloured meshes as binary glTF, so that the browser shows exactly the colours it is given.

viser has one colour per mesh; a glTF file brings colours per vertex or a texture. It is drawn unlit, but three.js
still puts its filmic tone curve over it (viser leaves the default, ACES as fitted by Stephen Hill), so colours are sent
through the inverse of that curve.
"""

from __future__ import annotations

import cv2
import numpy as np

from vht_jax.results.export.gltf import ARRAY, ELEMENTS, SMOOTH, GltfFile

# three.js, tonemapping_pars_fragment.glsl: ACESFilmicToneMapping; rows act on column vectors. Exposure 1 / 0.6 before.
_ACES_IN = np.array([[0.59719, 0.35458, 0.04823], [0.07600, 0.90834, 0.01566], [0.02840, 0.13383, 0.83777]])
_ACES_OUT = np.array([[1.60475, -0.53108, -0.07367], [-0.10208, 1.10813, -0.00605], [-0.00327, -0.07276, 1.07602]])
_EXPOSURE = 1.0 / 0.6
# What the curve can reach is below 1.017; this bound (sRGB 0.96) keeps the range of what is sent small.
_BRIGHTEST = 0.92
# Factor between the texture, whose 8 bits end at 1, and what has to be sent for `_BRIGHTEST`.
TEXTURE_SCALE = 2.5


def untoned(display: np.ndarray) -> np.ndarray:
  """Linear RGB (..., 3) f32 that the browser shows as the sRGB colour `display` (..., 3) in [0, 1]."""
  display = np.clip(np.asarray(display, np.float32), 0.0, 1.0)
  linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
  y = np.clip(linear @ np.linalg.inv(_ACES_OUT).T.astype(np.float32), 0.0, _BRIGHTEST)
  # The curve y = (v (v + a) - b) / (v (c v + d) + e), solved for its positive v.
  a, b, c, d, e = 0.0245786, 0.000090537, 0.983729, 0.4329510, 0.238081
  p, q, r = 1.0 - c * y, a - d * y, -b - e * y
  v = (-q + np.sqrt(q * q - 4.0 * p * r)) / (2.0 * p)
  sent = v @ (np.linalg.inv(_ACES_IN).T / _EXPOSURE).astype(np.float32)
  return np.maximum(sent, 0.0).astype(np.float32)


def toned(sent: np.ndarray) -> np.ndarray:
  """What the browser shows (sRGB in [0, 1]) of linear RGB (..., 3): the inverse of `untoned`."""
  v = np.asarray(sent, np.float64) * _EXPOSURE @ _ACES_IN.T
  y = (v * (v + 0.0245786) - 0.000090537) / (v * (0.983729 * v + 0.4329510) + 0.238081)
  linear = np.clip(y @ _ACES_OUT.T, 0.0, 1.0)
  return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def texture_jpeg(display: np.ndarray, quality: int = 92) -> bytes:
  """A texture (H, W, 3) of sRGB colours in [0, 1], row 0 at v = 1, for `pack(jpeg=...)`."""
  linear = np.clip(untoned(display) / TEXTURE_SCALE, 0.0, 1.0)
  encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  pixels = np.round(encoded[..., ::-1] * 255.0).astype(np.uint8)
  # Colours at full resolution (4:4:4): the curve above is steep.
  options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
  return cv2.imencode(".jpg", pixels, options)[1].tobytes()


def pack(
  vertices: np.ndarray,
  faces: np.ndarray,
  *,
  colors: np.ndarray | None = None,
  uv: np.ndarray | None = None,
  jpeg: bytes | None = None,
  opacity: float = 1.0,
) -> bytes:
  """A binary glTF file with one unlit mesh.

  Args:
    vertices: (N, 3) m.
    faces: (F, 3) vertex ids.
    colors: (N, 3) sRGB in [0, 1] as they shall look; or
    uv, jpeg: (N, 2), v up, and a texture of `texture_jpeg`.
    opacity: of the whole mesh.
  """
  file = GltfFile()
  attributes = {"POSITION": file.accessor(np.asarray(vertices, "<f4"), "VEC3", ARRAY, bounds=True)}
  scale = 1.0
  surface: dict = {"metallicFactor": 0.0}
  if colors is not None:
    attributes["COLOR_0"] = file.accessor(untoned(colors).astype("<f4"), "VEC3", ARRAY)
  textures: dict = {}
  if jpeg is not None:
    flipped = np.asarray(uv, "<f4") * [1.0, -1.0] + [0.0, 1.0]  # glTF counts v from the top
    attributes["TEXCOORD_0"] = file.accessor(flipped.astype("<f4"), "VEC2", ARRAY)
    scale = TEXTURE_SCALE
    surface["baseColorTexture"] = {"index": 0}
    textures = {
      "textures": [{"source": 0, "sampler": 0}],
      "images": [{"bufferView": file.view(jpeg), "mimeType": "image/jpeg"}],
      "samplers": [SMOOTH],
    }
  indices = file.accessor(np.asarray(faces, "<u4").reshape(-1, 1), "SCALAR", ELEMENTS)
  surface["baseColorFactor"] = [scale, scale, scale, opacity]
  unlit = {
    "pbrMetallicRoughness": surface,
    "extensions": {"KHR_materials_unlit": {}},
    **({"alphaMode": "BLEND"} if opacity < 1.0 else {}),
  }
  document = {
    "asset": {"version": "2.0", "generator": "vht_jax"},
    "extensionsUsed": ["KHR_materials_unlit"],
    "scene": 0,
    "scenes": [{"nodes": [0]}],
    "nodes": [{"mesh": 0}],
    "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
    "materials": [unlit],
    **textures,
  }
  return file.bytes(document)
