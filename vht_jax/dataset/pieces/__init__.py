"""Pieces of a long clip, in which faces can be looked for by other processes beside the run, wherever they are.

A detector follows a face, so what it finds depends on the frames before. Where a shot begins, and every `RENEW` frames,
that is the person alone (`landmarks.InPieces`): whoever helps takes the person for the one that they find first, and
writes down what that rests on. The run that comes to a piece which somebody has searched asks the person that it has
followed the same, and takes the piece over if the answers are the same: its files are then what it would have written.
Otherwise, and where nobody helps, it searches itself. So files do not depend on who has helped.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vht_jax.host.files import lock, write_atomic
from vht_jax.landmarks import InPieces, LooksCloser

if TYPE_CHECKING:
  from vht_jax.dataset.folder import FrameFolder
  from vht_jax.dataset.resume import Marks
  from vht_jax.landmarks import Detector

FOLDER = "pieces"  # in a dataset, while its frames are being searched; of a person with a number: pieces_face0, ...
RENEW = 500  # frames, 8 s of MediaPipe's work: after so many the crop is chosen anew, so that a piece can begin there
LEAST = 100  # frames of a piece: as long as a helper takes to load the models


def cut_up(n: int, cuts: Iterable[int]) -> list[range]:
  """The pieces of n frames, of which shots begin at `cuts`."""
  starts = [0]
  for i in sorted({*cuts, *range(0, n, RENEW)}):
    if i - starts[-1] >= LEAST <= n - i:
      starts.append(i)
  return [range(*ends) for ends in zip(starts, [*starts[1:], n])]


def delete(data_path: Path) -> None:
  """What is left of pieces in a dataset's folder."""
  for folder in data_path.glob(f"{FOLDER}*"):
    shutil.rmtree(folder, ignore_errors=True)


class Pieces:
  """The pieces of a dataset, for the run or for who helps it."""

  def __init__(self, dataset: FrameFolder, detector: Detector, cuts: Iterable[int]):
    """`detector`: as it is going to search (`LooksCloser`)."""
    n, cuts = len(dataset), sorted(i for i in set(cuts) if i < len(dataset))
    self.dataset, self.detector, self.cuts = dataset, detector, set(cuts)
    self.folder = dataset.path / (FOLDER if dataset.face is None else f"{FOLDER}_face{dataset.face}")
    self.ranges = cut_up(n, cuts) if isinstance(detector, InPieces) else [range(n)]
    closer = isinstance(detector, LooksCloser) and detector.closer
    self.key = {"detector": detector.name, "closer": closer, "frames": dataset.frame_ids.tolist(), "cuts": cuts}

  def ready(self, i: int) -> None:
    """Tells the detector what position i is the first of, if it is."""
    if i % RENEW == 0 < i and isinstance(self.detector, InPieces):
      self.detector.renew()
    if i in self.cuts:
      self.detector.cut()

  def stretches(self, indices: Iterable[int]) -> Iterator[list[int]]:
    """Positions in order, those of each piece by themselves; nobody else is at a piece while it is out."""
    starts = [piece.start for piece in self.ranges]
    for number, stretch in itertools.groupby(indices, lambda i: bisect.bisect_right(starts, i) - 1):
      with self.claimed(self.ranges[number]):
        yield list(stretch)
    if len(self.ranges) > 1:
      shutil.rmtree(self.folder, ignore_errors=True)

  @contextlib.contextmanager
  def claimed(self, piece: range, wait: bool = True) -> Iterator[None]:
    """Keeps others from a piece inside the block.

    Raises:
      BlockingIOError: somebody is at it, and there is no waiting.
    """
    if len(self.ranges) == 1:
      yield
      return
    self.folder.mkdir(exist_ok=True)
    with lock(self.folder / f"{piece.start}.lock", wait=(lambda: None) if wait else None):
      yield

  def record(self, start: int) -> Path:
    """The file that says how a piece has been searched."""
    return self.folder / f"{start}.piece"

  def found(self, i: int) -> Path:
    """The landmark file of a position as it was found beside the run."""
    return self.folder / f"{i}.json"

  def note(self, piece: range, parts: list[dict[str, Any]]) -> None:
    """Writes down that a piece is searched, up to every mark by what: {"at", "asked", "mark"}; none: in vain."""
    write_atomic(self.record(piece.start), json.dumps({"key": self.key, "parts": parts}).encode())

  def take_over(self, stretch: list[int], todo: set[int], marks: Marks) -> bool:
    """Makes what others have found in a piece our own, if it is what we would find; else nothing has happened."""
    start = stretch[0]
    piece = next(piece for piece in self.ranges if start in piece)
    if stretch != list(piece) or not todo.issuperset(piece) or not self.record(start).exists():
      return False
    content = json.loads(self.record(start).read_text())
    if content["key"] != self.key or not content["parts"] or not all(self.found(i).exists() for i in piece):
      return False
    assert isinstance(self.detector, InPieces)  # or there was one range
    marks.enter(start)
    before, there = self.detector.mark(), {}
    for part in content["parts"]:
      mark = self.detector.confirm(part["asked"], part["mark"])
      if mark is None:
        self.detector.resume(before)
        return False
      there[part["at"]] = mark
    for i in piece:
      os.replace(self.found(i), self.dataset.keypoint_path(i))
    marks.passed(there, piece.stop)
    return True
