"""Solvers: Levenberg-Marquardt for least squares (one frame; or many frames that share unknowns).

Both take a function that evaluates cost, gradient and Gauss-Newton matrix at once: a step that is accepted needs all
three at the new point anyway, and under `vmap` a rejected one costs the same whatever is computed. The start is
evaluated by a first step of length 0, so that this function is only once in the compiled program: it is nearly all of
it, and a second copy would double the time that compilation takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from vht_jax.fit.solvers import factor
from vht_jax.types import Array, Stationary

HIGHEST = lax.Precision.HIGHEST
DAMPING = 1e-3  # to begin with, of Marquardt's scaled diagonal
EASIER, HARDER = 6.0, 5.0  # what the damping is divided by after a step that is accepted, and times after any other
LEAST_DAMPING, MOST_DAMPING = 1e-9, 1e8  # beyond the latter no step is short enough
SAME = 4.0  # times the precision, relative: costs that differ by less are the same but for rounding


class Normal(flax.struct.PyTreeNode):
  """Half of a least-squares cost's second-order model: cost = sum r^2, gradient = J^T r, matrix = J^T J."""

  cost: Array  # ()
  gradient: Array  # (n,)
  matrix: Array  # (n, n)

  def __add__(self, other: Normal) -> Normal:
    return jax.tree.map(jnp.add, self, other)


class Solution(flax.struct.PyTreeNode):
  x: Any  # the best point seen, of the start's structure
  normal: Normal  # the model there
  steps: Array  # () i32, iterations spent
  converged: Array  # () bool, the last accepted step lowered the cost by less than `tol`
  distance: Stationary | None = None  # from the minimum, by fits that are differentiated


def damped_root(matrix: Array, damping: Array | float) -> Array:
  """`factor.inverse_root` of matrix + damping * diag(matrix) (Marquardt's scaling), (..., n, n).

  An unknown that nothing depends on (a zero on the diagonal: the pose of a frame without landmarks) gets a one
  there, so that it stays where it is.
  """
  eye = jnp.eye(matrix.shape[-1], dtype=bool).reshape((1,) * (matrix.ndim - 2) + matrix.shape[-2:])
  damped = jnp.where(matrix == 0, 1.0, matrix * (1 + damping))
  return factor.inverse_root(jnp.where(eye, damped, matrix))


def while_running(running: Callable, step: Callable, state, max_steps: int):
  """The solvers' loop: stops when nothing runs any more. `adjoint` has another one, for reverse mode."""
  del max_steps  # the condition contains it
  return lax.while_loop(running, step, state)


class Chart(NamedTuple):
  """Unknowns that are no vector, as rotations are: how a step moves them."""

  n: int  # numbers of a step
  move: Callable[[Any, Array], Any]  # from a point of theirs along (n,)


def levenberg_marquardt(
  normal: Callable[[Any], Normal], x0: Any, *, max_steps: int, tol: float = 1e-5, damping: float = DAMPING,
  loop: Callable = while_running, chart: Chart | None = None,
) -> Solution:  # fmt: skip
  """Minimises a sum of squares from x0 (n,); write it for one frame and `vmap` it.

  Damping falls sixfold on an accepted step and rises fivefold on a rejected one. A step to a non-finite cost is
  rejected, so a finite start stays finite.

  Args:
    chart: of an x0 that is a pytree; `normal` is by the steps from there.
  """
  n, move = chart or Chart(len(x0), jnp.add)

  def step(state):
    x, model, lam, k, done = state
    trial = move(x, -factor.solve_vector(damped_root(model.matrix, lam), model.gradient))
    new = normal(trial)
    accept, lam, done = judge(model.cost, new.cost, lam, k, tol)
    pick = lambda a, b: jnp.where(accept, a, b)
    return jax.tree.map(pick, trial, x), jax.tree.map(pick, new, model), lam, k + 1, done

  dtype = jax.tree.leaves(x0)[0].dtype
  nothing = Normal(jnp.full((), jnp.inf, dtype), jnp.zeros(n, dtype), jnp.eye(n, dtype=dtype))
  start = (x0, nothing, jnp.asarray(damping, dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool))
  x, model, _, k, done = loop(lambda s: (s[3] <= max_steps) & ~s[4], step, start, max_steps + 1)
  return Solution(x, model, k - 1, done)


def judge(cost: Array, new: Array, lam: Array, k: Array, tol: float) -> tuple[Array, Array, Array]:
  """Whether step k from `cost` to the cost `new` is accepted, the damping after it, and whether it is the last.

  Step 0 evaluates the start, which is taken as it is.
  """
  first = k == 0
  lower = jnp.isfinite(new) & (new < cost)
  done = (lower & (cost - new < tol * cost)) | (lam > MOST_DAMPING)
  if tol > 0:  # higher by no more than rounding: a shorter step would not be seen to be lower
    done |= ~lower & (new - cost <= SAME * float(jnp.finfo(cost.dtype).eps) * cost)
  damping = jnp.where(lower, jnp.maximum(lam / EASIER, LEAST_DAMPING), lam * HARDER)
  return first | lower, jnp.where(first, lam, damping), ~first & done


