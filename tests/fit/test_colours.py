"""Photometric Gauss-Newton on images of our own renderer, and its derivatives against forward mode."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import landmark_model

from vht_jax.config import Weights
from vht_jax.fit import clip, frame, observed
from vht_jax.fit.identity import fit_keyframes, mean_square
from vht_jax.fit.layer import LAYER_SIZE, Appearance, albedo_map, estimate_layer
from vht_jax.fit.pixels import samples as samples_
from vht_jax.fit.pixels.samples import estimate_gain, sample_pixels, with_gradient
from vht_jax.fit.pixels.surface import (
  Crop,
  explained_faces,
  fold_surface,
  make_surface,
  photometric_l1,
  pose_mesh,
  shaded,
  to_pixels,
  to_world,
)  # fmt: skip
from vht_jax.fit.solvers.uncertainty import shape_information
from vht_jax.fit.terms import colour, landmarks
from vht_jax.fit.unknowns import At, shared_layout
from vht_jax.head import flame
from vht_jax.head import points as pts
from vht_jax.render import raster, shade

SIZE = 112  # px, side of the crop
N = 400  # samples
FOCAL = 2.0
SCALE = 1.25  # log scale of the head: 3.5 units per metre of a crop of 1 unit


@pytest.fixture(scope="module")
def weights():
  return Weights()


@pytest.fixture(scope="module")
def lm(small_head, weights):
  return landmark_model(small_head, weights, 0)


@pytest.fixture(scope="module")
def shared(lm):
  rng = np.random.default_rng(1)
  shape = jnp.asarray(0.5 * rng.standard_normal(lm.points.shapedirs.shape[-1]), jnp.float32)
  return clip.initial_shared(lm, FOCAL).replace(shape=shape, principal=jnp.array([0.01, -0.02]))


@pytest.fixture(scope="module")
def whole(small_head, shared):
  return jax.jit(make_surface)(small_head, shared.shape)


@pytest.fixture(scope="module")
def surface(small_head, whole):
  """Without the cranium, whose silhouette against a black background is no part of the derivatives."""
  masks = small_head.masks
  mask = np.asarray(masks["face"] | masks["left_eyeball"] | masks["right_eyeball"])
  return whole.replace(used=whole.used & mask[np.asarray(small_head.faces)].all(axis=1))


@pytest.fixture(scope="module")
def x_true(lm):
  """A frame: smile, turned by 20 degrees, mouth slightly open, looking aside."""
  n_expr = lm.points.exprdirs.shape[-1]
  expr = np.zeros(n_expr)
  expr[[2, 12, 30, 31]] = 0.4
  jaw = np.arctanh(2 * (8 + 5) / 65 - 1)
  pose = [0.1, 0.35, 0.05, 0.01, 0.02, SCALE, 0.0, 0.0, 0.0, jaw, 0.05, 0.1, 0.05, 0.1]
  return jnp.asarray(np.concatenate([expr, pose]), jnp.float32)


@pytest.fixture(scope="module")
def light():
  out = np.zeros((9, 3), np.float32)
  out[0] = 0.85 * np.array([1.0, 0.98, 0.95]) / shade.SH_FACTORS[0]
  out[1:4] = np.array([0.5, 0.6, -0.6])[:, None] * 0.2 / shade.SH_FACTORS[1]
  out[4:] = 0.02
  return jnp.asarray(out)


@pytest.fixture(scope="module")
def detail(surface):
  """(Ht, Wt, 3) smooth albedo outside the basis."""
  rng = np.random.default_rng(5)
  coarse = jnp.asarray(0.06 * rng.standard_normal((16, 16, 3)), jnp.float32)
  return jax.image.resize(coarse, surface.texture_mean.shape, "cubic")


def empty_crop(offset=(SIZE / 2, SIZE / 2), scale=float(SIZE)):
  return Crop(
    rgb=jnp.zeros((SIZE, SIZE, 3)),
    inside=jnp.ones((SIZE, SIZE)),
    scale=jnp.float32(scale),
    offset=jnp.asarray(offset, jnp.float32),
  )


@pytest.fixture(scope="module")
def render(surface):
  """(x, shared, crop, albedo, light) -> (C, C, 3) what `crop` shows: 3 x 3 samples per pixel, grey background."""

  @jax.jit
  def run(x, shared, crop, albedo, light):
    k = 3
    X, _ = pose_mesh(surface, x, shared)
    screen = to_pixels(pts.project(X, jnp.exp(shared.log_focal), shared.principal), crop) * k
    fragments = raster.rasterize(jnp.concatenate([screen, X[:, 2:]], -1), surface.faces, (k * SIZE, k * SIZE))
    big = crop.replace(inside=jnp.ones((k * SIZE, k * SIZE)))
    color, _ = shaded(surface, X, fragments, albedo, light, big)
    color = jnp.where((fragments.pix_to_face >= 0)[..., None], color, 0.4)
    return jnp.clip(color, 0, 1).reshape(SIZE, k, SIZE, k, 3).mean((1, 3))

  return run


@pytest.fixture(scope="module")
def albedo(surface):
  """(Ht, Wt, 3) of a texture code, without texture details finer than a pixel of these small images."""
  code = jnp.array([0.5, -0.5, 0.3, 0.2])
  appearance = Appearance(code, jnp.zeros((LAYER_SIZE, LAYER_SIZE, 3)), jnp.zeros((9, 3)))
  sharp = jax.jit(albedo_map)(surface, appearance)
  return jax.image.resize(jax.image.resize(sharp, (64, 64, 3), "linear"), sharp.shape, "linear")


@pytest.fixture(scope="module")
def crop(render, x_true, shared, albedo, light):
  crop = empty_crop()
  return crop.replace(rgb=render(x_true, shared, crop, albedo, light))


@pytest.fixture(scope="module")
def sample(surface):
  return jax.jit(lambda x, shared, crop: sample_pixels(surface, x, shared, crop, N, jnp.float32(N)))


@pytest.fixture(scope="module")
def samples(sample, x_true, shared, crop):
  return sample(x_true, shared, crop)


@flax.struct.dataclass
class Rows:
  """The colours' term with its robust weights, and the derivatives that it is made of."""

  r: jax.Array  # (N, 3)
  d_x: jax.Array
  d_shared: jax.Array  # (N, 3, S + 3): shape, log focal, principal
  d_albedo: jax.Array  # (N, 3)
  d_light: jax.Array  # (N, 9)
  gain: jax.Array  # (N, 3)
  cost: jax.Array


