"""Surface points: a few points of the head that can be posed, projected and differentiated cheaply.

A point given by a triangle and barycentric coordinates behaves under blendshapes and skinning like a vertex whose
template, blendshapes and skinning weights are the barycentric means of its corners'. (For the linear part this is
exact; for skinning it differs by the covariance of weights and positions inside one triangle, below 0.1 mm here.) So
landmarks and sampled pixels are both posed by this module, and their Jacobians cost one small matrix product instead
of a pass over the whole mesh.

How the pose of a frame is written, `POSE`, is explained in `fit.unknowns`.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.head.motion import (
  MOTION,
  N_POSE,
  POSE,
  joint_angles,
  joint_motion,
  joint_transforms,
  product,
  rigid,
  rigid_motion,
)  # fmt: skip
from vht_jax.types import AnyArray, Array, FlameModel

HIGHEST = jax.lax.Precision.HIGHEST


class Points(flax.struct.PyTreeNode):
  """N surface points with everything that moves them; fields as in `FlameModel`."""

  template: Array  # (N, 3) head, m
  shapedirs: Array  # (N, 3, S)
  exprdirs: Array  # (N, 3, E)
  posedirs: Array  # (N, 3, 36); (N, 3, 0) where the correctives are part of the template
  lbs_weights: Array  # (N, 5)
  j_template: Array  # (5, 3)
  j_shapedirs: Array  # (5, 3, S)
  j_exprdirs: Array  # (5, 3, E)
  pivot: Array  # (3,) head, m: the centre of the landmarks; `x` says where this point appears


def surface_points(model: FlameModel, vertices: Array, bary: Array) -> Points:
  """The points at `bary` (N, 3) of the triangles with corner `vertices` (N, 3)."""

  def blend(field):
    return jnp.einsum("nk,nk...->n...", bary, field[vertices], precision=HIGHEST)

  n_shape = model.shapedirs.shape[-1]
  posedirs = model.posedirs.reshape(36, -1, 3)[:, vertices]  # (36, N, 3 corners, 3)
  corners = model.v_template[model.lmk_vertices[:68]]
  return Points(
    template=blend(model.v_template),
    shapedirs=blend(model.shapedirs),
    exprdirs=blend(model.exprdirs),
    posedirs=jnp.einsum("nk,pnkc->ncp", bary, posedirs, precision=HIGHEST),
    lbs_weights=blend(model.lbs_weights),
    j_template=model.j_template,
    j_shapedirs=model.j_shapedirs[..., :n_shape],
    j_exprdirs=model.j_shapedirs[..., n_shape:],
    pivot=jnp.mean(corners, axis=(0, 1)),
  )


def fold_shape(points: Points, shape: Array) -> Points:
  """Folds a clip's shape into the template, so that frames pay for expressions only; `shapedirs` becomes empty."""
  return points.replace(
    template=points.template + jnp.matmul(points.shapedirs, shape, precision=HIGHEST),
    j_template=points.j_template + jnp.matmul(points.j_shapedirs, shape, precision=HIGHEST),
    shapedirs=points.shapedirs[..., :0],
    j_shapedirs=points.j_shapedirs[..., :0],
  )


def camera_points(points: Points, shaped: Array, joints: Array, pose_part: Array, focal: Array, principal: Array):
  """Poses the points: camera coordinates (N, 3), and the linear maps dX/d(shaped) (N, 3, 3) and head rotation."""
  pose = POSE.split(pose_part)
  rotations, translations, feature = joint_transforms(joint_angles(pose), joints)
  feature = feature[: points.posedirs.shape[-1]]
  posed = shaped + jnp.matmul(points.posedirs, feature, precision=HIGHEST)
  blend_R = product("nj,jab->nab", points.lbs_weights, rotations)
  blend_t = product("nj,ja->na", points.lbs_weights, translations)
  head = product("nab,nb->na", blend_R, posed) + blend_t
  R, t = rigid(pose, focal, principal)
  X = product("na,ba->nb", head - points.pivot[None], R) + t[None]
  return X, (product("ab,nbc->nac", R, blend_R), R)


