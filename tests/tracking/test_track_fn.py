"""track_fn: derivatives against central differences in float64, batching, sharding, recompilation, refusals."""

import os
import subprocess
import sys
from pathlib import Path

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SIZE, clip, quick_jit, slopes, tiny_head, weigh

import vht_jax as vht
from vht_jax import cameras
from vht_jax.config import Adam, TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit import frame
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled
from vht_jax.fit.unknowns import shared_of
from vht_jax.head import flame
from vht_jax.option import options
from vht_jax.render.picture import render_head
from vht_jax.tracking import pure
from vht_jax.tracking.pure import landmarks_only, track_fn, with_pose
from vht_jax.types import Status

pytestmark = pytest.mark.differentiable

LANDMARKS = TrackConfig(photometric=False)
ADAM = TrackConfig.of(solver="adam", init_steps=2, steps_per_frame=2, sub_steps=2, blur_sigma=(1.0, 1e-4))
HEAD = ("v_template", "shapedirs", "exprdirs", "posedirs", "j_template", "j_shapedirs", "lbs_weights", "lmk_bary")
SPREADS = ("sd_landmark", "sd_closure", "sd_expr", "sd_neck", "sd_jaw", "sd_gaze")
POSE = ("expr", "rotation", "translation", "neck", "jaw", "eyes")
BAR = 1e-4  # relative
CONVERGED = Implicit(accuracy=1e-12)  # to rounding, as differences of small steps ask
QUIET = 0.05  # px of noise: only the outlier is beyond Huber's kink and nothing near it, where a derivative jumps


@pytest.fixture(scope="module")
def head(open_head):
  return landmarks_only(tiny_head(open_head), dense=False)


@pytest.fixture(scope="module")
def traces():
  """An entry for each time that `tracked` has been traced."""
  return []


@pytest.fixture(scope="module")
def tracked(head, traces):
  """track(model, observations, weights, init) by the implicit adjoint, compiled."""
  observations, truth = clip(head)

  def run(model, observations, weights, init):
    traces.append(None)
    return track_fn(model, observations, LANDMARKS, weights, init, size=SIZE)

  return quick_jit(run), observations, truth


def check_slopes(inputs, build, energy: str, constant=(), largest=1.0):
  """Every leaf of `inputs` by reverse mode against central differences; `constant`: those with derivative zero."""

  def loss(inputs):
    result = build(inputs)
    return weigh((result.identity, result.poses)) + 1e-3 * jnp.sum(result.energies[energy])

  found = slopes(quick_jit(loss), quick_jit(jax.grad(loss))(inputs), inputs, largest, judge=BAR)
  for name, (exact, numeric, spread) in found.items():
    print(f"{name:28s} {exact: .3e}, error {abs(numeric / (exact or 1) - 1):.0e}, of differences {spread:.0e}")
  for name, (exact, numeric, spread) in found.items():
    if name.startswith(constant) and constant:
      assert exact == 0.0, name
      assert abs(numeric) < 1e-6, (name, numeric)
    else:
      assert spread < BAR * abs(numeric), (name, "the differences are no judge", numeric, spread)
      assert abs(numeric - exact) < BAR * abs(numeric), (name, exact, numeric)


def landmark_inputs(head, observations, weights=SPREADS):
  return {
    "model": {name: getattr(head, name) for name in HEAD},
    "observed": {"landmarks": observations.landmarks, "confidence": observations.confidence},
    "weights": {name: jnp.asarray(getattr(Weights(), name), head.v_template.dtype) for name in weights},
  }


