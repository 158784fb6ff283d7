"""A clip's codes for another FLAME file, so that its vertices lie where those of the tracked one do.

The codes of FLAME's releases mean different faces, but their meshes have the same vertices.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export import lbs
from vht_jax.results.export.flame_codes import solve
from vht_jax.results.export.flame_codes.angles import continuous_angles
from vht_jax.results.export.scene import Scene
from vht_jax.types import FlameModel, Pose

FAR_MM = 1.0  # on average; beyond, the other file does not have this face
STRIDE = 3  # every third vertex is fitted, in the mesh's order; the distance is told of all

log = logging.getLogger("vht_jax")


class Distance(NamedTuple):
  """How far the re-fitted head is from the tracked one, mm, over all vertices."""

  mean: float
  most: float
  frames: list[float]  # (T,) mean of each frame

  def tell(self, what: str) -> dict[str, Any]:
    """Says it, as a warning if it is far; the same for a file of notes."""
    level = logging.WARNING if self.mean > FAR_MM else logging.INFO
    log.log(
      level, "%s, fitted anew on the vertices: off by %.3f mm on average, %.2f mm at most", what, self.mean, self.most
    )
    return {"mean_mm": self.mean, "most_mm": self.most, "frames_mm": self.frames}


def refit(scene: Scene, target: FlameModel, n_shape: int, n_expr: int) -> tuple[Scene, Distance]:
  """The clip on another FLAME file, or on the first components of its own.

  Args:
    scene: the tracked clip.
    target: the file.
    n_shape, n_expr: its components that may be used.

  Raises:
    InputError: the file has another mesh.
  """
  model = first_components(target, n_shape, n_expr)
  shape, frames, distance = fitted(solve.FLAME, scene, model, np.ones(len(scene.neutral)))
  camera = scene.result.identity.camera
  R, T = np.asarray(camera.R, np.float64), np.asarray(camera.T, np.float64)
  f32 = lambda x: jnp.asarray(np.asarray(x, np.float32))
  joint = lambda j: continuous_angles(np.stack([f.joints[j] for f in frames]))
  poses = Pose(
    expr=f32([f.expr for f in frames]),
    rotation=f32(continuous_angles(R.T @ np.stack([f.rotation for f in frames]))),
    translation=f32((np.stack([f.position for f in frames]) - T) @ R),
    neck=f32(joint(1)),
    jaw=f32(joint(2)),
    eyes=f32(np.stack([joint(3), joint(4)], axis=1)),
  )
  identity = scene.result.identity.replace(shape=f32(shape))
  result = scene.result.replace(identity=identity, poses=poses, pose_sd=None)
  return dataclasses.replace(scene, model=model, result=result), distance


def fitted(
  kind: solve.Kind, scene: Scene, model: FlameModel, weights: np.ndarray
) -> tuple[np.ndarray, list[solve.Frame], Distance]:
  """Identity (S,), frames in the camera's frame and what is left, for a head that turns its joints as `kind` says.

  Args:
    weights: (V,) how much a vertex counts; those told of are the ones that count by more than a half.

  Raises:
    InputError: the model has another mesh.
  """
  n_vertices, n_shape, n_expr = len(scene.neutral), model.shapedirs.shape[-1], model.exprdirs.shape[-1]
  if len(model.v_template) != n_vertices:
    raise InputError(f"{model.name}: expected FLAME's mesh of {n_vertices} vertices; found {len(model.v_template)}")
  everywhere = lbs.head_of(model, n_shape, n_expr)
  rows = np.arange(0, n_vertices, STRIDE)
  some = lbs.head_of(model, n_shape, n_expr, rows)
  shape = solve.fit_identity(kind, everywhere, n_shape, scene.neutral, weights)
  told = weights > 0.5 * weights.max()
  frames: list[solve.Frame] = []
  errors = []
  for start, wanted in zip(_starts(kind, scene), map(scene.camera_vertices, range(len(scene)))):
    expr = frames[-1].expr if frames else np.zeros(n_expr)
    start = start._replace(expr=expr)
    off = np.average(wanted - solve.vertices(kind, everywhere, shape, start), axis=0, weights=weights)
    start = start._replace(position=start.position + off)
    frame = solve.fit_frame(kind, some, shape, wanted[rows], weights[rows], start)
    errors.append(1000 * np.linalg.norm(solve.vertices(kind, everywhere, shape, frame) - wanted, axis=1)[told])
    frames.append(frame)
  means = [float(e.mean()) for e in errors]
  return shape, frames, Distance(float(np.mean(means)), float(max(e.max() for e in errors)), means)


def _starts(kind: solve.Kind, scene: Scene) -> Iterator[solve.Frame]:
  """The tracked poses without expressions; where the root is no joint of its own, the head's rotation is the base."""
  for i in range(len(scene)):
    joints = scene.rotations[i].copy()
    joints[0] = np.eye(3)
    rotation = scene.root_rotation[i]
    if not kind.chained:
      rotation = rotation @ joints[1]
      joints[0], joints[1], joints[2] = joints[1].T, np.eye(3), np.eye(3)
      joints[4] = joints[3]
    yield solve.Frame(np.zeros(0), rotation, scene.root_position[i], joints)


def first_components(model: FlameModel, n_shape: int, n_expr: int) -> FlameModel:
  """The model with its first components alone."""
  n = model.shapedirs.shape[-1]
  n_shape = min(n_shape, n)  # in j_shapedirs the expression follows
  j = np.asarray(model.j_shapedirs)
  return model.replace(
    shapedirs=model.shapedirs[..., :n_shape],
    exprdirs=model.exprdirs[..., :n_expr],
    j_shapedirs=jnp.asarray(np.concatenate([j[..., :n_shape], j[..., n : n + n_expr]], axis=-1)),
  )
