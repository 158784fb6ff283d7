"""Photographs, folders of them, and files of several pictures (animated WebP, AVIF, PNG and GIF; TIFF's pages)."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from vht_jax.errors import InputError
from vht_jax.video.codec import DEFAULT_FPS, Opened, VideoInfo
from vht_jax.video.pixels import Picture, enlarge, over_background, square_size

IMAGE_SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
# Formats whose further pictures are frames. In others (MPO, a camera's JPEG) they are previews, depth or gain maps.
_SEQUENCES = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
_SHORTEST = 0.02  # s: what is shown for less is shown for
_INSTEAD = 0.1  # s, in browsers and so in the eyes of those who made the file
_DPI_ROUNDING = 0.02  # densities are whole numbers; no pixels in use are so little off a square (the least is 12:11)

# EXIF
_EXIF_IFD = 0x8769
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
_FOCAL_35MM, _ZOOM, _WIDTH, _HEIGHT = 0xA405, 0xA404, 0xA002, 0xA003
_REDUCED = 254  # TIFF's NewSubfileType; its first bit says that a page is a thumbnail of another


def open_images(source: Path) -> Opened:
  """The pictures of a folder of images, in natural order (2 before 10), or of one file.

  Raises:
    InputError: no image, an image that cannot be decoded, or images of different sizes.
  """
  paths = list_images(source) if source.is_dir() else [source]
  heads = [_head(path) for path in paths]  # before the first is decoded: refused at once
  for path, head in zip(paths, heads):
    _check_size(path if source.is_dir() else path.name, head.size, paths[0].name, heads[0].size)
  pictures = _pictures(paths)
  first = next(pictures)
  times = _durations(paths[0]) if len(paths) == 1 else []
  span = sum(times[:-1])
  fps = (len(times) - 1) / span if span > 0 else DEFAULT_FPS
  n = sum(len(head.pages) for head in heads)

  def sized() -> Iterator[Picture]:
    yield first
    for picture in pictures:
      name = source / picture.source if source.is_dir() else picture.source
      _check_size(name, picture.rgb.shape[:2], first.source, first.rgb.shape[:2])
      yield picture

  return Opened(VideoInfo(fps, n, first.rgb.shape[:2]), True, sized())


def _check_size(name: Path | str, size: tuple[int, int], first: str, first_size: tuple[int, int]) -> None:
  if size != first_size:
    raise InputError(
      f"{name}: size {size[0]}x{size[1]}, but {first} has {first_size[0]}x{first_size[1]} (height x width); "
      "the frames of a clip need one size"
    )


def list_images(folder: Path) -> list[Path]:
  """The images of a folder in natural order; hidden files and other kinds are left out.

  Raises:
    InputError: there are none.
  """
  paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
  if not paths:
    raise InputError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}) in this folder, found none")
  return sorted(paths, key=lambda path: [int(p) if k % 2 else p.lower() for k, p in enumerate(_parts(path.name))])


def sequence_numbers(names: list[str]) -> list[int] | None:
  """The frame numbers in file names that differ in one number only (img_0007.jpg, img_0009.jpg); None for others."""
  parts = [_parts(name) for name in names]
  if len(names) < 2 or len({len(p) for p in parts}) > 1:
    return None
  varying = [k for k, column in enumerate(zip(*parts)) if len(set(column)) > 1]
  if len(varying) != 1 or varying[0] % 2 == 0:
    return None
  numbers = [int(p[varying[0]]) for p in parts]
  return numbers if all(a < b for a, b in zip(numbers, numbers[1:])) else None


def _parts(name: str) -> list[str]:
  """Text, number, text, ...: numbers at the odd places."""
  return re.split(r"([0-9]+)", name)


def _pictures(paths: list[Path]) -> Iterator[Picture]:
  """All pictures of all files; those of a single file have times if it is an animation."""
  for path in paths:
    pages = _pages(path)
    durations = _durations(path) if len(paths) == 1 else []
    time = 0.0
    with _opened(path) as image:  # once: an animation is decoded from its beginning
      for k, page in enumerate(pages):
        if page:
          image.seek(page)
        rgb, alpha, focal = _read(image, path)
        name = path.name if len(pages) == 1 else f"{path.name}#{k}"
        yield Picture(rgb, alpha, time if durations else None, name, focal)
        time += durations[k] if durations else 0.0


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
  """Pillow's image of a file.

  Raises:
    InputError: it cannot be decoded.
  """
  try:
    with Image.open(path) as image:
      yield image
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such file (expected an image)") from error
  except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f"{path}: expected an image, found a file that cannot be decoded ({error})") from error


class _Head(NamedTuple):
  """What a file says before its pixels are decoded."""

  size: tuple[int, int]  # (H, W) of the first picture as it will be: upright, with square pixels
  pages: list[int]  # which of its pictures are frames


def _head(path: Path) -> _Head:
  with _opened(path) as image:
    size, aspect = (image.height, image.width), _pixel_aspect(image, path)
    if image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS:
      size, aspect = size[::-1], 1 / aspect
    return _Head(square_size(size, aspect, str(path)) if aspect != 1.0 else size, _pages_of(image))


def _pages(path: Path) -> list[int]:
  """Which of a file's pictures are frames."""
  with _opened(path) as image:
    return _pages_of(image)