@pytest.mark.slow
@pytest.mark.parametrize("how", [CONVERGED, Unrolled(max_steps=2)], ids=["implicit", "unrolled"])
def test_derivatives_of_a_fit_of_landmarks_with_a_known_identity(open_head, how):
  with jax.enable_x64(True):
    head = landmarks_only(tiny_head(open_head, dtype=np.float64), dense=False)
    observations, truth = clip(head, noise_px=QUIET)
    identity = {"shape": truth.identity.shape, "lmk_offset": truth.identity.lmk_offset}
    camera = {name: getattr(truth.identity.camera, name) for name in ("focal", "principal", "R", "T")}
    inputs = landmark_inputs(head, observations) | {"identity": identity, "camera": camera}
    # Two steps of the unrolled solver: after more of them it hardly matters where they began.
    inputs["poses"] = {name: getattr(truth.poses, name) for name in POSE}

    def build(d):
      person = truth.identity.replace(**d["identity"], camera=truth.identity.camera.replace(**d["camera"]))
      init = truth.replace(identity=person, poses=truth.poses.replace(**d["poses"]))
      observed = observations.replace(**d["observed"])
      weights = Weights().replace(**d["weights"])
      return track_fn(head.replace(**d["model"]), observed, LANDMARKS, weights, init, size=SIZE, adjoint=how)

    check_slopes(inputs, build, "landmarks", constant=("poses",) if isinstance(how, Implicit) else ())


@pytest.mark.slow
def test_derivatives_of_a_bundle_adjustment(open_head):
  with jax.enable_x64(True):
    head = landmarks_only(tiny_head(open_head, dtype=np.float64), dense=False)
    observations, _ = clip(head, noise_px=QUIET)
    inputs = landmark_inputs(head, observations, (*SPREADS, "sd_offset", "sd_size", "w_identity"))

    def build(d):
      observed, weights = observations.replace(**d["observed"]), Weights().replace(**d["weights"])
      return track_fn(head.replace(**d["model"]), observed, LANDMARKS, weights, size=SIZE, adjoint=CONVERGED)

    check_slopes(inputs, build, "landmarks")


def adam_clip(open_head, dtype):
  head = tiny_head(open_head, dtype=dtype)
  observations, truth = clip(head, n_frames=2)
  size = (48, 40)
  rng = np.random.default_rng(3)
  rgb = quick_jit(jax.vmap(lambda p: render_head(head, truth.identity, p, size).rgb))(truth.poses)
  rgb = jnp.clip(rgb + jnp.asarray(0.03 * rng.standard_normal(rgb.shape), dtype), 0, 1)
  moved = jax.tree.map(lambda a: a + jnp.asarray(0.01 * rng.standard_normal(a.shape), a.dtype), truth.poses)
  return head, observations.replace(rgb=rgb, landmarks=0.4 * observations.landmarks), truth.replace(poses=moved)


class Distance(flax.struct.PyTreeNode):
  """A depth camera sees how far away the head is: observations () m. As in docs/differentiable.md."""

  sd: jax.Array  # () m

  def linearise(self, at, observation):
    depth = lambda at: jnp.exp(at.shared.log_focal - at.part("place")[2])
    return vht.by_autodiff(lambda at: ((depth(at) - observation) / self.sd)[None, None], at, shared=("log_focal",))


@pytest.mark.slow
def test_a_term_from_outside_the_package_takes_part_and_has_derivatives(open_head):
  with jax.enable_x64(True):
    head = landmarks_only(tiny_head(open_head, dtype=np.float64), dense=False)
    observations, truth = clip(head, noise_px=QUIET)

    def depth(result):  # (T,) m, of the middle of the landmarks
      points = jax.vmap(lambda pose: flame.landmarks(head, flame.skin(head, result.identity.shape, pose)))(result.poses)
      return jnp.mean(cameras.project(result.identity.camera, points[:, :68], SIZE)[..., 2], axis=1)

    # Farther than the landmarks say, which know it to some millimetres: agreeing with them would show nothing.
    inputs = {"distance": depth(truth) + 0.03, "sd": jnp.float64(1e-3), "landmarks": observations.landmarks}

    def build(inputs):
      terms = [(Distance(inputs["sd"]), inputs["distance"])]
      seen = observations.replace(landmarks=inputs["landmarks"])
      return track_fn(head, seen, LANDMARKS, Weights(), size=SIZE, adjoint=CONVERGED, terms=terms)

    depths = quick_jit(lambda inputs: depth(build(inputs)))
    known, vague = depths(inputs), depths(inputs | {"sd": jnp.float64(1e3)})
    print("m too far", known - inputs["distance"], "and without the term", vague - inputs["distance"])
    far = lambda found: np.abs(np.asarray(found - inputs["distance"])).max()
    assert far(known) < 0.005 < 0.02 < far(vague)
    check_slopes(inputs, build, "landmarks")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["given", "landmarks"])
