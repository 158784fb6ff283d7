"""From terms to normal equations: the place where J^T r and J^T J of the head are made.

The rigid head of texture tracks alone has its own (`texture_tracks.bundle.rigid`): there every residual knows one point
out of hundreds that are free in space, and the sums by points and frames are closed forms.

Three forms of the same sums, for any list of terms:

  frame_normal    one frame whose shared unknowns are known
  arrow_normal    many frames and what they share; `shared_normal` of the priors on the latter, counted once
  reduced         what frames say of what they share, their own unknowns minimised

Which unknowns are estimated is said by `Unknowns`; derivatives by all others are dropped, and XLA does not compute
what is dropped.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.fit.solvers.factor import over_rows
from vht_jax.fit.solvers.least_squares import ArrowNormal, Normal, eliminate_frames
from vht_jax.fit.terms.term import Entry, Linearised, Own
from vht_jax.fit.unknowns import At, Shared, Unknowns, insert
from vht_jax.host.machine import once
from vht_jax.layout import Layout
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
Stretch = tuple[str, ...]  # names of blocks


def frame_normal(entries: Sequence[Entry], at: At) -> Normal:
  """Normal equations of one frame's unknowns: the head's, and those that terms bring."""
  frame = Layout.like({"head": at.x, **at.own})
  return functools.reduce(operator.add, (_of_frame(term.linearise(at, seen), frame) for term, seen in entries))


def arrow_normal(
  entries: Sequence[Entry], unknowns: Unknowns, shared: Shared, xs: Array, flat: Array, in_turn: bool = False,
  whole: Array | None = None,
) -> ArrowNormal:  # fmt: skip
  """Normal equations of F frames and of what they share.

  Args:
    entries: terms with their observations, leading axis F.
    shared: what is not estimated is taken from here.
    xs: (F, n); flat: (m,) the shared unknowns.
    in_turn: one frame after the other, so that no more than one frame's derivatives are held. For terms of many rows.
    whole: () bool, in turn only: else nothing but the cost is computed, and the rest is 0.
  """
  shared = insert(unknowns.shared, flat, shared)
  terms, observations = zip(*entries)
  lone = lambda tree: jax.tree.map(lambda a: a[None], tree)

  def linearise(x, observations):
    at = unknowns.at(x, shared)
    return [term.linearise(at, observation) for term, observation in zip(terms, observations)]

  def of_one(found):
    if whole is None:
      return _sums(found, unknowns)
    like = jax.eval_shape(lambda found: _sums(found, unknowns), found)
    nothing = lambda found: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)  # the products are nearly all
    sums = jax.lax.cond(whole, lambda found: _sums(found, unknowns), nothing, found)
    return sums.replace(cost=sum(_cost(each) for each in found))

  if in_turn:
    sums = jax.lax.map(lambda a: of_one(lone(linearise(*a))), (xs, observations))
    sums = _over_frames(sums)
  else:
    sums = _sums(jax.vmap(linearise)(xs, observations), unknowns)
  return _arrow(sums, unknowns)


def shared_normal(priors: Sequence[Entry], unknowns: Unknowns, shared: Shared, flat: Array) -> Normal:
  """Normal equations of the shared unknowns by terms that know nothing else."""
  at = At(flat[:0], insert(unknowns.shared, flat, shared))
  none = Unknowns(Layout(()), unknowns.shared)
  found = [term.linearise(at, observation) for term, observation in priors]
  arrow = _arrow(_sums(jax.tree.map(lambda a: a[None], found), none), none)
  return Normal(arrow.cost, arrow.shared_gradient, arrow.shared_matrix)


class Reduced(flax.struct.PyTreeNode):
  """The energy of some frames as a quadratic of the shared unknowns, their own ones minimised."""

  cost: Array  # ()
  gradient: Array  # (m,)
  matrix: Array  # (m, m)
  count: Array  # () frames

  def __add__(self, other: Reduced) -> Reduced:
    return jax.tree.map(lambda a, b: a + b, self, other)


def reduced(entries: Sequence[Entry], unknowns: Unknowns, shared: Shared, x: Array, flat: Array) -> Reduced:
  """Of one frame; arguments without the frames' axis otherwise as for `arrow_normal`."""
  lone = lambda tree: jax.tree.map(lambda a: a[None], tree)
  arrow = arrow_normal([(term, lone(seen)) for term, seen in entries], unknowns, shared, x[None], flat)
  _, solved, matrix, gradient = eliminate_frames(arrow, jnp.zeros((), x.dtype))
  # What the frame gains by moving to its minimum belongs to the constant.
  return Reduced(arrow.cost - jnp.sum(solved[..., -1] ** 2), gradient, matrix, jnp.ones((), x.dtype))


