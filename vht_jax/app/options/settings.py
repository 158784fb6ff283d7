"""From an .ini file and the command line to `AppConfig`, `TrackConfig` and `Weights`, and back to an .ini file.

Every field of the three dataclasses is a key of the .ini and a flag of the same name; both are read by the same code.
Precedence: flag > .ini > default. VHT's files are read as they are: any section names or none (the config.ini that VHT
writes has none), lists in brackets, Python's None; so are VHT's space separated lists on the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from vht_jax.app.options import lens
from vht_jax.app.options.effects import check_effects
from vht_jax.app.options.several import expand, names
from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.host.files import expanded, write_atomic

PACKAGE = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class AppConfig:
  """What the app does around the tracking: input, output, device. Paths stay as the user wrote them but for a ~."""

  config: str | None = None
  video: str | None = None
  data_path: str | None = None
  output_path: str | None = None
  max_frames: int = 0
  restart: bool = False
  landmarks: str = "auto"
  face: str = "largest"
  find_cuts: bool = True
  face_landmarker: str | None = None
  assets: str | None = None
  model: str = "auto"
  load_tracked_flame_params: str | None = None
  allow_other_head: bool = False
  truth: str | None = None
  device: str = "auto"
  fov: float = 0.0
  focal_px: float = 0.0
  focal_35mm: float = 0.0
  overlay: str = "compare"
  report: bool = True
  frame_rate: float = 0.0
  tensorboard: bool = False
  compilation_cache: bool = True
  save_period: int = 1
  quiet: bool = False
  json: bool = False
  dry_run: bool = False
  debug: bool = False
  debug_checks: bool = False


class Settings(NamedTuple):
  app: AppConfig
  track: TrackConfig
  weights: Weights


HELP = {
  "config": ".ini file with any of these keys, or the name of a preset (vht, default)",
  "video": "video file, folder of images or single image to track",
  "data_path": "dataset folder (frame_0001/image_0000.png ...): written from --video, reused when it is there",
  "output_path": "folder for the results",
  "max_frames": "track only the first frames; 0: all",
  "restart": "forget an earlier run in the output folder, its frames and landmarks too; without it the run goes on",
  "landmarks": "detector: auto (the first that works), mediapipe, tasks (needs --face_landmarker), face_alignment",
  "face": "whom to track: largest, a number (faces are counted from the left, from 0, in the first frame that shows so "
  "many), or all (one after the other, into face_0, face_1, ...)",
  "find_cuts": "look for hard cuts; they count like --cutframes",
  "face_landmarker": "MediaPipe's face_landmarker.task for --landmarks=tasks",
  "assets": "folder with FLAME's files",
  "model": "head: auto (FLAME if its files are found, else open), open, flame, or the path of a model file",
  "load_tracked_flame_params": "start from a tracked_flame_params.npz of this clip, ours or VHT's: identity and camera "
  "are kept, the poses are refined",
  "allow_other_head": "of a loaded result of another head, whose codes mean nothing here, take the camera; without it "
  "such a file is refused",
  "truth": "npz with the known parameters, to measure the geometric errors against",
  "device": "auto, cpu, gpu (cuda), tpu",
  "fov": "known field of view along the longer image side in degrees; another way to say --focal",
  "focal_px": "known focal length in pixels of the extracted frames; --focal=1200px says the same",
  "focal_35mm": "known 35 mm equivalent focal length in mm, by the image's diagonal as in EXIF; --focal=28mm",
  "overlay": "what overlay.mp4 shows: compare (input, head, both, landmarks), mesh, texture, landmarks; none (or "
  "--nooverlay): it is not written",
  "frame_rate": "frames per second of overlay.mp4; 0: as the source plays (25 for images)",
  "report": "write report.html: video, curves and the head in 3D in one page that opens in any browser",
  "tensorboard": "write TensorBoard scalars and images (pip install 'vht-jax[tensorboard]')",
  "compilation_cache": "keep compiled programs in the user's cache folder, which makes the next start faster",
  "save_period": "read for VHT's files and ignored: results are written once, at the end",
  "quiet": "print errors only; warnings are in track.log",
  "json": "print the summary as a line of JSON per input, and nothing else",
  "dry_run": "say what would be done, and do nothing",
  "debug": "on the command line: show the traceback of an error",
  "debug_checks": "check every frame's head after each stage, operation by operation (JAX's checkify; slow)",
  # TrackConfig
  "n_shape": "identity components to fit, at most what the head has",
  "n_expr": "expression components, likewise",
  "n_tex": "texture components, likewise",
  "tex_res": "read for VHT's files and ignored, as VHT does",
  "ignore_lower_neck": "leave the lower neck out of the photometric term",
  "tracking_resolution": "height, width into which frames are scaled for tracking, keeping their shape; default: as is",
  "downscale_factor": "factor by which frames are made smaller for tracking",
  "keyframes": "0-based positions of the frames that determine the identity; default: chosen by yaw and expression",
  "cutframes": "0-based positions at which a new shot starts, beside those that --find_cuts finds",
  "calibrated": "the camera is known and held: the focal length of --focal or --fov and the image centre, or the "
  "camera of --load_tracked_flame_params",
  "init": "Adam starts from: landmarks (bundle adjustment of the landmarks) or calibration (VHT's cv2.calibrateCamera)",
  "solver": "gn (Gauss-Newton) or adam (VHT's first-order stages)",
  "schedule": "batched (frames in parallel), joint (the same, then identity and poses from all frames; slower) or "
  "sequential (each frame starts at its predecessor, as in VHT)",
  "smooth": "Gauss-Newton, batched and joint: smooth the poses in time, as far as their measured noise asks for it",
  "unordered": "the frames are single pictures, no video: search each by itself, do not smooth, bridge nothing",
  "photometric": "use the image; without it the fit to the landmarks is the result",
  "tracks": "follow points of the skin's texture, which hold the head's motion and the lens (landmarks slide)",
  "dense_landmarks": "use the 468 points of the face mesh beside the 68 + 2, where the detector gives them",
  "n_keyframes": "number of keyframes when they are chosen automatically",
  "n_calibration_frames": "number of frames in the landmark bundle adjustment",
  "batch_size": "frames optimised at once by the batched and the joint schedule",
  "crop_size": "Gauss-Newton: side of the square around the head that is looked at, px",
  "n_samples": "Gauss-Newton: pixels of it per solve",
  "identity_steps": "Gauss-Newton: rasterisations of the keyframe stage",
  "frame_steps": "Gauss-Newton: and of the frame stage",
  "focal": "known focal length in longer image sides, or with its unit: 1200px, 28mm; held (the principal point only "
  "with --calibrated); 0: EXIF's, or estimated",
  "init_steps": "Adam: steps of the keyframe stage, and in turn of the first frame of a shot",
  "steps_per_frame": "Adam: steps per frame",
  "sub_steps": "Adam: updates per step (per rasterisation)",
  "blur_sigma": "Adam: blur of the images in pixels at the first and last step",
  "sampling_scale": "Adam: render at this multiple of the tracked resolution",
  "pixel_budget": "Adam: look at this many of the visible pixels per frame, others in each step; 0: at all",
  "img_log_freq": "frames (VHT: steps) between images in TensorBoard",
  "energy_log_freq": "frames (VHT: steps) between scalars in TensorBoard",
  # Weights
  "lr": "Adam: learning rate of everything without its own",
  "pos_lr": "Adam: learning rate of the translation",
  "light_lr": "Adam: learning rate of the light",
  "cam_lr": "Adam: learning rate of the camera",
  "w_lmk": "Adam: weight of the landmarks",
  "w_eyes_lmk": "Adam: weight of the irises",
  "w_eyes_sym": "Adam: weight of the difference between the eyes' poses",
  "w_photo": "Adam: weight of the photometric term",
  "w_shape_reg": "Adam: weight of the identity prior",
  "w_expr_reg": "Adam: weight of the expression prior",
  "w_tex_reg": "Adam: weight of the texture prior",
  "w_pos_glob": "read for VHT's files; unused, as in VHT",
  "w_pos_neck": "Adam: weight of the neck's deviation from neutral",
  "w_pos_jaw": "Adam: weight of the jaw's deviation from neutral",
  "w_pos_eyes": "Adam: weight of the eyes' deviation from neutral",
  "w_pos_trans": "Adam: weight of the change of translation",
  "sd_landmark": "landmark least squares: noise of a landmark coordinate, in outer eye distances",
  "sd_dense": "the same for a dense landmark",
  "sd_offset": "constant bias of the detector per landmark, in outer eye distances",
  "sd_closure": "noise and bias of the openings of lids and lips, in outer eye distances",
  "w_identity": "landmark least squares: strength of the identity prior",
  "sd_expr": "spread of an expression coefficient",
  "sd_neck": "spread of the neck angles, rad",
  "sd_jaw": "spread of the jaw angles, rad",
  "sd_gaze": "spread of the eye angles, rad",
  "sd_color": "Gauss-Newton: noise of a colour (of 1); larger differences count linearly",
  "sd_layer": "Gauss-Newton: spread of the free albedo beyond the texture basis",
  "photo_pixels": "Gauss-Newton: independent pixels that a frame's colours count for beside its landmarks, at most, "
  "for the identity",
  "frame_pixels": "Gauss-Newton: the same when the frames are tracked",
  "sd_size": "spread of the relative head size",
}

SHORT = {"output_path": "o", "quiet": "q", "max_frames": "n"}
# What --help shows; --helpfull shows all.
USUAL = tuple(
  "output_path data_path config max_frames restart face model assets fov focal tracking_resolution solver schedule "
  "photometric smooth overlay truth device quiet json dry_run".split()
)
CHOICES = {
  "landmarks": ("auto", "mediapipe", "tasks", "face_alignment"),
  "init": ("landmarks", "calibration"),
  "solver": ("gn", "adam"),
  "schedule": ("batched", "joint", "sequential"),
  "overlay": ("compare", "mesh", "texture", "landmarks", "none"),
}
# Words for a value that were, or are in VHT, true and false.
ALIASES = {"overlay": {"true": "compare", "false": "none"}}
# Sizes, counts and divisors: at least 1, or strictly positive.
_AT_LEAST_ONE = frozenset(
  "n_shape n_expr tex_res n_keyframes n_calibration_frames batch_size n_samples steps_per_frame sub_steps "
  "img_log_freq energy_log_freq save_period".split()
)
# A ~ at the start of these is the home folder. `model` may be a path.
_PATHS = ("config", "video", "data_path", "output_path", "face_landmarker", "assets", "model", "truth",
          "load_tracked_flame_params")  # fmt: skip
_SPREADS = frozenset(f.name for f in dataclasses.fields(Weights) if f.name.startswith("sd_"))
_POSITIVE = {"downscale_factor", "sampling_scale"} | _SPREADS
MIN_SIDE = 16  # px, of a tracked image
MIN_CROP = 32  # px: a face of fewer is not found either
MAX_RATE = 1000.0  # frames per second
_FOCALS = ("fov", "focal", "focal_px", "focal_35mm")  # one quantity with several names
# A run may go on with other values of these: where things are (what they hold is compared instead), how the run is
# watched, keys that nothing reads ...
_NOT_THE_RUN = frozenset(
  "config video data_path output_path restart assets model load_tracked_flame_params device compilation_cache debug "
  "debug_checks save_period tex_res w_pos_glob quiet json dry_run".split()
)
# ... and what is made from a finished result.
_REPORT = frozenset("truth overlay report frame_rate tensorboard img_log_freq energy_log_freq".split())


def packaged(name: str) -> Path:
  """Path of a file or folder that ships with the package, e.g. 'configs/vht.ini'.

  It lies inside an installed package, at the top of a checkout.
  """
  inside, beside = PACKAGE / name, PACKAGE.parent / name
  return beside if beside.exists() and not inside.exists() else inside


def fields() -> dict[str, Any]:
  """Every key with its type, in the order AppConfig, TrackConfig, Weights."""
  types_of = {}
  for cls in (AppConfig, TrackConfig, Weights):
    hints = typing.get_type_hints(cls)
    types_of.update({f.name: hints[f.name] for f in dataclasses.fields(cls)})
  return types_of


def parse(argv: list[str]) -> Settings:
  """The settings of a command line (without the program's name) that names at most one input.

  Raises:
    InputError: unknown flag or key, or a value of the wrong kind.
  """
  found = parse_all(argv)
  if len(found) > 1:
    raise InputError(f"expected one input; found {len(found)}")
  return found[0]


def parse_all(argv: list[str]) -> list[Settings]:
  """The same for each of the inputs that a command line names: `a.mp4 b.mp4`, `'clips/*.mp4'`, `--video=a.mp4`.

  Each of several goes into a folder of its own under --output_path (by default out/).

  Raises:
    InputError: unknown flag or key, a value of the wrong kind, or a pattern that matches nothing.
  """
  types_of = fields()
  values = flags.FlagValues()
  for name, kind in types_of.items():
    define = flags.DEFINE_boolean if kind is bool else flags.DEFINE_string
    define(name, None, HELP.get(name, ""), flag_values=values, short_name=SHORT.get(name))
  try:
    rest = values(["vht-track", *join_lists(argv, types_of)])[1:]
  except flags.UnrecognizedFlagError as error:
    raise InputError(f"unknown flag --{error.flagname}{_suggest(error.flagname, types_of)} (see --help)") from None
  except flags.Error as error:
    raise InputError(" ".join(str(error).split())) from None

  given = {}
  for name, kind in types_of.items():
    if (text := values[name].value) is not None:
      if name in _PATHS and str(text).startswith("--"):
        raise InputError(f"--{name}: expected a path; found the flag {text}")
      given |= {name: text} if kind is bool else _value(types_of, name, text, f"--{name}")
  ini = read_ini(expanded(given["config"])) if given.get("config") else {}
  if any(name in given for name in _FOCALS):
    for name in _FOCALS:
      ini.pop(name, None)
  inputs = expand(rest)
  if inputs and values["video"].value is not None:
    raise InputError(f"unexpected argument {rest[0]!r} beside --video={given['video']}; name the inputs in one way")
  if len(inputs) > 1 and (given.get("data_path") or ini.get("data_path")):
    raise InputError("--data_path is one clip's: leave it out with several inputs, whose outputs have their own")
  values = {**ini, **given}
  output = Path(values.get("output_path") or "out")
  found = []
  for path, name in zip(inputs or [None], names(inputs) or [None]):
    where = {"output_path": str(output / name)} if len(inputs) > 1 else {}
    settings = make_settings({**values, **({"video": path} if path else {}), **where})
    check_effects(settings, given)
    found.append(settings)
  return found


def _value(types_of: dict[str, Any], name: str, text: str, where: str) -> dict[str, Any]:
  """Key and value of a key's text; a focal length with its unit goes to the key of that unit."""
  unit = re.fullmatch(r"(.*[0-9.])\s*(px|mm)\s*", text) if name == "focal" else None
  if unit:
    name, text = {"px": "focal_px", "mm": "focal_35mm"}[unit[2]], unit[1]
  value = cast(types_of[name], text, where)
  if unit and value <= 0:
    raise InputError(f"{where}: expected a positive length; found {value}{unit[2]}")
  return {name: value}


def make_settings(values: dict[str, Any]) -> Settings:
  """Settings with `values` in place of the defaults, checked.

  Raises:
    InputError: a value out of its range.
  """
  values = {name: ALIASES.get(name, {}).get(value, value) for name, value in values.items()}
  for name, value in values.items():
    if name in CHOICES and value not in CHOICES[name]:
      raise InputError(f"{name}: expected one of {', '.join(CHOICES[name])}; found {value!r}")
    if name in _AT_LEAST_ONE and value < 1:
      raise InputError(f"{name}: expected at least 1; found {value}")
    if name in _POSITIVE and value <= 0:
      raise InputError(f"{name}: expected a positive number; found {value}")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
      if isinstance(number, float) and not math.isfinite(number):
        raise InputError(f"{name}: expected a finite number; found {number}")
      if isinstance(number, int | float) and number < 0:
        raise InputError(f"{name}: expected no negative number; found {number}")
  values = values | {name: expanded(values[name]) for name in _PATHS if values.get(name)}
  face = values.get("face", "largest")
  if face not in ("largest", "all") and not re.fullmatch("[0-9]{1,2}", face):
    raise InputError(f"face: expected largest, all or a number; found {face!r}")
  if any(n < MIN_SIDE for n in values.get("tracking_resolution") or ()):
    found = list(values["tracking_resolution"])
    raise InputError(f"tracking_resolution: expected two positive sizes of at least {MIN_SIDE} px; found {found}")
  if values.get("crop_size", MIN_CROP) < MIN_CROP:
    raise InputError(f"crop_size: expected at least {MIN_CROP} px; found {values['crop_size']}")
  if values.get("frame_rate", 0.0) > MAX_RATE:
    raise InputError(f"frame_rate: expected at most {MAX_RATE:g} frames per second; found {values['frame_rate']:g}")
  focals = [name for name in _FOCALS if values.get(name)]
  if len(focals) > 1:
    raise InputError(f"give --{focals[0]} or --{focals[1]}, not both")
  if values.get("focal"):
    lens.check_bare(values["focal"])
  if values.get("fov"):
    lens.check_fov(values["fov"])
    values = {**values, "focal": lens.focal_of_fov(values["fov"]), "fov": 0.0}

  def of(cls):
    return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})

  settings = Settings(of(AppConfig), of(TrackConfig), of(Weights))
  if settings.track.calibrated and not (focals or settings.app.load_tracked_flame_params):
    raise InputError(
      "calibrated: the focal length must be given, by --focal or --fov, or a camera by --load_tracked_flame_params"
    )
  return settings


