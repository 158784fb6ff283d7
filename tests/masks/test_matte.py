"""The matte of a person: crops, edges, time, other people; with models whose answers are known."""

import cv2
import numpy as np
import pytest

from vht_jax.landmarks.detection import Detection
from vht_jax.masks import covered, heads_of, other_faces, person_mattes, refine
from vht_jax.masks.boxes import EVERY, Heads
from vht_jax.masks.person import coarse_matte, only_person

DOWN = np.array([0.0, 1.0])


def red(rgb):
  """A model that takes an image's red channel for the person."""
  return rgb[..., 0].astype(np.float32) / 255


def disc(size, centre, radius, soft=1.0):
  rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
  away = np.hypot(columns - centre[0], rows - centre[1]) - radius
  return np.clip(0.5 - away / soft, 0, 1).astype(np.float32)


def still_heads(n, centre=(120.0, 100.0), size=60.0):
  return Heads(np.tile(np.array(centre), (n, 1)), np.full(n, size), np.zeros(n, int))


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("size", [12.0, 40.0, 300.0])
def test_crops_of_all_widths_and_turns_fit_together(quarter, size):
  """What the model says of a place stays at that place: seen through a linear model the picture itself comes out."""
  rows, columns = np.mgrid[:240, :320]
  image = np.zeros((240, 320, 3), np.uint8)
  image[..., 0] = 20 + 0.4 * columns + 0.3 * rows
  seen = coarse_matte(red, image, np.array([250.0, 60.0]), size, quarter)
  assert np.abs(seen * 255 - image[..., 0]).max() < 3


def test_small_faces_are_looked_at_closely():
  """The model's pixels near a small face are finer than those of the whole image could be."""
  widths = []

  def segment(rgb):
    widths.append(rgb.shape)
    return red(rgb)

  stripes = np.zeros((512, 1024, 3), np.uint8)
  stripes[:, ::4] = 255
  stripes[:, 1::4] = 255
  matte = coarse_matte(segment, stripes, np.array([600.0, 200.0]), 30.0)
  assert len(widths) == 5 and set(widths) == {(256, 256, 3)}
  assert matte[180:220, 580:620].std() > 0.4 and matte[400:, :200].std() < 0.2


def test_the_matte_comes_to_the_edge_of_the_colours():
  true = disc((200, 200), (103.3, 98.6), 60)
  rng = np.random.default_rng(0)
  colours = np.array([[200, 120, 90], [60, 90, 140]])
  image = true[..., None] * colours[0] + (1 - true[..., None]) * colours[1] + rng.normal(0, 4, (200, 200, 3))
  image = np.clip(image, 0, 255).astype(np.uint8)
  coarse = cv2.GaussianBlur(disc((200, 200), (104.3, 98.0), 61), (0, 0), 2)
  guide = refine.guide(image, 1.0)
  fine = refine.applied(refine.guided(coarse, guide), image)
  error = lambda matte: np.abs(matte - true).mean()
  assert error(fine) < 0.55 * error(coarse)
  flat = np.full_like(coarse, 0.4)
  assert np.allclose(refine.guided(flat, guide)[..., 3] + (refine.guided(flat, guide)[..., :3] * guide).sum(-1), 0.4,
                     atol=1e-4)  # fmt: skip


def test_a_guided_filter_with_one_colour_is_its_closed_form():
  """In one window over the whole image it is the linear regression of the matte on the colours."""
  rng = np.random.default_rng(1)
  image, matte = rng.random((40, 50, 3)).astype(np.float32), rng.random((40, 50)).astype(np.float32)
  radius, eps, at = 6, 1e-3, (20, 25)
  offsets = []
  for dy in range(-radius, radius + 1):
    for dx in range(-radius, radius + 1):
      y, x = at[0] + dy, at[1] + dx
      c = image[y - radius : y + radius + 1, x - radius : x + radius + 1].reshape(-1, 3).astype(float)
      p = matte[y - radius : y + radius + 1, x - radius : x + radius + 1].ravel().astype(float)
      a = np.linalg.solve(np.cov(c.T, bias=True) + eps * np.eye(3), (c - c.mean(0)).T @ p / len(p))
      offsets.append([*a, p.mean() - a @ c.mean(0)])
  found = refine.guided(matte, image, radius, eps)[at]
  assert np.allclose(found, np.mean(offsets, axis=0), atol=2e-4)


def test_time_calms_what_stands_and_does_not_lag_behind_what_moves():
  n, rng = 15, np.random.default_rng(2)
  centres = np.stack([70 + 2.5 * np.arange(n), np.full(n, 80.0)], axis=1)  # px per frame
  true = [disc((160, 200), c, 40) for c in centres]
  guides = [refine.blurred(np.repeat(t[..., None], 3, axis=2) * 0.5 + 0.2) for t in true]
  now = 7
  window = slice(now - refine.REACH, now + refine.REACH + 1)
  calm = refine.calmed(true[window], guides[window], refine.REACH)
  columns = np.arange(200) + 0.5
  # Where its matte is a half, left and right: nothing is dragged along.
  row = calm[80]
  edges = [np.interp(0.5, row[30:90], columns[30:90]), np.interp(-0.5, -row[90:180], columns[90:180])]
  assert np.abs(np.array(edges) - (centres[now, 0] + [-40, 40])).max() < 0.1
  still = [np.clip(true[0] * 0.8 + 0.1 * rng.standard_normal(true[0].shape), 0, 1).astype(np.float32) for _ in range(n)]
  calm = refine.calmed(still[window], [guides[0]] * (2 * refine.REACH + 1), refine.REACH)
  inside = disc((160, 200), centres[0], 30) > 0.5
  assert calm[inside].std() < 0.6 * refine.levelled(still[now])[inside].std()


