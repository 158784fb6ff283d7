"""What the host runs as compiled programs: every one for a fixed number of frames and points, whatever the clip."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from vht_jax import cameras, rotation
from vht_jax.head import flame
from vht_jax.host.programs import stored
from vht_jax.render.gather import map_frames
from vht_jax.texture_tracks.bundle import rigid, uncertainty
from vht_jax.texture_tracks.following import follow
from vht_jax.texture_tracks.following.view import lens_of, pool, see
from vht_jax.texture_tracks.skin import cut

HIGHEST = jax.lax.Precision.HIGHEST


@functools.partial(stored, rough=True)
def person(model, shape, vertex):
  return flame.with_identity(cut(model, vertex), shape)


@functools.partial(stored, rough=True)
def unposed(head, expr, jaw):
  """(v, 3) the head with this expression, unturned, about its root."""
  pose = flame.neutral_pose(head)
  zero = jnp.zeros(3, jnp.float32)
  return flame.skin(head, jnp.zeros(0), pose.replace(expr=expr, jaw=jaw, rotation=zero, translation=zero))


def _posed(head, pose, cam):
  return cameras.world_to_camera(cam, flame.skin(head, jnp.zeros(0), pose))


@functools.partial(stored, rough=True)
def align(head, poses, cam, middle):
  """Rigid motions of the mean head to the posed ones, (B, 3, 3) and (B, 3), and some points in its frame."""
  mean = jnp.mean(middle, axis=0)

  def one(pose):
    X = _posed(head, pose, cam)
    at = jnp.mean(X, axis=0)
    product = jnp.matmul((X - at[None]).T, middle - mean[None], precision=HIGHEST)
    U, _, Vt = jnp.linalg.svd(product)
    sign = jnp.sign(jnp.linalg.det(jnp.matmul(U, Vt, precision=HIGHEST)))
    R = jnp.matmul(U * jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign])[None], Vt, precision=HIGHEST)
    t = at - jnp.matmul(R, mean, precision=HIGHEST)
    back = jnp.matmul(X[:: X.shape[0] // 64] - t[None], R, precision=HIGHEST)
    return R, t, back

  return jax.vmap(one)(poses)


@functools.partial(stored, rough=True)
def bent(head, poses, cam, R, t, middle, triangles, bary):
  """(B, K, 3) m, in the mean head's frame: by how much the expression moves points from where `middle` has them."""
  rest = jnp.einsum("kc,kci->ki", bary, middle[triangles], precision=HIGHEST)

  def one(pose, R, t):
    X = jnp.einsum("kc,kci->ki", bary, _posed(head, pose, cam)[triangles], precision=HIGHEST)
    return jnp.matmul(X - t[None], R, precision=HIGHEST) - rest

  return jax.vmap(one)(poses, R, t)


def _look(head, faces, cam, pose, correction, lens, grey):
  turn, shift = correction
  X = jnp.matmul(_posed(head, pose, cam), turn.T, precision=HIGHEST) + shift[None]
  matrices = [turn, cam.R, *(rotation.axis_angle_to_matrix(r) for r in (pose.rotation, pose.neck))]
  R = functools.reduce(lambda a, b: jnp.matmul(a, b, precision=HIGHEST), matrices)
  return see(faces, X, R[2], grey, lens)


@functools.partial(stored, by_frame={"poses": 0, "correction": 0, "lens": 0, "grey": 0})
def views(head, faces, cam, poses, correction, lens, grey):
  one = lambda pose, correction, lens, grey: _look(head, faces, cam, pose, correction, lens, grey)
  return map_frames(one)(poses, correction, lens, grey)


@functools.partial(stored, static_argnames=("factor",), by_frame={"views": 0})
def coarse(faces, views, keys, corners, factor):
  """Displacements (B, K, 2), see `follow.coarse`."""
  images = jax.vmap(lambda a: pool(a, factor))(keys.image)
  return map_frames(lambda view: follow.coarse(faces, view, keys, corners, images, factor))(views)


@functools.partial(stored, by_frame={"views": 0, "shift": 0})
def fine(faces, views, keys, corners, shift):
  return map_frames(lambda view, shift: follow.fine(faces, view, keys, corners, shift))(views, shift)


@functools.partial(stored, rough=True)
def lenses(focal_px, principal_px, scale, corner):
  return jax.vmap(lambda s, c: lens_of(focal_px, principal_px, s, c))(scale, corner)


@stored
def bundle(problem, state, steps):
  return rigid.solve(problem, state, steps)[0]


@functools.partial(stored, rough=True)
def start(problem, R, t, focal, principal):
  return rigid.start(problem, R, t, focal, principal)


@functools.partial(stored, rough=True)
def noise(problem, state):
  return rigid.region_noise(problem, state)


@functools.partial(stored, rough=True)
def deviation(problem, state):
  """`uncertainty.focal_deviation` and `view_spread`."""
  return *uncertainty.focal_deviation(problem, state), uncertainty.view_spread(problem, state)


@stored
def resect(problem, solved, R, t):
  """Poses (B, 3, 3), (B, 3) of any frames, with points and camera as `solved`; a frame that sees nothing stays."""
  begin = rigid.start(problem, R, t, *rigid.lens(problem, solved.shared)).replace(
    shared=solved.shared, moved=solved.moved
  )
  found = rigid.resect(problem, begin)
  return found.R, rigid.translations(problem, found)[0]
