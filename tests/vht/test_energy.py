"""The energy against the original's own numbers, in float32 and float64, and what must hold without them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import parity_file, parity_model

from vht_jax.cameras import from_vht_intrinsics, make_camera, project
from vht_jax.config import Weights
from vht_jax.head import flame
from vht_jax.render.image import gaussian_blur, sample_bilinear
from vht_jax.render.shade import interpolate_corners, sample_texture, shade, shading
from vht_jax.types import Fragments, Identity, Observations, RawPose
from vht_jax.vht import energy as en

CASES = [f"{d}_s{s}_{kind}" for d in "AB" for s in (1, 2) for kind in ("init", "frame3")]
STEPS = (0, 1, 20)
SIGMA = {0: 10.0, 1: 10.0**0.5, 20: 1e-4}
# Relative L2 of gradients, cached, at scale 1: bilinear sampling sits at its kinks there (pack's README, surprise 2).
CACHED_SCALE_1 = {0: 3e-3, 1: 1e-2, 20: 0.1}
# The same with pixels on the original's side of kinks that they are nearer to than AT_KINK, px: places here differ from
# those in float64 by up to 1.7e-5, 2.2 spacings of float32 at the image's far side, and the original's do as well.
BESIDE_KINKS = {0: 2e-4, 1: 1e-3, 20: 5e-3}
AT_KINK = 3e-5


@pytest.fixture(scope="module")
def model(shared_data):
  return flame.without_lower_neck(parity_model(shared_data))


@pytest.fixture(scope="module")
def pack(shared_data):
  return parity_file(shared_data, "parity_energy.npz")


@pytest.fixture(scope="module")
def pack64(shared_data):
  return parity_file(shared_data, "parity_energy_f64.npz")


def case_inputs(pack, model, case):
  """Identity, raw, observations, fragments and reference translation of a case of the pack."""
  data = case[0]
  frames = [0, 2, 4] if case.endswith("init") else [3]
  raw = RawPose(
    expr=pack["param_expr"][frames],
    rotation=pack["param_rotation"][frames],
    translation=pack["param_translation"][frames],
    neck=pack["param_neck_pose"][frames],
    jaw=pack["param_jaw_pose"][frames],
    eyes=pack["param_eyes_pose"][frames].reshape(-1, 2, 3),
  )
  identity = Identity(
    shape=pack["param_shape"],
    texture=pack["param_texture"],
    light=pack["param_light"],
    camera=from_vht_intrinsics(jnp.asarray(pack[f"{data}_K"])),
    lmk_offset=np.zeros((70, 3), np.float32),
  )
  lmk = pack[f"{case}_lmk2d"]
  observations = Observations(
    rgb=pack[f"{data}_gt_uint8"][frames].astype(np.float32) / np.float32(255),
    landmarks=lmk[..., :2],
    confidence=lmk[..., 2],
    valid=np.ones(len(frames), bool),
  )
  face = pack[f"{case}_pix_to_face"][..., 0]
  n_faces = model.faces.shape[0]
  packed = np.arange(len(frames), dtype=np.int32)[:, None, None] * n_faces
  fragments = Fragments(
    pix_to_face=np.where(face >= 0, face - packed, -1),
    bary_coords=pack[f"{case}_bary_coords"][..., 0, :],
    zbuf=pack[f"{case}_zbuf"][..., 0],
  )
  reference = None if case.endswith("init") else pack[f"{data}_prev_translation"]
  return jax.tree.map(jnp.asarray, (identity, raw, observations, fragments, reference))


@jax.jit
def blurred(rgb, sigma):
  return jax.vmap(lambda x: gaussian_blur(x, sigma))(rgb)


@jax.jit
def value_and_grad(model, inputs, targets, gate):
  identity, raw, observations, fragments, reference = inputs
  pixels = jax.vmap(lambda f: en.pixels_of(model, f))(fragments)
  weights = Weights()

  def loss(identity, raw, reference):
    return en.energy(
      model, identity, raw, observations, targets, pixels, weights, reference=reference, screen_gradient=gate
    )

  argnums = (0, 1) if reference is None else (0, 1, 2)
  return jax.value_and_grad(loss, argnums, has_aux=True)(identity, raw, reference)


def as_vht(gradient):
  """Our gradient with VHT's names; cy is measured from the bottom there."""
  identity, raw, *reference = gradient
  camera = identity.camera
  out = {
    "shape": identity.shape,
    "texture": identity.texture,
    "light": identity.light,
    "K": np.array([camera.focal, camera.principal[0], -camera.principal[1]]),
    "expr": raw.expr,
    "rotation": raw.rotation,
    "neck_pose": raw.neck,
    "jaw_pose": raw.jaw,
    "eyes_pose": raw.eyes.reshape(-1, 6),
    "translation": raw.translation,
  }
  return {k: np.asarray(v) for k, v in (out | ({"prev_translation": reference[0]} if reference else {})).items()}


