"""From what the user names to frames with landmarks, and what of it tells one run from another."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from vht_jax import results
from vht_jax.app.console import Progress
from vht_jax.app.options.app_config import AppConfig
from vht_jax.app.record import digest
from vht_jax.config import TrackConfig
from vht_jax.dataset import pieces
from vht_jax.dataset.annotate import annotate, count_faces
from vht_jax.dataset.child import extract_in_child
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.layout import SOURCE, THUMBNAILS, frame_folders
from vht_jax.dataset.pieces import helper
from vht_jax.dataset.resume import is_annotated
from vht_jax.errors import InputError
from vht_jax.head.load import load_head, of_mediapipe
from vht_jax.host.files import lock
from vht_jax.host.programs import spread
from vht_jax.landmarks import Detector, make_detector
from vht_jax.option import having
from vht_jax.results import Tracked
from vht_jax.results.read import content
from vht_jax.tracking.keyframes import check_positions
from vht_jax.types import FlameModel

log = logging.getLogger("vht_jax")

# In a dataset folder: held by the run that extracts or annotates, and shared by all that read its frames.
PREPARED, READ = ".prepare.lock", ".read.lock"


def with_paths(app: AppConfig) -> AppConfig:
  """`app` with the folders that follow from the video's name, and the input checked.

  Raises:
    InputError: nothing to track, or a path that is not there.
  """
  if not app.input.video and not app.input.data_path:
    raise InputError("nothing to track: give --video=clip.mp4 or --data_path=folder (see --help)")
  if app.input.video and not Path(app.input.video).exists():
    raise InputError(f"{app.input.video}: no such video")
  if not app.input.video and not app.data_folder.is_dir():
    raise InputError(f"{app.input.data_path}: no such dataset folder; to make it from a video give --video as well")
  name = Path(app.input.video or app.input.data_path or "").resolve()
  output = app.output.output_path or str(Path("out") / (name.stem if name.is_file() else name.name))
  data = app.input.data_path or str(Path(output) / "dataset")
  former = app.head.load_tracked_flame_params
  if former and not Path(former).exists():
    former = former.rpartition("@")[0] or former  # without the camera of NeRSemble's tracking
  for path in (app.output.truth, former, app.head.shape_from):
    if path and not Path(path).exists():
      raise InputError(f"{path}: no such file")
  return having(app, data_path=data, output_path=output)


def load_model(app: AppConfig, config: TrackConfig | None = None, detector: str | None = None) -> FlameModel:
  """The head that the settings name, with its landmarks where the detector sees them.

  Args:
    config: how many components to keep; all without it.
    detector: who made the landmarks (`FrameFolder.detector`); None before that is known: the one that is asked for.

  Raises:
    InputError: no such head, or a broken file.
  """
  named = app.head.model in ("auto", "open", "flame")
  sizes = None if config is None else config.components
  counts = {} if sizes is None else dict(n_shape=sizes.n_shape, n_expr=sizes.n_expr, n_texture=sizes.n_tex)
  return load_head(
    None if named else app.head.model, assets_dir=app.head.assets, model=app.head.model if named else "auto",
    detector=expected_detector(app) if detector is None else detector, teeth=app.head.flame_teeth, **counts,
  )  # fmt: skip


def expected_detector(app: AppConfig) -> str:
  """Whose landmarks `--landmarks` gives, as `load_head` wants it; a dataset may have another's."""
  return "mediapipe" if app.input.landmarks == "auto" else app.input.landmarks


def former_result(app: AppConfig, config: TrackConfig, model: FlameModel) -> Tracked | None:
  """The result that the user wants to start from; before the long work, as it may be refused.

  Raises:
    InputError: not a result, without a camera, or of another head without `allow_other_head`.
  """
  path = app.head.load_tracked_flame_params
  if not path:
    return None
  found = results.load_tracked(path, model, focal=config.camera.focal, other_head=app.head.allow_other_head)
  if found.verdict is not None and not found.verdict.same:
    focal = config.camera.focal or float(found.result.identity.camera.focal)
    log.warning(
      "%s: its codes are of %s, not of this head; its camera alone is taken (focal length %.4g), all else is estimated",
      path, found.verdict.reason, focal,
    )  # fmt: skip
  return found


