"""Pieces of a long clip, in which faces can be looked for by other processes beside the run, wherever they are.

A detector follows a face, so what it finds depends on the frames before. Where a shot begins, and every `RENEW` frames,
that is the person alone (`landmarks.InPieces`): whoever helps takes the person for the one that they find first, and
writes down what that rests on. The run that comes to a piece which somebody has searched asks the person that it has
followed the same, and takes the piece over if the answers are the same: its files are then what it would have written.
Otherwise, and where nobody helps, it searches itself. So files do not depend on who has helped.

The run says what there is to do (`Pieces.announce`); so nobody else looks for cuts, or for small faces. A piece is
written down from one of the detector's marks to the next: where a helper is killed, the next one goes on there, or the
run does. Nobody waits for a helper that shows no progress for `STUCK`.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from vht_jax.host.files import lock, write_atomic
from vht_jax.landmarks import InPieces, LooksCloser

if TYPE_CHECKING:
  from vht_jax.dataset.folder import FrameFolder
  from vht_jax.dataset.resume import Marks
  from vht_jax.landmarks import Detector

FOLDER = "pieces"  # in a dataset, while its frames are being searched; of a person with a number: pieces_face0, ...
RENEW = 500  # frames, 8 s of MediaPipe's work: after so many the crop is chosen anew, so that a piece can begin there
LEAST = 100  # frames of a piece: as long as a helper takes to load the models
STUCK = 60.0  # s without a frame more, after which a helper counts as hung (MediaPipe takes 16 ms a frame)
LOOK = 0.2  # s between two looks at what somebody else does
PLAN = "plan.json"  # what there is to do


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

  def announce(self) -> None:
    """Says to those who may help what there is to do."""
    if len(self.ranges) > 1:
      self.folder.mkdir(exist_ok=True)
      write_atomic(self.folder / PLAN, json.dumps(self.key).encode())

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
    """Keeps others from a piece inside the block; somebody who is at it is waited for, but not if they are `STUCK`.

    Raises:
      BlockingIOError: somebody is at it, and there is no waiting.
    """
    if len(self.ranges) == 1:
      yield
      return
    self.folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as held:
      still = Still()
      while True:
        try:
          held.enter_context(lock(self.folder / f"{piece.start}.lock"))
          break
        except BlockingIOError:
          if not wait:
            raise
        if still.longer_than(STUCK, self._latest(piece)):
          logging.warning("frames from %d on: who helped has stood still for %.0f s; searched here", piece.start, STUCK)
          break  # what they may still write nobody reads
        time.sleep(LOOK)
      yield

  def _latest(self, piece: range) -> int:
    """When the last landmarks of a piece were written beside the run, ns; 0: none were."""
    latest = 0
    for i in piece:
      with contextlib.suppress(FileNotFoundError):
        latest = max(latest, self.found(i).stat().st_mtime_ns)
    return latest

  def record(self, start: int) -> Path:
    """The file that says how a piece has been searched."""
    return self.folder / f"{start}.piece"

  def found(self, i: int) -> Path:
    """The landmark file of a position as it was found beside the run."""
    return self.folder / f"{i}.json"

  def note(self, piece: range, parts: list[dict[str, Any]], state: dict[str, Any] | None = None) -> None:
    """Writes down how far a piece is searched: by every mark {"at", "asked", "mark"}, none: in vain; and the
    detector's `state` there."""
    content = {"key": self.key, "parts": parts, "state": state}
    write_atomic(self.record(piece.start), json.dumps(content).encode())

  def noted(self, piece: range) -> tuple[list[dict[str, Any]], dict[str, Any] | None] | None:
    """What `note` was told last of a piece, if that holds for us and the landmarks are there; None without it."""
    try:
      content = json.loads(self.record(piece.start).read_text())
    except FileNotFoundError:
      return None
    end = content["parts"][-1]["at"] if content["parts"] else piece.start
    there = all(self.found(i).exists() for i in range(piece.start, end))
    return (content["parts"], content.get("state")) if there and content["key"] == self.key else None

  def take_over(self, stretch: list[int], todo: set[int], marks: Marks) -> int:
    """Makes what others have found in a piece our own, as far as it is what we would find; in how many frames."""
    start = stretch[0]
    piece = next(piece for piece in self.ranges if start in piece)
    parts = []
    if stretch == list(piece) and todo.issuperset(piece):
      parts, _ = self.noted(piece) or ([], None)
    if not parts:  # nobody was there, or in vain
      return 0
    assert isinstance(self.detector, InPieces)  # or there was one range
    marks.enter(start)
    last, there, end = self.detector.mark(), {}, start
    for part in parts:
      mark = self.detector.confirm(part["asked"], part["mark"])
      if mark is None:
        break
      last, end = mark, part["at"]
      there[end] = mark
    self.detector.resume(last)
    for i in range(start, end):
      os.replace(self.found(i), self.dataset.keypoint_path(i))
    if end > start:
      marks.passed(there, end)
    return end - start


class Still:
  """For how long a number has been the same, as far as it was asked."""

  def __init__(self):
    self.number, self.since = -1, 0.0

  def longer_than(self, seconds: float, number: int = 0) -> bool:
    """Whether it is `number` now and has been for more than so long."""
    now = time.monotonic()
    if number != self.number:
      self.number, self.since = number, now
    return now - self.since > seconds
