"""The loop that gives clips to workers, and gives them again when a worker dies or runs out of memory."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from vht_jax.dataset.pieces import RENEW
from vht_jax.errors import InputError
from vht_jax.fleet import single, storage
from vht_jax.fleet.person.people import People, Turn
from vht_jax.fleet.plan import Clip
from vht_jax.fleet.pool import Order, Pool
from vht_jax.fleet.shown import page
from vht_jax.fleet.shown import table as table_
from vht_jax.fleet.shown.console import Console
from vht_jax.fleet.shown.table import Row, Table
from vht_jax.fleet.worker import Job
from vht_jax.results import FILE_NAME

CRASHES = 2  # of native code, by a clip; what crashes twice does so again
GIVE_UP = 4  # deaths of workers in a row, by a clip, without anything new on its disk
# s between two of the table's files; storages are slow, and some cost money for each.
EVERY, EVERY_AWAY = 2.0, 20.0
SHARE = 20  # and at least so many times as long as it takes to write them: large tables take seconds


@dataclasses.dataclass(frozen=True)
class Orders:
  """What holds for all clips."""

  output: str
  scratch: str  # a folder, on every machine
  flags: tuple[str, ...] = ()
  cpus: float = 2.0  # of a clip
  gpus: float = 0.0  # of a clip; 0: there are none
  apart: bool = False  # frames and landmarks on processors, the rest where the devices are
  pinned: bool = False
  keep_dataset: bool = True
  batch_sizes: tuple[int, ...] = ()  # smaller ones to try where memory is out, in this order
  target: str = ""  # instead of vht-track, in tests
  alone: str = single.ALONE  # likewise, of the first of two rounds
  environment: tuple[tuple[str, str | None], ...] = ()

  def whole(self, clip: Clip) -> bool:
    """Whether one worker does all of a clip: with `--face=all` its people are not known before there are frames."""
    return not self.apart or self.all_faces(clip)

  def all_faces(self, clip: Clip) -> bool:
    """Whether a clip's people are tracked one after the other."""
    return "--face=all" in (*self.flags, *clip.flags)


@dataclasses.dataclass
class Task:
  """A clip on its way."""

  clip: Clip
  phase: str  # as `Job.phase`; of "help" nothing is kept, and nobody waits for it but the fleet's end
  mark: str = ""  # how far it was when the last attempt began
  deaths: int = 0  # since then, in a row
  crashes: int = 0
  memory: int = 0  # how often it ran out of memory
  node: str = ""  # where its files are
  helped: int = 0  # how many have been given pieces of it
  lost: int = 0  # how many of these died
  spent: float = 0.0  # s, of attempts that ended
  begun: float = 0.0
  turn: Turn = Turn()  # of the clip's person


