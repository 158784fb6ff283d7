"""Rotations as formats write them: axis-angle without jumps, six numbers, Euler angles. NumPy and float64."""

from __future__ import annotations

import numpy as np

from vht_jax.results.export.motion import angles_of, matrices, quaternions


def continuous_angles(rotations: np.ndarray) -> np.ndarray:
  """(T, 3) axis-angle vectors, rad, of (T, 3, 3) rotations, without jumps of 2 pi between frames."""
  q = quaternions(rotations)
  return angles_of(q if q[0, 3] >= 0 else -q)


def euler_xyz(rotations: np.ndarray) -> np.ndarray:
  """(T, 3) angles a, b, c, rad, of (T, 3, 3) rotations Rx(a) Ry(b) Rz(c)."""
  m = rotations
  return np.stack(
    [
      np.arctan2(-m[:, 1, 2], m[:, 2, 2]),
      np.arctan2(m[:, 0, 2], np.hypot(m[:, 1, 2], m[:, 2, 2])),
      np.arctan2(-m[:, 0, 1], m[:, 0, 0]),
    ],
    axis=1,
  )


def six_numbers(rotations: np.ndarray) -> np.ndarray:
  """(..., 6) first two rows of (..., 3, 3) rotations (Zhou et al., 2019)."""
  return rotations[..., :2, :].reshape(*rotations.shape[:-2], 6)


def six_of_angles(angles: np.ndarray) -> np.ndarray:
  """`six_numbers` of (..., 3) axis-angle vectors, side by side for joints: (T, 6) -> (T, 12)."""
  return six_numbers(matrices(angles.reshape(len(angles), -1, 3))).reshape(len(angles), -1)


def from_six(numbers: np.ndarray) -> np.ndarray:
  """(..., 3, 3) rotations of (..., 6) numbers, made orthonormal as readers of the form do (Gram-Schmidt)."""
  a, b = numbers[..., :3], numbers[..., 3:]
  first = a / np.linalg.norm(a, axis=-1, keepdims=True)
  b = b - (first * b).sum(-1, keepdims=True) * first
  second = b / np.linalg.norm(b, axis=-1, keepdims=True)
  return np.stack([first, second, np.cross(first, second)], axis=-2)


def times(rotations: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """(T, 3) of (T, 3, 3) times (T, 3), frame by frame."""
  return np.einsum("tij,tj->ti", rotations, vectors)
