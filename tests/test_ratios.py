"""The tables of measured ratios are those of the kept report."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def make_ratios() -> Any:
    """The script that writes the tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        yield importlib.import_module("make_ratios")


def test_the_tables_are_those_of_the_kept_report(make_ratios: Any) -> None:
    """``make ratios`` makes them again."""
    report = make_ratios.read()
    for page, make in make_ratios.PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert text == make_ratios.replaced(text, make(report)), page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real report, of tiny sizes."""
    from nbops.__main__ import main

    file = tmp_path_factory.mktemp("ratios") / "peers.json"
    arguments = ["--small", "--only", "small pair", "--libraries", "numpy,nbops,numexpr", "--json", str(file)]
    assert main(["compare", *arguments]) == 0
    return json.loads(file.read_text())


def test_a_small_ratio_keeps_a_digit(make_ratios: Any) -> None:
    assert [make_ratios.shown(ratio) for ratio in (12.345, 0.987, 0.0061)] == ["12.35", "0.99", "0.006"]


def test_a_report_becomes_tables(make_ratios: Any, report: Any) -> None:
    groups = make_ratios.by_group(report).splitlines()
    assert groups[0].startswith("| workloads | number |")
    assert groups[1] == "| --- | ---: | ---: | ---: | --- |"
    mean = report["groups"]["small pair"]["p10"]["geomean"]
    assert groups[2].startswith(f"| small pair | 3 | {make_ratios.shown(mean)} |")
    machine = report["machine"]
    assert groups[-1].startswith(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}")
    assert f"numpy {report['libraries']['numpy']['versions']['numpy']}" in groups[-1]

    workloads = make_ratios.by_workload(report).splitlines()
    for row in report["workloads"]:
        line = next(x for x in workloads if x.startswith(f"| {row['name']} |"))
        assert f"| {make_ratios.shown(row['best']['p10']['ratio'])} |" in line


def test_first_steps_are_told_in_seconds(make_ratios: Any, report: Any) -> None:
    """A ratio to a library that compiles nothing says little."""
    first = {
        **report["workloads"][0],
        "name": "first training step of a process, cold",
        "group": "first step",
        "fresh_process": "cold",
        "results": {
            "nbops": {"status": "ok", "load_s": [2.0, 1.0, 9.0], "p10_ns": 9.4e9},
            "numpy": {"status": "ok", "load_s": [0.0], "p10_ns": 4.2e6},
            "numexpr": {"status": "unsupported"},
        },
    }
    groups = {**report["groups"], "first step": report["groups"]["small pair"]}
    more = {**report, "workloads": [*report["workloads"], first], "groups": groups}
    for make in (make_ratios.by_group, make_ratios.by_workload):
        lines = make(more).splitlines()
        assert "| library | imports, cold | first step, cold |" in lines
        assert "| nbops | 2 s | 9.4 s |" in lines
        assert "| numpy | 0 s | 0.0042 s |" in lines
        assert not any(line.startswith(("| first", "| numexpr")) for line in lines)
        assert "library" not in make(report)


def test_a_refused_ratio_is_told(make_ratios: Any, report: Any) -> None:
    row = {**report["workloads"][0], "best": None, "refused": "numpy: not installed"}
    text = make_ratios.by_workload({**report, "workloads": [row]})
    assert "no ratio: numpy: not installed" in text


def test_without_a_report_nothing_is_claimed(make_ratios: Any) -> None:
    assert make_ratios.by_group(None) == make_ratios.by_workload(None) == make_ratios.NOTHING


def test_a_page_without_its_place_is_refused(make_ratios: Any) -> None:
    text = f"a\n{make_ratios.BEGIN}\nold\n{make_ratios.END}\nb"
    assert "old" not in make_ratios.replaced(text, "new")
    assert make_ratios.replaced(text, r"\1").startswith("a\n")
    with pytest.raises(ValueError, match="once in the page"):
        make_ratios.replaced(text + text, "new")
    with pytest.raises(ValueError, match="once in the page"):
        make_ratios.replaced("a", "new")
