"""Which mask the images of a clip get: --mask."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vht_jax.dataset.folder import FrameFolder
from vht_jax.errors import InputError, brief
from vht_jax.host.files import expanded
from vht_jax.masks import (
  Heads,
  Kept,
  Mask,
  UserMattes,
  covered,
  face_finder,
  heads_of_points,
  make_segmenter,
  other_faces,
  person_mattes,
  silhouette,
)
from vht_jax.masks.silhouette import GROWTH
from vht_jax.results.export.images.masks import fade_of
from vht_jax.results.export.scene import Scene

WORDS = ("auto", "person", "head", "none")
_ASKED = 10  # every so many frames a mask is compared with the head
_LEAST = 0.6  # share of the tracked head that a mask of the person has: mattes of the sample clips have 0.993 at least

log = logging.getLogger("vht_jax")


class Choice:
  """The mask of each frame at the size of the dataset's images; made when it is first asked for.

  Args:
    kind: 'auto': the clip's own alpha, else the person, else the head; 'person', 'head', or a path of mattes.
    scene: the clip at the size of the dataset's images.
    folder, rows: the dataset, and where in it the scene's frames are.

  Raises:
    InputError: the mask that was asked for by name cannot be made.
  """

  def __init__(self, kind: str, scene: Scene, folder: FrameFolder, rows: np.ndarray):
    self._kind, self._scene, self._folder, self._rows = kind, scene, folder, rows
    self._mask: Mask | None = None
    self._origin = ""
    self._warned = False
    if kind != "auto":
      self._make()

  @property
  def origin(self) -> str:
    """For people."""
    self._make()
    return self._origin

  def __call__(self, i: int) -> np.ndarray:
    """(H, W) uint8 of frame i, 255: foreground."""
    mask = self._make()(i)
    if i % _ASKED == 0 and self._kind != "head" and not self._warned:
      self._compare(i, mask)
    return mask

  def _make(self) -> Mask:
    if self._mask is None:
      self._mask, self._origin = self._chosen()
      log.info("masks: %s", self._origin)
    return self._mask

  def _chosen(self) -> tuple[Mask, str]:
    folder, rows = self._folder, self._rows
    if self._kind in ("auto", "person") and folder.has_alpha:
      return self._own_alpha, "the clip's own alpha"
    if self._kind in ("auto", "person"):
      try:
        return self._person()
      except InputError as error:
        if self._kind == "person":
          raise
        log.warning("masks: %s; the head's own silhouette instead", brief(error))
    if self._kind in ("auto", "head"):
      return self._head, "silhouette of the tracked head (no hair, no body)"
    mattes = UserMattes(
      expanded(self._kind), [folder.sources[r] for r in rows], folder.frame_ids[rows].tolist(), folder.source_size
    )
    return mattes, mattes.origin

  def _own_alpha(self, i: int) -> np.ndarray:
    alpha = self._folder.source_alpha(int(self._rows[i]))
    return np.full(self._folder.source_size, 255, np.uint8) if alpha is None else alpha

  def _person(self) -> tuple[Mask, str]:
    segment = make_segmenter()
    image = lambda i: self._folder.source_image(int(self._rows[i]))
    cuts = self._cuts()

    def mattes() -> Iterator[np.ndarray]:
      heads = self._heads(cuts)
      yield from person_mattes(image, segment, heads, self._others(heads, image), cuts)

    return Kept(mattes), f"{segment.name}, of the tracked person"

  def _head(self, i: int) -> np.ndarray:
    screen = self._screen(i)
    seen = screen[np.unique(np.asarray(self._scene.model.faces)), 1]
    found = silhouette(screen, np.asarray(self._scene.model.faces), self._scene.size, GROWTH * float(np.ptp(seen)))
    return np.minimum(found, np.round(fade_of(self._scene, i) * 255).astype(np.uint8))

  def _screen(self, i: int) -> np.ndarray:
    return np.concatenate([self._scene.pixels(i), self._scene.camera_vertices(i)[:, 2:]], axis=1)

  def _heads(self, cuts: list[int]) -> Heads:
    tracked = self._scene.tracked
    wanted = tracked if tracked.any() else np.ones_like(tracked)
    points = [self._scene.landmarks(i)[:68] if seen else None for i, seen in enumerate(wanted)]
    return heads_of_points(points, cuts)

  def _others(self, heads: Heads, image) -> list[np.ndarray] | None:
    with face_finder("masks") as faces:
      return None if faces is None else other_faces(heads, image, faces)

  def _cuts(self) -> list[int]:
    """Frames of the scene that do not follow the one before them."""
    starts = set(self._folder.find_cuts())
    rows = [int(r) for r in self._rows]
    pairs = enumerate(zip(rows, rows[1:]), start=1)
    return [i for i, (a, b) in pairs if b != a + 1 or b in starts]

  def _compare(self, i: int, mask: np.ndarray) -> None:
    if not self._scene.tracked[i]:
      return
    share = covered(mask, silhouette(self._screen(i), np.asarray(self._scene.model.faces), self._scene.size))
    if share < _LEAST:
      self._warned = True
      log.warning(
        "masks: in frame %d they have %.0f %% of the tracked head; %s", self._scene.frame_ids[i], 100 * share,
        "look at them" if self._kind in WORDS else "is white the person there, and are they of this clip?",
      )  # fmt: skip


def check_kind(kind: str) -> None:
  """Refuses what is neither a word nor a path (`InputError`)."""
  if kind not in WORDS and not (kind and Path(expanded(kind)).exists()):
    raise InputError(f"--mask: expected {', '.join(WORDS)}, or a folder or video of mattes; found {kind!r}")
