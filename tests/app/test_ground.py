"""The ground that the programs run on: home folders, the working folder, text encodings, runs side by side."""

import os
import pwd
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vht_jax.app import doctor, inputs
from vht_jax.app.options import settings
from vht_jax.app.options.app_config import AppConfig
from vht_jax.dataset.child import extract_in_child
from vht_jax.errors import InputError
from vht_jax.head.load import load_head
from vht_jax.host import files, launch, programs
from vht_jax.host.device import start_jax
from vht_jax.option import get, options
from vht_jax.video.codec import write_video

REPO = Path(__file__).resolve().parents[2]


# --- ~ ---


PATH_FLAGS = ("config", "video", "data_path", "output_path", "face_landmarker", "assets", "model", "truth",
              "load_tracked_flame_params")  # fmt: skip


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "x").write_text("max_frames = 7\n")
  parsed = settings.parse([f"--{name}=~/x" for name in PATH_FLAGS])
  for name in PATH_FLAGS:
    assert get(parsed.app, name) == str(tmp_path / "x"), name
  assert parsed.app.input.max_frames == 7
  (tmp_path / "b.ini").write_text("".join(f"{name} = ~/y\n" for name in PATH_FLAGS if name != "config"))
  parsed = settings.parse(["--config=~/b.ini"])
  assert all(get(parsed.app, name) == str(tmp_path / "y") for name in PATH_FLAGS if name != "config")
  parsed = settings.parse(["--shape_from=~/x"])  # which does not go with all of them
  assert parsed.app.head.shape_from == str(tmp_path / "x")
  optional = {key for key, option in options(AppConfig).items() if option.kind == (str | None)}
  assert optional - {"export"} | {"model"} == {*PATH_FLAGS, "shape_from"}  # export lists formats


def test_a_tilde_in_vht_assets(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("VHT_ASSETS", "~/heads")
  with pytest.raises(InputError) as error:
    load_head(model="flame")
  assert str(tmp_path / "heads") in str(error.value) and "~" not in str(error.value)


@pytest.fixture
def nobody(monkeypatch):
  """A user whom the system does not know, without $HOME: a container run under a number."""

  def unknown(*_):
    raise KeyError

  for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, "getpwuid", unknown)
  monkeypatch.setattr(pwd, "getpwnam", unknown)
  monkeypatch.setattr(programs, "folder", None)


@pytest.mark.faults
def test_a_tilde_without_a_home_is_one_line(nobody):
  with pytest.raises(InputError, match="there is no home folder here"):
    settings.parse(["--output_path=~/x"])
  assert settings.parse(["--output_path=~x"]).app.output.output_path == "~x"  # a name, of nobody's home


@pytest.mark.faults
def test_a_user_without_a_home(nobody, caplog):
  assert files.cache_folder() is None
  start_jax()
  assert programs.folder is None and "$XDG_CACHE_HOME names one" in caplog.text
  found = list(doctor.folders())[-1]
  assert not found.ok and not found.needed and "no home folder" in found.text


@pytest.mark.faults
def test_a_home_that_cannot_be_written(monkeypatch, caplog, tmp_path):
  (tmp_path / "file").touch()
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "x"))
  monkeypatch.setattr(programs, "folder", None)
  start_jax()
  assert programs.folder is None and "can be written" in caplog.text
  assert not list(doctor.folders())[-1].ok


# --- the working folder ---


@pytest.fixture
def trap(tmp_path):
  """A folder with modules that end whoever imports them, and a video."""
  for name in ("json", "queue", "logging", "numpy"):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('executed')")
  write_video(tmp_path / "a.mp4", [np.full((32, 48, 3), 90, np.uint8)] * 3, 25)
  return tmp_path


