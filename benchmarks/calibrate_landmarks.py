"""Where a detector sees the open head's landmarks: `python benchmarks/calibrate_landmarks.py` prints the mean bias.

People drawn at random are rendered as in `make_demo_clip`, MediaPipe finds their landmarks, and the difference from
the true projections gives a 3D bias per landmark. What it has in common over people is no noise but a difference of
definition: --write adds its part along the skin to `seen` in third_party/open_head/tables/landmarks.json (then build
the head again). Seeds start at 8, so that the demo clip (1) and the seeds in docs/accuracy.md are held out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import make_demo_clip
import numpy as np

from vht_jax.cameras import project
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.landmarks import make_detector
from vht_jax.rotation import axis_angle_to_matrix
from vht_jax.types import FlameModel, TrackResult

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "third_party" / "open_head"))
from landmarks import TABLE, closest_points  # noqa: E402

RIDGE = 0.02  # a bias along the line of sight is hardly seen by frontal views
HIDDEN = ("teeth", "tongue", "mouth_cavity", "eye_socket", "left_eyeball", "right_eyeball")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--people", type=int, default=8)
  parser.add_argument("--write", action="store_true", help="add the bias to the table")
  args = parser.parse_args()
  model = load_head(model="open")
  detector = make_detector("mediapipe")
  systems = []
  for seed in range(8, 8 + args.people):
    truth, frames = make_demo_clip.make(model, seed)
    systems.append(bias_equations(model, truth, frames, detector))
    print(f"person {seed}: {1e3 * rms(solve(*systems[-1])):.2f} mm rms")
  points = surface_points(model)
  bias = solve(*(np.mean(part, axis=0) for part in zip(*systems, strict=True)))
  bias = np.concatenate([symmetric(points[:68], bias[:68]), symmetric(points[68:], bias[68:])])
  moved = along_skin(model, points + bias) - points
  print(f"common to all: {1e3 * rms(bias):.2f} mm rms, {1e3 * rms(moved):.2f} mm of it along the skin")
  if args.write:
    add_to_table(moved, np.asarray(model.dense_index))


def surface_points(model: FlameModel) -> np.ndarray:
  """(68 + M, 3) m: the landmarks without the irises, and the dense ones, of the mean head."""
  both = flame.landmarks(model, model.v_template)[:68], flame.dense_landmarks(model, model.v_template)
  return np.concatenate([np.asarray(p) for p in both])


def bias_equations(model: FlameModel, truth: TrackResult, frames: np.ndarray, detector):
  """Normal equations (68 + M, 3, 3) and (68 + M, 3) of one person's bias in the head's frame, m.

  A bias b of a landmark moves it in the image by scale * (R b)[:2], R being the head -> camera rotation (OpenCV axes).
  """
  size, identity = frames.shape[1:3], truth.identity

  @jax.jit
  @jax.vmap
  def expected(pose):
    vertices = flame.skin(model, identity.shape, pose)
    world = jnp.concatenate([flame.landmarks(model, vertices)[:68], flame.dense_landmarks(model, vertices)])
    rotation = jnp.diag(jnp.array([-1.0, -1.0, 1.0])) @ axis_angle_to_matrix(pose.rotation)
    return project(identity.camera, world, size)[..., :2], rotation[:2], jnp.mean(world[:68, 2])

  pixels, rotation, depth = (np.asarray(a) for a in expected(truth.poses))
  scale = float(identity.camera.focal) * max(size) / np.abs(depth)
  seen = np.full(pixels.shape, np.nan)
  for t, frame in enumerate(frames):
    found = detector.detect(frame)
    if found is not None:
      seen[t] = np.concatenate([found.landmarks, found.dense[np.asarray(model.dense_index)]])
  error = (seen - pixels) / scale[:, None, None]
  ok = np.isfinite(error).all(-1)
  weight = ok / np.maximum(ok.sum(0), 1)
  error = np.where(ok[..., None], error, 0.0)
  return np.einsum("tn,tai,taj->nij", weight, rotation, rotation), np.einsum("tn,tai,tna->ni", weight, rotation, error)


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
  return np.linalg.solve(matrix + RIDGE * np.eye(3), right[..., None])[..., 0]


def rms(vectors: np.ndarray) -> float:
  return float(np.sqrt((vectors**2).sum(-1).mean()))


def symmetric(points: np.ndarray, bias: np.ndarray) -> np.ndarray:
  """Averages the bias of each landmark with that of its mirror image."""
  flip = np.array([-1.0, 1.0, 1.0])
  partner = ((points[:, None] * flip - points[None]) ** 2).sum(-1).argmin(1)
  return 0.5 * (bias + bias[partner] * flip)


def along_skin(model: FlameModel, targets: np.ndarray) -> np.ndarray:
  """The points of the mean head's skin nearest to some targets (n, 3)."""
  faces, vertices = np.asarray(model.faces), np.asarray(model.v_template, np.float64)
  hidden = np.any([np.asarray(model.masks[name])[faces].any(1) for name in HIDDEN], axis=0)
  triangles = vertices[faces[~hidden]]
  index, bary = closest_points(targets, triangles)
  return np.einsum("nk,nkc->nc", bary, triangles[index])


def add_to_table(moved: np.ndarray, dense_index: np.ndarray) -> None:
  rows = {"lmk68": np.arange(68), "mediapipe468": 68 + np.argsort(dense_index)}
  lines, table = [], json.loads(TABLE.read_text())
  for name, row_of in rows.items():
    for entry in table[name]:
      change = 1e3 * moved[row_of[entry["index"]]] * ([0, 1, 1] if entry["mirror"] == entry["index"] else 1)
      entry["seen"] = [round(float(a), 2) for a in np.array(entry["seen"]) + change]
  for key, value in table.items():
    many = isinstance(value, list)
    text = "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]" if many else json.dumps(value)
    lines.append(f"{json.dumps(key)}: {text}")
  TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
  main()
