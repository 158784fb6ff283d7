"""How fast pictures may be sent: as fast as the browsers take them in.

A browser that draws slower than it is sent pictures works through several at once, and the head's mesh, which it
unpacks after that, has been replaced when it is done: the head would be gone for as long as the clip plays.
"""

from __future__ import annotations

import contextlib
import threading
import time

PATIENCE = 1.0  # s that a browser has to answer; a tab that is not looked at may not answer at all
_TURNS = 2  # of a browser's own loop: the messages that were sent are worked through, then the mesh is unpacked
_QUESTION = "vht_jax"  # an entry of the page's storage, which nobody writes: all that matters is when the answer comes


class Pace:
  """Waits for the browsers of a viser server."""

  def __init__(self, server):
    self.server = server
    self._asked: dict[int, threading.Thread] = {}  # by client; one that has not answered yet is not asked again

  def wait(self) -> None:
    """Returns when every browser that answers has worked through what it was sent, after `PATIENCE` at the latest."""
    clients = self.server.get_clients()
    self._asked = {i: question for i, question in self._asked.items() if i in clients and question.is_alive()}
    new = {i: threading.Thread(target=_ask, args=(c,), daemon=True) for i, c in clients.items() if i not in self._asked}
    self._asked.update(new)
    end = time.monotonic() + PATIENCE
    for question in new.values():
      question.start()
    for question in new.values():
      question.join(max(0.0, end - time.monotonic()))


def _ask(client) -> None:
  # It has gone, or keeps no storage: then there is nothing to wait for.
  with contextlib.suppress(RuntimeError):
    for _ in range(_TURNS):
      client.local_storage.get_item(_QUESTION)