def relative(ours, theirs):
  return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def deviations(pack, model, case, step, dtype=np.float32):
  """Per term and per gradient tensor the relative deviation from a golden file."""

  def cast(tree):
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

  inputs = cast(case_inputs(pack["f32"], model, case))
  targets = blurred(inputs[2].rgb, jnp.asarray(SIGMA[step], dtype))
  out = {}
  for kind, gate in (("fresh", 0.0), ("cached", 1.0)):
    (total, terms), gradient = value_and_grad(cast(model), inputs, targets, jnp.asarray(gate, dtype))
    golden = pack["golden"]
    for name, value in (terms | {"total": total}).items():
      expected = golden[f"{case}_step{step}_E_{name}"]
      out["E", name] = abs(float(value) - expected) / max(abs(expected), 1e-12)
    for name, value in as_vht(gradient).items():
      expected = golden[f"{case}_step{step}_grad_{kind}_{name}"].reshape(value.shape)
      out[kind, name] = relative(value, expected) if np.any(expected) else float(np.abs(value).max())
  return out


QUICK = "A_s2_init"  # each is one compilation
CASES_MARKED = [c if c == QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES]


@pytest.mark.differentiable
@pytest.mark.parametrize("case", CASES_MARKED)
def test_terms_and_gradients_equal_the_originals(pack, model, case):
  for step in STEPS:
    for (kind, name), value in deviations({"f32": pack, "golden": pack}, model, case, step).items():
      if kind == "cached" and case[3] == "1" and case not in QUICK:
        continue  # held to less by `test_at_scale_1_gradients_differ_by_pixels_on_a_kink`
      tolerance = {"E": 1e-4 if name == "pos" else 2e-5, "fresh": 2e-3}
      tolerance["cached"] = CACHED_SCALE_1[step] if case[3] == "1" else 5e-3
      assert value < tolerance[kind], f"step {step}, {kind} {name}: {value:.1e}"


@pytest.mark.slow
@pytest.mark.differentiable
@pytest.mark.parametrize("case", [c for c in CASES if c[3] == "2"])
def test_in_float64_the_formulas_agree_much_closer(pack, pack64, model, case):
  with jax.enable_x64(True):
    for step in STEPS:
      # One pixel of this case has a residual of 0 up to rounding, and an absolute value has no derivative there.
      tolerance = 5e-4 if (case, step) == ("A_s2_init", 0) else 3e-6
      for key, value in deviations({"f32": pack, "golden": pack64}, model, case, step, np.float64).items():
        assert value < tolerance, f"step {step}, {key}: {value:.1e}"


@jax.jit
def samples(model, inputs, targets):
  """Where pixels look images up (F, P, 2) px, the slopes there, above and below (F, P, 2), and if they do (F, P)."""
  identity, raws, _, fragments, _ = inputs
  size = targets.shape[1:3]
  across = 1e-4  # px, over a kink but hardly farther
  texture = flame.albedo(model, identity.texture, identity.texture_layer)

  def frame(raw, fragments, target):
    pixels = en.pixels_of(model, fragments)
    vertices = flame.skin(model, identity.shape, flame.limit_pose(raw))
    screen, normals = project(identity.camera, vertices, size)[:, :2], flame.vertex_normals(vertices, model.faces)
    surface = interpolate_corners(jnp.concatenate([screen, normals], -1)[model.faces], pixels.fragments)[0]
    places, normals = surface[:, :2], surface[None, :, 2:]
    rendered = shade(sample_texture(texture, pixels.uv), shading(identity.light, normals))[0]
    sign = jnp.sign(sample_bilinear(target, places) - rendered)
    slope = jax.grad(lambda places: jnp.sum(sign * sample_bilinear(target, places)))
    return places, slope(places + across), slope(places - across), pixels.fragments.pix_to_face[0] >= 0

  return jax.vmap(frame)(raws, fragments, targets)


