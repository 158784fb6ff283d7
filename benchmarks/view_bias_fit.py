"""The mathematics of `calibrate_view_bias.py`: what many people's slides have in common, from what a detector saw.

A person's slide C_ih of landmark i is the population's C_i plus his own deviation; both are zero-mean Gaussian with
variances that a group of landmarks shares (per coefficient, across and along the skin), found by expectation
maximisation. So a landmark that few views determine, or on which people differ, is pulled towards none.

To first order a constant displacement across the skin cannot be told from slopes along it (a nose that is drawn 4 mm
too short slides as one whose tip does), except that it does so in yaw and in pitch alike. Landmarks lie on the skin, so
constants across it are nearly forbidden, and what looks like them counts as slope.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from view_bias_clips import Seen

# Errors of consecutive frames are correlated by .74, so that frames count for less: (1 - .74) / (1 + .74).
FRAME_WORTH = 0.15
OUTLIER = 0.15  # eye distances: frames whose median error is larger show no face where the detector says
STEPS = 12  # of expectation maximisation
FIRST_SD = 0.01  # of everything, eye distances, at its start
ACROSS_SD = 0.002  # of a constant across the skin


class Rows(NamedTuple):
  """A person's errors in units of the outer eye distance: error = projection @ (displacement in the head's frame)."""

  error: np.ndarray  # (T, N, 2) NaN where there is none
  projection: np.ndarray  # (T, N, 2, 3)
  about: np.ndarray  # (N, 3) the landmarks from their middle, head's frame, mean over the frames
  basis: np.ndarray  # (T, 3) 1, sine of yaw, sine of pitch


def rows(person: Seen) -> Rows:
  X, R = person.points, person.rotation
  scale = 1 / X[..., 2].mean(1)
  where = X[..., :2] / X[..., 2:]
  error = (person.seen / person.focal_px - where) / (scale * person.eye)[:, None, None]
  good = np.nanmedian(np.abs(error).max(-1), axis=1) < OUTLIER
  error[~good] = np.nan
  zero, inverse = np.zeros(X.shape[:2]), 1 / X[..., 2]
  derivative = np.stack(
    [np.stack([inverse, zero, -where[..., 0] * inverse], -1), np.stack([zero, inverse, -where[..., 1] * inverse], -1)],
    axis=-2,
  )
  projection = derivative @ R[:, None] / scale[:, None, None, None]
  about = np.einsum("tnc,tcd->tnd", X - person.position[:, None], R) / person.eye
  toward = -person.position / np.linalg.norm(person.position, axis=1, keepdims=True)
  seen_from = np.einsum("tc,tcd->td", toward, R)
  basis = np.stack([np.ones(len(R)), -seen_from[:, 0], seen_from[:, 1]], 1)
  return Rows(error, projection, about.mean(0), basis)


def turned(about: np.ndarray) -> np.ndarray:
  """(N, 3, 3) what a small turn does to points (N, 3): head axes by yaw (about y), pitch (about x), roll (about z)."""
  x, y, z = about.T
  zero = np.zeros_like(x)
  columns = np.stack([z, zero, -x], -1), np.stack([zero, -z, y], -1), np.stack([-y, x, zero], -1)
  return np.stack(columns, axis=-1)


def common_motion(
  person: Rows, part: slice | np.ndarray, frames: np.ndarray, known: np.ndarray | None = None, own: bool = False
) -> np.ndarray:
  """(T, 6) by how much the points of a part seem to have turned (yaw, pitch, roll; rad) and moved (x, y, z of the head;
  eye distances) in each frame; NaN where nothing was seen.

  Args:
    frames: (N, 3, 3) as for `local`.
    known: (N, 3, 3) a slide that is accounted for.
    own: each point's own slopes are accounted for as well as its constant.
  """
  known = np.zeros((len(person.about), 3, 3)) if known is None else known
  matrix, right = local(*equations(person, known), frames)
  ridge = np.full((3, 3), 1e-2)
  ridge[0, 0] = 1e4
  mine = in_head(solve(matrix, right, ridge.reshape(-1)), frames) * ([1, 1, 1] if own else [1, 0, 0])
  left = person.error - np.einsum("tnac,nck,tk->tna", person.projection, known + mine, person.basis)
  modes = np.concatenate([turned(person.about), np.broadcast_to(np.eye(3), (len(person.about), 3, 3))], -1)
  J = np.einsum("tnac,ncm->tnam", person.projection, modes)[:, part]
  out = np.full((len(left), 6), np.nan)
  for t, (e, j) in enumerate(zip(left[:, part], J)):
    ok = np.isfinite(e).all(-1)
    if ok.sum() > 10:
      # Depth is hardly seen: a weak pull keeps it small.
      a = j[ok].reshape(-1, 6)
      out[t] = np.linalg.solve(a.T @ a + 1e-3 * np.eye(6), a.T @ e[ok].reshape(-1))
  return out


def gains(person: Rows, frames: np.ndarray, part: slice | np.ndarray = slice(17, 68)) -> np.ndarray:
  """(2,) by how much more than the head the points turn in yaw and in pitch, relative to its turn."""
  moved = common_motion(person, part, frames)
  ok = np.isfinite(moved[:, 0])
  design = person.basis[ok]
  slopes = np.linalg.lstsq(design, moved[ok][:, :2], rcond=None)[0]
  return np.array([slopes[1, 0], slopes[2, 1]])


def rigid_field(about: np.ndarray, gain: np.ndarray) -> np.ndarray:
  """(N, 3, 3) the part of the slide that is a turn, as coefficients of [1, yaw, pitch]."""
  field = turned(about) * np.array([gain[0], gain[1], 0.0])
  return field[..., [2, 0, 1]]


def equations(person: Rows, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Normal equations (N, 9, 9) and (N, 9) of the slide's coefficients (head axes x [1, yaw, pitch]) beyond `known`."""
  ok = np.isfinite(person.error).all(-1)
  predicted = np.einsum("tnac,nck,tk->tna", person.projection, known, person.basis)
  error = np.where(ok[..., None], person.error - predicted, 0.0)
  design = np.einsum("tnac,tk->tnack", person.projection, person.basis) * ok[..., None, None, None]
  design = design.reshape(*design.shape[:3], 9)
  return np.einsum("tnai,tnaj->nij", design, design), np.einsum("tnai,tna->ni", design, error)


