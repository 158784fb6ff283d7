"""The shape of a person: read from what the clips say alone, put together, and kept as a file for `--shape_from`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vht_jax.app.record import digest
from vht_jax.errors import InputError, brief
from vht_jax.fleet import storage
from vht_jax.host.npz import npz_bytes
from vht_jax.results.person import Estimate, agreeing, estimate_of, together


class Shape(NamedTuple):
  """What came of a person's clips."""

  file: bytes  # for `--shape_from`; none: the clips do not agree
  clips: frozenset[str]  # that have part in it
  notes: dict[str, str]  # about the others


def shape_of(place: str, files: Mapping[str, bytes]) -> Shape:
  """The shape of a person from results by themselves (clip's name -> file), written to `place`.

  Raises:
    InputError: it cannot be written.
  """
  estimates: dict[str, Estimate] = {}
  notes = {}
  for name, data in files.items():
    try:
      found = estimate_of(_arrays(data), name)
    except (InputError, ValueError, OSError, KeyError) as error:
      found, notes[name] = None, f"alone: {brief(error)}"
    if found is not None:
      estimates[name] = found
    else:
      notes.setdefault(name, "alone: its result does not say how sure the shape is")
  kinds = {name: (e.head_id, len(e.shape)) for name, e in estimates.items()}
  usual = max(kinds.values(), key=list(kinds.values()).count, default=None)
  for name in [name for name, kind in kinds.items() if kind != usual]:
    one = estimates.pop(name)
    notes[name] = f"alone: tracked with another head, {one.head!r} with {len(one.shape)} components"
  kept, apart = agreeing(estimates)
  for name, far in apart.items():
    of = "the other clip" if len(apart) == 2 and not kept else "the other clips"
    notes[name] = f"alone: perhaps another person than in {of} (p = {far.p:.1g})"
  if not kept:
    return Shape(b"", frozenset(), notes)
  made_of = digest(*(files[name] for name in kept))
  file = _earlier(place, made_of)
  if not file:
    one = estimates[kept[0]]
    shape, information = together([estimates[name] for name in kept])
    file = npz_bytes(
      {
        "shape": shape.astype(np.float32), "vht_jax_shape_information": information.astype(np.float32),
        "vht_jax_head": np.asarray(one.head), "vht_jax_head_id": np.asarray(one.head_id),
        "clips": np.array(kept), "made_of": np.asarray(made_of),
      }
    )  # fmt: skip
    storage.write(place, file)
  return Shape(file, frozenset(kept), notes)


def _earlier(place: str, made_of: str) -> bytes:
  """The file of an earlier call if it was made of the same results: made anew elsewhere, its last bits could differ."""
  data = storage.read(place) if storage.exists(place) else b""
  try:
    return data if data and str(_arrays(data)["made_of"]) == made_of else b""
  except (ValueError, OSError, KeyError):
    return b""


def _arrays(data: bytes) -> dict[str, np.ndarray]:
  with np.load(io.BytesIO(data)) as file:
    return dict(file)
