"""Landmark least squares: bundle adjustment of a clip's camera and identity, and the pose of every frame.

The accuracy limit of landmark tracking is not the solver but the detector's *constant* bias, which does not average
out over frames. So every point has an unknown offset in the head frame, shared by all frames and kept small by a prior
(solver.md, sections 1 and 3: it brings the focal length from 5 % to 0.6 % error). Head size cannot be seen by one
camera and is pinned by a prior on its logarithm.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.config import Weights
from vht_jax.fit.adjoint import Implicit, Unrolled, minimise, minimise_shared
from vht_jax.fit.least_squares import ArrowNormal, Normal
from vht_jax.head import points as pts
from vht_jax.head.points import Points, Shared
from vht_jax.types import Array, FlameModel

HIGHEST = jax.lax.Precision.HIGHEST
HUBER = 2.5  # residuals beyond this many standard deviations count linearly
LOG_FOCAL_MEAN, LOG_FOCAL_SD = 0.5, 0.7  # weak prior for clips without parallax: 1.6 x the longer side, times or by 2
PRINCIPAL_SD = 0.01  # of the longer side
HELD_SD = 1e-4, 1e-6  # of log focal and of the principal point of a known camera: far below what any clip tells
NEGATIVE_EXPR = 25.0  # one-sided units: how much dearer (in squared terms) a negative activation is
EYES_SD = 0.05  # rad, how far the eyes' angles differ
MIN_IRIS_OPENING = 0.12  # eye opening / width under which the iris is hidden by the lids
# Opposite points of the lids and of the inner lips: upper, lower.
OPENINGS = np.array([(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)])
OPEN = 0.04  # in outer eye distances; an eye is 0.1 open, and here the weight of an opening has fallen to a half
# Points that face away are guesses of the detector: cosines to the viewing direction at which a point is hidden and at
# which it is seen, and the factor on a hidden one's 1 / sd. Less of them helps more where guesses are systematically
# wrong, and costs the focal length where they are merely noisy (docs/accuracy.md).
HIDDEN_COSINE, SEEN_COSINE, HIDDEN_WEIGHT = -0.4, 0.0, 0.5
AWAY = 1.5  # the direction away from the middle of the head, against the skin's own: in folds it has to prevail


@flax.struct.dataclass
class Tracks:
  """Landmarks of one frame in the units of the fit."""

  uv: Array  # (N, 2) units of the longer side, from the image centre
  inverse_sd: Array  # (N,) 1 / those units; 0 where the point was not seen
  bias_scale: Array  # () image units per metre of the head


@flax.struct.dataclass
class LandmarkModel:
  """What the fit needs of a head: the points and a few constants of them."""

  points: Points
  relative_sd: Array  # (N,) noise of each point in units of the outer eye distance
  relative_bias: Array  # (N,) the same for its constant bias
  relative_opening_sd: Array  # () the same for the differences between opposite points of lids and lips
  normals: Array  # (N, 3) head, where the surface faces (`facing`)
  eye_distance: Array  # () m, between the outer eye corners of the template
  size_gradient: Array  # (S,) d log(head size) / d shape
  one_sided: bool = flax.struct.field(pytree_node=False, default=False)


def landmark_model(model: FlameModel, weights: Weights, dense_step: int = 3) -> LandmarkModel:
  """The 68 + 2 landmarks and, of the dense ones, every `dense_step`-th (0: none).

  The face contour is defined differently by every detector and is given three times the noise.
  """
  n_dense = len(model.dense_index)
  pick = np.arange(0, n_dense, dense_step) if dense_step and n_dense else np.zeros(0, np.int64)
  vertices = jnp.concatenate([model.lmk_vertices, model.dense_vertices[pick]])
  bary = jnp.concatenate([model.lmk_bary, model.dense_bary[pick]])
  points = pts.surface_points(model, vertices, bary)
  factor = np.ones(70)
  factor[:17] = 3.0
  factor[17:27] = 1.5
  factor = jnp.asarray(factor, points.template.dtype)
  dense = jnp.ones(len(pick), factor.dtype)
  sd = jnp.concatenate([weights.sd_landmark * factor, weights.sd_dense * dense])
  # Lids say where an eyeball is and irises where it looks: a bias of 1 % would be 4 degrees of gaze.
  bias_factor = factor.at[36:48].set(2.0).at[68:].set(2.0)
  bias = jnp.concatenate([weights.sd_offset * bias_factor, 2 * weights.sd_offset * dense])
  p68 = points.template[:68]
  centred = p68 - jnp.mean(p68, axis=0, keepdims=True)
  dirs = points.shapedirs[:68] - jnp.mean(points.shapedirs[:68], axis=0, keepdims=True)
  return LandmarkModel(
    points=points,
    relative_sd=sd,
    relative_bias=bias,
    relative_opening_sd=jnp.asarray(weights.sd_closure, points.template.dtype),
    normals=facing(points.template, model.v_template[vertices]),
    eye_distance=jnp.linalg.norm(p68[36] - p68[45]),
    size_gradient=jnp.einsum("la,las->s", centred, dirs, precision=HIGHEST) / jnp.sum(centred**2),
    one_sided=model.expr_one_sided,
  )


def facing(points: Array, corners: Array) -> Array:
  """(N, 3) unit vectors that say from where points of the head can be seen.

  Lids, lips and the nose's base lie in folds, whose skin faces down, up or even back although it is seen from the
  front. So the normal is averaged with the direction away from the middle of the head, which no fold can turn.

  Args:
    points: (N, 3) head, the 68 landmarks first.
    corners: (N, 3, 3) of the triangles that they lie on. No other part of the mesh is needed (`landmarks_only`).
  """
  unit = lambda v: v * jax.lax.rsqrt(jnp.sum(v**2, -1, keepdims=True) + 1e-20)
  normal = unit(jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
  middle = 0.5 * (points[2] + points[14])  # between the sides of the jaw, below the ears
  return unit(normal + AWAY * unit(points - middle[None]))


def visibility(model: LandmarkModel, view: Array) -> Array:
  """(N,) 1 for points that face the camera, `HIDDEN_WEIGHT` for those that face away, smooth between.

  Args:
    view: (3,) the camera's axis, into the scene, in the head frame.
  """
  cosine = -jnp.matmul(model.normals, view, precision=HIGHEST)
  t = jnp.clip((cosine - HIDDEN_COSINE) / (SEEN_COSINE - HIDDEN_COSINE), 0.0, 1.0)
  return HIDDEN_WEIGHT + (1 - HIDDEN_WEIGHT) * t**2 * (3 - 2 * t)


def observed_points(model: FlameModel, landmarks: np.ndarray, dense: np.ndarray | None, dense_step: int = 3):
  """Picks the observed counterparts of `landmark_model`'s points: (T, N, 2) px and which are present (T, N)."""
  T = len(landmarks)
  n_dense = len(model.dense_index)
  if not (dense_step and n_dense):
    return landmarks, np.isfinite(landmarks).all(-1)
  pick = np.asarray(model.dense_index)[np.arange(0, n_dense, dense_step)]
  extra = np.full((T, len(pick), 2), np.nan, np.float32) if dense is None else dense[:, pick]
  both = np.concatenate([landmarks, extra], axis=1)
  return both, np.isfinite(both).all(-1)


