"""Our own silhouette of a clip's head, and how far another program's is from it."""

import dataclasses

import cv2
import numpy as np

FRAME = 3  # at 0.16 s


def whole_padding(scene):
  """The scene with a principal point around which the image is padded by whole pixels."""
  return dataclasses.replace(scene, intrinsics=np.round(scene.intrinsics * [10, 1, 1]) / [10, 1, 1])


def own_silhouette(scene, i=FRAME):
  """(H, W) bool by the package's rasteriser."""
  from vht_jax.render.raster import rasterize

  screen = np.concatenate([scene.pixels(i), scene.camera_vertices(i)[:, 2:]], 1).astype(np.float32)
  return np.asarray(rasterize(screen, scene.model.faces, scene.size).pix_to_face) >= 0


def cut(padded, extras):
  """The image's part (H, W) of a picture of the padded image."""
  (x, y), (width, height) = (np.round(extras[k]).astype(int) for k in ("image_offset", "image_size"))
  assert padded.shape[:2] == tuple(np.round(extras["padded_size"]).astype(int)[::-1])
  return padded[y : y + height, x : x + width]


def beyond_a_pixel(a, b):
  """Pixels by which one silhouette is more than one pixel beside the other."""
  grown = [cv2.dilate(m.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for m in (a, b)]
  return int((a & ~grown[1]).sum() + (b & ~grown[0]).sum())


def overlay(scene, theirs, path, i=FRAME):
  """Writes the frame with both outlines: ours green, theirs pink; for people to look at."""
  image = scene.pictures.rgb(i).copy() if scene.pictures is not None else np.zeros((*scene.size, 3), np.uint8)
  for mask, color in ((own_silhouette(scene, i), (0, 200, 0)), (theirs, (255, 0, 160))):
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outline, -1, color, 1)
  cv2.imwrite(str(path), image[..., ::-1])
