"""The app: `python -m vht_jax`, `vht-track`, and under VHT's name `python vht_jax/optimize_tracking.py`.

Reads the settings, makes the dataset (frames and landmarks), loads the head, tracks, writes results and report.
"""

from __future__ import annotations

import contextlib
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
from vht_jax.host.files import cache_folder, locked, writable
from vht_jax.host.supervise import supervised

if TYPE_CHECKING:  # imported when they are needed: the process that only waits (`supervise`) needs none of them
  import numpy as np

  from vht_jax.app.console import Progress
  from vht_jax.app.options.settings import AppConfig, Settings
  from vht_jax.app.record import Record
  from vht_jax.dataset.folder import FrameFolder
  from vht_jax.results import Tracked
  from vht_jax.types import FlameModel, TrackResult

log = logging.getLogger("vht_jax")

# Errors of the system that are about the output's disk and not about the program.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

FILES = {
  "config": "config.ini",
  "first": "first_frame.png",
  "frames": "frames.csv",
  "log": "track.log",
  "overlay": "overlay.mp4",
  "report": "report.html",
  "summary": "summary.json",
}


def cli() -> None:
  """Entry point of `vht-track`."""
  sys.exit(supervised("vht-track", "vht_jax.app.cli:main", sys.argv[1:]))


def main(argv: list[str], prepare=lambda settings: settings) -> int:
  """Runs the app with a command line (without the program's name); returns the exit code.

  Several inputs are tracked one after the other; one that cannot be does not stop the rest.

  Args:
    argv: flags.
    prepare: changes the parsed settings before the run (the demo's defaults).

  Returns:
    0; 2 for what the user can cause; 1 for any other error; 130 when interrupted. Errors are one line on stderr.
  """
  from vht_jax.app.options import settings as settings_

  if any(a.lstrip("-") in ("h", "help", "helpfull") and a.startswith("-") for a in argv):
    print(settings_.usage(full=any(a.endswith("helpfull") for a in argv)))
    return 0
  debug = "--debug" in argv
  failed, several = {}, False
  try:
    todo = [prepare(settings) for settings in settings_.parse_all(argv)]
    several = len(todo) > 1
  except InputError as error:
    todo = []
    failed[""] = _say_error(error, debug)
  for i, settings in enumerate(todo):
    name = str(settings.app.video)
    if several:
      say(settings.app, f"[{i + 1}/{len(todo)}] {name}")
    try:
      run(settings)
    except KeyboardInterrupt:
      print("\nvht-track: interrupted; the same command goes on from here", file=sys.stderr)
      return 130
    except Exception as error:
      failed[name] = _say_error(error, debug)
  if several and failed:
    print(f"vht-track: {len(failed)} of {len(todo)} inputs failed: {', '.join(failed)}", file=sys.stderr)
  return max(failed.values(), key=lambda code: code == 1, default=0)


def _say_error(error: Exception, debug: bool) -> int:
  """Prints an error as one line on stderr and returns its exit code; with `debug` it is raised."""
  if debug:
    raise error
  if isinstance(error, InputError):
    log.debug("input error", exc_info=True)
    print(f"vht-track: error: {brief(error, 1000)}", file=sys.stderr)
    return 2
  first = brief((str(error).strip() or "no message").splitlines()[0])
  where = getattr(error, "vht_log", None)
  hint = f"traceback in {where}" if where else "use --debug for the traceback"
  print(f"vht-track: error: {type(error).__name__}: {first} ({hint})", file=sys.stderr)
  return 1


def say(app: AppConfig, text: str, summary: dict[str, Any] | None = None) -> None:
  """Prints what people read, or with --json the summary for programs, or with --quiet nothing."""
  if app.json:
    if summary is not None:
      print(json.dumps(summary), flush=True)
  elif not app.quiet:
    print(text, flush=True)