def colour_rows(samples, albedo, light, x, shared, crop, weights):
  seen = colour.ObservedColours(samples, albedo, crop, crop.rgb)
  found = colour.Colours(light, weights).linearise(At(x, shared), seen)
  raw = colour.differences(seen, albedo, light, x, shared)
  root = found.root[:, None]
  scale = root * (jnp.sqrt(samples.weight) / weights.sd_color)[:, None]
  d_shared = jnp.concatenate([found.shared[name] for name in ("shape", "log_focal", "principal")], -1)
  columns = found.frame["head"] * root[..., None], d_shared * root[..., None]
  return Rows(found.residual * root, *columns, raw.d_albedo * scale, raw.d_light, raw.gain * scale, found.cost)


@pytest.fixture(scope="module")
def residuals(weights):
  return jax.jit(
    lambda samples, albedo, light, x, shared, crop: colour_rows(samples, albedo, light, x, shared, crop, weights)
  )


@pytest.fixture(scope="module")
def tracks(lm, shared, x_true):
  """The frame's landmarks without noise."""

  @jax.jit
  def run(x):
    uv = landmarks.predict(lm, x, shared)
    return observed.observe_landmarks(lm, uv * 1000 + 500, jnp.ones(70, jnp.float32), (1000, 1000))

  return run(x_true)


# --- the surface and its samples -------------------------------------------------------------------------------------


def where(sample, x, shared):
  """(N, 2) x, y of the pixels that are sampled: the image shows them."""
  y, x_of = np.mgrid[:SIZE, :SIZE].astype(np.float32) / SIZE
  seen = sample(x, shared, empty_crop().replace(rgb=jnp.asarray(np.stack([x_of, y, y], -1))))
  return np.round(np.asarray(seen.color)[:, :2] * SIZE).astype(int), int((np.asarray(seen.weight) > 0).sum())


