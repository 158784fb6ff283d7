"""Speed of the renderer: compile and run time apart, against a single-threaded C++ z-buffer in the same run.

Runs in under three minutes and writes build/bench/render.json. Its `ratios` are medians over interleaved repetitions,
so that a load on the machine hits both sides alike. On a loaded machine the single-threaded C++ keeps its core while
XLA's threads wait for each other; `ratios_of_minima` come closer to an idle machine there. On an accelerator (or with
--table) a table over sizes and batches follows, with the fraction of the memory bandwidth that is reached.

  python benchmarks/render.py [--repeats 15] [--table] [--output build/bench/render.json]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.cameras import make_camera, project
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.render.edges import antialias, edge_table
from vht_jax.render.picture import map_frames
from vht_jax.render.raster import rasterize
from vht_jax.render.shade import interpolate

ROOT = Path(__file__).resolve().parent.parent
N_FRAMES, N_CHANNELS = 8, 8


def build_zbuffer(folder: Path) -> ctypes.CDLL:
  """Compiles zbuffer.cpp for this machine."""
  folder.mkdir(parents=True, exist_ok=True)
  library = folder / "libzbuffer.so"
  flags = ["-O3", "-march=native", "-shared", "-fPIC"]
  subprocess.run(["g++", *flags, str(ROOT / "benchmarks/zbuffer.cpp"), "-o", str(library)], check=True)
  return ctypes.CDLL(str(library))


def cpp_functions(library: ctypes.CDLL, screen: np.ndarray, faces: np.ndarray, size: int):
  """Closures that rasterise one frame in C++: (pix_to_face only, all of Fragments), and the pix_to_face buffer."""
  screen, faces = np.ascontiguousarray(screen, np.float32), np.ascontiguousarray(faces, np.int32)
  ids, depth = np.empty((size, size), np.int32), np.empty((size, size), np.float32)
  bary = np.empty((size, size, 3), np.float32)
  pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)  # noqa: E731
  common = (pointer(screen), pointer(faces), len(faces), size, size, pointer(ids), pointer(depth))
  keep = (screen, faces, ids, depth, bary)

  def visible():
    library.visible_faces(*common)

  def fragments():
    library.rasterize(*common, pointer(bary))

  return visible, fragments, keep


def compiled(fun, *args):
  """Compiles ahead of time; returns a closure that runs it, the compile seconds and XLA's temporary memory in MB."""
  start = time.perf_counter()
  executable = jax.jit(fun).lower(*args).compile()
  seconds = time.perf_counter() - start
  memory = executable.memory_analysis()
  total = memory.temp_size_in_bytes + memory.output_size_in_bytes + memory.argument_size_in_bytes
  return lambda: jax.block_until_ready(executable(*args)), seconds, total / 1e6


def interleaved(functions: dict, repeats: int) -> dict[str, list[float]]:
  """Milliseconds of every repetition; the functions take turns."""
  for run in functions.values():
    run()
  times = {name: [] for name in functions}
  for _ in range(repeats):
    for name, run in functions.items():
      start = time.perf_counter()
      run()
      times[name].append(1e3 * (time.perf_counter() - start))
  return times


def scene(model, size: int, n_frames: int = N_FRAMES) -> jax.Array:
  """(n_frames, V, 3) the head turned by different angles, 70 % of the image's height, in screen coordinates."""
  camera, pose = make_camera(2.6), flame.neutral_pose(model)
  shape = jnp.zeros(model.shapedirs.shape[-1])

  def frame(yaw):
    vertices = flame.skin(model, shape, pose.replace(rotation=pose.rotation.at[1].add(yaw)))
    return project(camera, vertices, (size, size))

  return jax.jit(jax.vmap(frame))(jnp.linspace(0.3, -0.6, n_frames))