def run(settings: Settings, restart: bool | None = None) -> dict[str, Any]:
  """Tracks as the settings say, writes everything, prints the summary and returns it.

  Args:
    settings: all of them.
    restart: forget an earlier run but keep its dataset; by default what the settings say of both.

  Raises:
    InputError: anything the user can cause.
  """
  start = time.perf_counter()
  from vht_jax.app import inputs

  app = inputs.with_paths(settings.app)
  settings = settings._replace(app=app)
  if app.dry_run:
    from vht_jax.app.plan import plan, plan_text

    found = plan(settings)
    say(app, plan_text(found), found)
    return found
  if app.face == "all":
    return run_all(settings)
  output = Path(app.output_path)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"{output}: the output folder cannot be made ({error.strerror})") from None

  from vht_jax.app import console
  from vht_jax.app.record import Record
  from vht_jax.dataset.extract import probe

  try:
    with locked(output):
      if app.restart and app.video:
        probe(app.video)  # before anything is forgotten for it
      record = Record(output, restart=app.restart if restart is None else restart)
      if app.restart:
        (output / FILES["log"]).unlink(missing_ok=True)
        inputs.forget_dataset(Path(app.data_path))
      stop_log = console.start_log(output / FILES["log"], terminal=not app.quiet)
      try:
        with inputs.reading(app):
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
  from vht_jax.app import console, inputs

  app = settings.app
  if app.restart:
    inputs.forget_dataset(Path(app.data_path))
  n_people = inputs.count_people(app, settings.track, console.Progress(silent=app.quiet))
  summaries = []
  for i in range(n_people):
    say(app, f"face {i} of {n_people}, counted from the left")
    one = dataclasses.replace(app, face=str(i), output_path=str(Path(app.output_path) / f"face_{i}"))
    # The frames are shared, so they are made anew once, before the first person.
    summaries.append(run(settings._replace(app=dataclasses.replace(one, restart=False)), restart=app.restart))
  return summaries[0]


def _run(settings: Settings, output: Path, record: Record, start: float) -> dict[str, Any]:
  from vht_jax.app.options import settings as settings_

  app, config, weights = chosen = settings
  choices, report_choices = settings_.describe(settings)
  advice = (
    f"go on with the same, or choose another --output_path (with --data_path={app.data_path} its frames and landmarks "
    "are used again), or begin anew with --restart"
  )
  record.agree("settings", choices, advice)
  start_jax(app)

  import numpy as np

  from vht_jax import results
  from vht_jax.app import ahead, console, inputs
  from vht_jax.app.options import lens
  from vht_jax.head.load import of_mediapipe
  from vht_jax.host import programs

  writer = console.tensorboard_writer(output / "tensorboard") if app.tensorboard else None
  progress = console.Progress(writer, config.energy_log_freq, silent=app.quiet)
  held = contextlib.ExitStack()
  try:
    compile_ahead = held.enter_context(ahead.compiling_ahead(progress.remark, bar=not app.quiet))
    model = inputs.load_model(app, config)
    log.info("head: %s, %d vertices", model.name, len(model.v_template))
    init = inputs.former_result(app, config, model)

    def opened(frames: FrameFolder, cuts: tuple[int, ...]) -> None:
      if init is None and not record.finished and programs.folder is not None:
        track = dataclasses.replace(config, cutframes=cuts, focal=lens.known_focal(app, config, frames))
        dense = of_mediapipe(inputs.expected_detector(app))
        textured = app.overlay != "landmarks"
        compile_ahead(lambda: ahead.rehearse(model, frames, track, weights, dense=dense, pictures=textured))

    dataset, cuts = inputs.open_dataset(app, config, progress, opened)
    if of_mediapipe(dataset.detector) != of_mediapipe(inputs.expected_detector(app)):
      model = inputs.load_model(app, config, dataset.detector)
    focal = lens.known_focal(app, config, dataset)
    settings = settings._replace(track=dataclasses.replace(config, cutframes=cuts, focal=focal))
    record.agree("input", inputs.describe(app, dataset, model, focal), advice)
    settings_.write_ini(output / FILES["config"], chosen)  # not before: a refused command leaves what is there alone
    if record.finished and readable(output / results.FILE_NAME):
      if record.content.get("report") == report_choices and (output / FILES["summary"]).exists():
        return already_finished(app, output)
      result = results.load_tracked(output / results.FILE_NAME, model).result
    else:
      record.agree("environment", inputs.environment(), advice)
      progress.placed = functools.partial(show_first, model, dataset, output, progress)
      result = fit(settings, model, dataset, record, progress, init)
      results.save_tracked(
        output / results.FILE_NAME, result, np.asarray(dataset.frame_ids), dataset.size, config, model,
        times=dataset.times, sources=dataset.sources,
      )  # fmt: skip
    summary = write_report(settings, model, result, dataset, output, progress, writer, start)
  finally:
    held.close()
    progress.close()
    if writer is not None:
      writer.close()
  record.finish(report_choices)
  written = [name for name in (results.FILE_NAME, *FILES.values()) if (output / name).exists()]
  text = console.summary_text(summary, output, written)
  log.info("%s", text)
  say(app, text, summary)
  return summary


