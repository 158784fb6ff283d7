"""How long clips are, asked in a process of its own: a file that crashes a decoder is not to end the fleet."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

from vht_jax.errors import InputError
from vht_jax.host import launch

_START = "from vht_jax.fleet.lengths import main; sys.exit(main())"


def lengths(places: Sequence[str]) -> Iterator[tuple[str, int, float, str]]:
  """(place, frames, s, why it cannot be read) of clips of this machine, as they become known.

  Frames and seconds are 0 where the file does not say them. Of a file that brings the decoder down, that is said.
  """
  left = list(places)
  while left:
    child = subprocess.Popen(
      launch.command(_START), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
      env=launch.environment(OPENBLAS_NUM_THREADS="1"), text=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None  # pipes
    try:
      while left:
        child.stdin.write(json.dumps(left[0]) + "\n")
        child.stdin.flush()
        if not (line := child.stdout.readline()):
          raise BrokenPipeError
        frames, seconds, error = json.loads(line)
        yield left.pop(0), frames, seconds, error
    except (BrokenPipeError, ValueError):
      yield left.pop(0), 0, 0.0, "the decoder crashed; is the file damaged?"
    finally:
      child.kill()
      child.wait()
      with contextlib.suppress(OSError):  # what it has not read
        child.stdin.close()
      child.stdout.close()


def main() -> int:
  """The child's side: a place as JSON per line, answered by [frames, seconds, error]."""
  from vht_jax.dataset.extract import probe  # late: OpenCV, in the child alone

  for line in sys.stdin:
    place = json.loads(line)
    try:
      info = probe(place)
      found = [info.n_frames, info.n_frames / info.fps if info.fps else 0.0, ""]
    except InputError as error:
      found = [0, 0.0, str(error)]
    except Exception as error:  # whatever a decoder makes of a broken file
      found = [0, 0.0, f"{place}: cannot be decoded ({type(error).__name__})"]
    print(json.dumps(found), flush=True)
  return 0
