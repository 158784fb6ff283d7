"""The programs work in a child, so that a crash of native code in them ends in one line that says where it happened.

Decoders of images, MediaPipe and XLA are native code that a damaged file or a lack of memory can bring down, and with
it the process in which they run: nothing in there can catch that. So `vht-track`, `vht-demo` and `vht-doctor` are two
processes: the one that the user started waits for the one that works. Videos are decoded in yet another one, with
bounded memory (`dataset.child`). With --debug there is one process, as debuggers want it.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from vht_jax.host import launch

_HERE = Path(__file__).resolve().parents[1]
_START = "from vht_jax.host.supervise import main; main(sys.argv[1:])"
_WANTED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE")  # ends that somebody asked for


def supervised(program: str, target: str, argv: list[str]) -> int:
  """Runs `target` in a child with this process's terminal; returns its exit code, 1 after a crash.

  Args:
    program: name for the message.
    target: 'package.module:function', called with `argv`; it returns the exit code.
    argv: flags.
  """
  if "--debug" in argv:
    os.environ.update(launch.environment())
    return _call(target, argv)
  handle, name = tempfile.mkstemp(prefix="vht-crash-", suffix=".txt")
  os.close(handle)
  stack = Path(name)  # faulthandler's
  try:
    child = subprocess.Popen(command(stack, target, argv), env=launch.environment())
    with _forwarding(child):
      code = child.wait()
    if code >= 0:
      return code
    if _name(code) in _WANTED:
      return 128 - code
    kept = f" (stack in {stack})" if stack.stat().st_size else ""
    print(f"{program}: error: the run was {ending(code, stack)}{kept}; the same command goes on", file=sys.stderr)
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


def ending(code: int, stack: Path) -> str:
  """How a child was ended by a signal, in words: which, and where it was as far as `stack` says."""
  reason = _name(code)
  hint = " (not enough memory?)" if reason == "SIGKILL" else ""
  return f"ended by {reason}{hint}{_where(stack.read_text(errors='replace'))}"


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
