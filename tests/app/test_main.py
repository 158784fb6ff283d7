"""The app from the outside: what it writes, what it prints, how it fails. The tracker itself is tested elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from test_results import make_result

from vht_jax import results
from vht_jax.app import cli as app
from vht_jax.app import demo, inputs, record
from vht_jax.app.options import settings
from vht_jax.config import TrackConfig
from vht_jax.dataset.extract import extract_frames
from vht_jax.dataset.keypoints import write_keypoints
from vht_jax.host import programs
from vht_jax.host.device import start_jax
from vht_jax.landmarks import Detection
from vht_jax.types import Status

REPO = Path(__file__).resolve().parents[2]
SIZE = (64, 80)
FIGURES = {
  "frames", "tracked", "nme68_median", "nme51_median", "iris_median", "jitter_ratio", "photometric_l1",
  "seconds_total", "frames_per_second", "stage_seconds", "peak_rss_mb",
}  # fmt: skip
TRUTH_FIGURES = {
  "vertex_mm", "face_mm", "vertex_rigid_mm", "face_rigid_mm", "focal_error", "rotation_deg", "jaw_deg", "gaze_deg",
}  # fmt: skip


@pytest.fixture(autouse=True)
def undisturbed(tmp_path, monkeypatch):
  """A working folder of its own, and no trace left in JAX's configuration."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))  # the app then leaves XLA's cache alone
  monkeypatch.setattr(programs, "folder", None)
  for name in ("VHT_ASSETS", "VHT_FACE_LANDMARKER"):
    monkeypatch.delenv(name, raising=False)


@pytest.fixture
def result(open_head):
  """The answer of the tracker that the clip is made from."""
  truth = make_result(open_head, n=5)
  return truth.replace(timing={"camera": 1.0}, status=np.full(5, Status.TRACKED, np.int32))


@pytest.fixture
def clip(tmp_path, open_head, result):
  """A dataset of five frames in VHT's layout whose landmarks are those of `result`; the last frame has no face."""
  points = results.projected_landmarks(open_head, result, SIZE)
  rng = np.random.default_rng(0)
  for i in range(5):
    folder = tmp_path / "clip" / f"frame_{i + 1:04d}"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "image_0000.png"), rng.integers(0, 255, (*SIZE, 3), np.uint8))
    found = Detection(np.array([0, 0, 9, 9, 1.0]), points[i, :68], points[i, 68:]) if i < 4 else None
    write_keypoints(folder / "keypoints_static_0000.json", found, "test")
  return tmp_path / "clip"


@pytest.fixture
def tracker(monkeypatch, result):
  """Replaces the tracker by one that knows the answer; gives the arguments it was called with."""
  calls = {}

  def track(model, dataset, config, weights, *, init=None, camera=None, progress=None, checkpoint=None, **_):
    calls.update(model=model, dataset=dataset, config=config, weights=weights, init=init, camera=camera)
    n = len(dataset)
    progress.stage("camera", n)
    progress.advance(n, energy=1.0)
    status = np.where(dataset.valid, Status.TRACKED, Status.INTERPOLATED).astype(np.int32)
    energies = {"photo": np.zeros(n, np.float32)}
    fitted = results.fit_components(result, model)
    return fitted.replace(poses=jax.tree.map(lambda x: x[:n], fitted.poses), status=status, energies=energies)

  monkeypatch.setattr("vht_jax.tracking.pipeline.track", track)
  monkeypatch.setattr("vht_jax.app.ahead.rehearse", lambda *of, **how: None)  # it would be called there, too
  return calls


