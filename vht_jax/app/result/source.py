"""A finished result, opened: with the head it was tracked with and, if they are found, its images."""

from __future__ import annotations

import dataclasses
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax import results
from vht_jax.app.options.settings import read_ini
from vht_jax.config import TrackConfig
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.layout import THUMBNAILS, frame_folders
from vht_jax.errors import InputError, brief
from vht_jax.head import flame
from vht_jax.head.load import ASSETS_VARIABLE, DEFAULT_FOLDER, load_head
from vht_jax.head.load.flame_files import MODEL_FILES
from vht_jax.results import FILE_NAME, Tracked
from vht_jax.results.export.flame_codes.releases import release_of
from vht_jax.results.export.images.pictures import FolderPictures
from vht_jax.results.export.scene import Scene, make_scene
from vht_jax.results.heads import Verdict, judge
from vht_jax.results.read.kinds import RELEASES, file_of
from vht_jax.types import FlameModel, TrackResult
from vht_jax.video.codec import DEFAULT_FPS

log = logging.getLogger("vht_jax")

OPEN_HEAD = "open head"  # how the names of open heads begin (`head.load.open_head`)
NO_DATASET = "no dataset beside the result: shown without images; name it by --data_path"  # a note
_DATASET = "dataset"  # folder of the frames in a run's output


@dataclasses.dataclass(frozen=True)
class Source:
  """A result, opened."""

  path: Path  # of the npz
  name: str  # for people: the run's
  arrays: dict[str, np.ndarray]  # of the npz; of another tracker's result what ours would hold
  tracked: Tracked  # T frames
  head: FlameModel  # with the faces that are drawn and the person's offsets
  whole_head: FlameModel  # with all faces, for exports, and what the codes are of
  images: FrameFolder | None
  image_rows: np.ndarray  # (T,) position of each frame in `images`, -1: none
  shots: np.ndarray  # (T,) number of the shot, as far as it is known
  verdict: Verdict  # whether the codes are of the head that was found
  notes: tuple[str, ...]  # what the user should know of how it was opened

  def image(self, frame: int) -> np.ndarray | None:
    """(H, W, 3) uint8 of the frame at a position, None if there is none or it is damaged."""
    if self.images is None or self.image_rows[frame] < 0:
      return None
    try:
      return self.images.image(int(self.image_rows[frame]))
    except InputError as error:
      log.warning("%s", error)
      return None


def open_result(path: str, data_path: str | None = None, assets: str | None = None, model: str = "auto") -> Source:
  """Opens a run's output folder or a tracked_flame_params.npz.

  Args:
    path: of either, or another tracker's result (`results.read`).
    data_path: the dataset; by default the one beside the result or the one that the run's config.ini names.
    assets: folder with FLAME's files.
    model: auto (the head that the result names), open, flame or a model's file.

  Raises:
    InputError: no result there, its head cannot be found, or a dataset that was named and does not fit.
  """
  if results.kind_of(path) is not None:
    return _open_foreign(path, data_path, assets, model)
  file = _result_file(Path(path))
  config = _config(file.parent)
  arrays, tracked = results.read_npz(file), results.load_tracked(file)
  notes: list[str] = []
  of_images: list[str] = []
  images = _images(file, tracked, data_path, config, of_images)
  detector = "mediapipe" if images is None else images.detector  # nobody compares points without images
  whole = _head(tracked, file, assets or config.get("assets"), model, config.get("model") or "auto", detector)
  poses, identity = tracked.result.poses, tracked.result.identity
  verdict = judge(
    tracked.head, str(arrays.get("vht_jax_head_id", "")), np.asarray(identity.shape), np.asarray(poses.expr), whole
  )
  if not verdict.same:
    notes.append(f"tracked with {verdict.reason}, shown with {whole.name!r}: the codes mean something else there")
  elif verdict.reason:
    notes.append(f"{file.name} {verdict.reason}; codes of FLAME mean something else there")
  tracked = dataclasses.replace(tracked, result=_of_head(tracked.result, whole, verdict, notes))
  head = flame.with_offset(whole, tracked.result.identity.static_offset)
  cut = config.get("ignore_lower_neck", True) and tracked.result.identity.static_offset is None
  head = flame.without_lower_neck(head) if cut else head
  notes += of_images
  images, rows = _rows(tracked, images, notes)
  name = file.stem if file.name != FILE_NAME else file.resolve().parent.name
  shots = _shots(rows, images, config)
  return Source(file, name, arrays, tracked, head, whole, images, rows, shots, verdict, tuple(notes))


def open_scene(path: str, data_path: str | None = None, assets: str | None = None, model: str = "auto") -> Scene:
  """The same as a scene for exports; arguments and errors as for `open_result`."""
  return scene_of(open_result(path, data_path, assets, model))


