"""Kinds of input that phones, cameras and editors make: put together on the fly, read as the app reads them."""

import fractions

import cv2
import numpy as np
import pytest
from test_video import RED, one_line, picture

from vht_jax import inputs, settings
from vht_jax.errors import InputError
from vht_jax.video import FrameFolder, write_video
from vht_jax.video.child import extract_in_child

av = pytest.importorskip("av")


def encode(path, frames, codec="libx264", pix_fmt="yuv420p", times=None, rate=25, options=None):
  """Writes frames with PyAV; `times` (s) makes the frame rate variable."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate)
    height, width = frames[0].shape[:2]
    stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
    stream.options = options or {}
    if times is not None:
      stream.codec_context.time_base = fractions.Fraction(1, 1000)
    for i, frame in enumerate(frames):
      picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
      if times is not None:
        picture.pts, picture.time_base = round(times[i] * 1000), fractions.Fraction(1, 1000)
      container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def read(path, tmp_path):
  info = extract_in_child(path, tmp_path / "data")
  return info, FrameFolder(tmp_path / "data")


def test_ten_bits(tmp_path):
  frames = [picture(i) for i in range(4)]
  encode(tmp_path / "deep.mp4", frames, pix_fmt="yuv420p10le", options={"crf": "10"})
  info, dataset = read(tmp_path / "deep.mp4", tmp_path)
  assert info.n_frames == 4
  for i in range(4):
    image = dataset.source_image(i)
    assert image.dtype == np.uint8 and np.abs(image.astype(int) - frames[i]).mean() < 4
    assert np.abs(image[4:20, 4:28].astype(int) - RED).max() < 12


def test_a_variable_frame_rate_keeps_every_frame_once(tmp_path):
  times = np.cumsum([0, 0.02, 0.1, 0.03, 0.2, 0.02, 0.02, 0.5])
  frames = [picture(3 * i) for i in range(8)]
  encode(tmp_path / "phone.mp4", frames, times=times, rate=30)
  info, dataset = read(tmp_path / "phone.mp4", tmp_path)
  assert info.n_frames == 8 and 1 < info.fps < 60
  for i in range(8):
    assert np.abs(dataset.source_image(i).astype(int) - frames[i]).mean() < 6


@pytest.mark.parametrize("size", [(97, 131), (50, 33), (17, 401)])
def test_odd_sizes(tmp_path, size):
  frames = [picture(i, size) for i in range(3)]
  encode(tmp_path / "odd.mkv", frames, codec="ffv1", pix_fmt="bgr0")
  info, dataset = read(tmp_path / "odd.mkv", tmp_path)
  assert info.size == dataset.size == size and len(dataset) == 3
  np.testing.assert_array_equal(dataset.source_image(2), frames[2])


def test_a_video_with_alpha(tmp_path):
  """The colours count; masks come from folders of images."""
  frames = [picture(i) for i in range(2)]
  encode(tmp_path / "alpha.mkv", frames, codec="ffv1", pix_fmt="bgra")
  _, dataset = read(tmp_path / "alpha.mkv", tmp_path)
  np.testing.assert_array_equal(dataset.source_image(1), frames[1])


@pytest.mark.parametrize(("codec", "name"), [("mjpeg", "a.avi"), ("libvpx-vp9", "a.webm"), ("mpeg4", "a.mov")])
def test_other_containers(tmp_path, codec, name):
  frames = [picture(i) for i in range(3)]
  try:
    encode(tmp_path / name, frames, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", options={"crf": "10"})
  except Exception as error:  # a build of FFmpeg without it
    pytest.skip(f"{codec} cannot be encoded here ({error})")
  info, dataset = read(tmp_path / name, tmp_path)
  assert info.n_frames == 3
  assert np.abs(dataset.source_image(1).astype(int) - frames[1]).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_photos(tmp_path, orientation):
  """All eight ways to hold a camera."""
  from PIL import Image, ImageOps

  stored = Image.fromarray(picture(size=(40, 60)))
  exif = Image.Exif()
  exif[0x0112] = orientation
  (tmp_path / "photos").mkdir()
  stored.save(tmp_path / "photos" / "a.png", exif=exif)
  with Image.open(tmp_path / "photos" / "a.png") as image:
    expected = np.asarray(ImageOps.exif_transpose(image))
  _, dataset = read(tmp_path / "photos", tmp_path)
  assert dataset.size == ((60, 40) if orientation >= 5 else (40, 60))
  np.testing.assert_array_equal(dataset.source_image(0), expected)


def test_alpha_of_png_folders_becomes_masks(tmp_path):
  folder = tmp_path / "cutout"
  folder.mkdir()
  alpha = np.zeros((96, 128), np.uint8)
  alpha[20:80, 30:100] = 255
  for i in range(3):
    cv2.imwrite(str(folder / f"{i}.png"), np.dstack([picture(i)[..., ::-1], alpha]))
  _, dataset = read(folder, tmp_path)
  assert dataset.has_alpha
  np.testing.assert_array_equal(dataset.alpha(1), alpha)
  np.testing.assert_array_equal(dataset.source_image(1), picture(1))


@pytest.mark.faults
def test_damage_in_the_middle_is_reported_by_frame_and_bridged(tmp_path, caplog):
  """Frames keep their numbers; those that are gone have no folder, and the tracker never sees them."""
  rng = np.random.default_rng(0)
  frames = [cv2.GaussianBlur(rng.integers(0, 256, (96, 128, 3), np.uint8), (9, 9), 3) for _ in range(60)]
  encode(tmp_path / "good.mp4", frames, options={"g": "10", "crf": "15"})
  data = bytearray((tmp_path / "good.mp4").read_bytes())
  start = data.find(b"mdat")
  middle = start + (len(data) - start) // 2
  data[middle : middle + len(data) // 20] = rng.bytes(len(data) // 20)
  (tmp_path / "bad.mp4").write_bytes(data)
  with caplog.at_level("WARNING"):
    info, dataset = read(tmp_path / "bad.mp4", tmp_path)
  missing = sorted(set(range(1, 61)) - set(dataset.frame_ids.tolist()))
  assert info.n_frames == len(dataset) and 0 < len(missing) < 40 and 60 in dataset.frame_ids
  message = "\n".join(caplog.messages)
  assert f"{len(missing)} frames cannot be decoded" in message and str(missing[0] - 1) in message


def app(tmp_path, *flags):
  return settings.parse([f"--output_path={tmp_path / 'o'}", *flags])


class Silent:
  def stage(self, name, total): ...
  def at(self, done, total): ...
  def close(self): ...


def test_cuts_reach_the_detector_and_the_tracker(tmp_path, monkeypatch):
  from vht_jax.landmarks import Detection

  heard = []

  class Detector:
    name = "test"
    count = 0

    def detect(self, rgb):
      self.count += 1
      return Detection(np.array([0, 0, 9, 9, 1.0]), np.random.default_rng(0).uniform(5, 60, (68, 2)))

    def cut(self):
      heard.append(self.count)

    def mark(self):
      return {}

    def close(self): ...

  asked = {}
  monkeypatch.setattr("vht_jax.landmarks.make_detector", lambda *a, **k: asked.update(k) or Detector())
  shots = [np.full((96, 128, 3), 40, np.uint8)] * 8 + [picture()] * 8
  write_video(tmp_path / "two.mp4", shots, 25)
  for flags, cuts in (((), (8,)), (("--cutframes=3",), (3, 8)), (("--nofind_cuts", "--cutframes=3"), (3,))):
    heard.clear()
    name = tmp_path / "_".join(flags or ["plain"]).replace("=", "")
    parsed = app(tmp_path, f"--video={tmp_path / 'two.mp4'}", f"--data_path={name}", *flags)
    dataset, found = inputs.open_dataset(inputs.with_paths(parsed.app), parsed.track, Silent())
    assert found == cuts and heard == list(cuts) and len(dataset) == 16
  heard.clear()
  parsed = app(tmp_path, f"--video={tmp_path / 'two.mp4'}", f"--data_path={tmp_path / 'pictures'}", "--unordered")
  _, found = inputs.open_dataset(inputs.with_paths(parsed.app), parsed.track, Silent())
  assert found == () and heard == list(range(16))  # each picture is searched by itself
  assert asked["face"] == "largest"


def test_people_have_their_own_landmark_files(tmp_path):
  write_video(tmp_path / "a.mp4", [picture()] * 2, 25)
  extract_in_child(tmp_path / "a.mp4", tmp_path / "data")
  names = {face: FrameFolder(tmp_path / "data", face=face).keypoint_path(0).name for face in (None, 0, 3)}
  assert names == {
    None: "keypoints_static_0000.json", 0: "keypoints_face0_0000.json", 3: "keypoints_face3_0000.json",
  }  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("face", ["nobody", "-1", "1.5", "1000", ""])
def test_whom_to_track_is_checked(face):
  with pytest.raises(InputError) as error:
    settings.parse([f"--face={face}"])
  assert "face: expected largest, all or a number" in one_line(error)
