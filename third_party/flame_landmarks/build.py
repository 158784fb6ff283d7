"""Makes assets/flame_landmarks.npz: where MediaPipe sees its points on FLAME's mesh, and where it is the open head's.

  python third_party/flame_landmarks/build.py --flame flame2023_Open.pkl --out assets/flame_landmarks.npz

The open head's landmarks, which are adapted to MediaPipe, are carried over by registration (`register.py`). The result
names vertices of FLAME's mesh and says how much each counts; it holds no coordinates of FLAME. See README.md.
"""

from __future__ import annotations

import os

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # sums in one order

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SEEN = HERE / "seen.json"  # benchmarks/calibrate_flame_landmarks.py
NEAR = 0.0025  # m, of a landmark from FLAME's skin after registration
sys.path[:0] = [str(HERE), str(HERE.parent / "open_head"), str(ROOT)]

import pack  # noqa: E402
import register  # noqa: E402
from features import Head  # noqa: E402
from surface import FLIP, nearest, seen_faces, vertex_normals  # noqa: E402


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--flame", type=Path, required=True, help="a FLAME pickle, or an npz with v_template, f, weights")
  parser.add_argument("--open_head", type=Path, default=ROOT / "assets" / "open_head.npz")
  parser.add_argument("--out", type=Path, default=ROOT / "assets" / "flame_landmarks.npz")
  parser.add_argument("--record", action="store_true", help="write the result's hashes into METADATA")
  args = parser.parse_args()
  with np.load(args.open_head) as archive:
    npz = dict(archive)
  model = read_flame(args.flame)
  table = build(npz, model["v_template"], model["f"], model["weights"])
  pack.write_npz(args.out, table)
  hashes = {"sha256": pack.file_sha256(args.out), "content_sha256": pack.content_sha256(table)}
  recorded = pack.read_metadata(HERE / "METADATA")
  print(f"{args.out}: {args.out.stat().st_size} bytes, {hashes}")
  same = all(recorded.get(key) == value for key, value in hashes.items())
  print("as recorded in METADATA" if same else "METADATA records another file")
  if args.record:
    pack.write_metadata(HERE / "METADATA", {**recorded, **hashes})


def read_flame(path: Path) -> dict[str, np.ndarray]:
  if path.suffix == ".npz":
    with np.load(path) as archive:
      return {key: archive[key] for key in ("v_template", "f", "weights")}
  from vht_jax.head.load.unpickle import load_pickle

  return load_pickle(path)


def build(npz, v_template, faces, weights) -> dict[str, np.ndarray]:
  """The table.

  Args:
    npz: arrays of the open head.
    v_template, faces, weights: FLAME's, (5023, 3) m, (9976, 3), (5023, 5).

  Returns:
    landmark_vertices (70, 3) and landmark_bary (70, 3): iBUG's 68 and the pupils of eyes 36-41 and 42-47;
    dense_vertices (468, 3) and dense_bary (468, 3): MediaPipe's face mesh. Every triple is a face of FLAME.
    surface_vertices (5023, 3) and surface_bary (5023, 3): for each of FLAME's vertices a place on the open head, by the
    corners of one of its faces; nothing counts for FLAME's eyeballs.
  """
  source, target = register.open_head(npz), register.flame_head(v_template, faces, weights)
  warped = register.warp(source, target)
  seen = json.loads(SEEN.read_text())
  table = {}
  for name, key in (("landmark", "lmk70"), ("dense", "mp468")):
    face, bary = npz[f"{key}_face"].astype(int), npz[f"{key}_bary"].astype(np.float64)
    if name == "landmark":
      face, bary = face[:68], bary[:68]
    shift = 1e-3 * np.array(seen[name])
    corners, weight = attach(source, warped, target, face, bary / bary.sum(1, keepdims=True), shift)
    if name == "landmark":
      pupils = [pupil(target, side) for side in (-1, 1)]
      corners, weight = (np.concatenate([a, b]) for a, b in zip((corners, weight), zip(*pupils)))
    table[f"{name}_vertices"] = corners.astype(np.uint16)
    table[f"{name}_bary"] = weight.astype(np.float32)
  where, weight = surface(source, warped, target)
  return table | {"surface_vertices": where.astype(np.uint16), "surface_bary": weight.round(5).astype(np.float32)}