def of_this_head(former: Tracked) -> bool:
  """Whether a result's codes are of the head that is tracked with."""
  return former.verdict is not None and former.verdict.same


def open_dataset(
  app: AppConfig,
  config: TrackConfig,
  progress: Progress,
  opened: Callable[[FrameFolder, tuple[int, ...]], None] = lambda dataset, cuts: None,
) -> tuple[FrameFolder, tuple[int, ...]]:
  """The frames with landmarks of every one, and where new shots start; what an earlier run left is used again.

  `opened` is told of both before the frames are searched for faces.

  Raises:
    InputError: unreadable input, no face anywhere, a detector that cannot run.
  """
  dataset = open_frames(app, config, progress)
  cuts = find_cuts(app, config, dataset)
  if cuts:
    log.info("new shots start at frames %s", ", ".join(str(dataset.frame_ids[i]) for i in cuts if i < len(dataset)))
  opened(dataset, tuple(cuts))
  progress.stage("detect", len(dataset))
  due = lambda: not is_annotated(dataset) or not dataset.valid.any()  # without a face: it says why
  if due():
    with preparing(app.data_folder):
      dataset.reload_keypoints()  # another run may have been at it
      if due():
        with the_detector(app) as detector:
          annotate(dataset, detector, progress.at, cuts=range(len(dataset)) if config.data.unordered else cuts)
  progress.close()
  return dataset, tuple(cuts)


def find_cuts(app: AppConfig, config: TrackConfig, dataset: FrameFolder) -> list[int]:
  """Where new shots start, as the user says and as the frames show."""
  look = app.input.find_cuts and not config.data.unordered
  return sorted({*config.data.cutframes, *(dataset.find_cuts() if look else ())})


@contextlib.contextmanager
def the_detector(app: AppConfig) -> Iterator[Detector]:
  """The detector that the settings name, inside the block."""
  detector = make_detector(app.input.landmarks, face_landmarker=app.input.face_landmarker, face=whom(app))
  try:
    yield detector
  finally:
    detector.close()


def import_beside(app: AppConfig) -> None:
  """Imports what the detector will need in a thread, if there are no frames yet: it takes a second, in which this
  process waits for the one that makes them."""

  def load() -> None:
    with contextlib.suppress(Exception):  # `the_detector` says what is missing
      importlib.import_module("mediapipe")

  if of_mediapipe(expected_detector(app)) and not (app.data_folder / SOURCE).exists():
    threading.Thread(target=load, name="import", daemon=True).start()


def help_search(app: AppConfig, config: TrackConfig, alive: Callable[[], None] = lambda: None) -> int:
  """Looks for faces in pieces of a clip (`dataset.pieces`) that a run elsewhere is searching; returns in how many.

  `alive` is called before each frame.

  Raises:
    InputError: its frames are not here, or a detector that cannot run.
  """
  dataset = frames_of(app, config)
  with the_detector(app) as detector:
    return helper.help_search(dataset, detector, alive)


def open_frames(app: AppConfig, config: TrackConfig, progress: Progress) -> FrameFolder:
  """The frames alone.

  Raises:
    InputError: unreadable input, or keyframes and cuts that it does not have (before it is extracted, if it says how
      many frames there are).
  """
  if app.input.video:
    progress.stage("extract", app.input.max_frames)
    check = functools.partial(check_positions, config)
    import_beside(app)
    with preparing(app.data_folder):
      info = extract_in_child(app.input.video, app.data_folder, app.input.max_frames or None, progress.at, check)
    progress.at(info.n_frames, info.n_frames)
    progress.close()
  dataset = frames_of(app, config)
  check_positions(config, len(dataset))
  return dataset


def frames_of(app: AppConfig, config: TrackConfig) -> FrameFolder:
  """The dataset that is there.

  Raises:
    InputError: it is not, or has frames of several sizes.
  """
  return FrameFolder(
    app.data_folder,
    tracking_resolution=config.data.tracking_resolution,
    downscale_factor=config.data.downscale_factor,
    max_frames=app.input.max_frames or None,
    face=int(app.input.face) if app.input.face.isdigit() else None,
  )