def eye_openness(landmarks: Array) -> Array:
  """(70, 2) -> (2,) height over width of the eyes 36-41 and 42-47."""

  def length(v):  # with a derivative at 0, where missing points are
    return jnp.sqrt(jnp.sum(v**2) + 1e-20)

  def one(p):
    return length(p[1] + p[2] - p[4] - p[5]) / 2 / jnp.maximum(length(p[3] - p[0]), 1e-6)

  return jnp.stack([one(landmarks[36:42]), one(landmarks[42:48])])


def rms_spread(points: Array, seen: Array) -> Array:
  """() rms distance of those of the points (N, 2) that are `seen` (N,) bool from their mean; 0 if there are none."""
  w = seen[:, None].astype(points.dtype)
  total = jnp.maximum(jnp.sum(w), 1.0)
  centred = (points - jnp.sum(points * w, axis=0, keepdims=True) / total) * w
  return jnp.sqrt(jnp.sum(centred**2) / total + 1e-20)


def make_tracks(model: LandmarkModel, landmarks: Array, confidence: Array, size: tuple[int, int]) -> Tracks:
  """One frame's detections (N, 2) px with confidence (N,) in [0, 1] in the units of the fit.

  The irises of a closed eye are guesses of the detector and get no weight; points on the far side of a turned head
  get little.
  """
  height, width = size
  side = float(max(height, width))
  uv = (landmarks - jnp.array([[width / 2, height / 2]], landmarks.dtype)) / side
  seen = confidence > 0
  uv = jnp.where(seen[:, None], uv, 0.0)
  # The spread of the landmarks is a measure of size that, unlike the eye distance, survives profile views.
  extent = rms_spread(uv[:68], seen[:68])
  bias_scale = jnp.maximum(extent, 1e-4) / jnp.maximum(rms_spread(model.points.template[:68, :2], seen[:68]), 1e-3)
  eye = model.eye_distance * bias_scale
  open_ = jnp.clip((eye_openness(uv) - MIN_IRIS_OPENING) / MIN_IRIS_OPENING, 0.0, 1.0)
  confidence = confidence.at[68:70].multiply(open_)
  counts = confidence > 0  # the root has no derivative at 0
  root = jnp.where(counts, jnp.sqrt(jnp.where(counts, confidence, 1.0)), 0.0)
  rows = affine_camera(model, uv[:68], seen[:68])[0]
  root = root * visibility(model, jnp.cross(rows[0], rows[1]))
  return Tracks(uv, root / (model.relative_sd * eye), bias_scale)