@jax.jit
def gradients_by_place(model, inputs, frames, pixels, cotangents):
  """Of each cotangent (K, 2) times the place of a pixel of a frame."""
  identity, raws, observations, fragments, _ = inputs
  size = observations.rgb.shape[1:3]

  def pull(at):
    frame, pixel, cotangent = at
    face = fragments.pix_to_face[frame].reshape(-1)[pixel]
    bary = fragments.bary_coords[frame].reshape(-1, 3)[pixel]

    def along(identity, raws):
      raw = jax.tree.map(lambda x: x[frame], raws)
      vertices = flame.skin(model, identity.shape, flame.limit_pose(raw))
      corners = project(identity.camera, vertices[model.faces[face]], size)[:, :2]
      return jnp.sum(bary[:, None] * corners * cotangent[None])

    return jax.grad(along, (0, 1))(identity, raws)

  return jax.lax.map(pull, (frames, pixels, cotangents))


def on_the_other_side(model, inputs, targets):
  """What the gradient changes by if a pixel within rounding of a kink, along x or y, is on its other side."""
  places, above, below, seen = (np.asarray(a) for a in samples(model, inputs, targets))
  beside = places - 0.5 - np.round(places - 0.5)
  other = np.where(beside >= 0, below - above, above - below) * float(Weights().w_photo) / (seen.sum() * 3)
  near = np.abs(beside) < AT_KINK
  frames, pixels, axes = np.nonzero(near & seen[..., None] & (other != 0))
  cotangents = np.where(np.arange(2) == axes[:, None], other[frames, pixels], 0).astype(np.float32)
  found = gradients_by_place(model, inputs, frames.astype(np.int32), pixels.astype(np.int32), cotangents)
  return [as_vht(jax.tree.map(lambda x: x[k], found)) for k in range(len(frames))]


def unexplained(columns, rest):
  """What is left of `rest` (n,) when the columns (n, K) that help are added, each whole or not at all; and how many."""
  taken = np.zeros(columns.shape[1], bool)
  while True:
    sign = np.where(taken, -1, 1)
    change = 2 * sign * (rest @ columns) + np.sum(columns**2, axis=0)
    best = int(np.argmin(change))
    if change[best] > -1e-12:
      return rest, int(taken.sum())
    rest = rest + sign[best] * columns[:, best]
    taken[best] = not taken[best]


@pytest.mark.slow
@pytest.mark.differentiable
@pytest.mark.parametrize("case", [c for c in CASES if c[3] == "1"])
def test_at_scale_1_gradients_differ_by_pixels_on_a_kink(pack, model, case):
  """Rounding chooses the side of a few pixels: with these on the original's, nothing is left of the difference.

  They are too few, and taken whole or not at all, to explain anything else: a gradient that is wrong by 1 % stays so.
  """
  inputs = case_inputs(pack, model, case)
  for step in STEPS:
    targets = blurred(inputs[2].rgb, jnp.float32(SIGMA[step]))
    ours = as_vht(value_and_grad(model, inputs, targets, jnp.float32(1.0))[1])
    theirs = {name: pack[f"{case}_step{step}_grad_cached_{name}"].reshape(g.shape) for name, g in ours.items()}
    names = [name for name, g in theirs.items() if np.any(g)]
    scaled = lambda g, n: np.ravel(g.get(n, 0 * theirs[n])) / np.linalg.norm(theirs[n])  # places know no reference
    flat = lambda g: np.concatenate([scaled(g, n) for n in names]).astype(np.float64)
    columns = np.stack([flat(g) for g in on_the_other_side(model, inputs, targets)], axis=1)
    ends = np.cumsum([theirs[name].size for name in names])[:-1]

    def deviation(wrong):
      rest, n = unexplained(columns, wrong * flat(ours) - flat(theirs))
      return max(np.linalg.norm(part) for part in np.split(rest, ends)), n

    left, n = deviation(1.0)
    assert left < BESIDE_KINKS[step], (
      f"step {step}: {left:.1e} with {n} of {columns.shape[1]} pixels on their other side"
    )
    assert deviation(1.01)[0] > 0.009