def test_a_head_that_moves_a_little_is_looked_at_in_the_same_pixels(sample, x_true, shared):
  """Else every step of a fit sees another noise, and rounding another result."""
  pixels = lambda x: {tuple(p) for p in where(sample, x, shared)[0].tolist()}
  begun = pixels(x_true)
  assert len(begun) > 0.95 * N
  for change in (1e-6, 1e-4, 1e-3):  # of angles in rad, codes, places
    moved = pixels(x_true + change)
    assert len(begun & moved) > (0.97 if change < 1e-3 else 0.9) * N


def test_pixels_are_spread_evenly(sample, x_true, shared):
  found, _ = where(sample, x_true, shared)
  away = np.linalg.norm((found[:, None] - found[None]).astype(float), axis=-1) + 1e3 * np.eye(len(found))
  area = np.prod(np.ptp(found, axis=0) + 1)  # about what the face covers
  assert away.min(1).mean() > 0.55 * np.sqrt(area / len(found))


@pytest.mark.parametrize("side, first", [(64, 0), (65, 7), (256, 200_000)])
def test_the_order_of_pixels_holds_each_once(side, first):
  assert sorted(np.asarray(samples_.scattered(side, first)).tolist()) == list(range(side * side))


def test_surface_normals_are_linearised_where_they_are_taken(small_head, surface, shared):
  """normal_dirs against central differences of the unit normals."""
  rng = np.random.default_rng(0)
  expr = jnp.asarray(rng.standard_normal(surface.vertices.exprdirs.shape[-1]), jnp.float32)
  change = jnp.asarray(rng.standard_normal(shared.shape.shape), jnp.float32)

  @jax.jit
  def normals(step):
    vertices = flame.shape_blend(small_head, shared.shape + step * change, step * expr)
    return flame.vertex_normals(vertices, small_head.faces)

  step = 2e-2
  numeric = (normals(jnp.float32(step)) - normals(jnp.float32(-step))) / (2 * step)
  linear = surface.normal_dirs @ jnp.concatenate([expr, change])
  used = np.unique(np.asarray(surface.faces)[np.asarray(surface.used)])
  error = np.linalg.norm(numeric - linear, axis=-1)[used]
  assert np.median(error) < 0.01 * np.median(np.linalg.norm(linear, axis=-1)[used])


def test_all_faces_but_eyes_and_hidden_ones_are_used(small_head, whole):
  corners = np.asarray(whole.faces)[np.asarray(whole.used)]
  assert 500 < len(corners) < len(whole.faces)
  for name in ("teeth", "tongue", "mouth_cavity", "eye_socket"):
    assert not np.asarray(small_head.masks[name])[corners].all(axis=1).any(), name
  for name in ("face", "scalp", "neck"):
    assert np.asarray(small_head.masks[name])[corners].all(axis=1).any(), name
  eyeballs = np.asarray(small_head.masks["left_eyeball"] | small_head.masks["right_eyeball"])
  assert not eyeballs[corners].all(axis=1).any(), "they do not say where the head is"
  assert eyeballs[np.asarray(whole.faces)[np.asarray(whole.explained)]].all(axis=1).any(), "but have a colour"
  assert explained_faces(small_head.replace(masks={})).all()


def test_samples_lie_on_the_pixels_they_were_taken_from(samples, shared, x_true, crop):
  """Projected back, every sample falls on a pixel centre; colours are those of the pixels; the head is covered."""
  unfolded = samples.points
  uv = jax.jit(lambda x: pts.locate(unfolded, x, shared))(x_true)
  px = np.asarray(to_pixels(uv, crop))
  good = np.asarray(samples.weight) > 0
  assert good.mean() > 0.6
  centre = np.floor(px) + 0.5
  assert np.abs(px - centre)[good].max() < 0.02
  i, j = np.floor(px[good]).astype(int).T[::-1]
  np.testing.assert_allclose(samples.color[good], np.asarray(crop.rgb)[i, j], atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(samples.normal, axis=-1), 1, atol=2e-2)
  np.testing.assert_allclose(samples.weight[good], 1.0, rtol=1e-5)  # count / n
  assert np.all(samples.seen_normal[good, 2] < 0)  # towards the camera
  rows = np.unique(i)
  assert np.ptp(rows) > 0.3 * SIZE and len(rows) > 0.9 * np.ptp(rows)  # evenly spread


