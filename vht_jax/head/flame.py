"""The head: blendshapes, joints, linear blend skinning, landmarks, normals and albedo.

Formulation of FLAME (Li, Bolkart, Black, Li, Romero, "Learning a model of facial shape and expression from 4D scans",
2017) on its fixed five-joint tree; the pose limits and the centring on the root joint are VHT's (conventions in
`types`). Every function takes one frame.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vht_jax import rotation
from vht_jax.host.machine import for_each_machine, on_cpu, once, position
from vht_jax.types import AnyArray, Array, FlameModel, Pose, RawPose

# Joint limits per component of the axis-angle vector, rad: name -> (lower (3,), upper (3,)).
JOINT_LIMITS = {
  name: tuple(np.deg2rad(np.array(side, np.float64)).astype(np.float32) for side in degrees)
  for name, degrees in {
    "neck": ((-90, -60, -80), (90, 60, 80)),
    "jaw": ((-5, -0.1, -0.1), (60, 0.1, 0.1)),
    "eyes": ((-50, -50, -0.1), (50, 50, 0.1)),
  }.items()
}

EYEBALLS = ("left_eyeball", "right_eyeball")  # masks
LAYER_SIZE = 128  # texels per side of the free albedo that is fitted

_HIGHEST = jax.lax.Precision.HIGHEST


def limit_pose(raw: RawPose) -> Pose:
  """Bounds neck, jaw and eyes to `JOINT_LIMITS`; expression, rotation and translation are unlimited."""
  neck, jaw, eyes = (rotation.bound(x, *_limits(name, x)) for name, x in _limited(raw))
  return Pose(expr=raw.expr, rotation=raw.rotation, translation=raw.translation, neck=neck, jaw=jaw, eyes=eyes)


def unlimit_pose(pose: Pose, margin: float = 1e-6) -> RawPose:
  """Inverse of `limit_pose`; angles at or beyond a limit come back just inside (`rotation.unbound`)."""
  neck, jaw, eyes = (rotation.unbound(x, *_limits(name, x), margin=margin) for name, x in _limited(pose))
  return RawPose(expr=pose.expr, rotation=pose.rotation, translation=pose.translation, neck=neck, jaw=jaw, eyes=eyes)


def neutral_pose(model: FlameModel, translation: Float[Array, " 3"] | None = None) -> Pose:
  """A neutral face that looks straight into the camera, mouth closed.

  Args:
    model: the head.
    translation: (3,) world position of the root joint, m. By default the head frame's origin (between the ears) is on
      the optical axis, one metre away.
  """
  dtype = model.v_template.dtype
  facing = jnp.array([0.0, math.pi, 0.0], dtype)
  if translation is None:
    to_root = jnp.matmul(rotation.axis_angle_to_matrix(facing), model.j_template[0], precision=_HIGHEST)
    translation = jnp.array([0.0, 0.0, 1.0], dtype) + to_root
  return Pose(
    expr=jnp.zeros(model.exprdirs.shape[-1], dtype),
    rotation=facing,
    translation=jnp.asarray(translation, dtype),
    neck=jnp.zeros(3, dtype),
    jaw=jnp.zeros(3, dtype),
    eyes=jnp.zeros((2, 3), dtype),
  )


def pose_matrices(pose: Pose) -> Float[Array, "5 3 3"]:
  """(5, 3, 3) local rotations of the joints: root, neck, jaw, left eye, right eye."""
  angles = jnp.concatenate([jnp.stack([pose.rotation, pose.neck, pose.jaw]), pose.eyes])
  return jax.vmap(rotation.axis_angle_to_matrix)(angles)


def shape_blend(model: FlameModel, shape: Float[Array, " S"], expr: Float[Array, " E"]) -> Float[Array, "V 3"]:
  """Unposed head of an identity and an expression.

  Args:
    model: the head.
    shape: (S,) identity, standard deviations.
    expr: (E,) expression.

  Returns:
    (V, 3) vertices, head frame, m.
  """
  identity = jnp.matmul(model.shapedirs, shape, precision=_HIGHEST)
  return model.v_template + identity + jnp.matmul(model.exprdirs, expr, precision=_HIGHEST)


def joints(model: FlameModel, shape: Float[Array, " S"], expr: Float[Array, " E"]) -> Float[Array, "5 3"]:
  """(5, 3) unposed joints, head frame, m: FLAME regresses them from the shaped vertices, expression included."""
  code = jnp.concatenate([shape, expr])
  return model.j_template + jnp.matmul(model.j_shapedirs, code, precision=_HIGHEST)


def skin(model: FlameModel, shape: Float[Array, " S"], pose: Pose) -> Float[Array, "V 3"]:
  """The posed head in the world.

  Linear blend skinning, then VHT's centring: the root joint comes to lie at `pose.translation`.

  Args:
    model: the head.
    shape: (S,) identity, standard deviations.
    pose: the frame's pose, limited (see `limit_pose`).

  Returns:
    (V, 3) vertices, world frame, m.
  """
  person = with_offset(model, pose.offset)
  vertices, posed_joints = skin_head(person, shape, pose.expr, pose_matrices(pose))
  return vertices + (pose.translation - posed_joints[0])[None, :]


def skin_head(
  model: FlameModel, shape: Float[Array, " S"], expr: Float[Array, " E"], matrices: Float[Array, "5 3 3"]
) -> tuple[Float[Array, "V 3"], Float[Array, "5 3"]]:
  """Linear blend skinning with pose correctives, rotating about the root joint, without centring.

  Args:
    model: the head.
    shape: (S,) identity.
    expr: (E,) expression.
    matrices: (5, 3, 3) local joint rotations, e.g. of `pose_matrices`.

  Returns:
    (V, 3) vertices and (5, 3) posed joints, m.
  """
  rest = joints(model, shape, expr)
  eye = jnp.eye(3, dtype=matrices.dtype)
  feature = once((matrices[1:] - eye[None]).reshape(36))
  correctives = jnp.matmul(feature, model.posedirs, precision=_HIGHEST).reshape(model.v_template.shape)
  vertices = shape_blend(model, shape, expr) + correctives
  blended, posed = skinning(model, rest, matrices)
  return jnp.sum(blended[:, :, :3] * vertices[:, None, :], axis=-1) + blended[:, :, 3], posed


def skinning(
  model: FlameModel, rest: Float[Array, "5 3"], matrices: Float[Array, "5 3 3"]
) -> tuple[Float[Array, "V 3 4"], Float[Array, "5 3"]]:
  """What turns each vertex about the joints, the root staying where it is.

  Args:
    model: the head.
    rest: (5, 3) unposed joints, m.
    matrices: (5, 3, 3) local joint rotations.

  Returns:
    (V, 3, 4) transforms, rotation blended by the weights and translation; (5, 3) posed joints, m.
  """
  # Along FLAME's tree: root -> neck -> (jaw, left eye, right eye).
  root = matrices[0]
  neck = jnp.matmul(root, matrices[1], precision=_HIGHEST)
  leaves = jnp.einsum("ij,njk->nik", neck, matrices[2:], precision=_HIGHEST)
  rotations = jnp.concatenate([root[None], neck[None], leaves])
  neck_joint = rest[0] + jnp.matmul(root, rest[1] - rest[0], precision=_HIGHEST)
  leaf_joints = neck_joint[None] + jnp.matmul(rest[2:] - rest[1:2], neck.T, precision=_HIGHEST)
  posed = jnp.concatenate([rest[:1], neck_joint[None], leaf_joints])

  # Blend the five transforms per vertex; one is T(v) = R (v - rest joint) + posed joint.
  offsets = posed - jnp.einsum("nij,nj->ni", rotations, rest, precision=_HIGHEST)
  transforms = jnp.concatenate([rotations, offsets[:, :, None]], axis=-1).reshape(5, 12)
  blended = jnp.matmul(model.lbs_weights, transforms, precision=_HIGHEST)
  return blended.reshape(model.v_template.shape[0], 3, 4), posed


def with_identity(model: FlameModel, shape: Float[Array, " S"]) -> FlameModel:
  """Folds an identity into the template, so that per-frame work has only expressions left.

  `skin(with_identity(model, shape), zeros(0), pose) == skin(model, shape, pose)` up to rounding.

  Args:
    model: the head, S identity components.
    shape: (S,) identity.

  Returns:
    The same head with `v_template` and `j_template` of that identity and no identity components (S = 0).
  """
  n_shape = model.shapedirs.shape[-1]
  return model.replace(
    v_template=model.v_template + jnp.matmul(model.shapedirs, shape, precision=_HIGHEST),
    shapedirs=model.shapedirs[..., :0],
    j_template=model.j_template + jnp.matmul(model.j_shapedirs[..., :n_shape], shape, precision=_HIGHEST),
    j_shapedirs=model.j_shapedirs[..., n_shape:],
  )


def with_offset(model: FlameModel, offset: Float[Array, "V 3"] | None) -> FlameModel:
  """The head of a person whose surface is elsewhere than codes say: hair, ears, neck (`Identity.static_offset`).

  Everything that poses, draws or writes the head follows; joints and landmarks stay where the codes have them.

  Args:
    model: the head, without an offset.
    offset: (V, 3) head frame, m; None: there is none.
  """
  return model if offset is None else model.replace(v_template=model.v_template + jnp.asarray(offset, jnp.float32))


def landmarks(model: FlameModel, vertices: Float[Array, "V 3"]) -> Float[Array, "70 3"]:
  """(70, 3) landmarks on (V, 3) vertices, in the vertices' frame: 68 iBUG points, then the irises (68: x<0 eye)."""
  return _on_triangles(vertices, model.lmk_vertices, model.lmk_bary)


