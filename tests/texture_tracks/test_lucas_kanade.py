"""Lucas-Kanade against pictures that were moved by known amounts, and against what it has to refuse."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.texture_tracks.following import lucas_kanade as lk

SIZE = 160


def texture(seed=0, sd=2.0):
  """(SIZE, SIZE) f32 smooth noise of unit variance."""
  image = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((SIZE, SIZE)).astype(np.float32), (0, 0), sd)
  return image / image.std()


def moved(image, shift):
  """The image shifted by (x, y) px."""
  matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
  return cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT)


def base():
  side = np.arange(30, SIZE - 30, 12)
  return jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), jnp.int32)


@jax.jit
def search(image, keyframe):
  at = base()
  patch = lk.windows(keyframe, at, jnp.zeros(at.shape), lk.PATCH)
  weight = jnp.ones((at.shape[0], lk.WINDOW, lk.WINDOW))
  found, correlation = lk.there(image, patch, weight, at, jnp.zeros(at.shape), 8.0)
  return found, correlation, lk.back(image, patch, at, found)


def test_a_known_shift_is_found_whatever_the_brightness():
  key = texture()
  for shift in ((0.0, 0.0), (0.37, -0.81), (2.6, 1.9)):
    found, correlation, way_back = search(1.4 * moved(key, shift) + 0.3, key)
    error = np.abs(np.asarray(found) - shift)
    assert np.median(error) < 0.02 and np.quantile(error, 0.9) < 0.06, shift
    assert (np.asarray(correlation) > 0.95).mean() > 0.95
    assert (np.asarray(way_back) < 0.1).mean() > 0.95


def test_another_picture_is_refused():
  _, correlation, way_back = search(texture(1), texture(0))
  kept = (np.asarray(correlation) > 0.6) & (np.asarray(way_back) < 0.35)
  assert kept.mean() < 0.05


def test_no_texture_and_an_edge_are_refused():
  flat = np.zeros((SIZE, SIZE), np.float32)
  assert (np.asarray(search(flat, flat)[1]) == 0).all()
  edge = np.where(np.arange(SIZE) < 82, -1.0, 1.0).astype(np.float32)[None].repeat(SIZE, 0)
  assert (np.asarray(search(edge, edge)[1]) == 0).all()  # nothing says where along the edge


def test_a_blurred_picture_is_not_found_for_sure():
  key = texture()
  found, correlation, way_back = search(cv2.GaussianBlur(moved(key, (3.0, 0.0)), (0, 0), 8.0), key)
  kept = (np.asarray(correlation) > 0.6) & (np.asarray(way_back) < 0.35)
  assert kept.mean() < 0.1


def test_windows_are_bilinear():
  image = np.add.outer(10.0 * np.arange(SIZE), np.arange(SIZE)).astype(np.float32)  # 10 y + x
  at = jnp.array([[50, 60]], jnp.int32)
  got = np.asarray(lk.windows(image, at, jnp.array([[0.25, -1.5]]), 3))[0]
  want = np.add.outer(10 * (58.5 + np.arange(-1, 2)), 50.25 + np.arange(-1, 2))
  np.testing.assert_allclose(got, want, rtol=1e-6)