class Fleet:
  """Brings every clip of a table to its end."""

  def __init__(
    self, clips: Sequence[Clip], orders: Orders, pool: Pool, table: Table, console: Console,
    people: People | None = None,
  ):  # fmt: skip
    self.people = people or People(clips, table, orders.output)
    self.orders, self.pool, self.table, self.console = orders, pool, table, console
    tasks = [self._task(clip) for clip in clips]
    self.waiting = collections.deque(task for task in tasks if not task.memory)
    self.large = collections.deque(task for task in tasks if task.memory)  # that need a machine for themselves
    self.running: dict[Any, Task] = {}
    self.written = self.writing = 0.0

  def run(self) -> None:
    """Returns when all clips are done or have failed.

    Raises:
      InputError: the table cannot be written, or the cluster is gone.
    """
    self.write()
    while self.waiting or self.large or any(task.phase != "help" for task in self.running.values()):
      self._fill()
      for key, event in self.pool.events():
        if key in self.running:
          self._hear(key, event)
      self.console.draw()
      self.write(EVERY_AWAY if storage.is_url(self.orders.output) else EVERY)
    self.write(finished=True)
    self.console.draw(now=True)

  def write(self, every: float = 0.0, finished: bool = False) -> None:
    """Writes fleet.json and fleet.html, unless that was done less than `every` s ago."""
    start = time.monotonic()
    if start - self.written < max(every, SHARE * self.writing if every else 0.0):
      return
    content = self.table.content(finished)
    for name, text in ((table_.FILE, json.dumps(content, indent=1)), (page.FILE, page.page(content))):
      storage.write(storage.join(self.orders.output, name), text.encode("utf-8", "surrogateescape"))
    self.written = time.monotonic()
    self.writing = self.written - start

  def _task(self, clip: Clip) -> Task:
    phase = "all" if self.orders.whole(clip) else "dataset"
    return Task(clip, phase, memory=self._memory_before(clip), turn=self.people.turn(clip))

  def _go_on(self, clips: Sequence[Clip]) -> None:
    """Takes clips in whose turn it is, with the shape of their person."""
    if clips:
      self.write()  # what is known of them must not be found out again
    for clip in clips:
      task = self._task(clip)
      task.spent = self.table.rows[clip.name].seconds
      task.phase = "track" if task.phase == "dataset" else task.phase  # that there is already
      (self.large if task.memory else self.waiting).append(task)

  def _memory_before(self, clip: Clip) -> int:
    """How often a clip ran out of memory in an earlier call, whose smaller batches its files are of."""
    batch = self.table.earlier.get(clip.name, {}).get("batch_size", 0)
    return 2 + self.orders.batch_sizes.index(batch) if batch in self.orders.batch_sizes else 0

  def _fill(self) -> None:
    """Gives orders: to every place that is free, and one more, so that none waits for us.

    So no more clips than that are begun and take room on disks.
    """
    orders = self.orders
    self.table.slots = self.pool.slots(orders.cpus, 0.0 if orders.apart else orders.gpus)
    if orders.apart:
      self.table.slots += self.pool.slots(0.0, orders.gpus)
    while self.waiting and len(self.running) <= self.table.slots:
      self._submit(self.waiting.popleft())
    if self.large and not self.waiting and not self.running:
      self._submit(self.large.popleft(), alone=True)
    if not self.waiting and not storage.is_url(orders.output):
      self._help()

  def _help(self) -> None:
    """Gives pieces of long clips that are being searched for faces to workers that have nothing else to do."""
    free = self.pool.slots(self.orders.cpus) - len(self.running)
    for task in list(self.running.values()):
      row = self.table.rows[task.clip.name]
      searching = task.phase in ("all", "dataset") and row.stage == "extract" and not self.orders.all_faces(task.clip)
      wanted = row.frames // RENEW if searching else 0
      while free > 0 and task.helped < wanted:
        task.helped, free = task.helped + 1, free - 1
        self._submit(Task(task.clip, "help", node=task.node))

  def _helper_died(self, clip: Clip) -> None:
    """Another one may go on from where it was, but not again and again."""
    for task in self.running.values():
      if task.clip == clip and task.phase != "help" and task.lost < GIVE_UP:
        task.lost, task.helped = task.lost + 1, task.helped - 1

  def _submit(self, task: Task, alone: bool = False) -> None:
    orders, row = self.orders, self.table.rows[task.clip.name]
    batch = self._batch_size(task)
    if task.phase != "help":
      row.attempts, row.batch_size = row.attempts + 1, batch
    cpus = self.pool.cores() if alone else 1.0 if task.phase == "track" else orders.cpus
    gpus = 0.0 if task.phase in ("dataset", "help") else orders.gpus
    job = Job(
      task.clip, storage.join(orders.output, task.clip.name), storage.join(orders.scratch, task.clip.name),
      flags=orders.flags, phase=task.phase, batch_size=batch, keep_dataset=orders.keep_dataset,
      cores=int(cpus) if orders.pinned and not alone else 0, device_share=gpus, folder=os.getcwd(),
      alone=orders.alone if task.turn.alone else "", shape=task.turn.shape, environment=orders.environment,
      **({"target": orders.target} if orders.target else {}),
    )  # fmt: skip
    task.begun = time.monotonic()
    self.running[self.pool.submit(Order(job, cpus, gpus, task.node))] = task

  def _batch_size(self, task: Task) -> int:
    """0 until it has run out of memory twice: the first time it only gets a machine for itself."""
    return self.orders.batch_sizes[task.memory - 2] if task.memory > 1 else 0

  def _hear(self, key: Any, event: dict[str, Any]) -> None:
    task = self.running[key]
    row = self.table.rows[task.clip.name]
    if task.phase == "help":
      if "end" in event:
        del self.running[key]
        if event["end"] != "helped":
          self._helper_died(task.clip)
    elif "node" in event:
      task.node, row.host, row.state, task.begun = event["node"], event["host"], "running", time.monotonic()
    elif "mark" in event:
      if event["mark"] != task.mark:
        task.mark, task.deaths = event["mark"], 0
    elif "stage" in event:
      row.stage = event["stage"]
      if event["stage"] in ("extract", "detect"):
        row.frames = event["frames"]
    else:
      del self.running[key]
      task.spent += event.get("seconds", time.monotonic() - task.begun if row.state == "running" else 0.0)
      row.seconds = task.spent
      getattr(self, f"_{event['end']}")(task, row, event)

  def _done(self, task: Task, row: Row, event: dict[str, Any]) -> None:
    row.fetched, row.sent = row.fetched + event.get("fetched", 0), row.sent + event.get("sent", 0)
    summaries = event["summaries"]
    row.peak_mb = max([row.peak_mb, *(s.get("peak_rss_mb") or 0.0 for s in summaries)])
    if task.phase == "dataset":
      row.frames = summaries[0].get("frames", 0)
      task.phase, task.mark, task.deaths = "track", "", 0
      self._submit(task)
      return
    if task.turn.alone:
      row.frames, row.state, row.stage = summaries[0].get("frames", 0), "waiting", "alone"
      self._go_on(self.people.ended(task.clip))
      return
    row.frames, row.tracked = (sum(s.get(k, 0) for s in summaries) for k in ("frames", "tracked"))
    row.state, row.error, row.shape = "done", "", task.turn.digest
    pages = [f"{row.name}/{page}" for page in ("report.html", "face_0/report.html")]
    row.report = next((p for p in pages if storage.exists(storage.join(self.orders.output, *p.split("/")))), "")
    self.console.ended(row)

  def _failed(self, task: Task, row: Row, event: dict[str, Any]) -> None:
    row.state, row.error, row.code = "failed", event["error"], event["code"]
    self.console.ended(row)
    self._go_on(self.people.ended(task.clip))

  def _died(self, task: Task, row: Row, event: dict[str, Any]) -> None:
    row.deaths, task.deaths = row.deaths + 1, task.deaths + 1
    if task.deaths >= GIVE_UP:
      error = f"{event['error']}, {task.deaths} times at the same place"
      self._failed(task, row, {"error": error, "code": 1})
      return
    self.console.note(f"{row.name}: {event['error']}; it goes on from where it was")
    self.waiting.appendleft(task)

  def _crashed(self, task: Task, row: Row, event: dict[str, Any]) -> None:
    task.crashes += 1
    if task.crashes >= CRASHES:
      row.deaths += 1
      self._failed(task, row, event)
    else:
      self._died(task, row, event)

  def _memory(self, task: Task, row: Row, event: dict[str, Any]) -> None:
    task.memory += 1
    if task.memory > 1 + len(self.orders.batch_sizes):
      self._failed(task, row, {"error": f"not enough memory, even alone on a machine: {event['error']}", "code": 1})
      return
    batch = self._batch_size(task)
    how = f"in batches of {batch}" if batch else "alone on a machine, when the others are done"
    self.console.note(f"{row.name}: out of memory ({event['error']}); again {how}")
    row.state = "waiting"
    self.large.append(task)


