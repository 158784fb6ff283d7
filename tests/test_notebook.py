"""The notebook runs from its first cell to its last, as a newcomer would run it."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"


@pytest.mark.slow  # the whole tracker in a process that begins with nothing
def test_quickstart(tmp_path):
  nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
  pytest.importorskip("ipykernel")
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
  outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
  printed = "".join(output.text for output in outputs if output.output_type == "stream")
  assert "tracked 24 of 24 frames" in printed and "mm per unit" in printed
  assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
