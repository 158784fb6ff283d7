"""Kinds of input that phones, cameras and editors make: put together on the fly, read as the app reads them."""

import fractions

import cv2
import numpy as np
import pytest
from test_video import RED, one_line, over_grey, picture

from vht_jax.app import inputs
from vht_jax.app.options import settings
from vht_jax.dataset.child import extract_in_child
from vht_jax.dataset.extract import extract_frames
from vht_jax.dataset.folder import FrameFolder
from vht_jax.errors import InputError
from vht_jax.video.codec import write_video

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


def test_a_video_with_alpha_that_is_opaque(tmp_path):
  frames = [picture(i) for i in range(2)]
  encode(tmp_path / "alpha.mkv", frames, codec="ffv1", pix_fmt="bgra")
  _, dataset = read(tmp_path / "alpha.mkv", tmp_path)
  np.testing.assert_array_equal(dataset.source_image(1), frames[1])
  assert not dataset.has_alpha


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
  np.testing.assert_array_equal(dataset.masks([0, 2]), [alpha, alpha])
  assert np.abs(dataset.source_image(1) - over_grey(picture(1), alpha)).max() <= 0.5


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
  monkeypatch.setattr("vht_jax.app.inputs.make_detector", lambda *a, **k: asked.update(k) or Detector())
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


# --- what a file says about itself ---


def extract(path, tmp_path):
  """`read` in this process, which is quicker."""
  info = extract_frames(path, tmp_path / "data")
  return info, FrameFolder(tmp_path / "data")


def test_pixels_that_are_not_square_become_so(tmp_path):
  """A circle is a circle again: the side with fewer samples is enlarged, in videos upright and turned."""
  y, x = np.mgrid[:120, :160] + 0.5
  inside = (x / 160 - 0.5) ** 2 + (y / 120 - 0.5) ** 2 < 0.16
  disc = np.repeat(inside[..., None], 3, 2).astype(np.uint8) * 255
  for aspect, size in (("4/3", (120, 213)), ("2/3", (180, 160))):
    path = tmp_path / f"{aspect[0]}.mkv"
    with av.open(str(path), "w") as container:
      stream = container.add_stream("libx264", rate=25)
      stream.height, stream.width, stream.pix_fmt = 120, 160, "yuv420p"
      stream.codec_context.sample_aspect_ratio = fractions.Fraction(aspect)
      for _ in range(2):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(disc, format="rgb24")))
      container.mux(stream.encode(None))
    info, dataset = extract(path, tmp_path / aspect[0])
    image = dataset.source_image(0)
    assert info.size == dataset.size == image.shape[:2] == size
    extent = [np.ptp(np.flatnonzero((image[..., 0] > 128).any(axis=k))) + 1 for k in (0, 1)]
    np.testing.assert_allclose(extent, [0.8 * size[1], 0.8 * size[0]], atol=2)


def test_pixel_aspect_that_cannot_be_is_not_believed(tmp_path, caplog):
  from vht_jax.video.pixels import square_size

  assert square_size((100, 200), 7.0, "a.mp4") == (100, 200) and "not believed" in caplog.text
  assert square_size((1080, 1920), 4320 / 4319, "a.mp4") == (1080, 1920)
  with pytest.raises(InputError, match="square pixels"):
    square_size((100, 10000), 2.0, "a.mp4")


def test_the_log_says_that_pixels_were_made_square(tmp_path, caplog):
  from PIL import Image

  Image.fromarray(picture(size=(90, 100))).save(tmp_path / "fax.tif", dpi=(100, 50))
  with caplog.at_level("INFO", logger="absl"):
    info, _ = read(tmp_path / "fax.tif", tmp_path)
  assert info.size == (180, 100) and "100x90 (width x height) becomes 100x180 with square pixels" in caplog.text


@pytest.mark.parametrize("kind", ["png", "tif", "jpg"])
def test_pixel_aspect_of_images(tmp_path, kind):
  from PIL import Image

  Image.fromarray(picture(size=(60, 40))).save(tmp_path / f"a.{kind}", dpi=(150, 300))
  Image.fromarray(picture(size=(60, 40))).save(tmp_path / f"b.{kind}", dpi=(300, 301))
  assert extract(tmp_path / f"a.{kind}", tmp_path / "1")[0].size == (60, 80)
  assert extract(tmp_path / f"b.{kind}", tmp_path / "2")[0].size == (60, 40)


def add_stream(container, codec, size, pix_fmt, default=True):
  stream = container.add_stream(codec, rate=25)
  stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
  stream.disposition = int(av.stream.Disposition.default) if default else 0
  return stream


