"""What each stage's program computes and moves, and the time that an H100 cannot be faster than: a roofline on paper.

The programs that see every frame are compiled here, for calls that the tracker makes of a drawn clip. FLOPs and bytes
are XLA's count for the compiled program (`compiled.cost_analysis()`): of a loop whose trips it does not know, one trip;
a fused operation reads and writes once. "Least" is what goes in and comes out. An H100 SXM has 3.35 TB/s and 67 TFLOP/s
in float32 without tensor cores (NVIDIA's data sheet); the bound is the longer of both times. `accelerator.py` measures.

  python benchmarks/roofline.py [--sizes 256] [--batch 64]
"""

from __future__ import annotations

import argparse

import accelerator
import jax
import synthetic

from vht_jax.config import TrackConfig
from vht_jax.head.load import load_head
from vht_jax.host import device, programs
from vht_jax.tracking.pipeline import track

BANDWIDTH, FLOPS = 3.35e12, 67e12  # of an H100 SXM, per second


def bound(flops: float, moved: float) -> tuple[float, str]:
  """Seconds that the device takes at least, and what for."""
  return max((flops / FLOPS, "arithmetic"), (moved / BANDWIDTH, "memory"))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--sizes", type=int, nargs="*", default=[256], help="of the images and of what is looked at")
  parser.add_argument("--batch", type=int, default=64)
  args = parser.parse_args()
  device.start_jax("cpu")
  model = load_head(model="open")
  print(f"| program, {args.batch} frames | GFLOP | MB | least MB | FLOP/byte | bound by | ms | frames/s |")
  print("|---|---|---|---|---|---|---|---|")
  for size in args.sizes:
    wanted = accelerator.calls("gn")
    with accelerator.kept(wanted):
      track(model, synthetic.make_clip(model, 0, 8, (size, size)), TrackConfig.of(crop_size=size))
    for name, call in wanted.items():
      fun = getattr(call.module, call.name).__wrapped__
      program = programs.compiled(jax.jit(fun, static_argnums=call.static).lower(*call.batch(args.batch)))
      cost, memory = program.cost_analysis() or {}, program.memory_analysis()
      flops, moved = float(cost["flops"]), float(cost["bytes accessed"])
      least = memory.argument_size_in_bytes + memory.output_size_in_bytes
      seconds, why = bound(flops, moved)
      counted = f"{flops / 1e9:.2f} | {moved / 1e6:.0f} | {least / 1e6:.0f} | {flops / moved:.2f}"
      limit = f"{why} | {1e3 * seconds:.2f} | {args.batch / seconds:.0f}"
      print(f"| {name}, {size} px | {counted} | {limit} |", flush=True)


if __name__ == "__main__":
  main()