# --- residuals and derivatives ---------------------------------------------------------------------------------------


def test_no_residual_at_the_truth(residuals, samples, albedo, light, x_true, shared, crop):
  """But for interpolation: the image is antialiased, the residual is not."""
  at = lambda x: residuals(samples, shade.sample_texture(albedo, samples.uv), light, x, shared, crop)
  truth = at(x_true)
  root = np.sqrt(np.asarray(samples.weight)) / Weights().sd_color
  color = np.abs(np.asarray(truth.r)) / np.maximum(root, 1e-6)[:, None]
  good = root > 0
  assert np.median(color[good]) < 0.01
  assert np.mean(color[good]) < 0.02
  moved = at(x_true.at[-11].add(0.03))  # 3 px
  assert moved.cost > 3 * truth.cost


@pytest.mark.differentiable
def test_residual_jacobians_equal_forward_mode(residuals, samples, light, x_true, shared, weights):
  """With x and shape away from the sampling point."""
  y, x = jnp.mgrid[0:SIZE, 0:SIZE].astype(jnp.float32) / SIZE
  wavy = jnp.stack([0.3 * x + 0.2 * jnp.sin(40 * y), 0.1 + 0.5 * y**2, 0.6 - 0.4 * x + 0.1 * jnp.cos(30 * x * y)], -1)
  crop = empty_crop().replace(rgb=wavy)
  rng = np.random.default_rng(2)
  flat_weights = weights.replace(sd_color=100.0)  # everything inside Huber's parabola: autodiff sees no IRLS weights
  x0 = x_true + jnp.asarray(0.02 * rng.standard_normal(x_true.shape), jnp.float32)
  near = shared.replace(shape=shared.shape + 0.1)
  albedo = jnp.asarray(rng.uniform(0.2, 0.8, (N, 3)), jnp.float32)
  n_shape = shared.shape.shape[0]

  def evaluate(x, cam, albedo, light):
    """cam: shape, log focal, principal."""
    moved = near.replace(shape=cam[:n_shape], log_focal=cam[n_shape], principal=cam[n_shape + 1 :])
    return colour_rows(samples, albedo, light, x, moved, crop, flat_weights)

  cam = jnp.concatenate([near.shape, near.log_focal[None], near.principal])
  d_albedo = jnp.asarray(rng.standard_normal((N, 3)), jnp.float32)
  d_light = jnp.asarray(rng.standard_normal((9, 3)), jnp.float32)
  n_x, n_cam = x0.size, cam.size
  unit = jnp.eye(n_x + n_cam + 2)

  @jax.jit
  def both(x, cam, albedo, light):
    def column(d):
      tangent = d[:n_x], d[n_x : n_x + n_cam], d[-2] * d_albedo, d[-1] * d_light
      return jax.jvp(lambda *a: evaluate(*a).r, (x, cam, albedo, light), tangent)[1]

    return evaluate(x, cam, albedo, light), jax.lax.map(column, unit, batch_size=16)

  res, columns = both(x0, cam, albedo, light)
  columns = np.moveaxis(np.asarray(columns), 0, -1)  # (N, 3, n)
  good = np.asarray(samples.weight) > 0

  def check(name, a, b):
    a, b = np.asarray(a)[good], b[good]
    assert np.abs(a - b).max() < 2e-3 * np.abs(b).max(), name

  n_expr = n_x - 14
  check("expr", res.d_x[..., :n_expr], columns[..., :n_expr])
  for k, name in enumerate(("rotation", "place")):
    part = slice(n_expr + 3 * k, n_expr + 3 * k + 3)
    check(name, res.d_x[..., part], columns[..., part])
  check("joints", res.d_x[..., n_expr + 6 :], columns[..., n_expr + 6 : n_x])
  check("shape", res.d_shared[..., :n_shape], columns[..., n_x : n_x + n_shape])
  check("camera", res.d_shared[..., n_shape:], columns[..., n_x + n_shape : n_x + n_cam])
  check("albedo", res.d_albedo * d_albedo, columns[..., -2])
  check("light", res.gain * (res.d_light @ d_light), columns[..., -1])


