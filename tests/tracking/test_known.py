"""What is known beforehand is kept: a camera with its place, the head of a result, the foreground."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from test_results import make_result
from test_track import SIZE, SMALL, T, clip, nme, project, still_head, weights  # noqa: F401  fixtures

from vht_jax import results
from vht_jax.app import inputs
from vht_jax.app.options import settings
from vht_jax.cameras import make_camera, world_to_camera
from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.fit.solvers.uncertainty import MISFIT
from vht_jax.option import having
from vht_jax.render import shade
from vht_jax.results.person import estimate_of, known_shape, together
from vht_jax.tracking import pipeline
from vht_jax.tracking.camera_knowledge import known_camera, refocused
from vht_jax.tracking.crops import crops_of

CALIBRATED = having(SMALL, calibrated=True, focal=1.8)


def turn(*angles):
  from scipy.spatial.transform import Rotation

  return jnp.asarray(Rotation.from_euler("xyz", angles).as_matrix(), jnp.float32)


# --- the camera ---


def test_light_in_another_frame_shades_the_same():
  rng = np.random.default_rng(0)
  light = jnp.asarray(rng.standard_normal((9, 3)), jnp.float32)
  normals = rng.standard_normal((50, 3)).astype(np.float32)
  normals /= np.linalg.norm(normals, axis=1, keepdims=True)
  R = turn(0.4, -1.2, 2.0)
  turned = shade.turned_light(light, R)
  np.testing.assert_allclose(shade.shading(turned, normals @ R.T), shade.shading(light, normals), atol=2e-5)
  np.testing.assert_allclose(shade.turned_light(turned, R.T), light, atol=2e-5)
  assert np.abs(turned - light).max() > 0.1


def test_another_focal_length_keeps_where_heads_appear(open_head):
  result = make_result(open_head)
  camera = make_camera(1.7, (0.52, 0.46), turn(0.1, 0.2, 3.0), (0.1, 0.0, 0.4))
  result = result.replace(identity=result.identity.replace(camera=camera))
  again = refocused(result, 2.9)
  seen = [world_to_camera(r.identity.camera, r.poses.translation) for r in (result, again)]
  place = [x[:, :2] / x[:, 2:] * r.identity.camera.focal for x, r in zip(seen, (result, again))]
  np.testing.assert_allclose(place[1], place[0], rtol=1e-4)
  assert float(again.identity.camera.focal) == pytest.approx(2.9)


def test_what_is_said_of_the_camera_agrees(open_head):
  plain, calibrated = TrackConfig(), TrackConfig.of(calibrated=True)
  assert known_camera(plain, None, None) == (plain, None, None)
  with pytest.raises(InputError, match="calibrated: the focal length must be given"):
    known_camera(calibrated, None, None)
  config, _, camera = known_camera(plain, None, make_camera(2.0, (0.4, 0.5)))
  assert config.camera.calibrated and float(camera.focal) == 2.0
  _, _, camera = known_camera(TrackConfig.of(calibrated=True, focal=3.0), None, make_camera(2.0, (0.4, 0.5)))
  assert float(camera.focal) == 3.0 and float(camera.principal[0]) == pytest.approx(0.4)
  init = make_result(open_head)
  assert known_camera(calibrated, init, None)[1] is init  # its camera is kept
  with pytest.raises(InputError, match="init: calibration"):
    known_camera(TrackConfig.of(solver="adam", init="calibration"), None, make_camera(2.0, T=(0, 0, 1.0)))


@pytest.fixture(scope="module")
def unseen(clip):  # noqa: F811
  """The clip without its images, in which a small eye looks covered: its landmarks are right all the same."""
  return dataclasses.replace(clip, frames=np.zeros_like(clip.frames))


@pytest.fixture(scope="module")
def calibrated(still_head, unseen, weights):  # noqa: F811
  """Tracked with a camera that stands elsewhere, whose principal point is not the centre."""
  camera = make_camera(1.8, (0.53, 0.48), turn(0.2, -0.3, 2.5), (0.05, 0.1, -0.2))
  config = SMALL
  return camera, pipeline.track(still_head, unseen, config, weights, camera=camera)


@pytest.mark.slow
def test_a_calibrated_camera_is_held(still_head, unseen, weights, project):  # noqa: F811
  """The principal point is the centre and stays there; without --calibrated it is estimated."""
  held = pipeline.track(still_head, unseen, CALIBRATED, weights)
  free = pipeline.track(still_head, unseen, having(SMALL, focal=1.8), weights)
  np.testing.assert_array_equal(held.identity.camera.principal, [0.5, 0.5])
  assert float(held.identity.camera.focal) == pytest.approx(1.8, rel=1e-6)
  assert np.abs(np.asarray(free.identity.camera.principal) - 0.5).max() > 1e-5
  assert float(held.focal_sd) == 0 and nme(project(held), unseen).max() < 0.01


@pytest.mark.slow
def test_a_known_camera_is_held_where_it_stands(still_head, unseen, calibrated, project):  # noqa: F811
  camera, result = calibrated
  for name in ("focal", "principal", "R", "T"):
    np.testing.assert_allclose(getattr(result.identity.camera, name), getattr(camera, name), atol=1e-6)
  assert nme(project(result), unseen).max() < 0.012


@pytest.mark.slow
@pytest.mark.parametrize("photometric", [False, True])
def test_going_on_keeps_the_place_of_the_camera(still_head, clip, unseen, weights, calibrated, project, photometric):  # noqa: F811
  """Nothing moves: neither the heads in the world nor their pictures, nor the light on them."""
  camera, first = calibrated
  light = first.identity.light.at[1:4].set(jnp.array([[0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [-0.2, 0.0, 0.2]]))
  first = first.replace(identity=first.identity.replace(light=light))
  config = having(SMALL, photometric=photometric, smooth=False)
  again = pipeline.track(still_head, clip if photometric else unseen, config, weights, init=first)
  for name in ("focal", "principal", "R", "T"):
    np.testing.assert_allclose(getattr(again.identity.camera, name), getattr(camera, name), atol=1e-6)
  np.testing.assert_allclose(again.identity.light, light, atol=1e-4)
  assert np.abs(project(again) - project(first)).max() < (3.0 if photometric else 0.3)
  moved = np.linalg.norm(again.poses.translation - first.poses.translation, axis=-1)
  assert moved.max() < (0.05 if photometric else 0.01)


# --- the shape ---


@pytest.mark.slow
@pytest.mark.parametrize("photometric", [False, True])
def test_a_known_shape_is_held_and_all_else_is_found(still_head, clip, unseen, weights, project, photometric):  # noqa: F811
  config, frames = having(SMALL, photometric=photometric), clip if photometric else unseen
  alone = pipeline.track(still_head, frames, config, weights)
  found = pipeline.track(still_head, frames, config, weights, shape=clip.identity.shape)
  np.testing.assert_array_equal(found.identity.shape, clip.identity.shape)
  assert found.shape_information is None and np.abs(alone.identity.shape - clip.identity.shape).max() > 0.1
  assert nme(project(found), clip).max() < 0.015
  off = lambda result: abs(np.log(float(result.identity.camera.focal / clip.identity.camera.focal)))
  assert off(found) < max(off(alone), 0.03)
  # What the clip says is kept in its file and is no surer than a fit of that shape with everything known.
  arrays = results.tracked_arrays(results.Tracked(alone, np.arange(1, T + 1), T, SIZE, ""), config)
  estimate = estimate_of(arrays, "result")
  assert estimate is not None and estimate.data.shape[1] == len(clip.identity.shape)
  assert estimate.misfit == np.float32(MISFIT if photometric else 0.0)
  sure = dataclasses.replace(estimate, misfit=0.0)
  told = np.linalg.pinv(sure.data) @ sure.data  # elsewhere the clip says nothing
  np.testing.assert_allclose(told @ together([sure])[0], told @ alone.identity.shape, atol=1e-3)


@pytest.mark.slow
def test_a_shape_of_another_size_is_refused(still_head, unseen, weights):  # noqa: F811
  with pytest.raises(InputError, match="shape: expected"):
    pipeline.track(still_head, unseen, SMALL, weights, shape=np.zeros(3))


# --- the head ---


@pytest.fixture
def vht_file(tmp_path, open_head):
  """Writes a result as VHT does, without a key of ours: with the open head's codes, or two-sided ones."""

  def write(two_sided=False, **changes):
    result = make_result(open_head)
    path = tmp_path / "vht.npz"
    results.save_tracked(path, result, np.arange(1, 5), (48, 64), TrackConfig(), open_head)
    arrays = {k: v for k, v in results.read_npz(path).items() if not k.startswith("vht_jax_")}
    if two_sided:
      arrays["expr"] = np.random.default_rng(1).standard_normal((4, 100)).astype(np.float32)
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    results.write_npz(path, arrays)
    return path

  return write


