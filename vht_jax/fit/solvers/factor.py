"""Symmetric positive definite systems, any batch of them.

XLA's own factorisations of a batch wait, on a CPU, for the few threads that hold the other parts of one program for
several devices: on two cores a solver that calls them in its loop waits for ever. So where there may be such a program
matrices are factored here, by products, and by a loop over rows only in the last few dozen. In a program for one device
the library's are taken: ours take longer to compile (the first run of the app by 10 s of 56) and, beyond a hundred
unknowns, to run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vht_jax.host.machine import for_one_device
from vht_jax.types import Array

HIGHEST = lax.Precision.HIGHEST
ROWS = 32  # of a matrix that are made one by one: more are slower, fewer take longer to compile
PIECE = 128  # rows of a product's factors that Eigen neither gives to several threads nor adds up in parts
HALVED = 256  # larger matrices are halved, smaller ones walked through by blocks: a smaller program, of more products


def dot(a: Array, b: Array) -> Array:
  """Product of matrices (..., i, j) (..., j, k) at full precision."""
  return jnp.matmul(a, b, precision=HIGHEST)


def transposed(a: Array) -> Array:
  return jnp.swapaxes(a, -1, -2)


def over_rows(a: Array, b: Array) -> Array:
  """a^T b of matrices (..., R, n) and (..., R, m) with many rows, piece by piece.

  For a product of tall matrices a CPU gives each thread some of the rows, and the bits depend on how many threads
  there are; of `PIECE` rows none is cut. It takes 1.3 times as long. A program that is exported for any number of
  frames has the plain product.
  """
  rows = a.shape[-2]
  if not isinstance(rows, int) or rows <= PIECE:
    return dot(transposed(a), b)
  count = -(-rows // PIECE)

  def cut(a):
    a = jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, count * PIECE - rows), (0, 0)])
    return a.reshape(*a.shape[:-2], count, PIECE, a.shape[-1])

  return jnp.sum(dot(transposed(cut(a)), cut(b)), axis=-3)


@jax.custom_jvp
def inverse_root(matrix: Array) -> Array:
  """The inverse X of the Cholesky factor of symmetric matrices (..., n, n): lower triangular, X A X^T = 1.

  With it half of a solve is X b, all of it `solve`. NaN for matrices that are not positive definite. Only the lower
  triangle is read.
  """
  return by_library(matrix) if for_one_device() else by_products(matrix)


def by_library(matrix: Array) -> Array:
  """`inverse_root` by XLA's own factorisation."""
  eye = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
  factor = lax.linalg.cholesky(matrix, symmetrize_input=False)
  return lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)


def by_products(matrix: Array) -> Array:
  """`inverse_root` in plain operations."""
  n = matrix.shape[-1]
  if n <= ROWS:
    return _by_rows(matrix)
  if 2 * ROWS < n <= HALVED:
    return _by_blocks(matrix)
  k = -(-n // 2)
  left = by_products(matrix[..., :k, :k])
  below = dot(matrix[..., k:, :k], transposed(left))  # of the Cholesky factor
  right = by_products(matrix[..., k:, k:] - dot(below, transposed(below)))
  corner = -dot(right, dot(below, left))
  nothing = jnp.zeros((*matrix.shape[:-2], k, n - k), matrix.dtype)
  return jnp.concatenate([jnp.concatenate([left, nothing], -1), jnp.concatenate([corner, right], -1)], -2)


def _by_rows(matrix: Array) -> Array:
  """Each row is a unit vector, made orthogonal (in the matrix's product) to those before."""
  n = matrix.shape[-1]

  def row(k, X):
    a = lax.dynamic_index_in_dim(matrix, k, axis=-2)  # (..., 1, n)
    of_factor = jnp.sum(X * a, axis=-1)  # (..., n), 0 from k on: X has no rows there yet
    unit = (lax.iota(jnp.int32, n) == k).astype(X.dtype).reshape((1,) * (X.ndim - 2) + (n,))
    rest = jnp.sum(a[..., 0, :] * unit, axis=-1) - jnp.sum(of_factor**2, axis=-1)
    new = (unit - jnp.sum(X * of_factor[..., None], axis=-2)) * lax.rsqrt(rest)[..., None]
    return lax.dynamic_update_index_in_dim(X, new[..., None, :], k, axis=-2)

  return lax.fori_loop(0, n, row, jnp.zeros_like(matrix))


def _by_blocks(matrix: Array) -> Array:
  """The same with `ROWS` of them at a time."""
  n = matrix.shape[-1]
  count = -(-n // ROWS)
  b = -(-n // count)
  full, batch = count * b, [(0, 0)] * (matrix.ndim - 2)
  beyond = jnp.diag((np.arange(full) >= n).astype(matrix.dtype)).reshape((1,) * len(batch) + (full, full))
  matrix = jnp.pad(matrix, [*batch, (0, full - n), (0, full - n)]) + beyond

  def block(k, X):
    rows = lax.dynamic_slice_in_dim(matrix, k * b, b, axis=-2)
    of_factor = dot(rows, transposed(X))
    rest = lax.dynamic_slice_in_dim(rows, k * b, b, axis=-1) - dot(of_factor, transposed(of_factor))
    root = _by_rows(rest)
    new = lax.dynamic_update_slice_in_dim(-dot(root, dot(of_factor, X)), root, k * b, axis=-1)
    return lax.dynamic_update_slice_in_dim(X, new, k * b, axis=-2)

  return lax.fori_loop(0, count, block, jnp.zeros_like(matrix))[..., :n, :n]


@inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
  X = inverse_root(*primals)
  inner = dot(X, dot(tangents[0], transposed(X)))
  eye = jnp.eye(X.shape[-1], dtype=X.dtype).reshape((1,) * (X.ndim - 2) + X.shape[-2:])
  return X, -dot(jnp.tril(inner) - 0.5 * inner * eye, X)


def solve(root: Array, right: Array) -> Array:
  """A^-1 b from the `inverse_root` of A (..., n, n) for right sides (..., n, k)."""
  return dot(transposed(root), dot(root, right))


def solve_vector(root: Array, right: Array) -> Array:
  """The same for one right side (..., n)."""
  return solve(root, right[..., None])[..., 0]


@jax.custom_jvp
def solve_once(matrix: Array, right: Array) -> Array:
  """A^-1 b of a matrix (..., n, n) as for `inverse_root` and one right side (..., n), with nothing kept for others.

  For many hundred unknowns a quarter of the operations: the inverse takes three times those of the factor.
  """
  if not for_one_device():
    return solve_vector(inverse_root(matrix), right)
  factor = lax.linalg.cholesky(matrix, symmetrize_input=False)
  substitute = lambda b, back: lax.linalg.triangular_solve(factor, b, left_side=True, lower=True, transpose_a=back)
  return substitute(substitute(right[..., None], False), True)[..., 0]


@solve_once.defjvp
def _solve_once_jvp(primals, tangents):
  (matrix, right), (d_matrix, d_right) = primals, tangents
  root = inverse_root(matrix)
  found = solve_vector(root, right)
  return found, solve_vector(root, d_right - dot(d_matrix, found[..., None])[..., 0])
