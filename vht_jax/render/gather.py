"""Gathers and scatters that suit the machine: how pixels look rows of a table up, and how that is batched.

The lookup of a face by every pixel dominates the cost of shading on a CPU, and its transpose (a contended scatter-add)
even more. Both visit only the runs of pixels in which a face is seen, in a loop with a dynamic trip count.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from vht_jax.host.machine import for_each_machine, on_cpu, running_sum
from vht_jax.types import Array

_RUN = 64  # consecutive pixels that are visited or skipped together
_CHUNK = 32  # runs per trip on a CPU: what is gathered for them stays in cache


def frames_in_turn() -> bool:
  """Whether batched frames are treated one after the other: on a CPU, whose caches hold one frame's working set."""
  return on_cpu()


def map_frames(fun: Callable, in_axes: tuple[int | None, ...] | int = 0) -> Callable:
  """`jax.vmap` over the leading axis, with the frames one after the other on a CPU.

  `vmap` of a picture and of what is computed from it holds each intermediate image of all frames at once. A CPU's
  caches hold those of one frame: eight frames of 512 x 512 take two thirds of the time and a quarter of the memory in
  turn. To differentiate, map the gradient (`map_frames(jax.grad(loss))`) and not the loss, so that one frame's
  intermediate images are forgotten before the next one's.

  Args:
    fun: a function of one frame, of positional arguments (pytrees), returning a pytree.
    in_axes: for each argument (or for all of them) 0, or None where all frames share it.

  Returns:
    `fun` of arguments with a leading frame axis; so are its outputs.

  Raises:
    ValueError: if `in_axes` has other numbers, no 0, or another length than there are arguments.
  """

  def mapped(*args):
    axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    if len(axes) != len(args) or 0 not in axes or any(axis not in (0, None) for axis in axes):
      raise ValueError(f"map_frames: in_axes must have a 0 or None for each of {len(args)} arguments, got {in_axes}")

    @for_each_machine
    def all_frames(*args):
      if not frames_in_turn():
        return jax.vmap(fun, axes)(*args)

      def one(frame):
        frame = iter(frame)
        return fun(*(arg if axis is None else next(frame) for arg, axis in zip(args, axes, strict=True)))

      return lax.map(one, tuple(arg for arg, axis in zip(args, axes, strict=True) if axis == 0))

    return all_frames(*args)

  return mapped


