"""The documents: what they name is there, numbers are those of the code, examples run."""

import ast
import importlib
import importlib.util
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from test_layers import FLOORS
from tiny import quick_jit

import vht_jax
from vht_jax.config import Weights

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "vht_jax"
DOCS = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
# Where the numbers of the method are; others in these folders that are no numbers need no row.
ROOMS = ("fit", "tracking", "texture_tracks", "landmarks", "vht", "masks", "results/offsets", "results/texture")
SOLVERS = [p for room in ROOMS for p in (PACKAGE / room).rglob("*.py")]


def text_of(path):
  return path.read_text(encoding="utf-8")


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_files_that_are_named_exist(path):
  text = re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
  named = re.findall(r"`([\w./]+/[\w./]*\.(?:py|md))(?::\w+)?`", text) + re.findall(r"\]\(([^):#]+\.md)[^)]*\)", text)
  missing = [n for n in named if not any((base / n).exists() for base in (REPO, PACKAGE, path.parent))]
  assert not missing


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_functions_that_are_named_exist(path):
  for file, name in re.findall(r"`([\w./]+\.py):(\w+)`", text_of(path)):
    assert re.search(rf"^(def|class) {name}\b|^{name}\b.* = ", text_of(PACKAGE / file), re.MULTILINE), (file, name)


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_names_that_programs_in_documents_import_exist(path):
  for block in re.findall(r"```python\n(.*?)```", text_of(path), re.DOTALL):
    for node in ast.walk(ast.parse(block)):
      if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vht_jax":
        module = importlib.import_module(node.module)
        for name in (alias.name for alias in node.names):
          assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), name
      elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vht":
        assert hasattr(vht_jax, node.attr), node.attr


def test_comments_cite_documents_of_the_repository():
  cited = {(p, name) for p in PACKAGE.rglob("*.py") for name in re.findall(r"\b([\w/]+\.md)\b", text_of(p))}
  assert cited
  assert not [(p, name) for p, name in cited if not any((base / name).exists() for base in (REPO, REPO / "docs"))]


def test_layers_of_the_architecture_are_those_that_are_tested():
  part = text_of(REPO / "docs" / "architecture.md").split("\n## Layers\n")[1]
  stated = [set(line.split(", ")) for line in part.split("```\n")[1].splitlines()]
  assert stated == [set(rooms) - {"__main__", "optimize_tracking"} for rooms in FLOORS]


def test_the_term_of_the_guide_is_the_one_that_is_tested():
  term = text_of(REPO / "tests" / "fit" / "test_terms.py")
  term = term[term.index("class NoseTip") :].split("\n\n\n#")[0]
  guide = re.search(r"```python\n(.*?)```", text_of(REPO / "CONTRIBUTING.md"), re.DOTALL)[1]
  assert guide.strip().endswith(term.strip())
  assert len(guide.strip().splitlines()) <= 25


# --- numbers ---------------------------------------------------------------------------------------------------------


def constants(path: Path) -> dict[str, object]:
  """Upper-case names of a module whose values are numbers, or tuples of them, that are written out."""
  found = {}
  for node in ast.parse(text_of(path)).body:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
      try:
        value = eval(ast.unparse(node.value), {"np": np, "math": math})
      except Exception:  # refers to something else
        continue
      target = node.targets[0]
      names = target.elts if isinstance(target, ast.Tuple) else [target]
      values = value if isinstance(target, ast.Tuple) else [value]
      found |= {n.id: v for n, v in zip(names, values) if isinstance(n, ast.Name) and n.id.isupper()}
  return found


def needs_a_row(value) -> bool:
  """Numbers, and rows of them that are not all whole: those are indices."""
  if isinstance(value, tuple):
    return all(isinstance(v, int | float) for v in value) and any(isinstance(v, float) for v in value)
  if isinstance(value, np.ndarray):
    return value.dtype.kind == "f"
  return isinstance(value, int | float) and not isinstance(value, bool)


def rows():
  """(file, names, values as text, source) of the tables of constants."""
  file = None
  part = text_of(REPO / "docs" / "method.md").split("\n## Constants\n")[1].split("\n## ")[0]
  for line in part.splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if cells[0].startswith("**`"):
      file = cells[0].strip("*`")
    elif cells[0].startswith("`"):
      yield file, re.findall(r"`(\w+)`", cells[0]), cells[1].split("; "), cells[2]


def number(text: str) -> float:
  return math.radians(float(text[:-1])) if text.endswith("°") else float(text)


def test_constants_of_the_method_have_the_values_of_the_code():
  for file, names, values, source in rows():
    code = constants(PACKAGE / file)
    assert source and len(names) == len(values), (file, names)
    for name, value in zip(names, values):
      if value != "table":
        stated = [number(v) for v in value.strip("()").split(", ")]
        np.testing.assert_allclose(np.ravel(code[name]), stated, rtol=1e-6, err_msg=f"docs/method.md: {file} {name}")


def test_every_constant_of_the_solvers_has_a_source():
  listed = {(file, name) for file, names, _, _ in rows() for name in names}
  there = {(p.relative_to(PACKAGE).as_posix(), n) for p in SOLVERS for n, v in constants(p).items() if needs_a_row(v)}
  assert not there - listed, "no row in docs/method.md"


def test_by_hand_are_as_many_as_it_says():
  total, by_hand = re.search(r"Of the (\d+) constants (\d+) are by hand", text_of(REPO / "docs" / "method.md")).groups()
  found = [(len(names), source.startswith("**by hand**")) for _, names, _, source in rows()]
  assert int(total) == sum(n for n, _ in found)
  assert int(by_hand) == sum(n for n, hand in found if hand)


def test_weights_of_the_method_are_the_defaults():
  table = text_of(REPO / "docs" / "method.md").split("\n## Weights\n")[1].split("\n## ")[0]
  stated = dict(re.findall(r"^\| `(\w+)` \| ([\d.e-]+) \|", table, re.MULTILINE))
  assert stated.keys() == {n for n in vars(Weights()) if n.startswith("sd_") or n.endswith("_pixels")} | {"w_identity"}
  for name, value in stated.items():
    assert float(value) == pytest.approx(getattr(Weights(), name)), name


# --- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.differentiable
def test_the_page_on_training_runs_from_top_to_bottom(tmp_path, monkeypatch):
  """As somebody pastes it, with fewer components of the head, and programs that are not optimised."""
  monkeypatch.chdir(tmp_path)
  page = text_of(REPO / "docs" / "differentiable.md").replace("jax.jit(", "quick_jit(")
  page = page.replace("n_shape=20, n_expr=20", "n_shape=3, n_expr=5")
  blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  assert len(blocks) == 9
  given = {"quick_jit": quick_jit}
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as of somebody who pastes it
    for block in blocks:
      exec(block, given)
  for name in ("slope", "bent", "by_spread", "by_colours", "by_pixels", "by_distance", "results", "out"):
    leaves = [np.asarray(a) for a in jax.tree.leaves(given[name])]
    assert all(np.isfinite(a).all() for a in leaves if a.dtype.kind == "f"), name
    assert any((a != 0).any() for a in leaves), name
  assert int(given["result"].left_out) == 0
