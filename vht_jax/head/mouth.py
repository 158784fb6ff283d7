"""Light inside the mouth: the one model of it, for the overlay, the viewer, the report's head and exported files.

What stands in the open mouth sees the surroundings through the opening between the lips and nothing else of them. The
opening is taken as a flat disc of the same area A; a point at depth d behind its middle sees the share
A / (A + pi d^2) of what the skin sees (form factor of a disc on its axis). Teeth, tongue and cavity have that share of
the skin's colour under the same light. `app/report/web/mouth.js` is the same in the report's 3D view.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vht_jax.head import flame
from vht_jax.types import Array, FlameModel, Pose

INSIDE = ("teeth", "tongue", "mouth_cavity")  # masks
INNER_LIPS = slice(60, 68)  # landmarks, in order round the opening
TEETH_BEHIND = 0.003  # m: what is inside the mouth is drawn no closer than this behind the lips
CLOSED = 2e-5  # m^2: an opening much smaller than that has no normal to speak of
_SHOWN_FRAMES = 16  # of a clip, from which `mean_light` is taken


class Opening(NamedTuple):
  """The hole between the lips."""

  centre: Array  # (3,) m
  normal: Array  # (3,) unit, out of the mouth
  area: Array  # () m^2


def inside_mouth(model: FlameModel) -> np.ndarray:
  """(V,) bool: teeth, tongue and mouth cavity without the lips; all False on heads that have none."""
  return flame.region(model, INSIDE) & ~flame.region(model, ("lips",))


def opening(vertices: Array, lips: Array, inside: Array) -> Opening:
  """The opening of a posed head.

  Args:
    vertices: (V, 3) m.
    lips: (8, 3) inner lips, m.
    inside: (V,) 1 for what is in the mouth.
  """
  centre = jnp.mean(lips, axis=0, keepdims=True)
  around = lips - centre
  area = 0.5 * jnp.sum(jnp.cross(around, jnp.roll(around, -1, axis=0)), axis=0)
  size = jnp.sqrt(jnp.sum(area**2) + 1e-16)
  behind = jnp.mean(jnp.where(inside[:, None] > 0, vertices - centre, 0.0), axis=0)
  normal = area / size
  normal = normal * jnp.where(jnp.dot(normal, behind) > 0, -1.0, 1.0)
  # Closed lips have hardly any area: then the way from the inside to the lips is taken.
  forward = -behind / jnp.sqrt(jnp.sum(behind**2) + 1e-16)
  trust = size / (size + CLOSED)
  normal = trust * normal + (1.0 - trust) * forward
  return Opening(centre[0], normal / jnp.sqrt(jnp.sum(normal**2) + 1e-16), size)


def mouth_light(vertices: Array, lips: Array, inside: Array) -> tuple[Array, Array]:
  """Light that reaches the inside of the mouth, and its vertices moved behind the lips.

  Args:
    vertices, lips, inside: as for `opening`.

  Returns:
    (V,) light in [0, 1], 1 outside the mouth; (V, 3) vertices.
  """
  hole = opening(vertices, lips, inside)
  depth = -jnp.matmul(vertices - hole.centre[None], hole.normal, precision=lax.Precision.HIGHEST)
  push = inside * jnp.maximum(TEETH_BEHIND - depth, 0.0)
  depth = depth + push
  light = hole.area / (hole.area + jnp.pi * jnp.maximum(depth, 0.0) ** 2)
  return 1.0 - inside * (1.0 - light), vertices - push[:, None] * hole.normal[None]


def lit_mouth(model: FlameModel, vertices: Array, inside: Array) -> tuple[Array, Array]:
  """`mouth_light` of a head's posed vertices (V, 3)."""
  return mouth_light(vertices, flame.landmarks(model, vertices)[INNER_LIPS], inside)


def mean_light(model: FlameModel, inside: Array, shape: Array, poses: Pose) -> Array:
  """(V,) the mean of `mouth_light` over frames, by the area of the opening: the more of the mouth is seen, the more it
  counts. For files whose colours cannot change from frame to frame.

  Args:
    model, inside: the head and (V,) 1 for what is in its mouth.
    shape: (S,).
    poses: leading axis of frames, `shown_frames`.
  """

  def one(pose: Pose) -> tuple[Array, Array]:
    vertices = flame.skin(model, shape, pose)
    lips = flame.landmarks(model, vertices)[INNER_LIPS]
    return mouth_light(vertices, lips, inside)[0], opening(vertices, lips, inside).area

  light, area = jax.vmap(one)(poses)
  return jnp.sum(light * area[:, None], axis=0) / jnp.maximum(jnp.sum(area), 1e-12)


def shown_frames(n: int) -> np.ndarray:
  """Always as many of n frames, evenly spread: `mean_light` is one program."""
  return np.round(np.linspace(0, n - 1, _SHOWN_FRAMES)).astype(int)
