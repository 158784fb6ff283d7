"""The app: `python -m vht_jax`, `vht-track`, and under VHT's name `python vht_jax/optimize_tracking.py`.

Reads the settings, makes the dataset (frames and landmarks), loads the head, tracks, writes results and report.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before jax is imported, which reads it then: XLA logs an error with a page of CPU features for every program that it
# takes from the cache (they differ in tuning flags only), and MediaPipe greets.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GLOG_minloglevel", "2")

from vht_jax import settings as settings_
from vht_jax.errors import InputError
from vht_jax.settings import AppConfig, Settings

if TYPE_CHECKING:  # imported when they are needed, so that --help and a wrong flag answer at once
  from collections.abc import Callable

  import numpy as np

  from vht_jax.report import Progress
  from vht_jax.types import FlameModel, TrackResult
  from vht_jax.video import FrameFolder

log = logging.getLogger("vht_jax")

FILES = {"config": "config.ini", "log": "track.log", "overlay": "overlay.mp4", "summary": "summary.json"}


def cli() -> None:
  """Entry point of `vht-track`."""
  sys.exit(main(sys.argv[1:]))


def main(argv: list[str], prepare=lambda settings: settings) -> int:
  """Runs the app with a command line (without the program's name); returns the exit code.

  Args:
    argv: flags.
    prepare: changes the parsed settings before the run (the demo's defaults).

  Returns:
    0; 2 for what the user can cause; 1 for any other error; 130 when interrupted. Errors are one line on stderr.
  """
  if any(a in ("-h", "--h", "-help", "--help", "--helpfull") for a in argv):
    print(settings_.usage())
    return 0
  debug = "--debug" in argv
  try:
    run(prepare(settings_.parse(argv)))
    return 0
  except InputError as error:
    log.debug("input error", exc_info=True)
    print(f"vht-track: error: {error}", file=sys.stderr)
    if debug:
      raise
    return 2
  except KeyboardInterrupt:
    print("\nvht-track: interrupted; frames and landmarks that are done are kept", file=sys.stderr)
    return 130
  except Exception as error:
    if debug:
      raise
    first = (str(error).strip() or "no message").splitlines()[0]
    where = getattr(error, "vht_log", None)
    hint = f"traceback in {where}" if where else "use --debug for the traceback"
    print(f"vht-track: error: {type(error).__name__}: {first} ({hint})", file=sys.stderr)
    return 1


def run(settings: Settings) -> dict[str, Any]:
  """Tracks as the settings say, writes everything, prints the summary and returns it.

  Raises:
    InputError: anything the user can cause.
  """
  start = time.perf_counter()
  app = with_paths(settings.app)
  settings = settings._replace(app=app)
  output = Path(app.output_path)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"{output}: the output folder cannot be made ({error.strerror})") from None

  from vht_jax import report

  stop_log = report.start_log(output / FILES["log"])
  try:
    return _run(settings, output, start)
  except Exception as error:
    if not isinstance(error, InputError):
      log.error("the run failed", exc_info=True)
      error.vht_log = output / FILES["log"]
    raise
  finally:
    stop_log()


def _run(settings: Settings, output: Path, start: float) -> dict[str, Any]:
  app, config, weights = settings
  start_jax(app)

  import numpy as np

  from vht_jax import report, results
  from vht_jax.assets import load_head
  from vht_jax.track import track
  from vht_jax.types import Status

  settings_.write_ini(output / FILES["config"], settings)
  writer = report.tensorboard_writer(output / "tensorboard") if app.tensorboard else None
  progress = report.Progress(writer, config.energy_log_freq)
  try:
    named = app.model in ("auto", "open", "flame")
    model = load_head(
      None if named else app.model,
      assets_dir=app.assets,
      n_shape=config.n_shape,
      n_expr=config.n_expr,
      n_texture=config.n_tex,
      model=app.model if named else "auto",
    )
    log.info("head: %s, %d vertices", model.name, len(model.v_template))
    dataset = open_dataset(app, config, progress)
    frames = np.asarray(dataset.frame_ids)
    init = None
    if app.load_tracked_flame_params:
      init = results.for_frames(results.load_tracked(app.load_tracked_flame_params, model), frames)

    result = track(model, dataset, config, weights, init=init, progress=progress)
    progress.close()
    results.save_tracked(output / results.FILE_NAME, result, frames, dataset.size, config, model.name)
    if writer is not None:
      report.write_scalars(writer, result, frames, config.energy_log_freq)

    landmarks, confidence, _ = dataset.landmarks()
    projected = results.projected_landmarks(model, result, dataset.size)
    tracked = np.asarray(result.status) == Status.TRACKED
    points = (landmarks, confidence, projected)
    difference = write_overlay(settings, model, result, dataset, points, output, progress, writer)
    progress.close()
    seconds = time.perf_counter() - start
    summary = {
      "frames": len(frames),
      "tracked": int(tracked.sum()),
      **results.landmark_figures(projected, landmarks, confidence, tracked & (confidence[:, :68] > 0).any(axis=1)),
      "photometric_l1": difference,
      **(results.geometry_figures(model, result, frames, app.truth) if app.truth else {}),
      "seconds_total": seconds,
      "frames_per_second": len(frames) / seconds,
      "stage_seconds": {**progress.seconds, **{k: float(v) for k, v in result.timing.items()}},
      "peak_rss_mb": report.peak_rss_mb(),
      "head": model.name,
      "focal": float(result.identity.camera.focal),
      "image_size": [int(x) for x in dataset.size],
    }
  finally:
    progress.close()
    if writer is not None:
      writer.close()
  report.write_summary(output / FILES["summary"], summary)
  written = [name for name in (results.FILE_NAME, *FILES.values()) if (output / name).exists()]
  text = report.summary_text(summary, output, written)
  log.info("%s", text)
  print(text)
  return summary


def with_paths(app: AppConfig) -> AppConfig:
  """`app` with the folders that follow from the video's name, and the input checked.

  Raises:
    InputError: nothing to track, or a path that is not there.
  """
  if not app.video and not app.data_path:
    raise InputError("nothing to track: give --video=clip.mp4 or --data_path=folder (see --help)")
  if app.video and not Path(app.video).exists():
    raise InputError(f"{app.video}: no such video")
  if not app.video and not Path(app.data_path).is_dir():
    raise InputError(f"{app.data_path}: no such dataset folder; to make it from a video give --video as well")
  name = Path(app.video or app.data_path).resolve()
  output = app.output_path or str(Path("out") / (name.stem if name.is_file() else name.name))
  data = app.data_path or str(Path(output) / "dataset")
  for path in (app.truth, app.load_tracked_flame_params):
    if path and not Path(path).exists():
      raise InputError(f"{path}: no such file")
  return dataclasses.replace(app, data_path=data, output_path=output)


def start_jax(app: AppConfig) -> None:
  """Chooses the device and the cache of compiled programs.

  Raises:
    InputError: no such device.
  """
  import jax

  kind = app.device.split(":")[0].lower()
  kind = {"cuda": "gpu", "rocm": "gpu"}.get(kind, kind)
  if kind not in ("auto", "cpu", "gpu", "tpu"):
    raise InputError(f"device: expected one of auto, cpu, gpu, tpu; found {app.device!r}")
  if kind == "cpu":
    jax.config.update("jax_platforms", "cpu")
  elif kind != "auto":
    try:
      jax.config.update("jax_default_device", jax.devices(kind)[0])
    except RuntimeError:
      if app.device.lower().startswith("cuda"):  # VHT's configs name it
        log.warning("device: no GPU that JAX can use (pip install 'vht-jax[cuda13]'); running on the CPU")
      else:
        raise InputError(f"device: JAX finds no {kind} here; leave --device out to use what there is") from None
  if app.compilation_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "vht_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
  log.info("jax %s on %s", jax.__version__, jax.devices())


def open_dataset(app: AppConfig, config: Any, progress: Progress) -> FrameFolder:
  """The frames with landmarks of every one; what an earlier run left is used again.

  Raises:
    InputError: unreadable input, no face anywhere, a detector that cannot run.
  """
  from vht_jax.landmarks import annotate, make_detector
  from vht_jax.video import FrameFolder, extract_frames

  if app.video:
    if app.restart:
      forget_frames(Path(app.data_path))
    progress.stage("extract", app.max_frames)
    extract_frames(app.video, app.data_path, app.max_frames or None, progress.at)
  dataset = FrameFolder(
    app.data_path,
    tracking_resolution=config.tracking_resolution,
    downscale_factor=config.downscale_factor,
    max_frames=app.max_frames or None,
  )
  progress.stage("detect", len(dataset))
  if app.restart or not all(dataset.keypoint_path(i).exists() for i in range(len(dataset))):
    detector = make_detector(app.landmarks, face_landmarker=app.face_landmarker)
    try:
      annotate(dataset, detector, progress.at, overwrite=app.restart)
    finally:
      detector.close()
  progress.close()
  return dataset


def forget_frames(data_path: Path) -> None:
  """Deletes the frames that an earlier run extracted; a folder that we did not make is left alone."""
  from vht_jax.video.layout import SOURCE, frame_folders

  if (data_path / SOURCE).exists():
    for folder in frame_folders(data_path).values():
      shutil.rmtree(folder)
    (data_path / SOURCE).unlink()


@functools.cache
def renderer(size: tuple[int, int]) -> Callable:
  """(model, identity, poses) -> rgb (n, H, W, 3), alpha (n, H, W), compiled."""
  import jax

  from vht_jax.render import render_head

  def render(model, identity, poses):
    def one(pose):
      picture = render_head(model, identity, pose, size)
      return picture.rgb, picture.alpha

    return jax.vmap(one)(poses)

  return jax.jit(render)


def write_overlay(
  settings: Settings,
  model: FlameModel,
  result: TrackResult,
  dataset: FrameFolder,
  points: tuple[np.ndarray, np.ndarray, np.ndarray],
  output: Path,
  progress: Progress,
  writer: Any,
) -> float:
  """Renders the frames (without --overlay: some 50 of them) and writes overlay.mp4 from them.

  Args:
    settings, model, result, dataset: the run.
    points: detected landmarks (T, 70, 2) px, their confidence (T, 70), projected landmarks (T, 70, 2) px.
    output: the folder.
    progress: told of every frame.
    writer: TensorBoard's, or None.

  Returns:
    Mean over the tracked frames of `report.photometric_l1`.
  """
  import numpy as np

  from vht_jax import flame, report
  from vht_jax.types import Status
  from vht_jax.video import write_video

  app, config, _ = settings
  n = len(dataset)
  seen = flame.without_lower_neck(model) if config.ignore_lower_neck else model
  chosen = range(n) if app.overlay else np.unique(np.linspace(0, n - 1, min(n, 50)).astype(int)).tolist()
  render = functools.partial(renderer(dataset.size), seen, result.identity)
  detected, confidence, projected = points
  status = np.asarray(result.status)
  differences = []

  def pictures():
    for i, rgb, alpha in report.rendered(render, result.poses, chosen):
      image = dataset.image(i)
      if status[i] == Status.TRACKED:
        differences.append(report.photometric_l1(image, rgb, alpha))
      caption = report.caption(dataset.frame_ids[i], status[i])
      picture = report.panels(image, rgb, alpha, detected[i], confidence[i], projected[i], caption)
      if writer is not None and i % config.img_log_freq == 0:
        writer.add_image("tracking_result", picture, int(dataset.frame_ids[i]), dataformats="HWC")
      progress.advance(1)
      yield picture

  progress.stage("report", len(chosen))
  if app.overlay:
    write_video(output / FILES["overlay"], pictures(), app.frame_rate or dataset.fps)
  else:
    collections.deque(pictures(), maxlen=0)
  finite = [d for d in differences if np.isfinite(d)]
  return float(np.mean(finite)) if finite else float("nan")


if __name__ == "__main__":
  cli()
