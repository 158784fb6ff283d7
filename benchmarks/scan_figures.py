"""What `scans.py` measures of one tracked clip against its truth; formats as in `truth_clips.py`.

The scan's frame and the tracked head's are brought together by a similarity (a head's size cannot be seen): from the
detector's landmarks, where it sees them on the scan in the most frontal frames, then by closest points. Rotations are
compared after one constant rotation.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import view_bias_scans
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from vht_jax import results
from vht_jax.head import flame
from vht_jax.results.vht_npz import load_tracked, read_npz
from vht_jax.types import FlameModel, Status

RADII = (70, 95)  # mm from the tip of the nose
INNER = slice(17, 68)
EYES = slice(36, 48)
N_POINTS = 8000  # of the scan's surface
KEPT = 0.9  # of the points count while the surfaces are brought together
HIDDEN = ("teeth", "tongue", "mouth_cavity", "eye_socket", "left_eyeball", "right_eyeball")
# Truth's targets and the open head's units: their curves over time are compared.
UNITS = {"browInnerUp": "browInnerUp", "browDown_L": "browDownLeft", "mouthSmile_L": "mouthSmileLeft",
         "mouthPucker": "mouthPucker"}  # fmt: skip


def measure(model: FlameModel, clips: Path, name: str, output: Path, data: Path) -> dict:
  """Every figure of one clip.

  Args:
    clips, name: where the truth is.
    output: of the tracker.
    data: its dataset, for the detector's landmarks.
  """
  truth = np.load(clips / f"{name}.truth.npz")
  surface = np.load(clips / f"{truth['scan']}.surface.npz")
  person, places = view_bias_scans.load(clips, data, name)
  tracked = load_tracked(output / results.FILE_NAME, model)
  result, at = tracked.result, np.asarray(tracked.frames) - 1
  M = truth["M"][at]
  found = np.asarray(result.status) == Status.TRACKED
  focal, true_focal = float(result.identity.camera.focal), float(truth["focal"])
  stored = read_npz(output / results.FILE_NAME)
  sd = float(stored["vht_jax_focal_sd"]) if "vht_jax_focal_sd" in stored else 0.0
  row = {
    "clip": name, "scan": str(truth["scan"]), "frames": len(at), "tracked": float(found.mean()), "focal": focal,
    "focal_true": true_focal, "focal_error": focal / true_focal - 1, "focal_sd": sd,
    "focal_z": float(np.log(focal / true_focal) / sd) if sd else None,
  }  # fmt: skip

  heads = _heads(model, result)
  frontal = np.abs(truth["yaw"]) + np.abs(truth["pitch"])
  at_rest = 1e3 * np.median(places[np.argsort(frontal)[:5]], axis=0)[:68]  # mm; of animated clips nearly at rest
  if "weights" in truth:
    at_rest = 1e3 * places[np.argmin(frontal + 40 * truth["weights"].sum(1))][:68]
  figures, fits = geometry(model, heads, at_rest, surface)
  row |= figures

  cv = np.diag([-1.0, -1.0, 1.0])  # the world's axes -> OpenCV's
  root, neck = (
    Rotation.from_rotvec(np.asarray(a, np.float64)).as_matrix() for a in (result.poses.rotation, result.poses.neck)
  )
  turned = cv @ root @ neck
  mean, most, yaw, pitch = view_bias_scans.rotation_figures(turned, M[:, :3, :3])
  row |= {"rotation_mean": mean, "rotation_max": most, "yaw_gain": yaw, "pitch_gain": pitch}

  scale, R, shift = fits["tracked", RADII[0]]
  anchor = np.asarray(flame.landmarks(model, jnp.asarray(heads["tracked"], jnp.float32)), np.float64)[EYES].mean(0)
  joints = 1e3 * np.asarray(
    jax.vmap(lambda e: flame.joints(model, result.identity.shape, e))(result.poses.expr), np.float64
  )
  to_neck = joints[:, 1] - joints[:, 0]
  p = np.einsum("tij,tj->ti", root, to_neck) + np.einsum("tij,tj->ti", root @ neck, anchor - to_neck)
  p = (p + 1e3 * np.asarray(result.poses.translation, np.float64)) @ cv.T
  q = M[:, :3, :3] @ (scale * R @ anchor + shift) + M[:, :3, 3]
  off = np.degrees(np.arccos(np.clip((_unit(p) * _unit(q)).sum(1), -1, 1)))
  ratio = scale * p[:, 2] / q[:, 2]
  row |= {
    "direction_mean": float(off.mean()),
    "depth_ratio": float(np.median(ratio)),
    "depth_rms": float(np.std(ratio / np.median(ratio))),
  }
  if "weights" in truth:
    row["expression"] = expression(model, truth, at, result, np.load(clips / f"{truth['scan']}.npz"))
  return row


def _unit(v: np.ndarray) -> np.ndarray:
  return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _heads(model: FlameModel, result) -> dict[str, np.ndarray]:
  """(V, 3) mm, unturned, root joint at the origin: the tracked shape at rest, with the clip's median expression, and
  the mean head."""
  rest = flame.neutral_pose(model).replace(rotation=jnp.zeros(3), translation=jnp.zeros(3))
  zero = jnp.zeros_like(rest.expr)
  make = lambda shape, expr, jaw: (
    1e3 * np.asarray(flame.skin(model, shape, rest.replace(expr=expr, jaw=jaw)), np.float64)
  )
  shape, poses = result.identity.shape, result.poses
  return {
    "neutral": make(shape, zero, jnp.zeros(3)),
    "tracked": make(shape, jnp.median(poses.expr, axis=0), jnp.median(poses.jaw, axis=0)),
    "mean head": make(jnp.zeros_like(shape), zero, jnp.zeros(3)),
  }


def geometry(model: FlameModel, heads: dict[str, np.ndarray], landmarks: np.ndarray, surface):
  """Distances from the scan to the heads' skin, mm, and the similarities that brought them together.

  Args:
    landmarks: (68, 3) mm, on the scan.
    surface: points, normals and nose of the scan.
  """
  hidden = np.any([np.asarray(model.masks[k]) for k in HIDDEN if k in model.masks], axis=0)
  faces = np.asarray(model.faces)
  faces = faces[~hidden[faces].all(1)]
  every = max(1, len(surface["points"]) // N_POINTS)
  points, normals = (surface[k][::every].astype(np.float64) for k in ("points", "normals"))
  away = np.linalg.norm(points - surface["nose"], axis=1)
  row, fits = {}, {}
  for name, vertices in heads.items():
    mesh = Mesh(vertices, faces)
    own = np.asarray(flame.landmarks(model, jnp.asarray(vertices, jnp.float32)), np.float64)[:68]
    start = similarity(own[INNER], landmarks[INNER])
    for radius in RADII:
      near = away < radius
      fit = fits[name, radius] = register(points[near], normals[near], mesh, start)
      d = _distances(points[near], mesh, fit)
      row[f"{name} {radius}"] = {
        "median": float(np.median(d)),
        "mean": float(d.mean()),
        "p90": float(np.quantile(d, 0.9)),
      }
  return row, fits


class Mesh:
  """A triangle mesh that is asked for its nearest points."""

  def __init__(self, vertices: np.ndarray, faces: np.ndarray):
    self.corners = vertices[faces]  # (F, 3, 3)
    self.normals = _unit(
      np.cross(self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0]) + 1e-12
    )
    self.tree = cKDTree(self.corners.mean(1))

  def nearest(self, points: np.ndarray, candidates: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest points (N, 3), their faces and distances, among the faces of the nearest centroids."""
    _, near = self.tree.query(points, k=candidates)
    best = np.full(len(points), np.inf)
    where, which = np.zeros_like(points), np.zeros(len(points), int)
    for face in near.T:
      q = on_triangles(points, self.corners[face])
      d = np.linalg.norm(points - q, axis=1)
      closer = d < best
      best[closer], where[closer], which[closer] = d[closer], q[closer], face[closer]
    return where, which, best


