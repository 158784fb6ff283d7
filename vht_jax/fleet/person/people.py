"""Clips of one person in two rounds: each alone, then each with the shape that they say together.

What is known is where the results are, so that another call goes on from it: `results.ALONE` in the folder of a clip
whose first round is done, and `people/NAME.npz`, the person's shape, before any clip gets it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from vht_jax.app.record import digest
from vht_jax.fleet import storage
from vht_jax.fleet.person.shapes import shape_of
from vht_jax.fleet.plan import Clip
from vht_jax.fleet.shown.table import Table
from vht_jax.results import ALONE

FOLDER = "people"  # in the output


@dataclasses.dataclass(frozen=True)
class Turn:
  """What is to be done for a clip now."""

  alone: bool = False  # the first round
  shape: bytes = b""  # a file for `--shape_from`; none: the clip has its own

  @property
  def digest(self) -> str:
    """By which a row says whose shape it has; '' for its own."""
    return digest(self.shape) if self.shape else ""


class People:
  """Who is in which clips, and whose turn it is."""

  def __init__(self, clips: Sequence[Clip], table: Table, output: str):
    """`table`: of these clips, with what `drive.take_over` has found."""
    self.clips, self.table, self.output = clips, table, output
    groups = defaultdict(list)
    for clip in clips:
      row = table.rows[clip.name]
      row.person, row.note = clip.person, ""
      if clip.person:
        groups[clip.person].append(clip)
    self.groups = {person: group for person, group in groups.items() if len(group) > 1}
    self.turns: dict[str, Turn] = {}
    self.waited: dict[str, set[str]] = {}  # person -> names of clips whose first round has not ended

  def begin(self, left: Sequence[Clip]) -> list[Clip]:
    """The clips that have a turn now; `left`: those that an earlier call has not done."""
    names = {clip.name for clip in left}
    todo = [clip for clip in self.clips if clip.person not in self.groups and self._due(clip, clip.name in names)]
    for person, group in self.groups.items():
      first = [clip for clip in group if not self._has_estimate(clip.name)]
      self.waited[person] = {clip.name for clip in first}
      for clip in first:
        self.turns[clip.name] = Turn(alone=True)
        self._due(clip, True)
      todo += first or self._together(person)
    return todo

  def turn(self, clip: Clip) -> Turn:
    """What is to be done for a clip."""
    return self.turns.get(clip.name, Turn())

  def ended(self, clip: Clip) -> list[Clip]:
    """The clips whose turn it is because one has ended its first round, or has failed."""
    waited = self.waited.get(clip.person, set())
    if clip.name not in waited:
      return []
    waited.remove(clip.name)
    return [] if waited else self._together(clip.person)

  def _due(self, clip: Clip, undone: bool = False) -> bool:
    """Whether a clip has to be tracked: it is `undone`, or with another shape than that of its turn."""
    row = self.table.rows[clip.name]
    if not undone and row.state == "done" and row.shape == self.turn(clip).digest:
      return False
    row.state = "waiting"
    self.table.kept.discard(clip.name)
    return True

  def _has_estimate(self, name: str) -> bool:
    """Whether an earlier call has done the first round, with the same flags and input."""
    row, before = self.table.rows[name], self.table.earlier.get(name, {})
    same = all(before.get(key) == getattr(row, key) for key in ("source", "settings", "version"))
    return same and storage.exists(storage.join(self.output, name, ALONE))

  def _together(self, person: str) -> list[Clip]:
    """Gives all clips of a person the shape that they say together; those that are to be tracked with it."""
    places = {clip.name: storage.join(self.output, clip.name, ALONE) for clip in self.groups[person]}
    files = {name: storage.read(place) for name, place in places.items() if storage.exists(place)}
    found = shape_of(storage.join(self.output, FOLDER, f"{person}.npz"), files)
    for name in files:
      self.turns[name] = Turn(shape=found.file if name in found.clips else b"")
      self.table.rows[name].note = found.notes.get(name, "")
    return [clip for clip in self.groups[person] if clip.name in files and self._due(clip)]
