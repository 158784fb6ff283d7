"""One shape for several clips of a person, from what each of them says of it alone.

A clip's fit says D d of the shape, with P0 what is known of people, D the information that the clip adds
(`ShapeInformation`) and m what the fit has found: D d = (P0 + D) m, as the mean of people is 0. Where models do not
hold, d has the covariance C = D^-1 + misfit^2 P0^-1 instead of D^-1. All clips together, people counted once, say

  (P0 + sum of C^-1) x = sum of C^-1 d,

which is the solution of all clips' least squares at once, each with a misfit of its own. Numbers are float64 here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc

from vht_jax.errors import InputError
from vht_jax.results import heads
from vht_jax.results.vht_npz import read_npz
from vht_jax.types import FlameModel

NOTHING = 1e-3  # of what is known of people: as much is added to every direction, that there is an answer in each
ALONE = "alone.npz"  # a clip's result by itself, beside that with the shape of all
# Clips of one person differ by more than landmarks and tracks say: eight pairs by 1.5 times in variance, at most 2.3.
# With both numbers none of them is taken for two people (least chance .15), and 23 of 24 pairs of others are.
DOUBT = 2.0
OTHER = 0.01  # the chance of a difference at which a clip is taken for one of another person


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What a clip alone says of a shape."""

  shape: np.ndarray  # (S,)
  prior: np.ndarray  # (2, S) of `ShapeInformation`
  data: np.ndarray  # (K, S) of `ShapeInformation`
  misfit: float = 0.0  # likewise
  head: str = ""  # the head that the codes are of, and its fingerprint (`heads.head_id`)
  head_id: str = ""

  @property
  def before(self) -> np.ndarray:
    """(S, S) P0."""
    return np.diag(self.prior[0] ** 2) + np.outer(self.prior[1], self.prior[1])

  @property
  def added(self) -> np.ndarray:
    """(S, S) D."""
    return self.data.T @ self.data

  def said(self, doubt: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """C^-1 (S, S) and C^-1 d (S,), with `doubt` times the variances of D^-1.

    Where the file tells nothing, as where a lens that is not known moves a shape, neither does m, whatever it is.
    """
    root = np.linalg.cholesky(self.before)  # where people are a unit Gaussian
    _, sizes, ways = np.linalg.svd(np.linalg.solve(root, self.data.T).T, full_matrices=False)
    told, ways = sizes[sizes**2 > NOTHING] ** 2, ways[sizes**2 > NOTHING] @ root.T
    weight = 1.0 / (doubt + self.misfit**2 * told)
    return (ways.T * (weight * told)) @ ways, ways.T @ (weight * (1.0 + told) * (ways @ self.shape))


class Difference(NamedTuple):
  """How far a clip is from others."""

  chi_square: float
  freedom: int
  p: float  # the chance of a larger one, if they show one person


def estimate_of(arrays: Mapping[str, np.ndarray], path: str | Path) -> Estimate | None:
  """The estimate in a result (`vht_npz.tracked_arrays`); None if the shape was given, or the file says nothing.

  Raises:
    InputError: its parts do not fit together.
  """
  if "vht_jax_shape_data" not in arrays:
    return None
  prior, data = (np.asarray(arrays.get(f"vht_jax_shape_{name}", ()), np.float64) for name in ("prior", "data"))
  n = data.shape[-1]
  shape = np.asarray(arrays.get("shape", ()), np.float64)
  if data.ndim != 2 or prior.shape != (2, n) or shape.ndim != 1 or len(shape) < n or not np.all(prior[0] > 0):
    shapes = f"{shape.shape}, {prior.shape}, {data.shape}"
    raise InputError(f"{path}: what it says of the shape does not fit together: {shapes}")
  if not all(np.isfinite(a).all() for a in (shape, prior, data)):
    raise InputError(f"{path}: what it says of the shape: expected finite numbers; found NaN or infinity")
  misfit = np.asarray(arrays.get("vht_jax_shape_misfit", 0.0))  # earlier versions knew none
  if misfit.shape or not 0.0 <= misfit < np.inf:
    raise InputError(f"{path}: its misfit of the shape: expected a number that is not negative; found {misfit}")
  head, head_id = (str(arrays.get(f"vht_jax_head{suffix}", "")) for suffix in ("", "_id"))
  return Estimate(shape[:n], prior, data, float(misfit), head, head_id)


def together(estimates: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
  """What clips of one person say together: the shape (S,) and its inverse covariance (S, S)."""
  added, told = map(sum, zip(*(e.said() for e in estimates)))
  total = estimates[0].before + added
  return np.linalg.solve(total, told), total


def difference(one: Estimate, others: Sequence[Estimate], doubt: float = DOUBT) -> Difference:
  """Whether a clip shows the person of others: chi-square of the difference between what their data alone say.

  Only directions count in which this difference is known better than two people differ: in others nothing can be told.
  """
  root = np.linalg.cholesky(one.before)
  shape, covariance = 0.0, 0.0
  for sign, clips in ((1, [one]), (-1, others)):
    # In these coordinates people are a unit Gaussian.
    added, told = map(sum, zip(*(e.said(doubt) for e in clips)))
    added = np.linalg.solve(root, np.linalg.solve(root, added).T) + NOTHING * np.eye(len(root))
    shape += sign * np.linalg.solve(added, np.linalg.solve(root, told))
    covariance += np.linalg.inv(added)
  values, vectors = np.linalg.eigh(covariance)
  known = values < 2.0
  chi_square = float(np.sum((vectors.T @ shape)[known] ** 2 / values[known]))
  return Difference(chi_square, int(known.sum()), _chance(chi_square, int(known.sum())))


def agreeing(estimates: Mapping[str, Estimate]) -> tuple[list[str], dict[str, Difference]]:
  """The clips that show one person, and how far the others are from them.

  The clip that is farthest from all others is left out, one after the other, as long as that is farther than chance
  lets expect. Of two that differ nobody can say which is the person: none is left then.
  """
  left, apart = dict(estimates), {}
  while len(left) > 1:
    found = {name: difference(e, [o for n, o in left.items() if n != name]) for name, e in left.items()}
    worst = min(found, key=lambda name: (found[name].p, -found[name].chi_square / max(found[name].freedom, 1)))
    if found[worst].p >= OTHER:
      break
    for name in found if len(left) == 2 else [worst]:
      apart[name] = found[name]
      del left[name]
  return (list(left) if len(left) > 1 else []), apart


def known_shape(path: str | Path, model: FlameModel) -> np.ndarray:
  """(S,) the shape in a result, ours or VHT's, or in a fleet's file of a person, cut or zero-padded to the head's.

  Raises:
    InputError: no such file, no shape in it, or one of another head.
  """
  arrays = read_npz(path)
  shape = arrays.get("shape", np.zeros(0))
  if shape.ndim != 1 or shape.dtype.kind != "f" or not len(shape) or not np.isfinite(shape).all():
    raise InputError(f"{path}: expected a result with a shape; it has none")
  head, identifier = (str(arrays.get(f"vht_jax_head{suffix}", "")) for suffix in ("", "_id"))
  verdict = heads.judge(head, identifier, shape, arrays.get("expr", np.zeros((0, 1))), model)
  if not verdict.same:
    raise InputError(f"{path}: its shape is of {verdict.reason}; on this run's head, {model.name!r}, another face")
  n = model.shapedirs.shape[-1]
  return np.pad(shape[:n], (0, max(n - len(shape), 0))).astype(np.float32)


def _chance(chi_square: float, freedom: int) -> float:
  return float(chdtrc(freedom, chi_square)) if freedom else 1.0
