"""Shut lids are no cover."""

import numpy as np
import pytest
from drawn import SKIN, face, landmarks

from vht_jax.landmarks.regions import COVERED, visibility
from vht_jax.tracking.evidence.blinks import without_blinks

OPEN = landmarks()
SHUT = OPEN.copy()
SHUT[36:48, 1] = OPEN[[36, 42], 1].repeat(6) + 0.1 * (OPEN[36:48, 1] - OPEN[[36, 42], 1].repeat(6))
OVER_EYES = np.float32([[84, 110], [176, 110], [176, 134], [84, 134]])  # lids without lashes
GLASSES = np.concatenate([OPEN[17:27], OPEN[[45]] + [12, 12], OPEN[[36]] + [-12, 12]])


def eyes_seen(first, last, points=SHUT, cover=(OVER_EYES, SKIN), n=24, rate=25.0):
  """(T, 2) visibility of the eyes, before and after blinks are told, in a clip with covered eyes in some frames."""
  inside = (np.arange(n) >= first) & (np.arange(n) < last)
  free, covered = face(OPEN), face(OPEN, cover=cover)
  images = [covered if i else free for i in inside]
  where = np.where(inside[:, None, None], points, OPEN)[:, :68]
  visible = np.stack([visibility(rgb, p, np.ones(68)) for rgb, p in zip(images, where)])
  all_, shot = np.ones(n, bool), np.zeros(n, int)
  after = without_blinks(visible, where, all_, np.arange(n) / rate, shot, lambda i: images[i])
  assert (visible[inside, :2] < COVERED).all() and (visible[~inside] >= COVERED).all()
  np.testing.assert_array_equal(after[~inside], visible[~inside])
  return after[inside]


def test_a_blink_hides_nothing():
  assert (eyes_seen(10, 14) >= COVERED).all()


@pytest.mark.parametrize(
  "why",
  [
    {"last": 24},  # nobody knows what is after it
    {"rate": 5.0},  # nobody blinks for a second
    {"points": OPEN},  # lids that the landmarks see open
    {"cover": (GLASSES, (15, 15, 15))},
    {"cover": (GLASSES, (150, 95, 70))},  # a hand in the shade
  ],
)
def test_what_is_put_before_eyes_is_a_cover(why):
  assert (eyes_seen(**{"first": 10, "last": 14, **why})[:, :2] < COVERED).all()
