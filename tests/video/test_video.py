"""Frames in and out: codecs, extraction, and VHT's folders as observations."""

import json
import os
import re
import signal
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from vht_jax.dataset import child
from vht_jax.dataset.child import extract_in_child
from vht_jax.dataset.extract import encode_png, extract_frames
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.keypoints import write_keypoints
from vht_jax.errors import InputError
from vht_jax.landmarks import Detection
from vht_jax.video.codec import open_video, read_video, write_video
from vht_jax.video.cuts import find_cuts, thumbnail
from vht_jax.video.pixels import resize_antialiased, tracked_size

RED = (255, 0, 0)


def picture(i=0, size=(96, 128)):
  """A smooth picture, different for each i, with a red corner at the top left."""
  y, x = np.mgrid[: size[0], : size[1]]
  image = np.stack([(x + 4 * i) % 200, (y * 2) % 200, np.full(size, (7 * i) % 200)], axis=-1).astype(np.uint8)
  image[: size[0] // 4, : size[1] // 4] = RED
  return image


@pytest.fixture
def clip(tmp_path):
  path = tmp_path / "clip.mp4"
  write_video(path, (picture(i) for i in range(12)), 30)
  return path


def one_line(error):
  message = str(error.value)
  assert "\n" not in message
  return message


def over_grey(rgb, alpha):
  a = alpha[..., None] / 255.0
  return rgb * a + 128 * (1 - a)


def make_dataset(path, n=3, size=(96, 128), face=True):
  landmarks = np.stack([np.linspace(20, 90, 68), np.linspace(10, 80, 68)], axis=1).astype(np.float32)
  for i in range(1, n + 1):
    folder = path / f"frame_{i:04d}"
    folder.mkdir(parents=True)
    (folder / "image_0000.png").write_bytes(encode_png(picture(i, size)))
    if face:
      detection = Detection(np.array([20, 10, 90, 80, 1], np.float32), landmarks + i)
      write_keypoints(folder / "keypoints_static_0000.json", detection, "test")
  return path


# --- codecs ---


def test_round_trip_keeps_frames_rate_and_colour(clip):
  info, frames = read_video(clip)
  frames = list(frames)
  assert info == (30.0, 12, (96, 128)) and len(frames) == 12
  for i, frame in enumerate(frames):
    assert frame.dtype == np.uint8 and frame.shape == (96, 128, 3)
    assert np.abs(frame[4:20, 4:28].astype(int) - RED).max() < 12
    assert np.abs(frame.astype(int) - picture(i)).mean() < 6


def test_written_video_plays_in_browsers(tmp_path):
  import av

  path = tmp_path / "odd.mp4"
  assert write_video(path, (picture(i, (97, 131)) for i in range(5)), 29.97002997) == 5
  data = path.read_bytes()
  assert data.find(b"moov") < data.find(b"mdat"), "the index belongs in front"
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    assert (stream.height, stream.width) == (98, 132)
    assert stream.average_rate.numerator == 30000 and stream.average_rate.denominator == 1001
  assert [p.name for p in tmp_path.iterdir()] == ["odd.mp4"]


def test_write_video_refuses_nonsense(tmp_path):
  with pytest.raises(InputError, match="no frames"):
    write_video(tmp_path / "a.mp4", [], 25)
  with pytest.raises(InputError, match="size"):
    write_video(tmp_path / "a.mp4", [picture(), picture(size=(64, 64))], 25)
  with pytest.raises(InputError, match="uint8"):
    write_video(tmp_path / "a.mp4", [picture() / 255.0], 25)
  assert not list(tmp_path.iterdir())


def test_rotation_in_the_file_is_honoured(clip, tmp_path):
  one = 0x10000
  data = clip.read_bytes()
  upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 0x40000000)
  start = data.index(upright, data.index(b"tkhd"))
  turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 0x40000000)  # to be shown a quarter turn clockwise
  path = tmp_path / "turned.mp4"
  path.write_bytes(data[:start] + turned + data[start + len(upright) :])
  info, frames = read_video(path)
  frame = next(frames)
  assert info.size == frame.shape[:2] == (128, 96)
  assert np.abs(frame[4:28, 76:92].astype(int) - RED).max() < 12


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"this is no video\n" * 50, b"", b"\x00\x00\x00\x20ftypisom" + bytes(200)])
def test_a_file_that_is_no_video_is_one_line(tmp_path, content, capfd):
  path = tmp_path / "clip.mp4"
  path.write_bytes(content)
  with pytest.raises(InputError) as error:
    read_video(path)
  assert str(path) in one_line(error)
  assert capfd.readouterr().err == "", "libraries must not chatter beside our line"