@pytest.mark.parametrize("cover", [(64, 64), (480, 480)])
def test_a_cover_picture_is_not_the_film(tmp_path, cover):
  """Before the film, larger or smaller, and not even marked as a picture."""
  path = tmp_path / "film.mkv"
  with av.open(str(path), "w") as container:
    still = add_stream(container, "mjpeg", cover, "yuvj420p")
    film = add_stream(container, "libx264", (96, 128), "yuv420p")
    container.mux(still.encode(av.VideoFrame.from_ndarray(picture(size=cover), format="rgb24")))
    container.mux(still.encode(None))
    for i in range(6):
      container.mux(film.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
    container.mux(film.encode(None))
  info, dataset = extract(path, tmp_path)
  assert info.n_frames == 6 and info.size == (96, 128)
  assert np.abs(dataset.source_image(5).astype(int) - picture(5)).mean() < 6


def test_of_several_films_the_default_one_then_the_largest(tmp_path):
  for name, defaults, expected in (("a", (False, True), (64, 64)), ("b", (True, True), (96, 128))):
    path = tmp_path / f"{name}.mkv"
    with av.open(str(path), "w") as container:
      streams = [
        add_stream(container, "libx264", size, "yuv420p", d) for size, d in zip(((96, 128), (64, 64)), defaults)
      ]
      for i in range(3):
        for stream in streams:
          size = (stream.height, stream.width)
          container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i, size), format="rgb24")))
      for stream in streams:
        container.mux(stream.encode(None))
    assert extract(path, tmp_path / name)[0].size == expected


def test_times_of_a_variable_frame_rate(tmp_path):
  times = np.cumsum([0.3, 0.02, 0.1, 0.03, 0.2, 0.02, 0.02, 0.5])
  encode(tmp_path / "phone.mkv", [picture(3 * i) for i in range(8)], times=times, rate=30)
  _, dataset = extract(tmp_path / "phone.mkv", tmp_path)
  assert dataset.times.dtype == np.float64 and not dataset.times_assumed and not dataset.steady
  np.testing.assert_allclose(dataset.times, times - times[0], atol=1.1e-3)
  assert dataset.sources == [f"phone.mkv#{i}" for i in range(8)]
  shorter = FrameFolder(tmp_path / "data", max_frames=3)
  np.testing.assert_array_equal(shorter.times, dataset.times[:3])


def test_times_survive_a_kill_and_an_older_dataset_gets_them(tmp_path):
  import json

  encode(tmp_path / "a.mp4", [picture(i) for i in range(5)], rate=10)
  _, dataset = extract(tmp_path / "a.mp4", tmp_path)
  np.testing.assert_allclose(dataset.times, np.arange(5) / 10)
  assert dataset.steady and not dataset.times_assumed
  record = tmp_path / "data" / "source.json"
  whole = json.loads(record.read_text())
  old = {k: whole[k] for k in ("source", "identity", "fps", "size", "frames", "limit", "complete")}
  record.write_text(json.dumps(old))
  assert FrameFolder(tmp_path / "data").times_assumed
  np.testing.assert_allclose(FrameFolder(tmp_path / "data").times, np.arange(5) / 10)
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*.png")}
  _, again = extract(tmp_path / "a.mp4", tmp_path)
  assert not again.times_assumed and json.loads(record.read_text()) == whole
  assert {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*.png")} == before
  record.write_text(json.dumps({**old, "size": [300, 300]}))  # as if made without square pixels
  with pytest.raises(InputError, match="--restart"):
    extract(tmp_path / "a.mp4", tmp_path)


def test_damaged_times_are_assumed(tmp_path):
  import json

  encode(tmp_path / "a.mp4", [picture(i) for i in range(4)])
  extract(tmp_path / "a.mp4", tmp_path)
  record = tmp_path / "data" / "source.json"
  whole = json.loads(record.read_text())
  for bad in ([0, 1, 1, 2], [0, 1], "x", None, [0, "a", 2, 3], [0, 2, 1, 3], [0, 1, 2, float("inf")]):
    record.write_text(json.dumps({**whole, "times": bad}))
    dataset = FrameFolder(tmp_path / "data")
    np.testing.assert_allclose(dataset.times, np.arange(4) / 25)
  record.write_text("[]")
  assert FrameFolder(tmp_path / "data").sources[2] == "frame_0003/image_0000.png"


@pytest.mark.parametrize(
  ("names", "times"),
  [
    (("img_7", "img_9", "img_10", "img_100"), (0, 2, 3, 93)),
    (("IMG_20240101_07", "IMG_20240101_08", "IMG_20240101_19"), (0, 1, 12)),
    (("a1_1", "a2_5", "a3_9"), (0, 1, 2)),  # two numbers change: no sequence
    (("anna", "bert", "carla"), (0, 1, 2)),
    (("1", "01"), (0, 1)),  # the same number twice
  ],
)
def test_holes_in_numbered_names_are_time(tmp_path, names, times):
  (tmp_path / "images").mkdir()
  for i, name in enumerate(names):
    cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), picture(i))
  (tmp_path / "images" / ".DS_Store").write_bytes(b"x")
  (tmp_path / "images" / "._img_8.png").write_bytes(b"x")
  (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
  _, dataset = extract(tmp_path / "images", tmp_path)
  assert sorted(dataset.sources) == sorted(f"{n}.png" for n in names)
  np.testing.assert_allclose(dataset.times, np.array(times) / 25)
  assert dataset.times_assumed and dataset.frame_ids.tolist() == list(range(1, len(names) + 1))


@pytest.mark.parametrize("kind", ["webp", "gif", "png", "avif", "tiff"])
def test_all_pictures_of_an_animation(tmp_path, kind):
  from PIL import Image, features

  if kind == "avif" and not features.check("avif"):
    pytest.skip("this Pillow has no AVIF")
  frames = [np.full((64, 80, 3), 30 * i, np.uint8) for i in range(5)]
  first, *rest = map(Image.fromarray, frames)
  options = {} if kind == "tiff" else {"duration": [40, 80, 120, 40, 200]}
  first.save(tmp_path / f"a.{kind}", save_all=True, append_images=rest, **options)
  info, dataset = extract(tmp_path / f"a.{kind}", tmp_path)
  assert info.n_frames == len(dataset) == 5 and dataset.sources == [f"a.{kind}#{i}" for i in range(5)]
  for i in range(5):
    assert np.abs(dataset.source_image(i).astype(int) - frames[i]).max() < 6
  if kind == "tiff":
    assert dataset.times_assumed
    np.testing.assert_allclose(dataset.times, np.arange(5) / 25)
  else:
    assert not dataset.times_assumed
    np.testing.assert_allclose(dataset.times, [0, 0.04, 0.12, 0.24, 0.28])
    assert info.fps == pytest.approx(4 / 0.28)


def test_pages_that_are_thumbnails_are_no_frames(tmp_path):
  from PIL import Image, TiffImagePlugin

  pages = [Image.fromarray(picture(i)) for i in range(3)]
  with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "a.tif"), True) as file:
    for i, page in enumerate(pages):
      page.encoderinfo, page.encoderconfig = {"tiffinfo": TiffImagePlugin.ImageFileDirectory_v2()}, ()
      page.encoderinfo["tiffinfo"][254] = 1 if i == 1 else 0
      TiffImagePlugin._save(page, file, "a.tif")
      file.newFrame()
  _, dataset = extract(tmp_path / "a.tif", tmp_path)
  assert len(dataset) == 2
  np.testing.assert_array_equal(dataset.source_image(1), picture(2))