def nearest_rotation(affine: Array) -> tuple[Array, Array]:
  """The scaled rotation nearest to an affine camera (2, 3): orthonormal rows (2, 3) and the scale ().

  The polar decomposition in closed form: unlike that of a singular value decomposition, its derivative is finite at
  equal singular values, which is where a head seen without distortion is.
  """
  square = jnp.matmul(affine, affine.T, precision=HIGHEST)
  # Cayley-Hamilton for the root S of a 2 x 2 matrix Q: S = (Q + sqrt(det Q)) / tr S, tr S = sqrt(tr Q + 2 sqrt(det Q)).
  det = jnp.sqrt(jnp.maximum(square[0, 0] * square[1, 1] - square[0, 1] * square[1, 0], 1e-18))
  trace = jnp.sqrt(square[0, 0] + square[1, 1] + 2 * det)
  root = (square + det * jnp.eye(2, dtype=square.dtype)) / trace
  adjugate = jnp.array([[root[1, 1], -root[0, 1]], [-root[1, 0], root[0, 0]]])
  return jnp.matmul(adjugate, affine, precision=HIGHEST) / det, jnp.maximum(trace / 2, 1e-4)


def affine_camera(model: LandmarkModel, uv: Array, seen: Array) -> tuple[Array, Array, Array, Array]:
  """The best affine camera for the mean head, made a scaled rotation (closed form).

  All seen points count the same: who is hidden is only known afterwards.

  Args:
    uv: (68, 2) as in `Tracks`.
    seen: (68,) bool.

  Returns:
    The rotation's first two rows (2, 3), the scale (), the means of the seen points in the head (3,) and image (2,).
  """
  head = model.points.template[:68]
  w = seen.astype(head.dtype)[:, None]
  total = jnp.maximum(jnp.sum(w), 1.0)
  mean_h, mean_u = jnp.sum(w * head, 0) / total, jnp.sum(w * uv, 0) / total
  a, b = (head - mean_h[None]) * w, (uv - mean_u[None]) * w
  ridge = 1e-6 * jnp.eye(3, dtype=a.dtype)
  factor = jnp.linalg.cholesky(jnp.matmul(a.T, a, precision=HIGHEST) + ridge)
  affine = jax.scipy.linalg.cho_solve((factor, True), jnp.matmul(a.T, b, precision=HIGHEST)).T
  return *nearest_rotation(affine), mean_h, mean_u


