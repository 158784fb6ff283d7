"""What no frame shows of a texture: from the other side of the face, else from what lies around on the surface.

What lies around is found on the mesh and not in the picture of the texture: there a cut through the skin parts
neighbours, and pieces that have nothing to do with each other lie side by side.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

from vht_jax.head import flame
from vht_jax.head.mouth import INSIDE
from vht_jax.results.offsets.skin import laplace
from vht_jax.types import FlameModel, Fragments

PAINTED = (*INSIDE, *flame.EYEBALLS)  # masks of what has its own colours, which skin says nothing of
MIRROR_SIDE = 256  # texels per side at which the other side of the face is looked up
MIRROR_BELIEF = 0.5  # of its colours, of those that are seen
# m within which neighbours count as much as a place that is believed; 10 times as far where that is believed by .01.
ALIKE = 0.006
USUAL = 2e-4  # belief in the usual colours: where nothing is seen within 40 cm they are what is left


def filled(model: FlameModel, texels: Fragments, seen: np.ndarray, belief: np.ndarray, usual: np.ndarray) -> np.ndarray:
  """(N, N, 3) albedo without holes or seams.

  What is filled is the difference to usual colours, so lips stay lips where nothing was seen.

  Args:
    model: the head.
    texels: of `rasterize_uv`.
    seen: (N, N, 3) albedo by the images.
    belief: (N, N) in [0, 1] of it; 0 outside of the islands.
    usual: (N, N, 3) albedo of heads.
  """
  faces_of_texels, bary = np.asarray(texels.pix_to_face), np.asarray(texels.bary_coords)
  inside = faces_of_texels >= 0
  difference = (seen - usual) * belief[..., None]
  other, other_belief = _other_side(model, faces_of_texels, difference, belief)
  share = MIRROR_BELIEF * (1.0 - belief)
  known = difference + share[..., None] * other
  weight = belief + share * other_belief
  corners = np.asarray(model.faces)[faces_of_texels[inside]]
  around = spread(model, corners, bary[inside], known[inside], weight[inside])
  rest = np.zeros_like(difference)
  rest[inside] = np.einsum("nc,ncd->nd", bary[inside], around[corners])
  total = known + np.maximum(1.0 - weight, 0.0)[..., None] * rest
  total = pushed_and_pulled(total * inside[..., None], inside.astype(np.float32))  # beside the islands
  return np.clip(usual + total, -1.0, 1.0).astype(np.float32)


def spread(
  model: FlameModel, corners: np.ndarray, bary: np.ndarray, known: np.ndarray, weight: np.ndarray
) -> np.ndarray:
  """(V, 3) f32, smooth values on the mesh: near what is known where it is believed, between it elsewhere, 0 in the end.

  The minimum of sum(weight |value - known|^2 + `ALIKE`^2 |slope|^2 + `USUAL` |value|^2) over the surface. Skin says
  nothing of what is `PAINTED`, and that nothing of skin.

  Args:
    model: the head.
    corners: (n, 3) vertices of the triangle that each texel shows.
    bary: (n, 3) where on it.
    known: (n, 3) values times weight.
    weight: (n,) of them, in [0, 1].
  """
  n = len(model.v_template)
  neighbours, pull, area = laplace(np.asarray(model.v_template, np.float64), np.asarray(model.faces))
  share = lambda values: np.bincount(corners.ravel(), (bary * values[:, None]).ravel(), minlength=n)
  texels = np.maximum(share(np.ones(len(weight))), 1e-6)
  means = np.stack([share(known[:, k]) / texels for k in range(known.shape[1])], axis=1)
  believed = share(weight) / texels
  apart = flame.region(model, PAINTED) & ~flame.region(model, ("lips",))
  pull = pull * (apart[:, None] == apart[neighbours])
  owner = np.repeat(np.arange(n), neighbours.shape[1])
  between = coo_matrix((pull.ravel(), (owner, neighbours.ravel())), (n, n)).tocsr()
  own = area * (believed + USUAL) + ALIKE**2 * pull.sum(1)
  matrix = diags(own) - ALIKE**2 * between
  return splu(matrix.tocsc()).solve(area[:, None] * means).astype(np.float32)


def pushed_and_pulled(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """(N, N, C) weighted mean total / weight, and where the weight (N, N) is below 1 the rest from coarser levels.

  Gortler et al., The Lumigraph (1996), section 3.4: means of ever larger blocks fill what finer ones leave open.
  """
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