def surface(source: Head, warped: np.ndarray, target: Head) -> tuple[np.ndarray, np.ndarray]:
  """Corners (V', 3) of the source's faces and their weights (V', 3) for the vertices of the target.

  Vertices of the right side have the mirror images of those of the left, those of the middle have places in the middle:
  where it is a hollow, the nearest place is beside it, and its mirror image is as near.
  """
  normals = vertex_normals(target.vertices, target.faces)
  face, weight = register.places_on_skin(source, warped, target.vertices, normals, target.lips)
  corners = source.faces[face].copy()
  laid = Head(**{**source.__dict__, "vertices": warped})
  ridge = middle_faces(laid, source.faces[source.skin[source.faces].all(1)])
  for v in np.flatnonzero(target.skin & (target.mirror == np.arange(len(target.mirror)))):
    corners[v], weight[v] = in_the_middle(laid, corners[v], weight[v], ridge)
  right = np.flatnonzero(target.vertices[:, 0] < -1e-6)
  corners[right], weight[right] = source.mirror[corners[target.mirror[right]]], weight[target.mirror[right]]
  return corners, np.where(target.skin[:, None], weight, 0.0)


def attach(source: Head, warped: np.ndarray, target: Head, face: np.ndarray, bary: np.ndarray, shift: np.ndarray):
  """Corners (n, 3) and weights (n, 3) of the places on the target, those of the right side mirrored from the left.

  Args:
    source: the open head; `warped` (V, 3) are its vertices laid on the target.
    target: FLAME.
    face, bary: (n,), (n, 3) symmetric points of the source.
    shift: (n, 3) m, where MediaPipe sees them from there.
  """
  place = np.einsum("nk,nkc->nc", bary, source.vertices[source.faces[face]])
  goal = np.einsum("nk,nkc->nc", bary, warped[source.faces[face]]) + shift
  skin = source.faces[source.skin[source.faces].all(1)]
  normals = np.einsum("nk,nkc->nc", bary, vertex_normals(warped, skin)[source.faces[face]])
  normals /= np.linalg.norm(normals, axis=1, keepdims=True)
  lips = np.sign(source.lips[source.faces[face]].sum(1))
  middle = np.abs(place[:, 0]) < 1e-6
  goal[middle, 0] = normals[middle, 0] = 0.0
  partner = np.linalg.norm(place[:, None] * FLIP - place[None], axis=2).argmin(1)
  allowed = seen_faces(target.vertices, target.faces) & target.skin[target.faces].all(1)
  found, weight, distance = nearest(goal, normals, lips, target, allowed)
  for i in np.flatnonzero(~(distance < NEAR)):  # in folds the skins need not face the same way
    one = nearest(goal[[i]], normals[[i]], lips[[i]], target, allowed, cosine=-1.0)
    found[i], weight[i], distance[i] = (part[0] for part in one)
  print(f"{len(goal)} points, from FLAME's skin: median {1e3 * np.median(distance):.2f}, at most "
        f"{1e3 * distance.max():.2f} mm")
  corners = target.faces[found].copy()
  weight = weight.round(5)

  known = {frozenset(f): f for f in target.faces.tolist()}
  ridge = middle_faces(target, target.faces)
  for i in np.flatnonzero(middle):
    corners[i], weight[i] = in_the_middle(target, corners[i], weight[i], ridge)
  for i in np.flatnonzero(place[:, 0] < -1e-6):
    left = partner[i]
    mirrored = target.mirror[corners[left]]
    if frozenset(mirrored.tolist()) in known:  # otherwise, at a handful of triangles that differ, its own nearest point
      corners[i], weight[i] = mirrored[::-1], weight[left][::-1]
  total = weight.sum(1, keepdims=True)
  order = [known[frozenset(c.tolist())] for c in corners]  # FLAME's order of the corners
  weight = np.array([[w[list(c).index(v)] for v in f] for c, w, f in zip(corners, weight / total, order)])
  return np.array(order), weight


def middle_faces(head: Head, faces: np.ndarray) -> np.ndarray:
  """Those of the faces (F, 3) that have an edge between two vertices of the middle."""
  own = head.mirror == np.arange(len(head.mirror))
  return faces[own[faces].sum(1) == 2]


def in_the_middle(head: Head, corners, weight, ridge):
  """A point near the middle put onto the nearest edge between vertices of the middle, and a face with that edge.

  `ridge`: `middle_faces`. On which side of the middle the point lies makes no difference.
  """
  point = weight @ head.vertices[corners]
  best = None
  for f in ridge.tolist():
    ends = [v for v in f if head.mirror[v] == v]
    a, b = head.vertices[ends]
    t = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    distance = np.linalg.norm(a + t * (b - a) - point)
    if best is None or distance < best[0] - 1e-9:
      best = distance, f, [round(float({ends[0]: 1 - t, ends[1]: t}.get(v, 0.0)), 5) for v in f]
  return np.array(best[1]), np.array(best[2])


def pupil(target: Head, side: int) -> tuple[list[int], list[float]]:
  """The foremost vertex of an eyeball: FLAME's gaze is +z. `side`: the sign of its x."""
  ball = target.eyeball & (side * target.vertices[:, 0] > 0)
  front = int(np.argmax(np.where(ball, target.vertices[:, 2], -np.inf)))
  face = next(f for f in target.faces.tolist() if front in f)
  return face, [float(v == front) for v in face]


if __name__ == "__main__":
  main()