def scene_of(source: Source) -> Scene:
  """The scene of an opened result. Images that only some of its frames have are left out.

  Raises:
    InputError: the head is another one than the codes are of.
  """
  tracked, images = source.tracked, source.images
  if not source.verdict.same:
    raise InputError(
      f"{source.path}: its codes are of {source.verdict.reason}; on the head {source.whole_head.name!r} they are "
      "another face: name its head by --model or --assets, or leave these out if it is the open head"
    )
  n = tracked.n_processed if 0 < tracked.n_processed < len(tracked.frames) else len(tracked.frames)
  result = tracked.result
  if n < len(tracked.frames):
    result = results.for_frames(tracked, tracked.frames[:n])
  pictures = None
  if images is not None and (source.image_rows[:n] >= 0).all():
    pictures = FolderPictures(images, source.image_rows[:n])
  elif images is not None:
    log.warning("%s: lacks frames of the result; exported without images", images.path)
  times = tracked.times
  if times is None and images is not None and pictures is not None:
    times = images.times[source.image_rows]
  return make_scene(
    source.whole_head, result, tracked.image_size, frame_ids=tracked.frames[:n],
    times=None if times is None else times[:n], fps=DEFAULT_FPS if images is None else images.fps, name=source.name,
    pictures=pictures,
  )  # fmt: skip


def _open_foreign(path: str, data_path: str | None, assets: str | None, model: str) -> Source:
  """The same of another tracker's result, which is one of FLAME."""
  tracker = results.kind_of(path) or ""
  if model == "open":
    raise InputError(
      f"{path}: {tracker}'s codes are of FLAME {RELEASES[tracker]}; on the open head (--model=open) they are another "
      "face: leave --model out, or name FLAME's file"
    )
  file = _flame_file(RELEASES[tracker], assets) if model in ("auto", "flame") else model
  try:
    whole = load_head(file, assets_dir=assets, model="flame" if file is None else "auto", n_texture=1)
  except InputError as error:
    raise InputError(f"{path}: of {tracker}, FLAME's files are needed to read it: {error}") from None
  tracked = results.load_tracked(path, whole)
  file, notes = file_of(path), list[str]()
  images = _images(file, tracked, data_path, {}, notes)
  images, rows = _rows(tracked, images, notes)
  n_shape, n_expr, n_tex = (d.shape[-1] for d in (whole.shapedirs, whole.exprdirs, whole.texture_basis))
  config = TrackConfig.of(n_shape=n_shape, n_expr=n_expr, n_tex=n_tex)
  named = dataclasses.replace(tracked, head=whole.name, head_id=results.head_id(whole))
  arrays = results.tracked_arrays(named, config)
  head = flame.without_lower_neck(whole)
  verdict, shots = tracked.verdict or Verdict(True, ""), _shots(rows, images, {})
  return Source(file, file.stem, arrays, tracked, head, whole, images, rows, shots, verdict, tuple(notes))


def _flame_file(release: str, assets: str | None) -> Path | None:
  """The FLAME of a release where heads are looked for; None if there is none."""
  folders = [Path(p) for p in (assets, os.environ.get(ASSETS_VARIABLE), DEFAULT_FOLDER) if p]
  places = (f / name for folder in folders for f in (folder, folder / "flame") for name in MODEL_FILES)
  return next((p for p in places if release_of(p.name) == release and p.is_file()), None)


def _rows(tracked: Tracked, images: FrameFolder | None, notes: list[str]) -> tuple[FrameFolder | None, np.ndarray]:
  """The images, if they are of the result at all, and (T,) position of each frame in them, -1: none."""
  rows = np.full(len(tracked.frames), -1)
  if images is not None:
    position = {int(f): i for i, f in enumerate(images.frame_ids)}
    rows = np.array([position.get(int(f), -1) for f in tracked.frames])
    if (rows < 0).all():
      notes.append(f"{images.path}: has none of the result's frames; shown without images")
      return None, rows
    if other := _other_source(tracked, images, rows):
      notes.append(f"{images.path}: {other}")
  return images, rows


def _other_source(tracked: Tracked, images: FrameFolder, rows: np.ndarray) -> str:
  """What the images are made from, if it is not what the result's frames were; "" if it is, or if it is not known.

  Datasets of two clips may have frames of one size and the same numbers.
  """
  if tracked.sources is None:
    return ""
  for frame in np.flatnonzero(rows >= 0).tolist():
    of_result, of_image = str(tracked.sources[frame]), images.sources[rows[frame]]
    named = not of_image.startswith("frame_") and not of_result.startswith("frame_")  # what datasets of VHT have
    if named and of_result != of_image:
      return f"frame {tracked.frames[frame]} is {of_image!r} there and {of_result!r} in the result: of another clip?"
  return ""


