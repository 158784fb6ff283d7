"""Hostile input: seeded mutations of every kind of file that is read. Each loads or is refused in one line.

Nothing may hang (an alarm), allocate more than 4 GiB (the limit of the address space), run code or show a traceback.
"""

import contextlib
import io
import json
import pickle
import resource
import signal
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_assets import arrays, texture, write_flame  # noqa: F401 (fixtures)
from test_results import make_result

from vht_jax import results
from vht_jax.app.options import settings
from vht_jax.app.record import Record
from vht_jax.config import TrackConfig
from vht_jax.dataset.child import extract_in_child
from vht_jax.dataset.extract import extract_frames
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.keypoints import write_keypoints
from vht_jax.errors import InputError
from vht_jax.head.load import load_head
from vht_jax.landmarks import Detection
from vht_jax.video.codec import write_video

pytestmark = pytest.mark.faults

LIMIT = 4 << 30
HANG = 120  # s


@contextlib.contextmanager
def bounded():
  """At most 4 GiB more than now, and not forever."""
  pages = int(Path("/proc/self/statm").read_text().split()[0])
  soft, hard = resource.getrlimit(resource.RLIMIT_AS)

  def hang(*_):
    raise TimeoutError("hangs")

  before = signal.signal(signal.SIGALRM, hang)
  signal.alarm(HANG)
  resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT, hard))
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def mutate(data: bytes, rng) -> bytes:
  """Flipped bits, lost, doubled or overwritten pieces, an early end."""
  data = bytearray(data)
  for _ in range(rng.integers(1, 4)):
    n = len(data)
    if n < 2:
      break
    at, length = int(rng.integers(n)), int(min(rng.integers(1, 64), n))
    match rng.integers(6):
      case 0:
        for i in rng.integers(n, size=rng.integers(1, 9)):
          data[i] ^= 1 << int(rng.integers(8))
      case 1:
        del data[at : at + length]
      case 2:
        data[at:at] = data[at : at + length]
      case 3:
        data[at : at + length] = bytes([int(rng.choice([0, 255, 127, 57]))]) * length
      case 4:
        data[at : at + length] = rng.bytes(length)
      case 5:
        del data[at:]
  return bytes(data)


def mutate_text(text: str, rng) -> str:
  """Numbers become extreme, words other kinds of values; half of the time bytes as well."""
  import re

  pieces = re.split(r"(-?\d+\.?\d*)", text)
  for i in rng.integers(len(pieces), size=rng.integers(1, 4)):
    pieces[i] = str(rng.choice(["1e999", "-1", "NaN", "9" * 20, "null", "[]", "{}", '""', "1e30", "\x00"]))
  text = "".join(pieces)
  return mutate(text.encode(), rng).decode("utf-8", "replace") if rng.random() < 0.5 else text


def mutate_npz(data: bytes, rng) -> bytes:
  """Half of the time inside an array's file, under a right checksum: headers and values; else the archive."""
  if rng.random() < 0.4:
    return mutate(data, rng)
  out = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
    names = old.namelist()
    victim = str(rng.choice(names))
    for name in names:
      content = old.read(name)
      if name == victim:
        head, body = content[:128], content[128:]
        text = head.decode("latin1")
        choice = rng.integers(5)
        if choice == 0:
          head = mutate(head, rng)
        elif choice == 1:
          head = text.replace("(", "(99999999999,", 1).encode("latin1")
        elif choice == 2:
          head = text.replace("<f4", str(rng.choice(["|O", "<U9", "<c8", "|V3", "<i8"]))).encode("latin1")
        elif choice == 3:
          continue  # the array is missing
        else:
          body = mutate(body, rng)
        content = head + body
      new.writestr(name, content)
  return out.getvalue()


def survives(load, *, allowed=()):
  """Runs `load`; a refusal must be one line of ours."""
  with bounded():
    try:
      load()
    except InputError as error:
      message = str(error)
      assert "\n" not in message.strip() and len(message) < 2000, message
      assert "MemoryError" not in message and "hangs" not in message, message
      return message
    except allowed:
      return ""
  return None


