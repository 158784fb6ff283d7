"""Handles for people on the light of a clip: brightness, warmth, direction and strength instead of 27 numbers.

They act on degrees 0 and 1 of the spherical harmonics; degree 2 follows the brightness and the warmth only.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear RGB, ITU-R BT.709
WARMTH_STOPS = 0.5  # a warmth of 1 makes red this many photographic stops brighter and blue as many darker
_NO_DIRECTION = 0.01  # relative strength below which a light has no direction to turn


@dataclasses.dataclass(frozen=True)
class LightHandles:
  """What the sliders show. Angles in degrees as the viewer of the image sees the light."""

  brightness: float = 1.0  # factor on everything
  warmth: float = 0.0  # -1 blue ... 1 red, at the same luminance
  azimuth: float = 0.0  # 0: from the camera; positive: from the left of the image; +-180: from behind the head
  elevation: float = 0.0  # positive: from above
  strength: float = 0.0  # of degree 1 relative to degree 0; 0: the same from everywhere


def handles(light: np.ndarray) -> LightHandles:
  """The handles that leave a light (9, 3) as it is."""
  direction = np.asarray(light, np.float64)[1:4] @ LUMINANCE  # world: x left, y up, z away from the camera
  length, base = float(np.linalg.norm(direction)), float(abs(np.asarray(light, np.float64)[0] @ LUMINANCE))
  strength = length / base if base > 0 else 0.0
  if strength < _NO_DIRECTION:
    return LightHandles(strength=strength)
  x, y, z = direction / length
  elevation = math.degrees(math.asin(min(1.0, max(-1.0, y))))
  return LightHandles(azimuth=math.degrees(math.atan2(x, -z)), elevation=elevation, strength=strength)


def with_handles(light: np.ndarray, wanted: LightHandles) -> np.ndarray:
  """A light (9, 3) changed so that it has the wanted handles; unchanged bit by bit if it has them.

  The direction is turned on the shortest arc, each colour's by the same rotation.
  """
  has = handles(light)
  if wanted == has:
    return np.asarray(light, np.float32)
  out = np.array(light, np.float64)
  if (wanted.azimuth, wanted.elevation, wanted.strength) != (has.azimuth, has.elevation, has.strength):
    target = _direction(wanted)
    if has.strength < _NO_DIRECTION:
      out[1:4] = wanted.strength * target[:, None] * out[0]
    else:
      out[1:4] = wanted.strength / has.strength * (_shortest_rotation(_direction(has), target) @ out[1:4])
  gain = np.exp2(WARMTH_STOPS * wanted.warmth * np.array([1.0, 0.0, -1.0]))
  return (out * (wanted.brightness * gain / (gain @ LUMINANCE))).astype(np.float32)


def _direction(of: LightHandles) -> np.ndarray:
  azimuth, elevation = math.radians(of.azimuth), math.radians(of.elevation)
  flat = math.cos(elevation)
  return np.array([flat * math.sin(azimuth), math.sin(elevation), -flat * math.cos(azimuth)])


def _shortest_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """(3, 3) rotation that takes the unit vector a to b."""
  cosine = float(a @ b)
  if cosine < -1.0 + 1e-9:  # half a turn: about any axis across
    across = np.cross(a, np.eye(3)[np.abs(a).argmin()])
    across /= np.linalg.norm(across)
    return 2.0 * np.outer(across, across) - np.eye(3)
  v = np.cross(a, b)
  skew = np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
  return np.eye(3) + skew + skew @ skew / (1.0 + cosine)