@pytest.mark.faults
def test_missing_video_and_folder(tmp_path):
  for path in (tmp_path / "none.mp4", tmp_path):
    with pytest.raises(InputError) as error:
      read_video(path)
    assert str(path) in one_line(error)


@pytest.mark.faults
def test_truncated_video_gives_what_is_there(tmp_path):
  rng = np.random.default_rng(0)
  path, cut = tmp_path / "clip.mp4", tmp_path / "cut.mp4"
  write_video(path, (rng.integers(0, 255, (96, 128, 3)).astype(np.uint8) for _ in range(20)), 25)
  cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  info, frames = read_video(cut)
  assert info.n_frames == 20 and 3 <= len(list(frames)) < 20


@pytest.mark.faults
def test_damage_in_the_middle_is_skipped_and_later_frames_keep_their_numbers(tmp_path):
  import av

  path, damaged = tmp_path / "clip.mp4", tmp_path / "damaged.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
    stream.options = {"g": "10", "crf": "15"}
    rng = np.random.default_rng(0)
    for i in range(100):
      noisy = np.minimum(picture(i) + rng.integers(0, 9, (96, 128, 3)), 255).astype(np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
    container.mux(stream.encode(None))
  data = bytearray(path.read_bytes())
  start = data.index(b"mdat")
  middle, length = start + (len(data) - start) // 2, (len(data) - start) // 12
  data[middle : middle + length] = rng.bytes(length)
  damaged.write_bytes(data)

  whole, frames = ([p and p.rgb for p in open_video(name).pictures] for name in (path, damaged))
  broken = [i for i, frame in enumerate(frames) if frame is None]
  assert len(whole) == len(frames) == 100 and 0 < len(broken) < 60 and broken[-1] < 99
  after = [i for i in range(broken[-1] + 1, 100)]
  assert all(np.abs(frames[i].astype(int) - whole[i]).mean() < 3 for i in after)

  extract_frames(damaged, tmp_path / "data")
  dataset = FrameFolder(tmp_path / "data")
  assert list(dataset.frame_ids) == [i + 1 for i in range(100) if i not in broken]


@pytest.mark.parametrize("curve, said", [(1, False), (16, True), (18, True)])
def test_hdr_is_said_in_one_line(tmp_path, curve, said, caplog):
  import av

  with av.open(str(tmp_path / "clip.mp4"), "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
    stream.codec_context.color_trc = curve
    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
    container.mux(stream.encode(None))
  with caplog.at_level("WARNING"):
    open_video(tmp_path / "clip.mp4")
  assert ["HDR" in record.getMessage() for record in caplog.records] == [True] * said


# --- extraction ---


def test_extraction_makes_vhts_folders(clip, tmp_path):
  calls = []
  info = extract_frames(clip, tmp_path / "data", progress=lambda done, n: calls.append((done, n)))
  assert info == (30.0, 12, (96, 128)) and calls == [(i, 12) for i in range(1, 13)]
  names = sorted(p.name for p in (tmp_path / "data").iterdir())
  assert names == [f"frame_{i:04d}" for i in range(1, 13)] + ["source.json", "thumbnails.npz"]
  stored = cv2.imread(str(tmp_path / "data/frame_0003/image_0000.png"))[..., ::-1]
  np.testing.assert_array_equal(stored, list(read_video(clip)[1])[2])
  dataset = FrameFolder(tmp_path / "data")
  assert dataset.fps == 30.0 and len(dataset) == 12 and dataset.size == (96, 128)


def times(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob("*.png")}


def test_second_extraction_writes_nothing_and_a_killed_one_goes_on(clip, tmp_path):
  data = tmp_path / "data"
  extract_frames(clip, data)
  before = times(data)
  assert extract_frames(clip, data).n_frames == 12 and times(data) == before
  clip.rename(tmp_path / "renamed.mp4")
  clip = tmp_path / "renamed.mp4"
  assert extract_frames(clip, data).n_frames == 12 and times(data) == before
  # a killed run: some frames are missing, and the record says nothing of being complete
  lost = data / "frame_0007" / "image_0000.png"
  lost.unlink()
  (data / "frame_0007" / ".image_0000.png.123.tmp").write_bytes(b"half")
  assert extract_frames(clip, data).n_frames == 12
  after = times(data)
  assert lost in after and {p: t for p, t in after.items() if p != lost} == {
    p: t for p, t in before.items() if p != lost
  }


def test_max_frames_then_more_then_fewer(clip, tmp_path):
  data = tmp_path / "data"
  assert extract_frames(clip, data, max_frames=4).n_frames == 4
  before = times(data)
  assert extract_frames(clip, data, max_frames=9).n_frames == 9
  assert len(times(data)) == 9 and before.items() <= times(data).items()
  assert extract_frames(clip, data, max_frames=2).n_frames == 2
  assert len(FrameFolder(data, max_frames=2)) == 2 and len(FrameFolder(data, max_frames=0)) == 9


@pytest.mark.faults
def test_a_data_path_of_something_else_is_not_overwritten(clip, tmp_path):
  data = make_dataset(tmp_path / "vht")
  before = times(data)
  with pytest.raises(InputError, match="unknown origin"):
    extract_frames(clip, data)
  other = tmp_path / "other.mp4"
  write_video(other, (picture(i) for i in range(3)), 25)
  extract_frames(other, tmp_path / "data")
  with pytest.raises(InputError, match=r"other\.mp4"):
    extract_frames(clip, tmp_path / "data")
  assert times(data) == before


def test_folder_of_images(tmp_path):
  from PIL import Image

  folder = tmp_path / "images"
  folder.mkdir()
  for i in (1, 2, 10):
    Image.fromarray(picture(i)).save(folder / f"im{i}.png")
  alpha = np.zeros((96, 128), np.uint8)
  alpha[30:60] = 200
  Image.fromarray(np.dstack([picture(3), alpha])).save(folder / "im3.png")
  (folder / "notes.txt").write_text("not an image")
  info = extract_frames(folder, tmp_path / "data")
  assert info.n_frames == 4 and info.fps == 25
  dataset = FrameFolder(tmp_path / "data")
  for position, i in ((0, 1), (1, 2), (3, 10)):  # 10 comes last
    np.testing.assert_array_equal(dataset.image(position), picture(i))
  assert np.abs(dataset.image(2) - over_grey(picture(3), alpha)).max() <= 0.5
  np.testing.assert_array_equal(dataset.alpha(2), alpha)
  assert dataset.alpha(0) is None
  observations = dataset.observations(range(4))
  np.testing.assert_allclose(observations.alpha[2], alpha / 255, atol=1e-6)
  assert observations.alpha[0].min() == 1.0


def test_image_kinds(tmp_path):
  from PIL import Image

  upright = picture(size=(40, 60))
  exif = Image.Exif()
  exif[0x0112] = 6  # shown a quarter turn clockwise
  Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.webp", lossless=True, exif=exif)
  grey = np.linspace(0, 255, 40 * 60).astype(np.uint8).reshape(40, 60)
  cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 257)
  for name, expected in {"turned.webp": upright, "deep.png": np.dstack([grey] * 3)}.items():
    data = tmp_path / f"data_{name}"
    assert extract_frames(tmp_path / name, data).n_frames == 1
    np.testing.assert_array_equal(FrameFolder(data).source_image(0), expected)


@pytest.mark.faults
def test_bad_image_sources(tmp_path):
  from PIL import Image

  folder = tmp_path / "images"
  folder.mkdir()
  with pytest.raises(InputError, match="found none"):
    extract_frames(folder, tmp_path / "data")
  with pytest.raises(InputError, match="no such"):
    extract_frames(tmp_path / "nothing", tmp_path / "data")
  Image.fromarray(picture()).save(folder / "a.png")
  Image.fromarray(picture(size=(64, 64))).save(folder / "b.png")
  with pytest.raises(InputError, match=r"b\.png.*64x64.*96x128"):
    extract_frames(folder, tmp_path / "data")
  (tmp_path / "c.png").write_text("text")
  with pytest.raises(InputError, match=r"c\.png"):
    extract_frames(tmp_path / "c.png", tmp_path / "data2")
  with pytest.raises(InputError, match="data path"):
    extract_frames(make_dataset(tmp_path / "frames"), tmp_path / "data3")


# --- extraction in a process of its own ---


def test_a_child_extracts_the_same(clip, tmp_path, capfd):
  calls = []
  info = extract_in_child(clip, tmp_path / "data", progress=lambda done, n: calls.append((done, n)))
  assert info == (30.0, 12, (96, 128)) and calls[-1] == (12, 12)
  extract_frames(clip, tmp_path / "here")
  for i in range(1, 13):
    name = f"frame_{i:04d}/image_0000.png"
    assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
  with pytest.raises(InputError, match="no such"):
    extract_in_child(tmp_path / "none.mp4", tmp_path / "data2")
  assert capfd.readouterr().err == ""


@pytest.mark.faults
@pytest.mark.parametrize(
  ("code", "words"),
  [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed after 0 frames (SIGSEGV)"),
    ("import sys; sys.exit(3)", "crashed after 0 frames (exit code 3)"),
    ('import time; print(\'{"done": 7, "total": 9}\', flush=True); time.sleep(60)', "hangs after 7 frames"),
    ('print(\'{"error": "x.mp4: is bad"}\')', "x.mp4: is bad"),
  ],
)
def test_what_happens_to_the_child_is_one_line(tmp_path, monkeypatch, code, words):
  import subprocess
  import sys

  start = subprocess.Popen
  monkeypatch.setattr(child.subprocess, "Popen", lambda command, **kw: start([sys.executable, "-c", code], **kw))
  monkeypatch.setattr(child, "STALL", 3.0)
  with pytest.raises(InputError) as error:
    extract_in_child(tmp_path / "x.mp4", tmp_path / "data")
  assert words in one_line(error)


@pytest.mark.faults
def test_a_decoder_that_wants_too_much_memory_is_one_line(clip, tmp_path, monkeypatch):
  """The limit itself, made small: the interpreter with OpenCV does not fit into it."""
  source = child.__file__
  small = tmp_path / "small.py"
  small.write_text(Path(source).read_text().replace("MAX_BYTES = 4 << 30", "MAX_BYTES = 64 << 20"))
  import subprocess
  import sys

  start = subprocess.Popen
  command = [sys.executable, str(small), str(clip), str(tmp_path / "data"), "0"]
  monkeypatch.setattr(child.subprocess, "Popen", lambda _, **kw: start(command, **kw))
  with pytest.raises(InputError) as error:
    extract_in_child(clip, tmp_path / "data")
  assert "clip.mp4" in one_line(error) and signal.SIGSEGV.name not in one_line(error)


# --- cuts ---


def shot(kind, n, seed=0):
  """Thumbnails of n frames of a shot in which something moves fast."""
  rng = np.random.default_rng(seed)
  base = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
  return [np.roll(base, i if kind == "pan" else 0, axis=1) for i in range(n)]


def test_cuts_are_where_shots_meet():
  for kind in ("still", "pan"):
    frames = shot(kind, 12) + shot(kind, 12, 1) + shot(kind, 3, 2) + shot(kind, 9, 3)
    assert find_cuts(np.stack(frames)) == [12, 24, 27]
  assert find_cuts(np.stack(shot("pan", 30))) == []
  assert find_cuts(np.stack(shot("still", 1))) == []


def test_flashes_and_exposure_are_no_cuts():
  frames = shot("still", 20)
  flash = [*frames[:10], np.full((16, 16, 3), 255, np.uint8), *frames[10:]]
  assert find_cuts(np.stack(flash)) == []
  darker = frames[:10] + [np.clip(f.astype(int) - 30, 0, 255).astype(np.uint8) for f in frames[10:]]
  assert find_cuts(np.stack(darker)) == []


@pytest.mark.slow
def test_the_sample_videos_have_no_cuts_but_their_joins(shared_data):
  """Fast heads, pans and automatic exposure must not be taken for cuts."""
  clips = {}
  for name in ("duda_1080p", "frontal_512", "outdoor", "webcam_400x300"):
    path = shared_data / "videos" / f"{name}.mp4"
    if not path.is_file():
      pytest.skip(f"{path} not present")
    clips[name] = np.stack([thumbnail(frame) for frame in read_video(path)[1]])
    assert find_cuts(clips[name]) == [], name
    assert find_cuts(clips[name][::3]) == [], name
  for a in clips:
    for b in clips:
      if a != b:
        assert find_cuts(np.concatenate([clips[a][:40], clips[b][100:140]])) == [40]


def test_a_dataset_knows_its_cuts_with_or_without_thumbnails(tmp_path):
  frames = [np.full((96, 128, 3), 40, np.uint8)] * 8 + [picture(size=(96, 128))] * 8
  write_video(tmp_path / "two.mp4", frames, 25)
  extract_frames(tmp_path / "two.mp4", tmp_path / "data")
  assert FrameFolder(tmp_path / "data").find_cuts() == [8]
  (tmp_path / "data" / "thumbnails.npz").write_bytes(b"damaged")
  assert FrameFolder(tmp_path / "data").find_cuts() == [8]
  (tmp_path / "data" / "thumbnails.npz").unlink()
  assert FrameFolder(tmp_path / "data").find_cuts() == [8]


# --- the dataset ---


def test_reads_a_dataset_of_vht(shared_data):
  path = shared_data / "parity" / "dataset_C"
  if not path.is_dir():
    pytest.skip("parity pack not present")
  dataset = FrameFolder(path)
  assert list(dataset.frame_ids) == [1, 2, 3] and dataset.views == ["image_0000.png"] * 3
  assert dataset.valid.all() and not dataset.has_dense
  person = json.loads((path / "frame_0001/keypoints_static_0000.json").read_text())["people"][0]
  points = dataset.keypoints(0)
  np.testing.assert_allclose(points.landmarks[:68], np.reshape(person["face_keypoints_2d"], (68, 3))[:, :2], rtol=1e-6)
  stored = np.reshape(person["iris_keypoints_2d"], (2, 3))[:, :2]
  np.testing.assert_allclose(points.landmarks[68:], stored[::-1], rtol=1e-6)  # VHT's loader swaps them
  # 68 lies in the eye 36-41, which is on the image's left
  assert points.landmarks[36, 0] < points.landmarks[68, 0] < points.landmarks[39, 0]
  observations = dataset.observations([0, 2])
  assert observations.rgb.shape == (2, *dataset.size, 3) and observations.rgb.dtype == np.float32
  assert observations.rgb.min() >= 0 and observations.rgb.max() <= 1
  assert observations.landmarks.shape == (2, 70, 2) and observations.confidence.shape == (2, 70)
  assert observations.valid.shape == (2,) and observations.dense is None and observations.alpha is None


def test_missing_irises_and_faces_have_no_confidence(tmp_path):
  dataset_path = make_dataset(tmp_path / "data", n=4)
  keypoints = "keypoints_static_0000.json"
  first = dataset_path / "frame_0001" / keypoints
  content = json.loads(first.read_text())
  content["people"][0]["iris_keypoints_2d"] = [-1] * 6
  first.write_text(json.dumps(content))
  (dataset_path / "frame_0002" / keypoints).write_text('{"people": []}')
  (dataset_path / "frame_0003" / keypoints).unlink()
  dataset = FrameFolder(dataset_path)
  assert dataset.valid.tolist() == [True, False, False, True]
  observations = dataset.observations(range(4))
  assert observations.valid.tolist() == [True, False, False, True]
  assert (observations.confidence[0, :68] > 0).all() and (observations.confidence[0, 68:] == 0).all()
  assert (observations.confidence[1:3] == 0).all()
  assert all(np.isfinite(field).all() for field in (observations.landmarks, observations.confidence))


@pytest.mark.parametrize(
  ("options", "size"),
  [
    ({"tracking_resolution": [48, 64]}, (48, 64)),
    ({"downscale_factor": 2.0}, (48, 64)),
    ({"downscale_factor": 2.5}, (38, 51)),  # int(H / s), as VHT
    ({"tracking_resolution": [96, 64], "downscale_factor": 3.0}, (48, 64)),  # fitted, not stretched
    ({"tracking_resolution": [47, 64]}, (47, 64)),  # as it is named, but for rounding
    ({}, (96, 128)),
  ],
)
def test_tracked_size_scales_images_and_landmarks(tmp_path, options, size):
  path = make_dataset(tmp_path / "data", n=1)
  full, dataset = FrameFolder(path), FrameFolder(path, **options)
  assert dataset.size == size and dataset.source_size == (96, 128)
  assert dataset.image(0).shape == (*size, 3)
  scale = np.array([size[1] / 128, size[0] / 96])
  np.testing.assert_allclose(dataset.keypoints(0).landmarks, full.keypoints(0).landmarks * scale, rtol=1e-6)


@pytest.mark.parametrize(
  "size, factor, words",
  [
    ((1, 1), 1.0, "expected sides of 16 to 16384 pixels, found frames of 1x1 (height x width)"),
    ((20, 30), 2.0, "found frames of 20x30 (height x width), of which downscale_factor 2.0 makes 10x15"),
  ],
)
def test_frames_that_are_too_small_are_told_of_by_their_size(size, factor, words):
  with pytest.raises(InputError, match=f"{re.escape(words)}$"):
    tracked_size(size, None, factor)


def test_reduction_is_an_antialiased_triangle_filter():
  """torchvision's resize(antialias=True), which VHT uses, written out."""
  image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)

  def weights(n_in, n_out):
    scale = n_in / n_out
    centre = (np.arange(n_out)[:, None] + 0.5) * scale
    w = np.maximum(1 - np.abs(np.arange(n_in) + 0.5 - centre) / scale, 0)
    return w / w.sum(axis=1, keepdims=True)

  expected = np.einsum("ai,bj,ijc->abc", weights(96, 40), weights(128, 50), image.astype(float))
  assert np.abs(resize_antialiased(image, (40, 50)) - expected).max() < 1.01


