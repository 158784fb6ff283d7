"""Some frames of a clip that see the head from different sides, each with the person's mask in a window around it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from vht_jax.dataset.folder import FrameFolder
from vht_jax.masks import (
  Heads,
  face_finder,
  heads_of_points,
  make_segmenter,
  neck_fade,
  neck_of,
  other_faces,
  person_mattes,
)
from vht_jax.results.export.scene import Scene
from vht_jax.tracking.keyframes import spread_frames

N_VIEWS = 16
SIDE = 320  # px of a window: 1 to 1.5 mm each, twice as fine as what segments people
AROUND = 0.08  # m beside the head in a window: hair
_CLEAR = (0.2, 0.2, 0.3)  # of the view's yaw and pitch, rad, and of log distance: what is clearly another view
_ABOVE = 0.5  # where the fade below the neck is less, nothing is asked of the outline
_BLUR = 1.0  # px, of the distance field: its slope is that of an outline and not of single pixels
_RIM = 2  # px at the image's own edge, where an outline may be the edge's


class View(NamedTuple):
  """A frame."""

  frame: int  # position in the clip
  origin: np.ndarray  # (2,) px of the image, upper left corner of the window
  scale: float  # px of the window for one of the image
  matte: np.ndarray  # (S, S) f32 in [0, 1], the person; goes on beyond the image's edge as it is there
  field: np.ndarray  # (S, S) f32 px to the mask's outline, above 0 inside
  known: np.ndarray  # (S, S) bool: within the image and above the neck's end


def chosen_frames(scene: Scene, n: int = N_VIEWS) -> np.ndarray:
  """At most n of the tracked frames of a scene, as different in view as possible, rising."""
  turns = np.einsum("tij,tjk->tik", scene.root_rotation, scene.rotations[:, 1])
  ahead = turns[:, :, 2]  # of the face, in the camera's frame
  features = np.stack([ahead[:, 0], ahead[:, 1], np.log(scene.root_position[:, 2])], 1) / _CLEAR
  if not scene.tracked.any():
    return np.zeros(0, int)
  confidence = scene.result.confidence
  sure = np.ones(len(scene)) if confidence is None else np.asarray(confidence)
  return spread_frames(features, scene.tracked & (sure >= 0.5 * np.median(sure[scene.tracked])), n)


def mattes_of(scene: Scene, folder: FrameFolder, frames: Sequence[int]) -> list[np.ndarray]:
  """`each_matte` of some frames; none where the clip's own are missing."""
  return list(each_matte(scene, folder, frames))


def each_matte(
  scene: Scene, folder: FrameFolder, frames: Sequence[int], starts: Collection[int] = ()
) -> Iterator[np.ndarray]:
  """(H, W) uint8 of each of these frames: the clip's own alpha, else the person that a model sees.

  Args:
    starts: frames that begin a shot.

  Raises:
    InputError: there is neither.
  """
  if folder.has_alpha:
    for i in frames:
      found = folder.masks([i])
      if found is None:
        return
      yield found[0]
    return
  segment = make_segmenter()
  try:
    heads = heads_of_points([scene.landmarks(i)[:68] if t else None for i, t in enumerate(scene.tracked)])
    yield from person_mattes(
      folder.image, segment, heads, _others(heads, folder, frames), cuts=starts, indices=frames
    )  # fmt: skip
  finally:
    segment.close()


def _others(heads: Heads, folder: FrameFolder, frames: Sequence[int]) -> list[np.ndarray]:
  """Other people's faces (`other_faces`) in these frames; nobody in the rest, and where there is no detector."""
  found = [np.zeros((0, 3))] * len(heads.size)
  with face_finder("offsets") as faces:
    if faces is None:
      return found
    for i in frames:
      one = Heads(*(a[i : i + 1] for a in heads))
      found[i] = other_faces(one, lambda _, i=i: folder.image(i), faces)[0]
  return found


def make_view(scene: Scene, frame: int, matte: np.ndarray) -> View:
  """A frame's window, by the head as it is posed there and the matte (H, W) uint8 of its image."""
  points, pixels = scene.camera_vertices(frame), scene.pixels(frame)
  used = np.unique(np.asarray(scene.model.faces))
  around = AROUND * scene.intrinsics[frame, 0] / points[used, 2].mean()
  low, high = pixels[used].min(0) - around, pixels[used].max(0) + around
  side = float((high - low).max())
  origin, scale = (low + high) / 2 - side / 2, SIDE / side
  warp = np.array([[scale, 0, -origin[0] * scale], [0, scale, -origin[1] * scale]])
  warp[:, 2] += 0.5 * scale - 0.5  # OpenCV's pixel centres are whole numbers
  smooth = cv2.GaussianBlur(matte, (0, 0), 0.5 / scale) if scale < 1 else matte
  window = cv2.warpAffine(smooth, warp, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
  window = window.astype(np.float32) / 255
  neck = neck_of(scene.model)
  apart = np.linalg.norm(points[neck.left] - points[neck.right])
  apart *= scene.intrinsics[frame, 0] * scale / points[[neck.left, neck.right], 2].mean()
  fade = neck_fade((pixels[list(neck)] - origin) * scale, float(apart), (SIDE, SIDE))
  y, x = ((np.arange(SIDE) + 0.5) / scale + o for o in origin[::-1])
  rim = _RIM / scale
  inside = [(at > rim) & (at < n - rim) for at, n in zip((y, x), scene.size)]
  known = inside[0][:, None] & inside[1][None] & (fade > _ABOVE)
  return View(frame, origin, scale, window, signed_distance(window > 0.5), known)


def signed_distance(mask: np.ndarray) -> np.ndarray:
  """(S, S) f32 px to the outline of a mask (S, S) bool, above 0 inside; a mask that is all or nothing has none near."""
  distance = lambda m: cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
  inside, outside = distance(mask), distance(~mask)
  field = np.where(mask, inside - 0.5, 0.5 - outside)
  far = float(sum(mask.shape))
  return cv2.GaussianBlur(np.clip(field, -far, far).astype(np.float32), (0, 0), _BLUR)
