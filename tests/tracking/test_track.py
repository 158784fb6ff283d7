"""The tracker's host side (which frames, gaps, crops), and tiny clips end to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from benchmarks import synthetic
from vht_jax import cameras, rotation
from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.option import having
from vht_jax.tracking import keyframes, pipeline
from vht_jax.tracking.crops import crop_head
from vht_jax.tracking.motion.gaps import bridge
from vht_jax.tracking.protocols import NoCheckpoint, NoProgress
from vht_jax.tracking.stages import camera
from vht_jax.types import Pose, Status

SIZE = (160, 200)  # H, W
T = 10
SMALL = TrackConfig.of(
  photometric=False, dense_landmarks=False, n_calibration_frames=8, n_keyframes=3, batch_size=5, crop_size=96,
  n_samples=300, identity_steps=4, frame_steps=2,
)  # fmt: skip


# --- which frames ----------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize(
  "settings, seen, words",
  [
    ({}, [], ["no frames"]),
    ({}, [False] * 7, ["no face", "7"]),
    ({"keyframes": (9,)}, [True] * 7, ["keyframes", "9", "0..6"]),
    ({"keyframes": (-1,)}, [True] * 7, ["keyframes", "-1"]),
    ({"cutframes": (0, 7)}, [True] * 7, ["cutframes", "7"]),
    ({"keyframes": (0, 2)}, [True, True, False], ["keyframes", "frame 2"]),
  ],
)
def test_what_cannot_be_tracked_is_one_line(settings, seen, words):
  with pytest.raises(InputError) as error:
    keyframes.check_frames(TrackConfig.of(**settings), np.array(seen, bool))
  assert "\n" not in str(error.value)
  for word in words:
    assert word in str(error.value)


def test_a_lone_picture_is_not_told_that_its_head_hardly_turns():
  few, one = (camera.doubt(n, np.deg2rad(span), 0.15) for n, span in ((5, 7.0), (1, 0.0)))
  assert few.startswith("the head turns by only 7 degrees: the focal length is a guess (+-15 %)")
  assert one.startswith("one picture shows no turn: the focal length is a guess") and "degrees" not in one


def test_frames_that_can_be_tracked_pass():
  keyframes.check_frames(TrackConfig.of(keyframes=(0, 2), cutframes=(1,)), np.array([True, False, True]))


def test_spread_frames_are_distinct_sorted_candidates():
  rng = np.random.default_rng(0)
  features = rng.standard_normal((50, 5))
  good = rng.random(50) < 0.7
  features[~good] = np.nan
  chosen = keyframes.spread_frames(features, good, 8)
  assert len(chosen) == 8 == len(set(chosen))
  assert np.all(np.diff(chosen) > 0) and good[chosen].all()
  np.testing.assert_array_equal(chosen, keyframes.spread_frames(features, good, 8))
  # Fewer candidates than asked for: all of them.
  few = good & (np.cumsum(good) <= 3)
  np.testing.assert_array_equal(keyframes.spread_frames(features, few, 8), np.flatnonzero(few))
  assert len(keyframes.spread_frames(features, good & (np.cumsum(good) == 1), 8)) == 1


def test_frames_that_are_missing_exchange_few_others():
  """Of smooth motions: those that are missing hand over, and most others stay (0.80 without handing over)."""
  every, kept = np.ones(72, bool), []
  for seed in range(1, 5):
    rng = np.random.default_rng(seed)
    features = np.stack([gaussian_filter1d(c, 4) for c in rng.standard_normal((5, 72))], axis=1)
    before = keyframes.spread_frames(features, every, 24)
    for start in range(6, 60, 4):
      good = every.copy()
      good[start : start + 4] = False
      after = keyframes.spread_frames(np.where(good[:, None], features, np.nan), good, 24)
      assert good[after].all() and len(after) == 24
      kept.append(np.isin(before[good[before]], after).mean())
  assert np.mean(kept) > 0.83


def test_spread_frames_covers_the_views():
  """A head that mostly looks ahead and turns once: the extremes are taken, not ten frontal frames."""
  yaw = np.zeros(100)
  yaw[60:80] = np.sin(np.linspace(0, 2 * np.pi, 20)) * 3
  features = np.zeros((100, 5))
  features[:, 0] = yaw
  chosen = keyframes.spread_frames(features, np.ones(100, bool), 3)
  assert yaw[chosen].max() > 2.5 and yaw[chosen].min() < -2.5 and np.abs(yaw[chosen]).min() < 0.1
  rest = keyframes.spread_frames(np.random.default_rng(1).standard_normal((200, 5)), np.ones(200, bool), 6)
  assert len(set(rest)) == 6


def test_spread_frames_of_a_still_are_distinct():
  """All frames alike (a photograph): still different frames, none twice."""
  chosen = keyframes.spread_frames(np.ones((12, 5)), np.ones(12, bool), 5)
  assert len(set(chosen.tolist())) == 5


def test_view_features_do_not_depend_on_size_or_place():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((4, 54))
  landmarks = rng.uniform(0, 100, (4, 70, 2))
  a, b = keyframes.view_features(x, landmarks), keyframes.view_features(x, 3 * landmarks + 40)
  assert a.shape == (4, 5)
  np.testing.assert_allclose(a, b, rtol=1e-6)
  np.testing.assert_allclose(a[:, 0], x[:, 41] / 0.2)  # yaw


# --- gaps ------------------------------------------------------------------------------------------------------------


def poses_of(n, n_expr=3):
  """A head that turns by 0.1 rad per frame about the vertical, through |r| = pi, and opens its mouth."""
  k = np.arange(n, dtype=np.float32)
  turn = np.pi - 0.35 + 0.1 * k
  wrapped = np.where(turn > np.pi, turn - 2 * np.pi, turn)  # as `matrix_to_axis_angle` gives it
  zeros = np.zeros(n, np.float32)
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  return Pose(
    expr=f32(np.stack([k, 2 * k, -k], 1)[:, :n_expr]),
    rotation=f32(np.stack([zeros, wrapped, zeros], 1)),
    translation=f32(np.stack([k, zeros, 1 + zeros], 1)),
    neck=f32(np.zeros((n, 3))),
    jaw=f32(np.stack([0.01 * k, zeros, zeros], 1)),
    eyes=f32(np.zeros((n, 2, 3))),
  )


def matrices(poses):
  return np.asarray(jax.vmap(rotation.axis_angle_to_matrix)(poses.rotation))


def test_bridge_leaves_complete_clips_alone():
  poses = poses_of(5)
  bridged, status = bridge(poses, np.ones(5, bool))
  for a, b in zip(jax.tree.leaves(bridged), jax.tree.leaves(poses), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (status == Status.TRACKED).all()


def test_bridge_interpolates_also_where_the_axis_angle_jumps():
  """Linear motion is restored exactly; a gap at |r| = pi does not turn the head the long way round."""
  truth = poses_of(8)
  seen = np.array([True, True, False, False, False, True, True, True])
  assert float(truth.rotation[1, 1]) > 0 > float(truth.rotation[5, 1])  # the gap spans the jump
  broken = jax.tree.map(lambda a: a.at[2:5].set(77.0), truth)
  bridged, status = bridge(broken, seen)
  np.testing.assert_allclose(bridged.translation, truth.translation, atol=1e-5)
  np.testing.assert_allclose(bridged.expr, truth.expr, atol=1e-5)
  np.testing.assert_allclose(bridged.jaw, truth.jaw, atol=1e-6)
  np.testing.assert_allclose(matrices(bridged), matrices(truth), atol=1e-5)
  np.testing.assert_array_equal(status == Status.INTERPOLATED, ~seen)
  np.testing.assert_array_equal(status == Status.TRACKED, seen)


def test_bridge_holds_the_ends():
  truth = poses_of(6)
  seen = np.array([False, False, True, True, False, False])
  broken = jax.tree.map(lambda a: jnp.where(seen.reshape((-1,) + (1,) * (a.ndim - 1)), a, jnp.nan), truth)
  bridged, status = bridge(broken, seen)
  for leaf, there in zip(jax.tree.leaves(bridged), jax.tree.leaves(truth), strict=True):
    np.testing.assert_allclose(leaf, np.asarray(there)[[2, 2, 2, 3, 3, 3]], atol=1e-6)
  assert (status[[0, 1, 4, 5]] == Status.INTERPOLATED).all()


@pytest.mark.faults
def test_bridge_replaces_diverged_frames():
  truth = poses_of(7)
  good = np.array([True, True, True, False, True, True, True])
  seen = np.array([True, True, True, True, True, True, False])
  broken = jax.tree.map(lambda a: a.at[3].set(jnp.nan), truth)
  bridged, status = bridge(broken, seen, good)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bridged))
  np.testing.assert_allclose(matrices(bridged)[:6], matrices(truth)[:6], atol=1e-5)
  assert status.tolist() == [Status.TRACKED] * 3 + [Status.DIVERGED] + [Status.TRACKED] * 2 + [Status.INTERPOLATED]


@pytest.mark.faults
def test_nothing_to_bridge_from():
  _, status = bridge(poses_of(3), np.array([True, False, True]), np.zeros(3, bool))
  assert status.tolist() == [Status.DIVERGED, Status.NO_FACE, Status.DIVERGED]


# --- crops -----------------------------------------------------------------------------------------------------------


def unknowns_at(u, v, log_scale):
  x = np.zeros(54, np.float32)
  x[-11:-8] = u, v, log_scale
  return x


def ramp(height, width):
  """(H, W, 3) uint8 whose first two channels say where a pixel is."""
  y, x = np.mgrid[0:height, 0:width]
  return np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8)


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.2, -0.1), (-0.45, 0.3), (0.47, 0.37)])
@pytest.mark.parametrize("log_scale", [0.3, 1.0])
def test_crop_maps_points_to_where_they_are_shown(place, log_scale):
  """The unit coordinates of any pixel of the image map to the crop pixel that shows it, at the borders too."""
  height, width, size = 160, 200, 96
  rgb, inside, scale, offset = crop_head(ramp(height, width), unknowns_at(*place, log_scale), size)
  assert rgb.shape == (size, size, 3) and inside.shape == (size, size)
  np.testing.assert_allclose(np.array(place) * scale + offset, size / 2, atol=1.5)  # the head is in the middle
  j, i = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
  uv = (np.stack([j, i], -1) - offset) / scale
  px = uv * max(height, width) + np.array([width / 2, height / 2])  # image px of every crop pixel's centre
  within = (px > 1).all(-1) & (px[..., 0] < width - 1) & (px[..., 1] < height - 1)
  assert within.any()
  np.testing.assert_array_equal(inside[within], 1)
  outside = (px < -1).any(-1) | (px[..., 0] > width + 1) | (px[..., 1] > height + 1)
  assert (inside[outside] == 0).all()
  # Pixel value k has its centre at k + 0.5; resampling and 8 bits cost under a pixel.
  interior = within & (px > 4).all(-1) & (px[..., 0] < width - 4) & (px[..., 1] < height - 4)
  error = rgb[..., :2].astype(float) + 0.5 - px
  assert np.abs(error[interior]).max() < 1.0
  assert np.abs(error[interior].mean(0)).max() < 0.3


@pytest.mark.faults
@pytest.mark.parametrize("place, log_scale", [((3.0, 0), 1.0), ((0, -2.0), 1.0), ((0, 0), -9.0), ((0, 0), 5.0)])
def test_crops_of_absurd_heads_are_masked(place, log_scale):
  rgb, inside, scale, offset = crop_head(ramp(60, 80), unknowns_at(*place, log_scale), 32)
  assert rgb.shape == (32, 32, 3) and np.isfinite(scale) and np.isfinite(offset).all()
  if max(np.abs(place)) > 1:
    assert not inside.any()


# --- end to end ------------------------------------------------------------------------------------------------------


class Gap:
  """A clip whose frames 3 and 4 show no face; their landmarks are NaN."""

  def __init__(self, clip, missing=(3, 4)):
    self.clip, self.missing, self.size = clip, list(missing), clip.size

  def __len__(self):
    return len(self.clip)

  def landmarks(self):
    points, confidence, dense = self.clip.landmarks()
    points, confidence = points.copy(), confidence.copy()
    points[self.missing], confidence[self.missing] = np.nan, 0.0
    return points, confidence, dense

  def images(self, indices):
    return self.clip.images(indices)


class Unlit(Gap):
  """The same, and no image shows anything: landmarks alone.

  What images say of eyes overrules landmarks, exact ones too, and here eyes are shut from frame 6 to the end: a drawn
  lid without lashes that does not open again is taken for a cover, and one that is seen shut comes down farther than
  where a head's table has its points (docs/accuracy.md, "Eyes that are shut").
  """

  def images(self, indices):
    return np.full_like(super().images(indices), 128)


@pytest.fixture(scope="module")
def clip(small_head):
  """10 small frames without detector errors."""
  clean = synthetic.Realism(0.0, 0.0, 0.0, 0.0, 0.001, 0.0, slide=False)
  return synthetic.make_clip(small_head, 1, T, SIZE, clean, yaw_deg=30.0, identity_sd=0.5, focal=1.8)


@pytest.fixture(scope="module")
def still_head(small_head):
  """Of a detector whose points do not slide over the face, as the clip's do not."""
  return small_head.replace(view_bias=None)


