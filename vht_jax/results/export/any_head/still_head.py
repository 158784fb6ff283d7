"""What methods for still scenes are given beside the cameras around a head at rest (`places.still_head`).

The head's frame is that of its neck joint's rotation: what the tracker explains by the root's and the neck's rotation
is the camera's motion here. Expression, jaw and eyes still move, and so do the shoulders.
"""

from __future__ import annotations

import logging

import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export.any_head.meshes import vertex_colors
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.masks import mask_of
from vht_jax.results.export.images.png import grey_png, rgb_png, rgba_png
from vht_jax.results.export.scene import Scene
from vht_jax.results.export.selection import tracked_only

log = logging.getLogger("vht_jax")


def views(scene: Scene, name: str, images: bool) -> Scene:
  """The frames that methods for still scenes are given; `name`: the format, `images`: whether pictures are wanted.

  Raises:
    InputError: a single frame, or none that was tracked.
  """
  scene = tracked_only(scene, name)
  if len(scene) < 2:
    raise InputError(f"{name}: a still scene needs several views; this result has one frame")
  if images and scene.pictures is None:
    log.warning("%s: there is no dataset beside the result (--data_path): images/ is left for you to fill", name)
  return scene


def masked(scene: Scene) -> bool:
  """Whether the images have masks: the person's, or of padding, which is not part of the scene either."""
  pictures = scene.pictures
  return pictures is not None and (
    bool(pictures.masks) or any(pictures.alpha(i) is not None for i in range(len(scene)))
  )


def points(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
  """(V, 3) m of the face without expression in the head's frame: points to begin with; (V, 3) uint8 their colours."""
  return scene.neutral, vertex_colors(scene)


def image_name(i: int) -> str:
  """Of frame i, counted from 1."""
  return f"{i + 1:05d}.png"


def images(scene: Scene, mask_name: str) -> Files:
  """images/00001.png, ...; masks as their alpha, and each by itself as `mask_name` with the image's name for {}.

  instant-ngp and Gaussian splatting take the alpha, nerfstudio and COLMAP the files.
  """
  if scene.pictures is None:
    return
  with_masks = masked(scene)
  for i in range(len(scene)):
    rgb = scene.pictures.rgb(i)
    if not with_masks:
      yield f"images/{image_name(i)}", rgb_png(rgb)
      continue
    mask = mask_of(scene, i)
    yield f"images/{image_name(i)}", rgba_png(rgb, mask)
    yield mask_name.format(image_name(i)), grey_png(mask)
