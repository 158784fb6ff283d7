"""One clip on many devices: what is done for every frame by itself is spread over them.

Frames have nothing to say to each other in the stages that take the time (landmarks, colours, the skin's texture,
pictures), and what the whole clip shares comes from a fixed number of frames (bundle, keyframes) or is a sum over all
(joint steps). So every device gets as many frames as one alone would do at once (`shares` times as many a call); their
results are gathered by all (one `all_gather` a call), and the rest of the tracker does not notice: a device runs the
same program on the same frames, and sums are added up in the order of the frames, so that any number of devices gives
the same bits. Since all processes of a cluster then have the same results, each of them can run the same `track`.
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
  with the same arguments and gets the same result. Of one kind of devices; each does `batch_size` frames at once (128
  in the landmark stage).

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


def shares() -> int:
  """By how many devices a call is shared: it may have as many times the frames that one does at once."""
  return 1 if mesh is None else mesh.size


def mesh_for(arguments: Mapping[str, Any], by_frame: Mapping[str, Axes]) -> Mesh | None:
  """The devices for a call; None where one is enough, or the frames cannot be shared equally."""
  if mesh is None:
    return None
  framed = (arguments[name] for name, axes in by_frame.items() if axes == 0)
  count = jax.tree.leaves(list(framed))[0].shape[0]
  return mesh if count % mesh.size == 0 else None


def spread(
  run: Callable[[dict[str, Any]], Any], mesh: Mesh, arguments: Mapping[str, Any], by_frame: Mapping[str, Axes]
) -> Any:
  """`run(arguments)` of every device's share of the frames, all of them together on this process's first device.

  Args:
    run: on the device on which its arguments are, as with one device: so its program has the same bits (one for all
      devices would be compiled in another way).
    by_frame: arguments with frames; all others are the same for all of them.
  """
  axes_of = lambda axes, argument: axes(argument) if callable(axes) else axes
  axes = {name: axes_of(by_frame.get(name), argument) for name, argument in arguments.items()}
  found = []
  for k, device in enumerate(mesh.devices):
    if device.process_index != jax.process_index():
      continue
    rows = functools.partial(_rows, k=k, shares=mesh.size)
    share = {name: jax.tree.map(rows, axes[name], arguments[name], is_leaf=lambda a: a is None) for name in arguments}
    found.append(run(jax.device_put(share, device)))
    if device.platform == "cpu":
      # The devices of a host share its threads; programs of several at once can each hold some and wait for more.
      jax.block_until_ready(found[-1])
  where = NamedSharding(mesh, PartitionSpec(AXIS))

  def joined(*parts: jax.Array) -> jax.Array:
    shape = (len(parts[0]) * mesh.size, *parts[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, where, list(parts))

  return jax.tree.map(lambda a: a.addressable_data(0), _gather(mesh)(jax.tree.map(joined, *found)))


def _rows(axis: int | None, part: Any, k: int, shares: int) -> Any:
  """Those of share k of the arrays of `part`, or all of them if frames are not what leads there."""
  if axis is None:
    return part

  def own(leaf):
    count = len(leaf) // shares
    return leaf[k * count : (k + 1) * count]

  return jax.tree.map(own, part)


@functools.lru_cache
def _gather(mesh: Mesh) -> Callable:
  return jax.jit(lambda found: found, out_shardings=NamedSharding(mesh, PartitionSpec()))
