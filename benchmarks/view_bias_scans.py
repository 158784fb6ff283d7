"""The detector's slide on scanned heads whose pose and camera are known: `... CLIPS DATASETS NAME ...` prints tables.

With the true shape (the scan's own points, where the detector sees its landmarks in the most frontal frames) and the
true camera, each frame's pose is found from the detector's inner 51 points. So the rotation's error is the detector's
alone; the tables say what of it the mean slide explains, what a person's own does, and what remains in common within
a frame. The scans have no part in the table.

  python benchmarks/view_bias_scans.py CLIPS DATASETS NAME ...

CLIPS has NAME.truth.npz and SCAN.npz; DATASETS/NAME (or .../scan_NAME, or .../NAME.default) the tracker's dataset.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import view_bias_fit as fit
from calibrate_view_bias import tangent_frames
from view_bias_clips import Seen

from vht_jax.dataset.folder import FrameFolder
from vht_jax.head import view_bias
from vht_jax.head.load import load_head
from vht_jax.rotation import axis_angle_to_matrix, matrix_to_axis_angle

INNER = slice(17, 68)
FRONTAL_FRAMES = 5
HIGHEST = jax.lax.Precision.HIGHEST


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("clips", type=Path)
  parser.add_argument("datasets", type=Path)
  parser.add_argument("names", nargs="+")
  args = parser.parse_args()
  model = load_head(model="open")
  bias, frames = model.view_bias, tangent_frames(model)
  gain, slopes = np.asarray(bias.gain, np.float64), np.asarray(bias.slopes, np.float64)
  table = np.concatenate([np.zeros((len(slopes), 3, 1)), slopes], axis=-1)
  for name in args.names:
    folders = [args.datasets / f for f in (name, f"{name}/dataset", f"scan_{name}/dataset", f"{name}.default/dataset")]
    person, head = load(args.clips, next(f for f in folders if (f / "landmarks.json").is_file()), name)
    errors = fit.rows(person)
    rigid = fit.rigid_field(errors.about, gain)
    print(f"{name}: gain of yaw and pitch {fit.gains(errors, frames).round(3)}")
    for label, known in (("no model", 0 * rigid), ("gains", rigid), ("gains and slopes", rigid + table)):
      print(f"  {label}")
      R, H, _ = solve_poses(person, head, known[..., 1:] * person.eye)
      figures = rotation_figures(R, person.rotation)
      print("    rotation {:.2f} / {:.1f} deg, yaw gain {:.3f}, pitch gain {:.3f}".format(*figures))
      print("    left of inner, contour, dense, %:" + _numbers(left_over(errors, known, frames), 100, 2))
      R_held, H_held, _ = solve_poses(person, head, known[..., 1:] * person.eye, exact=False)
      claim = np.sqrt(np.median(H[:, 0, 0] / H_held[:, 0, 0]))
      print(f"    derivative left out: {np.degrees(_apart(R, R_held)).mean():.2f} deg apart, sd of pitch x {claim:.2f}")
      for own in (False, True):
        moved = fit.common_motion(errors, INNER, frames, known, own)
        moved = moved[np.isfinite(moved[:, 0])]
        moved -= moved.mean(0)
        sd, lag = moved.std(0), (moved[1:] * moved[:-1]).mean(0) / moved.var(0)
        print(f"    common to a frame{', own slopes removed' if own else ''}:" + " yaw, pitch, roll"
              + _numbers(np.degrees(sd[:3]), 1, 2) + " deg, x, y, z" + _numbers(sd[3:], 100, 1) + " %, lag-1"
              + _numbers(lag, 1, 2))  # fmt: skip


def _numbers(values, factor: float, digits: int) -> str:
  return "".join(f" {factor * v:.{digits}f}" for v in values)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """(T,) rad between rotations."""
  return np.arccos(np.clip((np.einsum("tij,tij->t", a, b) - 1) / 2, -1, 1))


def left_over(errors: fit.Rows, known: np.ndarray, frames: np.ndarray) -> list[float]:
  """Rms per coordinate, eye distances, of inner, contour and dense points after `known` and each point's constant along
  the skin."""
  matrix, right = fit.local(*fit.equations(errors, known), frames)
  ridge = np.full((3, 3), 1e6)
  ridge[1:, 0] = 1e-3
  constant = fit.in_head(fit.solve(matrix, right, ridge.reshape(-1)), frames)
  left = errors.error - np.einsum("tnac,nck,tk->tna", errors.projection, known + constant, errors.basis)
  return [float(np.sqrt(np.nanmean(left[:, part] ** 2))) for part in (INNER, slice(0, 17), slice(70, 538))]


def load(clips: Path, data: Path, name: str) -> tuple[Seen, np.ndarray]:
  """What the detector saw in a clip, and the neutral points (538, 3) in the scan's frame, m."""
  truth = np.load(clips / f"{name}.truth.npz")
  scan = np.load(clips / f"{truth['scan']}.npz")
  folder = FrameFolder(data)
  landmarks, _, dense = folder.landmarks()
  seen = np.concatenate([landmarks[:, :70], dense[:, :468]], axis=1).astype(np.float64)
  n = len(seen)
  M, K = truth["M"][:n], truth["K"]
  vertices, faces = posed_scan(scan, truth, n)
  angle = np.abs(truth["yaw"][:n]) + np.abs(truth["pitch"][:n])
  if "weights" in truth:
    angle = angle + 40 * truth["weights"][:n].sum(1)
  votes = []
  for t in np.argsort(angle)[:FRONTAL_FRAMES]:
    camera = vertices[t] @ M[t][:3, :3].T + M[t][:3, 3]
    votes.append(lift(seen[t], camera, faces, K))
  # A landmark's place: the mean of where its votes lie, tied to the last vote's face so that it moves with it.
  places = np.stack([np.einsum("nk,nkc->nc", b, vertices[0][faces[f]]) for f, b in votes])
  target = np.median(places, axis=0)
  corner, bary = votes[-1]
  shift = target - np.einsum("nk,nkc->nc", bary, vertices[0][faces[corner]])
  head = np.einsum("nk,tnkc->tnc", bary, vertices[:, faces[corner]]) + shift
  points = np.einsum("tij,tnj->tni", M[:, :3, :3], head) + M[:, None, :3, 3]
  middle = points[:, :68].mean(1)
  eye = float(np.linalg.norm(target[36] - target[45]))
  offset = seen - K[:2, 2]
  return Seen(offset, points / 1e3, M[:, :3, :3], middle / 1e3, np.array(K[0, 0]), np.array(eye / 1e3)), head / 1e3