def test_flames_codes_are_refused_on_the_open_head(vht_file, open_head, caplog):
  path = vht_file(two_sided=True)
  with pytest.raises(InputError, match="its codes are of FLAME.*open head.*--allow_other_head") as error:
    results.load_tracked(path, open_head)
  assert "\n" not in str(error.value)
  tracked = results.load_tracked(path, open_head, other_head=True)
  assert not tracked.verdict.same and float(tracked.result.identity.camera.focal) == pytest.approx(1.7)
  app = settings.parse([f"--load_tracked_flame_params={path}", "--allow_other_head"])
  assert not inputs.former_result(app.app, app.track, open_head).verdict.same
  assert "its camera alone is taken (focal length 1.7)" in caplog.text


@pytest.mark.parametrize("scale, accepted", [(0.05, True), (0.5, False)])
def test_codes_without_a_name_are_told_by_their_sign(vht_file, open_head, scale, accepted, caplog):
  """Our own one-sided codes dip a little below zero."""
  rng = np.random.default_rng(2)
  expr = np.pad(np.abs(rng.standard_normal((4, 40))) * 0.3, ((0, 0), (0, 60)))
  expr[:, :40] -= scale
  path = vht_file(expr=expr.astype(np.float32))
  assert results.load_tracked(path, open_head, other_head=True).verdict.same == accepted
  assert ("names no head" in caplog.text) == accepted


