"""The doctor's findings on a healthy installation and on broken ones."""

import pytest

from vht_jax import landmarks
from vht_jax.app import doctor
from vht_jax.errors import InputError


@pytest.fixture(autouse=True)
def no_flame(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("VHT_ASSETS", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_healthy_installation(capsys):
  pytest.importorskip("mediapipe")
  assert doctor.main([]) == 0
  text = capsys.readouterr().out
  for words in ("ok      jax ", "ok      open head", "ok      mediapipe ", "5 of 5 frames", "GiB free", "python"):
    assert words in text, words
  assert "absent  FLAME" in text and "flame.is.tue.mpg.de" in text  # what is missing and where to get it
  assert text.splitlines()[-1] == "a video can be tracked"


def test_what_is_kept_is_counted(tmp_path):
  for name, size in (("programs/a.program", 1 << 20), ("programs/b.program", 1 << 20), ("xla/jit_a-cache", 3 << 20)):
    path = tmp_path / "cache" / "vht_jax" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
  assert "2 traced programs, 5 MiB" in list(doctor.folders())[-1].text


@pytest.mark.faults
def test_without_any_detector_nothing_can_be_tracked(capsys, monkeypatch):
  def missing(name, **_):
    raise InputError(f"no {name} here; install it")

  monkeypatch.setattr(landmarks, "make_detector", missing)
  monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
  assert doctor.main([]) == 1
  text = capsys.readouterr().out
  assert "MISSING mediapipe" in text and "no mediapipe here; install it" in text and "MISSING face_alignment" in text
  assert "cannot be tracked" in text.splitlines()[-1]


@pytest.mark.faults
def test_a_check_that_breaks_is_a_finding(capsys, monkeypatch):
  def broken():
    raise OSError("libcuda\nis odd")

  monkeypatch.setattr(doctor, "devices", broken)
  assert doctor.main([]) == 1
  assert "MISSING jax                OSError: libcuda is odd" in capsys.readouterr().out


def test_flags(capsys, tmp_path):
  assert doctor.main(["--help"]) == 0 and doctor.main(["--what"]) == 2
  assert doctor.attempt("FLAME", lambda: list(doctor.heads(str(tmp_path))), False)[-1].ok is False