def take_over(table: Table, clips: Sequence[Clip], orders: Orders, digest: Callable[[Clip], str]) -> list[Clip]:
  """Marks what an earlier call has done with the same flags and inputs, and is still there; returns the other clips."""
  left = []
  for clip in clips:
    row, before = table.rows[clip.name], table.earlier.get(clip.name, {})
    row.settings, row.version = digest(clip), storage.version(clip.source)
    same = before.get("state") == "done" and all(
      before.get(k) == getattr(row, k) for k in ("source", "settings", "version")
    )
    places = [storage.join(orders.output, clip.name, *where) for where in ((), ("face_0",))]
    if same and any(storage.exists(storage.join(place, FILE_NAME)) for place in places):
      table.keep(clip.name)
    else:
      left.append(clip)
  return left


def verdict(table: Table) -> tuple[int, str]:
  """The fleet's exit code, as vht-track's of several inputs, and its last line."""
  failed = [row for row in table.rows.values() if row.state == "failed"]
  text = f"{table.count('done')} of {len(table.rows)} clips are tracked"
  if table.kept:
    text += f" ({len(table.kept)} of them were already)"
  if failed:
    text += f"; {len(failed)} failed: {', '.join(row.name for row in failed)}"
  if other := [row.name for row in table.rows.values() if row.note]:
    text += f"; {len(other)} have no part in their person's shape: {', '.join(other)}"
  return max((row.code for row in failed), key=lambda code: code == 1, default=0), text


def check_output(output: str) -> None:
  """Raises `InputError` for a place that the workers' processes do not share."""
  if output.startswith("memory://"):
    raise InputError(f"{output}: is in the memory of one process, and a fleet has several; choose another place")