def in_groups(fun: Callable, frames: Array, most: int) -> Array:
  """`fun` of frames (B, ...), at most so many at once and about as many each time; the results (B, ...)."""
  n = frames.shape[0]
  if n <= most:
    return fun(frames)
  size = -(-n // -(-n // most))
  groups = jnp.pad(frames, [(0, -n % size), *[(0, 0)] * (frames.ndim - 1)], mode="edge")
  found = lax.map(fun, groups.reshape(-1, size, *frames.shape[1:]))
  return found.reshape(-1, *found.shape[2:])[:n]


def merge_vmap(fun: Callable) -> Callable:
  """Gives `vmap` of `fun` a rule that suits the machine.

  The rule that JAX derives for gathers and scatters with batched operands is several times slower than either a loop
  over the frames (CPU) or one call with a longer frame axis (accelerators).

  Args:
    fun: a function of arrays that all have the same leading (frame) axis, as have all its outputs, and that treats
      frames independently.

  Returns:
    `fun` with its batching rule; `fun` itself gives reverse mode no derivative, so wrap it in a `custom_vjp`.
  """
  merged = jax.custom_batching.custom_vmap(for_each_machine(fun))

  @merged.def_vmap
  def rule(axis_size, in_batched, *args):
    @for_each_machine
    def batch(*args):
      if frames_in_turn():

        def one(batched):
          batched = iter(batched)
          return merged(*(next(batched) if b else a for a, b in zip(args, in_batched, strict=True)))

        return lax.map(one, [a for a, b in zip(args, in_batched, strict=True) if b])
      args = [a if b else jnp.broadcast_to(a, (axis_size, *a.shape)) for a, b in zip(args, in_batched, strict=True)]
      n_frames = args[0].shape[1]
      out = merged(*(a.reshape(axis_size * n_frames, *a.shape[2:]) for a in args))
      return jax.tree.map(lambda o: o.reshape(axis_size, n_frames, *o.shape[1:]), out)

    out = batch(*args)
    return out, jax.tree.map(lambda _: True, out)

  return merged


def derivative_in_first(fun: Callable, transpose: Callable) -> tuple[Callable, Callable]:
  """The two halves of a `custom_vjp` of `fun`, for its first argument alone: the others are constants or integers.

  Args:
    fun: what is computed.
    transpose: (*arguments, cotangent of the result) -> cotangent of the first argument.
  """

  def forward(*args):
    return fun(*args), args

  def backward(args, ct):
    return transpose(*args, ct), *(None for _ in args[1:])

  return forward, backward


def map_seen(fun: Callable, index: Array, n_rows: int, widths: tuple[int, ...], fill: float, dtype) -> list[Array]:
  """A lookup: evaluates `fun` for the items that refer to a row of a table.

  Args:
    fun: (item (n,), row (n,)) -> a tuple of (n, width), or (n,) for width 1; item counts through
      `index.reshape(-1)`, and row = frame * N + index is the row in a table of all frames.
    index: (B, ...) i32 in [0, N), negative for items that refer to nothing.
    n_rows: N.
    widths: of the outputs.
    fill: value of the outputs for items that refer to nothing.
    dtype: of the outputs.

  Returns:
    A list of (B, ..., width).
  """
  runs = _Runs(index, n_rows)

  def body(carry):
    k, out = carry
    run, item, row, seen = runs.chunk_at(k)
    new = [v.reshape(v.shape[0], -1) for v in fun(item, row)]
    new = [jnp.where(seen[:, None], v, fill).reshape(runs.chunk, -1) for v in new]
    return k + 1, [o.at[run].set(v, mode="drop", unique_indices=True) for o, v in zip(out, new, strict=True)]

  out = [jnp.full((runs.n_runs, _RUN * width), fill, dtype) for width in widths]
  out = lax.while_loop(runs.more, body, (jnp.int32(0), out))[1]
  return [o.reshape(-1, w)[: index.size].reshape(*index.shape, w) for o, w in zip(out, widths, strict=True)]


def sum_per_row(fun: Callable, index: Array, n_rows: int, width: int, dtype) -> Array:
  """The transpose of a lookup: sums what the items contribute to each row.

  Args:
    fun: (item (n,), row (n,)) -> (n, width); arguments as for `map_seen`.
    index: (B, ...) i32 in [0, N), negative for items that refer to nothing.
    n_rows: N.
    width: length of a row.
    dtype: of the sums.

  Returns:
    (B * N, width).
  """
  runs = _Runs(index, n_rows)
  total = index.shape[0] * n_rows

  def body(carry):
    k, sums = carry
    _, item, row, seen = runs.chunk_at(k)
    return k + 1, sums.at[jnp.where(seen, row, total)].add(fun(item, row), mode="drop")

  init = jnp.int32(0), jnp.zeros((total, width), dtype)
  return lax.while_loop(runs.more, body, init)[1]


class _Runs:
  """The runs of `_RUN` consecutive items of which at least one refers to a row, in chunks of static size."""

  def __init__(self, index: Array, n_rows: int):
    n_frames = index.shape[0]
    rows = index.reshape(n_frames, -1)
    rows = jnp.where(rows >= 0, rows + (jnp.arange(n_frames, dtype=jnp.int32) * n_rows)[:, None], -1).reshape(-1)
    self.n_runs = -(-rows.shape[0] // _RUN)
    self.rows = jnp.pad(rows, (0, self.n_runs * _RUN - rows.shape[0]), constant_values=-1).reshape(-1, _RUN)
    # One trip does it all on an accelerator, where a trip costs a round trip to the host.
    self.chunk = min(_CHUNK if frames_in_turn() else self.n_runs, self.n_runs)
    used = jnp.any(self.rows >= 0, axis=1)
    position = running_sum(used)
    self.n_used = position[-1]
    where = jnp.where(used, position - 1, self.n_runs + self.chunk)
    runs = jnp.full(self.n_runs + self.chunk, self.n_runs, jnp.int32)  # n_runs: none, dropped when written
    self.runs = runs.at[where].set(jnp.arange(self.n_runs, dtype=jnp.int32), mode="drop", unique_indices=True)

  def more(self, carry):
    """Condition of a loop whose carry starts with the number of the chunk."""
    return carry[0] * self.chunk < self.n_used

  def chunk_at(self, k):
    """Chunk k: runs (R,); and of their R * `_RUN` items the number, the row (0 if none), and whether there is one."""
    run = lax.dynamic_slice(self.runs, (k * self.chunk,), (self.chunk,))
    valid = jnp.minimum(run, self.n_runs - 1)
    row = jnp.where((run < self.n_runs)[:, None], self.rows[valid], -1).reshape(-1)
    item = (valid[:, None] * _RUN + jnp.arange(_RUN, dtype=jnp.int32)[None]).reshape(-1)
    return run, jnp.minimum(item, self.n_runs * _RUN - 1), jnp.maximum(row, 0), row >= 0
