"""The rigid head's poses as those of the tracker."""

import jax.numpy as jnp
import numpy as np

from vht_jax import cameras, rotation
from vht_jax.head import flame
from vht_jax.texture_tracks.bundle import poses


def test_a_moved_pose_moves_the_whole_mesh(small_head):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  neutral = flame.neutral_pose(small_head)
  pose = neutral.replace(
    rotation=neutral.rotation + 0.3 * draw(3), neck=0.1 * draw(3), expr=0.3 * draw(small_head.exprdirs.shape[-1])
  )
  world = rotation.axis_angle_to_matrix(draw(3))
  camera = cameras.make_camera(1.4, R=world, T=0.2 * draw(3))
  turn, shift = rotation.axis_angle_to_matrix(0.1 * draw(3)), 0.05 * draw(3)
  shape = 0.5 * draw(small_head.shapedirs.shape[-1])
  see = lambda p: cameras.world_to_camera(camera, flame.skin(small_head, shape, p))
  want = see(pose) @ turn.T + shift[None]
  after = poses.moved(pose, camera, turn, shift)
  np.testing.assert_allclose(see(after), want, atol=2e-6)
  assert np.linalg.norm(after.rotation - pose.rotation) < 0.5
