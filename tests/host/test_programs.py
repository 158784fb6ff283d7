"""Traced programs on disk: found again, only where they fit, and never a reason to fail."""

import ast
import functools
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.fit.solvers.least_squares import Normal
from vht_jax.host import programs
from vht_jax.host.programs import in_chunks, kept, stored

REPO = Path(__file__).resolve().parents[2]
traces = []


def solve(matrix, rows, scale=2.0, *, power=1):
  """With what ours have: LAPACK, a loop, a result with structure."""
  traces.append(power)
  factor = jnp.linalg.cholesky(matrix)
  x = jax.lax.fori_loop(0, 3, lambda _, x: jax.scipy.linalg.cho_solve((factor, True), jnp.sin(x)), rows["b"])
  return Normal(jnp.sum(x**power) * scale, x, matrix), {"a": (x, None), "b": [rows["b"]]}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.setattr(programs, "folder", tmp_path / "programs")
  traces.clear()
  return tmp_path / "programs"


@pytest.fixture
def arguments():
  root = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
  return root @ root.T + np.eye(4, dtype=np.float32), {"b": np.arange(4, dtype=np.float32)}


def fresh(fun=solve):
  """As another process would have it."""
  return stored(fun, static_argnames=("power",)) if fun is solve else stored(fun)


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_array_equal(x, y)


def test_a_second_process_does_not_trace_and_gets_the_same_bits(arguments, folder):
  first = fresh()
  result = first(*arguments)
  assert traces == [1] and len(list(folder.iterdir())) == 1
  same(first(*arguments), result)
  same(fresh()(*arguments), result)
  assert traces == [1]
  matrix, rows = arguments
  same(fresh()(jnp.asarray(matrix), rows=rows, power=1), result)  # however it is called
  assert traces == [1]


def test_in_processes_of_their_own(tmp_path):
  code = f"""
import sys
import time
from concurrent.futures import ThreadPoolExecutor
sys.path[:0] = [{str(REPO)!r}, {str(REPO / "tests/host")!r}]
import numpy as np, test_programs as t
from pathlib import Path
t.programs.folder = Path({str(tmp_path / "own")!r})
result = t.fresh()(np.eye(4, dtype=np.float32) * 3, {{"b": np.ones(4, np.float32)}})
print(len(t.traces), np.asarray(result[0].gradient).tobytes().hex())
"""
  runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
  (n, bits), (n_again, bits_again) = (run.stdout.split() for run in runs)
  assert (n, n_again) == ("1", "0") and bits == bits_again


def test_without_a_folder_it_is_jit(arguments, folder, monkeypatch):
  expected = fresh()(*arguments)
  monkeypatch.setattr(programs, "folder", None)
  result = fresh()(*arguments)
  assert traces == [1, 1]
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), result, expected)


@flax.struct.dataclass
class Marked:
  value: jax.Array
  mark: str = flax.struct.field(pytree_node=False)


def double(x):
  traces.append(1)
  x = x if isinstance(x, jax.Array) else x.value
  return x * 2


@pytest.mark.parametrize(
  "change",
  ["shape", "dtype", "weak type", "structure", "static field", "static argument", "sources", "function", "precision"],
)
def test_whatever_changes_the_program_changes_the_key(change, arguments, folder, monkeypatch):
  matrix, rows = arguments
  call = lambda: fresh()(matrix, rows)
  match change:
    case "shape":
      call, other = (lambda: fresh(double)(np.ones(3))), (lambda: fresh(double)(np.ones(4)))
    case "dtype":
      call, other = (lambda: fresh(double)(np.ones(3))), (lambda: fresh(double)(np.ones(3, np.int32)))
    case "weak type":
      call, other = (lambda: fresh(double)(1.0)), (lambda: fresh(double)(np.float32(1.0)))
    case "structure":
      other = lambda: fresh()(matrix, {**rows, "c": None})
    case "static field":
      call, other = (lambda m=m: fresh(double)(Marked(np.ones(3), m)) for m in "ab")
    case "static argument":
      other = lambda: fresh()(matrix, rows, power=2)
    case "sources":

      def other():
        monkeypatch.setattr(kept, "sources", lambda: "edited")
        return call()
    case "function":
      call, other = (lambda: fresh(double)(np.ones(3))), (lambda: fresh(triple)(np.ones(3)))
    case "precision":

      def other():
        with jax.default_matmul_precision("highest"):
          return call()

  call()
  other()
  assert len(traces) == 2 and len(list(folder.iterdir())) == 2
  call(), other()
  assert len(traces) == 2


