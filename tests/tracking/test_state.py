"""Stages on a frozen state: where a run goes on that was killed, and that no stage changes what it was given."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit.layer import Appearance
from vht_jax.fit.unknowns import Shared
from vht_jax.tracking import pipeline
from vht_jax.tracking.protocols import NoCheckpoint, NoProgress
from vht_jax.tracking.run import BATCH, FRAME_BYTES, batch_within
from vht_jax.tracking.stages import frames
from vht_jax.tracking.state import TrackState, restore, save
from vht_jax.types import Pose

N = 10  # frames


class Memory(NoCheckpoint):
  """Keeps stages as the files would, and saves whenever it is asked."""

  def __init__(self, **stages):
    self.stages = stages

  def load(self, stage):
    return self.stages.get(stage, {})

  def save(self, stage, arrays):
    self.stages[stage] = {name: np.array(a) for name, a in arrays.items()}

  def due(self):
    return True


class Notes(NoProgress):
  def __init__(self):
    self.notes = []

  def note(self, message):
    self.notes.append(message)


def pose_of(value, n=N):
  return Pose(*(np.full((n, *shape), value, np.float32) for shape in ((4,), (3,), (3,), (3,), (3,), (2, 3))))


def begun():
  """Frames placed by their landmarks, all in the same place."""
  xs = np.zeros((N, 54), np.float32)
  xs[:, 0] = np.arange(N)
  shared = Shared(np.zeros(2), np.zeros(()), np.zeros(2), np.zeros((70, 3)))
  appearance = Appearance(np.zeros(2), np.zeros((4, 4, 3)), np.zeros((9, 3)))
  return TrackState(xs=xs, pose_sd=pose_of(1.0), shared=shared, appearance=appearance)


# --- which stages are left --------------------------------------------------------------------------------------------


def left(stages, **kept):
  progress = Notes()
  arrays = {name: save(TrackState(xs=np.full((2, 3), k), done=k)) for name, k in kept.items()}
  state, rest = pipeline.resumed(stages, progress, Memory(**arrays))
  return state, [stage.name for stage in rest], progress.notes


def test_a_run_goes_on_after_the_last_stage_that_was_kept():
  stages = pipeline.stages_of(TrackConfig(schedule="joint"))
  names = [stage.name for stage in stages]
  assert names == ["camera", "landmarks", "tracks", "identity", "frames", "joint", "smooth"]
  assert left(stages)[:2] == (TrackState(), names)
  state, rest, _ = left(stages, camera=1, landmarks=2, identity=3)
  assert rest == ["frames", "joint", "smooth"] and (state.xs == 3).all()
  state, rest, _ = left(stages, camera=1, identity=3, frames=4)
  assert rest == ["frames", "joint", "smooth"] and state.done == 4  # it says itself how far it is
  assert left(stages, frames=4, joint=5)[1] == ["smooth"]


def test_a_stage_kept_by_another_version_is_done_again():
  stages = pipeline.stages_of(TrackConfig(photometric=False))
  memory = Memory(camera=save(TrackState(done=1)), landmarks={**save(TrackState(done=2)), "pixels": np.ones(())})
  progress = Notes()
  state, rest = pipeline.resumed(stages, progress, memory)
  assert state.done == 1 and [stage.name for stage in rest] == ["landmarks", "tracks", "settle", "smooth"]
  assert len(progress.notes) == 1 and "landmarks" in progress.notes[0] and "pixels" in progress.notes[0]


@pytest.mark.parametrize(
  "settings, going_on, names",
  [
    ({"photometric": False}, False, ["camera", "landmarks", "tracks", "settle", "smooth"]),
    ({"photometric": False, "tracks": False}, False, ["camera", "landmarks", "settle", "smooth"]),
    ({}, True, ["camera", "landmarks", "frames", "smooth"]),
    ({"unordered": True}, True, ["camera", "landmarks", "frames"]),
    ({"schedule": "sequential", "tracks": False}, False, ["camera", "landmarks", "identity", "frames"]),
    ({"solver": "adam"}, False, ["camera", "landmarks", "identity", "frames"]),
    ({"solver": "adam", "init": "calibration"}, False, ["identity", "frames"]),
  ],
)
def test_the_stages_that_settings_ask_for(settings, going_on, names):
  assert [stage.name for stage in pipeline.stages_of(TrackConfig.of(**settings), going_on)] == names


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"solver": "adm"}, "solver: expected one of gn, adam; found 'adm'"),
    ({"n_shape": -5}, "n_shape: expected at least 1; found -5"),
    ({"n_shape": "thirty"}, "n_shape: expected a whole number; found 'thirty'"),
    ({"keyframes": 3}, "keyframes: expected a tuple, each a whole number; found 3"),
    ({"photometric": 1}, "photometric: expected True or False; found 1"),
    ({"focal": float("nan")}, "focal: expected a finite number"),
  ],
)
def test_wrong_settings_are_refused_from_python_too(settings, message):
  """Where a flag or a file would be: not taken for another method, or met as an error of shapes later."""
  with pytest.raises(InputError, match=message):
    TrackConfig.of(**settings)


def test_numbers_of_numpy_are_settings():
  config = TrackConfig.of(n_shape=np.int64(30), focal=np.float32(1.2), keyframes=[1, 2])
  assert config.components.n_shape == 30


# --- the frames -------------------------------------------------------------------------------------------------------


def run_of(monkeypatch, checkpoint, schedule, fatal=None):
  """As much of a `Run` as the stage needs, whose solver adds to every start the number of its frame and a tenth.

  `fatal`: the call in which it is killed. Returns the run and the first unknown of the starts, call by call.
  """
  starts = []

  def solver(surface, lm, albedo, light, shared, tracks, crops, weights, pixels, x0, *_):
    starts.append(x0[:, 0].tolist())
    if len(starts) - 1 == fatal:
      raise KeyboardInterrupt
    x = x0 + np.float32(0.1) * (crops[:, None] + 1) * np.eye(1, 54, dtype=np.float32)
    return x, 0.01 * crops.astype(np.float32), pose_of(len(starts), len(crops))

  monkeypatch.setattr(frames, "_person", lambda *of: (None,) * 4)
  monkeypatch.setattr(frames, "_fit_photometric", solver)
  monkeypatch.setattr(frames, "camera", lambda state, run: None)
  monkeypatch.setattr(frames, "believed", lambda state, weights: None)
  monkeypatch.setattr(frames, "crops_of", lambda clip, index, xs, size: index)
  monkeypatch.setattr(frames, "landmarks_of", lambda state, run, beside_colours: None)
  config = TrackConfig.of(schedule=schedule, batch_size=4, cutframes=(7,))
  run = SimpleNamespace(
    config=config, batch=config.batch_size, n_frames=N, seen=np.ones(N, bool), weights=Weights(), colored=None, lm=None,
    clip=None,
    settled_of=lambda index: None, no_skin=None, progress=NoProgress(), checkpoint=checkpoint,
  )  # fmt: skip
  return run, starts


def test_batches_cover_every_frame_once_and_change_nothing_that_was_given(monkeypatch):
  state = begun()
  before = {name: np.array(array) for name, array in save(state).items()}
  run, starts = run_of(monkeypatch, NoCheckpoint(), "batched")
  found = frames.fit_frames(state, run)
  assert starts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]  # always as many, so that one program serves
  np.testing.assert_allclose(found.xs[:, 0], np.arange(N) + 0.1 * (np.arange(N) + 1), rtol=1e-6)
  assert found.pose_sd.expr[:, 0].tolist() == [1] * 4 + [2] * 4 + [3] * 2 and found.done == N
  for name, array in save(state).items():
    np.testing.assert_array_equal(array, before[name])
  with pytest.raises(dataclasses.FrozenInstanceError):
    state.xs = found.xs


def test_sequential_frames_start_where_the_one_before_ended_but_for_cuts(monkeypatch):
  run, starts = run_of(monkeypatch, NoCheckpoint(), "sequential")
  found = frames.fit_frames(begun(), run)
  first = np.concatenate(starts)
  np.testing.assert_array_equal(first[[0, 7]], [0, 7])
  others = [k for k in range(1, N) if k != 7]
  np.testing.assert_array_equal(first[others], found.xs[:, 0][np.array(others) - 1])


@pytest.mark.parametrize("schedule, fatal", [("batched", 1), ("batched", 2), ("sequential", 5), ("sequential", 8)])
def test_frames_that_were_killed_go_on_and_end_with_the_same_numbers(monkeypatch, schedule, fatal):
  whole = frames.fit_frames(begun(), run_of(monkeypatch, NoCheckpoint(), schedule)[0])
  memory = Memory()
  with pytest.raises(KeyboardInterrupt):
    frames.fit_frames(begun(), run_of(monkeypatch, memory, schedule, fatal)[0])
  so_far = restore(TrackState, memory.load("frames"))
  assert 0 < so_far.done < N
  run, starts = run_of(monkeypatch, memory, schedule)
  again = frames.fit_frames(so_far, run)
  assert sum(map(len, starts)) < N + 2 and again.done == N
  # The standard deviations count the calls of one process here.
  for a, b in zip(*(jax.tree.leaves(s.replace(pose_sd=None)) for s in (again, whole)), strict=True):
    np.testing.assert_array_equal(a, b)


def test_batches_are_sized_by_the_memory_of_the_device():
  """Of what a frame took on an H200: 582 MB for 64 of 256 px a side, 1490 of 512; 2140 by Adam (docs/benchmarks.md)."""
  for side, solver, measured in ((256, "gn", 582e6), (512, "gn", 1490e6), (256, "adam", 2140e6)):
    fixed, each = FRAME_BYTES[solver]
    assert 64 * (fixed + each * side**2) == pytest.approx(measured, rel=0.03)
  assert batch_within(None, 256**2, "gn") == batch_within(7 << 30, 256**2, "gn") == BATCH  # a tenth of an H100
  found = [batch_within(memory << 20, 256**2, "gn") for memory in (1, 40, 600, 1200)]
  assert found == [1, 2, 32, 64]
  assert batch_within(60 << 30, 1080 * 1920, "adam") == 16  # 31 would fit
