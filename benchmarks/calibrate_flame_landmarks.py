"""Where MediaPipe sees our points on FLAME, from what is left in finished runs: `OUTPUT[:DATASET] ...` as arguments.

The constant part of the distances between what MediaPipe sees and where the tracked head (`flame_standin.py`) has its
points, turned into the head's frame, is no noise but a difference of definition where clips of several people agree.
--write puts it into third_party/flame_landmarks/seen.json; then build the table again. Runs with --nophotometric do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from calibrate_landmarks import rms, solve, surface_points, symmetric

from vht_jax import results
from vht_jax.cameras import project
from vht_jax.dataset.folder import FrameFolder
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.rotation import axis_angle_to_matrix
from vht_jax.types import FlameModel, Status

SEEN = Path(__file__).resolve().parent.parent / "third_party" / "flame_landmarks" / "seen.json"
SHARE = 0.8  # of the mean that is believed: with few people a part of it is theirs


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("runs", nargs="+", help="OUTPUT or OUTPUT:DATASET of runs with the present table")
  parser.add_argument("--flame", type=Path, required=True, help="the folder of the head that they tracked")
  parser.add_argument("--write", action="store_true", help="add the result to seen.json")
  args = parser.parse_args()
  model = load_head(args.flame, model="flame")
  points = surface_points(model)
  systems = []
  for run in args.runs:
    output, _, data = run.partition(":")
    systems.append(equations(model, Path(output), Path(data or Path(output) / "dataset")))
    print(f"{output}: {1e3 * rms(both_sides(points, solve(*systems[-1]))):.2f} mm rms")
  common = both_sides(points, solve(*(np.mean(part, axis=0) for part in zip(*systems, strict=True))))
  print(f"common to all: {1e3 * rms(common):.2f} mm rms")
  if args.write:
    old = json.loads(SEEN.read_text()) if SEEN.is_file() else {}
    new = {"about": "mm in the head's frame, added to the registered points (build.py); calibrate_flame_landmarks.py."}
    for name, part in (("landmark", common[:68]), ("dense", common[68:])):
      total = np.asarray(old.get(name, np.zeros_like(part))) + 1e3 * SHARE * part
      new[name] = (total.round(2) + 0.0).tolist()
    SEEN.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in new.items()) + "\n}\n")


def both_sides(points: np.ndarray, bias: np.ndarray) -> np.ndarray:
  return np.concatenate([symmetric(points[:68], bias[:68]), symmetric(points[68:], bias[68:])])


def equations(model: FlameModel, output: Path, data: Path):
  """Normal equations (68 + M, 3, 3) and (68 + M, 3) of a run's bias in the head's frame, m (`calibrate_landmarks`)."""
  result = results.load_tracked(output / results.FILE_NAME, model).result
  clip = FrameFolder(data, max_frames=len(result.status))
  landmarks, _, dense = clip.landmarks()
  seen = np.concatenate([landmarks[:, :68], dense[:, np.asarray(model.dense_index)]], axis=1)
  seen = np.where((np.asarray(result.status) == Status.TRACKED)[:, None, None], seen, np.nan)
  camera, size = result.identity.camera, clip.size

  @jax.jit
  @jax.vmap
  def expected(pose):
    vertices = flame.skin(model, result.identity.shape, pose)
    world = jnp.concatenate([flame.landmarks(model, vertices)[:68], flame.dense_landmarks(model, vertices)])
    rotation = jnp.diag(jnp.array([-1.0, -1.0, 1.0])) @ axis_angle_to_matrix(pose.rotation)
    return project(camera, world, size)[..., :2], rotation[:2], jnp.mean(world[:68, 2])

  pixels, rotation, depth = (np.asarray(a) for a in expected(result.poses))
  scale = float(camera.focal) * max(size) / np.abs(depth)
  error = (seen - pixels) / scale[:, None, None]
  ok = np.isfinite(error).all(-1)
  weight = ok / np.maximum(ok.sum(0), 1)
  error = np.where(ok[..., None], error, 0.0)
  return np.einsum("tn,tai,taj->nij", weight, rotation, rotation), np.einsum("tn,tai,tna->ni", weight, rotation, error)


if __name__ == "__main__":
  main()