# --- sums ------------------------------------------------------------------------------------------------------------


def _of_frame(found: Linearised | Normal, frame: Layout) -> Normal:
  if isinstance(found, Normal):
    return _padded(found, frame.size)
  cost, r, root = _weighted(found)
  J = _columns(found.frame, frame, root).reshape(-1, frame.size)
  r = r.reshape(-1)
  return Normal(cost, jnp.matmul(J.T, r, precision=HIGHEST), over_rows(J, J))


def _padded(found: Normal, n: int) -> Normal:
  """For terms that know the head only, which is the first block."""
  k = n - found.gradient.shape[-1]
  if not k:
    return found
  return Normal(found.cost, jnp.pad(found.gradient, (0, k)), jnp.pad(found.matrix, ((0, k), (0, k))))


def _cost(found: Linearised | Normal) -> Array:
  """Of all frames."""
  if found.cost is not None:
    return jnp.sum(found.cost)
  assert isinstance(found, Linearised)  # which alone may be without
  return jnp.sum(found.residual**2)


def _weighted(found: Linearised) -> tuple[Array, Array, Array | None]:
  """Cost; residuals (..., R, k) and a factor on the derivatives (..., R, 1, 1) with the robust weights."""
  cost = jnp.sum(found.residual**2) if found.cost is None else found.cost
  if found.root is None:
    return cost, found.residual, None
  return cost, found.residual * found.root[..., None], found.root[..., None, None]


def _columns(derivatives: Mapping[str, Array], layout: Layout, root: Array | None) -> Array:
  """(..., R, k, size): derivatives by the blocks of a layout side by side, 0 by those that the term does not know."""
  like = next(iter(derivatives.values()))
  parts = []
  for name, _ in layout.shapes:
    where = layout.at(name)
    zero = jnp.zeros((), like.dtype)
    missing = jnp.broadcast_to(zero, (*like.shape[:-1], where.stop - where.start))
    parts.append(derivatives.get(name, missing))
  found = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
  return found if root is None else found * root


class _Sums(flax.struct.PyTreeNode):
  """Products of derivatives, by stretches: the names of blocks that a term knows and that lie beside each other."""

  cost: Array  # ()
  frame_gradient: Array | None  # (F, n)
  frame_matrix: Array | None  # (F, n, n)
  cross: dict[Stretch, Array]  # (F, n, size)
  gradient: dict[Stretch, Array]  # (size,)
  matrix: dict[tuple[Stretch, Stretch], Array]  # (size, size)
  own: dict[tuple[Stretch, Stretch], Array]  # (P, c, c): the blocks' parts with their own counterparts only

  def __add__(self, other: _Sums) -> _Sums:
    plus = lambda a, b: b if a is None else a if b is None else a + b
    both = lambda a, b: {k: plus(a.get(k), b.get(k)) for k in [*a, *(k for k in b if k not in a)]}
    return _Sums(
      self.cost + other.cost,
      plus(self.frame_gradient, other.frame_gradient),
      plus(self.frame_matrix, other.frame_matrix),
      *(both(getattr(self, name), getattr(other, name)) for name in ("cross", "gradient", "matrix", "own")),
    )


def _sums(found: Sequence[Linearised | Normal], unknowns: Unknowns) -> _Sums:
  """Of terms that are linearised in F frames (leading axis)."""
  return functools.reduce(operator.add, (_products(each, unknowns) for each in found))


