"""The rooms of the package: what may import what, how large a room may be (docs/architecture.md), nothing twice."""

import ast
import functools
import statistics
from collections import Counter, defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "vht_jax"

# From the ground up: a module imports its own room and those of lower floors. `host` knows nothing but errors.
FLOORS = (
  ("errors",),
  ("types", "host", "layout", "option"),
  ("rotation", "config"),
  ("cameras",),
  ("head",),
  ("render", "video", "landmarks", "flame", "assets"),
  ("fit", "dataset"),
  ("texture_tracks",),
  ("vht", "masks"),
  ("tracking",),
  ("results",),
  ("app", "__main__"),
  ("viewer", "fleet", "optimize_tracking"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

MAX_LINES = 350
MEDIAN_LINES = 150
MAX_FILES = 10
SAME_LINES = 6

# What is not yet so. Entries go when they are no longer needed (the tests fail until they do); none is added.
UPWARD: set[tuple[str, str]] = set()
TOO_LONG: set[str] = set()
TOO_FULL: set[str] = set()


def modules() -> list[Path]:
  return sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
  return module.split(".")[1] if "." in module else "vht_jax"


@functools.cache
def tree(path: Path) -> ast.Module:
  return ast.parse(path.read_text())


def imports(path: Path):
  """Modules of the package that a file imports, wherever it does: within functions and for type checkers as well."""
  for node in ast.walk(tree(path)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name.startswith("vht_jax."))
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vht_jax":
      yield from (f"{node.module}.{a.name}" if node.module == "vht_jax" else node.module for a in node.names)


def name_of(path: Path) -> str:
  return ".".join(("vht_jax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def test_every_room_has_a_floor():
  rooms = {room_of(name_of(path)) for path in modules()} - {"vht_jax"}
  assert rooms == FLOOR_OF.keys()


def test_no_module_imports_upward():
  upward = set()
  for path in modules():
    here = room_of(name_of(path))
    for module in imports(path):
      there = room_of(module)
      if here != there and here != "vht_jax" and FLOOR_OF[there] >= FLOOR_OF[here]:
        upward.add((name_of(path), module))
  assert upward == UPWARD


def test_files_are_short():
  lines = {name_of(path): len(path.read_text().splitlines()) for path in modules()}
  assert {name for name, n in lines.items() if n > MAX_LINES} == TOO_LONG
  assert statistics.median(lines.values()) <= MEDIAN_LINES


def test_rooms_are_not_full():
  counts = Counter(path.parent for path in modules())
  assert {str(folder.relative_to(PACKAGE)) for folder, n in counts.items() if n > MAX_FILES} == TOO_FULL


def test_nothing_stands_twice():
  """Six lines of code, the same to the letter; imports, comments and lines without words do not count."""
  places = defaultdict(list)
  for path in modules():
    imported = (n for n in ast.walk(tree(path)) if isinstance(n, ast.Import | ast.ImportFrom))
    passed = {line for node in imported for line in range(node.lineno, node.end_lineno + 1)}
    lines = [(k, line.strip()) for k, line in enumerate(path.read_text().splitlines(), 1) if k not in passed]
    lines = [(k, line) for k, line in lines if not line.startswith("#") and any(c.isalnum() for c in line)]
    for run in zip(*(lines[i:] for i in range(SAME_LINES))):
      places[tuple(line for _, line in run)].append(f"{name_of(path)}:{run[0][0]}")
  assert [found for found in places.values() if len(found) > 1] == []


def late_imports(path: Path):
  """Lines of blocks of imports within functions; those for type checkers alone are not meant."""
  functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
  late = [node for f in functions for node in ast.walk(f) if isinstance(node, ast.Import | ast.ImportFrom)]
  ends = {node.end_lineno for node in late}
  return sorted({node.lineno for node in late if node.lineno - 1 not in ends})


def test_what_is_imported_late_says_why():
  """Architecture: modules import at their heads; late only with the reason beside it."""
  silent = []
  for path in modules():
    text = path.read_text().splitlines()
    silent += [f"{path.relative_to(PACKAGE)}:{n}" for n in late_imports(path) if "#" not in "".join(text[n - 2 : n])]
  assert not silent, f"a reason is missing beside {silent}"
