"""The composition: pictures of the head and of any mesh, their backends, and how they transform."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.cameras import make_camera, project
from vht_jax.head import flame
from vht_jax.render import gather
from vht_jax.render.edges import edge_table
from vht_jax.render.picture import map_frames, render_head, render_mesh
from vht_jax.render.raster import rasterize
from vht_jax.types import Identity

SIZE = (72, 56)


def make_identity(model, focal=1.9):
  light = jnp.zeros((9, 3)).at[0].set(np.sqrt(4 * np.pi)).at[3].set(-0.3).at[1].set(0.2)
  return Identity(
    shape=jnp.zeros(model.shapedirs.shape[-1]),
    texture=jnp.zeros(model.texture_basis.shape[-1]),
    light=light,
    camera=make_camera(focal),
    lmk_offset=jnp.zeros((70, 3)),
  )


@jax.jit
def picture_of(model, identity, pose):
  return render_head(model, identity, pose, SIZE)


@functools.partial(jax.jit, static_argnames="cull_backfaces")
def picture_of_mesh(vertices, faces, camera, colors=None, cull_backfaces=True):
  return render_mesh(vertices, faces, camera, SIZE, colors=colors, cull_backfaces=cull_backfaces)


@pytest.fixture(scope="module")
def edges(open_head):
  return edge_table(np.asarray(open_head.faces))


def test_colours_are_the_albedo_under_constant_light(open_head):
  identity = make_identity(open_head)
  identity = identity.replace(light=jnp.zeros((9, 3)).at[0].set(np.sqrt(4 * np.pi)))
  out = picture_of(open_head, identity, flame.neutral_pose(open_head))
  rgb, alpha = np.asarray(out.rgb), np.asarray(out.alpha)
  assert rgb.shape == (*SIZE, 3) and alpha.shape == SIZE and out.fragments.zbuf.shape == SIZE
  assert set(np.unique(alpha)) == {0.0, 1.0} and 0.1 < alpha.mean() < 0.7
  assert np.all(rgb[alpha == 0] == 0)
  # Skin is red before green before blue, and within the range of the texture.
  skin = rgb[alpha == 1]
  assert np.all(np.diff(skin.mean(0)) < 0) and skin.min() >= -1e-5 and skin.max() <= 1 + 1e-5


def test_the_nose_points_at_the_camera_and_up_is_up(open_head):
  identity, pose = make_identity(open_head), flame.neutral_pose(open_head)
  out = picture_of(open_head, identity, pose)
  points = lambda shape: flame.landmarks(open_head, flame.skin(open_head, shape, pose))  # noqa: E731
  landmarks = jax.jit(lambda shape: project(identity.camera, points(shape), SIZE))(identity.shape)
  x, y, z = np.asarray(landmarks).T
  assert y[8] > y[30] > y[27]  # chin below nose below bridge
  assert x[0] < x[30] < x[16]  # the subject's right is on the left of the picture
  column, row = int(x[30]), int(y[30])
  assert abs(out.fragments.zbuf[row, column] - z[30]) < 5e-3  # the tip of the nose is what is seen there


@pytest.mark.slow
def test_background_colour_and_image(open_head):
  identity, pose = make_identity(open_head), flame.neutral_pose(open_head)
  backdrop = jnp.asarray(np.random.RandomState(0).rand(*SIZE, 3), jnp.float32)
  render = jax.jit(lambda m, i, p, b: render_head(m, i, p, SIZE, background=b))
  plain = picture_of(open_head, identity, pose)
  colour, image = (render(open_head, identity, pose, b) for b in (jnp.array([0.1, 0.2, 0.3]), backdrop))
  empty = np.asarray(plain.alpha) == 0
  np.testing.assert_allclose(np.asarray(colour.rgb)[empty], np.broadcast_to([0.1, 0.2, 0.3], (empty.sum(), 3)))
  np.testing.assert_array_equal(np.asarray(image.rgb)[empty], np.asarray(backdrop)[empty])
  np.testing.assert_array_equal(np.asarray(image.rgb)[~empty], np.asarray(plain.rgb)[~empty])


@pytest.mark.slow  # `test_map_frames_equals_a_loop` and `test_machines.py` have the hard one's
@pytest.mark.parametrize("backend", ["hard", "edge"])
def test_jit_vmap_and_grad(open_head, edges, every_machine, backend):
  identity, pose = make_identity(open_head), flame.neutral_pose(open_head)
  turns = jnp.array([0.0, 0.4, -0.7])
  poses = jax.vmap(lambda t: pose.replace(rotation=pose.rotation.at[1].add(t)))(turns)

  def loss(model, identity, pose, edges):
    out = render_head(model, identity, pose, SIZE, backend=backend, edges=edges)
    return jnp.mean((out.rgb - 0.4) ** 2) + jnp.mean((out.alpha - 0.5) ** 2)

  grad = jax.value_and_grad(loss, (1, 2))
  one = jax.jit(grad)
  each = [one(open_head, identity, jax.tree.map(lambda x, i=i: x[i], poses), edges) for i in range(3)]
  want = jax.tree.map(lambda *x: np.stack(x), *each)
  got = jax.jit(jax.vmap(grad, (None, None, 0, None)))(open_head, identity, poses, edges)
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert np.all(np.isfinite(g))
    np.testing.assert_allclose(g, w, atol=2e-4 * np.abs(w).max() + 1e-7)
  gradient = want[1][1]
  assert np.any(gradient.translation != 0) and np.any(gradient.jaw != 0) and np.any(want[1][0].light != 0)


def brightness(model, identity, pose):
  """By how much each number of the pose makes a small picture brighter."""
  mean = lambda pose: {"mean": jnp.mean(render_head(model, identity, pose, (24, 20)).rgb ** 2)}  # noqa: E731
  return jax.jacrev(mean)(pose)


brightness_of_one = jax.jit(brightness)


@pytest.mark.parametrize("in_turn", [pytest.param(True, marks=pytest.mark.slow), False])
def test_map_frames_equals_a_loop(open_head, monkeypatch, in_turn):
  identity, pose = make_identity(open_head), flame.neutral_pose(open_head)
  poses = [pose.replace(rotation=pose.rotation.at[1].add(t)) for t in (0.0, 0.4)]
  want = jax.tree.map(lambda *x: np.stack(x), *(brightness_of_one(open_head, identity, pose) for pose in poses))
  monkeypatch.setattr(gather, "frames_in_turn", lambda: in_turn)
  many = jax.jit(map_frames(lambda *of: brightness(*of), (None, None, 0)))
  got = many(open_head, identity, jax.tree.map(lambda *x: np.stack(x), *poses))
  chex.assert_trees_all_close(jax.tree.map(np.asarray, got), want, rtol=1e-3, atol=1e-7)
  assert np.any(want["mean"].translation[0] != want["mean"].translation[1])
  np.testing.assert_array_equal(map_frames(lambda a, b: a + b)(jnp.arange(3), jnp.arange(3)), [0, 2, 4])
  for axes in ((0,), (None, None), (1, 0)):
    with pytest.raises(ValueError, match="map_frames: in_axes"):
      map_frames(jnp.add, axes)(jnp.ones((3, 3)), jnp.ones((3, 3)))


def test_interior_gradient_of_the_whole_pipeline(open_head):
  # Where no pixel changes the face it sees, the picture is smooth, and its derivative is the limit of differences.
  identity, pose = make_identity(open_head), flame.neutral_pose(open_head)
  with jax.enable_x64(True):
    model, identity, pose = jax.tree.map(
      lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, (open_head, identity, pose)
    )
    direction = jax.tree.map(lambda x: jnp.asarray(np.random.RandomState(0).randn(*x.shape)) * 1e-2, pose)

    @jax.jit
    def picture(model, t):
      moved = jax.tree.map(lambda p, d: p + t * d, pose, direction)
      out = render_head(model, identity, moved, SIZE)
      return out.rgb, out.fragments.pix_to_face

    h = 1e-5
    (_, seen), (above, ids_above), (below, ids_below) = (picture(model, t) for t in (0.0, h, -h))
    same = (ids_above == seen) & (ids_below == seen) & (seen >= 0)
    rng = np.random.RandomState(1)
    weight = jnp.where(same[..., None], jnp.asarray(rng.rand(*SIZE, 3)), 0.0)

    def loss(p, model):
      return jnp.sum(render_head(model, identity, p, SIZE).rgb * weight)

    gradient = jax.jit(jax.grad(loss))(pose, model)
    analytic = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    difference = jnp.sum((above - below) * weight) / (2 * h)
    assert int(same.sum()) > 0.95 * int((seen >= 0).sum())
    # Bilinear texture lookup has kinks between texels: a few pixels cross one within the step.
    assert abs(float(analytic - difference)) <= 1e-3 * abs(float(difference))


def test_generic_mesh_with_colours():
  # A tilted square in front of the camera (world: x left, y up, z in), seen from its front.
  corners = jnp.array([[0.2, 0.2, 1.0], [-0.2, 0.2, 1.2], [-0.2, -0.2, 1.2], [0.2, -0.2, 1.0]])
  faces = jnp.array([[0, 2, 1], [0, 3, 2]])
  camera = make_camera(1.0)
  out = picture_of_mesh(corners, faces, camera, corners)
  hit = np.asarray(out.alpha) == 1
  assert hit.sum() > 100
  np.testing.assert_allclose(np.asarray(out.rgb)[..., 2][hit], np.asarray(out.fragments.zbuf)[hit], atol=1e-5)
  white = picture_of_mesh(corners, faces, camera)
  np.testing.assert_allclose(white.rgb[..., 0], white.alpha, atol=1e-6)
  per_corner = picture_of_mesh(corners, faces, camera, corners[faces])
  np.testing.assert_array_equal(per_corner.rgb, out.rgb)
  away = picture_of_mesh(corners, faces[:, ::-1], camera)
  assert not np.any(away.alpha)
  both = picture_of_mesh(corners, faces[:, ::-1], camera, cull_backfaces=False)
  np.testing.assert_array_equal(both.alpha, out.alpha)


@pytest.mark.slow
def test_edge_backend_smooths_only_the_outline(open_head, edges):
  identity, pose = make_identity(open_head), flame.neutral_pose(open_head)
  edge = jax.jit(lambda m, i, p, e: render_head(m, i, p, SIZE, backend="edge", edges=e))(
    open_head, identity, pose, edges
  )
  alpha, hard = np.asarray(edge.alpha), np.asarray(edge.fragments.pix_to_face) >= 0
  partial = (alpha > 1e-3) & (alpha < 1 - 1e-3)
  assert 30 < partial.sum() < 600 and alpha.min() >= -1e-5 and alpha.max() <= 1 + 1e-5
  # The area is that of a picture with 64 samples per pixel, much nearer than the hard one's.
  size = (SIZE[0] * 8, SIZE[1] * 8)
  fine = jax.jit(lambda m, i, p: rasterize(project(i.camera, flame.skin(m, i.shape, p), size), m.faces, size))(
    open_head, identity, pose
  )
  coverage = np.asarray(fine.pix_to_face >= 0, np.float32).reshape(SIZE[0], 8, SIZE[1], 8).mean((1, 3))
  error = np.abs(alpha - coverage)
  assert np.sqrt(np.mean(error**2)) < 0.3 * np.sqrt(np.mean((hard - coverage) ** 2))


@pytest.mark.slow
def test_edge_backend_moves_outlines_where_hard_cannot():
  vertices, faces, _ = ball()  # a head takes longer to compile
  camera, edges = make_camera(1.5), edge_table(np.asarray(faces))

  def covered(t, backend="edge"):
    away = vertices + t * jnp.array([[0.0, 0.0, 1.0]])
    return jnp.sum(render_mesh(away, faces, camera, SIZE, backend=backend, edges=edges).alpha)

  area = jax.jit(jax.value_and_grad(covered), static_argnums=1)
  at = {t: area(t) for t in (-0.01, 0.0, 0.01)}
  difference = float((at[0.01][0] - at[-0.01][0]) / 0.02)
  assert abs(float(at[0.0][1]) - difference) < 0.05 * abs(difference) and difference < 0
  assert area(0.0, "hard")[1] == 0


@pytest.mark.slow
def test_soft_backend_tends_to_the_hard_picture(open_head):
  identity, pose = make_identity(open_head), flame.neutral_pose(open_head)

  @jax.jit
  def both(model, identity, pose, sigma):
    background = jnp.array([0.0, 0.5, 1.0])
    soft = render_head(model, identity, pose, SIZE, backend="soft", sigma=sigma, background=background)
    return soft, render_head(model, identity, pose, SIZE, background=background)

  errors = []
  for sigma in (1e-3, 1e-5):
    soft, hard = both(open_head, identity, pose, sigma)
    errors.append(float(np.mean(np.abs(soft.alpha - hard.alpha))))
    empty = np.asarray(soft.alpha) < 1e-6
    np.testing.assert_allclose(
      np.asarray(soft.rgb)[empty], np.broadcast_to([0.0, 0.5, 1.0], (empty.sum(), 3)), atol=1e-5
    )
  # Faces are smaller than pixels here, and SoftRas covers a pixel at a shared corner only in part.
  assert errors[1] < 0.6 * errors[0] and errors[1] < 0.03
  assert float(np.mean(np.abs(soft.rgb - hard.rgb))) < 0.04


def ball():
  """A sphere of 10 cm, 80 cm in front of the camera: vertices (V, 3), faces (F, 3), uv (F, 3, 2)."""
  u, v = np.meshgrid(np.linspace(0, 1, 13), np.linspace(0, 1, 9))
  phi, theta = 2 * np.pi * u, np.pi * (v - 0.5)
  sphere = np.stack([np.cos(theta) * np.cos(phi), np.sin(theta), np.cos(theta) * np.sin(phi)], -1).reshape(-1, 3)
  q = (np.arange(8)[:, None] * 13 + np.arange(12)).ravel()
  faces = np.concatenate([np.stack([q, q + 13, q + 1], 1), np.stack([q + 1, q + 13, q + 14], 1)])
  uv = np.stack([u, v], -1).reshape(-1, 2)[faces]
  vertices = jnp.asarray(0.1 * sphere + [0, 0, 0.8], jnp.float32)
  return vertices, jnp.asarray(faces, jnp.int32), jnp.asarray(uv, jnp.float32)


@pytest.mark.parametrize("backend", ["hard", *(pytest.param(b, marks=pytest.mark.slow) for b in ("edge", "soft"))])
def test_everything_is_finite_for_broken_geometry(backend):
  vertices, faces, uv = ball()
  behind_half = jnp.arange(len(vertices))[:, None] % 2 == 0
  broken = {
    "whole": vertices,
    "collapsed": vertices.at[:60].set(vertices[0]),
    "a point": jnp.zeros_like(vertices) + jnp.array([[0.0, 0.0, 0.8]]),
    "a line": vertices * jnp.array([[1.0, 0.0, 0.0]]) + jnp.array([[0.0, 0.0, 0.8]]),
    "seen edge on": vertices * jnp.array([[0.0, 1.0, 1.0]]),
    "behind the camera": vertices * jnp.array([[1.0, 1.0, -1.0]]),
    "around the camera": vertices - jnp.array([[0.0, 0.0, 0.8]]),
    "partly behind": jnp.where(behind_half, -vertices, vertices),
    "at the camera": vertices.at[:30].set(0.0),
    "partly outside": vertices + jnp.array([[0.35, 0.2, 0.0]]),
    "outside": vertices + jnp.array([[50.0, 0.0, 0.0]]),
    "tiny": vertices * 1e-4 + jnp.array([[0.0, 0.0, 0.8]]),
    "huge": vertices * 1e5,
  }
  camera, edges = make_camera(1.5), edge_table(np.asarray(faces))
  texture = jnp.asarray(np.random.RandomState(0).rand(8, 8, 3), jnp.float32)
  light = jnp.asarray(np.random.RandomState(1).rand(9, 3), jnp.float32)

  @jax.jit
  @jax.vmap
  def value_and_grads(v):
    def loss(v, texture, light):
      out = render_mesh(
        v, faces, camera, (20, 28), uv=uv, texture=texture, light=light, backend=backend, edges=edges, sigma=1e-3
      )
      return jnp.sum((out.rgb - 0.3) ** 2) + jnp.sum((out.alpha - 0.3) ** 2), out

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(v, texture, light)

  results = value_and_grads(jnp.stack(list(broken.values())))
  (values, out), gradients = jax.tree.map(np.asarray, results)
  for i, name in enumerate(broken):
    for x in jax.tree.leaves((values, out, gradients)):
      assert np.all(np.isfinite(x[i])), name
  assert 20 < out.alpha[0].sum() < 300 and out.alpha[list(broken).index("behind the camera")].sum() == 0
  assert np.any(gradients[0][0] != 0) and np.any(gradients[1][0] != 0) and np.any(gradients[2][0] != 0)


def test_wrong_arguments_are_named():
  v, f, camera = jnp.zeros((3, 3)), jnp.array([[0, 1, 2]]), make_camera(1.0)
  with pytest.raises(ValueError, match="backend must be one of hard, edge, soft, got 'fast'"):
    render_mesh(v, f, camera, SIZE, backend="fast")
  with pytest.raises(ValueError, match="both uv and texture"):
    render_mesh(v, f, camera, SIZE, uv=jnp.zeros((1, 3, 2)))
  with pytest.raises(ValueError, match="traced"):
    jax.jit(lambda f: render_mesh(v, f, camera, SIZE, backend="edge").rgb)(f)
