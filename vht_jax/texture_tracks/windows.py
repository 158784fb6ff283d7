"""How frames are looked at: where the head is thought to be, and windows on it."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from vht_jax.host.programs import prefetched, rehearsing
from vht_jax.texture_tracks.following.view import local_contrast, look, window_of

WINDOW = 512  # px, side of the windows through which frames are seen: 2.2 px per mm of skin
BATCH = 8  # frames per call
KEPT = 1024  # frames whose windows stay in memory, 256 kB each; those of longer clips are made anew in each round


class Estimate:
  """Poses (T, ...) of the mean head as they were given (R0, t0) and as they are thought to be now, and the camera."""

  def __init__(self, R0, t0, R, t, focal: float, principal: np.ndarray, side: int):
    self.R0, self.t0, self.R, self.t, self.focal, self.principal, self.side = R0, t0, R, t, focal, principal, side

  def correction(self) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3, 3), (T, 3): camera coordinates of then -> of now."""
    turn = np.einsum("tij,tkj->tik", self.R, self.R0)
    return turn.astype(np.float32), (self.t - np.einsum("tij,tj->ti", turn, self.t0)).astype(np.float32)

  def moved(self, R, t, known: np.ndarray, focal: float, principal: np.ndarray, pivot: np.ndarray) -> Estimate:
    """With another camera, and other poses of the frames that are `known` (T,).

    The others are shown at the place and size that they were, but for how those before and after them have moved, seen
    from the head: `pivot` (3,) is a point of it.
    """
    about = self.R @ pivot
    at = self.t + about
    px = at[:, :2] / at[:, 2:] * self.focal * self.side + self.principal
    depth = at[:, 2:] * focal / self.focal
    same = np.concatenate([(px - principal) / (focal * self.side) * depth, depth], -1) - about
    frames, others = np.flatnonzero(known), np.flatnonzero(~known)
    if len(frames) and len(others):
      turn = Rotation.from_matrix(np.einsum("tji,tjk->tik", self.R[frames], R[frames])).as_rotvec()
      shift = np.einsum("tji,tj->ti", self.R[frames], t[frames] - same[frames])
      between = lambda a: np.stack([np.interp(others, frames, column) for column in a.T], -1)
      same[others] += np.einsum("tij,tj->ti", self.R[others], between(shift))
      R = np.array(R)
      R[others] = self.R[others] @ Rotation.from_rotvec(between(turn)).as_matrix()
    t = np.where(known[:, None], t, same)
    return Estimate(self.R0, self.t0, R, t, focal, principal, self.side)


class Windows:
  """The windows of n frames (`frames`, positions in the clip); of the first `KEPT` they are kept over the rounds."""

  def __init__(self, clip, frames: np.ndarray, state: Estimate, middle: np.ndarray):
    at = state.R[frames] @ middle + state.t[frames]
    focal = state.focal * state.side
    if rehearsing():  # poses are blank: anywhere, at a finite size
      at, focal = at * 0 + 1, 1000.0
    places = np.concatenate([at[:, :2] / at[:, 2:] * focal + state.principal, focal / at[:, 2:]], -1)
    spans = [window_of(place, WINDOW) for place in places]
    self.frames, self._clip = frames, clip
    self.scale = np.array([scale for scale, _ in spans], np.float32)  # (n,) window px per image px
    self.corner = np.array([corner for _, corner in spans], np.float32)  # (n, 2) image px
    n = min(len(frames), KEPT)
    self._contrast = np.zeros((n, WINDOW, WINDOW), np.uint8)
    self.bright = np.zeros(n, np.float32)  # of 255, the middle of the face
    inner = slice(WINDOW // 4, -WINDOW // 4)

    def work(start):
      index = np.arange(start, min(start + BATCH, n))
      for k, grey in zip(index, self.grey(index)):
        self._contrast[k], self.bright[k] = local_contrast(grey), np.median(grey[inner, inner])

    for _ in prefetched(work, range(0, n, BATCH)):
      pass

  def grey(self, rows: np.ndarray) -> np.ndarray:
    """(k, WINDOW, WINDOW) of some of them."""
    images = self._clip.images(self.frames[rows])
    return np.stack([look(image, float(self.scale[k]), self.corner[k], WINDOW) for k, image in zip(rows, images)])

  def contrast(self, rows: np.ndarray) -> np.ndarray:
    """(k, WINDOW, WINDOW) uint8 of `local_contrast`."""
    out = self._contrast[np.minimum(rows, len(self._contrast) - 1)]
    late = np.flatnonzero(rows >= len(self._contrast))
    if len(late):
      out[late] = [local_contrast(grey) for grey in self.grey(rows[late])]
    return out

  def to_image(self, px: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Points (n, K, 2) window px of some of them -> image px."""
    return px / self.scale[rows, None, None] + self.corner[rows, None]
