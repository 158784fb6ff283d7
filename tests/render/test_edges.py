"""Silhouette antialiasing: closed forms, finite differences of supersampled renders, visibility, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.render.edges import EdgeTable, antialias, edge_table
from vht_jax.render.raster import rasterize
from vht_jax.render.shade import interpolate

SIZE = (48, 64)


def coverage(screen, faces, edges, size=SIZE, cull_backfaces=True):
  """The antialiased mask (H, W) of a mesh."""
  fragments = rasterize(screen, faces, size, cull_backfaces=cull_backfaces)
  mask = (fragments.pix_to_face >= 0).astype(jnp.float32)[..., None]
  return antialias(mask, screen, faces, edges, fragments, cull_backfaces=cull_backfaces)[..., 0]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _draw(screen, faces, edges, size, cull_backfaces):
  return coverage(screen, faces, edges, size, cull_backfaces)


@jax.jit
def _pull(screen, faces, edges, cotangent):
  return jax.grad(lambda s: jnp.sum(coverage(s, faces, edges, cotangent.shape) * cotangent))(screen)


def padded(screen, faces):
  """Screen, faces and edges, filled up to common shapes with what is not drawn, so that few programs are compiled."""
  edges = edge_table(faces)
  if len(screen) > 512 or len(faces) > 512:
    return jnp.asarray(screen), jnp.asarray(faces), jax.tree.map(jnp.asarray, edges)
  screen = np.concatenate([screen, np.ones((513 - len(screen), 3), np.float32)])
  n_edges = 1536 - len(edges.faces)
  edges = EdgeTable(
    vertices=np.concatenate([edges.vertices, np.full((n_edges, 2), 512, np.int32)]),
    faces=np.concatenate([edges.faces, np.tile(np.array([[512, -1]], np.int32), (n_edges, 1))]),
  )
  faces = np.concatenate([faces, np.full((513 - len(faces), 3), 512)])
  return jnp.asarray(screen, jnp.float32), jnp.asarray(faces, jnp.int32), jax.tree.map(jnp.asarray, edges)


def draw(screen, faces, size=SIZE, cull_backfaces=True):
  """The antialiased mask as numpy."""
  return np.array(_draw(*padded(screen, faces), size, cull_backfaces))


def pull(screen, faces, cotangent):
  """Gradient of sum(mask * cotangent) with respect to screen, as numpy."""
  return np.array(_pull(*padded(screen, faces), jnp.asarray(cotangent, jnp.float32)))[: len(screen)]


def polygon(points, depth=1.0):
  """A convex polygon (N, 2), visually counter-clockwise, as a fan of front faces around its middle."""
  points = np.asarray(points, np.float64)
  screen = np.concatenate([[points.mean(0)], points])
  n = len(points)
  i = np.arange(n)
  faces = np.stack([np.zeros(n, int), i + 1, (i + 1) % n + 1], 1)
  return np.column_stack([screen, np.full(n + 1, depth)]).astype(np.float32), faces.astype(np.int32)


def rectangle(x0, y0, x1, y1, depth=1.0):
  return polygon([[x0, y0], [x0, y1], [x1, y1], [x1, y0]], depth)


def regular(n, radius, centre=(31.3, 22.6), phase=0.37):
  angle = phase - 2 * np.pi * np.arange(n) / n
  return polygon(np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], 1))


def merge(*meshes):
  offsets = np.cumsum([0, *(len(s) for s, _ in meshes)])
  return np.concatenate([s for s, _ in meshes]), np.concatenate([f + o for (_, f), o in zip(meshes, offsets)])


def interval(lo, hi, n):
  """Length of [lo, hi] in each of the cells [i, i + 1)."""
  i = np.arange(n)
  return np.clip(np.minimum(hi, i + 1) - np.maximum(lo, i), 0, 1)


# Edge table


def test_edge_table_of_a_closed_and_an_open_mesh():
  tetrahedron = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
  edges = edge_table(tetrahedron)
  assert isinstance(edges, EdgeTable) and edges.vertices.shape == (6, 2) and edges.vertices.dtype == np.int32
  for (a, b), (first, second) in zip(edges.vertices, edges.faces, strict=True):
    runs = lambda f, a=a, b=b: (a, b) in zip(f, np.roll(f, -1))  # noqa: E731
    assert runs(tetrahedron[first])
    assert runs(tetrahedron[second][::-1])
  edges = edge_table(tetrahedron[:3])
  assert np.sum(edges.faces[:, 1] < 0) == 3 and len(edges.faces) == 6


def test_edge_table_of_irregular_meshes():
  book = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])  # three faces at the edge 0-1
  edges = edge_table(book)
  at_spine = [tuple(f) for v, f in zip(edges.vertices, edges.faces) if set(v) == {0, 1}]
  assert sorted(at_spine) == [(0, 1), (2, -1)]
  flipped = edge_table(np.array([[0, 1, 2], [0, 1, 3]]))  # two faces with contradicting orientation
  assert len(flipped.faces) == 6 and np.all(flipped.faces[:, 1] == -1)
  with_degenerate = edge_table(np.array([[0, 1, 2], [1, 1, 2], [1, 0, 3]]))
  assert len(with_degenerate.faces) == 5 and not np.any(with_degenerate.faces == 1)
  assert edge_table(np.zeros((0, 3), int)).vertices.shape == (0, 2)
  assert edge_table(np.array([[3, 3, 3]])).faces.shape == (0, 2)


def test_edge_table_of_the_head(open_head):
  faces = np.asarray(open_head.faces)
  edges = edge_table(faces)
  assert len(np.unique(np.sort(edges.vertices, 1), axis=0)) == len(edges.vertices)
  assert np.sum(edges.faces >= 0) == 3 * len(faces)


def test_edge_table_rejects_bad_input():
  with pytest.raises(ValueError, match="integer faces"):
    edge_table(np.zeros((4, 3)))
  with pytest.raises(ValueError, match="integer faces"):
    edge_table(np.zeros((4, 2), int))
  with pytest.raises(ValueError, match="outside jit"):
    jax.jit(lambda f: edge_table(f).vertices)(jnp.zeros((1, 3), jnp.int32))


# Closed forms


@pytest.mark.parametrize(
  "box",
  [
    pytest.param((10.7, 9.2, 30.35, 25.9), id="general"),
    pytest.param((10.0, 9.0, 30.0, 25.0), id="on pixel borders"),
    pytest.param((10.5, 9.5, 30.5, 25.5), id="on pixel centres"),
    pytest.param((10.2, 9.1, 12.9, 10.8), id="small"),
    pytest.param((5.3, 4.4, 61.6, 5.9), id="thin"),
  ],
)
def test_square_has_exact_coverage_and_derivative(box):
  x0, y0, x1, y1 = box
  screen, faces = rectangle(*box)
  in_x, in_y = interval(x0, x1, SIZE[1]), interval(y0, y1, SIZE[0])
  expected = in_y[:, None] * in_x
  got = draw(screen, faces)
  if box[0] % 1 == 0.5:  # the corners are at pixel centres: there the two sides of the corner cannot be told apart
    for y in (9, 25):
      for x in (10, 30):
        assert abs(got[y, x] - 0.25) < 0.3
        got[y, x] = expected[y, x]
  np.testing.assert_allclose(got, expected, atol=2e-5)

  # Moving the right side by dx changes pixel (y, column of the side) by in_y * dx.
  cotangent = np.random.RandomState(0).randn(*SIZE).astype(np.float32)
  grad = pull(screen, faces, cotangent)
  if x1 % 1 and y1 % 1 and box[0] % 1 != 0.5:
    right = np.isclose(screen[:, 0], x1)
    np.testing.assert_allclose(grad[right, 0].sum(), in_y @ cotangent[:, int(x1)], rtol=1e-4, atol=1e-4)
    bottom = np.isclose(screen[:, 1], y1)
    np.testing.assert_allclose(grad[bottom, 1].sum(), cotangent[int(y1)] @ in_x, rtol=1e-4, atol=1e-4)
  assert np.all(grad[0] == 0) and np.all(grad[:, 2] == 0)


@pytest.mark.parametrize("phase", np.linspace(0.01, 1.5, 5))
@pytest.mark.parametrize("n", [3, 4, 7, 40, 400])
def test_polygons_and_discs_have_the_right_area_and_its_derivative(n, phase):
  radius = 18.3
  screen, faces = regular(n, radius, phase=phase)
  area = 0.5 * n * radius**2 * np.sin(2 * np.pi / n)
  np.testing.assert_allclose(draw(screen, faces).sum(), area, rtol=1e-4 if n > 3 else 1e-3)
  grad = pull(screen, faces, np.ones(SIZE))[1:, :2]
  spokes = (screen[1:, :2] - screen[0, :2]) / radius
  np.testing.assert_allclose(np.sum(grad * spokes), 2 * area / radius, rtol=2e-3 if n > 3 else 0.01)
  np.testing.assert_allclose(grad.sum(0), 0, atol=0.05 if n > 3 else 0.7)  # moving it does not change its area


rasterized = jax.jit(rasterize, static_argnums=2)


def test_coverage_of_a_polygon_is_that_of_a_supersampled_render():
  for seed in range(4):
    screen, faces = regular(9, 17.0, phase=0.3 * seed)
    fine = rasterized(jnp.asarray(screen * [24, 24, 1], jnp.float32), faces, (24 * SIZE[0], 24 * SIZE[1]))
    fine = np.asarray(fine.pix_to_face >= 0).reshape(SIZE[0], 24, SIZE[1], 24).mean((1, 3))
    np.testing.assert_allclose(draw(screen, faces), fine, atol=0.012)  # the render's own error


def test_gradient_is_the_derivative_of_the_value():
  screen, faces = regular(11, 16.0)
  rng = np.random.RandomState(1)
  cotangent = rng.randn(*SIZE)
  grad = pull(screen, faces, cotangent)
  analytic, numeric = [], []
  for _ in range(6):
    direction = rng.randn(*screen.shape) * [1, 1, 0]
    value = [np.sum(draw(screen + h * direction, faces) * cotangent, dtype=np.float64)
             for h in (-5e-3, 5e-3)]  # fmt: skip
    numeric.append((value[1] - value[0]) / 1e-2)
    analytic.append(np.sum(grad * direction))
  np.testing.assert_allclose(analytic, numeric, rtol=0.02, atol=0.05)


@pytest.mark.slow
def test_blend_is_linear_in_the_image_and_transposed_exactly(open_head):
  screen, faces, _ = head_on_screen(open_head, SIZE)
  edges, fragments = edge_table(faces), rasterized(screen, faces, SIZE)
  rng = np.random.RandomState(2)
  image, tangent, cotangent = (jnp.asarray(rng.randn(*SIZE, 5), jnp.float32) for _ in range(3))

  @jax.jit
  def run(image, tangent, cotangent):
    blend = lambda image: antialias(image, screen, faces, edges, fragments)  # noqa: E731
    out, transpose = jax.vjp(blend, image)
    return out, blend(tangent), transpose(cotangent)[0]

  image = image.at[..., 4].set(1.0)
  out, out_tangent, transposed = run(image, tangent, cotangent)
  np.testing.assert_allclose(np.vdot(transposed, tangent), np.vdot(cotangent, out_tangent), rtol=1e-4)
  changed = np.any(np.asarray(out) != np.asarray(image), axis=-1)
  assert 50 < changed.sum() < 0.2 * changed.size
  np.testing.assert_allclose(out[..., 4], 1.0, atol=1e-6)


# Visibility


def test_hidden_edges_do_nothing_and_visible_ones_blend_with_what_is_behind():
  far, near = rectangle(15.3, 10.3, 40.6, 30.4, depth=2.0), rectangle(8.2, 5.7, 30.8, 35.9, depth=1.0)
  screen, faces = merge(far, near)
  edges = edge_table(faces)
  colours = np.repeat([[0.25], [1.0]], [len(far[0]), len(near[0])], 0).astype(np.float32)

  def render(screen):
    fragments = rasterize(screen, faces, SIZE)
    return antialias(interpolate(colours, screen, faces, fragments), screen, faces, edges, fragments)[..., 0]

  in_near = interval(5.7, 35.9, SIZE[0])[:, None] * interval(8.2, 30.8, SIZE[1])
  in_far = interval(10.3, 30.4, SIZE[0])[:, None] * interval(15.3, 40.6, SIZE[1])
  expected = in_near + 0.25 * in_far * (1 - interval(8.2, 30.8, SIZE[1]))
  corners = np.zeros(SIZE, bool)  # where two silhouettes meet
  corners[[10, 30], 30] = True
  value_and_grad = jax.jit(lambda s: (lambda out: (out[0], out[1](jnp.ones(SIZE))[0]))(jax.vjp(render, s)))
  image, grad = (np.asarray(x) for x in value_and_grad(jnp.asarray(screen)))
  np.testing.assert_allclose(image[~corners], expected[~corners], atol=2e-5)
  np.testing.assert_allclose(image, expected, atol=0.3)
  left_of_far = np.isclose(screen[:, 0], 15.3)
  np.testing.assert_allclose(grad[left_of_far, 0], 0, atol=1e-6)
  right_of_near = np.isclose(screen[:, 0], 30.8)
  np.testing.assert_allclose(grad[right_of_near, 0].sum(), 30.2 - 0.25 * 20.1, atol=0.5)


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.9, 1.0, 1.1, 4.0])
def test_coincident_silhouettes_are_counted_once(slope):
  # Sheets one behind the other whose right sides lie within a fraction of a pixel.
  def sheet(shift, depth):
    return polygon([[8 + shift, 6], [8 + shift, 40], [20.3 + shift + 10 * slope, 40], [20.3 + shift, 6]], depth)

  alone = sheet(0.3, 1.5)
  expected = draw(*alone)
  for other in (sheet(0.0, 1.0), sheet(0.0, 2.0), sheet(0.3, 1.5)):
    screen, faces = merge(alone, other)
    got = draw(screen, faces)
    right = np.s_[8:38, 16:]
    np.testing.assert_allclose(got[right].sum(), expected[right].sum(), atol=0.7)
    assert np.all(got > -1e-4) and np.all(got < 1.35)
    cotangent = np.zeros(SIZE, np.float32)
    cotangent[right] = 1
    grads = [np.asarray(pull(s, f, cotangent))[:, 0].sum() for s, f in ((screen, faces), alone)]
    np.testing.assert_allclose(grads[0], grads[1], rtol=0.06)


def test_holes_and_closed_meshes():
  # A frame: a square with a square hole, open inside and outside.
  ring = lambda r: [[-r, -r], [-r, r], [r, r], [r, -r]]  # noqa: E731
  screen = np.column_stack([np.array(ring(15.3) + ring(7.6)) + [31.2, 23.7], np.ones(8)]).astype(np.float32)
  i = np.arange(4)
  j = (i + 1) % 4
  faces = np.concatenate([np.stack([i, j, i + 4], 1), np.stack([j, j + 4, i + 4], 1)]).astype(np.int32)
  mask = draw(screen, faces)
  np.testing.assert_allclose(mask.sum(), 30.6**2 - 15.2**2, rtol=1e-4)
  grad = pull(screen, faces, np.ones(SIZE))
  signs = np.sign(screen - [31.2, 23.7, 1])
  np.testing.assert_allclose(np.sum(grad[:4] * signs[:4]), 8 * 15.3, rtol=1e-3)
  np.testing.assert_allclose(np.sum(grad[4:] * signs[4:]), -8 * 7.6, rtol=0.03)  # its corners are concave

  # A cube: only its outline counts, and with culling its back does not matter.
  corners = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], np.float64)
  quads = [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]]
  cube = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], np.int32)
  c, s = np.cos(0.6), np.sin(0.6)
  p = corners @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]]).T
  screen = np.column_stack([31 + 9.7 * p[:, 0], 24 - 9.7 * p[:, 1], 5 - p[:, 2]]).astype(np.float32)
  from scipy.spatial import ConvexHull

  for cull in (True, False):
    outline = ConvexHull(screen[:, :2])
    np.testing.assert_allclose(draw(screen, cube, SIZE, cull).sum(), outline.volume, rtol=1e-3)


def test_two_sided_sheets_need_culling_off():
  screen, faces = rectangle(10.7, 9.2, 30.35, 25.9)
  backwards = faces[:, ::-1]
  assert np.all(draw(screen, backwards) == 0)
  np.testing.assert_allclose(draw(screen, backwards, SIZE, False), draw(screen, faces), atol=1e-6)


# Bad and extreme input


def test_edges_outside_behind_and_degenerate_are_skipped():
  good = regular(7, 14.0)
  expected = draw(*good)
  bad = {
    "behind": [[10, 10, -1], [10, 40, -1], [40, 10, -1]],
    "one vertex behind": [[10, 10, 0.5], [10, 40, 0.5], [40, 10, 0.0]],
    "nan": [[10, np.nan, 0.5], [10, 40, 0.5], [40, 10, 0.5]],
    "inf": [[10, 10, 0.5], [10, np.inf, 0.5], [40, 10, 0.5]],
    "line": [[10, 10, 0.5], [20, 20, 0.5], [40, 40, 0.5]],
    "point": [[10, 10, 0.5]] * 3,
    "outside": [[-40, 10, 0.5], [-40, 40, 0.5], [-10, 10, 0.5]],
    "no pixel": [[20.1, 20.1, 0.5], [20.1, 20.2, 0.5], [20.2, 20.1, 0.5]],
    "far away": [[1e8, 1e7, 0.5], [1e8, 2e7, 0.5], [2e8, 1e7, 0.5]],
  }
  for name, corners in bad.items():
    screen, faces = merge(good, (np.array(corners, np.float32), np.array([[0, 1, 2]])))
    np.testing.assert_allclose(draw(screen, faces), expected, atol=1e-6, err_msg=name)
    grad = pull(screen, faces, np.ones(SIZE))
    assert np.all(np.isfinite(grad)) and np.all(grad[-3:] == 0), name


def test_meshes_partly_outside_the_image():
  screen, faces = rectangle(-20.3, -7.2, 30.35, 25.9)
  got = draw(screen, faces)
  expected = interval(-20.3, 30.35, SIZE[1]) * interval(-7.2, 25.9, SIZE[0])[:, None]
  np.testing.assert_allclose(got, expected, atol=2e-5)
  screen, faces = rectangle(-1e4, -2e4, 30.35, 25.9)
  np.testing.assert_allclose(draw(screen, faces), expected, atol=5e-3)
  grad = pull(screen, faces, np.ones(SIZE))
  np.testing.assert_allclose(grad[np.isclose(screen[:, 0], 30.35), 0].sum(), 25.9, rtol=1e-3)


MORE_SIZES = [pytest.param(size, marks=pytest.mark.slow) for size in ((1, 17), (40, 7))]  # each a program of its own


@pytest.mark.parametrize("size", [(1, 1), (9, 3), *MORE_SIZES])
def test_odd_sizes(size):
  screen, faces = rectangle(0.7, 0.6, size[1] - 0.6, size[0] - 0.7)
  got = draw(screen, faces, size)
  assert got.shape == size and np.all(np.isfinite(got)) and np.all(got > -1e-5) and np.all(got < 1 + 1e-5)
  if min(size) > 2:
    expected = interval(0.6, size[0] - 0.7, size[0])[:, None] * interval(0.7, size[1] - 0.6, size[1])
    inner = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(got[inner], expected[inner], atol=1e-5)


@pytest.mark.slow
def test_nothing_is_dropped_however_many_crossings():
  # 42 x 42 separate squares of 2.4 px: some 20,000 crossings, many chunks.
  size, n = (128, 128), 42
  squares = [rectangle(3 * i + 0.55, 3 * j + 0.65, 3 * i + 2.95, 3 * j + 3.05) for j in range(n) for i in range(n)]
  screen, faces = merge(*squares)
  mask = draw(screen, faces, size)
  np.testing.assert_allclose(mask[1:-1, 1:-1].sum(), n * n * 2.4**2 - mask[0].sum() - mask[:, 0].sum(), rtol=0.01)
  grad = pull(screen, faces, np.ones(size)).reshape(n * n, 5, 3)
  spread = np.sum(grad * np.sign(screen.reshape(n * n, 5, 3) - screen.reshape(n * n, 5, 3)[:, :1]), (1, 2))
  inner = spread.reshape(n, n)[1:, 1:]
  np.testing.assert_allclose(inner, 4 * 2.4, rtol=1e-3)


def test_rejects_wrong_shapes():
  screen, faces = rectangle(4, 4, 9, 9)
  edges, fragments = edge_table(faces), rasterized(screen, faces, SIZE)
  with pytest.raises(ValueError, match="image"):
    antialias(jnp.zeros((3, 4, 1)), screen, faces, edges, fragments)
  with pytest.raises(ValueError, match="screen"):
    antialias(jnp.zeros((*SIZE, 1)), screen[None], faces, edges, fragments)
  none = jax.tree.map(lambda e: e[:0], edges)
  image = jnp.ones((*SIZE, 2))
  assert np.all(np.asarray(antialias(image, screen, faces, none, fragments)) == 1)


# Transformations


def head_on_screen(model, size, yaw=0.3, pitch=0.1, fill=0.7):
  """The head facing the camera; returns screen, faces and smooth per-vertex colours."""
  v = np.asarray(model.v_template, np.float64)
  v = v - (v.max(0) + v.min(0)) / 2
  cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
  p = v @ (np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])).T
  z = 1.0 - p[:, 2]
  focal = fill * size[0] / np.ptp(v[:, 1])
  screen = np.stack([size[1] / 2 + focal * p[:, 0] / z, size[0] / 2 - focal * p[:, 1] / z, z], 1)
  rng = np.random.RandomState(3)
  colours = 0.5 + 0.5 * np.sin(v @ rng.randn(3, 3) * 25 + rng.rand(3) * 6)
  return jnp.asarray(screen, jnp.float32), jnp.asarray(model.faces), jnp.asarray(colours, jnp.float32)


@pytest.mark.slow
def test_vmap_equals_loop():
  meshes = [padded(*merge(regular(n, 14.0, phase=n), rectangle(3.3, 20.2, 60.1, 24.9, 2.0))) for n in (3, 7, 20, 90)]
  screens, faces, edges = jax.tree.map(lambda *x: jnp.stack(x), *meshes)
  cotangents = jnp.asarray(np.random.RandomState(0).randn(4, *SIZE), jnp.float32)
  masks = jnp.stack([_draw(*m, SIZE, True) for m in meshes])
  grads = jnp.stack([_pull(*m, ct) for m, ct in zip(meshes, cotangents)])

  one = lambda s, f, e, ct: (lambda m, back: (m, back(ct)[0]))(*jax.vjp(lambda s: coverage(s, f, e), s))  # noqa: E731
  nested = jax.jit(jax.vmap(jax.vmap(one)))
  pairs = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), (screens, faces, edges, cotangents))
  got = jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), nested(*pairs))
  np.testing.assert_allclose(got[0], masks, atol=1e-6)
  np.testing.assert_allclose(got[1], grads, atol=1e-4)

  # The usual case: one topology for all frames, and the gradient of a sum over frames.
  shifted = screens[2][None] + jnp.arange(4.0)[:, None, None] * jnp.array([[[0.7, 0.3, 0.0]]])
  edges = jax.tree.map(lambda e: e[2], edges)
  render = lambda s: jax.vmap(lambda s: coverage(s, faces[2], edges))(s)  # noqa: E731
  loss = jax.jit(jax.grad(lambda s: jnp.sum(render(s) * cotangents)))
  expected = jnp.stack([_pull(s, faces[2], edges, ct) for s, ct in zip(shifted, cotangents)])
  np.testing.assert_allclose(loss(shifted), expected, atol=1e-4)


# Accuracy on the head


def supersampled(size, factor):
  """A function screen, faces, colours -> (H, W, 4): colours and mask, rendered `factor` times finer and averaged."""
  fine = (size[0] * factor, size[1] * factor)

  @jax.jit
  def render(screen, faces, colours):
    screen = screen * jnp.array([[factor, factor, 1.0]], jnp.float32)
    fragments = rasterize(screen, faces, fine)
    image = interpolate(colours, screen, faces, fragments)
    image = jnp.concatenate([image, (fragments.pix_to_face >= 0).astype(jnp.float32)[..., None]], -1)
    return image.reshape(size[0], factor, size[1], factor, 4).mean((1, 3))

  return render


def directions(screen, size, n_smooth=7):
  """Translations, scale, roll, yaw and smooth deformations of the projected mesh, px."""
  screen = np.asarray(screen, np.float64)
  x, y, z = (screen - screen.mean(0)).T
  zero, one = np.zeros_like(x), np.ones_like(x)
  depth = z * size[0] * 2.2
  out = [(one, zero), (zero, one), (x / 40, y / 40), (-y / 40, x / 40), (-depth / 20, zero)]
  rng = np.random.RandomState(3)
  for _ in range(n_smooth):
    k, phase = rng.randn(2, 3) * [0.06, 0.06, 15] * [128 / size[0], 128 / size[0], 1], rng.rand(2) * 6
    out.append(tuple(np.sin(np.stack([x, y, z], 1) @ k[i] + phase[i]) for i in range(2)))
  return jnp.asarray(np.stack([np.column_stack([*d, zero]) for d in out]), jnp.float32)


def check_accuracy(model, size, factor, yaw, pitch, bound):
  from scipy.ndimage import gaussian_filter

  screen, faces, colours = head_on_screen(model, size, yaw, pitch)
  edges = jax.tree.map(jnp.asarray, edge_table(faces))
  moves = directions(screen, size)
  truth = supersampled(size, factor)
  reference = truth(screen, faces, colours)
  target = truth(screen + 2 * (0.8 * moves[0] - 0.6 * moves[1] + 0.7 * moves[6] + 0.7 * moves[8]), faces, colours)
  step = 0.15
  change = jnp.stack([(truth(screen + step * m, faces, colours) - truth(screen - step * m, faces, colours)) / (2 * step)
                      for m in moves])  # fmt: skip

  @jax.jit
  def render(screen):
    fragments = rasterize(screen, faces, size)
    image = interpolate(colours, screen, faces, fragments)
    mask = (fragments.pix_to_face >= 0).astype(jnp.float32)[..., None]
    return antialias(jnp.concatenate([image, mask], -1), screen, faces, edges, fragments)

  pull_render = jax.jit(lambda s, ct: jax.vjp(render, s)[1](ct)[0])
  image = render(screen)
  rng = np.random.RandomState(5)
  weights = np.stack([gaussian_filter(rng.randn(*size), 4, mode="wrap") for _ in range(4)], -1)
  weights = jnp.asarray(weights / weights.std(), jnp.float32)
  is_mask = jnp.array([[[0.0, 0, 0, 1]]])
  errors = {}
  for name, cotangent in {
    "mask, smooth": lambda i: weights * is_mask,
    "mask, L2": lambda i: 2 * (i - target) * is_mask,
    "rgb, smooth": lambda i: weights * (1 - is_mask),
    "rgb, L2": lambda i: 2 * (i - target) * (1 - is_mask),
  }.items():
    expected = np.asarray(jnp.einsum("nhwc,hwc->n", change, cotangent(reference)))
    grad = pull_render(screen, cotangent(image))
    got = np.asarray(jnp.einsum("nvc,vc->n", moves, grad))
    errors[name] = np.linalg.norm(got - expected) / np.linalg.norm(expected)
  rmse = float(jnp.sqrt(jnp.mean((image - reference) ** 2)))
  print(f"{size} yaw {yaw} pitch {pitch}: ", {k: round(float(e), 3) for k, e in errors.items()}, f"rmse {rmse:.4f}")
  assert max(errors.values()) < bound, errors
  assert rmse < 0.006


@pytest.mark.slow
@pytest.mark.parametrize("yaw, pitch", [(0.3, 0.1), (0.0, 0.0), (0.9, -0.2)])
def test_head_gradients_match_finite_differences_of_a_supersampled_render(open_head, yaw, pitch):
  check_accuracy(open_head, (128, 128), 16, yaw, pitch, bound=0.1)


@pytest.mark.slow
def test_head_gradients_at_256(open_head):
  check_accuracy(open_head, (256, 256), 16, 0.3, 0.1, bound=0.1)
