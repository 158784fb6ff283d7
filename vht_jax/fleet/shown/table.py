"""The state of every clip, what is left to do, and both as text and as fleet.json."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

from vht_jax.errors import InputError
from vht_jax.fleet import storage
from vht_jax.fleet.plan import Clip

FILE, VERSION = "fleet.json", 1
# What a run costs on two cores of the machine of docs/benchmarks.md, "Whole runs": one image takes 7 s; beyond that the
# four clips there take 0.116, 0.098, 0.134 and 0.064 s a frame.
START, PER_FRAME = 7.0, 0.10
BENCHMARK = "docs/benchmarks.md: two cores of an AMD EPYC, default settings"
STATES = ("waiting", "running", "done", "failed")


@dataclasses.dataclass
class Row:
  """A clip's line."""

  name: str
  source: str
  state: str = "waiting"  # of `STATES`
  stage: str = ""  # the last one that is done
  frames: int = 0  # 0: not known yet
  tracked: int = 0
  seconds: float = 0.0  # of workers, all attempts
  attempts: int = 0
  deaths: int = 0  # of workers
  batch_size: int = 0  # if less than what the settings say, for want of memory
  error: str = ""
  code: int = 0  # vht-track's exit code
  peak_mb: float = 0.0
  host: str = ""
  report: str = ""  # its page, within the output
  settings: str = ""  # digest of the flags, to tell whether a row of an earlier call is this one's
  version: str = ""  # of the source, likewise
  person: str = ""  # whom it shows, where clips are grouped
  shape: str = ""  # `Turn.digest` of the shape it is done with
  note: str = ""  # why it has no part in its person's shape
  fetched: int = 0  # bytes
  sent: int = 0


class Table:
  """All rows, in the order of the list."""

  def __init__(self, clips: Sequence[Clip], title: str, earlier: dict[str, dict[str, Any]] | None = None):
    """`earlier`: rows of an earlier call by name, see `read`; those that are taken over are marked by `keep`."""
    self.title = title
    self.earlier = earlier or {}
    self.rows = {clip.name: Row(clip.name, clip.source) for clip in clips}
    self.begun, self.kept = time.time(), set[str]()
    self.slots = 1

  def keep(self, name: str) -> None:
    """Takes a finished row of the earlier call over."""
    names = {field.name for field in dataclasses.fields(Row)}
    before = self.earlier[name]
    self.rows[name] = Row(**{k: v for k, v in before.items() if k in names})
    self.kept.add(name)

  def count(self, state: str) -> int:
    """Rows in a state."""
    return sum(row.state == state for row in self.rows.values())

  def scale(self) -> tuple[float, str]:
    """`scale` of the rows that are done."""
    return scale([(row.frames, row.seconds) for row in self.rows.values() if row.state == "done"])

  def seconds_left(self) -> float:
    """Until all is done, if the rest is like what has been done."""
    left = [row for row in self.rows.values() if row.state in ("waiting", "running")]
    frames = [row.frames for row in self.rows.values() if row.frames]
    typical = statistics.fmean(frames) if frames else 0.0
    factor, _ = self.scale()
    expected = [factor * benchmark(row.frames or typical) for row in left]
    # Of what runs, half is done on average.
    work = sum(e / 2 if row.state == "running" else e for e, row in zip(expected, left))
    return work / max(min(self.slots, len(left)), 1)

  def head(self) -> str:
    """One line about all."""
    counts = [f"{self.count(state)} {state}" for state in ("done", "failed", "running", "waiting") if self.count(state)]
    left = f"; about {spoken(self.seconds_left())} left" if self.count("waiting") + self.count("running") else ""
    return f"{len(self.rows)} clips: {', '.join(counts)}{left}"

  def content(self, finished: bool) -> dict[str, Any]:
    """What fleet.json says."""
    rows = list(self.rows.values())
    factor, source = self.scale()
    return {
      "version": VERSION,
      "settings": self.title,
      "finished": finished,
      "begun": _date(self.begun),
      "updated": _date(time.time()),
      "counts": {state: self.count(state) for state in STATES},
      "workers": self.slots,
      "seconds_left": None if finished else round(self.seconds_left(), 1),
      "seconds_per_clip": round(factor * START, 2),
      "seconds_per_frame": round(factor * PER_FRAME, 4),
      "seconds_from": source,
      "frames": sum(row.frames for row in rows),
      "tracked": sum(row.tracked for row in rows),
      "worker_seconds": round(sum(row.seconds for row in rows), 1),
      "peak_mb": max((row.peak_mb for row in rows), default=0.0),
      "clips": [dataclasses.asdict(row) for row in rows],
    }


def read(output: str) -> dict[str, dict[str, Any]]:
  """The rows of an earlier call in an output place by name; none if there was none.

  Raises:
    InputError: the file is of something else.
  """
  place = storage.join(output, FILE)
  if not storage.exists(place):
    return {}
  try:
    content = json.loads(storage.read(place))
    return {row["name"]: row for row in content["clips"] if row["state"] in STATES and row["source"]}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f"{place}: not the table of a fleet ({type(error).__name__}); delete it or move it away") from None


def benchmark(frames: float) -> float:
  """Seconds of a worker for a clip, there."""
  return START + PER_FRAME * frames


def scale(done: Sequence[tuple[int, float]]) -> tuple[float, str]:
  """How many times longer than `benchmark` clips with (frames, seconds) took, and what the seconds are taken from.

  One number: of clips of about one length nobody can tell what a clip costs from what a frame does.
  """
  if not done:
    return 1.0, BENCHMARK
  factor = sum(seconds for _, seconds in done) / sum(benchmark(frames) for frames, _ in done)
  return factor, f"{factor:.2g} times docs/benchmarks.md, as the {len(done)} clips that are done"


def line(row: Row) -> str:
  """A row as a line."""
  mark = {"done": "ok", "failed": "FAILED", "running": "...", "waiting": ""}[row.state]
  if row.state == "failed":
    text = row.error
  elif row.state == "done":
    text = f"{row.tracked} of {row.frames} frames tracked, {row.seconds:.1f} s"
  else:
    text = f"{row.frames} frames, " if row.frames else ""
    text += f"{row.stage} done" if row.stage else ("begun" if row.state == "running" else "")
  text += f"; {row.deaths} workers died" if row.deaths else ""
  text += f"; {row.note}" if row.note else ""
  text += f"; batches of {row.batch_size} for want of memory" if row.batch_size else ""
  return f"{mark:<7s} {row.name:<24s} {text}"


def spoken(seconds: float) -> str:
  """A time for people."""
  if seconds < 100:
    return f"{seconds:.0f} s"
  if seconds < 100 * 60:
    return f"{seconds / 60:.0f} min"
  return f"{seconds / 3600:.1f} h"


def _date(seconds: float) -> str:
  return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
