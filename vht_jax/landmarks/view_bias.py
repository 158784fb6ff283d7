"""How MediaPipe's points slide over the face with the view.

Its mesh follows what heads mostly look like: a head that nods by 10 degrees is drawn as one that nods by 8, the contour
runs along the outline of what is seen, and the tip of the nose slides by millimetres. In the head's frame the slide of
landmark i is nearly linear in the view (quadratic terms add nothing):

  b_i = omega x (X_i - middle) + e C_i [1, yaw, pitch],   omega = gain * (pitch about x, yaw about y)

with e the distance between the outer eye corners. The first part is common to people and needs two numbers; C_i is
common in part (a fifth to a third of its variance), and the rest is a person's own: `Spread` says how much that is. The
table is made of renderings of the open head (`benchmarks/calibrate_view_bias.py`), displacements in the head's frame
over the eye distance carry over to every topology. No other detector than MediaPipe's slides like this.

The view is where the camera is, seen from the head: `view` gives the sines of yaw and pitch. Unlike angles they are
smooth everywhere, do not grow beyond profile, and are within 2 % of them up to 20 degrees. Roll does not count. It is
the direction to the head that matters, not the camera's axis: a head at the image's edge is seen from the side.

Functions are for one frame. The slide's derivative by the pose is rank two (by yaw and pitch) and cheap, so it is taken
exactly (JAX does it through `view`): held constant instead, the normal matrix would claim 1 / (1 + gain)^2 times the
information on pitch that there is.
"""

from __future__ import annotations

import functools
import hashlib

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.head.load.arrays import read_npz
from vht_jax.head.load.open_head import asset_path
from vht_jax.landmarks.crop import IBUG68, IRISES
from vht_jax.landmarks.mirror import MIRROR
from vht_jax.types import Array, FlameModel

HIGHEST = jax.lax.Precision.HIGHEST
TABLE = "view_bias.npz"
# The mirror image of each of the 68 + 2 landmarks.
_MESH = np.concatenate([IBUG68, IRISES])
MIRROR_70 = np.array([int(np.flatnonzero(_MESH == MIRROR[k])[0]) for k in _MESH])


@flax.struct.dataclass
class ViewBias:
  """The population's mean slide of N points."""

  gain: Array  # (2,) yaw, pitch: how much farther than the head the points turn; negative, they lag behind
  coefficients: Array  # (N, 3, 3) head axes by [1, yaw, pitch], outer eye distances: C_i


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


def fields(bias: ViewBias, points: Array, middle: Array, eye_distance: Array) -> Array:
  """(N, 3, 3) m, head axes by [1, yaw, pitch]: everything about the slide that does not change from frame to frame.

  Args:
    points: (N, 3) head, m: the person's landmarks, without expression.
    middle: (3,) head, m: what the rigid part turns about; the landmarks' middle (`Points.pivot`).
    eye_distance: () m, between the outer eye corners.
  """
  zero = jnp.zeros_like(bias.coefficients[..., 0])
  rigid = jnp.stack([zero, *(bias.gain[k] * turn for k, turn in enumerate(turns(points - middle[None])[:2]))], axis=-1)
  return rigid + eye_distance * bias.coefficients


def turns(about: Array) -> tuple[Array, Array, Array]:
  """What a small turn does to points (N, 3): its derivatives (N, 3) by yaw (about y), pitch (about x) and roll (z)."""
  x, y, z = about.T
  zero = jnp.zeros_like(x)
  return jnp.stack([z, zero, -x], -1), jnp.stack([zero, -z, y], -1), jnp.stack([-y, x, zero], -1)


def displacement(fields_: Array, sines: Array) -> Array:
  """(N, 3) head, m: where the points are seen minus where they are.

  Args:
    fields_: (N, 3, 3) of `fields`; its last two columns are the derivatives by `sines`.
    sines: (2,) of `view`.
  """
  return fields_[..., 0] + jnp.matmul(fields_[..., 1:], sines, precision=HIGHEST)


def view_bias(model: FlameModel) -> ViewBias:
  """The mean slide of a head's 70 landmarks and then its dense ones, all of `dense_index`.

  The constants are measured against the places that the open head's own table gives its landmarks; a head whose
  landmarks come from another table (FLAME) has the slopes alone.

  Raises:
    InputError: the table is missing or damaged.
  """
  table = _table()
  of_dense = table["dense"][np.asarray(model.dense_index)]
  coefficients = np.concatenate([table["landmark"], of_dense])
  if placement(model) != bytes(table["placement"]).hex():
    coefficients = coefficients * np.array([0.0, 1.0, 1.0], np.float32)
  return ViewBias(gain=jnp.asarray(table["gain"]), coefficients=jnp.asarray(coefficients))


def placement(model: FlameModel) -> str:
  """A fingerprint of where a head has its landmarks."""
  digest = hashlib.blake2b(digest_size=8)
  for array in (model.lmk_vertices, model.dense_vertices):
    digest.update(np.ascontiguousarray(array, np.int32).tobytes())
  for array in (model.lmk_bary, model.dense_bary):
    digest.update(np.round(np.asarray(array, np.float64) * 1e4).astype(np.int32).tobytes())
  return digest.hexdigest()


@functools.cache
def _table() -> dict[str, np.ndarray]:
  return read_npz(asset_path(TABLE))


def mirrored(coefficients: np.ndarray, partner: np.ndarray) -> np.ndarray:
  """The slide (N, 3, 3) of the mirrored face: x changes its sign, and so does yaw."""
  return coefficients[partner] * np.array([-1.0, 1.0, 1.0])[:, None] * np.array([1.0, -1.0, 1.0])
