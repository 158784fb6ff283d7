"""Where a detector that was killed goes on so that it finds what it would have found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vht_jax.errors import InputError
from vht_jax.files import write_atomic
from vht_jax.video.layout import landmarks_name

if TYPE_CHECKING:
  from vht_jax.landmarks import Detector
  from vht_jax.video import FrameFolder

SEGMENT = 250  # frames; a detector follows a face, and from here on what it finds depends on its mark alone


class Marks:
  """landmarks.json of a dataset: which detector made its landmarks, and its state at the start of every segment."""

  def __init__(self, dataset: FrameFolder, detector: Detector, anew: bool):
    """`anew`: nothing of an earlier detector is left."""
    self.path: Path = dataset.path / landmarks_name(dataset.face)
    self.detector = detector
    self.content = {} if anew else self._read()
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
      known = start == expected or str(start) in self.marks
      indices += range(start if known else wanted[0], wanted[-1] + 1)
      expected = wanted[-1] + 1
    return indices

  def enter(self, i: int) -> None:
    """Makes the detector ready for position i of the schedule."""
    if i % SEGMENT == 0:
      if i == self.expected:
        mark = self.detector.mark()
        if self.marks.get(str(i)) != mark:
          self.marks[str(i)] = mark
          write_atomic(self.path, json.dumps(self.content).encode())
      elif str(i) in self.marks:
        try:
          self.detector.resume(self.marks[str(i)])
        except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
          raise InputError(f"{self.path}: damaged ({type(error).__name__}: {error}); delete it") from error
    self.expected = i + 1

  def _read(self) -> dict[str, Any]:
    try:
      content = json.loads(self.path.read_text())
      return content if isinstance(content.get("marks"), dict) and isinstance(content.get("detector"), str) else {}
    except (OSError, ValueError, AttributeError):
      return {}
