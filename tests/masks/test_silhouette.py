"""The head's outline against shapes whose area is known, and the line below its neck."""

import cv2
import numpy as np
import pytest

from vht_jax.masks import neck_fade, neck_of, silhouette
from vht_jax.masks.silhouette import FADE


def sphere(centre, radius, n=24):
  """A convex mesh whose outline is a circle within a thousandth."""
  angles = np.linspace(0, 2 * np.pi, 4 * n, endpoint=False)
  heights = np.linspace(-np.pi / 2, np.pi / 2, 2 * n + 1)
  points = np.stack([np.outer(np.cos(heights), np.cos(angles)), np.outer(np.cos(heights), np.sin(angles)),
                     np.repeat(np.sin(heights)[:, None], 4 * n, 1)], -1).reshape(-1, 3)  # fmt: skip
  i, j = np.mgrid[: 2 * n, : 4 * n].reshape(2, -1)
  a, b = i * 4 * n + j, i * 4 * n + (j + 1) % (4 * n)
  faces = np.concatenate([np.stack([a, b, b + 4 * n], 1), np.stack([a, b + 4 * n, a + 4 * n], 1)]).astype(np.int32)
  screen = points[:, [0, 2, 1]] * [radius, radius, 0.1] + [*centre, 1.0]
  return screen, faces


@pytest.mark.parametrize("radius", [8.0, 55.0, 300.0])
def test_area_and_place_of_a_disc(radius):
  screen, faces = sphere((403.3, 360.8), radius)
  seen = silhouette(screen, faces, (720, 800)) / 255.0
  rows, columns = np.mgrid[:720, :800] + 0.5
  assert seen.sum() == pytest.approx(np.pi * radius**2, rel=0.01)
  assert np.allclose([(seen * columns).sum(), (seen * rows).sum()] / seen.sum(), [403.3, 360.8], atol=0.1)
  grown = silhouette(screen, faces, (720, 800), 5.0) / 255.0
  assert np.sqrt(grown.sum() / np.pi) == pytest.approx(radius + 5, abs=0.8)


def test_a_mesh_beyond_the_image_is_cut():
  screen, faces = sphere((-20.0, 50.0), 60.0)
  seen = silhouette(screen, faces, (100, 120))
  assert seen.shape == (100, 120) and seen[50, 5] == 255 and seen[50, 60] == 0
  assert silhouette(screen + [500, 0, 0], faces, (100, 120)).max() == 0
  assert silhouette(screen * [1, 1, -1], faces, (100, 120)).max() == 0  # behind the camera


def test_the_necks_points_are_where_they_belong(open_head):
  neck, v = neck_of(open_head), np.asarray(open_head.v_template)
  assert v[neck.left, 0] > 0.03 and v[neck.right, 0] < -0.03
  assert np.allclose(v[neck.left] * [-1, 1, 1], v[neck.right], atol=1e-4)  # a level line
  assert abs(v[neck.front, 0]) < 0.01 and v[neck.front, 1] < v[[neck.left, neck.right], 1].min()
  chin = v[np.asarray(open_head.masks["face"])][:, 1].min()
  assert v[neck.front, 1] < chin < v[neck.top, 1]


def test_the_fade_is_a_ramp_along_a_line():
  left, right, front, top = (180, 210), (120, 190), (150, 230), (150, 40)
  size = (300, 320)
  fade = neck_fade(np.array([left, right, front, top]), 70.0, size)
  along = np.array([60.0, 20.0]) / np.hypot(60, 20)
  down = np.array([-along[1], along[0]])
  width = FADE * size[1]
  for away, value in ((-0.4, 0.9), (0.0, 0.5), (0.3, 0.2), (0.6, 0.0), (-0.6, 1.0)):
    for step in (-60, 0, 50):
      x, y = np.array(front) + step * along + away * width * down
      found = cv2.getRectSubPix(fade, (1, 1), (float(x) - 0.5, float(y) - 0.5))[0, 0]
      assert found == pytest.approx(value, abs=0.06)


def test_the_fade_turns_with_the_head_and_knows_heads_from_the_side():
  points = np.array([(180, 200), (120, 200), (150, 230), (150, 40)], float)
  size = (300, 300)
  upright = neck_fade(points, 60.0, size)
  turned = neck_fade(np.stack([300 - points[:, 1], points[:, 0]], axis=1), 60.0, size)
  assert np.allclose(turned, np.rot90(upright, -1), atol=1e-5)
  mirrored = neck_fade(points[[1, 0, 2, 3]], 60.0, size)  # seen from behind
  assert np.allclose(mirrored, upright, atol=1e-5)
  # From the side: the sides of the neck are nearly one, and what is between them may point anywhere.
  for left, right in (((151, 203), (149, 197)), ((150, 200), (150, 200)), ((149, 200), (151, 200))):
    side = neck_fade(np.array([left, right, (190, 230), (150, 40)], float), 60.0, size)
    assert side[:190].min() == 1 and side[270:].max() == 0