@pytest.fixture(scope="module")
def weights():
  """Trusts the clip's landmarks."""
  return Weights(sd_landmark=0.002, sd_offset=0.002, w_identity=1.0)


@pytest.fixture(scope="module")
def from_landmarks(still_head, clip, weights):
  """Frames 3 and 4 missing."""
  return pipeline.track(still_head, Unlit(clip), SMALL, weights)


@pytest.fixture(scope="module")
def project(small_head):
  @jax.jit
  def run(result):
    def one(pose):
      on_mesh = flame.landmarks(small_head, flame.skin(small_head, result.identity.shape, pose))
      return cameras.project(result.identity.camera, on_mesh, SIZE)[:, :2]

    return jax.vmap(one)(result.poses)

  return lambda result: np.asarray(run(result))


def nme(found, clip):
  """(T,) mean landmark error in units of the outer eye distance."""
  eye = np.linalg.norm(clip.points[:, 36] - clip.points[:, 45], axis=-1)
  return np.linalg.norm(found - clip.points, axis=-1)[:, :68].mean(1) / eye.mean()


def turned_deg(result, clip):
  """(T,) angle between the found and the true rotation of the head (root times neck)."""
  neck = jax.jit(jax.vmap(lambda p: rotation.axis_angle_to_matrix(p.rotation) @ rotation.axis_angle_to_matrix(p.neck)))
  cosine = (np.einsum("fij,fij->f", np.asarray(neck(result.poses)), np.asarray(neck(clip.poses))) - 1) / 2
  return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.slow
