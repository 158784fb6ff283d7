"""Face meshes on a square crop that follows the face: what MediaPipe's two generations of API have in common.

MediaPipe's mesh finds faces with its short-range detector, which misses heads below about 15 % of the image (a quarter
of the frames of a 1080p speaker), and its points jitter least when it follows its own last result on an unmoved crop.
So: find the face in the whole image once, crop around it, and keep that crop until the face leaves its middle.

A mesh put on a face that stands on its head is upright, with its mouth on the forehead, and says nothing of it; but on
the mirror image it is another one. So a face that comes into sight is tried in four orientations, of which the one
counts in which mesh and mirrored mesh agree best; and a face on which they part is looked for again, then given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vht_jax.errors import InputError
from vht_jax.head.mesh_points import IBUG68, IRISES
from vht_jax.landmarks.detection import (
  AGREED,
  DOUBTED,
  GIVEN_UP,
  N_DENSE,
  Detection,
  belief,
  estimate_roll,
  plausible_iris,
)
from vht_jax.landmarks.mirror import CutOut, Seen, quarter_of, turned, turned_back
from vht_jax.landmarks.person import SAME_FACE, Person, Supposed, area, bounds, confirmed, distinct, overlap

_CROP_SIDES = (3.0, 2.0, 1.5)  # of the face box; the wide one leaves room to move, the tight ones shut neighbours out
_LARGEST_CROP = 1 << 15  # px; no face is so large
# Between crops turned by quarters, the mesh finds every face up to 75 degrees from upright (27 frames of nine clips).
# A crop is turned when the face is tilted in it by more: above 45 degrees, so that it does not turn to and fro.
_TILT = np.radians(60)
# Agreement at which no other orientation is tried of a face that is found again: three quarters of the right ones have
# it, and none of 600 wrong ones (their least is 0.0107).
_SURE = 0.0075
# A crop moves when the middle of the face comes nearer to its edge than this share of the face (beyond half of it there
# is no margin), and when the face has another size than the one that it was cut for, by these factors.
_LEAVES, _SIZES = 0.65, (0.6, 1.6)

# Of the longer side of an image. Face finders see all faces that are larger (heads of three clips pasted into pictures
# of 1280 and 2560 px: from 0.024 to 0.031); smaller ones may be found in parts of it.
SMALL = 0.04
_AROUND = 10.0  # sides of the last box: where a small face that is lost is looked for

_UNFOUND = 0.5  # score of a face that the mesh sees and the face finder does not: it keeps those above this


class Crop(NamedTuple):
  """A square of the image, turned."""

  origin: tuple[int, int]  # x, y px of its corner
  side: int  # px
  quarter: int  # it is turned by so many quarters counter-clockwise; 1 when the top of the head points to the right


class Found(NamedTuple):
  """A face, and where it was seen."""

  seen: Seen
  crop: Crop
  factor: float


class CropTracker:
  """`detect` for a mesh model and a face finder, keeping to one person and to one crop as long as it can."""

  def __init__(
    self,
    find: Callable[[np.ndarray], list[np.ndarray]],
    mesh: Callable[[np.ndarray, bool], Seen | None],
    face: str | int = "largest",
  ):
    """Args:
    find: rgb (H, W, 3) uint8 -> boxes (5,) x0, y0, x1, y1 px, score.
    mesh: (crop (S, S, 3) uint8, fresh) -> `Seen` in units of the crop, or None; `fresh` says that the crop is not
      that of the call before, so that nothing may be carried over from there.
    face: who is tracked, see `Person`.
    """
    self._upright = find
    self._mesh = mesh
    self._crop: Crop | None = None
    self._factor = _CROP_SIDES[0]  # side of the crop in units of the face's size
    self._fresh = True  # the crop has moved since the mesh saw it
    self._renewing = False  # see `renew`
    self._cut_out = CutOut()
    self._person = Person(face)

  def detect(self, rgb: np.ndarray) -> Detection | None:
    """The tracked person's face in the next frame, None when there is none that looks like one."""
    _check(rgb)
    before = self._person.last
    seen = self._renewed(rgb) if self._renewing else None
    if seen is None:
      seen = self._kept_up(rgb)
    last, self._person.last = self._person.last, before  # until it is clear that it is the person
    believed = seen is not None and seen.disagreement <= GIVEN_UP
    if seen is None or not believed or self._person.doubts(rgb, seen.points[IBUG68], followed=False):
      self._crop = None
      self._person.missed()
      return None
    assert last is not None  # who is seen is followed, or has just been found
    detection = self._detection(seen, float(last[4]))
    box = np.append(detection.bounding_box[:4], last[4])
    self._person.saw(box, rgb, detection.landmarks)
    self._recentre(box, detection.landmarks)
    return detection

  def expect(self, rgb: np.ndarray) -> None:
    """The image after the next one: cut out beside, where the face is now, as it is mostly looked for there."""
    if self._crop is not None:
      self._cut_out.expect(rgb, *self._crop)

  def _kept_up(self, rgb: np.ndarray) -> Seen | None:
    """The person followed from the frame before; looked for everywhere if that is not sure."""
    seen = self._follow(rgb)
    if seen is not None and self._person.doubts(rgb, seen.points[IBUG68], followed=True):
      seen = None
    if seen is None or seen.disagreement > DOUBTED:
      kept = seen, self._crop, self._factor
      seen = self._search(rgb)
      if kept[0] is not None and (seen is None or kept[0].disagreement < seen.disagreement):
        seen, self._crop, self._factor = kept
        self._fresh = True
    return seen

  def _renewed(self, rgb: np.ndarray) -> Seen | None:
    """The person looked for everywhere, on a crop that owes nothing to the frames before; None if that is not sure."""
    kept, before = (self._crop, self._factor), self._person.last
    self._renewing, self._crop = False, None
    seen = self._search(rgb, anywhere=True)
    if seen is None or seen.disagreement > DOUBTED:
      (self._crop, self._factor), self._person.last = kept, before
      self._fresh = True
      return None
    return seen

  def look(self, rgb: np.ndarray, box: np.ndarray) -> Detection | None:
    """The face at `box` (4,) px, looked for from nothing, in all orientations; changes nothing that `detect` needs."""
    _check(rgb)
    kept = self._crop, self._factor
    found = self._at(rgb, box, thorough=True)
    self._crop, self._factor = kept
    self._fresh = True
    if found is None or found.seen.disagreement > GIVEN_UP:
      return None
    boxes = [b for b in self._find(rgb, (found.crop.quarter,)) if overlap(b, bounds(found.seen.points)) > 0.1]
    return self._detection(found.seen, max((float(b[4]) for b in boxes), default=_UNFOUND))

  def faces(self, rgb: np.ndarray) -> list[np.ndarray]:
    """(5,) x0, y0, x1, y1 px, score of every face in an image; those that are not upright if there are no others."""
    return self._upright(rgb) or self._find(rgb, (1, 2, 3))

  def cut(self) -> None:
    """The next frame is the first of another shot: the person may be anywhere."""
    self._crop = None
    self._person.next_shot()

  def renew(self) -> None:
    """The next frame's crop is not to depend on the frames before, if the person is found there without them."""
    self._renewing = True

  def suppose(self, mark: dict[str, Any] | None) -> None:
    """What comes is a piece of a clip that begins with `renew` or `cut`; of the frames before it perhaps a `mark` is
    known."""
    known = Person(self._person.face)
    if mark is not None:
      known.restore(mark["person"])
    self._crop, self._fresh, self._renewing = None, True, False
    self._person = Supposed(known.face, known.portraits)

  def asked(self) -> list[list[Any]]:
    """What a piece's results depend on, as JSON, since the last call."""
    assert isinstance(self._person, Supposed)
    found, self._person.asked = self._person.asked, []
    return found

  def confirm(self, asked: list[list[Any]], mark: dict[str, Any]) -> dict[str, Any] | None:
    """Where the tracker, after the frames before a piece, would be at a `mark` of the piece, before which `asked` was;
    None if its results would be others. It is there then, or in no state to go on."""
    if not confirmed(self._person, asked):
      return None
    self.resume({**mark, "person": self._person.state()})
    return self.mark()

  def mark(self) -> dict[str, Any]:
    """Forgets everything but what it returns, as JSON."""
    self._fresh = True
    crop = None if self._crop is None else [*self._crop.origin, self._crop.side, self._crop.quarter]
    return {"crop": crop, "factor": self._factor, "person": self._person.state()}

  def resume(self, mark: dict[str, Any]) -> None:
    """Goes on as the tracker that gave `mark` did."""
    self._fresh = True
    crop = mark["crop"]
    if crop is not None:
      x, y, side, quarter = (int(n) for n in (*crop, 0)[:4])  # crops were not turned once
      if not 0 < side <= _LARGEST_CROP:
        raise ValueError(f"a crop of {side} pixels")
      crop = Crop((x, y), side, quarter % 4)
    self._crop = crop
    self._factor = float(mark["factor"])
    self._person.restore(mark["person"])

  def _detection(self, seen: Seen, found: float) -> Detection:
    """`found`: the face finder's score."""
    points, disagreement = seen.points, seen.disagreement
    score = found * belief(disagreement)
    landmarks = points[IBUG68]
    box = np.append(bounds(points), np.float32(score)).astype(np.float32)
    iris = plausible_iris(landmarks, points[IRISES])
    return Detection(box, landmarks, iris, points, score, disagreement, seen.apart)

  def _run(self, rgb: np.ndarray, crop: Crop) -> Seen | None:
    origin, side, quarter = crop
    seen = self._mesh(self._cut_out(rgb, *crop), self._fresh)
    self._fresh = False
    if seen is None:
      return None
    points = turned_back(seen.points[:N_DENSE, :2], quarter, (1.0, 1.0))
    points = (points * side + np.array(origin)).astype(np.float32)
    box = bounds(points)
    frame = np.array([0, 0, rgb.shape[1], rgb.shape[0]])
    visible = np.concatenate([np.maximum(box[:2], 0), np.minimum(box[2:], frame[2:])])
    seen = seen._replace(points=points)
    return seen if area(visible) > 0.4 * area(box) and min(box[2:] - box[:2]) > 4 else None

  def _follow(self, rgb: np.ndarray) -> Seen | None:
    last = self._person.last
    if self._crop is None or last is None:
      return None
    seen = self._run(rgb, self._crop)
    # A model that lost its face may have found the neighbour's in the same crop.
    return seen if seen is not None and overlap(bounds(seen.points), last) > 0.1 else None

  def _search(self, rgb: np.ndarray, anywhere: bool = False) -> Seen | None:
    """The person in the image, as they stood last, then in all orientations: near where they were, unless they may be
    `anywhere`, then in all of it."""
    first = 0 if self._crop is None else self._crop.quarter
    thorough = not self._person.met
    looked: dict[tuple, Found | None] = {}

    def look(box: np.ndarray) -> Found | None:
      key = tuple(box.tolist())
      if key not in looked:
        found = self._at(rgb, box, thorough, first)
        looked[key] = None if found is None or found.seen.disagreement > DOUBTED else found
      return looked[key]

    def locate(box: np.ndarray) -> np.ndarray | None:
      return None if (found := look(box)) is None else found.seen.points[IBUG68]

    boxes: list[np.ndarray] = []
    for quarters in ((), (first,), [q for q in range(4) if q != first]):
      boxes = self._find(rgb, quarters, boxes) if quarters else [] if anywhere else self._find_near(rgb, first)
      chosen = self._person.choose(boxes, rgb, locate)
      found = None if chosen is None else look(chosen)
      if chosen is not None and found is not None:
        _, self._crop, self._factor = found
        self._fresh = True
        # Once more, as other crops have been looked at since: the next frame follows this one.
        seen = self._run(rgb, found.crop)
        if seen is not None:
          self._person.last = self._scored(rgb, chosen, first, found.crop.quarter)
          return seen
    return None

  def _scored(self, rgb: np.ndarray, box: np.ndarray, quarter: int, upright: int) -> np.ndarray:
    """The face finder's box; with its score on the image in which the face is upright, if it was another one."""
    boxes = [] if upright == quarter else self._find(rgb, (upright,))
    score = max((other[4] for other in boxes if overlap(other, box) >= SAME_FACE), default=box[4])
    return np.append(box[:4], max(score, box[4])).astype(np.float32)

  def _find(self, rgb: np.ndarray, quarters: Sequence[int], known: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
    """`known` boxes and those of faces in the image turned by each of the `quarters` that do not lie on one before."""
    boxes = list(known)
    for quarter in quarters:
      for box in self._upright(turned(rgb, quarter)):
        corners = turned_back(box[:4].reshape(2, 2), quarter, (rgb.shape[1], rgb.shape[0]))
        boxes.append(np.append(bounds(corners), box[4]).astype(np.float32))
    return distinct(boxes)

  def _find_near(self, rgb: np.ndarray, quarter: int) -> list[np.ndarray]:
    """Boxes of faces around the last one, if that was small."""
    last = self._person.last
    longer = max(rgb.shape[:2])
    if last is None or self._person.cut or max(last[2:4] - last[:2]) >= SMALL * longer:
      return []
    side = round(_AROUND * float(max(last[2:4] - last[:2])))
    x, y = (max(round(float(c)) - side // 2, 0) for c in (last[:2] + last[2:4]) / 2)
    window = np.ascontiguousarray(rgb[y : y + side, x : x + side])
    return [box + np.array([x, y, x, y, 0], np.float32) for box in self._find(window, (quarter,))]

  def _at(self, rgb: np.ndarray, box: np.ndarray, thorough: bool, first: int = 0) -> Found | None:
    """The face in `box` in the orientation in which mesh and mirrored mesh agree best.

    `thorough`: all four are tried, even if they agree well in one. `first`: the quarter that is tried first.
    """
    found: list[Found] = []
    for factor in _CROP_SIDES:
      for quarter in range(first, first + 4):
        crop = self._place(box, factor, quarter % 4)
        seen = self._run(rgb, crop)
        if seen is None or overlap(bounds(seen.points), box) <= 0.2:
          continue
        found.append(Found(seen, crop, factor))
        if not thorough and seen.disagreement < _SURE:
          break
      if any(f.seen.disagreement < DOUBTED for f in found):
        break
    if not found:
      return None
    best = min(found, key=lambda f: f.seen.disagreement)
    # Of crops that show the same, the one in which the face is upright.
    upright = quarter_of(estimate_roll(best.seen.points[IBUG68]))
    best = next((f for f in found if f.crop.quarter == upright and f.seen.disagreement < AGREED), best)
    return best

  def _place(self, box: np.ndarray, factor: float, quarter: int) -> Crop:
    centre = (box[:2] + box[2:4]) / 2
    side = max(round(factor * float(np.max(box[2:4] - box[:2]))), 16)
    corner = round(float(centre[0]) - side / 2), round(float(centre[1]) - side / 2)
    self._crop = crop = Crop(corner, side, quarter)
    self._factor, self._fresh = factor, True
    return crop

  def _recentre(self, box: np.ndarray, landmarks: np.ndarray) -> None:
    """Moves the crop for the next frame once the face nears its edge, has changed its size or is tilted in it."""
    if self._crop is None:
      return
    origin, side, quarter = self._crop
    size = float(np.max(box[2:4] - box[:2]))
    shift = float(np.max(np.abs((box[:2] + box[2:4]) / 2 - np.array(origin) - side / 2)))
    roll = estimate_roll(landmarks)
    tilted = np.cos(roll - quarter * np.pi / 2) < np.cos(_TILT)
    if tilted or shift > 0.5 * side - _LEAVES * size or not _SIZES[0] < self._factor * size / side < _SIZES[1]:
      self._place(box, self._factor, quarter_of(roll) if tilted else quarter)


def _check(rgb: np.ndarray) -> None:
  if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
    raise InputError(f"a detector expects RGB uint8 (H, W, 3), found {rgb.dtype} {rgb.shape}")
