"""Starting JAX: the device, and where programs are kept."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import jax

from vht_jax.errors import InputError
from vht_jax.host import programs
from vht_jax.host.files import cache_folder, writable

log = logging.getLogger("vht_jax")


YOUNG = 20_000  # objects more than before, Python's own: 700


def collect_seldom() -> None:
  """Lets Python look for cycles less often, and never among what is there now.

  To trace a program is to make hundreds of thousands of small objects, which all live: with Python's own threshold a
  third of the time goes into looking through them.
  """
  gc.freeze()
  gc.set_threshold(YOUNG, 20, 50)


def kind_of_device(device: str) -> str:
  """auto, cpu, gpu or tpu, of names such as "cuda:0".

  Raises:
    InputError: none of these.
  """
  kind = device.split(":")[0].lower()
  kind = {"cuda": "gpu", "rocm": "gpu"}.get(kind, kind)
  if kind not in ("auto", "cpu", "gpu", "tpu"):
    raise InputError(f"device: expected one of auto, cpu, gpu, tpu; found {device!r}")
  return kind


def start_jax(device: str = "auto", keep_programs: bool = True) -> None:
  """Chooses the device, and where programs are kept, traced (`programs`) and compiled (by XLA).

  Args:
    device: auto, cpu, gpu (cuda, rocm) or tpu.
    keep_programs: in the user's cache folder, or in $JAX_COMPILATION_CACHE_DIR.

  Raises:
    InputError: no such device.
  """
  collect_seldom()
  kind = kind_of_device(device)
  if kind == "cpu":
    jax.config.update("jax_platforms", "cpu")
  elif kind != "auto":
    try:
      jax.config.update("jax_default_device", jax.devices(kind)[0])
    except RuntimeError:
      if device.lower().startswith("cuda"):  # VHT's configs name it
        log.warning("device: no GPU that JAX can use (pip install 'vht-jax[cuda13]'); running on the CPU")
      else:
        raise InputError(f"device: JAX finds no {kind} here; leave --device out to use what there is") from None
  programs.folder, chosen = None, os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if keep_programs and not chosen:
    base = writable(cache_folder())
    if base:
      programs.folder = base / "programs"
      jax.config.update("jax_compilation_cache_dir", str(base / "xla"))
      jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    else:
      log.warning("no folder for compiled programs can be written: each run makes its own ($XDG_CACHE_HOME names one)")
  elif keep_programs and chosen and "://" not in chosen:  # JAX's may be in a cloud
    programs.folder = Path(chosen, "vht_jax_programs")
  log.info("jax %s on %s", jax.__version__, jax.devices())
