"""Mattes from files: which is which frame's, their sizes, and what is said when they do not fit."""

import cv2
import numpy as np
import pytest

from vht_jax.dataset.layout import IMAGE, MASK
from vht_jax.errors import InputError
from vht_jax.masks import Kept, UserMattes
from vht_jax.masks.matching import matched
from vht_jax.video.codec import write_video

SIZE = (48, 64)
VIDEO = [f"clip.mp4#{k}" for k in (0, 1, 2, 4)]  # one frame is missing
IDS = [1, 2, 3, 5]


def grey(k, channels=None):
  return np.full(SIZE if channels is None else (*SIZE, channels), 40 * k + 20, np.uint8)


def folder(path, names, make=grey):
  path.mkdir()
  for k, name in enumerate(names):
    assert cv2.imwrite(str(path / name), make(k))
  return path


def levels(mattes, n):
  return [int(mattes(i)[5, 5]) for i in range(n)]


@pytest.mark.parametrize("start", [0, 1])
def test_numbers_count_from_0_or_1(tmp_path, start):
  path = folder(tmp_path / "mattes", [f"matte_{k + start:04d}.png" for k in range(6)])
  mattes = UserMattes(path, VIDEO, IDS, SIZE)
  assert levels(mattes, 4) == [20, 60, 100, 180]
  assert str(path) in mattes.origin and mattes(0).shape == SIZE and mattes(0).dtype == np.uint8


def test_names_win_over_numbers(tmp_path):
  path = folder(tmp_path / "mattes", ["b7.png", "c1.png", "d3.png"])
  assert levels(UserMattes(path, ["d3.jpg", "b7.jpg", "c1.JPG"], [1, 2, 3], SIZE), 3) == [100, 20, 60]


def test_a_video_of_mattes_goes_by_its_frames(tmp_path):
  path = tmp_path / "mattes.mp4"
  write_video(path, (grey(k, 3) for k in range(6)), 25)
  found = levels(UserMattes(path, VIDEO, IDS, SIZE), 4)
  assert np.abs(np.array(found) - [20, 60, 100, 180]).max() <= 3


def test_alpha_is_the_matte_of_images_that_have_it(tmp_path):
  def cut_out(k):
    image = np.full((*SIZE, 4), 200, np.uint8)
    image[..., 3] = 40 * k
    return image

  path = folder(tmp_path / "mattes", [f"{k}.png" for k in range(5)], cut_out)
  assert levels(UserMattes(path, VIDEO, IDS, SIZE), 4) == [0, 40, 80, 160]


def test_a_datasets_own_masks(tmp_path):
  for k in (1, 2, 3, 5):
    place = tmp_path / f"frame_{k:04d}"
    place.mkdir()
    cv2.imwrite(str(place / IMAGE), grey(0))
    cv2.imwrite(str(place / MASK), grey(k))
  assert levels(UserMattes(tmp_path, VIDEO, IDS, SIZE), 4) == [60, 100, 140, 220]
  (tmp_path / "frame_0003" / MASK).unlink()
  with pytest.raises(InputError, match="frame 3 has no mask_0000.png"):
    UserMattes(tmp_path, VIDEO, IDS, SIZE)


def test_as_many_without_numbers_are_taken_in_order_which_is_told(caplog):
  assert matched(["anna.png", "bert.png"], ["x.mp4#0", "x.mp4#1"], [1, 2], "p") == ([0, 1], "order")
  (line,) = caplog.messages
  assert "taken in their order, anna.png for x.mp4#0 to bert.png for x.mp4#1" in line


NAMED = ["b.jpg", "a.jpg", "c.jpg"]
NUMBERED = ["IMG_7.jpg", "IMG_8.jpg", "IMG_10.jpg"]


@pytest.mark.parametrize("mattes, sources, expected", [
  (["a.png", "b.png", "c.png"], NAMED, ([1, 0, 2], "name")),
  (["a_m.png", "b_m.png", "c_m.png", "d.png"], NAMED, ([1, 0, 2], "name")),
  (["m1_7.png", "m1_8.png", "m1_10.png", "m1_9.png"], ["7.jpg", "8.jpg", "10.jpg"], ([0, 1, 2], "name")),
  (["alpha_0007.png", "alpha_0008.png", "alpha_0009.png", "alpha_0010.png"], NUMBERED, ([0, 1, 3], "number")),
  (["m_0.png", "m_1.png", "m_2.png"], ["IMG_107.jpg", "IMG_108.jpg", "IMG_109.jpg"], ([0, 1, 2], "number")),
  (["frame_1.png", "frame_2.png", "frame_3.png"], [f"frame_000{k}/{IMAGE}" for k in (1, 2, 3)], ([0, 1, 2], "number")),
])  # fmt: skip
def test_the_frames_own_names_come_first_and_their_numbers_next(mattes, sources, expected, caplog):
  assert matched(mattes, sources, [1, 2, 3], "p") == expected
  assert not caplog.messages


@pytest.mark.parametrize("mattes, sources, missing", [
  (["a.png", "b.png", "d.png"], NAMED, "c"),
  (["0.png", "1.png", "2.png"], ["1.jpg", "2.jpg", "3.jpg"], "3"),
  (["m_006.png", "m_007.png", "m_008.png"], NUMBERED, "IMG_10"),
])  # fmt: skip
def test_mattes_of_some_frames_are_not_laid_on_the_others(mattes, sources, missing):
  with pytest.raises(InputError, match=f"found 2 such, and none for {missing}: add {missing}.png"):
    matched(mattes, sources, [1, 2, 3], "p")


def test_it_is_said_by_what_mattes_were_matched(tmp_path):
  path = folder(tmp_path / "mattes", ["a.png", "b.png"])
  assert UserMattes(path, ["b.jpg", "a.jpg"], [1, 2], SIZE).origin == f"mattes of {path}, matched by name"


@pytest.mark.parametrize("names", [["m_17.png", "m_18.png", "m_19.png", "m_20.png"], ["0.png", "1.png", "2.png"],
                                   ["anna.png", "bert.png"]])  # fmt: skip
def test_a_frame_without_a_matte_is_an_error(names):
  with pytest.raises(InputError, match=f"p: expected a matte for each of 4 frames.*found {len(names)}") as error:
    matched(names, VIDEO, IDS, "p")
  assert "\n" not in str(error.value)


def test_other_sizes_and_missing_files_are_errors(tmp_path):
  path = folder(tmp_path / "mattes", [f"{k}.png" for k in range(5)])
  with pytest.raises(InputError, match="mattes of 48x64, the frames have 96x128"):
    UserMattes(path, VIDEO, IDS, (96, 128))
  with pytest.raises(InputError, match="no such file"):
    UserMattes(tmp_path / "none", VIDEO, IDS, SIZE)
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="expected images"):
    UserMattes(tmp_path / "empty", VIDEO, IDS, SIZE)


def test_masks_are_made_once_and_kept():
  made = []

  def masks():
    for k in range(4):
      made.append(k)
      yield grey(k)

  kept = Kept(masks)
  assert not made
  assert [int(kept(i)[0, 0]) for i in (2, 0, 1, 2, 3)] == [100, 20, 60, 100, 140]
  assert made == [0, 1, 2, 3]


def test_a_dataset_without_mattes_is_told_so(tmp_path):
  path = tmp_path / "frame_0001"
  path.mkdir()
  assert cv2.imwrite(str(path / IMAGE), grey(1))
  with pytest.raises(InputError, match=f"expected {MASK} in the folders of this dataset, found none"):
    UserMattes(tmp_path, VIDEO, IDS, SIZE)
