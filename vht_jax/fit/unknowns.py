"""What is estimated: the unknowns of a frame and those that frames share, as vectors and by their names.

A frame's unknowns are one vector `x` of E + 14 numbers, chosen so that Gauss-Newton sees a nearly linear problem:

  expr (E) | rotation (3) | place (3) | neck (3) | jaw (1) | eyes (2 x 2)

The rotation is an axis-angle relative to the frontal view, so that it stays far from the singularity at pi where
`Pose.rotation` of a frontal head lives. The place is (u, v, s): where the head's centre appears in the image, in units
of the longer side from the image centre, and s = log(focal / z). Written so, the focal length hardly correlates with
the pose. The jaw's only free angle is stored before its bounding bijection.

What frames share is `Shared`; a solver's vector of it has the blocks of a `Layout`. A term (`terms`) may bring unknowns
of its own: shared ones as `Shared.own`, those of a frame after the head's in the frame's vector.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax import rotation
from vht_jax.cameras import make_camera
from vht_jax.head import flame
from vht_jax.head.motion import FRONTAL, N_POSE, POSE, joint_angles, rigid
from vht_jax.head.points import Placed, Points, placed_by, shaped_points
from vht_jax.host.programs import namespace
from vht_jax.layout import Layout
from vht_jax.types import Array, Camera, Identity, Pose

HIGHEST = jax.lax.Precision.HIGHEST
N_LANDMARKS = 70  # points whose offsets a result keeps: 68 and the irises
CAMERA = ("log_focal", "principal")


class Shared(flax.struct.PyTreeNode):
  """Unknowns that all frames share."""

  shape: Array  # (S,); (0,) where the identity is folded into the points
  log_focal: Array  # () log of the focal length in units of the longer image side
  principal: Array  # (2,) principal point minus image centre, in units of the longer side
  offset: Array  # (N, 3) detector bias per landmark, head frame, m
  own: dict[str, Array] | None = None  # those that terms bring, by name

  def brought(self, name: str) -> Array:
    """An unknown that a term has brought."""
    return (self.own or {})[name]


@dataclasses.dataclass
class At:
  """Where terms are linearised: the unknowns of one frame and the shared ones, by name."""

  x: Array  # (E + 14,) those of the head
  shared: Shared
  own: dict[str, Array] = dataclasses.field(default_factory=dict)  # the frame's that terms bring
  _placed: dict[int, tuple[Points, Placed]] = dataclasses.field(default_factory=dict, repr=False)

  def placed(self, points: Points) -> Placed:
    """`placed_by` of a head's points, once for all terms that ask for them: XLA would find out that they are the same,
    but after they and their derivatives are traced."""
    if id(points) not in self._placed:
      self._placed[id(points)] = points, placed_by(points, self.x, self.shared)
    return self._placed[id(points)][1]

  def part(self, name: str) -> Array:
    """A part of `x`: "expr" (E,), "rotation" (3,), "place" (3,), "neck" (3,), "jaw" () or "eyes" (2, 2)."""
    return part(self.x, name)


# --- a frame ---------------------------------------------------------------------------------------------------------


def n_unknowns(points: Points) -> int:
  return points.exprdirs.shape[-1] + N_POSE


def where(first: str, last: str | None = None) -> slice:
  """Where a part of the pose is in `x`, counted from its end; with `last`: from the one to the end of the other."""
  return POSE.from_end(first, last)


def part(x: Any, name: str) -> Any:
  """A part of unknowns (..., E + 14), host side or not: rotation, place or neck (..., 3), jaw (...), eyes (..., 2, 2),
  expr (..., E)."""
  if name == "expr":
    return x[..., : x.shape[-1] - N_POSE]
  shape = dict(POSE.shapes)[name]
  return x[..., where(name)].reshape(*x.shape[:-1], *shape)


def split(x: Array) -> dict[str, Array]:
  """All parts of a frame's unknowns by name."""
  return {name: part(x, name) for name in ("expr", *POSE.names)}


def join(**parts: Array) -> Array:
  """Inverse of `split`, for one frame."""
  return jnp.concatenate([parts["expr"], POSE.join(parts)])


