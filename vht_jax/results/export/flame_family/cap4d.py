"""CAP4D's `fit.npz` with its reference images.

Its head is made of FLAME 2023 without jaw but is not FLAME's function: joints are not chained, the neck's angle turns
the torso against a head that stays, both eyes turn together, and the identity is taken twice from the rotations before
the correctives. So no code can be copied: all are fitted to the tracked vertices under that function.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from vht_jax.errors import InputError
from vht_jax.host.npz import npz_bytes
from vht_jax.results.export.flame_codes import solve
from vht_jax.results.export.flame_codes.angles import continuous_angles
from vht_jax.results.export.flame_codes.consumers import (
  coded,
  load_target,
  notes_file,
  padded,
  picture,
  pictured,
  refuse_other_heads,
)
from vht_jax.results.export.flame_codes.refit import first_components, fitted
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.png import grey_png, rgb_png
from vht_jax.results.export.scene import OPENGL, Scene
from vht_jax.results.export.selection import tracked_only

N_SHAPE, N_EXPR = 150, 65  # the last expression is a blink of its own, from a file of its own: left at 0
# As CAP4D turns joints: 0 (the torso) by its neck angle, 3 and 4 (the eyes) by one angle; the torso's rotation goes
# into the correctives that are the neck's in FLAME.
KIND = solve.Kind(turns=((0,), (3, 4)), features=(0, 2, 3, 4), bias=2.0, chained=False, about_root=False)
TORSO_WEIGHT = 0.05  # of vertices that hang on the torso, against those of the head


def to_cap4d(
  scene: Scene, *, images: bool = True, flame_model_path: str | None = None, flame_release: str | None = None
) -> Files:
  """`fit.npz`; with images also `reference_images.json`, images/cam0/ and bg/cam0/, the most frontal frame first.

  Raises:
    InputError: another head than FLAME; CAP4D's FLAME file is not named.
  """
  refuse_other_heads("cap4d", scene.model)
  if flame_model_path is None or flame_release is not None:
    raise InputError(
      "cap4d turns FLAME's joints in its own way, so that codes are always fitted anew: name its FLAME file, "
      "--flame_model_path=flame2023_no_jaw.pkl"
    )
  f, cx, cy = scene.lens
  scene = tracked_only(coded(scene, "cap4d"), "cap4d")
  model = first_components(load_target(flame_model_path), N_SHAPE, N_EXPR - 1)
  weights = np.maximum(1.0 - np.asarray(model.lbs_weights, np.float64)[:, 0], TORSO_WEIGHT)
  shape, frames, distance = fitted(KIND, scene, model, weights)
  rotation = OPENGL @ np.stack([f.rotation for f in frames])
  n = len(scene)
  column = lambda values: np.asarray(values, np.float32).reshape(-1, 1)
  expr = padded(np.stack([frame.expr for frame in frames]), N_EXPR)
  arrays = {
    "fx": column(f), "fy": column(f), "cx": column(cx), "cy": column(cy),
    "extr": np.tile(np.eye(4, dtype=np.float32), (1, 1, 1)),
    "resolutions": np.tile(np.array(scene.size), (1, 1)),
    "camera_order": np.array(["cam0"]),
    "shape": padded(shape, N_SHAPE),
    "expr": expr,
    "rot": continuous_angles(rotation).astype(np.float32),
    "tra": (np.stack([frame.position for frame in frames]) @ OPENGL.T).astype(np.float32),
    "eye_rot": continuous_angles(np.stack([frame.joints[3] for frame in frames])).astype(np.float32),
    "neck_rot": continuous_angles(np.stack([frame.joints[0] for frame in frames])).astype(np.float32),
    "fps": np.asarray(scene.fps, np.float32),
  }  # fmt: skip
  yield "fit.npz", npz_bytes(arrays, compressed=True)
  notes: dict[str, Any] = {
    "format": "cap4d", "tracked_with": scene.model.name, "codes_of": model.name, "blink": "not tracked, 0",
    "fitted_anew": distance.tell(f"cap4d: the head of {model.name}"),
  }  # fmt: skip
  if pictured(scene, images, "cap4d", notes):
    frontal = int(np.argmax(rotation[:, 2, 2]))
    order = [frontal, *(i for i in range(n) if i != frontal)]
    yield "reference_images.json", json.dumps([["cam0", i] for i in order]).encode()
    for i in range(n):
      rgb, _, mask = picture(scene, i)
      yield f"images/cam0/{i:04d}.png", rgb_png(rgb)
      if mask is not None:
        yield f"bg/cam0/{i:04d}.png", grey_png(mask)
  yield notes_file(notes)
