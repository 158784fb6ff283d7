"""VHT's entry point under its old name: `python vht_jax/optimize_tracking.py --config ... --video ...`."""

import os
import sys

if not __package__:
  # Run as a file, Python puts this folder on the path, where types.py would hide the standard library's.
  sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from vht_jax.__main__ import track

if __name__ == "__main__":
  track()
