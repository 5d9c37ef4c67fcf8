"""The notebook runs from top to bottom, on the bundled model."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "restore.ipynb"


# The kernel's packages emit warnings that are not ours.
@pytest.mark.filterwarnings("default")
def test_the_notebook_restores_a_run_and_compares_temperatures(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    outputs = ["".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in notebook.cells]
    assert any(text.startswith("the truth ") and len(text) == 411 for text in outputs)
    assert any(all(f"--- temperature {value}" in text for value in (0, 0.2, 0.5, 1.0, 1.2)) for text in outputs)
