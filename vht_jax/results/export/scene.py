"""The one plain description of a tracked clip that every export format is written from.

NumPy and float64. Everything is in the frame of the clip's camera with OpenCV's axes (x right, y down, z into the
scene, metres): a vertex u of the head with its root kept still is seen at

  X = root_rotation (u - joints[0]) + root_position,  column = f X / Z + cx,  row = f Y / Z + cy.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

from vht_jax.cameras import OPENCV_TO_OPENGL
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.head.teeth import has_teeth, is_flame, offset_for, without_teeth
from vht_jax.results.appearance import even_texture
from vht_jax.results.export import lbs
from vht_jax.results.export.motion import Motion, joint_motion
from vht_jax.results.heads import check_offsets
from vht_jax.types import Camera, FlameModel, Status, TrackResult

OPENGL = np.array(OPENCV_TO_OPENGL, np.float64)  # camera's OpenCV axes -> OpenGL's (x right, y up, z backwards)


class Lens(NamedTuple):
  """A pinhole, px; the principal point from the top left corner, pixel centres at i + 0.5."""

  f: float
  cx: float
  cy: float


class Pictures(Protocol):
  """The images of a scene, in its order and of its size."""

  @property
  def masks(self) -> str:
    """Where `alpha` comes from, for people; "" if there is none."""
    ...

  def rgb(self, i: int) -> np.ndarray:
    """(H, W, 3) uint8 of frame i."""
    ...

  def alpha(self, i: int) -> np.ndarray | None:
    """(H, W) uint8 of frame i, 255 where the person is; None without a mask."""
    ...


@dataclasses.dataclass(frozen=True)
class Scene:
  """A clip of T frames. Made by `make_scene`; changed by `dataclasses.replace` (a crop, another selection)."""

  model: FlameModel  # with the person's offsets, if there are any
  result: TrackResult  # T frames
  size: tuple[int, int]  # (H, W) of the images, px
  intrinsics: np.ndarray  # (T, 3) f, cx, cy of each frame, px; see `lens`
  frame_ids: np.ndarray  # (T,) int, the numbers of the dataset's folders, from 1
  times: np.ndarray  # (T,) s, rising, the first is 0
  fps: float  # of the source, on average
  name: str = "head"  # of the clip: what single files are called
  pictures: Pictures | None = None  # None: no dataset
  coded: FlameModel | None = None  # the head without the person's offsets; None: there are none

  def __len__(self) -> int:
    return len(self.times)

  # --- what it is -----------------------------------------------------------------------------------------------------

  @property
  def is_flame(self) -> bool:
    """Whether the codes are FLAME's (of the file that `model.name` names), in FLAME's topology, teeth or not."""
    return is_flame(self.model)

  @property
  def lens(self) -> Lens:
    """The camera of all frames.

    Raises:
      InputError: they have several, as crops that follow the head do.
    """
    if np.ptp(self.intrinsics, axis=0).max() > 1e-6:
      raise InputError("--crop=frame: this format has one camera for the whole clip; use --crop=head, square or none")
    return Lens(*self.intrinsics[0].tolist())

  @functools.cached_property
  def tracked(self) -> np.ndarray:
    """(T,) bool; other frames are bridged from their neighbours (`types.Status`)."""
    return np.asarray(self.result.status) == Status.TRACKED

  @functools.cached_property
  def shape(self) -> np.ndarray:
    """(S,) identity code."""
    return np.asarray(self.result.identity.shape, np.float64)

  @functools.cached_property
  def expr(self) -> np.ndarray:
    """(T, E) expression codes; their names, if they have any, are `model.expr_names`."""
    return np.asarray(self.result.poses.expr, np.float64)

  @property
  def expr_names(self) -> list[str]:
    """(E,) names of the expression's units; numbered where the head has none."""
    return list(self.model.expr_names) or [f"expression_{i:02d}" for i in range(self.expr.shape[1])]

  @functools.cached_property
  def angles(self) -> dict[str, np.ndarray]:
    """Plain axis-angle vectors, rad: neck, jaw (T, 3), eyes (T, 6): joint 3, the subject's left one, then joint 4."""
    poses = self.result.poses
    found = {name: np.asarray(getattr(poses, name), np.float64) for name in ("neck", "jaw", "eyes")}
    return {name: values.reshape(len(self), -1) for name, values in found.items()}

  # --- how it moves ---------------------------------------------------------------------------------------------------

  @functools.cached_property
  def motion(self) -> Motion:
    """The joints as a chain before the camera, OpenGL's axes: what formats with a skeleton need."""
    return joint_motion(self.model, self.shape, self.result.poses, self.result.identity.camera)

  @property
  def rotations(self) -> np.ndarray:
    """(T, 5, 3, 3) local rotations of neck, jaw and eyes as FLAME has them; [:, 0] is the root's in our world."""
    return self.motion.local

  @functools.cached_property
  def joints(self) -> np.ndarray:
    """(T, 5, 3) unposed joints in the head's frame: root, neck, jaw, eyes; they move with the expression. m."""
    dirs, n = np.asarray(self.model.j_shapedirs, np.float64), len(self.shape)
    return self.motion.rest + np.einsum("jce,te->tjc", dirs[..., n:], self.expr)

  @functools.cached_property
  def root_rotation(self) -> np.ndarray:
    """(T, 3, 3) of the root, head -> camera (OpenCV): D R of the formulas; OPENGL @ it is Y R."""
    return np.asarray(self.result.identity.camera.R, np.float64) @ self.motion.local[:, 0]

  @functools.cached_property
  def root_position(self) -> np.ndarray:
    """(T, 3) of the root joint in the camera's frame (OpenCV), m."""
    camera = self.result.identity.camera
    turned = np.asarray(self.result.poses.translation, np.float64) @ np.asarray(camera.R, np.float64).T
    return turned + np.asarray(camera.T, np.float64)

  # --- its surface ----------------------------------------------------------------------------------------------------

  @functools.cached_property
  def neutral(self) -> np.ndarray:
    """(V, 3) the person's head without expression and pose, head frame, m."""
    template, dirs = (np.asarray(a, np.float64) for a in (self.model.v_template, self.model.shapedirs))
    return template + dirs @ self.shape

  @functools.cached_property
  def surface(self) -> lbs.Head:
    """The head's model, all of its vertices."""
    return lbs.head_of(self.model, len(self.shape), self.expr.shape[1])

  def shaped(self, i: int) -> np.ndarray:
    """(V, 3) of frame i with expression and its own offsets, before correctives and skinning, head frame, m."""
    shaped = self.neutral + self.surface.dirs[..., len(self.shape) :] @ self.expr[i]
    offset = self.result.poses.offset
    return shaped if offset is None else shaped + np.asarray(offset[i], np.float64)

  def head_vertices(self, i: int, still: int = 1) -> np.ndarray:
    """(V, 3) of frame i in the head's frame, m: posed, correctives included, but for the root's rotation (u).

    Args:
      still: so many joints, from the root on, do not turn.
    """
    rotations = self.rotations[i].copy()
    rotations[:still] = np.eye(3)
    return lbs.pose(self.surface, (self.shaped(i), self.joints[i]), rotations, lbs.feature(rotations)).vertices

  def camera_vertices(self, i: int) -> np.ndarray:
    """(V, 3) of frame i in the camera's frame (OpenCV), m; kept until another frame is asked for. Not to be written."""
    if i not in self._latest:
      found = (self.head_vertices(i) - self.joints[i, 0]) @ self.root_rotation[i].T + self.root_position[i]
      found.setflags(write=False)
      self._latest.clear()
      self._latest[i] = found
    return self._latest[i]

  @functools.cached_property
  def _latest(self) -> dict[int, np.ndarray]:
    return {}

  def pixels(self, i: int) -> np.ndarray:
    """(V, 2) column, row of the vertices of frame i."""
    points, (f, cx, cy) = self.camera_vertices(i), self.intrinsics[i]
    return f * points[:, :2] / points[:, 2:] + [cx, cy]

  def landmarks(self, i: int) -> np.ndarray:
    """(68 or 70, 2) px of the head's landmarks in frame i; none on a head without."""
    corners, bary = np.asarray(self.model.lmk_vertices), np.asarray(self.model.lmk_bary, np.float64)
    return np.einsum("lcx,lc->lx", self.pixels(i)[corners], bary)

  @functools.cached_property
  def albedo(self) -> np.ndarray:
    """(Ht, Wt, 3) in [0, 1], what VHT's formula of shading lights; by itself it is too dark. Row 0 is v = 1."""
    identity = self.result.identity
    return np.asarray(flame.albedo(self.model, identity.texture, identity.texture_layer))

  @functools.cached_property
  def texture(self) -> np.ndarray:
    """(Ht, Wt, 3) uint8 sRGB: the head as it looks in the clip, evenly lit (`results.appearance`). Row 0 is v = 1."""
    return even_texture(self.model, self.result.identity)


