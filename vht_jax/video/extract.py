"""From a video, a folder of images or one image to VHT's folders of frames."""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vht_jax.errors import InputError
from vht_jax.files import sweep, write_atomic
from vht_jax.video.codec import DEFAULT_FPS, VideoInfo, open_video
from vht_jax.video.cuts import thumbnail
from vht_jax.video.layout import IMAGE, MASK, SOURCE, THUMBNAILS, frame_folders, frame_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def extract_frames(
  source: str | Path,
  data_path: str | Path,
  max_frames: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> VideoInfo:
  """Writes frame_0001/image_0000.png, frame_0002/... as VHT does, and source.json, which VHT ignores.

  What is there already is kept, so that a killed run goes on and a second one costs nothing. A frame of a video that
  cannot be decoded has no folder, and those after it keep their numbers. The alpha channel of an image becomes
  mask_0000.png (255 = foreground).

  Args:
    source: a video; a folder of images (all of one size, taken in natural order: 2 before 10); one image.
    data_path: where the frames go; made if need be.
    max_frames: only the first so many; None or 0: all.
    progress: called with (frames done, all frames as far as known) after each frame.

  Returns:
    Frames per second, the number of frames there are now (at most `max_frames`), their size.

  Raises:
    InputError: the source is missing or unreadable, or `data_path` holds frames of something else.
  """
  source, data_path = Path(source), Path(data_path)
  identity = _identify(source)
  state = _read_state(data_path)
  if state is not None and state.get("identity") != identity:
    raise InputError(
      f"{data_path}: holds the frames of {state.get('source', 'another source')}, not of {source}; choose another data "
      "path, or make them anew with --restart"
    )
  there = frame_folders(data_path) if data_path.is_dir() else {}
  if state is None and there:
    raise InputError(
      f"{data_path}: already holds {len(there)} frames of unknown origin; leave the video away to track these, or "
      "choose another data path"
    )
  limit = max_frames or None
  if state is not None and _covers(state, limit) and all(i in there for i in state["frames"][:limit]):
    frames = state["frames"][:limit]
    return VideoInfo(state["fps"], len(frames), tuple(state["size"]))

  info, images = _open(source)
  total = min(info.n_frames or limit or 0, limit or info.n_frames)
  try:
    data_path.mkdir(parents=True, exist_ok=True)
    state = {
      "source": str(source),
      "identity": identity,
      "fps": info.fps,
      "size": list(info.size),
      "frames": [],
      "limit": limit,
      "complete": False,
    }
    _write_state(data_path, state)
    thumbnails = {}
    for number in _write_frames(itertools.islice(images, limit), data_path, there, thumbnails):
      state["frames"].append(number)
      if progress is not None:
        progress(len(state["frames"]), max(total, len(state["frames"])))
    write_thumbnails(data_path, thumbnails)
    state["complete"] = True
    _write_state(data_path, state)
  except OSError as error:
    raise InputError(f"{data_path}: the frames cannot be written ({error})") from error
  return VideoInfo(info.fps, len(state["frames"]), info.size)


def probe(source: str | Path) -> VideoInfo:
  """What a video, a folder of images or an image is, without reading more of it than the first frame.

  Raises:
    InputError: it is missing or unreadable.
  """
  return _open(Path(source))[0]


def write_thumbnails(data_path: Path, thumbnails: dict[int, np.ndarray]) -> None:
  """Keeps the thumbnail of each frame id in the dataset."""
  data = io.BytesIO()
  frames, rgb = np.array(list(thumbnails), np.int64), np.array(list(thumbnails.values()), np.uint8)
  np.savez_compressed(data, frame=frames, rgb=rgb)
  write_atomic(data_path / THUMBNAILS, data.getvalue())


def _write_frames(
  images: Iterator, data_path: Path, there: dict[int, Path], thumbnails: dict[int, np.ndarray]
) -> Iterator[int]:
  """Writes each (RGB, alpha or None) under its 1-based number and yields the number when the file is complete.

  Puts the thumbnails of all frames into `thumbnails`.
  """
  # PNG encoding costs several times what decoding the video does; zlib and OpenCV release the GIL.
  workers = min(8, os.cpu_count() or 1)
  pending: collections.deque[tuple[int, Future]] = collections.deque()
  with ThreadPoolExecutor(workers) as pool:
    for number, item in enumerate(images, start=1):
      if item is None:
        continue
      thumbnails[number] = thumbnail(item[0])
      if number in there:
        pending.append((number, pool.submit(int)))
      else:
        pending.append((number, pool.submit(_write_frame, data_path / frame_name(number), *item)))
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
  import cv2

  options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
  if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
  bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
  ok, data = cv2.imencode(".png", bgr, options)
  if not ok:
    raise OSError("PNG encoding failed")
  return data.tobytes()


def _open(source: Path) -> tuple[VideoInfo, Iterator]:
  """What the source is, and its (RGB, alpha or None) items; None where a frame cannot be decoded."""
  if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES:
    paths = _list_images(source) if source.is_dir() else [source]
    first = _read_image(paths[0])
    info = VideoInfo(DEFAULT_FPS, len(paths), first[0].shape[:2])
    return info, _read_images(paths, info.size)
  info, frames = open_video(source)
  return info, (None if frame is None else (frame, None) for frame in frames)


def _list_images(folder: Path) -> list[Path]:
  paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
  if not paths:
    hint = "; it is a folder of frames already: give it as data path, without a video" if frame_folders(folder) else ""
    raise InputError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}) in this folder, found none{hint}")

  def natural(path: Path):
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", path.name)]

  return sorted(paths, key=natural)


