"""`flame_params.json` of IMavatar, which PointAvatar, MonoGaussianAvatar, SplattingAvatar and FateAvatar read as well.

They scale FLAME by four, and their images are square. The rotation is FLAME's own, the camera only moves: PointAvatar
takes any rotation of the camera for its inverse.
"""

from __future__ import annotations

import json

import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export.flame_codes.consumers import Consumer, for_consumer, notes_file, padded, picture, pictured
from vht_jax.results.export.flame_codes.places import plain_poses
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.png import grey_png, rgba_png
from vht_jax.results.export.scene import OPENGL, Scene

IMAVATAR = Consumer("imavatar", "2020", 100, 50)
_SCALE = 4.0  # of FLAME, in these programs
_MARGIN = 0.02  # of the image, about the head's box


def to_imavatar(
  scene: Scene, *, images: bool = True, flame_model_path: str | None = None, flame_release: str | None = None
) -> Files:
  """`flame_params.json`, and image/N.png with mask/N.png from 1 on.

  Args:
    images: write the images, if there are any; masks are their alpha (SplattingAvatar) and beside them (the others).

  Raises:
    InputError: the images are not square.
  """
  side = scene.size[0]
  if scene.size[1] != side:
    raise InputError(
      f"imavatar: its images are square; these are {scene.size[1]} x {side} px: add --crop=head --size=512"
    )
  f, cx, cy = scene.lens
  scene, notes = for_consumer(scene, IMAVATAR, flame_model_path, flame_release, training=True)
  poses = plain_poses(scene)
  shift = _SCALE * (scene.root_position @ OPENGL.T - scene.joints[:, 0])
  expr = padded(scene.expr, IMAVATAR.n_expr).tolist()
  frames = []
  for i in range(len(scene)):
    pixels = scene.pixels(i) * (2.0 / side) - 1.0
    frames.append(
      {
        "file_path": f"./image/{i + 1}",
        "world_mat": np.concatenate([np.eye(3), shift[i][:, None]], axis=1).tolist(),
        "expression": expr[i],
        "pose": poses[i].tolist(),
        "bbox": _box(pixels),
        "flame_keypoints": (scene.landmarks(i)[:68] * (2.0 / side) - 1.0).tolist(),  # from -1 to 1
      }
    )
  content = {
    "frames": frames,
    "shape_params": padded(scene.shape, IMAVATAR.n_shape).tolist(),
    "intrinsics": [-f / side, f / side, cx / side, cy / side],  # the first one's sign is the format's
  }
  yield "flame_params.json", json.dumps(content).encode()
  if pictured(scene, images, "imavatar", notes):
    for i in range(len(scene)):
      rgb, alpha, mask = picture(scene, i)
      yield f"image/{i + 1}.png", rgba_png(rgb, alpha)
      if mask is not None:
        yield f"mask/{i + 1}.png", grey_png(mask)
  yield notes_file(notes)


def _box(pixels: np.ndarray) -> list[float]:
  """x0, y0, x1, y1 of the head within the image, from -1 to 1: where IMavatar samples."""
  low, high = pixels.min(axis=0) - _MARGIN, pixels.max(axis=0) + _MARGIN
  return np.clip([*low, *high], -1.0, 1.0).tolist()
