"""What the app does around the tracking: input, head, output, device. Paths stay as the user wrote them but for a ~."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from vht_jax.config import TrackConfig, Weights
from vht_jax.option import Option, option, options, section

MAX_RATE = 1000.0  # frames per second
TEXTURES = (128, 4096)  # texels per side of a baked texture, at least and at most


@dataclasses.dataclass(frozen=True)
class Input:
  """Input"""

  config: str | None = option(
    None, ".ini file with any of these keys, or the name of a preset (vht, default)", path=True, role="run", usual=True
  )
  video: str | None = option(
    None, "video file, folder of images of one size, or single image to track", path=True, role="run"
  )
  data_path: str | None = option(
    None, "dataset folder (frame_0001/image_0000.png ...): written from --video, reused when it is there", path=True,
    role="run", usual=True,
  )  # fmt: skip
  max_frames: int = option(0, "track only the first frames; 0: all", short="n", usual=True)
  face: str = option(
    "largest", "whom to track: largest, a number (faces are counted from the left, from 0, in the first frame that "
    "shows so many), or all (one after the other, into face_0, face_1, ...)", usual=True,
  )  # fmt: skip
  landmarks: str = option(
    "auto", "detector: auto (the first that works), mediapipe, tasks (needs --face_landmarker), face_alignment",
    choices=("auto", "mediapipe", "tasks", "face_alignment"),
  )  # fmt: skip
  face_landmarker: str | None = option(None, "MediaPipe's face_landmarker.task for --landmarks=tasks", path=True)
  find_cuts: bool = option(True, "look for hard cuts; they count like --cutframes")


@dataclasses.dataclass(frozen=True)
class HeadFile:
  """Head"""

  model: str = option(
    "auto", "head: auto (FLAME if its files are found, else open), open, flame, or the path of a model file", path=True,
    role="run", usual=True,
  )  # fmt: skip
  assets: str | None = option(None, "folder with FLAME's files", path=True, role="run", usual=True)
  flame_teeth: bool = option(
    False, "add two rows of teeth to FLAME, which has none (the open head has): overlay, report, viewer, texture and "
    "meshes show them; codes stay FLAME's", usual=True,
  )  # fmt: skip
  load_tracked_flame_params: str | None = option(
    None, "start from a result of this clip: a tracked_flame_params.npz, ours, VHT's or VHAP's, NeRSemble's tracking, "
    "metrical-tracker's folder of .frame files: identity and camera are kept, the poses are refined", path=True,
    role="run",
  )  # fmt: skip
  shape_from: str | None = option(
    None, "the person's shape is known and held, all else is estimated: a result of another clip of the same person, "
    "ours or VHT's, or a file of vht-fleet --person", path=True, role="run", unless="load_tracked_flame_params",
  )  # fmt: skip
  allow_other_head: bool = option(
    False, "of a loaded result of another head, whose codes mean nothing here, take the camera; without it such a file "
    "is refused", needs="load_tracked_flame_params",
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Lens:
  """Lens. Other ways to say --focal."""

  fov: float = option(
    0.0, "known field of view along the longer image side; another way to say --focal", unit="degrees", usual=True
  )
  focal_px: float = option(
    0.0, "known focal length in pixels of the extracted frames; --focal=1200px says the same", unit="px"
  )
  focal_35mm: float = option(
    0.0, "known 35 mm equivalent focal length, by the image's diagonal as in EXIF; --focal=28mm", unit="mm"
  )


@dataclasses.dataclass(frozen=True)
class Output:
  """Output"""

  output_path: str | None = option(None, "folder for the results", path=True, role="run", short="o", usual=True)
  restart: bool = option(
    False, "forget an earlier run in the output folder, its frames and landmarks too; without it the run goes on",
    role="run", usual=True,
  )  # fmt: skip
  truth: str | None = option(
    None, "npz with the known parameters, to measure the geometric errors against", path=True, role="report", usual=True
  )
  overlay: str = option(
    "compare", "what overlay.mp4 shows: compare (input, head, both, landmarks), mesh, texture, landmarks; none (or "
    "--nooverlay): it is not written", choices=("compare", "mesh", "texture", "landmarks", "none"),
    words=(("true", "compare"), ("false", "none")), role="report", usual=True,  # as in VHT, where it is a switch
  )  # fmt: skip
  offsets: bool = option(
    False, "make the head as large as the person's outline: an offset of each vertex for hair, ears and neck; overlay, "
    "report, texture, exports and viewer show it, in the images' colours; a second pass over some frames", usual=True,
  )  # fmt: skip
  dynamic_offsets: bool = option(
    False, "beside --offsets an offset of each vertex in every frame, where the person's outline moves against the "
    "head: hair that swings, shoulders; overlay, texture, viewer and mesh sequences show it; a second pass over all "
    "frames",
    needs="offsets", usual=True,
  )  # fmt: skip
  texture: int = option(
    0, "bake the images of all frames into a texture of this side (1024, 2048), for overlay, report, exports and "
    "viewer; a second pass over the frames; 0: the colours of the fit, 128 x 128 of them free", unit="px",
    at_most=TEXTURES[1], role="run", usual=True,
  )  # fmt: skip
  frame_rate: float = option(
    0.0, "frame rate of overlay.mp4; 0: as the source plays (25 for images)", unit="frames per second",
    at_most=MAX_RATE, role="report", needs="overlay",
  )  # fmt: skip
  report: bool = option(
    True, "write report.html: video, curves and the head in 3D in one page that opens in any browser", role="report"
  )
  export: str | None = option(
    None, "formats of other programs to write the result in as well, into export/ in the output folder (glb,arkit,...; "
    "vht-export --help lists them)", role="report", usual=True,
  )  # fmt: skip
  tensorboard: bool = option(
    False, "write TensorBoard scalars and images (pip install 'vht-jax[tensorboard]')", role="report"
  )
  img_log_freq: int = option(
    50, "distance of the images in TensorBoard", unit="frames; VHT: steps", at_least=1, role="report",
    needs="tensorboard",
  )  # fmt: skip
  energy_log_freq: int = option(
    5, "distance of the scalars in TensorBoard", unit="frames; VHT: steps", at_least=1, role="report",
    needs="tensorboard",
  )  # fmt: skip
  save_period: int = option(
    1, "read for VHT's files and ignored: results are written once, at the end", at_least=1, role="run", ignored=True
  )
  quiet: bool = option(
    False, "print errors only; warnings are in track.log", role="run", momentary=True, short="q", usual=True
  )
  json: bool = option(
    False, "print the summary, or the error, as a line of JSON per input, and nothing else", role="run", momentary=True,
    usual=True,
  )  # fmt: skip
  dry_run: bool = option(False, "say what would be done, and do nothing", role="run", momentary=True, usual=True)


@dataclasses.dataclass(frozen=True)
class Machine:
  """Machine"""

  device: str = option("auto", "auto, cpu, gpu (cuda), tpu", role="run", usual=True)
  devices: int = option(
    1, "spread the frames of a clip over so many devices of one kind; 0: all there are", at_least=0, role="run"
  )
  compilation_cache: bool = option(
    True, "keep compiled programs in the user's cache folder, which makes the next start faster", role="run"
  )
  debug: bool = option(False, "on the command line: show the traceback of an error", role="run")
  debug_checks: bool = option(
    False, "check every frame's head after each stage, operation by operation (JAX's checkify; slow)", role="run"
  )


@dataclasses.dataclass(frozen=True)
class AppConfig:
  """App"""

  input: Input = section(Input)
  head: HeadFile = section(HeadFile)
  lens: Lens = section(Lens)
  output: Output = section(Output)
  machine: Machine = section(Machine)

  @property
  def data_folder(self) -> Path:
    """The dataset; its path is filled in by `inputs.with_paths`."""
    return Path(self.input.data_path or "")

  @property
  def output_folder(self) -> Path:
    """Where the results go, likewise."""
    return Path(self.output.output_path or "")


class Settings(NamedTuple):
  """All settings: those of the app, those of the tracker that are static, and those that are traced."""

  app: AppConfig
  track: TrackConfig
  weights: Weights


ALL: dict[str, Option] = options(AppConfig) | options(TrackConfig) | options(Weights)
