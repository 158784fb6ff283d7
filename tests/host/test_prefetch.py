"""What threads make ahead of its use: the order, the depth, errors, and what a caller leaves behind that stops."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vht_jax.host.prefetch import begun_ahead, made_ahead, prefetched, with_next


def test_items_are_made_ahead_in_order_and_errors_arrive():
  assert list(made_ahead(iter(range(50)), 3)) == list(range(50))

  def broken():
    yield 1
    raise ValueError("no more")

  found = made_ahead(broken(), 2)
  assert next(found) == 1
  with pytest.raises(ValueError, match="no more"):
    next(found)


def test_who_stops_early_leaves_nothing_behind():
  """No thread, no open source, and what has not begun is not begun."""
  before, closed = threading.active_count(), []

  def endless():
    try:
      while True:
        yield threading.current_thread().name
    finally:
      closed.append(True)

  found = made_ahead(endless(), 2)
  assert next(found) != threading.current_thread().name
  assert not closed
  found.close()
  assert closed and threading.active_count() <= before
  done = []
  found = prefetched(done.append, range(100), depth=3)
  next(found)
  found.close()
  assert done == list(range(len(done))) and len(done) <= 4


def test_the_depth_and_the_pool_are_the_callers():
  taken = []

  def items():
    for i in range(10):
      taken.append(i)
      yield i

  with ThreadPoolExecutor(4, thread_name_prefix="mine") as pool:
    found = prefetched(lambda i: (i, threading.current_thread().name), items(), depth=5, pool=pool)
    i, name = next(found)
    assert i == 0 and name.startswith("mine") and taken == list(range(6))
    assert [i for i, _ in found] == list(range(1, 10))
    pool.submit(int).result()  # it is still open


@pytest.mark.parametrize("ahead", [False, True])
def test_work_is_begun_before_that_before_it_is_waited_for(ahead):
  events = []

  def begin():
    for i in range(3):
      events.append(("begun", i))
      yield i

  for i in begun_ahead(begin(), ahead):
    events.append(("waited", i))
  order = [0, 1, 0, 2, 1, 2] if ahead else [0, 0, 1, 1, 2, 2]
  assert [i for _, i in events] == order
  assert [i for what, i in events if what == "waited"] == [0, 1, 2]


def test_each_with_the_one_after_it():
  for n in range(4):
    assert list(with_next(iter(range(n)))) == [(i, i + 1 if i + 1 < n else None) for i in range(n)]