def test_frame_ids_come_from_the_names(tmp_path):
  data = make_dataset(tmp_path / "data", n=3)
  (data / "frame_0003").rename(data / "frame_12")
  (data / "frame_0002").rename(data / "frame_10000")
  (data / "frame_0004").mkdir()  # a killed run leaves empty folders
  (data / "frames_of_mine").mkdir()
  assert FrameFolder(data).frame_ids.tolist() == [1, 12, 10000]


def test_prefetch_gives_the_batches_in_order(tmp_path):
  dataset = FrameFolder(make_dataset(tmp_path / "data", n=9), downscale_factor=2, cache_bytes=20_000)
  batches = [[0, 1, 2], [5, 4], [8], [6, 7, 3]]
  for batch, observations in zip(batches, dataset.prefetch(batches), strict=True):
    direct = dataset.observations(batch)
    np.testing.assert_array_equal(observations.rgb, direct.rgb)
    np.testing.assert_array_equal(observations.landmarks, direct.landmarks)
  for _ in dataset.prefetch([[i] for i in range(9)]):
    break  # an abandoned iterator must not hang


def test_observations_are_float_images_of_the_stored_ones(tmp_path):
  dataset = FrameFolder(make_dataset(tmp_path / "data", n=2))
  np.testing.assert_allclose(dataset.observations([1]).rgb[0], picture(2) / 255, atol=1e-6)


