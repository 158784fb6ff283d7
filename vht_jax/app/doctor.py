"""`vht-doctor`: what of an installation works, and what is missing and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vht_jax.errors import InputError, brief
from vht_jax.host.files import cache_folder

# What may be missing or broken is imported where it is tried: that it cannot be is a finding.

PACKAGES = (
  "vht-jax", "jax", "jaxlib", "numpy", "opencv-python", "mediapipe", "av", "pillow", "optax", "flax", "face-alignment",
  "tensorboardX", "viser", "usd-core", "ray",
)  # fmt: skip
# Packages that an extra brings.
OPTIONAL = {
  "face-alignment": "face-alignment",
  "tensorboardX": "tensorboard",
  "viser": "viewer",
  "usd-core": "usd",
  "ray": "fleet",
}


class Finding(NamedTuple):
  name: str
  ok: bool
  text: str  # what there is, or what is missing and how to get it
  needed: bool = True  # without it nothing can be tracked


def main(argv: list[str]) -> int:
  """Prints the findings; returns 0 if a video can be tracked, else 1."""
  assets = None
  for argument in argv:
    if not argument.startswith("--assets="):
      print("vht-doctor: what of the installation works. The one flag is --assets=FOLDER, with FLAME's files.")
      return 0 if argument in ("-h", "--help") else 2
    assets = argument.partition("=")[2]
  healthy = True
  for title, findings in (
    ("versions", versions()),
    ("devices", attempt("jax", devices)),
    ("heads", heads(assets)),
    ("detectors", detectors()),
    ("video", attempt("encode and decode", video)),
    ("folders", folders()),
  ):
    print(title)
    for found in findings:
      mark = "ok     " if found.ok else ("MISSING" if found.needed else "absent ")
      print(f"  {mark} {found.name:<18s} {found.text}")
      healthy &= found.ok or not found.needed
  print("a video can be tracked" if healthy else "a video cannot be tracked: see MISSING above")
  return 0 if healthy else 1


def attempt(name: str, check: Callable[[], list[Finding]], needed: bool = True) -> list[Finding]:
  """The findings of a check; what it raises is a finding as well."""
  try:
    return check()
  except Exception as error:  # whatever a broken installation does, the doctor goes on
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {brief(error)}"
    return [Finding(name, False, text, needed)]


def versions() -> Iterator[Finding]:
  """Python, the system and the packages."""
  supported = sys.version_info >= (3, 11)
  hint = "" if supported else "; 3.11 or newer is needed"
  yield Finding("python", supported, f"{platform.python_version()} on {platform.platform()}{hint}")
  for name in PACKAGES:
    try:
      yield Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
      if name == "vht-jax":
        yield Finding(name, False, "not installed; running from a checkout", needed=False)
      else:
        hint = f"pip install 'vht-jax[{OPTIONAL[name]}]'" if name in OPTIONAL else f"pip install {name}"
        yield Finding(name, False, hint, needed=name not in {*OPTIONAL, "mediapipe"})


def devices() -> list[Finding]:
  """What JAX computes on; one small computation."""
  import jax  # late, here and below: what does not load is a finding, not the end
  import jax.numpy as jnp

  found = [Finding("jax", True, f"{jax.default_backend()}: {', '.join(map(str, jax.devices()))}")]
  total = float(jnp.arange(10.0).sum())
  if total != 45.0:
    found.append(Finding("computation", False, f"0 + ... + 9 gives {total}"))
  if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
    found.append(Finding("gpu", False, "there is one that JAX does not see: pip install 'vht-jax[cuda13]'", False))
  return found


def heads(assets: str | None) -> Iterator[Finding]:
  """The open head, and FLAME along the search order."""
  from vht_jax.head.load import load_head  # late, as above

  def open_head() -> list[Finding]:
    head = load_head(model="open")
    size = f"{len(head.v_template)} vertices, {head.shapedirs.shape[-1]} identity components"
    return [Finding("open head", True, size)]

  def flame() -> list[Finding]:
    head = load_head(assets_dir=assets, model="flame", n_shape=10, n_expr=10, n_texture=2)
    parts = [
      f"{len(head.v_template)} vertices",
      "texture" if head.texture_basis.shape[-1] else "no texture (grey)",
      f"{len(head.dense_index)} dense landmarks" if len(head.dense_index) else "no dense landmarks",
    ]
    return [Finding(head.name, True, ", ".join(parts))]

  yield from attempt("open head", open_head)
  yield from attempt("FLAME", flame, needed=False)


def detectors() -> Iterator[Finding]:
  """Every detector that can be chosen; one that works is enough."""
  from vht_jax.landmarks import NAMES, make_detector  # late, as above

  def check(name: str) -> list[Finding]:
    make_detector(name).close()
    return [Finding(name, True, f"--landmarks={name}")]

  # FAN's networks are large: they are loaded when they are wanted.
  names = [name for name in NAMES if name not in ("auto", "face_alignment")]
  found = [f for name in names for f in attempt(name, lambda name=name: check(name))]
  fan = importlib.util.find_spec("face_alignment") is not None
  text = "--landmarks=face_alignment; it says at its start which weights it lacks" if fan else ""
  found.append(Finding("face_alignment", fan, text or "pip install 'vht-jax[face-alignment]'"))
  works = any(f.ok for f in found)
  yield from (f._replace(needed=not works) for f in found)


def video() -> list[Finding]:
  """A few frames written as H.264 and read again, the latter in a child as in a run."""
  import numpy as np  # late, as above

  from vht_jax.dataset.child import extract_in_child  # late, as above
  from vht_jax.video.codec import write_video

  with tempfile.TemporaryDirectory() as folder:
    clip = Path(folder) / "clip.mp4"
    write_video(clip, (np.full((64, 64, 3), 40 * i, np.uint8) for i in range(5)), 25)
    info = extract_in_child(clip, Path(folder) / "frames")
  return [Finding("encode and decode", info.n_frames == 5, f"{info.n_frames} of 5 frames")]


def folders() -> Iterator[Finding]:
  """Where results and compiled programs go."""
  yield from attempt("working folder", lambda: [_writable("working folder", Path.cwd())], needed=False)
  base = os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache_folder()
  if base is None:
    text = "this user has no home folder, so each run compiles anew; $XDG_CACHE_HOME names another place"
    yield Finding("compiled programs", False, text, False)
    return
  existing = next(p for p in (Path(base), *Path(base).absolute().parents) if p.exists())

  def kept() -> list[Finding]:
    sizes = {path: path.stat().st_size for path in Path(base).rglob("*") if path.is_file()}
    traced = sum(path.suffix == ".program" for path in sizes)
    there = f"; {traced} traced programs, {sum(sizes.values()) / 2**20:.0f} MiB with the compiled ones"
    return [_writable("compiled programs", existing, there)]

  yield from attempt("compiled programs", kept, needed=False)


def _writable(name: str, folder: Path, there: str = "") -> Finding:
  free = shutil.disk_usage(folder).free / 2**30
  ok = folder.is_dir() and os.access(folder, os.W_OK) and free > 1.0
  trouble = "" if ok else "; not writable or nearly full"
  return Finding(name, ok, f"{folder}, {free:.1f} GiB free{there}{trouble}", False)
