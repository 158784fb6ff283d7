"""Everything a user can set about the tracking itself.

`TrackConfig` holds what is static under `jit` (sizes, counts, names): frozen, hashable, with a section for each method,
so that a function takes the section that it reads. `Weights` holds the numbers that are traced: a sweep over them, or a
gradient with respect to them, does not recompile. Keys are those of VHT's .ini files; a preset of VHT's own behaviour
is `configs/vht.ini`, the defaults here are ours.

  TrackConfig(solver="adam", adam=Adam(init_steps=20))      TrackConfig.of(solver="adam", init_steps=20)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.option import check, having, option, section

MIN_SIDE = 16  # px, of a tracked image: there is nothing to see in a smaller one
MIN_CROP = 32  # px: a face of fewer is not found either


@dataclasses.dataclass(frozen=True)
class Components:
  """Components of the head. Counts are clamped to what it has."""

  n_shape: int = option(300, "identity components to fit, at most what the head has", at_least=1)
  n_expr: int = option(100, "expression components, likewise", at_least=1)
  n_tex: int = option(100, "texture components, likewise")
  tex_res: int = option(
    512, "read for VHT's files and ignored, as VHT does", unit="px", at_least=1, ignored=True, role="run"
  )
  ignore_lower_neck: bool = option(True, "leave the lower neck out of the photometric term")


@dataclasses.dataclass(frozen=True)
class Data:
  """Frames. Both of VHT's spellings of their size work: [height, width] (its README) and a factor (its code)."""

  tracking_resolution: tuple[int, int] | None = option(
    None, "height, width into which frames are scaled for tracking, keeping their shape; default: as is",
    unit="px", at_least=MIN_SIDE, usual=True,
  )  # fmt: skip
  downscale_factor: float = option(
    1.0, "factor by which frames are made smaller for tracking", positive=True, unless="tracking_resolution"
  )
  keyframes: tuple[int, ...] = option(
    (), "0-based positions of the frames that determine the identity; default: chosen by yaw and expression"
  )
  cutframes: tuple[int, ...] = option(
    (), "0-based positions at which a new shot starts, beside those that --find_cuts finds"
  )
  unordered: bool = option(
    False, "the frames are single pictures, no video: search each by itself, do not smooth, bridge nothing"
  )


