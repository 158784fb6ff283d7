"""A file as `torch.save` writes it, without torch: for objects of NumPy arrays, numbers and texts.

PyTorch's older stream, which every version reads: five pickles of protocol 2 one after the other. From PyTorch 2.6 on
`torch.load` needs weights_only=False for any file with NumPy arrays in it, however it was written.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_SYSTEM = {
  "protocol_version": _PROTOCOL,
  "little_endian": True,
  "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def torch_bytes(value: Any) -> bytes:
  """The file's content. `value`: dicts, lists, Python numbers, texts and NumPy arrays; no NumPy scalars."""
  return b"".join(pickled(part) for part in (_MAGIC, _PROTOCOL, _SYSTEM, value, []))  # no tensors: no storages


def pickled(value: Any) -> bytes:
  """A pickle of the same, of protocol 2."""
  file = io.BytesIO()
  _OldNames(file, protocol=2).dump(value)
  return file.getvalue()


class _OldNames(pickle._Pickler):  # the Python one: the C one has no way to change a name
  """Names NumPy's modules as every NumPy has them: those before 2.0 lack numpy._core."""

  def save_global(self, obj, name=None):
    module = getattr(obj, "__module__", None) or ""
    if not module.startswith("numpy._core"):
      return super().save_global(obj, name)  # pyright: ignore[reportAttributeAccessIssue]
    qualified = name or getattr(obj, "__qualname__", obj.__name__)
    text = f"{module.replace('numpy._core', 'numpy.core')}\n{qualified}\n"
    self.write(pickle.GLOBAL + text.encode("ascii"))  # pyright: ignore[reportAttributeAccessIssue]
    self.memoize(obj)  # pyright: ignore[reportAttributeAccessIssue]
