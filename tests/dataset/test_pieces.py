"""A clip that several search at once has the files of one that the run searches alone, whoever is taken for whom."""

import functools
import json
import shutil
import threading
import time

import numpy as np
import pytest

from vht_jax.dataset import annotate, pieces, resume
from vht_jax.dataset.extract import encode_png
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.pieces.helper import help_search
from vht_jax.head.mesh_points import IBUG68
from vht_jax.landmarks.crop import CropTracker
from vht_jax.landmarks.detectors.mediapipe_mesh import CropDetector
from vht_jax.landmarks.mirror import Seen

PALE, BLUE = (230, 180, 150), (60, 90, 230)
N = 60


class Squares(CropDetector):
  """Finds coloured squares; its mesh errs with the place of the crop, and from frame to frame on one crop."""

  name = "squares"

  def __init__(self, face="largest"):
    self._tracker = CropTracker(self._find, self._mesh, face)
    self._grid = np.random.default_rng(0).uniform(0, 1, (478, 2))
    self._grid[IBUG68[0]], self._grid[IBUG68[8]] = 0, 1
    self._age, self.calls = 0, 0

  def detect(self, rgb):
    self.calls += 1
    return super().detect(rgb)

  def close(self):
    pass

  def _find(self, rgb):
    found = []
    for colour in (PALE, BLUE):
      y, x = np.nonzero((rgb == colour).all(axis=-1))
      if len(x) > 16:
        found.append(np.array([x.min(), y.min(), x.max() + 1, y.max() + 1, 0.8], np.float32))
    return found

  def _mesh(self, crop, fresh):
    self._age = 0 if fresh else self._age + 1
    boxes = self._find(crop)
    if not boxes:
      return None
    box = min(boxes, key=lambda b: np.abs((b[:2] + b[2:4]) / 2 - len(crop) / 2).max())
    off = 0.3 * np.sin(box[0]) + 0.05 * min(self._age, 7)
    return Seen((box[:2] + off + self._grid * (box[2:4] - box[:2])) / len(crop), 0.004)


def clip(folder, *people):
  """A dataset; `people`: (colour, where), the place and size in a frame as where(i) -> x, y, size, or None."""
  for i in range(N):
    image = np.full((120, 200, 3), 90, np.uint8)
    for colour, where in people:
      if at := where(i):
        x, y, size = at
        image[y : y + size, x : x + size] = colour
    (folder / f"frame_{i + 1:04d}").mkdir(parents=True)
    (folder / f"frame_{i + 1:04d}" / "image_0000.png").write_bytes(encode_png(image))
  return folder


def files(folder):
  found = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("key*.json")}
  return found, json.loads((folder / "landmarks.json").read_text())


@pytest.fixture(autouse=True)
def short(monkeypatch):
  monkeypatch.setattr(resume, "SEGMENT", 10)
  monkeypatch.setattr(pieces, "RENEW", 20)
  monkeypatch.setattr(pieces, "LEAST", 5)


walk = lambda i: (10 + 2 * i, 30, 40)
still = lambda i: (140, 40, 30)
large = lambda i: (130, 40, 50)
SCENES = {  # people, cuts, who is tracked, and how many frames are left to the run that has been helped
  "one": ([(PALE, walk)], [], "largest", 20),
  "one, with cuts": ([(PALE, lambda i: walk(i) if i < 33 else still(i))], [33, 35], "largest", 20),
  "two": ([(PALE, lambda i: (10 + i % 7, 30, 45)), (BLUE, still)], [], "largest", 20),
  "the smaller one of two": ([(PALE, lambda i: (10, 30, 40)), (BLUE, large)], [], 0, 20),
  "another one after the cut": ([(PALE, lambda i: walk(i) if i < 30 else None), (BLUE, large)], [30], 0, 50),
  "the other one is taken for them": ([(PALE, lambda i: (10, 30, 40)), (BLUE, lambda i: large(i) if i > 9 else None)],
                                      [], "largest", 60),
  "away where a piece begins": ([(PALE, lambda i: None if 18 < i < 24 else walk(i))], [], "largest", 40),
}  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
  """scene -> (the folder of its frames, the files of a run alone); neither is to be written into."""

  @functools.cache
  def of(scene):
    people, cuts, face, _ = SCENES[scene]
    frames = clip(tmp_path_factory.mktemp("scene") / "frames", *people)
    alone = FrameFolder(shutil.copytree(frames, frames.parent / "alone"))
    annotate.annotate(alone, Squares(face), cuts=cuts)
    return frames, files(alone.path)

  return of


def test_pieces_begin_at_cuts_and_renewals():
  assert pieces.cut_up(60, []) == [range(0, 20), range(20, 40), range(40, 60)]
  assert pieces.cut_up(62, [3, 33, 36, 44, 60]) == [range(0, 20), range(20, 33), range(33, 40), range(40, 62)]
  assert pieces.cut_up(4, [1]) == [range(0, 4)]


