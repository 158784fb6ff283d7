"""The editor without its window: poses and identity of a result, changes to them, undo, and the file they are saved to.

Nothing here knows of the browser. Arrays are NumPy's; poses have a leading axis of T frames.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import results
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.host.programs import in_chunks, rows_of
from vht_jax.types import POSE_FIELDS, Camera, Pose, RawPose, TrackResult
from vht_jax.viewer.editing.blend import CHUNK, limited, moved
from vht_jax.viewer.editing.light import LightHandles, handles, with_handles

EDITED = "vht_jax_edited"  # key of the saved file: (T,) bool, frames that were changed by hand
_KEYS = {"expr": "expr", "rotation": "rotation", "translation": "translation", "neck": "neck_pose", "jaw": "jaw_pose"}


@dataclasses.dataclass(frozen=True)
class Person:
  """What the editor can change of what a whole clip shares."""

  shape: np.ndarray  # (S,)
  light: LightHandles
  focal: float  # in units of the longer image side


@dataclasses.dataclass
class _Step:
  """One step of the history: what the rows and the person were on its other side."""

  kind: str  # 'frame', 'blend', 'reset' or 'person'
  key: str  # what was changed: further changes of the same are the same step
  frame: int
  rows: np.ndarray  # (k,)
  poses: Pose  # leading axis k
  person: Person
  open: bool = True  # may still grow


class Session:
  """A result that is being edited.

  A drag of a slider calls `change` many times; as long as it is the same `key` of the same frame that is one step of
  the history. `seal` ends the step.
  """

  def __init__(self, result: TrackResult, shots: np.ndarray | None = None):
    """Args:
    result: T frames, as loaded.
    shots: (T,) number of each frame's shot; nothing is blended across a cut. One shot by default.
    """
    self.loaded: Pose = jax.tree.map(np.asarray, result.poses)
    self.poses = jax.tree.map(np.array, self.loaded)
    self.light = np.asarray(result.identity.light)  # (9, 3), as loaded
    self.camera: Camera = jax.tree.map(np.asarray, result.identity.camera)  # as loaded
    self.loaded_person = Person(
      np.asarray(result.identity.shape), handles(self.light), float(result.identity.camera.focal)
    )
    self.person = self.loaded_person
    self.shots = np.zeros(len(self), int) if shots is None else np.asarray(shots)
    self._done: list[_Step] = []
    self._undone: list[_Step] = []

  def __len__(self) -> int:
    return len(self.loaded.expr)

  # What there is

  def pose(self, frame: int) -> Pose:
    """The pose of the frame at a position 0..T-1 (a copy)."""
    return jax.tree.map(lambda x: x[frame].copy(), self.poses)

  @property
  def edited_light(self) -> np.ndarray:
    """(9, 3)."""
    return with_handles(self.light, self.person.light)

  @property
  def edited_camera(self) -> Camera:
    return self.camera.replace(focal=np.float32(self.person.focal))

  @property
  def edited(self) -> np.ndarray:
    """(T,) bool, frames that differ from the loaded ones; all of them if the person does."""
    if self.person_edited:
      return np.ones(len(self), bool)
    return _differs(self.poses, self.loaded)

  @property
  def person_edited(self) -> bool:
    now, loaded = self.person, self.loaded_person
    return (now.light, now.focal) != (loaded.light, loaded.focal) or not np.array_equal(now.shape, loaded.shape)

  @property
  def can_undo(self) -> bool:
    return bool(self._done)

  @property
  def can_redo(self) -> bool:
    return bool(self._undone)

  def result(self, loaded: TrackResult) -> TrackResult:
    """The loaded result with the changes in it."""
    identity = loaded.identity.replace(
      shape=jnp.asarray(self.person.shape), light=jnp.asarray(self.edited_light),
      camera=jax.tree.map(jnp.asarray, self.edited_camera),
    )  # fmt: skip
    return loaded.replace(identity=identity, poses=jax.tree.map(jnp.asarray, self.poses))

  # Changes

  def change(self, frame: int, key: str, **fields: Any) -> None:
    """Sets fields of one frame's pose; neck, jaw and eyes are kept within `flame.JOINT_LIMITS`.

    Args:
      frame: position.
      key: names the change (a slider's), see the class.
      fields: of `Pose`, the whole field each.
    """
    self._begin("frame", key, frame, np.array([frame]))
    for name, value in fields.items():
      getattr(self.poses, name)[frame] = limited(name, np.asarray(value, np.float32))

  def change_person(self, key: str, *, keep_size: bool = True, **fields: Any) -> None:
    """Sets fields of `Person`.

    Args:
      key: names the change.
      keep_size: with another focal length the heads move along the camera's axis so that they stay as large in the
        image (a dolly zoom).
      fields: of `Person`.
    """
    moves = keep_size and "focal" in fields
    self._begin("person", key, -1, np.arange(len(self) if moves else 0))
    if moves:
      # From where the drag began, so that it does not matter by how many steps the slider got here.
      before = self._done[-1]
      factor = fields["focal"] / before.person.focal
      R, T = np.asarray(self.camera.R, np.float64), np.asarray(self.camera.T, np.float64)
      seen = before.poses.translation.astype(np.float64) @ R.T + T
      self.poses.translation[:] = (seen * [1.0, 1.0, factor] - T) @ R
    self.person = dataclasses.replace(self.person, **fields)

  def reset(self, frame: int) -> bool:
    """Takes a frame back to what was loaded; False if it is."""
    row = np.array([frame])
    if not _differs(rows_of(self.poses, row), rows_of(self.loaded, row))[0]:
      return False
    self._begin("reset", "reset", frame, row)
    self._put(row, rows_of(self.loaded, row))
    self.seal()
    return True

  def blend(self, frame: int, n: int) -> bool:
    """Spreads the latest changes of a frame over n frames on either side, fading as a raised cosine.

    Codes and positions change by a part of the frame's change, angles turn that part of the way along the arc. Called
    again for the same frame it does the same with another n. Frames of other shots stay as they are.

    Returns:
      False if the latest steps of the history are not changes of this frame.
    """
    if self._done and self._done[-1].kind == "blend" and self._done[-1].frame == frame:
      self.undo()
      self._undone.pop()
    first = len(self._done)
    while first and self._done[first - 1].kind in ("frame", "reset") and self._done[first - 1].frame == frame:
      first -= 1
    if first == len(self._done):
      return False
    before = rows_of(self._done[first].poses, np.array([0]))
    rows = np.arange(max(0, frame - n), min(len(self), frame + n + 1))
    rows = rows[(rows != frame) & (self.shots[rows] == self.shots[frame])]
    weights = 0.5 * (1.0 + np.cos(np.pi * (rows - frame) / (n + 1.0)))
    after = rows_of(self.poses, np.array([frame]))
    self._begin("blend", "blend", frame, rows)
    if len(rows):
      self._put(rows, moved(rows_of(self.poses, rows), before, after, weights))
    self.seal()
    return True

  def seal(self) -> None:
    """The next change is a step of its own."""
    if self._done:
      self._done[-1].open = False

  def undo(self) -> int | None:
    """Takes the latest step back; the position of its frame, -1 for the person's, None if there is no step."""
    return self._swap(self._done, self._undone)

  def redo(self) -> int | None:
    """Does the step again that was taken back last."""
    return self._swap(self._undone, self._done)

  # The file

  def save(self, path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the file that was loaded with the changes in it; what was not changed stays as it is, bit by bit.

    Changed frames are marked under the key `vht_jax_edited`. What measured the frame before says nothing of it now: its
    confidence becomes 0, its standard deviations infinite, its energies NaN.

    Args:
      path: the file, which must not exist.
      arrays: of the loaded file (`results.read_npz`).

    Raises:
      InputError: there is such a file, or it cannot be written.
    """
    path = Path(path)
    if path.exists():
      raise InputError(f"{path}: exists already; choose another name")
    try:
      results.write_npz(path, self.content(arrays))
    except OSError as error:
      raise InputError(f"{path}: cannot be written ({error.strerror})") from None

  def content(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `save` writes."""
    out = {name: np.array(values) for name, values in arrays.items()}
    n_expr = self.poses.expr.shape[1]
    raw = in_chunks(lambda rows: _unlimit(rows_of(self.poses, rows)), len(self), CHUNK)
    for name in POSE_FIELDS:
      rows = _changed(getattr(self.poses, name), getattr(self.loaded, name))
      values = getattr(raw, name)[rows]
      if name == "expr":
        out["expr"] = _widened(out["expr"], n_expr)
        out["expr"][rows, :n_expr] = values
      elif name == "eyes":
        out["eyes_pose"][rows] = values.reshape(-1, 6)
      else:
        out[_KEYS[name]][rows] = values
    if self.person_edited:
      shape = self.person.shape
      out["shape"] = _widened(out["shape"], len(shape))
      out["shape"][: len(shape)] = shape
      if self.person.light != self.loaded_person.light:
        out["light"] = np.broadcast_to(self.edited_light, out["light"].shape).astype(out["light"].dtype)
      if self.person.focal != self.loaded_person.focal:
        out["K"] = results.vht_camera(jax.tree.map(jnp.asarray, self.edited_camera))[0]
    edited = self.edited
    for name in out:
      if name.startswith("vht_jax_sd_"):
        out[name][edited] = np.inf
      elif name.startswith("vht_jax_energy_"):
        out[name][edited] = np.nan
      elif name == "vht_jax_confidence":
        out[name][edited] = 0.0
    out[EDITED] = edited | np.asarray(out.get(EDITED, np.zeros(len(self), bool)), bool)
    return out

  # The history

  def _begin(self, kind: str, key: str, frame: int, rows: np.ndarray) -> None:
    """Notes how things are before a change, unless the latest step is the same change going on."""
    self._undone.clear()
    last = self._done[-1] if self._done else None
    same = last is not None and (last.kind, last.key, last.frame, len(last.rows)) == (kind, key, frame, len(rows))
    if last is None or not same or not last.open:
      self.seal()
      self._done.append(_Step(kind, key, frame, rows, rows_of(self.poses, rows), self.person))

  def _swap(self, source: list[_Step], target: list[_Step]) -> int | None:
    if not source:
      return None
    step = source.pop()
    other = dataclasses.replace(step, poses=rows_of(self.poses, step.rows), person=self.person, open=False)
    self._put(step.rows, step.poses)
    self.person = step.person
    target.append(other)
    return step.frame

  def _put(self, rows: np.ndarray, poses: Pose) -> None:
    for name in POSE_FIELDS:
      getattr(self.poses, name)[rows] = getattr(poses, name)


def _changed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """(T,) bool, rows that differ; NaN (rows that were never tracked) equals NaN."""
  same = (a == b) | (np.isnan(a) & np.isnan(b))
  return ~same.reshape(len(a), -1).all(axis=1)


def _differs(a: Pose, b: Pose) -> np.ndarray:
  return np.any([_changed(getattr(a, name), getattr(b, name)) for name in POSE_FIELDS], axis=0)


def _widened(code: np.ndarray, size: int) -> np.ndarray:
  """`code` with its last axis zero-padded to at least `size`."""
  missing = max(0, size - code.shape[-1])
  return np.concatenate([code, np.zeros((*code.shape[:-1], missing), code.dtype)], axis=-1)


@jax.jit
def _unlimit(poses: Pose) -> RawPose:
  return jax.vmap(flame.unlimit_pose)(poses)
