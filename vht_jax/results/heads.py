"""Which head the codes of a result belong to: on another one they are another face, and nothing looks wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vht_jax.errors import InputError
from vht_jax.head.teeth import without_teeth
from vht_jax.types import FlameModel, TrackResult

# A head of one-sided units (0 to 1) allows little below zero: real clips have 2 to 4 % of their squared codes there, as
# its prior says (1 / `priors.NEGATIVE_EXPR`). Two-sided codes have a half.
ONE_SIDED_SHARE = 0.1


class Verdict(NamedTuple):
  """Whether codes are of a head."""

  same: bool
  reason: str  # if not: whose they are; if so: what was assumed, '' if nothing


def head_id(model: FlameModel) -> str:
  """A fingerprint of what codes mean: template and first components. FLAME's releases differ under the same file name.

  It does not depend on how many components are kept, nor on teeth that were added.
  """
  model = without_teeth(model)
  digest = hashlib.blake2b(digest_size=6)
  for array, first in ((model.v_template, None), (model.shapedirs, 1), (model.exprdirs, 1)):
    array = np.ascontiguousarray(np.asarray(array)[..., :first], np.float32)
    digest.update(f"{array.shape}".encode() + array.tobytes())
  return digest.hexdigest()


def judge(name: str, identifier: str, shape: np.ndarray, expr: np.ndarray, model: FlameModel) -> Verdict:
  """Whether the codes of a file are those of `model`.

  Args:
    name, identifier: the head's in the file, '' if it has none: files of VHT, whose head is FLAME.
    shape, expr: the file's codes (S,), (T, E).
  """
  if identifier and model.name:
    what = f"the head {name!r}" if name != model.name else f"another file of the name {name!r} (of another release)"
    return Verdict(True, "") if identifier == head_id(model) else Verdict(False, what)
  if name:
    return Verdict(not model.name or name == model.name, f"the head {name!r}" if name != model.name else "")
  if not model.expr_one_sided:
    return Verdict(True, "")  # which of FLAME's releases VHT had is nowhere said
  total = float(np.square(expr).sum())
  negative = float(np.square(np.minimum(expr, 0)).sum())
  if total == 0 and not np.any(shape):
    return Verdict(True, "")  # the mean head without an expression
  if total == 0 or negative > ONE_SIDED_SHARE * total:
    return Verdict(False, "FLAME (it names no head, as VHT's files)")
  return Verdict(True, "names no head; taken for this one's, as its expressions run from 0 up, unlike FLAME's")


def check_offsets(result: TrackResult, model: FlameModel, of: str | Path) -> None:
  """Refuses offsets of another mesh (`InputError`); `of`: what has them, for the message."""
  expected = model.v_template.shape
  for name, found in (("static", result.identity.static_offset), ("dynamic", result.poses.offset)):
    if found is not None and found.shape[-2:] != expected:
      raise InputError(f"{of}: {name}_offset: expected {expected} of the head {model.name!r}; found {found.shape}")
