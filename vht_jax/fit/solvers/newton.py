"""Minima to the last digits: Levenberg-Marquardt as far as it is quick, then Newton steps with the true Hessian.

Gauss-Newton leaves out the curvature of the residuals and of the robust costs, so near the minimum it gains but a few
digits more at every step. The implicit function theorem (`adjoint`) needs the gradient's zero. Newton's steps are
solved by conjugate gradients with Hessian products, preconditioned by the Gauss-Newton matrix, within a trust region
(Steihaug, "The conjugate gradient method and trust regions in large scale optimization", 1983): where the curvature is
negative they go to its edge. Lengths are in the Gauss-Newton metric, whose unit is a standard deviation.

Both kinds of steps are in one loop, so that the function that evaluates a point is only once in the program.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval

from vht_jax.fit.solvers import factor
from vht_jax.fit.solvers.least_squares import DAMPING, ArrowNormal, Normal, damped_root, eliminate_frames, judge
from vht_jax.types import Array, Stationary

HIGHEST = lax.Precision.HIGHEST
MAX_INNER = 50  # iterations of the conjugate gradients of a step; some ten are needed
FORCING = 1e-3  # of the right side that they leave: each step gains three digits
GOOD_RATIO = 0.1  # of the predicted decrease that a step has to gain
FULL_RATIO = 0.75  # of it, from which the trust region grows
ROUNDING = 8.0  # times the precision times the cost: what rounding does to a sum of thousands of terms
FIRST_RADIUS = 4.0  # of the trust region, in Gauss-Newton steps
FALL = 0.8  # what is left of the squared distance after a step that the cost cannot judge, at most


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame, unknowns x (n,)."""

  normal: Callable[[Any, Any], Normal]  # (theta, x)

  def nothing(self, x: Array) -> Normal:
    n = x.shape[0]
    return Normal(jnp.full((), jnp.inf, x.dtype), jnp.zeros_like(x), jnp.eye(n, dtype=x.dtype))

  def gradient(self, model: Normal) -> Array:
    return model.gradient

  def decompose(self, model: Normal, damping: Array) -> Array:
    return damped_root(model.matrix, damping)

  def inverse(self, root: Array, b: Array) -> Array:
    """The product with the inverse of the Gauss-Newton matrix."""
    return factor.solve_vector(root, b)

  def distance(self, root: Array, gradient: Array) -> Stationary:
    """How far the Gauss-Newton step would still go."""
    left = jnp.matmul(root, gradient, precision=HIGHEST)
    return Stationary(frames=jnp.sqrt(jnp.sum(left**2)), shared=jnp.zeros((), left.dtype))

  def only(self, kept: Stationary, x: Array) -> Array:
    return jnp.where(kept.frames, x, 0.0)

  def read(self, model: Normal) -> Array:
    """Which unknowns the cost depends on."""
    return jnp.diagonal(model.matrix) != 0


class ArrowRoots(flax.struct.PyTreeNode):
  frames: Array  # (F, n, n)
  crossed: Array  # (F, n, m)
  shared: Array  # (m, m)


@dataclasses.dataclass(frozen=True)
class Arrow:
  """Frames that share unknowns, x = frames (F, n), shared (m,)."""

  normal: Callable[[Any, Any], ArrowNormal]  # (theta, (frames, shared))

  def nothing(self, x: tuple[Array, Array]) -> ArrowNormal:
    frames, shared = x
    eye = lambda k: jnp.eye(k, dtype=shared.dtype)
    (F, n), m = frames.shape, shared.shape[0]
    return ArrowNormal(
      cost=jnp.full((), jnp.inf, shared.dtype),
      frame_gradient=jnp.zeros_like(frames),
      frame_matrix=jnp.broadcast_to(eye(n), (F, n, n)),
      cross=jnp.zeros((F, n, m), shared.dtype),
      shared_gradient=jnp.zeros_like(shared),
      shared_matrix=eye(m),
    )

  def gradient(self, model: ArrowNormal) -> tuple[Array, Array]:
    return model.frame_gradient, model.shared_gradient

  def decompose(self, model: ArrowNormal, damping: Array) -> ArrowRoots:
    roots, solved, matrix, _ = eliminate_frames(model, damping)
    return ArrowRoots(roots, solved[..., :-1], factor.inverse_root(matrix))

  def _half(self, roots: ArrowRoots, b: tuple[Array, Array]) -> tuple[Array, Array]:
    frames = factor.dot(roots.frames, b[0][..., None])[..., 0]
    rest = b[1] - jnp.einsum("fns,fn->s", roots.crossed, frames, precision=HIGHEST)
    return frames, jnp.matmul(roots.shared, rest, precision=HIGHEST)

  def inverse(self, roots: ArrowRoots, b: tuple[Array, Array]) -> tuple[Array, Array]:
    frames, shared = self._half(roots, b)
    shared = jnp.matmul(roots.shared.T, shared, precision=HIGHEST)
    frames = frames - jnp.matmul(roots.crossed, shared, precision=HIGHEST)
    return factor.dot(factor.transposed(roots.frames), frames[..., None])[..., 0], shared

  def distance(self, roots: ArrowRoots, gradient: tuple[Array, Array]) -> Stationary:
    """Of each frame to its minimum with the shared unknowns held, of these with the frames at their minima."""
    frames, shared = self._half(roots, gradient)
    return Stationary(frames=jnp.sqrt(jnp.sum(frames**2, -1)), shared=jnp.sqrt(jnp.sum(shared**2)))

  def only(self, kept: Stationary, x: tuple[Array, Array]) -> tuple[Array, Array]:
    return jnp.where(kept.frames[:, None], x[0], 0.0), jnp.where(kept.shared, x[1], 0.0)

  def read(self, model: ArrowNormal) -> tuple[Array, Array]:
    return jnp.diagonal(model.frame_matrix, axis1=1, axis2=2) != 0, jnp.diagonal(model.shared_matrix) != 0