def _pages_of(image: Any) -> list[int]:
  if image.format not in _SEQUENCES:
    return [0]
  pages = list(range(getattr(image, "n_frames", 1)))
  if image.format == "TIFF" and len(pages) > 1:
    pages = [k for k in pages if not (image.seek(k) or image.tag_v2.get(_REDUCED, 0) & 1)]
  if image.format == "PNG" and getattr(image, "default_image", False):
    pages = pages[1:]  # an APNG's picture for those who cannot play it
  return pages or [0]


def _durations(path: Path) -> list[float]:
  """Seconds for which each picture of an animation is shown; empty for what is no animation."""
  pages = _pages(path)
  with _opened(path) as image:
    if len(pages) < 2 or image.format == "TIFF":
      return []
    found = []
    for k in pages:
      image.seek(k)
      image.load()  # WebP says it only then
      found.append(float(image.info.get("duration") or 0) / 1000)
    return [d if d >= _SHORTEST else _INSTEAD for d in found]


def _read(opened, path: Path) -> tuple[np.ndarray, np.ndarray | None, float | None]:
  """The rgb and alpha of an opened image's present picture, see `Picture`, and the focal length of its EXIF (mm)."""
  focal, aspect = _focal_35mm(opened, path), _pixel_aspect(opened, path)
  image = ImageOps.exif_transpose(opened)
  if image.size != opened.size:  # turned on its side
    aspect = 1 / aspect
  if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow's own conversion to RGB saturates
    values = np.asarray(image, np.float64)
    scale = 257.0 if values.max() > 255 else 1.0
    image = Image.fromarray(np.clip(np.round(values / scale), 0, 255).astype(np.uint8))
  transparent = "A" in image.getbands() or "transparency" in image.info
  pixels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
  rgb, alpha = over_background(pixels) if transparent else (pixels, None)
  size = square_size(rgb.shape[:2], aspect, str(path)) if aspect != 1.0 else rgb.shape[:2]
  return np.ascontiguousarray(enlarge(rgb, size)), None if alpha is None else enlarge(alpha, size), focal


def _pixel_aspect(image, path: Path) -> float:
  """Width of a stored pixel in heights, from the densities in the file; 1 if it names none."""
  if image.format == "JPEG" and image.info.get("jfif_unit") == 0:
    # The standard has densities there, FFmpeg writes the aspect itself: nobody can tell which it is.
    x, y = image.info.get("jfif_density", (1, 1))
    if x != y:
      logging.warning("%s: names a pixel aspect %d:%d, which writers mean in two ways; taken as square", path, x, y)
    return 1.0
  density = image.info.get("aspect") or image.info.get("dpi") or (1, 1)
  x, y = (float(d) for d in density)
  if not (x > 0 and y > 0 and math.isfinite(x * y)) or abs(y / x - 1) < _DPI_ROUNDING:
    return 1.0
  return y / x


def _focal_35mm(image, path: Path) -> float | None:
  """EXIF's FocalLengthIn35mmFilm in mm, if it is that of this picture: not cropped, not zoomed digitally."""
  tags = image.getexif().get_ifd(_EXIF_IFD)
  focal = tags.get(_FOCAL_35MM)
  if not isinstance(focal, int | float) or not focal > 0:
    return None
  width, height = tags.get(_WIDTH), tags.get(_HEIGHT)
  if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
    # Within the rounding to whole pixels; some cameras count an upright picture's sides after turning it.
    shapes = [abs(w * image.height - h * image.width) / (w + h) for w, h in ((width, height), (height, width))]
    if min(shapes) > 1:
      logging.info("%s: EXIF's focal length is of %dx%d, this picture is a part of it; not used", path, width, height)
      return None
  try:
    zoomed = float(tags.get(_ZOOM) or 1) > 1.01
  except (TypeError, ValueError, ZeroDivisionError):
    zoomed = True
  if zoomed:
    logging.info("%s: was zoomed digitally, which EXIF's focal length may or may not count; not used", path)
    return None
  return float(focal)
