"""UV map and procedural albedo. The wheel holds no skin photograph, so colour is painted from geometry."""

from __future__ import annotations

import numpy as np
from geometry import Surface
from raster import rasterize
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d

SUPERSAMPLED = 512
MEAN_SIZE, BASIS_SIZE = 256, 128
IRIS_DEGREES, PUPIL_DEGREES = 21.0, 8.5  # half angles on the eyeball

# Boxes of the UV map (u0, v0, u1, v1); the head's skin fills the rest.
HEAD_BOX = (0.01, 0.20, 0.99, 0.99)
BOXES = {
  "neck": (0.01, 0.01, 0.30, 0.185),
  "mouth_cavity": (0.315, 0.01, 0.415, 0.185),
  "upper_teeth": (0.43, 0.13, 0.50, 0.185),
  "lower_teeth": (0.43, 0.07, 0.50, 0.125),
  "tongue": (0.43, 0.01, 0.50, 0.065),
}
SOCKET_BOXES = {"left": (0.515, 0.10, 0.585, 0.185), "right": (0.515, 0.01, 0.585, 0.095)}
EYE_DISCS = {"right_eye": (0.695, 0.0975), "left_eye": (0.885, 0.0975)}  # centres
EYE_RADIUS = 0.088


def _fit(q: np.ndarray, box) -> np.ndarray:
  """Stretches coordinates (n, 3, 2) over a box."""
  low, high = q.reshape(-1, 2).min(0), q.reshape(-1, 2).max(0)
  return np.array(box[:2]) + (q - low) / (high - low) * (np.array(box[2:]) - box[:2])


def _equalize(q: np.ndarray, weight: np.ndarray, blend: float = 0.75) -> np.ndarray:
  """Monotone map of one coordinate (n, 3) to [0, 1] that gives heavy triangles more room."""
  t = (q - q.min()) / (q.max() - q.min())
  middle = t.mean(1)
  order = np.argsort(middle, kind="stable")
  share = np.cumsum(weight[order]) / weight.sum()
  grid = np.linspace(0, 1, 41)
  cdf = np.interp(grid, np.r_[0, middle[order], 1], np.r_[0, share, 1])
  cdf = gaussian_filter1d(np.pad(cdf, 5, mode="reflect", reflect_type="odd"), 1)[5:-5]
  cdf = (cdf - cdf[0]) / (cdf[-1] - cdf[0])
  return blend * np.interp(t, grid, cdf) + (1 - blend) * t


def unwrap(surface: Surface, v: np.ndarray, masks: dict[str, np.ndarray], eyes: dict[str, np.ndarray]) -> np.ndarray:
  """UV per corner (F, 3, 2) in [0, 1], v up.

  Args:
    surface: the mesh.
    v: (V, 3) template, m.
    masks: "face", "lips", "eyelids", "ears" -> (V,) bool.
    eyes: "left_eye", "right_eye" -> (3,) centres.
  """
  corners = v[surface.faces]
  area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
  share = {name: mask[surface.faces].mean(1) for name, mask in masks.items()}
  importance = 1 + 4 * share["face"] + 6 * share["lips"] + 6 * share["eyelids"] - 0.4 * share["ears"]
  out = np.zeros((len(corners), 3, 2))
  original = surface.corner_uv

  # MakeHuman lays the head on its side; upright, the subject's left is on the right as in a frontal image.
  head = surface.part == "head"
  across, up = original[head, :, 1], 1 - original[head, :, 0]
  if (across * corners[head, :, 0]).sum() < across.mean() * corners[head, :, 0].sum():
    across = -across
  weight = (area * importance)[head]
  out[head] = _fit(np.stack([_equalize(across, weight), _equalize(up, weight)], 2), HEAD_BOX)

  neck = surface.part == "neck"
  angle = np.arctan2(corners[neck, :, 0], corners[neck, :, 2] + 0.05)
  wraps = np.ptp(angle, axis=1) > np.pi
  angle[wraps] += np.where(angle[wraps] < 0, 2 * np.pi, 0)
  out[neck] = _fit(np.stack([angle, corners[neck, :, 1]], 2), BOXES["neck"])
  for name in ("mouth_cavity", "upper_teeth", "lower_teeth", "tongue"):
    out[surface.part == name] = _fit(original[surface.part == name], BOXES[name])
  socket = surface.part == "eye_socket"
  left = corners[..., 0].mean(1) > 0
  out[socket & left] = _fit(original[socket & left], SOCKET_BOXES["left"])
  out[socket & ~left] = _fit(original[socket & ~left], SOCKET_BOXES["right"])
  for name, centre in EYE_DISCS.items():
    d = corners[surface.part == name] - eyes[name]
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    # The front is projected straight, so that the iris is round; the back, never seen, is the rim of the disc.
    angle = np.arccos(np.clip(d[..., 2], -1, 1))
    radius = EYE_RADIUS * np.where(angle < np.pi / 2, 0.94 * np.sin(angle), 0.94 + 0.06 * (2 * angle / np.pi - 1))
    out[surface.part == name] = centre + radius[..., None] * _unit(d[..., :2])
  return out.round(6)


