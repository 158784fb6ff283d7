"""All export formats by name, and writing them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vht_jax.errors import InputError
from vht_jax.host.files import sweep, write_atomic
from vht_jax.results.export import any_head, flame_family, images
from vht_jax.results.export.flame_codes.consumers import refuse_other_heads
from vht_jax.results.export.format import Format, Option
from vht_jax.results.export.record import Record
from vht_jax.results.export.scene import Scene
from vht_jax.types import FlameModel

FORMATS: dict[str, Format] = {f.name: f for room in (any_head, flame_family, images) for f in room.FORMATS}
OPTIONS: dict[str, Option] = {o.name: o for room in (any_head, flame_family, images) for o in room.OPTIONS}

log = logging.getLogger("vht_jax")


def named(names: str | Sequence[str]) -> list[Format]:
  """The formats of "glb,arkit" or of a list of names, each once.

  Raises:
    InputError: none, or one that is not known.
  """
  names = names.split(",") if isinstance(names, str) else names
  if not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
    raise InputError(f"expected names of export formats, as 'glb,csv' or a list; found {names!r}")
  found = list(dict.fromkeys(n.strip().lower().replace("_", "-") for n in names if n.strip()))
  unknown = [name for name in found if name not in FORMATS]
  if unknown or not found:
    asked = f"no such export format: {unknown[0]!r}" if unknown else "no export format named"
    raise InputError(f"{asked}; there are {', '.join(FORMATS)}")
  return [FORMATS[name] for name in found]


def check(formats: Sequence[Format], scene: Scene, options: dict[str, Any] | None = None) -> None:
  """Refuses what cannot be written, before anything is.

  Raises:
    InputError: FLAME's codes asked of another head, images without a dataset, an option that no format takes.
  """
  check_scene(scene)
  check_head(formats, scene.model)
  for name, value in (options or {}).items():
    if name not in OPTIONS:
      raise InputError(f"{name}: no such option of an export; there are {', '.join(OPTIONS)}")
    OPTIONS[name].check(value)
    if name in images.OF_PICTURES and not any(one.pictures or "images" in one.options for one in formats):
      raise InputError(f"--{name} has no effect on {', '.join(f.name for f in formats)}, which write no images")
    if name not in images.SCENE_OPTIONS and not any(name in one.options for one in formats):
      able = ", ".join(f.name for f in FORMATS.values() if name in f.options)
      raise InputError(f"--{name} has no effect on {', '.join(f.name for f in formats)}; it is for {able}")
  for one in formats:
    if (one.pictures or (options or {}).get("images")) and scene.pictures is None:
      raise InputError(
        f"{one.name} needs the clip's images, and there is no dataset beside the result: name it by --data_path"
      )


def check_scene(scene: Any) -> None:
  """Refuses what is no `Scene` (`InputError`)."""
  if not isinstance(scene, Scene):
    raise InputError(
      f"export: expected a scene, of app.result.source.open_scene(path) or make_scene(model, result, size); found "
      f"{type(scene).__name__}"
    )


def check_head(formats: Sequence[Format], model: FlameModel) -> None:
  """Refuses formats of FLAME's codes for another head (`InputError`)."""
  for one in formats:
    if one.flame:
      refuse_other_heads(one.name, model, one.instead)


def export(
  scene: Scene, formats: str | Sequence[str], out: str | Path, *, apart: bool = False, **options: Any
) -> list[Path]:
  """Writes a scene in some formats.

  Args:
    scene: the clip.
    formats: names, as a list or with commas between them.
    out: folder. One format alone is written into it; of several, each that has many files gets a folder in it.
    apart: one format alone that has many files gets a folder in it, too.
    options: of the formats (`OPTIONS`): each goes to those that have it, those of images (`images.SCENE_OPTIONS`)
      change what all of them are given. None: as if it were not given.

  Returns:
    For every format its folder, or its first file if it has none of its own.

  Raises:
    InputError: see `named` and `check`, nothing is written; or a format refused the clip, a file that no export wrote
      was in the way, the disk refused: the other formats are written.
  """
  chosen = named(formats)
  options = {name: value for name, value in options.items() if value is not None}
  check(chosen, scene, options)
  _check_folder(Path(out))
  scene = images.prepared(scene, **{k: v for k, v in options.items() if k in images.SCENE_OPTIONS})
  if not scene.tracked.any():
    log.warning("no frame of this result was tracked: what is written is a guess")
  written, refused = [], []
  for one in chosen:
    folder = Path(out) / one.name if one.folder and (apart or len(chosen) > 1) else Path(out)
    try:
      written.append(write(one, scene, folder, {k: v for k, v in options.items() if k in one.options}))
    except InputError as error:
      refused.append(str(error))
  if refused:
    done = f" (written: {', '.join(map(str, written))})" if written else ""
    raise InputError("; ".join(refused) + done)
  return written


def write(one: Format, scene: Scene, folder: Path, options: dict[str, Any]) -> Path:
  """Writes one format (checked before).

  Of a format of many files those that an earlier export of it wrote and this one does not are removed, but for what
  other formats there use as well. Single files are named after their clip: another clip's stay.

  Returns:
    The folder, or of a format without one its first file.
  """
  if one.one_surface and scene.result.poses.offset is not None:
    log.warning(
      "%s: has one surface for the clip: the offsets of single frames (--dynamic_offsets) are left out", one.name
    )
  path = folder
  try:
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    record = Record(folder)
    ours, before = record.names, record.known.get(one.name, [])
    with record.adding(one.name) as journal:
      try:
        for name, content in one.load()(scene, **options):
          path = folder / name
          if name not in ours and path.exists():
            raise InputError(f"{path}: is there already, and no export wrote it; choose another folder by --out")
          path.parent.mkdir(parents=True, exist_ok=True)
          journal.add(name)
          write_atomic(path, content)
      except InputError as error:
        raise InputError(str(error) if str(error).startswith(one.name) else f"{one.name}: {error}") from error
      finally:
        if made and not journal.names:  # refused
          with contextlib.suppress(OSError):
            folder.rmdir()
    names = journal.names
    if one.folder:
      others = {name for kind, held in record.known.items() if kind != one.name for name in held}
      for name in set(before) - set(names) - others:
        (folder / name).unlink(missing_ok=True)
      record.save(one.name, names)
  except OSError as error:
    raise InputError(f"{path}: cannot be written ({error.strerror})") from error
  log.info("%s: %s in %s", one.name, "1 file" if len(names) == 1 else f"{len(names)} files", folder)
  return folder if one.folder else folder / names[0]


def _check_folder(out: Path) -> None:
  """Refuses what is no folder, or is meant to be a file (`InputError`)."""
  if out.exists() and not out.is_dir():
    raise InputError(f"{out}: expected a folder to write to, found a file; name a folder by --out")
  if not out.exists() and out.suffix[1:].lower() in (*FORMATS, "json", "npz", "zip"):
    raise InputError(f"{out}: expected a folder to write to, found a file's name; files in it are named after the clip")
