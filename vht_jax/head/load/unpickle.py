"""Pickles as data: reads the arrays in FLAME's pickles and runs nothing.

FLAME's files are pickles by many hands: Python 2 with chumpy arrays (2017, 2019), numpy of several generations, scipy
sparse matrices, torch tensors inside an .npy. Unpickling them the usual way needs those packages and lets the file run
code. Here no class or function of a file is ever looked up: a global on the allow-list becomes an inert token, calling
it becomes a `Node`, and only the kinds of node known below are turned into arrays afterwards.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.errors import InputError, brief
from vht_jax.head.load.pickle_machine import Global, Machine, Node, Storage, latin1
from vht_jax.host.npz import MAX_BYTES

_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|[SU]\d{1,4}|O[48]?)")
_TORCH_DTYPES = {
  "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
  "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1", "BFloat16Storage": "<u2",
}  # fmt: skip
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_DEPTH = 64


def load_pickle(path: Path) -> Any:
  """Reads a pickle file into dicts, lists, strings, numbers and numpy arrays.

  Raises:
    InputError: the file names something outside the allow-list, is truncated or is no pickle.
  """
  try:
    size = path.stat().st_size
    if size > MAX_BYTES:
      raise InputError(f"{path}: {size} bytes is too large for a head model")
    data = path.read_bytes()
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error.strerror})") from error
  return loads(data, str(path))


def loads(data: bytes, where: str) -> Any:
  """As `load_pickle`, from bytes; `where` names them in errors."""
  try:
    return _Converter(where)(Machine(io.BytesIO(data), where).load())
  except InputError:
    raise
  except Exception as error:  # whatever a corrupt stream does to the pickle machine, it is the file's fault
    message = f"{where}: not a readable pickle, truncated or corrupt ({type(error).__name__}: {brief(error)})"
    raise InputError(message) from error


def load_torch(path: Path) -> Any:
  """As `load_pickle`, of a file of torch.save."""
  try:
    if path.stat().st_size > MAX_BYTES:
      raise InputError(f"{path}: too large")
    return _load_torch(path.read_bytes(), str(path))
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error.strerror})") from error
  except InputError:
    raise
  except Exception as error:  # as in `loads`
    message = f"{path}: not a readable file of torch, truncated or corrupt ({type(error).__name__}: {brief(error)})"
    raise InputError(message) from error


class _Converter:
  """Turns what the machine left into plain containers and arrays; shared objects stay shared, cycles are refused."""

  def __init__(self, where: str):
    self.where = where
    self.done: dict[int, tuple[Any, Any]] = {}  # id -> (object, kept alive so that ids stay unique; result)
    self.depth = 0

  def __call__(self, value: Any) -> Any:
    if not isinstance(value, (dict, list, tuple, Node, Global)):
      return value
    if id(value) in self.done:
      return self.done[id(value)][1]
    self.depth += 1
    if self.depth > _MAX_DEPTH:
      raise ValueError("nested too deeply, or in a circle")
    if isinstance(value, dict):
      result = {self(key): self(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
      result = type(value)(self(item) for item in value)
    elif isinstance(value, Global):
      result = value.name
    else:
      result = getattr(self, "_" + value.kind.replace(" ", "_"))(value)
    self.depth -= 1
    self.done[id(value)] = (value, result)
    return result

  def _ndarray(self, node: Node):
    _, shape, dtype, fortran, raw = node.state
    dtype = self(dtype)
    if dtype.kind == "O":  # np.save of a dict: an array of shape () that holds it
      items = [self(item) for item in raw]
      return items[0] if shape == () else items
    return _from_bytes(latin1(raw), dtype, shape, "F" if fortran else "C")

  def _frombuffer(self, node: Node):  # protocol 5
    raw, dtype, shape, order = node.args
    return _from_bytes(bytes(raw), self(dtype), shape, order)

  def _scalar(self, node: Node):
    dtype = self(node.args[0])
    if dtype.kind == "O":
      return self(node.args[1])
    return np.frombuffer(latin1(node.args[1]), dtype, count=1)[0]

  def _dtype(self, node: Node) -> np.dtype:
    text = node.args[0]
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
      raise ValueError(f"array of type {str(text)[:40]}")
    dtype = np.dtype("O" if text.lstrip("<>=|").startswith("O") else text)
    # The state's second entry is the byte order; text lengths come from the name.
    order = node.state[1] if isinstance(node.state, tuple) and len(node.state) > 1 else "="
    return dtype.newbyteorder(order) if order in ("<", ">") and dtype.kind != "O" else dtype

  def _compressed(self, node: Node) -> np.ndarray:
    matrix = self(node.state)
    n_rows, n_cols = self._dense_shape(matrix)
    by_column = "csc_" in node.name
    pointers, minor = np.asarray(matrix["indptr"]), np.asarray(matrix["indices"])
    counts = np.diff(pointers)
    if len(counts) != (n_cols if by_column else n_rows) or (counts < 0).any():
      raise ValueError("sparse matrix with inconsistent pointers")
    major = np.repeat(np.arange(len(counts)), counts)
    rows, cols = (minor, major) if by_column else (major, minor)
    return _scatter((n_rows, n_cols), rows, cols, matrix["data"])

  def _coordinates(self, node: Node) -> np.ndarray:
    matrix = self(node.state)
    rows, cols = matrix["coords"] if "coords" in matrix else (matrix["row"], matrix["col"])
    return _scatter(self._dense_shape(matrix), rows, cols, matrix["data"])

  def _dense_shape(self, matrix: dict) -> tuple[int, int]:
    n_rows, n_cols = (int(n) for n in (matrix["_shape"] if "_shape" in matrix else matrix["shape"]))
    if n_rows < 0 or n_cols < 0 or n_rows * n_cols > 10**8:
      raise ValueError(f"sparse matrix of shape {(n_rows, n_cols)}")
    return n_rows, n_cols

  def _chumpy(self, node: Node):
    state = node.state
    if isinstance(state, dict) and "x" in state:  # chumpy.Ch: a constant
      return self(state["x"])
    if isinstance(state, dict) and {"a", "idxs"} <= state.keys():  # chumpy.reordering.Select: a slice of a constant
      picked = np.asarray(self(state["a"])).reshape(-1)[np.asarray(self(state["idxs"]))]
      shape = self(state.get("preferred_shape"))
      return picked.reshape([int(n) for n in shape]) if shape is not None else picked
    return None  # an expression over other arrays; FLAME's own arrays are constants

  def _tensor(self, node: Node) -> np.ndarray:
    storage, offset, size, stride = (self(arg) for arg in node.args[:4])
    if not isinstance(storage, Storage):
      raise ValueError("tensor without data")
    size, stride, offset = [int(n) for n in size], [int(n) for n in stride], int(offset)
    if len(size) != len(stride) or min([0, offset, *size, *stride]) < 0:
      raise ValueError("tensor with an impossible layout")
    if math.prod(size) == 0:
      return np.zeros(size, storage.data.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= storage.data.size or math.prod(size) * storage.data.itemsize > MAX_BYTES:
      raise ValueError("tensor beyond its data")
    # Gathered rather than viewed, so that no stride can reach outside
    where = np.full(size, offset, np.int64)
    for axis, (n, step) in enumerate(zip(size, stride, strict=True)):
      where += (np.arange(n) * step).reshape([-1 if k == axis else 1 for k in range(len(size))])
    out = storage.data[where]
    return (out.astype(np.uint32) << 16).view(np.float32) if storage.bfloat16 else out

  def _parameter(self, node: Node):
    return self(node.args[0])

  def _torch_file(self, node: Node):
    return _load_torch(latin1(node.args[0]), self.where)

  def _name(self, node: Node):
    raise ValueError(f"an object of {node.name}")


def _load_torch(data: bytes, where: str):
  """The object in the bytes of a torch.save: zip (torch >= 1.6) or the older run of pickles."""
  return _load_torch_zip(data, where) if zipfile.is_zipfile(io.BytesIO(data)) else _load_torch_legacy(data, where)


def _load_torch_zip(data: bytes, where: str):
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    names = {info.filename: info for info in archive.infolist()}
    root = next(name for name in names if name.endswith("data.pkl")).removesuffix("data.pkl")

    def entry(name: str) -> bytes:
      if names[root + name].file_size > MAX_BYTES:
        raise ValueError("entry too large")
      return archive.read(root + name)

    def storages(pid):
      return _storage(pid, entry(f"data/{pid[2]}"))

    return _Converter(where)(Machine(io.BytesIO(entry("data.pkl")), where, storages).load())


def _load_torch_legacy(data: bytes, where: str):
  file = io.BytesIO(data)
  magic, _, _ = (Machine(file, where).load() for _ in range(3))  # magic number, protocol, system
  if magic != _TORCH_MAGIC:
    raise ValueError("no torch file")
  # The data follows the object that names it, so the storages are filled after the object is read.
  found: dict[str, tuple[tuple, Storage]] = {}

  def storages(pid):
    if pid[2] not in found:
      found[pid[2]] = (pid, Storage(np.zeros(0, np.uint8), False))
    return found[pid[2]][1]

  tree = Machine(file, where, storages).load()
  for key in Machine(file, where).load():
    pid, storage = found[key]
    (count,) = struct.unpack("<q", file.read(8))
    filled = _storage(pid, file.read(max(count, 0) * _storage_dtype(pid).itemsize))
    storage.data, storage.bfloat16 = filled.data, filled.bfloat16
  return _Converter(where)(tree)


def _storage_dtype(pid: tuple) -> np.dtype:
  name = pid[1].name.rsplit(".", 1)[-1] if isinstance(pid[1], Global) else str(pid[1])
  if name not in _TORCH_DTYPES:
    raise ValueError(f"torch storage {name}")
  return np.dtype(_TORCH_DTYPES[name])


def _storage(pid: tuple, raw: bytes) -> Storage:
  dtype = _storage_dtype(pid)
  count = int(pid[4])
  if len(raw) < count * dtype.itemsize:
    raise ValueError("tensor data ends early")
  return Storage(np.frombuffer(raw, dtype, count=count), pid[1].name.endswith("BFloat16Storage"))


def _from_bytes(raw: bytes, dtype: np.dtype, shape, order: Any) -> np.ndarray:
  shape = tuple(int(n) for n in shape)
  if min((0, *shape)) < 0 or math.prod(shape) * dtype.itemsize != len(raw):
    raise ValueError(f"array of shape {shape} with {len(raw)} bytes")
  return np.frombuffer(raw, dtype).reshape(shape, order=order) if raw else np.zeros(shape, dtype)


def _scatter(shape: tuple[int, int], rows, cols, values) -> np.ndarray:
  rows, cols = np.asarray(rows), np.asarray(cols)
  if min(rows.min(initial=0), cols.min(initial=0)) < 0:
    raise ValueError("sparse matrix with negative indices")
  dense = np.zeros(shape, np.asarray(values).dtype)
  np.add.at(dense, (rows, cols), np.asarray(values))  # duplicate entries add up, as in scipy
  return dense