@pytest.mark.faults
@pytest.mark.parametrize("module", ["vht_jax", "vht_jax.fleet.cli"])
def test_no_module_of_the_working_folder_is_executed(trap, module):
  run = subprocess.run(
    [sys.executable, "-m", module, "--help"], cwd=trap, env={**os.environ, "PYTHONPATH": str(REPO)},
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert run.returncode == 0 and "executed" not in run.stderr + run.stdout, run.stderr


def test_libraries_are_calm_unless_the_user_says_otherwise(monkeypatch):
  monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
  found = launch.environment(GLOG_minloglevel="1")
  assert (found["OPENBLAS_NUM_THREADS"], found["TF_CPP_MIN_LOG_LEVEL"], found["GLOG_minloglevel"]) == ("1", "0", "1")


@pytest.mark.faults
@pytest.mark.parametrize("pythonpath", [None, "", f":{REPO}", f"{REPO}:"])
def test_the_decoder_executes_none_either(trap, monkeypatch, pythonpath):
  monkeypatch.chdir(trap)
  monkeypatch.delenv("PYTHONPATH", raising=False)
  if pythonpath is not None:
    monkeypatch.setenv("PYTHONPATH", pythonpath)
  assert extract_in_child(trap / "a.mp4", trap / "data").n_frames == 3
  assert "" not in launch.environment().get("PYTHONPATH", "x").split(os.pathsep)


def test_other_programs_keep_their_working_folder(tmp_path):
  (tmp_path / "mine.py").write_text("import vht_jax, sys; print(sys.path[0])")
  for command in (["mine.py"], ["-m", "mine"], ["-c", "import vht_jax, sys; print(sys.path[0] or '.')"]):
    run = subprocess.run(
      [sys.executable, *command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True,
      text=True, timeout=60,
    )  # fmt: skip
    assert run.stdout.strip() in (str(tmp_path), "."), run.stdout + run.stderr


# --- text ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_marks_of_editors(tmp_path, encoding):
  text = "[dataset]\r\nvideo = Müller.mp4\r\nmax_frames = 4\r\n"
  mark = "﻿" if encoding == "utf-16-be" else ""
  (tmp_path / "a.ini").write_bytes((mark + text).encode(encoding))
  assert settings.read_ini(tmp_path / "a.ini") == {"video": "Müller.mp4", "max_frames": 4}


@pytest.mark.faults
@pytest.mark.parametrize("encoding", ["utf-16-le", "latin-1", "cp037"])
def test_other_encodings_are_one_line(tmp_path, encoding):
  (tmp_path / "a.ini").write_bytes("video = Müller.mp4\n".encode(encoding))
  with pytest.raises(InputError, match="expected an .ini text file.*save it as UTF-8"):
    settings.read_ini(tmp_path / "a.ini")


# --- side by side ---


def test_a_second_run_waits_until_the_first_has_prepared_the_frames(tmp_path, caplog):
  order = []

  def second():
    with inputs.preparing(tmp_path / "data"):
      order.append("second")

  with inputs.preparing(tmp_path / "data"):
    other = threading.Thread(target=second)
    other.start()
    while "waiting for it" not in caplog.text:
      time.sleep(0.01)
    order.append("first")
  other.join(timeout=30)
  assert order == ["first", "second"]


@pytest.mark.faults
def test_frames_that_another_run_reads_are_not_deleted(tmp_path):
  write_video(tmp_path / "a.mp4", [np.full((32, 48, 3), 90, np.uint8)] * 2, 25)
  one = settings.parse([f"--video={tmp_path / 'a.mp4'}", f"--data_path={tmp_path / 'data'}"]).app
  with inputs.reading(one), inputs.reading(one):  # any number may read
    extract_in_child(tmp_path / "a.mp4", tmp_path / "data")
    with pytest.raises(InputError, match="another run is using these frames.*--data_path"):
      inputs.forget_dataset(tmp_path / "data")
    assert (tmp_path / "data" / "frame_0002" / "image_0000.png").exists()
  inputs.forget_dataset(tmp_path / "data")
  assert not (tmp_path / "data" / "frame_0002").exists()


def test_a_dataset_of_others_gets_no_lock(tmp_path):
  (tmp_path / "data" / "frame_0001").mkdir(parents=True)
  with inputs.reading(settings.parse([f"--data_path={tmp_path / 'data'}"]).app):
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["frame_0001"]


@pytest.mark.skipif(os.name == "nt", reason="processes are not asked there")
def test_what_a_living_process_is_writing_stays(tmp_path):
  living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
  dead = subprocess.Popen([sys.executable, "-c", ""])
  dead.wait()
  names = {pid: tmp_path / f".image_0000.png.{pid}.tmp" for pid in (living.pid, dead.pid, os.getpid())}
  for path in (*names.values(), tmp_path / ".x.tmp", tmp_path / "image_0000.png"):
    path.touch()
  try:
    files.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {names[living.pid].name, "image_0000.png"}
  finally:
    living.communicate(b"\n")
  files.sweep(tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {"image_0000.png"}
