"""Properties that hold for any input: parsers, camera conversions, rotations, files written and read again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vht_jax import cameras, results, rotation
from vht_jax.app.options import settings
from vht_jax.app.record import Checkpoint, Record
from vht_jax.dataset.keypoints import read_keypoints, write_keypoints
from vht_jax.errors import InputError, brief
from vht_jax.landmarks import Detection
from vht_jax.tracking.state import AdamState, TrackState, restore, save
from vht_jax.types import Camera, Identity, RawPose

few = examples(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = st.tuples(st.integers(16, 5000), st.integers(16, 5000))


def numbers(low, high):
  return st.floats(low, high, width=32, allow_nan=False)


def vectors(n, low, high):
  return arrays.arrays(np.float32, n, elements=numbers(low, high))


# --- parsers ---


@few
@given(st.text(max_size=300))
def test_any_text_is_a_config_or_is_refused_in_one_line(tmp_path, text):
  path = tmp_path / "any.ini"
  path.write_bytes(text.encode("utf-8", "surrogatepass"))
  try:
    settings.make_settings(settings.read_ini(path))
  except InputError as error:
    assert "\n" not in brief(error)


@few
@given(st.data())
def test_settings_survive_the_config_file(tmp_path, data):
  """Values that are allowed are written and read without a change."""
  names = {
    "keyframes": st.lists(st.integers(0, 10**6), max_size=5).map(tuple),
    "blur_sigma": st.tuples(numbers(0, 1e4), numbers(0, 1e4)),
    "tracking_resolution": st.none() | SIZES,
    "w_photo": st.floats(0, 1e30, allow_nan=False),
    "lr": st.floats(0, 1e-30, allow_nan=False),
    "n_shape": st.integers(1, 10**9),
    "photometric": st.booleans(),
    "solver": st.sampled_from(["gn", "adam"]),
    "video": st.none() | st.text(st.characters(categories=["L", "Nd", "Zs"], include_characters="#;/._-'"), min_size=1)
    .map(str.strip).filter(lambda t: t and t.lower() != "none" and t[0] not in "'\"" and t[-1] not in "'\""),
  }  # fmt: skip
  values = {name: data.draw(strategy, label=name) for name, strategy in names.items()}
  made = settings.make_settings(values)
  settings.write_ini(tmp_path / "a.ini", made)
  assert settings.make_settings(settings.read_ini(tmp_path / "a.ini")) == made


@few
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_landmark_file_is_read_or_refused(tmp_path, content):
  path = tmp_path / "k.json"
  path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
  with pytest.raises(InputError):
    read_keypoints(path)


@few
@given(
  vectors((68, 2), -5000, 5000), st.none() | vectors((2, 2), 1, 5000), st.none() | vectors((478, 2), -5000, 5000),
  vectors(4, 0, 5000), numbers(0, 1),
)  # fmt: skip
def test_landmarks_survive_their_file(tmp_path, points, iris, dense, box, score):
  path = tmp_path / "k.json"
  write_keypoints(path, Detection(np.append(box, np.float32(score)), points, iris, dense, score), "any")
  read = read_keypoints(path)
  for a, b in ((read.landmarks, points), (read.iris, iris), (read.dense, dense), (read.bounding_box[:4], box)):
    if b is None:
      assert a is None
    else:
      np.testing.assert_allclose(a, b, atol=1.1e-3)


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@few
@given(JSON)
def test_any_json_is_a_record_or_is_refused(tmp_path, content):
  (tmp_path / "run.json").write_text(json.dumps(content))
  try:
    record = Record(tmp_path)
    record.agree("settings", {"a": "1"}, "do something else")
  except InputError as error:
    assert "\n" not in str(error)


# --- files ---


@few
@given(
  st.dictionaries(
    st.text(st.characters(categories=["L", "Nd"], include_characters="._"), min_size=1, max_size=12),
    arrays.arrays(
      st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_, np.dtype("<U7")]),
      arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    max_size=4,
  )
)
def test_arrays_survive_an_npz(tmp_path, content):
  checkpoint = Checkpoint(tmp_path)
  checkpoint.save("any", content)
  read = checkpoint.load("any")
  assert read.keys() == content.keys()
  for name, array in content.items():
    assert read[name].dtype == array.dtype and read[name].shape == array.shape
    np.testing.assert_array_equal(read[name], array)
    assert read[name].flags.writeable


@few
@given(st.binary(max_size=300))
def test_any_bytes_are_no_npz(tmp_path, content):
  path = tmp_path / "a.npz"
  path.write_bytes(content)
  with pytest.raises(InputError):
    results.read_npz(path)


@few
@given(vectors(5, -3, 3), vectors((2, 2), -1, 1), st.none() | vectors((2, 2, 3), -1, 1), numbers(0.25, 8))
def test_states_survive_being_packed(shape, texture, layer, focal):
  identity = Identity(
    shape=jnp.asarray(shape), texture=jnp.asarray(texture), light=jnp.ones((9, 3)), camera=cameras.make_camera(focal),
    lmk_offset=jnp.zeros((70, 3)), texture_layer=None if layer is None else jnp.asarray(layer),
  )  # fmt: skip
  raw = RawPose(*(np.ones((2, 3), np.float32) for _ in range(6)))
  terms = {"total": texture} if layer is not None else {}
  state = TrackState(xs=texture, focal_sd=focal, turns=True, done=7, adam=AdamState(identity, raw, terms))
  packed = save(state)
  assert all(isinstance(a, np.ndarray) for a in packed.values()) and not any(name.startswith("l1") for name in packed)
  read = restore(TrackState, packed)
  assert isinstance(read.adam.identity.camera, Camera) and read.l1 is None and read.shared is None
  assert jax.tree.structure(read) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (read.focal_sd, read.turns, read.done) == (focal, True, 7) and read.turns is True
  for changed in (packed | {"other.part": texture}, {k: v for k, v in packed.items() if k != "adam.identity.shape"}):
    with pytest.raises(ValueError):
      restore(TrackState, changed)


# --- geometry ---


@jax.jit
def there_and_back(r):
  return rotation.matrix_to_axis_angle(rotation.axis_angle_to_matrix(r)), rotation.axis_angle_to_matrix(r)


@few
@given(vectors(3, -20, 20))
def test_rotations_there_and_back(r):
  again, R = there_and_back(jnp.asarray(r))
  np.testing.assert_allclose(R @ R.T, np.eye(3), atol=3e-6)
  assert np.linalg.det(np.asarray(R, np.float64)) == pytest.approx(1.0, abs=1e-5)
  assert np.linalg.norm(again) <= np.pi + 1e-5
  np.testing.assert_allclose(there_and_back(again)[1], R, atol=2e-5)


nearest = jax.jit(rotation.nearest_axis_angle)


@few
@given(vectors(3, -6, 6), vectors(3, -6, 6))
def test_the_nearest_branch_is_the_same_rotation_and_not_farther(r, reference):
  found = nearest(jnp.asarray(r), jnp.asarray(reference))
  np.testing.assert_allclose(there_and_back(found)[1], there_and_back(jnp.asarray(r))[1], atol=2e-5)
  assert np.linalg.norm(found - reference) <= np.linalg.norm(r - reference) + 1e-4


@few
@given(numbers(-10, 10), numbers(-1.5, 0.0), numbers(0.125, 1.5))
def test_bounded_angles_there_and_back(raw, lower, upper):
  low, high = jnp.float32(lower), jnp.float32(upper)
  angle = rotation.bound(jnp.float32(raw), low, high)
  assert lower - 1e-6 <= angle <= upper + 1e-6
  again = rotation.unbound(angle, low, high)
  assert np.isfinite(again)
  np.testing.assert_allclose(rotation.bound(again, low, high), angle, atol=1e-5)


@few
@given(SIZES, vectors((4, 2), -6000, 6000))
def test_screen_and_ndc_there_and_back(size, xy):
  there = cameras.screen_to_ndc(jnp.asarray(xy), size)
  np.testing.assert_allclose(cameras.ndc_to_screen(there, size), xy, rtol=1e-5, atol=2e-2)
  unit = np.asarray(cameras.screen_to_unit(jnp.asarray([[0.0, 0.0], [size[1], size[0]]], jnp.float32), size))
  np.testing.assert_allclose(unit, [[-1, -1], [1, 1]], atol=1e-5)


@few
@given(numbers(0.25, 16), vectors(2, 0, 1), vectors(3, -3, 3), SIZES)
def test_vhts_camera_there_and_back(focal, principal, T, size):
  made = cameras.make_camera(focal, principal, T=T)
  K, RT = results.vht_camera(made)
  read = results.camera_from_vht(K, RT, size)
  for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(made), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


@few
@given(numbers(0.25, 16), vectors(2, 0.25, 0.75), vectors((5, 2), -0.5, 0.5), vectors(5, 0.25, 8), SIZES)
def test_projection_is_the_pixel_matrix(focal, principal, xy, z, size):
  """`project` equals K [x / z] of the camera's own axes."""
  made = cameras.make_camera(focal, principal)
  points = np.column_stack([xy * z[:, None], z])
  seen = np.asarray(cameras.world_to_camera(made, jnp.asarray(points)), np.float64)
  K = np.asarray(cameras.intrinsics(made, size), np.float64)
  expected = (seen / seen[:, 2:]) @ K.T
  found = np.asarray(cameras.project(made, jnp.asarray(points), size))
  np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=1e-5, atol=1e-5 * max(size) * focal)
  np.testing.assert_allclose(found[:, 2], z, rtol=1e-6)