def read_ini(path: str | Path) -> dict[str, Any]:
  """The keys and values of an .ini file, of the types of the dataclasses' fields.

  Args:
    path: a file, or the name of a preset in configs/.

  Raises:
    InputError: no such file, not a text file, an unknown key, a value of the wrong kind; with the line's number.
  """
  file = Path(path)
  if not file.exists() and re.fullmatch(r"\w+", str(path)):
    file = packaged(f"configs/{path}.ini")
  try:
    lines = _decoded(file.read_bytes()).splitlines()
  except (FileNotFoundError, NotADirectoryError):
    presets = ", ".join(sorted(p.stem for p in packaged("configs").glob("*.ini")))
    raise InputError(f"{path}: no such config file (presets: {presets})") from None
  except UnicodeError:
    raise InputError(f"{file}: expected an .ini text file; this is not text (save it as UTF-8)") from None
  except OSError as error:
    raise InputError(f"{file}: cannot be read ({error.strerror})") from None

  types_of, values = fields(), {}
  for number, line in enumerate(lines, 1):
    line = line.strip()
    if not line or line[0] in "#;[":
      continue
    # key = value, the value in quotes or up to a comment.
    match = re.fullmatch(r"""([^=:#;]+?)\s*[=:]\s*(?:(["'])(.*)\2|(.*?))(?:\s*(?<=\s)[#;].*)?""", line)
    if not match:
      raise InputError(f"{file}:{number}: expected 'key = value'; found {line[:60]!r}")
    name, quote, quoted, plain = match.groups()
    if name not in types_of:
      raise InputError(f"{file}:{number}: unknown key {name!r}{_suggest(name, types_of)}")
    values |= _value(types_of, name, quoted if quote else plain, f"{file}:{number}: {name}")
  return values


