"""Irises that the image shows moving further than the detector says."""

import cv2
import numpy as np
import pytest
from drawn import landmarks

from vht_jax.config import Data
from vht_jax.tracking.evidence import irises
from vht_jax.tracking.evidence.examine import Evidence, Weighed

SIZE, LARGE = 256, 3
SKIN, WHITE, IRIS, PUPIL = (200, 156, 131), (225, 222, 218), (96, 70, 50), (25, 20, 18)


def face(gaze, opened=0.45, contrast=1.0, noise=2.0, seed=0):
  """Two eyes whose irises are `gaze` (2,) mm from their middles, and landmarks (70, 2) that have them there."""
  points = np.zeros((70, 2), np.float32)
  points[:68] = np.array(landmarks(0.5 * SIZE, (SIZE / 2, SIZE / 2)), np.float32)[:68]
  mm = irises.axes(points[None])[0]
  image = np.empty((LARGE * SIZE, LARGE * SIZE, 3), np.float32)
  image[:] = SKIN
  for eye, (a, b) in enumerate(((36, 39), (42, 45))):
    middle, width = (points[a] + points[b]) / 2, np.linalg.norm(points[b] - points[a])
    centre = middle + mm @ np.asarray(gaze)
    points[68 + eye] = centre
    at = lambda p: tuple(int(round(v)) for v in LARGE * 16 * (p - 0.5) + 8 * (LARGE - 1))
    white = np.zeros(image.shape[:2], np.uint8)
    axes = (int(LARGE * width / 2), int(LARGE * opened * width / 2))
    cv2.ellipse(white, tuple(int(v) for v in LARGE * middle), axes, 0, 0, 360, 1, -1)
    size = LARGE * 16 * np.linalg.norm(mm[:, 0])
    drawn = np.empty_like(image)
    drawn[:] = WHITE
    for radius, colour in ((5.9, IRIS), (2.0, PUPIL)):
      cv2.circle(drawn, at(centre), int(size * radius), colour, -1, cv2.LINE_AA, 4)
    image[white > 0] = SKIN + contrast * (drawn[white > 0] - SKIN)
    first = 36 + 6 * eye
    for k, angle in zip(range(6), (180, 240, 300, 0, 60, 120)):
      turn = np.radians(angle)
      points[first + k] = middle + width / 2 * np.array([np.cos(turn), opened * np.sin(turn)])
  image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
  image = image + np.random.default_rng(seed).normal(0, noise, image.shape)
  return np.clip(image, 0, 255).astype(np.uint8), points


def clip(gazes, detected, **look):
  """Frames of `face` whose detector sees irises `detected` (T, 2) mm from the eyes' middles: patches, landmarks."""
  patches, points = [], []
  for i, (gaze, seen) in enumerate(zip(gazes, detected)):
    image, p = face(gaze, seed=i, **look)
    p[68:] += irises.axes(p[None])[0] @ (np.asarray(seen) - gaze)
    patches.append(irises.cut(image, p))
    points.append(p)
  return np.stack(patches), np.stack(points)


def in_mm(moved, points):
  return np.linalg.solve(irises.axes(points)[:, None], moved[..., None])[..., 0]


def turning(n=16):
  t = np.linspace(0.0, 2 * np.pi, n)
  return np.stack([2.0 * np.sin(t), 1.2 * np.sin(2 * t + 0.5)], axis=-1)


def test_irises_are_followed_where_the_detector_follows_in_part():
  gazes = turning()
  patches, points = clip(gazes, [0.6, 0.2] * gazes)
  moved = in_mm(irises.followed(patches, points, np.ones(len(gazes), bool)), points)
  missing = [0.4, 0.8] * gazes
  left = (missing[:, None] - missing.mean(axis=0)) - (moved - moved.mean(axis=0))
  assert missing.std(axis=0).min() > 0.5
  np.testing.assert_array_less(left.std(axis=0), 0.2)


def test_where_an_iris_is_on_average_is_the_detectors_word():
  gazes = turning()
  one = in_mm(irises.followed(*(a := clip(gazes, gazes)), np.ones(len(gazes), bool)), a[1])
  two = in_mm(irises.followed(*(b := clip(gazes, gazes + [0.8, -0.6])), np.ones(len(gazes), bool)), b[1])
  assert np.abs(one).max() < 0.25 and np.abs(two).max() < 0.25


@pytest.mark.parametrize("look", [{"opened": 0.05}, {"contrast": 0.0}], ids=["shut", "skin"])
def test_nothing_is_said_of_eyes_that_show_no_iris(look):
  gazes = turning()
  patches, points = clip(gazes, 0.5 * gazes, **look)
  assert (irises.followed(patches, points, np.ones(len(gazes), bool)) == 0).all()


def test_a_frame_that_is_wrong_or_not_in_the_image_is_left_as_it_is():
  gazes = turning()
  patches, points = clip(gazes, 0.3 * gazes)
  seen = np.ones(len(gazes), bool)
  seen[5], points[6], points[8, 30] = False, np.nan, np.nan
  patches[6] = irises.cut(np.zeros((SIZE, SIZE, 3), np.uint8), points[6])
  image, away = face([0.0, 0.0])
  patches[7] = irises.cut(image, away - SIZE / 2)
  assert not patches[6:8].any()
  moved = irises.followed(patches, points, seen)
  assert (moved[[5, 6, 7, 8]] == 0).all() and np.isfinite(moved).all() and np.abs(moved).max() > 1.0


def test_eyes_are_believed_as_far_as_they_agree():
  rng = np.random.default_rng(0)
  alike, apart = rng.normal(0, 1.0, (4000, 1, 2)), rng.normal(0, 1.0, (4000, 2, 2))
  apart[..., 1] *= 0.5
  found = alike + apart
  kept = irises.believed(found)
  np.testing.assert_allclose((kept / found).std(axis=(0, 1)), 0, atol=1e-9)
  # One variance in common and one, or a quarter, of each eye's own: of the mean of both.
  np.testing.assert_allclose((kept / found).mean(axis=(0, 1)), [1 / 1.5, 1 / 1.125], atol=0.02)
  found[10, 0] = np.nan
  found[11] = np.nan
  kept = irises.believed(found)
  np.testing.assert_allclose(kept[10] / found[10, 1], [[1 / 2, 1 / 1.25]] * 2, atol=0.03)
  assert (kept[11] == 0).all()
  assert (irises.believed(found[: irises.BOTH - 1]) == 0).all()
  assert np.abs(irises.believed(alike * [[[1], [-1]]])).max() == 0, "eyes that turn against each other"


def test_the_landmarks_that_are_fitted_have_moved_irises(small_head):
  class Frames:
    size = (SIZE, SIZE)

    def landmarks(self):
      return np.full((3, 70, 2), 100.0, np.float32), np.ones((3, 70), np.float32), None

    def images(self, indices):
      raise AssertionError

  moved = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
  nothing = np.ones((3, 4), np.float32), np.zeros(3, np.float32), np.zeros(3, bool)
  weighed = Weighed(Frames(), Evidence(*nothing, irises=moved), small_head, Data())
  for points in (weighed.landmarks()[0], weighed.settled()[0]):
    np.testing.assert_array_equal(points[:, 68:], 100.0 + moved)
    assert (points[:, :68] == 100.0).all()