class Placed(flax.struct.PyTreeNode):
  """Posed points with their derivatives by z, the vector of `MOTION` (32 numbers)."""

  from_pivot: Array  # (N, 3) camera axes, m
  d_X: Array  # (N, 3, 32) of the points
  d_point: Array  # (N, 3, 3) dX / d(shaped), which turns directions too
  turning: Array  # (5, 3, 3, 32) derivative of R times the joints' rotations
  R: Array  # (3, 3) head -> camera, and
  d_R: Array  # (3, 3, 32)
  t: Array  # (3,) camera, m: the pivot, and
  d_t: Array  # (3, 32)
  pivot: Array  # (2,) where that is seen, as the unknowns have it: `project` of `t` has other last digits

  @property
  def X(self) -> Array:
    """(N, 3) camera, m."""
    return self.from_pivot + self.t[None]


def place(points: Points, shaped: Array, pose_part: Array, camera: Any, joints: Array) -> Placed:
  """`camera_points` and its derivatives.

  A point is moved by few numbers, those of `joint_transforms` and `rigid`, and depends on them bilinearly. So their
  derivatives are taken, and all points' follow by one matrix product.

  Args:
    shaped, joints: of `shaped_points`.
    pose_part: (14,) the last unknowns.
    camera: with `log_focal` () and `principal` (2,), as `fit.unknowns.Shared`.
  """
  pose = POSE.split(pose_part)
  rotations, translations, feature, d_rotations, d_translations, d_feature = joint_motion(pose, joints)
  R, t, d_R, d_t = rigid_motion(pose, jnp.exp(camera.log_focal), camera.principal)
  weights = points.lbs_weights
  feature, d_feature = (a[: points.posedirs.shape[-1]] for a in (feature, d_feature))
  posed = shaped + jnp.matmul(points.posedirs, feature, precision=HIGHEST)
  blend_R = product("nj,jab->nab", weights, rotations)
  head = product("nab,nb->na", blend_R, posed) + product("nj,ja->na", weights, translations)
  about = head - points.pivot[None]
  d_point = product("ab,nbc->nac", R, blend_R)
  turning = product("ab,jbck->jack", R, d_rotations)
  # (N, 5 + 15 + 3 + 1) and (the same, 3, 32)
  factors = [weights, _outer(weights, posed), about, jnp.ones_like(about[:, :1])]
  moves = [product("ab,jbk->jak", R, d_translations), _by_factor(turning), jnp.swapaxes(d_R, 0, 1), d_t[None]]
  d_X = _combine(factors, moves)
  if feature.size:
    by_feature = jnp.matmul(points.posedirs, d_feature, precision=HIGHEST)
    d_X = d_X + product("nab,nbk->nak", d_point, by_feature)
  from_pivot, pivot = product("na,ba->nb", about, R), pose["place"][:2]
  return Placed(
    from_pivot=from_pivot, d_X=d_X, d_point=d_point, turning=turning, R=R, d_R=d_R, t=t, d_t=d_t, pivot=pivot
  )


def turn(points: Points, placed: Placed, directions: Array) -> tuple[Array, Array]:
  """Directions (N, 3) of the unposed points in camera axes (N, 3), and their derivatives by z (N, 3, 32)."""
  turned = product("nab,nb->na", placed.d_point, directions)
  in_head = product("na,ab->nb", turned, placed.R)  # R^T of each
  factors = [_outer(points.lbs_weights, directions), in_head]
  return turned, _combine(factors, [_by_factor(placed.turning), jnp.swapaxes(placed.d_R, 0, 1)])


def _outer(weights: Array, vectors: Array) -> Array:
  """(N, 15) of (N, 5) and (N, 3)."""
  return (weights[:, :, None] * vectors[:, None, :]).reshape(-1, 15)


def _by_factor(turning: Array) -> Array:
  """(5, 3 to, 3 from, 32) -> (5 * 3 from, 3 to, 32)."""
  return jnp.swapaxes(turning, 1, 2).reshape(15, 3, -1)


