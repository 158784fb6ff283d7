"""What moves: expression units, eyelids, jaw, neck and eyes. Everything in metres, in FLAME's layout of five joints."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from geometry import Surface
from source import Source

UNITS = "faceunits01/targets/faceunits/"
ROOT, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(5)
PARENTS = np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int32)
# Done by joints instead: the jaw turns, the eyes turn (their lids follow), the tongue stays.
NOT_EXPRESSIONS = ("tongueOut", "eyeBlink", "jawOpen", "jawLeft", "jawRight", "eyeLook")
MIRRORED = np.array([-1.0, 1.0, 1.0])


@dataclasses.dataclass
class Rig:
  joints: np.ndarray  # (5, 3) of the template
  regressor: np.ndarray  # (5, V)
  weights: np.ndarray  # (V, 5)
  posedirs: np.ndarray  # (V, 3, 36), columns follow (R_1 .. R_4 - I).flatten()
  jaw_open: float  # rad, jaw rotation of the unit jawOpen


def units(source: Source, surface: Surface, scale: float) -> dict[str, np.ndarray]:
  """All 52 expression units {name: (V, 3)}, made mirror symmetric. `scale`: metres per MakeHuman unit."""
  raw = {
    name.rsplit("/", 1)[1][: -len(".target")]: surface.matrix @ source.target(name) * scale
    for name in source.names(UNITS, ".target")
  }
  swap = {"Left": "Right", "Right": "Left"}
  out = {}
  for name, field in raw.items():
    side = next((s for s in swap if name.endswith(s)), None)
    twin = raw[name.removesuffix(side) + swap[side]] if side else field
    out[name] = (field + twin[surface.mirror] * MIRRORED) / 2
  return out


def expression_names(all_units: dict[str, np.ndarray]) -> list[str]:
  return [name for name in sorted(all_units) if not name.startswith(NOT_EXPRESSIONS)]


def rotation(axis: int, angle: float) -> np.ndarray:
  """(3, 3) right-handed rotation about a coordinate axis."""
  i, j = (axis + 1) % 3, (axis + 2) % 3
  out = np.eye(3)
  out[i, i] = out[j, j] = np.cos(angle)
  out[j, i] = np.sin(angle)
  out[i, j] = -out[j, i]
  return out


def jaw_axis(teeth: np.ndarray, displacement: np.ndarray) -> tuple[float, np.ndarray]:
  """Rotation about an axis parallel to x that best explains how the lower teeth move.

  A planar Procrustes fit of (y, z): the angle from the sums of dot and cross products, the centre as fixed point.

  Args:
    teeth: (n, 3) vertices.
    displacement: (n, 3).

  Returns:
    Angle in rad and the centre (3,), with x = 0.
  """
  before, after = teeth[:, 1:], (teeth + displacement)[:, 1:]
  a, b = before - before.mean(0), after - after.mean(0)
  angle = np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum())
  turn = rotation(0, angle)[1:, 1:]
  centre = np.linalg.solve(np.eye(2) - turn, after.mean(0) - turn @ before.mean(0))
  return float(angle), np.array([0.0, *centre])


def _adjacency(faces: np.ndarray, count: int) -> sp.csr_matrix:
  """(count, count) rows average the neighbours of a vertex."""
  i = np.concatenate([faces, np.roll(faces, 1, 1)]).ravel()
  j = np.concatenate([np.roll(faces, 1, 1), faces]).ravel()
  graph = (sp.coo_matrix((np.ones(len(i)), (i, j)), shape=(count, count)).tocsr() > 0).astype(float)
  return sp.diags(1 / np.maximum(np.asarray(graph.sum(1)).ravel(), 1)) @ graph


def _jaw_weights(surface, template, jaw_open, turned, rig_weight, lips) -> np.ndarray:
  """(V,) share of the jaw's rotation in the artist's jawOpen, smooth on the skin but cut sharply between the lips."""
  weight = np.clip((jaw_open * turned).sum(1) / ((turned**2).sum(1) + 1e-8), 0, 1)
  weight[np.linalg.norm(jaw_open, axis=1) < 1e-5] = 0
  skin = surface.vertices("head", "neck", "mouth_cavity", "eye_socket")
  average = _adjacency(surface.faces, len(template))
  smooth = weight.copy()
  for _ in range(3):
    smooth[skin] = 0.5 * smooth[skin] + 0.5 * (average @ smooth)[skin]
  to_lips = np.linalg.norm(template[:, None] - template[lips], axis=2).min(1)
  sharp = np.exp(-((to_lips / 0.012) ** 2))
  weight = sharp * weight + (1 - sharp) * smooth
  weight[surface.vertices("tongue")] = np.clip(rig_weight, 0, 1)[surface.vertices("tongue")]
  weight[surface.vertices("lower_teeth")] = 1
  weight[surface.vertices("upper_teeth")] = 0
  return weight


def _descendants(parents: dict[str, str], bone: str) -> list[str]:
  def above(b):
    while b:
      yield b
      b = parents[b]

  return [b for b in parents if bone in above(b)]


def _skinning(surface: Surface, jaw: np.ndarray, bones: dict[str, np.ndarray], parents: dict[str, str]) -> np.ndarray:
  """(V, 5) weights: MakeHuman's neck bones shade the root into the neck joint, which carries the whole head."""
  head = sum(bones[b] for b in _descendants(parents, "neck01") if b in bones)
  head = np.clip(head - (1.0 * bones["neck01"] + 0.7 * bones["neck02"] + 0.25 * bones["neck03"]), 0, 1)
  out = np.zeros((len(jaw), 5))
  out[:, JAW] = np.minimum(jaw, head)
  out[:, NECK] = head - out[:, JAW]
  out[:, ROOT] = 1 - head
  inside = surface.vertices("upper_teeth", "lower_teeth", "tongue")
  out[inside] = 0
  out[inside, JAW], out[inside, NECK] = jaw[inside], 1 - jaw[inside]
  for part, joint in (("left_eye", LEFT_EYE), ("right_eye", RIGHT_EYE)):
    out[surface.vertices(part)] = np.eye(5)[joint]
  return (out + out[surface.mirror][:, [ROOT, NECK, JAW, RIGHT_EYE, LEFT_EYE]]) / 2