def test_derivatives_of_adam(open_head, start):
  """Images, energy weights and learning rates through every step, rasterisations included."""
  with jax.enable_x64(True):
    head, observations, init = adam_clip(open_head, np.float64)
    unused = pure.without_influence(ADAM, known_identity=start == "given", dense=False)
    # With a known identity these two are constant parts of the total, which differences cannot see.
    unused |= dict.fromkeys(("w_shape_reg", "w_tex_reg") if start == "given" else (), "")
    mine = [n for n, w in options(Weights).items() if w.method is Adam and n not in unused]
    inputs = landmark_inputs(head, observations, mine)
    inputs["observed"]["rgb"] = observations.rgb
    inputs["model"] |= {name: getattr(head, name) for name in ("uv", "texture_mean", "texture_basis")}
    if start == "given":
      inputs |= {"identity": init.identity, "poses": init.poses}

    # Fewer recomputations, a smaller program: both fits in one compile for minutes.
    adjoint = Unrolled(checkpoint=1 if start == "given" else 0, max_steps=3)

    def build(d):
      person = init.replace(identity=d["identity"], poses=d["poses"]) if start == "given" else None
      observed, weights = observations.replace(**d["observed"]), Weights().replace(**d["weights"])
      return track_fn(head.replace(**d["model"]), observed, ADAM, weights, person, adjoint=adjoint)

    check_slopes(inputs, build, "total")


@pytest.mark.slow
def test_memory_of_the_unrolled_gradient_follows_the_checkpoints(open_head):
  head, observations, init = adam_clip(open_head, np.float32)
  config = TrackConfig.of(solver="adam", steps_per_frame=12, sub_steps=2, blur_sigma=(0.0, 0.0))

  def temporary(checkpoint):
    def loss(rgb):
      observed = observations.replace(rgb=rgb)
      return weigh(track_fn(head, observed, config, Weights(), init, adjoint=Unrolled(checkpoint=checkpoint)).poses)

    compiled = quick_jit(jax.grad(loss)).lower(observations.rgb).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  everything, four, one = (temporary(k) for k in (0, 4, 1))
  print(f"temporaries of a gradient through 24 updates: {everything / 1e6:.0f}, {four / 1e6:.0f}, {one / 1e6:.0f} MB")
  assert one < four < everything
  assert one < 0.3 * everything


def test_the_solver_s_gradient_is_that_of_its_cost(head):
  """What the implicit adjoint differentiates is the cost; the solver looks for a zero of its own gradient."""
  observations, truth = clip(head)

  @quick_jit
  def gradients(observations):
    lm, tracks = pure.landmark_problem(head, observations, LANDMARKS, Weights(), SIZE)
    tracks = jax.tree.map(lambda a: a[-1], tracks)  # the frame with the outlier
    shared = shared_of(truth.identity, len(lm.points.template), SIZE)
    x = frame.initial_unknowns(lm, tracks) + 0.02
    person, folded = frame.fold_landmarks(lm, shared)
    normal = lambda x: frame.frame_normal(person, x, folded, tracks, Weights())
    return normal(x).gradient, jax.grad(lambda x: normal(x).cost)(x)

  gradient, slope = gradients(observations)
  np.testing.assert_allclose(2 * gradient, slope, rtol=1e-3, atol=1e-3 * np.abs(slope).max())


@pytest.mark.slow  # the second large program of these tests; those over devices are batched as well
def test_batched_over_clips_equals_one_by_one(tracked, head):
  run, observations, truth = tracked
  other, _ = clip(head, seed=1)
  both = jax.tree.map(lambda a, b: jnp.stack([a, b]), observations, other)
  together = quick_jit(jax.vmap(lambda o: track_fn(head, o, LANDMARKS, Weights(), truth, size=SIZE)))(both)
  for k, one in enumerate((observations, other)):
    alone = run(head, one, Weights(), truth)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[k], together).poses, alone.poses, atol=2e-3)
    np.testing.assert_allclose(together.energies["landmarks"][k], alone.energies["landmarks"], rtol=1e-3)


