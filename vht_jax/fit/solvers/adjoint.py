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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from vht_jax.errors import InputError
from vht_jax.fit.solvers.least_squares import (
  ArrowNormal,
  ArrowSolution,
  Normal,
  Solution,
  eliminate_frames,
  levenberg_marquardt,
  levenberg_marquardt_shared,
)
from vht_jax.fit.solvers.newton import Arrow, Frame, Minimum, Problem, along, dot, minimum, pruned
from vht_jax.types import Array, Stationary

MAX_CG = 100  # iterations of the conjugate gradients; some ten are needed
MINIMUM = "minimum"  # what a fit has found, which no recomputation searches for again
NEAR = 3e-4  # of the right side that they may leave where rounding ends their progress


@dataclasses.dataclass(frozen=True)
class Implicit:
  """Derivatives of the solution of a least-squares fit, by the implicit function theorem.

  The fit is Levenberg-Marquardt's, and Newton's (`newton.minimum`) from where it has become slow.
  """

  max_steps: int = 60  # of the solver, both kinds together
  tol: float = 1e-3  # relative decrease of the cost below which Newton takes over
  accuracy: float | None = None  # standard deviations at which the solver stops; None: a third of the precision's root
  # How far a frame, or what frames share, may be from where the gradient vanishes, in its own standard deviations.
  # Beyond that the theorem does not hold and `unconverged` says what follows: "nan" for the whole fit, or "zero" to
  # leave the frame out, as if it stayed where it is (all of them, if it is what they share).
  stationary: float = 0.05
  unconverged: str = "nan"

  def __post_init__(self):
    if self.unconverged not in ("nan", "zero"):
      raise InputError(f"Implicit: unconverged must be 'nan' or 'zero', got {self.unconverged!r}")

  def kept(self, distance: Stationary) -> Stationary:
    """() bool for what frames share and (F,) bool for frames: which of them have a derivative."""
    shared = distance.shared < self.stationary
    return Stationary(frames=(distance.frames < self.stationary) & shared, shared=shared)


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
  """`lax.scan` whose backward pass recomputes `checkpoint` steps at a time (0: none), but for the minima in them."""
  if checkpoint <= 0:
    return lax.scan(step, state, xs, length=length)
  group = min(checkpoint, length)
  whole = length // group
  again = functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(MINIMUM))
  if group == 1:  # a loop of one step within would only make the program of the derivative several times as long
    return lax.scan(again(step, prevent_cse=False), state, xs, length=length)

  def several(state, xs):
    return lax.scan(step, state, xs, length=group)

  head = jax.tree.map(lambda a: a[: whole * group].reshape(whole, group, *a.shape[1:]), xs)
  state, ys = lax.scan(again(several, prevent_cse=False), state, head, length=whole)
  ys = jax.tree.map(lambda a: a.reshape(whole * group, *a.shape[2:]), ys)
  if whole * group == length:
    return state, ys
  rest = jax.tree.map(lambda a: a[whole * group :], xs)
  last = functools.partial(lax.scan, step, length=length - whole * group)
  state, tail = again(lambda s, x: last(s, x))(state, rest)
  return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, tail)