def _unit(d: np.ndarray) -> np.ndarray:
  return d / np.maximum(np.linalg.norm(d, axis=-1, keepdims=True), 1e-9)


def _step(x, low, high):
  """Smooth step from 0 at low to 1 at high."""
  t = np.clip((x - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def _to_polyline(points: np.ndarray, line: np.ndarray) -> np.ndarray:
  """Distance of points (..., 3) to a polyline (n, 3)."""
  best = np.full(points.shape[:-1], np.inf)
  for a, b in zip(line[:-1], line[1:]):
    t = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    best = np.minimum(best, np.linalg.norm(points - a - t[..., None] * (b - a), axis=-1))
  return best


class _Paint:
  """Per-texel quantities: position on the template, part, masks and colour layers, all (N, N) or (N, N, 3)."""

  def __init__(self, surface, v, uv, masks, eyes, lmk):
    n = SUPERSAMPLED
    # The rim of an eye's disc is the eyeball's back: triangles about its pole lie over the front, which is nearer.
    flipped = np.stack([uv[..., 0] * n, (1 - uv[..., 1]) * n, -v[surface.faces][..., 2]], 2)
    face, bary = rasterize(flipped, surface.faces, n)
    self.inside = face >= 0
    self._faces, self._bary = surface.faces[face], bary
    self.part = np.where(self.inside, surface.part[face], "")
    self.p = self.attribute(v)
    x, y, z = np.moveaxis(self.p, -1, 0)
    self.skin = self.of("head", "neck")
    self.lips = gaussian_filter(self.attribute(masks["lips"]), 1.0)
    ears = self.attribute(masks["ears"])
    self.brow = np.zeros((n, n))
    for first in (17, 22):
      to_brow = _to_polyline(self.p, lmk[first : first + 5] - [0, 0.0035, 0])
      self.brow = np.maximum(self.brow, np.exp(-((to_brow / 0.0042) ** 2)) * self.skin)
    hairline = _step((y - 0.062) / 0.055 + (0.005 - z) / 0.075, 0.05, 0.5)
    self.scalp = self.skin * hairline * _step(y, -0.06, -0.01) * (1 - _step(ears, 0.2, 0.6))
    chin = (1 - _step(y, -0.045, -0.022)) * _step(z, -0.045, 0.0) * _step(y, -0.125, -0.10)
    self.beard = self.skin * chin * (1 - self.lips)
    self.cheek = self.skin * self.blobs([0.042, -0.018, 0.035], [0.02, 0.02, 0.02])
    self.nostril = self.skin * self.blobs([0.0095, -0.0205, 0.0555], [0.004, 0.003, 0.004])
    self.socket = self.skin * self.blobs([0.031, 0.02, 0.03], [0.02, 0.013, 0.03])
    self.eye, self.iris, self.pupil = np.zeros((3, n, n))
    for name, centre in eyes.items():
      d = self.p - centre
      angle = np.degrees(np.arccos(np.clip(d[..., 2] / np.maximum(np.linalg.norm(d, axis=2), 1e-9), -1, 1)))
      inside = self.of(name)
      self.eye += inside
      self.iris += inside * (1 - _step(angle, IRIS_DEGREES - 2.4, IRIS_DEGREES + 2.4))
      self.pupil += inside * (1 - _step(angle, PUPIL_DEGREES - 1.8, PUPIL_DEGREES + 1.8))

  def of(self, *parts: str) -> np.ndarray:
    return np.isin(self.part, parts).astype(float)

  def attribute(self, values: np.ndarray) -> np.ndarray:
    """Interpolates vertex values (V, ...) over the texels; 0 outside of the map."""
    values = np.asarray(values, float)
    weight = self._bary.reshape(*self._bary.shape, *[1] * (values.ndim - 1))
    return (values[self._faces] * weight).sum(2) * self.inside.reshape(*self.inside.shape, *[1] * (values.ndim - 1))

  def blobs(self, centre, radius) -> np.ndarray:
    """Soft spots at a place and its mirror image."""
    return np.maximum(*[np.exp(-(((self.p - np.array(centre) * [s, 1, 1]) / radius) ** 2).sum(2)) for s in (1, -1)])

  def resized(self, image: np.ndarray, size: int) -> np.ndarray:
    """Extends the colours beyond the seams of the map, then averages down."""
    _, nearest = distance_transform_edt(~self.inside, return_indices=True)
    k = SUPERSAMPLED // size
    return image[tuple(nearest)].reshape(size, k, size, k, 3).mean((1, 3))


def paint(surface, v, uv, masks, eyes, lmk) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Mean albedo and the images that vary it.

  Args:
    surface: the mesh.
    v: (V, 3) template, m.
    uv: (F, 3, 2).
    masks: as for `unwrap`.
    eyes: as for `unwrap`.
    lmk: (68, 3) landmarks.

  Returns:
    (256, 256, 3) mean in [0, 1] and {name: (128, 128, 3)}, the change of albedo per unit of the coefficient. Row 0 is
    v = 1.
  """
  t = _Paint(surface, v, uv, masks, eyes, lmk)

  def tint(layer, colour):
    return layer[..., None] * np.array(colour)

  def cover(image, layer, colour):
    return image * (1 - layer[..., None]) + tint(layer, colour)

  mean = np.zeros((SUPERSAMPLED, SUPERSAMPLED, 3)) + [0.70, 0.52, 0.43]
  mean = mean * (1 - 0.16 * t.socket[..., None])
  mean = cover(mean, t.lips, [0.61, 0.35, 0.33])
  mean = mean * ((1 - 0.45 * t.brow) * (1 - 0.30 * t.scalp) * (1 - 0.06 * t.beard))[..., None]
  mean = mean * (1 - 0.8 * t.nostril[..., None])
  mean = mean + tint(t.cheek, [0.03, -0.01, -0.01])
  mean = cover(mean, t.of("mouth_cavity"), [0.22, 0.08, 0.07])
  mean = cover(mean, t.of("eye_socket"), [0.70, 0.42, 0.38])
  mean = cover(mean, t.of("tongue"), [0.50, 0.25, 0.24])
  mean = cover(mean, t.of("upper_teeth", "lower_teeth"), [0.90, 0.87, 0.78])
  iris = np.array([0.33, 0.24, 0.17]) * (1 - 0.85 * t.pupil[..., None])
  mean = cover(mean, t.eye, [0.86, 0.84, 0.82]) * (1 - t.iris[..., None]) + iris * t.iris[..., None]

  basis = {
    "skin_lum": t.skin[..., None] * mean * [0.20, 0.24, 0.27],
    "skin_red": tint(t.skin, [0.05, -0.015, -0.02]),
    "skin_yellow": tint(t.skin, [0.015, 0.01, -0.05]),
    "lips": tint(t.lips, [0.06, -0.05, -0.04]),
    "lips_lum": tint(t.lips, [0.08, 0.07, 0.06]),
    "brow": -0.35 * t.brow[..., None] * mean,
    "scalp_hair": -0.40 * t.scalp[..., None] * mean,
    "beard": -t.beard[..., None] * mean * [0.25, 0.22, 0.18],
    "cheek_red": tint(t.cheek, [0.06, -0.02, -0.02]),
    "eye_socket_lum": -0.15 * t.socket[..., None] * mean,
    "iris_lum": tint(t.iris * (1 - t.pupil), [0.10, 0.10, 0.10]),
    "iris_blue": tint(t.iris * (1 - t.pupil), [-0.08, 0.02, 0.14]),
    "sclera_lum": tint(t.eye * (1 - t.iris), [0.10, 0.11, 0.12]),
    "mouth_inside": tint(t.of("mouth_cavity", "tongue"), [0.15, 0.07, 0.07]),
  }
  # Smooth variation over the skin: cosines of azimuth and height.
  azimuth = np.arctan2(t.p[..., 0], t.p[..., 2] + 0.05) / np.pi
  height = np.clip((t.p[..., 1] + 0.12) / 0.25, 0, 1)
  for i in range(5):
    for j in range(6 - i):
      if i + j == 0:
        continue
      wave = t.skin * np.cos(np.pi * i * height) * np.cos(np.pi * j * (azimuth + 1) / 2)
      basis[f"cos{i}{j}_lum"] = wave[..., None] * mean * (0.08 / (1 + 0.35 * (i + j)))
      if i + j <= 2:
        basis[f"cos{i}{j}_red"] = tint(wave, [0.012, -0.005, -0.006])
  mean = t.resized(np.clip(mean, 0, 1), MEAN_SIZE)
  return mean, {name: t.resized(image, BASIS_SIZE) for name, image in basis.items()}