@pytest.mark.slow
def test_other_weights_do_not_compile_again(tracked, traces, head):
  run, observations, truth = tracked
  compiled = lambda observations, weights, truth: run(head, observations, weights, truth).poses
  compiled(observations, Weights(), truth)
  before = len(traces)
  poses = [compiled(observations, Weights(sd_expr=sd, lr=sd), truth) for sd in (0.1, 0.4, 1.6)]
  assert np.abs(poses[0].expr).mean() < np.abs(poses[2].expr).mean()
  compiled(observations.replace(confidence=0.5 * observations.confidence), Weights(), truth)
  arrays = jax.tree.map(jnp.float32, Weights())
  some = Weights().replace(sd_jaw=np.float32(0.2), sd_gaze=jnp.float32(0.2))
  same = [compiled(observations, weights, truth) for weights in (Weights(), arrays, some)]
  chex.assert_trees_all_equal(same[0], same[1])
  assert np.any(same[2].jaw != same[0].jaw)
  assert len(traces) == before  # JAX knows numbers of the host and arrays apart, but has one program for both


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
def test_numbers_and_arrays_are_one_program_in_double_precision_too(open_head, dtype):
  """And the result has the clip's precision, whichever the weights have."""
  with jax.enable_x64(True):
    head = landmarks_only(tiny_head(open_head, dtype=dtype), dense=False)
    observations, truth = clip(head)
    track = lambda seen, weights: track_fn(head, seen, LANDMARKS, weights, truth, size=SIZE)
    chex.clear_trace_counter()  # of a function of this name
    run = jax.jit(chex.assert_max_traces(track, n=1))
    one = jnp.float64(0.2)
    arrays = jax.tree.map(jnp.asarray, Weights())
    for weights in (Weights(), Weights(sd_expr=0.2), Weights(sd_expr=one), arrays, Weights(frame_pixels=50)):
      result = run.trace(observations, weights).out_info
    run.trace(observations.replace(confidence=np.asarray(observations.confidence) / 2), Weights())
    assert result.poses.expr.dtype == dtype


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from tiny import SIZE, clip, quick_jit, tiny_head
from vht_jax.head.load import load_head
from vht_jax.config import TrackConfig, Weights
from vht_jax.tracking.pure import landmarks_only, track_fn
n_devices, how, given, n_frames = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "given", int(sys.argv[4])
assert jax.device_count() == n_devices
head = landmarks_only(tiny_head(load_head(model="open")), dense=False)
clips = [clip(head, n_frames=n_frames, seed=k, noise_px=0.5) for k in range(n_devices)]
observations, truth = (jax.tree.map(lambda *a: jnp.stack(a), *t) for t in zip(*clips))

def one(o, t):
  return track_fn(head, o, TrackConfig(photometric=False), Weights(), t if given else None, size=SIZE).poses

mesh = Mesh(jax.devices(), ("clip",))  # of `make_mesh` the axes are "explicit" in newer versions: XLA would not split
each = jax.vmap(one)
if how == "map":
  each = jax.shard_map(each, mesh=mesh, in_specs=P("clip"), out_specs=P("clip"), check_vma=False)
run = quick_jit(each)
spread = jax.device_put((observations, truth), NamedSharding(mesh, P("clip")))
together = run(*spread)
assert len(together.expr.sharding.device_set) == n_devices, together.expr.sharding
alone = quick_jit(one)
for k in range(n_devices):
  found = alone(*jax.tree.map(lambda a: a[k], (observations, truth)))
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(together)):
    np.testing.assert_allclose(a, b[k], atol=2e-3)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  "n_devices, how, start, n_frames", [(2, "map", "none", 48), (4, "map", "none", 48), (4, "split", "given", 2)]
)
def test_sharded_over_devices_equals_one(n_devices, how, start, n_frames):
  """By `shard_map` and by XLA's own splitting. It must not hang where there are fewer cores than devices; 48 frames are
  so many that XLA would give a factorisation of its own to several threads."""
  env = os.environ | {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={n_devices}",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(Path(__file__).parents[1]),
  }
  command = [sys.executable, "-c", SHARDED, str(n_devices), how, start, str(n_frames)]
  out = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=600)
  assert out.stdout.strip().endswith("equal"), out.stderr[-2000:]


