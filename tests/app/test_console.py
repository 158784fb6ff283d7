"""The summary, the log and TensorBoard."""

import io
import json
import logging
import sys

import numpy as np
import pytest

from vht_jax.app import console
from vht_jax.app.report import summary
from vht_jax.errors import InputError
from vht_jax.fleet import single
from vht_jax.types import Status

SUMMARY = {
  "frames": 10,
  "tracked": 9,
  "nme68_median": 1.234,
  "nme51_median": 1.1,
  "iris_median": float("nan"),
  "jitter_ratio": 0.5,
  "photometric_l1": 0.05,
  "seconds_total": 12.0,
  "frames_per_second": 0.83,
  "stage_seconds": {"detect": 1.0, "camera": 2.0},
  "peak_rss_mb": 900.0,
}


def test_summary_is_json_without_nan(tmp_path):
  summary.write_summary(tmp_path / "summary.json", SUMMARY)
  loaded = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
  assert loaded == {**SUMMARY, "iris_median": None}


def test_summary_fits_one_screen_and_leaves_out_what_is_unknown(tmp_path):
  text = summary.summary_text(SUMMARY, tmp_path, ["a.npz"])
  assert "tracked 9 of 10" in text and "1.23 %" in text and "a.npz" in text and "detect 1.0" in text
  assert "nan" not in text and "truth" not in text
  assert len(text.splitlines()) < 24 and max(map(len, text.splitlines()[:-1])) < 120
  assert "vertices 1.50 mm" in summary.summary_text({**SUMMARY, "vertex_mm": 1.5}, tmp_path, [])
  assert "browser" not in text  # there is no page
  assert str(tmp_path / "report.html") in summary.summary_text(SUMMARY, tmp_path, ["report.html"]).splitlines()[-1]


@pytest.mark.parametrize(
  "sd, said", [(0.2, "focal length 0.50 ± 0.10 (1"), (0.0, "focal length 0.50, as given (1"), (None, "0.50 (1")]
)
def test_the_lens_is_told_with_how_well_it_is_known(tmp_path, sd, said):
  written = summary.write_summary(tmp_path / "summary.json", {**SUMMARY, "focal": 0.5, "focal_sd": sd})
  (line,) = [line for line in summary.summary_text(written, tmp_path, []).splitlines() if "camera   " in line]
  assert said in line and line.endswith("field of view 90 deg")  # as wide as the image is far


def test_colours_are_for_terminals_alone(monkeypatch):
  class Terminal:
    isatty = lambda self: True

  text = "tracked 9 of 10 frames\n  ! The lens"
  monkeypatch.delenv("NO_COLOR", raising=False)
  assert console.painted(text, Terminal()) == "\033[1mtracked 9 of 10 frames\033[0m\n  \033[33m!\033[0m The lens"
  assert console.painted(text, io.StringIO()) == text
  monkeypatch.setenv("NO_COLOR", "1")
  assert console.painted(text, Terminal()) == text


def test_log_has_everything_and_the_terminal_only_warnings(tmp_path, capsys):
  stop = console.start_log(tmp_path / "track.log")
  try:
    logging.getLogger("vht_jax").info("quiet %d", 1)
    for _ in range(3):
      logging.getLogger("absl").warning("loud")
    logging.getLogger("vht_jax").error("the app prints this itself")
  finally:
    stop()
  logging.getLogger("vht_jax").info("after")
  text = (tmp_path / "track.log").read_text()
  assert "quiet 1" in text and text.count("loud") == 1 and "the app prints" in text and "after" not in text
  assert capsys.readouterr().err == "vht-track: loud\n"


def test_what_the_summary_says_again_is_short_while_it_runs(tmp_path, capsys):
  stop = console.start_log(tmp_path / "track.log")
  try:
    console.Progress().note("the head turns by only 7 degrees: the focal length is a guess (+-1.5 %). Give --fov")
    logging.getLogger("vht_jax").warning("nobody repeats this. So it is whole")
  finally:
    stop()
  assert capsys.readouterr().err == (
    "vht-track: the head turns by only 7 degrees: the focal length is a guess (+-1.5 %).\n"
    "vht-track: nobody repeats this. So it is whole\n"
  )
  assert "Give --fov" in (tmp_path / "track.log").read_text()


