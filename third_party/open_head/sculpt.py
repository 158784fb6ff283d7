"""Corrections of the mean head and of its identity space, made by eye and by measurement."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from geometry import Surface

# The mean of the samples has full lips. Modelling targets that are added to it:
TEMPLATE_TARGETS = {
  "mpfb2/targets/mouth/mouth-upperlip-volume-decr.target.gz": 0.45,
  "mpfb2/targets/mouth/mouth-lowerlip-volume-decr.target.gz": 0.45,
  "mpfb2/targets/mouth/mouth-lowerlip-height-decr.target.gz": 0.15,
  "mpfb2/targets/mouth/mouth-upperlip-height-decr.target.gz": 0.15,
}
# How much of the unit eyeBlink closes the eye of the template, at positions from the eye's centre outwards, m; measured
# in frontal pictures, with a small margin. The unit was made for wider eyes: its upper lid would sink below the lower.
BLINK_AT = np.array([-0.012, 0.002, 0.005, 0.008, 0.010, 0.0127, 0.016])
BLINK_CLOSES = np.array([0.80, 0.78, 0.71, 0.64, 0.54, 0.42, 0.40])
# The lids' points of the 68 that lie above each other, and the outer and the inner corner. In blinks of real people (five
# clips) upper ones come to lie on lower ones, over which they are .08 of the eye's width further out while it is open.
LIDS = {"left": ((44, 43), (46, 47), (45, 42)), "right": ((37, 38), (41, 40), (36, 39))}
# MakeHuman's eyeballs, of 16.4 mm, stick out through the lids' margins by 3, and so do their irises. An adult's have 12,
# and the iris, where the cornea shows it, lies 10.4 before the middle (the limbus, 6 mm from the axis). Such an eye, put
# where the margins touch it, says where the iris is and what it turns about; but lids that were made for larger eyes
# would gape at its corners. So the surface is MakeHuman's ball, set back until the margins lie on it (by OVERLAP in it:
# other people's lids vary) and cut flat at the iris. There is no cornea: it would hide what it shows.
EYE_RADIUS = 0.012
IRIS_TO_CENTRE = 0.0104
OVERLAP = 0.0006
MARGIN = 0.002  # m, lids' margins are the skin that lies so far inside of MakeHuman's eyeballs
STRAIN_LIMIT = 0.42
STRAIN_SWEEPS = 80


def _step(x, low, high):
  t = np.clip((x - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def round_cranium(v: np.ndarray) -> np.ndarray:
  """Broadens the upper cranium, lowers its crown and slopes the forehead a little; nothing below the brows moves.

  Args:
    v: (V, 3) template, m.
  """
  x, y, z = v.T
  x = x * (1 + 0.045 * _step(y, 0.025, 0.075) * (1 - 0.6 * _step(y, 0.085, 0.13)))
  z = np.where(z > 0, z * (1 - 0.07 * _step(y, 0.055, 0.115)), z)
  y = np.where(y > 0.07, 0.07 + (y - 0.07) * 0.975, y)
  return np.stack([x, y, z], 1)


def margins(v: np.ndarray, surface: Surface, centre: np.ndarray, radius: float) -> np.ndarray:
  """(n, 3) of the template's vertices (V, 3): the lids' margins of MakeHuman's eyeball with this centre and radius."""
  skin = v[surface.vertices("head")]
  return skin[np.linalg.norm(skin - centre, axis=1) < radius - MARGIN]


def seat(margin: np.ndarray, centre: np.ndarray, radius: float, free: tuple[int, ...]) -> np.ndarray:
  """(3,) the middle of a ball of this radius that touches the points `margin` (n, 3), least squares.

  Args:
    centre: (3,) where to begin.
    free: the axes along which it may move.
  """
  centre = centre.copy()
  for _ in range(20):  # Gauss-Newton
    to = margin - centre
    distance = np.linalg.norm(to, axis=1)
    centre[list(free)] += np.linalg.lstsq(to[:, free] / distance[:, None], distance - radius, rcond=None)[0]
  return centre


def eyeball(directions: np.ndarray, radius: float, front: float) -> np.ndarray:
  """(n, 3) points in these directions (n, 3) of a ball about the origin that is cut at z = `front`."""
  unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
  return unit * np.minimum(radius, front / np.maximum(unit[:, 2:], 1e-3))


