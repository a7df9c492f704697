"""Put the measured ratios into README.md and docs/ratios.md, and the measured constants into docs/scaling.md.

    python docs/make_ratios.py

The ratios are those of asv_benchmarks/results/peers.json, which ``nbops compare --json`` wrote, the constants
those of scaling.json there, which asv_benchmarks/scaling_constants.py wrote. The tables stand between two
comments, and are never written by hand: a test compares them with the files.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbops.durations import duration

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "asv_benchmarks" / "results" / "peers.json"
BEGIN, END = "<!-- ratios: made by docs/make_ratios.py -->", "<!-- end of ratios -->"
NOTHING = "No figures are kept for this version yet."

Report = dict[str, Any]


def shown(ratio: float) -> str:
    """Two decimals, or one digit where there would be none."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.1g}"


def read() -> Report | None:
    """The kept report, or None."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None


# ---- tables -----------------------------------------------------------------------------------------


def by_group(report: Report | None) -> str:
    """One row per group of workloads: the README's table."""
    if report is None:
        return NOTHING
    rows = []
    for name, group in report["groups"].items():
        if group["rated"] and name not in (first["group"] for first in first_steps(report)):
            p10, median = group["p10"], group["median"]
            rows.append(
                (
                    name,
                    str(group["rated"]),
                    shown(p10["geomean"]),
                    shown(median["geomean"]),
                    f"{shown(p10['worst'])} ({p10['worst_workload']})",
                )
            )
    heads = ("workloads", ">number", ">mean at p10", ">mean at median", "least at p10")
    return "\n\n".join([table(heads, rows), *seconds(report), conditions(report)])


def by_workload(report: Report | None) -> str:
    """One row per workload: the table of docs/ratios.md."""
    if report is None:
        return NOTHING
    rows = []
    for workload in report["workloads"]:
        if workload["fresh_process"]:
            continue
        ours = workload["results"].get("nbops", {})
        time = duration(ours["p10_ns"]) if "p10_ns" in ours else ""
        best = workload["best"]
        if best is None:
            rows.append((workload["name"], time, "", "", "", "", f"no ratio: {workload['refused']}"))
            continue
        peers = dict.fromkeys(best[key]["peer"] for key in ("p10", "median"))
        ratios = (shown(best[key]["ratio"]) for key in ("p10", "median"))
        limits = ("", "")
        if workload["possible"]:
            limits = (shown(workload["possible"]["p10"]), f"{100 * workload['reached']['p10']:.0f} %")
        rows.append((workload["name"], time, *ratios, *limits, " / ".join(peers)))
    heads = ("workload", ">nbops, p10", ">ratio at p10", ">ratio at median")
    heads += (">possible at p10", ">of the machine", "best peer")
    return "\n\n".join([table(heads, rows), *seconds(report), conditions(report)])


def first_steps(report: Report) -> list[Report]:
    """The workloads that are the first call of a process."""
    return [workload for workload in report["workloads"] if workload["fresh_process"]]


def seconds(report: Report) -> list[str]:
    """The first training step of a process: beside a library that compiles nothing a ratio says little."""
    steps = first_steps(report)
    rows = []
    for library in report["libraries"]:
        cells = [step["results"].get(library, {}) for step in steps]
        if cells and all(cell.get("status") == "ok" for cell in cells):
            times = [time for c in cells for time in (statistics.median(c["load_s"]), c["p10_ns"] / 1e9)]
            rows.append((library, *(f"{time:.2g} s" if time >= 1e-3 else "0 s" for time in times)))
    if not rows:
        return []
    heads = [f">{part}, {step['fresh_process']}" for step in steps for part in ("imports", "first step")]
    title = (
        "The first training step of a process, where an earlier one left what it compiled (cached) and where "
        "none did (cold). NumPy and PyTorch compile nothing for it; NumPy was imported before. "
        "For nbops the import of `nbops.nn`, which compiles too, is part of the step:"
    )
    return [title, table(("library", *heads), rows)]


def constants(_report: Report | None) -> str:
    """The constants of docs/scaling.md, from a report of their own."""
    sys.path.insert(0, str(ROOT / "asv_benchmarks"))
    from scaling_constants import table as of_constants

    kept = ROOT / "asv_benchmarks" / "results" / "scaling.json"
    return of_constants(json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else NOTHING


def conditions(report: Report) -> str:
    """The machine and the libraries."""
    machine = report["machine"]
    versions = [
        f"{name} {library['versions'].get(name, next(iter(library['versions'].values())))}"
        for name, library in report["libraries"].items()
        if library["status"] == "ok" and name != "nbops"
    ]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, nbops {machine['nbops']}; "
        f"{', '.join(versions)}; {report['settings']['rounds']} rounds."
    )


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; columns whose name starts with ``>`` are aligned to the right."""
    rule = ["---:" if head.startswith(">") else "---" for head in heads]
    lines = [
        [head.removeprefix(">") for head in heads],
        rule,
        *([w.replace("|", "\\|") for w in r] for r in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- pages ------------------------------------------------------------------------------------------

PAGES: dict[Path, Callable[[Report | None], str]] = {
    ROOT / "README.md": by_group,
    ROOT / "docs" / "ratios.md": by_workload,
    ROOT / "docs" / "scaling.md": constants,
}


def replaced(text: str, made: str) -> str:
    """A page with what stands between the comments made anew.

    Raises
    ------
    ValueError
        When the comments are not there, once each and in this order.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"expected {BEGIN} and {END} once in the page")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{made}\n\n{END}", text)


def main() -> None:
    """Write the pages."""
    report = read()
    for page, make in PAGES.items():
        page.write_text(replaced(page.read_text(encoding="utf-8"), make(report)), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
