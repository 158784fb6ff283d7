"""From a video, a folder of images or one image to VHT's folders of frames."""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import logging

from vht_jax.dataset.layout import IMAGE, MASK, SOURCE, THUMBNAILS, frame_folders, frame_name
from vht_jax.errors import InputError
from vht_jax.host.files import sweep, write_atomic
from vht_jax.video.codec import Opened, VideoInfo, open_video
from vht_jax.video.cuts import thumbnail
from vht_jax.video.images import IMAGE_SUFFIXES, list_images, open_images, sequence_numbers
from vht_jax.video.pixels import Picture

VERSION = 2  # of the frames that a source gives; 1 had no times and names, and pixels as they are stored


def extract_frames(
  source: str | Path,
  data_path: str | Path,
  max_frames: int | None = None,
  progress: Callable[[int, int], None] | None = None,
  opened: Callable[[int], None] | None = None,
) -> VideoInfo:
  """Writes frame_0001/image_0000.png, frame_0002/... as VHT does, and source.json, which VHT ignores.

  What is there already is kept, so that a killed run goes on and a second one costs nothing. A frame of a video that
  cannot be decoded has no folder, and those after it keep their numbers. Images are upright with square pixels. An
  alpha channel becomes mask_0000.png (255 = foreground), and the image lies over mid-grey.

  Args:
    source: a video; a folder of images (all of one size, taken in natural order: 2 before 10); one image, all of whose
      pictures count.
    data_path: where the frames go; made if need be.
    max_frames: only the first so many; None or 0: all.
    progress: called with (frames done, all frames as far as known) after each frame.
    opened: called with the number of frames before the first is written, if the source has a count of them; an error
      that it raises ends the extraction.

  Returns:
    Frames per second, the number of frames there are now (at most `max_frames`), their size.

  Raises:
    InputError: the source is missing or unreadable, or `data_path` holds frames of something else.
  """
  source, data_path = Path(source), Path(data_path)
  identity, state, there = check_source(source, data_path)
  limit = max_frames or None
  if state is not None and _covers(state, limit) and all(i in there for i in state["frames"][:limit]):
    frames = state["frames"][:limit]
    return VideoInfo(state["fps"], len(frames), tuple(state["size"]))

  info, counted, pictures = _open(source)
  if state is not None and there and tuple(state["size"]) != info.size:
    raise InputError(
      f"{data_path}: holds frames of {'x'.join(map(str, state['size']))} made by an earlier version, {source} has "
      f"{info.size[0]}x{info.size[1]} (height x width, square pixels); make them anew with --restart"
    )
  total = min(info.n_frames or limit or 0, limit or info.n_frames)
  if opened is not None and counted:
    opened(total)
  try:
    data_path.mkdir(parents=True, exist_ok=True)
    state = {
      "version": VERSION,
      "source": str(source),
      "identity": identity,
      "fps": info.fps,
      "size": list(info.size),
      "frames": [],
      "limit": limit,
      "complete": False,
    }
    _write_state(data_path, state)
    written: dict[int, Picture] = {}
    thumbnails: dict[int, np.ndarray] = {}
    for number in _write_frames(itertools.islice(pictures, limit), data_path, there, thumbnails, written):
      state["frames"].append(number)
      if progress is not None:
        progress(len(state["frames"]), max(total, len(state["frames"])))
    write_thumbnails(data_path, thumbnails)
    state |= _describe(source, info, [written[number] for number in state["frames"]])
    state["complete"] = True
    _write_state(data_path, state)
  except OSError as error:
    raise InputError(f"{data_path}: the frames cannot be written ({error})") from error
  return VideoInfo(info.fps, len(state["frames"]), info.size)


def check_source(source: Path, data_path: Path) -> tuple[str, dict | None, dict[int, Path]]:
  """Whether a dataset folder is empty or holds frames of this source.

  Returns:
    The source's identity, what source.json says, None if there is none, and the folders of frames.

  Raises:
    InputError: the source is missing, or the folder holds frames of something else.
  """
  _refuse_frames(source)
  identity, state = _identify(source), _read_state(data_path)
  if state is not None and state.get("identity") != identity:
    held = state.get("source", "another source")
    found = "as it was: it has changed since" if held == str(source) else f"not of {source}"
    raise InputError(
      f"{data_path}: holds the frames of {held}, {found}; choose another data path, or make them anew with --restart"
    )
  there = frame_folders(data_path) if data_path.is_dir() else {}
  if state is None and there:
    raise InputError(
      f"{data_path}: already holds {len(there)} frames of unknown origin; leave the video away to track these, or "
      "choose another data path"
    )
  return identity, state, there


def probe(source: str | Path) -> VideoInfo:
  """What a video, a folder of images or an image is, without reading more of it than the first frame.

  Raises:
    InputError: it is missing or unreadable.
  """
  _refuse_frames(Path(source))
  return _open(Path(source)).info


