"""Children that are forked from a prepared process are what fresh ones are, and die when they would."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vht_jax.fleet import prepared
from vht_jax.host.supervise import ending

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children are started from nothing")
HERE = Path(__file__).parent
END = 30.0  # s


@pytest.fixture
def call(tmp_path):
  """A call of a function of calls.py."""

  def make(name, *argv, folder=None, cores=(), **environment):
    places = [tmp_path / file for file in ("stack", "out", "err")]
    for place in places:
      place.touch()
    found = {**os.environ, "PYTHONPATH": str(HERE), **environment}
    return prepared.Call(f"calls:{name}", argv, *places, found, folder and str(folder), cores)

  yield make
  prepared.close()


def ended(child):
  until = time.monotonic() + END
  while (code := child.wait(0.1)) is None:
    assert time.monotonic() < until
  return code


def lives(pid):
  try:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
  except OSError:
    return False


def gone(pid):
  until = time.monotonic() + END
  while lives(pid) and time.monotonic() < until:
    time.sleep(0.02)
  return not lives(pid)


def said(call):
  return json.loads(call.out.read_text())


def test_each_call_has_a_process_of_its_own_in_which_nothing_has_run(call, tmp_path):
  (tmp_path / "here").mkdir()
  core = min(os.sched_getaffinity(0))
  first, second = call("say", "1"), call("say", "2", "3", folder=tmp_path / "here", cores=(core,))
  assert ended(prepared.start(first)) == 3
  one = said(first)
  assert first.err.read_text() == "complaint\n"
  assert ended(prepared.start(second)) == 3
  two = said(second)
  assert one[0] != two[0] and one[1] == one[2] == two[1] == two[2]  # forked from where the module was imported
  assert one[3:] == [1, ["1"], os.getcwd(), sorted(os.sched_getaffinity(0)), None]
  assert two[3:] == [1, ["2", "3"], str(tmp_path / "here"), [core], None]
  other = call("say", X="x")
  assert ended(prepared.start(other)) == 3
  assert said(other)[1] != one[1] and said(other)[-1] == "x" and gone(one[1])


def test_errors_and_crashes_are_told_as_of_a_fresh_process(call):
  fresh, forked = [], []
  for found, start in ((fresh, prepared._Fresh), (forked, prepared.start)):
    for name in ("fail", "crash"):
      made = call(name)
      code = ended(start(made))
      lines = made.err.read_text().strip().splitlines()[-1:]
      found.append((code, lines, ending(code, made.stack) if code < 0 else ""))
  assert fresh == forked
  assert fresh[0][:2] == (1, ["ValueError: broken"]) and fresh[1][0] == -signal.SIGSEGV and "string_at" in fresh[1][2]


def test_who_is_killed_takes_those_below_along_and_the_next_call_is_done(call, tmp_path):
  def begun():
    until = time.monotonic() + END
    (tmp_path / "pid").unlink(missing_ok=True)
    child = prepared.start(call("sleep", str(tmp_path / "pid")))
    while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
      assert time.monotonic() < until
    return child, int(pid)

  child, pid = begun()
  os.kill(pid, signal.SIGKILL)
  assert ended(child) == -signal.SIGKILL
  child, pid = begun()
  server = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
  os.kill(server, signal.SIGKILL)
  assert ended(child) == -signal.SIGKILL and gone(pid)
  child, pid = begun()
  child.end()
  assert gone(pid)
  made = call("say")
  assert ended(prepared.start(made)) == 3
  server = said(made)[1]
  assert lives(server) and ended(prepared.start(call("say"))) == 3
  os.kill(server, signal.SIGKILL)  # one that has nothing to do
  assert gone(server) and ended(prepared.start(call("say"))) == 3


def test_nothing_outlives_a_killed_worker(call, tmp_path):
  code = (
    "import os, sys; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path; from vht_jax.fleet import prepared\n"
    "places = [Path(sys.argv[2], name) for name in ('stack', 'out', 'err')]\n"
    "call = prepared.Call('calls:sleep', [sys.argv[2] + '/pid'], *places, dict(os.environ))\n"
    "while prepared.start(call).wait(60) is None: pass"
  )
  command = [sys.executable, "-c", code, str(HERE.parents[1]), str(tmp_path)]
  worker = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(HERE)})
  until = time.monotonic() + END
  while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
    assert time.monotonic() < until and worker.poll() is None
  server = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
  assert server != worker.pid
  worker.kill()
  worker.wait()
  assert gone(int(pid)) and gone(server)


def test_threads_after_the_imports_forbid_a_fork(call):
  for _ in range(2):
    made = call("say", THREADS="1")
    assert ended(prepared.start(made)) == 3
    pid, parent, at_import, *_ = said(made)
    assert pid == at_import and parent == os.getpid()
