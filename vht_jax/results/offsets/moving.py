"""How a person's surface moves from frame to frame beside what codes and static offsets say: hair that swings, collars.

A second pass over all frames. Each frame's mask pulls the outline of the person's head as it does for static offsets;
what the surface does is small, smooth, alike in frames that follow each other, and nothing on the face.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

from vht_jax.dataset.folder import FrameFolder
from vht_jax.fit.offsets import PATCH, Skin
from vht_jax.head import flame
from vht_jax.results.export.scene import Scene, make_scene
from vht_jax.results.offsets.estimate import drawn, solved, summed
from vht_jax.results.offsets.find import LEAST, share
from vht_jax.results.offsets.folds import unfolded
from vht_jax.results.offsets.outlines import pulls_of
from vht_jax.results.offsets.skin import make_skin
from vht_jax.results.offsets.views import View, each_matte, make_view
from vht_jax.tracking.protocols import NoProgress, Progress
from vht_jax.types import FlameModel, TrackResult

SMALL = 0.4  # of what a person's own heights may be: hair of 3 cm swings by one
STEP_SD = 0.006  # m from frame to frame, over a square decimetre; from 3 to 12 mm the outline comes out the same
DOUBT = 0.02  # m, distance at which a point of the outline counts half, as in the last round of static offsets
ROUNDS = 2  # of drawing a frame's head and moving its outline

log = logging.getLogger("vht_jax")


def with_moving_surface(
  model: FlameModel,
  folder: FrameFolder,
  result: TrackResult,
  starts: Collection[int] = (),
  progress: Progress | None = None,
) -> TrackResult:
  """A result with offsets of each frame, `poses.offset`, beside the person's own; all else stays as it is.

  Args:
    model: the head that the codes are of.
    folder: the clip: its images, or their own alpha.
    result: T frames; those that are not tracked get what their neighbours have.
    starts: frames that begin a shot, or follow no other: what the surface does there says nothing of the one before.
    progress: told of every frame.

  Raises:
    InputError: there are no masks and no model that makes some.
  """
  progress = progress or NoProgress()
  result = result.replace(poses=result.poses.replace(offset=None))
  person = flame.with_offset(model, result.identity.static_offset)
  own = result.replace(identity=result.identity.replace(static_offset=None))
  scene = make_scene(person, own, folder.size)
  skin = make_skin(person, np.asarray(result.identity.shape))
  # Hair swings to one side: what the other side does says nothing.
  itself = np.arange(len(skin.sd), dtype=np.int32)
  skin = skin.replace(sd=SMALL * np.asarray(skin.sd), mirrored=itself)
  surface = _Surface(scene, skin)
  mattes = each_matte(scene, folder, np.flatnonzero(scene.tracked).tolist(), starts)
  for t in range(len(scene)):
    last = [t - 1] if t > 0 and t not in starts else []
    surface.look(make_view(scene, t, next(mattes)) if scene.tracked[t] else None, t, last)
    progress.advance(1)
  for t in reversed(range(len(scene) - 1)):
    if t + 1 not in starts:
      surface.follow(t, [t + 1] if t == 0 or t in starts else [t - 1, t + 1])
  height = surface.height
  log.info("dynamic offsets: %d frames, %.1f mm at most", len(scene), 1000 * np.abs(height).max(initial=0.0))
  offset = height[:, :, None] * np.asarray(skin.direction)
  return result.replace(poses=result.poses.replace(offset=jnp.asarray(offset)))


class _Surface:
  """Heights of T frames and what masks ask of them. Forwards a frame follows the one before, backwards both count."""

  def __init__(self, scene: Scene, skin: Skin):
    self.scene, self.skin, self.faces = scene, skin, np.asarray(scene.model.faces)
    self.height = np.zeros((len(scene), len(skin.sd)), np.float32)  # (T, V) m
    self.curvature, self.right = np.zeros_like(self.height), np.zeros_like(self.height)
    self.tie = (np.asarray(skin.area) / (PATCH * STEP_SD) ** 2).astype(np.float32)

  def look(self, view: View | None, t: int, last: list[int]) -> None:
    """Frame t by its view, if it has one whose mask is of the tracked head, and the frame before, if that is `last`."""
    if last:
      self.height[t] = self.height[t - 1]
    zero = np.zeros(len(self.skin.sd), np.float32)
    for _ in range(ROUNDS):
      if view is not None:
        moved, seen, bary = drawn(self.scene, self.skin, self.height[t], view)
        if share(view, seen >= 0) >= LEAST:
          pulls = pulls_of(view, self.faces, seen, bary, float(moved.per_metre), DOUBT)
          self.curvature[t], self.right[t] = summed(moved, pulls, self.height[t], self.skin.sd, zero, zero)
      self.follow(t, last)

  def follow(self, t: int, neighbours: list[int]) -> None:
    """The most probable heights of frame t by what its mask asks and what these neighbours have."""
    curvature = self.curvature[t] + len(neighbours) * self.tie
    right = self.right[t] + self.tie * self.height[neighbours].sum(axis=0)
    found = np.asarray(solved(self.skin, curvature, right, self.height[t]))
    self.height[t] = unfolded(self.scene.neutral, self.faces, found, np.asarray(self.skin.direction))
