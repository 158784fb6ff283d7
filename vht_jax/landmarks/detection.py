"""What a detector finds in one image, and how far each point can be trusted.

All coordinates are pixels of the image that was searched: x right, y down, origin at its top left corner, the centre
of pixel i at i + 0.5. "Left" and "right" mean the image's.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vht_jax.head.mesh_points import IBUG68, IRISES

N_FACE = 68
N_DENSE = 478  # MediaPipe's face mesh with irises
EYES = (slice(36, 42), slice(42, 48))  # eye on the image's left, on its right (of a face that looks at the camera)


@dataclasses.dataclass(frozen=True)
class Detection:
  """One face."""

  bounding_box: np.ndarray  # (5,) f32 x0, y0, x1, y1 px, score
  landmarks: np.ndarray  # (68, 2) f32 px, iBUG order
  iris: np.ndarray | None = None  # (2, 2) f32 px, iris of eye 36-41, of eye 42-47; a row of NaN where one is missing
  dense: np.ndarray | None = None  # (478, 2) f32 px, MediaPipe's face mesh, irises last
  score: float = 1.0  # in [0, 1]: the face finder's, lowered where the checks disagree, see `belief`
  # Of the mesh on the image and on its mirror image, see `mirror.Seen`: about a fifth of the landmarks' mean error in
  # eye distances. None for a detector without a mesh, and in VHT's files.
  disagreement: float | None = None
  apart: np.ndarray | None = None  # (478,) f32, the same of each point of `dense`, see `point_belief`


# Share of the face's size by which the meshes of an image and of its mirror image may be apart: a face for certain, one
# to be looked for again, one to be given up. Measured, see `mirror.Seen`.
AGREED, DOUBTED, GIVEN_UP = 0.01, 0.015, 0.02


def belief(disagreement: float) -> float:
  """1 up to `AGREED`, falling to 0 at `GIVEN_UP`: what is left of a face finder's score."""
  return float(np.clip((GIVEN_UP - disagreement) / (GIVEN_UP - AGREED), 0.0, 1.0))


# How far apart a point and its neighbours usually are in the two meshes, over the face's size. Of rendered people the
# errors of eyes, brows and mouth grow from there on nearly in proportion (docs/accuracy.md): what is hidden behind the
# bridge of the nose or shut is guessed, and guessed differently.
USUALLY_APART = 0.005
NEIGHBOURS = 0.06  # of the face's size: who counts as a neighbour; an eye has three times that


def point_belief(points: np.ndarray, apart: np.ndarray) -> np.ndarray:
  """(N,) in (0, 1]: the share of its usual weight that each point has, as the two meshes agree on it.

  Args:
    points: (N, 2) px of a face.
    apart: (N,) as in `Detection`.
  """
  points, square = np.asarray(points, np.float32), np.asarray(apart, np.float32) ** 2
  size = max(float(np.ptp(points, axis=0).max()), 1e-6)
  p = (points - points.mean(axis=0)) / np.float32(NEIGHBOURS * size)
  half, one = -0.5 * np.sum(p**2, axis=1, keepdims=True), np.ones((len(p), 1), np.float32)
  near = np.exp(np.concatenate([p, half, one], axis=1) @ np.concatenate([p, one, half], axis=1).T)  # -|p - q|^2 / 2
  local = near @ square / near.sum(1)
  return np.minimum(1.0, USUALLY_APART**2 / np.maximum(local, 1e-12)).astype(np.float32)


SAME_POINT = 0.5  # px between a landmark and its point of the mesh, if both are one


def beliefs(detection: Detection | None) -> tuple[np.ndarray, np.ndarray]:
  """(70,) and (478,) f32 in (0, 1], `point_belief` of the landmarks and of MediaPipe's points; 1 where nothing can be
  said, as of another detector's landmarks."""
  landmarks, dense = np.ones(70, np.float32), np.ones(N_DENSE, np.float32)
  if detection is not None and detection.dense is not None and detection.apart is not None:
    dense = point_belief(detection.dense, detection.apart)
    landmarks[68:] = dense[np.array(IRISES)]
    if np.abs(detection.landmarks - detection.dense[np.array(IBUG68)]).max() < SAME_POINT:
      landmarks[:68] = dense[np.array(IBUG68)]
  return landmarks, dense


# Direction in which the surface faces at each landmark, degrees about the vertical axis, 0 straight ahead, positive to
# the image's right: the azimuth of the vertex normals of MediaPipe's canonical face at the points of `crop.IBUG68`.
_AZIMUTH_JAW = (-78, -81, -80, -78, -74, -67, -56, -25, 0)
_AZIMUTH_BROW = (-57, -46, -31, -17, -7)
_AZIMUTH_NOSE = (0, 0, 0, 0, -37, -31, 0, 31, 37)
_AZIMUTH_EYE = (-24, -20, 0, 0, 0, -23)  # the caruncle's own normal means nothing: it lies in a hollow
_AZIMUTH_LIPS = (-11, -33, -16, 0, 16, 33, 11, 33, 17, 0, -17, -33, -27, -16, 0, 16, 27, 12, 0, -12)


