"""Which FLAME file the programs evaluate that take its codes, and the clip in codes of that file.

The codes of FLAME's releases are not interchangeable: a wrong one loads and is another face. So either the tracked file
is of the consumer's release, or the user names the consumer's file and the codes are fitted to it anew.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vht_jax.errors import InputError
from vht_jax.head.load.flame_files import load_flame
from vht_jax.head.teeth import has_teeth, is_flame
from vht_jax.host.files import expanded
from vht_jax.results.export.flame_codes.refit import refit
from vht_jax.results.export.flame_codes.releases import FILES, release_of
from vht_jax.results.export.format import INSTEAD
from vht_jax.results.export.images.masks import mask_of
from vht_jax.results.export.scene import Scene, of_codes
from vht_jax.results.export.selection import tracked_only
from vht_jax.results.heads import head_id
from vht_jax.types import FlameModel

log = logging.getLogger("vht_jax")

_SMALLEST = 1e-7  # m
NOTES = "vht_jax_notes.json"  # in every exported folder: whose codes these are, and what a re-fit left


class Consumer(NamedTuple):
  """A program that evaluates FLAME."""

  name: str
  release: str  # of `flame_codes.releases`
  n_shape: int  # codes that it reads
  n_expr: int


class Fitted(NamedTuple):
  """A clip in the codes of a consumer."""

  scene: Scene
  notes: dict[str, Any]  # for NOTES


def for_consumer(
  scene: Scene, consumer: Consumer, flame_model_path: str | None, flame_release: str | None, *, training: bool = False
) -> Fitted:
  """The clip in the codes that a program reads.

  Args:
    flame_model_path: the program's own FLAME file; None: it is taken to have the tracked one.
    flame_release: which the tracked file is, if its name does not say so.
    training: only frames that were tracked; others are bridged, and would teach a wrong pose.

  Raises:
    InputError: another head than FLAME; codes of another release, and the program's file is not named; a file that is
      no FLAME.
  """
  refuse_other_heads(consumer.name, scene.model)
  scene = coded(scene, consumer.name)
  if training:
    scene = tracked_only(scene, consumer.name)
  target = None if flame_model_path is None else load_target(flame_model_path)
  model = scene.model if target is None else target
  notes: dict[str, Any] = {"format": consumer.name, "tracked_with": scene.model.name, "codes_of": model.name}
  if target is None:
    _check_release(scene.model, consumer, flame_release)
  refitted = target is not None and head_id(target) != head_id(scene.model)
  if not refitted and not _cut(scene, consumer):
    return Fitted(scene, notes)
  moved, distance = refit(scene, model, consumer.n_shape, consumer.n_expr)
  why = f"codes of {scene.model.name} for {model.name}" if refitted else (
    f"the first {consumer.n_shape} and {consumer.n_expr} codes, as {consumer.name} reads no more"
  )  # fmt: skip
  notes["fitted_anew"] = distance.tell(f"{consumer.name}: {why}")
  return Fitted(moved, notes)


def coded(scene: Scene, name: str) -> Scene:
  """The scene of the codes alone; the user hears that offsets and teeth stay behind. `name`: the format.

  FLAME's joints are regressed from the vertices: with offsets its programs would turn the jaw about another point.
  """
  if scene.coded is not None:
    log.warning("%s: the codes alone are handed on: the offsets of hair, ears and neck (--offsets) are left out", name)
  if scene.result.poses.offset is not None:
    log.warning("%s: so are those of single frames (--dynamic_offsets)", name)
  if has_teeth(scene.model):
    log.info("%s: FLAME's own vertices are handed on: programs that want teeth (--flame_teeth) add theirs", name)
  return of_codes(scene)


def refuse_other_heads(name: str, model: FlameModel, instead: str = INSTEAD) -> None:
  """Refuses to hand codes of another head to a program that has FLAME (`InputError`); `name`: the format."""
  if not is_flame(model):
    raise InputError(
      f"{name} hands FLAME's codes to a program that has FLAME, and this result is of the head {model.name!r}, "
      f"whose codes mean nothing there: track with FLAME's files (--assets), or export {instead}"
    )


def load_target(path: str) -> FlameModel:
  """A consumer's FLAME file.

  Raises:
    InputError: no such file, or no FLAME.
  """
  file = Path(expanded(path))
  if not file.is_file():
    found = "a folder" if file.is_dir() else "no such file"
    raise InputError(f"--flame_model_path={path}: expected the FLAME pickle that the program evaluates; found {found}")
  return load_flame(file, [file.parent], None, None, 0)


def pictured(scene: Scene, images: bool, name: str, notes: dict[str, Any]) -> bool:
  """Whether pictures are written; the user hears what is missing, and the notes say where masks are from."""
  if not images:
    return False
  if scene.pictures is None:
    log.warning("%s: there is no dataset beside the result (--data_path): the images are left for you to add", name)
    return False
  notes["masks"] = scene.pictures.masks or "none"
  if not scene.pictures.masks:
    log.warning("%s: these programs want the person alone, and there are no masks (--mask): backgrounds stay in", name)
  return True


def picture(scene: Scene, i: int, *, fade: bool = False) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
  """Frame i of a scene with pictures: (H, W, 3) RGB, (H, W) alpha of it if not all is opaque, (H, W) mask if there are.

  Each is made once, as masks can take long. The alpha is that of padding where there are no masks. `fade`: of masks,
  as for `mask_of`.
  """
  assert scene.pictures is not None
  if not scene.pictures.masks:
    return scene.pictures.rgb(i), scene.pictures.alpha(i), None
  mask = mask_of(scene, i, fade=fade)
  return scene.pictures.rgb(i), mask, mask


def notes_file(notes: dict[str, Any]) -> tuple[str, bytes]:
  return NOTES, json.dumps(notes, indent=1).encode()


def _check_release(model: FlameModel, consumer: Consumer, stated: str | None) -> None:
  release = stated or release_of(model.name)
  if release != consumer.release:
    raise InputError(
      f"{consumer.name} evaluates FLAME {consumer.release}, and this result is in codes of {model.name!r}, FLAME "
      f"{release}, which are another face there: name its file, --flame_model_path={FILES[consumer.release]}, and the "
      "codes are fitted to it anew"
    )
  if stated is None and release == "2020":
    log.info(
      "%s: %s is taken for FLAME 2020; files of 2017 and 2019 have the same name: to be sure, name the program's own "
      "by --flame_model_path",
      consumer.name, model.name,
    )  # fmt: skip


def _cut(scene: Scene, consumer: Consumer) -> bool:
  """Whether codes that the program does not read move a vertex."""
  beyond = (
    (scene.model.shapedirs, np.abs(scene.shape), consumer.n_shape),
    (scene.model.exprdirs, np.abs(scene.expr).max(axis=0), consumer.n_expr),
  )
  return any(float((np.abs(np.asarray(d)[..., n:]) @ code[n:]).max(initial=0.0)) > _SMALLEST for d, code, n in beyond)


def padded(code: np.ndarray, size: int) -> np.ndarray:
  """`code` with its last axis cut or zero-padded to `size`, float32."""
  code = np.asarray(code, np.float32)[..., :size]
  return np.concatenate([code, np.zeros((*code.shape[:-1], size - code.shape[-1]), np.float32)], axis=-1)
