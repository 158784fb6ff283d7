"""VHT's result file both ways, and the figures on cases with a known answer."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vht_jax import results
from vht_jax.cameras import make_camera
from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.types import Identity, Pose, Status, TrackResult

VHT_KEYS = {
  "rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose", "shape", "expr", "texture", "frame", "view", "light",
  "n_processed", "K", "RT", "image_size",
}  # fmt: skip


def make_result(model, n=4, seed=0):
  """A result with random codes and poses within the limits."""
  rng = np.random.default_rng(seed)

  def angles(name, *shape):
    lower, upper = flame.JOINT_LIMITS[name]
    return jnp.asarray(rng.uniform(0.9 * lower, 0.9 * upper, (*shape, 3)), jnp.float32)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  turn = np.linspace(3.0, 3.6, n)  # crosses pi
  poses = Pose(
    expr=0.3 * jnp.abs(normal(n, model.exprdirs.shape[-1])),
    rotation=jnp.asarray(np.stack([0 * turn, turn, 0 * turn], -1), jnp.float32),
    translation=jnp.asarray([[0.0, 0.0, 1.0]], jnp.float32) + 0.02 * normal(n, 3),
    neck=0.3 * angles("neck", n),
    jaw=angles("jaw", n),
    eyes=0.3 * angles("eyes", n, 2),
  )
  identity = Identity(
    shape=normal(model.shapedirs.shape[-1]),
    texture=normal(model.texture_basis.shape[-1]),
    light=normal(9, 3),
    camera=make_camera(1.7, (0.52, 0.46)),
    lmk_offset=1e-3 * normal(70, 3),
    texture_layer=0.1 * normal(4, 4, 3),
  )
  status = jnp.asarray([Status.TRACKED, Status.INTERPOLATED] + [Status.TRACKED] * (n - 2), jnp.int32)
  return TrackResult(identity=identity, poses=poses, energies={"photo": normal(n)}, status=status)


@pytest.fixture
def saved(tmp_path, open_head):
  result = make_result(open_head)
  path = tmp_path / "sub" / results.FILE_NAME
  results.save_tracked(path, result, np.arange(1, 5), (48, 64), TrackConfig(), head=open_head.name)
  return path, result


def test_layout_is_vhts(saved):
  path, _ = saved
  arrays = results.read_npz(path)
  assert VHT_KEYS <= set(arrays)
  assert all(name.startswith("vht_jax_") for name in set(arrays) - VHT_KEYS)
  shapes = dict.fromkeys(("rotation", "translation", "neck_pose", "jaw_pose"), (4, 3))
  shapes |= {"eyes_pose": (4, 6), "shape": (300,), "expr": (4, 100), "texture": (100,), "light": (4, 9, 3)}
  shapes |= {"K": (3,), "RT": (3, 4)}
  for name, shape in shapes.items():
    assert arrays[name].shape == shape and arrays[name].dtype == np.float32, name
  assert arrays["frame"].dtype == np.int64 and arrays["frame"].tolist() == [1, 2, 3, 4]
  assert arrays["view"].dtype == np.dtype("<U14") and arrays["n_processed"].shape == ()
  assert arrays["image_size"].tolist() == [48, 64]
  np.testing.assert_allclose(arrays["K"], [1.7, 0.52, 0.54], rtol=1e-6)  # cy counts from the bottom
  np.testing.assert_array_equal(arrays["RT"], np.eye(3, 4))
  assert [p.name for p in path.parent.iterdir()] == [results.FILE_NAME]  # no temporary file stays
  mask = os.umask(0o022)
  os.umask(mask)
  assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_poses_are_stored_before_the_tanh(saved):
  path, result = saved
  arrays = results.read_npz(path)
  degrees = {"neck_pose": ([-90, -60, -80], [90, 60, 80]), "jaw_pose": ([-5, -0.1, -0.1], [60, 0.1, 0.1])}
  for (name, (low, high)), angle in zip(degrees.items(), (result.poses.neck, result.poses.jaw)):
    low, high = np.deg2rad(low), np.deg2rad(high)
    np.testing.assert_allclose(low + (np.tanh(arrays[name]) + 1) / 2 * (high - low), angle, atol=2e-6)


def test_save_and_load(saved, open_head):
  path, result = saved
  tracked = results.load_tracked(path, open_head)
  assert tracked.head == open_head.name and tracked.image_size == (48, 64) and tracked.n_processed == 4
  assert tracked.frames.tolist() == [1, 2, 3, 4]
  found, expected = tracked.result, result.replace(timing={})
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), found, expected)


def test_codes_keep_their_length_without_a_model(saved):
  path, result = saved
  tracked = results.load_tracked(path)
  assert tracked.result.identity.shape.shape == (300,) and tracked.result.poses.expr.shape == (4, 100)
  n = len(result.identity.shape)
  np.testing.assert_array_equal(tracked.result.identity.shape[:n], result.identity.shape)
  assert not np.any(tracked.result.identity.shape[n:])


def test_file_of_the_original_both_ways(shared_data, tmp_path):
  original = shared_data / "parity" / "tracked_flame_params.npz"
  if not original.exists():
    pytest.skip(f"{original} not present")
  tracked = results.load_tracked(original)
  config = TrackConfig.of(n_shape=40, n_expr=20, n_tex=6)
  results.save_tracked(tmp_path / "a.npz", tracked.result, tracked.frames, tracked.image_size, config)
  with np.load(original) as theirs, np.load(tmp_path / "a.npz") as ours:
    for name in theirs.files:
      assert ours[name].shape == theirs[name].shape and ours[name].dtype == theirs[name].dtype, name
      if theirs[name].dtype.kind == "f":
        np.testing.assert_allclose(ours[name], theirs[name], atol=5e-6, err_msg=name)
      else:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_result_of_the_original_poses_its_vertices(shared_data):
  """The angles we read from VHT's raw values are those its own limits give."""
  golden = shared_data / "parity" / "parity_flame.npz"
  if not golden.exists():
    pytest.skip(f"{golden} not present")
  with np.load(golden) as g:
    n = len(g["jaw_pose"])
    raw = flame.RawPose(
      expr=jnp.zeros((n, 1)), rotation=jnp.zeros((n, 3)), translation=jnp.zeros((n, 3)), neck=g["neck_pose"],
      jaw=g["jaw_pose"], eyes=g["eyes_pose"].reshape(n, 2, 3),
    )  # fmt: skip
    pose = jax.vmap(flame.limit_pose)(jax.tree.map(jnp.asarray, raw))
    np.testing.assert_allclose(pose.jaw, g["jaw_limited"], atol=1e-6)
    np.testing.assert_allclose(pose.eyes.reshape(n, 6), g["eyes_limited"].reshape(n, 6), atol=1e-6)


