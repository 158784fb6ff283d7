"""Which frames' landmarks are wrong, from displacements between frames; and displacements, from images."""

import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import Clip, face, landmarks

from vht_jax.config import TrackConfig
from vht_jax.landmarks import motion
from vht_jax.track import Progress, evidence, outliers

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import invented  # noqa: E402

ALL = np.ones(60, bool)


def seen_by_images(links, error, noise=0.005, seed=0):
  """(E, 6, 2) displacements between frames with `error` (T, 2), with a detector's noise."""
  rng = np.random.default_rng(seed)
  jitter = noise * rng.standard_normal((len(error), 6, 2))
  total = error[:, None] + jitter
  return total[links[:, 1]] - total[links[:, 0]]


def test_pairs_lie_in_one_shot_and_have_faces():
  seen = ALL.copy()
  seen[10] = False
  links = outliers.pairs(60, seen, cuts=(30,))
  assert (np.diff(links, axis=1)[:, 0, None] == outliers.OFFSETS).any(axis=1).all()
  assert not (links == 10).any() and not ((links[:, 0] < 30) & (links[:, 1] >= 30)).any()
  assert len(outliers.pairs(1, ALL[:1])) == 0


@pytest.mark.parametrize("wrong", [[7], [0], [59], [20, 21, 22, 23], [5, 30, 31, 50]])
def test_the_wrong_frames_are_told_from_their_neighbours(wrong):
  links = outliers.pairs(60, ALL)
  error = np.zeros((60, 2))
  error[wrong] = [0.12, 0.05]
  misplaced, compared = outliers.explain(60, links, seen_by_images(links, error))
  np.testing.assert_allclose(misplaced[wrong], 0.13, atol=0.02)
  assert np.delete(misplaced, wrong).max() < 0.02 and (compared > 0).all()


def test_landmarks_that_slide_as_the_head_turns_are_not_wrong():
  links = outliers.pairs(60, ALL)
  error = np.stack([0.07 * np.sin(np.arange(60) / 9), np.zeros(60)], axis=1)
  misplaced, _ = outliers.explain(60, links, seen_by_images(links, error))
  assert misplaced.max() < outliers.WRONG


def test_frames_that_only_agree_among_themselves_are_not_compared():
  links = outliers.pairs(60, ALL)
  away = seen_by_images(links, np.zeros((60, 2)))
  inside = (links >= 20) & (links < 24)
  away[inside.any(axis=1) & ~inside.all(axis=1)] = np.nan
  _, compared = outliers.explain(60, links, away)
  np.testing.assert_array_equal(np.flatnonzero(compared == 0), np.arange(20, 24))


def walk(n=60):
  """(n, 68, 2) px of a face that goes to the right by 3 px a frame; the eye distance is about 60 px."""
  return landmarks(60.0, (0.0, 0.0))[None, :68] + 3.0 * np.arange(n)[:, None, None] * np.array([1.0, 0.0])


def test_what_the_image_cannot_tell_must_stand_where_the_neighbours_lead():
  p = walk()
  asked = np.zeros(60, bool)
  asked[[10, 11, 12, 30, 31, 50]] = True
  right, reached = outliers.jumps(p, ~asked, asked)
  assert not right.any() and (reached == asked).all()
  p[11] += 30.0  # half an eye distance
  p[30:32] = 2 * p[30:32].mean(axis=1, keepdims=True) - p[30:32]  # upside down
  p[50] = p[50].mean(axis=0) + 1.25 * (p[50] - p[50].mean(axis=0))
  found, _ = outliers.jumps(p, ~asked, asked)
  np.testing.assert_array_equal(np.flatnonzero(found), [11, 30, 31, 50])
  assert not outliers.jumps(p, np.zeros(60, bool), asked)[1].any()  # nobody to ask


def test_copies_are_recognised():
  p = walk(10)
  p[4:7] = p[3]
  np.testing.assert_array_equal(np.flatnonzero(outliers.copies(p, ALL[:10])), [4, 5, 6])


def test_displacement_is_what_the_landmarks_were_moved_by():
  p = landmarks()
  image = face(p)
  right = motion.patch(image, p[:68])
  assert np.nanmax(np.abs(motion.displacement(right, right))) < 1e-3
  moved = motion.patch(image, p[:68] + [6.0, -4.0])  # the eye distance is 80 px
  found = motion.displacement(right, moved)
  assert np.isfinite(found).all(axis=1).sum() >= 4
  np.testing.assert_allclose(np.nanmedian(found, axis=0), [6 / 80, -4 / 80], atol=0.012)
  assert motion.patch(image, p[:68] + 5000.0) is None


@pytest.fixture(scope="module")
def clip():
  return Clip()


def test_right_landmarks_are_kept(clip):
  found = evidence.examine(clip, TrackConfig(), Progress())
  assert not found.wrong.any() and np.nanmax(found.misplaced) < 0.02 and (found.visible > 0.5).all()


def test_twelve_corruptions_are_noticed_and_nothing_else_is_dropped(clip):
  """Each frame whose landmarks are off by more than 5 % of the eye distance is dropped or cannot be sure."""
  other = landmarks(60.0, (0.0, 0.0))[None] * np.float32([1.0, 1.35])  # a long face
  n = seed = 0
  while n < 12:
    tampered = invented.tamper(clip, (other, None), seed, n_runs=min(2, 12 - n))
    found = evidence.examine(tampered, TrackConfig(), Progress())
    error = np.linalg.norm(tampered.points - clip.points, axis=-1)[:, :68].mean(axis=1)
    error = error / invented.eye_distance(clip.points)
    unsure = found.wrong | ~np.isfinite(found.misplaced) | (found.misplaced > 0.03)
    assert unsure[error > 0.05].all(), (seed, tampered.runs, np.flatnonzero((error > 0.05) & ~unsure))
    assert not found.wrong[error == 0].any(), (seed, tampered.runs, np.flatnonzero(found.wrong & (error == 0)))
    n += len(tampered.runs)
    seed += 1


@pytest.mark.slow
@pytest.mark.faults
def test_two_hundred_corruptions_on_clips_with_truth():
  """0 frames that are wrong by more than 5 % of the eye distance and sure of themselves."""
  from synthetic import make_clip

  from vht_jax.assets import load_head
  from vht_jax.config import Weights

  model = load_head(model="open", n_shape=50, n_texture=20)
  clips = [make_clip(model, 100 + k, 72, (320, 320)) for k in range(3)]
  rows = invented.run(model, clips, TrackConfig(photometric=False), Weights(), 200)
  assert len(rows) == 200 and sum(row["surely_wrong"] for row in rows) == 0
