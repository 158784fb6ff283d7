"""A worker that helps with a long clip: how it ends."""

import subprocess
import sys
import time
from pathlib import Path

from vht_jax.fleet import single

REPO = Path(__file__).resolve().parents[2]
HUNG = """
import sys; sys.path.insert(0, {repo!r})
import time
from vht_jax.app import inputs
from vht_jax.dataset import pieces
from vht_jax.fleet import single
pieces.STUCK = 0.5
def search(app, config, alive):
  for _ in range({frames}):
    alive()
    time.sleep(0.2)
  while {hangs}:
    pass
inputs.help_search = search
sys.exit(single.help_search(["--data_path={data}"]))
"""


def test_a_hung_helper_ends_itself(tmp_path):
  for hangs, code in ((True, 1), (False, 0)):
    text = HUNG.format(repo=str(REPO), data=tmp_path, frames=5, hangs=hangs)
    start = time.monotonic()
    run = subprocess.run([sys.executable, "-c", text], timeout=100, capture_output=True, text=True)
    assert run.returncode == code and time.monotonic() - start > 1.0  # while it gets on it is left alone
    assert ("Timeout" in run.stderr) == hangs


def test_how_it_ended_is_said(tmp_path):
  path = (("PYTHONPATH", str(Path(__file__).parent)),)
  assert single.assist([], "calls:fail", dict(path)) == {"end": "died", "code": 1}
  assert single.assist([], "calls:nothing", dict(path)) == {"end": "helped", "code": 0}
