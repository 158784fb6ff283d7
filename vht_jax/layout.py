"""Names for the numbers of a vector of unknowns: the only place where an offset into one is computed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Layout:
  """Consecutive blocks of a vector, each with a name and a shape; static."""

  shapes: tuple[tuple[str, tuple[int, ...]], ...]

  @classmethod
  def of(cls, **shapes: tuple[int, ...]) -> Layout:
    return cls(tuple((name, tuple(shape)) for name, shape in shapes.items()))

  @classmethod
  def like(cls, blocks: Mapping[str, Any]) -> Layout:
    """The layout of a vector of these arrays."""
    return cls(tuple((name, tuple(jnp.shape(block))) for name, block in blocks.items()))

  def __add__(self, other: Layout) -> Layout:
    return Layout(self.shapes + other.shapes)

  def only(self, names: Iterable[str]) -> Layout:
    """The named blocks alone, in their order here."""
    wanted = set(names)
    return Layout(tuple((name, shape) for name, shape in self.shapes if name in wanted))

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(name for name, _ in self.shapes)

  @property
  def size(self) -> int:
    return sum(math.prod(shape) for _, shape in self.shapes)

  def __contains__(self, name: str) -> bool:
    return name in self.names

  def at(self, first: str, last: str | None = None) -> slice:
    """Where a block is in the vector; with `last`: from the one to the end of the other."""
    start = 0
    slices = {}
    for name, shape in self.shapes:
      slices[name] = slice(start, start + math.prod(shape))
      start = slices[name].stop
    return slice(slices[first].start, slices[last or first].stop)

  def from_end(self, first: str, last: str | None = None) -> slice:
    """The same counted from the vector's end, for vectors with something before these blocks."""
    found = self.at(first, last)
    return slice(found.start - self.size, None if found.stop == self.size else found.stop - self.size)

  def split(self, flat: Any) -> dict[str, Any]:
    """(..., size) as its blocks (..., *shape); NumPy's arrays and JAX's."""
    return {name: flat[..., self.at(name)].reshape((*flat.shape[:-1], *shape)) for name, shape in self.shapes}

  def join(self, blocks: Mapping[str, Any]) -> Any:
    """Inverse of `split`, for blocks without leading axes; those that are not in the layout are left out."""
    return jnp.concatenate([jnp.reshape(blocks[name], -1) for name in self.names])