def readable(path: Path) -> bool:
  """Whether a result is there and whole; one that is damaged is made again."""
  from vht_jax import results

  if not path.exists():
    return False
  try:
    results.read_npz(path)
    return True
  except InputError as error:
    log.warning("%s; the clip is tracked again", error)
    return False


def already_finished(app: AppConfig, output: Path) -> dict[str, Any]:
  """Says that there is nothing to do, and gives the summary of the run that did it."""
  from vht_jax.app import console

  try:
    summary = json.loads((output / FILES["summary"]).read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"{output / FILES['summary']}: not a summary ({error}); delete it to have it made again") from None
  tracked = f"{summary.get('tracked')} of {summary.get('frames')} frames tracked"
  message = f"{output}: this run is finished ({tracked}); head: {console.head_text(summary.get('head', ''))}"
  log.info("%s", message)
  say(app, f"{message}; its results are kept. --restart does it again", summary)
  return summary


def fit(
  settings: Settings,
  model: FlameModel,
  dataset: FrameFolder,
  record: Record,
  progress: Progress,
  former: Tracked | None,
) -> TrackResult:
  """Tracks, going on from the checkpoints that an earlier run left.

  Args:
    former: a result to start from; of one whose head is another the camera alone is taken, and held.
  """
  from vht_jax import results
  from vht_jax.tracking.pipeline import track

  app, config, weights = settings
  init = results.for_frames(former, dataset.frame_ids) if former and former.verdict.same else None
  camera = former.result.identity.camera if former and not former.verdict.same else None
  result = track(
    model, dataset, config, weights,
    init=init, camera=camera, progress=progress, checkpoint=record.checkpoint, debug_checks=app.debug_checks,
  )  # fmt: skip
  progress.close()
  return results.judged(model, dataset, result)


