"""Keeps the chatter of native libraries off stderr without losing anything else that is written there."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# glog's information and warnings, TensorFlow Lite's greeting, OpenCV's and FFmpeg's remarks about files that our own
# error names in one line.
_CHATTER = re.compile(
  rb"^[IW]\d{4} |^(INFO|VERBOSE): |^WARNING: All log messages before absl::|^\[ ?(WARN|INFO|ERROR):\d|^OpenCV: |"
  rb"^\[[\w,.]+ @ 0x[0-9a-f]+\]"
)


# File descriptors belong to the process: one thread at a time, and a block may lie within another.
_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
  """Filters what reaches file descriptor 2 inside the block, native code's output included.

  Lines that are not known chatter are passed on when the block ends. Not for blocks that run long: a crash of the
  process inside the block loses them.
  """
  with _LOCK, tempfile.TemporaryFile() as captured:
    try:
      sys.stderr.flush()
      saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # no stderr (a GUI, some notebooks): nothing to filter
      yield
      return
    os.dup2(captured.fileno(), 2)
    try:
      yield
    finally:
      with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
      os.dup2(saved, 2)
      os.close(saved)
      captured.seek(0)
      for line in captured:
        if not _CHATTER.match(line):
          os.write(2, line)
