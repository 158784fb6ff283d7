"""Whole runs of the app on clips with two faces, a cut, a person who leaves, and frames that are hard to read.

The clips are put together from the sample videos. tests/landmarks/test_faults_faces.py asks whether the detector finds
the right face in them; here is what the tracker makes of it.
"""

import csv
import json
import socket
import urllib.request

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_faults_faces import SIDE, beside, detect, people  # noqa: F401  people: a fixture

from vht_jax import results
from vht_jax.app import cli as app
from vht_jax.cameras import make_camera
from vht_jax.dataset.folder import FrameFolder
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.render.picture import map_frames, render_head
from vht_jax.types import Identity, Status
from vht_jax.video.codec import write_video

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
  """No run asks for anything from the network."""

  def refuse(*args, **_):
    raise AssertionError(f"the network was asked for {args}")

  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)


FLAGS = ["--model=open", "--n_shape=50", "--n_tex=5", "--nophotometric", "--nooverlay", "--landmarks=mediapipe"]


class Run:
  """What a run of the app left: statuses, confidences, projected and detected landmarks (T, 70, 2) px."""

  def __init__(self, output, dataset, face=None):
    self.summary = json.loads((output / "summary.json").read_text())
    with open(output / "frames.csv", newline="") as file:
      self.rows = list(csv.DictReader(file))
    tracked = results.load_tracked(output / results.FILE_NAME, load_head(model="open", n_shape=50, n_texture=5))
    self.status = np.asarray(tracked.result.status)
    self.trust = np.array([float(row["confidence"]) for row in self.rows])
    self.doubtful = np.array([row["note"] == "doubtful" for row in self.rows])
    self.dataset = FrameFolder(dataset, face=face)
    self.detected, confidence, _ = self.dataset.landmarks()
    model = load_head(model="open", n_shape=50, n_texture=5)
    self.points = results.projected_landmarks(model, tracked.result, self.dataset.size)
    self.nme = results.nme(self.points, self.detected, confidence, slice(0, 68))
    self.eye = np.nanmedian(np.linalg.norm(self.detected[:, 36] - self.detected[:, 45], axis=-1)[self.dataset.valid])

  def acceleration(self):
    """(T,) per cent of the eye distance: mean second difference of the 68 points around each frame; NaN at the ends."""
    p = self.points[:, :68]
    second = np.linalg.norm(p[:-2] - 2 * p[1:-1] + p[2:], axis=-1).mean(axis=1)
    return np.concatenate([[np.nan], 100 * second / self.eye, [np.nan]])

  def speed(self):
    """(T - 1,) per cent of the eye distance: how far the 68 points go on average from each frame to the next."""
    return 100 * np.linalg.norm(np.diff(self.points[:, :68], axis=0), axis=-1).mean(axis=1) / self.eye

  def check_report(self):
    """Every frame has a status and a confidence; the bad ones are listed and counted."""
    assert len(self.rows) == len(self.dataset) == self.summary["frames"]
    assert [row["status"] for row in self.rows] == [Status(s).name.lower() for s in self.status]
    assert np.isfinite(self.points).all() and ((self.trust >= 0) & (self.trust <= 1)).all()
    tracked = self.status == Status.TRACKED
    assert self.summary["tracked"] == tracked.sum() and self.summary["doubtful"] == self.doubtful.sum()
    np.testing.assert_array_equal(self.doubtful, ~tracked | (self.trust < 0.5))
    assert not self.trust[~tracked].any()


def track(frames, folder, *flags, face=None):
  folder.mkdir(exist_ok=True)
  if not (folder / "clip.mp4").exists():
    write_video(folder / "clip.mp4", frames, 25)
  argv = [f"--video={folder / 'clip.mp4'}", f"--output_path={folder / 'out'}", *FLAGS, *flags]
  assert app.main(argv) == 0
  return Run(folder / "out" if face is None else folder / "out" / f"face_{face}", folder / "out" / "dataset", face)


@pytest.fixture(scope="module")
def alone(people, tmp_path_factory):  # noqa: F811
  """(60, 2, 2) px: centre of each person's detected landmarks, alone in the picture."""
  folder = tmp_path_factory.mktemp("alone")
  found = [detect(frames, folder, f"person{i}") for i, frames in enumerate(people)]
  return np.stack([[d.landmarks.mean(axis=0) for d in dataset.detections] for dataset in found], axis=1)


