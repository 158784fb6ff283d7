"""Photometric Gauss-Newton as a pure function: its derivatives against central differences, batching, refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import clip, landmark_model, quick_jit, slopes, tiny_head, weigh

from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled
from vht_jax.option import options
from vht_jax.render.picture import render_head
from vht_jax.tracking import pure
from vht_jax.tracking.crops import crop_head
from vht_jax.tracking.pure import fit_identity, track_fn
from vht_jax.tracking.pure.colours import crop_of, painted, unseen_without
from vht_jax.types import Status

pytestmark = pytest.mark.differentiable

CONFIG = TrackConfig.of(crop_size=40, n_samples=150)
SIZE = (56, 48)  # H, W px
SPREADS = ("sd_landmark", "sd_color", "frame_pixels", "photo_pixels")
HEAD = ("v_template", "exprdirs", "posedirs", "texture_mean", "uv")
BAR = 1e-4  # relative
SMALL = 1e-5  # the largest step of differences, relative: larger ones change which triangles some pixels see
UNROLLED = Unrolled(max_steps=2, checkpoint=0)  # as many steps as the app's; all kept, the smaller program
POSE = ("rotation", "translation", "expr", "jaw")
# They hardly matter: larger steps for them.
FAINT = ("lmk_offset", "exprdirs", "posedirs", "photo_pixels", "w_identity", "expr", "jaw")


def seen_clip(open_head, dtype, n_frames=3, yaw=0.0):
  """Images of a head beside an off-centre principal point, with noise; the second frame is not valid."""
  head = tiny_head(open_head, dtype=dtype)
  observations, truth = clip(head, n_frames=n_frames, noise_px=0.05, yaw=yaw)
  moved = jnp.array([0.46, 0.53], dtype)
  camera = truth.identity.camera
  size = jnp.array([SIZE[1], SIZE[0]], dtype)
  points = observations.landmarks * (SIZE[0] / 120) + ((moved - camera.principal) * size)[None, None]
  truth = truth.replace(identity=truth.identity.replace(camera=camera.replace(principal=moved)))
  rng = np.random.default_rng(3)
  rgb = quick_jit(jax.vmap(lambda p: render_head(head, truth.identity, p, SIZE).rgb))(truth.poses)
  rgb = jnp.clip(rgb + jnp.asarray(0.02 * rng.standard_normal(rgb.shape), dtype), 0, 1)
  valid = jnp.arange(n_frames) != 1
  return head, observations.replace(rgb=rgb, landmarks=points, valid=valid), truth


def equals_differences(run, gradient, inputs, left_out=(), n_frames=0):
  """Checks the gradient of `run` at inputs, {part: {name: array}}, but for those that are left out; as `slopes`."""
  found = {}
  for largest, wanted in ((SMALL, lambda name: name not in FAINT), (100 * SMALL, lambda name: name in FAINT)):
    counts = lambda name, wanted=wanted: wanted(name) and name not in left_out
    some = lambda tree, counts=counts: {k: {n: a for n, a in part.items() if counts(n)} for k, part in tree.items()}
    whole = lambda part: {k: {**inputs[k], **part[k]} for k in inputs}
    found |= slopes(lambda part: run(whole(part)), some(gradient), some(inputs), largest, n_frames=n_frames)
  lines = [(name, *each) for name, three in found.items() for each in zip(*map(np.atleast_1d, three), strict=True)]
  for name, exact, numeric, spread in lines:
    print(f"{name:28s} {exact: .3e}, error {abs(numeric / (exact or 1) - 1):.0e}, of differences {spread:.0e}")
  for name, exact, numeric, spread in lines:
    assert spread <= BAR * abs(numeric), (name, "the differences are no judge", numeric, spread)
    assert abs(numeric - exact) <= BAR * abs(numeric), (name, exact, numeric)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", [Implicit(accuracy=1e-12), UNROLLED], ids=["implicit", "unrolled"])
def test_derivatives_equal_central_differences(open_head, adjoint):
  """Unrolled by the app's two steps a choice of pixels, which do not forget where they began. At the minimum also with
  heads that look aside by 60 degrees, and where images count nothing."""
  unrolled = isinstance(adjoint, Unrolled)
  with jax.enable_x64(True):
    head, observations, init = seen_clip(open_head, np.float64)
    identity, camera = init.identity, init.identity.camera
    inputs = {
      "observed": {name: getattr(observations, name) for name in ("rgb", "landmarks", "confidence")},
      "weights": {name: jnp.asarray(getattr(Weights(), name), np.float64) for name in SPREADS},
      "identity": {name: getattr(identity, name) for name in ("shape", "texture", "light", "lmk_offset")},
      "camera": {name: getattr(camera, name) for name in ("focal", "principal")},
      "model": {name: getattr(head, name) for name in HEAD},
      "poses": {name: getattr(init.poses, name) for name in POSE},
    }

    def loss(d):
      person = identity.replace(**d["identity"], camera=camera.replace(**d["camera"]))
      result = track_fn(
        head.replace(**d["model"]), observations.replace(**d["observed"]), CONFIG, Weights().replace(**d["weights"]),
        init.replace(identity=person, poses=init.poses.replace(**d["poses"])), adjoint=adjoint,
      )  # fmt: skip
      return weigh(result.poses) + 1e-3 * jnp.sum(result.energies["total"]), result

    program = quick_jit(jax.grad(loss, has_aux=True))
    gradient, result = program(inputs)
    print(result.stationary, result.energies)
    assert int(result.left_out) == 0 and result.status[1] == Status.INTERPOLATED
    assert unrolled == bool(jnp.max(result.stationary.frames) > Implicit().stationary)  # it stops before the minimum
    of_image = np.abs(np.asarray(gradient["observed"]["rgb"])).max((1, 2, 3))
    assert of_image[1] == 0 and (of_image[[0, 2]] > 0).all()
    run = quick_jit(lambda d: loss(d)[0])
    if unrolled:
      return equals_differences(run, gradient, inputs)
    assert all((np.asarray(a) == 0).all() for a in gradient["poses"].values())
    equals_differences(run, gradient, inputs, left_out=POSE)

    some = (*POSE, *HEAD, *FAINT, "confidence", "texture", "light")
    _, observations, truth = seen_clip(open_head, np.float64, yaw=np.radians(60))
    aside = {
      "observed": {name: getattr(observations, name) for name in inputs["observed"]},
      "poses": {name: getattr(truth.poses, name) for name in POSE},
    }
    blind = inputs["weights"] | {"frame_pixels": jnp.zeros(()), "photo_pixels": jnp.zeros(())}
    for changed, left_out in ((aside, some), ({"weights": blind}, (*some, "frame_pixels", "sd_color"))):
      other = inputs | changed
      gradient, result = program(other)
      print(result.stationary, jnp.degrees(result.poses.rotation[0]))
      assert int(result.left_out) == 0
      equals_differences(run, gradient, other, left_out)
    nothing = gradient["observed"]["rgb"], gradient["weights"]["sd_color"]
    assert all((np.asarray(slope) == 0).all() for slope in nothing)


@pytest.mark.slow
def test_derivatives_of_twelve_frames_equal_central_differences(open_head):
  """Frames without a face are at the beginning, inside and at the end. Twelve frames are twelve times as likely to jump
  between the two ends of a difference, as one pixel sees another triangle: so each is looked at by itself."""
  with jax.enable_x64(True):
    head, observations, init = seen_clip(open_head, np.float64, n_frames=12)
    without = np.array([0, 5, 6, 11])
    confidence = observations.confidence.at[without[:2]].set(0.0)
    observations = observations.replace(confidence=confidence, valid=jnp.ones(12, bool).at[without[2:]].set(False))
    config = TrackConfig.of(crop_size=40, n_samples=100, frame_steps=1)
    inputs = {
      "observed": {name: getattr(observations, name) for name in ("rgb", "landmarks")},
      "weights": {name: jnp.asarray(getattr(Weights(), name), np.float64) for name in ("sd_landmark", "sd_color")},
    }

    def loss(d):
      seen, weights = observations.replace(**d["observed"]), Weights().replace(**d["weights"])
      result = track_fn(head, seen, config, weights, init, adjoint=Implicit(accuracy=1e-12))
      by_frame = jnp.where(result.status == Status.TRACKED, jax.vmap(weigh)(result.poses), 0.0)
      return jnp.sum(by_frame), (by_frame, result)

    program = quick_jit(jax.value_and_grad(loss, has_aux=True))
    (_, (_, result)), gradient = program(inputs)
    print(result.stationary)
    assert int(result.left_out) == 0
    assert (np.flatnonzero(result.status == Status.INTERPOLATED) == without).all()
    for slope in gradient["observed"].values():
      of_frame = np.abs(np.asarray(slope)).reshape(12, -1).max(1)
      assert (of_frame[without] == 0).all() and (np.delete(of_frame, without) > 0).all()
    equals_differences(lambda d: program(d)[0][1][0], gradient, inputs, n_frames=12)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", [Implicit(accuracy=1e-12), UNROLLED], ids=["implicit", "unrolled"])
def test_derivatives_of_an_unknown_person_equal_central_differences(open_head, adjoint):
  """Camera, person, light and poses from images of two frames, and of one: three solves for colours alone and one for
  all unknowns. What follows, frames of a known person, is above."""
  with jax.enable_x64(True):
    head, observations, _ = seen_clip(open_head, np.float64)
    config = TrackConfig.of(crop_size=40, n_samples=150, identity_steps=4, frame_steps=1)
    inputs = {
      "observed": {name: getattr(observations, name) for name in ("rgb", "landmarks", "confidence")},
      "weights": {name: jnp.asarray(getattr(Weights(), name), np.float64) for name in ("sd_color", "w_identity")},
      "model": {"v_template": head.v_template},
    }

    def loss(d, valid):
      seen, weights = observations.replace(**d["observed"], valid=valid), Weights().replace(**d["weights"])
      identity, poses, _ = fit_identity(head.replace(**d["model"]), seen, config, weights, adjoint=adjoint)
      # Nothing says where a frame without a face is: kilometres away, whose digits would hide all others.
      poses = jax.vmap(lambda ok, pose: jax.tree.map(lambda a: jnp.where(ok, a, 0.0), pose))(valid, poses)
      layer = 1e-2 * jnp.sum(identity.texture_layer**2)
      return weigh((identity.replace(texture_layer=None), poses)) + layer, identity

    program = quick_jit(jax.value_and_grad(loss, has_aux=True))  # another one of the loss alone would take as long
    for count in (2, 1) if isinstance(adjoint, Implicit) else (2,):
      valid = observations.valid & (jnp.arange(3) < 2 * count - 1)
      (_, identity), gradient = program(inputs, valid)
      print(count, identity.light[:, 0], identity.texture, flush=True)
      equals_differences(lambda d, valid=valid: program(d, valid)[0][0], gradient, inputs)


@pytest.mark.slow
def test_batched_over_clips_equals_one_by_one(open_head):
  head, observations, init = seen_clip(open_head, np.float32, n_frames=2)
  darker = observations.replace(rgb=0.9 * observations.rgb, landmarks=observations.landmarks + 0.1)
  both = jax.tree.map(lambda a, b: jnp.stack([a, b]), observations, darker)
  run = lambda seen: track_fn(head, seen, CONFIG, Weights(), init)
  together, one = quick_jit(jax.vmap(run))(both), quick_jit(run)
  for k, seen in enumerate((observations, darker)):
    alone = one(seen)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[k], together).poses, alone.poses, atol=2e-3)
    np.testing.assert_allclose(together.energies["total"][k], alone.energies["total"], rtol=2e-3)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(open_head):
  """A head, a clip of black images and its truth: for what is refused before anything is computed."""
  head = tiny_head(open_head)
  observations, truth = clip(head)
  return head, observations.replace(rgb=jnp.zeros((3, *SIZE, 3))), truth


@pytest.mark.parametrize("name", ["lr", "w_photo", "w_identity", "sd_layer", "sd_offset", "sd_dense"])
def test_weights_without_influence_have_no_derivative(plain, name):
  head, observations, truth = plain

  def loss(value):
    return weigh(track_fn(head, observations, CONFIG, Weights().replace(**{name: value}), truth).poses)

  with pytest.raises(InputError, match=name):
    jax.eval_shape(jax.grad(loss), 1.0)


def test_masks_have_no_derivative(plain):
  head, observations, truth = plain
  loss = lambda alpha: weigh(track_fn(head, observations.replace(alpha=alpha), CONFIG, Weights(), truth).poses)
  with pytest.raises(InputError, match="masks only say which pixels count"):
    jax.eval_shape(jax.grad(loss), jnp.ones((3, *SIZE)))


def test_a_person_without_light_is_refused(plain):
  head, observations, truth = plain
  dark = truth.replace(identity=truth.identity.replace(light=jnp.zeros((9, 3))))
  with pytest.raises(InputError, match="light is 0"):
    jax.eval_shape(lambda: track_fn(head, observations, CONFIG, Weights(), dark))


def test_all_weights_are_refused_or_read():
  """The two methods of the fit read theirs; of them only what the given identity replaces is refused."""
  refused = pure.without_influence(CONFIG, known_identity=True, dense=True)
  read = {name for name, w in options(Weights).items() if name not in refused}
  assert read == {
    "sd_landmark", "sd_dense", "sd_closure", "sd_expr", "sd_neck", "sd_jaw", "sd_gaze", "sd_color", "photo_pixels",
    "frame_pixels",
  }  # fmt: skip


def test_what_the_bias_is_believed_has_a_derivative_without_colours(plain):
  head, _, truth = plain
  lm = landmark_model(head, Weights(), 0)

  @quick_jit
  @jax.jacfwd
  def slope(pixels):
    return painted(head, lm, truth.identity, Weights(photo_pixels=pixels), SIZE).shared.offset

  assert all((np.asarray(slope(jnp.float32(pixels))) == 0).all() for pixels in (0.0, 20.0))
  assert np.isfinite(slope(jnp.float32(80.0))).all() and (np.asarray(slope(jnp.float32(80.0))) != 0).any()


# --- crops -----------------------------------------------------------------------------------------------------------


def test_the_crop_is_that_of_the_app():
  """Of a smooth picture, shrunk, at its edge and with a mask; linear in the image."""
  rng = np.random.default_rng(0)
  height, width, side = 90, 130, 40
  coarse = rng.random((9, 13, 3)).astype(np.float32)
  image = np.asarray(jax.image.resize(coarse, (height, width, 3), "cubic"))
  alpha = (np.arange(width)[None] < 100) * np.ones((height, 1), np.float32)
  for x, y, log_scale in ((0.0, 0.0, 0.9), (0.35, -0.2, 0.9), (-0.1, 0.1, 0.0)):
    unknowns = np.array([0.1, 0, 0, 0, x, y, log_scale, 0, 0, 0, 0, 0, 0, 0, 0], np.float32)
    found = jax.jit(crop_of, static_argnums=3)(jnp.asarray(image), jnp.asarray(alpha), jnp.asarray(unknowns), side)
    rgb, inside, scale, offset = crop_head(image, unknowns, side)
    assert float(found.scale) == pytest.approx(scale, rel=1e-6)
    np.testing.assert_allclose(found.offset, offset, rtol=1e-5)
    assert np.abs(np.asarray(found.rgb) - rgb).mean() < 0.01
    masked = inside * (crop_head(np.repeat(alpha[..., None], 3, -1), unknowns, side)[0][..., 0] >= 0.5)
    assert np.mean(np.asarray(found.inside) != masked) < 0.05  # a pixel at the border
  nothing = jnp.full_like(image, jnp.nan)
  crop = lambda rgb: unseen_without(jnp.bool_(False), crop_of(rgb, None, jnp.asarray(unknowns), side))
  value, slope = jax.jit(jax.value_and_grad(lambda rgb: jnp.sum(crop(rgb).rgb + crop(rgb).inside[..., None])))(nothing)
  assert value == 0 and (np.asarray(slope) == 0).all()
  twice = jax.jit(crop_of, static_argnums=3)(2 * jnp.asarray(image), None, jnp.asarray(unknowns), side)
  np.testing.assert_allclose(twice.rgb, 2 * found.rgb, rtol=1e-5)
