"""Surface points: a few points of the head that can be posed, projected and differentiated cheaply.

A point given by a triangle and barycentric coordinates behaves under blendshapes and skinning like a vertex whose
template, blendshapes and skinning weights are the barycentric means of its corners'. (For the linear part this is
exact; for skinning it differs by the covariance of weights and positions inside one triangle, below 0.1 mm here.) So
landmarks and sampled pixels are both posed by this module, and their Jacobians cost one small matrix product instead
of a pass over the whole mesh.

A frame's unknowns are one vector `x` of E + 14 numbers, chosen so that Gauss-Newton sees a nearly linear problem
(solver.md, section 6):

  expr (E) | rotation (3) | image position and log scale (3) | neck (3) | jaw opening (1) | eyes (2 x 2)

The rotation is an axis-angle relative to the frontal view, so that it stays far from the singularity at pi where
`Pose.rotation` of a frontal head lives. Position is (u, v, s): where the head's centre appears in the image, in units
of the longer side from the image centre, and s = log(focal / z). Written so, the focal length hardly correlates with
the pose. The jaw's only free angle is stored before its bounding bijection.
"""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax import rotation
from vht_jax.head import flame
from vht_jax.types import Array, Camera, FlameModel, Pose

N_POSE = 14  # unknowns of a frame beside the expression
HIGHEST = jax.lax.Precision.HIGHEST
# Head (x left, y up, z out of the face) seen frontally by an OpenCV camera (x right, y down, z into the scene).
FRONTAL = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))


@flax.struct.dataclass
class Points:
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


@flax.struct.dataclass
class Shared:
  """Unknowns that all frames share, as the landmark fit sees them."""

  shape: Array  # (S,)
  log_focal: Array  # () log of the focal length in units of the longer image side
  principal: Array  # (2,) principal point minus image centre, in units of the longer side
  offset: Array  # (N, 3) detector bias per point, head frame, m


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


def with_identity(points: Points, shape: Array) -> Points:
  """Folds a clip's shape into the template, so that frames pay for expressions only; `shapedirs` becomes empty."""
  return points.replace(
    template=points.template + jnp.matmul(points.shapedirs, shape, precision=HIGHEST),
    j_template=points.j_template + jnp.matmul(points.j_shapedirs, shape, precision=HIGHEST),
    shapedirs=points.shapedirs[..., :0],
    j_shapedirs=points.j_shapedirs[..., :0],
  )


def n_unknowns(points: Points) -> int:
  return points.exprdirs.shape[-1] + N_POSE


def split(x: Array) -> dict[str, Array]:
  """The named parts of a frame's unknowns."""
  e = x.shape[-1] - N_POSE
  return {
    "expr": x[:e],
    "rotation": x[e : e + 3],
    "place": x[e + 3 : e + 6],
    "neck": x[e + 6 : e + 9],
    "jaw": x[e + 9],
    "eyes": x[e + 10 :].reshape(2, 2),
  }


def jaw_angle(raw: Array) -> Array:
  lower, upper = flame.JOINT_LIMITS["jaw"]
  return rotation.bound(raw, float(lower[0]), float(upper[0]))


def joint_angles(pose_part: Array) -> Array:
  """(5, 3) axis-angles of root (0), neck, jaw and eyes from the last N_POSE unknowns."""
  zero = jnp.zeros((), pose_part.dtype)
  neck, jaw, eyes = pose_part[6:9], jaw_angle(pose_part[9]), pose_part[10:14]
  return jnp.stack(
    [
      jnp.zeros(3, pose_part.dtype),
      neck,
      jnp.stack([jaw, zero, zero]),
      jnp.stack([eyes[0], eyes[1], zero]),
      jnp.stack([eyes[2], eyes[3], zero]),
    ]
  )


def joint_transforms(angles: Array, joints: Array) -> tuple[Array, Array, Array]:
  """Skinning transforms with the root unturned: rotations (5, 3, 3), translations (5, 3), pose feature (36,)."""
  R = jax.vmap(rotation.axis_angle_to_matrix)(angles)
  eye = jnp.eye(3, dtype=R.dtype)
  mul = lambda a, b: jnp.matmul(a, b, precision=HIGHEST)
  t_neck = joints[1] - mul(R[1], joints[1])
  child = [mul(R[1], R[k]) for k in (2, 3, 4)]
  t_child = [mul(R[1], joints[k]) + t_neck - mul(c, joints[k]) for k, c in zip((2, 3, 4), child)]
  rotations = jnp.stack([eye, R[1], *child])
  translations = jnp.stack([jnp.zeros(3, R.dtype), t_neck, *t_child])
  return rotations, translations, (R[1:] - eye[None]).reshape(-1)


def rigid(pose_part: Array, focal: Array, principal: Array) -> tuple[Array, Array]:
  """Head -> camera rotation (3, 3) and the camera position (3,) of the pivot, m."""
  R = jnp.matmul(rotation.axis_angle_to_matrix(pose_part[:3]), jnp.array(FRONTAL, pose_part.dtype), precision=HIGHEST)
  place = pose_part[3:6]
  z = focal * jnp.exp(-place[2])
  return R, jnp.concatenate([(place[:2] - principal) * (z / focal), z[None]])


