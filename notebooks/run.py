"""Runs the book's notebook from top to bottom, and writes its outputs into it and into the Korean one.

python notebooks/run.py
"""

import tempfile
from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).parent
BOOKS = [FOLDER / "book.ipynb", FOLDER / "book.ko.ipynb"]
"""The same notebook in two languages: they have the same code, and the outputs of one run."""


def execute(notebook: nbformat.NotebookNode, folder: Path) -> list[nbformat.NotebookNode]:
    """Executes a notebook in a folder, where its runs stay; returns its code cells."""
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=3600, resources=resources, record_timing=False).execute()
    return code(notebook)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        executed = execute(nbformat.read(BOOKS[0], as_version=4), Path(folder))
    for path in BOOKS:
        notebook = nbformat.read(path, as_version=4)
        for cell, done in zip(code(notebook), executed, strict=True):
            assert cell.source == done.source
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