def regress(points: np.ndarray, target: np.ndarray, moves: np.ndarray, target_moves: np.ndarray, ridge: float):
  """Weights of points that reproduce a joint exactly on the template and follow how it moves from head to head.

  Ridge regression towards equal weights under the constraints sum(w) = 1 and w @ points = target.

  Args:
    points: (n, 3) template vertices.
    target: (3,) joint of the template.
    moves: (N, n, 3) deviations of the points in N heads.
    target_moves: (N, 3) deviations of the joint.
    ridge: m, how much regression error a large weight is worth.

  Returns:
    (n,) weights.
  """
  n = len(points)
  a = moves.transpose(0, 2, 1).reshape(-1, n) / np.sqrt(len(moves))
  b = target_moves.ravel() / np.sqrt(len(moves))
  constraint = np.concatenate([np.ones((1, n)), points.T])
  system = np.block([[a.T @ a + ridge**2 * np.eye(n), constraint.T], [constraint, np.zeros((4, 4))]])
  right = np.concatenate([a.T @ b + ridge**2 / n, [1.0], target])
  return np.linalg.solve(system, right)[:n]


def rig(source, surface, template, unit, deviations, joint_targets, eye_centres, lips, expressive) -> Rig:
  """Joints, their regressor, skinning weights and pose correctives.

  Args:
    source: the data, for MakeHuman's bone weights.
    surface: the mesh.
    template: (V, 3).
    unit: all expression units.
    deviations: vertex ids (n,) -> (N, n, 3) how they deviate from the template in N sampled heads.
    joint_targets: {"root": ..., "neck": ..., "jaw": ...} -> (position (3,) or None, deviations (N, 3)).
    eye_centres: (2, 3) left, right.
    lips: ids of the vertices on the inner lip seam.
    expressive: (V,) bool, vertices that expressions move: joints are not regressed from them.
  """
  bones, parents = source.bone_weights()
  bones = {name: surface.matrix @ column for name, column in bones.items()}
  rig_jaw = sum(bones[b] for b in _descendants(parents, "jaw") if b in bones)
  teeth = surface.vertices("lower_teeth")
  angle, hinge = jaw_axis(template[teeth], unit["jawOpen"][teeth])

  def turned(axis, theta, centre):
    return (template - centre) @ (rotation(axis, theta) - np.eye(3)).T

  jaw = _jaw_weights(surface, template, unit["jawOpen"], turned(0, angle, hinge), rig_jaw, lips)
  weights = _skinning(surface, jaw, bones, parents)

  skin = surface.vertices("head", "neck")
  pure = np.diff(surface.matrix.indptr) == 1
  skin = skin[~expressive[skin] & pure[skin]]
  regressor = np.zeros((5, len(template)))
  for j, name in ((ROOT, "root"), (NECK, "neck"), (JAW, "jaw")):
    target, moves = joint_targets[name]
    target = hinge if target is None else target
    near = skin[np.linalg.norm(template[skin] - target, axis=1) < 0.13]
    regressor[j, near] = regress(template[near], target, deviations(near), moves, 1e-3)
  regressor[: JAW + 1] = (regressor[: JAW + 1] + regressor[: JAW + 1, surface.mirror]) / 2
  for j, part, centre in ((LEFT_EYE, "left_eye", eye_centres[0]), (RIGHT_EYE, "right_eye", eye_centres[1])):
    ball = surface.vertices(part)
    ball = ball[pure[ball]]
    regressor[j, ball] = regress(template[ball], centre, np.zeros((1, len(ball), 3)), np.zeros((1, 3)), 1.0)
  joints = regressor @ template

  posedirs = np.zeros((*template.shape, 36))
  # What the jaw's rotation leaves of jawOpen rides on R[2, 1] = sin(angle).
  rest = (unit["jawOpen"] - weights[:, JAW, None] * turned(0, angle, joints[JAW])) / np.sin(angle)
  rest[surface.vertices("lower_teeth", "upper_teeth", "tongue")] = 0
  posedirs[:, :, 9 * (JAW - 1) + 7] = rest
  # Lids do not follow the gaze: in a fit, lids that are shut or badly seen would turn the eyes. They have their units.
  return Rig(joints, regressor, weights, posedirs, angle)