def _products(found: Linearised | Normal, unknowns: Unknowns) -> _Sums:
  if isinstance(found, Normal):
    found = jax.vmap(lambda a: _padded(a, unknowns.frame.size))(found)
    return _Sums(jnp.sum(found.cost), found.gradient, found.matrix, {}, {}, {}, {})
  cost, r, root = _weighted(found)
  r = once(r)
  times = lambda a: a if root is None else a * root
  mul = lambda spec, a, b: jnp.einsum(spec, a, b, precision=HIGHEST)
  known = {name: d for name, d in found.shared.items() if name in unknowns.shared}
  whole = {name: d for name, d in known.items() if not isinstance(d, Own)}
  dense = unknowns.shared.only(whole)
  stretches = _stretches(dense, unknowns.shared)
  where = lambda a: dense.at(a[0], a[-1])
  own = {name: times(d.by_row) for name, d in known.items() if isinstance(d, Own)}
  gradient, matrix, cross, blocks = {}, {}, {}, {}

  if found.frame:
    F, n = r.shape[0], unknowns.frame.size
    J4 = _columns(found.frame, unknowns.frame, root)
    J, flat = J4.reshape(F, -1, n), r.reshape(F, -1)
    frame = mul("fri,fr->fi", J, flat), over_rows(J, J)
  else:
    J4, frame = None, (None, None)
  if dense.shapes:
    G = _columns(whole, dense, root)
    flat = G.reshape(-1, dense.size)
    along = mul("fprs,fpr->s", G, r)
    gradient |= {a: along[where(a)] for a in stretches}
    square = over_rows(flat, flat)
    matrix |= {(a, b): square[where(a), where(b)] for a in stretches for b in stretches}
    if J4 is not None:
      across = over_rows(J, G.reshape(F, -1, dense.size))
      cross |= {a: across[..., where(a)] for a in stretches}
  for name, d in own.items():
    a = (name,)
    gradient[a] = mul("fpri,fpr->pi", d, r).reshape(-1)
    if J4 is not None:
      by_part = mul("fprn,fpri->fnpi", J4, d)
      cross[a] = by_part.reshape(*by_part.shape[:2], -1)
    if dense.shapes:
      mixed = mul("fprs,fpri->spi", G, d).reshape(dense.size, -1)
      for b in stretches:
        matrix[b, a] = mixed[where(b)]
        matrix[a, b] = matrix[b, a].T
    for other, e in own.items():
      blocks[a, (other,)] = mul("fpri,fprj->pij", d, e)
  return _Sums(jnp.sum(cost), *frame, cross, gradient, matrix, blocks)


def _stretches(some: Layout, whole: Layout) -> list[Stretch]:
  """The names of `some` of the blocks in groups that lie beside each other in the `whole` as well."""
  found: list[Stretch] = []
  for name in some.names:
    if found and whole.at(found[-1][-1]).stop == whole.at(name).start:
      found[-1] = (*found[-1], name)
    else:
      found.append((name,))
  return found


def _over_frames(sums: _Sums) -> _Sums:
  """Of sums that were made frame by frame (leading axis F, with a frames' axis of 1)."""
  shared: Any = sums.replace(frame_gradient=None, frame_matrix=None, cross={})
  added = jax.tree.map(lambda a: jnp.sum(a, axis=0), shared)
  joined = jax.tree.map(lambda a: a[:, 0], (sums.frame_gradient, sums.frame_matrix, sums.cross))
  return added.replace(frame_gradient=joined[0], frame_matrix=joined[1], cross=joined[2])


def _arrow(sums: _Sums, unknowns: Unknowns) -> ArrowNormal:
  """The sums as dense matrices."""
  shared, n, m = unknowns.shared, unknowns.frame.size, unknowns.shared.size
  dtype = sums.cost.dtype
  F = 0 if sums.frame_gradient is None else sums.frame_gradient.shape[0]
  first = lambda a: shared.at(a[0]).start
  # Each block into its place: to put a row of blocks side by side XLA compiles a kernel for each that is 0 as well.
  cross, gradient, matrix = jnp.zeros((F, n, m), dtype), jnp.zeros(m, dtype), jnp.zeros((m, m), dtype)
  for a, block in sums.cross.items():
    cross = _added(cross, block, (0, 0, first(a)))
  for a, block in sums.gradient.items():
    gradient = _added(gradient, block, (first(a),))
  for (a, b), block in [*sums.matrix.items(), *((at, _spread(blocks)) for at, blocks in sums.own.items())]:
    matrix = _added(matrix, block, (first(a), first(b)))
  return ArrowNormal(
    cost=sums.cost,
    frame_gradient=jnp.zeros((F, n), dtype) if sums.frame_gradient is None else sums.frame_gradient,
    frame_matrix=jnp.zeros((F, n, n), dtype) if sums.frame_matrix is None else sums.frame_matrix,
    cross=cross,
    shared_gradient=gradient,
    shared_matrix=matrix,
  )


def _added(a: Array, block: Array, first: tuple[int, ...]) -> Array:
  """`a` with a block added that begins there."""
  there = jax.lax.slice(a, first, [k + size for k, size in zip(first, block.shape)])
  return jax.lax.dynamic_update_slice(a, there + block, first)


def _spread(blocks: Array) -> Array:
  """(P, c, d), the only ones that are not zero, as a matrix (P c, P d)."""
  P, c, d = blocks.shape
  same = jnp.eye(P, dtype=bool)[:, None, :, None]
  return jnp.where(same, blocks[:, :, None], 0.0).reshape(P * c, P * d)
