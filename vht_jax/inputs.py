"""From what the user names to frames with landmarks, and what of it tells one run from another."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vht_jax.errors import InputError
from vht_jax.settings import AppConfig

if TYPE_CHECKING:  # imported when they are needed, so that --help and a wrong flag answer at once
  from vht_jax.report import Progress
  from vht_jax.types import FlameModel
  from vht_jax.video import FrameFolder


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


def open_dataset(app: AppConfig, config: Any, progress: Progress) -> FrameFolder:
  """The frames with landmarks of every one; what an earlier run left is used again.

  Raises:
    InputError: unreadable input, no face anywhere, a detector that cannot run.
  """
  from vht_jax.landmarks import annotate, make_detector
  from vht_jax.video import FrameFolder, extract_frames

  if app.video:
    progress.stage("extract", app.max_frames)
    extract_frames(app.video, app.data_path, app.max_frames or None, progress.at)
  dataset = FrameFolder(
    app.data_path,
    tracking_resolution=config.tracking_resolution,
    downscale_factor=config.downscale_factor,
    max_frames=app.max_frames or None,
  )
  progress.stage("detect", len(dataset))
  if not all(dataset.keypoint_path(i).exists() for i in range(len(dataset))):
    detector = make_detector(app.landmarks, face_landmarker=app.face_landmarker)
    try:
      annotate(dataset, detector, progress.at)
    finally:
      detector.close()
  progress.close()
  return dataset


def forget_dataset(data_path: Path) -> None:
  """Deletes the frames that an earlier run extracted with their landmarks; a folder that we did not make is left."""
  from vht_jax.video.layout import SOURCE, frame_folders

  if (data_path / SOURCE).exists():
    for folder in frame_folders(data_path).values():
      shutil.rmtree(folder)
    (data_path / SOURCE).unlink()


def describe(app: AppConfig, dataset: FrameFolder, model: FlameModel) -> dict[str, str]:
  """What the tracker is given beside its settings, as texts that differ when it does."""
  import jax
  import numpy as np

  from vht_jax.checkpoint import digest

  height, width = dataset.source_size
  images = [dataset.image_path(i).stat().st_size for i in range(len(dataset))]
  points, confidence, dense = dataset.landmarks()
  loaded = app.load_tracked_flame_params
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(model)]
  return {
    "frames": f"{len(dataset)} of {height}x{width}, {digest(dataset.frame_ids, np.array(images))}",
    "landmarks": digest(points, confidence, *(() if dense is None else (dense,))),
    "head": f"{model.name}, {digest(*leaves)}",
    "load_tracked_flame_params": digest(Path(loaded).read_bytes()) if loaded else "none",
  }


def environment() -> dict[str, str]:
  """Programs and device whose change would change the last bits of a result."""
  import importlib.metadata

  import jax

  def version(name: str) -> str:
    try:
      return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
      return "unknown"

  names = ("vht-jax", "jax", "jaxlib")
  return {name: version(name) for name in names} | {"device": jax.default_backend()}
