"""Children that need not import anything: forked from a process that has, one for each clip.

To import JAX, MediaPipe and the rest takes a run 1.8 s of one processor, while the others wait. A worker that
tracks one clip after the other has a process (`server`) that does it once and forks itself for every clip; so each clip
is in a process of its own all the same, which starts as a fresh one would: nothing has run in there but imports. Where
that cannot be (no Linux, threads after the imports), a child is started from nothing.

A child that is forked dies with the server, and the server with the worker.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from vht_jax.host import launch, supervise

_START = "from vht_jax.fleet.prepared.server import main; main(sys.argv[1:])"


class Call(NamedTuple):
  """What a child is to do, and where it finds and leaves what."""

  target: str  # 'package.module:function'
  argv: Sequence[str]
  stack: Path  # a file for what faulthandler says of a crash
  out: Path  # for its stdout
  err: Path
  environment: dict[str, str]  # all of it
  folder: str | None = None  # where it works; None: where this process does
  cores: Sequence[int] = ()  # that it may use; none: all


class Child(Protocol):
  """A process that does a `Call`."""

  pid: int

  def wait(self, seconds: float) -> int | None:
    """Its exit code, as of `subprocess.Popen`; None if it is still at work after so long."""
    ...

  def end(self) -> None:
    """Ends it, if it has not ended yet."""
    ...


def start(call: Call) -> Child:
  """Starts a child, prepared if that can be; both die with this process (Linux)."""
  return _Forked.of(call) or _Fresh(call)


class _Fresh:
  """A child that is started from nothing."""

  def __init__(self, call: Call):
    with open(call.out, "wb") as out, open(call.err, "wb") as err, using(call.cores):
      self.process = subprocess.Popen(
        supervise.command(call.stack, call.target, call.argv), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
        env=call.environment, cwd=call.folder,
      )  # fmt: skip
    self.pid = self.process.pid

  def wait(self, seconds: float) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.process.wait(seconds)
    return self.process.returncode

  def end(self) -> None:
    self.process.kill()
    self.process.wait()


class _Server:
  """The prepared process of this one, for calls of one target and environment."""

  def __init__(self, call: Call):
    self.kind = kind(call)
    self.process = subprocess.Popen(
      launch.command(_START, str(os.getpid()), loaded_for(call.target)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL, env=call.environment, bufsize=0,  # or `select` would not see what is in the buffer
    )  # fmt: skip
    assert self.process.stdin is not None and self.process.stdout is not None  # pipes
    self.orders: IO[bytes] = self.process.stdin
    self.answers: IO[bytes] = self.process.stdout
    self.able = self.ask(None) is not None

  def ask(self, order: dict | None) -> dict | None:
    """Its answer to an order, or its first one; None: it has gone."""
    try:
      if order is not None:
        self.orders.write(json.dumps(order).encode() + b"\n")
      return json.loads(self.answers.readline())
    except (OSError, ValueError):
      return None

  def close(self) -> None:
    """Ends it and its child."""
    self.process.kill()
    self.process.wait()
    for pipe in (self.orders, self.answers):
      with contextlib.suppress(OSError):  # what it has not read
        pipe.close()


_server: _Server | None = None  # of this process; its children come one after the other, as a worker's clips do
_busy = False


class _Forked:
  """A child of `_server`."""

  def __init__(self, server: _Server, pid: int):
    global _busy
    self.server, self.pid, self.code, _busy = server, pid, None, True

  @classmethod
  def of(cls, call: Call) -> _Forked | None:
    """A child for a call, if the server can be had."""
    global _server
    if sys.platform != "linux" or _busy:
      return None
    order = {"argv": [str(call.stack), call.target, *call.argv], "out": str(call.out), "err": str(call.err)}
    order |= {"folder": call.folder or os.getcwd(), "cores": list(call.cores)}
    for _ in range(2):  # one that had nothing to do may just have gone
      if _server is None or _server.kind != kind(call):
        close()
        _server = _Server(call)
      if not _server.able:
        return None
      if (answer := _server.ask(order)) is not None:
        return cls(_server, answer["process"])
      close()
    return None

  def wait(self, seconds: float) -> int | None:
    if self.code is None and select.select([self.server.answers], [], [], seconds)[0]:
      answer = self.server.ask(None)
      if answer is not None:
        self._ended(answer["code"])
      else:  # the server itself was ended, and its child with it
        self._ended(self.server.process.wait())
    return self.code

  def end(self) -> None:
    if self.code is None:
      self.server.close()
      self._ended(self.server.process.returncode)

  def _ended(self, code: int) -> None:
    global _busy
    self.code, _busy = code, False


def close() -> None:
  """Ends the prepared process, if there is one."""
  global _server
  if _server is not None:
    _server.close()
  _server = None


atexit.register(close)


def kind(call: Call) -> tuple[str, dict[str, str]]:
  """What has to be the same for two calls to have one server."""
  return loaded_for(call.target), call.environment


def loaded_for(target: str) -> str:
  """The module that is imported for a target: of this package all that a run needs."""
  module = target.partition(":")[0]
  package = __name__.partition(".")[0]
  return package if module.partition(".")[0] == package else module


@contextlib.contextmanager
def using(cores: Sequence[int]) -> Iterator[None]:
  """Processes that are started inside the block use these cores alone (Linux); all that there are without."""
  if not cores or not hasattr(os, "sched_setaffinity"):
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)
