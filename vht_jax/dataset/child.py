"""Extraction in a process of its own: a file that crashes, hangs or bloats a decoder ends in one line, not the run.

The child calls `main` with SOURCE DATA_PATH MAX_FRAMES; it talks in lines of JSON on its stdout, and where it has said
how many frames there are it waits for a line on its stdin.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vht_jax.dataset.extract import extract_frames
from vht_jax.errors import InputError
from vht_jax.host import launch
from vht_jax.video.codec import VideoInfo

log = logging.getLogger("absl")  # where the package's decoders warn

MAX_BYTES = 4 << 30  # of the child's memory; 8K video needs about half
STALL = 120.0  # s without a frame after which the decoder hangs
_REPORT_EVERY = 0.1  # s
_START = "from vht_jax.dataset.child import main; sys.exit(main(sys.argv[1:]))"


def extract_in_child(
  source: str | Path, data_path: str | Path, max_frames: int | None = None,
  progress: Callable[[int, int], None] | None = None, opened: Callable[[int], None] | None = None,
) -> VideoInfo:  # fmt: skip
  """`extract_frames` in a child process with bounded memory.

  Raises:
    InputError: as `extract_frames`; and if the decoder crashed, hung or wanted too much memory.
  """
  # MALLOC_ARENA_MAX: reserved memory counts.
  environment = launch.environment(MALLOC_ARENA_MAX="2", OPENBLAS_NUM_THREADS="1")
  command = launch.command(_START, str(source), str(data_path), str(max_frames or 0))
  done = 0
  with tempfile.TemporaryFile() as chatter:
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=chatter, env=environment)
    answers = child.stdin
    assert answers is not None  # a pipe
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_forward, args=(child.stdout, lines), daemon=True).start()
    try:
      while (line := lines.get(timeout=STALL)) is not None:
        message = _parse(line)
        if "done" in message:
          done = message["done"]
          if progress is not None:
            progress(done, message["total"])
        elif "counted" in message:
          if opened is not None:
            opened(message["counted"])
          with contextlib.suppress(OSError):
            answers.write(b"\n")  # it waits for this before it writes anything
            answers.flush()
        elif "log" in message:
          level, text = message["log"]
          log.log(level, "%s", text)
        elif "error" in message:
          raise InputError(message["error"])
        elif "info" in message:
          fps, n_frames, size = message["info"]
          return VideoInfo(fps, n_frames, tuple(size))
      code = child.wait()
    except queue.Empty:
      raise InputError(f"{source}: the decoder hangs after {done} frames; is the file damaged?") from None
    finally:
      child.kill()
      child.wait()
      with contextlib.suppress(OSError):
        answers.close()
  raise InputError(f"{source}: the decoder crashed after {done} frames ({_cause(code)}); is the file damaged?")


def _forward(stream, lines: queue.Queue) -> None:
  with stream:
    for line in stream:
      lines.put(line)
  lines.put(None)


def _parse(line: bytes) -> dict[str, Any]:
  with contextlib.suppress(ValueError):
    message = json.loads(line)
    if isinstance(message, dict):
      return message
  return {}  # something that a library printed


def _cause(code: int) -> str:
  with contextlib.suppress(ValueError):
    if code < 0:
      return signal.Signals(-code).name
  return f"exit code {code}"


def _limit_memory() -> None:
  with contextlib.suppress(ImportError, OSError, ValueError):
    import resource  # of POSIX systems

    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))


def main(argv: list[str]) -> int:
  """The child's side."""
  source, data_path, max_frames = argv

  def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)

  class Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
      say(log=[record.levelno, record.getMessage()])

  def counted(n_frames: int) -> None:
    say(counted=n_frames)
    if not sys.stdin.readline():
      raise BrokenPipeError

  log.handlers, log.propagate = [Forward()], False
  log.setLevel(logging.INFO)
  _limit_memory()
  last = 0.0

  def progress(done: int, total: int) -> None:
    nonlocal last
    if done == total or time.monotonic() - last >= _REPORT_EVERY:
      last = time.monotonic()
      say(done=done, total=total)

  try:
    info = extract_frames(source, data_path, int(max_frames) or None, progress, counted)
  except BrokenPipeError:  # the run was killed
    return 1
  except InputError as error:
    say(error=str(error))
  except MemoryError:
    say(error=f"{source}: decoding it takes more than {MAX_BYTES >> 30} GiB of memory; is the file damaged?")
  except Exception as error:  # whatever a decoder makes of a broken file, it is the file's fault
    first = (str(error).strip() or "no message").splitlines()[0]
    say(error=f"{source}: cannot be decoded ({type(error).__name__}: {first})")
  else:
    say(info=[info.fps, info.n_frames, list(info.size)])
  return 0
