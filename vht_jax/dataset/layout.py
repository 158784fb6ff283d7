"""VHT's folders of frames: names, and reading their images.

data_path/
  source.json                       ours, like the next two: where the frames come from, their times and names; VHT
                                    ignores it
  thumbnails.npz                    for finding cuts
  landmarks.json                    which detector made the landmarks, and where a killed run goes on
  frame_0001/                       1-based; gaps are allowed
    image_0000.png
    keypoints_static_0000.json
    mask_0000.png                   ours, optional: 255 = foreground
"""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL.PngImagePlugin import PngImageFile

from vht_jax.errors import InputError
from vht_jax.video.pixels import MAX_SIDE

IMAGE = "image_0000.png"
KEYPOINTS = "keypoints_static_0000.json"
MASK = "mask_0000.png"
SOURCE = "source.json"
THUMBNAILS = "thumbnails.npz"

_FRAME = re.compile(r"frame_(?:.*_)?(\d+)")


def frame_name(frame_id: int) -> str:
  """The folder's name of a 1-based frame id."""
  return f"frame_{frame_id:04d}"


def keypoint_name(face: int | None = None) -> str:
  """The landmark file of the main person, or of the person with a number."""
  return KEYPOINTS if face is None else f"keypoints_face{face}_0000.json"


def landmarks_name(face: int | None = None) -> str:
  """The file that says how the landmarks of the main person, or of the person with a number, were made."""
  return "landmarks.json" if face is None else f"landmarks_face{face}.json"


def frame_folders(data_path: Path) -> dict[int, Path]:
  """Frame id -> folder, in the order of the ids, of all frames that have an image."""
  found = {}
  for path in Path(data_path).iterdir():
    match = _FRAME.fullmatch(path.name)
    if match and (path / IMAGE).is_file():
      found[int(match.group(1))] = path
  return dict(sorted(found.items()))


def png_size(path: Path) -> tuple[int, int]:
  """(H, W) of a PNG from its header; looks whether its end is there too.

  Raises:
    InputError: not a PNG, or cut off.
  """
  try:
    with open(path, "rb") as file:
      file.seek(0, 2)
      file.seek(max(file.tell() - 64, 0))
      tail = file.read()
      file.seek(0)
      width, height = PngImageFile(file).size
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error.strerror})") from error
  except (SyntaxError, ValueError) as error:  # Pillow's words for what is no PNG
    raise InputError(
      f"{path}: expected a PNG image, found something else; delete it and extract the video again"
    ) from error
  if b"IEND" not in tail:
    raise InputError(f"{path}: the PNG is cut off; delete it and extract the video again")
  if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
    raise InputError(f"{path}: claims {width}x{height} pixels; expected up to {MAX_SIDE} a side")
  return height, width


def intact_png(data: bytes | memoryview) -> bool:
  """Whether the bytes are a PNG whose chunks all agree with their checksums (1 ms per MB)."""
  try:
    PngImageFile(io.BytesIO(data)).verify()
  except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error):
    return False
  return True


def read_png(path: Path) -> np.ndarray:
  """uint8 (H, W, 3) RGB or (H, W, 4) RGBA.

  Raises:
    InputError: the file is missing or damaged.
  """
  try:
    data = np.fromfile(path, np.uint8)
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error.strerror})") from error
  # OpenCV decodes a damaged PNG as far as it can and calls it a success.
  image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if intact_png(data.tobytes()) else None
  if image is None:
    raise InputError(f"{path}: the PNG is damaged; delete it and extract the video again")
  if image.dtype == np.uint16:
    image = np.right_shift(image, 8).astype(np.uint8)
  if image.ndim == 2:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
  return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