def test_two_faces_each_is_tracked(people, alone, tmp_path):  # noqa: F811
  assert track(beside(*people), tmp_path, "--face=all", face=0) is not None
  for face in (0, 1):
    run = Run(tmp_path / "out" / f"face_{face}", tmp_path / "out" / "dataset", face)
    run.check_report()
    assert (run.status == Status.TRACKED).all()
    away = np.linalg.norm(run.points[:, :68].mean(axis=1) - [SIDE * face, 0] - alone[:, face], axis=-1)
    assert away.max() < 8, away
    assert np.median(run.nme) < 2.0 and run.nme.max() < 4.0


def test_a_cut(people, tmp_path):  # noqa: F811
  """The same person from nearer and in another place."""
  person = people[1]
  matrix = np.array([[1.25, 0, -80.0], [0, 1.25, -70.0]])
  elsewhere = [cv2.warpAffine(f, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE) for f in person[30:]]
  run = track(person[:30] + elsewhere, tmp_path)
  run.check_report()
  assert run.dataset.find_cuts() == [30]
  assert "new shots start at frames 31" in (tmp_path / "out" / "track.log").read_text()
  assert (run.status == Status.TRACKED).all()
  inside = np.r_[2:28, 32:58]
  # The head jumps with the picture, in one step: had anything been smoothed across, these would be far off.
  assert np.linalg.norm((run.points[30] - run.points[29])[:68].mean(axis=0)) > 20
  assert run.nme[[28, 29, 30, 31]].max() <= run.nme[inside].max()
  assert run.acceleration()[[28, 31]].max() <= run.acceleration()[inside].max()


@pytest.mark.parametrize("person", [0, 1])
def test_a_face_that_leaves_for_20_frames(people, tmp_path, person):  # noqa: F811
  frames = [f.copy() for f in people[person]]
  for i in range(20, 40):
    frames[i][:] = 100
  run = track(frames, tmp_path, "--nofind_cuts")
  run.check_report()
  expected = np.full(60, Status.TRACKED)
  expected[20:40] = Status.INTERPOLATED
  np.testing.assert_array_equal(run.status, expected)
  assert run.summary["tracked"] == 40 and run.doubtful[20:40].all()
  inside = np.r_[2:18, 42:58]
  acceleration, speed = run.acceleration(), run.speed()
  # From where the person left to where they come back, without a jump in place or speed: nowhere in the gap or at its
  # ends does the head accelerate harder than elsewhere.
  assert acceleration[19:41].max() <= acceleration[inside].max()
  assert speed[[19, 39]].max() <= speed[inside].max()
  assert run.nme[[18, 19, 40, 41]].max() <= 1.1 * run.nme[inside].max()


def test_a_face_that_leaves_at_a_cut(people, tmp_path):  # noqa: F811
  """Nothing is bridged across a cut: frames without a face keep the nearest pose of their own shot."""
  frames = [f.copy() for f in people[0][:30]] + [f[:, ::-1].copy() for f in people[0][30:]]
  for i in range(25, 36):
    frames[i][:] = 100
  run = track(frames, tmp_path, "--nofind_cuts", "--cutframes=30")
  run.check_report()
  np.testing.assert_array_equal(np.flatnonzero(run.status == Status.INTERPOLATED), np.arange(25, 36))
  assert np.ptp(run.points[24:30], axis=0).max() < 0.1 and np.ptp(run.points[30:37], axis=0).max() < 0.1
  assert np.linalg.norm((run.points[30] - run.points[29])[:68], axis=-1).mean() > 5


# Frames that are hard to read: what the detector makes of them may be wrong, but then the report says so.

QUICK = [
  "--photometric", "--crop_size=96", "--n_samples=400", "--identity_steps=6", "--frame_steps=2", "--n_keyframes=4"
]  # fmt: skip


