"""A result in plain units, a number per frame: what people plot, whatever head was tracked. NumPy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vht_jax.results.export.motion import joint_motion, matrices, opengl_view
from vht_jax.types import FlameModel, TrackResult

# iBUG's points of the lids: outer and inner corner, then the two pairs of an upper and a lower lid point.
_LIDS = {"right": (36, 39, (37, 41), (38, 40)), "left": (42, 45, (43, 47), (44, 46))}


def frame_numbers(model: FlameModel, result: TrackResult) -> dict[str, np.ndarray]:
  """Angles in degrees, lengths in metres, (T,) each. Left and right are the subject's.

  Returns:
    turn (to the left +), nod (up +), tilt (to the left shoulder +) of the head in the camera's frame; gaze_side (to the
    left +) and gaze_up, the eyes' mean direction in the head's frame; jaw, how far it is open; blink_left, blink_right:
    0 as open as on the neutral face, 1 closed; distance of the head from the camera.
  """
  poses = result.poses
  motion = joint_motion(model, np.asarray(result.identity.shape), poses, result.identity.camera)
  turn, nod, tilt = head_angles(motion.rotation[:, 0] @ motion.local[:, 1])
  side, up = gaze_angles(motion.local[:, 3:])
  openness = lid_opening(model, np.asarray(result.identity.shape), np.asarray(poses.expr))
  neutral = lid_opening(model, np.asarray(result.identity.shape), np.zeros_like(poses.expr[:1]))
  return {
    "turn": turn,
    "nod": nod,
    "tilt": tilt,
    "gaze_side": side,
    "gaze_up": up,
    "jaw": np.degrees(np.asarray(poses.jaw, np.float64)[:, 0]),
    **{f"blink_{eye}": 1.0 - openness[eye] / neutral[eye] for eye in ("left", "right")},
    "distance": -motion.translation[:, 0, 2],
  }


def number_sds(result: TrackResult) -> dict[str, np.ndarray]:
  """Standard deviations (T,) of some of `frame_numbers` as each frame alone knows them; empty if unknown.

  To first order from `pose_sd`, whose numbers are taken to be independent.
  """
  if result.pose_sd is None:
    return {}
  poses, sd = result.poses, result.pose_sd
  view = opengl_view(result.identity.camera)[0]
  neck, eyes = matrices(np.asarray(poses.neck)), np.asarray(poses.eyes, np.float64)
  turned = _spread(
    lambda r: np.stack(head_angles(view @ matrices(r) @ neck)), np.asarray(poses.rotation), np.asarray(sd.rotation)
  )
  looked = _spread(lambda e: np.stack(gaze_angles(matrices(e.reshape(-1, 2, 3)))), eyes.reshape(-1, 6),
                   np.asarray(sd.eyes).reshape(-1, 6))  # fmt: skip
  return {
    **dict(zip(("turn", "nod", "tilt"), turned)),
    **dict(zip(("gaze_side", "gaze_up"), looked)),
    "jaw": np.degrees(np.asarray(sd.jaw, np.float64)[:, 0]),
  }


def head_angles(rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Turn, nod, tilt (T,) in degrees of (T, 3, 3) rotations of the head in an OpenGL camera's frame; 0 looks into it."""
  face, side, up = rotations[:, :, 2], rotations[:, 1, 0], rotations[:, 1, 1]
  return (
    np.degrees(np.arctan2(face[:, 0], face[:, 2])),
    np.degrees(np.arctan2(face[:, 1], np.hypot(face[:, 0], face[:, 2]))),
    np.degrees(np.arctan2(-side, up)),
  )


def gaze_angles(eyes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """To the subject's left and up (T,) in degrees, of the mean of (T, 2, 3, 3) eye rotations in the head's frame."""
  x, y, z = eyes[..., 2].mean(axis=1).T
  return np.degrees(np.arctan2(x, z)), np.degrees(np.arctan2(y, np.hypot(x, z)))


def lid_opening(model: FlameModel, shape: np.ndarray, expr: np.ndarray) -> dict[str, np.ndarray]:
  """'left', 'right': (T,) distance of the lids by the eye's width, of (T, E) expressions; poses do not change it."""
  points = sorted({p for a, b, *pairs in _LIDS.values() for p in (a, b, *pairs[0], *pairs[1])})
  corners, bary = np.asarray(model.lmk_vertices)[points], np.asarray(model.lmk_bary, np.float64)[points]
  dirs = [np.asarray(d)[corners].astype(np.float64) for d in (model.v_template, model.shapedirs, model.exprdirs)]
  still = np.einsum("pkc,pk->pc", dirs[0] + dirs[1] @ shape, bary)
  moved = still + np.einsum("pkce,pk,te->tpc", dirs[2], bary, np.asarray(expr, np.float64), optimize=True)
  at = {p: moved[:, i] for i, p in enumerate(points)}
  gap = lambda a, b: np.linalg.norm(at[a] - at[b], axis=-1)
  return {
    eye: sum(gap(*pair) for pair in pairs) / 2 / gap(outer, inner) for eye, (outer, inner, *pairs) in _LIDS.items()
  }


def _spread(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, sd: np.ndarray) -> np.ndarray:
  """sd (K, T) of function (T, N) -> (K, T) at values of standard deviation sd (T, N); inf stays inf."""
  values, sd = np.asarray(values, np.float64), np.asarray(sd, np.float64)
  step, total = 1e-4, 0.0  # rad
  for i in range(values.shape[1]):
    offset = np.zeros(values.shape[1])
    offset[i] = step
    change = (function(values + offset) - function(values - offset) + 180.0) % 360.0 - 180.0
    slope = np.abs(change) / (2 * step)
    total = total + np.square(slope * np.where(slope > 0, sd[:, i], 0.0))  # 0 * inf would be NaN
  return np.sqrt(total)