def test_rows_that_vht_never_reached_are_not_tracked(saved, tmp_path):
  arrays = {k: v for k, v in results.read_npz(saved[0]).items() if not k.startswith("vht_jax_")}
  arrays["n_processed"] = np.asarray(2)
  arrays["rotation"][3] = np.nan
  results.write_npz(tmp_path / "b.npz", arrays)
  tracked = results.load_tracked(tmp_path / "b.npz")
  assert tracked.result.status.tolist() == [Status.TRACKED, Status.TRACKED, Status.NO_FACE, Status.NO_FACE]


def test_rows_by_frame_id_for_resuming(saved, open_head):
  tracked = results.load_tracked(saved[0], open_head)
  other = results.for_frames(tracked, np.array([3, 4, 5, 7]))
  np.testing.assert_allclose(other.poses.rotation[:2], tracked.result.poses.rotation[2:4])
  np.testing.assert_allclose(other.poses.expr[3], tracked.result.poses.expr[3])
  assert other.status.tolist() == [Status.TRACKED, Status.TRACKED, Status.NO_FACE, Status.NO_FACE]
  with pytest.raises(InputError, match="none of the dataset's frames"):
    results.for_frames(tracked, np.array([100, 101]))


def test_pixel_matrix_as_camera(saved, tmp_path):
  path, result = saved
  arrays = results.read_npz(path)
  f, cx, cy = arrays["K"]
  arrays["K"] = np.array([[f * 64, 0, cx * 64], [0, f * 64, cy * 48], [0, 0, 1]])
  results.write_npz(tmp_path / "b.npz", arrays)
  camera = results.load_tracked(tmp_path / "b.npz").result.identity.camera
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), camera, result.identity.camera)


