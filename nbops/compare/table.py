"""The report as text: with rich where it can be imported, in plain aligned columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, NamedTuple, TextIO

from nbops.compare.measure import OURS
from nbops.durations import duration

__all__ = ["Section", "plain", "print_section", "sections", "show"]

Report = dict[str, Any]


class Section(NamedTuple):
    """A titled table; columns whose name starts with ``>`` are aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


# ---- what is shown ----------------------------------------------------------------------------------


def sections(report: Report) -> list[Section]:
    """The report's tables, in the order in which they are shown."""
    return [_libraries(report), _times(report), _ratios(report), _groups(report)]


def _libraries(report: Report) -> Section:
    rows: list[tuple[str, ...]] = []
    for name, library in report["libraries"].items():
        if library["status"] != "ok":
            rows.append((name, library["status"], "", library.get("message", "")))
            continue
        versions = " ".join(f"{k} {v}" for k, v in library["versions"].items())
        threads = ", ".join(f"{k} {v}" for k, v in library["threads"].items())
        rows.append(
            (name, versions, threads, "; ".join(filter(None, [library.get("kernels"), _blas(library)])))
        )
    machine = report["machine"]
    title = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"
    return Section(title, ("library", "versions", "threads", "kernels and BLAS"), rows)


def _blas(library: dict[str, Any]) -> str:
    if library.get("blas") is None:
        return "BLAS unknown: pip install threadpoolctl"
    parts = []
    for pool in library["blas"]:
        words = [pool.get("internal_api"), pool.get("version"), pool.get("architecture")]
        known = " ".join(word for word in words if word)
        threads = pool["num_threads"]
        parts.append(f"{known} ({threads} thread{'' if threads == 1 else 's'})")
    return ", ".join(dict.fromkeys(parts))


def _times(report: Report) -> Section:
    rows: list[tuple[str, ...]] = []
    for workload in report["workloads"]:
        name = workload["name"]
        for library, cell in workload["results"].items():
            if cell["status"] == "ok":
                ratio = workload["ratios"].get(library)
                ratios = tuple(_ratio(ratio[key]) for key in ("p10", "median")) if ratio else ("", "")
                rows.append(
                    (
                        name,
                        library,
                        duration(cell["p10_ns"]),
                        duration(cell["median_ns"]),
                        f"{100 * cell['spread']:.0f} %",
                        f"{cell['error']:.1e}",
                        *ratios,
                    )
                )
                name = ""
            elif cell["status"] in ("wrong", "failed"):
                rows.append((name, library, cell["status"], "", "", cell.get("message", ""), "", ""))
                name = ""
            elif cell["status"] == "not installed":
                rows.append((name, library, cell["status"], "", "", "", "", ""))
                name = ""
    columns = (
        "workload",
        "library",
        ">p10",
        ">median",
        ">spread",
        "error",
        ">÷ nbops p10",
        ">÷ nbops median",
    )
    return Section("Times, and each peer's time over nbops's", columns, rows)


def _ratios(report: Report) -> Section:
    rows: list[tuple[str, ...]] = []
    for workload in report["workloads"]:
        if workload["fresh_process"]:  # their times are told, not rated
            continue
        best = workload["best"]
        if best is None:
            rows.append((workload["name"], "", "", "", "", f"no ratio: {workload['refused']}"))
            continue
        peers = dict.fromkeys(best[key]["peer"] for key in ("p10", "median"))
        wrong = [k for k, cell in workload["results"].items() if cell["status"] == "wrong"]
        note = f" (without {', '.join(wrong)}: wrong result)" if wrong else ""
        figures = (_ratio(best[key]["ratio"]) for key in ("p10", "median"))
        reached, possible = workload["reached"], workload["possible"]
        limits = (_ratio(possible["p10"]), f"{100 * reached['p10']:.0f} %") if possible else ("", "")
        rows.append((workload["name"], *figures, *limits, " / ".join(peers) + note))
    title = (
        "The best peer's time over nbops's: above 1 nbops is faster. Possible: the same for a library that "
        "takes no longer than the machine's arithmetic, or than moving the arrays; reached: how near nbops is"
    )
    columns = ("workload", ">p10", ">median", ">possible p10", ">reached p10", "best peer")
    return Section(title, columns, rows)


def _groups(report: Report) -> Section:
    rows: list[tuple[str, ...]] = []
    for name, group in report["groups"].items():
        count = f"{group['rated']} of {group['workloads']}"
        if not group["rated"]:
            rows.append((name, count, "", "", "", "", ""))
            continue
        figures = [_ratio(group[key][part]) for part in ("geomean", "worst") for key in ("p10", "median")]
        rows.append((name, count, *figures, group["p10"]["worst_workload"]))
    columns = (
        "group",
        "workloads",
        ">geomean p10",
        ">geomean median",
        ">worst p10",
        ">worst median",
        "worst at p10",
    )
    return Section("Groups", columns, rows)


# ---- how it is shown --------------------------------------------------------------------------------


def show(report: Report, file: TextIO | None = None) -> None:
    """Print the report."""
    stream = sys.stdout if file is None else file
    for section in sections(report):
        print_section(section, stream)


def print_section(section: Section, file: TextIO | None = None) -> None:
    """Print one table."""
    (_with_rich() or _plainly)(section, sys.stdout if file is None else file)


def plain(section: Section) -> str:
    """A table in aligned columns.

    Examples
    --------
    >>> from nbops.compare.table import Section, plain
    >>> print(plain(Section("Times", ("name", ">p10"), [("add", "1 µs"), ("matmul", "12 µs")])))
    Times
    name      p10
    add      1 µs
    matmul  12 µs
    """
    # A cell of several lines goes on below itself.
    rows = [part for row in section.rows for part in zip_longest(*map(str.splitlines, row), fillvalue="")]
    lines = [tuple(column.removeprefix(">") for column in section.columns), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [column.startswith(">") for column in section.columns]
    text = [
        "  ".join(
            word.rjust(width) if is_right else word.ljust(width)
            for word, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([section.title, *text])


def _plainly(section: Section, stream: TextIO) -> None:
    print(plain(section), end="\n\n", file=stream)


def _with_rich() -> Callable[[Section, TextIO], None] | None:
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        return None

    def draw(section: Section, stream: TextIO) -> None:
        table = Table(title=escape(section.title), title_justify="left", title_style="bold")
        for column in section.columns:
            is_right = column.startswith(">")
            table.add_column(column.removeprefix(">"), justify="right" if is_right else "left")
        for row in section.rows:
            # nbops's own lines stand out.
            table.add_row(*map(escape, row), style="bold" if len(row) > 1 and row[1] == OURS else None)
        # In a file or a pipe there is no width to keep to.
        Console(file=stream, width=None if stream.isatty() else 200).print(table)

    return draw
