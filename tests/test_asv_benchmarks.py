"""Every benchmark runs: each class once, at its first and smallest parameters."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "asv_benchmarks"))
AREAS = [module.name for module in pkgutil.iter_modules([str(ROOT / "asv_benchmarks" / "benchmarks")])]
PREFIXES = ("time_", "peakmem_", "track_")


def classes() -> Iterator[Any]:
    for area in AREAS:
        module = importlib.import_module(f"benchmarks.{area}")
        for name, value in vars(module).items():
            if isinstance(value, type) and any(method.startswith(PREFIXES) for method in dir(value)):
                yield pytest.param(value, id=f"{area}.{name}")


def parameters(benchmark: Any) -> list[Any]:
    """nbops's own point where there is one, else the first of each list."""
    params = getattr(benchmark, "params", [])
    lists = params if isinstance(params, tuple) else [params] if params else []
    return [next((own for own in choices if str(own).startswith("nbops")), choices[0]) for choices in lists]


@pytest.mark.parametrize("benchmark_class", list(classes()))
def test_it_runs(benchmark_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = {name: f"nbops.compare.peers.on_{name}" for name in ("nbops", "numpy")}
    monkeypatch.setattr("nbops.compare.PEERS", peers)
    benchmark, chosen = benchmark_class(), parameters(benchmark_class)
    names = getattr(benchmark_class, "param_names", ())
    assert len([names] if isinstance(names, str) else names) == len(chosen)
    try:
        if hasattr(benchmark, "setup"):
            benchmark.setup(*chosen)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    try:
        for method in dir(benchmark):
            if method.startswith(PREFIXES):
                result = getattr(benchmark, method)(*chosen)
                assert not method.startswith("track_") or result >= 0
    finally:
        if hasattr(benchmark, "teardown"):
            benchmark.teardown(*chosen)


def test_each_area_has_benchmarks() -> None:
    areas = {param.id.split(".")[0] for param in classes()}
    assert areas == set(AREAS) - {"common"}


def test_the_kept_history_names_no_machine() -> None:
    """At least five commits, all measured by "reference", whatever machine that was."""
    folder = ROOT / "asv_benchmarks" / "results" / "reference"
    assert json.loads((folder / "machine.json").read_text()) == {"machine": "reference", "version": 1}
    kept = [json.loads(file.read_text()) for file in folder.glob("*-virtualenv-*.json")]
    assert len({report["commit_hash"] for report in kept}) >= 5
    for report in kept:
        assert report["params"]["machine"] == "reference"
        assert set(report["params"]) == {"machine", "python", "numba", "numpy"}
        assert len(report["results"]) >= 5
