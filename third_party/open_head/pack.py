"""Writes npz files whose bytes depend on nothing but their content (and on zlib)."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np


def quantize(name: str, values: np.ndarray, step: float) -> dict[str, np.ndarray]:
  """int16 array and its step in metres; the step grows where int16 would overflow."""
  step = max(step, float(np.abs(values).max()) / 32000)
  return {name: np.round(values / step).astype(np.int16), f"{name}_step": np.float32(step)}


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Deterministic np.savez_compressed: given order, fixed time stamps."""
  with zipfile.ZipFile(path, "w") as archive:
    for name, array in arrays.items():
      content = io.BytesIO()
      np.lib.format.write_array(content, np.ascontiguousarray(array).reshape(np.shape(array)), version=(1, 0))
      info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
      info.compress_type = zipfile.ZIP_DEFLATED
      info.create_system = 3
      info.external_attr = 0o644 << 16
      archive.writestr(info, content.getvalue(), compresslevel=9)


def content_sha256(arrays) -> str:
  """Hash of names, types, shapes and values: unlike the file's, the same with every zlib."""
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f"{name} {array.dtype.str} {np.shape(arrays[name])}\n".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def file_sha256(path: Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def read_metadata(path: Path) -> dict[str, str]:
  """The "key: value" lines of a file."""
  return dict(line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)


def write_metadata(path: Path, entries: dict[str, str]) -> None:
  path.write_text("".join(f"{key}: {value}\n" for key, value in entries.items()))