def count_people(app: AppConfig, config: TrackConfig, progress: Progress) -> int:
  """How many faces the clip shows at once.

  Raises:
    InputError: unreadable input, a detector that cannot run, or no face.
  """
  dataset = open_frames(app, config, progress)
  detector = make_detector(app.input.landmarks, face_landmarker=app.input.face_landmarker)
  try:
    count = count_faces(dataset, detector)
  finally:
    detector.close()
  if not count:
    raise InputError(f"{dataset.origin}: no face found; a face should be at least 40 pixels wide")
  return count


def folder_of_face(app: AppConfig, i: int) -> Path:
  """Where `--face=all` writes what it finds of person i."""
  return app.output_folder / f"face_{i}"


def whom(app: AppConfig) -> str | int:
  """Whom `--face` names, as the detectors want it."""
  return int(app.input.face) if app.input.face.isdigit() else app.input.face


@contextlib.contextmanager
def preparing(data_path: Path) -> Iterator[None]:
  """Inside the block no other run writes into the dataset; waits for one that does."""
  with contextlib.suppress(OSError):  # whoever writes there says so
    data_path.mkdir(parents=True, exist_ok=True)
  say = lambda: log.warning("%s: another run is making these frames or landmarks; waiting for it", data_path)
  with lock(data_path / PREPARED, wait=say):
    yield


@contextlib.contextmanager
def reading(app: AppConfig) -> Iterator[None]:
  """Inside the block no other run deletes the dataset's frames, if they are ours."""
  if not (app.input.video or (app.data_folder / SOURCE).exists()):
    yield
    return
  with contextlib.suppress(OSError):
    app.data_folder.mkdir(parents=True, exist_ok=True)
  with lock(app.data_folder / READ, shared=True, wait=lambda: None):
    yield


def forget_dataset(data_path: Path) -> None:
  """Deletes the frames that an earlier run extracted with their landmarks; a folder that we did not make is left.

  Raises:
    InputError: another run reads them.
  """
  if not (data_path / SOURCE).exists():
    return
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(lock(data_path / READ))
    except BlockingIOError:
      raise InputError(
        f"{data_path}: another run is using these frames, so --restart cannot delete them; wait for it, or choose "
        "another --data_path"
      ) from None
    for folder in frame_folders(data_path).values():
      if not folder.is_symlink():
        shutil.rmtree(folder)
    pieces.delete(data_path)
    for path in (data_path / THUMBNAILS, *data_path.glob("landmarks*.json"), data_path / SOURCE):
      path.unlink(missing_ok=True)


def describe(app: AppConfig, dataset: FrameFolder, model: FlameModel, focal: float) -> dict[str, str]:
  """What the tracker is given beside its settings, as texts that differ when it does; `focal`: 0 if not known."""
  height, width = dataset.source_size
  images = [dataset.image_path(i).stat().st_size for i in range(len(dataset))]
  points, confidence, dense = dataset.landmarks()
  loaded = app.head.load_tracked_flame_params
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(model)]
  return {
    "frames": f"{len(dataset)} of {height}x{width}, {digest(dataset.frame_ids, np.array(images))}",
    "times": digest(dataset.times),
    "focal": f"{focal:.6g}",
    "landmarks": digest(points, confidence, *(() if dense is None else (dense,))),
    "head": f"{model.name}, {digest(*leaves)}",
    "load_tracked_flame_params": digest(content(loaded)) if loaded else "none",
    **({"shape_from": digest(content(app.head.shape_from))} if app.head.shape_from else {}),
  }


def environment() -> dict[str, str]:
  """Programs and device whose change would change the last bits of a result."""

  def version(name: str) -> str:
    try:
      return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
      return "unknown"

  names = ("vht-jax", "jax", "jaxlib")
  used = "" if spread.mesh is None else f" x {spread.mesh.size}"
  return {name: version(name) for name in names} | {"device": f"{jax.default_backend()}{used}"}