SIZE = (64, 80)


@pytest.fixture(scope="module")
def scene(open_head):
  """A head rendered smoothly enough for finite differences: identity, raw pose, observation, target, pixels."""
  head = flame.without_lower_neck(open_head)
  rng = np.random.default_rng(0)
  n_shape, n_expr, n_texture = head.shapedirs.shape[-1], head.exprdirs.shape[-1], head.texture_basis.shape[-1]
  light = np.zeros((9, 3), np.float32)
  light[0] = np.sqrt(4 * np.pi)
  identity = Identity(
    shape=rng.normal(0, 0.3, n_shape).astype(np.float32),
    texture=rng.normal(0, 0.3, n_texture).astype(np.float32),
    light=(light + rng.normal(0, 0.05, (9, 3))).astype(np.float32),
    camera=make_camera(1.8),
    lmk_offset=np.zeros((70, 3), np.float32),
  )
  identity = jax.tree.map(jnp.asarray, identity)
  pose = flame.neutral_pose(head)
  pose = pose.replace(
    expr=jnp.asarray(rng.uniform(0, 0.2, n_expr).astype(np.float32)),
    rotation=pose.rotation + jnp.array([0.05, 0.1, -0.05]),
    neck=jnp.array([0.05, -0.03, 0.02]),
    eyes=jnp.array([[0.02, 0.1, 0.0], [0.0, 0.05, 0.0]]),
  )
  points = lambda pose: flame.landmarks(head, flame.skin(head, identity.shape, pose))
  landmarks = jax.jit(lambda pose: project(identity.camera, points(pose), SIZE)[:, :2])(pose)
  raw = jax.jit(flame.unlimit_pose)(pose)
  y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 20.0
  rgb = np.stack([0.5 + 0.3 * np.sin(x), 0.5 + 0.3 * np.cos(y), 0.5 + 0.2 * np.sin(x + y)], axis=-1)
  observation = Observations(
    rgb=jnp.asarray(rgb, jnp.float32),
    # Never close to 0, where an absolute value has no derivative.
    landmarks=landmarks + jnp.asarray(rng.choice([-1, 1], (70, 2)) * rng.uniform(1, 2, (70, 2)), jnp.float32),
    confidence=jnp.ones(70),
    valid=jnp.array(True),
  )
  return head, identity, raw, observation, seen(head, identity, pose)


@functools.partial(jax.jit, static_argnames="budget")
def seen(head, identity, pose, budget=0, phase=0.5):
  return en.visible_pixels(head, identity, pose, SIZE, budget=budget, phase=phase)


def one(tree):
  return jax.tree.map(lambda x: x[None], tree)


@jax.jit
def energy_of(head, identity, raw, observation, pixels, reference):
  return en.energy(
    head, identity, one(raw), one(observation), observation.rgb[None], one(pixels), Weights(), reference=reference
  )


gradient_of = jax.jit(jax.grad(lambda *args: energy_of(*args)[0], argnums=(1, 2)))


@pytest.mark.differentiable
@pytest.mark.slow
def test_gradient_equals_finite_differences(scene):
  head, identity, raw, observation, pixels = scene
  reference = raw.translation + 0.01
  gradients = gradient_of(head, identity, raw, observation, pixels, reference)
  rng = np.random.default_rng(1)

  def check(which, name, h):
    where = (identity, raw)[which]
    direction = jnp.asarray(rng.normal(size=getattr(where, name).shape), jnp.float32)
    direction = direction / jnp.linalg.norm(direction)

    def at(t):
      arguments = [identity, raw]
      arguments[which] = where.replace(**{name: getattr(where, name) + t * direction})
      return float(energy_of(head, *arguments, observation, pixels, reference)[0])

    along = float(jnp.sum(getattr(gradients[which], name) * direction))
    assert along == pytest.approx((at(h) - at(-h)) / (2 * h), rel=0.03, abs=0.03), name

  for name in ("shape", "texture", "light"):
    check(0, name, 5e-3)
  for name in ("expr", "rotation", "neck", "jaw", "eyes"):
    check(1, name, 5e-4)
  check(1, "translation", 2e-4)


