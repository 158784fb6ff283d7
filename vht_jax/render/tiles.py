"""Lists of (face, tile) pairs without a capacity: what lets per-face work on pixels run in static shapes.

The image is cut into square tiles. A face owns the tiles that its box touches; a prefix sum over the faces numbers all
(face, tile) pairs, and a `while_loop` with a dynamic trip count walks over them in chunks of static size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from vht_jax.host.machine import on_cpu, position, running_sum
from vht_jax.types import Array


class Chunk(NamedTuple):
  """A chunk of blocks; n is static, the last chunk is filled up with ok = False."""

  ok: Array  # (n,) bool
  face: Array  # (n,) i32, frame * F + face
  row: Array  # (n,) i32 row of the tiled buffer; one past its end where not ok
  px: Array  # (n, tile * tile) pixel centres, px
  py: Array


class Blocks:
  """The (face, tile) pairs of a batch of frames.

  Args:
    low, high: (B, F, 2) corners of each face's box, px (x, y); pixel centres and buffers have their dtype.
    drawn: (B, F) bool; other faces have no blocks. Their boxes may be anything.
    size: (H, W) px.
    tile: side of a tile, px.
    chunk_size: blocks per trip.
  """

  def __init__(self, low: Array, high: Array, drawn: Array, size: tuple[int, int], tile: int, chunk_size: int):
    self.size, self.tile, self.chunk_size, self.dtype = size, tile, chunk_size, low.dtype
    self.n_frames, self.n_faces = drawn.shape
    self.rows, self.cols = math.ceil(size[0] / tile), math.ceil(size[1] / tile)
    self.n_tiles = self.n_frames * self.rows * self.cols
    first, count = [], []
    for axis, length in ((0, size[1]), (1, size[0])):
      # Pixels whose centre can be inside; clipped before the conversion so that huge coordinates stay in range.
      lo = jnp.clip(jnp.ceil(low[..., axis] - 0.5), 0.0, float(length)).astype(jnp.int32)
      hi = jnp.clip(jnp.floor(high[..., axis] - 0.5), -1.0, length - 1.0).astype(jnp.int32)
      drawn = drawn & (hi >= lo)
      first.append((lo // tile).reshape(-1))
      count.append((hi // tile - lo // tile + 1).reshape(-1))
    drawn = drawn.reshape(-1)
    self.first = first
    self.across = jnp.where(drawn, count[0], 0)
    self.count = jnp.where(drawn, count[0] * count[1], 0)
    self.ends = running_sum(self.count)

  def chunk(self, k: Array) -> Chunk:
    """Blocks k * chunk_size, ..."""
    number = k * self.chunk_size + jnp.arange(self.chunk_size, dtype=jnp.int32)
    face = position(self.ends, number, side="right")
    face = jnp.minimum(face, self.n_frames * self.n_faces - 1)
    ok = number < self.ends[-1]
    j = number - (self.ends[face] - self.count[face])
    across = jnp.maximum(self.across[face], 1)
    tx, ty = self.first[0][face] + j % across, self.first[1][face] + j // across
    row = (face // self.n_faces * self.rows + ty) * self.cols + tx
    within = jnp.arange(self.tile * self.tile, dtype=jnp.int32)[None]
    px = (tx[:, None] * self.tile + within % self.tile).astype(self.dtype) + 0.5
    py = (ty[:, None] * self.tile + within // self.tile).astype(self.dtype) + 0.5
    return Chunk(ok, face, jnp.where(ok, row, self.n_tiles), px, py)

  def loop(self, body: Callable, init):
    """`init` carried through `body(chunk, carry)` for every chunk."""
    step = lambda c: (c[0] + 1, body(self.chunk(c[0]), c[1]))  # noqa: E731
    return lax.while_loop(lambda c: c[0] * self.chunk_size < self.ends[-1], step, (jnp.int32(0), init))[1]

  def buffer(self, value: float = 0.0) -> Array:
    """(B * tiles, tile * tile): images in tiled layout, to which a block contributes one row."""
    return jnp.full((self.n_tiles, self.tile * self.tile), value, self.dtype)

  def untile(self, buffer: Array) -> Array:
    """Tiled layout -> (B, H, W)."""
    tiled = buffer.reshape(self.n_frames, self.rows, self.cols, self.tile, self.tile)
    image = tiled.transpose(0, 1, 3, 2, 4).reshape(self.n_frames, self.rows * self.tile, self.cols * self.tile)
    return image[:, : self.size[0], : self.size[1]]

  def to_tiles(self, image: Array) -> Array:
    """(B, H, W) -> tiled layout, zeros beyond the image."""
    pad = (self.rows * self.tile - self.size[0], self.cols * self.tile - self.size[1])
    image = jnp.pad(image, ((0, 0), (0, pad[0]), (0, pad[1])))
    tiled = image.reshape(self.n_frames, self.rows, self.tile, self.cols, self.tile)
    return tiled.transpose(0, 1, 3, 2, 4).reshape(self.n_tiles, self.tile * self.tile)


def most_frames(n_faces: int, size: tuple[int, int], tile: int, chunk_size: int) -> int:
  """How many frames' blocks can be numbered in int32, those that fill the last chunk too, if every face touches every
  tile."""
  tiles = math.ceil(size[0] / tile) * math.ceil(size[1] / tile)
  return max((2**31 - 1 - chunk_size) // (n_faces * tiles), 1)


def default_chunk_size() -> int:
  """In cache on a CPU; few trips, each with launches and a host sync, on an accelerator."""
  return 2048 if on_cpu() else 16384
