"""Compiling ahead: a rehearsal meets the programs that the run then needs, and never gets in its way."""

import threading

import jax
import numpy as np
import pytest

from vht_jax.app import ahead
from vht_jax.config import TrackConfig, Weights
from vht_jax.host import programs
from vht_jax.tracking import pipeline

SIZE = (96, 128)
SMALL = TrackConfig.of(
  n_calibration_frames=4, n_keyframes=2, batch_size=2, crop_size=64, n_samples=100, identity_steps=3
)
LANDMARKS = {"_landmark_model", "_observe", "initial", "_bundle", "fold_landmarks", "_fit_frames", "_to_poses"}
IMAGES = {"_surface", "_fit_keyframes", "_person", "_fit_photometric"}
SMOOTH = {"_matrices", "_information", "_variance", "_noise", "_left_out", "_followed", "_within"}
# Of all frames at once: how noisy a clip is and who follows it. For another length they are other programs, small ones.
OF_THE_LENGTH = {"_noise", "_followed"}


class Frames:
  """As much of a `FrameFolder` as is there before its faces are searched."""

  def __init__(self, n=40, size=SIZE):
    self.times, self.size, self.has_alpha = np.arange(n) / 25.0, size, False
    self.frame_ids = list(range(1, n + 1))

  def __len__(self):
    return len(self.times)


class Idle:
  """Workers that compile nothing, but know what they should have."""

  def __init__(self):
    self.names = set()

  def submit(self, work):
    self.names.add(work.__self__._flat.__name__)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  (tmp_path / "programs").mkdir()
  monkeypatch.setattr(programs, "folder", tmp_path / "programs")


def names(model, config, **how):
  """The programs that a rehearsal asks for."""
  workers = Idle()
  with programs.rehearsal(programs.Rehearsal(workers)), np.errstate(all="ignore"):
    ahead.rehearse(model, Frames(), config, Weights(), dense=True, **how)
  return workers.names


@pytest.mark.slow
def test_after_a_rehearsal_the_run_traces_nothing(small_head):
  """The real calls have the very shapes and types of the rehearsed ones, but for two if the length is another."""
  config = TrackConfig.of(n_calibration_frames=4, photometric=False)
  rehearsed = names(small_head, config, pictures=False)
  assert rehearsed >= OF_THE_LENGTH
  kept = lambda: {path.name for path in programs.folder.iterdir()}
  for n, others in ((40, set()), (12, OF_THE_LENGTH)):
    before = kept()
    clip = ahead.BlankClip(Frames(), n, True)
    pipeline.track(small_head, clip, config, Weights(), checkpoint=ahead._Examined(n))
    assert {name.partition("-")[0] for name in kept() - before} == others


@pytest.mark.slow
def test_programs_are_rehearsed_and_can_be_made_for_an_accelerator(small_head, every_machine, monkeypatch):
  """In 32 bits, and without a call of this process's Python, which no device could wait for.

  With images and without in one test: what one rehearsal has made, a second one in this process finds.
  """
  export, texts = jax.export.export, {}

  def exported(fun):
    def of(*leaves):
      found = export(fun, platforms=("cuda", "tpu"))(*leaves)
      texts[fun.__name__] = found.mlir_module()
      return found

    return of

  monkeypatch.setattr(jax.export, "export", exported)
  landmarks = TrackConfig.of(n_calibration_frames=4, photometric=False, keyframes=(1, 35), cutframes=(38,))
  with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):  # not those that this process has
    by_landmarks = names(small_head, landmarks, pictures=False)
    by_images = names(small_head, SMALL, pictures=True)
  wanted = LANDMARKS | SMOOTH | {"_project"}
  assert by_landmarks >= wanted and by_images >= wanted | IMAGES | {"pictures"}
  assert texts.keys() >= by_landmarks | by_images
  for name, text in texts.items():
    assert "xf64>" not in text and "callback" not in text, name


def test_what_goes_wrong_in_a_rehearsal_is_nobodys_error(capsys):
  def broken():
    raise ValueError("this is not a clip")

  before = threading.active_count()
  with ahead.compiling_ahead(bar=False) as start:
    start(broken)
    start(lambda: None)
  assert capsys.readouterr() == ("", "") and threading.active_count() == before


def test_it_is_said_once_that_programs_are_compiled():
  said = []
  compiling = ahead.Compiling(said.append, bar=False)
  for name in ("_bundle", "_fit_frames"):
    compiling(name)
  compiling.close()
  compiling("_late")
  assert len(said) == 1 and "first run" in said[0]