def recomputed(adjoint: Implicit | Unrolled | None) -> int:
  """`checkpoint` of a `scan` of fits. What they are given, all that is known of samples, takes more memory than the
  rest: for minima it is made again, and they are not searched for again."""
  return 0 if adjoint is None else adjoint.checkpoint if isinstance(adjoint, Unrolled) else 1


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
    began. `normal.cost` is differentiable through x and theta, and its gradient and matrix count as constant.
  """
  if isinstance(adjoint, Implicit):
    problem = Frame(normal)
    cost = pruned(lambda theta, x: normal(theta, x).cost, theta, x0)
    x, found = _argmin(problem, cost, adjoint, theta, lax.stop_gradient(x0))
    model = found.model.replace(cost=cost(theta, x))
    return Solution(x, model, found.steps, adjoint.kept(found.distance).frames, found.distance)
  at = functools.partial(normal, theta)
  if isinstance(adjoint, Unrolled):
    loop = functools.partial(_bounded_loop, checkpoint=adjoint.checkpoint)
    found = levenberg_marquardt(at, x0, max_steps=adjoint.max_steps, tol=0.0, loop=loop)
    return found.replace(distance=_distance(Frame(normal), found.normal))
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
  problem = Arrow(lambda theta, x: normal(theta, *x))
  if isinstance(adjoint, Implicit):
    x0 = lax.stop_gradient((frames0, shared0))
    cost = pruned(lambda theta, x: problem.normal(theta, x).cost, theta, x0)
    (frames, shared), found = _argmin(problem, cost, adjoint, theta, x0)
    information = eliminate_frames(found.model, jnp.zeros((), shared0.dtype))[2]
    kept = jnp.all(adjoint.kept(found.distance).frames)
    cost_there = cost(theta, (frames, shared))
    return ArrowSolution(frames, shared, cost_there, found.steps, kept, information, found.distance)
  at = functools.partial(normal, theta)
  if isinstance(adjoint, Unrolled):
    loop = functools.partial(_bounded_loop, checkpoint=adjoint.checkpoint)
    found = levenberg_marquardt_shared(at, frames0, shared0, max_steps=adjoint.max_steps, tol=0.0, loop=loop)
    there = lax.stop_gradient((theta, (found.frames, found.shared)))
    return found.replace(distance=_distance(problem, problem.normal(*there)))
  return levenberg_marquardt_shared(at, frames0, shared0, max_steps=max_steps)


def _bounded_loop(running, step, state, max_steps, *, checkpoint):
  """A `while_loop` of at most `max_steps` trips that reverse mode can pass."""

  def trip(state, _):
    new, go = step(state), running(state)
    return jax.tree.map(lambda a, b: jnp.where(go, a, b), new, state), None

  return scan(trip, state, None, max_steps, checkpoint)[0]


def _distance(problem: Problem, model: Any) -> Stationary:
  model = lax.stop_gradient(model)
  gradient = problem.gradient(model)
  return problem.distance(problem.decompose(model, jnp.zeros_like(model.cost)), gradient)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _argmin(problem: Problem, cost: Callable, options: Implicit, theta, x0) -> tuple[Any, Minimum]:
  """The minimum; everything of it but the place itself counts as constant."""
  found = minimum(
    problem, cost, theta, x0, max_steps=options.max_steps, tol=options.tol, accuracy=options.accuracy
  )  # fmt: skip
  return found.x, found


@_argmin.defjvp
def _argmin_jvp(problem, cost, options, primals, tangents):
  theta, x0 = primals
  x, found = checkpoint_name(_argmin(problem, cost, options, theta, x0), MINIMUM)  # itself: its derivative has one
  kept = options.kept(found.distance)
  # What nothing depends on, the place of a frame without landmarks, stays where it is: `damped_root` agrees.
  only = lambda d: problem.only(kept, jax.tree.map(lambda read, a: jnp.where(read, a, 0.0), found.read, d))
  slope = jax.grad(lambda theta, x: 0.5 * cost(theta, x), argnums=1)
  _, mixed = jax.jvp(lambda theta: slope(theta, x), (theta,), (tangents[0],))
  # On both sides of the solve, where frames that are left out are cut off: each mode ends at another one.
  loud = (options.unconverged == "nan") & ~(jnp.all(kept.frames) & kept.shared)
  known = jnp.where(loud, jnp.nan, 1.0)
  mixed = jax.tree.map(lambda d: d * known, mixed)
  _, hessian = jax.linearize(lambda x: slope(theta, x), x)

  # Frames that are left out stay where they are, for what they share too.
  rest = lambda d: jax.tree.map(jnp.subtract, d, only(d))
  with_rest = lambda apply, d: jax.tree.map(jnp.add, only(apply(only(d))), rest(d))
  inverse = functools.partial(with_rest, functools.partial(problem.inverse, found.roots))

  def solve(matvec, b):
    return _conjugate_gradients(matvec, b, inverse)

  dx = lax.custom_linear_solve(functools.partial(with_rest, hessian), only(mixed), solve, symmetric=True)
  dx = jax.tree.map(lambda d: -d * known, dx)
  still = jax.tree.map(jax.custom_derivatives.zero_from_primal, found)
  return (x, found), (dx, still._replace(x=dx))


def _conjugate_gradients(matvec, b, inverse):
  """Solves matvec(x) = b, preconditioned by `inverse`; NaN if it does not get near: then b is no minimum's."""
  tol = float(jnp.finfo(jax.tree.leaves(b)[0].dtype).eps) ** 0.6

  def step(state):
    x, r, p, rz, k, _ = state
    Hp = matvec(p)
    curvature = dot(p, Hp)
    alpha = rz / jnp.where(curvature > 0, curvature, 1.0)
    x, r = along(alpha, p, x), along(-alpha, Hp, r)
    z = inverse(r)
    new = dot(r, z)
    return x, r, along(new / jnp.where(rz > 0, rz, 1.0), p, z), new, k + 1, curvature > 0

  z = inverse(b)
  rz0 = dot(b, z)
  more = lambda state: (state[3] > tol**2 * rz0) & (state[4] < MAX_CG) & state[5]
  start = (jax.tree.map(jnp.zeros_like, b), b, z, rz0, jnp.int32(0), jnp.bool_(True))
  x, _, _, rz, _, convex = lax.while_loop(more, step, start)
  good = convex & (rz <= max(tol, NEAR) ** 2 * rz0)
  return jax.tree.map(lambda a: jnp.where(good, a, jnp.nan), x)
