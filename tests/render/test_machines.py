"""Programs that are made on one machine for another one: each has the choices of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from vht_jax.head import flame
from vht_jax.host.machine import position, running_sum, this_machine
from vht_jax.render import raster
from vht_jax.render.edges import antialias, edge_table
from vht_jax.render.gather import in_groups, map_frames
from vht_jax.render.raster import rasterize
from vht_jax.render.soft import soft_render

SIZE = (96, 80)

pytestmark = pytest.mark.usefixtures("every_machine")


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
  wide = f"tensor<{2 * raster._FRAME_CHUNK}x"  # blocks that an accelerator looks at in one trip
  assert wide in other and wide not in own
  own_sum = text_for(platform, jnp.cumsum, jnp.arange(9))  # JAX 0.11 writes it as a loop, for those who have no other
  loops = other.count("stablehlo.while") - own_sum.count("stablehlo.while")
  assert loops == 1  # nothing goes to and fro inside a trip


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


def test_frames_that_are_too_many_at_once_come_in_groups_of_the_same_size():
  frames = jnp.arange(14.0).reshape(7, 2)
  shapes = []

  def double(some):
    shapes.append(some.shape)
    return 2 * some

  assert jnp.array_equal(in_groups(double, frames, 3), 2 * frames) and shapes == [(3, 2)]
  assert jnp.array_equal(in_groups(double, frames, 4), 2 * frames) and shapes[1:] == [(4, 2)]
  assert jnp.array_equal(in_groups(double, frames, 7), 2 * frames) and shapes[2:] == [(7, 2)]


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_positions_are_those_of_numpy_on_every_machine(platform):
  values, wanted = np.array([1, 3, 3, 8], np.int32), np.arange(10, dtype=np.int32)
  for side in ("left", "right"):
    find = lambda a, b, side=side: position(a, b, side)
    assert ("stablehlo.while" in text_for(platform, find, values, wanted)) == (platform == "cpu")
    assert np.array_equal(find(jnp.asarray(values), jnp.asarray(wanted)), np.searchsorted(values, wanted, side))


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_running_sums_are_those_of_numpy_on_every_machine(platform):
  rng = np.random.default_rng(0)
  for values in (rng.integers(0, 9, 1000).astype(np.int32), rng.random(77) < 0.5, np.zeros(1, np.int32)):
    assert ("stablehlo.while" in text_for(platform, running_sum, values)) == (platform == "cpu")
    found = running_sum(jnp.asarray(values))
    assert found.dtype == jnp.int32 and np.array_equal(found, np.cumsum(values))
    both = jax.vmap(running_sum)(jnp.stack([values, values[::-1]]))
    assert np.array_equal(both, np.cumsum([values, values[::-1]], axis=1))


def test_what_is_made_for_this_machine_alone_leaves_others_theirs():
  values = np.arange(5, dtype=np.int32)
  before = text_for("cuda", running_sum, values)
  alone = jax.jit(this_machine(running_sum)).lower(values).as_text()
  assert "stablehlo.while" in alone and "platform_index" not in alone  # these tests run on a CPU
  assert text_for("cuda", running_sum, values) == before


def test_frames_are_mapped_as_the_machine_likes_it():
  mapped = map_frames(lambda a: jnp.sin(a) + 1)
  own, other = (text_for(p, mapped, jnp.ones((5, 7))) for p in ("cpu", "cuda"))
  assert "stablehlo.while" in own and "stablehlo.while" not in other


def test_normals_for_an_accelerator_are_the_same_and_their_sums_have_an_order(open_head, monkeypatch):
  head = flame.without_lower_neck(open_head)
  normals = lambda v: flame.vertex_normals(v, head.faces)
  assert "stablehlo.scatter" in text_for("cpu", normals, head.v_template)
  assert "stablehlo.scatter" not in text_for("cuda", normals, head.v_template)
  turned = jnp.stack([head.v_template, head.v_template[:, ::-1]])
  wanted = jax.jit(jax.vmap(normals))(turned)
  monkeypatch.setattr(flame, "on_cpu", lambda: False)
  other = lambda v: flame.vertex_normals(v, head.faces)
  np.testing.assert_allclose(jax.jit(jax.vmap(other))(turned), wanted, atol=2e-6)
  slope = lambda f: jax.jit(jax.grad(lambda v: jnp.sum(f(v) * turned[1])))(head.v_template)
  np.testing.assert_allclose(slope(other), slope(normals), rtol=1e-4, atol=1e-3)
