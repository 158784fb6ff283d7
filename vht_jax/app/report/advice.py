"""What a run should be taken with a pinch of salt for, in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.tracking.pipeline import ASTRAY
from vht_jax.tracking.stages.camera import GUESS, UNSURE_LENS
from vht_jax.tracking.stages.tracks import NO_ACTION
from vht_jax.types import Status, TrackResult

DOUBTFUL = 0.5  # frames of less confidence are doubtful
UNSURE_FOCAL = 0.1  # relative sd from which a focal length is spoken of: distances are as unsure as it is
COVERED_SHARE = 0.02  # of the frames in which a region has to be covered to be mentioned
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
  """What to know before the result is used, the worst first: the one list for page, terminal, log and summary.json.

  Args:
    result: T frames.
    summary: of the run, `photometric_l1` and `covered` of it.
    notes: what the run itself warned of.

  Returns:
    [{level: 'warning' or 'note', text}]: what happened, what it means for the result, what can be done.
  """
  status = np.asarray(result.status)
  n = len(status)
  found: list[dict[str, str]] = []

  def say(level: str, text: str) -> None:
    found.append(
      {"level": level, "text": text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")}
    )

  told = any(ASTRAY in note for note in notes)
  for state, what in (
    (Status.NO_FACE, "show no face and have no neighbours to stand in for them: their poses mean nothing"),
    (Status.DIVERGED, "" if told else "could not be fitted: poses between those of their neighbours stand in"),
    (Status.INTERPOLATED, "show no face that can be used: poses between those of their neighbours stand in"),
  ):
    if what and (count := int((status == state).sum())):
      say("warning", f"{_of(count, n)} {what}. frames.csv says which.")
  if result.confidence is not None:
    if count := int(((status == Status.TRACKED) & (np.asarray(result.confidence) < DOUBTFUL)).sum()):
      say(
        "warning", f"{_of(count, n)} were tracked with little confidence (below {DOUBTFUL}): look at them before use."
      )
  guess = next((note for note in notes if GUESS in note), "")
  sd = None if result.focal_sd is None else float(result.focal_sd)
  for note in notes:
    if note != guess:
      say("note" if NO_ACTION in note else "warning", note)
  if sd is not None and sd > UNSURE_FOCAL:
    # Why, as the run saw it when it began; how much, as it turned out.
    why = guess.partition(":")[0] + f": {GUESS}, known to" if guess else "the focal length of the lens is known only to"
    say("warning", f"{why} +-{100 * sd:.0f} %. {UNSURE_LENS}")
  elif sd is None and guess:
    say("warning", guess)
  if hidden := covered_text(summary.get("covered") or {}, n):
    say("note", hidden)
  if summary.get("photometric_l1") is not None and not {"photometric_l1", "photo"} & set(result.energies):
    say("note", "only landmarks were fitted, not the image: the skin's colour is that of an average face.")
  if sd == 0.0:
    say("note", "the focal length was given and not estimated.")
  return sorted(found, key=lambda one: one["level"], reverse=True)  # warnings first


def covered_text(counts: dict[str, int], frames: int) -> str:
  """Those of `summary.covered` that are no accident, in words; '' without any."""
  counts = {name.replace("_", " "): n for name, n in counts.items() if n >= COVERED_SHARE * frames}
  if not counts:
    return ""
  if "right eye" in counts and counts.get("left eye") == counts["right eye"]:
    counts = {"eyes": counts["left eye"]} | {k: n for k, n in counts.items() if not k.endswith("eye")}
  is_ = lambda name: "are" if name == "eyes" else "is"
  parts = [f"the {name} {is_(name)} covered in {n} of {frames} frames" for name, n in counts.items()]
  return ", ".join(parts) + ": there the head follows the rest of the face, see frames.csv"


def _of(count: int, n: int) -> str:
  return "All frames" if count == n else f"{count} of {n} frames"
