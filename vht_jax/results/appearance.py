"""What a tracked head looks like: colours for everything that draws or exports one.

The tracker's shading is VHT's, (albedo + 1) S(n) - 1 under the clip's light S. It is the same if (albedo + 1) is
multiplied by a colour and the light divided by it. With the light's mean, `even_light`, the texture becomes the head as
it looks in the clip, the same on all sides (`evenly_lit`), and the light what makes it darker or brighter than that
(`relative_light`).

Eyes are not as they were fitted. Lashes, the shade of the lids and reflections mix into the few pixels of an eye, in
the tint of the light, and under a bright light no albedo is dark enough for a pupil. So eyes are painted: the head's
own pattern, white and iris as bright as they are seen in the median and in half the tint, which is also the skin's;
lids and lashes take their part of the light (`head.lids`). Where nothing was seen the white is no darker than the skin,
which reflects less than any white. They are lit by texture S(n): (texture + 1) S(n) - 1 would turn an iris that is a
little in the shade black (`lit`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.head import flame
from vht_jax.head.lids import eyeball_light
from vht_jax.host.programs import stored
from vht_jax.render.shade import shade, shading
from vht_jax.results.seams import without_seams
from vht_jax.types import Array, FlameModel, Identity

HIGHEST = jax.lax.Precision.HIGHEST
PLAUSIBLE_CODE = 2.0  # standard deviations of the texture code within which eyes are painted
_WHITE = 0.8  # quantile of an eyeball's brightness from which it is white: four fifths of the ball are
_BRIGHTEST = 0.95  # of an eye's white
_DARKEST = 0.5  # of the skin's brightness: a white that is seen to be darker is mixed with lashes
_IRIS = 0.12, 0.5  # of the white's brightness: darker is a pupil, brighter no iris
_IRIS_BRIGHT = 0.03, 0.6  # an iris in even light
_BALL = 33  # px, of the ball's picture
_LUMA = np.array([0.299, 0.587, 0.114])

_free_albedo = stored(flame.free_albedo)
_shade_of = stored(shading, static_argnames=("formula",))


def even_light(identity: Identity) -> np.ndarray:
  """(3,) the light's mean over what the camera sees of a ball, by its area in the image, in the colour of the light
  that a face gets which looks into the camera: what is white there is white."""
  axis = np.linspace(-1, 1, _BALL)
  u, v = np.meshgrid(axis, axis)
  inside = u**2 + v**2 < 1.0
  ball = _shading(identity, np.stack([u, v, -np.sqrt(np.maximum(1.0 - u**2 - v**2, 0.0))], -1)[inside]).mean(axis=0)
  front = np.maximum(_shading(identity, np.array([[0.0, 0.0, -1.0]]))[0], 1e-3)
  return np.maximum((ball @ _LUMA) / (front @ _LUMA) * front, 1e-3)


def _shading(identity: Identity, normals: np.ndarray) -> np.ndarray:
  """(N, 3) `render.shade.shading` at normals (N, 3) in the camera's frame, z away from it."""
  world = (normals @ np.asarray(identity.camera.R, np.float64)).astype(np.float32)
  return np.asarray(_shade_of(identity.light, world), np.float64)


def relative_light(identity: Identity) -> np.ndarray:
  """(9, 3) f32, the light of `evenly_lit`: (texture + 1) shading - 1 is the head in the clip."""
  return (np.asarray(identity.light, np.float64) / even_light(identity)).astype(np.float32)


def evenly_lit(model: FlameModel, identity: Identity) -> np.ndarray:
  """(Ht, Wt, 3) f32 in the image's values, not clipped: the head in the clip's light, the same on all sides."""
  layer, light = identity.texture_layer, even_light(identity)
  free = np.asarray(_free_albedo(model, identity.texture, layer), np.float64)
  even = (without_seams(model, flame.clipped_albedo(free, layer)) + 1.0) * light - 1.0
  if not flame.of_images(layer):
    # As images show it from ahead, (free + 1) S - 1, by what it is if light is multiplied by it (`lit`).
    ahead = np.maximum(_shading(identity, np.array([[0.0, 0.0, -1.0]]))[0] / light, 1e-3)
    even = painted_eyes(model, identity, even, (free + 1.0) * light - 1.0 / ahead)
  return even.astype(np.float32)


def even_texture(model: FlameModel, identity: Identity) -> np.ndarray:
  """(Ht, Wt, 3) uint8 sRGB of `evenly_lit`. Row 0 is v = 1."""
  return np.round(255.0 * np.clip(evenly_lit(model, identity), 0.0, 1.0)).astype(np.uint8)


def eyeballs(model: FlameModel) -> np.ndarray:
  """(V,) bool."""
  return flame.region(model, flame.EYEBALLS)


