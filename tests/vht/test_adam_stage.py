"""VHT's stages on the host: the work that a clip costs grows with its length, not with its square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.config import TrackConfig, Weights
from vht_jax.head import flame
from vht_jax.tracking.run import make_run
from vht_jax.tracking.stages import adam as adam_stage
from vht_jax.tracking.state import AdamState, TrackState

SIZE = (8, 8)


class CountingClip:
  """Counts the frames whose landmarks and images it has made; like `FrameFolder` it makes landmarks in every call."""

  size = SIZE

  def __init__(self, n):
    self.n, self.landmark_frames, self.image_frames = n, 0, 0

  def __len__(self):
    return self.n

  def landmarks(self):
    self.landmark_frames += self.n
    return np.zeros((self.n, 70, 2), np.float32), np.ones((self.n, 70), np.float32), None

  def images(self, indices):
    self.image_frames += len(indices)
    return np.zeros((len(indices), *SIZE, 3), np.uint8)


@pytest.mark.parametrize("schedule", ["batched", "sequential"])
def test_the_frames_cost_as_much_each_in_a_long_clip(small_head, monkeypatch, schedule):
  rows_checked = 0
  is_finite = np.isfinite

  def counted(a):
    nonlocal rows_checked
    rows_checked += 1 if np.ndim(a) < 2 else len(a)
    return is_finite(a)

  def no_fit(model, observations, identity, rows, references, config, weights, n_steps):
    return rows, {"total": jnp.zeros((len(references), 1, 1))}

  monkeypatch.setattr(adam_stage, "_fit_frames", no_fit)
  monkeypatch.setattr(adam_stage.np, "isfinite", counted)
  config = TrackConfig(solver="adam", schedule=schedule, batch_size=4)

  def work(n):
    nonlocal rows_checked
    clip = CountingClip(n)
    run = make_run(small_head, clip, config, Weights())
    rows_checked = 0
    raw = flame.unlimit_pose(flame.neutral_pose(small_head))
    raw = jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], n, axis=0), raw)
    adam_stage.adam_frames(TrackState(adam=AdamState(None, raw, {})), run)
    return np.array([clip.landmark_frames, clip.image_frames, rows_checked]) / n

  short, long = work(12), work(96)
  assert short[0] == long[0] == 1.0
  assert (long[1:] <= 1.5 * short[1:]).all() and long[1] <= 1.0