def seeds(n, start=0):
  return pytest.mark.parametrize("seed", range(start, start + n))


@pytest.fixture
def flame(tmp_path, arrays, texture, monkeypatch):  # noqa: F811
  monkeypatch.delenv("VHT_ASSETS", raising=False)
  return write_flame(tmp_path / "flame", arrays, texture)


@seeds(10)
def test_pickles(flame, seed):
  """The model, the landmark embedding (an .npy of objects) and the masks."""
  rng = np.random.default_rng(seed)
  for name in ("generic_model.pkl", "generic_model.pkl", "landmark_embedding_with_eyes.npy", "FLAME_masks.pkl"):
    path = flame / name
    whole = path.read_bytes()
    path.write_bytes(mutate(whole, rng))
    survives(lambda: load_head(flame, model="flame"))
    path.write_bytes(whole)


class Canary:
  """Runs code when it is unpickled the usual way."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (open, (str(self.path), "w"))


def test_no_pickle_runs_code(flame, tmp_path):
  canary = tmp_path / "canary"
  for name in ("generic_model.pkl", "FLAME_masks.pkl"):
    path = flame / name
    whole = path.read_bytes()
    content = pickle.loads(whole)
    content["v_template" if "model" in name else "face"] = Canary(canary)
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(InputError, match="refuses to unpickle"):
      load_head(flame, model="flame")
    path.write_bytes(whole)
  objects = np.empty(1, object)
  objects[0] = Canary(canary)
  for file, load in (
    (flame / "landmark_embedding_with_eyes.npy", lambda: load_head(flame, model="flame")),
    (tmp_path / "tracked.npz", lambda: results.load_tracked(tmp_path / "tracked.npz")),
    (tmp_path / "head.npz", lambda: load_head(tmp_path / "head.npz")),
  ):
    (np.save if file.suffix == ".npy" else np.savez)(file, objects, allow_pickle=True)
    assert survives(load)
  assert not canary.exists()
  pickle.loads(pickle.dumps(Canary(canary))).close()
  assert canary.exists()  # it would have


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, open_head):
  path = tmp_path_factory.mktemp("npz") / results.FILE_NAME
  results.save_tracked(path, make_result(open_head), np.arange(1, 5), (48, 64), TrackConfig(), "head")
  return path.read_bytes()


@seeds(8)
def test_results(tracked, tmp_path, open_head, seed):
  rng = np.random.default_rng(100 + seed)
  path = tmp_path / "tracked.npz"
  for _ in range(5):
    path.write_bytes(mutate_npz(tracked, rng))
    survives(lambda: results.for_frames(results.load_tracked(path, open_head), np.arange(1, 6)))


def test_a_bomb_is_not_unpacked(tmp_path):
  """A few kilobytes that become 128 MB of zeros and claim 8 GiB."""
  path = tmp_path / "bomb.npz"
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 31,)})
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    with archive.open("rotation.npy", "w", force_zip64=True) as file:
      file.write(header.getvalue())
      block = bytes(1 << 26)
      for _ in range(2):
        file.write(block)
  assert path.stat().st_size < 1 << 20
  assert "claims" in survives(lambda: results.load_tracked(path))


@seeds(8)
def test_configs(tmp_path, seed):
  rng = np.random.default_rng(200 + seed)
  settings.write_ini(tmp_path / "good.ini", settings.make_settings({}))
  text, path = (tmp_path / "good.ini").read_text(), tmp_path / "bad.ini"
  for _ in range(5):
    path.write_bytes(mutate_text(text, rng).encode())
    survives(lambda: settings.make_settings(settings.read_ini(path)))


@pytest.fixture
def dataset(tmp_path):
  write_video(tmp_path / "clip.mp4", (np.full((64, 80, 3), 20 * i, np.uint8) for i in range(3)), 25)
  extract_frames(tmp_path / "clip.mp4", tmp_path / "data")
  folder = FrameFolder(tmp_path / "data")
  points = np.random.default_rng(0).uniform(5, 60, (68, 2)).astype(np.float32)
  for i in range(3):
    found = Detection(np.array([1, 2, 30, 40, 0.9]), points, points[36:38], np.ones((478, 2), np.float32))
    write_keypoints(folder.keypoint_path(i), found, "test")
  return tmp_path / "data"


@seeds(8)
def test_json(dataset, tmp_path, seed):
  """Landmarks, the dataset's own record, and the run's."""
  rng = np.random.default_rng(300 + seed)
  (tmp_path / "o").mkdir()
  record = Record(tmp_path / "o")
  record.agree("settings", {"a": "1"}, "")
  record.finish({"overlay": "true"})
  keypoints = dataset / "frame_0002" / "keypoints_static_0000.json"
  for path in (keypoints, keypoints, dataset / "source.json", tmp_path / "o" / "run.json", dataset / "thumbnails.npz"):
    whole = path.read_bytes()
    path.write_bytes(mutate(whole, rng) if path.suffix == ".npz" else mutate_text(whole.decode(), rng).encode())

    def load():
      folder = FrameFolder(dataset)
      points, _, _ = folder.landmarks()
      assert np.isfinite(points).all() and np.abs(points).max() < 1e6
      assert folder.find_cuts() == [] and folder.fps > 0
      extract_frames(tmp_path / "clip.mp4", dataset)
      record = Record(tmp_path / "o")
      record.agree("settings", {"a": "1"}, "")
      assert record.finished in (True, False)

    survives(load)
    path.write_bytes(whole)


@pytest.mark.slow
@seeds(8)
def test_videos(tmp_path, seed, capfd):
  rng = np.random.default_rng(400 + seed)
  frames = (cv2.GaussianBlur(rng.integers(0, 256, (96, 128, 3), np.uint8), (9, 9), 3) for _ in range(12))
  write_video(tmp_path / "good.mp4", frames, 25)
  data, path = (tmp_path / "good.mp4").read_bytes(), tmp_path / "bad.mp4"
  header = data[: data.find(b"mdat")]
  for k in range(5):
    # The index is where a file can lie; the pictures only break.
    path.write_bytes(mutate(header, rng) + data[len(header) :] if k % 2 else mutate(data, rng))
    survives(lambda k=k: extract_in_child(path, tmp_path / f"data{k}", 50))
  assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("size", [(65535, 65535), (0, 5), (2**31 - 1, 2**31 - 1)])
def test_a_png_that_claims_to_be_huge(dataset, size):
  import struct
  import zlib

  path = dataset / "frame_0001" / "image_0000.png"
  data = bytearray(path.read_bytes())
  data[16:24] = struct.pack(">II", *size)
  data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
  path.write_bytes(data)
  said = survives(lambda: FrameFolder(dataset))
  assert ("claims" if min(size) else "expected a PNG image") in said


def test_names_in_files_lead_nowhere(tmp_path):
  """No path from a file is used to write: archives with such names and configs are just names."""
  path = tmp_path / "tracked.npz"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("../../escaped.npy", b"x")
  assert survives(lambda: results.load_tracked(path))
  (tmp_path / "source").mkdir()
  data = tmp_path / "a" / "data"
  write_video(tmp_path / "clip.mp4", (np.zeros((64, 64, 3), np.uint8) for _ in range(2)), 25)
  extract_frames(tmp_path / "clip.mp4", data)
  state = json.loads((data / "source.json").read_text())
  (data / "source.json").write_text(json.dumps({**state, "source": "../../x", "frames": ["../../../y", 1]}))
  assert survives(lambda: extract_frames(tmp_path / "clip.mp4", data)) is None
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "clip.mp4", "source", "tracked.npz"]