def test_a_run_writes_everything(clip, tracker, result, open_head, tmp_path, capsys):
  truth = tmp_path / "truth.npz"
  results.save_tracked(truth, result, np.arange(1, 6), SIZE, TrackConfig(), open_head.name)
  argv = [f"--data_path={clip}", f"--truth={truth}", "--model=open", "--sd_expr=0.7", "--tensorboard"]
  assert app.main(argv) == 0
  output = tmp_path / "out" / "clip"
  printed = capsys.readouterr()
  assert "tracked 4 of 5 frames" in printed.out and "out/clip" in printed.out
  said = [line.split(" done in ")[0] for line in printed.err.splitlines()]
  assert said == ["vht-track: camera: 5 frames", "vht-track: report: 5 frames"]
  assert len(printed.out.splitlines()) < 24

  tracked = results.load_tracked(output / results.FILE_NAME, open_head)
  np.testing.assert_allclose(tracked.result.poses.jaw, result.poses.jaw, atol=1e-5)
  assert tracked.result.status.tolist() == [0, 0, 0, 0, Status.INTERPOLATED]
  assert tracked.head == open_head.name and tracked.image_size == SIZE

  summary = json.loads((output / "summary.json").read_text())
  assert set(summary) >= FIGURES | TRUTH_FIGURES
  assert summary["frames"] == 5 and summary["tracked"] == 4
  # Detections are written with three decimals; the head is the truth itself.
  assert summary["nme68_median"] < 0.1 and summary["vertex_mm"] < 0.01 and summary["rotation_deg"] < 0.01
  assert 0 < summary["photometric_l1"] < 1
  assert {"detect", "camera", "report"} <= set(summary["stage_seconds"])
  assert summary["frames_per_second"] == pytest.approx(5 / summary["seconds_total"])

  again = settings.make_settings(settings.read_ini(output / "config.ini"))
  assert again.weights.sd_expr == 0.7 and again.app.input.data_path == str(clip)
  assert again.app.output.output_path == str(Path("out") / "clip")
  assert "tracked 4 of 5 frames" in (output / "track.log").read_text()
  assert cv2.VideoCapture(str(output / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 5
  assert any((output / "tensorboard").iterdir())
  page = (output / "report.html").read_text()
  assert '"Tracked","value":"4","detail":"of 5 frames"' in page


@pytest.fixture
def flat(monkeypatch):
  """Draws a grey picture instead of the head, and reports have no 3D view: both take long and are tested elsewhere."""

  def pictures(model, look, identity, poses, origins, scale, frame, size, clay):
    n = len(poses.expr)
    return np.full((n, *size, 3), 0.5, np.float32), np.ones((n, *size), np.float32)

  monkeypatch.setattr("vht_jax.app.overlay.draw.pictures", pictures)
  monkeypatch.setattr("vht_jax.app.overlay.draw.make_look", lambda model, identity: None)
  monkeypatch.setattr("vht_jax.app.report.page.even_texture", lambda model, identity: None)
  monkeypatch.setattr("vht_jax.app.report.page.glb_bytes", lambda *of, **how: b"")


def test_settings_reach_the_tracker(clip, tracker, flat, tmp_path):
  argv = [f"--data_path={clip}", "--output_path=here", "--keyframes", "0", "2", "--max_frames=3", "--nooverlay"]
  argv.append("--noreport")
  assert app.main([*argv, "--n_shape=20", "--tracking_resolution", "32", "40", "--model=open", "--sd_jaw=0.25"]) == 0
  assert tracker["config"].data.keyframes == (0, 2) and tracker["weights"].sd_jaw == 0.25
  assert tracker["dataset"].size == (32, 40) and len(tracker["dataset"]) == 3
  assert tracker["model"].shapedirs.shape[-1] == 20
  assert not (tmp_path / "here" / "overlay.mp4").exists() and not (tmp_path / "here" / "report.html").exists()
  assert results.read_npz(tmp_path / "here" / results.FILE_NAME)["rotation"].shape == (3, 3)
  assert json.loads((tmp_path / "here" / "summary.json").read_text())["photometric_l1"] is not None


def test_config_of_vht_with_only_its_paths_changed(clip, tracker, flat, tmp_path):
  from test_settings import VHT_INI

  text = VHT_INI.replace("DATA_PATH", str(clip)).replace("OUTPUT_PATH", str(tmp_path / "o"))
  text = text.replace("[512,512]", "[64,64]").replace("[137, 339, 521, 613, 581]", "[2, 3]")
  (tmp_path / "person.ini").write_text(text)
  assert app.main(["--config", "person.ini", "--model=open"]) == 0
  assert tracker["config"].adam.init_steps == 400 and tracker["dataset"].size == (51, 64)
  # What we wrote reads as a config as well, and runs the same again.
  assert app.main(["--config", str(tmp_path / "o" / "config.ini"), "--nooverlay"]) == 0


def test_resume(clip, tracker, flat, tmp_path):
  argv = [f"--data_path={clip}", "--output_path=o", "--model=open", "--nooverlay"]
  assert app.main([*argv, "--max_frames=3"]) == 0
  assert tracker["init"] is None
  go_on = [*argv, "--load_tracked_flame_params=o/tracked_flame_params.npz"]
  assert app.main(go_on) == 2  # the folder holds a run of three frames
  assert app.main([*go_on, "--restart"]) == 0
  assert tracker["init"].poses.rotation.shape == (5, 3)
  assert tracker["init"].status.tolist() == [0, 0, 0, Status.NO_FACE, Status.NO_FACE]


def test_codes_of_another_head(clip, tracker, flat, tmp_path, result, capsys):
  """Refused before the long work; with the flag the camera alone reaches the tracker. The head is on the terminal."""
  results.save_tracked(tmp_path / "f.npz", result, np.arange(1, 6), SIZE, TrackConfig(), "FLAME (x.pkl)")
  argv = [f"--data_path={clip}", "--model=open", "--nooverlay", "--load_tracked_flame_params=f.npz"]
  assert app.main(argv) == 2
  error = capsys.readouterr().err
  assert "its codes are of the head 'FLAME (x.pkl)'" in error and error.count("\n") == 1
  assert app.main([*argv, "--allow_other_head", "--restart"]) == 0
  assert tracker["init"] is None and float(tracker["camera"].focal) == pytest.approx(1.7)
  printed = capsys.readouterr()
  assert "open head (open_head.npz); its codes are not FLAME's" in printed.out
  assert "its camera alone is taken" in printed.err
  saved = results.read_npz(tmp_path / "out" / "clip" / results.FILE_NAME)
  assert str(saved["vht_jax_head"]).startswith("open head") and len(str(saved["vht_jax_head_id"])) == 12


def test_video_is_extracted_and_reused(tracker, flat, clip, tmp_path, monkeypatch):
  from vht_jax.video.codec import write_video

  rng = np.random.default_rng(1)
  write_video("talk.mp4", (rng.integers(0, 255, (*SIZE, 3), np.uint8) for _ in range(5)), 25)
  searched = []

  class Detector:
    name = "test"

    def cut(self):
      pass

    def mark(self):
      return {}

    def resume(self, mark):
      pass

    def detect(self, rgb):
      searched.append(rgb.shape)
      points = rng.uniform(10, 60, (68, 2))
      return Detection(np.array([0, 0, 9, 9, 1.0]), points)

    def close(self):
      pass

  monkeypatch.setattr("vht_jax.app.inputs.make_detector", lambda *a, **k: Detector())
  argv = ["--video=talk.mp4", "--model=open", "--nooverlay"]
  assert app.main(argv) == 0
  data = tmp_path / "out" / "talk" / "dataset"
  assert (data / "frame_0005" / "keypoints_static_0000.json").exists() and len(searched) == 5
  assert app.main([*argv, "--output_path=again", f"--data_path={data}"]) == 0
  assert len(searched) == 5  # nothing is done twice
  assert app.main([*argv, "--restart"]) == 0
  assert len(searched) == 10


def test_a_finished_run_is_left_alone_and_its_report_can_be_made_again(clip, tracker, flat, tmp_path, capsys):
  argv = [f"--data_path={clip}", "--output_path=o", "--model=open", "--nooverlay"]
  assert app.main(argv) == 0
  result, tracker["model"] = (tmp_path / "o" / results.FILE_NAME).read_bytes(), None
  assert app.main(argv) == 0
  assert "this run is finished (4 of 5 frames tracked)" in capsys.readouterr().out
  assert app.main([*argv[:-1]]) == 0  # now with the overlay
  assert (tmp_path / "o" / "overlay.mp4").exists()
  assert tracker["model"] is None and (tmp_path / "o" / results.FILE_NAME).read_bytes() == result
  assert app.main([*argv, "--sd_color=0.5"]) == 2
  error = capsys.readouterr().err
  assert "sd_color: 0.03 -> 0.5" in error and "--restart" in error and "--output_path" in error
  assert app.main([*argv, "--sd_color=0.5", "--restart"]) == 0
  assert tracker["model"] is not None and (clip / "frame_0005").exists()  # a dataset that is not ours stays


def test_a_damaged_result_is_made_again(clip, tracker, flat, tmp_path, capsys):
  argv = [f"--data_path={clip}", "--output_path=o", "--model=open", "--nooverlay", "--noreport"]
  assert app.main(argv) == 0
  path = tmp_path / "o" / results.FILE_NAME
  whole = path.read_bytes()
  path.write_bytes(whole[:1000])
  tracker.clear()
  assert app.main(argv) == 0
  assert tracker and path.read_bytes() == whole and "tracked again" in capsys.readouterr().err


def test_everybody_gets_a_folder(tracker, flat, tmp_path, monkeypatch, capsys):
  from vht_jax.video.codec import write_video

  rng = np.random.default_rng(1)
  write_video("two.mp4", (rng.integers(0, 255, (*SIZE, 3), np.uint8) for _ in range(5)), 25)
  faces = []

  class Detector:
    name = "test"

    def faces(self, rgb):
      return [np.zeros(5, np.float32)] * 2

    def detect(self, rgb):
      return Detection(np.array([0, 0, 9, 9, 1.0]), rng.uniform(10, 60, (68, 2)))

    def cut(self): ...

    def mark(self):
      return {}

    def close(self): ...

  def make_detector(*_, face="largest", **__):
    faces.append(face)
    return Detector()

  monkeypatch.setattr("vht_jax.app.inputs.make_detector", make_detector)
  assert app.main(["--video=two.mp4", "--model=open", "--nooverlay", "--face=all", "--nofind_cuts"]) == 0
  assert faces[1:] == [0, 1]
  for i in range(2):
    assert (tmp_path / "out" / "two" / f"face_{i}" / results.FILE_NAME).exists()
    assert (tmp_path / "out" / "two" / "dataset" / "frame_0003" / f"keypoints_face{i}_0000.json").exists()
  assert "face 1 of 2" in capsys.readouterr().out


def test_restart_leaves_a_dataset_that_we_did_not_make(clip):
  inputs.forget_dataset(clip)
  assert len(list(clip.iterdir())) == 5


def test_restart_without_the_video_keeps_its_frames(clip, tracker, flat, tmp_path):
  """They could not be made again."""
  (clip / "source.json").write_text("{}")
  argv = [f"--data_path={clip}", f"--output_path={tmp_path / 'kept'}", "--model=open", "--noreport", "--nooverlay"]
  assert app.main([*argv, "--restart"]) == 0
  assert len(list(clip.glob("frame_*"))) == 5


@pytest.mark.faults
@pytest.mark.parametrize(
  "argv, message",
  [
    ([], "nothing to track: give --video=clip.mp4"),
    (["--video=nowhere.mp4"], "nowhere.mp4: no such video"),
    (["--data_path=nowhere"], "nowhere: no such dataset folder"),
    (["--video=text.mp4"], "text.mp4"),
    (["--video=empty.mp4"], "empty.mp4"),
    (["--video=folder"], "folder"),
    (["--data_path=folder"], "folder"),
    (["--data_path=clip", "--keyframes=2,99"], "keyframes: 99 is out of range"),
    (["--data_path=clip", "--keyframes=4"], "keyframes: no face was found in frame 4"),
    (["--data_path=faceless"], "no face"),
    (["--data_path=clip", "--load_tracked_flame_params=short.npz"], "short.npz: expected an npz"),
    (["--data_path=clip", "--load_tracked_flame_params=no.npz"], "no.npz: no such file"),
    (["--data_path=clip", "--truth=no.npz"], "no.npz: no such file"),
    (["--data_path=clip", "--output_path=text.mp4"], "text.mp4: the output folder cannot be made"),
    (["--data_path=clip", "--device=abacus"], "device: expected one of"),
    (["--data_path=clip", "--device=tpu"], "device: JAX finds no tpu"),
    (["--data_path=clip", "--model=no_head.pkl"], "no_head.pkl"),
    (["--config=clip.ini"], "unknown key 'keyframe'; did you mean 'keyframes'?"),
    (["--keyframe=1"], "did you mean 'keyframes'?"),
  ],
)
def test_what_a_user_can_cause_is_one_line_and_exit_code_2(argv, message, clip, tmp_path, capsys):
  (tmp_path / "text.mp4").write_text("this is not a video\n" * 100)
  (tmp_path / "empty.mp4").touch()
  (tmp_path / "folder").mkdir()
  (tmp_path / "clip.ini").write_text("keyframe = [1]\n")
  (tmp_path / "short.npz").write_bytes(b"PK\x03\x04 and then nothing")
  for i in (1, 2):
    folder = tmp_path / "faceless" / f"frame_{i:04d}"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "image_0000.png"), np.zeros((*SIZE, 3), np.uint8))
    write_keypoints(folder / "keypoints_static_0000.json", None, "test")
  assert app.main([*argv, "--model=open"] if not any("--model" in a for a in argv) else argv) == 2
  error = capsys.readouterr().err
  assert error.startswith("vht-track: error: ") and message in error
  assert error.count("\n") == 1


