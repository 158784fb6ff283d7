"""Workers on Ray: a cluster of this machine that starts by itself, or one that is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from vht_jax.errors import InputError, brief
from vht_jax.fleet.worker import Job, work
from vht_jax.host import launch

OBJECTS = 80 << 20  # bytes, Ray's least; nothing but small messages passes through its store
PATIENCE = 2.0  # s to wait for messages
SLACK = 1e-6  # ten tenths of a GPU are one
STARTS = 5  # of a cluster of this machine that breaks down


class Order(NamedTuple):
  """A job with what it needs of a machine."""

  job: Job
  cpus: float
  gpus: float = 0.0
  node: str = ""  # where it had better be: its files are there


class Pool(Protocol):
  """Workers, wherever they are."""

  def submit(self, order: Order) -> Any:
    """Gives an order; returns its key."""
    ...

  def events(self) -> list[tuple[Any, dict[str, Any]]]:
    """What has been heard of orders since the last call, as `worker.work` yields it; waits for something.

    A worker that died is {"end": "died"}, and one that was ended for want of memory {"end": "memory"}.
    """
    ...

  def slots(self, cpus: float, gpus: float = 0.0) -> int:
    """How many orders that need so much the machines can do at once."""
    ...

  def cores(self) -> float:
    """Of the largest machine."""
    ...

  def gpus(self) -> float:
    """Of all machines."""
    ...

  def close(self) -> None:
    """Ends all work."""
    ...


def _here(job: Job) -> Iterator[dict[str, Any]]:
  """`work`, in Ray's process; the first message says where."""
  import ray  # late: optional, as below

  node = ray.get_runtime_context().get_node_id()
  yield {"node": node, "host": os.uname().nodename if hasattr(os, "uname") else ""}
  yield from work(job)


class RayPool:
  """`Pool` on Ray."""

  def __init__(self, address: str = ""):
    """`address`: of a cluster that is there; otherwise one of this machine is started.

    Raises:
      InputError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # it would give its workers the lowest priority, nearly
    try:
      import ray  # late: optional
    except ImportError:
      raise InputError("vht-fleet needs Ray: pip install 'vht-jax[fleet]'") from None
    self.ray, self.address, self.starts, self.count = ray, address, 0, 0
    self.held: list[tuple[Order, int]] = []  # until there is a cluster again
    self._start()

  def _start(self) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    self.running: dict[Any, tuple[Order, int]] = {}  # generator of messages -> order, key
    self.lost = False  # nothing more can be begun
    self.starts += 1
    try:
      if self.address:
        self.ray.init(address=self.address, **quiet)
      else:
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # for workers of a checkout that is not installed
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([launch.ROOT, *(p for p in paths if p)]))
        self.ray.init(address="local", include_dashboard=False, object_store_memory=OBJECTS, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
      hint = "; if it has a token: RAY_AUTH_MODE=token" if self.address and "RAY_AUTH_MODE" not in os.environ else ""
      raise InputError(f"--address={self.address or 'local'}: no cluster of Ray ({brief(error)}{hint})") from None
    self.remote = self.ray.remote(max_retries=0)(_here)

  def submit(self, order: Order) -> int:
    self.count += 1
    self._give(order, self.count)
    return self.count

  def _give(self, order: Order, key: int) -> None:
    if self.lost:
      self.held.append((order, key))
      return
    options: dict[str, Any] = {"num_cpus": order.cpus, "num_gpus": order.gpus, "name": order.job.clip.name}
    if order.node:
      from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # late: optional

      options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(order.node, soft=True)
    self.running[self.remote.options(**options).remote(order.job)] = (order, key)

  def events(self) -> list[tuple[int, dict[str, Any]]]:
    if self.lost and not self.running:
      self._begin_again()
    ready, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
    if not ready and self.running:
      ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=PATIENCE)
    found = []
    for messages in ready:
      order, key = self.running[messages]
      try:
        event = self._next(messages)
      except self.ray.exceptions.LocalRayletDiedError:  # whoever had begun goes on to its end without it
        del self.running[messages]
        self.lost = True
        self._give(order, key)
        continue
      if event is None or "end" in event:
        del self.running[messages]
      if event is not None:
        found.append((key, event))
    return found

  def _begin_again(self) -> None:
    """Starts a cluster in place of one that broke down, and gives it the orders that have not begun.

    Raises:
      InputError: it was not ours to start, or breaks down again and again.
    """
    self.ray.shutdown()
    if self.address or self.starts >= STARTS:
      raise InputError("the cluster of Ray broke down; when it is there again, the same command goes on")
    self._start()
    held, self.held = self.held, []
    for order, key in held:
      self._give(order._replace(node=""), key)

  def _next(self, messages: Any) -> dict[str, Any] | None:
    """The next message of a worker; None after the last."""
    errors = self.ray.exceptions
    try:
      return self.ray.get(next(messages))
    except StopIteration:
      return None
    except errors.LocalRayletDiedError:
      raise
    except errors.OutOfMemoryError:
      return {"end": "memory", "error": "ended by Ray: the machine's memory was nearly full"}
    except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ActorDiedError, errors.ObjectLostError):
      return {"end": "died", "error": "the worker died"}
    except errors.RayError as error:
      return {"end": "failed", "code": 1, "error": f"{type(error).__name__}: {brief(error)}", "summaries": []}

  def slots(self, cpus: float, gpus: float = 0.0) -> int:
    found = 0
    for node in self._nodes():
      fits = [node.get("CPU", 0) / cpus] if cpus else []
      fits += [node.get("GPU", 0) / gpus] if gpus else []
      found += int(min(fits, default=0) + SLACK)
    return found

  def cores(self) -> float:
    return max((node.get("CPU", 0) for node in self._nodes()), default=0)

  def gpus(self) -> float:
    return sum(node.get("GPU", 0) for node in self._nodes())

  def close(self) -> None:
    self.ray.shutdown()

  def _nodes(self) -> list[dict[str, float]]:
    return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