def test_moved_camera_survives(tmp_path):
  R = jnp.asarray(Rotation.from_rotvec([0.1, 0.2, 3.0]).as_matrix(), jnp.float32)
  camera = make_camera(2.0, R=R, T=jnp.array([0.1, 0.2, 0.3], jnp.float32))
  again = results.camera_from_vht(*results.vht_camera(camera), (10, 20))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, camera)


def test_rotations_without_jumps(open_head):
  truth = np.stack([0.1 * np.ones(60), np.linspace(2.5, 4.0, 60), np.zeros(60)], -1)
  wrapped = Rotation.from_rotvec(truth).as_rotvec()
  assert np.abs(np.diff(wrapped, axis=0)).max() > 5.0
  smooth = results.continuous(wrapped)
  assert np.abs(np.diff(smooth, axis=0)).max() < 0.1
  np.testing.assert_allclose(smooth, truth, atol=1e-5)


@pytest.mark.faults
@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "damaged or of another kind"),
    (lambda p: p.write_bytes(p.read_bytes()[:-30]), "damaged or of another kind"),
    (lambda p: p.write_bytes(b""), "damaged or of another kind"),
    (lambda p: p.write_text("not an npz"), "damaged or of another kind"),
    (lambda p: p.unlink(), "no such file"),
    (lambda p: np.savez(p, rotation=np.array([object()])), "damaged or of another kind"),
    (lambda p: np.savez(p, rotation=np.zeros((3, 3))), "the key 'translation' is missing"),
    (lambda p: np.savez(p, **{**results.read_npz(p), "expr": np.zeros((7, 5))}), r"expr: expected shape \(4"),
    (lambda p: np.savez(p, **{**results.read_npz(p), "jaw_pose": np.full((4, 3), np.nan)}), "jaw_pose: expected f"),
    (lambda p: np.savez(p, **{**results.read_npz(p), "K": np.zeros(3)}), "K: expected"),
    (lambda p: np.savez(p, **{**results.read_npz(p), "image_size": np.zeros(2)}), "image_size"),
  ],
)
def test_broken_files_say_one_clear_line(saved, damage, message):
  damage(saved[0])
  with pytest.raises(InputError, match=message) as error:
    results.load_tracked(saved[0])
  assert saved[0].name in str(error.value) and "\n" not in str(error.value)


# Figures


def square(n_frames=3):
  """Detections on a grid with outer eye corners 50 px apart."""
  points = np.random.default_rng(0).uniform(0, 100, (n_frames, 70, 2))
  points[:, 36], points[:, 45] = (10.0, 20.0), (50.0, 50.0)
  return points


def test_nme_of_a_known_shift():
  detected = square()
  confidence = np.ones((3, 70))
  projected = detected + [3.0, 4.0]
  for points in (slice(0, 68), slice(17, 68), slice(68, 70)):
    np.testing.assert_allclose(results.nme(projected, detected, confidence, points), 10.0)  # 5 px of 50


def test_nme_leaves_missing_points_out():
  detected, confidence = square(), np.ones((3, 70))
  projected = detected.copy()
  projected[:, 69] += 1000.0
  confidence[:, 69] = 0.0
  np.testing.assert_allclose(results.nme(projected, detected, confidence, slice(68, 70)), 0.0, atol=1e-12)
  confidence[0, 68:] = 0.0
  assert np.isnan(results.nme(projected, detected, confidence, slice(68, 70))[0])