def test_the_second_picture_of_a_cameras_jpeg_is_no_frame(tmp_path):
  from PIL import Image

  Image.fromarray(picture(0)).save(
    tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(picture(9, (48, 64)))]
  )
  info, dataset = extract(tmp_path / "a.jpg", tmp_path)
  assert info.n_frames == 1 and dataset.sources == ["a.jpg"]


@pytest.mark.parametrize(
  ("codec", "pix_fmt", "name"), [("libvpx-vp9", "yuva420p", "a.webm"), ("ffv1", "bgra", "a.mkv")]
)
def test_alpha_of_videos_becomes_masks(tmp_path, codec, pix_fmt, name):
  alpha = np.zeros((96, 128), np.uint8)
  alpha[20:80, 30:100] = 255
  frames = [np.dstack([picture(i), alpha]) for i in range(3)]
  with av.open(str(tmp_path / name), "w") as container:
    stream = container.add_stream(codec, rate=25)
    stream.height, stream.width, stream.pix_fmt = 96, 128, pix_fmt
    stream.options = {"crf": "4", "b": "0", "auto-alt-ref": "0"} if codec != "ffv1" else {}
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba")))
    container.mux(stream.encode(None))
  info, dataset = extract(tmp_path / name, tmp_path)
  assert info.n_frames == 3 and dataset.has_alpha
  assert np.abs(dataset.alpha(1).astype(int) - alpha).mean() < 2
  assert np.abs(dataset.source_image(1) - over_grey(picture(1), alpha)).mean() < 4


@pytest.mark.parametrize(
  ("a", "b", "c", "d", "corner"),
  [(1, 0, 0, 1, (0, 0)), (0, 1, -1, 0, (0, 1)), (-1, 0, 0, -1, (1, 1)), (0, -1, 1, 0, (1, 0)), (-1, 0, 0, 1, (0, 1)),
   (0, 1, 1, 0, (0, 0))],
)  # fmt: skip
def test_display_matrices(a, b, c, d, corner):
  """Quarter turns and mirrors: the corner that was at the top left, and the sides."""
  from vht_jax.video.pixels import turn

  image = np.zeros((4, 6), np.uint8)
  image[0, 0], image[0, 5] = 1, 2
  turned = turn(image, np.array([[a, b], [c, d]], float))
  assert turned.shape == ((6, 4) if b else (4, 6))
  rows, columns = np.nonzero(turned == 1)
  assert (rows[0] > 0, columns[0] > 0) == tuple(map(bool, corner))
  moved = np.array(np.nonzero(turned == 2)).ravel()[::-1] - [columns[0], rows[0]]  # where +x goes, as (x, y)
  np.testing.assert_array_equal(moved, 5 * np.array([a, b]))


def test_written_times_play_in_real_time(tmp_path):
  times = [0.0, 0.04, 0.5, 0.52, 1.7]
  write_video(tmp_path / "a.mp4", (picture(i) for i in range(5)), 25, times)
  _, dataset = extract(tmp_path / "a.mp4", tmp_path)
  np.testing.assert_allclose(dataset.times, times, atol=2e-5)
