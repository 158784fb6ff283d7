"""The head in float64 NumPy at some of its vertices, for one frame: what is exported, and what re-fits minimise over.

Joints turn in FLAME's chain, or each by itself about its unposed place, as in CAP4D's version of the head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vht_jax.types import FlameModel


class Head(NamedTuple):
  """The model at V' vertices. Arrays as in `FlameModel`, with directions over identity and expression together."""

  template: np.ndarray  # (V', 3)
  dirs: np.ndarray  # (V', 3, S+E)
  posedirs: np.ndarray  # (36, V', 3)
  weights: np.ndarray  # (V', 5)
  j_template: np.ndarray  # (5, 3)
  j_dirs: np.ndarray  # (5, 3, S+E)


class Posed(NamedTuple):
  """A frame of a head, not centred: rotations are about the unposed root joint."""

  vertices: np.ndarray  # (V', 3)
  joints: np.ndarray  # (5, 3), unposed
  turned: np.ndarray  # (5, 3, 3) rotations of the joints in the head's frame
  blended: np.ndarray  # (V', 3, 3) what a direction at a vertex becomes


def head_of(model: FlameModel, n_shape: int, n_expr: int, vertices: np.ndarray | slice = slice(None)) -> Head:
  """The first components of a model, at some vertices."""
  f64 = lambda x: np.asarray(x, np.float64)
  n = model.shapedirs.shape[-1]
  n_shape = min(n_shape, n)  # in j_shapedirs the expression follows
  j = np.asarray(model.j_shapedirs)
  dirs = (np.asarray(model.shapedirs)[vertices, :, :n_shape], np.asarray(model.exprdirs)[vertices, :, :n_expr])
  return Head(
    template=f64(model.v_template)[vertices],
    dirs=f64(np.concatenate(dirs, axis=-1)),
    posedirs=f64(model.posedirs).reshape(36, -1, 3)[:, vertices],
    weights=f64(model.lbs_weights)[vertices],
    j_template=f64(model.j_template),
    j_dirs=f64(np.concatenate([j[..., :n_shape], j[..., n : n + n_expr]], axis=-1)),
  )


def shaped(head: Head, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(V', 3) unposed vertices and (5, 3) joints of a code (S+E,)."""
  return head.template + head.dirs @ code, head.j_template + head.j_dirs @ code


def pose(
  head: Head, unposed: tuple[np.ndarray, np.ndarray], rotations: np.ndarray, feature: np.ndarray, chained: bool = True
) -> Posed:
  """Skins a frame.

  Args:
    unposed: of `shaped`.
    rotations: (5, 3, 3) of the joints, each relative to its parent.
    feature: (36,) amounts of the pose correctives.
    chained: False: each joint turns about its own unposed place, and moves none.
  """
  vertices, joints = unposed
  turned, placed = chain(rotations, joints) if chained else (rotations, joints)
  blended = np.tensordot(head.weights, turned, axes=1)
  shift = head.weights @ (placed - np.einsum("jab,jb->ja", turned, joints))
  moved = vertices + np.tensordot(feature, head.posedirs, axes=1)
  return Posed(np.einsum("vab,vb->va", blended, moved) + shift, joints, turned, blended)


def feature(rotations: np.ndarray) -> np.ndarray:
  """(36,) FLAME's amounts of the pose correctives of (5, 3, 3) rotations."""
  return (rotations[1:] - np.eye(3)).reshape(36)


def along(head: Head, posed: Posed, rotations: np.ndarray, columns: slice, chained: bool = True) -> np.ndarray:
  """(V', 3, n) how the vertices of a frame change with some columns of the code; exact, as they are linear in it."""
  j = head.j_dirs[..., columns]
  placed = chain(rotations, j)[1] if chained else j
  shift = np.tensordot(head.weights, placed - np.einsum("jab,jbn->jan", posed.turned, j), axes=1)
  return np.einsum("vab,vbn->van", posed.blended, head.dirs[..., columns], optimize=True) + shift


def chain(rotations: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Along FLAME's tree: (5, 3, 3) rotations of the joints in the head's frame, and where the joints come to be.

  Args:
    rotations: (5, 3, 3), each relative to its parent.
    joints: (5, 3), or (5, 3, n) anything linear in them.
  """
  root, neck = rotations[0], rotations[0] @ rotations[1]
  turned = np.stack([root, neck, *(neck @ rotations[k] for k in (2, 3, 4))])
  first = joints[0]
  second = first + np.tensordot(root, joints[1] - first, axes=1)
  leaves = [second + np.tensordot(neck, joints[k] - joints[1], axes=1) for k in (2, 3, 4)]
  return turned, np.stack([first, second, *leaves])