@pytest.mark.faults
def test_an_unexpected_error_is_one_line_with_the_traceback_in_the_log(clip, monkeypatch, tmp_path, capsys):
  def track(*_, **__):
    raise ZeroDivisionError("a\nb")

  monkeypatch.setattr("vht_jax.tracking.pipeline.track", track)
  argv = [f"--data_path={clip}", "--output_path=o", "--model=open"]
  assert app.main(argv) == 1
  error = capsys.readouterr().err
  assert error == f"vht-track: error: ZeroDivisionError: a (traceback in {Path('o') / 'track.log'})\n"
  assert "Traceback" in (tmp_path / "o" / "track.log").read_text()
  with pytest.raises(ZeroDivisionError):
    app.main([*argv, "--debug"])


@pytest.mark.faults
def test_interrupt_ends_quietly(clip, monkeypatch, capsys):
  def track(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr("vht_jax.tracking.pipeline.track", track)
  monkeypatch.setattr("vht_jax.app.ahead.rehearse", lambda *of, **how: None)
  assert app.main([f"--data_path={clip}", "--model=open"]) == 130
  assert "interrupted" in capsys.readouterr().err


def test_vhts_cuda_runs_on_a_machine_without(clip, tracker, flat, capsys):
  if any(d.platform == "gpu" for d in jax.devices()):
    pytest.skip("this machine has a GPU")
  assert app.main([f"--data_path={clip}", "--device=cuda", "--model=open", "--nooverlay"]) == 0
  assert "running on the CPU" in capsys.readouterr().err


def test_demo_tracks_the_clip_that_ships_unless_told_otherwise(tmp_path, monkeypatch):
  mine = settings.parse(["--video=mine.mp4"])
  assert demo.prepare(mine) == mine
  (tmp_path / "assets" / "demo").mkdir(parents=True)
  monkeypatch.setattr(demo, "packaged", lambda name: tmp_path / name)
  with pytest.raises(app.InputError, match="demo clip"):
    demo.prepare(settings.parse([]))
  for name in ("demo.mp4", "truth.npz"):
    (tmp_path / "assets" / "demo" / name).touch()
  chosen = demo.prepare(settings.parse(["--max_frames=5"])).app
  assert chosen.output.output_path == "out/demo" and chosen.head.model == "open" and chosen.input.max_frames == 5
  assert chosen.input.video.endswith("demo.mp4") and chosen.output.truth.endswith("truth.npz")


@pytest.mark.parametrize("command", [["-m", "vht_jax"], [str(REPO / "vht_jax" / "optimize_tracking.py")]])
def test_entry_points(command, tmp_path):
  """Both names of the app start, the second one as a plain file from anywhere."""
  environment = {**os.environ, "PYTHONPATH": str(REPO) if "-m" in command else ""}
  run = subprocess.run(
    [sys.executable, *command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
  )
  assert run.returncode == 0 and "--keyframes" in run.stdout and run.stderr == ""
  run = subprocess.run(
    [sys.executable, *command, "--no_such_flag"], cwd=tmp_path, env=environment, capture_output=True, text=True
  )
  assert run.returncode == 2 and run.stderr.startswith("vht-track: error: unknown flag") and run.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
  code = (
    "import sys; from vht_jax.app.cli import main; main(['--help']); "
    "print([m for m in ('cv2', 'mediapipe', 'av', 'torch', 'tensorboardX', 'tqdm') if m in sys.modules])"
  )
  run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
  assert run.stdout.splitlines()[-1] == "[]", run.stdout[-200:] + run.stderr


def test_who_has_seen_enough_of_the_help_gets_no_traceback():
  code = "import sys; from vht_jax.app.cli import main; sys.exit(main(['--helpfull']))"
  read, write = os.pipe()
  with subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=write, stderr=subprocess.PIPE) as process:
    os.close(read)
    os.close(write)
    assert process.communicate(timeout=120)[1] == b"" and process.returncode == 0


def test_the_process_that_waits_imports_nothing_of_the_work():
  code = (
    "import sys, vht_jax.__main__; "
    "print([m for m in ('jax', 'numpy', 'absl', 'vht_jax.app', 'vht_jax.config') if m in sys.modules])"
  )
  run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
  assert run.stdout == "[]\n", run.stdout + run.stderr


def test_importing_the_package_does_not_import_jax():
  """The app sets XLA's log level, which is read when jax is imported, so `vht_jax/__init__.py` has to be lazy."""
  code = "import sys, vht_jax; print('jax' in sys.modules)"
  run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
  assert run.stdout == "False\n", run.stderr


def test_everything_that_the_wheel_carries_is_there():
  import tomllib

  project = tomllib.loads((REPO / "pyproject.toml").read_text())
  for source in project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]:
    assert (REPO / source).exists(), source
  assert set(project["project"]["scripts"].values()) == {
    "vht_jax.fleet.cli:cli", *(f"vht_jax.__main__:{name}" for name in ("track", "demo", "doctor", "export", "view")),
  }  # fmt: skip


