"""The annotation of a folder of frames: the detector's two passes, and a file in VHT's format beside every image."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from absl import logging

from vht_jax.dataset.absent import fill_absent
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.keypoints import write_keypoints
from vht_jax.dataset.pieces import Pieces
from vht_jax.dataset.resume import Marks
from vht_jax.dataset.second_look import look_again, out_of_line
from vht_jax.errors import InputError
from vht_jax.host.files import sweep
from vht_jax.host.prefetch import with_next
from vht_jax.landmarks import Detector, Expects, LooksAgain, LooksCloser
from vht_jax.landmarks.crop import SMALL
from vht_jax.landmarks.detection import Detection

_LOOKED_AT = 12  # frames in which faces are looked for before a clip is searched
_COUNTED = 100  # frames in which faces are counted when there are fewer than the user says


def count_faces(dataset: FrameFolder, detector: Detector, n_frames: int = _LOOKED_AT) -> int:
  """How many people a clip shows: the most faces in one of `n_frames` evenly spaced frames."""
  look_closer(dataset, detector)
  return max(len(detector.faces(image)) for image in dataset.source_images(_spread(len(dataset), n_frames)))


def look_closer(dataset: FrameFolder, detector: Detector) -> None:
  """Has the detector look for small faces if a clip seems to show no others; it may be one that cannot.

  Where larger ones are seen, small ones are people in the background, or in pictures on the wall.
  """
  if not isinstance(detector, LooksCloser):
    return
  frames = _spread(len(dataset), _LOOKED_AT)
  detector.closer = False
  for image in dataset.source_images(frames):
    if any(max(box[2:4] - box[:2]) >= SMALL * max(image.shape[:2]) for box in detector.faces(image)):
      return
  detector.closer = True
  detector.closer = any(detector.faces(image) for image in dataset.source_images(frames))


def annotate(
  dataset: FrameFolder,
  detector: Detector,
  progress: Callable[[int, int], None] | None = None,
  overwrite: bool = False,
  cuts: Iterable[int] = (),
) -> int:
  """Writes the landmark file beside every image of a dataset that has none yet.

  A killed run goes on where it stopped and ends with the same files as an unbroken one: files appear whole or not at
  all, and every `SEGMENT` frames the detector is brought into a state that is kept in landmarks.json; frames from
  there on are searched again. In the end faces that are out of line with their neighbours are looked for once more
  (`second_look`). A frame without a face gets a placeholder (`absent`). What others have found in `pieces` is taken
  over where it is the same.

  Args:
    dataset: the frames; they are searched at full resolution.
    detector: see `make_detector`; fresh.
    progress: called with (frames done, all frames) after each frame.
    overwrite: search frames again that have a file.
    cuts: positions at which a new shot starts.

  Returns:
    The number of frames with a face.

  Raises:
    InputError: no frame has a face, or not so many as the dataset's number of a face asks for; an image or an existing
      file cannot be read; the files that are there were made by another detector.
  """
  n, cuts = len(dataset), set(cuts)
  todo = {i for i in range(n) if overwrite or not dataset.keypoint_path(i).exists()}
  marks = Marks(dataset, detector, anew=len(todo) == n)
  if todo:
    look_closer(dataset, detector)
    marks.begin()
  done = n - len(todo)
  pieces = Pieces(dataset, detector, cuts)
  if todo:
    pieces.announce()
  progress = progress or (lambda done, n: None)
  for stretch in pieces.stretches(marks.schedule(todo)):
    if taken := pieces.take_over(stretch, todo, marks):
      done += taken
      progress(done, n)
      stretch = stretch[taken:]
    for i, (rgb, following) in zip(stretch, with_next(dataset.source_images(stretch))):
      marks.enter(i)
      pieces.ready(i)
      if following is not None and isinstance(detector, Expects):
        detector.expect(following)
      detection = detector.detect(rgb)
      if i in todo:
        _write(dataset, i, detection, detector)
        done += 1
        progress(done, n)
  dataset.reload_keypoints()
  if not marks.looked or todo:
    _look_again(dataset, detector, marks, todo, cuts)
  missing = [dataset.frame_ids[i] for i in range(n) if not dataset.valid[i]]
  if len(missing) == n:
    raise InputError(f"{dataset.origin}: {_why_none(dataset, detector)}")
  if missing:
    shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    logging.info("no face is found in %d of %d frames (%s)", len(missing), n, shown)  # a warning when all is done
  return n - len(missing)


def _look_again(dataset: FrameFolder, detector: Detector, marks: Marks, todo: set[int], cuts: set[int]) -> None:
  """The second pass, see `second_look`: over what is out of line, of which the files in `todo` are new."""
  n = len(dataset)
  expected = marks.second_look(n)
  able = isinstance(detector, LooksAgain)
  if expected is None:
    expected = out_of_line(dataset.detections, cuts) if able else {}
    marks.expect(n, expected)
  again = sorted(i for i in expected if i in todo or not marks.looked)
  if able:
    for i, rgb in zip(again, dataset.source_images(again)):
      _write(dataset, i, look_again(rgb, dataset.detections[i], expected[i], detector), detector)
  dataset.reload_keypoints()
  fill_absent(dataset, detector.name)
  if not marks.looked:
    marks.finish()
  dataset.reload_keypoints()


def _write(dataset: FrameFolder, i: int, detection: Detection | None, detector: Detector) -> None:
  path = dataset.keypoint_path(i)
  try:
    sweep(path.parent)
    write_keypoints(path, detection, detector.name)
  except OSError as error:
    raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _why_none(dataset: FrameFolder, detector: Detector) -> str:
  n = len(dataset)
  most = 0 if dataset.face is None else count_faces(dataset, detector, min(n, _COUNTED))
  if most == 0 or dataset.face is None or dataset.face < most:
    where = "the image" if n == 1 else f"any of the {n} frames"
    return f"no face found in {where}; a face should be at least 40 pixels wide and not fully turned away"
  faces, numbers = ("faces are", f"0 to {most - 1}") if most > 1 else ("face is", "0")
  numbers = "0 or 1" if most == 2 else numbers
  return f"face {dataset.face} was asked for, but at most {most} {faces} seen in one frame; --face={numbers}"


def _spread(n: int, k: int) -> list[int]:
  """Up to k positions of n, evenly spaced."""
  return sorted({round(i * (n - 1) / max(k - 1, 1)) for i in range(k)})
