"""How MediaPipe's points slide over the face with the view.

Its mesh follows what heads mostly look like: a head that nods by 10 degrees is drawn as one that nods by 8 or 9, the
contour runs along the outline of what is seen, and the tip of the nose slides by millimetres. In the head's frame the
slide of landmark i is nearly linear in the view (quadratic terms add nothing):

  b_i = omega x (X_i - middle) + e C_i [yaw, pitch],   omega = gain * (pitch about x, yaw about y)

with e the distance between the outer eye corners. The table (`view_bias`) is what people have in common, a third of the
dense points' and the contour's variance and less of the others'; it is made of renderings of two head models alone
(`benchmarks/calibrate_view_bias.py`), and displacements in the head's frame over the eye distance carry over to every
topology. The rest is a person's own and unknown: `SPREAD` says how large. No other detector slides like this one. There
are no constants: where the detector sees a landmark from the front is what a head's table of landmarks says.

The view is where the camera is, seen from the head: `view` gives the sines of yaw and pitch. Unlike angles they are
smooth everywhere, do not grow beyond profile, and are within 2 % of them up to 20 degrees. Roll does not count. It is
the direction to the head that matters, not the camera's axis: a head at the image's edge is seen from the side.

Functions are for one frame. The slide's derivative by the pose has rank two (yaw, pitch) and is cheap, so take it
exactly: JAX does, through `view`. Held constant, Gauss-Newton needs twice as many steps, ends 0.2 to 0.6 degrees beside
the minimum (four clips of scans), and states the sd of pitch 7 to 9 % too small.

What the mean leaves is in three parts: a clip's own gains (`GAIN_SD`, by `gain_fields`), its landmarks' own constants
and slopes (`deviation_covariance`), and in each frame what is common to all points (`common_error_basis`) beside the
single points' noise (`SPREAD`, last column). Without the common parts a hundred sliding points count as a hundred
witnesses: with .6 % of noise the inner 51 would give a pose to about a tenth of a degree, and together are wrong by
one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.head import points as pts
from vht_jax.head.motion import product
from vht_jax.head.points import Placed, Points
from vht_jax.types import Array, FlameModel, ViewBias

HIGHEST = jax.lax.Precision.HIGHEST
GROUPS = ("contour", "brows", "nose", "eyes", "mouth")
FIRST_OF_GROUP = (17, 27, 36, 48)  # of the 68, from the second group on
# So many neighbours say what one would. Of 64 rendered people the errors of a brow's five points have an rms of 0.8 to
# 1.3 %, their mean 0.6 to 1.2 %: four to five of five err together.
TOGETHER = 5.0
# Standard deviations per coordinate of persons about the mean, outer eye distances: constant across and along the skin,
# slope in yaw and in pitch along it, noise of a frame. Five scanned heads (upper limits: they hold the scans' errors).
SPREAD = np.array(
  [
    (0.039, 0.082, 0.036, 0.042, 0.015),
    (0.015, 0.017, 0.015, 0.019, 0.008),
    (0.015, 0.013, 0.021, 0.011, 0.007),
    (0.014, 0.010, 0.015, 0.011, 0.006),
    (0.007, 0.006, 0.008, 0.009, 0.005),
  ],
  np.float32,
)
SLOPE_ACROSS = 0.5  # slopes across the skin over those along it; about that on rendered people
# Of a person's gains in yaw and pitch about the table's: .035 among rendered people, but four clips of scans have -.03
# (sd .03) and -.14 (sd .055) where the table says -.02 and -.10.
GAIN_SD = (0.04, 0.07)
# What a frame's points have in common after the mean slide: yaw, pitch, roll (rad) and x, y, z (outer eye distances),
# rms over four clips of scans; with each landmark's own slopes known besides, and without.
COMMON_SD = (0.019, 0.016, 0.0075, 0.016, 0.007, 0.028)
COMMON_SD_MEAN_ONLY = (0.028, 0.0195, 0.010, 0.024, 0.010, 0.038)
# Correlation of consecutive frames' errors: a point's own, and of the common part in either case.
LAG_NOISE, LAG_COMMON, LAG_COMMON_MEAN_ONLY = 0.74, 0.72, 0.88


def view(R: Array, position: Array) -> Array:
  """(2,) sines of yaw and pitch of a head against the direction from the camera to it.

  Yaw is positive when the face turns to the subject's left, pitch when it looks down; both as a rotation about the
  head's y and x axis would be.

  Args:
    R: (3, 3) head -> camera (OpenCV axes), the neck's turn included.
    position: (3,) camera, m: of the head's middle.
  """
  toward = -position * jax.lax.rsqrt(jnp.sum(position**2))
  seen_from = jnp.matmul(toward, R, precision=HIGHEST)  # R^T toward: where the camera is, in the head
  return jnp.stack([-seen_from[0], seen_from[1]])


def view_and_derivative(placed: Placed) -> tuple[Array, Array]:
  """`view` of a head that is placed (2,), and its derivatives (2, 32) by `z` (see `Placed`)."""
  by_R, by_t = jax.jacfwd(view, argnums=(0, 1))(placed.R, placed.t)
  d_sines = product("sab,abk->sk", by_R, placed.d_R) + product("sa,ak->sk", by_t, placed.d_t)
  return view(placed.R, placed.t), d_sines


def see_beside(
  points: Points, placed: Placed, shared: Any, beside: Callable[[Array], tuple[Array, Array]]
) -> tuple[pts.Seen, Array]:
  """`points.see` of what lies beside the points, by a displacement that changes with the view.

  Args:
    points, shared: as for `points.see`; placed: they themselves.
    beside: of the sines (2,): the displacements (N, 3) m, head axes, and their derivatives by the sines (N, 3, 2).

  Returns:
    Where it is seen, and the sines of yaw and pitch (2,).
  """
  sines, d_sines = view_and_derivative(placed)
  moved, slide = beside(sines)
  return pts.seen(points, pts.displaced(placed, moved, slide, d_sines), shared), sines


def fields(bias: ViewBias, points: Array, middle: Array, eye_distance: Array) -> Array:
  """(N, 3, 2) m, head axes by [yaw, pitch]: everything about the slide that does not change from frame to frame.

  Args:
    points: (N, 3) head, m: the person's landmarks, without expression.
    middle: (3,) head, m: what the rigid part turns about; the landmarks' middle (`Points.pivot`).
    eye_distance: () m, between the outer eye corners.
  """
  return gain_fields(points, middle) * bias.gain[None, None] + eye_distance * bias.slopes


def gain_fields(points: Array, middle: Array) -> Array:
  """(N, 3, 2) m, head axes by [yaw, pitch]: the slide for gains of 1, which is its derivative by the gains."""
  return jnp.stack(turns(points - middle[None])[:2], axis=-1)


def turns(about: Array) -> tuple[Array, Array, Array]:
  """What a small turn does to points (N, 3): its derivatives (N, 3) by yaw (about y), pitch (about x) and roll (z)."""
  x, y, z = about.T
  zero = jnp.zeros_like(x)
  return jnp.stack([z, zero, -x], -1), jnp.stack([zero, -z, y], -1), jnp.stack([-y, x, zero], -1)


def displacement(fields_: Array, sines: Array) -> Array:
  """(N, 3) head, m: where the points are seen minus where they are.

  Args:
    fields_: (N, 3, 2) of `fields`, which are the derivatives by `sines`.
    sines: (2,) of `view`.
  """
  return jnp.matmul(fields_, sines, precision=HIGHEST)


def common_error_basis(points: Array, middle: Array, eye_distance: Array, own_slopes: bool = False) -> Array:
  """(N, 3, 6) head, m: how a frame's points err together, in columns of one standard deviation each.

  So the covariance of all displacements of a frame is basis basis^T + noise: turns in yaw, pitch and roll, and moves
  along the head's axes. They have the form of a pose's own derivatives: landmarks alone keep their estimate and state
  an honest sd; beside other evidence they give way together.

  Args:
    points, middle, eye_distance: as for `fields`.
    own_slopes: landmarks' own slopes are unknowns of the clip.
  """
  sd = COMMON_SD if own_slopes else COMMON_SD_MEAN_ONLY
  moves = eye_distance * jnp.broadcast_to(jnp.eye(3, dtype=points.dtype)[None], (points.shape[0], 3, 3))
  columns = jnp.concatenate([jnp.stack(turns(points - middle[None]), axis=-1), moves], axis=-1)
  return columns * jnp.asarray(sd, points.dtype)[None, None]


def deviation_covariance(groups: np.ndarray, normals: Array) -> Array:
  """(N, 3, 3, 3) squared outer eye distances: prior covariances (3, 3), head axes, of each landmark's own constant and
  slopes in yaw and in pitch (second axis) about the mean.

  Args:
    groups: (N,) of `groups_of`.
    normals: (N, 3) head, of the skin, unit length.
  """
  spread = jnp.asarray(SPREAD[groups], normals.dtype)  # (N, 5)
  along = spread[:, 1:4] ** 2
  across = jnp.concatenate([spread[:, :1] ** 2, SLOPE_ACROSS**2 * along[:, 1:]], axis=1)
  normal = (normals[:, :, None] * normals[:, None, :])[:, None]  # (N, 1, 3, 3)
  tangent = jnp.eye(3, dtype=normals.dtype)[None, None] - normal
  return across[..., None, None] * normal + along[..., None, None] * tangent


def constant_spread(groups: np.ndarray) -> np.ndarray:
  """(N,) outer eye distances: sd per coordinate of where the detector sees a person's landmarks from the front, minus
  where they are; as of points that err each for itself."""
  across, along = SPREAD[groups, 0], SPREAD[groups, 1]
  return np.sqrt(TOGETHER * (across**2 + 2 * along**2) / 3)


def groups_of(model: FlameModel) -> np.ndarray:
  """(N,) the number in `GROUPS` of each landmark; dense ones are of the nearest of the 68's, irises of the eyes."""
  template = np.asarray(model.v_template)
  on = lambda corners, bary: np.einsum("nk,nkc->nc", np.asarray(bary), template[np.asarray(corners)])
  first = on(model.lmk_vertices, model.lmk_bary)[:68]
  nearest = [np.linalg.norm(first - p, axis=1).argmin() for p in on(model.dense_vertices, model.dense_bary)]
  groups = np.digitize(np.concatenate([np.arange(68), [36, 42], nearest]), FIRST_OF_GROUP)
  return groups.astype(np.int32)
