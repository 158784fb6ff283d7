"""By what a face may have moved beside what its first estimate says: a few ways for all of it to bend.

The expression of a first estimate is wrong by half a millimetre, and wrong in the same way wherever the head looks the
same way: what landmarks slide is taken for expression. A bundle that believes it bends the lens instead: on drawn
people by up to a tenth of the focal length, from tracks that are right to .3 px. So each frame has amplitudes of its
own, of the principal components of all expressions that the head has (nonrigid structure from motion with a known
basis, Bregler et al. 2000).
"""

from __future__ import annotations

import numpy as np

from vht_jax.types import AnyArray

N_MODES = 8
MODES_SD = 0.001  # m, rms over the points: first estimates are wrong by .6 mm where the head is the model's own
JAW_UNIT = 0.4  # rad of the jaw for a unit of expression


def unit_moves(skin: AnyArray, exprdirs: AnyArray, by_jaw: AnyArray) -> np.ndarray:
  """(E + 1, v, 3) m: by what a unit of each expression, and the jaw by `JAW_UNIT`, bend the skin.

  Without what moves all of the skin rigidly, which is the head's pose.

  Args:
    skin: (v, 3) m.
    exprdirs: (v, 3, E) m per unit.
    by_jaw: (v, 3) m.
  """
  moves = np.concatenate([np.moveaxis(np.asarray(exprdirs), -1, 0), np.asarray(by_jaw)[None]])
  x = np.asarray(skin) - np.mean(skin, axis=0)
  turns = [np.cross(axis, x) for axis in np.eye(3)]
  shifts = [np.broadcast_to(axis, x.shape) for axis in np.eye(3)]
  rigid = np.linalg.qr(np.stack([*turns, *shifts]).reshape(6, -1).T)[0]
  flat = moves.reshape(len(moves), -1)
  return (flat - flat @ rigid @ rigid.T).reshape(moves.shape).astype(np.float32)


def modes_at(moves: np.ndarray, triangles: AnyArray, bary: AnyArray) -> np.ndarray:
  """(N_MODES, K, 3) m: the largest principal components of `unit_moves` at points, each by its standard deviation.

  All components together move points by `MODES_SD` rms.

  Args:
    moves: (E + 1, v, 3) m.
    triangles: (K, 3) ids among the v.
    bary: (K, 3) barycentric coordinates in them.
  """
  at = np.einsum("kc,ekci->eki", bary, moves[:, triangles])
  _, size, axes = np.linalg.svd(at.reshape(len(at), -1), full_matrices=False)
  size *= MODES_SD * np.sqrt(at.shape[1] / max(np.sum(size**2), 1e-12))
  modes = np.zeros((N_MODES, *at.shape[1:]), np.float32)  # a head may have fewer expressions
  n = min(N_MODES, len(size))
  modes[:n] = (size[:n, None] * axes[:n]).reshape(n, *at.shape[1:])
  return modes