def test_occlusion_and_motion_blur(people, alone, tmp_path):  # noqa: F811
  """A board before half of the face for ten frames, then eight frames that were shaken, then one that is noise."""
  rng = np.random.default_rng(0)
  frames = [f.copy() for f in people[0]]
  for i in range(12, 22):
    x, y = alone[i, 0].astype(int)
    frames[i][y - 110 : y + 110, x : x + 110] = 20
  kernel = np.zeros((61, 61), np.float32)
  kernel[30] = 1 / 61
  for i in range(32, 40):
    frames[i] = cv2.filter2D(frames[i], -1, kernel)
  frames[50] = rng.integers(0, 255, frames[50].shape, np.uint8)
  run = track(frames, tmp_path, "--nofind_cuts", *QUICK)
  run.check_report()
  hidden, shaken, good = np.zeros((3, 60), bool)
  hidden[12:22] = shaken[32:40] = good[:] = True
  good &= ~hidden & ~shaken
  good[50] = False
  assert (run.status[good] == Status.TRACKED).all() and run.status[50] == Status.INTERPOLATED
  # The landmarks are off by 10 and 17 % of the eye distance there, and nothing but the image says so.
  assert run.doubtful[hidden].all() and run.doubtful[shaken].mean() > 0.8 and run.doubtful[50]
  assert run.doubtful[good].mean() < 0.1 and run.trust[good].mean() > 0.8
  # Smoothing passes a part on to the frames beside them, and not further.
  apart = good & ~np.convolve(hidden | shaken, np.ones(7), mode="same").astype(bool)
  assert run.nme[good].max() < 6.0 and np.median(run.nme[apart]) < 3.0 and run.nme[apart][4:].max() < 3.5


def test_a_tiny_face_in_1080p(people, tmp_path):  # noqa: F811
  """A face of 40 pixels, then of 25, which nothing reads well, then none at all that one could see (6)."""
  rng = np.random.default_rng(0)
  wall = cv2.GaussianBlur(rng.integers(60, 200, (1080, 1920, 3), np.uint8), (0, 0), 40)
  frames = []
  for i in range(30):
    side = 100 if i < 14 else 64 if i < 24 else 16  # px of the picture with the person; the face has 0.4 of it
    small = cv2.resize(people[0][i], (side, side), interpolation=cv2.INTER_AREA)
    frame = wall.copy()
    frame[500 : 500 + side, 900 : 900 + side] = small
    frames.append(frame)
  run = track(frames, tmp_path, "--nofind_cuts")
  run.check_report()
  assert (run.status[:14] == Status.TRACKED).all() and (run.status[24:] != Status.TRACKED).all()
  centre = run.points[:14, :68].mean(axis=1)
  assert np.abs(centre - [950, 550]).max() < 30 and np.median(run.nme[:14]) < 5.0
  assert run.doubtful[24:].all()


def test_extreme_yaw(tmp_path):
  """A head that turns away to 85 degrees and back; the sample videos have nobody who does, so it is a rendered one."""
  head = load_head(model="open", n_shape=50, n_texture=5)
  n, side = 45, 256
  turn = np.radians(np.concatenate([np.linspace(0, 85, 20), np.full(5, 85), np.linspace(85, 0, 20)]))
  pose = flame.neutral_pose(head, jnp.array([0.0, 0.0, 1.0], jnp.float32))
  poses = jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *a.shape)), pose)
  turned = jnp.asarray(np.stack([np.zeros(n), np.pi - turn, np.zeros(n)], axis=1), jnp.float32)
  poses = poses.replace(rotation=turned)
  identity = Identity(
    shape=jnp.zeros(50), texture=jnp.zeros(5), light=jnp.zeros((9, 3)).at[0].set(3.2),
    camera=make_camera(1.8), lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  drawn = jax.jit(map_frames(lambda pose: render_head(head, identity, pose, (side, side))))(poses)
  rgb, alpha = drawn.rgb, drawn.alpha
  picture = np.where(np.asarray(alpha)[..., None] > 0.5, np.clip(np.asarray(rgb), 0, 1) * 255, 90).astype(np.uint8)
  run = track(list(picture), tmp_path, "--nofind_cuts")
  run.check_report()
  yaw = np.degrees(turn)
  front, away = yaw < 20, yaw > 70
  assert (run.status[front] == Status.TRACKED).all()
  # The landmarks of a head that turns away follow it to about 50 degrees only.
  assert run.doubtful[away].mean() > 0.6 and run.doubtful[front].mean() < 0.2
  assert run.trust[away].mean() < 0.5 * run.trust[front].mean() and np.median(run.nme[front]) < 5.0
