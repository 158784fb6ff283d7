"""FLAME's numbers as bare arrays, as speech-to-face and animation code (AnimPortrait3D) reads them."""

from __future__ import annotations

import io

import numpy as np

from vht_jax.results.export.flame_codes.consumers import Consumer, for_consumer, notes_file, padded
from vht_jax.results.export.flame_codes.places import plain_poses
from vht_jax.results.export.format import Files
from vht_jax.results.export.scene import Scene

PLAIN = Consumer("flame-arrays", "2020", 300, 100)


def to_flame_arrays(scene: Scene, *, flame_model_path: str | None = None, flame_release: str | None = None) -> Files:
  """expressions.npy (T, 100), poses.npy (T, 15): root, neck, jaw, eyes, axis-angle, and shape.npy (300,).

  The root's rotation is before a camera that looks along -z, y up, so that a head that looks into it has none.
  """
  scene, notes = for_consumer(scene, PLAIN, flame_model_path, flame_release)
  poses = plain_poses(scene)
  yield "expressions.npy", _npy(padded(scene.expr, PLAIN.n_expr))
  yield "poses.npy", _npy(poses)
  yield "shape.npy", _npy(padded(scene.shape, PLAIN.n_shape))
  yield notes_file(notes)


def _npy(values: np.ndarray) -> bytes:
  data = io.BytesIO()
  np.save(data, np.asarray(values, np.float32))
  return data.getvalue()
