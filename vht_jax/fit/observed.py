"""What is seen of a head's landmarks: the detector's points of one frame in the units of the fit, and their noise.

THE place that says how far a landmark is believed: its detector's confidence, its kind, whether it is in sight
(`visibility`) and, for irises, whether the eye is open. Landmarks of the far side are doubted by a dataset's confidence
as well (`landmarks.detection`): docs/method.md says what is lost without.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.config import Weights
from vht_jax.fit.solvers import factor
from vht_jax.head import points as pts
from vht_jax.head import view_bias
from vht_jax.head.mesh_points import IBUG68, IRISES
from vht_jax.head.points import Points
from vht_jax.types import AnyArray, Array, FlameModel

HIGHEST = jax.lax.Precision.HIGHEST
MIN_IRIS_OPENING = 0.12  # eye opening / width under which the iris is hidden by the lids
EYES_NOISE = 0.55  # of lids' and irises' points, over that of others: a detector looks at eyes once more, from near
# Points that face away are guesses of the detector: cosines to the viewing direction at which a point is hidden and at
# which it is seen, and the factor on a hidden one's 1 / sd. Less of them helps more where guesses are systematically
# wrong, and costs the focal length where they are merely noisy (docs/accuracy.md).
HIDDEN_COSINE, SEEN_COSINE, HIDDEN_WEIGHT = -0.4, 0.0, 0.5
# How far units of the face's two sides differ, and lids: about what they do in four clips of people who speak (.04 to
# .17, lids .03 to .05, constant differences up to .29).
SIDES_SD, LIDS_SD = 0.13, 0.05
# Opposite points of the lids and of the inner lips: upper, lower.
OPENINGS = np.array([(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)])
IRIS_DEPTH = 0.1  # of the bias of an iris: how much of it may be along the head's axis
OPEN = 0.04  # in outer eye distances; an eye is 0.1 open, and here an opening counts as half shut
AWAY = 1.5  # the direction away from the middle of the head, against the skin's own: in folds it has to prevail


class ObservedLandmarks(flax.struct.PyTreeNode):
  """Landmarks of one frame in the units of the fit."""

  uv: Array  # (N, 2) units of the longer side, from the image centre
  inverse_sd: Array  # (N,) 1 / those units; 0 where the point was not seen
  bias_scale: Array  # () image units per metre of the head
  # (P,) how nearly the points of `OPENINGS` are seen to touch, in [0, 1]: they are then seen alike. None: as 0.
  touching: Array | None


class LandmarkModel(flax.struct.PyTreeNode):
  """What the fit needs of a head: the points and a few constants of them."""

  points: Points
  relative_sd: Array  # (N,) noise of each point in units of the outer eye distance; inf: does not count
  relative_bias: Array  # (N, 3) the same for its constant bias, by axis of the head
  relative_opening_sd: Array  # () the same for the differences between opposite points of lids and lips
  normals: Array  # (N, 3) head, where the surface faces (`facing`)
  slide: Array  # (N, 3, 2) m, head axes by [yaw, pitch]: how the detector's points slide (`view_bias.fields`)
  common: Array  # (N, 3, 6) m: how they err together (`view_bias.common_error_basis`)
  eye_distance: Array  # () m, between the outer eye corners of the template
  size_gradient: Array  # (S,) d log(head size) / d shape
  pair_sd: AnyArray  # (P,) of the difference of the sides of `pairs`; inf: they have nothing in common
  one_sided: bool = flax.struct.field(pytree_node=False, default=False)
  pairs: tuple[tuple[int, int], ...] = flax.struct.field(pytree_node=False, default=())  # `mirrored_units`
  lids: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())  # the units that shut the eyes


def landmark_model(model: FlameModel, weights: Weights, dense_step: int = 3) -> LandmarkModel:
  """The 68 + 2 landmarks and, of the dense ones, every `dense_step`-th (0: none).

  The face contour is defined differently by every detector and is given three times the noise.
  """
  n_dense = len(model.dense_index)
  pick = np.arange(0, n_dense, dense_step) if dense_step and n_dense else np.zeros(0, np.int64)
  vertices = jnp.concatenate([model.lmk_vertices, model.dense_vertices[pick]])
  bary = jnp.concatenate([model.lmk_bary, model.dense_bary[pick]])
  points = pts.surface_points(model, vertices, bary)
  times = np.ones(70)
  times[:17] = 3.0
  times[17:27] = 1.5
  times[36:48] = times[68:] = EYES_NOISE
  times = jnp.asarray(times, points.template.dtype)
  dense = jnp.ones(len(pick), times.dtype)
  # A point of the mesh that is one of the 68 is seen once.
  again = jnp.isin(model.dense_index[pick], np.concatenate([IBUG68, IRISES]).astype(np.int32))
  sd = jnp.concatenate([weights.sd_landmark * times, jnp.where(again, jnp.inf, weights.sd_dense * dense)])
  # Lids say where an eyeball is and irises where it looks: a bias of 1 % would be 4 degrees of gaze.
  bias_factor = times.at[36:48].set(2.0).at[68:].set(2.0)
  bias = jnp.concatenate([weights.sd_offset * bias_factor, 2 * weights.sd_offset * dense])
  p68 = points.template[:68]
  centred = p68 - jnp.mean(p68, axis=0, keepdims=True)
  dirs = points.shapedirs[:68] - jnp.mean(points.shapedirs[:68], axis=0, keepdims=True)
  eye_distance = jnp.linalg.norm(p68[36] - p68[45])
  slide = jnp.zeros((*points.template.shape, 2), points.template.dtype)
  if model.view_bias is not None:
    slopes = model.view_bias.slopes
    mean = model.view_bias.replace(slopes=jnp.concatenate([slopes[:70], slopes[70:][pick]]))
    slide = view_bias.fields(mean, points.template, points.pivot, eye_distance)
  pairs, pair_sd = mirrored_units(model.expr_names)
  return LandmarkModel(
    points=points,
    relative_sd=sd,
    relative_bias=by_axis(bias),
    relative_opening_sd=jnp.asarray(weights.sd_closure, points.template.dtype),
    normals=facing(points.template, model.v_template[vertices]),
    slide=slide,
    common=view_bias.common_error_basis(points.template, points.pivot, eye_distance),
    eye_distance=eye_distance,
    size_gradient=jnp.einsum("la,las->s", centred, dirs, precision=HIGHEST) / jnp.sum(centred**2),
    one_sided=model.expr_one_sided,
    pair_sd=jnp.asarray(pair_sd, points.template.dtype),
    pairs=pairs,
    lids=tuple(i for i, name in enumerate(model.expr_names) if name.startswith("eyelid")),
  )


def is_iris(n: int) -> np.ndarray:
  """(n,) bool: which of n landmarks are irises, points 68 and 69."""
  return np.arange(n) // 2 == 34


def by_axis(bias: AnyArray) -> Array:
  """(N, 3) standard deviations of the landmarks' constant biases (N,), by axis of the head.

  Irises have next to no depth: a constant one moves them with the turn of the head, as gaze does of people who look at
  one point meanwhile, and is charged once where gaze is in every frame.
  """
  times = np.where(is_iris(len(bias))[:, None], [[1.0, 1.0, IRIS_DEPTH]], 1.0)
  return jnp.asarray(bias)[:, None] * jnp.asarray(times, bias.dtype)


def mirrored_units(names: tuple[str, ...]) -> tuple[tuple[tuple[int, int], ...], tuple[float, ...]]:
  """The numbers of the upper face's units that are each other's mirror images, left and right, and their sd.

  Brows and lids are moved by both halves of the brain; mouths go crooked.
  """
  pairs, sd = [], []
  for left, name in enumerate(names):
    stem = name.removesuffix("Left")
    if stem != name and stem.startswith(("brow", "eye")) and f"{stem}Right" in names:
      pairs.append((left, names.index(f"{stem}Right")))
      sd.append(LIDS_SD if stem == "eyelid" else SIDES_SD)
  return tuple(pairs), tuple(sd)


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


def eye_openness(landmarks: Array) -> Array:
  """(70, 2) -> (2,) height over width of the eyes 36-41 and 42-47."""

  def length(v):  # with a derivative at 0, where missing points are
    return jnp.sqrt(jnp.sum(v**2) + 1e-20)

  def one(p):
    return length(p[1] + p[2] - p[4] - p[5]) / 2 / jnp.maximum(length(p[3] - p[0]), 1e-6)

  return jnp.stack([one(landmarks[36:42]), one(landmarks[42:48])])


def touching(uv: Array, size: Array) -> Array:
  """(P,) in [0, 1]: how nearly the points of `OPENINGS` touch; (N, 2) points and () the eye distance in their units."""
  upper, lower = OPENINGS.T
  return 1 / (1 + jnp.sum((uv[upper] - uv[lower]) ** 2, -1) / (OPEN * size) ** 2)


def rms_spread(points: Array, seen: Array) -> Array:
  """() rms distance of those of the points (N, 2) that are `seen` (N,) bool from their mean; 0 if there are none."""
  w = seen[:, None].astype(points.dtype)
  total = jnp.maximum(jnp.sum(w), 1.0)
  centred = (points - jnp.sum(points * w, axis=0, keepdims=True) / total) * w
  return jnp.sqrt(jnp.sum(centred**2) / total + 1e-20)


def observe_landmarks(
  model: LandmarkModel, landmarks: Array, confidence: Array, size: tuple[int, int], touch: bool = False
) -> ObservedLandmarks:
  """One frame's detections (N, 2) px with confidence (N,) in [0, 1] in the units of the fit.

  The irises of a closed eye are guesses of the detector and get no weight; points on the far side of a turned head
  get little. Lids and lips that touch are told from open ones only where asked to `touch`: where offsets are known.
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
  # Points that are seen twice have no weight; an infinite deviation would make derivatives undefined.
  once = jnp.isfinite(model.relative_sd)
  sd = jnp.where(once, model.relative_sd, 1.0) * eye
  alike = touching(uv, eye) if touch else jnp.zeros(len(OPENINGS), uv.dtype)
  return ObservedLandmarks(uv, jnp.where(once, root, 0.0) / sd, bias_scale, alike)


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
    uv: (68, 2) as in `ObservedLandmarks`.
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
  root = factor.inverse_root(jnp.matmul(a.T, a, precision=HIGHEST) + ridge)
  affine = factor.solve(root, jnp.matmul(a.T, b, precision=HIGHEST)).T
  return *nearest_rotation(affine), mean_h, mean_u