def _combine(factors: list[Array], moves: list[Array]) -> Array:
  """(N, 3, 32): the sum over all columns of the factors (N, f) of each times its move (f, 3, 32)."""
  factor, move = jnp.concatenate(factors, axis=1), jnp.concatenate(moves, axis=0)
  found = jnp.matmul(factor, move.reshape(move.shape[0], -1), precision=HIGHEST)
  return found.reshape(-1, 3, move.shape[-1])


def shaped_points(points: Points, shape: Array, expr: Array) -> tuple[Array, Array]:
  """Blendshaped points (N, 3) and joints (5, 3), head frame."""
  shaped = (
    points.template
    + jnp.matmul(points.shapedirs, shape, precision=HIGHEST)
    + jnp.matmul(points.exprdirs, expr, precision=HIGHEST)
  )
  joints = (
    points.j_template
    + jnp.matmul(points.j_shapedirs, shape, precision=HIGHEST)
    + jnp.matmul(points.j_exprdirs, expr, precision=HIGHEST)
  )
  return shaped, joints


def project(X: Array, focal: Array, principal: Array) -> Array:
  """Camera (N, 3) -> image (N, 2) in units of the longer side, from the image centre."""
  return X[:, :2] * (focal / X[:, 2:]) + principal[None]


def project_derivative(X: Array, focal: Array) -> Array:
  """(N, 2, 3): d `project` / dX."""
  inv_z = 1.0 / X[:, 2]
  zero = jnp.zeros_like(inv_z)
  rows = [jnp.stack([inv_z, zero, -X[:, 0] * inv_z**2], -1), jnp.stack([zero, inv_z, -X[:, 1] * inv_z**2], -1)]
  return focal * jnp.stack(rows, axis=-2)


def camera_columns(X: Array, focal: Array) -> Array:
  """(N, 2, 32): the derivatives of `project` by z (see `Placed`) that are its own: log focal and principal point."""
  by_principal = jnp.broadcast_to(jnp.eye(2, dtype=X.dtype)[None], (X.shape[0], 2, 2))
  columns = jnp.concatenate([(X[:, :2] * (focal / X[:, 2:]))[..., None], by_principal], axis=-1)
  where = MOTION.at("log_focal", "principal")
  return jnp.pad(columns, ((0, 0), (0, 0), (where.start, MOTION.size - where.stop)))


def by_unknowns(points: Points, columns: Array, maps: Array, exprdirs: Array, shapedirs: Array):
  """The chain rule from what moves points to the unknowns, for anything (N, k) that depends on posed points.

  Vertices and normals are linear in shape and expression, so those columns are matrix products.

  Args:
    columns: (N, k, 32) derivatives by z (see `Placed`).
    maps: (N, k, c) derivatives by c quantities that are linear in expression and shape:
    exprdirs, shapedirs: (N, c, E) and (N, c, S).

  Returns:
    Derivatives by a frame's unknowns (N, k, E + 14), and by name those by shape, log focal and principal point.
  """
  d_joints = columns[..., MOTION.at("joints")]

  def linear(dirs, j_dirs):
    moved = jnp.matmul(d_joints, j_dirs.reshape(d_joints.shape[-1], -1), precision=HIGHEST)
    return jnp.matmul(maps, dirs, precision=HIGHEST) + moved

  pose = columns[..., MOTION.at(POSE.names[0], POSE.names[-1])]
  d_x = jnp.concatenate([linear(exprdirs, points.j_exprdirs), pose], axis=-1)
  d_shared = {name: columns[..., MOTION.at(name)] for name in ("log_focal", "principal")}
  return d_x, {"shape": linear(shapedirs, points.j_shapedirs), **d_shared}