def posed_scan(scan, truth, n: int) -> tuple[np.ndarray, np.ndarray]:
  """(n, V, 3) vertices of all parts, mm, and (F, 3) faces."""
  parts, faces, count = [], [], 0
  for k in range(int(scan["parts"])):
    v = scan[f"v{k}"].astype(np.float64)
    moved = np.broadcast_to(v, (n, *v.shape))
    if "weights" in truth and k == int(scan["target_part"]):
      moved = v + np.tensordot(truth["weights"][:n], scan["delta_targets"].astype(np.float64), 1)
    parts.append(moved)
    faces.append(scan[f"f{k}"] + count)
    count += len(v)
  return np.concatenate(parts, axis=1), np.concatenate(faces)


def lift(pixels: np.ndarray, camera: np.ndarray, faces: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The nearest surface under pixels (N, 2): face numbers (N,) and weights of its corners (N, 3). Beside the outline:
  the visible vertex that is nearest in the image."""
  p = camera[:, :2] / camera[:, 2:] * K[0, 0] + K[:2, 2]
  corners = p[faces]
  low, high = corners.min(1), corners.max(1)
  near = camera[:, 2] < np.quantile(camera[:, 2], 0.5)
  first_face = np.zeros(len(camera), int)
  first_face[faces.reshape(-1)] = np.repeat(np.arange(len(faces)), 3)
  found, weights = np.zeros(len(pixels), int), np.zeros((len(pixels), 3))
  for i, q in enumerate(pixels):
    over = np.flatnonzero(((low <= q) & (high >= q)).all(1))
    a, b, c = (corners[over, k] for k in range(3))
    cross = lambda u, v: u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
      w = np.stack([cross(b - q, c - q), cross(c - q, a - q), cross(a - q, b - q)], 1) / area[:, None]
    inside = (w >= -1e-9).all(1) & (np.abs(area) > 1e-9)
    if inside.any():
      w, over = w[inside], over[inside]
      depth = 1 / (w / camera[faces[over], 2]).sum(1)
      best = np.argmin(depth)
      true = w[best] / camera[faces[over[best]], 2]  # perspective correct
      found[i], weights[i] = over[best], true / true.sum()
    else:
      distance = np.where(near, np.linalg.norm(p - q, axis=1), np.inf)
      v = int(np.argmin(distance))
      found[i] = first_face[v]
      weights[i] = faces[first_face[v]] == v
  return found, weights


def solve_poses(person: Seen, head: np.ndarray, fields: np.ndarray, exact: bool = True, steps: int = 12):
  """Rotations (T, 3, 3) from the inner points, their normal matrices (T, 6, 6; rad, relative translation), and how far
  the last but one step and the first from the end were (T, steps) rad. `fields` (538, 3, 2) m: the slide."""
  at = np.arange(INNER.start, INNER.stop)
  f32 = lambda a: jnp.asarray(a, jnp.float32)
  fields_ = f32(fields[at])

  @jax.jit
  @jax.vmap
  def one(seen, X, R0, position):
    middle = jnp.mean(X, 0)

    def residual(delta, R, p):
      R = jnp.matmul(axis_angle_to_matrix(delta[:3]), R, precision=HIGHEST)
      p = p + delta[3:] * p[2]
      v = view_bias.view(R, p)
      v = v if exact else jax.lax.stop_gradient(v)
      slid = X - middle + view_bias.displacement(fields_, v)
      Y = jnp.matmul(slid, R.T, precision=HIGHEST) + p
      return ((Y[:, :2] / Y[:, 2:] - seen) * p[2] / f32(person.eye)).reshape(-1)

    def step(carry, _):
      R, p = carry
      zero = jnp.zeros(6)
      r, J = residual(zero, R, p), jax.jacfwd(residual)(zero, R, p)
      H = jnp.matmul(J.T, J, precision=HIGHEST)
      delta = -jnp.linalg.solve(H, jnp.matmul(J.T, r, precision=HIGHEST))
      moved = jnp.matmul(axis_angle_to_matrix(delta[:3]), R, precision=HIGHEST)
      return (moved, p + delta[3:] * p[2]), (R, H)

    (R, _), (path, H) = jax.lax.scan(step, (R0, position), None, length=steps)
    left = jax.vmap(lambda a: jnp.linalg.norm(matrix_to_axis_angle(jnp.matmul(a.T, R, precision=HIGHEST))))(path)
    return R, H[-1], left

  seen = person.seen[:, at] / person.focal_px
  with jax.numpy_rank_promotion("allow"):
    return tuple(np.asarray(a) for a in one(f32(seen), f32(head[:, at]), f32(person.rotation), f32(person.position)))


def rotation_figures(found: np.ndarray, true: np.ndarray) -> tuple[float, float, float, float]:
  """Mean and largest error in degrees after one constant rotation; gain of yaw and of pitch."""
  U, _, Vt = np.linalg.svd(np.einsum("tji,tjk->ik", true, found))
  C = U @ np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))]) @ Vt
  off = np.einsum("tij,tkj->tik", found @ C.T, true)
  error = np.degrees(np.arccos(np.clip((np.einsum("tii->t", off) - 1) / 2, -1, 1)))
  upright = np.diag([1.0, -1.0, -1.0])
  euler = lambda R: np.stack([np.arctan2(R[:, 0, 2], R[:, 2, 2]), np.arcsin(np.clip(-R[:, 1, 2], -1, 1))], 1)
  a, b = euler(upright @ true), euler(upright @ found @ C.T)
  return error.mean(), error.max(), *(float(np.polyfit(a[:, k], b[:, k], 1)[0]) for k in range(2))


if __name__ == "__main__":
  main()
