"""What the tracker asks of others: a clip to track, somebody who is told of it, and somewhere to keep what is done."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from vht_jax.types import Identity, Pose


class Clip(Protocol):
  """What the tracker needs to know of a video; `dataset.folder.FrameFolder` is one."""

  size: tuple[int, int]  # (H, W) of the images as tracked

  def __len__(self) -> int: ...

  def landmarks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(T, 70, 2) px, confidence (T, 70) with 0 for what is missing, dense (T, 478, 2) px or None (NaN: missing)."""
    ...

  def images(self, indices) -> np.ndarray:
    """(n, H, W, 3) uint8 RGB.

    A clip may also have `masks(indices)`, (n, H, W) uint8 or None: what is below 128 is not the person, and
    Gauss-Newton does not compare it.
    """
    ...

  # `beliefs()`, (T, 70) and (T, 478) in (0, 1], or None: the share of its usual weight that each point has where frames
  # are fitted one by one.
  # And, where frames are not evenly spaced, `times` (T,) in seconds or `frame_ids` (T,) (`keyframes.frame_times`).


class Progress(Protocol):
  """Receives what happens; `app.console.Progress` draws a bar."""

  def stage(self, name: str, total: int) -> None: ...

  def advance(self, n: int = 1, **energies: float) -> None: ...

  def note(self, message: str) -> None: ...

  def placed(self, identity: Identity, poses: Pose, seen: np.ndarray) -> None:
    """Told, once the landmarks are fitted, where the head is in the `seen` (T,) frames; its looks are not known yet."""
    ...


class NoProgress(Progress):
  """Ignores what happens."""

  def stage(self, name: str, total: int) -> None:
    pass

  def advance(self, n: int = 1, **energies: float) -> None:
    pass

  def note(self, message: str) -> None:
    pass

  def placed(self, identity: Identity, poses: Pose, seen: np.ndarray) -> None:
    pass


class Checkpoint(Protocol):
  """Keeps what is finished, so that a killed run goes on; `app.record.Checkpoint` has files.

  What it gives back is taken for the same clip, head and settings: that is the caller's to check.
  """

  def load(self, stage: str) -> dict[str, np.ndarray]:
    """What was saved for a stage; empty if nothing was."""
    ...

  def save(self, stage: str, arrays: dict[str, np.ndarray]) -> None:
    """Keeps the end of a stage, or what there is of it so far, in place of what was kept before."""
    ...

  def due(self) -> bool:
    """Whether it is time to save within a stage."""
    ...


class NoCheckpoint(Checkpoint):
  """Keeps nothing."""

  def load(self, stage: str) -> dict[str, np.ndarray]:
    return {}

  def save(self, stage: str, arrays: dict[str, np.ndarray]) -> None:
    pass

  def due(self) -> bool:
    return False