@pytest.mark.slow
def test_demo_end_to_end(tmp_path, capsys):
  """The embedded clip, its first second, with the real tracker."""
  if not settings.packaged("assets/demo/demo.mp4").exists():
    pytest.skip("the demo clip is not there yet")
  assert app.main(["--max_frames=25"], demo.prepare) == 0
  summary = json.loads((tmp_path / "out" / "demo" / "summary.json").read_text())
  assert summary["tracked"] == 25
  assert summary["nme68_median"] < 3.0 and summary["vertex_mm"] < 4.0


@pytest.mark.parametrize("flags, environment, kept", [
  ([], {}, "home/vht_jax/programs"),
  ([], {"JAX_COMPILATION_CACHE_DIR": "own"}, "own/vht_jax_programs"),
  ([], {"JAX_COMPILATION_CACHE_DIR": "gs://bucket"}, None),
  (["--nocompilation_cache"], {}, None),
  (["--nocompilation_cache"], {"JAX_COMPILATION_CACHE_DIR": "own"}, None),
])  # fmt: skip
def test_where_programs_are_kept(flags, environment, kept, monkeypatch):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.setenv("XDG_CACHE_HOME", "home")
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  changed = {}
  monkeypatch.setattr(jax.config, "update", changed.__setitem__)
  machine = settings.parse(flags).app.machine
  start_jax(machine.device, machine.compilation_cache)
  assert programs.folder == (Path(kept) if kept else None)
  assert changed.get("jax_compilation_cache_dir") == (None if flags or environment else "home/vht_jax/xla")


