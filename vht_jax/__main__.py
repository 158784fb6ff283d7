"""What the user starts: `python -m vht_jax`, and the programs that pyproject.toml names.

Each waits for a child that does the work (`host.supervise`) and imports nothing of it: so the modules of the work
import at their heads what they use.
"""

import sys

from vht_jax.host.supervise import supervised


def track() -> None:
  """`vht-track`."""
  sys.exit(supervised("vht-track", "vht_jax.app.cli:main", sys.argv[1:]))


def demo() -> None:
  """`vht-demo`."""
  sys.exit(supervised("vht-demo", "vht_jax.app.demo:run", sys.argv[1:]))


def doctor() -> None:
  """`vht-doctor`."""
  sys.exit(supervised("vht-doctor", "vht_jax.app.doctor:main", sys.argv[1:]))


def export() -> None:
  """`vht-export`."""
  sys.exit(supervised("vht-export", "vht_jax.app.result.export_cli:main", sys.argv[1:]))


def view() -> None:
  """`vht-view`."""
  sys.exit(supervised("vht-view", "vht_jax.viewer.cli:main", sys.argv[1:], idle=True))


if __name__ == "__main__":
  track()
