"""What a run will need is compiled while its frames are decoded and searched for faces: the run is rehearsed.

The tracker goes through its stages in a thread of its own with blanks for results (`programs.rehearsal`), over a clip
of blank images of the real one's size. So the programs are the real ones without a list of them that could go out of
date. Whatever a rehearsal does not meet, or fails at, is compiled when it is needed, as without one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vht_jax import results
from vht_jax.app.overlay.film import still
from vht_jax.config import TrackConfig, Weights
from vht_jax.dataset.folder import FrameFolder
from vht_jax.host.programs import Rehearsal, rehearsal
from vht_jax.landmarks.detection import N_DENSE
from vht_jax.landmarks.regions import REGIONS
from vht_jax.option import having
from vht_jax.tracking.pipeline import track
from vht_jax.tracking.protocols import NoProgress
from vht_jax.types import FlameModel, Identity, Pose

log = logging.getLogger("vht_jax")

# Of the rehearsed clip, at most; or as many as keyframes. Most programs are for chunks of frames; that which measures a
# clip's noise is for all, but small.
FRAMES = 300
COMPILERS = 4  # each takes up to a GB; there are hardly more large programs to wait for
FACE = (0.4, 0.6)  # where its landmarks lie, as shares of the image


class BlankClip:
  """A `tracking.protocols.Clip` as the tracker will get it, but for what it shows."""

  def __init__(self, dataset: FrameFolder, n: int, dense: bool):
    """`n`: how many frames of the dataset; `dense`: whether its landmarks will have MediaPipe's mesh."""
    self.size, self.dense, self.times = dataset.size, dense, dataset.times[:n]
    self.frame_ids = dataset.frame_ids[:n]
    self.image_of_all = np.zeros((*dataset.size, 3), np.uint8)
    self.has_alpha = dataset.has_alpha

  def __len__(self) -> int:
    return len(self.times)

  def landmarks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    n, rng = len(self), np.random.default_rng(0)
    some = lambda count: (rng.uniform(*FACE, (n, count, 2)) * self.size[::-1]).astype(np.float32)
    return some(70), np.ones((n, 70), np.float32), some(N_DENSE) if self.dense else None

  def image(self, i: int) -> np.ndarray:
    return self.image_of_all

  def images(self, indices: Any) -> np.ndarray:
    return np.broadcast_to(self.image_of_all, (len(indices), *self.image_of_all.shape))

  def masks(self, indices: Any) -> np.ndarray | None:
    return self.images(indices)[..., 0] if self.has_alpha else None


class _Examined:
  """A `tracking.protocols.Checkpoint` that has looked at the images; keeps nothing."""

  def __init__(self, n: int):
    self.evidence = {
      "visible": np.ones((n, len(REGIONS)), np.float32),
      "misplaced": np.zeros(n, np.float32),
      "wrong": np.zeros(n, bool),
    }

  def load(self, stage: str) -> dict[str, np.ndarray]:
    return self.evidence if stage == "examine" else {}

  def save(self, stage: str, arrays: dict[str, np.ndarray]) -> None: ...

  def due(self) -> bool:
    return False


def rehearse(
  model: FlameModel,
  dataset: FrameFolder,
  config: TrackConfig,
  weights: Weights,
  *,
  dense: bool,
  pictures: bool = True,
) -> None:
  """Goes through tracking, judgement and pictures; to be called in a `programs.rehearsal`.

  Args:
    model, config, weights: as for `track`.
    dataset: its frames alone count.
    dense: whether the detector gives MediaPipe's mesh.
    pictures: whether some of the textured head are wanted. Where the head is small, the size of the overlay's is not
      known yet; then only the first picture's program is made.
  """
  n_named = len(set(config.data.keyframes))
  clip = BlankClip(dataset, min(len(dataset), max(FRAMES, n_named, config.n_keyframes)), dense)
  config = having(config, keyframes=tuple(range(n_named)), cutframes=())

  class Shown(NoProgress):
    def placed(self, identity: Identity, poses: Pose, seen: np.ndarray) -> None:
      if pictures:
        still(model, identity, poses, clip, 0)

  result = track(model, clip, config, weights, progress=Shown(), checkpoint=_Examined(len(clip)))
  results.projected_landmarks(model, result, clip.size)
  with tempfile.TemporaryDirectory() as folder:
    results.save_tracked(Path(folder, "blank.npz"), result, np.arange(len(clip)), clip.size, config, model)


class Compiling:
  """Says once that programs are being compiled, and on a terminal how many are done."""

  def __init__(self, say: Callable[[str], None], bar: bool):
    self.say, self.wanted = say, bar and sys.stderr.isatty()
    self.lock, self.told, self.bar = threading.Lock(), False, None

  def __call__(self, name: str) -> None:
    with self.lock:
      if not self.told:
        self.told = True
        self.say("compiling the tracker beside the work (first run only)")
        if self.wanted:
          self.bar = tqdm(desc="compiling (first run only)", position=1, leave=False, unit=" programs")
      if self.bar is not None:
        self.bar.update()

  def close(self) -> None:
    with self.lock:
      if self.bar is not None:
        self.bar.close()
      self.told, self.bar = True, None


@contextlib.contextmanager
def compiling_ahead(say: Callable[[str], None] = lambda text: None, *, bar: bool = True) -> Iterator[Callable]:
  """Gives `start(work)`, which rehearses `work()` in a thread; all is over at the end of the block.

  Args:
    say: told in one line that programs have to be compiled.
    bar: draw one, if there is a terminal.
  """
  workers = ThreadPoolExecutor(min(COMPILERS, os.cpu_count() or 1), thread_name_prefix="compile")
  told = Compiling(say, bar)
  threads = []

  def start(work: Callable[[], None]) -> None:
    def run() -> None:
      try:
        with rehearsal(Rehearsal(workers, told)), np.errstate(all="ignore"):
          work()
      except Exception as error:  # it is compiled when it is needed
        log.debug("the rehearsal ended early: %s: %s", type(error).__name__, error)

    threads.append(threading.Thread(target=run, name="rehearsal"))
    threads[-1].start()

  try:
    yield start
  finally:
    workers.shutdown(wait=False, cancel_futures=True)  # then the rehearsal ends at its next program
    told.close()
    for thread in threads:
      thread.join()