def test_jitter_is_zero_for_steady_motion_and_known_for_a_zigzag():
  time = np.arange(6.0)[:, None, None]
  steady = np.broadcast_to(time, (6, 4, 2))
  valid = np.ones(6, bool)
  assert results.jitter(steady, valid) == 0.0
  zigzag = steady + np.where(np.arange(6) % 2, 1.0, 0.0)[:, None, None]  # second difference 2 in x and in y
  assert results.jitter(zigzag, valid) == pytest.approx(2 * np.sqrt(2))
  assert np.isnan(results.jitter(zigzag, np.array([1, 1, 0, 1, 1, 0], bool)))


def test_landmark_figures():
  rng = np.random.default_rng(1)
  detected = square(1).repeat(9, 0) + rng.normal(size=(9, 70, 2))
  detected[:, 36], detected[:, 45] = (10.0, 20.0), (50.0, 50.0)
  still = detected.mean(0)
  figures = results.landmark_figures(still + 0.5 * (detected - still), detected, np.ones((9, 70)), np.ones(9, bool))
  assert figures["jitter_ratio"] == pytest.approx(0.5)
  assert 0 < figures["nme68_median"] < 10
  nothing = results.landmark_figures(detected, detected, np.ones((9, 70)), np.zeros(9, bool))
  assert all(np.isnan(v) for v in nothing.values())


def test_alignment_undoes_a_similarity():
  rng = np.random.default_rng(2)
  points = rng.normal(size=(5, 30, 3))
  R = Rotation.random(5, random_state=3).as_matrix()
  moved = 1.3 * points @ np.swapaxes(R, -1, -2) + rng.normal(size=(5, 1, 3))
  np.testing.assert_allclose(results.align(points, moved), moved, atol=1e-10)
  np.testing.assert_allclose(results.align(moved, points), points, atol=1e-10)
  assert np.abs(results.align(points, moved, scale=False) - moved).max() > 0.1
  rigid = points @ np.swapaxes(R, -1, -2) + 1.0
  np.testing.assert_allclose(results.align(points, rigid, scale=False), rigid, atol=1e-10)


def test_alignment_does_not_mirror():
  points = np.random.default_rng(4).normal(size=(30, 3))
  mirrored = points * [-1, 1, 1]
  assert np.linalg.norm(results.align(points, mirrored) - mirrored, axis=-1).mean() > 0.1


def test_vertex_errors_of_a_bigger_head():
  points = np.random.default_rng(5).normal(size=(2, 40, 3))
  face = np.arange(40) < 20
  errors = results.vertex_errors(1.1 * points, points, face)
  assert errors["vertex_mm"] == pytest.approx(0, abs=1e-6) and errors["face_mm"] == pytest.approx(0, abs=1e-6)
  centred = points - points.mean(1, keepdims=True)
  expected = 1000 * 0.1 * np.linalg.norm(centred, axis=-1).mean()
  assert errors["vertex_rigid_mm"] == pytest.approx(expected)


def test_angles():
  R = Rotation.from_rotvec([[0, 0, 1e-5], [0, 0.5, 0], [np.pi, 0, 0]]).as_matrix()
  found = results.angle_deg(R, np.broadcast_to(np.eye(3), R.shape))
  np.testing.assert_allclose(found, np.degrees([1e-5, 0.5, np.pi]), rtol=1e-6)
  np.testing.assert_allclose(results.direction_deg(np.array([0, 0, 1]), np.array([0, 1, 1])), 45.0)


def test_pose_errors_of_known_turns(open_head):
  poses = make_result(open_head).poses
  zero = jax.tree.map(jnp.zeros_like, poses)
  turned = zero.replace(
    rotation=zero.rotation.at[:, 1].set(0.2),
    neck=zero.neck.at[:, 1].set(0.1),
    jaw=zero.jaw.at[:, 0].set(0.3),
    eyes=zero.eyes.at[:, :, 1].set(0.25),
  )
  errors = results.pose_errors(turned, zero)
  expected = {"rotation_deg": 0.3, "jaw_deg": 0.3, "gaze_deg": 0.25}  # rotations about one axis add up
  for name, angle in expected.items():
    assert errors[name] == pytest.approx(np.degrees(angle), rel=1e-4), name


