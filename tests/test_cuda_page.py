"""The figures of docs/cuda.md are what the code gives now."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from nbops.targets.bounds import compiler
from tests.targets.cuda import needs_compiler

DOCS = Path(__file__).parents[1] / "docs"
#: What every run counts again: the cheapest call.
QUICK = "add, 4096"


@pytest.fixture(scope="module")
def make_cuda() -> Any:
    """The script that writes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        yield importlib.import_module("make_cuda")


@pytest.fixture
def counters(make_cuda: Any) -> list[str]:
    lines: list[str] = make_cuda.section(make_cuda.PAGE.read_text(encoding="utf-8"), "counters").splitlines()
    return lines


def skip_with_another_compiler(make_cuda: Any) -> None:
    """It needs a few instructions more or fewer."""
    if f"Compiled with {compiler()}." not in make_cuda.PAGE.read_text(encoding="utf-8"):
        pytest.skip("another compiler made the page's figures")


@needs_compiler
def test_one_call_is_counted_as_on_the_page(make_cuda: Any, counters: list[str]) -> None:
    skip_with_another_compiler(make_cuda)
    call = next(call for call in make_cuda.calls() if call.label == QUICK)
    assert make_cuda.rows(call) == [line for line in counters if line.startswith(f"| {QUICK} |")]


@needs_compiler
@pytest.mark.slow
def test_every_call_is_counted_as_on_the_page(make_cuda: Any, counters: list[str]) -> None:
    skip_with_another_compiler(make_cuda)
    assert make_cuda.counters().splitlines() == counters


def test_the_page_has_a_row_for_each_kernel_of_each_call(make_cuda: Any, counters: list[str]) -> None:
    expected = [f"| {call.label} | {kind} |" for call in make_cuda.calls() for kind in call.forms]
    assert len(counters) == 2 + len(expected)
    for line, start in zip(counters[2:], expected, strict=True):
        assert line.startswith(start)


def test_the_bounds_are_those_of_the_baseline(make_cuda: Any) -> None:
    """Which tests/targets/test_bounds.py compares to the compiler's output."""
    page = make_cuda.PAGE.read_text(encoding="utf-8")
    assert make_cuda.section(page, "bounds") == make_cuda.bounds()