def solve(matrix: np.ndarray, right: np.ndarray, ridge: np.ndarray) -> np.ndarray:
  """(N, 3, 3)"""
  return np.linalg.solve(matrix + np.diag(ridge), right[..., None])[..., 0].reshape(-1, 3, 3)


def local(matrix: np.ndarray, right: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Equations whose axes are each landmark's own: across the skin and twice along it.

  Args:
    frames: (N, 3, 3) columns: the normal and two tangents, head axes.
  """
  turn = np.einsum("nij,kl->nikjl", frames, np.eye(3)).reshape(-1, 9, 9)
  return np.swapaxes(turn, -1, -2) @ matrix @ turn, np.einsum("nij,ni->nj", turn, right)


def in_head(coefficients: np.ndarray, frames: np.ndarray) -> np.ndarray:
  """(N, 3, 3) of local axes in the head's."""
  return frames @ coefficients


def tangent_frames(normals: np.ndarray) -> np.ndarray:
  """(N, 3, 3) columns: the unit normal, and two directions at right angles to it and each other."""
  helper = np.where(np.abs(normals[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
  first = np.cross(helper, normals)
  first /= np.linalg.norm(first, axis=1, keepdims=True)
  return np.stack([normals, first, np.cross(normals, first)], axis=-1)


SIGNS = np.array([-1.0, 1.0, 1.0])[:, None] * np.array([1.0, -1.0, 1.0])  # of the mirrored face's slide


def mirrored_too(matrix: np.ndarray, right: np.ndarray, partner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Equations of a symmetric slide: each landmark's and its mirror image's, half of each."""
  s = SIGNS.reshape(-1)
  return (matrix + matrix[partner] * s[:, None] * s) / 2, (right + right[partner] * s) / 2


def residual_variance(person: Rows, known: np.ndarray, groups: np.ndarray) -> np.ndarray:
  """(G,) variance per coordinate of what a person's own slide leaves, per group."""
  own = solve(*equations(person, known), np.full(9, 0.05)) + known
  left = person.error - np.einsum("tnac,nck,tk->tna", person.projection, own, person.basis)
  return np.array([np.nanmean(left[:, groups == g] ** 2) for g in range(groups.max() + 1)])


def population(systems: list[tuple[np.ndarray, np.ndarray]], variance: np.ndarray, groups: np.ndarray):
  """The common slide and the spreads, all in the landmarks' own axes.

  Args:
    systems: of each person, `local` equations.
    variance: (G,) of a coordinate's noise.
    groups: (N,) of each landmark, 0 to G - 1.

  Returns:
    (N, 3, 3) the mean slide; (G, 3, 3) sd of the mean and (G, 3, 3) of a person's deviation, by axis (across, along,
    along) and [1, yaw, pitch].
  """
  n, n_groups = len(groups), variance.size
  matrix, right = (np.stack(part) for part in zip(*systems))  # (H, N, 9, 9), (H, N, 9)
  worth = FRAME_WORTH / variance[groups]
  matrix, right = matrix * worth[:, None, None], right * worth[:, None]
  sd_mean, sd_own = (np.full((n_groups, 3, 3), FIRST_SD) for _ in range(2))
  eye = np.eye(9)
  for _ in range(STEPS):
    sd_mean[:, 0, 0] = sd_own[:, 0, 0] = ACROSS_SD
    own, mean = (sd[groups].reshape(n, 9) ** 2 for sd in (sd_own, sd_mean))
    # What a person's equations say about the mean, his deviation integrated out: (I + M D)^-1 [M, y].
    blurred = np.linalg.inv(eye + matrix * own[:, None, :])
    W, w = (blurred @ matrix).sum(0), (blurred @ right[..., None]).sum(0)
    V = np.linalg.inv(W + eye / mean[:, :, None])
    C = (V @ w)[..., 0]
    V_own = np.linalg.inv(matrix + eye / own[:, :, None])
    d = (V_own @ (right - np.einsum("hnij,nj->hni", matrix, C))[..., None])[..., 0]
    squares = C**2 + np.einsum("nii->ni", V), (d**2 + np.einsum("hnii->hni", V_own)).mean(0)
    for sd, square in zip((sd_mean, sd_own), squares):
      for g in range(n_groups):
        each = square[groups == g].reshape(-1, 3, 3).mean(0)
        sd[g] = np.sqrt([each[0], *[each[1:].mean(0)] * 2])
  return C.reshape(n, 3, 3), sd_mean, sd_own


def agreed(families: list[np.ndarray], groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """What two families of heads have in common, in the landmarks' own axes.

  All heads of one model share its sculpture, so that their mean is no population's, however many they are. As seen from
  two models, C_f = C + d_f: the products of the two have the variance of C for their mean, and the regression of C on
  the mean of both is shrunk accordingly, per group, axis (across, along the skin) and coefficient.

  Returns:
    (N, 3, 3) the slide, and the factors (G, 2, 3) by which the mean was multiplied.
  """
  first, second = families
  mean = (first + second) / 2
  out, factors = np.zeros_like(mean), np.zeros((groups.max() + 1, 2, 3))
  for g in range(groups.max() + 1):
    here = groups == g
    for k, axes in enumerate((slice(0, 1), slice(1, 3))):
      both = (first[here, axes] * second[here, axes]).mean((0, 1))
      square = np.maximum((mean[here, axes] ** 2).mean((0, 1)), 1e-12)
      factors[g, k] = np.clip(both / square, 0.0, 1.0)
      out[here, axes] = mean[here, axes] * factors[g, k]
  return out, factors
