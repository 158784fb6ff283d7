"""A rigid head seen by a still camera: pose of every frame, focal length, principal point and K points in space.

Bundle adjustment of texture tracks alone. Points start on the tracked mesh and are free in all three directions, held
by a prior of some millimetres: a mesh that is held fixed makes the focal length wrong by a tenth. Unknowns are as in
`points`: where a head's pivot appears and the logarithm of its scale, so that the focal length hardly correlates with
the poses. The frames are eliminated (Schur complement), and what remains is solved densely.

A face is not rigid. Points move with the expression as the first estimate has it, times a gain for each region: where
that expression is the detector's slide taken for one, the tracks say so, and the gain is next to 0 (scanned heads that
keep still), where the face moves it is next to 1. Beside that each frame may bend in a few ways (`modes`), as that
expression is wrong by some. Residuals count as with a Cauchy distribution, and regions that still move more than their
tracks' noise count less (`Rigid.noise`).
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import rotation
from vht_jax.cameras import LOG_FOCAL_MEAN, LOG_FOCAL_SD, PRINCIPAL_SD
from vht_jax.fit.solvers.least_squares import (
  ArrowNormal,
  Chart,
  Normal,
  levenberg_marquardt,
  levenberg_marquardt_shared,
)
from vht_jax.fit.terms.skin import cauchy
from vht_jax.host.programs import namespace
from vht_jax.layout import Layout
from vht_jax.texture_tracks.types import REGIONS
from vht_jax.types import AnyArray, Array

HIGHEST = jax.lax.Precision.HIGHEST
POINT_SD = 0.005  # m, prior of a point against the mesh, each direction: it works from 3 to 5 mm
STEPS, MORE_STEPS = 20, 10  # before and after the regions' noise is known
POSE_STEPS = 8  # of a frame beside a head that is known
DAMPING = 1e-4  # to begin with: the start is the tracked head
FEWEST_POINTS = 8  # of a frame whose pose is estimated: twice what six unknowns need
# Of `State.shared`: log focal in longer sides, principal point minus the image's centre likewise, gains.
SHARED = Layout.of(log_focal=(), principal=(2,), gain=(len(REGIONS),))
N_SHARED = SHARED.size
POSE = Layout.of(turn=(3,), place=(3,))  # of a frame's step; behind it those of the bends
N_POSE = POSE.size
GAIN_MEAN, GAIN_SD = 0.5, 0.5  # of a region's share of the expression: nothing and all of it are one sd away
_FEWEST_RESIDUALS = 50  # of a region whose noise is estimated


class Problem(flax.struct.PyTreeNode):
  """T frames, K points. Image px."""

  X0: AnyArray  # (K, 3) m, about the pivot
  bent: AnyArray  # (T, K, 3) m, head: by what the expression is thought to move them in each frame
  modes: AnyArray  # (M, K, 3) m, head: by what they may move beside that, each with a standard deviation of 1
  uv: AnyArray  # (T, K, 2) px
  inverse_sd: AnyArray  # (T, K) 1 / px; 0: not seen
  region: AnyArray  # (K,) i32
  side: AnyArray  # () px, the longer side
  centre: AnyArray  # (2,) px, of the image
  mean: AnyArray  # (N_SHARED,) prior of `State.shared`
  sd: AnyArray  # (N_SHARED,)


class State(flax.struct.PyTreeNode):
  R: Array  # (T, 3, 3) head -> camera
  place: Array  # (T, 3) px of the pivot, and log of px per m there
  shared: Array  # (N_SHARED,) as `SHARED`
  moved: Array  # (K, 3) points minus X0, in units of `POINT_SD`
  bend: Array  # (T, M) of `Problem.modes`


def start(problem: Problem, R: Array, t: Array, focal: Array, principal: Array) -> State:
  """From poses X = R X0 + t, a focal length and a principal point (px)."""
  f = focal * problem.side
  place = jnp.concatenate([t[:, :2] * (f / t[:, 2:]) + principal[None], jnp.log(f / t[:, 2:])], -1)
  gain = SHARED.split(problem.mean)["gain"]
  shared = {"log_focal": jnp.log(focal), "principal": (principal - problem.centre) / problem.side, "gain": gain}
  bend = jnp.zeros((len(R), len(problem.modes)), problem.X0.dtype)
  return State(R=R, place=place, shared=SHARED.join(shared), moved=jnp.zeros_like(problem.X0), bend=bend)


def lens(problem: Problem, shared: AnyArray) -> tuple[Any, Any]:
  """Focal length () of the longer side, and principal point (2,) px, of `State.shared`, of NumPy or of JAX."""
  parts = SHARED.split(shared)
  return namespace(shared).exp(parts["log_focal"]), problem.centre + parts["principal"] * problem.side


def translations(problem: Problem, state: State) -> tuple[Array, Array, Array]:
  """Camera positions (T, 3) m of the pivot, focal length () and principal point (2,) in px."""
  focal, principal = lens(problem, state.shared)
  f = focal * problem.side
  inverse = jnp.exp(-state.place[:, 2:])
  return jnp.concatenate([(state.place[:, :2] - principal[None]) * inverse, f * inverse], -1), f, principal


def _heads(problem: Problem, state: State) -> Array:
  """(T, K, 3) m, the points as each frame's expression has them."""
  gain = SHARED.split(state.shared)["gain"][problem.region]
  beside = jnp.einsum("tm,mki->tki", state.bend, problem.modes, precision=HIGHEST)
  return (POINT_SD * state.moved + problem.X0)[None] + gain[None, :, None] * problem.bent + beside


