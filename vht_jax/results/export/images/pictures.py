"""The images of a dataset as `scene.Pictures`."""

from __future__ import annotations

import numpy as np

from vht_jax.dataset.folder import FrameFolder


class FolderPictures:
  """The frames of a dataset that a result has, at the tracked size."""

  def __init__(self, folder: FrameFolder, rows: np.ndarray):
    """`rows` (T,): positions in `folder` of the result's frames."""
    self.folder, self.rows = folder, np.asarray(rows)
    self.masks = "the clip's own alpha" if folder.has_alpha else ""

  def rgb(self, i: int) -> np.ndarray:
    return self.folder.image(int(self.rows[i]))

  def alpha(self, i: int) -> np.ndarray | None:
    return self.folder.alpha(int(self.rows[i]))