def test_geometry_against_itself_and_a_known_change(saved, open_head):
  path, result = saved
  figures = results.geometry_figures(open_head, result, np.arange(1, 5), path)
  for name in ("vertex_mm", "face_mm", "vertex_rigid_mm", "face_rigid_mm"):
    assert figures[name] < 2e-3, name
  assert max(figures[k] for k in ("rotation_deg", "jaw_deg", "gaze_deg")) < 2e-3
  assert figures["focal_error"] < 1e-6
  other = result.replace(
    identity=result.identity.replace(camera=make_camera(1.7 * 1.1), shape=0.0 * result.identity.shape)
  )
  figures = results.geometry_figures(open_head, other, np.arange(1, 5), path)
  assert figures["focal_error"] == pytest.approx(0.1, rel=1e-4)
  assert figures["vertex_rigid_mm"] >= figures["vertex_mm"] > 0.5


def test_truth_may_give_vertices_and_other_frames(saved, open_head, tmp_path):
  path, result = saved
  arrays = results.read_npz(path)
  arrays["vertices"] = results.posed_vertices(open_head, result) * 2.0  # twice as big: alignment sees no difference
  arrays["frame"] = np.array([4, 3, 9, 8])
  for name in ("rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose", "expr", "vertices"):
    arrays[name] = arrays[name][[3, 2, 1, 0]]
  results.write_npz(tmp_path / "truth.npz", arrays)
  figures = results.geometry_figures(open_head, result, np.arange(1, 5), tmp_path / "truth.npz")
  assert figures["vertex_mm"] < 5e-3 and figures["vertex_rigid_mm"] > 10
  with pytest.raises(InputError, match="none of the tracked frames"):
    results.geometry_figures(open_head, result, np.arange(101, 105), tmp_path / "truth.npz")
  arrays["vertices"] = arrays["vertices"][:, :100]
  results.write_npz(tmp_path / "truth.npz", arrays)
  with pytest.raises(InputError, match="vertices: expected"):
    results.geometry_figures(open_head, result, np.arange(1, 5), tmp_path / "truth.npz")


def test_projected_landmarks_match_one_frame_at_a_time(open_head):
  from vht_jax.cameras import project

  result = make_result(open_head)
  found = results.projected_landmarks(open_head, result, (48, 64))
  pose = jax.tree.map(lambda x: x[2], result.poses)
  points = flame.landmarks(open_head, flame.skin(open_head, result.identity.shape, pose))
  np.testing.assert_allclose(found[2], project(result.identity.camera, points, (48, 64))[:, :2], atol=1e-3)


def test_detail_of_a_face_says_which_way_it_was_shaken():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 255, (120, 120, 3), np.uint8)
  points = rng.uniform(20, 100, (68, 2))
  sharp = results.face_detail(image, points)
  column = np.repeat(image.mean(axis=0, keepdims=True).astype(np.uint8), 120, axis=0)
  shaken = results.face_detail(column, points)
  assert shaken[1] < 0.1 * sharp[1] and shaken[0] > 0.5 * sharp[0]
  larger = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)
  np.testing.assert_allclose(results.face_detail(larger, 2 * points), sharp, rtol=0.25)
  darker = (image * 0.5).astype(np.uint8)
  np.testing.assert_allclose(results.face_detail(darker, points), sharp, rtol=0.02)
  assert np.isnan(results.face_detail(image, points + 500)).all()
  assert np.isfinite(results.face_detail(np.zeros_like(image), points)).all()


