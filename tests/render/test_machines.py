"""Programs that are made on one machine for another one: each has the choices of its own."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from vht_jax.head import flame
from vht_jax.render.edges import antialias, edge_table
from vht_jax.render.gather import map_frames
from vht_jax.render.raster import rasterize
from vht_jax.render.soft import soft_render

SIZE = (96, 80)


def text_for(platform, fun, *args):
  return export.export(jax.jit(fun), platforms=(platform,))(*args).mlir_module()


@pytest.fixture
def screen(open_head):
  head = flame.without_lower_neck(open_head)
  points = 60 * head.v_template + jnp.array([[40.0, 48.0, 60.0]])
  return head, jnp.stack([points, points + 1.0])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_pictures_for_an_accelerator_are_not_made_as_on_a_cpu(screen, platform):
  head, points = screen
  draw = jax.vmap(lambda s: rasterize(s, head.faces, SIZE).pix_to_face)
  own, other = text_for("cpu", draw, points), text_for(platform, draw, points)
  wide = "tensor<65536x"  # blocks that an accelerator looks at in one trip
  assert wide in other and wide not in own


def test_edges_and_soft_pictures_too(screen):
  head, points = screen
  edges = edge_table(head.faces)

  def smooth(s):
    seen = rasterize(s, head.faces, SIZE)
    return antialias(jnp.ones((*SIZE, 3)), s, head.faces, edges, seen)

  soft = lambda s: soft_render(s, head.faces, jnp.ones((head.faces.shape[0], 3, 3)), SIZE)
  for fun, wide in ((smooth, "tensor<32768x"), (soft, "tensor<16384x")):
    own, other = (text_for(p, fun, points[0]) for p in ("cpu", "cuda"))
    assert wide in other and wide not in own


def test_frames_are_mapped_as_the_machine_likes_it():
  mapped = map_frames(lambda a: jnp.sin(a) + 1)
  own, other = (text_for(p, mapped, jnp.ones((5, 7))) for p in ("cpu", "cuda"))
  assert "stablehlo.while" in own and "stablehlo.while" not in other
