"""The app: `python -m vht_jax`, `vht-track`, and under VHT's name `python vht_jax/optimize_tracking.py`.

Reads the settings, makes the dataset (frames and landmarks), loads the head, tracks, writes results and report.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import functools
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before jax is imported, which reads it then: XLA logs an error with a page of CPU features for every program that it
# takes from the cache (they differ in tuning flags only), and MediaPipe greets.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GLOG_minloglevel", "2")
# XLA's Cholesky factorisations on a CPU are OpenBLAS's. Ours are small and many: a second thread brings nothing, and
# waits actively, which costs a factor of 50 as soon as another process wants the core (docs/benchmarks.md).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from vht_jax.errors import InputError, brief
from vht_jax.files import cache_folder, locked
from vht_jax.supervise import supervised

if TYPE_CHECKING:  # imported when they are needed: the process that only waits (`supervise`) needs none of them
  import numpy as np

  from vht_jax.checkpoint import Record
  from vht_jax.report import Progress
  from vht_jax.settings import AppConfig, Settings
  from vht_jax.types import FlameModel, TrackResult
  from vht_jax.video import FrameFolder

log = logging.getLogger("vht_jax")

# Errors of the system that are about the output's disk and not about the program.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

FILES = {
  "config": "config.ini",
  "frames": "frames.csv",
  "log": "track.log",
  "overlay": "overlay.mp4",
  "summary": "summary.json",
}


def cli() -> None:
  """Entry point of `vht-track`."""
  sys.exit(supervised("vht-track", "vht_jax.main:main", sys.argv[1:]))


def main(argv: list[str], prepare=lambda settings: settings) -> int:
  """Runs the app with a command line (without the program's name); returns the exit code.

  Args:
    argv: flags.
    prepare: changes the parsed settings before the run (the demo's defaults).

  Returns:
    0; 2 for what the user can cause; 1 for any other error; 130 when interrupted. Errors are one line on stderr.
  """
  from vht_jax import settings as settings_

  if any(a in ("-h", "--h", "-help", "--help", "--helpfull") for a in argv):
    print(settings_.usage())
    return 0
  debug = "--debug" in argv
  try:
    run(prepare(settings_.parse(argv)))
    return 0
  except InputError as error:
    log.debug("input error", exc_info=True)
    print(f"vht-track: error: {brief(error, 1000)}", file=sys.stderr)
    if debug:
      raise
    return 2
  except KeyboardInterrupt:
    print("\nvht-track: interrupted; the same command goes on from here", file=sys.stderr)
    return 130
  except Exception as error:
    if debug:
      raise
    first = brief((str(error).strip() or "no message").splitlines()[0])
    where = getattr(error, "vht_log", None)
    hint = f"traceback in {where}" if where else "use --debug for the traceback"
    print(f"vht-track: error: {type(error).__name__}: {first} ({hint})", file=sys.stderr)
    return 1


def run(settings: Settings, restart: bool | None = None) -> dict[str, Any]:
  """Tracks as the settings say, writes everything, prints the summary and returns it.

  Args:
    settings: all of them.
    restart: forget an earlier run but keep its dataset; by default what the settings say of both.

  Raises:
    InputError: anything the user can cause.
  """
  start = time.perf_counter()
  from vht_jax import inputs

  app = inputs.with_paths(settings.app)
  settings = settings._replace(app=app)
  if app.face == "all":
    return run_all(settings)
  output = Path(app.output_path)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"{output}: the output folder cannot be made ({error.strerror})") from None

  from vht_jax import report
  from vht_jax.checkpoint import Record

  try:
    with locked(output):
      record = Record(output, restart=app.restart if restart is None else restart)
      if app.restart:
        (output / FILES["log"]).unlink(missing_ok=True)
        inputs.forget_dataset(Path(app.data_path))
      stop_log = report.start_log(output / FILES["log"])
      try:
        return _run(settings, output, record, start)
      except Exception as error:
        if not isinstance(error, InputError):
          log.error("the run failed", exc_info=True)
          error.vht_log = output / FILES["log"]
        raise
      finally:
        stop_log()
  except OSError as error:
    if error.errno not in _DISK:
      raise
    where = error.filename or output
    raise InputError(f"{where}: cannot be written ({error.strerror}); afterwards the same command goes on") from error


def run_all(settings: Settings) -> dict[str, Any]:
  """`run` for every person, each into a folder of their own; returns the first one's summary."""
  from vht_jax import inputs, report

  app = settings.app
  if app.restart:
    inputs.forget_dataset(Path(app.data_path))
  n_people = inputs.count_people(app, settings.track, report.Progress())
  summaries = []
  for i in range(n_people):
    print(f"face {i} of {n_people}, counted from the left")
    one = dataclasses.replace(app, face=str(i), output_path=str(Path(app.output_path) / f"face_{i}"))
    # The frames are shared, so they are made anew once, before the first person.
    summaries.append(run(settings._replace(app=dataclasses.replace(one, restart=False)), restart=app.restart))
  return summaries[0]


def _run(settings: Settings, output: Path, record: Record, start: float) -> dict[str, Any]:
  from vht_jax import settings as settings_

  app, config, weights = settings
  choices, report_choices = settings_.describe(settings)
  advice = (
    f"go on with the same, or choose another --output_path (with --data_path={app.data_path} its frames and landmarks "
    "are used again), or begin anew with --restart"
  )
  record.agree("settings", choices, advice)
  start_jax(app)

  import numpy as np

  from vht_jax import inputs, report, results
  from vht_jax.assets import load_head

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
    dataset, cuts = inputs.open_dataset(app, config, progress)
    settings = settings._replace(track=dataclasses.replace(config, cutframes=cuts))
    record.agree("input", inputs.describe(app, dataset, model), advice)
    if record.finished and (output / results.FILE_NAME).exists():
      if record.content.get("report") == report_choices and (output / FILES["summary"]).exists():
        return already_finished(output)
      result = results.load_tracked(output / results.FILE_NAME, model).result
    else:
      record.agree("environment", inputs.environment(), advice)
      result = fit(settings, model, dataset, record, progress)
      results.save_tracked(
        output / results.FILE_NAME, result, np.asarray(dataset.frame_ids), dataset.size, config, model.name
      )
    summary = write_report(settings, model, result, dataset, output, progress, writer, start)
  finally:
    progress.close()
    if writer is not None:
      writer.close()
  record.finish(report_choices)
  written = [name for name in (results.FILE_NAME, *FILES.values()) if (output / name).exists()]
  text = report.summary_text(summary, output, written)
  log.info("%s", text)
  print(text)
  return summary


def already_finished(output: Path) -> dict[str, Any]:
  """Says that there is nothing to do, and gives the summary of the run that did it."""
  try:
    summary = json.loads((output / FILES["summary"]).read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"{output / FILES['summary']}: not a summary ({error}); delete it to have it made again") from None
  message = f"{output}: this run is finished ({summary.get('tracked')} of {summary.get('frames')} frames tracked)"
  log.info("%s", message)
  print(f"{message}; its results are kept. --restart does it again")
  return summary


def fit(settings: Settings, model: FlameModel, dataset: FrameFolder, record: Record, progress: Progress) -> TrackResult:
  """Tracks, going on from the checkpoints that an earlier run left."""
  from vht_jax import results
  from vht_jax.track import track

  app, config, weights = settings
  init = None
  if app.load_tracked_flame_params:
    init = results.for_frames(results.load_tracked(app.load_tracked_flame_params, model), dataset.frame_ids)
  result = track(
    model, dataset, config, weights,
    init=init, progress=progress, checkpoint=record.checkpoint, debug_checks=app.debug_checks,
  )  # fmt: skip
  progress.close()
  return results.judged(model, dataset, result)


def write_report(
  settings: Settings,
  model: FlameModel,
  result: TrackResult,
  dataset: FrameFolder,
  output: Path,
  progress: Progress,
  writer: Any,
  start: float,
) -> dict[str, Any]:
  """Writes overlay, scalars and summary of a result; returns the summary. `start` is the run's, `time.perf_counter`."""
  import numpy as np

  from vht_jax import report, results
  from vht_jax.track.evidence import faded
  from vht_jax.types import Status

  app, config, _ = settings
  frames = np.asarray(dataset.frame_ids)
  if writer is not None:
    report.write_scalars(writer, result, frames, config.energy_log_freq)
  landmarks, confidence, _ = dataset.landmarks()
  status = np.asarray(result.status)
  visible = None if result.visible is None else np.asarray(result.visible)
  regions = None if result.region_confidence is None else np.asarray(result.region_confidence)
  if visible is not None:
    confidence = faded(confidence, visible)
  projected = results.projected_landmarks(model, result, dataset.size)
  tracked = np.asarray(result.status) == Status.TRACKED
  points = (landmarks, confidence, projected)
  trust = np.ones(len(frames)) if result.confidence is None else np.asarray(result.confidence)
  doubtful = report.write_frames(output / FILES["frames"], frames, status, trust, regions, visible)
  difference = write_overlay(settings, model, result, dataset, points, output, progress, writer)
  progress.close()
  seconds = time.perf_counter() - start
  summary = {
    "frames": len(frames),
    "tracked": int(tracked.sum()),
    "doubtful": doubtful,
    "covered": report.covered(visible, status),
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
  report.write_summary(output / FILES["summary"], summary)
  return summary


def start_jax(app: AppConfig) -> None:
  """Chooses the device, and where programs are kept, traced (`programs`) and compiled (by XLA).

  Raises:
    InputError: no such device.
  """
  import jax

  from vht_jax import programs

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
  programs.folder, chosen = None, os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if app.compilation_cache and not chosen:
    base = cache_folder()
    programs.folder = base / "programs"
    jax.config.update("jax_compilation_cache_dir", str(base / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  elif app.compilation_cache and "://" not in chosen:  # JAX's may be in a cloud
    programs.folder = Path(chosen, "vht_jax_programs")
  log.info("jax %s on %s", jax.__version__, jax.devices())


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
  size = report.panel_size(dataset.size)  # what is shown is what is rendered: 1080p frames need no 1080p pictures
  render = functools.partial(report.render, seen, result.identity, size=size)
  factor = np.array([size[1] / dataset.size[1], size[0] / dataset.size[0]])
  detected, confidence, projected = points[0] * factor, points[1], points[2] * factor
  status = np.asarray(result.status)
  differences = []

  def pictures():
    for i, rgb, alpha in report.rendered(render, result.poses, chosen):
      image = report.shrink(dataset.image(i), size)
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
