"""What ARKit's curves do to a head: the open head's units carried over to FLAME's mesh, or the user's own shapes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vht_jax.errors import InputError
from vht_jax.head.load import load_head, open_head_on_flame
from vht_jax.host.files import expanded
from vht_jax.results.export import lbs
from vht_jax.results.export.motion import matrices
from vht_jax.results.export.scene import Scene

# The order of the app's files, in Apple's spelling; the files have the first letter large.
NAMES = (
  "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft",
  "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight",
  "eyeSquintRight", "eyeWideRight", "jawForward", "jawRight", "jawLeft", "jawOpen", "mouthClose", "mouthFunnel",
  "mouthPucker", "mouthRight", "mouthLeft", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
  "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper",
  "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft",
  "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp",
  "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft",
  "noseSneerRight", "tongueOut",
)  # fmt: skip
LIDS = {"eyelidLeft": "eyeBlinkLeft", "eyelidRight": "eyeBlinkRight"}  # the open head's names
# The jaw of the open head turns by that much where its artist's jawOpen and jawLeft are 1 (third_party/open_head).
JAW_OPEN, JAW_ASIDE = np.deg2rad(24.11), np.deg2rad(5.5)

NEUTRAL = "neutral"  # the user's shape of a head at rest
JAW = ("jawOpen", "jawLeft", "jawRight")  # the jaw's turn, as all heads here have it
# Two heads in the same topology are the same places: persons differ by a tenth of a head's size (root mean square of
# FLAME's first 60 components, 2 of them at 3 standard deviations: 0.11), vertices in another order by all of it.
_OTHER_ORDER = 0.3
_SMALL_TURN = 1e-3  # rad, at which a turn is its tangent

log = logging.getLogger("vht_jax")


class Shapes(NamedTuple):
  """Curves as offsets of the vertices of one person's head in its own frame."""

  names: list[str]  # (N,) ARKit's
  offsets: np.ndarray  # (N, V, 3) m at 1; of the jaw's turn, if it is among them, what its artist made
  about: str  # whose, for people


def of_open_head(scene: Scene) -> Shapes:
  """The open head's units at FLAME's vertices; they grow with the face."""
  model = load_head(model="open")
  corners, weight = open_head_on_flame()
  carried = lambda values: np.einsum("vk,vk...->v...", weight, values[corners])
  template = np.asarray(model.v_template, np.float64)
  skin = weight.sum(axis=1) > 0
  scale = _size(scene.neutral[skin]) / _size(carried(template)[skin])
  opened, aside = turns(lbs.head_of(model, 0, 0), template, np.asarray(model.j_template, np.float64))
  units = {LIDS.get(n, n): d for n, d in zip(model.expr_names, np.moveaxis(np.asarray(model.exprdirs), -1, 0))}
  units |= dict(zip(JAW, (opened * JAW_OPEN, aside * JAW_ASIDE, -aside * JAW_ASIDE)))
  offsets = np.stack([carried(np.asarray(d, np.float64)) for d in units.values()])
  return Shapes(list(units), scale * offsets, "the open head's units, carried over")


def of_folder(path: str, scene: Scene) -> Shapes:
  """The user's shapes: neutral.obj and jawOpen.obj, browInnerUp.obj, ... in the topology of the tracked head.

  Any unit of length, any axes: the neutral face is laid on the person's (turned, moved, scaled), the rest as well.

  Raises:
    InputError: no such folder, no neutral face, none of ARKit's names, or not the head's vertices.
  """
  folder = Path(expanded(path))
  files = {p.stem.lower(): p for p in sorted(folder.glob("*.obj"))} if folder.is_dir() else {}
  known = {name.lower(): name for name in NAMES}
  chosen = {known[stem]: file for stem, file in files.items() if stem in known}
  if NEUTRAL not in files or not chosen:
    found = f"{len(files)} .obj files{', no ' + NEUTRAL if NEUTRAL not in files else ''}" if files else "no .obj files"
    raise InputError(
      f"--arkit_shapes={path}: expected a folder with {NEUTRAL}.obj and a mesh for each curve, {NAMES[0]}.obj, ...; "
      f"found {found if folder.is_dir() else 'no such folder'}"
    )
  if strange := [files[s].name for s in files if s != NEUTRAL and s not in known]:
    log.warning("arkit: %s: not used, as ARKit has no such curves: %s", path, ", ".join(strange))
  number = len(scene.neutral)
  neutral = _vertices(files[NEUTRAL], number)
  turn, scale = _laid_on(neutral, scene.neutral, files[NEUTRAL])
  offsets = [scale * (_vertices(file, number) - neutral) @ turn.T for file in chosen.values()]
  looks = [n for n in NAMES if n.startswith("eyeLook")]
  if missing := [n for n in NAMES if n not in chosen and n not in looks and n != "tongueOut"]:
    log.info("arkit: %s: no shapes of %s: these curves are 0, the jaw's its angle", path, ", ".join(missing))
  return Shapes(list(chosen), np.stack(offsets), f"{len(chosen)} shapes of {path}")


def turns(head: lbs.Head, vertices: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(V, 3), (V, 3) m/rad: how the vertices (V, 3) of a head at rest move as its jaw begins to open, and to go left."""
  found = []
  for axis in range(2):
    rotations = np.tile(np.eye(3), (5, 1, 1))
    rotations[2] = matrices(_SMALL_TURN * np.eye(3)[axis])
    moved = lbs.pose(head, (vertices, joints), rotations, lbs.feature(rotations)).vertices
    found.append((moved - vertices) / _SMALL_TURN)
  return found[0], found[1]


def _vertices(path: Path, number: int) -> np.ndarray:
  """(V, 3) of a Wavefront OBJ, which has to have so many."""
  try:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    points = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float64).reshape(-1, 3)
  except (OSError, ValueError) as error:
    raise InputError(f"{path}: not a readable OBJ ({error})") from None
  if len(points) != number or not np.isfinite(points).all():
    raise InputError(f"{path}: expected the {number} vertices of the tracked head, in its order; found {len(points)}")
  return points


def _laid_on(points: np.ndarray, goal: np.ndarray, path: Path) -> tuple[np.ndarray, float]:
  """(3, 3) rotation and scale that bring points (V, 3) nearest to `goal`, their middles apart.

  Raises:
    InputError: they are not the same places of a head.
  """
  a, b = points - points.mean(axis=0), goal - goal.mean(axis=0)
  u, sizes, vt = np.linalg.svd(b.T @ a)
  signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
  turn, scale = u @ (signs[:, None] * vt), float((sizes * signs).sum() / max(np.square(a).sum(), 1e-30))
  beside = np.sqrt(np.square(scale * a @ turn.T - b).sum() / np.square(b).sum())
  if beside > _OTHER_ORDER:
    raise InputError(
      f"{path}: its vertices are not those of the tracked head in their order: laid on it they are off by "
      f"{100 * beside:.0f} % of its size; export the shapes from that mesh, keeping the order of vertices"
    )
  return turn, scale


def _size(points: np.ndarray) -> float:
  """Of a face: root mean square distance from its middle."""
  return float(np.sqrt(np.square(points - points.mean(0)).sum(1).mean()))
