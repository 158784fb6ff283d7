"""Video files: decoding, and H.264 encoding, by PyAV."""

from __future__ import annotations

import contextlib
import fractions
import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from absl import logging
from av.error import FFmpegError
from av.stream import Disposition
from jaxtyping import UInt8

from vht_jax.errors import InputError
from vht_jax.host.quiet import quiet_stderr
from vht_jax.video.pixels import Picture, enlarge, over_background, square_size, turn

DEFAULT_FPS = 25.0
HDR_CURVES = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273 that screens without HDR do not show
_PROBE = 200  # packets of video, some seconds, in which a film shows more than one picture
_CLOCK = fractions.Fraction(1, 90_000)  # s, of written videos whose frames have times
# Frames from one picture of a video of ours that stands on its own to the next. A viewer that scrubs has to decode from
# the last one on: 250 (libx264's default) of 1024 x 1024 px take seconds. 5 makes the file a third larger.
KEYFRAME_EVERY = 5


class VideoInfo(NamedTuple):
  fps: float  # frames per second, on average
  n_frames: int  # as the file claims; 0 when it does not say
  size: tuple[int, int]  # (H, W) px, upright, with square pixels


class Opened(NamedTuple):
  """A source of pictures."""

  info: VideoInfo
  counted: bool  # whether info.n_frames is a count and no estimate
  pictures: Iterator[Picture | None]  # None: a frame that cannot be decoded


def read_video(path: str | Path) -> tuple[VideoInfo, Iterator[UInt8[np.ndarray, "H W 3"]]]:
  """Opens a video: what it is, and its frames in order.

  Returns:
    The `VideoInfo` and an iterator of RGB uint8 (H, W, 3), upright and with square pixels. Frames that cannot be
    decoded are left out; a warning gives their 0-based indices.

  Raises:
    InputError: no such file, or not a video with at least one frame.
  """
  opened = open_video(path)
  return opened.info, (picture.rgb for picture in opened.pictures if picture is not None)


def open_video(path: str | Path) -> Opened:
  """Opens a video; of several streams the film (`_choose`), of its frames also times and alpha.

  Raises:
    InputError: no such file, or not a video with at least one frame.
  """
  path = Path(path)
  if not path.exists():
    raise InputError(f"{path}: no such file (expected a video)")
  if not path.is_file():
    raise InputError(f"{path}: expected a video file, found a folder")
  first = container = stream = None
  frames: Iterator[Any] = iter(())
  lead = 0  # frames before the first that can be decoded
  with quiet_stderr(), contextlib.suppress(FFmpegError):
    container = av.open(str(path))
    stream = _choose(container, path)
    if stream is not None:
      frames = _decode(container, stream)
      for first in frames:
        if first is not None:
          break
        lead += 1
  if container is None or stream is None or first is None:
    raise InputError(
      f"{path}: expected a video, found a file of {path.stat().st_size} bytes in which no frame can be decoded; is it "
      "complete, and does `ffmpeg -i` read it?"
    )
  if (curve := HDR_CURVES.get(int(getattr(first, "color_trc", 0) or 0))) is not None:
    logging.warning(
      "%s: HDR (%s): its colours are taken as they are stored, so they are flat and pale here and in the texture. The "
      "head's motion does not suffer; for colours, convert the video to SDR first (tone mapping)", path, curve,
    )  # fmt: skip
  rate = float(stream.average_rate or stream.guessed_rate or 0)
  fps = rate if 0.1 < rate < 1000 else DEFAULT_FPS
  counted = 0 < stream.frames < 1e9 and "mp4" in container.format.name  # a table of all frames, not a header's word
  n_frames = stream.frames or (round(_seconds(container, stream) * fps))
  n_frames = n_frames if 0 < n_frames < 1e9 else 0
  sample = stream.sample_aspect_ratio
  stored = (first.height, first.width)
  squared = square_size(stored, float(sample) if sample else 1.0, str(path))
  matrix = _display_matrix(first)
  size = turn(np.empty((*squared, 0)), matrix).shape[:2]

  def convert(frame, index: int) -> Picture | None:
    if frame is None or (frame.height, frame.width) != stored or frame.is_corrupt:
      return None
    if any(component.is_alpha for component in frame.format.components):
      rgb, alpha = over_background(frame.to_ndarray(format="rgba"))
    else:
      rgb, alpha = frame.to_ndarray(format="rgb24"), None
    upright = lambda pixels: turn(enlarge(pixels, squared), matrix)
    rgb, alpha = upright(rgb), None if alpha is None else upright(alpha)
    time = None if frame.pts is None else float(frame.pts * stream.time_base)
    return Picture(rgb, alpha, time, f"{path.name}#{index}")

  def pictures() -> Iterator[Picture | None]:
    broken: list[int] = []
    index = -1
    with container:
      try:
        for index, frame in enumerate(_chain([None] * lead, [first], frames)):
          picture = convert(frame, index)
          if picture is None:
            broken.append(index)
          yield picture
        if counted and index + 1 < n_frames:
          logging.warning("%s: ends after %d of %d frames", path, index + 1, n_frames)
      finally:
        if broken:
          shown = ", ".join(map(str, broken[:20])) + (", ..." if len(broken) > 20 else "")
          logging.warning("%s: %d frames cannot be decoded and are left out (0-based: %s)", path, len(broken), shown)

  return Opened(VideoInfo(fps, n_frames, size), counted, pictures())


