"""Masks that are made one after the other and kept, for readers that come again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from vht_jax.dataset.extract import encode_png

Mask = Callable[[int], np.ndarray]  # frame -> (H, W) uint8, 255: foreground


class Kept:
  """The masks that an iterator gives, by number; compressed, some 20 kB each.

  Args:
    make: called when the first is asked for.
  """

  def __init__(self, make: Callable[[], Iterator[np.ndarray]]):
    self._make = make
    self._source: Iterator[np.ndarray] | None = None
    self._kept: list[bytes] = []

  def __call__(self, i: int) -> np.ndarray:
    """(H, W) uint8 of frame i; those before it are made first."""
    if self._source is None:
      self._source = self._make()
    while len(self._kept) <= i:
      self._kept.append(encode_png(next(self._source)))
    return np.asarray(cv2.imdecode(np.frombuffer(self._kept[i], np.uint8), cv2.IMREAD_GRAYSCALE))
