"""Where a detector that was killed goes on so that it finds what it would have found, in both of its passes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vht_jax.dataset.layout import landmarks_name
from vht_jax.dataset.second_look import Expected
from vht_jax.errors import InputError
from vht_jax.host.files import sweep, write_atomic

if TYPE_CHECKING:
  from vht_jax.dataset.folder import FrameFolder
  from vht_jax.landmarks import Detector

_DAMAGE = (KeyError, ValueError, TypeError, IndexError, OverflowError, AttributeError)
SEGMENT = 250  # frames; a detector follows a face, and from here on what it finds depends on its mark alone


class Marks:
  """landmarks.json of a dataset: which detector made its landmarks, its state at the start of every segment, and what
  the second look expects."""

  def __init__(self, dataset: FrameFolder, detector: Detector, anew: bool):
    """`anew`: nothing of an earlier detector is left."""
    self.path: Path = dataset.path / landmarks_name(dataset.face)
    sweep(self.path.parent)
    self.detector = detector
    self.content = {} if anew else _read(self.path)
    self.content.setdefault("detector", detector.name)
    self.marks: dict[str, Any] = self.content.setdefault("marks", {})
    self.expected = 0  # the position that the detector is ready for
    if self.content["detector"] != detector.name:
      raise InputError(
        f"{dataset.path}: its landmarks were made by {self.content['detector']}, and some are missing; choose that "
        f"detector rather than {detector.name}, or begin anew with --restart"
      )

  def schedule(self, todo: Iterable[int]) -> list[int]:
    """The positions to search, in order: the frames to do and, in their segments, those on which they depend."""
    segments: dict[int, list[int]] = {}
    for i in sorted(todo):
      segments.setdefault(i // SEGMENT, []).append(i)
    indices, expected = [], 0
    for segment, wanted in segments.items():
      start = segment * SEGMENT
      # Killed between the last frame of a segment and the mark of the next: from the last one that is marked.
      while start > expected and str(start) not in self.marks:
        start -= SEGMENT
      start = max(start, expected) if self.marks else wanted[0]  # without any, it was not us who searched
      indices += range(start, wanted[-1] + 1)
      expected = wanted[-1] + 1
    return indices

  def enter(self, i: int) -> None:
    """Makes the detector ready for position i of the schedule."""
    if i % SEGMENT == 0:
      if i == self.expected:
        mark = self.detector.mark()
        if self.marks.get(str(i)) != mark:
          self.marks[str(i)] = mark
          self._write()
      elif str(i) in self.marks:
        try:
          self.detector.resume(self.marks[str(i)])
        except _DAMAGE as error:
          raise self._damaged(error) from error
    self.expected = i + 1

  def passed(self, marks: dict[int, Any], end: int) -> None:
    """The frames up to position `end` have been searched by others, as far as the detector knows; it stands there, and
    has had these `marks` at positions on its way."""
    self.marks.update({str(i): mark for i, mark in marks.items() if i % SEGMENT == 0 and i < end})
    self.expected = end
    self._write()

  def begin(self) -> None:
    """Frames are about to be searched for the first time: a second look is due. An older dataset gets none."""
    if self.content.setdefault("second_look", {}) == {}:
      self._write()

  def second_look(self, n: int) -> dict[int, Expected] | None:
    """What is expected of which of `n` frames in the second pass; None when that has not been written down."""
    second = self.content.get("second_look", {})
    try:
      if second.get("frames", 0) < n:
        return None
      return {int(i): Expected.restore(e) for i, e in second["expected"].items() if int(i) < n}
    except _DAMAGE as error:
      raise self._damaged(error) from error

  def expect(self, n: int, expected: dict[int, Expected]) -> None:
    """Writes down what is expected of the `n` frames there are; what was expected of a part of them before stays."""
    before = self.content.get("second_look", {}).get("expected", {})
    expected = {str(i): e.state() for i, e in expected.items()} | before
    self.content["second_look"] = {"frames": n, "expected": expected, "done": False}
    self._write()

  @property
  def looked(self) -> bool:
    """Whether the second pass has come to its end, or there is none."""
    return bool(self.content.get("second_look", {"done": True}).get("done"))

  def finish(self) -> None:
    """The second pass has come to its end."""
    self.content["second_look"]["done"] = True
    self._write()

  def _write(self) -> None:
    write_atomic(self.path, json.dumps(self.content).encode())

  def _damaged(self, error: Exception) -> InputError:
    return InputError(f"{self.path}: damaged ({type(error).__name__}: {error}); delete it")


def is_annotated(dataset: FrameFolder) -> bool:
  """Whether every frame has been searched, and looked at again where that is due."""
  if not all(dataset.keypoint_path(i).exists() for i in range(len(dataset))):
    return False
  second = _read(dataset.path / landmarks_name(dataset.face)).get("second_look")
  return second is None or bool(second.get("done"))


def latest_mark(dataset: FrameFolder, position: int) -> dict[str, Any] | None:
  """A detector's state in some frame before a position, after the first; None while there is none."""
  marks = _read(dataset.path / landmarks_name(dataset.face)).get("marks", {})
  before = [int(i) for i in marks if i.isdecimal() and 0 < int(i) < position]
  return marks[str(max(before))] if before else None


def _read(path: Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text())
    whole = isinstance(content.get("marks"), dict) and isinstance(content.get("detector"), str)
    return content if whole and isinstance(content.get("second_look", {}), dict) else {}
  except (OSError, ValueError, AttributeError):
    return {}