def _refuse_frames(source: Path) -> None:
  """A folder of frames without pictures beside them is a data path given as a video."""
  pictures = source.is_dir() and any(path.suffix.lower() in IMAGE_SUFFIXES for path in source.iterdir())
  if source.is_dir() and not pictures and frame_folders(source):
    raise InputError(f"{source}: is a folder of frames already: give it as data path, without a video")


def _describe(source: Path, info: VideoInfo, pictures: list[Picture]) -> dict[str, Any]:
  """What source.json says of each frame: times (s, from the first frame), names, equivalent focal lengths."""
  sources = [picture.source for picture in pictures]
  times = [picture.time for picture in pictures if picture.time is not None]
  known = len(times) == len(pictures) > 1
  if known and not all(a < b for a, b in zip(times, times[1:])):
    logging.warning("%s: the times of its frames do not increase; taken from the frame rate instead", source)
    known = False
  if known:
    times = [time - times[0] for time in times]
  elif numbers := sequence_numbers(sources) if source.is_dir() else None:
    times = [(number - numbers[0]) / info.fps for number in numbers]
  else:
    times = None
  found = {"sources": sources, "times": times, "times_assumed": not known}
  if any(picture.focal_35mm for picture in pictures):
    found["focal_35mm"] = [picture.focal_35mm for picture in pictures]
  return found


def write_thumbnails(data_path: Path, thumbnails: dict[int, np.ndarray]) -> None:
  """Keeps the thumbnail of each frame id in the dataset."""
  data = io.BytesIO()
  frames, rgb = np.array(list(thumbnails), np.int64), np.array(list(thumbnails.values()), np.uint8)
  np.savez_compressed(data, frame=frames, rgb=rgb)
  write_atomic(data_path / THUMBNAILS, data.getvalue())


def _write_frames(
  pictures: Iterator[Picture | None],
  data_path: Path,
  there: dict[int, Path],
  thumbnails: dict[int, np.ndarray],
  written: dict[int, Picture],
) -> Iterator[int]:
  """Writes each picture under its 1-based number and yields the number when the file is complete.

  Puts the thumbnails of all frames into `thumbnails`, and what is known of them, without pixels, into `written`.
  """
  # PNG encoding costs several times what decoding the video does; zlib and OpenCV release the GIL.
  workers = min(8, os.cpu_count() or 1)
  pending: collections.deque[tuple[int, Future]] = collections.deque()
  with ThreadPoolExecutor(workers) as pool:
    for number, picture in enumerate(pictures, start=1):
      if picture is None:
        continue
      thumbnails[number] = thumbnail(picture.rgb)
      written[number] = picture._replace(rgb=None, alpha=None)
      if number in there:
        pending.append((number, pool.submit(int)))
      else:
        pending.append((number, pool.submit(_write_frame, data_path / frame_name(number), picture.rgb, picture.alpha)))
      while len(pending) > 2 * workers:  # so that few frames are in memory
        done, future = pending.popleft()
        future.result()
        yield done
    for done, future in pending:
      future.result()
      yield done


def _write_frame(folder: Path, rgb: np.ndarray, alpha: np.ndarray | None) -> None:
  folder.mkdir(exist_ok=True)
  sweep(folder)
  if alpha is not None:
    write_atomic(folder / MASK, encode_png(alpha))
  write_atomic(folder / IMAGE, encode_png(rgb))  # last: its presence says that the frame is complete


def encode_png(image: np.ndarray) -> bytes:
  """PNG of RGB (H, W, 3) or grey (H, W) uint8; less than half the time of OpenCV's defaults at the same size."""
  options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
  if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
  bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
  ok, data = cv2.imencode(".png", bgr, options)
  if not ok:
    raise OSError("PNG encoding failed")
  return data.tobytes()


def _open(source: Path) -> Opened:
  if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES:
    return open_images(source)
  return open_video(source)


def _identify(source: Path) -> str:
  """A digest that tells one source from another and survives that it is moved or renamed; reads 128 KB at most."""
  digest = hashlib.sha256()
  try:
    if source.is_dir():
      for path in list_images(source):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    else:
      with open(source, "rb") as file:
        digest.update(file.read(1 << 16))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - (1 << 16), 0))
        digest.update(file.read() + str(size).encode())
  except OSError as error:
    raise InputError(f"{source}: no such video, image or folder of images ({error.strerror})") from error
  return digest.hexdigest()[:32]


def _covers(state: dict, limit: int | None) -> bool:
  """Whether a finished extraction holds all frames that are wanted now, and all that is to be known of them."""
  if not state["complete"] or state.get("version") != VERSION:
    return False
  return state["limit"] is None or (limit is not None and limit <= state["limit"])


def _read_state(data_path: Path) -> dict | None:
  try:
    state = json.loads((data_path / SOURCE).read_text())
    return state if state.keys() >= {"identity", "fps", "size", "frames", "limit", "complete"} else None
  except (OSError, ValueError, AttributeError):
    return None


def _write_state(data_path: Path, state: dict) -> None:
  write_atomic(data_path / SOURCE, json.dumps(state).encode())
