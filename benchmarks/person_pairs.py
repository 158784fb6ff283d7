"""Are clips of one person told from clips of two? What `vht-fleet --person` asks, of drawn people and of results.

  python benchmarks/person_pairs.py [--people=4] [--frames=60] [--size=384] [--nophotometric] [NAME=RESULT.npz ...]

Both halves of a clip of each drawn person (`synthetic.make_clip`) are tracked by themselves; results that are given,
`vht-track`'s, show the person of that name. Prints for each pair of one person the chi-square over its expectation and
its chance, without and with the misfit (`results/person.py`), how far each drawn one is from the truth, and of pairs of
two people the least chi-square and how many would have been mixed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools

import jax
import numpy as np
import synthetic

from vht_jax.config import TrackConfig
from vht_jax.head.load import load_head
from vht_jax.results import person
from vht_jax.results.vht_npz import read_npz
from vht_jax.tracking.pipeline import track


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("results", nargs="*", help="NAME=RESULT.npz")
  parser.add_argument("--people", type=int, default=4, help="drawn ones")
  parser.add_argument("--frames", type=int, default=60, help="of both halves")
  parser.add_argument("--size", type=int, default=384, help="px")
  parser.add_argument("--nophotometric", action="store_true", help="landmarks and tracks alone, of drawn people")
  args = parser.parse_args()
  found = []  # (name, estimate)
  for given in args.results:
    name, _, path = given.partition("=")
    found.append((name, person.estimate_of(read_npz(path), path)))
  model, config = load_head(model="open"), TrackConfig(photometric=not args.nophotometric)
  for seed in range(args.people):
    clip = synthetic.make_clip(model, seed, args.frames, (args.size, args.size))
    for rows in np.array_split(np.arange(args.frames), 2):
      estimate = estimate_of(track(model, part(clip, rows), config))
      found.append((f"drawn {seed}", estimate))
      print(f"drawn {seed}: from the truth {far(estimate, np.asarray(clip.identity.shape, float)):.1f}", flush=True)
  for label, change in (("without", lambda e: dataclasses.replace(e, misfit=0.0)), ("with the misfit", lambda e: e)):
    pairs = [
      (a, b, person.difference(change(one), [change(other)]))
      for (a, one), (b, other) in itertools.combinations(found, 2)
    ]
    for name, _, apart in (pair for pair in pairs if pair[0] == pair[1]):
      print(f"{label}, {name}: {apart.chi_square / max(apart.freedom, 1):.2f} of {apart.freedom}, p {apart.p:.1g}")
    others = [apart for a, b, apart in pairs if a != b]
    least = min((apart.chi_square / max(apart.freedom, 1) for apart in others), default=np.nan)
    mixed = sum(apart.p >= person.OTHER for apart in others)
    print(f"{label}, two people: at least {least:.2f}; {mixed} of {len(others)} would be mixed")


def part(clip: synthetic.SyntheticClip, rows: np.ndarray) -> synthetic.SyntheticClip:
  return dataclasses.replace(
    clip, poses=jax.tree.map(lambda a: a[rows], clip.poses), frames=clip.frames[rows], points=clip.points[rows],
    dense=None if clip.dense is None else clip.dense[rows],
  )  # fmt: skip


def estimate_of(result) -> person.Estimate:
  known = result.shape_information
  parts = (np.asarray(a, float) for a in (result.identity.shape, known.prior, known.data))
  return person.Estimate(*parts, misfit=float(known.misfit))


def far(estimate: person.Estimate, truth: np.ndarray) -> float:
  """Chi-square of what a clip's data alone say against the truth, over its expectation; directions as in a pair."""
  sure = dataclasses.replace(estimate, shape=truth, data=estimate.before * 1e3, misfit=0.0)
  apart = person.difference(estimate, [sure], doubt=1.0)
  return apart.chi_square / max(apart.freedom, 1)


if __name__ == "__main__":
  main()