@pytest.mark.differentiable
def test_residuals_are_the_gradient_of_the_robust_cost(samples, residuals, albedo, light, x_true, shared, crop):
  """J^T r is half the derivative of the cost, outliers included: by differences and, to rounding, by reverse mode."""
  colors = shade.sample_texture(albedo, samples.uv)
  outliers = crop.replace(rgb=jnp.clip(crop.rgb.at[40:60, 40:60].add(0.3), 0, 1))
  smooth = jax.image.resize(jax.image.resize(outliers.rgb, (28, 28, 3), "linear"), outliers.rgb.shape, "cubic")
  outliers = outliers.replace(rgb=smooth)
  rng = np.random.default_rng(0)
  x0 = x_true.at[-14:-8].add(jnp.asarray(0.01 * rng.standard_normal(6), jnp.float32))
  at = lambda x: residuals(samples, colors, light, x, shared, outliers)
  res = at(x0)
  length = np.sqrt(np.mean(np.asarray(res.r) ** 2, -1))
  assert (length > 1.5).any() and np.isfinite(res.r).all()
  gradient = np.einsum("nc,ncj->j", res.r, res.d_x)
  slope = np.asarray(jax.jit(jax.grad(lambda x: at(x).cost))(x0))
  np.testing.assert_allclose(2 * gradient, slope, rtol=1e-3, atol=1e-4 * np.abs(slope).max())
  for part in (slice(-14, -11), slice(-11, -9), slice(-9, -8)):
    direction = np.zeros(x0.size, np.float32)
    direction[part] = rng.standard_normal(part.stop - part.start)
    step = 2e-3
    numeric = (float(at(x0 + step * direction).cost) - float(at(x0 - step * direction).cost)) / (2 * step)
    np.testing.assert_allclose(numeric, 2 * gradient @ direction, rtol=0.1, atol=30.0)


def test_with_gradient_is_per_pixel():
  y, x = np.mgrid[0:8, 0:9].astype(np.float32)
  image = jnp.asarray(np.stack([x, 2 * y, x + y], -1))
  gx, gy = with_gradient(image)[..., 3:6], with_gradient(image)[..., 6:]
  np.testing.assert_allclose(gx[3, 4], [1, 0, 1])
  np.testing.assert_allclose(gy[3, 4], [0, 2, 1])


def test_both_lookups_agree_at_pixels():
  image = jnp.asarray(np.random.default_rng(0).random((8, 9, 3)), jnp.float32)
  y, x = (a.reshape(-1) + 0.5 for a in np.mgrid[1:7, 1:8])
  at = jnp.asarray(np.stack([x, y], -1), jnp.float32)
  one, other = (jax.jit(colour.look_up)(seen, at) for seen in (image, with_gradient(image)))
  np.testing.assert_allclose(one[0], other[0], atol=1e-6)
  np.testing.assert_allclose(one[1], other[1], atol=1e-6)


# --- exposure and texture --------------------------------------------------------------------------------------------


def test_albedos_stay_within_their_range():
  """Clipped, or without corners, which differs near the ends alone; both with their own slopes."""
  albedo = np.linspace(-0.2, 1.2, 1402).astype(np.float32)
  away = np.minimum(np.abs(albedo), np.abs(albedo - 1)) > colour.ROUND
  found, slopes = {}, {}
  for rounded in (False, True):
    of = jax.jit(
      jax.vmap(lambda a, r=rounded: (jax.grad(lambda b: colour.within_range(b, r)[0])(a), *colour.within_range(a, r)))
    )
    numeric, found[rounded], slopes[rounded] = of(albedo)
    np.testing.assert_allclose(slopes[rounded], numeric, atol=1e-6)
  np.testing.assert_allclose(found[True][away], np.clip(albedo, 0, 1)[away], atol=1e-6)
  assert np.abs(found[True] - found[False]).max() <= colour.ROUND / 4 + 1e-6
  assert np.abs(np.diff(slopes[True])).max() < 0.03  # no corner: slopes change over forty of these


