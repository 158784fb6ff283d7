"""Video files: decoding by OpenCV, H.264 encoding by PyAV."""

from __future__ import annotations

import fractions
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from vht_jax.errors import InputError
from vht_jax.quiet import quiet_stderr

DEFAULT_FPS = 25.0
# Frames from one picture of a video of ours that stands on its own to the next. A viewer that scrubs has to decode from
# the last one on: 250 (libx264's default) of 1024 x 1024 px take seconds. 10 makes the file a fifth larger.
KEYFRAME_EVERY = 10


class VideoInfo(NamedTuple):
  fps: float  # frames per second
  n_frames: int  # as the file claims; 0 when it does not say
  size: tuple[int, int]  # (H, W) px, after rotation


def read_video(path: str | Path) -> tuple[VideoInfo, Iterator[np.ndarray]]:
  """Opens a video: what it is, and its frames in order.

  Returns:
    The `VideoInfo` and an iterator of RGB uint8 (H, W, 3), turned upright when the file says how it was held. Frames
    that cannot be decoded are left out; a warning gives their 0-based indices.

  Raises:
    InputError: no such file, or not a video with at least one frame.
  """
  info, frames = open_video(path)
  return info, (frame for frame in frames if frame is not None)


def open_video(path: str | Path) -> tuple[VideoInfo, Iterator[np.ndarray | None]]:
  """`read_video`, with None in the place of a frame that cannot be decoded."""
  import cv2

  path = Path(path)
  if not path.exists():
    raise InputError(f"{path}: no such file (expected a video)")
  if not path.is_file():
    raise InputError(f"{path}: expected a video file, found a folder")
  # FFmpeg would describe damage in its own words, line by line; the messages below say it once.
  os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
  with quiet_stderr():
    capture = cv2.VideoCapture(str(path))
    if capture.isOpened():
      capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    ok, first = capture.read() if capture.isOpened() else (False, None)
  if not ok:
    capture.release()
    raise InputError(
      f"{path}: expected a video, found a file of {path.stat().st_size} bytes in which no frame can be decoded; is it "
      "complete, and does `ffmpeg -i` read it?"
    )
  fps = capture.get(cv2.CAP_PROP_FPS)
  fps = float(fps) if math.isfinite(fps) and 0.1 < fps < 1000 else DEFAULT_FPS
  n_frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
  n_frames = int(n_frames) if math.isfinite(n_frames) and 0 < n_frames < 1e9 else 0
  info = VideoInfo(fps, n_frames, first.shape[:2])
  return info, _decode(capture, path, info, first)


def _decode(capture, path: Path, info: VideoInfo, first: np.ndarray) -> Iterator[np.ndarray | None]:
  import cv2

  broken: list[int] = []
  index, frame = 0, first
  try:
    while True:
      usable = frame is not None and frame.shape[:2] == info.size
      if not usable:
        broken.append(index)
      yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if usable else None
      time = capture.get(cv2.CAP_PROP_POS_MSEC)
      index += 1
      if not capture.grab():
        skipped = _skip_damage(capture, info, index, time)
        if skipped is None:
          break
        broken.extend(range(index, index + skipped))
        yield from [None] * skipped
        index += skipped
      ok, frame = capture.retrieve()
      frame = frame if ok else None
    if index < info.n_frames:
      logging.warning("%s: ends after %d of %d frames", path, index, info.n_frames)
  finally:
    capture.release()
    if broken:
      shown = ", ".join(map(str, broken[:20])) + (", ..." if len(broken) > 20 else "")
      logging.warning("%s: %d frames cannot be decoded and are left out (0-based: %s)", path, len(broken), shown)


def _skip_damage(capture, info: VideoInfo, index: int, time: float) -> int | None:
  """Grabs the next frame behind damaged data, at which OpenCV stops for good.

  Only a seek leads on, and only to a place whose key frame lies behind the damage: so ever wider jumps, then back to
  the first place that can be decoded.

  Args:
    index: of the first frame that could not be read; `time` (ms) that of the frame before it.

  Returns:
    How many frames lie between, or None at the end of what can be read.
  """
  import cv2

  def landing(target: int) -> int | None:
    if not (capture.set(cv2.CAP_PROP_POS_FRAMES, target) and capture.grab()):
      return None
    skipped = round((capture.get(cv2.CAP_PROP_POS_MSEC) - time) * info.fps / 1000) - 1
    return skipped if skipped >= 0 else None  # files that promise too many frames land on the last one again

  low, step = index, 1
  while low + step < info.n_frames and landing(low + step) is None:
    low, step = low + step, 2 * step
  high = min(low + step, info.n_frames - 1)
  while high - low > 1:
    middle = (low + high) // 2
    if landing(middle) is None:
      low = middle
    else:
      high = middle
  return landing(high) if high > low else None


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> int:
  """Writes H.264 in yuv420p with its index in front, which browsers play while they load it.

  Args:
    path: an .mp4 file; it appears when it is complete.
    frames: RGB uint8 (H, W, 3), all of one size. An odd side gets its last row or column twice, as yuv420p is even.
    fps: frames per second.

  Returns:
    The number of frames written.

  Raises:
    InputError: no frames, frames of different sizes, or a folder that cannot be written.
  """
  import av

  path = Path(path)
  temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix or '.mp4'}")
  count, size = 0, None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
      stream = container.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1001))
      stream.pix_fmt = "yuv420p"
      # What the conversion below produces; players guess wrongly for large pictures that do not say.
      stream.codec_context.colorspace = 6  # BT.601 matrix
      stream.codec_context.color_range = 1  # 16-235
      stream.options = {"crf": "18", "preset": "veryfast", "g": str(KEYFRAME_EVERY)}
      for frame in frames:
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
          raise InputError(f"{path}: frame {count} to write is {frame.dtype} {frame.shape}, expected uint8 (H, W, 3)")
        if size is None:
          size = frame.shape[:2]
          stream.height, stream.width = (side + side % 2 for side in size)
        if frame.shape[:2] != size:
          raise InputError(f"{path}: frame {count} to write has size {frame.shape[:2]}, those before it {size}")
        if size[0] % 2 or size[1] % 2:
          frame = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        container.mux(stream.encode(picture))
        count += 1
      if count == 0:
        raise InputError(f"{path}: there are no frames to write")
      container.mux(stream.encode(None))
    os.replace(temporary, path)
  except (OSError, av.error.FFmpegError) as error:
    raise InputError(f"{path}: the video cannot be written ({error})") from error
  finally:
    temporary.unlink(missing_ok=True)
  return count
