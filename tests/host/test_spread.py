"""Frames of a clip on several devices: the same numbers as on one, in one process and in a cluster of two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vht_jax.errors import InputError
from vht_jax.host.programs.spread import over_devices

TESTS = Path(__file__).parents[1]

PROGRAMS = """
import jax, jax.numpy as jnp, numpy as np
from vht_jax.host.programs import spread, stored

def frames(x, scale, more):
  # A mean over the frames that are here shows how many that is.
  return {"y": x * scale + sum(rows for _, rows in more), "here": jnp.full_like(x[:, 0], len(x))}

def summed(x, valid):
  return jnp.sum(jnp.where(valid[:, None], x, 0.0), axis=0)[None]

each = stored(frames, by_frame={"x": 0, "more": lambda more: [(None, 0) for _ in more]})
total = stored(summed, by_frame={"x": 0, "valid": 0})
x = np.arange(24, dtype=np.float32).reshape(8, 3)
more = [(np.float32(7), 10 * x)]
alone = each(x, np.float32(2), more)
with spread.over_devices(4):
  shared, uneven = each(x, jnp.float32(2), more), each(x[:6], np.float32(2), [])
  assert shared["y"].devices() == {jax.devices()[0]}
  np.testing.assert_array_equal(shared["y"], alone["y"])
  np.testing.assert_array_equal(shared["here"], 2)
  np.testing.assert_array_equal(uneven["here"], 6)
  valid = np.arange(8) % 3 > 0
  assert total(x, valid).shape == (4, 3)
  np.testing.assert_array_equal(total(x, valid).sum(0), x[valid].sum(0))
np.testing.assert_array_equal(each(x, np.float32(2), more)["here"], 8)
print("equal")
"""

TRACKED = """
import sys
import jax, numpy as np
out, n, process, address = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if address:
  jax.distributed.initialize(address, 2, process)
import drawn
import vht_jax as vht
from tiny import tiny_head
from vht_jax.head.load import load_head

clip = drawn.Clip(24)
with vht.over_devices(n) as used:
  assert used == n == max(jax.device_count() if n > 1 else 1, 1)
  result = vht.track(tiny_head(load_head(model="open")), clip, vht.TrackConfig(photometric=False), vht.Weights())
leaves = jax.tree.leaves((result.identity, result.poses, result.energies))
numbers = {f"{i}": np.asarray(a) for i, a in enumerate(leaves)}
np.savez(f"{out}/{n}-{process}.npz", **numbers)
"""


def run(script: str, n_devices: int, *args) -> subprocess.Popen:
  env = os.environ | {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={n_devices}",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
  }
  command = [sys.executable, "-c", script, *map(str, args)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finished(*processes: subprocess.Popen) -> list[str]:
  outputs = [process.communicate(timeout=500) for process in processes]
  for process, (_, errors) in zip(processes, outputs):
    assert process.returncode == 0, errors[-3000:]
  return [out for out, _ in outputs]


def test_every_device_gets_its_share_and_all_get_the_results():
  assert finished(run(PROGRAMS, 4))[0].strip().endswith("equal")


def test_more_devices_than_there_are():
  with pytest.raises(InputError, match="expected at most 1.*found 5"), over_devices(5):
    pass
  with over_devices() as n:
    assert n == 1


@pytest.mark.slow
def test_a_clip_on_four_devices_and_on_two_processes_is_that_of_one(tmp_path):
  """Bit by bit: every device runs the program of one device on as many frames, and sums keep their order."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  finished(run(TRACKED, 1, tmp_path, 1, 0, ""))
  finished(run(TRACKED, 4, tmp_path, 4, 0, ""))
  read = lambda name: dict(np.load(tmp_path / name))
  alone, spread = read("1-0.npz"), read("4-0.npz")
  finished(*(run(TRACKED, 2, tmp_path, 4, process, address) for process in (0, 1)))
  for other in (spread, read("4-0.npz"), read("4-1.npz")):
    for name, expected in alone.items():
      np.testing.assert_array_equal(other[name], expected)
