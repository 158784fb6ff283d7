"""The table on the terminal: redrawn in place, or where there is none a line whenever a clip comes to its end."""

from __future__ import annotations

import shutil
import sys
import time

from vht_jax.fleet.shown.table import Row, Table, line

EVERY = 1.0  # s between two pictures
_ORDER = {"running": 0, "failed": 1, "done": 2, "waiting": 3}


class Console:
  """Shows a table on stdout."""

  def __init__(self, table: Table, quiet: bool = False):
    self.table, self.quiet = table, quiet
    self.terminal = sys.stdout.isatty()
    self.drawn, self.last = 0, 0.0

  def ended(self, row: Row) -> None:
    """A clip is done, or has failed."""
    done = self.table.count("done") + self.table.count("failed")
    if not self.terminal and not self.quiet:
      print(f"[{done}/{len(self.table.rows)}] {line(row)}", flush=True)

  def note(self, text: str) -> None:
    """Something happened that is neither."""
    if not self.quiet:
      self._erase()
      print(text, flush=True)

  def draw(self, now: bool = False) -> None:
    """The table as it is, unless it was drawn a moment ago; what does not fit is left out, what is at work first."""
    if self.quiet or not self.terminal or (not now and time.monotonic() - self.last < EVERY):
      return
    width, height = shutil.get_terminal_size()
    rows = sorted(self.table.rows.values(), key=lambda row: _ORDER[row.state])
    texts = [self.table.head(), *(line(row) for row in rows)]
    if len(texts) > height - 1:
      texts = [*texts[: height - 2], f"... and {len(texts) - height + 2} more"]
    self._erase()
    print("\n".join(text[: width - 1] for text in texts), flush=True)
    self.drawn, self.last = len(texts), time.monotonic()

  def _erase(self) -> None:
    if self.drawn:
      print(f"\033[{self.drawn}A\033[J", end="")
      self.drawn = 0