def initial_unknowns(model: LandmarkModel, tracks: Tracks) -> Array:
  """A frame's unknowns from the best affine camera for the mean head (closed form), neutral expression."""
  rows, scale, mean_h, mean_u = affine_camera(model, tracks.uv[:68], tracks.inverse_sd[:68] > 0)
  R = jnp.concatenate([rows, jnp.cross(rows[0], rows[1])[None]])
  frontal = jnp.array(pts.FRONTAL, R.dtype)
  rotation = pts.rotation.matrix_to_axis_angle(jnp.matmul(R, frontal.T, precision=HIGHEST))
  place = mean_u + scale * jnp.matmul(rows, model.points.pivot - mean_h, precision=HIGHEST)
  lower, upper = pts.flame.JOINT_LIMITS["jaw"]
  raw_jaw = pts.rotation.unbound(jnp.asarray(0.02, R.dtype), float(lower[0]), float(upper[0]))
  n_expr = model.points.exprdirs.shape[-1]
  zeros = lambda n: jnp.zeros(n, R.dtype)
  return jnp.concatenate([zeros(n_expr), rotation, place, jnp.log(scale)[None], zeros(3), raw_jaw[None], zeros(4)])


def frame_prior(model: LandmarkModel, x: Array, weights: Weights) -> Normal:
  """Priors of one frame's unknowns: expression, neck, jaw, gaze; nothing on where the head is."""
  parts = pts.split(x)
  expr = parts["expr"]
  if model.one_sided:
    precision = jnp.where(expr < 0, NEGATIVE_EXPR, 1.0) / weights.sd_expr**2
  else:
    precision = jnp.ones_like(expr)  # FLAME's codes are in standard deviations
  d_jaw = jax.grad(pts.jaw_angle)(parts["jaw"])
  jaw = pts.jaw_angle(parts["jaw"]) / weights.sd_jaw
  eyes = parts["eyes"]
  difference = (eyes[0] - eyes[1]) / EYES_SD
  gradient = jnp.concatenate(
    [
      precision * expr,
      jnp.zeros(6, x.dtype),
      parts["neck"] / weights.sd_neck**2,
      (jaw * d_jaw / weights.sd_jaw)[None],
      eyes[0] / weights.sd_gaze**2 + difference / EYES_SD,
      eyes[1] / weights.sd_gaze**2 - difference / EYES_SD,
    ]
  )
  diagonal = jnp.concatenate(
    [
      precision,
      jnp.zeros(6, x.dtype),
      jnp.full(3, 1.0, x.dtype) / weights.sd_neck**2,
      ((d_jaw / weights.sd_jaw) ** 2)[None],
      jnp.full(4, 1.0, x.dtype) / weights.sd_gaze**2 + 1.0 / EYES_SD**2,
    ]
  )
  matrix = jnp.diag(diagonal)
  e = x.shape[0] - 4
  i, j = jnp.array([e, e + 1, e + 2, e + 3]), jnp.array([e + 2, e + 3, e, e + 1])
  matrix = matrix.at[i, j].add(-1.0 / EYES_SD**2)
  cost = (
    jnp.sum(precision * expr**2)
    + jnp.sum((parts["neck"] / weights.sd_neck) ** 2)
    + jaw**2
    + jnp.sum((eyes / weights.sd_gaze) ** 2)
    + jnp.sum(difference**2)
  )
  return Normal(cost, gradient, matrix)


def robust(residual: Array) -> tuple[Array, Array]:
  """Huber on the length of 2-vectors (N, 2): square roots of the IRLS weights (N,), and the cost ()."""
  square = jnp.sum(residual**2, -1)
  length = jnp.sqrt(square + 1e-12)
  inside = length < HUBER
  cost = jnp.where(inside, square, 2 * HUBER * length - HUBER**2)
  return jnp.sqrt(jnp.where(inside, 1.0, HUBER / length)), jnp.sum(cost)


