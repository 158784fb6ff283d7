"""The programs work in a child, so that a crash of native code in them ends in one line that says where it happened.

Decoders of images, MediaPipe and XLA are native code that a damaged file or a lack of memory can bring down, and with
it the process in which they run: nothing in there can catch that. So `vht-track`, `vht-demo` and `vht-doctor` are two
processes: the one that the user started waits for the one that works. Videos are decoded in yet another one, with
bounded memory (`dataset.child`). With --debug there is one process, as debuggers want it.

Native code can also wait for itself for ever (XLA's threads for each other). A run that does is ended likewise
(`watched`). One that waits for others looks again and again, and so computes; nor does any decoder take that long.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from vht_jax.host import launch

_HERE = Path(__file__).resolve().parents[1]
_START = "from vht_jax.host.supervise import main; main(sys.argv[1:])"
LOOK = 10.0  # s between two looks at what a child has computed
HUNG = 600.0  # s in which a child that is at work has computed something: 10 ms are seen
_WANTED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE")  # ends that somebody asked for


def supervised(program: str, target: str, argv: list[str], idle: bool = False) -> int:
  """Runs `target` in a child with this process's terminal; returns its exit code, 1 after a crash.

  Args:
    program: name for the message.
    target: 'package.module:function', called with `argv`; it returns the exit code.
    argv: flags.
    idle: it may wait for its user, and so compute nothing.
  """
  if "--debug" in argv:
    os.environ.update(launch.environment())
    return _call(target, argv)
  handle, name = tempfile.mkstemp(prefix="vht-crash-", suffix=".txt")
  os.close(handle)
  stack = Path(name)  # faulthandler's
  try:
    child = subprocess.Popen(command(stack, target, argv), env=launch.environment())
    with _forwarding(child), watched(None if idle else child.pid) as watch:
      code = child.wait()
    if code >= 0:
      return code
    if _name(code) in _WANTED:
      return 128 - code
    kept = f" (stack in {stack})" if stack.stat().st_size else ""
    print(
      f"{program}: error: the run was {ending(code, stack, watch.hung)}{kept}; the same command goes on",
      file=sys.stderr,
    )
    return 1
  finally:
    if not stack.stat().st_size:
      stack.unlink()


def command(stack: Path, target: str, argv: Sequence[str]) -> list[str]:
  """The command line of a child that calls `target` with `argv` and dies with the process that asks for it now.

  Args:
    stack: a file for what faulthandler says of a crash.
    target: 'package.module:function'; returns the exit code.
    argv: flags.
  """
  return launch.command(_START, str(stack), str(os.getpid()), target, *argv)


def ending(code: int, stack: Path, hung: bool = False) -> str:
  """How a child was ended by a signal, in words: which or why, and where it was as far as `stack` says."""
  reason = _name(code)
  hint = " (not enough memory?)" if reason == "SIGKILL" else ""
  how = f"ended after {HUNG / 60:.0f} minutes in which it did nothing" if hung else f"ended by {reason}{hint}"
  return f"{how}{_where(stack.read_text(errors='replace'))}"


class Watch:
  """What `watched` has found."""

  hung = False  # it has ended the child


@contextlib.contextmanager
def watched(process: int | None) -> Iterator[Watch]:
  """Ends a child that hangs inside the block as native code ends itself, so that its stack is written (Linux).

  Looks are counted, not seconds: a program that is stopped from its terminal is stopped together with its child.
  """
  watch, over = Watch(), threading.Event()

  def look() -> None:
    before, same = None, 0
    while process is not None and not watch.hung and not over.wait(LOOK):
      now = processor_time(process)
      same = same + 1 if now == before and now is not None else 0
      before, watch.hung = now, same * LOOK >= HUNG
    if watch.hung and process is not None:
      with contextlib.suppress(OSError):
        os.kill(process, signal.SIGABRT)

  thread = threading.Thread(target=look, daemon=True)
  thread.start()
  try:
    yield watch
  finally:
    over.set()
    thread.join()


def processor_time(process: int) -> int | None:
  """Hundredths of a second that a process and those below it have computed; None where nobody says it."""
  try:
    _, _, fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")
    children = " ".join(path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children"))
  except OSError:
    return None
  return sum(map(int, fields.split()[11:15])) + sum(processor_time(int(child)) or 0 for child in children.split())


@contextlib.contextmanager
def _forwarding(child: subprocess.Popen) -> Iterator[None]:
  """Signals that ask to end reach the child; Ctrl-C does so by itself, as the terminal sends it to both."""

  def forward(number, _):
    if number != signal.SIGINT or not _has_terminal():
      with contextlib.suppress(OSError):
        child.send_signal(number)

  numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
  before = {number: signal.signal(number, forward) for number in numbers}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _has_terminal() -> bool:
  try:
    os.close(os.open("/dev/tty", os.O_RDONLY))
  except OSError:
    return os.name == "nt"
  return True


def _name(code: int) -> str:
  try:
    return signal.Signals(-code).name
  except ValueError:
    return f"signal {-code}"


def _where(text: str) -> str:
  """Where the thread that crashed was, outside of this package and within, as faulthandler has it; '' if unknown."""
  start = text.find("Current thread")
  calls = re.findall(r'^  File "([^"\n]+)", line (\d+) in (\S+)', text[max(start, 0) :].partition("\n\n")[0], re.M)
  ours = [call for call in calls if call[0].startswith(str(_HERE))]
  shown = [*calls[:1], *(call for call in ours[:1] if call != calls[0])]
  return "".join(f", in {'/'.join(Path(path).parts[-2:])} line {line} ({name})" for path, line, name in shown)


def _call(target: str, argv: list[str]) -> int:
  module, _, function = target.partition(":")
  return getattr(importlib.import_module(module), function)(argv)


def die_with_parent(parent: int) -> None:
  """So that killing the process that the user knows of ends the work (Linux; elsewhere it goes on to its end)."""
  with contextlib.suppress(OSError, AttributeError, ValueError):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before that
      os._exit(1)


def main(argv: list[str]) -> NoReturn:
  """The child's side."""
  name, parent, target, *rest = argv
  die_with_parent(int(parent))
  with open(name, "w") as stack:
    faulthandler.enable(stack)
    try:
      code = _call(target, rest)
    finally:
      faulthandler.disable()
  _leave(code)


def _leave(code: int) -> NoReturn:
  """Ends this process at once: all is written, and to take XLA and MediaPipe down in good order takes 0.8 s."""
  logging.shutdown()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):  # whoever read it has gone
      stream.flush()
  os._exit(code)