class ArrowNormal(flax.struct.PyTreeNode):
  """The same for F frames of n unknowns each that share m unknowns: an arrow-shaped matrix."""

  cost: Array  # ()
  frame_gradient: Array  # (F, n)
  frame_matrix: Array  # (F, n, n)
  cross: Array  # (F, n, m)
  shared_gradient: Array  # (m,)
  shared_matrix: Array  # (m, m)

  def __add__(self, other: ArrowNormal) -> ArrowNormal:
    return jax.tree.map(jnp.add, self, other)

  def with_shared(self, prior: Normal) -> ArrowNormal:
    """With what is known of the shared unknowns beside the frames."""
    return self.replace(
      cost=self.cost + prior.cost,
      shared_gradient=self.shared_gradient + prior.gradient,
      shared_matrix=self.shared_matrix + prior.matrix,
    )


class ArrowSolution(flax.struct.PyTreeNode):
  frames: Any  # (F, n), or of the start's structure
  shared: Array  # (m,)
  cost: Array  # ()
  steps: Array  # () i32
  converged: Array  # () bool
  shared_information: Array  # (m, m), inverse covariance of the shared unknowns with the frames marginalised
  distance: Stationary | None = None  # as in `Solution`


def eliminate_frames(model: ArrowNormal, damping: Array | float):
  """Schur complement of the frames: (inverse roots, their solves, reduced matrix (m, m), reduced gradient (m,)).

  Damped as `damped_root` does it, the shared unknowns too.
  """
  roots = damped_root(model.frame_matrix, damping)
  right = jnp.concatenate([model.cross, model.frame_gradient[..., None]], axis=-1)
  solved = factor.dot(roots, right)  # (F, n, m + 1)
  m = model.shared_gradient.shape[0]
  flat = solved.reshape(-1, m + 1)
  reduced = factor.over_rows(flat[:, :m], flat)
  eye = jnp.eye(m, dtype=bool)
  damped = model.shared_matrix * jnp.where(eye, 1 + damping, 1)
  damped = damped + jnp.where(eye & (model.shared_matrix == 0), 1.0, 0.0)
  return roots, solved, damped - reduced[:, :m], model.shared_gradient - reduced[:, m]


def arrow_step(model: ArrowNormal, damping: Array | float) -> tuple[Array, Array]:
  """The damped Gauss-Newton step of the frames (F, n) and of what they share (m,)."""
  roots, solved, matrix, gradient = eliminate_frames(model, damping)
  shared = -factor.solve_once(matrix, gradient)
  back = solved[..., -1] + jnp.matmul(solved[..., :-1], shared, precision=HIGHEST)
  frames = -factor.dot(factor.transposed(roots), back[..., None])
  return frames[..., 0], shared


def levenberg_marquardt_shared(
  normal: Callable[..., ArrowNormal],
  frames0: Any,
  shared0: Array,
  *,
  max_steps: Array | int,
  tol: float = 1e-5,
  damping: float = DAMPING,
  loop: Callable = while_running,
  only_cost: bool = False,
  chart: Chart | None = None,
) -> ArrowSolution:
  """`levenberg_marquardt` for frames0 (F, n) that share shared0 (m,), eliminating the frames by Schur complement.

  Args:
    normal: of frames and shared unknowns; with `only_cost` also of whether more than the cost is wanted, () bool.
    only_cost: of the last step's end nothing else is asked for. Then `shared_information` is that of its start.
    chart: of a frame of a `frames0` that is a pytree, with a leading axis of frames.
  """
  leaves, m = jax.tree.leaves(frames0), len(shared0)
  n, move = chart or Chart(leaves[0].shape[-1], jnp.add)

  def step(state):
    frames, shared, model, lam, k, done = state
    d_frames, d_shared = arrow_step(model, lam)
    trial = jax.vmap(move)(frames, d_frames), shared + d_shared
    last = k == max_steps
    new = normal(*trial, ~last) if only_cost else normal(*trial)
    accept, lam, done = judge(model.cost, new.cost, lam, k, tol)
    pick = lambda a, b: jnp.where(accept, a, b)
    known = accept & ~last if only_cost else accept
    model = jax.tree.map(lambda a, b: jnp.where(known, a, b), new, model).replace(cost=pick(new.cost, model.cost))
    return *jax.tree.map(pick, trial, (frames, shared)), model, lam, k + 1, done

  dtype, F = shared0.dtype, len(leaves[0])
  nothing = ArrowNormal(
    cost=jnp.full((), jnp.inf, dtype),
    frame_gradient=jnp.zeros((F, n), dtype),
    frame_matrix=jnp.broadcast_to(jnp.eye(n, dtype=dtype), (F, n, n)),
    cross=jnp.zeros((F, n, m), dtype),
    shared_gradient=jnp.zeros(m, dtype),
    shared_matrix=jnp.eye(m, dtype=dtype),
  )
  start = (frames0, shared0, nothing, jnp.asarray(damping, dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool))
  frames, shared, model, _, k, done = loop(lambda s: (s[4] <= max_steps) & ~s[5], step, start, max_steps + 1)
  _, _, information, _ = eliminate_frames(model, jnp.zeros((), dtype))
  return ArrowSolution(frames, shared, model.cost, k - 1, done, information)