def camera_points(points: Points, shaped: Array, joints: Array, pose_part: Array, focal: Array, principal: Array):
  """Poses the points: camera coordinates (N, 3), and the linear maps dX/d(shaped) (N, 3, 3) and head rotation."""
  rotations, translations, feature = joint_transforms(joint_angles(pose_part), joints)
  feature = feature[: points.posedirs.shape[-1]]
  posed = shaped + jnp.matmul(points.posedirs, feature, precision=HIGHEST)
  blend_R = jnp.einsum("nj,jab->nab", points.lbs_weights, rotations, precision=HIGHEST)
  blend_t = jnp.matmul(points.lbs_weights, translations, precision=HIGHEST)
  head = jnp.einsum("nab,nb->na", blend_R, posed, precision=HIGHEST) + blend_t
  R, t = rigid(pose_part, focal, principal)
  X = jnp.matmul(head - points.pivot[None], R.T, precision=HIGHEST) + t[None]
  return X, (jnp.einsum("ab,nbc->nac", R, blend_R, precision=HIGHEST), R)


@flax.struct.dataclass
class Placed:
  """Posed points with their derivatives by z: 14 pose unknowns, log focal, principal point (2), joints (15)."""

  X: Array  # (N, 3) camera, m
  d_X: Array  # (N, 3, 32)
  d_point: Array  # (N, 3, 3) dX / d(shaped), which turns directions too
  R: Array  # (3, 3) head -> camera
  turning: Array  # (5, 3, 3, 32) derivative of R times the joints' rotations, and
  d_R: Array  # (3, 3, 32) that of R


def place(points: Points, shaped: Array, pose_part: Array, shared: Shared, joints: Array) -> Placed:
  """`camera_points` and its derivatives.

  A point is moved by few numbers, those of `joint_transforms` and `rigid`, and depends on them bilinearly. So their
  derivatives are taken, and all points' follow by one matrix product.

  Args:
    shaped, joints: of `shaped_points`.
    pose_part: (14,) the last unknowns.
  """

  def transforms(z):
    rotations, translations, feature = joint_transforms(joint_angles(z[:14]), z[17:].reshape(5, 3))
    R, t = rigid(z[:14], jnp.exp(z[14]), z[15:17])
    return rotations, translations, feature[: points.posedirs.shape[-1]], R, t

  product = functools.partial(jnp.einsum, precision=HIGHEST)
  z = jnp.concatenate([pose_part, shared.log_focal[None], shared.principal, joints.reshape(-1)])
  rotations, translations, feature, R, t = transforms(z)
  d_rotations, d_translations, d_feature, d_R, d_t = jax.jacfwd(transforms)(z)
  weights = points.lbs_weights
  posed = shaped + jnp.matmul(points.posedirs, feature, precision=HIGHEST)
  blend_R = product("nj,jab->nab", weights, rotations)
  head = product("nab,nb->na", blend_R, posed) + jnp.matmul(weights, translations, precision=HIGHEST)
  about = head - points.pivot[None]
  d_point = product("ab,nbc->nac", R, blend_R)
  turning = product("ab,jbck->jack", R, d_rotations)
  # (N, 5 + 15 + 3 + 1) and (the same, 3, 32)
  factors = [weights, _outer(weights, posed), about, jnp.ones_like(about[:, :1])]
  moves = [product("ab,jbk->jak", R, d_translations), _by_factor(turning), jnp.swapaxes(d_R, 0, 1), d_t[None]]
  d_X = _combine(factors, moves)
  if feature.size:
    d_X = d_X + product("nab,nbk->nak", d_point, product("nbf,fk->nbk", points.posedirs, d_feature))
  return Placed(X=product("na,ba->nb", about, R) + t[None], d_X=d_X, d_point=d_point, R=R, turning=turning, d_R=d_R)


def turn(points: Points, placed: Placed, directions: Array) -> tuple[Array, Array]:
  """Directions (N, 3) of the unposed points in camera axes (N, 3), and their derivatives by z (N, 3, 32)."""
  turned = jnp.einsum("nab,nb->na", placed.d_point, directions, precision=HIGHEST)
  in_head = jnp.matmul(turned, placed.R, precision=HIGHEST)  # R^T of each
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
  factors, moves = jnp.concatenate(factors, axis=1), jnp.concatenate(moves, axis=0)
  found = jnp.matmul(factors, moves.reshape(moves.shape[0], -1), precision=HIGHEST)
  return found.reshape(-1, 3, moves.shape[-1])


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
  columns = jnp.zeros((X.shape[0], 2, 32), X.dtype)
  columns = columns.at[:, :, 14].set(X[:, :2] * (focal / X[:, 2:]))
  return columns.at[:, 0, 15].set(1.0).at[:, 1, 16].set(1.0)