def _mirror(half: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(-half[i] for i in order)


AZIMUTH = np.radians(
  np.array(
    _AZIMUTH_JAW
    + _mirror(_AZIMUTH_JAW, tuple(range(7, -1, -1)))
    + _AZIMUTH_BROW
    + _mirror(_AZIMUTH_BROW, tuple(range(4, -1, -1)))
    + _AZIMUTH_NOSE
    + _AZIMUTH_EYE
    + _mirror(_AZIMUTH_EYE, (3, 2, 1, 0, 5, 4))
    + _AZIMUTH_LIPS,
    np.float64,
  )
)
# Half the distance of the outer eye corners over the mean depth of the nose ridge (27-30) before them, same mesh.
_EYE_TO_NOSE = 4.45 / 3.43


def estimate_yaw(landmarks: np.ndarray) -> float:
  """Yaw of the head in radians from (68, 2) px, positive when the nose points to the image's right.

  Of a turning head the nose ridge moves against the outer eye corners in proportion to the tangent of the yaw.
  """
  left, right = landmarks[36].astype(np.float64), landmarks[45].astype(np.float64)
  half = (right - left) / 2
  length = float(np.hypot(*half))
  if length < 1e-6:
    return 0.0
  shift = (landmarks[27:31].mean(axis=0) - (left + right) / 2) @ half / length
  return float(np.arctan2(_EYE_TO_NOSE * shift, length))


def estimate_roll(landmarks: np.ndarray) -> float:
  """Roll of the head in radians from (68, 2) px: 0 upright, positive clockwise in the image.

  From the line of the eyes and the one from the eyes down to the mouth, each as good as it is long: of a profile the
  first is short, of a head bent down the second.
  """
  p = landmarks[:, 0].astype(np.float64) + 1j * landmarks[:, 1]
  across = p[42:48].mean() - p[36:42].mean()
  down = p[48:60].mean() - (p[36:42].mean() + p[42:48].mean()) / 2
  return float(np.angle(across - 1j * down))


def eye_openness(landmarks: np.ndarray) -> np.ndarray:
  """(2,) height over width of the two eyes (image left, image right): about 0.3 open, below 0.1 shut."""
  openness = []
  for eye in EYES:
    p = landmarks[eye].astype(np.float64)
    height = np.hypot(*(p[1] - p[5])) + np.hypot(*(p[2] - p[4]))
    openness.append(height / (2 * np.hypot(*(p[3] - p[0])) + 1e-9))
  return np.array(openness)


def landmark_confidence(landmarks: np.ndarray, iris: np.ndarray | None) -> np.ndarray:
  """How far each of the 70 points can be trusted, from their geometry alone.

  Detectors guess what they do not see, so points whose surface faces away from the camera fade from 1 (up to about
  80 degrees from the view axis) to 0.1 (beyond about 105 degrees); an iris fades as its eye shuts.

  Args:
    landmarks: (68, 2) px.
    iris: (2, 2) px with NaN for a missing one, or None.

  Returns:
    (70,) f32 in [0, 1]; 0 for a missing iris.
  """
  facing = np.cos(AZIMUTH + estimate_yaw(landmarks))
  confidence = np.zeros(70, np.float32)
  confidence[:68] = np.clip((facing + 0.3) / 0.45, 0.1, 1.0)
  if iris is not None:
    seen = np.isfinite(iris).all(axis=1)
    eye_visibility = np.array([confidence[eye].min() for eye in EYES])
    confidence[68:] = seen * eye_visibility * np.clip((eye_openness(landmarks) - 0.05) / 0.1, 0.0, 1.0)
  return confidence


def inside_polygon(point: np.ndarray, polygon: np.ndarray) -> bool:
  """Whether (2,) lies inside the closed (N, 2) polygon: even-odd rule."""
  a, b = polygon, np.roll(polygon, -1, axis=0)
  crosses = (a[:, 1] > point[1]) != (b[:, 1] > point[1])
  dy = np.where(crosses, b[:, 1] - a[:, 1], 1.0)
  x = a[:, 0] + (point[1] - a[:, 1]) * (b[:, 0] - a[:, 0]) / dy
  return bool(np.count_nonzero(crosses & (point[0] < x)) % 2)


def plausible_iris(landmarks: np.ndarray, iris: np.ndarray | None) -> np.ndarray | None:
  """Keeps an iris centre that lies within the six points of its eye, as VHT demands; NaN otherwise, None if neither.

  VHT drops both as soon as one is outside; here each eye stands for itself (in VHT's loader one -1 drops both anyway).
  """
  if iris is None:
    return None
  kept = np.array(iris, np.float32)
  for row, eye in enumerate(EYES):
    if not (np.isfinite(kept[row]).all() and inside_polygon(kept[row], landmarks[eye])):
      kept[row] = np.nan
  return kept if np.isfinite(kept).any() else None