def of_codes(scene: Scene) -> Scene:
  """The scene of what the codes alone say of the head, without the person's offsets and without added teeth."""
  poses = scene.result.poses
  if scene.coded is None and poses.offset is None:
    return toothless(scene)
  identity = scene.result.identity.replace(static_offset=None)
  result = scene.result.replace(identity=identity, poses=poses.replace(offset=None))
  return toothless(dataclasses.replace(scene, model=scene.coded or scene.model, result=result, coded=None))


def toothless(scene: Scene) -> Scene:
  """The scene of FLAME's own vertices, without teeth that were added."""
  if not has_teeth(scene.model):
    return scene
  model, poses = without_teeth(scene.model), scene.result.poses
  result = scene.result.replace(poses=poses.replace(offset=offset_for(model, poses.offset)))
  return dataclasses.replace(scene, model=model, result=result)


def lens_of(camera: Camera, size: tuple[int, int]) -> Lens:
  """The lens of a camera for images of `size` = (H, W)."""
  cx, cy = np.asarray(camera.principal, np.float64) * [size[1], size[0]]
  return Lens(float(camera.focal) * max(size), float(cx), float(cy))


def make_scene(
  model: FlameModel,
  result: TrackResult,
  size: tuple[int, int],
  *,
  frame_ids: np.ndarray | None = None,
  times: np.ndarray | None = None,
  fps: float = 25.0,
  name: str = "head",
  pictures: Pictures | None = None,
) -> Scene:
  """A scene of a result.

  Args:
    model: the head that the codes are of, all faces included; without the person's offsets, which are the result's.
    result: T frames.
    size: (H, W) of the tracked images, px.
    frame_ids: (T,) numbers of the frames; None: 1, 2, ...
    times: (T,) s, rising; None: evenly, at `fps`.
    fps: frames per second where there are no times.
    name: of the clip.
    pictures: its images, in the result's order.

  Raises:
    InputError: any of these does not fit the others, or poses that are not finite.
  """
  n = len(np.asarray(result.poses.expr))
  try:
    seconds = np.arange(n) / (fps or np.nan) if times is None else np.asarray(times, np.float64)
    ids = np.arange(1, n + 1) if frame_ids is None else np.asarray(frame_ids).astype(int)
    height, width = (int(side) for side in size)
  except (ValueError, TypeError, ZeroDivisionError) as error:
    raise InputError(
      f"export: expected numbers for times, fps, frame_ids and a size of (H, W); found {error}"
    ) from None
  for what, fits, found in (
    ("frame_ids", ids.shape == (n,) and len(set(ids.tolist())) == n, f"shape {ids.shape}"),
    ("size", height > 0 and width > 0, size),
    ("fps", np.isfinite(fps) and fps > 0, fps),
    ("name", Path(name).name == name and name not in ("", ".."), repr(name)),
  ):
    if not fits:
      wanted = {"frame_ids": f"{n} different numbers", "size": "(H, W) px", "fps": "a number above 0"}
      raise InputError(f"export: {what}: expected {wanted.get(what, 'a file name without folders')}; found {found}")
  seconds = from_zero("export", seconds, n)
  _check_codes(model, result, n)
  lens, offset = np.array(lens_of(result.identity.camera, size)), result.identity.static_offset
  scene = Scene(
    flame.with_offset(model, offset), result, (height, width), np.tile(lens, (n, 1)), ids, seconds, float(fps), name,
    pictures, None if offset is None else model,
  )  # fmt: skip
  finite = (*scene.motion, scene.expr, scene.shape, scene.intrinsics)
  if not all(np.isfinite(a).all() for a in finite):
    raise InputError("export: expected finite poses; found NaN or infinity in the result")
  return scene


