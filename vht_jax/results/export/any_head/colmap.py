"""COLMAP's text model of cameras around a head at rest: sparse/0/{cameras,images,points3D}.txt.

World-to-camera with OpenCV's axes, metres, FLAME's head frame as the world; pixel centres at i + 0.5, as in COLMAP.
"""

from __future__ import annotations

import numpy as np

from vht_jax.results.export.any_head import still_head
from vht_jax.results.export.flame_codes import places
from vht_jax.results.export.format import Files
from vht_jax.results.export.motion import quaternions
from vht_jax.results.export.scene import Scene


def to_colmap(scene: Scene, *, images: bool = True) -> Files:
  """sparse/0/*.txt and, if there is a dataset, images/ and masks/ (named as COLMAP wants them: 00001.png.png).

  Raises:
    InputError: a single frame, or none that was tracked.
  """
  scene = still_head.views(scene, "colmap", images)
  height, width = scene.size
  lenses = scene.intrinsics if np.ptp(scene.intrinsics, axis=0).max() > 1e-6 else scene.intrinsics[:1]
  lines = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
  for k, (f, cx, cy) in enumerate(lenses):
    lines.append(f"{k + 1} PINHOLE {width} {height} {f:.9g} {f:.9g} {cx:.9g} {cy:.9g}")
  yield "sparse/0/cameras.txt", _text(lines)
  rotation, translation = places.still_head(scene, neck=True)
  lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of points: none"]
  for i, (x, y, z, w) in enumerate(quaternions(rotation)):
    place = " ".join(f"{a:.12g}" for a in (w, x, y, z, *translation[i]))
    lines += [f"{i + 1} {place} {1 + i % len(lenses)} {still_head.image_name(i)}", ""]
  yield "sparse/0/images.txt", _text(lines)
  vertices, colors = still_head.points(scene)
  lines = ["# POINT3D_ID X Y Z R G B ERROR TRACK[]"]
  lines += [
    f"{k + 1} {x:.7g} {y:.7g} {z:.7g} {r} {g} {b} 0" for k, ((x, y, z), (r, g, b)) in enumerate(zip(vertices, colors))
  ]
  yield "sparse/0/points3D.txt", _text(lines)
  if images:
    yield from still_head.images(scene, "masks/{}.png")


def _text(lines: list[str]) -> bytes:
  return ("\n".join(lines) + "\n").encode()
