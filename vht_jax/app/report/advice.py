"""What a run should be taken with a pinch of salt for, in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.types import Status, TrackResult

DOUBTFUL = 0.5  # frames of less confidence are doubtful
UNSURE_FOCAL = 0.1  # relative sd from which a focal length is spoken of: distances are as unsure as it is
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ WARNING \S+: (.*)")


def doubtful_frames(result: TrackResult) -> np.ndarray:
  """(T,) bool: not tracked, or of little confidence."""
  lost = np.asarray(result.status) != Status.TRACKED
  return lost if result.confidence is None else lost | (np.asarray(result.confidence) < DOUBTFUL)


def spans(marked: np.ndarray) -> list[tuple[int, int]]:
  """First and last position of every run of True in a (T,) array."""
  edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(marked, np.int8), [0]])))
  return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def logged_warnings(log: Path) -> list[str]:
  """The different warnings in a run's track.log, in their order; the log goes on over interruptions."""
  try:
    lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
  except OSError:
    return []
  return list(dict.fromkeys(m.group(1) for line in lines if (m := _LOG_LINE.fullmatch(line))))


def advice(result: TrackResult, summary: dict[str, Any], notes: Sequence[str]) -> list[dict[str, str]]:
  """What to know before the result is used: [{level: 'warning' or 'note', text}], the worst first.

  Args:
    result: T frames.
    summary: of the run (summary.json).
    notes: what the run itself warned of.
  """
  status = np.asarray(result.status)
  n = len(status)
  found: list[dict[str, str]] = []

  def say(level: str, text: str) -> None:
    found.append({"level": level, "text": text[:1].upper() + text[1:]})

  for state, what in (
    (Status.NO_FACE, "show no face and have nothing to bridge them from: their poses mean nothing"),
    (Status.DIVERGED, "could not be fitted and are bridged from their neighbours"),
    (Status.INTERPOLATED, "show no face and are bridged from their neighbours"),
  ):
    if count := int((status == state).sum()):
      say("warning", f"{_of(count, n)} {what}.")
  if result.confidence is not None:
    if count := int(((status == Status.TRACKED) & (np.asarray(result.confidence) < DOUBTFUL)).sum()):
      say("warning", f"{_of(count, n)} were tracked with little confidence (below {DOUBTFUL}): look at them.")
  for note in notes:
    note = note.replace("+-", "±")
    say("warning", note if note.endswith((".", "!", "?")) else note + ".")
  sd = None if result.focal_sd is None else float(result.focal_sd)
  if sd is not None and sd > UNSURE_FOCAL and not any("focal length is a guess" in note for note in notes):
    say("warning", f"The focal length is only known to ±{100 * sd:.0f} %: give --focal or --fov if you know it.")
  if sd is not None and sd > UNSURE_FOCAL:
    say("note", "An unsure focal length makes the distance and the depth of the head unsure, not how it looks.")
  if (
    summary.get("photometric_l1") is not None
    and "photometric_l1" not in result.energies
    and "photo" not in (result.energies)
  ):
    say("note", "Only landmarks were fitted, not the image: the skin's colour is that of an average face.")
  if sd == 0.0:
    say("note", "The focal length was given and not estimated.")
  return found


def _of(count: int, n: int) -> str:
  return "All frames" if count == n else f"{count} of {n} frames"