def test_frames_are_read_once_in_order_and_cuts_are_kept_apart():
  shots = [255] * 6 + [0] * 5
  asked = []

  def image(i):
    asked.append(i)
    return np.full((120, 160, 3), (shots[i], 90, 90), np.uint8)

  heads = still_heads(11, (80.0, 60.0), 40.0)
  mattes = list(person_mattes(image, red, heads, cuts=[6]))
  assert asked == list(range(11))
  assert [int(m[60, 80]) for m in mattes] == shots
  some = list(person_mattes(image, red, heads, cuts=[6], indices=[2, 3, 9]))
  assert [int(m[60, 80]) for m in some] == [255, 255, 0]
  assert all(m.shape == (120, 160) and m.dtype == np.uint8 for m in mattes)


def test_a_frames_matte_does_not_depend_on_how_many_are_asked_for():
  rng = np.random.default_rng(3)
  images = [
    np.clip(
      disc((150, 200), (100 + 3 * k, 70), 35)[..., None] * 160 + rng.normal(60, 5, (150, 200, 3)), 0, 255
    ).astype(np.uint8) for k in range(9)
  ]  # fmt: skip
  heads = Heads(np.stack([100 + 3.0 * np.arange(9), np.full(9, 70.0)], 1), np.full(9, 50.0), np.zeros(9, int))
  every = list(person_mattes(lambda i: images[i], red, heads))
  part = list(person_mattes(lambda i: images[i], red, heads, indices=range(1, 8)))
  assert np.array_equal(every[4], part[3])


def test_only_the_tracked_person_is_kept():
  size = (120, 300)
  person, other = disc(size, (80, 60), 40), disc(size, (160, 60), 42)  # they touch
  far = disc(size, (280, 20), 12)
  both = np.maximum(np.maximum(person, other), far)
  alone = only_person(both, np.array([80.0, 60.0]), 50.0, DOWN, np.array([[160.0, 60.0, 50.0]]))
  columns = np.arange(300)
  assert np.array_equal(alone[:, columns < 119], both[:, columns < 119]) and alone[:, columns > 121].max() == 0
  # Nobody else's face is known: what hangs together stays, what lies apart goes.
  piece = only_person(both, np.array([80.0, 60.0]), 50.0, DOWN)
  assert np.array_equal(piece[:, :220], both[:, :220]) and piece[:, 250:].max() == 0
  faint = np.maximum(person, 0.25 * far)
  assert only_person(faint, np.array([80.0, 60.0]), 50.0, DOWN)[:, 250:].max() == 0
  # A matte that knows nothing of the face says nothing of which piece is the person's.
  assert np.array_equal(only_person(far, np.array([80.0, 60.0]), 50.0, DOWN), far)
  # Bodies are below faces, whichever way is down.
  body = np.ones((300, 300), np.float32)
  others = np.array([[150.0, 20.0, 50.0]])
  for down in ([0, 1], [0, -1], [1, 0], [-1, 0]):
    down = np.array(down, float)
    face = np.array([150.0, 150.0])
    others = np.array([[*(face - 100 * down), 50.0]])
    kept = only_person(body, face, 50.0, down, others)
    below, above = (face + 140 * down).astype(int), (face - 130 * down).astype(int)
    assert kept[below[1], below[0]] == 1 and kept[above[1], above[0]] == 0


def test_heads_are_bridged_within_their_shots():
  def detection(x, size=100.0):
    square = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) - 0.5
    points = np.resize(square, (68, 2)) * size + [x, 200.0]
    return Detection(np.zeros(5), points.astype(np.float32))

  found = [detection(100 + 2.0 * k) if k != 3 else None for k in range(8)] + [None, detection(500.0), detection(500.0)]
  heads = heads_of(found, cuts=[8])
  assert np.allclose(heads.centre[:8, 0], 100 + 2.0 * np.arange(8), atol=1e-6)  # lines stay lines, holes are filled
  assert np.allclose(heads.centre[8:, 0], 500.0) and np.allclose(heads.size, 100.0)
  with pytest.raises(ValueError, match="no frame has a face"):
    heads_of([None, None])


def test_other_faces_leave_out_ones_own():
  asked = []

  def faces(image):
    asked.append(int(image[0, 0, 0]))
    return [
      np.array([90, 70, 150, 130, 0.9]),  # the person's, by another rule
      np.array([200, 60, 260, 110, 0.9]),
      np.array([115, 95, 125, 105, 0.5]),  # within it
    ]

  images = np.arange(12, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
  found = other_faces(still_heads(12), lambda i: images[i], faces)
  assert asked == [0, EVERY, 2 * EVERY, 11]
  assert len(found) == 12 and all(np.allclose(rows, [[230, 85, 60]]) for rows in found)


def test_how_far_a_mask_covers_the_head():
  head = np.round(disc((200, 200), (100, 100), 60) * 255).astype(np.uint8)
  assert covered(head, head) == 1
  assert covered(255 - head, head) < 0.01  # an inverted matte
  half = head.copy()
  half[:, :100] = 0
  assert covered(half, head) == pytest.approx(0.5, abs=0.01)
  assert np.isnan(covered(head, np.zeros_like(head)))
