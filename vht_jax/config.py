"""Everything a user can set about the tracking itself.

`TrackConfig` holds what is static under `jit` (sizes, counts, names): it is frozen and hashable. `Weights` holds the
numbers that are traced, so that a sweep over them, or a gradient with respect to them, does not recompile. The names
are those of VHT's .ini files; a preset of VHT's own behaviour is `configs/vht.ini`, the defaults here are ours.
"""

from __future__ import annotations

import dataclasses

import flax.struct


@dataclasses.dataclass(frozen=True)
class TrackConfig:
  # Model: how many components to fit, clamped to what the head has. tex_res is read and ignored, as in VHT.
  n_shape: int = 300
  n_expr: int = 100
  n_tex: int = 100
  tex_res: int = 512
  ignore_lower_neck: bool = True

  # Data. Both of VHT's spellings work: [height, width] (its README) and a factor (its code).
  tracking_resolution: tuple[int, int] | None = None
  downscale_factor: float = 1.0
  keyframes: tuple[int, ...] = ()  # 0-based positions in the dataset; empty: chosen by spread of yaw and expression
  cutframes: tuple[int, ...] = ()  # first frames of new shots
  calibrated: bool = False

  # Method.
  init: str = "landmarks"  # "landmarks": bundle adjustment of the landmarks; "calibration": VHT's cv2.calibrateCamera
  solver: str = "gn"  # "gn": Gauss-Newton; "adam": VHT's first-order stages
  # "batched": chunks of frames in parallel; "sequential": each frame starts at its predecessor; "joint": batched, then
  # identity and camera from the images of all frames and not only of the keyframes, and the poses again.
  schedule: str = "batched"
  smooth: bool = True  # two-sided smoothing of all frames by their measured noise (Gauss-Newton, batched schedule)
  unordered: bool = False  # the frames are no video: neither smoothed nor bridged; noticed by itself where it shows
  photometric: bool = True  # False: the landmark fit is the result
  dense_landmarks: bool = True  # use MediaPipe's 468 points beside the 68 + 2 when they are there
  tracks: bool = True  # follow the skin's texture (Gauss-Newton): it holds the head's motion and the camera
  n_keyframes: int = 8  # how many keyframes the automatic choice takes for the photometric identity stage
  n_calibration_frames: int = 24  # and for the landmark bundle adjustment
  batch_size: int = 8  # frames optimised at once by the batched schedule
  crop_size: int = 256  # px, side of the square around the head that the Gauss-Newton stages look at
  n_samples: int = 1000  # pixels of it per solve
  identity_steps: int = 20  # Gauss-Newton: rasterisations of the keyframe stage
  frame_steps: int = 2  # and of the frame stage
  focal: float = 0.0  # fixed focal length in units of the longer side; 0: estimated

  # Schedule of the photometric stages.
  init_steps: int = 60
  steps_per_frame: int = 6
  sub_steps: int = 5
  blur_sigma: tuple[float, float] = (3.0, 1e-4)  # px of the tracked image, first and last step, geometric between
  # VHT renders at `sampling_scale` = 4 times the tracked resolution, sixteen times the work.
  sampling_scale: float = 1.0
  # The photometric stages look at this many of the visible pixels of a frame, other ones in each step; 0: at all.
  pixel_budget: int = 0

  # Logging.
  img_log_freq: int = 50
  energy_log_freq: int = 5


@flax.struct.dataclass
class Weights:
  # Adam's learning rates: everything else, translation, light, camera.
  lr: float = 5e-3
  pos_lr: float = 1e-3
  light_lr: float = 5e-3
  cam_lr: float = 5e-3

  # Energy terms.
  w_lmk: float = 5.0
  w_eyes_lmk: float = 2.0
  w_eyes_sym: float = 10.0
  w_photo: float = 30.0
  w_shape_reg: float = 1e-3
  w_expr_reg: float = 1e-3
  w_tex_reg: float = 1e-3
  w_pos_glob: float = 1e-2  # unused by VHT, kept so that its files read
  w_pos_neck: float = 1e-2
  w_pos_jaw: float = 1e-4
  w_pos_eyes: float = 1e-4
  w_pos_trans: float = 10.0

  # Landmark least squares (calibrate.py). Lengths in units of the outer eye distance, angles in radians.
  sd_landmark: float = 0.006  # noise of one landmark coordinate
  sd_dense: float = 0.02  # of a dense landmark: its bias is not estimated, so it counts as noise
  sd_offset: float = 0.015  # constant detector bias per landmark
  sd_closure: float = 0.015  # of the openings of lids and lips, which no offset explains
  w_identity: float = 2.0  # identity prior: so many observations of the mean head
  sd_expr: float = 0.4
  sd_neck: float = 0.03
  sd_jaw: float = 0.15
  sd_gaze: float = 0.3
  sd_color: float = 0.03  # noise of a colour; larger differences count linearly
  sd_layer: float = 0.02  # free albedo beyond the texture basis
  # How many independent pixels a frame counts for beside its landmarks (docs/accuracy.md): at most, when the identity
  # is estimated (less if the model does not explain this person's looks), and when the frames are tracked.
  photo_pixels: float = 1000.0
  frame_pixels: float = 50.0
  sd_size: float = 0.005  # relative head size: pinned, because one camera cannot see it
