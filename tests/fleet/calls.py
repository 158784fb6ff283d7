"""What the tests of prepared children call."""

import ctypes
import json
import os
import sys
import threading
import time

AT_IMPORT = os.getpid()
seen = []

if "THREADS" in os.environ:
  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def say(argv):
  seen.append(argv)
  cores = sorted(os.sched_getaffinity(0))
  print(json.dumps([os.getpid(), os.getppid(), AT_IMPORT, len(seen), argv, os.getcwd(), cores, os.environ.get("X")]))
  print("complaint", file=sys.stderr)
  return 3


def nothing(argv):
  return 0


def fail(argv):
  raise ValueError("broken")


def crash(argv):
  ctypes.string_at(0)


def sleep(argv):
  with open(argv[0], "w") as file:
    file.write(f"{os.getpid()}")
  time.sleep(60)
