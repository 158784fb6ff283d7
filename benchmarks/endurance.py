"""Memory, file descriptors and threads over a long video: none may grow with its length.

  python benchmarks/endurance.py --frames=10000 --height=1080 --width=1920

A synthetic video goes the way of a real one: decoded by the child, written as frames, searched, tracked from its
landmarks. The detector is a stand-in that knows the landmarks, which costs nothing and leaves the images to the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import results
from vht_jax.cameras import make_camera
from vht_jax.config import TrackConfig, Weights
from vht_jax.dataset.annotate import annotate
from vht_jax.dataset.child import extract_in_child
from vht_jax.dataset.folder import FrameFolder
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.landmarks import Detection
from vht_jax.tracking.pipeline import track
from vht_jax.tracking.protocols import NoProgress
from vht_jax.types import Identity, TrackResult
from vht_jax.video.codec import write_video


class Watch(NoProgress):
  """Notes what the process holds every tenth of a stage."""

  def __init__(self):
    self.rows: list[tuple[str, int, float, int, int]] = []
    self.stage("start", 1)

  def stage(self, name: str, total: int) -> None:
    self.name, self.total, self.done, self.start = name, max(total, 1), 0, time.perf_counter()
    self.note("begins")

  def advance(self, n: int = 1, **energies: float) -> None:
    before, self.done = self.done, self.done + n
    if self.done * 10 // self.total > before * 10 // self.total:
      self.note(f"{self.done}")

  def at(self, done: int, total: int) -> None:
    self.advance(done - self.done)

  def note(self, message: str) -> None:
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    row = (self.name, self.done, rss, len(os.listdir("/proc/self/fd")), threading.active_count())
    self.rows.append(row)
    print(f"{row[0]:<10s} {message:>10s} {rss:8.0f} MB {row[3]:4d} descriptors {row[4]:3d} threads "
          f"{time.perf_counter() - self.start:8.1f} s", flush=True)  # fmt: skip


def moving_head(model, n: int, size: tuple[int, int]) -> np.ndarray:
  """(n, 70, 2) px: landmarks of a head that turns, nods and comes nearer."""
  t = jnp.arange(n, dtype=jnp.float32)
  zeros = jnp.zeros(n, jnp.float32)
  pose = flame.neutral_pose(model, jnp.array([0.0, 0.0, 1.0], jnp.float32))
  poses = jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *a.shape)), pose)
  poses = poses.replace(
    rotation=jnp.stack([0.2 * jnp.sin(t / 31), jnp.pi + 0.5 * jnp.sin(t / 47), zeros], axis=1),
    translation=jnp.stack([0.1 * jnp.sin(t / 90), zeros, 1.0 + 0.2 * jnp.sin(t / 200)], axis=1),
  )
  identity = Identity(
    shape=jnp.zeros(model.shapedirs.shape[-1]), texture=jnp.zeros(model.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)), camera=make_camera(1.8), lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  return results.projected_landmarks(model, TrackResult(identity, poses, {}, jnp.zeros(n, jnp.int32)), size)


class Knowing:
  """A detector that has the answers."""

  name = "known"

  def __init__(self, points: np.ndarray):
    self.points, self.next = points, 0

  def detect(self, rgb: np.ndarray) -> Detection:
    p = self.points[self.next]
    self.next += 1
    box = np.concatenate([p.min(axis=0), p.max(axis=0), [1.0]]).astype(np.float32)
    return Detection(box, p[:68].astype(np.float32), p[68:].astype(np.float32))

  def cut(self) -> None: ...

  def mark(self) -> dict:
    return {"next": self.next}

  def resume(self, mark: dict) -> None:
    self.next = mark["next"]


def main() -> None:
  parser = argparse.ArgumentParser()
  for name, default in (("frames", 10000), ("height", 1080), ("width", 1920)):
    parser.add_argument(f"--{name}", type=int, default=default)
  args = parser.parse_args()
  size, watch = (args.height, args.width), Watch()
  model = load_head(model="open", n_shape=10, n_texture=2)
  points = moving_head(model, args.frames, size)
  rng = np.random.default_rng(0)
  tiles = rng.integers(0, 255, (9, 16, 3), np.uint8)
  background = tiles.repeat(args.height // 9, axis=0).repeat(args.width // 16, axis=1)
  background = np.pad(background, [(0, args.height - len(background)), (0, args.width - background.shape[1]), (0, 0)])

  def frames():
    for i in range(args.frames):
      image = background.copy()
      x, y = points[i, 30].astype(int)
      image[max(y - 50, 0) : y + 50, max(x - 50, 0) : x + 50] = (i % 200, 120, 90)
      watch.advance(1)
      yield image

  with tempfile.TemporaryDirectory() as folder:
    watch.stage("write", args.frames)
    write_video(Path(folder) / "clip.mp4", frames(), 25)
    watch.stage("extract", args.frames)
    extract_in_child(Path(folder) / "clip.mp4", Path(folder) / "data", progress=watch.at)
    dataset = FrameFolder(Path(folder) / "data")
    watch.stage("detect", args.frames)
    annotate(dataset, Knowing(points), watch.at, cuts=dataset.find_cuts())
    result = track(model, dataset, TrackConfig(photometric=False), Weights(), progress=watch)
    watch.stage("images", args.frames)
    for i in range(0, args.frames, 50):  # as the report reads them; the dataset keeps some
      dataset.images(range(i, min(i + 4, args.frames)))
      watch.advance(50)
  error = np.linalg.norm(results.projected_landmarks(model, result, size) - points, axis=-1).mean()
  first, last = watch.rows[0], watch.rows[-1]
  print(f"mean landmark error {error:.2f} px; peak {max(r[2] for r in watch.rows):.0f} MB, "
        f"descriptors {first[3]} -> {last[3]}, threads {first[4]} -> {last[4]}")  # fmt: skip


if __name__ == "__main__":
  main()