def _openings(model: LandmarkModel, x: Array, shared: Shared, tracks: Tracks, uv, d_x, d_shared):
  """How far lids and lips are open: differences of opposite points, as 7 more rows (7, 2).

  Offsets are constant, so an eye that the detector sees shut stays ajar by as much as open eyes are seen too narrow.
  But lids that touch are seen to touch, whatever the bias of single points. So these rows are without offsets, and
  they fade out where the opening is observed to be wide, because there a difference is as biased as its points are.

  Returns:
    Predicted minus observed differences, their derivatives by x and by the shared unknowns without the offsets (those
    by the offsets are 0), and 1 / sd (7,), 0 where one of the points was not seen.
  """
  upper, lower = OPENINGS.T
  apart = lambda a: a[upper] - a[lower]
  offset, n_expr = apart(shared.offset), x.shape[0] - pts.N_POSE

  def shift(angles):  # what the offsets add to the predicted differences
    rows = jnp.matmul(pts.rotation.axis_angle_to_matrix(angles), jnp.array(pts.FRONTAL, x.dtype), precision=HIGHEST)[:2]
    return tracks.bias_scale * jnp.matmul(offset, rows.T, precision=HIGHEST)

  angles = x[n_expr : n_expr + 3]
  d_opening = apart(d_x).at[:, :, n_expr : n_expr + 3].add(-jax.jacfwd(shift)(angles))
  both = tracks.inverse_sd[upper] * tracks.inverse_sd[lower]
  both = jnp.where(both > 0, jnp.sqrt(jnp.where(both > 0, both, 1.0)), 0.0)  # the root has no derivative at 0
  # From the points' own 1 / sd, which knows their confidence and the size of the head in the image.
  relative = jnp.sqrt(model.relative_sd[upper] * model.relative_sd[lower]) / model.relative_opening_sd
  wide = jnp.sum(apart(tracks.uv) ** 2, -1) / (OPEN * model.eye_distance * tracks.bias_scale) ** 2
  return apart(uv - tracks.uv) - shift(angles), d_opening, apart(d_shared), both * relative / (1 + wide)


def _whitened(model: LandmarkModel, x: Array, shared: Shared, tracks: Tracks):
  """Rows of the landmarks and then of the openings: residuals (N + 7, 2) and derivatives; by offsets of the N only."""
  uv, d_x, d_shared, d_offset = pts.predict_and_jacobian(model.points, x, shared, tracks.bias_scale)
  opening, d_opening_x, d_opening_shared, inverse_sd = _openings(model, x, shared, tracks, uv, d_x, d_shared)
  difference = jnp.concatenate([uv - tracks.uv, opening])
  inverse_sd = jnp.concatenate([tracks.inverse_sd, inverse_sd])
  residual = difference * inverse_sd[:, None]
  root, cost = robust(residual)
  scale = (root * inverse_sd)[:, None, None]
  return (
    residual * root[:, None],
    jnp.concatenate([d_x, d_opening_x]) * scale,
    jnp.concatenate([d_shared, d_opening_shared]) * scale,
    d_offset[None] * scale[: len(uv)],
    cost,
  )


def frame_normal(model: LandmarkModel, x: Array, shared: Shared, tracks: Tracks, weights: Weights) -> Normal:
  """Landmarks and priors of one frame whose shared unknowns are known."""
  residual, d_x, _, _, cost = _whitened(model, x, shared, tracks)
  J, r = d_x.reshape(-1, x.shape[0]), residual.reshape(-1)
  data = Normal(cost, jnp.matmul(J.T, r, precision=HIGHEST), jnp.matmul(J.T, J, precision=HIGHEST))
  return data + frame_prior(model, x, weights)


def fit_frame(
  model: LandmarkModel,
  tracks: Tracks,
  shared: Shared,
  weights: Weights,
  x0: Array | None = None,
  max_steps: int = 8,
  adjoint: Implicit | Unrolled | None = None,
):
  """Landmark-only pose of one frame (`vmap` it): a `Solution` of the frame's unknowns.

  Args:
    model: with the identity folded in (`with_identity`) and `shared.shape` empty.
    tracks: the frame's landmarks.
    shared: camera and offsets of the clip.
    x0: start; the affine camera's pose by default.
    adjoint: how derivatives pass, None: they do not.
  """
  x0 = initial_unknowns(model, tracks) if x0 is None else x0
  normal = lambda theta, x: frame_normal(theta[0], x, *theta[1:])
  return minimise(normal, (model, shared, tracks, weights), x0, adjoint, max_steps)


