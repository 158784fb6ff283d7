"""Whether what the landmarks say is there to be seen."""

import numpy as np
import pytest
from drawn import face, landmarks

from vht_jax.app.report import summary as summary_
from vht_jax.app.report.advice import covered_text
from vht_jax.landmarks.regions import COVERED, REGIONS, visibility
from vht_jax.tracking.evidence.examine import Evidence, faded, mask_hidden, weigh
from vht_jax.types import Status

SEEN = np.ones(68, np.float32)
P = landmarks()
MASK = np.concatenate([P[2:15], P[[29]]])
GLASSES = np.concatenate([P[17:27], P[[45]] + [12, 12], P[[36]] + [-12, 12]])


def covered(cover, size=1.0):
  image = face(P, cover=cover)
  return {REGIONS[r] for r in np.flatnonzero(visibility(image, P[:68], SEEN) < COVERED)}


def test_a_free_face_is_free():
  assert covered(None) == set()


@pytest.mark.parametrize("colour", [(120, 170, 205), (30, 30, 32), (235, 235, 235), (200, 156, 131)])
def test_a_mask_covers_the_mouth_and_not_the_eyes(colour):
  found = covered((MASK, colour))
  assert "mouth" in found and not found & {"left_eye", "right_eye"}
  if colour != (200, 156, 131):  # a mask of skin cannot be told from a chin
    assert "contour" in found


@pytest.mark.parametrize("colour", [(15, 15, 15), (190, 145, 120)])
def test_glasses_and_a_hand_cover_the_eyes_and_not_the_mouth(colour):
  found = covered((GLASSES, colour))
  assert {"left_eye", "right_eye"} <= found and "mouth" not in found


def test_what_faces_away_or_is_tiny_is_not_judged():
  image = face(P, cover=(MASK, (30, 30, 32)))
  away = SEEN.copy()
  away[48:68] = 0.3
  assert visibility(image, P[:68], away)[2] == 1
  tiny = landmarks(12.0, (20.0, 20.0))
  assert (visibility(image[:60, :60], tiny[:68], SEEN) == 1).all()
  assert np.isfinite(visibility(image, P[:68] + 1000, SEEN)).all()


def test_covered_regions_and_wrong_frames_lose_their_weight():
  visible = np.ones((3, 4), np.float32)
  visible[1] = [1, 0.02, 0.3, 1]
  evidence = Evidence(visible, np.zeros(3, np.float32), np.array([False, False, True]))
  dense = np.zeros((3, 478, 2), np.float32)
  regions = np.full(478, -1)
  regions[:10], regions[10:20] = 2, 1
  _, confidence, dense = weigh(np.zeros((3, 70, 2), np.float32), np.ones((3, 70), np.float32), dense, evidence, regions)
  assert (confidence[0] == 1).all() and (confidence[2] == 0).all()
  assert (confidence[1, 42:48] == 0).all() and confidence[1, 69] == 0 and confidence[1, 68] == 1
  np.testing.assert_allclose(confidence[1, 48:68], 0.3)
  assert np.isfinite(dense[0]).all() and np.isnan(dense[2]).all()
  assert np.isnan(dense[1, :20]).all() and np.isfinite(dense[1, 20:]).all()
  np.testing.assert_array_equal(faded(np.ones((3, 70)), visible)[1], confidence[1])


def test_what_covers_the_face_is_no_part_of_its_picture():
  inside = np.ones((100, 100), np.uint8)
  # The crop shows the middle of a 200 x 400 image at half its size.
  square = np.array([[180, 80], [220, 80], [220, 120], [180, 120]])
  mask_hidden(inside, [square], 200.0, np.array([50.0, 50.0]), (200, 400))
  assert inside[50, 50] == 0 and inside[50, 20] == 1 and (inside == 0).sum() == pytest.approx(441, abs=45)


def test_covered_regions_are_in_the_report(tmp_path):
  status = np.array([Status.TRACKED, Status.TRACKED, Status.INTERPOLATED])
  visible = np.array([[1, 1, 0.1, 0.2], [1, 1, 0.9, 1], [1, 1, 0, 1]], np.float32)
  trust = np.array([0.6, 0.9, 0.0])
  times, sources = np.array([0.0, 0.04, 0.08]), ["a.png", "b.png", "c.png"]
  summary_.write_frames(
    tmp_path / "frames.csv", np.array([1, 2, 3]), status, trust, times, sources, visible * trust[:, None], visible
  )
  rows = (tmp_path / "frames.csv").read_text().splitlines()
  assert rows[0] == "frame,status,confidence,note,covered,right_eye,left_eye,mouth,contour,time_s,source"
  assert rows[1] == "1,tracked,0.600,,mouth contour,0.600,0.600,0.060,0.120,0.000000,a.png"
  assert rows[2].startswith("2,tracked,0.900,,,")
  counts = summary_.covered(visible, status)
  assert counts == {"mouth": 1, "contour": 1}
  assert covered_text(counts, 3).startswith("the mouth is covered in 1 of 3 frames")
  assert covered_text({"right_eye": 3, "left_eye": 3}, 3).startswith("the eyes are covered in 3 of 3 frames")
  assert covered_text({"mouth": 1}, 300) == ""
