"""The process that has imported what a run needs, and forks itself for each (Linux alone).

It reads orders, one a line of JSON, on stdin, and answers on stdout: {} when it is ready, {"process"} when a child has
begun, {"code"} when that has ended. It ends, without an answer, where a fork would not be what a fresh process is.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import sys
import traceback
from typing import Any, NoReturn

from vht_jax.host import supervise

# What a run imports in the end: 1.8 CPU s, 0.5 of them MediaPipe's; what is not installed it will not need.
_MODULES = (
  "vht_jax.app.run", "vht_jax.app.overlay.film", "vht_jax.app.report.page", "vht_jax.dataset.annotate", "mediapipe",
  "scipy.spatial.transform", "tqdm",
)  # fmt: skip
IDLE = 60.0  # s without an order, after which its memory is given back


def main(argv: list[str]) -> None:
  """`argv`: the parent's number, and what to import (`load`)."""
  parent, module = argv
  supervise.die_with_parent(int(parent))
  orders, answers = os.dup(0), os.dup(1)  # neither is inherited by programs that are started
  for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)):  # whatever is printed by an import
    nowhere = os.open(os.devnull, flags)
    os.dup2(nowhere, number)
    os.close(nowhere)
  load(module)
  sys.stdout.flush()
  sys.stderr.flush()
  if len(os.listdir("/proc/self/task")) > 1:  # a fork has none of the other threads, and whatever they held for ever
    return
  gc.freeze()  # so that looking for cycles does not copy what is shared
  say = lambda answer: os.write(answers, json.dumps(answer).encode() + b"\n")
  say({})
  with open(orders, "rb", buffering=0) as lines:
    while select.select([lines], [], [], IDLE)[0] and (line := lines.readline()):
      order, me = json.loads(line), os.getpid()
      process = os.fork()
      if not process:
        os.close(answers)
        lines.close()
        _child(order, me)
      say({"process": process})
      say({"code": os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])})


def load(module: str) -> None:
  """Imports a module; for this package all that a run needs."""
  ours = module == __name__.partition(".")[0]
  for name in _MODULES if ours else (module,):
    with contextlib.suppress(ImportError):
      importlib.import_module(name)
  if ours:
    from vht_jax.host.programs import kept  # late: with JAX

    kept.sources()  # as they are now: what children keep is of these, even if a file is changed later


def _child(order: dict[str, Any], parent: int) -> NoReturn:
  """The call, in its own place; does not return."""
  try:
    for number, path in ((1, order["out"]), (2, order["err"])):
      file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
      os.dup2(file, number)
      os.close(file)
    os.chdir(order["folder"])
    if order["cores"]:
      os.sched_setaffinity(0, order["cores"])
    stack, *rest = order["argv"]
    supervise.main([stack, str(parent), *rest])
  finally:  # an exception, said here, as Python does at the end of a process
    traceback.print_exc()
    os._exit(1)
