"""From MakeHuman's body to the head's triangles.

Every vertex of the head is a fixed linear combination of base mesh vertices, so that one sparse matrix carries the
template, every modelling target and every skinning weight over to the new mesh.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

EYES = ("left_eye", "right_eye")
HELPERS = {
  "helper-upper-teeth": "upper_teeth",
  "helper-lower-teeth": "lower_teeth",
  "helper-tongue": "tongue",
  "helper-l-eye": "left_eye",
  "helper-r-eye": "right_eye",
}
SOCKET_RINGS = 3  # rings of the eye socket kept behind the lid margin
NECK_RINGS = 8  # rings of the torso kept below the neck seam, before the clip
COARSE_EDGE = 0.095  # mean edge above which quads of the head are refined, MakeHuman units (dm)
COARSE_FLOOR = 6.3  # quads below this height are not refined
FRONT_OF_EYE = -0.05  # eyeball quads are refined where the z of their direction from the centre exceeds this


@dataclasses.dataclass
class Crop:
  """The quads of the base mesh that make up a head."""

  quads: np.ndarray  # (Q, 4) base vertex ids
  quad_uv: np.ndarray  # (Q, 4, 2) the base mesh's UVs per corner
  part: np.ndarray  # (Q,) name of the part
  seams: dict[str, np.ndarray]  # "mouth", "left_eye", "right_eye": base vertex ids of the inner lip and lid margins

  def vertices(self, *parts: str) -> np.ndarray:
    """Sorted base vertex ids of some parts (all when none is named)."""
    return np.unique(self.quads[np.isin(self.part, parts)] if parts else self.quads)


@dataclasses.dataclass
class Surface:
  """The head's mesh."""

  matrix: sp.csr_matrix  # (V, N) base vertices -> vertices
  faces: np.ndarray  # (F, 3)
  corner_uv: np.ndarray  # (F, 3, 2) the base mesh's UVs
  part: np.ndarray  # (F,)
  mirror: np.ndarray  # (V,) left/right partner

  def vertices(self, *parts: str) -> np.ndarray:
    """Sorted vertex ids of some parts."""
    return np.unique(self.faces[np.isin(self.part, parts)])


def _connected(edges: np.ndarray, count: int) -> np.ndarray:
  """Component label (count,) of each node."""
  graph = sp.coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
  return csgraph.connected_components(graph, directed=False)[1]


def _grow(quads: np.ndarray, seed: np.ndarray, rings: int) -> np.ndarray:
  """(Q,) bool: quads within some rings of the seed vertices."""
  reached = np.zeros(quads.max() + 1, bool)
  reached[seed] = True
  for _ in range(rings):
    hit = reached[quads].any(1)
    reached[quads[hit]] = True
  return hit


def crop(mesh: dict[str, np.ndarray]) -> Crop:
  """Cuts the head out of the closed body.

  The UV islands of the body are its anatomy: head skin, mouth cavity, two eye sockets and the torso. The seams
  between the head's island and the others are the inner lips, the lid margins and the neck ring.
  """
  vertices, quads, quad_uv = mesh["vertices"], mesh["quads"], mesh["quad_uv"]
  uv_edges = np.concatenate([quad_uv[:, [i, (i + 1) % 4]] for i in range(4)])
  island = _connected(uv_edges, len(mesh["uv"]))[quad_uv[:, 0]]
  island[mesh["group"] != "body"] = -1
  ids = {k: np.unique(quads[island == k]) for k in np.unique(island) if k >= 0}

  def find(test) -> int:
    (found,) = [k for k, i in ids.items() if test(vertices[i])]
    return found

  head = find(lambda p: p[:, 1].max() > 8)
  parts = {
    "mouth_cavity": find(lambda p: np.abs(p[:, 0]).max() < 0.4 and p[:, 1].min() > 6),
    "left_socket": find(lambda p: len(p) == 308 and p[:, 0].min() > 0),
    "right_socket": find(lambda p: len(p) == 308 and p[:, 0].max() < 0),
    "neck": find(lambda p: len(p) > 3000 and p[:, 1].max() < 7),
  }
  seam = {name: np.intersect1d(ids[head], ids[k]) for name, k in parts.items()}
  part = np.full(len(quads), "", dtype="U20")
  part[island == head] = "head"
  part[island == parts["mouth_cavity"]] = "mouth_cavity"
  for name, rings in (("left_socket", SOCKET_RINGS), ("right_socket", SOCKET_RINGS), ("neck", NECK_RINGS)):
    inside = np.nonzero(island == parts[name])[0]
    kept = inside[_grow(quads[inside], seam[name], rings)]
    part[kept] = "neck" if name == "neck" else "eye_socket"
  for group, name in HELPERS.items():
    part[mesh["group"] == group] = name
  keep = part != ""
  seams = {"mouth": seam["mouth_cavity"], "left_eye": seam["left_socket"], "right_eye": seam["right_socket"]}
  return Crop(quads[keep], mesh["uv"][quad_uv[keep]], part[keep], seams)


