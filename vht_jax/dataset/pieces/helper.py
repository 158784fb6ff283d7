"""The other side: who looks for faces in pieces of a clip that a run has not come to yet."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vht_jax.dataset import pieces as pieces_
from vht_jax.dataset import resume
from vht_jax.dataset.keypoints import write_keypoints
from vht_jax.dataset.pieces import PLAN, Pieces, Still
from vht_jax.landmarks import InPieces, LooksCloser
from vht_jax.landmarks.detection import DOUBTED

if TYPE_CHECKING:
  from vht_jax.dataset.folder import FrameFolder
  from vht_jax.landmarks import Detector


def help_search(dataset: FrameFolder, detector: Detector, alive: Callable[[], None] = lambda: None) -> int:
  """Searches pieces at which nobody is, the last ones first, until none is left; returns how many.

  It may end at any time: who comes next goes on from the last of the detector's marks.

  Args:
    dataset: with all its frames.
    detector: as the run's, fresh.
    alive: called before each frame.
  """
  pieces, searched = _planned(dataset, detector, alive), 0
  if pieces is None:
    return 0
  for piece in reversed(pieces.ranges[1:]):
    if dataset.keypoint_path(piece.start).exists():  # the run is further than that
      break
    try:
      with pieces.claimed(piece, wait=False):
        if not dataset.keypoint_path(piece.start).exists():
          searched += _search(pieces, piece, alive)
    except (BlockingIOError, FileNotFoundError):  # somebody is at it; the run has come to its end meanwhile
      pass
  return searched


def _planned(dataset: FrameFolder, detector: Detector, alive: Callable[[], None]) -> Pieces | None:
  """The pieces as the run has announced them, which may be about to do it; None if it does not."""
  path, still = Pieces(dataset, detector, ()).folder / PLAN, Still()
  while not path.exists():
    alive()
    if dataset.keypoint_path(len(dataset) - 1).exists() or still.longer_than(pieces_.STUCK):
      return None
    time.sleep(pieces_.LOOK)
  try:
    plan = json.loads(path.read_text())
  except FileNotFoundError:  # it has just come to its end
    return None
  if isinstance(detector, LooksCloser):
    detector.closer = plan["closer"]
  return Pieces(dataset, detector, plan["cuts"])


def _search(pieces: Pieces, piece: range, alive: Callable[[], None]) -> bool:
  """Searches what is left of a piece and writes down how far it is; False if nothing was."""
  dataset, detector = pieces.dataset, pieces.detector
  assert isinstance(detector, InPieces)  # or there is one piece
  parts, state = pieces.noted(piece) or ([], {})
  if state is None or (parts and parts[-1]["at"] == piece.stop):  # in vain, or all of it
    return False
  detector.suppose(resume.latest_mark(dataset, piece.start))
  start = piece.start
  if parts:
    detector.resume(state)
    start = parts[-1]["at"]

  def close(at: int) -> None:
    mark = detector.mark()
    known: dict[str, Any] = {k: v for k, v in mark.items() if k != "person"}  # who it is the run knows better
    parts.append({"at": at, "asked": detector.asked(), "mark": known})
    pieces.note(piece, parts, mark)

  left = range(start, piece.stop)
  for i, rgb in zip(left, dataset.source_images(left)):
    alive()
    if i % resume.SEGMENT == 0 and i > start:
      close(i)
    pieces.ready(i)
    detection = detector.detect(rgb)
    sure = detection is not None and (detection.disagreement or 0.0) <= DOUBTED
    if i == piece.start and not sure:
      pieces.note(piece, [])
      return True
    write_keypoints(pieces.found(i), detection, detector.name)
  close(piece.stop)
  return True
