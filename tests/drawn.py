"""A drawn face whose 68 landmarks are known, for tests that look at images and need no head."""

import cv2
import numpy as np

SKIN, LIP, DARK, WHITE, IRIS = (205, 160, 135), (165, 75, 80), (60, 25, 30), (235, 230, 225), (50, 40, 35)


def landmarks(eye=80.0, centre=(130.0, 120.0)):
  """(70, 2) px in iBUG's order; `eye` is the distance of the outer eye corners, `centre` lies between the eyes."""
  jaw = [(-1.05 * np.cos(a), 1.5 * np.sin(a)) for a in np.linspace(0, np.pi, 17)]
  brow = [(-0.55, -0.2), (-0.45, -0.27), (-0.33, -0.29), (-0.22, -0.27), (-0.12, -0.22)]
  brows = brow + [(-x, y) for x, y in brow[::-1]]
  nose = [(0, 0.02), (0, 0.17), (0, 0.32), (0, 0.47)]
  nose += [(-0.15, 0.55), (-0.08, 0.57), (0, 0.59), (0.08, 0.57), (0.15, 0.55)]
  right = [(-0.5, 0), (-0.42, -0.07), (-0.3, -0.07), (-0.2, 0), (-0.3, 0.06), (-0.42, 0.06)]
  left = [(0.2, 0), (0.3, -0.07), (0.42, -0.07), (0.5, 0), (0.42, 0.06), (0.3, 0.06)]
  outer = [(-0.3, 0.9), (-0.2, 0.83), (-0.07, 0.8), (0, 0.82), (0.07, 0.8), (0.2, 0.83), (0.3, 0.9),
           (0.2, 0.99), (0.08, 1.03), (0, 1.04), (-0.08, 1.03), (-0.2, 0.99)]  # fmt: skip
  inner = [(-0.25, 0.9), (-0.08, 0.89), (0, 0.895), (0.08, 0.89), (0.25, 0.9), (0.08, 0.915), (0, 0.92), (-0.08, 0.915)]
  irises = [(-0.35, 0.0), (0.35, 0.0)]
  shape = np.array([*jaw, *brows, *nose, *right, *left, *outer, *inner, *irises], np.float64)
  return (shape * eye + centre).astype(np.float32)


def face(p, size=(280, 260), seed=0, cover=None):
  """(H, W, 3) uint8 of a face with landmarks p (70, 2); `cover` = (points, colour) is painted over it."""
  rng = np.random.default_rng(seed)
  eye = float(np.linalg.norm(p[36] - p[45]))
  freckles = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), 2.0)
  image = np.full((*size, 3), (90, 110, 100), np.uint8)
  polygon = lambda points, colour: cv2.fillPoly(image, [np.round(points).astype(np.int32)], colour, cv2.LINE_AA)
  forehead = p[[16, 0]] - (p[[8, 8]] - p[[27, 27]]) * 0.7
  polygon(np.concatenate([p[:17], forehead]), SKIN)
  polygon(np.concatenate([p[48:60]]), LIP)
  polygon(p[60:68], DARK)
  for e, iris in ((p[36:42], p[68]), (p[42:48], p[69])):
    polygon(e, WHITE)
    cv2.circle(image, tuple(np.round(iris).astype(int).tolist()), max(round(0.06 * eye), 1), IRIS, -1, cv2.LINE_AA)
    cv2.polylines(image, [np.round(e[:4]).astype(np.int32)], False, IRIS, max(round(0.02 * eye), 1), cv2.LINE_AA)
  for brow in (p[17:22], p[22:27]):
    cv2.polylines(image, [np.round(brow).astype(np.int32)], False, (70, 50, 40), max(round(0.05 * eye), 1), cv2.LINE_AA)
  for nostril in p[[32, 34]]:
    cv2.circle(image, tuple(np.round(nostril).astype(int).tolist()), max(round(0.03 * eye), 1), DARK, -1, cv2.LINE_AA)
  if cover is not None:
    polygon(*cover)
  image = cv2.GaussianBlur(image, (0, 0), 0.01 * eye)
  return np.clip(image + 40 * freckles[..., None], 0, 255).astype(np.uint8)


class Clip:
  """A drawn face that moves, turns in its plane, comes and goes; a `track.Clip`."""

  def __init__(self, n=48, seed=0, size=(280, 260)):
    base = landmarks(60.0, (0.0, 0.0))
    t = np.arange(n)
    self.size = size
    self.points = np.zeros((n, 70, 2), np.float32)
    self.frames = np.zeros((n, *size, 3), np.uint8)
    still = face(landmarks(60.0, (130.0, 105.0)), size, seed)
    for k in t:
      scale, angle = 1 + 0.15 * np.sin(k / 9), 0.2 * np.sin(k / 7 + 1)
      z = scale * np.exp(1j * angle)
      place = np.array([130 + 25 * np.sin(k / 6), 105 + 12 * np.cos(k / 8)])
      turn = np.array([[z.real, -z.imag], [z.imag, z.real]])
      self.points[k] = base @ turn.T + place
      shift = place - turn @ [130.0, 105.0]
      matrix = np.concatenate([turn, shift[:, None]], axis=1)
      self.frames[k] = cv2.warpAffine(still, matrix, size[::-1], borderMode=cv2.BORDER_REPLICATE)

  def __len__(self):
    return len(self.frames)

  def landmarks(self):
    return self.points, np.ones(self.points.shape[:2], np.float32), None

  def images(self, indices):
    return self.frames[np.asarray(indices)]
