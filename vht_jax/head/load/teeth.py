"""Teeth for FLAME, which has none: two rows of fourteen behind the lips, one the skull's and one the jaw's.

The construction is ours (docs/method.md, "Teeth of FLAME"): sizes of teeth as anatomy books have them, along an arch
that begins where the mesh ends inside the mouth. As many vertices as VHAP adds, at the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vht_jax.errors import InputError
from vht_jax.head.mesh import open_ends
from vht_jax.head.teeth import FLAME_VERTICES, N_TEETH

# mm, from the middle outwards: widths of central and lateral incisor, canine, premolars, molars.
UPPER_WIDTHS = (8.5, 6.5, 7.5, 7.0, 7.0, 10.0, 9.0)
LOWER_WIDTHS = (5.0, 5.5, 7.0, 7.0, 7.0, 11.0, 10.5)
EDGE_DEPTHS = (1.5, 1.5, 3.0, 6.0, 7.0, 9.0, 9.0, 9.0)  # mm, from front to back where teeth bite, at the widths' ends
ROOT_DEPTH = 7.0  # mm, the same at the gums, at least
ARCH = 0.045  # 1/mm: the arch falls back by that times the square of the distance from the middle
# Of the height of the mouth's opening in the mesh, from above: where teeth begin, and where they bite.
UPPER_HEIGHTS, LOWER_HEIGHTS = (0.0, 0.52), (0.9, 0.4)
INCLINED = 2.0  # mm by which the upper edges are before their roots; those are where the mesh ends inside the lips
OVERJET = 2.5  # mm by which the lower teeth bite behind the upper ones
# Share of the opening's half width that is its middle, which says how high it is and where the arch begins.
MIDDLE = 0.4
ENAMEL, GUM, GAP = (0.90, 0.87, 0.78), (0.62, 0.34, 0.32), 0.6  # albedo; between teeth there is so much of it
GUM_SHARE, GAP_SHARE = 0.2, 0.12  # of a tooth's height, from the root; of its width
_COLUMNS, _PER_COLUMN = 15, 4  # of a row: the sides of its teeth; outer root, outer edge, inner edge, inner root
_GRID, _ASPECT = 256, 6  # cells per side in which a place in the UV map is sought; width of a row's place by its height


def with_teeth(head: dict[str, Any]) -> dict[str, Any]:
  """The arguments of `flame_model_from_arrays` for a FLAME with teeth.

  Args:
    head: those for FLAME itself. Expressions and pose correctives do nothing to teeth, and they nothing to joints.

  Raises:
    InputError: not FLAME's mesh.
  """
  vertices, faces = np.asarray(head["v_template"], np.float64), np.asarray(head["faces"], np.int64)
  rim = mouth_rim(vertices, faces, np.asarray(head["weights"]))
  if len(vertices) != FLAME_VERTICES or rim is None:
    raise InputError(f"--flame_teeth: expected FLAME's mesh of {FLAME_VERTICES} vertices with a mouth that can open; "
                     f"found one of {len(vertices)} in {head['name']}")  # fmt: skip
  rows = teeth_rows(vertices[rim])
  added = np.concatenate(rows)
  n, half = len(vertices), N_TEETH // 2
  more = np.concatenate([_row_faces(n, upper=True), _row_faces(n + half, upper=False)])
  grown = lambda a: np.concatenate([a, np.zeros((N_TEETH, *a.shape[1:]), a.dtype)])
  weights = grown(np.asarray(head["weights"]))
  weights[n : n + half, 1] = weights[n + half :, 2] = 1.0
  regressor = np.asarray(head["J_regressor"])
  shapedirs = np.asarray(head["shapedirs"])
  masks = {"upper_teeth": np.arange(n, n + half), "lower_teeth": np.arange(n + half, n + N_TEETH)}
  changed = {
    "v_template": np.concatenate([vertices, added]).astype(np.float32),
    "faces": np.concatenate([faces, more]),
    "shapedirs": np.concatenate([shapedirs, _with_lips(vertices[rim], shapedirs[rim], added).astype(shapedirs.dtype)]),
    "weights": weights,
    "J_regressor": np.concatenate([regressor, np.zeros((len(regressor), N_TEETH), regressor.dtype)], axis=1),
    "masks": {**head["masks"], **masks, "teeth": np.arange(n, n + N_TEETH)},
    **{name: grown(np.asarray(head[name])) for name in ("exprdirs", "posedirs")},
  }
  return {**head, **changed, **(_painted(head, more - n) if "vt" in head else {})}


def mouth_rim(vertices: np.ndarray, faces: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
  """Vertices of the open end inside the lips: the one of which skull and jaw both hold a part; None without."""
  ends = [end for end in open_ends(faces) if (weights[end, 1] > 0.5).any() and (weights[end, 2] > 0.5).any()]
  return max(ends, key=lambda end: vertices[end, 2].mean(), default=None)


def teeth_rows(rim: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(60, 3) upper and lower teeth, m, by columns from the subject's right; the mouth's mesh ends at rim (R, 3)."""
  left, right = rim[:, 0].max(), rim[:, 0].min()
  middle = (left + right) / 2
  near = rim[np.abs(rim[:, 0] - middle) < MIDDLE * (left - right) / 2]
  high = near[:, 1] > near[:, 1].mean()
  top, bottom, front = near[high, 1].max(), near[~high, 1].min(), near[high, 2].max()

  def row(widths, heights, behind, inclined):
    sides = np.concatenate([[0.0], np.cumsum(widths)])
    x = np.linspace(0.0, sides[-1], 1000)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(ARCH * x**2)))])
    x = np.interp(sides, length, x)
    arch = np.stack([x, -ARCH * x**2], 1)
    inward = np.stack([-2 * ARCH * x, np.full_like(x, -1.0)], 1)
    inward /= np.linalg.norm(inward, axis=1, keepdims=True)
    at = lambda depth, y: np.insert(arch + np.reshape(depth, (-1, 1)) * inward, 1, 1000 * y, axis=1)
    root, edge = (top + share * (bottom - top) for share in heights)
    bite = np.array(EDGE_DEPTHS) + behind - inclined
    corners = [
      at(behind, root), at(behind - inclined, edge), at(bite, edge), at(np.maximum(bite, behind + ROOT_DEPTH), root),
    ]  # fmt: skip
    columns = np.stack(corners, axis=1)  # (8, 4, 3), from the middle to the subject's left
    both = np.concatenate([columns[:0:-1] * [-1.0, 1.0, 1.0], columns])
    return both.reshape(-1, 3) / 1000 + [middle, 0.0, front]

  return row(UPPER_WIDTHS, UPPER_HEIGHTS, 0.0, INCLINED), row(LOWER_WIDTHS, LOWER_HEIGHTS, OVERJET, INCLINED)