def residuals(problem: Problem, state: State) -> Array:
  """(T, K, 2) predicted minus seen in standard deviations, 0 where not seen."""
  t, f, principal = translations(problem, state)
  X = _heads(problem, state)
  Y = jnp.einsum("tij,tkj->tki", state.R, X, precision=HIGHEST) + t[:, None]
  uv = Y[..., :2] * (f / Y[..., 2:]) + principal[None, None]
  return (uv - problem.uv) * problem.inverse_sd[..., None]


def jacobians(problem: Problem, state: State) -> tuple[Array, Array, Array]:
  """Derivatives of `residuals` by frame (T, K, 2, N_POSE + M), shared (T, K, 2, N_SHARED) and points
  (T, K, 2, 3).

  A frame moves by R <- exp(w) R, place <- place + d and bend <- bend + b, in the order [w, d, b].
  """
  t, f, _ = translations(problem, state)
  X = _heads(problem, state)
  RX = jnp.einsum("tij,tkj->tki", state.R, X, precision=HIGHEST)
  Y = RX + t[:, None]
  scale = problem.inverse_sd * (f / Y[..., 2])
  zero = jnp.zeros_like(scale)
  slope = Y[..., :2] / Y[..., 2:]
  D = jnp.stack([  # of the residual by Y
    jnp.stack([scale, zero, -scale * slope[..., 0]], -1), jnp.stack([zero, scale, -scale * slope[..., 1]], -1)
  ], -2)  # fmt: skip
  turn = jnp.cross(RX[..., None, :], D)  # D . (w x RX) = w . (RX x D)
  inverse = jnp.exp(-state.place[:, 2])[:, None, None, None]
  lateral = D[..., :2] * inverse
  grow = -jnp.einsum("tkab,tb->tka", D, t, precision=HIGHEST)[..., None]
  by_focal = problem.inverse_sd[..., None] * slope * f + D[..., 2] * t[:, None, None, 2]
  eye = jnp.eye(2, dtype=scale.dtype)[None, None] * problem.inverse_sd[..., None, None]
  by_principal = (eye - lateral) * problem.side
  by_point = POINT_SD * jnp.einsum("tkab,tbc->tkac", D, state.R, precision=HIGHEST)
  bent = jnp.einsum("tij,tkj->tki", state.R, problem.bent, precision=HIGHEST)
  of_region = jax.nn.one_hot(problem.region, len(REGIONS), dtype=scale.dtype)
  by_gain = jnp.sum(D * bent[..., None, :], -1)[..., None] * of_region[None, :, None]
  shared = jnp.concatenate([by_focal[..., None], by_principal, by_gain], -1)
  modes = jnp.einsum("tij,mkj->tkim", state.R, problem.modes, precision=HIGHEST)
  by_bend = jnp.einsum("tkai,tkim->tkam", D, modes, precision=HIGHEST)
  return jnp.concatenate([turn, lateral, grow, by_bend], -1), shared, by_point


def usual_camera() -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviations of `State.shared` when nothing is known of the camera."""
  f32 = lambda *a: np.array(a, np.float32)  # noqa: E731
  gains = len(REGIONS)
  mean = f32(LOG_FOCAL_MEAN, 0, 0, *[GAIN_MEAN] * gains)
  return mean, f32(LOG_FOCAL_SD, PRINCIPAL_SD, PRINCIPAL_SD, *[GAIN_SD] * gains)


def cost_of(problem: Problem, state: State) -> Array:
  camera = jnp.sum((1 / problem.sd**2) * (state.shared - problem.mean) ** 2)
  return cauchy(residuals(problem, state))[1] + camera + jnp.sum(state.moved**2) + jnp.sum(state.bend**2)


def bend_prior(bend: Array) -> Normal:
  """Of one frame's step (N_POSE + M,)."""
  behind = lambda values: jnp.pad(values, (N_POSE, 0))  # the pose has none
  return Normal(jnp.sum(bend**2), behind(bend), jnp.diag(behind(jnp.ones_like(bend))))


