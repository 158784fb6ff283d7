"""The dataset: a folder of frames in VHT's layout, read as `Observations` of the tracked size."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from vht_jax.dataset.keypoints import read_keypoints, read_origin
from vht_jax.dataset.layout import (
  IMAGE,
  MASK,
  SOURCE,
  THUMBNAILS,
  frame_folders,
  keypoint_name,
  png_size,
  read_png,
)
from vht_jax.errors import InputError
from vht_jax.host.npz import read_npz
from vht_jax.host.prefetch import prefetched
from vht_jax.landmarks.detection import N_DENSE, Detection, beliefs, landmark_confidence
from vht_jax.types import Observations
from vht_jax.video.codec import DEFAULT_FPS
from vht_jax.video.cuts import SIDE, find_cuts, thumbnail
from vht_jax.video.pixels import resize_antialiased, tracked_size


class Keypoints(NamedTuple):
  """The landmarks of one frame in pixels of the tracked size; all 0 when `valid` is False."""

  landmarks: np.ndarray  # (70, 2) f32; 68 iris of eye 36-41, 69 iris of eye 42-47
  confidence: np.ndarray  # (70,) f32 in [0, 1]
  valid: bool
  dense: np.ndarray | None  # (478, 2) f32


class FrameFolder:
  """VHT's dataset. Frames are addressed by their position 0..n-1; `frame_ids` has the numbers of their folders.

  The images are read when they are asked for and kept as uint8 as long as `cache_bytes` lasts, since the stages of
  the tracker go over them several times.
  """

  def __init__(
    self,
    path: str | Path,
    *,
    tracking_resolution: Sequence[int] | None = None,
    downscale_factor: float = 1.0,
    max_frames: int | None = None,
    face: int | None = None,
    cache_bytes: int = 512 << 20,
  ):
    """Reads names, sizes and ends of the images, not their pixels.

    Args:
      path: the folder that holds frame_0001/, ...
      tracking_resolution: (H, W) into which the images are scaled, keeping their shape, or None for
      downscale_factor: divides both sides, rounding down (both spellings are VHT's; the first one wins).
      max_frames: only the first so many; None or 0: all.
      face: whose landmarks: None the main person's (VHT's files), else those of the person with this number.
      cache_bytes: memory for decoded images.

    Raises:
      InputError: no frames, an image that is no complete PNG, or sizes that do not match.
    """
    self.path = Path(path)
    if not self.path.is_dir():
      raise InputError(f"{self.path}: no such folder of frames; give a video to make it")
    folders = frame_folders(self.path)
    if not folders:
      raise InputError(f"{self.path}: expected frame_0001/{IMAGE}, ... in this folder, found no frame")
    ids = list(folders)[: max_frames or None]
    self._folders = [folders[i] for i in ids]
    self.face = face
    self.frame_ids = np.array(ids, np.int64)
    self.source_size = self._common_size()
    self.size = tracked_size(self.source_size, tracking_resolution, downscale_factor)
    self._cache: dict[int, np.ndarray] = {}
    self._cache_left = cache_bytes
    self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="frames")

  def __len__(self) -> int:
    return len(self._folders)

  @property
  def views(self) -> list[str]:
    """Name of each frame's image file, as VHT's results carry it."""
    return [IMAGE] * len(self)

  @property
  def origin(self) -> str:
    """What messages call it: the video or the images that it is made from, if that is known, and its path."""
    source = self._record.get("source")
    return f"{source} ({self.path})" if isinstance(source, str) and source else str(self.path)

  @functools.cached_property
  def _record(self) -> dict:
    """What the extraction wrote down; empty for a folder that VHT made."""
    try:
      record = json.loads((self.path / SOURCE).read_text())
    except (OSError, ValueError):
      return {}
    return record if isinstance(record, dict) else {}

  def _of_frames(self, name: str, kinds: type | tuple[type, ...]) -> list | None:
    """What the record has under a name for each frame; None if it lacks one, or has something else there."""
    frames, values = self._record.get("frames"), self._record.get(name)
    if not isinstance(frames, list) or not isinstance(values, list) or len(frames) != len(values):
      return None
    known = {f: v for f, v in zip(frames, values) if isinstance(f, int) and isinstance(v, kinds)}
    found = [known.get(i) for i in self.frame_ids.tolist()]
    return None if any(value is None for value in found) else found

  @functools.cached_property
  def fps(self) -> float:
    """Frames per second of the source, on average; 25 when it is unknown."""
    rate = self._record.get("fps")
    return float(rate) if isinstance(rate, int | float) and 0 < rate < np.inf else DEFAULT_FPS

  @functools.cached_property
  def times(self) -> np.ndarray:
    """(n,) float64, s: when each frame was taken, from the source's first frame on, increasing.

    A video and an animation have a time for each frame. Of a folder of images whose names are one numbered sequence
    the numbers count, of other images and of VHT's datasets the frames' ids, at `fps` (`times_assumed`).
    """
    known = self._of_frames("times", (int, float))
    if known is not None:
      times = np.array(known, np.float64)
      if np.isfinite(times).all() and (np.diff(times) > 0).all():
        return times
    return (self.frame_ids - self.frame_ids[0]) / self.fps

  @property
  def times_assumed(self) -> bool:
    """Whether `times` rest on an assumed frame rate, not on what the source says."""
    return self._record.get("times_assumed") is not False or self._of_frames("times", (int, float)) is None

  @property
  def steady(self) -> bool:
    """Whether the frames follow each other at `fps`, within half a frame, as far as that is known."""
    even = self.times[0] + np.arange(len(self)) / self.fps
    return self.times_assumed or bool((np.abs(self.times - even) < 0.5 / self.fps).all())

  @functools.cached_property
  def sources(self) -> list[str]:
    """What each frame is made from: an image's file name, or name#index (0-based) in a video or animation."""
    known = self._of_frames("sources", str)
    return known if known is not None else [f"{folder.name}/{IMAGE}" for folder in self._folders]

  @functools.cached_property
  def focal_35mm(self) -> list[float | None]:
    """(n,) the equivalent focal length in mm that EXIF names for each image, if it does."""
    known = {}
    frames, values = self._record.get("frames"), self._record.get("focal_35mm")
    if isinstance(frames, list) and isinstance(values, list) and len(frames) == len(values):
      named = [(f, v) for f, v in zip(frames, values) if isinstance(f, int) and isinstance(v, int | float)]
      known = {f: float(v) for f, v in named if v > 0}
    return [known.get(i) for i in self.frame_ids.tolist()]

  def image_path(self, i: int) -> Path:
    """The image file of frame i."""
    return self._folders[i] / IMAGE

  def keypoint_path(self, i: int) -> Path:
    """The landmark file of frame i, whether it exists or not."""
    return self._folders[i] / keypoint_name(self.face)

  def source_image(self, i: int) -> np.ndarray:
    """Frame i as it was extracted: RGB uint8, `source_size`. Shared: do not write to it."""
    return self.image(i) if self.size == self.source_size else self._decoded(i)

  def _decoded(self, i: int) -> np.ndarray:
    return read_png(self.image_path(i))[..., :3]

  def source_images(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
    """`source_image` of each index, decoded ahead in threads."""
    return prefetched(self.source_image, indices, depth=4, pool=self._pool)

  def image(self, i: int) -> np.ndarray:
    """Frame i at the tracked size: RGB uint8 (H, W, 3). Shared: do not write to it."""
    cached = self._cache.get(i)
    if cached is None:
      cached = resize_antialiased(self._decoded(i), self.size)
      if cached.nbytes <= self._cache_left:
        self._cache_left -= cached.nbytes
        self._cache[i] = cached
    return cached

  def alpha(self, i: int) -> np.ndarray | None:
    """Foreground of frame i at the tracked size, uint8 (H, W), from mask_0000.png or the image's alpha channel."""
    mask = self.source_alpha(i)
    return None if mask is None else resize_antialiased(mask, self.size)

  def source_alpha(self, i: int) -> np.ndarray | None:
    """`alpha` as it was extracted: `source_size`."""
    mask_path = self._folders[i] / MASK
    if mask_path.is_file():
      return np.ascontiguousarray(read_png(mask_path)[..., 0])
    image = read_png(self.image_path(i))
    return np.ascontiguousarray(image[..., 3]) if image.shape[2] == 4 else None

  def masks(self, indices: Iterable[int]) -> np.ndarray | None:
    """(n, H, W) uint8 foreground of these frames, 255 throughout where one has no mask; None if no frame has one."""
    if not self.has_alpha:
      return None
    found = self._pool.map(self.alpha, [int(i) for i in indices])
    return np.stack([np.full(self.size, 255, np.uint8) if mask is None else mask for mask in found])

  @functools.cached_property
  def has_alpha(self) -> bool:
    """Whether any frame has a mask (decided by the files, and by the first image's channels)."""
    return any((f / MASK).is_file() for f in self._folders) or read_png(self.image_path(0)).shape[2] == 4

  def find_cuts(self) -> list[int]:
    """Positions of the first frames of new shots (`cuts.find_cuts`)."""
    known = {}
    if (self.path / THUMBNAILS).is_file():
      try:
        file = read_npz(self.path / THUMBNAILS)
        if file["rgb"].shape == (len(file["frame"]), SIDE, SIDE, 3) and file["rgb"].dtype == np.uint8:
          known = dict(zip(file["frame"].tolist(), file["rgb"]))
      except (InputError, KeyError, TypeError) as error:
        logging.warning("%s: not usable (%s); made anew", self.path / THUMBNAILS, error)
    missing = [i for i, frame in enumerate(self.frame_ids.tolist()) if frame not in known]
    for i, image in zip(missing, self.source_images(missing)):
      known[int(self.frame_ids[i])] = thumbnail(image)
    return find_cuts(np.stack([known[i] for i in self.frame_ids.tolist()]))

  @functools.cached_property
  def detections(self) -> list[Detection | None]:
    """What the landmark files say, in pixels of the source; None without a file or a face.

    Raises:
      InputError: a landmark file cannot be read.
    """
    return [read_keypoints(p) if (p := self.keypoint_path(i)).is_file() else None for i in range(len(self))]

  @functools.cached_property
  def detector(self) -> str:
    """Who made the landmarks, as the first frame's file says; "" if none does."""
    files = (self.keypoint_path(i) for i in range(len(self)))
    return next((origin for path in files if path.is_file() and (origin := read_origin(path))), "")

  def reload_keypoints(self) -> None:
    """Forgets what was read from the landmark files, after they have been written."""
    for name in ("detections", "detector", "valid", "has_dense"):
      self.__dict__.pop(name, None)

  @functools.cached_property
  def valid(self) -> np.ndarray:
    """(n,) bool, whether each frame has a face."""
    return np.array([detection is not None for detection in self.detections])

  @functools.cached_property
  def has_dense(self) -> bool:
    """Whether every frame with a face has MediaPipe's dense points too."""
    found = [d for d in self.detections if d is not None]
    return bool(found) and all(d.dense is not None for d in found)

  def keypoints(self, i: int) -> Keypoints:
    """The landmarks of frame i, scaled to the tracked size (each axis by its own factor, as VHT)."""
    detection = self.detections[i]
    landmarks, confidence = np.zeros((70, 2), np.float32), np.zeros(70, np.float32)
    dense = np.zeros((N_DENSE, 2), np.float32) if self.has_dense else None
    if detection is None:
      return Keypoints(landmarks, confidence, False, dense)
    scale = np.array([self.size[1] / self.source_size[1], self.size[0] / self.source_size[0]], np.float32)
    landmarks[:68] = detection.landmarks * scale
    if detection.iris is not None:
      landmarks[68:] = np.nan_to_num(detection.iris) * scale
    confidence[:] = landmark_confidence(detection.landmarks, detection.iris)
    if dense is not None and detection.dense is not None:  # all have it, or `has_dense` is false
      dense[:] = detection.dense * scale
    return Keypoints(landmarks, confidence, True, dense)

  def landmarks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """`keypoints` of all frames: (n, 70, 2) px, (n, 70) confidence, (n, 478, 2) px or None (NaN: no face)."""
    points = [self.keypoints(i) for i in range(len(self))]
    dense = [p.dense if p.valid else np.full_like(p.dense, np.nan) for p in points if p.dense is not None]
    landmarks, confidence = np.stack([p.landmarks for p in points]), np.stack([p.confidence for p in points])
    return landmarks, confidence, np.stack(dense) if self.has_dense else None

  def beliefs(self) -> tuple[np.ndarray, np.ndarray] | None:
    """(n, 70) and (n, 478) f32 in (0, 1], `point_belief` of the landmarks and of MediaPipe's points: 1 where nothing
    can be said, as of another detector's landmarks; None where nothing can be said of any."""
    if all(d is None or d.apart is None for d in self.detections):
      return None
    landmarks, dense = zip(*(beliefs(d) for d in self.detections))
    return np.stack(landmarks), np.stack(dense)

  def images(self, indices: Iterable[int]) -> np.ndarray:
    """(n, H, W, 3) uint8 RGB at the tracked size."""
    return np.stack(list(self._pool.map(self.image, [int(i) for i in indices])))

  def observations(self, indices: Iterable[int]) -> Observations:
    """The frames at these positions, stacked: every field is a numpy array with a leading axis."""
    indices = [int(i) for i in indices]
    rgb = np.empty((len(indices), *self.size, 3), np.float32)
    alpha = np.ones((len(indices), *self.size), np.float32) if self.has_alpha else None

    def load(row: int) -> None:
      np.multiply(self.image(indices[row]), np.float32(1 / 255), out=rgb[row])
      if alpha is not None and (mask := self.alpha(indices[row])) is not None:
        np.multiply(mask, np.float32(1 / 255), out=alpha[row])

    list(self._pool.map(load, range(len(indices))))
    points = [self.keypoints(i) for i in indices]
    arrays: dict[str, Any] = dict(
      rgb=rgb,
      landmarks=np.stack([p.landmarks for p in points]),
      confidence=np.stack([p.confidence for p in points]),
      valid=np.array([p.valid for p in points]),
      dense=np.stack([p.dense for p in points if p.dense is not None]) if self.has_dense else None,
      alpha=alpha,
    )
    return Observations(**arrays)

  def prefetch(self, batches: Iterable[Sequence[int]], depth: int = 2) -> Iterator[Observations]:
    """`observations` of each batch of positions, read in the background `depth` batches ahead."""
    return prefetched(self.observations, batches, depth)

  def _common_size(self) -> tuple[int, int]:
    first = png_size(self.image_path(0))
    for i in range(1, len(self)):
      size = png_size(self.image_path(i))
      if size != first:
        raise InputError(
          f"{self.image_path(i)}: size {size[0]}x{size[1]}, but the first frame has {first[0]}x{first[1]} (height x "
          "width); the frames of a clip need one size"
        )
    return first
