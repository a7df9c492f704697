"""Make docs/tutorial.ipynb from docs/tutorial.md, and run it.

    python docs/make_notebook.py [--without-times]

The Markdown page is the one source: its Python blocks become code cells, all else text. Two tags on a block
say that its output is not the same everywhere: ``times`` (of this machine) and ``varies`` (the last digits).
Where the machine is busy, ``--without-times`` leaves out the outputs with times.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE, NOTEBOOK = HERE / "tutorial.md", HERE / "tutorial.ipynb"


def convert() -> Any:
    """The notebook as the Markdown page says it, without outputs."""
    import jupytext

    notebook = jupytext.reads(SOURCE.read_text(encoding="utf-8"), "md")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same each time, so that a change shows only itself
        tags = cell.metadata.get("tags")
        cell.metadata.clear()
        if tags:
            cell.metadata["tags"] = tags
        if cell.cell_type == "markdown":  # a link from the page to the notebook would lead to itself
            cell["source"] = cell["source"].replace("[tutorial.ipynb](tutorial.ipynb)", "tutorial.ipynb")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: Any, timeout: float = 300) -> Any:
    """Execute every cell in place, in the folder docs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        When a cell raises.
    """
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":  # what libraries log is no result
            cell["outputs"] = [x for x in cell["outputs"] if x.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Convert, run and write."""
    import nbformat

    parser = argparse.ArgumentParser(description="Make docs/tutorial.ipynb from docs/tutorial.md and run it.")
    parser.add_argument("--without-times", action="store_true", help="leave out outputs that are times")
    options = parser.parse_args()
    notebook = run(convert())
    for cell in notebook.cells:
        if options.without_times and "times" in cell.metadata.get("tags", []):
            cell["outputs"] = []
    nbformat.write(notebook, NOTEBOOK)
    print(f"wrote {NOTEBOOK.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