def dense_landmarks(model: FlameModel, vertices: Float[Array, "V 3"]) -> Float[Array, "M 3"]:
  """(M, 3) MediaPipe face mesh points on (V, 3) vertices; their MediaPipe numbers are `model.dense_index`."""
  return _on_triangles(vertices, model.dense_vertices, model.dense_bary)


def vertex_normals(vertices: Float[Array, "V 3"], faces: Int[Array, "F 3"]) -> Float[Array, "V 3"]:
  """Area-weighted vertex normals.

  Args:
    vertices: (V, 3), any unit of length from millimetres to kilometres.
    faces: (F, 3) vertex ids, counter-clockwise seen from outside.

  Returns:
    (V, 3) outward unit vectors; 0 for vertices without a face or with only degenerate ones. Derivatives are finite.
  """
  corners = vertices[faces]
  a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
  face_normals = jnp.cross(b - a, c - a)  # twice the area long
  summed = _sum_at_corners(face_normals, faces, vertices.shape[0])
  length2 = jnp.sum(jnp.square(summed), axis=-1, keepdims=True)
  usable = length2 > 1e-24
  return jnp.where(usable, summed * jax.lax.rsqrt(jnp.where(usable, length2, 1.0)), 0.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _sum_at_corners(values: Array, faces: Array, n_vertices: int) -> Array:
  """(V, 3): of what each face (F, 3) gives to its corners.

  A scatter-add, but on accelerators, where the order of its sums, and so the result, would differ from run to run:
  there every vertex adds up its faces in their order.
  """

  @for_each_machine
  def summed(values, faces):
    if on_cpu():
      return _scatter(values, faces, n_vertices)
    corner = faces.reshape(-1)
    order = jnp.argsort(corner, stable=True)
    first, end = (position(corner[order], jnp.arange(n_vertices), side) for side in ("left", "right"))

    def add(state):
      k, total = state
      face = order[jnp.minimum(first + k, corner.shape[0] - 1)] // 3
      return k + 1, total + jnp.where((first + k < end)[:, None], values[face], 0)

    most = jnp.max(end - first)
    start = jnp.zeros((), end.dtype), jnp.zeros((n_vertices, 3), values.dtype)
    return jax.lax.while_loop(lambda state: state[0] < most, add, start)[1]

  return summed(values, faces)


@_sum_at_corners.defjvp
def _sum_at_corners_jvp(n_vertices, primals, tangents):
  values, faces = primals
  return _sum_at_corners(values, faces, n_vertices), _scatter(tangents[0], faces, n_vertices)


def _scatter(values: Array, faces: Array, n_vertices: int) -> Array:
  corners = jnp.broadcast_to(values[:, None], (*faces.shape, 3))
  return jnp.zeros((n_vertices, 3), values.dtype).at[faces].add(corners)


def albedo(
  model: FlameModel, texture: Float[Array, " T"], layer: Float[Array, "Hl Wl 3"] | None = None
) -> Float[Array, "Ht Wt 3"]:
  """(Ht, Wt, 3) RGB albedo of a clip, clipped to [0, 1]; row 0 is v = 1.

  One of images (`of_images`) may be down to -1: (albedo + 1) S - 1 is black there, whatever the light.

  Args:
    model: the head.
    texture: (T,) texture code.
    layer: (Hl, Wl, 3) free albedo on top of the basis (`Identity.texture_layer`).

  Returns:
    As large as the basis, or as a larger layer.
  """
  return clipped_albedo(free_albedo(model, texture, layer), layer)


def free_albedo(
  model: FlameModel, texture: Float[Array, " T"], layer: Float[Array, "Hl Wl 3"] | None = None
) -> Float[Array, "Ht Wt 3"]:
  """`albedo` before it is clipped: an eye that is darker than the light makes black is below 0."""
  map_ = model.texture_mean + jnp.matmul(model.texture_basis, texture, precision=_HIGHEST)
  if layer is None:
    return map_
  size = (max(map_.shape[0], layer.shape[0]), max(map_.shape[1], layer.shape[1]), 3)
  map_, layer = (part if part.shape == size else jax.image.resize(part, size, "linear") for part in (map_, layer))
  return map_ + layer


def clipped_albedo(free: AnyArray, layer: AnyArray | None) -> Any:
  """A `free_albedo` of NumPy or JAX in the range of `albedo`."""
  return free.clip(-1.0 if of_images(layer) else 0.0, 1.0)


def of_images(layer: AnyArray | None) -> bool:
  """Whether a free albedo is what images show (`results.texture`), eyes and mouth included, and not the fit's."""
  return layer is not None and layer.shape[0] > LAYER_SIZE


def region(model: FlameModel, names: Iterable[str]) -> np.ndarray:
  """(V,) bool: the vertices of these masks together, of those that the head has. Host side."""
  there = [np.asarray(model.masks[name], bool) for name in names if name in model.masks]
  return np.any(there, axis=0) if there else np.zeros(model.v_template.shape[0], bool)


def without_lower_neck(model: FlameModel) -> FlameModel:
  """Drops the lower neck's faces (VHT's `ignore_lower_neck`); vertices and the order of faces stay.

  Host side, because the number of faces changes. The faces are `masks['lower_neck_faces']` ((F,) bool, an exact list
  as VHT's `lower_neck_face_idcs.npy`) or else those with all vertices in `masks['lower_neck']`; a model with neither
  comes back unchanged.
  """
  faces = np.asarray(model.faces)
  if "lower_neck_faces" in model.masks:
    drop = np.asarray(model.masks["lower_neck_faces"])
  elif "lower_neck" in model.masks:
    drop = np.asarray(model.masks["lower_neck"])[faces].all(-1)
  else:
    return model
  keep = ~drop
  masks: dict[str, Any] = dict(model.masks)
  if "lower_neck_faces" in masks:
    masks["lower_neck_faces"] = np.zeros(int(keep.sum()), bool)
  return jax.device_put(model.replace(faces=faces[keep], uv=np.asarray(model.uv)[keep], masks=masks))


def _on_triangles(vertices: Array, corners: Array, bary: Array) -> Array:
  return jnp.sum(vertices[corners] * bary[:, :, None], axis=1)


def _limited(pose: Pose | RawPose):
  return ("neck", pose.neck), ("jaw", pose.jaw), ("eyes", pose.eyes)


def _limits(name: str, like: Array) -> tuple[Array, Array]:
  lower, upper = (jnp.broadcast_to(jnp.asarray(side, like.dtype), like.shape) for side in JOINT_LIMITS[name])
  return lower, upper