class Seen(flax.struct.PyTreeNode):
  """Where points are seen, with derivatives; units of the longer side.

  A small head in a large picture has its digits in where it is. So its points are told from its pivot, and what was
  observed is, too, before both are compared.
  """

  beside: Array  # (N, 2) from where the pivot is seen
  pivot: Array  # (2,) from the image centre
  d_x: Array  # (N, 2, E + 14)
  d_shared: dict[str, Array]  # shape (N, 2, S), log_focal (N, 2, 1), principal (N, 2, 2)
  by_head: Array  # (N, 2, 3) by a displacement of the points, m, head axes

  @property
  def uv(self) -> Array:
    """(N, 2) from the image centre."""
    return self.beside + self.pivot[None]

  def off(self, uv: AnyArray) -> Array:
    """(N, 2): where the points are seen minus where they were observed, `uv`."""
    return self.beside - (uv - self.pivot[None])


def locate(points: Points, x: Array, shared: Any) -> Array:
  """(N, 2) where the points are seen, units of the longer side from the image centre.

  Args:
    x: (E + 14,) the unknowns of a frame.
    shared: with `shape`, `log_focal`, `principal`, as `fit.unknowns.Shared`.
  """
  focal = jnp.exp(shared.log_focal)
  shaped, joints = shaped_points(points, shared.shape, x[:-N_POSE])
  X, _ = camera_points(points, shaped, joints, x[-N_POSE:], focal, shared.principal)
  return project(X, focal, shared.principal)


def see(points: Points, x: Array, shared: Any) -> Seen:
  """`locate` with its derivatives."""
  return seen(points, placed_by(points, x, shared), shared)


def placed_by(points: Points, x: Array, shared: Any) -> Placed:
  """`place` by the unknowns of a frame and the shared ones, as for `locate`."""
  shaped, joints = shaped_points(points, shared.shape, x[:-N_POSE])
  return place(points, shaped, x[-N_POSE:], shared, joints)


def seen(points: Points, placed: Placed, shared: Any) -> Seen:
  """`see` of points that are placed already."""
  X, focal = placed.X, jnp.exp(shared.log_focal)
  d_project = project_derivative(X, focal)
  columns = product("nij,njk->nik", d_project, placed.d_X) + camera_columns(X, focal)
  d_shaped = product("nij,njk->nik", d_project, placed.d_point)  # (N, 2, 3)
  d_x, d_shared = by_unknowns(points, columns, d_shaped, points.exprdirs, points.shapedirs)
  by_head = product("nij,jk->nik", d_project, placed.R)
  return Seen(_beside(placed, focal), placed.pivot, d_x, d_shared, by_head)


def _beside(placed: Placed, focal: Array) -> Array:
  """(N, 2): `project` of the points minus that of their pivot, without the digits that both have."""
  across, ahead = placed.from_pivot[:, :2], placed.from_pivot[:, 2:]
  return (across - ahead * (placed.t[:2] / placed.t[2])[None]) * (focal / (ahead + placed.t[2]))


def displaced(placed: Placed, by: Array, slide: Array | None = None, d_sines: Array | None = None) -> Placed:
  """The points moved with the head by (N, 3) m, head axes.

  Args:
    slide: (N, 3, 2) how these displacements change with two numbers of which
    d_sines: (2, 32) are the derivatives by z; None: they are constant.
  """
  d_X = placed.d_X + product("abk,nb->nak", placed.d_R, by)
  if slide is not None and d_sines is not None:
    d_X = d_X + product("nas,sk->nak", product("ab,nbs->nas", placed.R, slide), d_sines)
  return placed.replace(from_pivot=placed.from_pivot + product("nb,ab->na", by, placed.R), d_X=d_X)


def only(index: np.ndarray | list[int], points: Points) -> Points:
  """Those of the points with these numbers (n,)."""
  index = np.asarray(index)
  fields = ("template", "shapedirs", "exprdirs", "posedirs", "lbs_weights")
  return points.replace(**{name: getattr(points, name)[index] for name in fields})


def some(index: np.ndarray, points: Points, placed: Placed) -> tuple[Points, Placed]:
  """Those of the points with these numbers (n,), and where they are."""
  return only(index, points), placed.replace(
    from_pivot=placed.from_pivot[index], d_X=placed.d_X[index], d_point=placed.d_point[index]
  )