def test_several_inputs_one_of_them_broken(clip, tracker, flat, tmp_path, capsys):
  (tmp_path / "broken.mp4").write_text("no film")
  images = tmp_path / "person"
  images.mkdir()
  for i in range(2):
    (images / f"{i}.png").write_bytes((clip / f"frame_{i + 1:04d}" / "image_0000.png").read_bytes())
  for i in range(2):  # so that no detector has to run
    folder = tmp_path / "o" / "person" / "dataset" / f"frame_{i + 1:04d}"
    folder.mkdir(parents=True)
    (folder / "keypoints_static_0000.json").write_bytes(
      (clip / f"frame_{i + 1:04d}" / "keypoints_static_0000.json").read_bytes()
    )
  shared = ["-o", "o", "--model=open", "--nooverlay"]
  assert app.main(["broken.mp4", "person", *shared, "--json"]) == 2
  printed = capsys.readouterr()
  failed, summary = map(json.loads, printed.out.splitlines())  # a line of JSON for each and nothing else
  assert failed["input"] == "broken.mp4" and failed["exit_code"] == 2 and "broken.mp4" in failed["error"]
  assert summary["tracked"] == 2 and summary == json.loads((tmp_path / "o/person/summary.json").read_text())
  assert "broken.mp4" in printed.err and "1 of 2 inputs failed" in printed.err
  assert app.main(["person", "--output_path=o/person", *shared[2:], "--quiet"]) == 0  # it is finished
  printed = capsys.readouterr()
  assert printed.out == "" and printed.err == ""


