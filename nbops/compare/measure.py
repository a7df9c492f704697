"""The rounds: every library's worker in turn, and what their times amount to.

The machine takes its turn too: what it needs for a workload's arithmetic, or for moving its bytes, is the
time that nobody can be faster than (see `nbops.compare.peers.on_machine`).
"""

from __future__ import annotations

import functools
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import nbops
from nbops.compare.peers import MACHINE
from nbops.compare.process import Process, Team
from nbops.compare.workloads import Workload

__all__ = ["SCHEMA", "Settings", "compare"]

#: Rises when the report's keys change.
SCHEMA = 2
OURS = "nbops"
QUANTILES = ("p10", "median")

Cell = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Parameters
    ----------
    rounds : int
        Windows per library.
    fresh_rounds : int
        New processes per library, where a workload is the first call of one.
    window_ms : float
        How long a window should take; one call at least.
    settle_ms : float
        The pause before each window, for the last library's threads to fall asleep: OpenBLAS's spin for
        some 30 ms.
    small : bool
        The list's small sizes.
    """

    rounds: int = 20
    fresh_rounds: int = 5
    window_ms: float = 30.0
    settle_ms: float = 150.0
    small: bool = False


def compare(
    chosen: Sequence[Workload],
    libraries: Mapping[str, str],
    settings: Settings,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run workloads on every library and return the report, as JSON has it.

    Parameters
    ----------
    chosen : sequence of Workload
    libraries : mapping of str to str
        Names and adapter modules; `nbops.compare.peers.PEERS` or a part of it.
    settings : Settings
    progress : function, optional
        Told what comes next.
    """
    rows = []
    with Team({**libraries, **MACHINE}) as team:
        for number, workload in enumerate(chosen, 1):
            progress(f"{number}/{len(chosen)} {workload.name}")
            measured = _fresh(team, workload, settings) if workload.fresh_process else None
            rows.append(_row(workload, measured or _steady(team, workload, settings)))
        described = {library: team.described[library] for library in libraries}
    return {
        "schema": SCHEMA,
        "machine": machine(),
        "settings": asdict(settings),
        "libraries": described,
        "workloads": rows,
        "groups": _groups(rows),
    }


# ---- measuring --------------------------------------------------------------------------------------


def _steady(team: Team, workload: Workload, settings: Settings) -> dict[str, Cell]:
    """Windows of repeated calls, the libraries in turn."""
    cells = {}
    for library in team.libraries:
        if library not in MACHINE:
            ask = functools.partial(team.ask, library)
            cell = _verified(ask, workload)
        elif workload.bound:
            cell = team.ask(library, "prepare", workload=workload.as_json())
        else:
            continue
        if cell["status"] == "ok":
            cell.update(team.ask(library, "calibrate", window_ns=int(settings.window_ms * 1e6)))
        cells[library] = cell
    for _ in range(settings.rounds):
        for library, cell in cells.items():
            if cell["status"] == "ok":
                time.sleep(settings.settle_ms / 1e3)
                _add_sample(cell, team.ask(library, "time", calls=cell["calls"]), "ns")
    return cells


def _fresh(team: Team, workload: Workload, settings: Settings) -> dict[str, Cell]:
    """First calls of new processes, the libraries in turn; imports are not in the time."""
    cells: dict[str, Cell] = {}
    with tempfile.TemporaryDirectory() as kept:
        for turn in range(-1, settings.fresh_rounds):  # turn -1 fills the caches, and verifies
            for library, module in team.libraries.items():
                if library in MACHINE:
                    continue
                if team.described[library]["status"] != "ok":
                    cells[library] = team.ask(library, "prepare")
                    continue
                if turn >= 0 and cells[library]["status"] != "ok":
                    continue
                with tempfile.TemporaryDirectory() as emptied:
                    cache = emptied if workload.fresh_process == "cold" else os.path.join(kept, library)
                    process = Process(module, variables=_cache_variables(cache))
                    try:
                        loaded = process.ask("start")
                        if turn < 0:
                            cells[library] = _verified(process.ask, workload)
                        else:
                            time.sleep(settings.settle_ms / 1e3)
                            answer = process.ask("prepare", workload=workload.as_json())
                            _add_sample(cells[library], answer, "first_call_s", 1e9)
                            cells[library].setdefault("load_s", []).append(loaded.get("load_s"))
                    finally:
                        if process.alive:
                            process.close()
    return cells


