"""The demo clip: clip and truth belong together, and to the open head."""

import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

from vht_jax import results
from vht_jax.app.options.settings import packaged
from vht_jax.rotation import axis_angle_to_matrix
from vht_jax.video.codec import read_video

REPO = Path(__file__).resolve().parents[2]
DEMO = REPO / "assets" / "demo"


@pytest.fixture(scope="module")
def frames():
  info, frames = read_video(DEMO / "demo.mp4")
  assert info.fps == pytest.approx(24)
  return np.stack(list(frames))


@pytest.fixture(scope="module")
def truth(open_head):
  return results.load_tracked(DEMO / "truth.npz", open_head)


def test_clip_and_truth_have_the_same_frames(frames, truth, open_head):
  assert frames.shape == (72, 512, 512, 3)
  assert truth.frames.tolist() == list(range(1, 73))
  assert truth.n_processed == 72
  assert truth.image_size == frames.shape[1:3]
  assert truth.head == open_head.name
  assert (DEMO / "demo.mp4").stat().st_size < 1.5e6


def test_truth_projects_to_the_stored_landmarks(truth, open_head):
  """Fails when the head or its landmarks change and the clip is not made anew."""
  stored = results.read_npz(DEMO / "truth.npz")["vht_jax_landmarks"]
  projected = results.projected_landmarks(open_head, truth.result, truth.image_size)
  np.testing.assert_allclose(projected, stored, atol=0.05)
  assert (projected > 0).all() and (projected < 512).all()


def test_truth_is_what_the_clip_shows(frames, truth, open_head):
  """The rendered truth lies on the face in the picture: its shift by a few pixels fits worse in every direction."""
  from vht_jax.render.picture import render_head

  k, margin = 20, 6
  pose = jax.tree.map(lambda a: a[k], truth.result.poses)
  picture = jax.jit(lambda *of: render_head(*of, (512, 512)))(open_head, truth.result.identity, pose)
  face = np.asarray(open_head.masks["face"])[np.asarray(open_head.faces)].all(-1)
  pix = np.asarray(picture.fragments.pix_to_face)
  shown = (pix >= 0) & face[np.maximum(pix, 0)]
  assert shown.mean() > 0.05
  model, image = np.asarray(picture.rgb), frames[k] / 255.0

  def difference(dx, dy):
    moved = np.roll(image, (-dy, -dx), (0, 1))
    return np.abs(moved - model)[shown].mean()

  here = difference(0, 0)
  assert here < 0.08  # the picture also has shadows, skin detail and highlights
  for dx, dy in ((margin, 0), (-margin, 0), (0, margin), (0, -margin)):
    assert difference(dx, dy) > here


def test_motion_is_that_of_a_person_who_speaks(truth, open_head):
  poses = truth.result.poses
  facing = np.asarray(jax.vmap(axis_angle_to_matrix)(poses.rotation))[:, :, 2]
  yaw = np.degrees(np.arctan2(facing[:, 0], -facing[:, 2]))
  assert 50 < np.ptp(yaw) < 70
  lids = np.asarray(poses.expr)[:, open_head.expr_names.index("eyelidLeft")]
  closed = (lids > 0.5).astype(int)
  assert (np.diff(closed) == 1).sum() == 2  # two blinks
  jaw = np.degrees(np.asarray(poses.jaw)[:, 0])
  assert jaw.min() > 0 and 6 < jaw.max() < 20
  distance = np.asarray(poses.translation)[:, 2]
  assert distance.max() / distance.min() > 1.15


def test_the_wheel_carries_the_clip():
  included = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
  assert included["force-include"]["assets/demo"] == "vht_jax/assets/demo"
  assert packaged("assets/demo/demo.mp4").is_file() and packaged("assets/demo/truth.npz").is_file()
