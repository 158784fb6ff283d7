"""SoftRas against a dense rendering of its formulas (pixels x faces, plain autodiff), and its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.render import soft
from vht_jax.render.raster import rasterize
from vht_jax.render.soft import soft_render, soft_silhouette

SIZE = (24, 36)
BLUR = np.log(1 / 1e-4 - 1)


@functools.partial(jax.jit, static_argnums=3, static_argnames="cull_backfaces")
def render(
  screen, faces, colors, size, sigma=1e-3, gamma=1e-2, background=0.0, near=0.1, far=10.0, cull_backfaces=True
):
  return soft_render(
    screen, faces, colors, size,
    sigma=sigma, gamma=gamma, background=background, near=near, far=far, cull_backfaces=cull_backfaces,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnums=3, static_argnames="cull_backfaces")
def dense(screen, faces, colors, size, sigma=1e-3, gamma=1e-2, background=0.0, near=0.1, far=10.0, cull_backfaces=True):
  """The formulas of the module, one pixel and one face at a time, in NDC; nothing is held constant in derivatives."""
  half = min(size) / 2
  background = jnp.broadcast_to(background, (colors.shape[-1],)).astype(screen.dtype)
  colors = colors[faces] if colors.ndim == 2 else colors

  def fragment(pixel, corners):
    xy, z = corners[:, :2] / half, corners[:, 2]
    a, b, c = xy
    cross = lambda p, q: p[0] * q[1] - p[1] * q[0]  # noqa: E731
    area = cross(b - a, c - a)
    usable = (area < -2e-8) if cull_backfaces else (jnp.abs(area) > 2e-8)
    area = jnp.where(usable, area, 1.0)
    bary = jnp.stack([cross(c - b, pixel - b), cross(a - c, pixel - c), cross(b - a, pixel - a)]) / area
    inside = jnp.all(bary >= 0)

    def squared_distance(p, q):
      length = jnp.vdot(q - p, q - p)
      t = jnp.clip(jnp.vdot(pixel - p, q - p) / jnp.where(length > 0, length, 1.0), 0, 1)
      gap = pixel - (p + t * (q - p))
      return jnp.vdot(gap, gap)

    d2 = jnp.min(jnp.stack([squared_distance(a, b), squared_distance(b, c), squared_distance(c, a)]))
    x = jnp.where(inside, d2, -d2) / sigma
    seen = usable & (inside | (d2 <= BLUR * sigma))
    clipped = jnp.maximum(bary, 0)
    over_z = clipped / jnp.sum(clipped) / z
    return jnp.where(seen, x, -jnp.inf), 1 / jnp.sum(over_z), over_z / jnp.sum(over_z)

  def one_pixel(pixel):
    x, z, bary = jax.vmap(lambda t: fragment(pixel, t))(screen[faces])
    seen = jnp.isfinite(x)
    x = jnp.where(seen, x, 0.0)
    cover = jnp.where(seen, jax.nn.sigmoid(x), 0.0)
    log_miss = jnp.where(seen, jax.nn.log_sigmoid(-x), 0.0)
    nearest = jnp.minimum(jnp.min(jnp.where(seen, z, jnp.inf)), far)
    w = jnp.where(seen, cover * jnp.exp(jnp.where(seen, nearest - z, 0.0) / (far - near) / gamma), 0.0)
    rest = jnp.exp((nearest - far) / (far - near) / gamma)
    shown = jnp.einsum("fk,fkc->fc", bary, colors)
    return (w @ shown + rest * background) / (jnp.sum(w) + rest), 1 - jnp.exp(jnp.sum(log_miss))

  y, x = (jnp.arange(n, dtype=screen.dtype) + 0.5 for n in size)
  grid = jnp.stack(jnp.broadcast_arrays(x[None], y[:, None]), -1) / half
  return jax.vmap(jax.vmap(one_pixel))(grid)


def soup(seed, n=40, scale=6.0):
  """Separate random triangles at different depths, some across the border of the image, some back faces."""
  rng = np.random.RandomState(seed)
  xy = rng.rand(n, 1, 2) * [SIZE[1], SIZE[0]] + rng.randn(n, 3, 2) * scale
  z = 1 + 0.3 * rng.rand(n, 1, 1) + 0.05 * rng.rand(n, 3, 1)
  screen = np.concatenate([xy, z], -1).reshape(-1, 3)
  faces = np.arange(3 * n).reshape(n, 3)
  return jnp.asarray(screen, jnp.float32), jnp.asarray(faces, jnp.int32), jnp.asarray(rng.rand(n, 3, 2), jnp.float32)


def relative(a, b):
  return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def pull(fun, cull_backfaces, args, ct):
  """Values of a renderer and their derivatives by everything that has one, for a cotangent."""
  screen, faces, colors, *parameters = args
  f = lambda s, c, *p: fun(s, faces, c, SIZE, *p, cull_backfaces=cull_backfaces)  # noqa: E731
  out, back = jax.vjp(f, screen, colors, *parameters)
  return out, back(ct)


CASES = [(1e-2, 0.05), (1e-3, 1e-2), (1e-4, 1e-3), (1e-5, 0.5)]  # sigma, gamma
NAMES = ("screen", "colors", "sigma", "gamma", "background", "near", "far")


@pytest.mark.parametrize("cull_backfaces", [pytest.param(True, marks=pytest.mark.slow), False])
def test_equals_the_dense_oracle_in_value_and_gradient(cull_backfaces):
  rng = np.random.RandomState(9)
  ct = jnp.asarray(rng.randn(*SIZE, 2), jnp.float32), jnp.asarray(rng.randn(*SIZE), jnp.float32)
  background = jnp.array([0.2, 0.9])
  # Rounding of d^2 / sigma and z / gamma is what limits the last two in float32.
  for seed, (case, tolerance) in enumerate(zip(CASES, (1e-5, 1e-5, 3e-4, 6e-5), strict=True)):
    args = (*soup(seed), *map(jnp.float32, case), background, jnp.float32(0.5), jnp.float32(3.0))
    got, want = pull(render, cull_backfaces, args, ct), pull(dense, cull_backfaces, args, ct)
    for g, w in zip(got[0], want[0], strict=True):
      np.testing.assert_allclose(g, w, atol=2 * tolerance)
    for name, g, w in zip(NAMES, got[1], want[1], strict=True):
      bound = tolerance if name in ("screen", "colors") else 20 * tolerance  # the others are sums that cancel
      assert relative(g, w) < bound, (name, case, relative(g, w))
    assert np.abs(want[1][0]).max() > 0.1


@pytest.mark.slow
def test_equals_the_dense_oracle_in_float64():
  rng = np.random.RandomState(9)
  with jax.enable_x64(True):
    ct = jnp.asarray(rng.randn(*SIZE, 2)), jnp.asarray(rng.randn(*SIZE))
    for seed, case in enumerate(CASES):
      screen, faces, colors = soup(seed)
      parameters = (jnp.asarray(p, jnp.float64) for p in (*case, [0.2, 0.9], 0.5, 3.0))
      args = (screen.astype(jnp.float64), faces, colors.astype(jnp.float64), *parameters)
      got = pull(render, True, args, ct)
      want = pull(dense, True, args, ct)
      for g, w in zip(got[0], want[0], strict=True):
        assert g.dtype == jnp.float64
        np.testing.assert_allclose(g, w, atol=1e-9)
      for name, g, w in zip(NAMES, got[1], want[1], strict=True):
        assert relative(g, w) < 1e-8, (name, case, relative(g, w))


@pytest.mark.slow
def test_silhouette_is_the_alpha_and_differentiates_in_sigma():
  screen, faces, colors = soup(3)
  alpha = jax.jit(soft_silhouette, static_argnums=2)(screen, faces, SIZE, sigma=1e-3)
  np.testing.assert_allclose(alpha, render(screen, faces, colors, SIZE)[1], atol=1e-6)
  np.testing.assert_allclose(alpha, dense(screen, faces, colors, SIZE)[1], atol=1e-5)
  grads = [jax.jit(jax.grad(lambda s, sigma, f=f: jnp.sum(f(s, sigma)), (0, 1)))(screen, jnp.float32(1e-3))
           for f in (lambda s, sigma: soft_silhouette(s, faces, SIZE, sigma=sigma),
                     lambda s, sigma: dense(s, faces, colors, SIZE, sigma)[1])]  # fmt: skip
  assert relative(grads[0][0], grads[1][0]) < 1e-5 and relative(grads[0][1], grads[1][1]) < 1e-5


def test_one_edge_has_the_sigmoid_profile():
  # A face that fills the left half: alpha = sigmoid(+-d^2 / sigma) across its right side.
  screen = jnp.array([[-1e3, -2e3, 1.0], [-1e3, 2e3, 1.0], [18.2, 2e3, 1.0], [18.2, -2e3, 1.0]])
  faces = jnp.array([[0, 1, 2], [0, 2, 3]])
  alpha = jax.jit(soft_silhouette, static_argnums=2)(screen, faces, SIZE, sigma=1e-2)
  d = (18.2 - (np.arange(SIZE[1]) + 0.5)) / 12
  expected = 1 / (1 + np.exp(-np.sign(d) * d**2 / 1e-2))
  expected[d**2 > BLUR * 1e-2] = np.where(d > 0, 1.0, 0.0)[d**2 > BLUR * 1e-2]
  np.testing.assert_allclose(alpha[3], expected, atol=1e-3)


def test_small_sigma_and_gamma_give_the_hard_image():
  screen, faces, _ = soup(5, n=12, scale=9.0)
  flat = jnp.broadcast_to(jnp.arange(1.0, 13)[:, None, None], (12, 3, 1))
  rgb, alpha = render(screen, faces, flat, SIZE, 1e-8, 1e-5, -1.0)
  ids = np.asarray(jax.jit(rasterize, static_argnums=2)(screen, faces, SIZE).pix_to_face)
  inside = np.asarray(alpha) > 1 - 1e-3
  assert inside.mean() > 0.3
  np.testing.assert_array_equal((ids >= 0)[inside], True)
  assert np.mean(np.abs(np.asarray(rgb)[..., 0] - np.where(ids >= 0, ids + 1, -1.0)) < 0.01) > 0.98


def test_vertex_colors_and_background():
  screen, faces, _ = soup(1, n=6)
  colors = jnp.asarray(np.random.RandomState(0).rand(len(screen), 3), jnp.float32)
  a = render(screen, faces, colors, SIZE)[0]
  np.testing.assert_allclose(a, render(screen, faces, colors[faces], SIZE)[0], atol=1e-6)
  nothing = screen.at[:, 2].set(-1.0)
  rgb, alpha = render(nothing, faces, colors, SIZE, 1e-3, 1e-2, jnp.array([0.1, 0.2, 0.3]))
  assert np.all(np.asarray(alpha) == 0)
  np.testing.assert_allclose(rgb, np.broadcast_to([0.1, 0.2, 0.3], rgb.shape), rtol=1e-6)


def test_invalid_faces_are_dropped_and_everything_stays_finite():
  screen, faces, colors = soup(2, n=8)
  want = render(screen, faces, colors, SIZE)
  bad = {
    "behind": [[10.0, 10, -1], [10, 40, -1], [40, 10, -1]],
    "one vertex behind": [[10.0, 10, 0.5], [10, 40, 0.5], [40, 10, 0]],
    "nan": [[10.0, np.nan, 0.5], [10, 40, 0.5], [40, 10, 0.5]],
    "inf": [[10.0, 10, 0.5], [10, np.inf, 0.5], [40, 10, 0.5]],
    "line": [[10.0, 10, 0.5], [12, 12, 0.5], [14, 14, 0.5]],
    "point": [[10.0, 10, 0.5]] * 3,
    "far away": [[1e7, 1e7, 0.5], [1e7, 2e7, 0.5], [2e7, 1e7, 0.5]],
    "1e30 px": [[1e30, 10, 0.5], [-1e30, 40, 0.5], [1e30, 41, 0.5]],
  }

  @jax.jit
  def value_and_grad(screen, sigma):
    f = lambda s, sigma: soft_render(s, all_faces, all_colors, SIZE, sigma=sigma, gamma=1e-2)  # noqa: E731
    out, back = jax.vjp(f, screen, sigma)
    return out, back(out)

  all_faces = jnp.concatenate([faces, len(screen) + jnp.arange(3)[None]])
  all_colors = jnp.concatenate([colors, colors[:1]])
  for name, corners in bad.items():
    out, grads = value_and_grad(jnp.concatenate([screen, jnp.array(corners, jnp.float32)]), 1e-3)
    np.testing.assert_allclose(out[0], want[0], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(out[1], want[1], atol=1e-6, err_msg=name)
    assert np.all(np.isfinite(grads[0])) and np.isfinite(grads[1]) and np.all(np.asarray(grads[0])[-3:] == 0), name

  # Slivers and pixels exactly on corners and edges are drawn, with finite derivatives.
  sliver = jnp.array([[4.5, 4.5, 1], [4.5, 9.5, 1], [4.5 + 1e-4, 7.0, 1]])
  on_centres = jnp.array([[10.5, 4.5, 1], [10.5, 9.5, 1], [15.5, 4.5, 1]])

  @jax.jit
  def alone(t):
    out, back = jax.vjp(lambda s: soft_render(s, jnp.array([[0, 1, 2]]), jnp.ones((1, 3, 1)), SIZE), t)
    return *out, back(out)[0]

  for t in (sliver, on_centres):
    assert all(np.all(np.isfinite(o)) for o in alone(t))


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (9, 3), (13, 40)])
def test_odd_sizes(size):
  screen, faces, colors = soup(4, n=10)
  got, want = render(screen, faces, colors, size), dense(screen, faces, colors, size)
  for g, w in zip(got, want, strict=True):
    np.testing.assert_allclose(g, w, atol=5e-5)


@pytest.mark.slow
def test_nothing_is_dropped_when_every_face_touches_every_pixel(monkeypatch):
  # 300 faces x 54 tiles, far more than one chunk; also in several groups of frames.
  screen, faces, colors = soup(6, n=300, scale=3.0)
  want = dense(screen, faces, colors, SIZE, 0.5, 0.1)
  np.testing.assert_allclose(render(screen, faces, colors, SIZE, 0.5, 0.1)[0], want[0], atol=5e-5)
  soft._aggregate.cache_clear()
  monkeypatch.setattr(soft, "most_frames", lambda *_: 2)
  frames = jnp.stack([screen] * 3)
  loss = lambda s: soft_render(s, faces, colors, SIZE, sigma=0.5, gamma=0.1)  # noqa: E731

  @jax.jit
  def value_and_grad(frames):
    rgb, back = jax.vjp(jax.vmap(loss), frames)
    return rgb, back(rgb)[0]

  rgb, grad = value_and_grad(frames)
  np.testing.assert_allclose(rgb[0], np.stack([want[0]] * 3), atol=5e-5)
  np.testing.assert_allclose(grad[2], grad[0], atol=1e-4)
  soft._aggregate.cache_clear()


@pytest.mark.slow
def test_vmap_equals_loop():
  scenes = [soup(i) for i in range(4)]
  screens, colors, faces = np.stack([s[0] for s in scenes]), np.stack([s[2] for s in scenes]), scenes[0][1]
  sigmas = np.array([1e-3, 1e-2, 1e-4, 3e-3], np.float32)
  ct = jnp.asarray(np.random.RandomState(0).randn(*SIZE, 2), jnp.float32)

  def one(screen, colors, sigma):
    f = lambda s, c, sigma: soft_render(s, faces, c, SIZE, sigma=sigma, gamma=1e-2)  # noqa: E731
    out, back = jax.vjp(f, screen, colors, sigma)
    return out, back((ct, ct[..., 0]))

  single = jax.jit(one)
  want = jax.tree.map(lambda *x: np.stack(x), *(single(*a) for a in zip(screens, colors, sigmas)))
  nested = jax.jit(jax.vmap(jax.vmap(one)))(*(x.reshape(2, 2, *x.shape[1:]) for x in (screens, colors, sigmas)))
  for g, w in zip(jax.tree.leaves(nested), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(np.reshape(g, w.shape), w, rtol=1e-4, atol=1e-5 * np.abs(w).max())
  shared = jax.jit(jax.vmap(lambda s: soft_render(s, faces, colors[0], SIZE, sigma=sigmas[0], gamma=1e-2)[0]))
  np.testing.assert_allclose(shared(screens)[1], single(screens[1], colors[0], sigmas[0])[0][0], atol=1e-5)


def test_changing_sigma_does_not_recompile():
  import chex

  screen, faces, colors = soup(0)
  traced = jax.jit(chex.assert_max_traces(n=1)(lambda s, sigma, gamma, b: soft_render(
    s, faces, colors, SIZE, sigma=sigma, gamma=gamma, background=b)))  # fmt: skip
  for sigma, gamma, b in ((1e-3, 1e-2, 0.0), (1e-4, 1e-3, 0.5)):
    traced(screen, jnp.float32(sigma), jnp.float32(gamma), jnp.float32(b))


def test_rejects_wrong_input():
  screen, faces, colors = soup(0)
  with pytest.raises(ValueError, match="colors"):
    soft_render(screen, faces, colors[:3], SIZE)
  with pytest.raises(ValueError, match="screen"):
    soft_silhouette(screen[:, :2], faces, SIZE)
  with pytest.raises(ValueError, match="faces"):
    soft_silhouette(screen, faces[:0], SIZE)
  with pytest.raises(ValueError, match="integers"):
    soft_silhouette(screen, faces.astype(jnp.float32), SIZE)


def test_gradient_of_a_mask_points_the_right_way(open_head):
  # SoftRas pulls a displaced head back: the direction is right, the magnitude is not meant to be.
  v = np.asarray(open_head.v_template)
  z = 0.6 - v[:, 2]
  screen = jnp.asarray(np.stack([24 + 90 * v[:, 0] / z, 24 - 90 * v[:, 1] / z, z], 1), jnp.float32)
  faces, size = open_head.faces, (48, 48)
  draw = lambda t: soft_silhouette(screen + jnp.append(t, 0.0)[None], faces, size, sigma=1e-3)  # noqa: E731
  target = jax.jit(draw)(jnp.array([3.0, -2.0]))
  grad = jax.jit(jax.grad(lambda t: jnp.sum((draw(t) - target) ** 2)))(jnp.zeros(2))
  assert np.vdot(grad, [-3, 2]) / np.linalg.norm(grad) / np.sqrt(13) > 0.9
