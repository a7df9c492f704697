"""The ladder as a picture: every rung's rate over the size of the work, below the roofline, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbops import ceilings
from nbops.files import check_writable, replacing
from nbops.op import registry

if TYPE_CHECKING:
    from nbops.ladder import Ladder

__all__ = ["check", "save"]

#: Halvings of every axis, smallest size first.
HALVINGS = (6, 5, 4, 3, 2, 1, 0)
#: Calm, told apart by those who don't see every colour; from slow to fast.
COLOURS = {"interpreted": "#8c8c8c", "serial": "#0072b2", "parallel": "#e69f00", "tuned": "#009e73"}


def check(file: str | Path) -> None:
    """Find out before anything is measured that a picture can't be saved.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        For an ending that names no format.
    OSError
        Where the file can't be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if _format(file) not in known:
        raise ValueError(f"there is no format {_format(file)!r}; expected one of {', '.join(sorted(known))}")
    check_writable(file)


def _format(file: str | Path) -> str:
    return Path(file).suffix[1:].lower() or "png"


def save(steps: Ladder, file: str | Path, seconds: float) -> None:
    """Measure the rungs over sizes and save the picture."""
    check(file)
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    from nbops.ladder import INTERPRETED_STEPS, operands_of, shrunk, ways, work

    op, dtype = registry[steps.op], steps.dtype
    limits = ceilings.measure(dtype)
    by_memory = steps.unit == "GB/s"
    sizes = list(dict.fromkeys(shrunk(steps.shapes, times) for times in HALVINGS))
    totals = {shapes: work(op, shapes, dtype) for shapes in sizes}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, prepare, full in ways(op):
        points = []
        for shapes in sizes:
            flops, moved = totals[shapes]
            if not full and flops > 2 * INTERPRETED_STEPS:
                continue
            values = operands_of(op, shapes, dtype)
            result = op.as_written()(*values, target="serial")
            outs = [np.empty_like(x) for x in (result if isinstance(result, tuple) else (result,))]
            taken = ceilings.best_seconds(prepare(values, outs), seconds)
            points.append((moved if by_memory else flops, (moved if by_memory else flops) / taken / 1e9))
        x, y = zip(*points, strict=True)
        axes.plot(x, y, "o-", color=COLOURS[name], label=name, linewidth=2, markersize=5)
    amounts = [totals[shapes][1 if by_memory else 0] for shapes in sizes]
    roof = [
        amount / limits.seconds(*totals[shapes]) / 1e9 for shapes, amount in zip(sizes, amounts, strict=True)
    ]
    label = "main memory (measured); caches are faster" if by_memory else "roofline (measured)"
    axes.plot(amounts, roof, "--", color="black", linewidth=1.5, label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="bytes moved per call" if by_memory else "floating-point operations per call",
        ylabel=steps.unit,
        title=f"{steps.title}: the ladder",
    )
    axes.grid(which="major", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with mpl.rc_context({"svg.hashsalt": "nbops"}), replacing(file) as temporary:
        figure.savefig(temporary, dpi=150, format=_format(file))