# --- staged functions ------------------------------------------------------------------------------------------------


def test_with_identity_and_with_pose_are_skin(open_head):
  head = tiny_head(open_head)
  _, truth = clip(head)
  pose = jax.tree.map(lambda a: a[1], truth.poses)

  @quick_jit
  def both(shape, pose):
    expected = flame.skin(head, shape, pose)
    return with_pose(flame.with_identity(head, shape), pose), expected, flame.landmarks(head, expected)

  posed, expected, landmarks = both(truth.identity.shape, pose)
  np.testing.assert_allclose(posed.vertices, expected, atol=1e-6)
  np.testing.assert_allclose(posed.joints[0], pose.translation, atol=1e-6)
  np.testing.assert_allclose(posed.landmarks, landmarks, atol=1e-6)


def test_landmarks_only_keeps_the_landmarks(open_head):
  full = tiny_head(open_head)
  small = landmarks_only(full)
  _, truth = clip(full)
  pose = jax.tree.map(lambda a: a[0], truth.poses)
  for points in (flame.landmarks, flame.dense_landmarks):
    of = quick_jit(lambda m, points=points: points(m, flame.skin(m, truth.identity.shape, pose)))
    big, little = of(full), of(small)
    np.testing.assert_allclose(little, big, atol=1e-6)
  assert len(small.v_template) < 0.2 * len(full.v_template)


def test_residuals_are_standard_deviations_at_the_truth(head):
  observations, truth = clip(head, noise_px=0.0)
  head = head.replace(view_bias=None)  # these points are exact: they do not slide with the view
  one = lambda k: jax.tree.map(lambda a: a[k], (truth.poses, observations))
  weights = Weights()
  identity = truth.identity.replace(lmk_offset=jnp.zeros((70, 3)))
  residuals = quick_jit(lambda *of: pure.residuals(head, identity, *of, weights, size=SIZE))
  r = np.asarray(residuals(*one(0)))
  assert r.shape == (70, 2)
  assert np.abs(r).max() < 0.2  # skinning a point against skinning its triangle
  assert (r[10] == 0).all()  # missing
  assert np.abs(residuals(*one(-1))[3]).max() > 3  # moved by 6 px


@pytest.mark.slow
def test_frames_without_a_face_are_bridged(tracked, head):
  run, observations, truth = tracked
  observations = observations.replace(valid=jnp.array([True, False, True]))
  result = run(head, observations, Weights(), truth)
  assert list(np.asarray(result.status)) == [Status.TRACKED, Status.INTERPOLATED, Status.TRACKED]
  mean = 0.5 * (result.poses.translation[0] + result.poses.translation[2])
  np.testing.assert_allclose(result.poses.translation[1], mean, atol=1e-5)


@pytest.mark.slow  # `test_gaps` and `test_bundle` have the derivatives where frames and landmarks are missing
def test_frames_without_a_face_are_harmless(tracked, head):
  _, observations, truth = tracked
  observations = observations.replace(valid=jnp.array([True, False, True]))

  def loss(landmarks):
    observed = observations.replace(landmarks=landmarks)
    return weigh(track_fn(head, observed, LANDMARKS, Weights(), truth, size=SIZE).poses)

  slope = quick_jit(jax.grad(loss))(observations.landmarks)
  assert np.isfinite(slope).all()
  assert (np.asarray(slope[1]) == 0).all() and float(jnp.abs(slope[0]).max()) > 0


