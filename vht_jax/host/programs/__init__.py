"""Traced programs on disk: what a process has traced, later ones need not.

XLA's cache on disk saves the compilation of a program, but to find it there the program has to be known, and tracing
ours in Python takes longer than all else that a short run does. So the functions with the large programs are `stored`:
their StableHLO is kept in a folder, under a key of all that it depends on. Nothing is kept unless `folder` is set (the
app does, see `device.start_jax`), and whatever stands in the way, the function is a plain `jax.jit`: arrays on several
devices or under a transformation, JAX's debugging flags, what `jax.export` refuses, a disk that cannot be written.

The key holds the package's sources. It cannot hold what is changed in a running process: leave `folder` alone where
constants or functions of the package are replaced.

A first run has to trace and compile, which takes several times what the work does. XLA compiles without the GIL, so
that can be done beside what comes before: in a `rehearsal` the functions give blanks of the right shapes at once, and
other threads compile their programs in the order in which they are going to be needed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax
import jax.core
import jax.export
import jax.numpy as jnp
import numpy as np

from vht_jax.host import prefetch
from vht_jax.host.machine import default_device, one_device, this_machine
from vht_jax.host.programs import kept, spread

log = logging.getLogger("vht_jax")

folder: Path | None = None  # where programs are kept; None: nowhere

# XLA's options on a CPU. Its older emitters compile our programs in 0.6 of the time, `ROUGH` ones in 0.4 of that; they
# run four times as long (docs/benchmarks.md).
QUICK: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
ROUGH: dict[str, Any] = QUICK | {"xla_backend_optimization_level": 0}

# And on a GPU: what is fastest is not found out by trying (half of a first run, 106 s for 50 on an H200; the next time
# something else is chosen, and the programs are no slower), and no sum depends on who comes first.
STEADY: dict[str, Any] = {
  "xla_gpu_autotune_level": 0,
  "xla_gpu_enable_triton_gemm": False,
  "xla_gpu_exclude_nondeterministic_ops": True,
}

_lock = threading.Lock()  # held to look up and to announce a program, not while it is made
_rehearsed = threading.local()  # .by: this thread's `Rehearsal`
# What changes a trace, and what makes `jit` do something else than run a compiled program.
_TRACING = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")
_TRACING += ("jax_default_prng_impl", "jax_threefry_partitionable")
_DEBUGGING = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs", "jax_check_tracer_leaks", "jax_enable_checks")


def stored(
  fun: Callable, *, static_argnames: tuple[str, ...] = (), rough: bool = False,
  by_frame: Mapping[str, spread.Axes] | None = None,
) -> Callable:  # fmt: skip
  """`jax.jit(fun, static_argnames=...)` whose traced programs are kept on disk.

  The first process calls the stored program as well, so that all of them get the same bits.

  Args:
    fun: of the package, at the top of a module. It takes and returns pytrees of arrays: tuples, lists, dicts, None and
      the package's dataclasses.
    static_argnames: as for `jax.jit`; their values have to have a `repr` that says all of them.
    rough: that it is compiled soon counts more than how fast it runs (`ROUGH`).
    by_frame: of a function that does the same for every frame, the arguments that have frames, see `spread.spread`;
      with several devices (`spread.over_devices`) each does its share. Results have frames; what is a sum over frames
      has an axis of 1 in their place, of which the caller gets as many as there are shares.
  """
  alone = one_device(fun)
  jitted = jax.jit(alone, static_argnames=static_argnames)
  signature = inspect.signature(fun)
  programs: dict[Any, _Program] = {}

  def run(arguments: dict[str, Any], static: dict[str, Any]) -> Any:
    rehearsal = getattr(_rehearsed, "by", None)
    leaves, tree = jax.tree.flatten(arguments)
    device = None if folder is None else _device(leaves)
    if device is None:
      return jitted(**arguments, **static)
    kinds = tuple((t.shape, t.dtype.name, t.weak_type) for t in map(jax.typeof, leaves))
    state = tuple(getattr(jax.config, name, None) for name in _TRACING)
    identity = (tree, tuple(static.items()), kinds, state)
    with _lock:
      program = programs.get((identity, device))
    if program is None:
      flat = lambda *leaves: this_machine(alone)(**jax.tree.unflatten(tree, leaves), **static)
      flat.__name__ = fun.__name__  # by which profiles and XLA's cache call it
      text = f"{fun.__module__}:{fun.__qualname__} {identity}"
      # Not every program can be exported; if `fun` itself fails, it does so again there.
      plainly = lambda *leaves: jitted(**jax.tree.unflatten(tree, leaves), **static)
      with _lock:
        program = programs.setdefault((identity, device), _Program(flat, leaves, text, plainly, rough, device))
    return program.run(leaves) if rehearsal is None else rehearsal.blank(program)

  @functools.wraps(fun)
  def call(*args, **kwargs):
    if folder is None and spread.mesh is None:
      return jitted(*args, **kwargs)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    static = {name: bound.arguments.pop(name) for name in static_argnames}
    if by_frame and (mesh := spread.mesh_for(bound.arguments, by_frame)) is not None:
      return spread.spread(lambda share: run(share, static), mesh, bound.arguments, by_frame)
    return run(bound.arguments, static)

  return call


class _Program:
  """One program for leaves of given kinds; the first thread that needs it makes it, and others wait for that."""

  def __init__(self, flat: Callable, leaves: list, text: str, plainly: Callable, rough: bool, device: Any):
    """`plainly` is called with the leaves where the program cannot be exported."""
    self._flat, self._text, self._plainly, self._rough, self._device = flat, text, plainly, rough, device
    self._leaves: list = leaves  # until it is traced
    self._traced: jax.export.Exported | None = None
    self._compiled: Callable | None = None
    self._tracing, self._compiling = threading.Lock(), threading.Lock()

  def traced(self, missing: Callable[[str], None] = lambda name: None) -> jax.export.Exported:
    """The program; `missing` is told its name if it is not on disk."""
    with self._tracing:
      if self._traced is None:
        self._traced = _traced(self._flat, self._leaves, self._text, missing)
        self._leaves = []
      return self._traced

  def compile(self) -> Callable:
    """The compiled program, made if need be."""
    with self._compiling:
      if self._compiled is not None:
        return self._compiled
      name = self._flat.__name__
      try:
        self._compiled = _compile(self.traced(), name, self._rough, self._device)
      except Exception as error:
        log.debug("%s is not kept: %s", name, error)
        self._compiled = self._plainly
      return self._compiled

  def run(self, leaves: list) -> Any:
    return (self._compiled or self.compile())(*leaves)


class Rehearsal:
  """Compiles ahead, see `rehearsal`."""

  def __init__(self, workers: Executor, missing: Callable[[str], None] = lambda name: None):
    """`workers` compile; `missing` is told the name of every program that is not on disk."""
    self.workers, self.missing = workers, missing

  def blank(self, program: _Program) -> Any:
    """What a program gives, with zeros in place of the numbers and identities in place of square matrices.

    Raises:
      Exception: the program cannot be exported.
      RuntimeError: the workers have been sent home.
    """
    exported = program.traced(self.missing)
    self.workers.submit(program.compile)
    return jax.tree.unflatten(exported.out_tree, [jax.device_put(_blank(t.shape, t.dtype)) for t in exported.out_avals])


@contextlib.contextmanager
def rehearsal(rehearsed: Rehearsal) -> Iterator[None]:
  """Inside the block, in this thread, `stored` functions compute nothing, but their programs get compiled.

  Nothing else in the process notices: a call that needs such a program waits for it.
  """
  _rehearsed.by = rehearsed
  try:
    yield
  finally:
    _rehearsed.by = None


def _blank(shape: Any, dtype: Any) -> np.ndarray:
  square = len(shape) > 1 and shape[-1] == shape[-2]
  return np.broadcast_to(np.eye(shape[-1], dtype=dtype), shape).copy() if square else np.zeros(shape, dtype)


def rows_of(tree: Any, index: np.ndarray) -> Any:
  """Some rows of every array of a pytree, host side: to index arrays of JAX would be one more program."""
  return jax.tree.map(lambda a: np.asarray(a)[index], tree)


def namespace(a: Any) -> Any:
  """`numpy` for an array on the host and `jax.numpy` for any other, so that one function serves both."""
  return np if isinstance(a, np.ndarray | np.generic) else jnp


def in_chunks(solve: Callable[[np.ndarray], Any], n: int, size: int) -> Any:
  """`solve(index)` of n frames, `size` at a time: always as many, so that its programs serve clips of any length.

  Returns:
    Host arrays with one row per frame, in the structure that `solve` gives.
  """
  parts = []
  for start in range(0, n, size):
    found = solve(np.minimum(np.arange(start, start + size), n - 1))
    parts.append(jax.tree.map(lambda a: np.array(a)[: n - start], found))
  return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def rehearsing() -> bool:
  """Whether results are blanks in this thread."""
  return getattr(_rehearsed, "by", None) is not None


def prefetched(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
  """`prefetch.prefetched`, for stages that are rehearsed as well. Only one thread may run programs: large ones of two
  threads can take all of XLA's threads on a CPU and wait for each other for ever."""
  return map(work, items) if rehearsing() else prefetch.prefetched(work, items)