def device_table(model, repeats: int) -> list[dict]:
  """Forward and gradient over sizes and batches. `bandwidth` is what goes in and out, in the time that it took, as a
  fraction of the speed at which this device copies memory: a bound from below, as intermediate results count nothing.
  """
  block = jnp.ones(2**26, jnp.float32)  # 256 MB, read and written
  copy = compiled(lambda x: x + 1, block)[0]
  bytes_per_ms = 2 * block.nbytes / min(interleaved({"copy": copy}, repeats)["copy"])
  attributes = jnp.asarray(np.random.RandomState(0).rand(model.v_template.shape[0], N_CHANNELS), jnp.float32)
  table = []
  for size in (256, 512, 1024):

    def draw(s, f, n=size):
      return rasterize(s, f, (n, n)).pix_to_face

    def loss(s, f, a, n=size):
      return jnp.sum(interpolate(a, s, f, rasterize(s, f, (n, n))) ** 2)

    for batch in (1, 8, 64):
      inputs = (scene(model, size, batch), model.faces, attributes)
      for name, fun, args in (("raster", draw, inputs[:2]), ("render_grad", jax.value_and_grad(loss), inputs)):
        run, seconds, memory = compiled(map_frames(fun, (0, *[None] * (len(args) - 1))), *args)
        ms = statistics.median(interleaved({name: run}, repeats)[name])
        moved = sum(a.nbytes for a in jax.tree.leaves((args, run())))
        row = {"name": name, "size": size, "batch": batch, "ms": round(ms, 3), "ms_per_frame": round(ms / batch, 3)}
        row |= {
          "compile_s": round(seconds, 2),
          "MB": round(memory, 1),
          "bandwidth": round(moved / ms / bytes_per_ms, 4),
        }
        table.append(row)
        print(row)
  return table


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repeats", type=int, default=15)
  parser.add_argument("--table", action="store_true", help="sizes x batches (always on an accelerator)")
  parser.add_argument("--output", type=Path, default=ROOT / "build/bench/render.json")
  args = parser.parse_args()
  started = time.perf_counter()

  model = load_head(model="open")
  faces, edges = model.faces, edge_table(np.asarray(model.faces))
  library = build_zbuffer(args.output.parent)
  rows, times, mismatches = {}, {}, {}

  def add(functions, name, fun, *inputs):
    functions[name], seconds, memory = compiled(fun, *inputs)
    rows[name] = {"compile_s": round(seconds, 2), "memory_MB": round(memory, 1)}

  for size in (256, 512, 1024):
    screens = scene(model, size)
    functions, keep = {}, None
    functions[f"cpp_{size}"], functions[f"cpp_fragments_{size}"], keep = cpp_functions(
      library, np.asarray(screens[0]), np.asarray(faces), size
    )

    def draw(s, f, n=size):
      return rasterize(s, f, (n, n))

    add(functions, f"raster_{size}", lambda s, f: draw(s, f).pix_to_face, screens[0], faces)  # noqa: B023
    add(functions, f"fragments_{size}", draw, screens[0], faces)
    attributes = jnp.asarray(np.random.RandomState(0).rand(screens.shape[1], N_CHANNELS), jnp.float32)
    weight = jnp.asarray(np.random.RandomState(1).randn(size, size, N_CHANNELS), jnp.float32)
    seen = jax.jit(draw)(screens[0], faces)

    def interpolated(a, s, f, seen, w):
      return jnp.sum(interpolate(a, s, f, seen) * w)

    grad = jax.value_and_grad(interpolated, (0, 1))
    add(functions, f"interp_grad_{size}", grad, attributes, screens[0], faces, seen, weight)
    if size == 512:

      def picture(a, s, f, w):
        return jnp.sum(interpolate(a, s, f, rasterize(s, f, (512, 512))) * w)

      def outlined(a, s, f, w, e):
        seen = rasterize(s, f, (512, 512))
        return jnp.sum(antialias(interpolate(a, s, f, seen), s, f, e, seen) * w)

      add(functions, "interp_512", interpolate, attributes, screens[0], faces, seen)
      whole, axes = jax.value_and_grad(picture, (0, 1)), (None, 0, None, None)
      add(functions, "render_grad_512", whole, attributes, screens[0], faces, weight)
      add(functions, "batch8_render_grad_512", map_frames(whole, axes), attributes, screens, faces, weight)
      add(functions, "batch8_vmap_render_grad_512", jax.vmap(whole, axes), attributes, screens, faces, weight)
      edge = jax.value_and_grad(outlined, (0, 1))
      add(functions, "edge_render_grad_512", edge, attributes, screens[0], faces, weight, edges)
      add(functions, "batch8_raster_512", lambda s, f: jax.vmap(draw, (0, None))(s, f).pix_to_face, screens, faces)
    times |= interleaved(functions, args.repeats)
    ids = jax.jit(draw)(screens[0], faces).pix_to_face
    functions[f"cpp_{size}"]()
    mismatches[size] = int(np.sum(np.asarray(ids) != keep[2]))

  for name, values in times.items():
    rows.setdefault(name, {}).update(median_ms=round(statistics.median(values), 3), min_ms=round(min(values), 3))

  pairs = {f"{kind}_{n}_vs_cpp": (f"{kind}_{n}", f"{cpp}_{n}")
           for kind, cpp in (("raster", "cpp"), ("fragments", "cpp_fragments")) for n in (256, 512, 1024)}  # fmt: skip
  pairs |= {
    "interp_grad_512_vs_raster": ("interp_grad_512", "raster_512"),
    "batch8_vs_1_512": ("batch8_render_grad_512", "render_grad_512"),  # `map_frames`
    "batch8_vmap_vs_1_512": ("batch8_vmap_render_grad_512", "render_grad_512"),
    "batch8_raster_vs_1_512": ("batch8_raster_512", "raster_512"),
    # Against pixels: 4 times as many. At 1024 XLA's buffers exceed 32 MB, and the C library maps them anew each time.
    "raster_1024_vs_512": ("raster_1024", "raster_512"),
    "raster_1024_vs_256": ("raster_1024", "raster_256"),
    "interp_grad_512_vs_256": ("interp_grad_512", "interp_grad_256"),
    "interp_grad_1024_vs_512": ("interp_grad_1024", "interp_grad_512"),
    "interp_grad_1024_vs_256": ("interp_grad_1024", "interp_grad_256"),
    "edge_vs_hard_grad_512": ("edge_render_grad_512", "render_grad_512"),
  }
  ratios = {
    name: round(statistics.median(x / y for x, y in zip(times[a], times[b], strict=True)), 3)
    for name, (a, b) in pairs.items()
  }
  report = {
    "machine": f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}, {jax.default_backend()}",
    "mesh": f"{model.name}, {len(faces)} faces",
    "seconds": round(time.perf_counter() - started, 1),
    "ratios": ratios,
    "ratios_of_minima": {name: round(min(times[a]) / min(times[b]), 3) for name, (a, b) in pairs.items()},
    "memory_MB_batch8_512_gradient": rows["batch8_render_grad_512"]["memory_MB"],
    "pixels_that_differ_from_cpp": mismatches,
    "rows": rows,
  }
  if args.table or jax.default_backend() != "cpu":
    report["table"] = device_table(model, args.repeats)
  args.output.parent.mkdir(parents=True, exist_ok=True)
  args.output.write_text(json.dumps(report, indent=2) + "\n")
  print(f"{'':28}{'compile s':>10}{'median ms':>11}{'min ms':>9}{'MB':>8}")
  for name, row in rows.items():
    numbers = [row.get(k, "") for k in ("compile_s", "median_ms", "min_ms", "memory_MB")]
    print(f"{name:28}{numbers[0]:>10}{numbers[1]:>11}{numbers[2]:>9}{numbers[3]:>8}")
  print(json.dumps({"ratios": ratios, "ratios_of_minima": report["ratios_of_minima"]}, indent=2))
  print(f"{report['seconds']} s; {args.output}")


if __name__ == "__main__":
  main()
