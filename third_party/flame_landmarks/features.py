"""Places of a head that its shape names: profile, edges of the lids, line between the lips.

Each is found in a view from the front, in the same way on every head, as a point of the surface.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from surface import Picture

LIPS = 0.008  # m from the line between the lips: the red of the lips and what is hidden behind it
ALONG = np.linspace(0.1, 0.9, 9)  # of the way across an eye or the mouth


@dataclasses.dataclass(frozen=True)
class Head:
  """A symmetric head in FLAME's layout."""

  vertices: np.ndarray  # (V, 3) m, x subject's left, y up, z out of the face
  faces: np.ndarray  # (F, 3)
  mirror: np.ndarray  # (V,) number of each vertex's mirror image
  jaw: np.ndarray  # (V,) how far each follows the jaw
  eyes: np.ndarray  # (2,) y, z m, middle of the left eyeball (its x is positive)
  eyeball: np.ndarray  # (V,) bool
  skin: np.ndarray  # (V,) bool: without eyeballs and, where they are parts of their own, teeth, tongue, cavities
  lips: np.ndarray  # (V,) -1 above, 1 below the line between the lips and near it, 0 elsewhere


def near_lips(vertices: np.ndarray, jaw: np.ndarray, mouth_corner: int) -> np.ndarray:
  """`Head.lips`: the lips touch, so only what follows the jaw tells one from the other.

  A curve through the corners, as deep as the lips protrude, stands for the line between them.
  """
  right, left = vertices[mouth_corner] * [-1, 1, 1], vertices[mouth_corner]
  t = np.linspace(-1, 1, 21)[:, None]
  ahead = vertices[(np.abs(vertices[:, 0]) < 0.002) & (np.abs(vertices[:, 1] - left[1]) < 0.004), 2].max() - left[2]
  line = (left + right) / 2 + t * (left - right) / 2 + (1 - t**2) * [0, 0, ahead]
  near = np.linalg.norm(vertices[:, None] - line, axis=2).min(1) < LIPS
  return np.where(near, np.where(jaw < 0.5, -1, 1), 0)


class Points(dict):
  """name -> (face, (3,) barycentric coordinates)."""

  def on(self, head: Head) -> dict[str, np.ndarray]:
    """name -> (3,) m."""
    return {name: bary @ head.vertices[head.faces[face]] for name, (face, bary) in self.items()}


def features(head: Head, canthi: tuple[int, int], mouth_corner: int) -> Points:
  """The places that a head's shape names, on its left half and in its middle.

  Args:
    head: symmetric.
    canthi: vertices at the inner and the outer corner of the left eye.
    mouth_corner: vertex at the left corner of the mouth.
  """
  found = Points()
  picture = Picture(head.vertices, head.faces)
  take = lambda name, y, x: found.__setitem__(name, (int(picture.face[y, x]), picture.bary[y, x]))
  skin = head.skin[head.faces].all(1)
  on_skin = (picture.face >= 0) & skin[np.maximum(picture.face, 0)]
  eyeball = (picture.face >= 0) & head.eyeball[head.faces].all(1)[np.maximum(picture.face, 0)]

  # The profile, from top to bottom: extremes of z, and hollows: what lies deepest behind a straight line between two.
  x = picture.column(0.0)
  profile = picture.point[:, x, 1:]
  depth = np.where(on_skin[:, x], profile[:, 1], -np.inf)

  def foremost(top, bottom):
    return top + int(np.argmax(depth[top:bottom]))

  def hollow(top, bottom):
    along = profile[bottom] - profile[top]
    behind = along[0] * (profile[top:bottom, 1] - profile[top, 1]) - along[1] * (profile[top:bottom, 0] - profile[top, 0])
    return top + int(np.argmax(behind))

  px = lambda metres: int(round(metres * picture.scale))
  eyes, mouth = picture.row(head.eyes[0]), picture.row(head.vertices[mouth_corner, 1])
  tip = foremost(eyes, mouth)
  upper_lip = foremost((tip + 2 * mouth) // 3, mouth + 1)
  lower_lip = foremost(mouth + 1, 2 * mouth - upper_lip + px(0.008))
  below = slice(lower_lip + px(0.02), lower_lip + px(0.045))
  under_chin = below.start + int(np.argmax(profile[below, 1] - profile[below, 0]))  # where it slopes by 45 degrees
  for name, y in (
    ("root of the nose", hollow(eyes - px(0.03), tip)),
    ("tip of the nose", tip),
    ("under the nose", hollow(tip, upper_lip)),
    ("upper lip", upper_lip),
    ("lower lip", lower_lip),
    ("above the chin", hollow(lower_lip, under_chin)),
    ("under the chin", under_chin),
  ):
    take(name, y, x)

  # Lids: the first skin above and below the visible part of the eyeball.
  left, right = (picture.column(head.vertices[v, 0]) for v in canthi)
  columns = np.flatnonzero(eyeball[:, left : right + 1].sum(0) > 2) + left
  for t in ALONG:
    x = int(round(columns[0] + t * (columns[-1] - columns[0])))
    rows = np.flatnonzero(eyeball[:, x])
    take(f"upper lid {t:.1f}", rows[0] - 1, x)
    take(f"lower lid {t:.1f}", rows[-1] + 1, x)

  # Lips: where what follows the jaw begins.
  corner = head.vertices[mouth_corner]
  reach = px(0.012)
  for t in (0.0, *ALONG[:-1]):
    x = picture.column(t * corner[0])
    rows = np.arange(mouth - reach, mouth + reach)
    rows = rows[on_skin[rows, x]]
    jaw = np.einsum("nk,nk->n", picture.bary[rows, x], head.jaw[head.faces[picture.face[rows, x]]])
    gap = int(np.argmax(np.diff(jaw)))
    take(f"edge of the upper lip {t:.1f}", rows[gap], x)
    take(f"edge of the lower lip {t:.1f}", rows[gap + 1], x)
  return found