def announced(folder, cuts=()):
  """The dataset in a folder, of which the run has said what there is to do."""
  dataset = FrameFolder(folder)
  pieces.Pieces(dataset, Squares(), cuts).announce()
  return dataset


class Kill(Exception):
  pass


def killed_after(n):
  """What a helper that is killed when it has searched n frames calls before each."""
  left = iter(range(n))

  def alive():
    if next(left, None) is None:
      raise Kill

  return alive


@pytest.mark.parametrize("scene", SCENES)
def test_files_are_those_of_a_run_alone(scene, tmp_path, searched):
  _, cuts, face, left = SCENES[scene]
  frames, alone = searched(scene)
  shared = announced(shutil.copytree(frames, tmp_path / "shared"), cuts)
  help_search(shared, Squares(face))
  detector = Squares(face)
  annotate.annotate(shared, detector, cuts=cuts)
  assert files(shared.path) == alone and detector.calls == left
  assert not list(shared.path.glob("pieces*"))


def test_a_killed_run_goes_on_with_what_others_have_found(tmp_path, searched):
  frames, alone = searched("one")
  shared = FrameFolder(shutil.copytree(frames, tmp_path / "shared"))

  def kill(done, n):
    if done == 13:
      raise Kill

  with pytest.raises(Kill):
    annotate.annotate(shared, Squares(), kill)
  assert help_search(shared, Squares()) == 2  # now with a mark of the person, of frame 10
  (shared.path / "pieces" / "47.json").unlink()  # of one the files are not all there
  detector = Squares()
  annotate.annotate(shared, detector)
  assert files(shared.path) == alone and detector.calls == 10 + 20
  assert help_search(shared, Squares()) == 0


def test_a_killed_helper_is_gone_on_from_by_another_and_by_the_run(tmp_path, searched):
  frames, alone = searched("two")
  shared = announced(shutil.copytree(frames, tmp_path / "shared"))
  with pytest.raises(Kill):
    help_search(shared, Squares(), killed_after(17))  # frames 40 to 56, marked at 50
  with pytest.raises(Kill):
    help_search(shared, Squares(), killed_after(10 + 14))  # 50 to 59, and 20 to 33, marked at 30
  detector = Squares()
  annotate.annotate(shared, detector)
  assert files(shared.path) == alone
  assert detector.calls == 20 + 10  # not 20 to 29, not 40 to 59


def test_a_helper_that_hangs_is_waited_for_no_longer_than_is_said(tmp_path, monkeypatch, caplog, searched):
  frames, alone = searched("one")
  shared = announced(shutil.copytree(frames, tmp_path / "shared"))
  monkeypatch.setattr(pieces, "STUCK", 0.4)
  monkeypatch.setattr(pieces, "LOOK", 0.02)
  with pytest.raises(Kill):
    help_search(shared, Squares(), killed_after(12))
  helper = pieces.Pieces(shared, Squares(), ())
  detector = Squares()
  with helper.claimed(range(40, 60)):  # for ever; and of the last piece two frames more than are marked
    start = time.monotonic()
    annotate.annotate(shared, detector)
  assert 0.4 < time.monotonic() - start < 20
  assert files(shared.path) == alone and detector.calls == 50
  assert "stood still" in caplog.text


def test_a_helper_that_gets_on_is_waited_for(tmp_path, monkeypatch, searched):
  frames, alone = searched("one")
  shared = announced(shutil.copytree(frames, tmp_path / "shared"))
  monkeypatch.setattr(pieces, "STUCK", 1.5)
  monkeypatch.setattr(pieces, "LOOK", 0.02)
  begun = threading.Event()

  def slowly():
    begun.set()
    time.sleep(0.15)

  helper = threading.Thread(target=help_search, args=(shared, Squares(), slowly))
  helper.start()
  begun.wait()
  detector = Squares()
  annotate.annotate(shared, detector)  # is at the last piece long before the helper has done that, in more than STUCK
  helper.join()
  assert files(shared.path) == alone and detector.calls == 40


def test_who_comes_when_there_is_nothing_to_do_ends(tmp_path, monkeypatch):
  dataset = FrameFolder(clip(tmp_path / "clip", (PALE, walk)))
  monkeypatch.setattr(pieces, "STUCK", 0.1)
  monkeypatch.setattr(pieces, "LOOK", 0.01)
  assert help_search(dataset, Squares()) == 0  # no run says anything
  monkeypatch.setattr(pieces, "STUCK", 1000.0)
  annotate.annotate(dataset, Squares())
  assert help_search(dataset, Squares()) == 0  # it has come to its end


def test_two_do_not_search_the_same_piece(tmp_path):
  dataset = announced(clip(tmp_path / "clip", (PALE, walk)))
  held = pieces.Pieces(dataset, Squares(), ())
  with held.claimed(range(40, 60)):
    assert help_search(dataset, Squares()) == 1
  assert not held.record(40).exists() and held.record(20).exists()
