"""Places: memory:// and file:// through fsspec, and paths of this machine."""

from pathlib import Path

import pytest

from vht_jax.errors import InputError
from vht_jax.fleet import storage

pytest.importorskip("fsspec")


@pytest.fixture(params=["path", "file", "memory"])
def place(request, tmp_path):
  import fsspec

  if request.param == "memory":
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs[:] = [""]
  return {"path": str(tmp_path / "x"), "file": f"file://{tmp_path}/x", "memory": "memory://bucket/x"}[request.param]


def test_files_are_written_read_listed_and_matched(place):
  assert not storage.exists(place)
  for name in ("b.mp4", "a.mp4", "in/c.mp4", ".hidden"):
    storage.write(storage.join(place, *name.split("/")), name.encode())
  assert storage.exists(place) and storage.is_folder(place)
  assert storage.read(storage.join(place, "in", "c.mp4")) == b"in/c.mp4"
  assert [(e.name, e.is_folder) for e in storage.entries(place)] == [("a.mp4", False), ("b.mp4", False), ("in", True)]
  assert [storage.read(e.place) for e in storage.entries(place)[:2]] == [b"a.mp4", b"b.mp4"]
  found = storage.matching(storage.join(place, "*.mp4"))
  assert [storage.read(p) for p in found] == [b"a.mp4", b"b.mp4"]
  storage.remove(place, ["in", "a.mp4", "nothing"])
  assert [e.name for e in storage.entries(place)] == ["b.mp4"]
  with pytest.raises(InputError, match="cannot be read"):
    storage.read(storage.join(place, "gone"))


def test_the_version_is_another_when_the_file_is(place):
  name = storage.join(place, "a.mp4")
  assert storage.version(name) == ""
  storage.write(name, b"one")
  before = storage.version(name)
  assert before and storage.version(name) == before
  storage.write(name, b"other")
  assert storage.version(name) != before
  assert storage.version(place)  # of a folder: its files


def away(place):
  if not storage.is_url(place):
    pytest.skip("a path is worked in directly")
  return place


def test_a_folder_comes_back_as_it_was_sent_with_the_record_last(place, tmp_path, monkeypatch):
  place, folder = away(place), tmp_path / "out"
  (folder / "dataset" / "frame_0001").mkdir(parents=True)
  for name in (
    "run.json",
    "result.npz",
    "dataset/frame_0001/image.png",
    ".lock",
    ".run.json.7.tmp",
    "dataset/.read.lock",
  ):
    (folder / name).write_text(name)
  order = []
  fs, _ = storage.file_system(place)
  put = type(fs).put
  monkeypatch.setattr(
    type(fs), "put", lambda self, names, *a, **k: (order.append(sorted(names)), put(self, names, *a, **k))
  )
  n_bytes = storage.send(folder, place)
  assert [[n.rpartition("/")[2] for n in names] for names in order] == [["image.png", "result.npz"], ["run.json"]]
  assert n_bytes == sum(map(len, ("run.json", "result.npz", "dataset/frame_0001/image.png")))
  assert storage.fetch(place, tmp_path / "back") == n_bytes
  assert set(storage.stamps(tmp_path / "back")) == {"run.json", "result.npz", "dataset/frame_0001/image.png"}
  assert (tmp_path / "back" / "result.npz").read_text() == "result.npz"
  # What has not changed since it was fetched is not sent, and what is not wanted neither.
  known = storage.stamps(tmp_path / "back")
  (tmp_path / "back" / "result.npz").write_text("other")
  assert storage.send(tmp_path / "back", place, known=known) == len("other")
  assert storage.send(folder, place, wanted=lambda name: name == "run.json") == len("run.json")


def test_a_fetched_file_is_whole_or_not_there(place, tmp_path, monkeypatch):
  place = away(place)
  storage.write(storage.join(place, "a.mp4"), b"film")
  target = tmp_path / "in" / "a.mp4"
  fs, _ = storage.file_system(place)

  def broken(self, remote, local, **_):
    Path(local).write_bytes(b"fi")
    raise OSError("connection lost")

  with monkeypatch.context() as patch:
    patch.setattr(type(fs), "get_file", broken)
    with pytest.raises(InputError, match="connection lost"):
      storage.fetch(storage.join(place, "a.mp4"), target)
  assert not target.exists()
  assert storage.fetch(storage.join(place, "a.mp4"), target) == 4 and target.read_bytes() == b"film"
  assert storage.fetch(storage.join(place, "a.mp4"), target) == 0
  with pytest.raises(InputError, match="no such file"):
    storage.fetch(storage.join(place, "gone.mp4"), tmp_path / "gone.mp4")


def test_a_protocol_that_is_not_there_is_one_sentence():
  with pytest.raises(InputError, match="nosuch"):
    storage.exists("nosuch://x/y")