def show_first(
  model: FlameModel, dataset: FrameFolder, output: Path, progress: Progress, identity, poses, seen: np.ndarray
) -> None:
  """Writes a picture of the first tracked frame as soon as there is one; arguments as `protocols.Progress.placed`."""
  import numpy as np

  from vht_jax.app.overlay.film import still
  from vht_jax.dataset.extract import encode_png
  from vht_jax.host.files import write_atomic

  path = output / FILES["first"]
  try:
    write_atomic(path, encode_png(still(model, identity, poses, dataset, int(np.argmax(seen)))))
  except Exception:  # a picture to look at while one waits is no reason to end a run
    log.info("%s could not be made", path, exc_info=True)
  else:
    progress.remark(f"first tracked frame: {path}")


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
  """Writes overlay, scalars, summary and page; returns the summary. `start` is the run's, `time.perf_counter`."""
  import numpy as np

  from vht_jax import results
  from vht_jax.app import console
  from vht_jax.tracking.evidence.examine import faded
  from vht_jax.types import Status

  app, config, _ = settings
  frames = np.asarray(dataset.frame_ids)
  if writer is not None:
    console.write_scalars(writer, result, frames, config.energy_log_freq)
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
  doubtful = console.write_frames(
    output / FILES["frames"], frames, status, trust, dataset.times, dataset.sources, regions, visible
  )
  difference = write_overlay(settings, model, result, dataset, points, output, progress, writer)
  progress.close()
  seconds = time.perf_counter() - start
  summary = {
    "input": app.video or app.data_path,
    "output": str(output),
    "frames": len(frames),
    "tracked": int(tracked.sum()),
    "doubtful": doubtful,
    "covered": console.covered(visible, status),
    **results.landmark_figures(projected, landmarks, confidence, tracked & (confidence[:, :68] > 0).any(axis=1)),
    "photometric_l1": difference,
    **(results.geometry_figures(model, result, frames, app.truth) if app.truth else {}),
    "seconds_total": seconds,
    "frames_per_second": len(frames) / seconds,
    "stage_seconds": {**progress.seconds, **{k: float(v) for k, v in result.timing.items()}},
    "peak_rss_mb": console.peak_rss_mb(),
    "head": model.name,
    "focal": float(result.identity.camera.focal),
    "image_size": [int(x) for x in dataset.size],
    "source_first": dataset.sources[0],
    "source_last": dataset.sources[-1],
    "seconds_of_video": float(dataset.times[-1]),
    "times_assumed": dataset.times_assumed,
  }
  summary = console.write_summary(output / FILES["summary"], summary)
  if app.report:
    write_page(settings, model, result, dataset, points, output, summary)
  return summary


def write_page(
  settings: Settings,
  model: FlameModel,
  result: TrackResult,
  dataset: FrameFolder,
  points: tuple[np.ndarray, np.ndarray, np.ndarray],
  output: Path,
  summary: dict[str, Any],
) -> None:
  """Writes report.html, with the video when there is one; arguments as for `write_overlay`, and the summary."""
  from vht_jax import results
  from vht_jax.app.report import page

  landmarks, confidence, projected = points
  misfit = results.nme(projected, landmarks, confidence, slice(0, 68))
  run = page.run_of(output, settings, dataset, projected, misfit, summary)
  page.write_page(output / FILES["report"], model, result, run)


def start_jax(app: AppConfig) -> None:
  """Chooses the device, and where programs are kept, traced (`programs`) and compiled (by XLA).

  Raises:
    InputError: no such device.
  """
  import jax

  from vht_jax.host import programs

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
    base = writable(cache_folder())
    if base:
      programs.folder = base / "programs"
      jax.config.update("jax_compilation_cache_dir", str(base / "xla"))
      jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    else:
      log.warning("no folder for compiled programs can be written: each run makes its own ($XDG_CACHE_HOME names one)")
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
  """Writes overlay.mp4 (`film.film`).

  Args:
    settings, model, result, dataset: the run.
    points: detected landmarks (T, 70, 2) px, their confidence (T, 70), projected landmarks (T, 70, 2) px.
    output: the folder.
    progress: told of every frame.
    writer: TensorBoard's, or None.

  Returns:
    Mean over the tracked frames of `film.photometric_l1`.
  """
  from vht_jax.app.overlay.film import SAMPLED, film

  app, config, _ = settings
  written = app.overlay != "none"

  def show(i: int, picture: np.ndarray) -> None:
    if writer is not None and i % config.img_log_freq == 0:
      writer.add_image("tracking_result", picture, int(dataset.frame_ids[i]), dataformats="HWC")

  progress.stage("report", len(dataset) if written else min(len(dataset), SAMPLED))
  return film(
    model, result, dataset, points, output / FILES["overlay"] if written else None,
    style=app.overlay if written else "compare", fps=app.frame_rate or dataset.fps,
    # A variable rate plays in real time.
    times=None if app.frame_rate or dataset.steady else dataset.times,
    progress=progress.advance, show=show,
  )  # fmt: skip


if __name__ == "__main__":
  cli()