def test_confidence_finds_the_frames_that_stand_out():
  rng = np.random.default_rng(0)
  detected = rng.uniform(0, 100, (1, 70, 2)) + np.zeros((20, 1, 1))
  projected = detected + rng.normal(0, 1, (20, 70, 2))
  seen = np.ones((20, 70))
  status = np.full(20, Status.TRACKED)
  photo = np.full(20, 0.03)
  trust = results.frame_confidence(projected, detected, seen, status, photo)
  assert trust.dtype == np.float32 and trust.min() > 0.9 and trust.max() <= 1
  projected[3] += 30  # the head is beside the face
  photo[7] = 0.3  # colours do not fit
  seen[9, :40] = 0.1  # half of the face is turned away
  status[11] = Status.INTERPOLATED
  trust = results.frame_confidence(projected, detected, seen, status, photo)
  assert np.flatnonzero(trust < 0.5).tolist() == [3, 7, 9, 11] and trust[11] == 0
  assert not results.frame_confidence(projected, detected, seen, np.full(20, Status.NO_FACE)).any()
  detail = np.full((20, 2), 0.2)
  detail[13] = 0.2, 0.08  # shaken up and down
  detail[11] = np.nan
  trust = results.frame_confidence(projected, detected, seen, status, photo, detail)
  assert np.flatnonzero(trust < 0.5).tolist() == [3, 7, 9, 11, 13]
  photo[5] = np.nan  # the fit gave up on its colours
  assert results.frame_confidence(projected, detected, seen, status, photo)[5] == 0


@pytest.mark.faults
@pytest.mark.parametrize("name", ["vht_jax_confidence", "vht_jax_status", "vht_jax_energy_photo"])
def test_a_row_per_frame_is_expected(saved, name):
  path, result = saved
  arrays = results.read_npz(path)
  results.write_npz(path, {**arrays, name: np.zeros(3, np.float32)})
  with pytest.raises(InputError, match=f"{name}: expected 4 numbers"):
    results.load_tracked(path)


def test_confidence_is_kept(saved, open_head):
  path, result = saved
  trust = jnp.asarray([0.1, 0.2, 0.3, 0.4], jnp.float32)
  results.save_tracked(path, result.replace(confidence=trust), np.arange(1, 5), (48, 64), TrackConfig())
  loaded = results.load_tracked(path)
  np.testing.assert_array_equal(loaded.result.confidence, trust)
  np.testing.assert_array_equal(results.for_frames(loaded, np.array([2, 4, 9])).confidence, trust[jnp.array([1, 3, 3])])


def test_times_and_names_are_kept(saved):
  path, result = saved
  times, names = np.array([0, 0.1, 0.15, 9.0]), ["a b.jpg", "ü.png", "clip.mp4#3", "x"]
  results.save_tracked(path, result, np.arange(1, 5), (48, 64), TrackConfig(), times=times, sources=names)
  loaded = results.load_tracked(path)
  np.testing.assert_array_equal(loaded.times, times)
  assert loaded.sources.tolist() == names and np.load(path, allow_pickle=False)["vht_jax_source"].tolist() == names
  results.write_npz(path, {**results.read_npz(path), "vht_jax_times": np.zeros(3)})
  with pytest.raises(InputError, match="vht_jax_times: expected one for each of 4 frames"):
    results.load_tracked(path)


def test_standard_deviations_are_kept_and_follow_their_frames(saved, open_head):
  path, result = saved
  sd = jax.tree.map(lambda a: jnp.abs(a) + 0.1, result.poses)
  sd = sd.replace(jaw=sd.jaw.at[1].set(jnp.inf))  # a bridged frame
  certain = result.replace(pose_sd=sd, focal_sd=jnp.float32(0.03))
  results.save_tracked(path, certain, np.arange(1, 5), (48, 64), TrackConfig())
  loaded = results.load_tracked(path, open_head)
  assert float(loaded.result.focal_sd) == pytest.approx(0.03)
  jax.tree.map(np.testing.assert_array_equal, loaded.result.pose_sd, sd)
  np.testing.assert_array_equal(results.for_frames(loaded, np.array([3, 1])).pose_sd.expr, sd.expr[jnp.array([2, 0])])
  arrays = results.read_npz(path)
  for damage, words in (
    ({"vht_jax_sd_jaw": np.ones((4, 2), np.float32)}, "vht_jax_sd_jaw: expected"),
    ({"vht_jax_sd_expr": -arrays["vht_jax_sd_expr"]}, "vht_jax_sd_expr: expected"),
    ({"vht_jax_focal_sd": np.float32(np.nan)}, "vht_jax_focal_sd: expected"),
  ):
    results.write_npz(path, {**arrays, **damage})
    with pytest.raises(InputError, match=words):
      results.load_tracked(path)
