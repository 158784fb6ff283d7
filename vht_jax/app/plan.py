"""`--dry_run`: what a command would do, without doing any of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vht_jax import results
from vht_jax.app import inputs, record
from vht_jax.app.options.settings import AppConfig, Settings, describe
from vht_jax.dataset.extract import probe
from vht_jax.dataset.layout import frame_folders, keypoint_name
from vht_jax.errors import InputError

_WHERE = ("video", "data_path", "output_path", "dry_run", "json", "quiet")  # said in lines of their own, or no matter


def plan(settings: Settings) -> dict[str, Any]:
  """What `vht-track` would do with these settings (their paths filled in, see `inputs.with_paths`).

  Returns:
    Texts under input, dataset, output, head, stages, device and settings, the last a dict of what is not the default.

  Raises:
    InputError: what would make the run fail before it begins: an unreadable input, no such head, files of another run.
  """
  app, config, _ = settings
  return {
    "input": _input(app),
    "dataset": _dataset(app),
    "output": _output(Path(app.output_path), settings),
    "head": inputs.load_model(app).name,
    "stages": ", ".join(_stages(config)),
    "device": app.device,
    "settings": _changed(settings),
  }


def plan_text(found: dict[str, Any]) -> str:
  """The plan as lines for people."""
  changed = ", ".join(f"{k} = {v}" for k, v in found["settings"].items()) or "the defaults"
  return "\n".join(f"{name:<9s} {text}" for name, text in {**found, "settings": changed}.items())


def _input(app: AppConfig) -> str:
  if not app.video:
    return f"the dataset {app.data_path}"
  info = probe(app.video)
  frames = f"{info.n_frames} frames" if info.n_frames else "frames (the file does not say how many)"
  if app.max_frames:
    frames += f", the first {app.max_frames} of them"
  return f"{app.video}: {frames}, {info.size[1]} x {info.size[0]}, {info.fps:.4g} frames/s"


def _dataset(app: AppConfig) -> str:
  folders = frame_folders(Path(app.data_path)) if Path(app.data_path).is_dir() else {}
  if not folders:
    return f"{app.data_path}: would be made"
  name = keypoint_name(int(app.face) if app.face.isdigit() else None)
  searched = sum((folder / name).exists() for folder in folders.values())
  again = "would be made anew" if app.restart and app.video else "would be used again"
  return f"{app.data_path}: {len(folders)} frames, {searched} of them searched for faces, {again}"


def _output(output: Path, settings: Settings) -> str:
  if output.exists() and not output.is_dir():
    raise InputError(f"{output}: expected a folder for the results; found a file")
  if not output.is_dir():
    return f"{output}: would be made"
  if not (output / record.RECORD).exists():
    return f"{output}: is there, without a run in it"
  found = record.peek(output)
  if settings.app.restart:
    return f"{output}: holds a run, which would be forgotten"
  before, now = found.get("settings"), describe(settings)[0]
  if before is not None and before != now:
    names = ", ".join(name for name in {**before, **now} if before.get(name) != now.get(name))
    return f"{output}: holds a run with other settings ({names}); this one would be refused without --restart"
  if found.get("finished") and (output / results.FILE_NAME).exists():
    return f"{output}: holds a finished run; the same settings would leave it alone"
  stages = sorted(path.stem for path in (output / record.FOLDER).glob("*.npz"))
  return f"{output}: holds an unfinished run, which would go on after {', '.join(stages) or 'its dataset'}"


def _stages(config) -> list[str]:
  adam = config.photometric and config.solver == "adam"
  stages = [] if adam and config.init == "calibration" else ["camera", "landmarks"]
  if config.photometric:
    stages += ["identity", "frames"]
  if config.photometric and config.schedule == "joint" and not adam:
    stages.append("joint")
  if config.smooth and not adam and config.schedule != "sequential":
    stages.append("smooth")
  return stages


def _changed(settings: Settings) -> dict[str, Any]:
  changed = {}
  for part in settings:
    for field in dataclasses.fields(part):
      value = getattr(part, field.name)
      if value != field.default and field.name not in _WHERE:
        changed[field.name] = value
  return changed