@dataclasses.dataclass(frozen=True)
class CameraConfig:
  """Camera"""

  focal: float = option(
    0.0, "known focal length in longer image sides, or with its unit: 1200px, 28mm; held (the principal point only "
    "with --calibrated); 0: EXIF's, or estimated", usual=True,
  )  # fmt: skip
  calibrated: bool = option(
    False, "the camera is known and held: the focal length of --focal or --fov and the image centre, or the camera of "
    "--load_tracked_flame_params",
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Landmarks:
  """Fit of the landmarks. The start of both methods, unless VHT's calibration is."""

  dense_landmarks: bool = option(
    True, "use the 468 points of the face mesh beside the 68 + 2, where the detector gives them"
  )
  n_calibration_frames: int = option(
    24, "number of frames in the landmark bundle adjustment", at_least=1, estimates=True
  )


@dataclasses.dataclass(frozen=True)
class GaussNewton:
  """Gauss-Newton on images (--solver=gn)"""

  crop_size: int = option(256, "side of the square around the head that is looked at", unit="px", at_least=MIN_CROP)
  n_samples: int = option(1000, "pixels of it per solve", at_least=1)
  identity_steps: int = option(20, "rasterisations of the keyframe stage", estimates=True)
  frame_steps: int = option(2, "rasterisations of the frame stage")


@dataclasses.dataclass(frozen=True)
class Adam:
  """VHT's first-order method on images (--solver=adam)"""

  init: str = option(
    "landmarks", "starts from: landmarks (bundle adjustment of the landmarks) or calibration (VHT's "
    "cv2.calibrateCamera)", choices=("landmarks", "calibration"),
  )  # fmt: skip
  init_steps: int = option(60, "steps of the keyframe stage, and in turn of the first frame of a shot")
  steps_per_frame: int = option(6, "steps per frame", at_least=1)
  sub_steps: int = option(5, "updates per step (per rasterisation)", at_least=1)
  blur_sigma: tuple[float, float] = option(
    (3.0, 1e-4), "blur of the tracked images at the first and last step, geometric between", unit="px"
  )
  # VHT renders at 4 times the tracked resolution, sixteen times the work.
  sampling_scale: float = option(1.0, "render at this multiple of the tracked resolution", positive=True)
  pixel_budget: int = option(0, "look at this many of the visible pixels per frame, others in each step; 0: at all")


@dataclasses.dataclass(frozen=True)
class TrackConfig:
  """Method"""

  solver: str = option("gn", "gn (Gauss-Newton) or adam (VHT's first-order stages)", choices=("gn", "adam"), usual=True)
  schedule: str = option(
    "batched", "batched (frames in parallel), joint (the same, then identity and poses from all frames; slower) or "
    "sequential (each frame starts at its predecessor, as in VHT)",
    choices=("batched", "joint", "sequential"), usual=True,
  )  # fmt: skip
  photometric: bool = option(True, "use the image; without it the fit to the landmarks is the result", usual=True)
  smooth: bool = option(
    True, "Gauss-Newton, batched and joint: smooth the poses in time, as far as their measured noise asks for it",
    usual=True,
  )  # fmt: skip
  tracks: bool = option(
    True, "Gauss-Newton: follow points of the skin's texture, which hold the head's motion and the lens; landmarks "
    "slide", usual=True,
  )  # fmt: skip
  n_keyframes: int = option(
    8, "number of keyframes when they are chosen automatically", at_least=1, needs="photometric", estimates=True
  )
  batch_size: int = option(
    0,
    "frames optimised at once by the batched and the joint schedule; 0: 8 on a CPU, elsewhere what its memory holds, "
    "64 at most",
    needs="photometric",
  )
  components: Components = section(Components)
  data: Data = section(Data)
  camera: CameraConfig = section(CameraConfig)
  landmarks: Landmarks = section(Landmarks)
  gauss_newton: GaussNewton = section(GaussNewton)
  adam: Adam = section(Adam)

  def __post_init__(self):
    check(self)

  @property
  def by_adam(self) -> bool:
    """Whether the images are fitted by VHT's method."""
    return self.photometric and self.solver == "adam"

  @classmethod
  def of(cls, **keys) -> TrackConfig:
    """A config from keys, in whichever section they are.

    Raises:
      TypeError: there is no such key.
      InputError: a value of another type, or out of its range; so does whoever makes a config in any other way.
    """
    return having(cls(), **keys)


# Where the defaults of the weights come from; docs/method.md has the reasoning.
_VHT = "VHT"
_STUDY = "solver study on synthetic clips"
_CLIP = "measured on the built-in clip"
_MEASURED = "docs/accuracy.md"
_LEARNED = "learned of drawn people: docs/differentiable.md"
_BY_HAND = "by hand: docs/method.md"


@dataclasses.dataclass(frozen=True)
class Weights:
  """Weights and rates"""

  lr: float = option(5e-3, "learning rate of everything without its own", method=Adam, source=_VHT)
  pos_lr: float = option(1e-3, "learning rate of the translation", method=Adam, source=_VHT)
  light_lr: float = option(5e-3, "learning rate of the light", method=Adam, estimates=True, source=_VHT)
  cam_lr: float = option(5e-3, "learning rate of the camera", method=Adam, estimates=True, source=_VHT)

  w_lmk: float = option(5.0, "weight of the landmarks", method=Adam, source=_VHT)
  w_eyes_lmk: float = option(2.0, "weight of the irises", method=Adam, source=_VHT)
  w_eyes_sym: float = option(10.0, "weight of the difference between the eyes' poses", method=Adam, source=_VHT)
  w_photo: float = option(30.0, "weight of the photometric term", method=Adam, source=_VHT)
  w_shape_reg: float = option(1e-3, "weight of the identity prior", method=Adam, source=_VHT)
  w_expr_reg: float = option(1e-3, "weight of the expression prior", method=Adam, source=_VHT)
  w_tex_reg: float = option(1e-3, "weight of the texture prior", method=Adam, source=_VHT)
  w_pos_glob: float = option(
    1e-2, "read for VHT's files; unused, as in VHT", method=Adam, source=_VHT, ignored=True, role="run"
  )
  w_pos_neck: float = option(1e-2, "weight of the neck's deviation from neutral", method=Adam, source=_VHT)
  w_pos_jaw: float = option(1e-4, "weight of the jaw's deviation from neutral", method=Adam, source=_VHT)
  w_pos_eyes: float = option(1e-4, "weight of the eyes' deviation from neutral", method=Adam, source=_VHT)
  w_pos_trans: float = option(10.0, "weight of the change of translation", method=Adam, source=_VHT)

  sd_landmark: float = option(
    0.011, "noise of a landmark coordinate; of eyes half of it", unit="outer eye distances", positive=True,
    method=Landmarks, source=_LEARNED,
  )  # fmt: skip
  # The bias of a dense landmark is not estimated, so it counts as noise.
  sd_dense: float = option(
    0.02, "noise and bias of a dense landmark", unit="outer eye distances", positive=True, method=Landmarks,
    needs="dense_landmarks", source=_BY_HAND,
  )  # fmt: skip
  sd_offset: float = option(
    0.005, "constant bias of the detector per landmark", unit="outer eye distances", positive=True, method=Landmarks,
    estimates=True, source=_BY_HAND,
  )  # fmt: skip
  sd_closure: float = option(
    0.015, "noise and bias of the openings of lids and lips, which no offset of landmarks explains",
    unit="outer eye distances", positive=True, method=Landmarks, source=_MEASURED,
  )  # fmt: skip
  w_identity: float = option(
    2.0, "strength of the identity prior: so many observations of the mean head", method=Landmarks, estimates=True,
    source=_CLIP,
  )  # fmt: skip
  sd_expr: float = option(
    0.17, "spread of an expression unit; beyond it one costs in proportion", positive=True, method=Landmarks,
    source=_LEARNED,
  )  # fmt: skip
  sd_neck: float = option(0.03, "spread of the neck angles", unit="rad", positive=True, method=Landmarks, source=_CLIP)
  sd_jaw: float = option(0.15, "spread of the jaw angles", unit="rad", positive=True, method=Landmarks, source=_STUDY)
  sd_gaze: float = option(0.3, "spread of the eye angles", unit="rad", positive=True, method=Landmarks, source=_STUDY)
  # Pinned, because one camera cannot see it.
  sd_size: float = option(
    0.005, "spread of the relative head size", positive=True, method=Landmarks, estimates=True, source=_STUDY
  )
  sd_color: float = option(
    0.03, "noise of a colour; larger differences count linearly", unit="of 1", positive=True, method=GaussNewton,
    source=_STUDY,
  )  # fmt: skip
  sd_layer: float = option(
    0.02, "spread of the free albedo beyond the texture basis", unit="of 1", positive=True, method=GaussNewton,
    estimates=True, source=_BY_HAND,
  )  # fmt: skip
  photo_pixels: float = option(
    1000.0, "independent pixels that a frame's colours count for beside its landmarks, at most, for the identity",
    method=GaussNewton, source=_MEASURED,
  )  # fmt: skip
  frame_pixels: float = option(50.0, "the same when the frames are tracked", method=GaussNewton, source=_CLIP)

  def replace(self, **updates: Any) -> Weights:
    return dataclasses.replace(self, **updates)

  def of(self, dtype: Any) -> Weights:
    """For arrays of this precision: with double precision enabled, JAX is shown numbers of the host as of that."""
    exact = np.dtype(dtype) == _precision()
    kept = lambda value: exact and type(value) in (float, int)
    cast = lambda value: value if kept(value) else jnp.asarray(value, dtype)
    return self.replace(**{name: cast(getattr(self, name)) for name in _NAMES})


def _precision() -> np.dtype:
  return jax.dtypes.canonicalize_dtype(np.float64)


def _with_keys(weights: Weights) -> tuple[list[tuple[Any, Any]], None]:
  return [(jax.tree_util.GetAttrKey(name), value) for name, value in zip(_NAMES, _leaves(weights)[0])], None


def _leaves(weights: Weights) -> tuple[list[Any], None]:
  """JAX takes a Python number for another type than an array of one number and would trace again for it, so it is never
  shown one."""
  of_host = _precision().type
  values = [getattr(weights, name) for name in _NAMES]
  return [of_host(value) if type(value) in (float, int) else value for value in values], None


_NAMES = tuple(field.name for field in dataclasses.fields(Weights))
jax.tree_util.register_pytree_with_keys(Weights, _with_keys, lambda _, leaves: Weights(*leaves), _leaves)
