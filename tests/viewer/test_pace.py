"""Pictures are sent as fast as the browsers take them in."""

import threading
import time
import types

import pytest

pytest.importorskip("viser", reason="viser is not installed (pip install 'vht-jax[viewer]')")

from vht_jax.viewer import pace


def make_client(answer):
  return types.SimpleNamespace(local_storage=types.SimpleNamespace(get_item=answer))


def make_pace(*clients):
  return pace.Pace(types.SimpleNamespace(get_clients=lambda: dict(enumerate(clients))))


def test_a_picture_waits_until_every_browser_has_had_its_turns():
  taken = []

  def slow(key):
    time.sleep(0.05)
    taken.append(key)

  keeping = make_pace(make_client(slow), make_client(slow))
  keeping.wait()
  assert len(taken) == 2 * pace._TURNS
  keeping.wait()  # and asks again for the next
  assert len(taken) == 4 * pace._TURNS


def test_a_tab_that_does_not_answer_holds_up_the_others_once(monkeypatch):
  monkeypatch.setattr(pace, "PATIENCE", 0.2)
  looked_at, asked = threading.Event(), []

  def hidden(key):
    asked.append(key)
    assert looked_at.wait(30)

  keeping = make_pace(make_client(hidden), make_client(lambda key: None))
  begun = time.monotonic()
  keeping.wait()
  assert time.monotonic() - begun >= 0.2
  begun = time.monotonic()
  for _ in range(50):
    keeping.wait()
  assert time.monotonic() - begun < 50 * 0.2 and len(asked) == 1
  looked_at.set()  # somebody looks at it again
  for question in list(keeping._asked.values()):
    question.join(30)
  keeping.wait()
  assert len(asked) == 2 * pace._TURNS


def test_a_browser_that_has_gone_or_keeps_no_storage_is_not_waited_for():
  def gone(key):
    raise RuntimeError("the client disconnected before returning a response")

  make_pace(make_client(gone)).wait()
  make_pace().wait()
