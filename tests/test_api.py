"""The package's front door: what a program and a type checker see of it."""

import ast
import subprocess
import sys
import typing
from pathlib import Path

import vht_jax

STUB = Path(vht_jax.__file__).with_suffix(".pyi")


def test_every_public_name_resolves():
  for name in vht_jax.__all__:
    assert getattr(vht_jax, name) is not None


def test_a_type_checker_sees_the_names_that_a_program_gets():
  """`import A as A` is how a stub says that A is public; without `py.typed` checkers ignore it all."""
  names = {}
  for node in ast.parse(STUB.read_text()).body:
    if isinstance(node, ast.ImportFrom):
      assert node.level == 1 and all(alias.asname == alias.name for alias in node.names)
      names |= {alias.name: f"vht_jax.{node.module}" for alias in node.names}
  assert sorted(names) == sorted(vht_jax.__all__)
  for name, module in names.items():
    home = sys.modules.get(module) or __import__(module, fromlist=[name])
    assert getattr(vht_jax, name) is getattr(home, name)
  assert STUB.with_name("py.typed").exists()


def test_signatures_of_the_public_functions_can_be_evaluated():
  """Names that only a type checker knows would make `help()` of a notebook, and checks at run time, fail."""
  for name in vht_jax.__all__:
    found = getattr(vht_jax, name)
    if callable(found) and not isinstance(found, type):
      typing.get_type_hints(getattr(found, "__wrapped__", found))


def test_the_version_is_that_of_the_distribution():
  assert vht_jax.__version__.count(".") == 2
  assert "version" not in vht_jax.__all__


def test_importing_the_core_needs_neither_opencv_nor_mediapipe():
  code = (
    "import sys, vht_jax, vht_jax.tracking.pipeline, vht_jax.render.picture, vht_jax.results;"
    "print([m for m in ('cv2', 'mediapipe', 'av', 'torch', 'tensorboardX') if m in sys.modules])"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "[]"


def test_the_citation_names_this_version():
  citation = STUB.parents[1] / "CITATION.cff"
  if citation.exists():  # not in a wheel
    assert f"\nversion: {vht_jax.__version__}\n" in citation.read_text()


def test_programs_written_before_modules_moved_still_run():
  code = (
    "from vht_jax import flame; from vht_jax.assets import load_head; from vht_jax.results import load_tracked;"
    "import vht_jax.head.flame, vht_jax.head.load;"
    "assert flame is vht_jax.head.flame and load_head is vht_jax.head.load.load_head"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