# --- at the ends of what inputs may be --------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_nothing_is_known_of_has_derivatives(open_head):
  """Infinite deviations, which are as good as large ones or of points that then do not count, and a frame whose
  landmarks are all in one place."""
  with jax.enable_x64(True):
    head = landmarks_only(tiny_head(open_head, dtype=np.float64), dense=False)
    observations, truth = clip(head, noise_px=QUIET)
    inputs = landmark_inputs(head, observations)

    @quick_jit
    @jax.grad
    def gradient(d):
      seen, weights = observations.replace(**d["observed"]), Weights().replace(**d["weights"])
      result = track_fn(head.replace(**d["model"]), seen, LANDMARKS, weights, truth, size=SIZE, adjoint=CONVERGED)
      return weigh((result.identity, result.poses))

    def finite(**changed):
      found = gradient({**inputs, **{part: {**inputs[part], **values} for part, values in changed.items()}})
      wrong = [jax.tree_util.keystr(at) for at, a in jax.tree.leaves_with_path(found) if not np.isfinite(a).all()]
      assert not wrong, (changed, wrong)
      return found

    nothing = finite(weights={"sd_landmark": jnp.float64(np.inf)})
    assert all((np.asarray(slope) == 0).all() for slope in jax.tree.leaves(nothing["observed"]))
    for name in SPREADS[1:]:
      endless, large = (finite(weights={name: jnp.float64(sd)}) for sd in (np.inf, 1e5))
      for part in ("model", "observed"):
        chex.assert_trees_all_close(endless[part], large[part], rtol=1e-3, atol=1e-6)
      assert all(slope != 0 for other, slope in endless["weights"].items() if name != other)
      assert endless["weights"][name] == 0
    one = finite(observed={"landmarks": observations.landmarks.at[1].set(50.0)})["observed"]["landmarks"]
    assert (np.asarray(one[1]) == 0).all() and (np.asarray(one[0]) != 0).any()


def test_landmarks_of_infinite_noise_do_not_count(head):
  observations, truth = clip(head)
  pose, seen = jax.tree.map(lambda a: a[0], (truth.poses, observations))

  @quick_jit
  @jax.grad
  def slope(inputs):
    landmarks, sd = inputs
    found = pure.residuals(
      head, truth.identity, pose, seen.replace(landmarks=landmarks), Weights(sd_landmark=sd), size=SIZE
    )
    return jnp.sum(found)

  assert all((np.asarray(by) == 0).all() for by in slope((seen.landmarks, jnp.float32(np.inf))))


def test_landmarks_in_one_place_are_no_face(tracked, head):
  run, observations, truth = tracked
  observations = observations.replace(landmarks=observations.landmarks.at[1].set(50.0))
  result = run(head, observations, Weights(), truth)
  assert list(np.asarray(result.status)) == [Status.TRACKED, Status.INTERPOLATED, Status.TRACKED]
  one_point = observations.replace(confidence=observations.confidence.at[2].set(0.0).at[2, 5].set(1.0))
  assert list(np.asarray(pure.frames_with_face(one_point))) == [True, False, False]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(sd_neck=0.0), "weights.sd_neck: expected a positive number; found 0"),
    (dict(sd_jaw=np.float32(np.nan)), "weights.sd_jaw: expected a finite number"),
    (dict(sd_offset=np.inf), "weights.sd_offset: expected a finite number"),
    (dict(w_identity=np.inf), "weights.w_identity: expected a finite number"),
    (dict(frame_pixels=-1), "weights.frame_pixels: expected no negative number"),
  ],
)
def test_weights_out_of_their_range_are_refused_where_they_are_known(head, wrong, message):
  observations, _ = clip(head)
  problem = lambda weights: pure.landmark_problem(head, observations, LANDMARKS, weights, SIZE)  # of all these fits
  with pytest.raises(InputError, match=message):
    jax.eval_shape(lambda: problem(Weights(**wrong)))
  jax.eval_shape(problem, Weights(**wrong))  # traced: nothing is known


@pytest.mark.parametrize(
  "config, adjoint, message",
  [
    (ADAM, Implicit(), "implicit adjoint needs a converged"),
    (TrackConfig.of(solver="adam", init="calibration"), None, "runs on the host"),
    (TrackConfig.of(solver="adam", cutframes=(3,)), None, "once per shot"),
  ],
)
def test_what_cannot_be_differentiated_is_refused(config, adjoint, message):
  with pytest.raises(InputError, match=message):
    pure.check_adjoint(config, adjoint)


