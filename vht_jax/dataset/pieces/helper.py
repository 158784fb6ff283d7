"""The other side: who looks for faces in pieces of a clip that a run has not come to yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vht_jax.dataset import resume
from vht_jax.dataset.annotate import look_closer
from vht_jax.dataset.keypoints import write_keypoints
from vht_jax.dataset.pieces import Pieces
from vht_jax.landmarks import InPieces
from vht_jax.landmarks.detection import DOUBTED

if TYPE_CHECKING:
  from vht_jax.dataset.folder import FrameFolder
  from vht_jax.landmarks import Detector


def help_search(dataset: FrameFolder, detector: Detector, cuts: Iterable[int]) -> int:
  """Searches pieces at which nobody is, the last ones first, until none is left; returns how many.

  Arguments as of `annotate`; the dataset has all its frames. It may end at any time.
  """
  look_closer(dataset, detector)
  pieces = Pieces(dataset, detector, cuts)
  searched = 0
  for piece in reversed(pieces.ranges[1:]):
    if dataset.keypoint_path(piece.start).exists():  # the run is further than that
      break
    try:
      with pieces.claimed(piece, wait=False):
        if not pieces.record(piece.start).exists() and not dataset.keypoint_path(piece.start).exists():
          pieces.note(piece, _search(pieces, piece))
          searched += 1
    except (BlockingIOError, FileNotFoundError):  # somebody is at it; the run has come to its end meanwhile
      pass
  return searched


def _search(pieces: Pieces, piece: range) -> list[dict[str, Any]]:
  """What `Pieces.note` is told; the landmarks are in their files. Nothing, where the person is not there at first."""
  dataset, detector, parts = pieces.dataset, pieces.detector, []
  assert isinstance(detector, InPieces)  # or there is one piece
  detector.suppose(resume.latest_mark(dataset, piece.start))

  def close(at: int) -> None:
    mark = detector.mark()
    parts.append({"at": at, "asked": detector.asked(), "mark": {k: v for k, v in mark.items() if k != "person"}})

  for i, rgb in zip(piece, dataset.source_images(piece)):
    if i % resume.SEGMENT == 0 and i > piece.start:
      close(i)
    pieces.ready(i)
    detection = detector.detect(rgb)
    sure = detection is not None and (detection.disagreement or 0.0) <= DOUBTED
    if i == piece.start and not sure:
      return []
    write_keypoints(pieces.found(i), detection, detector.name)
  close(piece.stop)
  return parts
