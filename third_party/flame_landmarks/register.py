"""Lays the open head's skin onto FLAME's: anchors, a thin plate spline through them, then closest points.

The result says which place of FLAME is which place of the open head. It is symmetric, since both heads are made so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.sparse
from features import Head, features, near_lips
from scipy.interpolate import RBFInterpolator
from scipy.sparse.linalg import splu
from surface import FLIP, mirror_map, nearest, seen_faces, symmetric, vertex_normals

ANCHORS = Path(__file__).resolve().parent / "anchors.json"
FLAME_MIDDLE = (3564, 3526)  # an edge of FLAME's mesh on the ridge of the nose, from its tip upwards
FLAME_SKIN = 3931  # vertices before FLAME's eyeballs
HIDDEN = ("left_eyeball", "right_eyeball", "teeth", "tongue", "mouth_cavity", "eye_socket")  # of the open head

# MakeHuman's eyeballs, which fill the opening of the lids that were made for them (third_party/open_head, `sculpt.py`).
EYEBALL_AT, EYEBALL_RADIUS = np.array([0.0306347, 0.0230085, 0.0239985]), 0.0163525  # m, the left one's

# How much the warp resists bending, from round to round, against 1 for the distance of a vertex from the other skin.
# 400 moves regions of a few centimetres as one; at 2 the skins agree within .1 mm and neighbours still move alike.
STIFFNESS = (400.0, 200.0, 100.0, 50.0, 25.0, 12.0, 6.0, 3.0, 2.0)
ANCHOR_WEIGHT = 20.0
FARTHEST = 0.008  # m, of a closest point that is believed
LOST = 0.01  # m, of a closest point that faces the same way; one farther off is looked for on either side


def open_head(npz: Mapping[str, np.ndarray]) -> Head:
  """The arrays of assets/open_head.npz as a `Head`."""
  vertices, faces = npz["v_template"].astype(np.float64), npz["f"].astype(int)
  hidden, eyeball = (np.zeros(len(vertices), bool) for _ in range(2))
  for name in HIDDEN:
    hidden[npz["mask_" + name].astype(int)] = True
  for name in HIDDEN[:2]:
    eyeball[npz["mask_" + name].astype(int)] = True
  for name, side in ((HIDDEN[0], 1), (HIDDEN[1], -1)):
    ball = npz["mask_" + name].astype(int)
    vertices[ball] = filling(vertices[ball], EYEBALL_AT * [side, 1, 1])
  weights = npz["weights"].astype(np.float64)
  jaw = weights[:, 2] / weights.sum(1)
  middle = (vertices[eyeball].min(0) + vertices[eyeball].max(0)) / 2
  return Head(
    vertices=vertices,
    faces=faces,
    mirror=npz["mirror"].astype(int),
    jaw=jaw,
    eyes=middle[1:],
    eyeball=eyeball,
    skin=~hidden,
    lips=near_lips(vertices, jaw, named()["corner of the mouth"][0]),
  )


def filling(ball: np.ndarray, centre: np.ndarray) -> np.ndarray:
  """(n, 3) the vertices of an eyeball (n, 3) whose front is flat, on MakeHuman's with this centre (3,)."""
  back = ball[ball[:, 2] < ball[:, 2].max() - 0.002]
  middle = np.linalg.lstsq(np.c_[2 * back, np.ones(len(back))], (back**2).sum(1), rcond=None)[0][:3]
  away = ball - middle
  return centre + EYEBALL_RADIUS * away / np.linalg.norm(away, axis=1, keepdims=True)


def flame_head(v_template: np.ndarray, faces: np.ndarray, weights: np.ndarray) -> Head:
  """FLAME's template, made symmetric, as a `Head`; (5023, 3) m, (9976, 3), (5023, 5)."""
  vertices, faces = np.asarray(v_template, np.float64), np.asarray(faces).astype(int)
  mirror = mirror_map(vertices, faces, FLAME_MIDDLE)
  vertices = symmetric(vertices, mirror)
  eyeball = np.arange(len(vertices)) >= FLAME_SKIN
  middle = (vertices[eyeball].min(0) + vertices[eyeball].max(0)) / 2
  jaw = np.asarray(weights, np.float64)[:, 2]
  lips = near_lips(vertices, jaw, named()["corner of the mouth"][1])
  return Head(vertices, faces, mirror, jaw, middle[1:], eyeball, ~eyeball, lips)


def named() -> dict[str, tuple[int, int]]:
  """name -> vertex of the open head, vertex of FLAME: the anchors that were picked by eye."""
  return {name: pair for name, pair in json.loads(ANCHORS.read_text()).items() if name != "about"}


