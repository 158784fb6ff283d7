"""`vht-track --export`: what a run writes of its result in other formats, and what it refuses beforehand."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from export_clip import FRAMES, make_result

from vht_jax.app import run
from vht_jax.app.options import settings
from vht_jax.app.result import export_cli
from vht_jax.app.result.after import check_exports, export_run
from vht_jax.app.result.source import _other_source, open_result
from vht_jax.dataset.folder import FrameFolder
from vht_jax.errors import InputError
from vht_jax.results.export.flame_codes.consumers import Consumer
from vht_jax.results.export.flame_codes.releases import RELEASES
from vht_jax.results.export.flame_family import FORMATS
from vht_jax.results.export.registry import export


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
  flame_2023 = flame_head.replace(name="FLAME (flame2023.pkl)")
  check_exports("glb,vhap", flame_2023)
  for name, file in (("nha", "generic_model.pkl"), ("cap4d", "flame2023_no_jaw.pkl")):
    with pytest.raises(InputError, match=f"vht-export --to={name} --flame_model_path={file}"):
      check_exports(f"csv,{name}", flame_2023)
  with pytest.raises(InputError, match="fitted anew"):  # CAP4D's always
    check_exports("cap4d", flame_head.replace(name="FLAME (flame2023_no_jaw.pkl)"))


def test_formats_name_the_release_that_their_writers_check():
  for one in FORMATS:
    consumers = [v for v in vars(sys.modules[one.load().__module__]).values() if isinstance(v, Consumer)]
    assert {c.release for c in consumers if c.name == one.name} <= {one.release} and one.release in RELEASES


def test_a_run_refuses_before_it_makes_frames(clip_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(run, "fit", None)
  flags = [f"--data_path={clip_folder / 'dataset'}", f"--output_path={tmp_path / 'out'}", "--export=glb,nonsense"]
  with pytest.raises(InputError, match="nonsense"):
    run.run(settings.parse([*flags, "--nocompilation_cache", "--model=open"]))


def test_clips_and_formats_share_a_folder(clip_scene, tmp_path):
  for name, formats in (("one", "glb,usda"), ("two", "glb"), ("one", "obj"), ("one", "pc2"), ("two", "obj")):
    export(dataclasses.replace(clip_scene, name=name), formats, tmp_path)
  found = {p.name for p in tmp_path.iterdir()}
  assert {"one.glb", "one.usda", "one.png", "one.obj", "one.mtl", "one.pc2", "two.glb", "two.mtl"} <= found
  # The older sequence of that format is gone with its camera; the other format's camera stays.
  assert {name for name in found if name.startswith("one_")} == {"one_pc2_camera.json"}
  assert "two_obj_camera.json" in found


def test_a_file_is_no_folder_to_write_to(clip_scene, tmp_path):
  (tmp_path / "mine").write_text("mine")
  with pytest.raises(InputError, match="mine: expected a folder to write to, found a file"):
    export(clip_scene, "csv", tmp_path / "mine")
  assert (tmp_path / "mine").read_text() == "mine"


def test_a_refused_format_is_named_and_leaves_no_folder(clip_scene, tmp_path):
  moving = dataclasses.replace(clip_scene, intrinsics=clip_scene.intrinsics + np.arange(len(FRAMES))[:, None])
  with pytest.raises(InputError, match="^glb: --crop=frame: this format has one camera"):
    export(moving, "csv,glb", tmp_path / "out")
  assert (tmp_path / "out" / "clip_frames.csv").is_file()  # what was written before stays
  lost = dataclasses.replace(clip_scene, result=clip_scene.result.replace(status=np.ones(len(FRAMES), int)))
  with pytest.raises(InputError, match="^nerf: no frame of this result was tracked"):
    export(lost, "nerf", tmp_path / "none")
  assert not (tmp_path / "none").exists()


def test_home_folders_in_paths(clip_folder, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "clip").symlink_to(clip_folder)
  own = {"to": "csv", "out": "~/mine", "data_path": "~/clip/dataset", "model": "open"}
  (written,) = export_cli.run("~/clip", own, {})
  assert written.parent == tmp_path / "mine" and written.is_file() and not (tmp_path / "~").exists()


def test_images_of_another_clip_are_told_of(clip_folder, tmp_path):
  source = open_result(str(clip_folder))
  row = int(np.flatnonzero(source.image_rows >= 0)[0])
  names = np.array([f"mine.mp4#{i}" for i in range(len(FRAMES))])
  tracked = dataclasses.replace(source.tracked, sources=names)
  images = SimpleNamespace(sources=[f"mine.mp4#{i}" for i in range(len(FRAMES))])
  assert _other_source(tracked, images, source.image_rows) == ""
  images.sources[source.image_rows[row]] = "yours.mp4#0"
  assert "'yours.mp4#0' there and 'mine.mp4#" in _other_source(tracked, images, source.image_rows)
  assert _other_source(source.tracked, images, source.image_rows) == ""  # the file names none