def on_triangles(p: np.ndarray, corners: np.ndarray) -> np.ndarray:
  """(N, 3) the point of each triangle (N, 3, 3) that is nearest to each point: its foot, if that lies inside, else the
  nearest of those on the three edges."""
  a, u, v = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
  d = p - a
  uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
  du, dv = (d * u).sum(1), (d * v).sum(1)
  det = np.maximum(uu * vv - uv**2, 1e-20)
  s, t = (vv * du - uv * dv) / det, (uu * dv - uv * du) / det
  foot = a + s[:, None] * u + t[:, None] * v
  best = np.where(((s >= 0) & (t >= 0) & (s + t <= 1))[:, None], foot, np.inf)
  for i, j in ((0, 1), (1, 2), (2, 0)):
    start, way = corners[:, i], corners[:, j] - corners[:, i]
    share = np.clip(((p - start) * way).sum(1) / np.maximum((way * way).sum(1), 1e-20), 0, 1)
    q = start + share[:, None] * way
    outside = ~np.isfinite(best[:, 0]) | (np.linalg.norm(p - best, axis=1) > np.linalg.norm(p - q, axis=1))
    best[outside] = q[outside]
  return best


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
  """Scale, rotation and shift that take points (N, 3) to others with the least squares."""
  a, b = source.mean(0), target.mean(0)
  U, S, Vt = np.linalg.svd((target - b).T @ (source - a))
  flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
  R = U @ flip @ Vt
  scale = float(np.trace(np.diag(S) @ flip) / ((source - a) ** 2).sum())
  return scale, R, b - scale * R @ a