def carried(fields: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Displacement fields (n, 3, K) of the points `source` (n, 3), as far as they are affine, at the points `target`."""
  row = lambda points: np.c_[points, np.ones(len(points))]
  affine = np.linalg.lstsq(row(source), fields.reshape(len(source), -1), rcond=None)[0]
  return (row(target) @ affine).reshape(fields.shape)


def tuck_teeth(v: np.ndarray, surface: Surface) -> np.ndarray:
  """Moves the teeth back from the lips, apart, and narrows the arch, so that closed lips hide them."""
  v = v.copy()
  for name, up in (("upper_teeth", -0.0006), ("lower_teeth", -0.0045)):
    teeth = surface.vertices(name)
    v[teeth] = v[teeth] * [0.90, 1, 1] + [0, up, -0.0025]
  return v


def fit_blink(field: np.ndarray, v: np.ndarray, centre: np.ndarray, at, side: str) -> np.ndarray:
  """Makes a blink (V, 3) shut the eye whose eyeball has this centre (3,), so that points of its lids meet.

  The field is scaled to where the lower lid is. What then still lies between the points is spread over the lid: by the
  field's own weight, most in the middle between the corners.

  Args:
    v: (V, 3) template, m.
    at: (V, 3) values of the vertices -> (L, 3) those at the landmarks.
    side: "left" or "right".
  """
  outwards = lambda p: (p[:, 0] - centre[0]) * np.sign(centre[0])
  field = field * np.interp(outwards(v), BLINK_AT, BLINK_CLOSES)[:, None]
  upper, lower, corners = (list(ids) for ids in LIDS[side])
  outer, inner = outwards(at(v)[corners])
  along = lambda p: ((outwards(p) - inner) / (outer - inner)).clip(0, 1)
  bump = lambda p: 4 * along(p) * (1 - along(p))
  weight = np.linalg.norm(field, axis=1, keepdims=True)
  spread = bump(v)[:, None] * (weight / np.linalg.norm(at(field)[upper], axis=1).mean()).clip(0, 1)
  apart = at(v + field)
  apart = (apart[lower] - apart[upper]).mean(0)
  return field + spread * apart / at(spread * np.ones(3))[upper].mean(0)


def strain(basis: np.ndarray, v: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """Expected deformation of triangles when the codes are N(0, 1).

  Args:
    basis: (V, 3, K) displacement per unit of code, m.
    v: (V, 3) template, m.
    faces: (F, 3).

  Returns:
    (F,) root mean square Frobenius norm of the displacement's gradient within the triangle.
  """
  a, b, c = (v[faces[:, i]] for i in range(3))
  length = np.linalg.norm(b - a, axis=1)
  x = (b - a) / length[:, None]
  along = ((c - a) * x).sum(1)
  height = np.linalg.norm(c - a - along[:, None] * x, axis=1)
  du_x = (basis[faces[:, 1]] - basis[faces[:, 0]]) / length[:, None, None]
  du_y = (basis[faces[:, 2]] - basis[faces[:, 0]] - du_x * along[:, None, None]) / height[:, None, None]
  return np.sqrt((du_x**2).sum((1, 2)) + (du_y**2).sum((1, 2)))


def limit_strain(basis: np.ndarray, v: np.ndarray, surface: Surface, region: np.ndarray) -> np.ndarray:
  """Smooths the identity space where random heads would fold.

  Modelling targets are sharp at creases: beside the nose, at the corners of the mouth, at the fold of the upper lid.
  There, sums of many of them turn triangles over. Each sweep averages the displacements of vertices next to a
  triangle over the limit with their neighbours', inversely to distance, until no triangle is much over it.

  Args:
    basis: (V, 3, K), m.
    v: (V, 3), m.
    surface: the mesh.
    region: (V,) bool, where to look; nothing else moves.

  Returns:
    (V, 3, K).
  """
  faces = surface.faces[region[surface.faces].all(1)]
  edges = np.unique(np.sort(np.concatenate([surface.faces[:, [i, (i + 1) % 3]] for i in range(3)]), 1), axis=0)
  closeness = 1 / np.maximum(np.linalg.norm(v[edges[:, 0]] - v[edges[:, 1]], axis=1), 2e-4)
  graph = sp.coo_matrix((closeness, edges.T), shape=(len(v), len(v)))
  average = (graph + graph.T).tocsr()
  average = sp.diags(1 / np.maximum(np.asarray(average.sum(1)).ravel(), 1e-9)) @ average
  out = basis.reshape(len(v), -1).copy()
  for _ in range(STRAIN_SWEEPS):
    worst = np.zeros(len(v))
    np.maximum.at(worst, faces.ravel(), np.repeat(strain(out.reshape(basis.shape), v, faces), 3))
    worst = np.maximum(worst, worst[surface.mirror])
    rate = np.clip((worst - STRAIN_LIMIT) / STRAIN_LIMIT, 0, 0.5) * region
    moving = np.nonzero(rate > 0)[0]
    out[moving] += rate[moving, None] * (average[moving] @ out - out[moving])
  return out.reshape(basis.shape)
