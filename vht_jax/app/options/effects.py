"""Flags without an effect: refused when they are given on a command line, where somebody expects one.

Files are read in silence: VHT's, and our own config.ini, hold the numbers of every method.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vht_jax.errors import InputError

if TYPE_CHECKING:
  from vht_jax.app.options.settings import Settings

log = logging.getLogger("vht_jax")

# What VHT's Adam reads on images and nothing else does ...
ADAM = frozenset(
  "init_steps steps_per_frame sub_steps blur_sigma sampling_scale pixel_budget lr pos_lr light_lr cam_lr w_lmk "
  "w_eyes_lmk w_eyes_sym w_photo w_shape_reg w_expr_reg w_tex_reg w_pos_neck w_pos_jaw w_pos_eyes w_pos_trans".split()
)
# ... and what Gauss-Newton does.
GAUSS_NEWTON = frozenset(
  "crop_size n_samples identity_steps frame_steps sd_color sd_layer photo_pixels frame_pixels".split()
)
# The fit of the landmarks, which is the start of both unless VHT's calibration is.
LANDMARKS = frozenset(
  "dense_landmarks n_calibration_frames sd_landmark sd_dense sd_offset sd_closure w_identity sd_expr sd_neck sd_jaw "
  "sd_gaze sd_size".split()
)
# Chooses or feeds the estimate of the identity, which a loaded result replaces.
IDENTITY = frozenset("n_keyframes n_calibration_frames identity_steps sd_offset w_identity sd_size sd_layer".split())
IGNORED = frozenset("save_period tex_res w_pos_glob".split())  # VHT's keys, read so that its files and scripts run


def check_effects(settings: Settings, given: Iterable[str]) -> None:
  """Looks at the flags of a command line.

  Args:
    settings: all of them.
    given: names of the flags that were on the command line.

  Raises:
    InputError: one of them has no effect beside the others; says because of what.
  """
  given = set(given)
  for name in sorted(given & IGNORED):
    log.warning("--%s: VHT's, read and ignored (see --help)", name)
  for name in sorted(given - IGNORED):
    if reason := _reason(name, settings):
      raise InputError(f"--{name} has no effect {reason}; leave it out")
  if "keyframes" in given and not settings.track.photometric:
    log.warning("--keyframes: without images (--nophotometric) frames are chosen for the identity by their landmarks")


def _reason(name: str, settings: Settings) -> str:
  """Why a flag has no effect; '' if it has one."""
  app, config, _ = settings
  adam = config.solver == "adam"
  kept = app.load_tracked_flame_params and not app.allow_other_head
  if not config.photometric:
    if name in ADAM | GAUSS_NEWTON | {"batch_size", "n_keyframes", "init"} or (name == "solver" and adam):
      return "without images (--nophotometric)"
  elif adam and name in GAUSS_NEWTON:
    return "with --solver=adam: it belongs to Gauss-Newton (--solver=gn)"
  elif not adam and name in ADAM | {"init"} and not (name == "init" and config.init == "landmarks"):
    return "with Gauss-Newton (--solver=gn): it belongs to VHT's method (--solver=adam, or --config=vht)"
  elif adam and config.init == "calibration" and name in LANDMARKS:
    return "with --init=calibration, which starts from OpenCV's calibration"
  if name == "smooth" and config.smooth and (config.schedule == "sequential" or (adam and config.photometric)):
    return "with --schedule=sequential or --solver=adam: they are not smoothed"
  if name == "batch_size" and config.schedule == "sequential":
    return "with --schedule=sequential"
  if kept and name in IDENTITY:
    return "with --load_tracked_flame_params, whose identity is kept"
  if name == "allow_other_head" and app.allow_other_head and not app.load_tracked_flame_params:
    return "without --load_tracked_flame_params"
  if name == "downscale_factor" and config.tracking_resolution:
    return "with --tracking_resolution, which says the size"
  if name == "frame_rate" and app.overlay == "none":
    return "with --nooverlay"
  if name in ("img_log_freq", "energy_log_freq") and not app.tensorboard:
    return "without --tensorboard"
  if name == "face_landmarker" and app.landmarks not in ("auto", "tasks"):
    return f"with --landmarks={app.landmarks}"
  return ""
