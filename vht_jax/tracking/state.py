"""What the tracker knows of a clip so far: one frozen value that every stage takes and gives, and how it is kept."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.fit.layer import LAYER_SIZE, Appearance
from vht_jax.fit.terms.skin import Skin
from vht_jax.fit.unknowns import Shared, camera_of
from vht_jax.fit.unknowns import identity_of as identity_with
from vht_jax.render import shade
from vht_jax.tracking.camera_knowledge import turned_world
from vht_jax.types import AnyArray, Camera, Identity, Pose, RawPose

T = TypeVar("T")

FIRST_PIXELS = 50.0  # independent pixels that a frame's colours count for until the identity stage knows better


class AdamState(flax.struct.PyTreeNode):
  """What VHT's method optimises; host side."""

  identity: Identity
  raw: RawPose  # leading axis T
  terms: dict[str, AnyArray]  # name -> (T,) energy at the end of the frame's fit


class TrackState(flax.struct.PyTreeNode):
  """A clip of T frames after a stage. Arrays are host side; None: no stage has found it yet."""

  # The clip, by the landmarks and by Gauss-Newton on images.
  shared: Shared | None = None
  appearance: Appearance | None = None  # its light in the default world
  turns: bool = False  # the head turns enough for its landmarks to determine the focal length
  focal_sd: float = 0.0  # relative standard deviation of the focal length; 0: given
  landmark_focal: np.ndarray | None = None  # (2,) log focal length from the landmarks alone, and its standard deviation
  skin: Skin | None = None  # texture tracks; without them in the clip, of points that are nowhere seen
  tracked: bool = False  # there are texture tracks
  regained: np.ndarray | None = None  # (T,) bool: frames without landmarks whose pose the tracks say; None: none
  shape_information: AnyArray | None = None  # (S, S) f64, `uncertainty.shape_information`; None: the shape is given
  slide: AnyArray | None = None  # (N, 3, 2) m, head axes by [yaw, pitch]: the landmarks' own slide beyond the mean
  photo_pixels: float = FIRST_PIXELS  # independent pixels that a frame's colours are believed to count for
  # The frames.
  xs: np.ndarray | None = None  # (T, n) unknowns
  pose_sd: Pose | None = None  # leading axis T, standard deviations of their poses
  cost: AnyArray | None = None  # (T,) of the landmark stage
  l1: AnyArray | None = None  # (T,) mean difference to the image
  done: int = 0  # how many frames the stage of the frames has finished
  unordered: bool = False  # the frames have turned out to be no video
  # VHT's method, in place of the unknowns above.
  adam: AdamState | None = None


def known(value: T | None) -> T:
  """A part of the state that an earlier stage has found."""
  if value is None:
    raise ValueError("the state lacks what an earlier stage finds")
  return value


def on_host(tree: Any) -> Any:
  """A pytree with NumPy arrays for arrays."""
  return jax.tree.map(np.asarray, tree)


# --- to arrays and back ----------------------------------------------------------------------------------------------


def save(value: Any) -> dict[str, np.ndarray]:
  """The arrays and numbers of a pytree under the names of their fields, "field.field"; None is left out."""
  leaves = jax.tree_util.tree_leaves_with_path(value)
  return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def restore(kind: Any, arrays: Mapping[str, np.ndarray]) -> Any:
  """The value that `save` has made arrays of, bit by bit, with its arrays on the host.

  Args:
    kind: its dataclass, whose fields are arrays, numbers, dictionaries of arrays and dataclasses of the like.
    arrays: of `save`.

  Raises:
    ValueError: there are more arrays or fewer than this dataclass has: another version has saved them.
  """
  hints = typing.get_type_hints(kind)
  names = [field.name for field in dataclasses.fields(kind)]
  unknown = {name.partition(".")[0] for name in arrays} - set(names)
  if unknown:
    raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
  return kind(**{name: _part(hints[name], name, arrays) for name in names})


def _part(kind: Any, name: str, arrays: Mapping[str, np.ndarray]) -> Any:
  below = {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"{name}.")}
  if isinstance(kind, types.UnionType):  # X | None, or `AnyArray`
    parts = typing.get_args(kind)
    if types.NoneType in parts and name not in arrays and not below:
      return None
    kind = next(part for part in parts if part is not types.NoneType)
  if typing.get_origin(kind) is dict:
    return below
  if dataclasses.is_dataclass(kind):
    return restore(kind, below)
  if name not in arrays:
    raise ValueError(f"{name} is missing")
  return kind(arrays[name]) if kind in (bool, int, float) else arrays[name]


# --- as an identity --------------------------------------------------------------------------------------------------


def plain_appearance(n_texture: int, dtype: Any = np.float32) -> Appearance:
  """Mean texture under white light."""
  return Appearance(
    texture=np.zeros(n_texture, dtype),
    layer=np.zeros((LAYER_SIZE, LAYER_SIZE, 3), dtype),
    light=np.asarray(np.sqrt(4 * np.pi), dtype) * np.eye(9, 1, dtype=dtype).repeat(3, axis=1),
  )


def identity_of(
  shared: Shared, appearance: Appearance, size: tuple[int, int], place: Camera | None = None, *, layer: bool = True
) -> Identity:
  """The shared unknowns of the fits as an identity; host side or traced.

  Args:
    shared, appearance: as in `TrackState`.
    size: (H, W) px of the images.
    place: a camera whose R and T place the world; None: the default ones.
    layer: whether the free albedo has been looked for.
  """
  looks: Any = appearance  # an identity is on the host, or traced, as its parts are
  light = looks.light
  if place is not None:
    light = shade.turned_light(jnp.asarray(light), jnp.asarray(turned_world(place).T))
  camera = camera_of(shared, size, place)
  return identity_with(shared, camera, looks.texture, light, looks.layer if layer else None)
