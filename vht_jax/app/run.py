"""What a run does: it makes the dataset (frames and landmarks), loads the head, tracks, writes results and report."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vht_jax import results
from vht_jax.app import ahead, console, inputs
from vht_jax.app.options import lens
from vht_jax.app.options.settings import Settings, describe, write_ini
from vht_jax.app.overlay.film import still
from vht_jax.app.plan import plan, plan_text
from vht_jax.app.record import FILES, Record
from vht_jax.app.report.outcome import Outcome
from vht_jax.app.report.summary import head_text, summary_text
from vht_jax.app.report.write import write_report
from vht_jax.app.result.after import FOLDER as EXPORTS
from vht_jax.app.result.after import check_exports
from vht_jax.dataset.extract import encode_png, probe
from vht_jax.dataset.folder import FrameFolder
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.head.load import of_mediapipe
from vht_jax.host import programs
from vht_jax.host.device import start_jax
from vht_jax.host.files import locked, write_atomic
from vht_jax.host.programs.spread import over_devices
from vht_jax.option import having
from vht_jax.results import Tracked
from vht_jax.results.offsets import check_masks, n_views, with_moving_surface, with_offsets
from vht_jax.results.texture import baked, grown, n_looks
from vht_jax.tracking import pipeline
from vht_jax.types import FlameModel, TrackResult

log = logging.getLogger("vht_jax")

# How far a run goes: frames and landmarks, for which it needs no device; tracked, its result in `results.ALONE`; all,
# with report and exports. A later run goes on from there.
Until = Literal["dataset", "tracked", "all"]

# Errors of the system that are about the output's disk and not about the program.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def say(settings: Settings, text: str, summary: dict[str, Any] | None = None) -> None:
  """Prints what people read, or with --json the summary for programs, or with --quiet nothing."""
  if settings.app.output.json:
    if summary is not None:
      print(json.dumps(summary), flush=True)
  elif not settings.app.output.quiet:
    print(console.painted(text, sys.stdout), flush=True)


def run(settings: Settings, restart: bool | None = None, until: Until = "all") -> dict[str, Any]:
  """Tracks as the settings say, writes everything, prints the summary and returns it.

  Args:
    settings: all of them.
    restart: forget an earlier run but keep its dataset; by default what the settings say of both.
    until: how far; the rest is left to a later run.

  Raises:
    InputError: anything the user can cause.
  """
  start = time.perf_counter()
  app = inputs.with_paths(settings.app)
  settings = settings._replace(app=app)
  if app.output.dry_run:
    found = plan(settings)
    say(settings, plan_text(found), found)
    return found
  if app.input.face == "all":
    return run_all(settings)
  output = app.output_folder
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"{output}: the output folder cannot be made ({error.strerror})") from None
  try:
    with locked(output):
      if app.output.restart and app.input.video:
        probe(app.input.video)  # before anything is forgotten for it
      record = Record(output, restart=app.output.restart if restart is None else restart)
      if app.output.restart:
        (output / FILES["log"]).unlink(missing_ok=True)
        if app.input.video:  # frames without it could not be made again
          inputs.forget_dataset(app.data_folder)
      stop_log = console.start_log(output / FILES["log"], terminal=not app.output.quiet)
      try:
        with inputs.reading(app):
          return _run(settings, output, record, start, until)
      except Exception as error:
        if not isinstance(error, InputError):
          log.error("the run failed", exc_info=True)
          error.vht_log = output / FILES["log"]  # type: ignore[attr-defined]
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
  app = settings.app
  if app.output.restart and app.input.video:
    inputs.forget_dataset(app.data_folder)
  n_people = inputs.count_people(app, settings.track, console.Progress(silent=app.output.quiet))
  summaries = []
  for i in range(n_people):
    say(settings, f"face {i} of {n_people}, counted from the left")
    # The frames are shared, so they are made anew once, before the first person.
    one = having(app, face=str(i), output_path=str(inputs.folder_of_face(app, i)), restart=False)
    summaries.append(run(settings._replace(app=one), restart=app.output.restart))
  return summaries[0]


def _run(settings: Settings, output: Path, record: Record, start: float, until: Until) -> dict[str, Any]:
  """`run` in a folder that is ours: as far as the record says that it is not done yet."""
  app, config, weights = settings
  choices, report_choices = describe(settings)
  advice = (
    f"go on with the same, or choose another --output_path (with --data_path={app.input.data_path} its frames and "
    "landmarks are used again), or begin anew with --restart"
  )
  record.agree("settings", choices, advice)
  if until == "dataset":
    progress = console.Progress(silent=app.output.quiet)
    dataset, _ = inputs.open_dataset(app, config, progress)
    found = {"input": app.input.video or app.input.data_path, "frames": len(dataset), "stage_seconds": progress.seconds}
    say(settings, f"{app.data_folder}: {len(dataset)} frames with landmarks", found)
    return found
  start_jax(app.machine.device, app.machine.compilation_cache)
  writer = console.tensorboard_writer(output / "tensorboard") if app.output.tensorboard else None
  progress = console.Progress(writer, app.output.energy_log_freq, silent=app.output.quiet)
  held = contextlib.ExitStack()
  try:
    spreading = held.enter_context(over_devices(app.machine.devices)) > 1
    compile_ahead = held.enter_context(ahead.compiling_ahead(progress.remark, bar=not app.output.quiet))
    model = inputs.load_model(app, config)
    log.info("head: %s, %d vertices", model.name, len(model.v_template))
    check_exports(app.output.export, model)
    init = inputs.former_result(app, config, model)
    shape = results.known_shape(app.head.shape_from, model) if app.head.shape_from else None

    def opened(frames: FrameFolder, cuts: tuple[int, ...]) -> None:
      if init is None and not record.finished and programs.folder is not None and not spreading:
        track = having(config, cutframes=cuts, focal=lens.known_focal(app, config, frames))
        dense = of_mediapipe(inputs.expected_detector(app))
        textured = app.output.overlay != "landmarks"
        compile_ahead(lambda: ahead.rehearse(model, frames, track, weights, dense=dense, pictures=textured))

    dataset, cuts = inputs.open_dataset(app, config, progress, opened)
    progress.sound = not app.output.json
    if of_mediapipe(dataset.detector) != of_mediapipe(inputs.expected_detector(app)):
      model = inputs.load_model(app, config, dataset.detector)
    focal = lens.known_focal(app, config, dataset)
    record.agree("input", inputs.describe(app, dataset, model, focal), advice)
    write_ini(output / FILES["config"], settings)  # not before: a refused command leaves what is there alone
    former = stored_arrays(output / results.FILE_NAME) if record.finished else None
    if former and until == "tracked":
      write_atomic(output / results.ALONE, (output / results.FILE_NAME).read_bytes())
      return found_alone(settings, dataset)
    if former and record.content.get("report") == report_choices and (output / FILES["summary"]).exists():
      return already_finished(settings, output)
    settings = settings._replace(track=having(config, cutframes=cuts, focal=focal))
    if former:
      result = results.tracked_of(former, output / results.FILE_NAME, model).result
    else:
      record.agree("environment", inputs.environment(), advice)
      if app.output.offsets:
        check_masks(dataset)
      progress.placed = functools.partial(show_first, model, dataset, output, progress)
      result = fit(settings, model, dataset, record, progress, init, shape)
      if until == "all":
        result = refined(settings, model, dataset, progress, result, init)
      results.save_tracked(
        output / (results.FILE_NAME if until == "all" else results.ALONE), result, np.asarray(dataset.frame_ids),
        dataset.size, config, model, times=dataset.times, sources=dataset.sources,
      )  # fmt: skip
      if until == "tracked":
        return found_alone(settings, dataset)
    outcome = Outcome(output, settings, model, dataset, result)
    summary = write_report(outcome, progress, writer, start)
  finally:
    held.close()
    progress.close()
    if writer is not None:
      writer.close()
  record.finish(report_choices)
  written = [name for name in (results.FILE_NAME, *FILES.values()) if (output / name).exists()]
  written += [f"{EXPORTS}/"] if app.output.export else []
  text = summary_text(summary, output, written)
  log.info("%s", text)
  say(settings, text, summary)
  return summary


def stored_arrays(path: Path) -> dict[str, np.ndarray] | None:
  """What a finished run has stored; None if it is gone or damaged: then it is made again."""
  if not path.exists():
    return None
  try:
    return results.read_npz(path)
  except InputError as error:
    log.warning("%s; the clip is tracked again", error)
    return None


def found_alone(settings: Settings, dataset: FrameFolder) -> dict[str, Any]:
  """Says that a clip has been tracked for its shape alone."""
  app = settings.app
  found = {"input": app.input.video or app.input.data_path, "frames": len(dataset)}
  say(settings, f"{app.output_folder / results.ALONE}: what this clip alone says of the person", found)
  return found


def already_finished(settings: Settings, output: Path) -> dict[str, Any]:
  """Says that there is nothing to do, and gives the summary of the run that did it."""
  try:
    summary = json.loads((output / FILES["summary"]).read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"{output / FILES['summary']}: not a summary ({error}); delete it to have it made again") from None
  tracked = f"{summary.get('tracked')} of {summary.get('frames')} frames tracked"
  message = f"{output}: this run is finished ({tracked}); head: {head_text(summary.get('head', ''))}"
  log.info("%s", message)
  say(settings, f"{message}; its results are kept. --restart does it again", summary)
  return summary


def fit(
  settings: Settings,
  model: FlameModel,
  dataset: FrameFolder,
  record: Record,
  progress: console.Progress,
  former: Tracked | None,
  shape: np.ndarray | None = None,
) -> TrackResult:
  """Tracks, going on from the checkpoints that an earlier run left.

  Args:
    former: a result to start from; of one whose head is another the camera alone is taken, and held.
    shape: (S,) the person's, if it is known.
  """
  app, config, weights = settings
  init = results.for_frames(former, dataset.frame_ids) if former is not None and inputs.of_this_head(former) else None
  if init is not None:
    init = init.replace(poses=init.poses.replace(offset=None))
  camera = former.result.identity.camera if former is not None and init is None else None
  result = pipeline.track(
    model, dataset, config, weights, init=init, camera=camera, shape=shape, progress=progress,
    checkpoint=record.checkpoint, debug_checks=app.machine.debug_checks,
  )  # fmt: skip
  progress.close()
  return result


def refined(
  settings: Settings,
  model: FlameModel,
  dataset: FrameFolder,
  progress: console.Progress,
  result: TrackResult,
  former: Tracked | None,
) -> TrackResult:
  """A clip's track with what comes after tracking: how far it can be trusted, offsets, texture."""
  app = settings.app
  result = results.judged(model, dataset, result)
  if app.output.offsets:
    progress.stage("offsets", n_views(result), "view")
    result = with_offsets(model, dataset, result, progress)
    if app.output.dynamic_offsets and result.identity.static_offset is not None:  # else masks are of something else
      progress.stage("dynamic offsets", len(dataset))
      starts = range(len(dataset)) if settings.track.data.unordered else settings.track.data.cutframes
      result = with_moving_surface(model, dataset, result, starts, progress)
  elif former is not None and inputs.of_this_head(former):
    offset = former.result.identity.static_offset
    result = result.replace(identity=result.identity.replace(static_offset=offset))
  if app.output.texture:
    progress.stage("texture", n_looks(result), "image")
    person = flame.with_offset(model, result.identity.static_offset)
    result = baked(person, dataset, result, app.output.texture, progress.advance)
  elif app.output.offsets and result.identity.static_offset is not None:
    progress.stage("colours", n_looks(result, grown.FRAMES), "image")
    result = grown.coloured(model, dataset, result, progress.advance)
  progress.close()
  return result


def show_first(
  model: FlameModel, dataset: FrameFolder, output: Path, progress: console.Progress, identity, poses, seen: np.ndarray
) -> None:
  """Writes a picture of the first tracked frame as soon as there is one; arguments as `protocols.Progress.placed`."""
  path = output / FILES["first"]
  try:
    write_atomic(path, encode_png(still(model, identity, poses, dataset, int(np.argmax(seen)))))
  except Exception:  # a picture to look at while one waits is no reason to end a run
    log.info("%s could not be made", path, exc_info=True)
  else:
    progress.remark(f"first tracked frame: {path}")
