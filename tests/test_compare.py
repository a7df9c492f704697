"""nbops compare on small sizes: ratios, refusals, the report's keys. No test looks at a time."""

from __future__ import annotations

import json
import math
import platform
import re
import sys
from typing import Any

import numpy as np
import pytest

from nbops.__main__ import main
from nbops.compare import PEERS, Settings, compare, oracles, process, select, table, workloads
from nbops.compare.measure import SCHEMA
from nbops.compare.peers import MACHINE
from nbops.compare.workloads import operations

SMALL = Settings(rounds=3, fresh_rounds=1, window_ms=1, settle_ms=0, small=True)
NUMPY_AND_NBOPS = {name: PEERS[name] for name in ("nbops", "numpy")}

BROKEN = """
from nbops.compare.peers import Case
from nbops.compare.peers.on_numpy import *
from nbops.compare.peers.on_numpy import KINDS as RIGHT


def slightly_wrong(given, options):
    case = RIGHT["matmul"](given, options)
    return Case(case.run, lambda: {"out": case.fetch()["out"] * 1.001})


def crashing(given, options):
    import os
    os._exit(3)


def raising(given, options):
    raise OSError("the disk is on fire")


KINDS = {**RIGHT, "matmul": slightly_wrong, "vecdot": crashing, "softmax": raising}
"""


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Every workload that does not start processes of its own or needs TensorFlow."""
    chosen = [w for w in workloads(small=True) if w.kind != "training_step"]
    return compare(chosen, NUMPY_AND_NBOPS, SMALL)


@pytest.fixture
def broken(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of an adapter with a wrong result, a crash and an exception."""
    (tmp_path / "broken_adapter.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "broken_adapter"


# ---- the report -------------------------------------------------------------------------------------


def test_every_workload_has_a_ratio(report: dict[str, Any]) -> None:
    for row in report["workloads"]:
        assert row["refused"] is None, row
        assert row["best"]["p10"]["peer"] == row["best"]["median"]["peer"] == "numpy"
        ours, theirs = row["results"]["nbops"], row["results"]["numpy"]
        for key in ("p10", "median"):
            assert row["best"][key]["ratio"] == pytest.approx(theirs[f"{key}_ns"] / ours[f"{key}_ns"])


def test_cells_are_complete(report: dict[str, Any]) -> None:
    for row in report["workloads"]:
        for cell in row["results"].values():
            assert cell["status"] == "ok"
            assert len(cell["samples_ns"]) == SMALL.rounds
            assert 0 < cell["p10_ns"] <= cell["median_ns"]
            assert cell["spread"] >= 0
            assert 0 <= cell["error"] <= cell["tolerance"]
            assert cell["calls"] >= 1
            assert cell["first_call_s"] > 0


def test_report_is_json_with_these_keys(report: dict[str, Any]) -> None:
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["schema"] == SCHEMA
    assert set(again) == {"schema", "machine", "settings", "libraries", "workloads", "groups"}
    assert set(again["machine"]) == {"cpu", "cores", "architecture", "system", "python", "nbops"}
    for library in again["libraries"].values():
        assert {"status", "versions", "threads", "blas", "load_s"} <= set(library)
        assert library["versions"]["numpy"] == np.__version__
    for group in again["groups"].values():
        assert group["rated"] == group["workloads"]
        assert {"geomean", "worst", "worst_workload"} == set(group["p10"]) == set(group["median"])
        assert group["p10"]["worst"] <= group["p10"]["geomean"] * (1 + 1e-12)


@pytest.mark.parametrize("key", ["p10", "median"])
def test_the_machine_has_its_turn(report: dict[str, Any], key: str) -> None:
    """And no result: what nobody can be faster than stands beside the ratios, not among them."""
    assert not set(MACHINE) & {*report["libraries"], *report["workloads"][0]["results"]}
    for row in report["workloads"]:
        if row["group"] == "small pair":  # the call is the work
            assert row["bound"] == ""
            assert row["floor"] is row["reached"] is row["possible"] is None
            continue
        assert row["bound"] in ("arithmetic", "memory")
        floor = row["floor"]
        assert floor["status"] == "ok", floor
        assert len(floor["samples_ns"]) == SMALL.rounds
        reached = floor[f"{key}_ns"] / row["results"]["nbops"][f"{key}_ns"]
        assert row["reached"][key] == pytest.approx(reached)
        peer = row["results"]["numpy"][f"{key}_ns"]
        assert row["possible"][key] == pytest.approx(peer / floor[f"{key}_ns"])


def test_what_bounds_a_workload() -> None:
    bounds = {w.name: w.bound for w in workloads()}
    assert bounds["matmul 512x512x512 NN float64"] == "arithmetic"
    assert bounds["training step 784-512-10 batch 128 sgd"] == "arithmetic"
    assert bounds["vecdot 100000000 float32"] == bounds["softmax 1024x1024 float32"] == "memory"
    assert bounds["first training step of a process, cold"] == ""


def test_the_machine_does_what_the_workload_does() -> None:
    """Its multiply-adds are counted, and each of its ways moves the arrays."""
    from nbops.compare.peers import on_machine

    options = {"m": 30, "k": 40, "n": 50, "layout": "NN", "dtype": "float64"}
    case = on_machine.KINDS["matmul"]({}, options)
    assert operations("matmul", options) == 120_000
    assert case.times >= 1
    rng = np.random.default_rng(0)
    length = 5 * 512 + 3  # a few stretches, and a rest that the ways past the caches leave
    x, y = (oracles.aligned(rng.random(length, np.float32)) for _ in range(2))
    workers, whole = 3, length // 128 * 128
    for near, far in on_machine.DISTANCES:
        out = oracles.aligned(np.zeros(length, np.float32))
        on_machine._compiled(on_machine._add)(workers, x, y, out.ctypes.data, near, far)
        np.testing.assert_array_equal(out[:whole], (x + y)[:whole])
        on_machine._compiled(on_machine._copy)(workers, x, out.ctypes.data, near, far)
        np.testing.assert_array_equal(out[:whole], x[:whole])
        sums = np.zeros(workers, np.float32)
        on_machine._compiled(on_machine._read)(workers, x, y, sums, near, far)
        whole_lanes = length // 64 * 64
        assert sums.sum() == pytest.approx(float(x[:whole_lanes] @ y[:whole_lanes]), rel=1e-5)
    on_machine._compiled(on_machine._add_through_caches)(workers, x, y, out)
    np.testing.assert_array_equal(out, x + y)
    on_machine._compiled(on_machine._copy_through_caches)(workers, x, out)
    np.testing.assert_array_equal(out, x)


def test_geomean(report: dict[str, Any]) -> None:
    rows = [row for row in report["workloads"] if row["group"] == "matmul float32"]
    ratios = [row["best"]["median"]["ratio"] for row in rows]
    mean = report["groups"]["matmul float32"]["median"]["geomean"]
    assert mean == pytest.approx(math.prod(ratios) ** (1 / len(ratios)))


def test_no_host_name(report: dict[str, Any]) -> None:
    text = json.dumps(report) + "".join(map(table.plain, table.sections(report)))
    assert platform.node()
    assert not re.search(rf"\b{re.escape(platform.node())}\b", text)
    assert "filepath" not in text


def test_table_names_everything(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(map(table.plain, table.sections(report)))
    for row in report["workloads"]:
        assert text.count(row["name"]) >= 2
    table.show(report)
    shown = capsys.readouterr().out
    assert "geomean p10" in shown
    assert "best peer" in shown


def test_table_without_rich(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    table.show(report)
    assert capsys.readouterr().out == "".join(table.plain(s) + "\n\n" for s in table.sections(report))


# ---- refusals ---------------------------------------------------------------------------------------


def test_a_wrong_peer_gets_no_ratio(broken: str) -> None:
    chosen = select(workloads(small=True), "matmul 16x16x16 NN float32")
    report = compare(chosen, {"nbops": PEERS["nbops"], "broken": broken}, SMALL)
    (row,) = report["workloads"]
    cell = row["results"]["broken"]
    assert cell["status"] == "wrong"
    assert cell["error"] > cell["tolerance"]
    assert "samples_ns" not in cell
    assert row["best"] is None
    assert row["ratios"] == {}
    assert "against the float64 oracle" in row["refused"]
    assert report["groups"]["matmul float32"] == {"workloads": 1, "rated": 0}
    text = "\n".join(map(table.plain, table.sections(report)))
    assert "no ratio: broken: error" in text


def test_a_wrong_nbops_gets_no_ratio_and_a_right_peer_keeps_its_own(broken: str) -> None:
    chosen = select(workloads(small=True), "matmul 16x16x16 NN float32")
    (row,) = compare(chosen, {"nbops": broken, "numpy": PEERS["numpy"]}, SMALL)["workloads"]
    assert row["best"] is None
    assert row["refused"].startswith("nbops: error")
    (row,) = compare(chosen, {**NUMPY_AND_NBOPS, "broken": broken}, SMALL)["workloads"]
    assert row["best"]["p10"]["peer"] == "numpy"
    assert "broken" not in row["ratios"]


def test_exit_code_after_a_wrong_result(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "numpy", broken)
    arguments = ["--small", "--only", "matmul 16x16x16 NN float64", "--libraries", "nbops,numpy"]
    assert main(["compare", *arguments]) == 1
    assert "no ratio: numpy: error" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_a_worker_that_dies_or_raises_is_reported_and_replaced(broken: str) -> None:
    listed = workloads(small=True)
    chosen = [
        *select(listed, "vecdot"),
        *select(listed, "softmax 16x20 float32")[:1],
        *select(listed, "out= 4x10"),
    ]
    rows = compare(chosen, {**NUMPY_AND_NBOPS, "broken": broken}, SMALL)["workloads"]
    died, raised, went_on = (row["results"]["broken"] for row in rows)
    assert died["status"] == raised["status"] == "failed"
    assert died["message"] == "the worker ended with exit code 3 during prepare"
    assert raised["message"] == "OSError: the disk is on fire"
    assert went_on["status"] == "ok"
    assert all(row["best"]["p10"]["peer"] in ("numpy", "broken") for row in rows)


def test_a_library_that_is_not_there(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "absent_adapter.py").write_text("REQUIRES = ('no_such_library',)\nKINDS = {}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    chosen = select(workloads(small=True), "vecdot")
    report = compare(chosen, {**NUMPY_AND_NBOPS, "absent": "absent_adapter"}, SMALL)
    assert report["libraries"]["absent"]["status"] == "not installed"
    assert report["workloads"][0]["results"]["absent"]["status"] == "not installed"
    assert report["workloads"][0]["best"]["p10"]["peer"] == "numpy"
    assert "not installed" in table.plain(table.sections(report)[0])


# ---- oracles ----------------------------------------------------------------------------------------


def test_oracle_of_the_training_step_by_finite_differences() -> None:
    options = {"optimizer": "sgd", "batch": 3, "sizes": [4, 5, 3]}
    given = {k: v.astype(np.float64) for k, v in oracles.inputs("training_step", options).items()}
    given["labels"] = given["labels"].astype(int)
    result = oracles.oracle("training_step", given, options)
    for name in ("w1", "b1", "w2", "b2"):
        at = (1,) * given[name].ndim
        losses = []
        for step in (1e-6, -1e-6):
            moved = {**given, name: given[name].copy()}
            moved[name][at] += step
            losses.append(float(oracles.oracle("training_step", moved, options)["loss"].value))
        gradient = (losses[0] - losses[1]) / 2e-6
        found = (given[name][at] - result[name].value[at]) / oracles.LEARNING_RATE
        assert found == pytest.approx(gradient, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_error_is_infinite_for_what_is_no_result(spoil: float) -> None:
    expected = {"out": oracles.Oracle(np.ones(3), np.ones(3))}
    assert oracles.error({"out": np.ones(3, np.float32)}, expected) == 0
    assert oracles.error({"out": np.array([1, spoil, 1])}, expected) == math.inf
    assert oracles.error({"out": np.ones(4)}, expected) == math.inf
    assert oracles.error({}, expected) == math.inf


# ---- the list and the processes ---------------------------------------------------------------------


@pytest.mark.parametrize("small", [False, True])
def test_the_list_is_plain_data_with_unique_names(small: bool) -> None:
    listed = workloads(small)
    assert len({w.name for w in listed}) == len(listed)
    json.dumps([w.as_json() for w in listed])
    assert {w.group for w in listed} == {w.group for w in workloads()}


def test_select() -> None:
    assert len(select(workloads(), "matmul")) == 28
    assert len(select(workloads(), "MATMUL*float64")) == 12
    both = [w.name for w in select(workloads(), "vecdot", "MATMUL*float64", "vecdot")]
    assert both == [w.name for w in workloads() if w.group in ("vecdot", "matmul float64")]
    assert select(workloads()) == workloads()
    with pytest.raises(ValueError, match="no workload has that in its name; the groups are small pair"):
        select(workloads(), "convolution")


def test_workers_see_an_uncrippled_openblas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "32768")
    seen = process.environment({"A": "1"})
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & set(seen)
    assert seen["A"] == "1"


def test_a_silent_worker_is_given_up() -> None:
    worker = process.Process(PEERS["numpy"], timeout=0.01)
    answer = worker.ask("start")
    assert answer == {"status": "failed", "message": "the worker gave no answer to start in 0.01 s"}
    assert not worker.alive


def test_importing_compare_imports_no_peer(run_python: Any) -> None:
    run_python("""
        import sys
        import nbops.compare, nbops.__main__, nbops.compare.table
        peers = {"torch", "jax", "tensorflow", "keras", "numexpr", "rich", "threadpoolctl"}
        assert not peers & set(sys.modules), peers & set(sys.modules)
    """)


def test_training_step_of_tensorflow_nbops_and_numpy_agree() -> None:
    pytest.importorskip("tensorflow")
    libraries = {name: PEERS[name] for name in ("nbops", "numpy", "tensorflow", "keras")}
    settings = Settings(rounds=1, window_ms=1, settle_ms=0, small=True)
    rows = compare(select(workloads(small=True), "training step 12"), libraries, settings)["workloads"]
    assert len(rows) == 4  # two optimizers, on arrays and in a graph
    for row in rows:
        assert set(row["ratios"]) == {"numpy", "tensorflow", "keras"}, row["results"]


def test_a_cell_of_two_lines_goes_on_below_itself() -> None:
    rows = [("slow", "threads", "workqueue\n→ install tbb"), ("ok", "cache", "")]
    assert table.plain(table.Section("doctor", ("verdict", "what", "found"), rows)).splitlines() == [
        "doctor",
        "verdict  what     found",
        "slow     threads  workqueue",
        "                  → install tbb",
        "ok       cache",
    ]


def test_first_step_is_taken_in_new_processes() -> None:
    chosen = select(workloads(small=True), "first step")
    settings = Settings(rounds=1, fresh_rounds=2, settle_ms=0, small=True)
    report = compare(chosen, {"numpy": PEERS["numpy"]}, settings)
    rows = report["workloads"]
    assert [row["fresh_process"] for row in rows] == ["cached", "cold"]
    assert report["groups"] == {}, "they are told in seconds, not rated"
    _, times, ratios, groups = table.sections(report)
    assert len(times.rows) == 2
    assert ratios.rows == groups.rows == []
    for row in rows:
        assert len(row["results"]["numpy"]["samples_ns"]) == len(row["results"]["numpy"]["load_s"]) == 2
        assert row["refused"] == "nbops was not asked for"