def above_neck_cut(points: np.ndarray) -> np.ndarray:
  """Signed height over the surface at which the neck is cut (it follows the collar), MakeHuman units."""
  x, y, z = np.moveaxis(points, -1, 0)
  return y - (5.80 - 0.40 * z) - 0.30 * np.maximum(np.abs(x) - 0.5, 0)


def sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
  """Least squares sphere through points (n, 3): centre (3,) and radius."""
  solution = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)[0]
  return solution[:3], float(np.sqrt(solution[3] + (solution[:3] ** 2).sum()))


class _Refiner:
  """Weights of the points that refinement adds, as {base vertex: weight}.

  Edges follow Kobbelt's interpolatory four point rule (L. Kobbelt, "Interpolatory subdivision on open quadrilateral
  nets with arbitrary topology", 1996): the base vertices stay where they are, between them the surface is smooth.
  """

  def __init__(self, quads: np.ndarray):
    self._quads = quads
    self._faces_of_edge: dict[tuple[int, int], list[int]] = {}
    self._edges_of_vertex: dict[int, set[int]] = {}
    for q, quad in enumerate(quads.tolist()):
      for a, b in zip(quad, quad[1:] + quad[:1]):
        self._faces_of_edge.setdefault((min(a, b), max(a, b)), []).append(q)
        self._edges_of_vertex.setdefault(a, set()).add(b)
        self._edges_of_vertex.setdefault(b, set()).add(a)

  def _beyond(self, a: int, b: int) -> dict[int, float]:
    """The point that continues the edge b -> a straight on: the next vertex of the loop, or an extrapolation."""
    shared = {v for q in self._faces_of_edge[min(a, b), max(a, b)] for v in self._quads[q].tolist()}
    opposite = sorted(self._edges_of_vertex[a] - shared)
    if not opposite:
      return {a: 2.0, b: -1.0}
    return {v: 1.0 / len(opposite) for v in opposite}

  def edge(self, a: int, b: int, *, smooth: bool = True) -> dict[int, float]:
    """Midpoint of an edge."""
    if not smooth:
      return {a: 0.5, b: 0.5}
    a, b = min(a, b), max(a, b)
    return _combine(
      [({a: 1.0}, 9 / 16), ({b: 1.0}, 9 / 16), (self._beyond(a, b), -1 / 16), (self._beyond(b, a), -1 / 16)]
    )

  def face(self, q: int, *, smooth: bool = True) -> dict[int, float]:
    """Centre of a quad: the four point rule across it in both directions."""
    quad = self._quads[q].tolist()
    if not smooth:
      return {v: 0.25 for v in quad}
    terms = []
    for side in range(4):
      a, b = quad[side], quad[(side + 1) % 4]
      terms.append((self.edge(a, b), 9 / 32))
      neighbour = [n for n in self._faces_of_edge[min(a, b), max(a, b)] if n != q]
      if neighbour:
        ring = self._quads[neighbour[0]].tolist()
        i = ring.index(a)
        step = 1 if ring[i - 1] == b else -1
        outer = self.edge(ring[(i + step) % 4], ring[(i + 2 * step) % 4])
      else:
        outer = _combine([(self.edge(a, b), 2.0), (self.edge(quad[side - 2], quad[side - 1]), -1.0)])
      terms.append((outer, -1 / 32))
    return _combine(terms)