def _device(leaves: list) -> Any:
  """The one device on which a stored program can do a call; None: one that does not exist, or is traced or debugged."""
  if any(getattr(jax.config, name, False) for name in _DEBUGGING):
    return None
  found = set()
  for leaf in leaves:
    if isinstance(leaf, jax.core.Tracer):
      return None
    if isinstance(leaf, jax.Array):
      found |= leaf.devices()
  device = found.pop() if found else default_device()
  return device if not found and getattr(device, "platform", None) == jax.default_backend() else None


def _traced(flat: Callable, leaves: list, text: str, missing: Callable[[str], None]) -> jax.export.Exported:
  """The program of `flat` for such leaves, from disk or else traced and kept."""
  if folder is None or " at 0x" in text:
    raise ValueError("no folder, or an argument without a name of its own")
  key = hashlib.sha256(f"{text} {QUICK} {kept.environment()}".encode()).hexdigest()
  path = folder / f"{flat.__name__}-{key[:32]}.program"
  found = kept.read(path, key)
  if found is None:
    missing(flat.__name__)
    found = jax.export.export(jax.jit(flat))(*leaves)
    kinds = sorted(set(kept.dataclasses_of(found.out_tree)))
    for kind in kinds:
      kept.register(kind)
    kept.keep(path, key, kinds, bytes(found.serialize()))
  return found


def _compile(exported: jax.export.Exported, name: str, rough: bool, device: Any) -> jax.stages.Compiled:
  def run(*leaves):
    return exported.call(*leaves)

  run.__name__ = name
  at = jax.sharding.SingleDeviceSharding(device)
  kinds = (jax.ShapeDtypeStruct(t.shape, t.dtype, sharding=at) for t in exported.in_avals)
  return compiled(jax.jit(run).lower(*kinds), rough)


def compiled(lowered: jax.stages.Lowered, rough: bool = False) -> jax.stages.Compiled:
  """The program as this package compiles it for JAX's default device, by as many of its options as this XLA has.

  Args:
    lowered: `jax.jit(fun).lower(*args)`; what is returned is called with arguments of these shapes.
    rough: that it is compiled soon counts more than how fast it runs.
  """
  options = {"cpu": ROUGH if rough else QUICK, "gpu": STEADY}.get(jax.default_backend(), {})
  while True:
    try:
      return lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:  # since JAX 0.11 there are no older emitters
      unknown = next((name for name in options if f"'{name}'" in str(error)), None)
      if unknown is None:
        raise
      options = {name: value for name, value in options.items() if name != unknown}