def _row_faces(first: int, upper: bool) -> np.ndarray:
  """(88, 3) of a row whose vertices begin at `first`: outside, bite, inside, and its two ends."""
  quads = []
  for k in range(_COLUMNS - 1):
    a, b = first + _PER_COLUMN * k, first + _PER_COLUMN * (k + 1)
    quads += [(a + i, a + i + 1, b + i + 1, b + i) for i in range(_PER_COLUMN - 1)]
  last = first + _PER_COLUMN * (_COLUMNS - 1)
  quads += [(first, first + 3, first + 2, first + 1), (last, last + 1, last + 2, last + 3)]
  quads = np.array(quads)
  faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
  return faces if upper else faces[:, ::-1]


def _with_lips(rim: np.ndarray, dirs: np.ndarray, teeth: np.ndarray) -> np.ndarray:
  """(120, 3, S) how teeth go with the identity: as the mouth's rim (R, 3) does with dirs (R, 3, S), by place and width.

  Along x a parabola is fitted to what each component does to the rim; both rows follow the same one, and still meet.
  """
  scale = np.abs(rim[:, 0]).max()
  powers = lambda x: np.stack([np.ones_like(x), x / scale, (x / scale) ** 2], axis=1)
  fitted = np.linalg.lstsq(powers(rim[:, 0]), dirs.reshape(len(rim), -1), rcond=None)[0]
  return (powers(np.clip(teeth[:, 0], -scale, scale)) @ fitted).reshape(len(teeth), *dirs.shape[1:])