def _chain(*parts: Iterable) -> Iterator:
  for part in parts:
    yield from part


def _seconds(container, stream) -> float:
  if stream.duration and stream.time_base:
    return float(stream.duration * stream.time_base)
  return (container.duration or 0) / 1e6  # AV_TIME_BASE


def _choose(container, path: Path):
  """The film among a container's video streams; None if it has none.

  Cover pictures are left out: those that say so, and those of which there is one picture while another stream goes on.
  Of several films the one marked as default is taken, then the largest.
  """
  flags = Disposition
  pictures = flags.attached_pic | flags.timed_thumbnails | flags.still_image
  films = [s for s in container.streams.video if not s.disposition & pictures]
  if len(films) > 1:
    counts = dict.fromkeys((s.index for s in films), 0)
    with av.open(str(path)) as probe, contextlib.suppress(FFmpegError):
      for _, packet in zip(range(_PROBE), probe.demux([probe.streams[i] for i in counts])):
        counts[packet.stream_index] += packet.size > 0
    rank = lambda s: (counts[s.index] > 1, bool(s.disposition & flags.default), s.width * s.height, -s.index)
    films = [max(films, key=rank)]
  if films and len(container.streams.video) > 1:
    logging.info(
      "%s: of %d streams of pictures number %d is the film (%dx%d)",
      path, len(container.streams.video), films[0].index, films[0].width, films[0].height,
    )  # fmt: skip
  return films[0] if films else None


def _decoder(stream) -> Any:
  """The stream's decoder; for VP8 and VP9 with alpha libvpx's, as FFmpeg's own does not see it."""
  if stream.metadata.get("alpha_mode") == "1":
    with contextlib.suppress(FFmpegError, ValueError):
      return av.CodecContext.create({"vp8": "libvpx", "vp9": "libvpx-vp9"}[stream.codec_context.name], "r")
  return stream.codec_context


def _decode(container, stream) -> Iterator[Any]:
  """The frames of a stream in order of time, with None in the place of those that damage has cost.

  After an error decoders go on with invented pictures until the next key frame, so all up to there counts as lost.
  Frames and packets are matched by their time stamps. A packet without a frame is lost only if it was damaged: some
  codecs have packets that are not to be shown.
  """
  decoder = _decoder(stream)
  waiting: list[int] = []  # time stamps of packets whose frames have not come out yet, a heap
  bad: set[int] = set()  # those that are lost
  damaged, recovery = False, None
  packets = container.demux(stream)
  while True:
    try:
      packet = next(packets, None)
    except FFmpegError:  # the container itself breaks off
      packet = None
    flush = packet is None or not packet.size
    stamp = None if packet is None or flush else packet.pts
    if packet is not None and not flush and packet.is_keyframe:
      recovery, damaged = (stamp if damaged else recovery), False
    try:
      frames = decoder.decode(None if flush else packet)
    except EOFError:
      frames = []
    except FFmpegError:
      frames, damaged = [], True
    if packet is not None and stamp is not None and not packet.is_discard:
      heapq.heappush(waiting, stamp)
      if damaged or (recovery is not None and stamp < recovery):
        bad.add(stamp)
    for frame in frames:
      if frame.pts is not None:
        while waiting and waiting[0] < frame.pts:
          if heapq.heappop(waiting) in bad:
            yield None
        if waiting and waiting[0] == frame.pts:
          heapq.heappop(waiting)
      yield None if frame.pts in bad else frame
    if flush:
      yield from (None for stamp in sorted(waiting) if stamp in bad)
      return


def _display_matrix(frame) -> np.ndarray:
  """(2, 2) of `pixels.turn`."""
  for k in range(len(frame.side_data)):  # iterated, it gives the data before PyAV 19 and their types from there on
    data = frame.side_data[k]
    if data.type.name == "DISPLAYMATRIX":
      return np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]].reshape(2, 2) / 65536.0
  return np.eye(2)


def write_video(
  path: str | Path,
  frames: Iterable[UInt8[np.ndarray, "H W 3"]],
  fps: float,
  times: Sequence[float] | None = None,
) -> int:
  """Writes H.264 in yuv420p with its index in front, which browsers play while they load it.

  Args:
    path: an .mp4 file; it appears when it is complete.
    frames: RGB uint8 (H, W, 3), all of one size. An odd side gets its last row or column twice, as yuv420p is even.
    fps: frames per second.
    times: when each frame is shown (s, increasing), in place of a constant rate.

  Returns:
    The number of frames written.

  Raises:
    InputError: no frames, frames of different sizes, or a folder that cannot be written.
  """
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
      # The same size as veryfast at crf 18 in half of its time.
      stream.options = {"crf": "20", "preset": "superfast", "g": str(KEYFRAME_EVERY)}
      if times is not None:
        # Decoded as shown: browsers take a frame's length for the one of the packet that comes at its place.
        stream.options |= {"bf": "0"}
        stream.codec_context.time_base = _CLOCK
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
        if times is not None:
          picture.pts, picture.time_base = round((times[count] - times[0]) / _CLOCK), _CLOCK
        container.mux(stream.encode(picture))
        count += 1
      if count == 0:
        raise InputError(f"{path}: there are no frames to write")
      container.mux(stream.encode(None))
    os.replace(temporary, path)
  except (OSError, FFmpegError) as error:
    raise InputError(f"{path}: the video cannot be written ({error})") from error
  finally:
    temporary.unlink(missing_ok=True)
  return count
