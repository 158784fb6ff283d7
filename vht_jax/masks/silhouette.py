"""The head's own silhouette, and the fade below its neck."""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import jax.numpy as jnp
import numpy as np

from vht_jax.head.flame import without_lower_neck
from vht_jax.host.programs import stored
from vht_jax.render.raster import rasterize
from vht_jax.types import FlameModel

# Share of the head's height by which the silhouette is widened: short hair, and what the fit is off by.
GROWTH = 0.04
FADE = 0.03  # of the image's width, over which a head fades out below the neck: VHAP's
# With the neck's sides nearer to each other than this share of their true distance the head is seen from the side, and
# the line through them means less and less: across the neck is what counts then.
_SIDEWAYS = 0.5
# px of the square that every head is rendered into, whatever its size: one program serves all. Heads up to half of it
# have two samples along each side of a pixel, outlines within a quarter.
_SQUARE = 1024


class Neck(NamedTuple):
  """Vertices that say where a neck ends."""

  left: int  # its two sides, the subject's
  right: int
  front: int  # the lowest point of its front
  top: int  # of the head


def neck_of(model: FlameModel) -> Neck:
  """From the shape of any head: the rim of the mesh after the lower neck is taken off, and the whole mesh's lowest
  front point."""
  vertices = np.asarray(model.v_template, np.float64)
  used = np.unique(np.asarray(model.faces))
  upper = np.unique(np.asarray(without_lower_neck(model).faces))
  neck = np.asarray(model.masks["neck"], bool) if "neck" in model.masks else np.ones(len(vertices), bool)
  sides = upper[neck[upper]] if neck[upper].any() else upper
  # The front's middle: of what lies within a tenth of the head's width of the middle and before the joints, the lowest.
  width = np.ptp(vertices[used, 0])
  middle = used[np.abs(vertices[used, 0]) < 0.1 * width]
  front = middle[vertices[middle, 2] > np.median(vertices[sides, 2])]
  return Neck(
    left=int(sides[vertices[sides, 0].argmax()]),
    right=int(sides[vertices[sides, 0].argmin()]),
    front=int(front[vertices[front, 1].argmin()]),
    top=int(used[vertices[used, 1].argmax()]),
  )


def neck_fade(pixels: np.ndarray, apart: float, size: tuple[int, int]) -> np.ndarray:
  """float32 (H, W): 1 on the head, 0 below the neck.

  As VHAP's exporter does it, below the line through the lowest front point that is parallel to the one through the two
  sides of the neck; blurred by `FADE`.

  Args:
    pixels: (4, 2) of `Neck`'s vertices.
    apart: px, how far its sides were from each other if they were seen from the front.
    size: (H, W) px.
  """
  left, right, front, top = np.asarray(pixels, np.float64)
  up = top - (left + right) / 2
  up = up / max(np.linalg.norm(up), 1e-9)
  across = np.array([-up[1], up[0]])
  side = (left - right) * (1.0 if (left - right) @ across > 0 else -1.0)
  least = max(_SIDEWAYS * apart, 1e-9)
  facing = min(float(np.linalg.norm(side)) / least, 1.0)
  line = facing * side + (1.0 - facing) * least * across
  normal = np.array([line[1], -line[0]]) / max(np.linalg.norm(line), 1e-9)
  normal = normal if normal @ up > 0 else -normal
  slope = normal / max(FADE * size[1], 1.0)
  rows, columns = (
    ((np.arange(n) + 0.5 - at) * k).astype(np.float32) for n, at, k in zip(size, front[::-1], slope[::-1])
  )
  return np.clip(np.float32(0.5) + rows[:, None] + columns[None], 0.0, 1.0)


def silhouette(screen: np.ndarray, faces: np.ndarray, size: tuple[int, int], growth: float = 0.0) -> np.ndarray:
  """(H, W) uint8: how much of each pixel the mesh covers.

  Args:
    screen: (V, 3) x px, y px and depth m of the vertices.
    faces: (F, 3).
    size: (H, W) px.
    growth: px by which it is widened.
  """
  out = np.zeros(size, np.uint8)
  seen = screen[np.unique(faces)]
  seen = seen[seen[:, 2] > 0]
  if not len(seen):
    return out
  edge = int(np.ceil(growth)) + 2
  low = np.clip(np.floor(seen[:, :2].min(axis=0)).astype(int) - edge, 0, size[::-1])
  high = np.clip(np.ceil(seen[:, :2].max(axis=0)).astype(int) + edge, 0, size[::-1])
  if (high <= low).any():
    return out
  side = int((high - low).max())
  scale = _SQUARE / side
  local = (np.asarray(screen, np.float64) - [*low, 0.0]) * [scale, scale, 1.0]
  hit = np.asarray(_hit(local.astype(np.float32), np.asarray(faces, np.int32), (_SQUARE, _SQUARE)))
  picture = cv2.resize(hit, (side, side), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
  if growth > 0:
    radius = max(round(growth), 1)
    picture = cv2.dilate(picture, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
  rows, columns = min(side, size[0] - low[1]), min(side, size[1] - low[0])
  out[low[1] : low[1] + rows, low[0] : low[0] + columns] = picture[:rows, :columns]
  return out


@functools.partial(stored, static_argnames=("size",))
def _hit(screen, faces, size):
  """(h, w) uint8: 255 where a pixel's centre sees the mesh, from whichever side: a neck that one looks into covers."""
  return (rasterize(screen, faces, size, cull_backfaces=False).pix_to_face >= 0).astype(jnp.uint8) * jnp.uint8(255)