def _combine(terms: list[tuple[dict[int, float], float]]) -> dict[int, float]:
  out: dict[int, float] = {}
  for weights, factor in terms:
    for vertex, weight in weights.items():
      out[vertex] = out.get(vertex, 0.0) + factor * weight
  return out


def surface(head: Crop, template: np.ndarray, mirror: np.ndarray) -> Surface:
  """Refines, triangulates and clips the quads of a head.

  Args:
    head: the quads.
    template: (N, 3) positions of the base vertices, mirror symmetric, MakeHuman units; those the head lacks are unused.
    mirror: (N,) left/right partner of each base vertex.
  """
  quads = head.quads
  refiner = _Refiner(quads)
  refined = _coarse(head, template)
  rows: list[dict[int, float]] = []
  index: dict[tuple, int] = {}

  def vertex(key: tuple, weights: dict[int, float]) -> int:
    if key not in index:
      index[key] = len(rows)
      rows.append(weights)
    return index[key]

  def base(v: int) -> int:
    return vertex((v,), {v: 1.0})

  split_edges = set()
  for quad in quads[refined].tolist():
    split_edges.update((min(a, b), max(a, b)) for a, b in zip(quad, quad[1:] + quad[:1]))

  polygons = []  # (vertex ids, uv, part, ids of the vertices that lie on an edge)
  for q, (quad, uv, part) in enumerate(zip(quads.tolist(), head.quad_uv, head.part)):
    smooth = part not in EYES
    corners = [base(v) for v in quad]
    middle = []
    for i in range(4):
      a, b = sorted((quad[i], quad[(i + 1) % 4]))
      split = (a, b) in split_edges
      middle.append(vertex((a, b), refiner.edge(a, b, smooth=smooth)) if split else None)
    middle_uv = [(uv[i] + uv[(i + 1) % 4]) / 2 for i in range(4)]
    if refined[q]:
      centre = vertex(("face", q), refiner.face(q, smooth=smooth))
      for i in range(4):
        ring = [corners[i], middle[i], centre, middle[i - 1]]
        polygons.append((ring, [uv[i], middle_uv[i], uv.mean(0), middle_uv[i - 1]], part, ()))
    else:
      ring, ring_uv = [], []
      for i in range(4):
        ring.append(corners[i])
        ring_uv.append(uv[i])
        if middle[i] is not None:
          ring.append(middle[i])
          ring_uv.append(middle_uv[i])
      polygons.append((ring, ring_uv, part, tuple(m for m in middle if m is not None)))

  position = [sum(w * template[v] for v, w in weights.items()) for weights in rows]
  canonical = [_canonical(weights, mirror) for weights in rows]
  triangles, triangle_uv, triangle_part = [], [], []
  for ring, ring_uv, part, on_edge in polygons:
    for corner in _triangulate(ring, on_edge, position, canonical):
      pieces = [([ring[c] for c in corner], [ring_uv[c] for c in corner])]
      if part == "neck":
        pieces = _clip(*pieces[0], rows, position, canonical, vertex, mirror)
      for ids, uv in pieces:
        triangles.append(ids)
        triangle_uv.append(uv)
        triangle_part.append(part)

  triangles = np.array(triangles)
  used = np.unique(triangles)
  rows = [rows[i] for i in used]
  faces = np.searchsorted(used, triangles)
  entries = [(i, v, w) for i, weights in enumerate(rows) for v, w in sorted(weights.items())]
  i, v, w = (np.array(column) for column in zip(*entries))
  matrix = sp.csr_matrix((w, (i, v)), shape=(len(rows), len(template)))
  row_of = {_key(weights): i for i, weights in enumerate(rows)}
  partner = np.array([row_of[_key({int(mirror[v]): w for v, w in weights.items()})] for weights in rows])
  return Surface(matrix, faces, np.array(triangle_uv), np.array(triangle_part), partner)


