"""The pickle machine that runs nothing: every name is a token, every call a `Node`. What they mean is `unpickle`'s."""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from vht_jax.errors import InputError

# What a pickle may name, as a pattern over "module.name" -> what we make of it.
_ALLOWED = [
  (re.compile(pattern), kind)
  for pattern, kind in (
    (r"numpy\._?core\.multiarray\._reconstruct", "ndarray"),
    (r"numpy\._?core\.numeric\._frombuffer", "frombuffer"),
    (r"numpy\._?core\.multiarray\.scalar", "scalar"),
    (r"numpy\.ndarray", "name"),
    (r"numpy\.dtype", "dtype"),
    (r"_codecs\.encode", "encode"),
    (r"scipy\.sparse(\.\w+)?\.cs[cr]_(matrix|array)", "compressed"),
    (r"scipy\.sparse(\.\w+)?\.coo_(matrix|array)", "coordinates"),
    (r"chumpy(\.\w+)*\.\w+", "chumpy"),
    (r"torch\._utils\._rebuild_tensor(_v2)?", "tensor"),
    (r"torch\._utils\._rebuild_parameter", "parameter"),
    (r"torch\.storage\._load_from_bytes", "torch file"),
    (r"torch\.\w+Storage", "name"),
    (r"torch\.storage\.(Typed|Untyped)Storage", "name"),
    (r"torch\.Size", "list"),
    (r"collections\.OrderedDict", "dict"),
    (r"(__builtin__|builtins)\.(set|frozenset|list|tuple)", "list"),
    (r"(__builtin__|builtins)\.bytes", "encode"),
    (r"(__builtin__|builtins)\.object", "name"),
    (r"copy_?reg\._reconstructor", "reconstructor"),
  )
]


class Global:
  """A name from the pickle; never resolved."""

  __slots__ = ("kind", "name")

  def __init__(self, name: str, kind: str):
    self.name, self.kind = name, kind


class Node:
  """A call or an object of the pickle; never made."""

  __slots__ = ("args", "kind", "name", "state")

  def __init__(self, target: Global, args: tuple):
    self.kind, self.name, self.args = target.kind, target.name, args
    self.state: Any = None


class Storage:
  """Raw data of a torch tensor."""

  __slots__ = ("bfloat16", "data")

  def __init__(self, data: np.ndarray, bfloat16: bool):
    self.data, self.bfloat16 = data, bfloat16


class Machine(pickle._Unpickler):  # the Python one: its memo is a dict, which a forged index cannot blow up
  """The pickle machine with every way to run something replaced by making a `Node`."""

  dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)
  # Of the original, which type checkers know by the C one's face only.
  stack: list[Any]
  append: Callable[[Any], None]
  read: Callable[[int], bytes]

  def __init__(self, file: io.BytesIO, where: str, storages=None):
    super().__init__(file, encoding="latin1")
    self.where, self.storages = where, storages

  def find_class(self, module: str, name: str) -> Global:
    full = f"{module}.{name}"
    for pattern, kind in _ALLOWED:
      if pattern.fullmatch(full):
        return Global(full, kind)
    raise InputError(
      f"{self.where}: refuses to unpickle {full}, which no FLAME file needs; get the file from its official source"
    )

  def persistent_load(self, pid):
    if self.storages is None or not isinstance(pid, tuple) or pid[0] != "storage":
      raise pickle.UnpicklingError(f"unexpected persistent id {str(pid)[:60]}")
    return self.storages(pid)

  def get_extension(self, code):
    raise pickle.UnpicklingError(f"extension code {code}")

  def load_reduce(self):
    args = self.stack.pop()
    self.stack[-1] = self._make(self.stack[-1], args)

  def load_newobj(self):
    args = self.stack.pop()
    self.stack[-1] = self._make(self.stack[-1], args)

  def load_newobj_ex(self):
    self.stack.pop()
    self.load_newobj()

  def load_build(self):
    state = self.stack.pop()
    if isinstance(self.stack[-1], Node):
      self.stack[-1].state = state
    elif not isinstance(self.stack[-1], dict):  # an OrderedDict's attributes are of no interest
      raise pickle.UnpicklingError("state for something that has none")

  def load_bytearray8(self):  # the original allocates what the header claims
    (size,) = struct.unpack("<Q", self.read(8))
    self.append(bytearray(self.read(size)))

  def _instantiate(self, target, args):  # INST, OBJ: protocol 0 and 1
    self.append(self._make(target, tuple(args)))

  def _make(self, target, args):
    if not isinstance(target, Global) or not isinstance(args, tuple):
      raise pickle.UnpicklingError("call of something that is no function")
    if target.kind == "dict":  # the machine fills it with the items that follow
      return dict(args[0]) if args else {}
    if target.kind == "list":
      return list(args[0]) if args else []
    if target.kind == "encode":
      return latin1(args[0]) if args else b""
    if target.kind == "reconstructor":
      return self._make(args[0], ())
    return Node(target, args)

  for _code, _method in (
    (pickle.REDUCE, load_reduce), (pickle.NEWOBJ, load_newobj), (pickle.NEWOBJ_EX, load_newobj_ex),
    (pickle.BUILD, load_build), (pickle.BYTEARRAY8, load_bytearray8),
  ):  # fmt: skip
    dispatch[_code[0]] = _method


def latin1(raw) -> bytes:
  """Bytes, also where Python 2's str arrives as text."""
  return raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
