"""Which processes work at clips: those that hold the lock of an output folder."""

import os
from pathlib import Path


def parent_of(pid):
  return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command_of(pid):
  return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def at_work(output):
  """(child, worker that waits for it) for each clip within `output` that is being tracked."""
  found = []
  for path in Path("/proc").glob("[0-9]*"):
    try:
      files = [os.readlink(file) for file in (path / "fd").iterdir()]
      if any(name.startswith(f"{output}/") and name.endswith("/.lock") for name in files):
        if "from vht_jax.fleet" not in command_of(path.name):  # a worker that only looks whether it is free
          continue
        worker = parent_of(path.name)
        if "prepared.server" in command_of(worker):
          worker = parent_of(worker)
        found.append((int(path.name), worker))
    except OSError:
      pass
  return found