def test_the_default_adjoint_fits_the_method():
  assert pure.check_adjoint(LANDMARKS, None) == pure.check_adjoint(TrackConfig(), None) == Implicit()
  assert pure.check_adjoint(ADAM, None) == Unrolled()


@pytest.mark.parametrize("name", ["lr", "w_lmk", "w_pos_glob", "sd_color", "frame_pixels", "sd_dense", "sd_offset"])
def test_weights_without_influence_have_no_derivative(head, name):
  observations, truth = clip(head)

  def loss(value):
    weights = Weights().replace(**{name: value})
    return weigh(track_fn(head, observations, LANDMARKS, weights, truth, size=SIZE).poses)

  with pytest.raises(InputError, match=name):
    jax.eval_shape(jax.grad(loss), 1.0)


@pytest.mark.parametrize("name", ["rgb", "alpha", "dense"])
def test_what_is_not_looked_at_has_no_derivative(head, name):
  observations, truth = clip(head)
  shapes = {"rgb": (3, *SIZE, 3), "alpha": (3, *SIZE), "dense": (3, 478, 2)}

  def loss(a):
    seen = observations.replace(**{name: a})
    return weigh(track_fn(head, seen, LANDMARKS, Weights(), truth, size=SIZE).poses)

  with pytest.raises(InputError, match=f"observations.{name}"):
    jax.eval_shape(jax.grad(loss), jnp.zeros(shapes[name]))


@pytest.mark.parametrize("part", ["model.texture_mean", "model.dense_bary", "init.identity.light"])
def test_looks_of_a_head_have_no_derivative_without_images(head, part):
  observations, truth = clip(head)
  owner, _, name = part.rpartition(".")

  def loss(value):
    model = head.replace(**{name: value}) if owner == "model" else head
    init = truth if owner == "model" else truth.replace(identity=truth.identity.replace(**{name: value}))
    return weigh(track_fn(model, observations, LANDMARKS, Weights(), init, size=SIZE).poses)

  with pytest.raises(InputError, match=part):
    jax.eval_shape(jax.grad(loss), getattr(head if owner == "model" else truth.identity, name))


@pytest.mark.parametrize("known", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_is_refused_has_no_influence_and_what_is_not_has_one(tracked, head, known):
  """Of every weight that there is, so that a new one cannot be forgotten."""
  run, observations, truth = tracked
  truth = truth if known else None
  refused = pure.without_influence(LANDMARKS, known_identity=known, dense=False)
  parts = lambda result: (result.poses, result.identity, result.energies)
  before = parts(run(head, observations, Weights(), truth))
  for name in options(Weights):
    changed = Weights().replace(**{name: 1.5 * getattr(Weights(), name)})
    result = run(head, observations, changed, truth)
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(parts(result)), strict=True)
    moved = max(float(jnp.abs(a - b).max()) for a, b in pairs)
    assert (moved == 0) == (name in refused), (name, moved)


def test_observations_of_other_shapes_are_refused(open_head, head):
  observations, truth = clip(head)
  one = jax.tree.map(lambda a: a[0], observations)
  run = lambda seen, config=LANDMARKS, head=head: track_fn(head, seen, config, Weights(), truth, size=SIZE)
  with pytest.raises(InputError, match="68 points"):
    run(observations.replace(landmarks=observations.landmarks[:, :68]))
  with pytest.raises(InputError, match="no time axis"):
    run(one)
  with pytest.raises(InputError, match=r"confidence of shape \(3, 68\)"):
    run(observations.replace(confidence=observations.confidence[:, :68]))
  with pytest.raises(InputError, match=r"valid of shape \(2,\)"):
    run(observations.replace(valid=observations.valid[:2]))
  with pytest.raises(InputError, match="no faces"):
    run(observations.replace(rgb=jnp.zeros((3, *SIZE, 3))), ADAM)
  with pytest.raises(InputError, match="rgb is None"):
    run(observations, ADAM, tiny_head(open_head))


def test_the_image_size_is_needed(head):
  observations, truth = clip(head)
  with pytest.raises(InputError, match="size"):
    track_fn(head, observations, LANDMARKS, Weights(), truth)
