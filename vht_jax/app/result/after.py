"""`vht-track --export=...`: the formats that a run writes at its end, beside its result."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vht_jax.app.report.outcome import Outcome
from vht_jax.errors import InputError
from vht_jax.results.export.flame_codes.releases import FILES, release_of
from vht_jax.results.export.images.pictures import FolderPictures
from vht_jax.results.export.registry import check_head, export, named
from vht_jax.results.export.scene import make_scene
from vht_jax.types import FlameModel

FOLDER = "export"  # in a run's output


def check_exports(names: str | None, model: FlameModel) -> None:
  """Refuses, before a clip is tracked, what could not be exported afterwards.

  Raises:
    InputError: no such format, one of FLAME's codes for another head, or one whose program has another FLAME.
  """
  if not names:
    return
  formats = named(names)
  check_head(formats, model)
  for one in formats:
    if one.refits or (one.release and one.release != release_of(model.name)):
      raise InputError(
        f"--export={one.name}: the codes of {model.name!r} have to be fitted anew to its program's FLAME "
        f"{one.release}; track without it, then vht-export --to={one.name} --flame_model_path={FILES[one.release]}"
      )


def export_run(outcome: Outcome, names: str) -> list[Path]:
  """Writes the outcome of a run in formats ("glb,arkit"); returns where they are."""
  dataset = outcome.dataset
  scene = make_scene(
    outcome.model, outcome.result, dataset.size, frame_ids=np.asarray(dataset.frame_ids), times=dataset.times,
    fps=dataset.fps, name=Path(outcome.output).resolve().name,
    pictures=FolderPictures(dataset, np.arange(len(dataset))),
  )  # fmt: skip
  return export(scene, names, Path(outcome.output) / FOLDER, apart=True)
