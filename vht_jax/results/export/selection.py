"""Some frames of a scene."""

from __future__ import annotations

import dataclasses
import logging

import jax
import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export.images.views import as_viewed
from vht_jax.results.export.scene import Scene

_PER_FRAME = ("poses", "energies", "status", "confidence", "region_confidence", "visible", "misplaced", "pose_sd")

log = logging.getLogger("vht_jax")


def tracked_only(scene: Scene, name: str) -> Scene:
  """The frames in which a face was tracked: others are bridged, and would teach a wrong pose. `name`: the format.

  Raises:
    InputError: there are none.
  """
  rows = np.flatnonzero(scene.tracked)
  if len(rows) == len(scene):
    return scene
  if not len(rows):
    raise InputError(f"{name}: no frame of this result was tracked")
  log.info("%s: %d frames without a tracked face are left out", name, len(scene) - len(rows))
  return frames_of(scene, rows)


def frames_of(scene: Scene, rows: np.ndarray) -> Scene:
  """The frames at these rising positions (N,), the first at 0 s."""
  chosen = {field: jax.tree.map(lambda x: np.asarray(x)[rows], getattr(scene.result, field)) for field in _PER_FRAME}
  return dataclasses.replace(
    scene, result=scene.result.replace(**chosen), intrinsics=scene.intrinsics[rows], frame_ids=scene.frame_ids[rows],
    times=scene.times[rows] - scene.times[rows[0]],
    pictures=None if scene.pictures is None else as_viewed(scene.pictures, scene.size, len(scene)).only(rows),
  )  # fmt: skip
