"""ARKit's 52 curves with head and eye angles: CSV as Live Link Face writes it, and JSON for web avatars.

The open head's units have ARKit's names; FLAME's expressions are taken apart into them (`arkit_flame`). Left and right
are the subject's. Angles are radians; a positive pitch looks down, a positive yaw to the subject's right, a positive
roll leans to the left shoulder (eyes: as in recordings of the app; the head's: the same rule, of which its recordings
show nothing).
"""

from __future__ import annotations

import json
import logging

import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export.any_head import arkit_flame, arkit_shapes
from vht_jax.results.export.any_head.arkit_shapes import JAW_ASIDE, JAW_OPEN, LIDS, NAMES
from vht_jax.results.export.format import Files
from vht_jax.results.export.scene import Scene, toothless

ANGLES = (
  "HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll", "RightEyeYaw", "RightEyePitch",
  "RightEyeRoll",
)  # fmt: skip
# Weight of a look by its angle: least squares over two recordings of the app (down is an exact rule there).
LOOK_DOWN, LOOK_UP, LOOK_IN, LOOK_OUT = 1.63, 2.15, 1.85, 1.3  # per rad
_OUTSIDE = 0.05  # beyond 0 to 1 that is worth a word

log = logging.getLogger("vht_jax")


def to_arkit(scene: Scene, *, arkit_shapes: str | None = None) -> Files:
  """NAME_arkit.csv and NAME_arkit.json.

  Args:
    scene: the clip.
    arkit_shapes: a folder with meshes of the curves in the tracked head's topology, for heads whose expressions have
      other names (`arkit_shapes.of_folder`); None: for FLAME the open head's units.

  Raises:
    InputError: a head whose expressions have neither ARKit's names nor FLAME's topology; shapes that do not fit it.
  """
  weights, angles = curves(scene, arkit_shapes), face_angles(scene)
  yield f"{scene.name}_arkit.csv", _csv(scene, weights, angles)
  order = np.argsort(NAMES)
  frames = [
    {"weights": row[order].round(6).tolist(), "time": round(float(t), 6), "rotation": []}
    for row, t in zip(weights, scene.times)
  ]
  head = [{"time": round(float(t), 6), "yaw": y, "pitch": p, "roll": r} for t, (y, p, r) in
          zip(scene.times, angles[:, :3].round(6).tolist())]  # fmt: skip
  content = {"names": [NAMES[k] for k in order], "frames": frames, "head_pose": head}
  yield f"{scene.name}_arkit.json", json.dumps(content, separators=(",", ":")).encode()


def curves(scene: Scene, shapes: str | None = None) -> np.ndarray:
  """(T, 52) weights in [0, 1] in the order of `NAMES`; `shapes`: as for `to_arkit`."""
  scene = toothless(scene)
  jaw = scene.angles["jaw"]
  if shapes is not None:
    units = arkit_flame.fitted_curves(scene, arkit_shapes.of_folder(shapes, scene))
  elif scene.model.expr_names:
    units = {LIDS.get(n, n): scene.expr[:, k] for k, n in enumerate(scene.model.expr_names)}
    if not set(units) & set(NAMES):
      raise InputError(f"arkit: the head {scene.model.name!r} has none of ARKit's units; export csv or glb")
    units["jawOpen"] = jaw[:, 0] / JAW_OPEN
    units["jawLeft"], units["jawRight"] = jaw[:, 1] / JAW_ASIDE, -jaw[:, 1] / JAW_ASIDE
  elif scene.is_flame:
    units = arkit_flame.fitted_curves(scene, arkit_shapes.of_open_head(scene))
  else:
    raise InputError(
      f"arkit: the expressions of the head {scene.model.name!r} have no names; export csv or glb, or name meshes of "
      "ARKit's curves by --arkit_shapes"
    )
  halves = ("jawLeft", "jawRight")  # one is minus the other
  outside = {n: max(-v.min(), v.max() - 1.0) for n, v in units.items() if n in NAMES and n not in halves}
  if outside and max(outside.values()) > _OUTSIDE:
    worst = max(outside, key=outside.__getitem__)
    log.info("arkit: weights outside of 0 to 1 are cut, most of %s, by %.2f", worst, outside[worst])
  units |= looks(gaze(scene))
  none = np.zeros(len(scene))
  return np.stack([np.clip(units.get(n, none), 0.0, 1.0) for n in NAMES], axis=1)


def gaze(scene: Scene) -> np.ndarray:
  """(T, 2, 2) rad: of the left, then the right eye, yaw and pitch within the head."""
  x, y, z = np.moveaxis(scene.rotations[:, 3:, :, 2], -1, 0)  # where FLAME's eyes look: their z axis
  return np.stack([-np.arctan2(x, z), -np.arctan2(y, np.hypot(x, z))], axis=-1)


def looks(eyes: np.ndarray) -> dict[str, np.ndarray]:
  """The eight look weights (T,) of (T, 2, 2) `gaze`."""
  found = {}
  for k, side in enumerate(("Left", "Right")):
    yaw, pitch = eyes[:, k].T
    inward = yaw if side == "Left" else -yaw  # the left eye looks to the nose when it looks to the right
    found |= {
      f"eyeLookDown{side}": LOOK_DOWN * pitch,
      f"eyeLookUp{side}": -LOOK_UP * pitch,
      f"eyeLookIn{side}": LOOK_IN * inward,
      f"eyeLookOut{side}": -LOOK_OUT * inward,
    }
  return found


def face_angles(scene: Scene) -> np.ndarray:
  """(T, 9) rad in the order of `ANGLES`; the head's before the camera, 0 looks into it."""
  from vht_jax.results.plain import head_angles  # which is written with the exporters' joints

  turn, nod, tilt = (np.deg2rad(a) for a in head_angles(scene.motion.rotation[:, 0] @ scene.rotations[:, 1]))
  eyes, none = gaze(scene), np.zeros(len(scene))
  columns = [-turn, -nod, tilt]
  for k in range(2):
    columns += [eyes[:, k, 0], eyes[:, k, 1], none]
  return np.stack(columns, axis=1)


def frame_counts(times: np.ndarray, fps: float) -> np.ndarray:
  """(T,) int: each frame's number at a steady rate, rising; where two share one, the later ones move on."""
  counts = np.round(np.asarray(times) * fps).astype(int)
  steps = np.arange(len(counts))
  return np.maximum.accumulate(counts - steps) + steps


def timecode(count: int, base: int) -> str:
  """HH:MM:SS:FF.sss of a frame's number; importers read FF as a frame, so there is no part of one."""
  seconds, frame = divmod(int(count), base)
  return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frame:02d}.000"


def _csv(scene: Scene, weights: np.ndarray, angles: np.ndarray) -> bytes:
  base = max(1, round(scene.fps))
  lines = [",".join(["Timecode", "BlendShapeCount", *(n[0].upper() + n[1:] for n in NAMES), *ANGLES])]
  for count, row in zip(frame_counts(scene.times, scene.fps), np.concatenate([weights, angles], axis=1)):
    lines.append(",".join([timecode(count, base), "61", *(f"{v + 0.0:.10f}" for v in row)]))
  return ("\n".join(lines) + "\n").encode()
