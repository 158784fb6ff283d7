"""Work that threads do before its result is asked for: the one queue of the package."""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def prefetched(
  work: Callable[[A], B], items: Iterable[A], depth: int = 2, pool: Executor | None = None
) -> Generator[B]:
  """`work(item)` of each in order, `depth` items ahead of the caller.

  An error is raised when it is its item's turn; when the caller stops, what has begun is finished and no more begun.

  Args:
    work, items: what is done with what; items are taken in the caller's thread.
    depth: how many results may wait.
    pool: whose threads do it; None: one thread of its own.
  """
  waiting: collections.deque[Future[B]] = collections.deque()
  with contextlib.ExitStack() as held:
    if pool is None:
      pool = held.enter_context(ThreadPoolExecutor(1, thread_name_prefix="prefetch"))
    try:
      for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()


def with_next(items: Iterable[A]) -> Iterator[tuple[A, A | None]]:
  """Each of `items` with the one after it; None after the last."""
  before: list[A] = []
  for item in items:
    if before:
      yield before.pop(), item
    before.append(item)
  for item in before:
    yield item, None


def begun_ahead(begun: Iterable[B], ahead: bool) -> Iterator[B]:
  """`begun`, of which each is taken before the one before it is given out: a device has its next work in time.

  Args:
    begun: by taking one of them, work is sent to a device, and not waited for.
    ahead: else they are given out as they come.
  """
  waiting: list[B] = []
  for work in begun:
    waiting.append(work)
    if len(waiting) > ahead:
      yield waiting.pop(0)
  yield from waiting


def made_ahead(items: Iterable[B], depth: int) -> Iterator[B]:
  """`items`, made by a thread of their own that is at most `depth` in front; as `prefetched` else."""
  source = iter(items)

  def one(_: None) -> list[B]:
    try:
      return [next(source)]
    except StopIteration:
      return []

  made = prefetched(one, itertools.repeat(None), depth)
  try:
    for found in made:
      if not found:
        return
      yield from found
  finally:
    made.close()
    if isinstance(source, Generator):  # after its thread has ended
      source.close()
