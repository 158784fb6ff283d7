"""A texture put on the head, rendered from some sides, must come back from the pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.cameras import make_camera
from vht_jax.head import flame
from vht_jax.render.picture import render_mesh
from vht_jax.render.uv_bake import bake_texture, rasterize_uv

SIZE, TEXTURE = (128, 144), (96, 96)


def test_rasterize_uv_inverts_the_uv_map(open_head):
  texels = jax.jit(rasterize_uv, static_argnums=1)(open_head.uv, TEXTURE)
  ids = np.asarray(texels.pix_to_face)
  hit = ids >= 0
  assert hit.mean() > 0.3
  corners = np.asarray(open_head.uv)[ids[hit]]
  uv = np.sum(corners * np.asarray(texels.bary_coords)[hit][..., None], 1)
  rows, cols = np.nonzero(hit)
  np.testing.assert_allclose(uv, np.stack([(cols + 0.5) / 96, 1 - (rows + 0.5) / 96], 1), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("lit", [False, True])
def test_recovers_a_known_texture(open_head, lit):
  x, y = np.meshgrid(np.linspace(0, 1, 96), np.linspace(0, 1, 96))
  waves = [0.5 + 0.4 * np.sin(14 * x + k) * np.cos(11 * y - k) for k in range(3)]
  truth = jnp.asarray(np.stack(waves, -1), jnp.float32)
  light = jnp.zeros((9, 3)).at[0].set(np.sqrt(4 * np.pi)).at[1].set(jnp.array([0.3, 0.2, -0.2])) if lit else None
  camera, pose = make_camera(2.4), flame.neutral_pose(open_head)
  yaws = jnp.linspace(-1.0, 1.0, 5)
  shape = jnp.zeros(open_head.shapedirs.shape[-1])

  @jax.jit
  def film_and_bake(model, truth):
    def frame(yaw):
      return flame.skin(model, shape, pose.replace(rotation=jnp.zeros(3).at[1].set(jnp.pi + yaw)))

    vertices = jax.vmap(frame)(yaws)

    def picture(v):
      return render_mesh(v, model.faces, camera, SIZE, uv=model.uv, texture=truth, light=light).rgb

    pictures = jax.vmap(picture)(vertices)
    return bake_texture(vertices, model.faces, model.uv, camera, pictures, TEXTURE, light=light, formula="lambert")

  texture, weight = film_and_bake(open_head, truth)
  seen = np.asarray(weight) > 0.3
  error = np.abs(np.asarray(texture) - np.asarray(truth))[seen].max(-1)
  assert seen.mean() > 0.1
  assert np.median(error) < 0.02 and np.quantile(error, 0.95) < 0.1
  assert np.all(np.asarray(texture)[np.asarray(weight) == 0] == 0)
