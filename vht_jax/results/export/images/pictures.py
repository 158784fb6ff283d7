"""The images of a dataset as `scene.Pictures`."""

from __future__ import annotations

import numpy as np

from vht_jax.dataset.folder import FrameFolder
from vht_jax.video.pixels import BACKGROUND


def straight(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
  """The colours (H, W, 3) of an image that the extraction has laid over `BACKGROUND` by its alpha (H, W), without that.

  An image that shows something else where alpha is 0 (whose mask was put beside it later) is given back as it is.
  """
  clear = alpha == 0
  if not clear.any() or (rgb[clear] != BACKGROUND).any():
    return rgb
  share = alpha[..., None].astype(np.float32) / 255
  colours = (rgb - BACKGROUND * (1 - share)) / np.maximum(share, 1 / 255)
  return np.where(clear[..., None], rgb, np.round(np.clip(colours, 0, 255))).astype(np.uint8)


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