def test_landmarks_alone(from_landmarks, clip, project):
  seen = np.ones(T, bool)
  seen[[3, 4]] = False
  found = project(from_landmarks)
  error = nme(found, clip)
  assert error[seen].max() < 0.01
  stopped = nme(found[[0, 1, 2, 2, 2, 5, 6, 7, 8, 9]], clip)
  assert (error[~seen] < stopped[~seen]).all()  # bridged: in so fast a clip it is little better
  np.testing.assert_array_equal(from_landmarks.status == Status.INTERPOLATED, ~seen)
  assert np.median(turned_deg(from_landmarks, clip)[seen]) < 2.0
  focal = float(from_landmarks.identity.camera.focal)
  assert abs(focal / 1.8 - 1) < 0.15
  assert from_landmarks.energies["landmarks"].shape == (T,)
  assert {"camera", "landmarks"} <= set(from_landmarks.timing)
  for leaf in jax.tree.leaves((from_landmarks.identity, from_landmarks.poses)):
    assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_tracking_is_deterministic(still_head, from_landmarks, clip, weights):
  again = pipeline.track(still_head, Unlit(clip), SMALL, weights)
  pairs = zip(
    jax.tree.leaves((again.identity, again.poses, again.energies)),
    jax.tree.leaves((from_landmarks.identity, from_landmarks.poses, from_landmarks.energies)),
    strict=True,
  )
  for a, b in pairs:
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_going_on_from_a_result_keeps_its_identity(still_head, from_landmarks, clip, weights, project):
  again = pipeline.track(still_head, Unlit(clip), SMALL, weights, init=from_landmarks)
  np.testing.assert_array_equal(again.identity.shape, from_landmarks.identity.shape)
  np.testing.assert_allclose(again.identity.camera.focal, from_landmarks.identity.camera.focal, rtol=1e-5)
  np.testing.assert_allclose(again.identity.camera.principal, from_landmarks.identity.camera.principal, atol=1e-5)
  np.testing.assert_allclose(project(again), project(from_landmarks), atol=0.3)


