"""Focal lengths: units, what no lens has, and what photographs say."""

import math

import numpy as np
import pytest
from test_video import one_line, picture

from vht_jax.app import inputs
from vht_jax.app.options import lens, settings
from vht_jax.dataset.extract import extract_frames
from vht_jax.dataset.folder import FrameFolder
from vht_jax.errors import InputError
from vht_jax.video.codec import write_video


def test_units_agree():
  """A 36 x 24 mm film: its lens's focal length is the 35 mm equivalent by definition, its pixels by similarity."""
  size = (2000, 3000)
  for mm in (18.0, 50.0, 200.0):
    assert lens.focal_of_35mm(mm, size) == pytest.approx(mm / 36)
    assert lens.focal_of_px(mm / 36 * 3000, size) == pytest.approx(mm / 36)
    assert lens.focal_of_fov(lens.fov_of(mm / 36)) == pytest.approx(mm / 36)
  assert lens.focal_of_35mm(50, size[::-1]) == lens.focal_of_35mm(50, size)  # held upright
  # 4:3, a phone's 26 mm: the diagonal's field of view is that of the film's
  focal = lens.focal_of_35mm(26, (3000, 4000))
  assert math.atan(0.5 * 1.25 / focal) == pytest.approx(math.atan(0.5 * math.hypot(36, 24) / 26))


def test_plausible_lenses_are_accepted():
  for focal in (0.3, 1.0, 2.5, 9.9):
    lens.check_bare(focal)
  for mm in (10, 16, 50, 800):
    lens.check("x", lens.focal_of_35mm(mm, (1080, 1920)))
  for focal in (11, 24, 35, 600, 4000):  # millimetres and pixels
    with pytest.raises(InputError, match=f"--focal={focal}px.*--focal={focal}mm"):
      lens.check_bare(focal)


def photograph(path, focal=None, size=(40, 60), named=None, zoom=None):
  from PIL import Image

  exif = Image.Exif()
  tags = exif.get_ifd(0x8769)
  if focal:
    tags[0xA405] = focal
  if named:
    tags[0xA002], tags[0xA003] = named
  if zoom:
    tags[0xA404] = zoom
  Image.fromarray(picture(size=size)).save(path, exif=exif)


def known(tmp_path, *flags):
  extract_frames(tmp_path / "photos", tmp_path / "data")
  app, config, _ = settings.parse(list(flags))
  return lens.known_focal(app, config, FrameFolder(tmp_path / "data", downscale_factor=2))


@pytest.fixture
def photos(tmp_path):
  (tmp_path / "photos").mkdir()
  return tmp_path / "photos"


def test_exif_gives_the_focal_length_and_the_user_wins(tmp_path, photos, caplog):
  for i in range(3):
    photograph(photos / f"{i}.jpg", 50, named=(600, 400))
  assert known(tmp_path) == pytest.approx(50 / 36) and "taken from EXIF: 50 mm" in caplog.text
  assert known(tmp_path, "--focal=1.2") == 1.2
  assert known(tmp_path, "--focal=90px") == 1.5  # of the extracted frames, not of the halved ones
  assert known(tmp_path, "--focal=36mm") == pytest.approx(1.0)
  assert known(tmp_path, "--fov=90") == pytest.approx(0.5)


@pytest.mark.parametrize(
  ("kinds", "message"),
  [
    (({"focal": 24}, {"focal": 70}), "name focal lengths of 24 to 70 mm"),
    (({"focal": 24}, {}), "1 of 2 photographs name focal lengths of 24 mm"),
    (({"focal": 1}, {"focal": 1}), "which no lens has"),
    (({"focal": 50, "named": (600, 300)}, {"focal": 50, "named": (600, 300)}), "is a part of it"),
    (({"focal": 50, "zoom": 2.0}, {"focal": 50, "zoom": 2.0}), "zoomed digitally"),
    (({}, {}), ""),
  ],
)
def test_exif_that_may_not_hold_is_not_used(tmp_path, photos, caplog, kinds, message):
  for i, kind in enumerate(kinds):
    photograph(photos / f"{i}.jpg", **kind)
  with caplog.at_level("INFO", logger="absl"):
    assert known(tmp_path) == 0.0
  assert message in caplog.text and (message or not caplog.text)


def test_upright_photographs_and_one_photograph(tmp_path):
  from PIL import Image

  exif = Image.Exif()
  exif[0x0112] = 6
  exif.get_ifd(0x8769).update({0xA405: 28, 0xA002: 60, 0xA003: 40})
  Image.fromarray(picture(size=(40, 60))).save(tmp_path / "photos.jpg", exif=exif)
  extract_frames(tmp_path / "photos.jpg", tmp_path / "data")
  dataset = FrameFolder(tmp_path / "data")
  assert dataset.size == (60, 40) and dataset.focal_35mm == [28.0]


def test_units_that_do_not_fit_the_image(tmp_path, photos):
  photograph(photos / "0.jpg")
  with pytest.raises(InputError) as error:
    known(tmp_path, "--focal=1.2px")
  assert "focal: 1.2 px with images of 60x40 is a field of view of 175 degrees" in one_line(error)
  with pytest.raises(InputError, match="focal: 5000 mm"):
    known(tmp_path, "--focal=5000mm")


class Silent:
  def stage(self, name, total): ...
  def at(self, done, total): ...
  def close(self): ...


@pytest.mark.parametrize("flags", [["--keyframes=2,5"], ["--cutframes=7"], ["--max_frames=3", "--keyframes=3"]])
def test_positions_are_checked_before_extraction(tmp_path, flags):
  write_video(tmp_path / "a.mp4", (np.full((64, 64, 3), 40 * i, np.uint8) for i in range(5)), 25)
  app, config, _ = settings.parse([f"--video={tmp_path / 'a.mp4'}", f"--output_path={tmp_path / 'o'}", *flags])
  with pytest.raises(InputError, match="out of range; positions are 0-based"):
    inputs.open_frames(inputs.with_paths(app), config, Silent())
  assert not list((tmp_path / "o").rglob("*.png"))
  extract_frames(tmp_path / "a.mp4", tmp_path / "data")
  app, config, _ = settings.parse([f"--data_path={tmp_path / 'data'}", *flags])
  with pytest.raises(InputError, match="out of range"):
    inputs.open_frames(inputs.with_paths(app), config, Silent())
