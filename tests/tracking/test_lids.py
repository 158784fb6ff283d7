"""Eyes that images show shut: what is seen of them, and what becomes of their landmarks."""

import cv2
import numpy as np
import pytest
from drawn import landmarks

from vht_jax.tracking.evidence import lids
from vht_jax.tracking.evidence.examine import Evidence, settled

SKIN = (200, 156, 131)
SHUT = (37, 38, 43, 44)
TIMES, ONE_SHOT = np.arange(20) / 25.0, np.zeros(20, int)


def eyes(opened, size=256, noise=2.0, skin=SKIN):
  """A face of plain skin with two eyes, `opened` of their width high, and its landmarks (70, 2)."""
  points = np.array(landmarks(0.35 * size, (size / 2, size / 2)), np.float32)
  rng = np.random.default_rng(0)
  large = 4 * size  # drawn four times as large, for the sake of fractions of pixels
  image = np.empty((large, large, 3), np.float32)
  image[:] = skin
  for a, b in ((36, 39), (42, 45)):
    middle, width = 2 * (points[a] + points[b]), 4 * np.linalg.norm(points[b] - points[a])
    axes = int(width / 2), int(round(opened * width / 2))
    at = tuple(int(v) for v in np.round(middle))
    if axes[1] > 0:
      white = np.zeros((large, large), np.uint8)
      cv2.ellipse(white, at, axes, 0, 0, 360, 1, -1)
      iris = np.zeros_like(white)
      cv2.circle(iris, at, int(width / 5), 1, -1)
      image[white > 0] = (225, 222, 218)
      image[(white & iris) > 0] = (60, 42, 30)
    else:
      cv2.line(image, tuple(int(4 * v) for v in points[a]), tuple(int(4 * v) for v in points[b]), (90, 60, 50), 3)
  image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
  return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8), points


@pytest.mark.parametrize("skin", [SKIN, (92, 58, 40), (236, 206, 186)])
@pytest.mark.parametrize("size", [160, 256, 640])
def test_what_is_no_skin_is_as_high_as_the_eye_is_open(skin, size):
  heights = [lids.seen_open(*eyes(k, size, skin=skin)) for k in (0.0, 0.2, 0.4)]
  usual = heights[2]
  assert (usual > lids.LEAST_USUAL).all()
  assert (heights[0] / usual < 0.25).all(), "lashes are no eye"
  np.testing.assert_allclose(heights[1] / usual, 0.5, atol=0.15)


def test_nothing_is_said_of_eyes_that_are_small_turned_away_or_cut_off():
  image, points = eyes(0.4)
  assert np.isnan(lids.seen_open(image[::8, ::8], points / 8)).all()
  turned = points.copy()
  turned[39, 0] = turned[36, 0] + 0.5 * (turned[39, 0] - turned[36, 0])
  found = lids.seen_open(image, turned)
  assert np.isnan(found[0]) and np.isfinite(found[1])
  assert np.isnan(lids.seen_open(image, points - 120)).any()
  assert np.isnan(lids.seen_open(image, np.full((70, 2), np.nan))).all()


def blink(image_open, detected_open):
  """20 frames of an eye of which the image, and the detector, see these shares of the usual opening from frame 5 on."""
  one = np.array(landmarks(), np.float32)
  points = np.repeat(one[None], 20, axis=0)
  seen = np.full((20, 2), 0.3, np.float32)
  for i, (image, detected) in enumerate(np.broadcast(image_open, detected_open), 5):
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
      points[i, upper] = points[i, lower] + detected * (points[i, upper] - points[i, lower])
    seen[i] *= image
  return points, seen


def high(points):
  return np.linalg.norm(points[..., [37, 38, 43, 44], :] - points[..., [41, 40, 47, 46], :], axis=-1)


def test_an_eye_that_both_see_closing_is_as_open_as_the_image_shows():
  """But for the line between shut lids, which looks like a tenth of an eye."""
  points, seen = blink(0.28, 0.4)
  moved, sure = lids.closed(points, seen, TIMES, ONE_SHOT)
  np.testing.assert_allclose(high(moved)[5] / high(points)[0], 0.2, rtol=1e-4)
  np.testing.assert_allclose(sure[5], 1.0)
  others = np.delete(np.arange(70), SHUT)
  np.testing.assert_array_equal(moved[:, others], points[:, others])
  np.testing.assert_allclose(np.delete(moved, 5, 0), np.delete(points, 5, 0), atol=1e-3)