def to_pose(points: Points, x: Array, shape: Array, camera: Camera, principal: Array) -> Pose:
  """A frame's unknowns as a `Pose` (angles clamped to FLAME's limits).

  Args:
    shape: (S,) the identity, or (0,) when it is folded into `points`.
    camera: gives the focal length and the extrinsics (world -> camera is inverted here).
    principal: (2,) as in `Shared`.
  """
  pose = POSE.split(x[-N_POSE:])
  expr = part(x, "expr")
  _, joints = shaped_points(points, shape, expr)
  R, t = rigid(pose, camera.focal, principal)
  root = jnp.matmul(R, joints[0] - points.pivot, precision=HIGHEST) + t
  angles = joint_angles(pose)
  clamp = lambda a, name: jnp.clip(a, *(jnp.asarray(b, a.dtype) for b in flame.JOINT_LIMITS[name]))
  return Pose(
    expr=expr,
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
  place = centre[:2] * (1.0 / centre[2]) * camera.focal + principal
  return join(
    expr=pose.expr,
    rotation=rotation.matrix_to_axis_angle(jnp.matmul(R, frontal.T, precision=HIGHEST)),
    place=jnp.concatenate([place, jnp.log(camera.focal / centre[2])[None]]),
    neck=pose.neck,
    jaw=raw_jaw(pose.jaw[0]),
    eyes=pose.eyes[:, :2],
  )


def raw_jaw(angle: Array) -> Array:
  """Inverse of `jaw_angle`."""
  lower, upper = flame.JOINT_LIMITS["jaw"]
  return rotation.unbound(angle, float(lower[0]), float(upper[0]))


# --- what frames share -----------------------------------------------------------------------------------------------


def blocks(shared: Shared) -> dict[str, Array]:
  """The shared unknowns by name, those that terms bring last."""
  fields = {name: getattr(shared, name) for name in ("shape", *CAMERA, "offset")}
  return {**fields, **(shared.own or {})}


def shared_layout(shared: Shared) -> Layout:
  return Layout.like(blocks(shared))


def extract(layout: Layout, shared: Shared) -> Array:
  """The vector (m,) of those shared unknowns that are in the layout."""
  return layout.join(blocks(shared))


def with_blocks(shared: Shared, new: dict[str, Array]) -> Shared:
  """`shared` with some of its `blocks` replaced."""
  own = {name: new.get(name, value) for name, value in (shared.own or {}).items()}
  return shared.replace(**{name: value for name, value in new.items() if name not in own}, own=own or shared.own)


def insert(layout: Layout, flat: Array, shared: Shared) -> Shared:
  """`shared` with the blocks of the layout taken from the vector (m,)."""
  return with_blocks(shared, layout.split(flat))


@dataclasses.dataclass(frozen=True)
class Unknowns:
  """Which blocks of a frame and of what frames share are estimated; static."""

  frame: Layout
  shared: Layout

  def at(self, x: Array, shared: Shared) -> At:
    own = self.frame.split(x)
    return At(own.pop("head"), shared, own)


def unknowns(n_head: int, shared: Shared, free: tuple[str, ...] | None = None, own: Any = None) -> Unknowns:
  """The head's n_head unknowns in every frame and the shared blocks named `free` (None: all).

  Args:
    own: what terms bring for each frame, by name: arrays without the frames' axis, of which only shapes count.
  """
  layout = shared_layout(shared)
  head = Layout.of(head=(n_head,))
  return Unknowns(head + Layout.like(own or {}), layout if free is None else layout.only(free))


# --- camera and identity <-> what frames share -----------------------------------------------------------------------


def principal_of(camera: Camera, size: tuple[int, int]) -> Array:
  """(2,) a camera's principal point as in `Shared`; size (H, W) px."""
  height, width = size
  side = max(height, width)
  xp = namespace(camera.principal)
  principal = xp.asarray(camera.principal)
  return (principal - xp.asarray(0.5, principal.dtype)) * xp.array([width / side, height / side], principal.dtype)


def camera_of(shared: Shared, size: tuple[int, int], extrinsics: Camera | None = None) -> Camera:
  """The shared unknowns' camera for images of size (H, W) px, at the place of `extrinsics`; None: the default one."""
  height, width = size
  xp = namespace(shared.log_focal)
  side, dtype = max(height, width), xp.asarray(shared.log_focal).dtype
  place = make_camera(1.0) if extrinsics is None else extrinsics
  return Camera(
    focal=xp.exp(shared.log_focal),
    principal=0.5 + shared.principal * xp.array([side / width, side / height], dtype),
    R=jnp.asarray(place.R, dtype),
    T=jnp.asarray(place.T, dtype),
  )


def shared_of(identity: Identity, n_points: int, size: tuple[int, int]) -> Shared:
  """An identity as the unknowns of a fit of n_points landmarks; those beyond the 70 have no offset."""
  extra = n_points - identity.lmk_offset.shape[0]
  return Shared(
    shape=jnp.asarray(identity.shape),
    log_focal=jnp.log(identity.camera.focal),
    principal=principal_of(identity.camera, size),
    offset=jnp.pad(jnp.asarray(identity.lmk_offset), ((0, extra), (0, 0))),
  )


def identity_of(shared: Shared, camera: Camera, texture: Array, light: Array, layer: Array | None = None) -> Identity:
  """What a result keeps of the shared unknowns."""
  return Identity(
    shape=shared.shape,
    texture=texture,
    light=light,
    camera=camera,
    lmk_offset=shared.offset[:N_LANDMARKS],
    texture_layer=layer,
  )