class Problem(Protocol):
  """What both are."""

  @property
  def normal(self) -> Callable[[Any, Any], Any]: ...
  def nothing(self, x: Any) -> Any: ...
  def gradient(self, model: Any) -> Any: ...
  def decompose(self, model: Any, damping: Array) -> Any: ...
  def inverse(self, root: Any, b: Any, /) -> Any: ...
  def distance(self, root: Any, gradient: Any, /) -> Stationary: ...
  def only(self, kept: Stationary, x: Any) -> Any: ...
  def read(self, model: Any) -> Any: ...


class Minimum(NamedTuple):
  x: Any
  steps: Array  # () i32
  distance: Stationary  # inf where the curvature was seen to be negative: no minimum
  model: Any  # the `Normal` or `ArrowNormal` there
  roots: Any  # of the Gauss-Newton matrix there (`decompose`)
  read: Any  # bool of every unknown: the cost depends on it


class _State(NamedTuple):
  x: Any
  model: Any
  roots: Any
  distance: Stationary
  damping: Array  # of Levenberg-Marquardt
  radius: Array  # of Newton's trust region; 0: not yet known
  newton: Array  # () bool
  convex: Array  # () bool: no negative curvature at the last step
  k: Array
  done: Array


def minimum(
  problem: Problem, cost: Callable[[Any, Any], Array], theta: Any, x0: Any, *, max_steps: int, tol: float,
  accuracy: float | None,
) -> Minimum:  # fmt: skip
  """The minimum of `problem.normal(theta, x).cost` next to x0.

  Args:
    cost: (theta, x) -> that cost, without the rest (`pruned`).
    max_steps: of both kinds together.
    tol: relative decrease of the cost below which Newton takes over.
    accuracy: standard deviations, of every frame and of what they share, at which it stops; None: a third of the root
      of the precision, where rounding begins. It stops before that where rounding hides all progress.
  """
  dtype = jax.tree.leaves(x0)[0].dtype
  eps = float(jnp.finfo(dtype).eps)
  enough = eps**0.5 / 3 if accuracy is None else accuracy
  slope = jax.grad(lambda x: 0.5 * cost(theta, x))
  pick = lambda which, a, b: jax.tree.map(lambda p, q: jnp.where(which, p, q), a, b)

  def step(s: _State) -> _State:
    out_of_steps = s.k >= max_steps
    roots = problem.decompose(s.model, jnp.where(s.newton | out_of_steps, 0.0, s.damping))
    gradient = problem.gradient(s.model)
    plain = problem.inverse(roots, gradient)
    left = dot(gradient, plain)
    distance = problem.distance(roots, gradient)
    last = out_of_steps | (s.newton & (largest(distance) < enough))

    radius = jnp.where(s.radius > 0, s.radius, FIRST_RADIUS * jnp.sqrt(left))
    _, hessian = jax.linearize(slope, s.x)
    inner = truncated_step(hessian, gradient, functools.partial(problem.inverse, roots), radius, s.newton & ~last)
    move = pick(s.newton, inner.step, jax.tree.map(jnp.negative, plain))
    trial = jax.tree.map(lambda a, b: jnp.where(last, a, a + b), s.x, move)
    new = problem.normal(theta, trial)

    lower, damping, quick = judge(s.model.cost, new.cost, s.damping, s.k, tol)
    gain, noise = s.model.cost - new.cost, ROUNDING * eps * s.model.cost
    new_gradient = problem.gradient(new)
    # By rounding: then the gradient is the judge, alone. Residuals are small differences of places in the image, and a
    # cost that seems to rise by what they round says nothing.
    hidden = inner.predicted <= noise
    falls = dot(new_gradient, problem.inverse(roots, new_gradient)) < FALL * left
    better = jnp.where(hidden, falls, gain > GOOD_RATIO * inner.predicted)
    accept = jnp.where(s.newton, better & jnp.isfinite(new.cost), lower) & ~last
    wider = jnp.where(gain > FULL_RATIO * inner.predicted, jnp.maximum(radius, 2 * inner.length), radius)
    return _State(
      x=pick(accept, trial, s.x),
      model=pick(accept, new, s.model),
      roots=roots,
      distance=distance,
      damping=damping,
      radius=jnp.where(s.newton, jnp.where(accept, wider, inner.length / 4), s.radius),
      newton=s.newton | quick,
      convex=jnp.where(s.newton & ~last, inner.convex, s.convex),
      k=s.k + 1,
      done=last | (s.newton & hidden & ~accept),
    )

  model = problem.nothing(x0)
  zero = jnp.zeros((), dtype)
  no, yes = jnp.zeros((), bool), jnp.ones((), bool)
  roots = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(problem.decompose, model, zero))
  distance = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(problem.distance, roots, x0))
  start = _State(x0, model, roots, distance, jnp.asarray(DAMPING, dtype), zero, no, yes, jnp.zeros((), jnp.int32), no)
  s = lax.while_loop(lambda s: ~s.done, step, start)
  distance = jax.tree.map(lambda d: jnp.where(s.convex, d, jnp.inf), s.distance)
  return Minimum(s.x, s.k - 1, distance, s.model, s.roots, problem.read(s.model))


