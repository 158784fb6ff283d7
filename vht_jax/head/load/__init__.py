"""Head models from files: the embedded open head and the user's FLAME.

Nothing in a file is trusted: pickles are read as data (`unpickle`), sizes are bounded by what the file holds
(`host.npz`), ids and shapes are checked (`build`).
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import logging

from vht_jax.errors import InputError
from vht_jax.head.load.build import flame_model_from_arrays
from vht_jax.head.load.flame_files import FLAME_SITE, MODEL_FILES, find_model, load_flame
from vht_jax.head.load.flame_landmarks import of_mediapipe, open_head_on_flame
from vht_jax.head.load.open_head import load_open_head, open_head_path
from vht_jax.head.teeth import has_teeth
from vht_jax.host.files import expanded
from vht_jax.types import FlameModel

__all__ = ["flame_model_from_arrays", "load_head", "of_mediapipe", "open_head_on_flame", "open_head_path"]

ASSETS_VARIABLE = "VHT_ASSETS"
DEFAULT_FOLDER = Path("assets/flame")  # VHT's, relative to the working directory
_OPEN_HEAD = "open_head.npz"


def load_head(
  path: str | os.PathLike | None = None,
  *,
  assets_dir: str | os.PathLike | None = None,
  n_shape: int | None = None,
  n_expr: int | None = None,
  n_texture: int | None = None,
  model: str = "auto",
  detector: str = "mediapipe",
  teeth: bool = False,
) -> FlameModel:
  """Loads a head model.

  Search order: `path`, `assets_dir`, $VHT_ASSETS, ./assets/flame (each folder, then its subfolder flame/), the embedded
  open head. A folder that was named and holds no model is an error rather than a silent change of head.

  Args:
    path: a FLAME pickle, an open head npz, or a folder with either. The texture, UV, landmark and mask files of a
      pickle are looked for beside it, then along the search order.
    assets_dir: a folder with FLAME's files (`--assets`).
    n_shape, n_expr, n_texture: components to keep, from the first; None means all. Asking for more than the model has
      gives all of them, with a warning.
    model: "flame" (never the open head), "open" (always an open head) or "auto".
    detector: whose landmarks FLAME has: MediaPipe's where it sees them, those of any other where FLAME's own embedding
      puts them. `FrameFolder.detector` says who made those of a clip.
    teeth: add them to FLAME, which has none (`head.load.teeth`).

  Raises:
    InputError: nothing found, with every path tried; a file is broken; teeth for a head that is not FLAME.
  """
  if model not in ("auto", "open", "flame"):
    raise InputError(f"model must be auto, open or flame, found {model!r}")
  for key, count in (("n_shape", n_shape), ("n_expr", n_expr), ("n_texture", n_texture)):
    if count is not None and count < 0:
      raise InputError(f"{key} must not be negative, found {count}")
  counts = (n_shape, n_expr, n_texture)

  named = [Path(expanded(folder)) for folder in (assets_dir, os.environ.get(ASSETS_VARIABLE)) if folder]
  if path is not None:
    path = Path(expanded(path))
    if path.is_dir():
      named.insert(0, path)
    elif not path.is_file():
      raise InputError(f"{path}: no such file or folder")
  folders = [place for folder in (*named, DEFAULT_FOLDER) for place in (folder, folder / "flame")]

  if path is not None and path.is_file():
    if path.suffix == ".npz":
      head = load_open_head(path, *counts)
    else:
      head = load_flame(path, [path.parent, *folders], *counts, detector, teeth)
  else:
    head = _search(named, folders, model, counts, detector, teeth)
  if teeth and not has_teeth(head):
    raise InputError(
      f"--flame_teeth adds teeth to FLAME, and this head is the {head.name}, which has its own: leave it out, or name "
      "FLAME's files (--assets)"
    )
  available = (head.shapedirs.shape[-1], head.exprdirs.shape[-1], head.texture_basis.shape[-1])
  for kind, asked, has in zip(("identity", "expression", "texture"), counts, available, strict=True):
    if asked is not None and asked > has:
      logging.info("%s has %d %s components, %d asked for", head.name, has, kind, asked)
  return head


def _search(named: list[Path], folders: list[Path], model: str, counts, detector: str, teeth: bool) -> FlameModel:
  """The first FLAME in `folders`, else an open head in the `named` ones, else the embedded one."""
  found = find_model(folders) if model != "open" else None
  if found is not None:
    return load_flame(found, [found.parent, *folders], *counts, detector=detector, teeth=teeth)
  if model != "flame":
    for folder in named:
      if (folder / _OPEN_HEAD).is_file():
        return load_open_head(folder / _OPEN_HEAD, *counts)
    if model == "open" or not named:
      return load_open_head(open_head_path(), *counts)
  instead = "" if model == "flame" else ", or use the embedded open head"
  raise InputError(
    f"no head model: looked for {', '.join(MODEL_FILES[:3])}, ... in {', '.join(map(str, folders))}. FLAME is at "
    f"{FLAME_SITE}; put it there, or name its folder with --assets or ${ASSETS_VARIABLE}{instead}"
  )
