"""Where silhouette edges pass through pixels.

A crossing is the part of an edge within one row of pixels, or, for an edge nearer to horizontal, within one column. To
treat both alike a crossing has its own coordinates: `v` runs along the axis in which the edge is long and `u` across,
so |du| <= |dv|, the part within row [r, r + 1) touches at most two pixels, and between the pixels (p, r) and (p + 1, r)
the edge passes from one side to the other. A prefix sum over the edges numbers the crossings, and the callers walk
over them in chunks of static size and dynamic number: there is no capacity, nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from vht_jax.host.machine import on_cpu, position, running_sum
from vht_jax.types import Array

LINES = 3  # scan lines per pixel on which silhouettes compete

_OBLIQUE = 0.4  # an edge competes on the other axis' scan lines too if it is not steeper than this
_CLEARANCE = 0.25  # px; how far within the outermost a piece between two scan lines may lie
_TIE = 1e-3  # px; a pixel centre this close to an edge is on the side where the rasteriser put it
_RANGE = 4.0  # px; offsets from the middle of a pixel pair are kept in [-4, 4)


class Piece(NamedTuple):
  """The part of a crossing in one pixel; every field (n,)."""

  pixel: Array  # i32 flat index; B*H*W if there is none
  start: Array  # parameter on the edge, 0 at a and 1 at b
  end: Array
  shadow: Array  # signed area (px^2) hidden from the pixel's centre; negative if the centre is inside


class Lines(NamedTuple):
  """Intersections of crossings with scan lines; every field (n, LINES)."""

  cell: Array  # i32 index of (frame, axis, pixel pair, line) in the winner buffer; past its end if there is none
  key: Array  # i32, larger is further out; the low bits are the edge's number and on which side the surface is
  hit: Array  # bool


class Crossing(NamedTuple):
  """A chunk of crossings; every field (n,)."""

  ok: Array  # bool: not hidden, with something to blend
  edge: Array  # i32 edge number within the frame
  frame: Array  # i32
  a: Array  # i32 flat vertex index (frame * V + vertex)
  b: Array
  inside: Array  # i32 flat index of the pixel that shows the surface, and of the one beyond its silhouette
  outside: Array
  normal_x: Array  # outward normal of the edge on the screen, as long as the edge (px)
  normal_y: Array
  pieces: tuple[Piece, Piece]
  flipped: Array  # bool: u, v = y, x (else x, y)
  row: Array  # i32, r
  pair: Array  # i32, p
  high_inside: Array  # bool: the surface is at larger u
  ua: Array  # end points of the part within the row
  va: Array
  ub: Array
  vb: Array
  slope: Array  # du / dv


class Crossings:
  """All crossings of a batch of frames.

  Args:
    screen: (B, V, 3) x px, y px, z m.
    silhouettes: (B, E, 2) i32 directed edges (surface on the side of negative area), -1 for edges to skip.
    pix_to_face: (B, H, W) i32.
    zbuf: (B, H, W) m.
  """

  def __init__(self, screen: Array, silhouettes: Array, pix_to_face: Array, zbuf: Array):
    self.n_frames, self.height, self.width = pix_to_face.shape
    self.n_pixels = self.n_frames * self.height * self.width
    self.n_edges, self.n_vertices = silhouettes.shape[1], screen.shape[1]
    self.points = screen.reshape(-1, 3)
    self.pix_to_face = pix_to_face.reshape(-1)
    self.depth = jnp.where(self.pix_to_face >= 0, zbuf.reshape(-1), jnp.inf)

    offset = (jnp.arange(self.n_frames, dtype=jnp.int32) * self.n_vertices)[:, None, None]
    self.ends = jnp.where(silhouettes >= 0, silhouettes + offset, 0).reshape(-1, 2)
    (ax, ay), (bx, by) = (self.points[self.ends[:, i], :2].T for i in range(2))
    self.flipped = jnp.abs(bx - ax) > jnp.abs(by - ay)
    swap = lambda x, y: (jnp.where(self.flipped, y, x), jnp.where(self.flipped, x, y))  # noqa: E731
    (ua, va), (ub, vb) = swap(ax, ay), swap(bx, by)
    length_u, length_v = swap(jnp.float32(self.width), jnp.float32(self.height))
    # Clipped before the conversion, so that coordinates far outside stay in range.
    first = jnp.clip(jnp.floor(jnp.minimum(va, vb)), 0.0, length_v).astype(jnp.int32)
    last = jnp.clip(jnp.floor(jnp.maximum(va, vb)), -1.0, length_v - 1.0).astype(jnp.int32)
    visible = (silhouettes.reshape(-1, 2)[:, 0] >= 0) & (va != vb)
    visible &= (jnp.minimum(ua, ub) < length_u) & (jnp.maximum(ua, ub) > 0)
    self.first = first
    self.count = jnp.where(visible, jnp.maximum(last - first + 1, 0), 0)
    self.cumulative = running_sum(self.count)
    # In cache on a CPU; few trips, each with launches and a host sync, on an accelerator.
    self.chunk_size = 2048 if on_cpu() else 32768

  def loop(self, body: Callable, init):
    """`init` carried through `body(k, carry)` for every chunk k."""
    total = self.cumulative[-1]
    step = lambda c: (c[0] + 1, body(c[0], c[1]))  # noqa: E731
    return lax.while_loop(lambda c: c[0] * self.chunk_size < total, step, (jnp.int32(0), init))[1]

  def chunk(self, k: Array) -> Crossing:
    """Crossings k * chunk_size, ..., and which of them are seen."""
    number = k * self.chunk_size + jnp.arange(self.chunk_size, dtype=jnp.int32)
    e = position(self.cumulative, number, side="right")
    ok = number < self.cumulative[-1]
    e = jnp.minimum(e, self.cumulative.shape[0] - 1)
    frame = e // self.n_edges
    flipped = self.flipped[e]
    row = self.first[e] + number - (self.cumulative[e] - self.count[e])
    r = row.astype(self.points.dtype)

    a, b = self.ends[e, 0], self.ends[e, 1]
    pa, pb = self.points[a].T, self.points[b].T
    (au, av), (bu, bv) = ((jnp.where(flipped, p[1], p[0]), jnp.where(flipped, p[0], p[1])) for p in (pa, pb))
    dv = jnp.where(ok, bv - av, 1.0)
    slope = (bu - au) / dv
    va, vb = jnp.clip(av, r, r + 1), jnp.clip(bv, r, r + 1)
    ta, tb = jnp.clip((va - av) / dv, 0.0, 1.0), jnp.clip((vb - av) / dv, 0.0, 1.0)
    ua, ub = au + ta * (bu - au), au + tb * (bu - au)
    ok &= jnp.maximum(jnp.abs(ua), jnp.abs(ub)) < 1e6  # far outside; and i32 is finite

    # Pixels on both sides. The surface owns the centres on its border (the rasteriser's test is inclusive).
    high_inside = (dv > 0) ^ flipped
    centre = au + (r + 0.5 - av) * slope
    pair = _pair(centre, high_inside)
    step = jnp.where(high_inside, 1, -1)
    outer, outer_ok = self._pixel(frame, flipped, jnp.where(high_inside, pair, pair + 1), row)
    middle_v = 0.5 * (va + vb)
    t = (middle_v - av) / dv
    depth = 1.0 / ((1 - t) / pa[2] + t / pb[2])
    ok &= outer_ok & (depth <= self.depth[outer])
    # At a corner the pixel across may not show the surface, but its neighbour towards the edge does, or the next one.
    beside = pair + high_inside.astype(jnp.int32)
    towards = row + jnp.where(middle_v > r + 0.5, 1, -1)
    inner, found = jnp.zeros_like(outer), jnp.zeros_like(ok)
    across_shows = found
    for i, (p, q) in enumerate(((beside, row), (beside, towards), (beside + step, row))):
      pixel, exists = self._pixel(frame, flipped, p, q)
      shows = exists & (self.pix_to_face[pixel] >= 0)
      inner = jnp.where(shows & ~found, pixel, inner)
      found |= shows
      if i == 0:
        across_shows = shows
    ok &= found & (self.pix_to_face[inner] != self.pix_to_face[outer])

    # Cut at the border between the (at most) two pixels of the row.
    du = ub - ua
    left = jnp.floor(jnp.minimum(ua, ub))
    cut = jnp.where(du != 0, jnp.clip((left + 1 - ua) / jnp.where(du != 0, du, 1.0), 0.0, 1.0), 1.0)
    pieces = []
    for i in range(2):
      forward = (du >= 0) ^ bool(i)  # this piece comes first
      s0, s1 = jnp.where(forward, 0.0, cut), jnp.where(forward, cut, 1.0)
      column = left + i
      p = jnp.clip(column, -1.0, 1e6).astype(jnp.int32)
      pixel, exists = self._pixel(frame, flipped, p, row)
      first, last = ((ua + s * du - (column + 0.5), va + s * (vb - va) - (r + 0.5)) for s in (s0, s1))
      shadow = _shadow(first, last, flipped, across_shows & (p == beside))
      pixel = jnp.where(ok & exists & (s1 > s0), pixel, self.n_pixels)
      pieces.append(Piece(pixel, ta + s0 * (tb - ta), ta + s1 * (tb - ta), shadow))
    return Crossing(
      ok=ok, edge=e % self.n_edges, frame=frame, a=a, b=b, inside=inner, outside=outer, normal_x=pa[1] - pb[1],
      normal_y=pb[0] - pa[0], pieces=tuple(pieces), flipped=flipped, row=row, pair=pair, high_inside=high_inside,
      ua=ua, va=va, ub=ub, vb=vb, slope=slope,
    )  # fmt: skip

  def _pixel(self, frame, flipped, column, row) -> tuple[Array, Array]:
    """Flat index of the pixel (u, v) = (column, row), 0 if outside the image; and whether it is inside."""
    x, y = jnp.where(flipped, row, column), jnp.where(flipped, column, row)
    inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
    return jnp.where(inside, (frame * self.height + y) * self.width + x, 0), inside

  def lines(self, c: Crossing) -> tuple[Lines, Lines]:
    """Intersections with the scan lines of the crossing's own axis, and of the other axis (oblique edges only)."""
    n = jnp.arange(LINES, dtype=jnp.int32)[None]
    ua, va, ub, vb, slope = (x[:, None] for x in (c.ua, c.va, c.ub, c.vb, c.slope))
    row, pair, frame, flipped = (x[:, None] for x in (c.row, c.pair, c.frame, c.flipped))

    v = (row * LINES + n).astype(va.dtype) / LINES + 0.5 / LINES
    hit = c.ok[:, None] & (v >= jnp.minimum(va, vb)) & (v < jnp.maximum(va, vb))
    u = ua + (v - va) * slope
    own = self._keys(c, frame, flipped, flipped, pair, row, n, u, c.high_inside[:, None], hit)

    first = jnp.ceil(jnp.minimum(ua, ub) * LINES - 0.5).astype(jnp.int32)
    number = first + n
    end = jnp.ceil(jnp.maximum(ua, ub) * LINES - 0.5).astype(jnp.int32)
    hit = c.ok[:, None] & (number < end) & (jnp.abs(slope) >= _OBLIQUE)
    u = number.astype(ua.dtype) / LINES + 0.5 / LINES
    inverse = 1.0 / jnp.where(jnp.abs(slope) >= _OBLIQUE, slope, 1.0)
    v = va + (u - ua) * inverse
    column = number // LINES
    # With u and v exchanged the surface lies at larger v where b is at smaller u, or the reverse.
    high_inside = (ub > ua) == flipped
    pair = _pair(v + (column.astype(u.dtype) + 0.5 - u) * inverse, high_inside)
    other = self._keys(c, frame, flipped, ~flipped, pair, column, number % LINES, v, high_inside, hit)
    return own, other

  def _keys(self, c, frame, flipped, axis, pair, row, line, position, high_inside, hit) -> Lines:
    """Lines at `position` between pixels pair and pair + 1 of `row`, on scan lines across the given axis."""
    same = axis == flipped
    pixel, exists = self._pixel(frame, flipped, jnp.where(same, pair, row), jnp.where(same, row, pair))
    hit &= exists
    cell = (pixel * 2 + axis.astype(jnp.int32)) * LINES + line
    offset = position - (pair + 1).astype(position.dtype)
    offset = jnp.where(high_inside, -offset, offset)
    scale, id_bits = self._packing()
    quantised = jnp.clip((offset + _RANGE) * scale, 0.0, 2 * _RANGE * scale - 1).astype(jnp.int32)
    key = (quantised << id_bits) | (c.edge[:, None] * 2 + high_inside.astype(jnp.int32))
    return Lines(jnp.where(hit, cell, 2 * self.n_pixels * LINES), key, hit)

  def _packing(self) -> tuple[float, int]:
    """Steps per px of the quantised offset, and the number of bits below it: edge number, then high_inside."""
    id_bits = self.n_edges.bit_length() + 1
    return 2.0 ** min(31 - id_bits, 20) / (2 * _RANGE), id_bits

  def weight(self, c: Crossing, winners: Array) -> Array:
    """(n,) share of each crossing that is the outermost silhouette between its two pixels; 0 if hidden."""
    own, _ = self.lines(c)
    scale, id_bits = self._packing()
    high_inside = c.high_inside.astype(jnp.int32)
    best = winners[jnp.minimum(own.cell, winners.shape[0] - 1)]
    # A winner that faces the other way is the far side of something thinner than a pixel, and hides nothing.
    same = ((best & (2**id_bits - 1)) == (c.edge * 2 + high_inside)[:, None]) | ((best & 1) != high_inside[:, None])
    won = own.hit & same
    n_hit = jnp.sum(own.hit, axis=1)
    share = jnp.sum(won, axis=1).astype(c.ua.dtype) / jnp.maximum(n_hit, 1).astype(c.ua.dtype)
    # Pieces that end between two scan lines: not further in than what won the nearest one.
    line = jnp.clip(((0.5 * (c.va + c.vb) - c.row.astype(c.va.dtype)) * LINES).astype(jnp.int32), 0, LINES - 1)
    pixel, exists = self._pixel(c.frame, c.flipped, c.pair, c.row)
    best = jnp.where(exists, winners[(pixel * 2 + c.flipped.astype(jnp.int32)) * LINES + line], -1)
    offset = 0.5 * (c.ua + c.ub) - (c.pair + 1).astype(c.ua.dtype)
    offset = jnp.where(c.high_inside, -offset, offset)
    level = (best >> id_bits).astype(offset.dtype) / scale - _RANGE
    near = (best < 0) | ((best & 1) != high_inside) | (offset >= level - _CLEARANCE)
    return jnp.where(c.ok, jnp.where(n_hit > 0, share, near.astype(share.dtype)), 0.0)