def _cache_variables(folder: str) -> dict[str, str]:
    """Where the compilers keep what they made. JAX keeps nothing unless told to."""
    return {
        "NUMBA_CACHE_DIR": folder,
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _verified(ask: Callable[..., Cell], workload: Workload) -> Cell:
    """Prepare a workload and hold its results to the oracle."""
    cell = ask("prepare", workload=workload.as_json())
    if cell["status"] != "ok":
        return cell
    cell.update(ask("verify"))
    if cell["status"] == "ok" and (cell["error"] is None or not cell["error"] <= cell["tolerance"]):
        cell["status"] = "wrong"
        found = "infinite or NaN" if cell["error"] is None else f"{cell['error']:.2g}"
        cell["message"] = f"error {found} against the float64 oracle; tolerance {cell['tolerance']:.2g}"
    return cell


def _add_sample(cell: Cell, answer: Cell, key: str, nanoseconds: float = 1.0) -> None:
    if answer["status"] != "ok":
        cell.update(answer)
        return
    cell.setdefault("samples_ns", []).append(answer[key] * nanoseconds)


# ---- what it amounts to -----------------------------------------------------------------------------


def _row(workload: Workload, cells: dict[str, Cell]) -> Row:
    """A workload with its cells, and the ratios that may be printed."""
    for cell in cells.values():
        if cell["status"] == "ok":
            low, middle, high = np.quantile(cell["samples_ns"], [0.1, 0.5, 0.9])
            cell["p10_ns"], cell["median_ns"] = float(low), float(middle)
            cell["spread"] = float((high - low) / middle)
    floor = next((cells.pop(name) for name in MACHINE if name in cells), None)
    row: Row = {**workload.as_json(), "bound": workload.bound, "results": cells, "ratios": {}}
    row |= {"best": None, "refused": None, "floor": floor, "reached": None, "possible": None}
    right = {library: cell for library, cell in cells.items() if cell["status"] == "ok"}
    ours = right.pop(OURS, None)
    if floor is not None and floor["status"] == "ok" and ours is not None:
        row["reached"] = {key: floor[f"{key}_ns"] / ours[f"{key}_ns"] for key in QUANTILES}
    if ours is None or not right:
        row["refused"] = _refusal(cells, ours is None)
        return row
    for library, cell in right.items():
        row["ratios"][library] = {key: cell[f"{key}_ns"] / ours[f"{key}_ns"] for key in QUANTILES}
    row["best"] = {}
    for key in QUANTILES:
        peer = min(right, key=lambda library: row["ratios"][library][key])
        row["best"][key] = {"peer": peer, "ratio": row["ratios"][peer][key]}
    if row["reached"]:
        row["possible"] = {key: row["best"][key]["ratio"] / row["reached"][key] for key in QUANTILES}
    return row


def _refusal(cells: dict[str, Cell], ours_missing: bool) -> str:
    """Why a row has no ratio."""
    if OURS not in cells:
        return "nbops was not asked for"
    concerned = {OURS: cells[OURS]} if ours_missing else {k: c for k, c in cells.items() if k != OURS}
    reasons = [f"{library}: {cell.get('message') or cell['status']}" for library, cell in concerned.items()]
    return "; ".join(reasons) or "no peer was asked for"


def _groups(rows: Sequence[Row]) -> dict[str, Any]:
    """Per group, the geometric mean of the ratios to each row's best peer, and the worst of them.

    First steps have none: beside a library that compiles nothing a ratio says little, seconds say all.
    """
    groups: dict[str, Any] = {}
    steady = [row for row in rows if not row["fresh_process"]]
    for name in dict.fromkeys(row["group"] for row in steady):
        members = [row for row in steady if row["group"] == name]
        rated = [row for row in members if row["best"]]
        group: dict[str, Any] = {"workloads": len(members), "rated": len(rated)}
        for key in QUANTILES if rated else ():
            ratios = [row["best"][key]["ratio"] for row in rated]
            worst = min(rated, key=lambda row: row["best"][key]["ratio"])
            group[key] = {
                "geomean": math.exp(math.fsum(map(math.log, ratios)) / len(ratios)),
                "worst": worst["best"][key]["ratio"],
                "worst_workload": worst["name"],
            }
        groups[name] = group
    return groups


def machine() -> dict[str, Any]:
    """The CPU and Python; nothing that says whose machine it is."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu_model(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "nbops": nbops.__version__,
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