def _check_codes(model: FlameModel, result: TrackResult, n: int) -> None:
  """Refuses codes that are not as many as the head's, and poses that are not of n frames (`InputError`)."""
  poses, shape = result.poses, result.identity.shape
  codes = (np.shape(shape)[-1], np.shape(poses.expr)[-1])
  of_head = (model.shapedirs.shape[-1], model.exprdirs.shape[-1])
  if codes != of_head:
    raise InputError(
      f"export: expected {of_head[0]} identity and {of_head[1]} expression codes, as the head {model.name!r} has; "
      f"found {codes[0]} and {codes[1]}: another head's? (results.fit_components cuts and pads those of the same head)"
    )
  check_offsets(result, model, "export")
  lengths = {len(np.asarray(a)) for a in (*jax.tree.leaves(poses), result.status)}
  if lengths != {n}:
    raise InputError(f"export: expected poses and status of {n} frames; found {sorted(lengths)}")


def from_zero(what: str, seconds: np.ndarray, n: int) -> np.ndarray:
  """(n,) s of the frames, the first 0.

  Args:
    what: for whom, in messages.
    seconds: expected (n,) rising.

  Raises:
    InputError: they are not.
  """
  bad, back = np.flatnonzero(~np.isfinite(seconds)), np.flatnonzero(np.diff(seconds, axis=0) <= 0)
  if n == 0 or seconds.shape != (n,):
    found = f"shape {seconds.shape}"
  elif len(bad):
    found = f"{seconds[bad[0]]} for frame {bad[0] + 1}"
  elif len(back):
    found = f"no more than the frame before for frame {back[0] + 2}"
  else:
    return seconds - seconds[0]
  raise InputError(f"{what}: times: expected {n} rising numbers of seconds; found {found}")
