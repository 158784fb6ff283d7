"""Which of the faces in an image is the person that is tracked: by overlap, and after a loss or a cut by likeness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

# Mean difference of two portraits, in units of Lab weighted as below. Measured on 140 frames of each of four sample
# videos against the portraits of the frames until then: the same person 20 frames later up to 1.7 to 3.1, in the clip
# with the most changing light and pose up to 6.4 (99 of 100 frames); different people from 8.2.
ALIKE = 7.2
_WEIGHTS = (0.7, 1.5, 1.5)  # light and shadow change as the head turns, colours less: without, 6.5 against 7.3
_DISTINCT = 2.0  # another portrait is kept when the nearest one differs by more
_N_PORTRAITS = 8  # the first half for good; then the latest ones, as a head that turns or comes back looks like them
_SIDE = 16  # px of a portrait
_PATIENCE = 100  # frames for which a lost person is waited for before a face that is only somewhat alike is taken
# Frames for which a face that stays where the person was, but looks like somebody else, is not believed: after a second
# it is the person in another light.
_USED_TO = 25
# A mesh goes over to another face in one frame: by .7 to .8 of the face's size, and to a difference of 8.4, where two
# people crossed. The same person differs by up to 4.5 from what was known of them one frame before (14 clips, 1,600
# frames; 99 of 100 by up to 3.4), and does not leave by half a face's width within a frame.
_HOP, _SUSPECT = 0.4, 3.6
SAME_FACE = 0.3  # overlap of two boxes from which on they are of one face, as in MediaPipe's own suppression

Locate = Callable[[np.ndarray], np.ndarray | None]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
  """Intersection over union of two boxes x0, y0, x1, y1."""
  low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:4], b[2:4])
  both = float(np.prod(np.maximum(high - low, 0.0)))
  return both / max(area(a) + area(b) - both, 1e-9)


def distinct(boxes: Iterable[np.ndarray]) -> list[np.ndarray]:
  """Boxes x0, y0, x1, y1, ... without those of a face that has one before."""
  kept: list[np.ndarray] = []
  for box in boxes:
    if all(overlap(box, other) < SAME_FACE for other in kept):
      kept.append(box)
  return kept


def area(box: np.ndarray) -> float:
  """Of a box x0, y0, x1, y1, px^2."""
  return float(np.prod(np.maximum(box[2:4] - box[:2], 0.0)))


def bounds(points: np.ndarray) -> np.ndarray:
  """(4,) x0, y0, x1, y1 of (N, 2)."""
  return np.concatenate([points.min(axis=0), points.max(axis=0)])


def portrait(rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """(16, 16, 3) int16: the face in weighted Lab times 10, eyes and mouth in fixed places, brightness subtracted.

  Args:
    rgb: the image (H, W, 3) uint8.
    landmarks: (68, 2) px.
  """
  import cv2  # late: a tracker without pictures needs no OpenCV

  source = np.array([landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[48:60].mean(0)], np.float32)
  target = np.array([[0.33, 0.5], [0.67, 0.5], [0.5, 0.82]], np.float32) * _SIDE
  # The similarity that brings the one to the other, in closed form: complex numbers scale and turn.
  a, b = (p[:, 0] + 1j * p[:, 1] for p in (source.astype(np.float64), target.astype(np.float64)))
  a, b, centre, place = a - a.mean(), b - b.mean(), a.mean(), b.mean()
  turn = np.vdot(a, b) / max(np.vdot(a, a).real, 1e-6)
  # Reduced around the face first, so that the small portrait is not a sample of single pixels.
  side = max(int(2.5 * _SIDE / max(abs(turn), 1e-3)), 4)
  x, y = (round(c) - side // 2 for c in (centre.real, centre.imag))
  height, width = rgb.shape[:2]
  rows, columns = (np.clip(np.arange(k, k + side), 0, n - 1) for k, n in ((y, height), (x, width)))
  step = max(side // (4 * _SIDE), 1)
  face = cv2.resize(rgb[np.ix_(rows[::step], columns[::step])], (40, 40), interpolation=cv2.INTER_AREA)
  turn, scale = turn / (40 / side), 40 / side
  offset = place - turn * ((centre.real - x) * scale + 1j * (centre.imag - y) * scale)
  matrix = np.array([[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]])
  small = cv2.warpAffine(face, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
  lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
  lab[..., 0] -= lab[..., 0].mean()
  return np.round(lab * np.array(_WEIGHTS, np.float32) * 10).astype(np.int16)


class Person:
  """Where the tracked person was seen last, and what they look like.

  Args:
    face: at the start of a clip, 'largest', or a number: the faces are counted from the left in the first image that
      has so many.
  """

  def __init__(self, face: str | int = "largest"):
    self.face = face
    self.last: np.ndarray | None = None  # (5,) box of the last face
    self.lost = 0  # for how many frames the person has not been seen
    self.cut = False  # the next image belongs to another shot
    self.wary = False  # somebody else was where the person is expected: place says nothing until they are seen again
    self.patience = _PATIENCE  # frames
    self.portraits: list[np.ndarray] = []

  def choose(self, boxes: Sequence[np.ndarray], rgb: np.ndarray, locate: Locate) -> np.ndarray | None:
    """The box of the person.

    Args:
      boxes: (5,) x0, y0, x1, y1 px, score of every face in the image.
      rgb: the image.
      locate: box -> landmarks (68, 2) px of that face, or None.

    Returns:
      At the start what `face` says. Then the box that overlaps the last one most; if none does, after a cut or where
      somebody else was seen (`doubts`), the face that looks most like the person's, if it does at all. None when the
      person is not there.
    """

    def seen(box: np.ndarray) -> np.ndarray | None:
      landmarks = locate(box)
      return None if landmarks is None else portrait(rgb, landmarks)

    return self.pick(boxes, seen)

  def pick(self, boxes: Sequence[np.ndarray], seen: Locate) -> np.ndarray | None:
    """`choose` with the portrait of the face in a box, or None, in place of its landmarks."""
    if not boxes:
      return None
    last = self.last
    if last is None:
      return self._first(boxes)
    nearest = max(boxes, key=lambda box: overlap(box, last))
    waiting = self.lost < self.patience
    if not self.cut and not self.wary and waiting and overlap(nearest, last) > 0.1:
      return nearest
    limit = ALIKE if waiting else 2 * ALIKE
    found = []
    for box in sorted(boxes, key=area, reverse=True)[:6]:
      shown = seen(box)
      if shown is not None:
        found.append((self.difference(shown), box))
    difference, box = min(found, key=lambda pair: pair[0], default=(np.inf, None))
    return box if difference < limit else None

  def doubts(self, rgb: np.ndarray, landmarks: np.ndarray, followed: bool) -> bool:
    """Whether the face with these landmarks (68, 2) px is somebody else's, who came before the person.

    Args:
      followed: from the last image on, and not chosen by its looks: a face that hops and has changed is doubted sooner.
    """
    return self.mistrusts(portrait(rgb, landmarks), bounds(landmarks), followed)

  def mistrusts(self, seen: np.ndarray, box: np.ndarray, followed: bool) -> bool:
    """`doubts` of the face with this portrait whose landmarks lie in `box` (4,) px."""
    if self.last is None or self.cut or self.lost >= self.patience:
      return False
    difference = self.difference(seen)
    if not np.isfinite(difference) or difference < _SUSPECT:
      return False
    size = float(np.max(self.last[2:4] - self.last[:2]))
    hops = float(np.max(np.abs(box[:2] + box[2:4] - self.last[:2] - self.last[2:4]))) / 2 > _HOP * size
    if difference < ALIKE and not (followed and hops):
      return False
    if not self.wary:
      self.wary, self.patience = True, _PATIENCE if hops else _USED_TO
    return True

  def saw(self, box: np.ndarray, rgb: np.ndarray, landmarks: np.ndarray) -> None:
    """The person is at `box` in this image."""
    self.saw_them(box, portrait(rgb, landmarks))

  def saw_them(self, box: np.ndarray, seen: np.ndarray) -> None:
    """`saw` with their portrait."""
    self.last, self.lost, self.cut = box, 0, False
    self.wary, self.patience = False, _PATIENCE
    self.saw_portrait(seen)

  def saw_portrait(self, seen: np.ndarray) -> None:
    """Keeps a portrait of the person if it shows them in a new way."""
    # Not when it looks like somebody else: hands, a passer-by.
    if not self.portraits or _DISTINCT < self.difference(seen) < ALIKE:
      if len(self.portraits) == _N_PORTRAITS:
        del self.portraits[_N_PORTRAITS // 2]
      self.portraits.append(seen)

  def missed(self) -> None:
    """The person is not in this image."""
    self.lost += 1

  def next_shot(self) -> None:
    """The next image belongs to another shot."""
    self.cut = True

  @property
  def met(self) -> bool:
    """Whether the person has been seen."""
    return self.last is not None

  def difference(self, seen: np.ndarray) -> float:
    """Between a portrait and the most similar one of the person; infinite when there is none."""
    return min((float(np.abs(seen - known).mean()) / 10 for known in self.portraits), default=np.inf)

  def state(self) -> dict[str, Any]:
    """As JSON."""
    return {
      "last": None if self.last is None else [float(x) for x in self.last],
      "lost": self.lost,
      "cut": self.cut,
      "wary": self.wary,
      "patience": self.patience,
      "portraits": [p.ravel().tolist() for p in self.portraits],
    }

  def restore(self, state: dict[str, Any]) -> None:
    """What `state` gave."""
    self.last = None if state["last"] is None else np.array(state["last"], np.float32)
    self.lost, self.cut = int(state["lost"]), bool(state["cut"])
    self.wary, self.patience = bool(state.get("wary", False)), int(state.get("patience", _PATIENCE))
    self.portraits = [np.array(p, np.int16).reshape(_SIDE, _SIDE, 3) for p in state["portraits"]]

  def _first(self, boxes: Sequence[np.ndarray]) -> np.ndarray | None:
    if self.face == "largest":
      return max(boxes, key=area)
    from_left = sorted(boxes, key=lambda box: float(box[0] + box[2]))
    return from_left[int(self.face)] if int(self.face) < len(boxes) else None


class Supposed(Person):
  """The person in a piece of a clip, while the frames before it are being searched by others: taken for whoever is
  found in the piece's first image.

  It writes down what it was asked and what it answered. When the person is known as they were before the piece,
  `confirmed` asks them the same: if the answers are the same, so is all that was found in the piece.
  """

  def __init__(self, face: str | int = "largest", portraits: Sequence[np.ndarray] = ()):
    """`portraits`: of the person, as far as they are known."""
    super().__init__(face)
    self.portraits = list(portraits)
    self.asked: list[list[Any]] = []  # as JSON

  @property
  def met(self) -> bool:
    return True  # before the piece

  def pick(self, boxes: Sequence[np.ndarray], seen: Locate) -> np.ndarray | None:
    shown: dict[int, Any] = {}

    def look(box: np.ndarray) -> np.ndarray | None:
      found = seen(box)
      shown[_position(box, boxes)] = None if found is None else found.ravel().tolist()
      return found

    if boxes and self.last is None:  # the person may go by looks where we do not
      self.last, self.cut = boxes[0], True
      alike = super().pick(boxes, look)
      self.last, self.cut = None, False
      box = self._first(boxes) if alike is None else alike
    else:
      box = super().pick(boxes, look)
    answer = None if box is None else _position(box, boxes)
    self.asked.append(["pick", [b.tolist() for b in boxes], shown, answer])
    return box

  def mistrusts(self, seen: np.ndarray, box: np.ndarray, followed: bool) -> bool:
    answer = super().mistrusts(seen, box, followed)
    self.asked.append(["mistrusts", seen.ravel().tolist(), box.tolist(), followed, answer])
    return answer

  def saw_them(self, box: np.ndarray, seen: np.ndarray) -> None:
    super().saw_them(box, seen)
    self.asked.append(["saw", box.tolist(), seen.ravel().tolist()])

  def missed(self) -> None:
    super().missed()
    self.asked.append(["missed"])

  def next_shot(self) -> None:
    super().next_shot()
    self.asked.append(["next_shot"])


def confirmed(person: Person, asked: Sequence[Sequence[Any]]) -> bool:
  """Whether the person answers as `Supposed.asked` has it; they know afterwards what they were told, up to where they
  do not."""
  if not person.met:
    return False
  return all(_confirms(person, *question) for question in asked)


def _confirms(person: Person, what: str, *given: Any) -> bool:
  picture = lambda values: np.array(values, np.int16).reshape(_SIDE, _SIDE, 3)
  if what == "mistrusts":
    seen, box, followed, answer = given
    return person.mistrusts(picture(seen), np.array(box, np.float32), followed) == answer
  if what == "pick":
    boxes = [np.array(box, np.float32) for box in given[0]]
    seen = {int(k): None if found is None else picture(found) for k, found in given[1].items()}
    try:
      box = person.pick(boxes, lambda box: seen[_position(box, boxes)])
    except KeyError:  # they look at one that was not looked at
      return False
    return (None if box is None else _position(box, boxes)) == given[2]
  if what == "saw":
    person.saw_them(np.array(given[0], np.float32), picture(given[1]))
  else:
    getattr(person, what)()
  return True


def _position(box: np.ndarray, boxes: Sequence[np.ndarray]) -> int:
  return next(k for k, other in enumerate(boxes) if other is box)
