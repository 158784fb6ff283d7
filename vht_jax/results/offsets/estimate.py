"""The offsets of a person's head from the masks of some frames: rounds of drawing the head and moving its outline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import cameras
from vht_jax.fit import offsets as heights
from vht_jax.fit.offsets import Skin
from vht_jax.fit.terms import silhouette
from vht_jax.head import flame
from vht_jax.host.programs import rows_of, stored
from vht_jax.render.raster import rasterize
from vht_jax.results.export.scene import Scene
from vht_jax.results.offsets.folds import unfolded
from vht_jax.results.offsets.outlines import pulls_of
from vht_jax.results.offsets.views import SIDE, View
from vht_jax.types import Array

# m, distances at which a point of the outline counts half, from round to round: hair of 4 cm is within reach at first,
# and what is farther from the surface than that in the end is something else, a hand or a strap.
DOUBTS = (0.04, 0.04, 0.03, 0.03, 0.02, 0.02, 0.02)


def estimated(
  scene: Scene, views: Sequence[View], skin: Skin, progress: Callable[[int], None] = lambda n: None
) -> np.ndarray:
  """(V,) m: by how much a head is farther out than its codes say, along the directions of its prior.

  Args:
    scene: the tracked clip, of a head without offsets.
    views: of some of its frames.
    skin: the prior for the person.
    progress: told of every view that is drawn.
  """
  height = np.zeros(len(scene.model.v_template), np.float32)
  faces = np.asarray(scene.model.faces)
  for doubt in DOUBTS:
    sums = np.zeros_like(height), np.zeros_like(height)
    for view in views:
      moved, seen, bary = drawn(scene, skin, height, view)
      pulls = pulls_of(view, faces, seen, bary, float(moved.per_metre), doubt)
      sums = summed(moved, pulls, height, skin.sd, *sums)
      progress(1)
    height = np.asarray(solved(skin, *sums, height))
    height = unfolded(scene.neutral, faces, height, np.asarray(skin.direction))
  return height


def drawn(scene: Scene, skin: Skin, height: np.ndarray, view: View) -> tuple[silhouette.Moved, np.ndarray, np.ndarray]:
  """The head with these heights (V,) in a view's window: how its vertices go with them, and what the pixels see."""
  pose, size = rows_of(scene.result.poses, np.asarray(view.frame)), np.asarray(scene.size, np.float32)
  window = view.origin.astype(np.float32), np.float32(view.scale), size
  moved, seen, bary = _drawn(scene.model, scene.result.identity, skin, height, pose, *window)
  return moved, np.asarray(seen), np.asarray(bary)


@stored
def _drawn(model, identity, skin, height, pose, origin, scale, size):
  """`silhouette.Moved` of ONE frame, and what its window sees: faces (S, S), where on them (S, S, 3)."""
  offset = height[:, None] * skin.direction
  person = flame.with_offset(model, offset)
  vertices = flame.skin(person, identity.shape, pose)
  # Skinning is linear in a vertex' place: its transform of the direction is how the vertex goes with its height.
  rest = flame.joints(model, identity.shape, pose.expr)
  turns = flame.skinning(model, rest, flame.pose_matrices(pose))[0][:, :, :3]
  way = jnp.sum(turns * skin.direction[:, None, :], -1)

  def pixels(points: Array) -> Array:
    centred = cameras.project(identity.camera.replace(principal=jnp.zeros(2)), points, (1, 1))
    xy = centred[:, :2] * jnp.max(size) + (identity.camera.principal * size[::-1])[None]
    return jnp.concatenate([(xy - origin[None]) * scale, centred[:, 2:]], -1)

  screen, slopes = jax.jvp(pixels, (vertices,), (way,))
  fragments = rasterize(screen, model.faces, (SIDE, SIDE), cull_backfaces=False)
  per_metre = identity.camera.focal * jnp.max(size) * scale / jnp.mean(screen[:, 2])
  moved = silhouette.Moved(pixels=screen[:, :2], slopes=slopes[:, :2], per_metre=per_metre)
  return moved, fragments.pix_to_face, fragments.bary_coords


@stored
def summed(moved, pulls, height, sd, curvature, right):
  a, b = silhouette.normal_diagonal(moved, pulls, height, sd)
  return curvature + a, right + b


@stored
def solved(skin, curvature, right, start):
  return heights.solve(skin, curvature, right, start)