@pytest.mark.parametrize("image_open, detected_open", [(0.05, 0.95), (0.6, 0.3), (1.0, 1.0), (0.2, 0.1), (np.nan, 0.3)])
def test_one_witness_alone_shuts_no_eye_and_none_is_opened(image_open, detected_open):
  points, seen = blink(image_open, detected_open)
  np.testing.assert_allclose(lids.closed(points, seen, TIMES, ONE_SHOT)[0], points, atol=1e-3)


def test_beside_a_blink_the_image_is_believed_of_eyes_that_the_detector_sees_open():
  image, detected = np.array([0.82, 0.46, 0.1, 0.46, 0.82, 0.46]), np.array([1.0, 1.0, 0.4, 1.0, 1.0, 1.0])
  points, seen = blink(image, detected)
  moved, sure = lids.closed(points, seen, TIMES, ONE_SHOT)
  opened = (high(moved) / high(points)[0]).mean(axis=-1)
  # Two frames before and after at 25 a second; a third is too far away.
  np.testing.assert_allclose(opened[[6, 7, 8]], [0.4, 0.0, 0.4], atol=1e-4)
  assert (0.8 < opened[[5, 9]]).all() and (opened[[5, 9]] < 0.99).all()
  np.testing.assert_allclose(np.delete(opened, [5, 6, 7, 8, 9]), 1.0, atol=1e-4)
  assert (sure[[6, 7, 8]] == 1).all() and (sure[10:] == 0).all()
  late = lids.closed(points, seen, 10 * TIMES, ONE_SHOT)[0]
  np.testing.assert_allclose(np.delete(late, 7, 0), np.delete(points, 7, 0), atol=1e-3)
  after_a_cut = lids.closed(points, seen, TIMES, (np.arange(20) >= 8).astype(int))[0]
  np.testing.assert_allclose(after_a_cut[8:], points[8:], atol=1e-3)
  np.testing.assert_allclose(after_a_cut[:8], moved[:8], atol=1e-3)


def test_eyes_that_hardly_show_are_left_alone():
  points, seen = blink(0.1, 0.4)
  moved, sure = lids.closed(points, 0.3 * seen, TIMES, ONE_SHOT)
  assert (moved == points).all() and (sure == 0).all()
  moved, sure = lids.closed(points, np.full((20, 2), np.nan), TIMES, ONE_SHOT)
  assert (moved == points).all() and (sure == 0).all()


def test_what_is_guessed_counts_less_and_shut_eyes_are_shut():
  points, seen = blink(0.1, 0.4)
  regions = np.full(478, -1)
  regions[:10], regions[10:30] = 0, 1
  evidence = Evidence(np.ones((20, 4), np.float32), np.zeros(20, np.float32), np.zeros(20, bool), seen)
  belief = np.full((20, 70), 0.5, np.float32), np.full((20, 478), 0.25, np.float32)
  closed, shut = lids.closed(points, seen, TIMES, ONE_SHOT)
  moved, confidence, share = settled(closed, np.ones((20, 70), np.float32), belief, evidence, regions, shut)
  assert (confidence == 0.5).all() and (np.delete(share, 5, 0) == 0.25).all()
  assert (share[5, :30] == 0).all() and (share[5, 30:] == 0.25).all()
  np.testing.assert_array_equal(moved, closed)
  seen[:, 1] = np.nan  # an eye behind the nose follows the other one
  closed, shut = lids.closed(points, seen, TIMES, ONE_SHOT)
  half = settled(closed, np.ones((20, 70), np.float32), None, evidence, regions, shut)
  assert (half[1][5, 42:48] == 0).all() and (half[1][5, 36:42] == 1).all()
  assert (np.delete(half[1], 5, 0) == 1).all() and (half[0][:, 42:48] == points[:, 42:48]).all()
  plain = settled(points, np.ones((20, 70), np.float32), None, evidence.replace(lids=None), regions, 0 * shut)
  assert (plain[0] == points).all() and (plain[1] == 1).all() and (plain[2] == 1).all()