def triple(x):
  traces.append(1)
  return x * 3


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "another's", "foreign", "no program"])
def test_a_damaged_file_is_made_anew(damage, arguments, folder):
  result = fresh()(*arguments)
  (path,) = folder.iterdir()
  whole = path.read_bytes()
  if damage == "another's":
    fresh(double)(np.ones(3))
    (other,) = folder.glob("double*")
    path.write_bytes(other.read_bytes())
  elif damage == "no program":  # whole as a file, but nothing that can be run
    key, kinds = ast.literal_eval(whole[32:].partition(b"\n")[0].decode())
    assert kinds == ["vht_jax.fit.solvers.least_squares:Normal"]
    kept.keep(path, key, kinds, b"nonsense")
  else:
    at = len(whole) // 2
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    path.write_bytes({"empty": b"", "cut": whole[:at], "flipped": flipped, "foreign": b"\x80\x04 pickle" * 99}[damage])
  traces.clear()
  same(fresh()(*arguments), result)
  same(fresh()(*arguments), result)
  assert traces == [1] and len(path.read_bytes()) > 1000


@pytest.mark.faults
def test_a_disk_that_cannot_be_written(arguments, folder):
  folder.write_text("a file where the folder should be")
  first = fresh()
  same(first(*arguments), first(*arguments))
  assert traces == [1]


def test_few_are_kept(folder, monkeypatch):
  monkeypatch.setattr(kept, "KEEP", 3)
  for n in range(1, 4):
    fresh(double)(np.ones(n))
  for i, path in enumerate(sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime)):
    os.utime(path, (i, i))
  fresh(double)(np.ones(1))  # used again: now the newest
  fresh(double)(np.ones(9))
  traces.clear()
  for n in (1, 3, 9):
    fresh(double)(np.ones(n))
  assert traces == []
  fresh(double)(np.ones(2))
  assert traces == [1]


@pytest.mark.parametrize("how", ["grad", "jit", "vmap", "nans", "no jit", "device"])
def test_under_transformations_and_debugging_it_is_jit(how, folder, monkeypatch):
  call = fresh(double)
  x = jnp.ones(3)
  if how == "grad":
    np.testing.assert_array_equal(jax.grad(lambda x: call(x).sum())(x), 2 * np.ones(3))
  elif how == "jit":
    np.testing.assert_array_equal(jax.jit(call)(x), 2 * np.ones(3))
  elif how == "vmap":
    np.testing.assert_array_equal(jax.vmap(call)(x), 2 * np.ones(3))
  elif how == "nans":
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
      call(jnp.asarray(np.full(3, np.nan, np.float32)))
  elif how == "no jit":
    with jax.disable_jit():
      np.testing.assert_array_equal(call(x), 2 * np.ones(3))
  else:
    monkeypatch.setattr(jax, "local_devices", lambda: ["another"])
    np.testing.assert_array_equal(call(np.ones(3)), 2 * np.ones(3))
  assert not folder.exists()


