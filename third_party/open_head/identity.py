"""The template and the identity space: a PCA of heads sampled from MakeHuman's modelling sliders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from source import Source

TABLES = Path(__file__).parent / "tables"
TARGETS = "mpfb2/targets/"
AGES = ("child", "young", "old")
LEVELS = ("min", "average", "max")
RACES = ("african", "asian", "caucasian")
SEXES = ("male", "female")


def _three_way(x: float) -> np.ndarray:
  """Weights of the anchors at 0, 1/2 and 1 for a slider at x."""
  return np.array([max(0.0, 1 - 2 * x), 1 - abs(2 * x - 1), max(0.0, 2 * x - 1)])


def _macro(gender: float, age: float, race: np.ndarray, muscle: float, weight: float) -> dict[str, float]:
  """MakeHuman's macro sliders -> {target file: weight}. gender 1 = male; age 0 child, 1/2 young, 1 old."""
  out = {}
  folder = TARGETS + "macrodetails/"
  for sex, w_sex in zip(SEXES, (gender, 1 - gender)):
    for name_age, w_age in zip(AGES, _three_way(age)):
      for name_race, w_race in zip(RACES, race):
        out[f"{folder}{name_race}-{sex}-{name_age}.target.gz"] = w_sex * w_age * w_race
      for name_muscle, w_muscle in zip(LEVELS, _three_way(muscle)):
        for name_weight, w_weight in zip(LEVELS, _three_way(weight)):
          name = f"{folder}universal-{sex}-{name_age}-{name_muscle}muscle-{name_weight}weight.target.gz"
          out[name] = w_sex * w_age * w_muscle * w_weight
  return out


def sample_sliders(count: int, seed: int) -> tuple[list[str], np.ndarray]:
  """Random people as weights of target files.

  Adults of every sex, age, ancestry and build, plus detail sliders whose spread is limited in millimetres
  (tables/modifiers.json): MakeHuman's full slider range gives caricatures.

  Args:
    count: number of people.
    seed: of the legacy generator, whose stream numpy guarantees never to change.

  Returns:
    The names of the K target files and the weights (count, K).
  """
  rng = np.random.RandomState(seed)
  table = json.loads((TABLES / "modifiers.json").read_text())
  people = []
  for _ in range(count):
    race = rng.dirichlet([0.6] * 3)
    age = rng.uniform(0.38, 0.6) if rng.uniform() < 0.5 else rng.uniform(0.5, 1.0)
    gender, muscle, weight = rng.beta(0.6, 0.6), rng.normal(0.5, 0.15), rng.normal(0.5, 0.18)
    person = _macro(gender, age, race, np.clip(muscle, 0, 1), np.clip(weight, 0, 1))
    both_sides = {}
    for entry in table["details"]:
      # Left and right ears, eyes, cheeks share their slider up to a little asymmetry.
      sided = entry["positive"].startswith(("l-", "r-"))
      key = entry["positive"][2:] if sided else entry["positive"]
      if key not in both_sides:
        both_sides[key] = rng.normal(0, entry["sd"])
      value = np.clip(both_sides[key] + (rng.normal(0, 0.08) if sided else 0.0), -1, 1)
      name = entry["positive"] if value >= 0 else entry["negative"]
      if name:
        person[f"{TARGETS}{entry['folder']}/{name}.target.gz"] = abs(value)
    for entry in table["asymmetries"]:
      value = np.clip(rng.normal(0, entry["sd"]), -1, 1)
      person[f"{TARGETS}asym/{entry['positive'] if value >= 0 else entry['negative']}.target.gz"] = abs(value)
    people.append(person)
  names = sorted(set().union(*people))
  column = {name: i for i, name in enumerate(names)}
  weights = np.zeros((count, len(names)))
  for row, person in zip(weights, people):
    for name, value in person.items():
      row[column[name]] = value
  return names, weights


def sample_heads(source: Source, base: np.ndarray, vertices: np.ndarray, rigid: np.ndarray, *, count: int, seed: int):
  """Heads of random people, rigidly aligned to their mean. Size is kept: it is part of identity.

  Args:
    source: the data.
    base: (N, 3) base mesh, MakeHuman units.
    vertices: (n,) ids of the base vertices to keep.
    rigid: (m,) positions in `vertices` of the skin of the head, by which heads are aligned.
    count: number of people.
    seed: of the sampler.

  Returns:
    (count, n, 3) heads, MakeHuman units.
  """
  names, weights = sample_sliders(count, seed)
  fields = np.stack([source.target(name)[vertices].ravel() for name in names])
  heads = (weights @ fields).reshape(count, -1, 3) + base[vertices]
  for _ in range(2):
    reference = heads.mean(0)
    centre = reference[rigid].mean(0)
    means = heads[:, rigid].mean(1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("nvi,vj->nij", heads[:, rigid] - means, reference[rigid] - centre))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    heads = (heads - means) @ (u @ vt) + centre
  return heads


def principal_components(deviations: np.ndarray, mirror: np.ndarray, weight: np.ndarray, count: int):
  """PCA of head deviations together with their mirror images.

  The covariance of a mirrored set splits into a symmetric and an antisymmetric block, so every component is exactly
  one or the other.

  Args:
    deviations: (N, V, 3) from the template.
    mirror: (V,) left/right partner of each vertex.
    weight: (V,) importance of a vertex.
    count: number of components.

  Returns:
    (V, 3, count) components scaled to one standard deviation, largest first, and their shares of variance (count,).
  """
  root = np.sqrt(np.repeat(weight, 3))
  mirrored = deviations[:, mirror] * np.array([-1.0, 1.0, 1.0])
  values, columns, total = [], [], 0.0
  for block in ((deviations + mirrored) / 2, (deviations - mirrored) / 2):
    block = block.reshape(len(block), -1)
    scaled = block * root
    eigenvalue, vector = np.linalg.eigh(scaled @ scaled.T)
    total += eigenvalue.sum()
    best = slice(None, -count - 1, -1)
    values.append(eigenvalue[best])
    columns.append(block.T @ vector[:, best] / np.sqrt(len(block)))
  values, columns = np.concatenate(values), np.concatenate(columns, 1)
  order = np.argsort(-values, kind="stable")[:count]
  basis = columns[:, order]
  # The sign of an eigenvector is arbitrary: make the sum of cubes positive, which unlike the largest entry of an
  # antisymmetric field is not a tie; antisymmetric components are judged by their left half.
  left = np.where(np.arange(len(mirror)) <= mirror, 1.0, -0.5).repeat(3)
  basis = basis * np.where((left[:, None] * basis**3).sum(0) < 0, -1.0, 1.0)
  return basis.reshape(*deviations.shape[1:], count), values[order] / total
