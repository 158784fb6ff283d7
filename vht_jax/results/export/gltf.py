"""The container of binary glTF 2.0: numbers and pictures go in, a file comes out."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_TYPES = {
  np.dtype(np.int8): 5120, np.dtype(np.uint8): 5121, np.dtype(np.int16): 5122, np.dtype(np.uint16): 5123,
  np.dtype(np.uint32): 5125, np.dtype(np.float32): 5126,
}  # fmt: skip
ARRAY, ELEMENTS = 34962, 34963  # what a buffer view is bound to
SMOOTH = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}  # mip maps, clamped at the edges


class GltfFile:
  """The binary chunk as it grows, with its views and accessors."""

  def __init__(self):
    self.binary = bytearray()
    self.views: list[dict[str, Any]] = []
    self.accessors: list[dict[str, Any]] = []

  def view(self, data: bytes, target: int | None = None, stride: int | None = None) -> int:
    """Appends bytes; the number of their view."""
    self.binary += bytes(-len(self.binary) % 4)
    self.views.append(
      {
        "buffer": 0,
        "byteOffset": len(self.binary),
        "byteLength": len(data),
        **({"byteStride": stride} if stride else {}),
        **({"target": target} if target else {}),
      }
    )
    self.binary += data
    return len(self.views) - 1

  def accessor(
    self, values: np.ndarray, kind: str, target: int | None = None, bounds: bool = False, normalised: bool = False
  ) -> int:
    """An accessor of (n, k) values; attributes of vertices begin at multiples of four bytes."""
    stride = None
    stored = values
    if target == ARRAY and (short := -values.shape[1] * values.itemsize % 4):
      stored = np.pad(values, ((0, 0), (0, short // values.itemsize)))
      stride = stored.shape[1] * stored.itemsize
    view = self.view(np.ascontiguousarray(stored).tobytes(), target, stride)
    return self._add(values, kind, {"bufferView": view}, bounds, normalised)

  def sparse(self, values: np.ndarray, normalised: bool = False) -> int:
    """An accessor of (n, 3) values most of which are 0."""
    rows = np.flatnonzero(values.any(axis=1))
    if not len(rows):
      return self._add(values, "VEC3", {}, True, normalised)
    index = rows.astype(np.uint16 if len(values) <= 65536 else np.uint32)
    content = {
      "count": len(rows),
      "indices": {"bufferView": self.view(index.tobytes()), "componentType": _TYPES[index.dtype]},
      "values": {"bufferView": self.view(np.ascontiguousarray(values[rows]).tobytes())},
    }
    return self._add(values, "VEC3", {"sparse": content}, True, normalised)

  def _add(self, values, kind, where, bounds, normalised) -> int:
    accessor = {**where, "componentType": _TYPES[values.dtype], "count": len(values), "type": kind}
    if normalised and values.dtype != np.float32:
      accessor["normalized"] = True
    if bounds:
      accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
    self.accessors.append(accessor)
    return len(self.accessors) - 1

  def bytes(self, data: dict[str, Any]) -> bytes:
    """The whole file: header, the JSON chunk `data` with what is in here, binary chunk."""
    binary = bytes(self.binary) + bytes(-len(self.binary) % 4)
    data = {
      **data, "buffers": [{"byteLength": len(binary)}], "bufferViews": self.views, "accessors": self.accessors,
    }  # fmt: skip
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
      [
        struct.pack("<III", _MAGIC, 2, total),
        struct.pack("<II", len(text), _JSON), text,
        struct.pack("<II", len(binary), _BIN), binary,
      ]
    )  # fmt: skip