def _decoded(data: bytes) -> str:
  """The text of a file: UTF-8, with the mark at its front that editors on Windows put there, or UTF-16 with one.

  Raises:
    UnicodeError: it is something else.
  """
  wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
  text = data.decode("utf-16" if wide else "utf-8-sig")
  if "\0" in text:  # UTF-16 without a mark passes for UTF-8
    raise UnicodeError("zero bytes")
  return text


_PRINTING = ("quiet", "json", "dry_run")  # how one command prints; no later one shall inherit it


def write_ini(path: str | Path, settings: Settings) -> None:
  """Writes every key with a line of explanation; `read_ini` gives the same values back."""
  lines = []
  for name, part in zip(("app", "tracking", "weights"), settings):
    lines.append(f"[{name}]")
    for field in dataclasses.fields(part):
      value = field.default if field.name in _PRINTING else getattr(part, field.name)
      text = f'"{value}"' if isinstance(value, str) and re.search("[#;'\"]", value) else _text(value)
      lines.append(f"{f'{field.name} = {text}':<40s}  # {HELP.get(field.name, '')}")
    lines.append("")
  write_atomic(Path(path), "\n".join(lines).encode())


def describe(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
  """What determines the result, and what only the report on it: name -> value as text."""
  values = {f.name: _text(getattr(part, f.name)) for part in settings for f in dataclasses.fields(part)}
  result = {k: v for k, v in values.items() if k not in _NOT_THE_RUN | _REPORT}
  return result, {k: values[k] for k in sorted(_REPORT)}


def cast(kind: Any, text: str, where: str) -> Any:
  """The value that `text` spells as a field type: bool, int, float, str, Optional or tuple of these.

  Raises:
    InputError: it does not; the message starts with `where`.
  """
  text = text.strip()
  if isinstance(kind, types.UnionType):
    kind = next(k for k in typing.get_args(kind) if k is not type(None))
    return None if text in ("", "None", "none") else cast(kind, text, where)
  if typing.get_origin(kind) is tuple:
    kinds = typing.get_args(kind)
    items = [item for item in re.split(r"[\s,]+", text.strip("[]() \t")) if item]
    if kinds[-1] is not Ellipsis and len(items) != len(kinds):
      raise InputError(f"{where}: expected {len(kinds)} values; found {text!r}")
    return tuple(cast(kinds[0], item, where) for item in items)
  if kind is bool:
    if text.lower() in ("true", "yes", "on", "1"):
      return True
    if text.lower() in ("false", "no", "off", "0"):
      return False
    raise InputError(f"{where}: expected true or false; found {text!r}")
  if kind is int:
    try:
      if float(text) == int(float(text)):
        return int(float(text))
    except (ValueError, OverflowError):
      pass
    raise InputError(f"{where}: expected a whole number; found {text!r}")
  if kind is float:
    try:
      return float(text)
    except ValueError:
      raise InputError(f"{where}: expected a number; found {text!r}") from None
  return text


def join_lists(argv: list[str], types_of: dict[str, Any]) -> list[str]:
  """`--keyframes 1 2 3`, as VHT has it, becomes `--keyframes=1,2,3`, as absl wants it; `--nooverlay` a value."""
  lists = set()
  for name, kind in types_of.items():
    if any(typing.get_origin(k) is tuple for k in (kind, *typing.get_args(kind))):
      lists.add(name)
  out, i = [], 0
  while i < len(argv):
    name = argv[i].lstrip("-")
    i += 1
    if name in ALIASES and (i == len(argv) or argv[i] not in CHOICES[name]):
      out.append(f"--{name}=true")
      continue
    if name.startswith("no") and name[2:] in ALIASES:
      out.append(f"--{name[2:]}=false")
      continue
    if name not in lists or not argv[i - 1].startswith("-"):
      out.append(argv[i - 1])
      continue
    items = []
    while i < len(argv) and re.fullmatch(r"[-+\[(]?[\d.,\[\]()eE+-]+", argv[i]):
      items.append(argv[i])
      i += 1
    out.append(f"--{name}={','.join(items)}")
  return out


def usage(full: bool = False) -> str:
  """The text of --help: the usual flags; that of --helpfull: all."""
  lines = [
    "vht-track: tracks a FLAME head in a video.",
    "",
    "  vht-track clip.mp4                                  into out/clip/",
    "  vht-track a.mp4 b.mp4 'more/*.mp4' -o results       into results/a/, results/b/, ...",
    "  vht-track --config=vht --video=clip.mp4 --output_path=results",
    "",
    "Each flag is also a key of the .ini file given by --config; flags win. Lists: --keyframes=1,2,3. A flag that the",
    "chosen method does not read is refused; in an .ini file it is not. A ~ in a path is the home folder.",
  ]
  for title, cls in (("Input and output", AppConfig), ("Tracking", TrackConfig), ("Weights and rates", Weights)):
    shown = [field for field in dataclasses.fields(cls) if full or field.name in USUAL]
    lines += ["", f"{title}:"] if shown else []
    for field in shown:
      name = f"[no]{field.name}" if isinstance(field.default, bool) else field.name
      if field.name in SHORT:
        name += f", -{SHORT[field.name]}"
      default = "" if field.default in (None, ()) else f" [{_text(field.default)}]"
      lines.append(f"  --{name:<27s} {HELP.get(field.name, '')}{default}")
  if not full:
    lines += ["", "--helpfull lists all flags."]
  return "\n".join(lines)


def _text(value: Any) -> str:
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, tuple):
    return "[" + ", ".join(repr(v) for v in value) + "]"
  return str(value)


def _suggest(name: str, known) -> str:
  near = difflib.get_close_matches(name, list(known), n=1)
  return f"; did you mean {near[0]!r}?" if near else ""