def _read_images(paths: list[Path], size: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  for path in paths:
    rgb, alpha = _read_image(path)
    if rgb.shape[:2] != size:
      raise InputError(
        f"{path}: size {rgb.shape[0]}x{rgb.shape[1]}, but {paths[0].name} has {size[0]}x{size[1]} (height x width); "
        "the frames of a clip need one size"
      )
    yield rgb, alpha


def _read_image(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  """RGB uint8 (H, W, 3) upright by its EXIF tag, and alpha uint8 (H, W) unless it is absent or opaque throughout."""
  from PIL import Image, ImageOps

  try:
    with Image.open(path) as opened:
      image = ImageOps.exif_transpose(opened)
      if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow's own conversion to RGB saturates
        values = np.asarray(image, np.float64)
        scale = 257.0 if values.max() > 255 else 1.0
        image = Image.fromarray(np.clip(np.round(values / scale), 0, 255).astype(np.uint8))
      transparent = "A" in image.getbands() or "transparency" in image.info
      pixels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such file (expected an image)") from error
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise InputError(f"{path}: expected an image, found a file that cannot be decoded ({error})") from error
  alpha = pixels[..., 3] if transparent else None
  if alpha is not None and alpha.min() == 255:
    alpha = None
  return np.ascontiguousarray(pixels[..., :3]), alpha


def _identify(source: Path) -> str:
  """A digest that tells one source from another and survives that it is moved or renamed; reads 128 KB at most."""
  digest = hashlib.sha256()
  try:
    if source.is_dir():
      for path in _list_images(source):
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
  """Whether a finished extraction holds all frames that are wanted now."""
  return state["complete"] and (state["limit"] is None or (limit is not None and limit <= state["limit"]))


def _read_state(data_path: Path) -> dict | None:
  try:
    state = json.loads((data_path / SOURCE).read_text())
    return state if state.keys() >= {"identity", "fps", "size", "frames", "limit", "complete"} else None
  except (OSError, ValueError, AttributeError):
    return None


def _write_state(data_path: Path, state: dict) -> None:
  write_atomic(data_path / SOURCE, json.dumps(state).encode())
