"""Strict promotion for every test, how programs are compiled and kept here, and the data that tests share."""

import contextlib
import functools
import gc
import importlib.metadata
import itertools
import os
import shutil
import sys
from contextvars import ContextVar
from pathlib import Path

# Containers often say that no bytecode is to be kept: half of the collection's time is then pytest's rewriting of every
# assertion, and each of the processes that tests start compiles the package anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# As the app does; read when jax is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from jax._src.interpreters import mlir

from vht_jax.head import load
from vht_jax.host import machine, programs

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


REPO = Path(__file__).resolve().parent.parent
PROGRAMS = REPO / "build" / "test_programs"
LARGE = ("_hit", "_drawn")  # of masks/silhouette.py and results/offsets/estimate.py
SHARING = 50  # programs that share a context
MOST_KEPT = 1 << 30  # bytes, some seven runs of changed programs; beyond it all are compiled anew


def _keep_programs() -> None:
  """Programs are kept for the next run and for the workers beside this one: half of the time is compilation.

  In this process alone, and found by their own text: what changed is compiled.
  """
  if os.environ.get("PYTEST_XDIST_WORKER") is None and PROGRAMS.is_dir():
    if sum(path.stat().st_size for path in PROGRAMS.iterdir()) > MOST_KEPT:
      shutil.rmtree(PROGRAMS)
  jax.config.update("jax_compilation_cache_dir", str(PROGRAMS))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _compile_quickly() -> None:
  """Most of the tests' time is compilation of programs that run for milliseconds: half of it goes with these.

  In this process alone: the runs that tests start as others do are compiled as the user's.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  gc.set_threshold(200_000, 20, 50)  # tracing makes many objects and no cycles: a twentieth of its time
  flags = "--xla_cpu_parallel_codegen_split_count=1"  # in one piece: workers take the cores, and pieces cost a tenth
  if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 10):
    flags += " --xla_cpu_use_fusion_emitters=false"  # a later one has no others, and ends the process of who asks
  given = os.environ.get("XLA_FLAGS")
  os.environ["XLA_FLAGS"] = f"{given or ''} {flags}"
  jax.jit(lambda: 0)()  # the flags are read now
  if given is None:
    del os.environ["XLA_FLAGS"]
  else:
    os.environ["XLA_FLAGS"] = given


@contextlib.contextmanager
def _optimisations():
  jax.config.update("jax_disable_most_optimizations", False)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", True)


def _optimise_large() -> None:
  """Programs called by the hundred for large pictures take a second more to compile and a tenth of the time to run."""
  stored = programs.stored

  def kept(fun, **how):
    program = stored(fun, **how)
    return _optimisations()(program) if fun.__name__ in LARGE else program

  programs.stored = kept


def _trace_once() -> None:
  """What a CPU does otherwise than accelerators is traced for a CPU alone: `every_machine` has both."""
  machine._machine = ContextVar("on_cpu", default=True)


def _share_contexts() -> None:
  """JAX makes MLIR's context anew for each of 5,000 programs, half of a small one's lowering: some share one here.

  Not all of them, since it keeps their constants. Where JAX has no such function, each has its own.
  """
  make = getattr(mlir, "make_ir_context", None)
  if make is None:
    return
  numbers, of = itertools.count(), functools.lru_cache(1)(lambda number: make())
  mlir.make_ir_context = lambda: of(next(numbers) // SHARING)


def _read_once() -> None:
  """The embedded head is read once in a process: every run of the app in it would do so again, for .3 s."""
  read, embedded = load.load_open_head, load.open_head_path()
  kept = functools.cache(functools.partial(read, embedded))
  load.load_open_head = lambda path, *counts: kept(*counts) if path == embedded else read(path, *counts)


_keep_programs()
_compile_quickly()
_optimise_large()
_trace_once()
_share_contexts()
_read_once()

# What takes longest comes first: workers take file by file (`--dist loadfile`), and a long one that is left for the end
# keeps one of them busy alone.
LONGEST = (
  "render/test_raster.py", "fit/test_colours.py", "tracking/test_track_fn.py", "app/test_main.py",
  "fit/test_adjoint.py", "fit/test_bundle.py", "render/test_soft.py", "render/test_render.py", "render/test_edges.py",
  "vht/test_energy.py", "results/test_texture_bake.py", "fit/test_landmark_errors.py", "viewer/test_viewer.py",
  "results/test_offsets.py", "dataset/test_pieces.py", "render/test_shade.py", "tracking/test_gaps.py",
  "fit/test_terms.py", "render/test_machines.py", "landmarks/test_landmarks.py", "texture_tracks/test_rigid.py",
  "app/test_inputs.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
  """The `LONGEST` files first, the others in their order."""
  at = {REPO / "tests" / name: k for k, name in enumerate(LONGEST)}
  items.sort(key=lambda item: at.get(item.path, len(at)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
  """Measured reference data beside the checkout; never part of the repository."""
  path = REPO.parent / "shared" / "data"
  if not path.is_dir():
    pytest.skip(f"reference data not present ({path})")
  return path


@pytest.fixture(scope="session")
def mediapipe_mesh():
  """MediaPipe with its face mesh: on Python 3.13 there are only those without it and without models."""
  mediapipe = pytest.importorskip("mediapipe")
  if not hasattr(mediapipe, "solutions"):
    pytest.skip(f"mediapipe {mediapipe.__version__} has no mp.solutions")


@pytest.fixture(scope="session")
def open_head():
  """The embedded head as a FlameModel."""
  from vht_jax.head.load import load_head

  return load_head(model="open")


@pytest.fixture(scope="session")
def small_head(open_head):
  """The embedded head cut to 10 identity and 4 texture components: what the solvers' tests compile for."""
  import jax.numpy as jnp

  n_shape, n_texture = 10, 4
  directions = (open_head.j_shapedirs[..., :n_shape], open_head.j_shapedirs[..., open_head.shapedirs.shape[-1] :])
  return open_head.replace(
    shapedirs=open_head.shapedirs[..., :n_shape],
    j_shapedirs=jnp.concatenate(directions, axis=-1),
    texture_basis=open_head.texture_basis[..., :n_texture],
  )