def test_with_json_no_stage_is_said(clip, tracker, tmp_path, capsys):
  assert app.main([f"--data_path={clip}", "--model=open", "--nooverlay", "-o", "here", "--json"]) == 0
  printed = capsys.readouterr()
  assert json.loads(printed.out)["tracked"] == 4 and " done in " not in printed.err


def test_a_dry_run_does_nothing(clip, tracker, tmp_path, capsys):
  before = sorted(tmp_path.rglob("*"))
  argv = [f"--data_path={clip}", "--model=open", "--nosmooth", "-o", "here"]
  assert app.main([*argv, "--dry_run"]) == 0
  text = capsys.readouterr().out
  assert "5 frames, 5 of them searched" in text and "here: would be made" in text and "smooth = False" in text
  assert "smooth," not in text and sorted(tmp_path.rglob("*")) == before and not tracker
  assert app.main([*argv, "--nooverlay"]) == 0
  capsys.readouterr()
  assert app.main([*argv, "--dry_run", "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert "finished run" in found["output"] and found["settings"] == {"model": "open", "smooth": False}
  assert app.main(["nowhere.mp4", "--dry_run"]) == 2


@pytest.mark.parametrize(
  "flags, stages",
  [
    ([], "camera, landmarks, tracks, identity, frames, smooth"),
    (["--notracks", "--nosmooth"], "camera, landmarks, identity, frames"),
    (["--nophotometric", "--offsets"], "camera, landmarks, tracks, settle, smooth, offsets"),
  ],
)
def test_a_dry_run_names_the_stages_of_the_run(clip, tmp_path, capsys, flags, stages):
  assert planned([f"--data_path={clip}", "--model=open", "-o", "here", *flags], capsys)["stages"] == stages


def planned(argv, capsys):
  """What a dry run says: its texts, or the line with which it refuses."""
  code = app.main([*argv, "--dry_run", "--json"])
  printed = capsys.readouterr()
  found = json.loads(printed.out)
  assert code == (2 if "error" in found else 0)
  return found


def test_a_dry_run_knows_what_the_run_would_refuse(clip, tracker, flat, tmp_path, capsys):
  """Images of several sizes, frames of another input, another dataset for a run that is there."""
  shapes = {"one": [(40, 60)] * 2, "two": [(40, 60), (50, 60)]}
  for name, sizes in shapes.items():
    (tmp_path / name).mkdir()
    for i, size in enumerate(sizes):
      cv2.imwrite(str(tmp_path / name / f"{i}.png"), np.full((*size, 3), 10 * i, np.uint8))
  assert "60 x 40" in planned(["one"], capsys)["input"]
  for argv in (["two", "--dry_run"], ["two"]):  # and so does the run
    assert app.main([*argv, "--model=open"]) == 2
    error = capsys.readouterr().err
    assert "1.png: size 50x60, but 0.png has 40x60 (height x width)" in error and error.count("\n") == 1
  assert not (tmp_path / "out" / "two" / "dataset" / "frame_0001").exists()

  extract_frames("one", tmp_path / "data")
  (tmp_path / "other.png").write_bytes((tmp_path / "two" / "1.png").read_bytes())
  found = planned(["other.png", "--data_path=data"], capsys)
  assert "holds the frames of one, not of other.png" in found["error"]
  assert "would be made anew" in planned(["other.png", "--data_path=data", "--restart"], capsys)["dataset"]
  assert "of unknown origin" in planned(["other.png", f"--data_path={clip}"], capsys)["error"]
  (tmp_path / "one" / "9.png").write_bytes((tmp_path / "one" / "1.png").read_bytes())
  assert "the frames of one, as it was: it has changed" in planned(["one", "--data_path=data"], capsys)["error"]

  argv = ["--model=open", "--nooverlay", "--noreport", "-o", "o"]
  assert app.main([f"--data_path={clip}", *argv]) == 0
  capsys.readouterr()
  assert "finished" in planned([f"--data_path={clip}", *argv], capsys)["output"]
  another = tmp_path / "another"
  for i in range(1, 3):
    folder = another / f"frame_{i:04d}"
    folder.mkdir(parents=True)
    for file in (clip / folder.name).iterdir():
      (folder / file.name).write_bytes(file.read_bytes())
  text = planned([f"--data_path={another}", *argv], capsys)["output"]
  assert "run with other input (frames, times, landmarks); this one would be refused" in text
  assert app.main([f"--data_path={another}", *argv]) == 2


def test_a_dry_run_for_everybody(clip, tracker, flat, tmp_path, capsys):
  argv = [f"--data_path={clip}", "--model=open", "-o", "o", "--face=all"]
  text = planned(argv, capsys)["output"]
  assert "every person" in text and "face_0, face_1" in text and not (tmp_path / "o").exists()
  (tmp_path / "o" / "face_0").mkdir(parents=True)
  chosen = settings.describe(settings.parse([*argv[:-1], "--face=0"]))[0]
  (tmp_path / "o" / "face_0" / "run.json").write_text(json.dumps({"settings": chosen}))
  assert "face_0: holds an unfinished run" in planned(argv, capsys)["output"]
  assert "face_0: holds a run with other settings (sd_jaw)" in planned([*argv, "--sd_jaw=1"], capsys)["output"]


@pytest.mark.parametrize("name", ["summary.json", "config.ini", "checkpoint/mine.npz", "overlay.mp4", "track.log"])
def test_what_no_run_of_ours_wrote_is_not_replaced(name, clip, tracker, flat, tmp_path, capsys):
  path = tmp_path / "o" / name
  path.parent.mkdir(parents=True)
  path.write_text("mine")
  argv = [f"--data_path={clip}", "-o", "o", "--model=open", "--nooverlay", "--noreport"]
  for more in ([], ["--restart"], ["--dry_run"]):
    assert app.main([*argv, *more]) == 2
    error = capsys.readouterr().err
    assert f"o: has {Path(name).parts[0]}, which a run would replace" in error and error.count("\n") == 1
    assert path.read_text() == "mine" and not (tmp_path / "o" / "run.json").exists()
  path.unlink()
  if path.parent.name == "checkpoint":
    path.parent.rmdir()
  (tmp_path / "o" / "notes.txt").write_text("mine")  # in nobody's way
  assert app.main(argv) == 0 and (tmp_path / "o" / "notes.txt").read_text() == "mine"


def test_a_restart_that_is_killed_at_once_leaves_a_folder_that_is_ours(clip, tracker, flat, tmp_path):
  argv = [f"--data_path={clip}", "-o", "o", "--model=open", "--nooverlay", "--noreport"]
  assert app.main(argv) == 0
  record.Record(tmp_path / "o", restart=True)  # and no more
  assert app.main(argv) == 0


def test_in_a_checkpoint_folder_only_stages_are_deleted(tmp_path):
  made = record.Record(tmp_path)
  made.checkpoint.save("camera", {"x": np.zeros(2)})
  (tmp_path / "checkpoint" / "notes.txt").write_text("mine")
  made.finish({})
  assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["notes.txt"]


def test_a_finished_result_is_read_once(clip, tracker, flat, tmp_path, monkeypatch):
  argv = [f"--data_path={clip}", "-o", "o", "--model=open", "--nooverlay"]
  assert app.main([*argv, "--noreport"]) == 0
  read, read_npz = [], results.read_npz
  for place in ("vht_jax.results.read_npz", "vht_jax.results.vht_npz.read_npz"):
    monkeypatch.setattr(place, lambda path: read.append(Path(path).name) or read_npz(path))
  for more in (["--noreport"], []):  # left alone; the page is added
    read.clear()
    assert app.main([*argv, *more]) == 0
    assert read == [results.FILE_NAME]
  assert (tmp_path / "o" / "report.html").exists()


@pytest.mark.faults
def test_no_face_names_the_input(tmp_path, monkeypatch, capsys):
  class Blind:
    name = "test"

    def detect(self, rgb):
      return None

    def faces(self, rgb):
      return []

    def cut(self): ...

    def mark(self):
      return {}

    def close(self): ...

  monkeypatch.setattr("vht_jax.app.inputs.make_detector", lambda *a, **k: Blind())
  monkeypatch.setattr("vht_jax.app.ahead.rehearse", lambda *of, **how: None)
  cv2.imwrite("wall.png", np.full((*SIZE, 3), 90, np.uint8))
  for face in ("largest", "all"):
    assert app.main(["wall.png", "--model=open", f"--face={face}"]) == 2
    error = capsys.readouterr().err
    assert f"wall.png ({Path('out', 'wall', 'dataset')}): no face found" in error and error.count("\n") == 1
