"""The files of traced programs: a digest of the rest, a line with the key and the dataclasses in the result, and the
program."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.lax.linalg
import jaxlib
import numpy as np

from vht_jax.host.files import write_atomic

log = logging.getLogger("vht_jax")

KEEP = 256  # programs, some 100 kB each; those that were longest not used make room

_PACKAGE = Path(__file__).parents[2]


def environment() -> str:
  """Everything beside function, arguments and compiler's options that a program depends on."""
  versions = [f"{module.__name__} {module.__version__}" for module in (jax, jaxlib, np)]
  return f"{jax.default_backend()} {' '.join(versions)} {sources()}"


@functools.cache
def sources() -> str:
  """Digest of the package's modules."""
  digest = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob("*.py")):
    digest.update(f"{path.relative_to(_PACKAGE)} {path.stat().st_size}\n".encode() + path.read_bytes())
  return digest.hexdigest()


def keep(path: Path, key: str, kinds: list[str], program: bytes) -> None:
  """Writes a program, and deletes some if there are more than `KEEP`; a disk that cannot be written is no error."""
  body = repr((key, kinds)).encode() + b"\n" + program
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, hashlib.sha256(body).digest() + body)
    # With what killed processes left half written.
    newest_first = sorted(path.parent.glob("*.program*"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in newest_first[KEEP:]:
      old.unlink(missing_ok=True)
  except OSError as error:
    log.debug("%s: %s", path, error)


def read(path: Path, key: str) -> jax.export.Exported | None:
  """The program of a file; None if there is none or it is not whole and of this key."""
  try:
    data = path.read_bytes()
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
      raise ValueError("damaged")
    head, _, program = body.partition(b"\n")
    named, kinds = ast.literal_eval(head.decode())
    if named != key:
      raise ValueError("another program's")
    for kind in kinds:
      register(kind)
    found = jax.export.deserialize(bytearray(program))
    _find_lapack()
    with contextlib.suppress(OSError):  # a folder that is not ours
      path.touch()  # when it was last used
    return found
  except FileNotFoundError:
    return None
  except Exception as error:  # whatever a foreign file does to the readers
    log.debug("%s is made anew: %s", path, error)
    return None


@functools.cache
def _find_lapack() -> None:
  """JAX 0.8 finds LAPACK's functions when it lowers a call of one; a program from disk would call where nothing is."""
  jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), np.float32))


def dataclasses_of(tree: Any) -> Iterator[str]:
  """'module:class' of every node of a structure that is neither a container of Python nor None."""
  if (node := tree.node_data()) is not None and node[0] not in (tuple, list, dict, type(None)):
    yield f"{node[0].__module__}:{node[0].__qualname__}"
  for child in tree.children():
    yield from dataclasses_of(child)


@functools.cache
def register(name: str) -> None:
  """Teaches `jax.export` to write and read a dataclass of this package, by 'module:class'.

  Raises:
    TypeError: something else. What a file names is imported, so it has to be ours.
  """
  module, _, attribute = name.partition(":")
  if module.partition(".")[0] != _PACKAGE.name:
    raise TypeError(f"{name} is not of this package")
  kind = getattr(importlib.import_module(module), attribute)
  if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
    raise TypeError(f"{name} is no dataclass")
  jax.export.register_pytree_node_serialization(
    kind, serialized_name=name, serialize_auxdata=_literal, deserialize_auxdata=lambda b: ast.literal_eval(b.decode())
  )


def _literal(static: Any) -> bytes:
  """The static fields of a dataclass as a Python literal."""
  text = repr(static)
  if ast.literal_eval(text) != static:
    raise TypeError(f"static fields {text}")
  return text.encode()