@pytest.fixture(scope="session")
def clip_scene(open_head):
  """The clip of the exporters' tests (`export_clip`), the open head's."""
  import export_clip

  return export_clip.scene_of_head(open_head)


@pytest.fixture(scope="session")
def flame_head(open_head):
  """A head of FLAME's layout, sizes and name (`export_clip.flame_like`)."""
  import export_clip

  return export_clip.flame_like(open_head)


@pytest.fixture(scope="session")
def flame_scene(flame_head):
  """The clip of the exporters' tests, of a head of FLAME's layout."""
  import export_clip

  return export_clip.scene_of_head(flame_head)


@pytest.fixture(scope="session")
def clip_folder(open_head, tmp_path_factory):
  """The clip of the exporters' tests as the output folder of a run, with images; not to be written into."""
  import export_clip

  return export_clip.write_folder(tmp_path_factory.mktemp("exported") / "clip", open_head)


@pytest.fixture(scope="session")
def clip_with_images(clip_folder):
  """`clip_scene` as it is opened from that folder: with its pictures."""
  from vht_jax.app.result.source import open_scene

  return open_scene(str(clip_folder))


@pytest.fixture
def every_machine(monkeypatch):
  """Programs are traced as users' are: for a CPU and for accelerators, of which the one that is asked for is kept."""
  monkeypatch.setattr(machine, "_machine", ContextVar("on_cpu", default=None))


@pytest.fixture
def optimised():
  """Programs are compiled as users' are: for what two of them have to give bit by bit."""
  with _optimisations():
    yield