def _pair(position: Array, high_inside: Array) -> Array:
  """p such that the edge at `position` lies between the centres of pixels p and p + 1; ties go to the inside."""
  position = position + jnp.where(high_inside, -_TIE, _TIE)
  return jnp.clip(jnp.floor(position - 0.5), -2.0, 1e6).astype(jnp.int32)


def _shadow(a: tuple[Array, Array], b: tuple[Array, Array], flipped: Array, centre_inside: Array) -> Array:
  """Signed area of the unit square around 0 that the segment a b hides from 0; negative where 0 is inside.

  Args:
    a, b: end points (u, v) in [-0.5, 0.5]^2.
    flipped: whether (u, v) is a reflection of (x, y).
    centre_inside: on which side 0 is if the segment passes through it.
  """
  sign = jnp.where(flipped, -1.0, 1.0)
  du, dv = b[0] - a[0], b[1] - a[1]
  length = jnp.sqrt(du * du + dv * dv)
  cross = sign * (a[0] * dv - a[1] * du)  # negative: 0 is inside
  misplaced = (jnp.abs(cross) < 0.5 * _TIE * length) & jnp.where(centre_inside, cross >= 0, cross <= 0)
  move = jnp.where(centre_inside, sign, -sign) * (jnp.abs(cross) + 1e-5 * length)
  shift = jnp.where(misplaced, move / jnp.where(misplaced, length * length, 1.0), 0.0)
  a, b = (a[0] - shift * dv, a[1] + shift * du), (b[0] - shift * dv, b[1] + shift * du)
  turn = _perimeter(*b) - _perimeter(*a)
  turn = turn - 4.0 * jnp.round(turn / 4.0)  # the short way round
  return sign * (0.25 * turn - 0.5 * (a[0] * b[1] - a[1] * b[0]))


def _perimeter(u: Array, v: Array) -> Array:
  """Where the ray from 0 through (u, v) leaves the unit square: length along its perimeter in [-0.5, 3.5)."""
  wide = jnp.abs(u) >= jnp.abs(v)
  major, minor = jnp.where(wide, u, v), jnp.where(wide, v, -u)
  along = 0.5 * minor / jnp.where(major == 0, 1.0, major)
  return along + jnp.where(wide, 0.0, 1.0) + jnp.where(major < 0, 2.0, 0.0)
