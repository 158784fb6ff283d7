"""Flags without an effect: refused when they are given on a command line, where somebody expects one.

What a flag needs follows from where its setting lies (`option`): a method's section is read by that method alone.
Files are read in silence: VHT's, and our own config.ini, hold the numbers of every method.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from vht_jax.app.options.app_config import ALL, Settings
from vht_jax.config import Adam, GaussNewton, Landmarks
from vht_jax.errors import InputError
from vht_jax.option import Option, get, options

log = logging.getLogger("vht_jax")


def check_effects(settings: Settings, given: Iterable[str]) -> None:
  """Looks at the flags of a command line.

  Args:
    settings: all of them.
    given: names of the flags that were on the command line.

  Raises:
    InputError: one of them has no effect beside the others; says because of what.
  """
  for name in sorted(given):
    if ALL[name].facts.ignored:
      log.warning("--%s: VHT's, read and ignored (see --help)", name)
    elif reason := _reason(ALL[name], settings):
      raise InputError(f"--{name} has no effect {reason}; leave it out")
  if "keyframes" in given and not settings.track.photometric:
    log.warning("--keyframes: without images (--nophotometric) frames are chosen for the identity by their landmarks")


def value_of(settings: Settings, key: str):
  """The value of a setting, whichever part it is in."""
  return next(get(part, key) for part in settings if key in options(type(part)))


def _reason(option: Option, settings: Settings) -> str:
  """Why a flag has no effect; '' if it has one."""
  app, config, _ = settings
  name, facts = option.key, option.facts
  without_images = "without images (--nophotometric)"
  adam = config.by_adam
  if option.method in (GaussNewton, Adam) and not config.photometric:
    return without_images
  if option.method is GaussNewton and adam:
    return "with --solver=adam: it belongs to Gauss-Newton (--solver=gn)"
  if option.method is Adam and not adam and not (name == "init" and config.adam.init == option.default):
    return "with Gauss-Newton (--solver=gn): it belongs to VHT's method (--solver=adam, or --config=vht)"
  if option.method is Landmarks and adam and config.adam.init == "calibration":
    return "with --init=calibration, which starts from OpenCV's calibration"
  if name == "devices" and adam and app.machine.devices != 1:
    return "with --solver=adam, whose frames are not spread over devices"
  if name == "solver" and config.solver == "adam" and not config.photometric:
    return without_images
  if name == "smooth" and config.smooth and (config.schedule == "sequential" or adam):
    return "with --schedule=sequential or --solver=adam: they are not smoothed"
  if (name == "tracks" and config.tracks or name == "shape_from") and adam:
    return "with --solver=adam: it belongs to Gauss-Newton (--solver=gn)"
  if name == "batch_size" and config.schedule == "sequential":
    return "with --schedule=sequential"
  if name == "face_landmarker" and app.input.landmarks not in ("auto", "tasks"):
    return f"with --landmarks={app.input.landmarks}"
  if facts.estimates and app.head.load_tracked_flame_params and not app.head.allow_other_head:
    return "with --load_tracked_flame_params, whose identity is kept"
  if facts.needs and value_of(settings, facts.needs) in (None, False, "none") and value_of(settings, name):
    if facts.needs == "photometric":
      return without_images
    return f"without --{facts.needs}"
  if facts.unless and value_of(settings, facts.unless):
    return f"beside --{facts.unless}"
  return ""