def predict(points: Points, x: Array, shared: Shared, bias_scale: Array) -> Array:
  """Where the points should be seen, (N, 2).

  Args:
    bias_scale: () image units per metre of the head in this frame. The detector's bias is a fixed fraction of the
      face's size in the image, so it is applied in the image at this *observed* scale: applied in 3D it would reward
      a smaller head (solver.md, pitfall 2).
  """
  shaped, joints = shaped_points(points, shared.shape, split(x)["expr"])
  focal = jnp.exp(shared.log_focal)
  X, (_, R) = camera_points(points, shaped, joints, x[-N_POSE:], focal, shared.principal)
  return project(X, focal, shared.principal) + bias_scale * jnp.matmul(shared.offset, R[:2].T, precision=HIGHEST)


def predict_and_jacobian(points: Points, x: Array, shared: Shared, bias_scale: Array):
  """`predict` with its derivatives.

  The vertices are linear in shape and expression, so those columns are one matrix product; so are, by `place`, the 14
  pose, 3 camera and 15 joint columns.

  Returns:
    uv (N, 2); d uv / d x (N, 2, E + 14); d uv / d [shape, log_focal, principal] (N, 2, S + 3); and d uv / d offset of
    the same point (2, 3), equal for all points.
  """
  n_expr = points.exprdirs.shape[-1]
  shaped, joints = shaped_points(points, shared.shape, x[:n_expr])
  placed = place(points, shaped, x[n_expr:], shared, joints)
  X, R, focal = placed.X, placed.R, jnp.exp(shared.log_focal)
  uv = project(X, focal, shared.principal) + bias_scale * jnp.matmul(shared.offset, R[:2].T, precision=HIGHEST)
  d_project = project_derivative(X, focal)
  columns = jnp.einsum("nij,njk->nik", d_project, placed.d_X, precision=HIGHEST)  # (N, 2, 32)
  columns = columns + camera_columns(X, focal)
  turned = jnp.einsum("abk,nb->nak", placed.d_R[:2], shared.offset, precision=HIGHEST)  # of the bias
  columns = columns + bias_scale * turned
  d_shaped = jnp.einsum("nij,njk->nik", d_project, placed.d_point, precision=HIGHEST)  # (N, 2, 3)
  d_joints = columns[..., 17:]

  def linear(dirs, j_dirs):
    return jnp.matmul(d_shaped, dirs, precision=HIGHEST) + jnp.matmul(
      d_joints, j_dirs.reshape(15, -1), precision=HIGHEST
    )

  d_x = jnp.concatenate([linear(points.exprdirs, points.j_exprdirs), columns[..., :14]], axis=-1)
  d_shared = jnp.concatenate([linear(points.shapedirs, points.j_shapedirs), columns[..., 14:17]], axis=-1)
  return uv, d_x, d_shared, bias_scale * R[:2]


def to_pose(points: Points, x: Array, shape: Array, camera: Camera, principal: Array) -> Pose:
  """A frame's unknowns as a `Pose` (angles clamped to FLAME's limits).

  Args:
    shape: (S,) the identity, or (0,) when it is folded into `points`.
    camera: gives the focal length and the extrinsics (world -> camera is inverted here).
    principal: (2,) as in `Shared`.
  """
  parts = split(x)
  _, joints = shaped_points(points, shape, parts["expr"])
  R, t = rigid(x[-N_POSE:], camera.focal, principal)
  root = jnp.matmul(R, joints[0] - points.pivot, precision=HIGHEST) + t
  angles = joint_angles(x[-N_POSE:])
  clamp = lambda a, name: jnp.clip(a, *(jnp.asarray(b, a.dtype) for b in flame.JOINT_LIMITS[name]))
  return Pose(
    expr=parts["expr"],
    rotation=rotation.matrix_to_axis_angle(jnp.matmul(camera.R.T, R, precision=HIGHEST)),
    translation=jnp.matmul(camera.R.T, root - camera.T, precision=HIGHEST),
    neck=clamp(angles[1], "neck"),
    jaw=clamp(angles[2], "jaw"),
    eyes=jax.vmap(lambda a: clamp(a, "eyes"))(angles[3:]),
  )


def from_pose(points: Points, pose: Pose, shape: Array, camera: Camera, principal: Array) -> Array:
  """Inverse of `to_pose`."""
  _, joints = shaped_points(points, shape, pose.expr)
  R = jnp.matmul(camera.R, rotation.axis_angle_to_matrix(pose.rotation), precision=HIGHEST)
  root = jnp.matmul(camera.R, pose.translation, precision=HIGHEST) + camera.T
  centre = root - jnp.matmul(R, joints[0] - points.pivot, precision=HIGHEST)
  frontal = jnp.array(FRONTAL, R.dtype)
  lower, upper = flame.JOINT_LIMITS["jaw"]
  raw_jaw = rotation.unbound(pose.jaw[0], float(lower[0]), float(upper[0]))
  return jnp.concatenate(
    [
      pose.expr,
      rotation.matrix_to_axis_angle(jnp.matmul(R, frontal.T, precision=HIGHEST)),
      centre[:2] * (1.0 / centre[2]) * camera.focal + principal,
      jnp.log(camera.focal / centre[2])[None],
      pose.neck,
      raw_jaw[None],
      pose.eyes[:, :2].reshape(-1),
    ]
  )
