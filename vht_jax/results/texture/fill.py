"""What no frame shows of a texture: from the other side of the face, else from what lies around."""

from __future__ import annotations

import numpy as np

from vht_jax.types import FlameModel

MIRROR_SIDE = 256  # texels per side at which the other side of the face is looked up
MIRROR_BELIEF = 0.5  # of its colours, of those that are seen


def filled(
  model: FlameModel, faces_of_texels: np.ndarray, seen: np.ndarray, belief: np.ndarray, base: np.ndarray
) -> np.ndarray:
  """(N, N, 3) albedo without holes or seams.

  What is filled is the difference to the head's own albedo, so lips stay lips where nothing was seen.

  Args:
    model: the head.
    faces_of_texels: (N, N) i32, -1 outside of the islands.
    seen: (N, N, 3) albedo by the images.
    belief: (N, N) in [0, 1] of it.
    base: (N, N, 3) albedo of the head.
  """
  difference = (seen - base) * belief[..., None]
  other, other_belief = _other_side(model, faces_of_texels, difference, belief)
  share = MIRROR_BELIEF * (1.0 - belief)
  total, weight = difference + share[..., None] * other, belief + share * other_belief
  return np.clip(base + pushed_and_pulled(total, weight), 0.0, 1.0).astype(np.float32)


def pushed_and_pulled(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """(N, N, C) weighted mean total / weight, and where the weight (N, N) is below 1 the rest from coarser levels.

  Gortler et al., The Lumigraph (1996), section 3.4: means of ever larger blocks fill what finer ones leave open.
  """
  import cv2

  if total.shape[0] <= 1:
    return total / np.maximum(weight, 1e-6)[..., None]
  half = (max(total.shape[0] // 2, 1), max(total.shape[1] // 2, 1))
  # Sums of blocks, whose weight is full when one of their texels is.
  coarse_total = 4.0 * cv2.resize(total, half[::-1], interpolation=cv2.INTER_AREA)
  coarse_weight = 4.0 * cv2.resize(weight, half[::-1], interpolation=cv2.INTER_AREA)
  scale = 1.0 / np.maximum(coarse_weight, 1.0)
  coarse = pushed_and_pulled(
    (coarse_total * scale[..., None]).astype(np.float32), (coarse_weight * scale).astype(np.float32)
  )
  rest = cv2.resize(coarse, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
  return total + (1.0 - np.minimum(weight, 1.0))[..., None] * rest


def _other_side(
  model: FlameModel, faces_of_texels: np.ndarray, difference: np.ndarray, belief: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """`difference` and `belief` at the mirror image of every texel, in coarse steps."""
  import cv2
  from scipy.spatial import KDTree

  side = min(MIRROR_SIDE, len(belief))
  step = len(belief) // side
  at = step // 2 + step * np.arange(side)
  faces = faces_of_texels[np.ix_(at, at)]
  row, column = np.nonzero(faces >= 0)
  # The middle of its face is where a texel is, within a face: coarse, as the steps are.
  places = np.asarray(model.v_template)[np.asarray(model.faces)].mean(axis=1)[faces[row, column]]
  nearest = KDTree(places).query(places * [-1.0, 1.0, 1.0])[1]
  small = [cv2.resize(a, (side, side), interpolation=cv2.INTER_AREA) for a in (difference, belief)]
  out = []
  for a in small:
    there = np.zeros_like(a)
    there[row, column] = a[row[nearest], column[nearest]]
    out.append(cv2.resize(there, belief.shape[::-1], interpolation=cv2.INTER_LINEAR))
  return out[0], out[1]