def with_callback(x):
  return jax.pure_callback(lambda x: np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def unknown_result(x):
  return Marked(x, "m")


def failing(x):
  raise ZeroDivisionError("ours")


def test_what_cannot_be_exported_is_jit(folder):
  x = np.ones(3, np.float32)
  for fun in (with_callback, unknown_result):
    result = fresh(fun)(x)
    np.testing.assert_array_equal(jax.tree.leaves(result)[0], x)
  with pytest.raises(ZeroDivisionError, match="ours"):
    fresh(failing)(x)
  call = stored(with_static_object, static_argnames=("thing",))
  np.testing.assert_array_equal(call(x, object()), x)  # its repr is its address
  assert not folder.exists()


def with_static_object(x, thing):
  return x + 0


def nested(head, row):
  traces.append(1)
  return {"b": [row, None], "a": (Normal(row, row, row), ()), "h": head.replace(v_template=2 * head.v_template)}


def test_structures(open_head, folder):
  """Of every kind that ours have: dataclasses within containers, None, and the static fields of a head."""
  result = fresh(nested)(open_head, np.ones(3, np.float32))
  same(fresh(nested)(open_head, np.ones(3, np.float32)), result)
  assert traces == [1] and result["h"].expr_names == open_head.expr_names
  (path,) = folder.iterdir()
  key, kinds = ast.literal_eval(path.read_bytes()[32:].partition(b"\n")[0].decode())
  assert kinds == ["vht_jax.fit.solvers.least_squares:Normal", "vht_jax.types:FlameModel", "vht_jax.types:ViewBias"]


@pytest.mark.parametrize("foreign", ["os:system", "subprocess:Popen", "vht_jax.app.cli:run", "vht_jaxx.types:Pose"])
def test_a_file_cannot_have_foreign_modules_imported(foreign, arguments, folder):
  fresh()(*arguments)
  (path,) = folder.iterdir()
  head, _, program = path.read_bytes()[32:].partition(b"\n")
  kept.keep(path, ast.literal_eval(head.decode())[0], [foreign], program)
  assert kept.read(path, ast.literal_eval(head.decode())[0]) is None


@pytest.mark.parametrize("n", [1, 4, 7])
def test_chunks(n):
  rows, sizes = np.arange(3 * n).reshape(n, 3), []

  def double(index):
    sizes.append(len(index))
    return {"x": jnp.asarray(rows[index]) * 2}

  found = in_chunks(double, n, 4)
  np.testing.assert_array_equal(found["x"], 2 * rows)
  assert set(sizes) == {4}


@pytest.fixture
def workers():
  with ThreadPoolExecutor(1) as pool:
    yield pool


def test_a_rehearsal_compiles_and_computes_nothing(arguments, workers):
  call, missing = fresh(), []
  with programs.rehearsal(programs.Rehearsal(workers, missing.append)):
    blank = call(*arguments)
    again = call(blank[0].matrix, {"b": blank[1]["b"][0]})  # what one stage gives, the next one takes
  assert traces == [1] and missing == ["solve"]
  np.testing.assert_array_equal(blank[0].matrix, np.eye(4))
  np.testing.assert_array_equal(again[0].gradient, np.zeros(4))
  workers.shutdown()
  result = call(*arguments)
  assert traces == [1] and float(result[0].cost) != 0
  same(fresh()(*arguments), result)


def test_a_rehearsal_is_for_its_own_thread(arguments, workers):
  call = fresh()
  with programs.rehearsal(programs.Rehearsal(workers)), ThreadPoolExecutor(1) as other:
    call(*arguments)
    result = other.submit(call, *arguments).result()
  assert traces == [1]
  same(fresh()(*arguments), result)


def test_a_rehearsal_that_has_to_stop_leaves_everything_usable(arguments, workers):
  call = fresh()
  workers.shutdown(wait=False, cancel_futures=True)
  with programs.rehearsal(programs.Rehearsal(workers)), pytest.raises(RuntimeError):
    call(*arguments)
  assert traces == [1] and np.isfinite(call(*arguments)[0].cost)


def test_prefetching_keeps_the_order_and_raises_in_turn():
  def work(i):
    time.sleep(0.02 * (i % 2 == 0))
    if i == 5:
      raise ValueError(i)
    return i

  assert list(programs.prefetched(work, range(5))) == list(range(5))
  found = programs.prefetched(work, range(9))
  assert [next(found) for _ in range(5)] == list(range(5))
  with pytest.raises(ValueError):
    next(found)
