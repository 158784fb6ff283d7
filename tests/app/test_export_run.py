"""`vht-track --export`: what a run writes of its result in other formats, and what it refuses beforehand."""

from types import SimpleNamespace

import numpy as np
import pytest
from export_clip import FRAMES, make_result

from vht_jax.app import run
from vht_jax.app.options import settings
from vht_jax.app.result.after import check_exports, export_run
from vht_jax.dataset.folder import FrameFolder
from vht_jax.errors import InputError


def test_formats_are_written_into_the_output_folder(open_head, clip_folder, tmp_path):
  dataset = FrameFolder(clip_folder / "dataset")
  outcome = SimpleNamespace(output=tmp_path / "mine", model=open_head, dataset=dataset, result=make_result(open_head))
  written = export_run(outcome, "glb,nerf,csv")
  export = tmp_path / "mine" / "export"
  assert written == [export / "mine.glb", export / "nerf", export / "mine_frames.csv"]
  assert len(list((export / "nerf" / "images").iterdir())) == len(FRAMES)
  times = np.loadtxt(export / "mine_frames.csv", delimiter=",", skiprows=1, usecols=1)
  np.testing.assert_allclose(times, dataset.times, atol=1e-6)


def test_refused_before_tracking(open_head, flame_head):
  check_exports(None, open_head)
  check_exports("glb", open_head)
  with pytest.raises(InputError, match="no such export format: 'fbx'"):
    check_exports("glb,fbx", open_head)


def test_a_run_refuses_before_it_makes_frames(clip_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(run, "fit", None)
  flags = [f"--data_path={clip_folder / 'dataset'}", f"--output_path={tmp_path / 'out'}", "--export=glb,nonsense"]
  with pytest.raises(InputError, match="nonsense"):
    run.run(settings.parse([*flags, "--nocompilation_cache", "--model=open"]))
