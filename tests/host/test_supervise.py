"""The programs' second process: exit codes, signals and crashes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vht_jax.host import supervise
from vht_jax.host.files import lock

pytestmark = pytest.mark.faults
linux = pytest.mark.skipif(sys.platform != "linux", reason="its kernel says it")

REPO = Path(__file__).resolve().parents[2]
WORK = """
import ctypes, os, signal, subprocess, sys, threading, time
def well(argv): print("args", *argv); return 0
def badly(argv): return 2
def crash(argv): ctypes.string_at(0)
def eaten(argv): os.kill(os.getpid(), signal.SIGKILL)
def hang(argv):
  lock = threading.Lock()
  while lock.acquire(): pass
def wait_for_work(argv): return subprocess.call([sys.executable, "-c", argv[0]])
def failing(argv): raise ValueError("x")
def sleep(argv):
  try:
    print(os.getpid(), flush=True)
    time.sleep(60)
  except KeyboardInterrupt: print("interrupted"); return 130
"""
CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
from vht_jax.host import supervise
supervise.LOOK, supervise.HUNG = 0.1, 1.0
idle = "--idle" in sys.argv
sys.exit(supervise.supervised("vht-test", sys.argv[1], [word for word in sys.argv[2:] if word != "--idle"], idle))
"""


def start(folder, target, *argv, **options):
  (folder / "lib").mkdir(exist_ok=True)
  (folder / "lib" / "work_of_the_test.py").write_text(WORK)
  environment = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{folder / 'lib'}", "TMPDIR": str(folder)}
  return subprocess.Popen(
    [sys.executable, "-c", CODE, f"work_of_the_test:{target}", *argv], cwd=folder, env=environment, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options,
  )  # fmt: skip


def run(folder, target, *argv):
  process = start(folder, target, *argv)
  out, err = process.communicate(timeout=60)
  return process.returncode, out, err


def left(folder):
  return [path.name for path in folder.glob("vht-crash-*")]


def test_output_and_exit_codes_are_the_childs(tmp_path):
  assert run(tmp_path, "well", "--a=1", "b c") == (0, "args --a=1 b c\n", "")
  assert run(tmp_path, "badly") == (2, "", "")
  code, _, err = run(tmp_path, "failing")
  assert code == 1 and err.endswith("ValueError: x\n")
  assert left(tmp_path) == []


def test_a_crash_is_one_line_that_says_where(tmp_path):
  code, _, err = run(tmp_path, "crash")
  assert code == 1 and err.count("\n") == 1, err
  assert err.startswith("vht-test: error: the run was ended by SIGSEGV") and "(string_at)" in err
  assert "the same command goes on" in err
  (name,) = left(tmp_path)
  assert str(tmp_path / name) in err
  assert "in crash" in (tmp_path / name).read_text()


def test_a_lack_of_memory_is_named(tmp_path):
  code, _, err = run(tmp_path, "eaten")
  assert (code, err.count("\n")) == (1, 1) and "SIGKILL (not enough memory?)" in err
  assert left(tmp_path) == []


@linux
def test_a_child_that_hangs_is_ended_and_one_that_computes_is_not(tmp_path):
  code, _, err = run(tmp_path, "hang")
  assert (code, err.count("\n")) == (1, 1), err
  assert "ended after 0 minutes in which it did nothing, in " in err and "(hang)" in err
  assert len(left(tmp_path)) == 1
  busy = "import time; end = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
  assert run(tmp_path, "wait_for_work", busy) == (0, "", "")  # what its children do is its work
  assert run(tmp_path, "wait_for_work", "import time; time.sleep(2)", "--idle") == (0, "", "")


def test_the_time_of_a_process_that_is_not_there_is_not_known():
  assert supervise.processor_time(2**30) is None


@linux
def test_who_waits_for_a_lock_computes(tmp_path):
  code = (
    "import sys; from pathlib import Path; from vht_jax.host.files import lock\n"
    "with lock(Path(sys.argv[1]), wait=lambda: print('waits', flush=True)): pass"
  )
  with lock(tmp_path / "lock"):
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPO)}) as process:
      assert process.stdout is not None and process.stdout.readline() == b"waits\n"
      schedstat = Path(f"/proc/{process.pid}/schedstat")
      before = int(schedstat.read_text().split()[0])
      time.sleep(2.0)
      nanoseconds = int(schedstat.read_text().split()[0]) - before
      process.kill()
  assert nanoseconds * supervise.HUNG / 2.0 > 2 * 1e7  # two of the hundredths of a second that are looked at


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)])
def test_signals_reach_the_child(tmp_path, number, code):
  process = start(tmp_path, "sleep")
  int(process.stdout.readline())
  process.send_signal(number)
  out, err = process.communicate(timeout=60)
  assert process.returncode == code and err == ""
  assert out == ("interrupted\n" if number == signal.SIGINT else "")


@linux
def test_the_child_dies_with_its_parent(tmp_path):
  with start(tmp_path, "sleep") as process:
    child = int(process.stdout.readline())
    process.kill()
  for _ in range(100):
    if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
      return
    time.sleep(0.05)
  raise AssertionError("the child goes on alone")


def test_modules_in_the_working_folder_are_not_imported(tmp_path):
  (tmp_path / "json.py").write_text("raise SystemExit('canary')")
  (tmp_path / "work_of_the_test.py").write_text("raise SystemExit('canary')")
  run_ = subprocess.run(
    [sys.executable, "-P", "-m", "vht_jax", "--help"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)},
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert run_.returncode == 0 and "--keyframes" in run_.stdout and "canary" not in run_.stderr


def test_debug_stays_in_one_process(monkeypatch):
  monkeypatch.setattr(supervise.subprocess, "Popen", None)
  assert supervise.supervised("vht-test", "vht_jax.app.doctor:main", ["--debug"]) == 2


def test_where_a_crash_was():
  ours = Path(supervise.__file__).parents[1] / "app" / "inputs.py"
  text = (
    "Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n"
    '  File "/usr/lib/a.py", line 1 in wait\n\nCurrent thread 0x2 (most recent call first):\n'
    f'  File "/x/mediapipe/python/base.py", line 340 in process\n  File "{ours}", line 60 in open_dataset\n\nExtension'
  )
  assert supervise._where(text) == ", in python/base.py line 340 (process), in app/inputs.py line 60 (open_dataset)"
  assert supervise._where("") == ""