def with_identity(model: LandmarkModel, shared: Shared) -> tuple[LandmarkModel, Shared]:
  """Folds the clip's shape into the points."""
  return (
    model.replace(points=pts.with_identity(model.points, shared.shape)),
    shared.replace(shape=shared.shape[:0]),
  )


def pack(shared: Shared) -> Array:
  return jnp.concatenate([shared.shape, shared.log_focal[None], shared.principal, shared.offset.reshape(-1)])


def unpack(flat: Array, n_shape: int) -> Shared:
  return Shared(
    shape=flat[:n_shape],
    log_focal=flat[n_shape],
    principal=flat[n_shape + 1 : n_shape + 3],
    offset=flat[n_shape + 3 :].reshape(-1, 3),
  )


def initial_shared(model: LandmarkModel, focal: float | None = None) -> Shared:
  n_points, _, n_shape = model.points.shapedirs.shape
  dtype = model.points.template.dtype
  return Shared(
    shape=jnp.zeros(n_shape, dtype),
    log_focal=jnp.asarray(LOG_FOCAL_MEAN if focal is None else np.log(focal), dtype),
    principal=jnp.zeros(2, dtype),
    offset=jnp.zeros((n_points, 3), dtype),
  )


def camera_prior(prior: tuple[Array, ...], dtype) -> tuple[Array, Array]:
  """Mean and precision (3,) of [log focal, principal] from (mean, sd) of log focal and, if that is known, (2,) mean
  and () sd of the principal point; it is near the image centre otherwise."""
  focal, focal_sd, *rest = prior
  principal, principal_sd = rest or (jnp.zeros(2, dtype), jnp.asarray(PRINCIPAL_SD, dtype))
  sd = jnp.stack([jnp.asarray(focal_sd, dtype), *[jnp.asarray(principal_sd, dtype)] * 2])
  return jnp.concatenate([jnp.asarray(focal, dtype)[None], jnp.asarray(principal, dtype)]), 1.0 / sd**2


def bundle_normal(
  model: LandmarkModel, xs: Array, flat: Array, tracks: Tracks, weights: Weights, focal_prior: tuple[Array, ...]
) -> ArrowNormal:
  """All frames (leading axis F of `xs` and `tracks`) and their shared unknowns `flat`; prior as for `camera_prior`."""
  n_points, _, n_shape = model.points.shapedirs.shape
  shared = unpack(flat, n_shape)
  residual, d_x, d_shared, d_offset, cost = jax.vmap(lambda x, t: _whitened(model, x, shared, t))(xs, tracks)
  F, n = xs.shape
  prior = jax.vmap(lambda x: frame_prior(model, x, weights))(xs)

  # Each point's residual depends on its own offset only, so the offsets' part of the matrix is one 3 x 3 block a
  # point and is summed as such: as dense columns they would be nearly all of the cost. Rows beyond the points' do not
  # depend on offsets.
  n_camera = n_shape + 3
  J = d_x.reshape(F, -1, n)
  G = d_shared.reshape(-1, n_camera)
  of_points = lambda a: a[:, :n_points]
  mix = lambda spec, a, b: jnp.einsum(spec, a, b, precision=HIGHEST)
  blocks = mix("fpri,fprj->pij", d_offset, d_offset)
  p = jnp.arange(n_points)
  own = jnp.zeros((n_points, 3, n_points, 3), xs.dtype).at[p, :, p, :].set(blocks)
  with_camera = mix("fprs,fpri->spi", of_points(d_shared), d_offset).reshape(n_camera, -1)
  matrix = jnp.block(
    [
      [jnp.matmul(G.T, G, precision=HIGHEST), with_camera],
      [with_camera.T, own.reshape(3 * n_points, 3 * n_points)],
    ]
  )
  cross = jnp.concatenate(
    [
      mix("fprn,fprs->fns", d_x, d_shared),
      mix("fprn,fpri->fnpi", of_points(d_x), d_offset).reshape(F, n, -1),
    ],
    axis=-1,
  )
  gradient = jnp.concatenate(
    [mix("fprs,fpr->s", d_shared, residual), mix("fpri,fpr->pi", d_offset, of_points(residual)).reshape(-1)]
  )
  r = residual.reshape(F, -1)

  offset_sd = jnp.repeat(model.relative_bias * model.eye_distance, 3)
  camera, camera_precision = camera_prior(focal_prior, xs.dtype)
  mean = jnp.zeros_like(flat).at[n_shape : n_shape + 3].set(camera)
  precision = jnp.concatenate(
    [jnp.full(n_shape, 1.0, xs.dtype) * weights.w_identity, camera_precision, 1.0 / offset_sd**2]
  )
  size = jnp.concatenate([model.size_gradient, jnp.zeros(flat.shape[0] - n_shape, xs.dtype)]) / weights.sd_size
  size_residual = jnp.sum(size * flat)

  return ArrowNormal(
    cost=jnp.sum(cost) + jnp.sum(prior.cost) + jnp.sum(precision * (flat - mean) ** 2) + size_residual**2,
    frame_gradient=jnp.einsum("fri,fr->fi", J, r, precision=HIGHEST) + prior.gradient,
    frame_matrix=jnp.einsum("fri,frj->fij", J, J, precision=HIGHEST) + prior.matrix,
    cross=cross,
    shared_gradient=gradient + precision * (flat - mean) + size * size_residual,
    shared_matrix=matrix + jnp.diag(precision) + jnp.outer(size, size),
  )


