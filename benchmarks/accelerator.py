"""The programs that see every frame, on whatever device JAX has: frames/s over sizes and batches, and what bounds them.

A drawn person is tracked once, by Gauss-Newton and by VHT's method, and the calls that the tracker makes are kept; each
program is then compiled for batches of their frames and run with its arguments on the device. `bandwidth` and `flops`
are what XLA counts for the compiled program in the time that it took, as shares of this device's own speed at copying
256 MB and at multiplying two 4096 x 4096 matrices in float32 (`HIGHEST`, no TF32). Both small: the program waits for
launches, or for itself.

  python benchmarks/accelerator.py [--sizes 256 512] [--batches 1 8 64 256] [--kernels 64] [--output FILE]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the app does

import jax
import jax.numpy as jnp
import numpy as np
import synthetic

from vht_jax.config import TrackConfig
from vht_jax.head.load import load_head
from vht_jax.host import device, programs
from vht_jax.tracking.pipeline import track
from vht_jax.tracking.stages import adam, frames, landmarks

ROOT = Path(__file__).resolve().parent.parent
N_FRAMES = 16  # of the drawn clip; larger batches repeat them
MATRIX = 4096


@dataclasses.dataclass
class Call:
  """A call of a program of the tracker, and which of its arguments have a leading axis of frames."""

  module: Any
  name: str
  by_frame: dict[int, str]  # position of the argument: "rows", or "more" for terms with their observations
  static: tuple[int, ...]
  args: tuple = ()

  def batch(self, n: int) -> tuple:
    """The arguments for `n` frames, on the device."""

    def rows(tree):
      return jax.tree.map(lambda a: np.asarray(a)[np.arange(n) % np.shape(a)[0]], tree)

    def more(entries):
      return [(term, rows(seen)) for term, seen in entries]

    found = list(self.args)
    for k, how in self.by_frame.items():
      found[k] = more(found[k]) if how == "more" else rows(found[k])
    return tuple(a if k in self.static else jax.device_put(a) for k, a in enumerate(found))


def calls(method: str) -> dict[str, Call]:
  """The programs of a method that see every frame."""
  if method == "adam":
    return {"frames by Adam": Call(adam, "_fit_frames", {1: "rows", 3: "rows", 4: "rows"}, (5, 7))}
  return {
    "landmarks": Call(landmarks, "_fit_frames", {1: "rows", 4: "rows", 6: "more"}, ()),
    "frames": Call(frames, "_fit_photometric", {5: "rows", 6: "rows", 9: "rows", 11: "more"}, (12, 13)),
  }


@contextlib.contextmanager
def kept(wanted: dict[str, Call]):
  """Keeps the arguments of the last call of each program inside the block."""
  real = {name: getattr(call.module, call.name) for name, call in wanted.items()}

  def recorder(name):
    @functools.wraps(real[name])
    def record(*args):
      wanted[name].args = args
      return real[name](*args)

    return record

  for name, call in wanted.items():
    setattr(call.module, call.name, recorder(name))
  try:
    yield
  finally:
    for name, call in wanted.items():
      setattr(call.module, call.name, real[name])


def timed(run: Callable[[], Any], least: float = 0.5) -> float:
  """Median seconds of a run, of at least three and for at least that many seconds."""
  jax.block_until_ready(run())
  seconds: list[float] = []
  while len(seconds) < 3 or sum(seconds) < least:
    start = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def ceilings() -> dict[str, float]:
  """Bytes/s of a copy (read and written) and float32 operations/s of a matrix product, measured here."""
  block = jnp.ones(2**26, jnp.float32)
  copied = 2 * block.nbytes / timed(functools.partial(jax.jit(lambda x: x + 1), block))
  square = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX))
  product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
  return {"bytes": copied, "flops": 2 * MATRIX**3 / timed(functools.partial(product, square))}


def kernels(run: Callable[[], Any], count: int = 20) -> list[dict[str, Any]]:
  """What the device spends its time on in one run: the kernels with the most milliseconds together, and all of them."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, create_perfetto_trace=True):
      jax.block_until_ready(run())
    path = next(Path(folder).rglob("perfetto_trace.json.gz"))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
  ms: dict[str, float] = collections.defaultdict(float)
  often: dict[str, int] = collections.defaultdict(int)
  for e in events:
    if e.get("ph") == "X" and "Stream" in threads.get((e["pid"], e["tid"]), ""):
      ms[e["name"]] += e["dur"] / 1e3
      often[e["name"]] += 1
  rows = [{"kernel": name, "ms": ms[name], "launches": often[name]} for name in sorted(ms, key=ms.get, reverse=True)]
  return [{"kernel": "all", "ms": sum(ms.values()), "launches": sum(often.values())}, *rows[:count]]


def measure(call: Call, batch: int, ceiling: dict[str, float], profile: bool) -> dict[str, Any]:
  """One program for one batch."""
  fun = getattr(call.module, call.name).__wrapped__
  args = call.batch(batch)
  start = time.perf_counter()
  program = programs.compiled(jax.jit(fun, static_argnums=call.static).lower(*args))  # as the app does
  compiling = time.perf_counter() - start
  dynamic = [a for k, a in enumerate(args) if k not in call.static]
  run = lambda: program(*dynamic)
  seconds = timed(run)
  cost, memory = program.cost_analysis() or {}, program.memory_analysis()
  row = {
    "compile_s": compiling,
    "ms": 1e3 * seconds,
    "frames_per_s": batch / seconds,
    "MB": memory.temp_size_in_bytes / 1e6,
    "bandwidth": cost.get("bytes accessed", np.nan) / seconds / ceiling["bytes"],
    "flops": cost.get("flops", np.nan) / seconds / ceiling["flops"],
  }
  if profile:
    row["kernels"] = kernels(run)
  return row


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512], help="of the images and of what is looked at")
  parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32, 64, 128, 256])
  parser.add_argument("--methods", nargs="*", default=["gn", "adam"])
  parser.add_argument("--kernels", type=int, default=0, help="the batch whose kernels are listed; 0: none")
  parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench" / "accelerator.json")
  args = parser.parse_args()
  device.start_jax()  # programs are kept where the app keeps them
  ceiling = ceilings()
  report: dict[str, Any] = {
    "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}",
    "ceilings": ceiling,
    "rows": [],
  }
  print(report["device"], f"{ceiling['bytes'] / 1e9:.0f} GB/s, {ceiling['flops'] / 1e12:.2f} TFLOP/s", flush=True)
  model = load_head(model="open")
  for size in args.sizes:
    clip = synthetic.make_clip(model, 0, N_FRAMES, (size, size))
    for method in args.methods:
      wanted = calls(method)
      config = TrackConfig.of(solver=method, crop_size=size, batch_size=N_FRAMES)
      start = time.perf_counter()
      with kept(wanted):
        track(model, clip, config)
      print(f"{size} {method}: tracked and compiled in {time.perf_counter() - start:.1f} s", flush=True)
      for name, call in wanted.items():
        for batch in args.batches:
          row = measure(call, batch, ceiling, batch == args.kernels)
          report["rows"].append({"program": name, "size": size, "batch": batch, **row})
          figures = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "kernels")
          print(f"{name:15} {size} x{batch:<4} {figures}", flush=True)
          for line in row.get("kernels", []):
            print(f"    {line['ms']:9.3f} ms {line['launches']:6} x  {line['kernel']}", flush=True)
          args.output.parent.mkdir(parents=True, exist_ok=True)
          args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
  main()
