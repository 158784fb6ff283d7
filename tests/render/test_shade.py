"""Interpolation, textures and lighting: closed forms, float64 differences, and the original's shading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vht_jax.render import gather, raster
from vht_jax.render import shade as sh
from vht_jax.render.raster import rasterize
from vht_jax.types import Fragments

SIZE = (48, 64)


def scene(model, dtype=np.float32):
  """The head on the screen and two attributes per vertex."""
  v = np.asarray(model.v_template, np.float64)
  v = v - v.mean(0)
  z = 0.5 - v[:, 2]
  focal = 0.9 * SIZE[0] / np.ptp(v[:, 1]) * 0.5
  xy = np.array([SIZE[1], SIZE[0]]) / 2 + focal * v[:, :2] / z[:, None] * [1, -1]
  attributes = np.random.RandomState(0).rand(len(v), 2)
  return jnp.asarray(np.concatenate([xy, z[:, None]], 1), dtype), jnp.asarray(attributes, dtype)


def test_interpolation_is_perspective_correct(open_head):
  # World coordinates interpolated as attributes must land on the pixel's ray, at the depth of the fragments.
  screen, _ = scene(open_head)
  height, width = SIZE
  world = jnp.concatenate([(screen[:, :2] - jnp.array([[width, height]]) / 2) * screen[:, 2:], screen[:, 2:]], 1)
  seen = jax.jit(rasterize, static_argnums=2)(screen, open_head.faces, SIZE)
  hit = np.asarray(seen.pix_to_face) >= 0
  x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)

  @jax.jit
  def four_ways(world, screen, faces, seen):
    by_planes = [sh.interpolate(world, screen, faces, seen, forward_mode=mode) for mode in (False, True)]
    return by_planes + [sh.interpolate_corners(world[faces], seen, forward_mode=mode) for mode in (False, True)]

  for out in four_ways(world, screen, open_head.faces, seen):
    z = np.asarray(out[..., 2])
    np.testing.assert_allclose(z[hit], np.asarray(seen.zbuf)[hit], atol=1e-5)
    np.testing.assert_allclose((np.asarray(out[..., 0]) / np.where(hit, z, 1))[hit], x[hit], atol=2e-3)
    np.testing.assert_allclose((np.asarray(out[..., 1]) / np.where(hit, z, 1))[hit], y[hit], atol=2e-3)
    assert np.all(np.asarray(out)[~hit] == 0)


def test_interior_gradient_against_float64_differences(open_head):
  with jax.enable_x64(True):
    screen, attributes = scene(open_head, np.float64)
    faces = open_head.faces
    seen = jax.jit(rasterize, static_argnums=2)(screen, faces, SIZE)
    rng = np.random.RandomState(1)
    weight = jnp.asarray(rng.randn(*SIZE, 2))
    direction = jnp.asarray(rng.randn(*screen.shape) * [1, 1, 0.01]), jnp.asarray(rng.randn(*attributes.shape))

    def loss(s, a):
      return jnp.sum(sh.interpolate(a, s, faces, seen) * weight)

    at = jax.jit(loss)

    def along(h):
      return float(at(screen + h * direction[0], attributes + h * direction[1]))

    gradient = jax.jit(jax.grad(loss, (0, 1)))(screen, attributes)
    analytic = float(sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True)))
    difference = (along(1e-6) - along(-1e-6)) / 2e-6
    assert abs(analytic - difference) <= 1e-5 * abs(difference)

    # In float32 the gradient is that of float64, to rounding.
    seen32 = Fragments(seen.pix_to_face, seen.bary_coords.astype(jnp.float32), seen.zbuf.astype(jnp.float32))

    def loss32(s, a):
      return jnp.sum(sh.interpolate(a, s, faces, seen32) * weight.astype(jnp.float32))

    gradient32 = jax.jit(jax.grad(loss32, (0, 1)))(screen.astype(jnp.float32), attributes.astype(jnp.float32))
    for g32, g in zip(gradient32, gradient, strict=True):
      assert float(jnp.linalg.norm(g32.astype(jnp.float64) - g)) <= 1e-4 * float(jnp.linalg.norm(g))


def test_reverse_forward_and_plain_gradients_agree(open_head):
  screen, attributes = scene(open_head)
  faces = open_head.faces
  seen = jax.jit(rasterize, static_argnums=2)(screen, faces, SIZE)
  weight = jnp.asarray(np.random.RandomState(1).randn(*SIZE, 2), jnp.float32)
  tangent = (jnp.ones_like(screen) * jnp.array([[1.0, 0.5, 0.01]]), attributes * 0.3)

  def loss(s, a, mode):
    return jnp.sum(sh.interpolate(a, s, faces, seen, forward_mode=mode) * weight)

  def corners_loss(a, mode):
    return jnp.sum(sh.interpolate_corners(a[faces], seen, forward_mode=mode) ** 2 * weight)

  fast = jax.jit(jax.grad(lambda s, a: loss(s, a, False), (0, 1)))(screen, attributes)
  plain = jax.jit(jax.grad(lambda s, a: loss(s, a, True), (0, 1)))(screen, attributes)
  for a, b in zip(fast, plain, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
  pushed = jax.jit(lambda s, a: jax.jvp(lambda s, a: loss(s, a, True), (s, a), tangent)[1])(screen, attributes)
  np.testing.assert_allclose(pushed, sum(jnp.vdot(g, t) for g, t in zip(fast, tangent, strict=True)), rtol=1e-3)
  fast, plain = (jax.jit(jax.grad(lambda a, m=m: corners_loss(a, m)))(attributes) for m in (False, True))
  np.testing.assert_allclose(fast, plain, atol=1e-5 * float(jnp.abs(plain).max()))


def test_gradients_are_finite_for_broken_geometry(open_head):
  screen, attributes = scene(open_head)
  broken = {
    "collapsed": screen.at[:500, :2].set(10.0),
    "behind": screen.at[:500, 2].set(-0.1),
    "at the camera": screen.at[:500, 2].set(0.0),
    "all behind": screen.at[:, 2].multiply(-1.0),
    "all outside": screen.at[:, 0].add(1e4),
    "half outside": screen.at[:, 0].add(SIZE[1] / 2),
    "close": screen.at[:500, 2].set(2e-6),
    "flat": screen.at[:, 0].set(20.0),
    "far away": screen.at[:100, :2].multiply(1e8),
  }

  @jax.jit
  def value_and_grads(s, a):
    def loss(s, a):
      seen = rasterize(s, open_head.faces, SIZE)
      return jnp.sum(sh.interpolate(a, s, open_head.faces, seen) ** 2)

    return jax.value_and_grad(loss, (0, 1))(s, a)

  for name, s in broken.items():
    value, gradients = value_and_grads(s, attributes)
    assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in gradients), name


@pytest.mark.slow
@pytest.mark.parametrize("in_turn", [True, False])
def test_vmap_equals_loop_in_value_and_gradient(open_head, monkeypatch, in_turn):
  for module in (gather, raster):  # frames in turn as on a CPU, or merged as on an accelerator
    monkeypatch.setattr(module, "frames_in_turn", lambda: in_turn)
  screen, attributes = scene(open_head)
  screens = jnp.stack([screen, screen + 1.7, screen * jnp.array([[0.8, 1.0, 1.0]])])
  corner_uv = open_head.uv

  def loss(s, a):
    seen = rasterize(s, open_head.faces, SIZE)
    uv = sh.interpolate_corners(corner_uv * jnp.mean(a), seen)
    return jnp.sum(sh.interpolate(a, s, open_head.faces, seen) ** 2) + jnp.sum(uv**2)

  grad = jax.value_and_grad(loss, (0, 1))
  one = jax.jit(grad)
  want = jax.tree.map(lambda *x: np.stack(x), *[one(s, attributes) for s in screens])
  # A vmap within another: the outer one batches what the inner one has made of the program.
  nested = jax.jit(jax.vmap(jax.vmap(grad, (0, None)), (0, None)))(screens[:, None], attributes)
  for g, w in zip(jax.tree.leaves(nested), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(g[:, 0], w, atol=1e-4 * np.abs(w).max())
  total = jax.jit(jax.grad(lambda s: jax.vmap(loss, (0, None))(s, attributes).sum()))(screens)  # grad of vmap
  np.testing.assert_allclose(total, want[1][0], atol=1e-4 * np.abs(total).max())


def test_texture_follows_the_obj_convention():
  texture = jnp.arange(12, dtype=jnp.float32).reshape(3, 4, 1)
  sample = jax.jit(sh.sample_texture)
  corner = sample(texture, jnp.array([[0.5 / 4, 1 - 0.5 / 3], [3.5 / 4, 0.5 / 3]]))
  np.testing.assert_allclose(corner[:, 0], [0.0, 11.0], atol=1e-5)  # row 0 is v = 1
  uv = jnp.asarray(np.random.RandomState(0).uniform(0.2, 0.8, (7, 2)), jnp.float32)
  check_grads(lambda t: sample(t, uv), (texture,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_spherical_harmonics_are_orthogonal_and_lambertian():
  # Undoing the cosine lobe must leave an orthonormal basis on the sphere (Monte Carlo free: Gauss-Legendre x uniform).
  z, w = np.polynomial.legendre.leggauss(16)
  phi = 2 * np.pi * np.arange(32) / 32
  n = np.stack([np.outer(np.sqrt(1 - z**2), f(phi)) for f in (np.cos, np.sin)] + [np.outer(z, np.ones(32))], -1)
  basis = np.asarray(sh.spherical_harmonics(jnp.asarray(n.reshape(-1, 3), jnp.float32)), np.float64)
  lobe = np.array([1] + [2 * np.pi / 3] * 3 + [np.pi / 4] * 5)
  gram = (basis / lobe).T @ (np.repeat(w, 32)[:, None] * 2 * np.pi / 32 * (basis / lobe))
  np.testing.assert_allclose(gram, np.eye(9), atol=1e-6)


def test_constant_light_and_the_two_formulas():
  light = jnp.zeros((9, 3)).at[0].set(np.sqrt(4 * np.pi))
  normals = jnp.asarray(np.random.RandomState(0).randn(4, 5, 3), jnp.float32)
  np.testing.assert_allclose(sh.shading(light, normals), 1.0, atol=1e-6)
  albedo, irradiance = jnp.full((2, 3), 0.25), jnp.full((2, 3), 0.5)
  np.testing.assert_allclose(sh.shade(albedo, irradiance), 1.25 * 0.5 - 1)
  np.testing.assert_allclose(sh.shade(albedo, irradiance, "lambert"), 0.125)
  np.testing.assert_allclose(
    sh.shade(albedo, jnp.ones_like(albedo)), sh.shade(albedo, jnp.ones_like(albedo), "lambert")
  )
  np.testing.assert_allclose(sh.shade(albedo, irradiance, "physical"), 0.125)
  for formula in sh.FORMULAS:
    back = sh.unshade(sh.shade(albedo, irradiance, formula), irradiance, formula)
    np.testing.assert_allclose(back, albedo, atol=1e-6)
  for reject in (sh.shade, sh.unshade, sh.shading):
    with pytest.raises(ValueError, match="phong"):
      reject(albedo, irradiance, "phong")


def real_harmonics(n):
  """Orthonormal real spherical harmonics up to degree 2, in the order of `spherical_harmonics`; numpy float64."""
  x, y, z = n[..., 0], n[..., 1], n[..., 2]
  one, two = np.sqrt(3 / (4 * np.pi)), np.sqrt(15 / (4 * np.pi))
  third = [two * x * y, two * x * z, two * y * z, two / 2 * (x**2 - y**2), two / np.sqrt(12) * (3 * z**2 - 1)]
  return np.stack([np.full_like(x, np.sqrt(1 / (4 * np.pi))), one * x, one * y, one * z, *third], -1)


def test_physical_light_is_irradiance_over_pi():
  rng = np.random.RandomState(0)
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
  n = unit(rng.randn(2000, 3))

  def shading(light):
    return np.asarray(sh.shading(jnp.asarray(light, jnp.float32), jnp.asarray(n, jnp.float32), "physical"))

  # Surroundings of radiance 1, projected numerically: a white surface reflects 1 whichever way it faces.
  z, w = np.polynomial.legendre.leggauss(16)
  phi = 2 * np.pi * np.arange(32) / 32
  sky = np.stack([np.outer(np.sqrt(1 - z**2), f(phi)) for f in (np.cos, np.sin)] + [np.outer(z, np.ones(32))], -1)
  solid_angle = w[:, None] * np.full(32, 2 * np.pi / 32)
  ones = np.einsum("ij,ijk->k", solid_angle, real_harmonics(sky))
  reflected = shading(np.repeat(ones[:, None], 3, 1))
  np.testing.assert_allclose(reflected, 1.0, atol=1e-5)

  # Any smooth radiance: the integral of radiance * cosine / pi over the hemisphere, with a sum over the sky.
  light = rng.randn(9, 3)
  many = unit(rng.randn(400_000, 3))
  radiance, few = real_harmonics(many) @ light, n[:3]
  integral = np.maximum(few @ many.T, 0) @ radiance * (4 * np.pi / len(many)) / np.pi
  np.testing.assert_allclose(shading(light)[:3], integral, atol=0.02)

  # A distant source of irradiance pi: max(cos, 0) up to what 9 terms hold. With t the cosine these are the Legendre
  # terms 1/4 + t/2 + (5/32)(3 t^2 - 1): off by 3/32 at most, at the equator, and by 1/6 - 1/16 - 1/12 - 5/256 =
  # 1/768 in the mean square.
  towards = unit(rng.randn(3))
  got = shading(np.repeat(np.pi * real_harmonics(towards)[:, None], 3, 1))[:, 0]
  t = n @ towards
  np.testing.assert_allclose(got, 0.25 + t / 2 + 5 / 32 * (3 * t**2 - 1), atol=1e-5)
  error = got - np.maximum(t, 0)
  assert 0.09 < np.abs(error).max() < 3 / 32 + 1e-5
  np.testing.assert_allclose(np.mean(error**2), 1 / 768, rtol=0.05)

  # VHT's bands 1 and 2 are pi times these.
  physical, vht = (np.asarray(sh.spherical_harmonics(jnp.asarray(n, jnp.float32), f)) for f in ("physical", "lambert"))
  np.testing.assert_allclose(physical * [1, *8 * [np.pi]], vht, rtol=1e-5, atol=1e-6)


def golden_fragments(shared_data, case):
  """Fragments of a case of parity_raster.npz with faces of the kept list, and that list."""
  pack = shared_data / "parity"
  model, golden = np.load(pack / "parity_model.npz"), np.load(pack / "parity_raster.npz")
  keep = np.ones(len(model["faces"]), bool)
  if golden[f"r{case}_meta"][3]:
    keep[model["lower_neck_face_idcs"]] = False
  p = golden[f"r{case}_pix_to_face"][..., 0]
  p = np.where(p >= 0, p - np.arange(3)[:, None, None] * keep.sum(), -1)
  bary, zbuf = golden[f"r{case}_bary_coords"][..., 0, :], golden[f"r{case}_zbuf"][..., 0]
  uv = model["vt"][model["faces_vt"]][keep]
  return Fragments(jnp.asarray(p), jnp.asarray(bary), jnp.asarray(zbuf)), model["faces"][keep], uv


@pytest.mark.parametrize("case", [0, 3, 4, 8])
def test_parity_with_the_original(shared_data, case):
  """UVs, normals, shading and colours of the original on its own fragments (parity_shading.npz)."""
  seen, faces, uv = golden_fragments(shared_data, case)
  golden = np.load(shared_data / "parity" / "parity_shading.npz")
  albedo = jnp.asarray(golden["albedo"][0].transpose(1, 2, 0))
  vertex_normals = golden["r3_verts_normals" if case == 3 else "r0_verts_normals"]

  @jax.jit
  @jax.vmap
  def pixels(seen, vertex_normals):
    texture_uv = sh.interpolate_corners(jnp.asarray(uv, jnp.float32), seen)
    normals = sh.interpolate_corners(vertex_normals[faces], seen)
    irradiance = sh.shading(jnp.asarray(golden["light"]), normals)
    rgb = sh.shade(sh.sample_texture(albedo, texture_uv), irradiance)
    return texture_uv, normals, irradiance, rgb

  texture_uv, normals, irradiance, rgb = pixels(seen, jnp.asarray(vertex_normals))
  hit = np.asarray(seen.pix_to_face) >= 0
  grid = np.stack([2 * texture_uv[..., 0] - 1, 1 - 2 * texture_uv[..., 1]], -1)
  if case == 0:
    np.testing.assert_allclose(grid[hit], golden["r0_pixel_uv"][hit], atol=2e-6)
    np.testing.assert_allclose(normals, golden["r0_pixel_normal"], atol=1e-4)
  if case != 3:
    np.testing.assert_allclose(np.asarray(irradiance)[hit], golden[f"r{case}_shading"][hit], atol=3e-5)
  want = golden[f"r{case}_rgba"].transpose(0, 2, 3, 1)
  np.testing.assert_array_equal(hit, want[..., 3] == 1)
  np.testing.assert_allclose(np.where(hit[..., None], rgb, 0), want[..., :3], atol=5e-5)


def test_screen_coords_parity(shared_data):
  """VHT's projected positions at the pixels: constant barycentrics applied to the projected vertices."""
  from vht_jax.cameras import from_vht_intrinsics, project, screen_to_ndc

  golden = np.load(shared_data / "parity" / "parity_raster.npz")
  vertices = jnp.asarray(np.load(shared_data / "parity" / "parity_flame.npz")["vertices"])
  for case, K in ((0, (1.8, 0.5, 0.5)), (6, (1.5, 0.54, 0.47))):
    seen, faces, _ = golden_fragments(shared_data, case)
    height, width, scale, _ = (int(x) for x in golden[f"r{case}_meta"])
    size = (height * scale, width * scale)
    camera = from_vht_intrinsics(jnp.array(K, jnp.float32))
    screen = project(camera, vertices, size)
    ndc = screen_to_ndc(screen.reshape(-1, 3), size).reshape(3, -1, 2)
    ndc = jnp.stack([ndc[..., 0] * min(1, height / width), ndc[..., 1] * min(1, width / height)], -1)
    got = jax.jit(jax.vmap(lambda a, s, f=faces: sh.interpolate_corners(a[f], s)))(ndc, seen)
    np.testing.assert_allclose(got, golden[f"r{case}_screen_coords"], atol=2e-6)