class Inner(NamedTuple):
  step: Any
  length: Array  # () in standard deviations
  predicted: Array  # () decrease of the cost
  convex: Array  # () bool


def truncated_step(hessian: Callable, gradient: Any, inverse: Callable, radius: Array, wanted: Array) -> Inner:
  """The step that minimises the quadratic model within `radius`; 0 where it is not `wanted` () bool.

  Args:
    hessian: the product with half the cost's second derivatives; `gradient`: half its first ones.
    inverse: the product with the inverse of the Gauss-Newton matrix, which preconditions and is the metric.
  """

  def trip(s):
    z, r, d, ry, zz, zd, dd, k, convex, _ = s
    Hd = hessian(d)
    curvature = dot(d, Hd)
    ok = curvature > 0
    alpha = ry / jnp.where(ok, curvature, 1.0)
    beyond = ~ok | (zz + 2 * alpha * zd + alpha**2 * dd >= radius**2)
    edge = (jnp.sqrt(jnp.maximum(zd**2 + dd * (radius**2 - zz), 0.0)) - zd) / jnp.where(dd > 0, dd, 1.0)
    alpha = jnp.where(beyond, edge, alpha)
    z, r = along(alpha, d, z), along(alpha, Hd, r)
    zz = zz + 2 * alpha * zd + alpha**2 * dd
    y = inverse(r)
    new = dot(r, y)
    beta = new / jnp.where(ry > 0, ry, 1.0)
    zd, dd = beta * (zd + alpha * dd), new + beta**2 * dd
    return z, r, along(beta, d, jax.tree.map(jnp.negative, y)), new, zz, zd, dd, k + 1, convex & ok, beyond

  y = inverse(gradient)
  ry = dot(gradient, y)
  zero = jnp.zeros_like(ry)
  more = lambda s: wanted & ~s[9] & (s[3] > FORCING**2 * ry) & (s[7] < MAX_INNER)
  start = (
    jax.tree.map(jnp.zeros_like, gradient), gradient, jax.tree.map(jnp.negative, y), ry, zero, zero, ry,
    jnp.zeros((), jnp.int32), jnp.ones((), bool), jnp.zeros((), bool),
  )  # fmt: skip
  z, r, _, _, zz, _, _, _, convex, _ = lax.while_loop(more, trip, start)
  return Inner(z, jnp.sqrt(jnp.maximum(zz, 0.0)), -(dot(gradient, z) + dot(z, r)), convex)


def pruned(fun: Callable, *like: Any) -> Callable:
  """`fun` for arguments of the types of `like`, traced once and without what its result does not need.

  A cost comes with a Jacobian that it does not need. XLA would find that out, but derivatives of both are traced first,
  which takes longer than all other tracing of a fit.
  """
  leaves, tree = jax.tree.flatten(like)
  closed, shapes = jax.make_jaxpr(lambda *leaves: fun(*jax.tree.unflatten(tree, leaves)), return_shape=True)(*leaves)
  out = jax.tree.structure(shapes)
  jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * out.num_leaves, instantiate=True)
  run = jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))
  return lambda *args: jax.tree.unflatten(out, run(*jax.tree.leaves(args)))


def largest(distance: Stationary) -> Array:
  """() of all frames and what they share; NaN counts as infinite."""
  both = jnp.maximum(jnp.max(distance.frames), distance.shared)
  return jnp.where(jnp.isnan(both), jnp.inf, both)


def along(factor: Array, x: Any, y: Any) -> Any:
  """factor x + y of pytrees."""
  return jax.tree.map(lambda p, q: factor * p + q, x, y)


def dot(a: Any, b: Any) -> Array:
  products = (jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  return functools.reduce(operator.add, products)