@pytest.mark.faults
def test_bad_folders_are_named(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    FrameFolder(tmp_path / "none")
  with pytest.raises(InputError, match="no frame"):
    FrameFolder(tmp_path)
  data = make_dataset(tmp_path / "data", n=3)
  with pytest.raises(InputError, match="downscale_factor"):
    FrameFolder(data, downscale_factor=0)
  with pytest.raises(InputError, match="downscale_factor"):
    FrameFolder(data, downscale_factor=100)
  with pytest.raises(InputError, match="tracking_resolution"):
    FrameFolder(data, tracking_resolution=[64])
  (data / "frame_0003/image_0000.png").write_bytes(encode_png(picture(size=(64, 64))))
  with pytest.raises(InputError, match=r"frame_0003.*64x64"):
    FrameFolder(data)


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["cut", "flipped", "text", "empty"])
def test_a_damaged_image_is_named(tmp_path, fault, capfd):
  data = make_dataset(tmp_path / "data", n=2)
  path = data / "frame_0002/image_0000.png"
  content = bytearray(path.read_bytes())
  if fault == "cut":
    content = content[: len(content) // 2]
  elif fault == "flipped":
    content[len(content) // 2] ^= 0xFF
  else:
    content = b"text" if fault == "text" else b""
  path.write_bytes(content)
  with pytest.raises(InputError) as error:
    FrameFolder(data).observations([0, 1])
  assert "frame_0002" in one_line(error) and capfd.readouterr().err == ""


@pytest.mark.faults
@pytest.mark.parametrize(
  "content", ["", "{", "[]", '{"people": [{}]}', '{"people": [{"face_keypoints_2d": [1, 2, 3]}]}', '{"people": 3}']
)
def test_a_damaged_landmark_file_is_named(tmp_path, content):
  data = make_dataset(tmp_path / "data", n=2)
  (data / "frame_0002/keypoints_static_0000.json").write_text(content)
  with pytest.raises(InputError) as error:
    FrameFolder(data).observations([0])
  assert "frame_0002" in one_line(error)


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_data_path_is_one_line(clip, tmp_path):
  (tmp_path / "locked").mkdir(mode=0o500)
  with pytest.raises(InputError) as error:
    extract_frames(clip, tmp_path / "locked" / "data")
  assert "locked" in one_line(error)