def test_a_shape_without_expressions_is_nobodys_word(vht_file, open_head):
  path = vht_file(expr=np.zeros((4, 100), np.float32))
  assert not results.load_tracked(path, open_head, other_head=True).verdict.same


def test_releases_of_flame_are_different_heads(tmp_path, open_head):
  """The same file name, other content; the number of components that are kept does not matter."""
  one = open_head.replace(name="FLAME (generic_model.pkl)", expr_one_sided=False)
  other = one.replace(v_template=one.v_template + 1e-4)
  fewer = one.replace(shapedirs=one.shapedirs[..., :5], exprdirs=one.exprdirs[..., :3])
  assert results.head_id(one) == results.head_id(fewer) != results.head_id(other)
  path = tmp_path / "a.npz"
  results.save_tracked(path, make_result(one), np.arange(1, 5), (48, 64), TrackConfig(), one)
  assert results.load_tracked(path, one).verdict.same and results.load_tracked(path, fewer).verdict.same
  renamed = one.replace(name="FLAME (flame2020.pkl)")
  assert results.load_tracked(path, renamed).verdict.same  # a renamed file is the same head
  with pytest.raises(InputError, match="another file of the name 'FLAME .generic_model.pkl.'"):
    results.load_tracked(path, other)
  with pytest.raises(InputError, match="codes are of the head 'FLAME"):
    results.load_tracked(path, other.replace(name=open_head.name, expr_one_sided=True))


def test_a_file_of_a_calibrated_run(vht_file, open_head):
  path = vht_file(K=None, RT=None)
  with pytest.raises(InputError, match="'K', the camera, is missing.*--calibrated with --focal"):
    results.load_tracked(path, open_head)
  camera = results.load_tracked(path, open_head, focal=2.245).result.identity.camera
  assert float(camera.focal) == pytest.approx(2.245) and camera.principal.tolist() == [0.5, 0.5]
  path = vht_file(RT=None)
  assert float(results.load_tracked(path, open_head, focal=2.245).result.identity.camera.focal) == pytest.approx(1.7)


# --- masks ---


def test_masked_pixels_are_not_compared():
  class Masked:
    size = SIZE
    hidden = [[], []]

    def images(self, index):
      return np.full((len(index), *SIZE, 3), 100, np.uint8)

    def masks(self, index):
      masks = np.full((len(index), *SIZE), 255, np.uint8)
      masks[:, : SIZE[0] // 2] = 0
      return masks

  Unmasked = type("Unmasked", (), {"images": Masked.images, "hidden": Masked.hidden, "size": SIZE})
  inside, unmasked = (
    crops_of(each, np.arange(2), np.zeros((2, 54), np.float32), SMALL.gauss_newton.crop_size).inside
    for each in (Masked(), Unmasked())
  )
  half = SMALL.gauss_newton.crop_size // 2
  assert not inside[:, : half - 1].any() and unmasked[:, : half - 1].any()
  np.testing.assert_array_equal(inside[:, half + 1 :], unmasked[:, half + 1 :])


def test_a_shape_is_taken_from_a_result_of_its_head(tmp_path, open_head):
  result = make_result(open_head)
  path = tmp_path / "other.npz"
  results.save_tracked(path, result, np.arange(1, 5), (48, 64), TrackConfig(), open_head)
  n = open_head.shapedirs.shape[-1]
  wanted = np.zeros(n, np.float32)
  wanted[: len(result.identity.shape)] = result.identity.shape
  np.testing.assert_array_equal(known_shape(path, open_head), wanted)
  other = open_head.replace(v_template=open_head.v_template * 1.01, name="another")
  with pytest.raises(InputError, match="its shape is of the head"):
    known_shape(path, other)
  results.write_npz(path, {"expr": np.zeros((2, 3))})
  with pytest.raises(InputError, match="it has none"):
    known_shape(path, open_head)
