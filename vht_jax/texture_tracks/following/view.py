"""A frame as the tracks look at it: a window on the face, its local contrast, and the mesh drawn into it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.render.raster import rasterize
from vht_jax.texture_tracks.types import View
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
WINDOW_METRES = 0.23  # side of the window at the face's distance: the skin from chin to forehead, turned
CELL = 2  # window px, side of the pixels into which the mesh is drawn: where skin is changes slowly
MEAN_SD, SPREAD_SD = 6.0, 10.0  # px, widths of the local mean and of the local spread about it
GREY_FLOOR = 3.0  # of 255: contrast below this is noise and is not amplified
_POOL = 4  # px, by which an image is reduced for them
_ZERO, _UNIT = 128, 45  # of a contrast as a byte: 2.8 standard deviations either way


def window_of(place: np.ndarray, size: int) -> tuple[float, np.ndarray]:
  """The square on a face whose middle is at `place` (3,): px of the image, and image px per metre there.

  Images are never enlarged, for there has to be texture in what is compared: a small face is a part of its window.

  Returns:
    The window's px per image px, and its top left corner (2,) in image px.
  """
  side = max(WINDOW_METRES * float(place[2]), float(size))
  corner = np.asarray(place[:2], np.float64) - side / 2
  return size / side, np.round(corner) if side == size else corner  # as they are, the image's pixels are its own


def look(image: np.ndarray, scale: float, corner: np.ndarray, size: int) -> np.ndarray:
  """(size, size) uint8 grey window of an RGB image (H, W, 3); 0 beyond its border."""
  import cv2  # late: a tracker without pictures needs no OpenCV

  # A window that is much coarser than the image is taken from means of step x step pixels: sampling would alias.
  step = max(int(round(1 / scale)), 1)
  x0, y0 = np.clip(np.floor(corner / step).astype(int) - 1, 0, None) * step
  x1, y1 = np.ceil(corner + size / scale).astype(int) + 3 * step
  part = image[y0 : max(y1, 0), x0 : max(x1, 0)]
  height, width = part.shape[0] // step, part.shape[1] // step
  if not height or not width:
    return np.zeros((size, size), np.uint8)
  grey = cv2.cvtColor(np.ascontiguousarray(part[: height * step, : width * step]), cv2.COLOR_RGB2GRAY)
  if step > 1:
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
  first = (np.asarray(corner, np.float64) + 0.5 / scale - (x0, y0)) / step - 0.5  # OpenCV counts from pixels' centres
  each = 1 / (scale * step)
  matrix = np.array([[each, 0, first[0]], [0, each, first[1]]])
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  return cv2.warpAffine(grey, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT)


def local_contrast(grey: np.ndarray) -> np.ndarray:
  """(C, C) uint8 -> uint8: differences from the local mean in units of their local spread (`from_bytes`).

  Light changes with the view, slowly over the skin; texture does not.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  size = grey.shape[::-1]
  small = size[0] // _POOL, size[1] // _POOL

  def mean(values, sd):
    reduced = cv2.GaussianBlur(cv2.resize(values, small, interpolation=cv2.INTER_AREA), (0, 0), sd / _POOL)
    return cv2.resize(reduced, size, interpolation=cv2.INTER_LINEAR)

  grey = grey.astype(np.float32)
  difference = grey - mean(grey, MEAN_SD)
  spread = cv2.sqrt(mean(difference * difference, SPREAD_SD) + np.float32(GREY_FLOOR**2))
  return np.clip(difference / spread * _UNIT + (_ZERO + 0.5), 0, 255).astype(np.uint8)


def from_bytes(contrast: Array) -> Array:
  """Bytes of `local_contrast` as numbers of mean 0 and about unit variance."""
  return (contrast.astype(jnp.float32) - _ZERO) / _UNIT


def lens_of(focal_px: Array, principal_px: Array, scale: Array, corner: Array) -> Array:
  """(3,) `View.lens` of a window of a camera with this focal length () and principal point (2,) in image px."""
  return jnp.concatenate([(focal_px * scale)[None], (principal_px - corner) * scale])


def project(X: Array, lens: Array) -> Array:
  """Camera (..., 3) m -> window px (..., 2)."""
  z = jnp.where(X[..., 2:] > 1e-6, X[..., 2:], 1.0)
  return X[..., :2] * (lens[0] / z) + lens[1:].reshape((1,) * (X.ndim - 1) + (2,))


def see(faces: Array, X: Array, axis: Array, contrast: Array, lens: Array) -> View:
  """Draws the mesh X (v, 3) into a window (C, C) uint8 of `local_contrast`."""
  cells = contrast.shape[0] // CELL, contrast.shape[1] // CELL
  fragments = rasterize(jnp.concatenate([project(X, lens) / CELL, X[:, 2:]], -1), faces, cells)
  corner = X[faces]
  normal = jnp.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
  middle = jnp.mean(corner, axis=1)
  length = jnp.linalg.norm(normal, axis=-1) * jnp.linalg.norm(middle, axis=-1)
  return View(
    X=X,
    lens=lens,
    image=from_bytes(contrast),
    face=fragments.pix_to_face,
    bary=fragments.bary_coords,
    depth=fragments.zbuf,
    cosine=-jnp.sum(normal * middle, -1) / jnp.maximum(length, 1e-20),
    axis=axis,
  )


def pool(image: Array, factor: int) -> Array:
  """(H, W) -> (H / factor, W / factor): means of squares."""
  height, width = image.shape[0] // factor, image.shape[1] // factor
  return jnp.mean(image.reshape(height, factor, width, factor), axis=(1, 3))
