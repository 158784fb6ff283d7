"""How derivatives pass through an iterative fit.

`Implicit` differentiates the *solution*: where a cost c(theta, x) is least its gradient vanishes, so by the implicit
function theorem

  dx / dtheta = - (d^2 c / dx^2)^-1  d^2 c / dx dtheta,

whatever path the solver took and wherever it started. The Hessian is the true one, applied as a product (forward over
reverse) inside a conjugate gradient iteration that the Gauss-Newton matrix preconditions: that matrix alone would
leave an error of the size of the residuals' curvature, a few per cent here. The rule is written for forward mode;
JAX transposes it, so `jacfwd` is available where inputs are few (weights) and `grad` where they are many.

`Unrolled` differentiates the *iteration*, every step of it, learning rates and start included. Nothing but the states
between groups of steps is kept (`jax.checkpoint`); the rest is computed again on the way back.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vht_jax.errors import InputError
from vht_jax.fit.solvers.least_squares import (
  ArrowNormal,
  ArrowSolution,
  Normal,
  Solution,
  damped_cholesky,
  eliminate_frames,
  levenberg_marquardt,
  levenberg_marquardt_shared,
)
from vht_jax.types import Array

HIGHEST = lax.Precision.HIGHEST
MAX_CG = 100  # iterations of the conjugate gradients; some ten are needed


@dataclasses.dataclass(frozen=True)
class Implicit:
  """Derivatives of the solution of a least-squares fit (Levenberg-Marquardt), by the implicit function theorem."""

  max_steps: int = 30  # of the solver, which has to converge
  tol: float = 1e-5  # relative decrease of the cost at which the solver stops
  # How far the solution may be from where the gradient vanishes, in its own standard deviations. Beyond that the
  # theorem does not hold and `unconverged` says what the derivative of that fit is: "nan", or "zero" to leave it out.
  stationary: float = 0.05
  unconverged: str = "nan"
  # Gauss-Newton steps after the solver, which stops where rounding hides the decrease of the cost: there the solution
  # is known to the root of the precision only. The gradient's zero is sharper. For comparing with finite differences.
  polish: int = 0

  def __post_init__(self):
    if self.polish < 0:
      raise InputError(f"Implicit: polish must not be negative, got {self.polish}")
    if self.unconverged not in ("nan", "zero"):
      raise InputError(f"Implicit: unconverged must be 'nan' or 'zero', got {self.unconverged!r}")


@dataclasses.dataclass(frozen=True)
class Unrolled:
  """Derivatives of the steps of an iteration, for Adam and for Levenberg-Marquardt."""

  # So many steps are recomputed together on the way back: memory holds the states between such groups and everything
  # inside one group. 1: the least memory. 0: no recomputation, everything is kept.
  checkpoint: int = 1
  max_steps: int = 8  # of Levenberg-Marquardt; all of them are made

  def __post_init__(self):
    if self.checkpoint < 0:
      raise InputError(f"Unrolled: checkpoint must not be negative, got {self.checkpoint}")


def scan(step: Callable, state: Any, xs: Any, length: int, checkpoint: int) -> tuple[Any, Any]:
  """`lax.scan` whose backward pass recomputes `checkpoint` steps at a time (0: none)."""
  if checkpoint <= 0:
    return lax.scan(step, state, xs, length=length)
  group = min(checkpoint, length)
  whole = length // group

  def several(state, xs):
    return lax.scan(step, state, xs, length=group)

  head = jax.tree.map(lambda a: a[: whole * group].reshape(whole, group, *a.shape[1:]), xs)
  state, ys = lax.scan(jax.checkpoint(several, prevent_cse=False), state, head, length=whole)
  ys = jax.tree.map(lambda a: a.reshape(whole * group, *a.shape[2:]), ys)
  if whole * group == length:
    return state, ys
  rest = jax.tree.map(lambda a: a[whole * group :], xs)
  last = functools.partial(lax.scan, step, length=length - whole * group)
  state, tail = jax.checkpoint(lambda s, x: last(s, x))(state, rest)
  return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, tail)


def no_derivative(tree: Any, message: str) -> Any:
  """The tree as it is; asking for a derivative with respect to any of it raises `InputError(message)`."""

  @jax.custom_jvp
  def same(tree):
    return tree

  def rule(primals, tangents):
    if any(type(t) is not jax.custom_derivatives.SymbolicZero for t in jax.tree.leaves(tangents)):
      raise InputError(message)
    return primals[0], jax.tree.map(jnp.zeros_like, primals[0])

  same.defjvp(rule, symbolic_zeros=True)
  return same(tree)


# --- least squares ---------------------------------------------------------------------------------------------------


def minimise(
  normal: Callable[[Any, Array], Normal], theta: Any, x0: Array, adjoint: Implicit | Unrolled | None, max_steps: int
) -> Solution:
  """`levenberg_marquardt` from x0 (n,) with a derivative; write it for one frame and `vmap` it.

  Args:
    normal: (theta, x) -> `Normal`; it must not close over traced values.
    theta: pytree of everything that the cost depends on.
    x0: start.
    adjoint: None: the bare solver, which has no reverse mode.
    max_steps: of the bare solver; the adjoints bring their own.

  Returns:
    With `Implicit`, the derivative of `x` with respect to x0 is zero: a minimum does not depend on where the search
    began. `normal` is differentiable through x and theta.
  """
  if isinstance(adjoint, Implicit):
    problem = _Frame(normal, adjoint)
    x, (steps, converged) = _argmin(problem, adjoint, theta, lax.stop_gradient(x0))
    return Solution(x, normal(theta, x), steps, converged)
  at = functools.partial(normal, theta)
  if isinstance(adjoint, Unrolled):
    loop = functools.partial(_bounded_loop, checkpoint=adjoint.checkpoint)
    return levenberg_marquardt(at, x0, max_steps=adjoint.max_steps, tol=0.0, loop=loop)
  return levenberg_marquardt(at, x0, max_steps=max_steps)


def minimise_shared(
  normal: Callable[[Any, Array, Array], ArrowNormal],
  theta: Any,
  frames0: Array,
  shared0: Array,
  adjoint: Implicit | Unrolled | None,
  max_steps: int,
) -> ArrowSolution:
  """`minimise` for frames0 (F, n) that share shared0 (m,); `normal` takes (theta, frames, shared)."""
  if isinstance(adjoint, Implicit):
    problem = _Arrow(normal, adjoint)
    (frames, shared), (steps, converged) = _argmin(problem, adjoint, theta, lax.stop_gradient((frames0, shared0)))
    model = normal(theta, frames, shared)
    information = eliminate_frames(model, jnp.zeros((), shared.dtype))[2]
    return ArrowSolution(frames, shared, model.cost, steps, converged, information)
  at = functools.partial(normal, theta)
  if isinstance(adjoint, Unrolled):
    loop = functools.partial(_bounded_loop, checkpoint=adjoint.checkpoint)
    return levenberg_marquardt_shared(at, frames0, shared0, max_steps=adjoint.max_steps, tol=0.0, loop=loop)
  return levenberg_marquardt_shared(at, frames0, shared0, max_steps=max_steps)


def _bounded_loop(running, step, state, max_steps, *, checkpoint):
  """A `while_loop` of at most `max_steps` trips that reverse mode can pass."""

  def trip(state, _):
    new, go = step(state), running(state)
    return jax.tree.map(lambda a, b: jnp.where(go, a, b), new, state), None

  return scan(trip, state, None, max_steps, checkpoint)[0]


@dataclasses.dataclass(frozen=True)
class _Frame:
  """A least-squares problem as `_argmin` sees it."""

  normal: Callable
  options: Implicit

  def solve(self, theta, x0):
    solution = levenberg_marquardt(
      functools.partial(self.normal, theta), x0, max_steps=self.options.max_steps, tol=self.options.tol
    )
    x, model = _polish(self, functools.partial(self.normal, theta), solution.x, solution.normal)
    return x, (solution.steps, solution.converged), model

  def cost(self, theta, x):
    return self.normal(theta, x).cost

  def metric(self, model: Normal):
    """J^T r, and the product with the inverse of J^T J."""
    factor = damped_cholesky(model.matrix, jnp.zeros((), model.matrix.dtype))
    return model.gradient, lambda b: jax.scipy.linalg.cho_solve((factor, True), b)


@dataclasses.dataclass(frozen=True)
class _Arrow:
  """The same for frames that share unknowns."""

  normal: Callable
  options: Implicit

  def solve(self, theta, start):
    solution = levenberg_marquardt_shared(
      functools.partial(self.normal, theta), *start, max_steps=self.options.max_steps, tol=self.options.tol
    )
    at = lambda x: self.normal(theta, *x)
    x = solution.frames, solution.shared
    x, model = _polish(self, at, x, at(x))
    return x, (solution.steps, solution.converged), model

  def cost(self, theta, x):
    return self.normal(theta, *x).cost

  def metric(self, model: ArrowNormal):
    factors, solved, matrix, _ = eliminate_frames(model, jnp.zeros((), model.shared_matrix.dtype))
    crossed, reduced = solved[..., :-1], jnp.linalg.cholesky(matrix)
    triangular = functools.partial(lax.linalg.triangular_solve, factors, left_side=True, lower=True)

    def inverse(b):
      half = triangular(b[0][..., None])
      rest = b[1] - jnp.einsum("fns,fn->s", crossed, half[..., 0], precision=HIGHEST)
      shared = jax.scipy.linalg.cho_solve((reduced, True), rest)
      half = half - jnp.matmul(crossed, shared[:, None], precision=HIGHEST)
      return triangular(half, transpose_a=True)[..., 0], shared

    return (model.frame_gradient, model.shared_gradient), inverse


def _polish(problem: _Frame | _Arrow, normal: Callable, x: Any, model: Any) -> tuple[Any, Any]:
  """A solution and the model there after `options.polish` steps that nothing judges."""

  def step(_, state):
    x, model = state
    gradient, inverse = problem.metric(model)
    x = jax.tree.map(jnp.subtract, x, inverse(gradient))
    return x, normal(x)

  return lax.fori_loop(0, problem.options.polish, step, (x, model)) if problem.options.polish else (x, model)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _argmin(problem, options: Implicit, theta, x0):
  x, counts, _ = problem.solve(theta, x0)
  return x, counts


@_argmin.defjvp
def _argmin_jvp(problem, options, primals, tangents):
  theta, x0 = primals
  x, counts, model = problem.solve(theta, x0)
  gradient, inverse = problem.metric(model)
  # The step that Gauss-Newton would still make; its length in standard deviations, for costs that are chi squares.
  remaining = _dot(gradient, inverse(gradient))
  valid = remaining < options.stationary**2
  slope = jax.grad(problem.cost, argnums=1)
  _, mixed = jax.jvp(lambda theta: slope(theta, x), (theta,), (tangents[0],))
  _, hessian = jax.linearize(lambda x: slope(theta, x), x)

  def solve(matvec, b):
    return _conjugate_gradients(matvec, b, inverse)

  dx = lax.custom_linear_solve(hessian, mixed, solve, symmetric=True)
  if options.unconverged == "zero":
    dx = jax.tree.map(lambda d: jnp.where(valid, -d, 0.0), dx)
  else:
    dx = jax.tree.map(lambda d: d * jnp.where(valid, -1.0, jnp.nan), dx)
  return (x, counts), (dx, jax.tree.map(lambda a: np.zeros(a.shape, jax.dtypes.float0), counts))


def _dot(a, b) -> Array:
  products = (jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  return functools.reduce(operator.add, products)


def _conjugate_gradients(matvec, b, inverse):
  """Solves matvec(x) = b, preconditioned by twice `inverse`; NaN if it does not get there: then b is no minimum's."""
  combine = lambda s, x, y: jax.tree.map(lambda p, q: s * p + q, x, y)
  dtype = jax.tree.leaves(b)[0].dtype
  tol = float(jnp.finfo(dtype).eps) ** 0.6

  def step(state):
    x, r, p, rz, k, _ = state
    Hp = matvec(p)
    curvature = _dot(p, Hp)
    alpha = rz / jnp.where(curvature > 0, curvature, 1.0)
    x, r = combine(alpha, p, x), combine(-alpha, Hp, r)
    z = inverse(r)
    new = _dot(r, z)
    return x, r, combine(new / jnp.where(rz > 0, rz, 1.0), p, z), new, k + 1, curvature > 0

  zero = jax.tree.map(jnp.zeros_like, b)
  z = inverse(b)
  rz0 = _dot(b, z)
  more = lambda state: (state[3] > tol**2 * rz0) & (state[4] < MAX_CG) & state[5]
  x, _, _, rz, _, convex = lax.while_loop(more, step, (zero, b, z, rz0, jnp.int32(0), jnp.bool_(True)))
  good = convex & (rz <= tol**2 * rz0)
  return jax.tree.map(lambda a: jnp.where(good, a, jnp.nan), x)
