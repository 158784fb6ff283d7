"""How far the detector's points slide with the view, on average: makes assets/view_bias.npz (`landmarks.view_bias`).

Heads of two models, drawn at random, are rendered in known poses (`view_bias_clips`), MediaPipe finds their landmarks,
and what the two have in common of its errors' dependence on the view is the table (`view_bias_fit`). Rotation first (a
gain in yaw and in pitch), then slopes per landmark, which are symmetric. Constants are estimated beside them and left
out: where the detector sees a landmark from the front is what the heads' own tables of landmarks say.

  python benchmarks/flame_standin.py --out build/standin          # the second model
  python benchmarks/calibrate_view_bias.py --flame build/standin [--clips build/view_bias] [--write]

--clips keeps what the detector saw: a second run only fits. Nothing of it comes from photographs or scans.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import view_bias_clips
import view_bias_fit as fit
from view_bias_clips import Seen

from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.head.mesh_points import IBUG68, IRISES
from vht_jax.head.view_bias import GROUPS, groups_of
from vht_jax.landmarks import make_detector
from vht_jax.landmarks.mirror import MIRROR
from vht_jax.results import write_npz
from vht_jax.types import FlameModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "third_party" / "open_head"))
import pack

METADATA = ROOT / "third_party" / "view_bias" / "METADATA"
ASSET = ROOT / "assets" / "view_bias.npz"
N_FLAME_IDENTITY, N_FLAME_EXPRESSION = 60, 42  # what the stand-in has
_MESH = np.concatenate([IBUG68, IRISES])
# The mirror image of each of the 68 + 2 landmarks.
MIRROR_70 = np.array([int(np.flatnonzero(_MESH == MIRROR[k])[0]) for k in _MESH])
PARTNER = np.concatenate([MIRROR_70, 70 + MIRROR[:468]])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--flame", type=Path, required=True, help="folder of flame_standin.py")
  parser.add_argument("--people", type=int, nargs=2, default=(40, 24), help="of the open head, of FLAME")
  parser.add_argument("--frames", type=int, default=48)
  parser.add_argument("--clips", type=Path, default=ROOT / "build" / "view_bias")
  parser.add_argument("--write", action="store_true")
  args = parser.parse_args()
  model = load_head(model="open")
  models = {
    "open": model,
    "flame": load_head(args.flame, model="flame", n_shape=N_FLAME_IDENTITY, n_expr=N_FLAME_EXPRESSION),
  }
  people = [
    [fit.rows(seen(models[family], family, seed, args.frames, args.clips)) for seed in range(n)]
    for family, n in zip(models, args.people)
  ]
  gain, slopes = table(people, tangent_frames(model), np.asarray(groups_of(model)))
  if args.write:
    rounded = lambda a: a.round(4).astype(np.float32) + 0.0  # without -0
    asset = {"gain": rounded(gain), "landmark": rounded(slopes[:70]), "dense": rounded(slopes[70:])}
    pack.write_npz(ASSET, asset)
    hashes = {"sha256": pack.file_sha256(ASSET), "content_sha256": pack.content_sha256(asset)}
    pack.write_metadata(METADATA, {**pack.read_metadata(METADATA), **hashes})
    print(ASSET, ASSET.stat().st_size, "bytes")


def seen(model: FlameModel, family: str, seed: int, n_frames: int, clips: Path) -> Seen:
  """Rendered and looked at, or from what is kept."""
  file = clips / f"{family}_{seed}.npz"
  if not file.is_file():
    detector = make_detector("mediapipe")
    person = view_bias_clips.watch(model, family, seed, n_frames, detector)
    detector.close()
    write_npz(file, person._asdict())
    print(file, flush=True)
  with np.load(file) as stored:
    return Seen(**stored)


def tangent_frames(model: FlameModel) -> np.ndarray:
  """(538, 3, 3) of the open head's landmarks."""
  normals = np.asarray(flame.vertex_normals(model.v_template, model.faces), np.float64)
  corners = np.concatenate([model.lmk_vertices, model.dense_vertices])
  found = np.einsum("nk,nkc->nc", np.concatenate([model.lmk_bary, model.dense_bary]), normals[corners])
  return fit.tangent_frames(found / np.linalg.norm(found, axis=1, keepdims=True))


def table(people: list[list[fit.Rows]], frames: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The gains (2,) and slopes (538, 3, 2) that the families have in common; prints what they say one by one."""
  groups = groups + len(GROUPS) * (np.arange(len(groups)) >= 70)  # the dense ones are groups of their own
  gains = [np.array([fit.gains(person, frames) for person in family]) for family in people]
  for each in gains:
    print(f"{len(each)} people: gain of yaw and pitch {each.mean(0).round(3)}, sd over people {each.std(0).round(3)}")
  gain = np.mean([each.mean(0) for each in gains], axis=0)
  means = []
  for family in people:
    known = [fit.rigid_field(person.about, gain) for person in family]
    variance = np.mean([fit.residual_variance(p, k, groups) for p, k in zip(family, known)], axis=0)
    systems = [fit.local(*fit.mirrored_too(*fit.equations(p, k), PARTNER), frames) for p, k in zip(family, known)]
    mean, _, own = fit.population(systems, variance, groups)
    means.append(mean)
    show("noise %", 100 * np.sqrt(variance)[:, None])
    show("sd over people along the skin: constant, yaw, pitch %", 100 * own[:, 1])
  common, factors = fit.agreed(means, groups)
  show("in common: across (constant, yaw, pitch), along", factors.reshape(len(factors), 6))
  here = lambda g: common[groups == g][:, 1:]
  show("mean along the skin, rms: constant, yaw, pitch %",
       np.array([100 * np.sqrt((here(g) ** 2).mean((0, 1))) for g in range(len(factors))]))  # fmt: skip
  return gain, fit.in_head(common, frames)[..., 1:]


def show(what: str, values: np.ndarray) -> None:
  print(what)
  for k, row in enumerate(values):
    name = GROUPS[k % len(GROUPS)] + (", dense" if k >= len(GROUPS) else "")
    print(f"  {name:16s}" + " ".join(f"{v:6.2f}" for v in row))


if __name__ == "__main__":
  main()