def lit(even: Array, shading: Array, eye: Array) -> Array:
  """Colours (..., 3) of `evenly_lit` ones under shading (..., 3) by `relative_light`; eye (..., 1): 1 on eyeballs."""
  skin = shade(even, shading, "vht")
  return skin + eye * (even * shading - skin)


def seen_side(normal: Array, ahead: Array) -> Array:
  """Normals (..., 3) by which a head is lit for who looks from another side than the camera.

  Nothing says what light the far side gets: that of the clip continued there is a guess, blue or black as often as not.
  It is shown as the near side mirrored (report/web/head.js has the same formula).

  Args:
    ahead: (3,) towards the camera, of length 1.
  """
  away = jnp.minimum(jnp.matmul(normal, ahead, precision=HIGHEST), 0.0)
  return normal - 2.0 * jnp.multiply.outer(away, ahead)


def painted_eyes(model: FlameModel, identity: Identity, even: np.ndarray, seen: np.ndarray) -> np.ndarray:
  """An evenly lit texture (Ht, Wt, 3) with eyes that are plausible; as it is on a head whose eyeballs are not known.

  Args:
    model, identity: the person.
    even: the texture.
    seen: (Ht, Wt, 3) what `lit` multiplies light by to give an eye the colours of the images, where there are any.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  eyes = eyeballs(model)
  there = _texels(model, eyes, even.shape[:2])
  if not there.any():
    return even
  code = np.clip(np.asarray(identity.texture, np.float64), -PLAUSIBLE_CODE, PLAUSIBLE_CODE)
  own = flame.clipped_albedo(np.asarray(_free_albedo(model, code.astype(np.float32)), np.float64), None)
  if own.shape != even.shape:
    own = cv2.resize(own, even.shape[1::-1], interpolation=cv2.INTER_LINEAR)
  own = own[there]
  brightness = own @ _LUMA
  brightest = brightness >= np.quantile(brightness, _WHITE)
  own_white = np.maximum(np.median(own[brightest], axis=0), 1e-3)
  level = brightness / (own_white @ _LUMA)
  white, iris = brightest | (level > _IRIS[1]), (level > _IRIS[0]) & (level < _IRIS[1])
  face = np.asarray(model.masks.get("face", np.ones_like(eyes)), bool) & ~eyes
  skin = _texels(model, face, even.shape[:2]) & ~there
  skin = float(np.median(even[skin] @ _LUMA)) if skin.any() else 0.0

  light = eyeball_light(model, np.asarray(identity.shape), even.shape[:2])[there]
  known = _fitted(identity, even.shape[:2])[there]
  seen = seen[there] / light[:, None]
  if (known & white).any():  # of the rest of a ball only the head's own colour is known
    color = _paler(np.median(seen[known & white], axis=0), _DARKEST * skin, _BRIGHTEST)
  else:
    color = min(max(float(np.median((even[there] @ _LUMA)[white])), skin, 0.0), _BRIGHTEST)
  of_white = of_iris = color / own_white
  if (known & iris).any():
    of_iris = _paler(np.median(seen[known & iris], axis=0), *_IRIS_BRIGHT) / np.median(own[iris], axis=0)
  t = np.clip((level - _IRIS[1]) / (1.0 - _IRIS[1]), 0.0, 1.0)[:, None]
  result = even.copy()
  result[there] = light[:, None] * own * ((1.0 - t) * of_iris + t * of_white)
  return result


def _paler(color: np.ndarray, low: float, high: float) -> np.ndarray:
  """A colour (3,) of a brightness within bounds and half of its tint: the other half is mixed in by lids and skin."""
  bright = np.clip(color @ _LUMA, low, high)
  paler = np.sqrt(np.maximum(color, 0.1 * bright) * bright)
  return bright / (paler @ _LUMA) * paler


def _fitted(identity: Identity, size: tuple[int, int]) -> np.ndarray:
  """(Ht, Wt) bool: texels with colours of their own, as they are seen in images; none if there is no layer of them."""
  layer = identity.texture_layer
  if layer is None:
    return np.zeros(size, bool)
  rows, columns = (np.arange(n) * k // n for n, k in zip(size, layer.shape[:2]))
  return (np.asarray(layer) != 0).any(axis=-1)[rows[:, None], columns[None]]


def _texels(model: FlameModel, vertices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """(Ht, Wt) bool: the islands of the faces all of whose vertices (V,) are chosen, and the texel beside them."""
  import cv2  # late: a tracker without pictures needs no OpenCV

  height, width = size
  faces = vertices[np.asarray(model.faces)].all(axis=1)
  corners = np.asarray(model.uv, np.float64)[faces] * [width, -height] + [0.0, height]
  drawn = np.zeros(size, np.uint8)
  for triangle in np.floor(corners).astype(np.int32):
    cv2.fillConvexPoly(drawn, triangle, 1)
  return cv2.dilate(drawn, np.ones((3, 3), np.uint8)) > 0