def _painted(head: dict[str, Any], faces: np.ndarray) -> dict[str, Any]:
  """UVs of the teeth's faces (176, 3), in parts of the map that nothing else uses, and the texture with teeth there."""
  vt, faces_vt = np.asarray(head["vt"], np.float64), np.asarray(head["faces_vt"], np.int64)
  taken = _taken(vt[faces_vt])
  mean, basis = (None if head.get(k) is None else np.array(head[k]) for k in ("texture_mean", "texture_basis"))
  uv = []
  for _ in range(2):
    row, column, height, width = _free_place(taken)
    taken[row : row + height, column : column + width] = True
    u = (column + 0.5 + (width - 1) * np.linspace(0, 1, _COLUMNS)) / _GRID
    root, edge = 1 - (row + 0.5) / _GRID, 1 - (row + height - 0.5) / _GRID
    # The inside has the colour of the edge: it takes no place, and nobody sees it.
    uv.append(np.stack([np.repeat(u, _PER_COLUMN), np.tile([root, edge, edge, edge], _COLUMNS)], axis=1))
    if mean is not None and min(mean.shape[:2]) > 1:
      _paint(mean, (row, column, height, width))
      if basis is not None:
        _paint(basis, (row, column, height, width), blank=True)
  new = {"vt": np.concatenate([vt, *uv]), "faces_vt": np.concatenate([faces_vt, faces + len(vt)])}
  return {**new, **{k: a for k, a in (("texture_mean", mean), ("texture_basis", basis)) if a is not None}}


def _paint(texture: np.ndarray, place: tuple[int, int, int, int], blank: bool = False) -> None:
  """Paints a row of teeth into a place of a texture (H, W, ...), or 0."""
  row, column, height, width = place
  scale = np.array(texture.shape[:2]) / _GRID
  low = np.floor(np.array([row, column]) * scale).astype(int)
  high = np.ceil(np.array([row + height, column + width]) * scale).astype(int)
  part = texture[low[0] : high[0], low[1] : high[1]]
  if blank:
    part[:] = 0.0
    return
  down = ((np.arange(low[0], high[0]) + 0.5) / scale[0] - row) / height
  along = ((np.arange(low[1], high[1]) + 0.5) / scale[1] - column - 0.5) / max(width - 1, 1) * (_COLUMNS - 1)
  gap = np.exp(-(((along - np.round(along)) / GAP_SHARE) ** 2))
  gum = 1 / (1 + np.exp((down - GUM_SHARE) * height))[:, None, None]
  tooth = np.array(ENAMEL) * (1 - (1 - GAP) * gap)[None, :, None]
  part[:] = gum * np.array(GUM) + (1 - gum) * tooth


def _taken(corners: np.ndarray) -> np.ndarray:
  """(n, n) bool: cells of the map, row 0 at v = 1, that a triangle's box (F, 3, 2) reaches, and those beside it."""
  at = np.stack([1 - corners[..., 1], corners[..., 0]], axis=-1) * _GRID
  low = np.clip(np.floor(at.min(axis=1)).astype(int) - 1, 0, _GRID - 1)
  high = np.clip(np.floor(at.max(axis=1)).astype(int) + 2, 1, _GRID)
  count = np.zeros((_GRID + 1, _GRID + 1), int)
  for rows, columns, sign in ((low, low, 1), (low, high, -1), (high, low, -1), (high, high, 1)):
    np.add.at(count, (rows[:, 0], columns[:, 1]), sign)
  return count.cumsum(0).cumsum(1)[:-1, :-1] > 0


def _free_place(taken: np.ndarray) -> tuple[int, int, int, int]:
  """Row, column, height and width of the largest free place of a row's shape, in cells; of a full map its corner.

  Half as wide as the map at most: teeth are small.
  """
  total = np.pad(taken.astype(int).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
  for height in range(len(taken) // (2 * _ASPECT), 0, -1):
    width = _ASPECT * height
    inside = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    free = np.argwhere(inside == 0)
    if len(free):
      return int(free[0, 0]), int(free[0, 1]), height, width
  return 0, 0, 1, _ASPECT
