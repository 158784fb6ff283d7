"""One clip on many devices: what is done for every frame by itself is spread over them.

Frames have nothing to say to each other in the stages that take the time (landmarks, colours, the skin's texture,
pictures), and what the whole clip shares comes from a fixed number of frames (bundle, keyframes) or is a sum over all
(joint steps). So every device gets as many frames of a batch; their results are gathered by all (one `all_gather` a
call), sums added up by all (`psum`), and the rest of the tracker does not notice. Since all processes of a cluster
then have the same results, each of them can run the same `track`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vht_jax.errors import InputError

AXIS = "frames"
Axes = int | Callable[[Any], Any]  # 0: frames lead; else of an argument, what `jax.vmap` calls its `in_axes`

mesh: Mesh | None = None  # of the devices in use; None: the default one


@contextlib.contextmanager
def over_devices(devices: Sequence[Any] | int = 0) -> Iterator[int]:
  """Inside the block `track` and what draws its result spread the frames of a clip over some devices.

  In a cluster (`jax.distributed.initialize`) over the devices of all its processes, each of which then calls `track`
  with the same arguments and gets the same result. Of one kind of devices; a batch (`batch_size`, 128 in the landmark
  stage) that cannot be shared equally by them is left to one.

  Args:
    devices: these, or how many of `jax.devices()`; 0: all.

  Yields:
    Their number.

  Raises:
    InputError: there are not so many.
  """
  global mesh
  if isinstance(devices, int):
    there = jax.devices()
    if not 0 <= devices <= len(there):
      raise InputError(f"devices: expected at most {len(there)}, as JAX finds {_named(there)} here; found {devices}")
    devices = there[: devices or None]
  before, mesh = mesh, Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None
  try:
    yield len(devices)
  finally:
    mesh = before


def _named(devices: Sequence[Any]) -> str:
  return devices[0].device_kind if len(devices) == 1 else f"{len(devices)} of {devices[0].device_kind}"


def mesh_for(arguments: Mapping[str, Any], by_frame: Mapping[str, Axes]) -> Mesh | None:
  """The devices for a call; None where one is enough, or the frames cannot be shared equally."""
  if mesh is None:
    return None
  framed = (arguments[name] for name, axes in by_frame.items() if axes == 0)
  count = jax.tree.leaves(list(framed))[0].shape[0]
  return mesh if count % mesh.size == 0 else None


def spread(
  fun: Callable, mesh: Mesh, arguments: Mapping[str, Any], static: Mapping[str, Any], by_frame: Mapping[str, Axes],
  total: bool,
) -> Any:  # fmt: skip
  """`fun(**arguments, **static)` with every device's share of the frames.

  Args:
    by_frame: arguments with frames; all others are the same for all of them.
    total: results are sums over frames.
  """
  specs = {name: _spec(by_frame.get(name), argument) for name, argument in arguments.items()}
  placed = jax.tree.map(
    lambda spec, part: jax.tree.map(functools.partial(_placed, NamedSharding(mesh, spec)), part), specs,
    dict(arguments), is_leaf=lambda spec: isinstance(spec, PartitionSpec),
  )  # fmt: skip
  return _program(fun, mesh, tuple(static.items()), _Specs(specs), total)(placed)


def _spec(axes: Axes | None, argument: Any) -> Any:
  if axes is None:
    return PartitionSpec()
  found = axes(argument) if callable(axes) else axes
  return jax.tree.map(
    lambda axis: PartitionSpec() if axis is None else PartitionSpec(AXIS), found, is_leaf=lambda axis: axis is None
  )


def _placed(where: NamedSharding, leaf: Any) -> jax.Array:
  if where.is_fully_addressable:
    return jax.device_put(leaf, where)
  here = np.asarray(leaf)  # every process has all of it, and gives its devices their part
  return jax.make_array_from_callback(here.shape, where, lambda index: here[index])


class _Specs:
  """A pytree of specifications as a key: equal if it says the same."""

  def __init__(self, specs: dict[str, Any]):
    self.specs, self.text = specs, repr(specs)

  def __hash__(self) -> int:
    return hash(self.text)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Specs) and other.text == self.text


@functools.lru_cache(maxsize=64)
def _program(fun: Callable, mesh: Mesh, static: tuple, specs: _Specs, total: bool) -> Callable:
  def share(arguments):
    found = fun(**arguments, **dict(static))
    together = jax.lax.psum if total else functools.partial(jax.lax.all_gather, tiled=True)
    return jax.tree.map(lambda a: together(a, AXIS), found)

  share.__name__ = fun.__name__
  # All devices end with the same, which the types of shard_map cannot see of an all_gather.
  return jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(specs.specs,), out_specs=PartitionSpec(), check_vma=False))
