"""What the user sees of a run while it goes on: progress, log file, TensorBoard."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vht_jax.errors import InputError
from vht_jax.types import TrackResult

log = logging.getLogger("vht_jax")


def painted(text: str, stream: Any) -> str:
  """A summary as a stream shows it: on a terminal its first line is bold and marks of warnings are yellow; anywhere
  else, and with $NO_COLOR (no-color.org), it is as it was."""
  if not stream.isatty() or os.environ.get("NO_COLOR"):
    return text
  first, *rest = text.split("\n")
  return "\n".join([f"\033[1m{first}\033[0m", *(re.sub(r"^  ! ", "  \033[33m!\033[0m ", line) for line in rest)])


def _say(message: str) -> None:
  tqdm.write(f"vht-track: {message}", file=sys.stderr)  # beside a bar without tearing it


class Progress:
  """Told by the tracker and the app what happens: a bar on a terminal, elsewhere a line at the end of each stage, from
  the first one on that begins after `sound`; keeps the seconds per stage.

  Energies given to `advance` go to TensorBoard when there is a `writer`.
  """

  def __init__(self, writer: Any = None, every: int = 1, silent: bool = False):
    self.seconds: dict[str, float] = {}
    self.writer, self.every, self.silent = writer, every, silent
    self.bar: Any = None
    self.name = ""
    self.sound = False  # the input: set by who knows; what is wrong with one is a line alone
    self.held: list[str] | None = []  # lines that wait for that, and for something to do; None: none waits any more
    self.placed: Callable[..., None] = lambda identity, poses, seen: None  # as `tracking.protocols.Progress.placed`

  def stage(self, name: str, total: int, unit: str = "frame") -> None:
    """`unit`: what there are `total` of; one is the stage itself."""
    self.close()
    if self.sound:
      held, self.held = self.held, None
      for message in held or ():
        _say(message)
    self.name, self.start, self.step, self.energies = name, time.perf_counter(), 0, {}
    self.total, self.unit = total, unit
    # None: tqdm is silent when stderr is not a terminal
    disable = self.silent or None
    self.bar = tqdm(total=total, desc=f"{name:<10s}", disable=disable, leave=False, dynamic_ncols=True, unit=unit)

  def advance(self, n: int = 1, **energies: float) -> None:
    if self.bar is None:
      return
    self.step += n
    self.bar.update(n)
    if energies:
      self.energies = energies
      self.bar.set_postfix({k: f"{float(v):.4g}" for k, v in energies.items()}, refresh=False)
      if self.writer is not None and self.step % self.every < n:
        for name, value in energies.items():
          self.writer.add_scalar(f"{self.name}/{name}", float(value), self.step)

  def at(self, done: int, total: int) -> None:
    """The same for callers that count themselves."""
    if self.bar is not None and total:
      self.bar.total = total
    self.advance(done - self.step)

  def note(self, message: str) -> None:
    log.warning(message, extra={"comes_again": True})  # with the summary: `report.advice`

  def remark(self, message: str, *, bar: bool = True, line: bool = True) -> None:
    """Something that is no warning: in the log, and beside the `bar` on a terminal or as a `line` elsewhere."""
    log.info("%s", message)
    terminal = sys.stderr.isatty()
    if self.silent or not (bar if terminal else line):
      return
    if terminal or self.held is None:
      _say(message)
    else:
      self.held.append(message)

  def close(self) -> None:
    """Ends the current stage."""
    if self.bar is not None:
      self.bar.close()
      self.bar = None
      elapsed = time.perf_counter() - self.start
      stage = self.name.removesuffix(" again")  # as `stages.landmarks` does: one figure in the summary
      self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed
      last = "".join(f", at last {k} {float(v):.4g}" for k, v in self.energies.items())
      count = "" if self.total == 1 else f"{self.step} {self.unit}{'s' * (self.step != 1)} "
      done = f"{self.name}: {count}done in {elapsed:.1f} s"  # `fleet.single` reads it in track.log
      self.remark(done + last, bar=False, line=self.step > 0)  # the bar has shown it


class _BesideBars(logging.Handler):
  """Prints warnings to stderr without tearing a progress bar; errors are the app's to print."""

  def emit(self, record: logging.LogRecord) -> None:
    if record.levelno < logging.ERROR:
      text = record.getMessage()
      if hasattr(record, "comes_again"):  # what it means and what to do is told when all is done
        text = re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0]
      _say(text)


class _Once(logging.Filter):
  """Lets a warning pass the first time; a clip of many frames would repeat it for each."""

  def __init__(self):
    super().__init__()
    self.seen: set[str] = set()

  def filter(self, record: logging.LogRecord) -> bool:
    if record.levelno != logging.WARNING:
      return True
    message = record.getMessage()
    new = message not in self.seen
    self.seen.add(message)
    return new


class _LogFile(logging.FileHandler):
  """A full disk must not end a run for its log."""

  def handleError(self, record: logging.LogRecord) -> None: ...


def start_log(path: Path, terminal: bool = True) -> Callable[[], None]:
  """Sends every message of the package to a file and warnings to the terminal as well; returns a function to stop."""
  file = _LogFile(path, encoding="utf-8")  # appends: a run may have been interrupted
  file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
  handlers = [file, *([_BesideBars(logging.WARNING)] if terminal else [])]
  for handler in handlers:
    handler.addFilter(_Once())
  names = ("vht_jax", "absl")  # some modules log through absl
  before = []
  for name in names:
    logger = logging.getLogger(name)
    before.append((logger, logger.level, logger.propagate))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
      logger.addHandler(handler)

  def stop():
    for logger, level, propagate in before:
      for handler in handlers:
        logger.removeHandler(handler)
      logger.setLevel(level)
      logger.propagate = propagate
    file.close()

  return stop


def tensorboard_writer(folder: Path) -> Any:
  """A SummaryWriter of tensorboardX.

  Raises:
    InputError: tensorboardX is not installed.
  """
  try:
    from tensorboardX import SummaryWriter  # an optional extra
  except ImportError:
    raise InputError("--tensorboard needs tensorboardX: pip install 'vht-jax[tensorboard]'") from None
  return SummaryWriter(str(folder))


def write_scalars(writer: Any, result: TrackResult, frames: np.ndarray, every: int) -> None:
  """Energies per frame as TensorBoard scalars, one point every `every` frames; the step is the frame's id."""
  for name, values in result.energies.items():
    for frame, value in list(zip(frames, np.asarray(values)))[::every]:
      if np.isfinite(value):
        writer.add_scalar(f"frame/{name}", float(value), int(frame))
