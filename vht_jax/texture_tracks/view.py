"""A frame as the tracks look at it: a window on the face, its local contrast, and the mesh drawn into it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.image import gaussian_blur
from vht_jax.raster import rasterize
from vht_jax.texture_tracks.types import View
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
WINDOW_METRES = 0.23  # side of the window at the face's distance: the skin from chin to forehead, turned
POOL = 4  # px; widths below are many of them
MEAN_SD, SPREAD_SD = 6.0, 10.0  # px, widths of the local mean and of the local spread about it
GREY_FLOOR = 3.0  # of 255: contrast below this is noise and is not amplified


def window_of(place: np.ndarray, size: int) -> tuple[float, np.ndarray]:
  """The square on a face whose middle is at `place` (3,): px of the image, and image px per metre there.

  Returns:
    The window's px per image px, and its top left corner (2,) in image px.
  """
  side = max(WINDOW_METRES * float(place[2]), 16.0)
  return size / side, np.asarray(place[:2], np.float64) - side / 2


def look(image: np.ndarray, scale: float, corner: np.ndarray, size: int) -> np.ndarray:
  """(size, size) uint8 grey window of an RGB image (H, W, 3); 0 beyond its border."""
  import cv2

  matrix = np.array([[1 / scale, 0, corner[0] + 0.5 / scale - 0.5], [0, 1 / scale, corner[1] + 0.5 / scale - 0.5]])
  if scale >= 0.6:
    x0, y0 = np.clip(np.floor(corner).astype(int) - 2, 0, None)
    x1, y1 = np.ceil(corner + size / scale).astype(int) + 3
    part = image[y0:y1, x0:x1]
    if not part.size:
      return np.zeros((size, size), np.uint8)
    matrix[:, 2] -= (x0, y0)
    grey = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY)
  else:  # shrink first by an integer, with a mean: sampling alone would alias
    step = int(round(1 / scale))
    x0, y0 = (np.clip(np.floor(corner / step).astype(int) - 1, 0, None)) * step
    x1, y1 = np.ceil(corner + size / scale).astype(int) + 3 * step
    part = image[y0:y1, x0:x1]
    height, width = part.shape[0] // step, part.shape[1] // step
    if not height or not width:
      return np.zeros((size, size), np.uint8)
    grey = cv2.cvtColor(np.ascontiguousarray(part[: height * step, : width * step]), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    matrix[:, 2] = (matrix[:, 2] + 0.5 - (x0, y0)) / step - 0.5
    matrix[:, :2] /= step
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  return cv2.warpAffine(grey, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT)


def lens_of(focal_px: Array, principal_px: Array, scale: Array, corner: Array) -> Array:
  """(3,) `View.lens` of a window of a camera with this focal length () and principal point (2,) in image px."""
  return jnp.concatenate([(focal_px * scale)[None], (principal_px - corner) * scale])


def project(X: Array, lens: Array) -> Array:
  """Camera (..., 3) m -> window px (..., 2)."""
  z = jnp.where(X[..., 2:] > 1e-6, X[..., 2:], 1.0)
  return X[..., :2] * (lens[0] / z) + lens[1:]


def see(faces: Array, X: Array, axis: Array, grey: Array, lens: Array) -> View:
  """Draws the mesh X (v, 3) into a window `grey` (C, C) uint8 and normalises that."""
  fragments = rasterize(jnp.concatenate([project(X, lens), X[:, 2:]], -1), faces, grey.shape)
  corner = X[faces]
  normal = jnp.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
  middle = jnp.mean(corner, axis=1)
  length = jnp.linalg.norm(normal, axis=-1) * jnp.linalg.norm(middle, axis=-1)
  seen = fragments.pix_to_face >= 0
  return View(
    X=X,
    lens=lens,
    image=local_contrast(grey.astype(jnp.float32), seen),
    face=fragments.pix_to_face,
    bary=fragments.bary_coords,
    depth=fragments.zbuf,
    cosine=-jnp.sum(normal * middle, -1) / jnp.maximum(length, 1e-20),
    axis=axis,
  )


def local_contrast(grey: Array, seen: Array) -> Array:
  """(C, C): differences from the local mean in units of their local spread, of the pixels `seen`; 0 elsewhere.

  Light changes with the view, slowly over the skin; texture does not. Only skin counts, lest the background shine in.
  """
  mask = seen.astype(grey.dtype)
  weight = pool(mask, POOL)

  def mean(values, sd):
    both = gaussian_blur(jnp.stack([pool(values * mask, POOL), weight], -1), jnp.float32(sd / POOL))
    return jax.image.resize(both[..., 0] / jnp.maximum(both[..., 1], 1e-3), grey.shape, "linear")

  difference = grey - mean(grey, MEAN_SD)
  spread = jnp.sqrt(jnp.maximum(mean(difference**2, SPREAD_SD), 0.0) + GREY_FLOOR**2)
  return difference / spread * mask


def pool(image: Array, factor: int) -> Array:
  """(H, W) -> (H / factor, W / factor): means of squares."""
  height, width = image.shape[0] // factor, image.shape[1] // factor
  return jnp.mean(image.reshape(height, factor, width, factor), axis=(1, 3))
