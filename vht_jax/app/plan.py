"""`--dry_run`: what a command would do, without doing any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vht_jax import results
from vht_jax.app import inputs, record
from vht_jax.app.options import lens
from vht_jax.app.options.settings import AppConfig, Settings, describe
from vht_jax.app.result.after import check_exports
from vht_jax.dataset.extract import check_source, probe
from vht_jax.dataset.layout import SOURCE, frame_folders, keypoint_name
from vht_jax.errors import InputError
from vht_jax.option import get, options
from vht_jax.tracking.pipeline import SMOOTH, stages_of
from vht_jax.types import FlameModel

_WHERE = ("video", "data_path", "output_path", "dry_run", "json", "quiet")  # said in lines of their own, or no matter


def plan(settings: Settings) -> dict[str, Any]:
  """What `vht-track` would do with these settings (their paths filled in, see `inputs.with_paths`).

  Returns:
    Texts under input, dataset, output, head, stages, device and settings, the last a dict of what is not the default.

  Raises:
    InputError: what would make the run fail before it begins: an unreadable input, images of several sizes, frames of
      another input, no such head, files of another run or of none.
  """
  app, config, _ = settings
  model = inputs.load_model(app)
  check_exports(app.output.export, model)
  return {
    "input": _input(app),
    "dataset": _dataset(settings),
    "output": _everybody(settings) if app.input.face == "all" else _output(app.output_folder, settings),
    "head": model.name,
    "stages": ", ".join(_stages(settings, model)),
    "device": app.machine.device,
    "settings": _changed(settings),
  }


def plan_text(found: dict[str, Any]) -> str:
  """The plan as lines for people."""
  changed = ", ".join(f"{k} = {v}" for k, v in found["settings"].items()) or "the defaults"
  return "\n".join(f"{name:<9s} {text}" for name, text in {**found, "settings": changed}.items())


def _input(app: AppConfig) -> str:
  if not app.input.video:
    return f"the dataset {app.input.data_path}"
  info = probe(app.input.video)
  frames = f"{info.n_frames} frames" if info.n_frames else "frames (the file does not say how many)"
  if app.input.max_frames:
    frames += f", the first {app.input.max_frames} of them"
  return f"{app.input.video}: {frames}, {info.size[1]} x {info.size[0]}, {info.fps:.4g} frames/s"


def _dataset(settings: Settings) -> str:
  app, config, _ = settings
  path = app.data_folder
  again = "would be used again"
  if app.input.video and app.output.restart and (path / SOURCE).exists():
    again = "would be made anew"
  elif app.input.video:
    check_source(Path(app.input.video), path)
  folders = frame_folders(path) if path.is_dir() else {}
  if not folders:
    return f"{path}: would be made"
  if again == "would be used again":
    inputs.frames_of(app, config)  # are they of one size?
  name = keypoint_name(int(app.input.face) if app.input.face.isdigit() else None)
  searched = sum((folder / name).exists() for folder in folders.values())
  return f"{path}: {len(folders)} frames, {searched} of them searched for faces, {again}"


def _everybody(settings: Settings) -> str:
  """For `--face=all`: how many faces there are is not known before they are counted."""
  app, i = settings.app, 0
  found = [f"{app.output.output_path}: every person of the clip, one after the other, into face_0, face_1, ..."]
  while (folder := inputs.folder_of_face(app, i)).exists():
    found.append(_output(folder, settings))
    i += 1
  return "; ".join(found)


def _output(output: Path, settings: Settings) -> str:
  if output.exists() and not output.is_dir():
    raise InputError(f"{output}: expected a folder for the results; found a file")
  if not output.is_dir():
    return f"{output}: would be made"
  record.check_ours(output)
  if not (output / record.RECORD).exists():
    return f"{output}: is there, without a run in it"
  if settings.app.output.restart:
    return f"{output}: holds a run, which would be forgotten"
  found = record.peek(output)
  chosen = describe(settings)[0]
  if chosen["face"] == "all":
    chosen["face"] = output.name.removeprefix("face_")
  for what, now in (("settings", chosen), ("input", _known_input(settings))):
    if (before := found.get(what)) and now and before != now:
      names = ", ".join(name for name in {**before, **now} if before.get(name) != now.get(name))
      return f"{output}: holds a run with other {what} ({names}); this one would be refused without --restart"
  if found.get("finished") and (output / results.FILE_NAME).exists():
    return f"{output}: holds a finished run; the same settings would leave it alone"
  stages = sorted(path.stem for path in (output / record.FOLDER).glob("*.npz"))
  return f"{output}: holds an unfinished run, which would go on after {', '.join(stages) or 'its dataset'}"


def _known_input(settings: Settings) -> dict[str, str] | None:
  """What the run's record would say of its input; None while there are no frames, or not searched for faces yet."""
  app, config, _ = settings
  if app.input.face == "all" or not frame_folders(app.data_folder):
    return None
  dataset = inputs.frames_of(app, config)
  if not all(dataset.keypoint_path(i).exists() for i in range(len(dataset))):
    return None
  model = inputs.load_model(app, config, dataset.detector)
  return inputs.describe(app, dataset, model, lens.known_focal(app, config, dataset))


def _stages(settings: Settings, model: FlameModel) -> list[str]:
  """The tracker's own list and what comes after it."""
  app, config, _ = settings
  former = inputs.former_result(app, config, model)
  stages = stages_of(config, going_on=former is not None and inputs.of_this_head(former))
  output = app.output
  after = {"offsets": output.offsets, "dynamic offsets": output.dynamic_offsets, "texture": output.texture}
  tracked = [s.name for s in stages if config.smooth or s is not SMOOTH]  # it only looks whether this is a video then
  return tracked + [name for name, wanted in after.items() if wanted]


def _changed(settings: Settings) -> dict[str, Any]:
  changed = {}
  for part in settings:
    for key, option in options(type(part)).items():
      if (value := get(part, key)) != option.default and key not in _WHERE:
        changed[key] = value
  return changed