class Memory(NoCheckpoint):
  """Keeps stages as the files would."""

  def __init__(self, often=False):
    self.stages, self.often = {}, often

  def load(self, stage):
    return self.stages.get(stage, {})

  def save(self, stage, arrays):
    self.stages[stage] = {k: np.array(v) for k, v in arrays.items()}

  def due(self):
    return self.often


class Killed(NoProgress):
  """Ends the run after the last batch of the frames, before that is saved."""

  def stage(self, name, total):
    self.name, self.left = name, total

  def advance(self, n=1, **energies):
    self.left -= n
    if self.name == "frames" and self.left <= 0:
      raise KeyboardInterrupt


@pytest.mark.slow
def test_photometry_on_a_small_clip(small_head, clip, weights, project):
  """All four stages; a second run that is killed between two batches and goes on ends with the same bits."""
  config = having(SMALL, photometric=True)
  result = pipeline.track(small_head, clip, config, weights)
  memory = Memory(often=True)
  with pytest.raises(KeyboardInterrupt):
    pipeline.track(small_head, clip, config, weights, checkpoint=memory, progress=Killed())
  assert 0 < memory.stages["frames"]["done"] < T
  again = pipeline.track(small_head, clip, config, weights, checkpoint=memory)
  assert "frames" in again.timing and "identity" not in again.timing
  assert nme(project(result), clip).max() < 0.02
  assert np.median(turned_deg(result, clip)) < 2.0
  l1 = np.asarray(result.energies["photometric_l1"])
  assert l1.shape == (T,) and np.median(l1) < 0.05
  assert (np.asarray(result.status) == Status.TRACKED).all()
  leaves = lambda r: jax.tree.leaves((r.identity, r.poses, r.energies, r.pose_sd))
  for a, b in zip(leaves(result), leaves(again), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_joint_schedule_and_going_on_after_it(small_head, clip, weights, project):
  """The identity from all frames; a run that was killed after it ends with the same numbers."""
  config = having(SMALL, photometric=True, schedule="joint")
  memory = Memory()
  result = pipeline.track(small_head, clip, config, weights, checkpoint=memory)
  assert nme(project(result), clip).max() < 0.02
  assert np.median(turned_deg(result, clip)) < 2.0
  assert abs(float(result.identity.camera.focal) / 1.8 - 1) < 0.1
  assert result.timing["joint"] > 0 and "joint" in memory.stages
  again = pipeline.track(small_head, clip, config, weights, checkpoint=memory)
  assert "joint" not in again.timing
  leaves = lambda r: jax.tree.leaves((r.identity, r.poses, r.energies, r.pose_sd))
  for a, b in zip(leaves(result), leaves(again), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.faults
@pytest.mark.parametrize("settings", [{"photometric": False}, {"solver": "adam"}])
def test_joint_needs_gauss_newton_on_images(settings):
  with pytest.raises(InputError, match="schedule: joint is for Gauss-Newton on images"):
    keyframes.check_frames(TrackConfig(schedule="joint", **settings), np.ones(3, bool))


class Doubted(Gap):
  """In frames 5 and 6 the detector draws eye 36-41 four times as high; `known`: and says that it guesses."""

  def __init__(self, clip, known):
    super().__init__(clip, missing=())
    self.known, self.rows = known, [5, 6]

  def landmarks(self):
    points, confidence, dense = super().landmarks()
    for upper, lower in ((37, 41), (38, 40)):
      apart = points[self.rows, upper] - points[self.rows, lower]
      points[self.rows, upper] += 1.5 * apart
      points[self.rows, lower] -= 1.5 * apart
    return points, confidence, dense

  def beliefs(self):
    if not self.known:
      return None
    landmarks = np.ones((T, 70), np.float32)
    landmarks[np.ix_(self.rows, range(36, 42))] = 0.01
    return landmarks, np.ones((T, 478), np.float32)


@pytest.mark.slow
def test_what_is_guessed_counts_less_in_its_frame_and_changes_nothing_that_frames_share(small_head, clip, weights):
  config = having(SMALL, smooth=False)
  found = [pipeline.track(small_head, Doubted(clip, known), config, weights) for known in (False, True)]
  for a, b in zip(*(jax.tree.leaves(r.identity) for r in found), strict=True):
    np.testing.assert_array_equal(a, b)
  lids = [np.asarray(r.poses.expr)[:, small_head.expr_names.index("eyelidRight")] for r in found]
  same = np.delete(lids[1] - lids[0], [5, 6])
  np.testing.assert_allclose(same, 0, atol=1e-3)  # the last step of one more fit
  assert np.abs(lids[1] - lids[0])[[5, 6]].min() > 0.05
