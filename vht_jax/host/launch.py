"""How the package starts Python processes of its own: never with the working folder among the places of modules.

The working folder may hold anything that was downloaded, and a json.py in it is not to be taken for Python's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
# -P and this instead of -m and PYTHONPATH.
_START = "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.insert(0, root); "

# What libraries read when they are imported, unless the user says otherwise: XLA logs an error with a page of CPU
# features for every program that it takes from the cache (they differ in tuning flags only), and MediaPipe greets.
# XLA's Cholesky factorisations on a CPU are OpenBLAS's. Ours are small and many: a second thread brings nothing, and
# waits actively, which costs a factor of 50 as soon as another process wants the core (docs/benchmarks.md).
_CALM = {"TF_CPP_MIN_LOG_LEVEL": "3", "GLOG_minloglevel": "2", "OPENBLAS_NUM_THREADS": "1"}


def command(call: str, *argv: str) -> list[str]:
  """The command line of a Python process that runs `call`, a statement that imports this package, with `argv`."""
  return [sys.executable, "-P", "-c", _START + call, ROOT, *argv]


def environment(**more: str) -> dict[str, str]:
  """This process's environment with `more`, and libraries kept calm.

  An empty entry in PYTHONPATH, which means the working folder, is left out. (`export PYTHONPATH=$PYTHONPATH:/x` makes
  one where there was nothing before.)
  """
  found = {**_CALM, **os.environ, **more}
  paths = [path for path in found.get("PYTHONPATH", "").split(os.pathsep) if path]
  if paths:
    found["PYTHONPATH"] = os.pathsep.join(paths)
  else:
    found.pop("PYTHONPATH", None)
  return found


def leave_working_folder() -> None:
  """Takes the working folder off this process's path if `python -m vht_jax...` has put it there."""
  options = sys.orig_argv
  module = options[options.index("-m") + 1 :][:1] if "-m" in options else []
  ours = module and module[0].partition(".")[0] == "vht_jax"
  if ours and not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]