@pytest.mark.faults
def test_missing_landmarks_do_not_count_and_make_no_nan(scene):
  head, identity, raw, observation, pixels = scene
  missing = observation.replace(
    landmarks=observation.landmarks.at[68:].set(jnp.nan), confidence=observation.confidence.at[68:].set(0.0)
  )
  total, terms = energy_of(head, identity, raw, missing, pixels, raw.translation)
  complete = energy_of(head, identity, raw, observation, pixels, raw.translation)[1]
  assert float(terms["eyes_lmk"]) == 0.0
  assert float(terms["lmk"]) == pytest.approx(float(complete["lmk"]))
  assert np.isfinite(float(total))
  gradient = gradient_of(head, identity, raw, missing, pixels, raw.translation)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.faults
def test_a_frame_without_a_face_keeps_its_photometric_term_only(scene):
  head, identity, raw, observation, pixels = scene
  none = observation.replace(valid=jnp.array(False), landmarks=jnp.full((70, 2), jnp.nan))
  terms = energy_of(head, identity, raw, none, pixels, raw.translation)[1]
  complete = energy_of(head, identity, raw, observation, pixels, raw.translation)[1]
  assert float(terms["lmk"]) == float(terms["eyes_lmk"]) == 0.0
  assert float(terms["photo"]) == pytest.approx(float(complete["photo"]))


@pytest.mark.faults
def test_a_head_outside_the_image_has_no_photometric_term(scene):
  head, identity, raw, observation, _ = scene
  away = raw.replace(translation=raw.translation + jnp.array([50.0, 0.0, 0.0]))
  pixels = seen(head, identity, flame.limit_pose(away))
  assert float(pixels.count) == 0.0
  assert float(energy_of(head, identity, away, observation, pixels, raw.translation)[1]["photo"]) == 0.0
  gradient = gradient_of(head, identity, away, observation, pixels, raw.translation)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_pixel_budget_takes_all_or_an_even_spread(scene):
  head, identity, raw, observation, every = scene
  pose = flame.limit_pose(raw)
  total = int(every.count)

  def photo(pixels):
    return float(energy_of(head, identity, raw, observation, pixels, raw.translation)[1]["photo"])

  enough = seen(head, identity, pose, budget=total + 7)
  assert photo(enough) == pytest.approx(photo(every), rel=1e-5)

  budget = total // 4
  phases = (np.arange(8) / 8).astype(np.float32)
  parts = [seen(head, identity, pose, budget=budget, phase=p) for p in phases]
  for part in parts:
    assert part.fragments.pix_to_face.shape == (1, budget)
    assert int((part.fragments.pix_to_face >= 0).sum()) == budget
    assert photo(part) == pytest.approx(photo(every), rel=0.1)
  assert np.mean([photo(part) for part in parts]) == pytest.approx(photo(every), rel=0.01)


def test_neutral_pose_costs_nothing(scene):
  head = scene[0]
  raw = flame.unlimit_pose(flame.neutral_pose(head))
  assert float(en.joint_energy(raw, Weights())) == pytest.approx(0.0, abs=1e-10)
  assert float(en.eye_symmetry_energy(raw.eyes)) == 0.0


def test_landmarks_are_compared_along_each_axis_by_its_own_length(scene):
  observation = scene[3]
  moved = observation.landmarks + jnp.array([[SIZE[1] / 2 * 0.1, -SIZE[0] / 2 * 0.2]])
  lmk, eyes_lmk = en.landmark_energy(moved, observation, SIZE)
  assert float(lmk) == pytest.approx(0.3, rel=1e-4)
  assert float(eyes_lmk) == pytest.approx(0.3, rel=1e-4)


def test_detector_bias_turns_with_the_head(scene):
  head, identity, raw, _, _ = scene
  vertices = jax.jit(lambda: flame.skin(head, identity.shape, flame.limit_pose(raw)))()
  predict = jax.jit(lambda identity, raw: en.predict_landmarks(head, identity, raw, vertices, SIZE))
  forward = identity.replace(lmk_offset=jnp.zeros((70, 3)).at[:, 1].set(0.01))
  up = predict(forward, raw)
  down = predict(forward, raw.replace(rotation=jnp.array([jnp.pi, 0.0, 0.0])))
  plain = predict(identity, raw)
  assert bool((up[:, 1] < plain[:, 1]).all())
  assert bool((down[:, 1] > plain[:, 1]).all())