def decorrelated(names: list[str], fields: np.ndarray, seed: int) -> np.ndarray:
  """Principal components of random activations of the units.

  Args:
    names: the E units.
    fields: (V, 3, E).
    seed: of the activations.

  Returns:
    (E, E) matrix M: activations of the named units = M @ components, each component scaled to unit variance.
  """
  rng = np.random.RandomState(seed)
  activations = np.zeros((6000, len(names)))
  for row in activations:
    for a, name in enumerate(names):
      if name.endswith("Right") and name.removesuffix("Right") + "Left" in names:
        continue  # drawn together with its left twin
      value = rng.beta(0.7, 1.6) if rng.uniform() < 0.3 else 0.0
      if name == "mouthClose":
        value = 0.0  # only makes sense with an open jaw
      row[a] = value
      twin = name.removesuffix("Left") + "Right"
      if name.endswith("Left") and twin in names:
        row[names.index(twin)] = np.clip(value * rng.uniform(0.5, 1.5), 0, 1) if rng.uniform() < 0.8 else 0.0
  covariance = np.cov(activations.T, bias=True) + 1e-9 * np.eye(len(names))
  root = np.linalg.cholesky(covariance)
  matrix = fields.reshape(-1, len(names)) @ root
  _, vector = np.linalg.eigh(matrix.T @ matrix)
  out = root @ vector[:, ::-1]
  return out * np.where((out**3).sum(0) < 0, -1.0, 1.0)
