"""From a tracked clip to the offsets of the person in it."""

from __future__ import annotations

import logging

import jax.numpy as jnp
import numpy as np

from vht_jax.dataset.folder import FrameFolder
from vht_jax.fit.offsets import Skin
from vht_jax.head import flame
from vht_jax.masks import covered, make_segmenter
from vht_jax.results.export.scene import Scene, make_scene
from vht_jax.results.offsets.bust import bust_of
from vht_jax.results.offsets.estimate import DOUBTS, drawn, estimated
from vht_jax.results.offsets.skin import make_skin
from vht_jax.results.offsets.views import N_VIEWS, View, chosen_frames, make_view, mattes_of
from vht_jax.tracking.protocols import NoProgress, Progress
from vht_jax.types import FlameModel, Status, TrackResult

LEAST = 0.9  # share of the tracked head that a mask has: those of the sample clips have 0.993 at least
FEWEST = 2  # views that agree; of a single image there is only one

log = logging.getLogger("vht_jax")


def check_masks(folder: FrameFolder) -> None:
  """Refuses, before a clip is tracked, one that no masks can be had of (`InputError`)."""
  if not folder.has_alpha:
    make_segmenter().close()


def n_views(result: TrackResult) -> int:
  """How many views `with_offsets` draws at most."""
  return len(DOUBTS) * min(N_VIEWS, int(np.sum(np.asarray(result.status) == Status.TRACKED)))


def with_offsets(
  model: FlameModel, folder: FrameFolder, result: TrackResult, progress: Progress | None = None
) -> TrackResult:
  """A result whose head is as large as the person's outline: `identity.static_offset`.

  The head is then `flame.with_offset(model, result.identity.static_offset)`. Poses and codes stay as they are, and so
  does the face.

  Args:
    model: the head that the codes are of.
    folder: the clip: its images, or their own alpha.
    result: T frames; those that are not tracked are left out.
    progress: told of every view that is drawn.

  Returns:
    `result` as it is where no frame shows the person's outline, which is told.

  Raises:
    InputError: there are no masks and no model that makes some.
  """
  progress = progress or NoProgress()
  result = result.replace(identity=result.identity.replace(static_offset=None))
  scene = make_scene(model, result, folder.size)
  frames = chosen_frames(scene)
  skin = make_skin(model, np.asarray(result.identity.shape))
  masks = mattes_of(scene, folder, frames.tolist()) if len(frames) else []
  views = [make_view(scene, int(i), mask) for i, mask in zip(frames, masks)]
  seen = [_seen(scene, skin, view) for view in views]
  kept = [k for k, (view, head) in enumerate(zip(views, seen)) if share(view, head) >= LEAST]
  good = [views[k] for k in kept]
  if len(good) < min(FEWEST, max(len(frames), 1)):
    progress.note("--offsets: the masks do not show the tracked head; its surface stays as its codes have it")
    return result
  if len(good) < len(views):
    log.info("offsets: %d of %d masks have the tracked head", len(good), len(views))
  # The rim is let down to the bust, unless the masks have nothing there: they may be of heads alone.
  bust, down = bust_of(model)
  lowered = make_scene(flame.with_offset(model, jnp.asarray(down)), result, folder.size)
  below = [_seen(lowered, skin, view) & ~seen[k] & view.known for k, view in zip(kept, good)]
  if sum((new & (view.matte > 0.5)).sum() for new, view in zip(below, good)) >= LEAST * np.sum(below):
    scene, skin = lowered, make_skin(lowered.model, np.asarray(result.identity.shape), bust)
  else:
    down = np.zeros_like(down)
  height = estimated(scene, good, skin, progress.advance)
  log.info("offsets: %d views, %.1f mm at most", len(good), 1000 * height.max(initial=0.0))
  offset = jnp.asarray(height[:, None] * np.asarray(skin.direction) + down)
  return result.replace(identity=result.identity.replace(static_offset=offset))


def _seen(scene: Scene, skin: Skin, view: View) -> np.ndarray:
  """(S, S) bool, where a view's window sees the head of a scene."""
  return drawn(scene, skin, np.zeros(len(scene.model.v_template), np.float32), view)[1] >= 0


def share(view: View, head: np.ndarray) -> float:
  """How much of the head (S, S), as its codes have it, a view's mask has (`masks.covered`)."""
  as_bytes = lambda mask: np.where(mask & view.known, np.uint8(255), np.uint8(0))
  return covered(as_bytes(view.matte > 0.5), as_bytes(head))
