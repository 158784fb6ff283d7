"""What a term is: something that is known of a frame, or of what frames share, and how far it is known.

A term says how far the unknowns are from what it knows, in standard deviations, and how this changes with the unknowns
that it depends on. `assemble` makes normal equations of any list of terms; nothing else has to know of them.

Terms are pytrees of what all frames have in common. What is different in every frame is given to `linearise` beside
the unknowns, so that a term and its observations are one entry of a list: (term, observations). Write a term for one
frame; the assembler maps it over the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float

from vht_jax.fit.solvers.least_squares import Normal
from vht_jax.fit.unknowns import At, blocks, with_blocks
from vht_jax.types import AnyArray, Array


class Own(flax.struct.PyTreeNode):
  """Derivatives by a shared block of which every row of residuals knows its own part only: a point and its offset.

  As dense columns they would be nearly all of the cost. The term has as many rows as the block has parts.
  """

  by_row: Array  # (R, k, c): the block is (R, ...) with c numbers in each row


class Linearised(flax.struct.PyTreeNode):
  """A term at one place: R rows of k residuals, whose weight is common, and what they depend on.

  Only the unknowns that the term knows are named: "head" and the term's own in `frame`; in `shared` the fields of
  `Shared` and of `Shared.own`. Derivatives by those that are held in a fit are not used.
  """

  residual: Array  # (R, k) in standard deviations
  frame: Mapping[str, Array]  # (R, k, size of the block)
  shared: Mapping[str, Array | Own]  # (R, k, size of the block)
  root: Array | None = None  # (R,) square roots of robust weights; None: 1
  cost: Array | None = None  # () of the term; None: the sum of squares


class Term(Protocol):
  def linearise(self, at: At, observation: Any) -> Linearised | Normal:
    """The term for one frame at the given unknowns.

    Priors of the head's pose, of which only the normal equations' diagonal is not zero, may give them themselves.
    """
    ...


Entry = tuple[Term, Any]  # a term and its observations: None, or a pytree with the frames' leading axis


class OfPerson(flax.struct.PyTreeNode):
  """A term in a fit of frames whose person is known, and folded into the head: the term goes on seeing the shape."""

  term: Any
  shape: Array  # (S,)

  def linearise(self, at: At, observation: Any) -> Linearised | Normal:
    return self.term.linearise(At(at.x, at.shared.replace(shape=self.shape), at.own), observation)


def by_autodiff(
  residual: Callable[[At], Float[Array, "R k"]],
  at: At,
  frame: tuple[str, ...] = ("head",),
  shared: tuple[str, ...] = (),
) -> Linearised:
  """A term from its residuals (R, k) alone, which depend on the named blocks; derivatives by forward mode."""
  frames, clip = {"head": at.x, **at.own}, blocks(at.shared)
  picked = {n: frames[n] for n in frame}, {n: clip[n] for n in shared}

  def of(picked):
    own = {**frames, **picked[0]}
    return residual(At(own.pop("head"), with_blocks(at.shared, picked[1]), own))

  r = of(picked)
  flat = lambda d: d.reshape(*r.shape, -1)
  return Linearised(r, *jax.tree.map(flat, jax.jacfwd(of)(picked)))


def gaussian(name: str, value: Array, mean: AnyArray | float, sd: AnyArray | float) -> Linearised:
  """A prior on every number of a shared block (P, ...) or ()."""
  rows = value.shape[0] if value.ndim else 1
  sd = jnp.broadcast_to(jnp.asarray(sd, value.dtype), value.shape).reshape(rows, -1)
  residual = (value - jnp.asarray(mean, value.dtype)).reshape(sd.shape) / sd
  return Linearised(residual, {}, {name: Own(jnp.eye(sd.shape[1], dtype=sd.dtype)[None] / sd[..., None])})
