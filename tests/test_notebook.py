"""The tutorial: the notebook is what its page says, every cell runs, and what it prints is still true."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

for package in ("jupytext", "nbclient", "ipykernel", "tensorflow"):
    pytest.importorskip(package, reason=f"{package} is not installed")

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def make_notebook() -> Any:
    """The script that makes the notebook."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        yield importlib.import_module("make_notebook")


@pytest.fixture(scope="module")
def kept(make_notebook: Any) -> Any:
    """The notebook in the repository."""
    import nbformat

    return nbformat.read(make_notebook.NOTEBOOK, as_version=4)


def test_the_notebook_is_the_page(make_notebook: Any, kept: Any) -> None:
    """``make notebook`` makes it again."""
    made = make_notebook.convert()
    assert len(made.cells) > 30
    for ours, theirs in zip(made.cells, kept.cells, strict=True):
        assert (ours.cell_type, ours.source) == (theirs.cell_type, theirs.source)
        assert ours.metadata.get("tags") == theirs.metadata.get("tags")


def outputs(cell: Any) -> str:
    """What a cell printed and its value, as text."""
    return "".join(x.get("text") or x["data"]["text/plain"] for x in cell.outputs)


def test_it_runs_and_gives_what_it_shows(make_notebook: Any, kept: Any) -> None:
    """Outputs that differ from machine to machine are tagged; all others must be as they stand there."""
    ran = make_notebook.run(make_notebook.convert())
    compared = 0
    for new, old in zip(ran.cells, kept.cells, strict=True):
        if new.cell_type == "code" and not {"times", "varies"} & set(new.metadata.get("tags", [])):
            assert outputs(new) == outputs(old), new.source
            compared += bool(outputs(new))
    assert compared >= 8
    times = [
        cell for cell in ran.cells if "measure(" in cell.source and "times" in cell.metadata.get("tags", [])
    ]
    assert len(times) >= 6
    assert all("GFLOP/s" in outputs(cell) for cell in times)
    words = outputs(next(cell for cell in ran.cells if "right on" in cell.source)).split()
    assert float(words[words.index("on") + 1].rstrip("%")) > 70