def system(problem: Problem, state: State) -> ArrowNormal:
  """Gauss-Newton with Cauchy's weights and all priors; frames share 3 K + N_SHARED unknowns: points, camera, gains."""
  r = residuals(problem, state)
  w = cauchy(r)[0] ** 2
  by_frame, by_shared, by_point = jacobians(problem, state)
  n_points, dtype = 3 * len(problem.X0), r.dtype
  product = lambda s, *a: jnp.einsum(s, *a, precision=HIGHEST)  # noqa: E731
  wr, w_shared, w_point = r * w[..., None], *(j * w[..., None, None] for j in (by_shared, by_point))
  prior = jax.vmap(bend_prior)(state.bend)
  precision = 1 / problem.sd**2
  points = product("tkab,tkac->kbc", w_point, by_point) + jnp.eye(3, dtype=dtype)[None]
  same = jnp.eye(len(points), dtype=bool)[:, None, :, None]
  points = jnp.where(same, points[:, :, None], 0.0).reshape(n_points, n_points)
  corner = product("tkab,tkac->kbc", w_point, by_shared).reshape(n_points, N_SHARED)
  shared = product("tkab,tkac->bc", w_shared, by_shared) + jnp.diag(precision)
  by_prior = precision * (state.shared - problem.mean)
  gradient = [
    (product("tkab,tka->kb", by_point, wr) + state.moved).ravel(),
    product("tkab,tka->b", by_shared, wr) + by_prior,
  ]
  cross = [
    product("tkab,tkac->tbkc", by_frame, w_point).reshape(*prior.gradient.shape, n_points),
    product("tkab,tkac->tbc", by_frame, w_shared),
  ]
  return ArrowNormal(
    cost=cost_of(problem, state),
    frame_gradient=product("tkab,tka->tb", by_frame, wr) + prior.gradient,
    frame_matrix=product("tkab,tkac->tbc", by_frame, by_frame * w[..., None, None]) + prior.matrix,
    cross=jnp.concatenate(cross, -1),
    shared_gradient=jnp.concatenate(gradient),
    shared_matrix=jnp.block([[points, corner], [corner.T, shared]]),
  )


def frame_chart(problem: Problem) -> Chart:
  """Of `frames`: a step moves them as `jacobians` says."""

  def move(frame, d):
    R, place, bend = frame
    pose = POSE.split(d[:N_POSE])
    turn = rotation.axis_angle_to_matrix(pose["turn"])
    return jnp.matmul(turn, R, precision=HIGHEST), place + pose["place"], bend + d[N_POSE:]

  return Chart(N_POSE + len(problem.modes), move)


def _frames(state: State) -> tuple[Array, Array, Array]:
  return state.R, state.place, state.bend


def _of(state: State, frames: tuple[Array, Array, Array]) -> State:
  return state.replace(R=frames[0], place=frames[1], bend=frames[2])


def move(problem: Problem, state: State, frames: Array, shared: Array) -> State:
  """The state after a step of the frames (T, N_POSE + M) and of points and what is shared (3 K + N_SHARED,)."""
  moved, shared = shared[:-N_SHARED].reshape(state.moved.shape), shared[-N_SHARED:]
  state = _of(state, jax.vmap(frame_chart(problem).move)(_frames(state), frames))
  return state.replace(moved=state.moved + moved, shared=state.shared + shared)


def solve(problem: Problem, state: State, steps: Array | int) -> tuple[State, Array]:
  """Levenberg-Marquardt; the state and the steps taken."""
  shape = state.moved.shape

  def at(frames, shared):
    return _of(state, frames).replace(moved=shared[:-N_SHARED].reshape(shape), shared=shared[-N_SHARED:])

  found = levenberg_marquardt_shared(
    lambda *unknowns: system(problem, at(*unknowns)), _frames(state),
    jnp.concatenate([state.moved.ravel(), state.shared]), max_steps=steps, damping=DAMPING, chart=frame_chart(problem),
  )  # fmt: skip
  return at(found.frames, found.shared), found.steps


def region_noise(problem: Problem, state: State) -> Array:
  """(len(REGIONS),) factors >= 1: robust size of a region's residuals in standard deviations."""
  square = jnp.sum(residuals(problem, state) ** 2, -1)
  seen = problem.inverse_sd > 0

  def one(k):
    counts = seen & (problem.region == k)[None]
    median = jnp.nanmedian(jnp.where(counts, square, jnp.nan))
    enough = jnp.sum(counts) >= _FEWEST_RESIDUALS
    return jnp.where(enough, jnp.sqrt(median / 1.386), 1.0)  # 2 ln 2, the median of chi^2 with 2 degrees of freedom

  return jnp.maximum(jnp.stack([one(k) for k in range(len(REGIONS))]), 1.0)


def resect(problem: Problem, state: State) -> State:
  """The frames alone, each for itself, with points and camera as they are."""

  def one(uv, inverse_sd, bent, frame):
    alone = problem.replace(uv=uv[None], inverse_sd=inverse_sd[None], bent=bent[None])

    def normal(frame):
      here = _of(state, jax.tree.map(lambda a: a[None], frame))
      r, J = residuals(alone, here)[0], jacobians(alone, here)[0][0]
      root, cost = cauchy(r)
      r, J = r * root[:, None], J * root[:, None, None]
      product = lambda s, *a: jnp.einsum(s, *a, precision=HIGHEST)  # noqa: E731
      return Normal(cost, product("kab,ka->b", J, r), product("kab,kac->bc", J, J)) + bend_prior(frame[2])

    return levenberg_marquardt(normal, frame, max_steps=POSE_STEPS, damping=DAMPING, chart=frame_chart(problem)).x

  return _of(state, jax.vmap(one)(problem.uv, problem.inverse_sd, problem.bent, _frames(state)))
