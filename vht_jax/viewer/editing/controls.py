"""The sliders: what each is called, its range, and how it reads and changes a `Session`. No window here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from vht_jax.head import flame
from vht_jax.types import FlameModel
from vht_jax.viewer.editing.angles import rotation_of, turn_nod_tilt
from vht_jax.viewer.editing.session import Session

N_IDENTITY = 20  # components with a slider; they are sorted by variance
_CODE = 3.0  # standard deviations on either side
_ONE_SIDED = (-0.5, 1.5)  # of the open head's named units: tracked ones reach from -0.25 to 1
_REACH = 0.10  # m that a head may be moved beyond where the clip has it
_FOCAL = (0.5, 8.0)  # longer image sides: fields of view of 90 and 7 degrees


@dataclasses.dataclass(frozen=True)
class Control:
  """One slider. `set(session, frame, value)` is one step of the history as long as it is dragged."""

  group: str
  name: str
  low: float
  high: float
  step: float
  get: Callable[[Session, int], float]
  set: Callable[[Session, int, float], None]


@dataclasses.dataclass
class Options:
  """Switches beside the sliders."""

  both_eyes: bool = True  # a gaze slider moves the other eye by as much
  keep_size: bool = True  # with the focal length


def frame_controls(session: Session, head: FlameModel, options: Options) -> list[Control]:
  """Sliders of one frame: head, neck, jaw, gaze, every expression unit."""
  return [*_head(session), *_joints(options), *_expression(session, head)]


def person_controls(session: Session, options: Options) -> list[Control]:
  """Sliders of what the whole clip shares: identity, light, camera."""
  return [*_identity(session), *_light(), *_camera(session, options)]


def _head(session: Session) -> list[Control]:
  def angle(k: int, name: str) -> Control:
    def set_(session, frame, value):
      pose = session.pose(frame)
      angles = list(turn_nod_tilt(pose.rotation))
      angles[k] = value
      session.change(frame, name, rotation=rotation_of(*angles, near=pose.rotation))

    limit = (180.0, 89.0, 180.0)[k]
    get = lambda session, frame: turn_nod_tilt(session.poses.rotation[frame])[k]
    return Control("Head", name, -limit, limit, 0.1, get, set_)

  places = session.loaded.translation[np.isfinite(session.loaded.translation).all(1)]
  low, high = (places.min(0), places.max(0)) if len(places) else (np.zeros(3), np.ones(3))

  def place(k: int, name: str) -> Control:
    def set_(session, frame, value):
      moved = session.pose(frame).translation
      moved[k] = 0.01 * value
      session.change(frame, name, translation=moved)

    get = lambda session, frame: 100.0 * float(session.poses.translation[frame, k])
    ends = np.floor(1000.0 * (low[k] - _REACH)) / 10.0, np.ceil(1000.0 * (high[k] + _REACH)) / 10.0
    return Control("Head", name, float(ends[0]), float(ends[1]), 0.05, get, set_)

  names = (("turn", "nod", "tilt"), ("left, cm", "up, cm", "away, cm"))
  return [*(angle(k, name) for k, name in enumerate(names[0])), *(place(k, name) for k, name in enumerate(names[1]))]


def _joints(options: Options) -> list[Control]:
  def joint(group: str, name: str, field: str, k: int) -> Control:
    low, high = (float(np.degrees(side[k])) for side in flame.JOINT_LIMITS[field])

    def set_(session, frame, value):
      moved = getattr(session.pose(frame), field)
      moved[k] = np.radians(value)
      session.change(frame, name, **{field: moved})

    get = lambda session, frame: float(np.degrees(getattr(session.poses, field)[frame, k]))
    return Control(group, name, round(low, 1), round(high, 1), 0.1, get, set_)

  def eye(name: str, e: int, k: int) -> Control:
    low, high = (float(np.degrees(side[k])) for side in flame.JOINT_LIMITS["eyes"])

    def set_(session, frame, value):
      eyes = session.pose(frame).eyes
      by = np.radians(value) - eyes[e, k]
      eyes[e, k] += by
      if options.both_eyes:
        eyes[1 - e, k] += by
      session.change(frame, name, eyes=eyes)

    get = lambda session, frame: float(np.degrees(session.poses.eyes[frame, e, k]))
    return Control("Jaw and gaze", name, round(low, 1), round(high, 1), 0.1, get, set_)

  # Components of axis-angle vectors in the head's frame: x to the subject's left, y up, z out of the face.
  return [
    joint("Neck", "neck nod", "neck", 0),
    joint("Neck", "neck turn", "neck", 1),
    joint("Neck", "neck tilt", "neck", 2),
    joint("Jaw and gaze", "jaw open", "jaw", 0),
    eye("left eye down", 0, 0),
    eye("left eye to its left", 0, 1),
    eye("right eye down", 1, 0),
    eye("right eye to its left", 1, 1),
  ]


def _expression(session: Session, head: FlameModel) -> list[Control]:
  loaded = np.asarray(session.loaded.expr)
  values = loaded[np.isfinite(loaded).all(1)]

  def unit(k: int) -> Control:
    name = head.expr_names[k] if head.expr_names else f"expr {k}"
    low, high = _ONE_SIDED if head.expr_one_sided else (-_CODE, _CODE)

    def set_(session, frame, value):
      expr = session.pose(frame).expr
      expr[k] = value
      session.change(frame, name, expr=expr)

    get = lambda session, frame: float(session.poses.expr[frame, k])
    return Control("Expression", name, *_range(values[:, k], low, high), 0.01, get, set_)

  return [unit(k) for k in range(session.loaded.expr.shape[1])]


def _identity(session: Session) -> list[Control]:
  def component(k: int) -> Control:
    name = f"shape {k}"

    def set_(session, frame, value):
      shape = np.array(session.person.shape)
      shape[k] = value
      session.change_person(name, shape=shape)

    ends = _range(session.loaded_person.shape[k : k + 1], -_CODE, _CODE)
    return Control("Identity", name, *ends, 0.01, lambda session, frame: float(session.person.shape[k]), set_)

  return [component(k) for k in range(min(N_IDENTITY, len(session.loaded_person.shape)))]


def _light() -> list[Control]:
  def handle(name: str, field: str, low: float, high: float, step: float) -> Control:
    def set_(session, frame, value):
      session.change_person(name, light=dataclasses.replace(session.person.light, **{field: value}))

    return Control("Light", name, low, high, step, lambda session, frame: getattr(session.person.light, field), set_)

  return [
    handle("brightness", "brightness", 0.2, 2.0, 0.01),
    handle("warmth", "warmth", -1.0, 1.0, 0.01),
    handle("from the left", "azimuth", -180.0, 180.0, 1.0),
    handle("from above", "elevation", -90.0, 90.0, 1.0),
    handle("strength", "strength", 0.0, 1.0, 0.01),
  ]


def _camera(session: Session, options: Options) -> list[Control]:
  def set_(session, frame, value):
    session.change_person("focal length", focal=float(value), keep_size=options.keep_size)

  ends = _range(np.array([session.loaded_person.focal]), *_FOCAL)
  return [Control("Camera", "focal length", *ends, 0.01, lambda session, frame: session.person.focal, set_)]


def _range(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
  """The usual range, widened so that it holds the values."""
  return float(min([low, *np.floor(values)])), float(max([high, *np.ceil(values)]))