@pytest.mark.parametrize("gain", [0.7, 1.0, 1.25])
def test_estimate_gain_recovers_the_exposure(samples, albedo, light, weights, gain):
  """With an occluder over a fifth of the samples."""
  colors = shade.sample_texture(albedo, samples.uv)
  normals = to_world(samples.seen_normal)
  seen = gain * shade.shade(colors, shade.shading(light, normals))
  seen = seen.at[: N // 5].set(jnp.array([[0.05, 0.5, 0.9]]))
  found = jax.jit(estimate_gain)(samples.replace(color=seen), colors, light, weights)
  np.testing.assert_allclose(found, gain, rtol=0.03)


@pytest.mark.faults
def test_estimate_gain_without_samples_is_one(samples, albedo, light, weights):
  colors = shade.sample_texture(albedo, samples.uv)
  none = samples.replace(weight=jnp.zeros(N))
  assert jax.jit(estimate_gain)(none, colors, light, weights) == 1.0


@pytest.mark.differentiable
def test_colours_that_say_nothing_have_derivatives(samples, albedo, light, weights):
  """Of infinite noise: no weight is divided by the length of 0."""
  colors = shade.sample_texture(albedo, samples.uv)

  @jax.jit
  @jax.grad
  def slope(given):
    sd, colors, seen = given
    some = weights.replace(sd_color=sd)
    gain = estimate_gain(samples.replace(color=seen), colors, light, some)
    no = jnp.zeros((N, 3, 1))
    found = colour.Differences(gain * colors - seen, no, {}, no[..., 0], jnp.zeros((N, 9)), no[..., 0])
    white = colour.whitened(found, {}, samples, some)
    return white.cost + jnp.sum(white.root) + jnp.sum(white.residual) + gain

  for sd in (0.03, np.inf):
    assert all(np.isfinite(g).all() for g in slope((jnp.float32(sd), colors, samples.color)))


def test_estimate_layer_recovers_texture_detail(
  surface, render, x_true, shared, albedo, light, detail, weights, samples
):
  """Two views of a face with unmodelled albedo at known pose: the layer is that albedo where it was seen."""
  code = jnp.zeros(surface.texture_basis.shape[-1])
  layer = jnp.zeros((LAYER_SIZE, LAYER_SIZE, 3))
  # What the renderer shows is mean + detail; only the detail is to be found.
  true = jnp.clip(surface.texture_mean + detail, 0, 1)
  xs = jnp.stack([x_true, x_true.at[-13].set(-0.3)])
  crops = [empty_crop() for _ in xs]
  crops = [c.replace(rgb=1.1 * render(x, shared, c, true, light)) for c, x in zip(crops, xs, strict=True)]
  crops = jax.tree.map(lambda *a: jnp.stack(a), *crops)
  estimate = jax.jit(
    lambda appearance: estimate_layer(
      surface, shared, appearance, xs, crops, jnp.full(2, 1.1), weights.replace(sd_layer=1.0)
    )
  )
  found = estimate(Appearance(code, layer, light))
  assert found.shape == layer.shape and np.isfinite(found).all()
  assert np.abs(found).max() <= 0.5
  full = jax.image.resize(found, detail.shape, "nearest")
  good = np.asarray(samples.weight) > 0
  a = np.asarray(shade.sample_texture(full, samples.uv))[good]
  b = np.asarray(shade.sample_texture(true - surface.texture_mean, samples.uv))[good]
  seen = np.abs(a).sum(-1) > 0
  assert seen.mean() > 0.7
  assert np.corrcoef(a[seen].ravel(), b[seen].ravel())[0, 1] > 0.8
  assert np.sqrt(np.mean((a - b)[seen] ** 2)) < 0.6 * np.sqrt(np.mean(b[seen] ** 2))
  # Texels that no frame shows stay at zero.
  assert (np.asarray(found) == 0).all(-1).mean() > 0.1


def test_albedo_map_adds_the_layer_and_clips(surface):
  layer = jnp.full((LAYER_SIZE, LAYER_SIZE, 3), 0.1)
  code = jnp.zeros(surface.texture_basis.shape[-1])
  make = jax.jit(albedo_map)
  plain = make(surface, Appearance(code, 0 * layer, jnp.zeros((9, 3))))
  np.testing.assert_allclose(plain, jnp.clip(surface.texture_mean, 0, 1), atol=1e-6)
  np.testing.assert_allclose(
    make(surface, Appearance(code, layer, jnp.zeros((9, 3)))), jnp.clip(surface.texture_mean + 0.1, 0, 1), atol=1e-6
  )


# --- fits ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit(surface, lm, shared, albedo, light):
  """(tracks, crop, weights, x0) -> x, and the error on fresh fragments at x0 and x; identity folded in."""
  folded = jax.jit(fold_surface)(surface, shared.shape)
  model, known = frame.fold_landmarks(lm, shared)

  @jax.jit
  def run(tracks, crop, weights, x0):
    found = frame.fit_frame_colours(
      folded, model, albedo, light, known, tracks, crop, weights, x0, n_samples=N, outer_steps=3
    )
    error = jax.vmap(lambda x: photometric_l1(folded, albedo, light, known, crop, x))(jnp.stack([x0, found.x]))
    return found.x, error, found.normal, found.difference

  return run


def test_fit_frame_recovers_the_pose(fit, tracks, crop, weights, x_true):
  """Landmarks 1.5 % off, all to one side: the colours pull the head back, and the fresh photometric error falls."""
  confident = weights.replace(photo_pixels=2000.0)
  biased = tracks.replace(uv=tracks.uv + 0.006, inverse_sd=tracks.inverse_sd * 0.2)
  x0 = x_true.at[-13].add(0.06).at[-11].add(0.012).at[-9].add(0.03)
  x, error, normal, sampled = fit(biased, crop, confident, x0)
  assert float(sampled) == pytest.approx(float(error[1]), rel=0.3)  # of the pixels that count, not of all
  assert error[1] < 0.5 * error[0]
  before, after = (np.abs(np.asarray(v - x_true)) for v in (x0, x))
  assert after[-13] < 0.4 * before[-13]  # yaw
  assert after[-11] < 0.3 * before[-11]  # place
  assert np.isfinite(normal.matrix).all()
  # An exposure of 1.2 changes nothing: it is estimated.
  exposed, _, _, _ = fit(biased, crop.replace(rgb=crop.rgb * 0.8), confident, x0)
  np.testing.assert_allclose(exposed[-11:-9], x[-11:-9], atol=2e-3)


@pytest.mark.faults
@pytest.mark.parametrize("where", ["half", "corner", "outside"])
def test_heads_partly_outside_the_image_are_finite(fit, tracks, crop, weights, x_true, where):
  """The crop's padding is masked; a head outside of it altogether leaves the landmarks alone."""
  inside = np.ones((SIZE, SIZE), np.float32)
  if where == "half":
    inside[:, SIZE // 2 :] = 0
  if where == "corner":
    inside[:] = 0
    inside[:30, :30] = 1
  offset = jnp.array([5000.0, -3000.0]) if where == "outside" else crop.offset
  x, error, normal, _ = fit(tracks, crop.replace(inside=jnp.asarray(inside), offset=offset), weights, x_true + 0.01)
  assert np.isfinite(x).all() and np.isfinite(error).all()
  for leaf in jax.tree.leaves(normal):
    assert np.isfinite(leaf).all()
  np.testing.assert_allclose(x[-11:-9], x_true[-11:-9], atol=0.01)


def test_padded_pixels_are_not_sampled(sample, x_true, shared, crop):
  inside = crop.inside.at[:, : SIZE // 2].set(0.0)
  colored = crop.replace(rgb=crop.rgb.at[:, : SIZE // 2].set(9.0), inside=inside)
  samples = sample(x_true, shared, colored)
  assert np.asarray(samples.color)[np.asarray(samples.weight) > 0].max() < 2.0


@pytest.mark.faults
def test_no_sample_counts_when_the_head_is_out_of_view(sample, x_true, shared, crop):
  samples = sample(x_true, shared, crop.replace(offset=jnp.array([1e4, 1e4])))
  np.testing.assert_array_equal(samples.weight, 0)
  for field in dataclasses.fields(samples):
    for leaf in jax.tree.leaves(getattr(samples, field.name)):
      assert np.isfinite(leaf).all(), field.name


def test_components_that_nobody_sees_do_not_dilute_the_identity(open_head):
  """What says how far colours may change the identity: the mean over the open head's, whatever else a head has."""
  shape = jnp.asarray(np.random.default_rng(0).standard_normal(100), jnp.float32)
  expected = float(jnp.mean(shape**2))
  directions = open_head.shapedirs
  found = mean_square(directions, shape)
  assert directions.shape[-1] == 100 and float(found) == pytest.approx(expected, rel=1e-6)
  weak = 0.03e-3 / np.sqrt(3) * np.ones((len(directions), 3, 200))  # m: about what FLAME's last components do
  padded = jnp.concatenate([directions, jnp.asarray(weak, jnp.float32)], -1)
  found = mean_square(padded, jnp.concatenate([shape, jnp.zeros(200)]))
  assert float(found) == pytest.approx(expected, rel=1e-6)
  assert float(mean_square(directions[..., :0], shape[:0])) == 0


@pytest.mark.slow
def test_fit_identity_improves_shape_and_appearance(
  surface, lm, shared, render, albedo, light, x_true, weights, tracks
):
  """Two keyframes, texture and light unknown: the energy on fresh fragments falls and the light comes out."""
  xs = jnp.stack([x_true, x_true.at[-13].set(-0.3)])
  crops = [empty_crop() for _ in xs]
  crops = [c.replace(rgb=render(x, shared, c, albedo, light)) for c, x in zip(crops, xs, strict=True)]
  crops = jax.tree.map(lambda *a: jnp.stack(a), *crops)
  make = jax.jit(
    jax.vmap(
      lambda x: observed.observe_landmarks(
        lm,
        landmarks.predict(lm, x, shared) * 1000 + 500,
        jnp.ones(70, jnp.float32),
        (1000, 1000),
      )
    )
  )
  start = Appearance(
    jnp.zeros(4),
    jnp.zeros((LAYER_SIZE, LAYER_SIZE, 3)),
    jnp.zeros((9, 3)).at[0].set(np.sqrt(4 * np.pi)),
  )
  prior = (shared.log_focal, jnp.float32(2e-3))

  @jax.jit
  def run(xs, appearance):
    return fit_keyframes(
      surface, lm, shared, appearance, make(xs), crops, xs, weights, prior, jnp.float32(50), n_samples=N, outer_steps=4
    )[:-1]

  @jax.jit
  def error(shared, appearance, xs):
    albedo = albedo_map(surface, appearance)
    one = lambda a: photometric_l1(surface, albedo, appearance.light, shared, a[0], a[1])
    return jnp.mean(jax.lax.map(one, (crops, xs)))

  found, appearance, poses, pixels, costs, information = run(xs, start)
  before, after = error(shared, start, xs), error(found, appearance, poses)
  assert 50 <= pixels <= weights.photo_pixels
  assert after < 0.4 * before and after < 0.04
  assert np.isfinite(costs).all() and costs[-1] < costs[0]
  unknown = found.replace(own={"texture": appearance.texture, "light": appearance.light})
  known = shape_information(information, shared_layout(unknown), 0.0)
  assert np.linalg.eigvalsh(known).min() > 0.9 * float(weights.w_identity)  # never less than is known of people
  np.testing.assert_allclose(jnp.exp(found.log_focal), FOCAL, rtol=0.02)
  np.testing.assert_allclose(appearance.light[0], light[0], rtol=0.25)
  assert np.abs(np.asarray(poses - xs)[:, -14:-8]).max() < 0.1
