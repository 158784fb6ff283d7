"""Hard visibility: which triangle each pixel sees.

The rasteriser works on 8 x 8 pixel tiles. All pairs of a face and a tile that it may touch are walked over by `Blocks`
in a loop with a dynamic trip count, so that nothing has a capacity and nothing is ever dropped, whatever the size of
the triangles. A block is one row of 64 keys, merged into the z-buffer (kept in tiled layout) by a row-wise scatter-min.

*Watertight*: the endpoints of an edge are put in lexicographic order before its edge function is evaluated, so the two
faces at an edge compute the same bits with opposite sign; the test is inclusive. *Deterministic*: a minimum does not
depend on the order of its arguments; among equal depths the lowest face id wins.

Visibility is piecewise constant: nothing here has a gradient. `shade.interpolate` differentiates what is seen,
`edges.antialias` and `soft.soft_render` where it ends.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from vht_jax.host.machine import for_each_machine
from vht_jax.render.gather import frames_in_turn, in_groups
from vht_jax.render.interpolate import depth_and_bary
from vht_jax.render.tiles import Blocks, most_frames
from vht_jax.types import Array, Fragments

NEAR = 1e-6  # a face with a vertex at or before this depth (m) is not drawn

_TILE = 8  # pixels; a block is one tile seen by one face
_CHUNK = 2048  # blocks per trip on a CPU: what is computed for them stays in cache, and few in the last trip are empty
# On an accelerator a trip costs launches and a round trip to the host, so few do: per frame the blocks of a head that
# fills an image of 512 x 512, in all as many as take 128 MB.
_FRAME_CHUNK, _MOST_CHUNK = 2**14, 2**19
_EMPTY = 0xFFFFFFFF  # key of a pixel that nothing covers
# With fewer bits than this left for depth beside the face id, depth and id take one pass each.
_MIN_DEPTH_BITS = 16
_DEPTH_ULPS = 8  # two-pass mode: depths this close (units in the last place) count as equal


def rasterize(
  screen: Float[Array, "V 3"], faces: Int[Array, "F 3"], size: tuple[int, int], *, cull_backfaces: bool = True
) -> Fragments:
  """The nearest face at every pixel centre.

  Front faces are counter-clockwise seen from outside in the (right-handed) world, which is a *negative* signed area in
  screen px with y down. There is no clipping: a face with any vertex at z <= `NEAR` or a non-finite vertex is dropped
  as a whole. Depths are ordered by 1 / z to 32 - bits(F) bits (at 10,000 faces a head 1 m away is resolved to about
  2 um); meshes of more than 65,535 faces use two passes at full float32 precision.

  Args:
    screen: (V, 3) x px, y px (origin top left, y down, pixel centres at i + 0.5) and depth z m: `cameras.project`.
    faces: (F, 3) i32 vertex ids.
    size: (H, W) px, static.
    cull_backfaces: whether faces seen from behind are dropped; static.

  Returns:
    `Fragments`: pix_to_face (H, W), perspective-correct bary_coords (H, W, 3), zbuf (H, W); -1 in the background.
    Under `vmap` over `screen` the frames run in turn on a CPU and in one loop on an accelerator.

  Raises:
    ValueError: on wrong shapes or dtypes, or a mesh without faces.
  """
  if screen.ndim != 2 or screen.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
    raise ValueError(f"rasterize: expected screen (V, 3) and faces (F, 3), got {screen.shape} and {faces.shape}")
  if faces.shape[0] == 0:
    raise ValueError("rasterize: the mesh has no faces")
  if not jnp.issubdtype(faces.dtype, jnp.integer):
    raise ValueError(f"rasterize: faces must be integers, got {faces.dtype}")
  screen = lax.stop_gradient(screen)
  faces = jnp.asarray(faces, jnp.int32)
  kernel = _visible_faces((int(size[0]), int(size[1])), bool(cull_backfaces))
  pix_to_face = kernel(screen.astype(jnp.float32)[None], faces)[0]
  return fragments_at(screen, faces, pix_to_face)


def fragments_at(screen: Float[Array, "V 3"], faces: Int[Array, "F 3"], pix_to_face: Int[Array, "H W"]) -> Fragments:
  """Barycentrics and depth of given faces at the pixel centres, e.g. of a `pix_to_face` from another rasteriser.

  Args:
    screen: (V, 3) as for `rasterize`.
    faces: (F, 3) i32.
    pix_to_face: (H, W) i32, -1 in the background.

  Returns:
    `Fragments`, without gradient.
  """
  zbuf, bary = depth_and_bary(lax.stop_gradient(screen)[faces][None], pix_to_face[None])
  return Fragments(pix_to_face=pix_to_face, bary_coords=bary[0], zbuf=zbuf[0])


@functools.cache
def _visible_faces(size: tuple[int, int], cull_backfaces: bool):
  """The kernel (B, V, 3), (F, 3) -> (B, H, W) i32 for a static size, with its rule for `vmap`."""

  @jax.custom_batching.custom_vmap
  @for_each_machine
  def kernel(screen, faces):
    most = most_frames(faces.shape[0], size, _TILE, _MOST_CHUNK)
    return in_groups(lambda some: _raster_batch(some, faces, size, cull_backfaces), screen, most)

  @kernel.def_vmap
  def rule(axis_size, in_batched, screen, faces):
    screen_batched, faces_batched = in_batched
    if faces_batched:  # other faces in each frame
      frames = screen if screen_batched else jnp.broadcast_to(screen, (axis_size, *screen.shape))
      return lax.map(lambda args: kernel(*args), (frames, faces)), True

    @for_each_machine
    def batch(screen, faces):
      if frames_in_turn():
        return lax.map(lambda s: kernel(s, faces), screen)
      return kernel(screen.reshape(-1, *screen.shape[2:]), faces).reshape(axis_size, -1, *size)

    return batch(screen, faces), True

  return kernel


def _raster_batch(screen: Array, faces: Array, size: tuple[int, int], cull_backfaces: bool) -> Array:
  """(B, V, 3), (F, 3) -> pix_to_face (B, H, W)."""
  n_frames, n_faces = screen.shape[0], faces.shape[0]
  n_blocks = n_frames * n_faces * math.ceil(size[0] / _TILE) * math.ceil(size[1] / _TILE)
  chunk = _CHUNK if frames_in_turn() else min(n_frames * _FRAME_CHUNK, _MOST_CHUNK)
  low, high, drawn, records, inv_z_bits = _setup(screen, faces, size, cull_backfaces)
  blocks = Blocks(low, high, drawn, size, _TILE, min(chunk, n_blocks))

  # Per frame: the largest bit pattern of 1 / z (nearest) and how far to shift the distance from it to fit the key.
  # Bit patterns of positive floats are ordered like the floats, so this is a logarithmic depth.
  bits = jnp.where(
    blocks.across.reshape(n_frames, n_faces, 1) > 0, inv_z_bits, jnp.array([[[0x7F800000, 0]]], jnp.int32)
  )
  nearest = bits[..., 1].max(axis=1)
  farthest = jnp.minimum(bits[..., 0].min(axis=1), nearest)
  id_bits = n_faces.bit_length()  # not (n_faces - 1): an id of all ones at the far end would equal _EMPTY
  two_pass = 32 - id_bits < _MIN_DEPTH_BITS
  shift = jnp.maximum(32 - lax.clz(nearest - farthest) - (32 if two_pass else 32 - id_bits), 0)

  within = jnp.arange(_TILE * _TILE)[None]  # pixel centres relative to their tile
  px, py = (within % _TILE).astype(jnp.float32) + 0.5, (within // _TILE).astype(jnp.float32) + 0.5

  def keys(chunk):
    """Of the blocks of a chunk: face ids (n, 1), and depth keys (n, 64), _EMPTY where the face is not."""
    r, frame = records[chunk.face], chunk.face // n_faces
    x0, y0 = chunk.px[:, 0] - 0.5, chunk.py[:, 0] - 0.5
    inside = True
    for i in range(3):  # e = c + dx (y - ry) - dy (x - rx), at the tile's origin and then within the tile
      rx, ry, dx, dy, c = (r[:, 5 * i + n] for n in range(5))
      origin = c + (dx * (y0 - ry) - dy * (x0 - rx))
      inside &= origin[:, None] + (dx[:, None] * py - dy[:, None] * px) >= 0
    ax, ay, inv_z, gx, gy = (r[:, 15 + n] for n in range(5))
    at_origin = inv_z + gx * (x0 - ax) + gy * (y0 - ay)
    depth = lax.bitcast_convert_type(at_origin[:, None] + (gx[:, None] * px + gy[:, None] * py), jnp.int32)
    near, far = nearest[frame][:, None], farthest[frame][:, None]
    key = (near - jnp.clip(depth, far, near)).astype(jnp.uint32) >> shift[frame][:, None].astype(jnp.uint32)
    return (chunk.face % n_faces)[:, None].astype(jnp.uint32), jnp.where(inside, key, jnp.uint32(_EMPTY))

  def merge(values):
    """Smallest of values(chunk) at every pixel, in tiled layout."""
    empty = jnp.full((blocks.n_tiles, _TILE * _TILE), _EMPTY, jnp.uint32)
    return blocks.loop(lambda chunk, buffer: buffer.at[chunk.row].min(values(chunk), mode="drop"), empty)

  def packed(chunk):
    face, key = keys(chunk)
    return jnp.where(key == jnp.uint32(_EMPTY), key, (key << id_bits) | face)

  def ids_at(best, chunk):
    face, key = keys(chunk)
    # The tolerance also covers rounding that differs between the two compiled passes.
    limit = best[jnp.minimum(chunk.row, blocks.n_tiles - 1)] + jnp.uint32(_DEPTH_ULPS)
    return jnp.where((key != jnp.uint32(_EMPTY)) & (key <= limit), face, jnp.uint32(_EMPTY))

  if two_pass:
    best = merge(lambda chunk: keys(chunk)[1])
    seen = merge(lambda chunk: ids_at(best, chunk)).astype(jnp.int32)  # _EMPTY becomes -1
  else:
    seen = merge(packed)
    seen = jnp.where(seen == jnp.uint32(_EMPTY), -1, (seen & jnp.uint32(2**id_bits - 1)).astype(jnp.int32))
  return blocks.untile(seen)


def _setup(screen: Array, faces: Array, size: tuple[int, int], cull_backfaces: bool):
  """What the blocks of a face have in common.

  Returns:
    low, high (B, F, 2): bounding boxes, px.
    drawn (B, F): which faces are in front and face the camera.
    records (B*F, 20): per edge [reference x, y, direction x, y, edge function at the reference], inside positive;
      then the plane of 1 / z [anchor x, y, value, d/dx, d/dy].
    inv_z_bits (B, F, 2) i32: bit patterns of the smallest and largest 1 / z of each face.
  """
  n_frames, n_faces = screen.shape[0], faces.shape[0]
  corners = jnp.transpose(screen, (2, 0, 1))[:, :, faces.T]  # (3, B, 3, F): the arithmetic below runs along memory
  x, y, z = corners.transpose(0, 2, 1, 3).reshape(3, 3, n_frames * n_faces)  # each (corner, B*F)
  ux, uy, vx, vy = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
  area = ux * vy - uy * vx  # negative: front
  drawn = (area < 0) if cull_backfaces else (area != 0)
  drawn &= jnp.all(z > NEAR, axis=0) & jnp.all(jnp.isfinite(x + y + z), axis=0)

  sign = jnp.where(area < 0, -1.0, 1.0)
  edges = [_edge(x[i], y[i], x[j], y[j], sign, size) for i, j in ((1, 2), (2, 0), (0, 1))]
  inv_z = 1.0 / jnp.where(z > NEAR, z, 1.0)
  inv_area = 1.0 / jnp.where(area == 0, 1.0, area)
  d1, d2 = inv_z[1] - inv_z[0], inv_z[2] - inv_z[0]
  plane = [x[0], y[0], inv_z[0], (d1 * vy - d2 * uy) * inv_area, (d2 * ux - d1 * vx) * inv_area]
  records = jnp.stack([*edges[0], *edges[1], *edges[2], *plane]).T

  def per_face(*columns):
    return jnp.stack([c.reshape(n_frames, n_faces) for c in columns], axis=-1)

  bits = lax.bitcast_convert_type(inv_z, jnp.int32)
  low, high = per_face(x.min(axis=0), y.min(axis=0)), per_face(x.max(axis=0), y.max(axis=0))
  return low, high, per_face(drawn)[..., 0], records, per_face(bits.min(axis=0), bits.max(axis=0))


def _edge(px: Array, py: Array, qx: Array, qy: Array, sign: Array, size: tuple[int, int]) -> tuple[Array, ...]:
  """Edge functions of edges p -> q, all (N,): reference x, y, direction x, y, value at the reference.

  The reference is the first endpoint in lexicographic order, moved onto the screen. For endpoints far outside the
  value is computed with two-float arithmetic: plain float32 would displace an edge of 10^4 px by about 1e-3 px.
  """
  swap = (qx < px) | ((qx == px) & (qy < py))
  ax, ay = jnp.where(swap, qx, px), jnp.where(swap, qy, py)
  bx, by = jnp.where(swap, px, qx), jnp.where(swap, py, qy)
  sign = jnp.where(swap, -sign, sign)

  rx, ry = jnp.clip(ax, 0.0, float(size[1])), jnp.clip(ay, 0.0, float(size[0]))
  (dx, dx_low), (dy, dy_low) = _two_diff(bx, ax), _two_diff(by, ay)
  (wx, wx_low), (wy, wy_low) = _two_diff(rx, ax), _two_diff(ry, ay)
  (m, m_low), (n, n_low) = _two_prod(dx, wy), _two_prod(dy, wx)
  value, low = _two_diff(m, n)
  low += (m_low - n_low) + (dx * wy_low - dy * wx_low) + (dx_low * wy - dy_low * wx)
  return rx, ry, sign * dx, sign * dy, sign * (value + low)


def _two_diff(a: Array, b: Array) -> tuple[Array, Array]:
  """a - b as a rounded value and its exact error (Knuth)."""
  s = a - b
  t = s - a
  return s, (a - (s - t)) - (b + t)


def _two_prod(a: Array, b: Array) -> tuple[Array, Array]:
  """a * b as a rounded value and its exact error (Dekker, Veltkamp's splitting)."""

  def split(x):
    c = 4097.0 * x
    high = c - (c - x)
    return high, x - high

  p = a * b
  (ah, al), (bh, bl) = split(a), split(b)
  return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl
