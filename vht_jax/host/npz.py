"""Reading .npy and .npz without trusting their headers: nothing is allocated that the file cannot fill. Making .npz."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from vht_jax.errors import InputError, brief

MAX_BYTES = 4 << 30  # of one array held in memory; FLAME's largest, its texture basis, is 0.6 GB


def npz_bytes(arrays: dict[str, np.ndarray], *, compressed: bool = False) -> bytes:
  """An npz file of these arrays."""
  data = io.BytesIO()
  save = np.savez_compressed if compressed else np.savez
  save(data, **cast(Any, arrays))  # NumPy's stub takes the names for options
  return data.getvalue()


def read_npz(path: Path, keys: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
  """Arrays of an npz without objects.

  Args:
    path: of the file.
    keys: which arrays (those that are present); all by default.

  Raises:
    InputError: the file is not an npz, is truncated, holds objects or claims absurd sizes.
  """
  arrays, total = {}, 0
  with _open_zip(path) as archive:
    for info in archive.infolist():
      key = info.filename.removesuffix(".npy")
      if info.filename.endswith(".npy") and (keys is None or key in keys):
        total += info.file_size
        if total > MAX_BYTES:
          raise InputError(f"{path}: claims more than {MAX_BYTES >> 30} GiB of data")
        with _reading(f"{path} [{key}]"), archive.open(info) as file:
          arrays[key] = _read_numbers(file, f"{path} [{key}]", info.file_size)
  return arrays


def read_npy(path: Path) -> np.ndarray | bytes:
  """The array of an .npy file; for one that holds objects, the bytes of its pickle instead (see `unpickle`)."""
  with _reading(str(path)), path.open("rb") as file:
    size = path.stat().st_size
    shape, fortran, dtype = _read_header(file, str(path))
    if dtype.hasobject:
      return file.read(min(size, MAX_BYTES))
    return _read_body(file, str(path), shape, fortran, dtype, size)


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every array of an npz, from the headers alone."""
  shapes = {}
  with _open_zip(path) as archive:
    for info in archive.infolist():
      if info.filename.endswith(".npy"):
        with _reading(f"{path} [{info.filename}]"), archive.open(info) as file:
          shapes[info.filename.removesuffix(".npy")] = _read_header(file, str(path))[0]
  return shapes


def read_texels(path: Path, key: str, size: tuple[int, int], stride: int, n: int) -> np.ndarray:
  """Every `stride`-th texel and the first `n` components of a texture basis, without holding the whole of it.

  Args:
    path: of the npz.
    key: its array (H, W, 3, T) or (H*W*3, T), C or Fortran order.
    size: (H, W).
    stride: of the texels kept, `[::stride, ::stride]`.
    n: components kept, at most T.

  Returns:
    (ceil(H/stride), ceil(W/stride), 3, n) float32.
  """
  height, width = size
  where = f"{path} [{key}]"
  with _open_zip(path) as archive, _reading(where), archive.open(key + ".npy") as file:
    shape, fortran, dtype = _read_header(file, where)
    count = shape[-1]
    if dtype.kind not in "fiu" or math.prod(shape[:-1]) != height * width * 3 or n > count:
      raise InputError(f"{where}: expected ({height}, {width}, 3, >= {n}) numbers, found {shape} of {dtype}")
    if fortran:
      if shape != (height, width, 3, count):
        raise InputError(f"{where}: expected C order for shape {shape}")
      # The last axis varies slowest: whole images, one component after another, each image again in Fortran order.
      pages = [_take(file, where, dtype, height * width * 3) for _ in range(n)]
      kept = [p.reshape(3, width, height).transpose(2, 1, 0)[::stride, ::stride] for p in pages]
      return np.stack(kept, axis=-1).astype(np.float32)
    rows = []
    for y in range(height):
      row = _take(file, where, dtype, width * 3 * count).reshape(width, 3, count)
      if y % stride == 0:
        rows.append(row[::stride, :, :n].astype(np.float32))
    return np.stack(rows)


def _read_numbers(file: IO[bytes], where: str, size: int) -> np.ndarray:
  shape, fortran, dtype = _read_header(file, where)
  if dtype.hasobject:
    raise InputError(f"{where}: holds Python objects where numbers were expected")
  return _read_body(file, where, shape, fortran, dtype, size)


def _read_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
  version = np.lib.format.read_magic(file)
  if version == (1, 0):
    return np.lib.format.read_array_header_1_0(file)
  if version == (2, 0):
    return np.lib.format.read_array_header_2_0(file)
  raise InputError(f"{where}: .npy version {version} is not supported")


def _read_body(file: IO[bytes], where: str, shape, fortran: bool, dtype: np.dtype, size: int) -> np.ndarray:
  n_bytes = math.prod(shape) * dtype.itemsize
  if n_bytes > min(size, MAX_BYTES):
    raise InputError(f"{where}: claims {n_bytes} bytes of data, more than the file holds: truncated or corrupt")
  return _take(file, where, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")


def _take(file: IO[bytes], where: str, dtype: np.dtype, count: int) -> np.ndarray:
  data = file.read(count * dtype.itemsize)
  if len(data) != count * dtype.itemsize:
    raise InputError(f"{where}: the data ends early: truncated or corrupt")
  return np.frombuffer(data, dtype) if count else np.zeros(0, dtype)


@contextlib.contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
  with _reading(str(path)):
    archive = zipfile.ZipFile(path)
  with archive:
    yield archive


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
  """Turns everything that a broken file can cause into one line; zip, zlib, lzma and numpy share no base class."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    raise InputError(f"{where}: cannot be read ({type(error).__name__}: {brief(error)})") from error