@flax.struct.dataclass
class BundleResult:
  shared: Shared
  xs: Array  # (F, n)
  cost: Array  # ()
  steps: Array  # () i32
  focal_relative_sd: Array  # () predicted standard deviation of log focal


def bundle_adjust(
  model: LandmarkModel,
  tracks: Tracks,
  weights: Weights,
  *,
  focal: Array | None = None,
  focal_sd: Array = LOG_FOCAL_SD,
  principal: Array | None = None,
  max_steps: int = 20,
  adjoint: Implicit | Unrolled | None = None,
) -> BundleResult:
  """Camera, identity, landmark offsets and the poses of F frames from their landmarks alone.

  Args:
    model: of the unfolded head.
    tracks: leading axis F.
    weights: priors.
    focal: () fixed focal length in units of the longer side; None estimates it under a weak prior.
    focal_sd: () of the prior of its logarithm.
    principal: (2,) fixed principal point, as in `Shared`; None estimates it near the centre. With `focal` only.
    adjoint: how derivatives pass, None: they do not.
  """
  n_shape = model.points.shapedirs.shape[-1]
  dtype = tracks.uv.dtype
  shared0 = initial_shared(model)
  prior = (jnp.asarray(LOG_FOCAL_MEAN, dtype), jnp.asarray(focal_sd, dtype))
  if focal is not None:
    shared0 = shared0.replace(log_focal=jnp.log(jnp.asarray(focal, dtype)))
    prior = (shared0.log_focal, jnp.asarray(HELD_SD[0], dtype))
  if principal is not None:
    shared0 = shared0.replace(principal=jnp.asarray(principal, dtype))
    prior = (*prior, shared0.principal, jnp.asarray(HELD_SD[1], dtype))
  xs0 = jax.vmap(lambda t: initial_unknowns(model, t))(tracks)
  solution = minimise_shared(
    lambda theta, xs, flat: bundle_normal(theta[0], xs, flat, *theta[1:]),
    (model, tracks, weights, prior),
    xs0,
    pack(shared0),
    adjoint,
    max_steps,
  )
  return BundleResult(
    shared=unpack(solution.shared, n_shape),
    xs=solution.frames,
    cost=solution.cost,
    steps=solution.steps,
    focal_relative_sd=focal_deviation(solution.shared_information, n_shape),
  )


def focal_deviation(information: Array, n_shape: int) -> Array:
  """() standard deviation of log focal length, from the shared unknowns' `shared_information` (m, m) (`pack`)."""
  # Scaled to a unit diagonal, because the unknowns' units differ by orders of magnitude.
  scale = jax.lax.rsqrt(jnp.diagonal(information))
  unit = jnp.zeros_like(scale).at[n_shape].set(1.0)
  column = jnp.linalg.solve(information * scale[:, None] * scale[None], unit)
  return jnp.sqrt(jnp.maximum(column[n_shape], 0.0)) * scale[n_shape]
