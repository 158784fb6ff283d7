"""Named regions of the head, as vertex lists."""

from __future__ import annotations

import numpy as np
from geometry import Surface, above_neck_cut
from source import Source


def painted(source: Source, surface: Surface, name: str) -> np.ndarray:
  """(V,) bool: vertices of the head's skin inside one of MakeHuman's painted masks, made symmetric."""
  image = source.mask_image(name) > 0.5
  height, width = image.shape
  head = surface.part == "head"
  uv = np.full((surface.matrix.shape[0], 2), np.nan)
  uv[surface.faces[head].ravel()] = surface.corner_uv[head].reshape(-1, 2)
  known = ~np.isnan(uv[:, 0])
  x = np.clip((uv[known, 0] * width).astype(int), 0, width - 1)
  y = np.clip(((1 - uv[known, 1]) * height).astype(int), 0, height - 1)
  out = np.zeros(len(uv), bool)
  out[known] = image[y, x]
  return out | out[surface.mirror]


def regions(
  surface: Surface, v: np.ndarray, painted_masks, weights: np.ndarray, eyes: np.ndarray
) -> dict[str, np.ndarray]:
  """FLAME's region names (and teeth, tongue, mouth_cavity, eye_socket) -> sorted vertex ids.

  Args:
    surface: the mesh.
    v: (V, 3) template, m.
    painted_masks: {"lips", "ears", "face", "eyelids"} -> (V,) bool.
    weights: (V, 5) skinning weights.
    eyes: (2, 3) centres of the eyeballs, left, right.
  """

  def part(*names):
    out = np.zeros(len(v), bool)
    out[surface.vertices(*names)] = True
    return out

  head = part("head")
  ears, lips = head & painted_masks["ears"], head & painted_masks["lips"]
  face = head & painted_masks["face"] & ~ears
  left, right = v[:, 0] > 0, v[:, 0] < 0
  to_eye = np.linalg.norm((v[:, None] - eyes) / [1, 1, 2], axis=2).min(1)
  eye_region = head & (to_eye < 0.024) & (v[:, 2] > 0.01)
  nose = head & (np.linalg.norm((v - [0, -0.012, 0.058]) / [0.021, 0.026, 0.028], axis=1) < 1)
  below = (weights[:, :2].sum(1) > 0.5) & (v[:, 1] < -0.075) & (v[:, 2] < 0.015)
  neck = part("neck") | head & (below | (v[:, 1] < -0.102) | (v[:, 1] < -0.055) & (v[:, 2] < -0.06))
  edges = np.sort(np.concatenate([surface.faces[:, [i, (i + 1) % 3]] for i in range(3)]), 1)
  edges, uses = np.unique(edges, axis=0, return_counts=True)
  rim = np.zeros(len(v), bool)
  rim[edges[uses == 1]] = True
  out = {
    "face": face,
    "lips": lips,
    "eye_region": eye_region,
    "left_eye_region": eye_region & left,
    "right_eye_region": eye_region & right,
    "nose": nose,
    "forehead": face & (v[:, 1] > 0.048),
    "left_eyeball": part("left_eye"),
    "right_eyeball": part("right_eye"),
    "left_ear": ears & left,
    "right_ear": ears & right,
    "scalp": head & ~face & ~ears & ~neck,
    "neck": neck,
    "boundary": rim & part("neck"),
    "teeth": part("upper_teeth", "lower_teeth"),
    "upper_teeth": part("upper_teeth"),
    "lower_teeth": part("lower_teeth"),
    "tongue": part("tongue"),
    "mouth_cavity": part("mouth_cavity") & ~head,
    "eye_socket": part("eye_socket") & ~head,
  }
  return {name: np.nonzero(mask)[0] for name, mask in out.items()}


def lower_neck_faces(surface: Surface, base_positions: np.ndarray, height: float) -> np.ndarray:
  """Ids of the faces just above the cut of the neck, which collars hide and trackers leave out.

  Args:
    surface: the mesh.
    base_positions: (V, 3) template in MakeHuman units.
    height: of the band over the cut, MakeHuman units.
  """
  low = (above_neck_cut(base_positions) < height)[surface.faces].all(1)
  return np.nonzero(low & np.isin(surface.part, ("head", "neck")))[0]