def register(points: np.ndarray, normals: np.ndarray, mesh: Mesh, start, rounds: int = 30):
  """The similarity from a mesh to points, by distances along the mesh's normals to its nearest points; those that face
  elsewhere and the farthest tenth do not count."""
  scale, R, shift = start
  for _ in range(rounds):
    at, face, distance = mesh.nearest((points - shift) @ R / scale)
    y, n = scale * at @ R.T + shift, mesh.normals[face] @ R.T
    use = ((n * normals).sum(1) > 0.5) & (distance <= np.quantile(distance, KEPT))
    y, n, p = y[use], n[use], points[use]
    middle = p.mean(0)
    rows = np.concatenate([np.cross(y - middle, n), n, ((y - middle) * n).sum(1, keepdims=True)], axis=1)
    x = np.linalg.lstsq(rows, ((p - y) * n).sum(1), rcond=None)[0]
    turn, grow = Rotation.from_rotvec(x[:3]).as_matrix(), float(np.exp(x[6]))
    R, scale, shift = turn @ R, grow * scale, grow * turn @ (shift - middle) + middle + x[3:6]
    if np.abs(x[[0, 1, 2, 6]]).max() < 1e-5 and np.abs(x[3:6]).max() < 1e-3:
      break
  return scale, R, shift


def _distances(points: np.ndarray, mesh: Mesh, fit) -> np.ndarray:
  scale, R, shift = fit
  return mesh.nearest((points - shift) @ R / scale)[2] * scale


def expression(model: FlameModel, truth, at: np.ndarray, result, scan) -> dict[str, dict[str, float]]:
  """Of each curve over time its correlation with the truth, and both ranges (5th to 95th percentile)."""
  names, weights = [str(n) for n in scan["target_names"]], truth["weights"][at]
  poses, expr = result.poses, np.asarray(result.poses.expr)
  of = lambda name: weights[:, names.index(name)]
  curves = {"jaw": (of("jawOpen"), np.degrees(np.asarray(poses.jaw)[:, 0]))}
  for target, unit in UNITS.items():
    if target in names and unit in model.expr_names:
      curves[unit] = of(target), expr[:, model.expr_names.index(unit)]
  lids = lid_gaps(model, result)
  for side, letter in ((0, "R"), (1, "L")):
    # An eye's openness over its usual one; the target shuts it in proportion.
    usual = np.quantile(lids[:, side], 0.8)
    curves[f"lid {letter}"] = 1 - of(f"eyeBlink_{letter}"), lids[:, side] / usual
  gaze, eyes = truth["gaze"][at], np.degrees(np.asarray(poses.eyes)).mean(1)
  curves |= {"gaze up": (gaze[:, 0], -eyes[:, 0]), "gaze left": (gaze[:, 1], eyes[:, 1])}
  spread = lambda x: [float(a) for a in np.quantile(x, [0.02, 0.98])]
  return {
    name: {
      "r": float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else None,
      "true": spread(a),
      "found": spread(b),
    }
    for name, (a, b) in curves.items()
  }


def lid_gaps(model: FlameModel, result) -> np.ndarray:
  """(T, 2) height of the eyes 36-41 and 42-47, m."""
  rest = flame.neutral_pose(model)

  @jax.jit
  @jax.vmap
  def gaps(expr):
    vertices = flame.skin(model, result.identity.shape, rest.replace(expr=expr))
    p = flame.landmarks(model, vertices)
    apart = lambda i, j: jnp.linalg.norm(p[i] - p[j])
    return jnp.stack([apart(37, 41) + apart(38, 40), apart(43, 47) + apart(44, 46)]) / 2

  return np.asarray(gaps(result.poses.expr), np.float64)