def _coarse(head: Crop, template: np.ndarray) -> np.ndarray:
  """(Q,) bool: quads to split in four, namely the cranium's and the fronts of the eyeballs."""
  corners = template[head.quads]
  edge = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).mean(1)
  centre = corners.mean(1)
  coarse = (head.part == "head") & (edge.round(6) > COARSE_EDGE) & (centre[:, 1].round(6) > COARSE_FLOOR)
  for eye in EYES:
    middle, radius = sphere(template[head.vertices(eye)])
    coarse |= (head.part == eye) & (((centre - middle) / radius)[:, 2] > FRONT_OF_EYE)
  return coarse


def _key(weights: dict[int, float]) -> tuple:
  return tuple(sorted((v, round(w, 6)) for v, w in weights.items() if abs(w) > 1e-9))


def _canonical(weights: dict[int, float], mirror: np.ndarray) -> tuple:
  """The same for a vertex and its mirror image: breaks ties of geometric choices symmetrically."""
  return min(_key(weights), _key({int(mirror[v]): w for v, w in weights.items()}))


def _triangulate(ring, on_edge, position, canonical) -> list[tuple[int, int, int]]:
  """Corner numbers of the triangles of a small convex polygon; the mirrored polygon gets the mirrored triangles."""
  n = len(ring)
  if n == 3:
    return [(0, 1, 2)]
  if on_edge:
    # A fan from a point on an edge has no degenerate triangle.
    start = ring.index(min(on_edge, key=lambda v: canonical[v]))
  else:
    diagonals = [(i, (i + 2) % n) for i in range(2 if n == 4 else n)]

    def cost(diagonal):
      a, b = (ring[i] for i in diagonal)
      length = np.linalg.norm(position[a] - position[b])
      return round(float(length), 5), min(canonical[a], canonical[b]), max(canonical[a], canonical[b])

    start = min(diagonals, key=cost)[0]
  return [(start, (start + i) % n, (start + i + 1) % n) for i in range(1, n - 1)]


def _clip(ids, uv, rows, position, canonical, vertex, mirror) -> list[tuple[list[int], list[np.ndarray]]]:
  """Parts of a triangle above the neck cut, cutting its edges linearly."""
  height = [float(above_neck_cut(position[i])) for i in ids]
  if max(height) <= 0:
    return []
  if min(height) >= 0:
    return [(ids, uv)]
  ring, ring_uv = [], []
  for a in range(3):
    b = (a + 1) % 3
    if height[a] >= 0:
      ring.append(ids[a])
      ring_uv.append(uv[a])
    if (height[a] >= 0) != (height[b] >= 0):
      # Cut every edge from its upper end, so that both triangles, and their mirror images, agree to the last bit.
      top, low = (a, b) if height[a] > height[b] else (b, a)
      t = round(height[top] / (height[top] - height[low]), 6)
      cut = vertex(("cut", *sorted((ids[a], ids[b]))), _combine([(rows[ids[top]], 1 - t), (rows[ids[low]], t)]))
      if cut == len(position):
        position.append(position[ids[top]] * (1 - t) + position[ids[low]] * t)
        canonical.append(_canonical(rows[cut], mirror))
      ring.append(cut)
      ring_uv.append(uv[top] * (1 - t) + uv[low] * t)
  return [
    ([ring[c] for c in corner], [ring_uv[c] for c in corner]) for corner in _triangulate(ring, (), position, canonical)
  ]
