"""What is being traced for: a CPU or an accelerator, one device or perhaps many; some things are done differently."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_machine: ContextVar[bool | None] = ContextVar("on_cpu", default=None)  # what is being traced is for a CPU

_lone: ContextVar[bool] = ContextVar("for_one_device", default=False)


def for_one_device() -> bool:
  """Whether what is traced now is certainly a program for one device (a part of which may then be the library's)."""
  return _lone.get() or jax.local_device_count() == 1


def one_device(fun: Callable) -> Callable:
  """`fun`, of which a program for one device is made."""

  @functools.wraps(fun)
  def traced(*args, **kwargs):
    token = _lone.set(True)
    try:
      return fun(*args, **kwargs)
    finally:
      _lone.reset(token)

  return traced


def this_machine(fun: Callable) -> Callable:
  """`fun`, traced only for the platform that is JAX's default, for a program that never runs on another one."""

  @functools.wraps(fun)
  def traced(*args, **kwargs):
    token = _machine.set(jax.default_backend() == "cpu")
    try:
      return fun(*args, **kwargs)
    finally:
      _machine.reset(token)

  return traced


def on_cpu() -> bool:
  """Whether what is traced now is for a CPU: as `for_each_machine` says, outside of it by JAX's default device."""
  known = _machine.get()
  return jax.default_backend() == "cpu" if known is None else known


def default_device() -> Any:
  """Where JAX computes if nothing says otherwise: in a cluster each process has one of its own. Perhaps a name."""
  return getattr(jax.config, "jax_default_device", None) or jax.local_devices()[0]


def memory() -> int | None:
  """Bytes that JAX may take of its default device, this process's share of a GPU; None where nobody says it (a CPU)."""
  with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError):  # of a device without the figure; of a name
    return (default_device().memory_stats() or {}).get("bytes_limit")
  return None


def for_each_machine(fun: Callable) -> Callable:
  """`fun` of arrays, traced once for a CPU and once for accelerators: the platform that is lowered for has its own.

  A program that is exported on a CPU for a GPU (`jax.export`) is to be the GPU's. Of the two, only what a program is
  lowered for remains in it.
  """

  def for_one(cpu: bool):
    def traced(*args):
      token = _machine.set(cpu)
      try:
        return fun(*args)
      finally:
        _machine.reset(token)

    return traced

  def both(*args):
    if _machine.get() is not None:
      return fun(*args)
    return lax.platform_dependent(*args, cpu=for_one(True), default=for_one(False))

  return both


def once(values: Any) -> Any:
  """The pytree `values`, computed before what uses it.

  On a CPU XLA makes a product of a matrix and a vector one loop together with what gives the vector, and computes that
  anew for every number of the product: a head's 36 pose features, angles' sines and all, for each of 18,000.
  """
  return lax.optimization_barrier(values)


def running_sum(values: jax.Array) -> jax.Array:
  """`jnp.cumsum` of (n,) booleans or integers as i32; on a CPU a loop, which XLA compiles in a third of the time of the
  tree of sums that it makes of it else, and which takes half as long."""

  @for_each_machine
  def sums(values):
    if not on_cpu():
      return jnp.cumsum(values)
    return lax.scan(lambda total, value: (total + value,) * 2, jnp.zeros((), jnp.int32), values)[1]

  return sums(values.astype(jnp.int32))


def position(sorted_values: jax.Array, values: jax.Array, side: str = "left") -> jax.Array:
  """`jnp.searchsorted` as i32; on an accelerator its steps are one kernel, and not a loop of launches."""

  @for_each_machine
  def search(sorted_values, values):
    method = "scan" if on_cpu() else "scan_unrolled"
    return jnp.searchsorted(sorted_values, values, side=side, method=method).astype(jnp.int32)

  return search(sorted_values, values)