def _result_file(path: Path) -> Path:
  if not path.exists():
    raise InputError(f"{path}: no such result; name the output folder of a run or its {FILE_NAME}")
  if not path.is_dir():
    if path.suffix != ".npz" and not zipfile.is_zipfile(path):
      raise InputError(
        f"{path}: expected the output folder of a run or its {FILE_NAME}; found another kind of file. If it is a video "
        f"or an image, track it first: vht-track {path.name}"
      )
    return path
  if (path / FILE_NAME).is_file():
    return path / FILE_NAME
  people = sorted(p.parent.name for p in path.glob(f"face_*/{FILE_NAME}"))
  people += sorted(p.name for p in path.glob("*.npz") if p.name != THUMBNAILS)
  if not people and frame_folders(path):
    raise InputError(f"{path}: expected the output folder of a run; found a dataset, that is frames without a result")
  hint = f"; it holds {', '.join(people)}: name one of these" if people else "; is the run finished?"
  raise InputError(f"{path}: expected a {FILE_NAME} in this folder{hint}")


def _config(folder: Path) -> dict[str, Any]:
  """What the run's config.ini says; nothing if there is none or it is of another kind."""
  if not (folder / "config.ini").is_file():
    return {}
  try:
    return read_ini(folder / "config.ini")
  except InputError as error:
    log.info("not used: %s", error)
    return {}


def _head(tracked: Tracked, file: Path, assets: str | None, model: str, of_the_run: str, detector: str) -> FlameModel:
  """The head that the result was tracked with, or the one that the user names; its landmarks are the detector's."""
  asked = model
  if model == "auto" and of_the_run not in ("auto", "open", "flame") and Path(of_the_run).is_file():
    model = of_the_run
  if model == "auto":
    model = "open" if tracked.head.startswith(OPEN_HEAD) else "flame"
  # The file's codes are padded with zeros; a texture basis is large, so only what is used of it is read.
  used = np.flatnonzero(np.asarray(tracked.result.identity.texture))
  n_texture = int(used[-1]) + 1 if len(used) else 1
  try:
    if model in ("open", "flame"):
      teeth = tracked.teeth and model == "flame"
      return load_head(assets_dir=assets, model=model, n_texture=n_texture, detector=detector, teeth=teeth)
    teeth = tracked.teeth and not model.endswith(".npz")
    return load_head(model, assets_dir=assets, n_texture=n_texture, detector=detector, teeth=teeth)
  except InputError as error:
    if asked != "auto":
      raise InputError(f"--model={asked}: {error}") from None
    named = tracked.head or "FLAME"
    raise InputError(f"{file}: tracked with {named}, whose files are needed to show it: {error}") from None


def _of_head(result: TrackResult, head: FlameModel, verdict: Verdict, notes: list[str]) -> TrackResult:
  """The result with as many codes as a head has, and with offsets only if they are of its vertices."""
  result = results.fit_components(result, head)
  offsets = [a for a in (result.identity.static_offset, result.poses.offset) if a is not None]
  strange = [a.shape[-2] for a in offsets if a.shape[-2:] != head.v_template.shape]
  if strange or (offsets and not verdict.same):
    n = strange[0] if strange else len(head.v_template)
    notes.append(f"its offsets of {n} vertices are left out: they are of another head")
    identity, poses = result.identity.replace(static_offset=None), result.poses.replace(offset=None)
    result = result.replace(identity=identity, poses=poses)
  return result


def _images(
  file: Path, tracked: Tracked, data_path: str | None, config: dict[str, Any], notes: list[str]
) -> FrameFolder | None:
  """The dataset; one that was named has to fit, one that was found is left out with a note if it does not."""
  places = [data_path] if data_path else [str(file.parent / _DATASET), config.get("data_path")]
  found = next((p for p in places if p and Path(p).is_dir()), None)
  if found is None:
    if data_path:
      raise InputError(f"{data_path}: no such dataset folder")
    notes.append(NO_DATASET)
    return None
  try:
    face = config.get("face", "")
    images = FrameFolder(
      found, tracking_resolution=tracked.image_size, face=int(face) if face.isdigit() else None, cache_bytes=256 << 20
    )
    if images.size != tracked.image_size:
      sizes = [f"{h}x{w}" for h, w in (images.source_size, tracked.image_size)]
      raise InputError(f"{found}: frames of {sizes[0]}, the result is of frames of {sizes[1]}: another video's")
    _ = images.detections
    return images
  except InputError as error:
    if data_path:
      raise
    notes.append(f"shown without images: {brief(error)}")
    return None


def _shots(rows: np.ndarray, images: FrameFolder | None, config: dict[str, Any]) -> np.ndarray:
  """The shot of each frame. Cuts are looked for only where the run left its thumbnails: decoding a clip takes long."""
  cuts = set(config.get("cutframes", ()))
  if images is not None and config.get("find_cuts", True) and (images.path / THUMBNAILS).is_file():
    cuts |= set(images.find_cuts())
  starts = np.isin(rows if images is not None else np.arange(len(rows)), sorted(cuts))
  return np.cumsum(starts)