def anchors(source: Head, target: Head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(n, 3) corners and (n, 3) barycentric coordinates of places on the source, (n, 3) m where they are on the target."""
  picked, found = named(), []
  for k, head in enumerate((source, target)):
    inner, outer, mouth = (picked[name][k] for name in ("inner canthus", "outer canthus", "corner of the mouth"))
    found.append(features(head, (inner, outer), mouth))
  on_target = found[1].on(target)
  corners = [np.full(3, v) for v, _ in picked.values()] + [source.faces[found[0][name][0]] for name in on_target]
  bary = [np.array([1.0, 0.0, 0.0])] * len(picked) + [found[0][name][1] for name in on_target]
  goal = [target.vertices[v] for _, v in picked.values()] + list(on_target.values())
  corners, bary, goal = np.array(corners), np.array(bary), np.array(goal)
  middle = np.abs(goal[:, 0]) < 5e-4  # those on the profile, half a pixel beside the middle
  goal[middle, 0] = np.einsum("nk,nk->n", bary, source.vertices[corners, 0])[middle]
  side = ~middle
  return (
    np.concatenate([corners, source.mirror[corners[side]]]),
    np.concatenate([bary, bary[side]]),
    np.concatenate([goal, goal[side] * FLIP]),
  )


def similarity(points: np.ndarray, goal: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
  """Scale, rotation, translation that bring points nearest to their goals, both (n, 3): s R p + t."""
  mean, goal_mean = points.mean(0), goal.mean(0)
  u, sizes, vt = np.linalg.svd((goal - goal_mean).T @ (points - mean))
  flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
  rotation = u @ flip @ vt
  scale = (sizes * np.diag(flip)).sum() / ((points - mean) ** 2).sum()
  return scale, rotation, goal_mean - scale * rotation @ mean


def warp(source: Head, target: Head) -> np.ndarray:
  """(V, 3) m: the source's vertices where their places are on the target's skin.

  Hidden parts (eyeballs, teeth, cavities) only follow the spline.
  """
  corners, bary, goal = anchors(source, target)
  on = lambda v: np.einsum("nk,nkc->nc", bary, v[corners])
  scale, rotation, translation = similarity(on(source.vertices), goal)
  moved = scale * source.vertices @ rotation.T + translation
  # Anchors some tenths of a millimetre apart may disagree: the spline is smoothed by about as much.
  spline = RBFInterpolator(on(moved), goal - on(moved), smoothing=1e-5)
  moved = moved + spline(moved)
  moved = symmetric(moved, source.mirror)

  n = len(moved)
  skin = source.faces[source.skin[source.faces].all(1)]
  pairs = np.concatenate([skin[:, [0, 1]], skin[:, [1, 2]], skin[:, [2, 0]]])
  pairs = np.unique(np.sort(pairs, axis=1), axis=0)
  rows = np.arange(len(pairs))
  shape = (len(pairs), n)
  difference = scipy.sparse.coo_matrix((np.ones(len(pairs)), (rows, pairs[:, 0])), shape)
  difference = (difference - scipy.sparse.coo_matrix((np.ones(len(pairs)), (rows, pairs[:, 1])), shape)).tocsr()
  smooth = difference.T @ difference
  select = scipy.sparse.coo_matrix((bary.ravel(), (np.repeat(np.arange(len(goal)), 3), corners.ravel())), (len(goal), n))
  select = select.tocsr()
  allowed = seen_faces(target.vertices, target.faces) & target.skin[target.faces].all(1)
  seen = np.zeros(n, bool)
  front = seen_faces(source.vertices, source.faces)
  seen[source.faces[front & source.skin[source.faces].all(1)]] = True

  for stiffness in STIFFNESS:
    face, where, distance = nearest(moved, vertex_normals(moved, skin), source.lips, target, allowed)
    believed = (seen & (distance < FARTHEST)).astype(float)
    place = np.einsum("nk,nkc->nc", where, target.vertices[target.faces[face]])
    matrix = stiffness * smooth + scipy.sparse.diags(believed + 1e-6) + ANCHOR_WEIGHT * select.T @ select
    pull = believed[:, None] * (place - moved) + ANCHOR_WEIGHT * select.T @ (goal - on(moved))
    moved = symmetric(moved + splu(matrix.tocsc()).solve(pull), source.mirror)
  return moved


def places_on_skin(source: Head, warped: np.ndarray, points, normals, lips) -> tuple[np.ndarray, np.ndarray]:
  """Faces (n,) and barycentric coordinates (n, 3) of the source's skin for places of the target's.

  Args:
    source: `warped` (V, 3) m are its vertices laid on the target (`warp`).
    points, normals, lips: (n, 3) m, (n, 3), (n,) of the places; in folds the skins need not face the same way.
  """
  laid = Head(**{**source.__dict__, "vertices": warped})
  skin = source.skin[source.faces].all(1)
  face, bary, distance = nearest(points, normals, lips, laid, skin)
  lost = np.flatnonzero(~(distance < LOST))
  if len(lost):
    face[lost], bary[lost], _ = nearest(points[lost], normals[lost], lips[lost], laid, skin, cosine=-1.0)
  return face, bary