def test_a_stage_is_one_line_of_the_log_and_where_there_is_no_bar_of_what_the_user_sees(caplog, capsys):
  caplog.set_level(logging.INFO, logger="vht_jax")
  progress = console.Progress()
  progress.stage("detect", 5)
  progress.advance(5)
  progress.stage("frames", 4)
  progress.sound = True
  assert not capsys.readouterr().err  # what is asked for may turn out to be wrong yet, which is one line alone
  for error in (0.2, 0.1234567):
    progress.advance(2, photometric_l1=error)
  progress.stage("report", 1)
  progress.stage("report", 1)
  progress.advance()
  progress.close()
  assert len(caplog.messages) == 4
  assert caplog.messages[1].startswith("frames: 4 frames done in 0.0 s, at last photometric_l1 0.1235")
  detect, frames, _, report = caplog.messages  # of two reports the first had nothing to do
  assert capsys.readouterr().err.splitlines() == [f"vht-track: {line}" for line in (detect, frames, report)]
  # A fleet reads there how far its clips are.
  assert single._STAGE.findall("".join(f" INFO vht_jax: {line}\n" for line in caplog.messages))[:2] == [
    ("detect", "5"), ("frames", "4"),
  ]  # fmt: skip


def test_on_a_terminal_the_bar_says_it_and_with_quiet_nothing_does(caplog, capsys, monkeypatch):
  caplog.set_level(logging.INFO, logger="vht_jax")
  for silent, terminal in ((False, True), (True, False)):
    monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
    progress = console.Progress(silent=silent)
    progress.sound = True
    progress.stage("report", 1)
    progress.close()
    assert "done in" not in capsys.readouterr().err
  assert len(caplog.messages) == 2


def test_every_frame_is_listed_and_the_doubtful_are_marked(tmp_path):
  status = np.array([Status.TRACKED, Status.INTERPOLATED, Status.TRACKED, Status.DIVERGED])
  trust = np.array([0.9, 0.0, 0.2, 0.0])
  frames, times = np.array([1, 2, 4, 5]), np.array([0, 0.04, 0.1234567, 2])
  names = ["a.jpg", 'b,"c.jpg', "\udcff.jpg", "d"]
  assert summary.write_frames(tmp_path / "frames.csv", frames, status, trust, times, names) == 3
  assert (tmp_path / "frames.csv").read_bytes().splitlines() == [
    b"frame,status,confidence,note,time_s,source", b"1,tracked,0.900,,0.000000,a.jpg",
    b'2,interpolated,0.000,doubtful,0.040000,"b,""c.jpg"', b"4,tracked,0.200,doubtful,0.123457,\xff.jpg",
    b"5,diverged,0.000,doubtful,2.000000,d",
  ]  # fmt: skip
  assert "3 are doubtful, see frames.csv" in summary.summary_text({**SUMMARY, "doubtful": 3}, tmp_path, [])


def test_progress_counts_and_times(capsys):
  progress = console.Progress()
  progress.advance(1)  # before any stage: nothing to count
  progress.stage("detect", 3)
  progress.at(1, 3)
  progress.at(3, 3)
  assert progress.step == 3
  progress.stage("frames", 2)
  progress.advance(2, energy=1.0)
  progress.close()
  assert set(progress.seconds) == {"detect", "frames"}
  assert capsys.readouterr().err == ""  # no terminal, no bar


def test_tensorboard_gets_scalars_and_images(tmp_path):
  pytest.importorskip("tensorboardX")
  writer = console.tensorboard_writer(tmp_path / "tb")
  progress = console.Progress(writer, every=2)
  progress.stage("frames", 4)
  for _ in range(4):
    progress.advance(1, photo=0.5)
  progress.close()
  writer.add_image("picture", np.zeros((4, 4, 3), np.uint8), 0, dataformats="HWC")
  writer.close()
  data = b"".join(p.read_bytes() for p in (tmp_path / "tb").iterdir())
  assert data.count(b"frames/photo") == 2 and b"picture" in data


@pytest.mark.faults
def test_tensorboard_missing_is_one_clear_line(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
  with pytest.raises(InputError, match=r"pip install 'vht-jax\[tensorboard\]'"):
    console.tensorboard_writer(tmp_path)
