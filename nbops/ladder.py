"""The ladder: one loop, read and then run in every way there is, with its share of what the machine can do.

========================  =========================================================================
interpreted               the loop as written, by the Python interpreter
serial                    the same loop, compiled for one core
parallel                  the same loop, its rows or its ``prange`` shared out between the cores
tuned                     the kernel that takes the loop's place, on all cores
cuda                      the same call on a GPU; without one, what an emulated GPU counts, which is no time
========================  =========================================================================

Times are 10th percentiles of the loop alone, into arrays that exist already. The ceiling is `nbops.ceilings`:
the time in which the machine could do the arithmetic, or move every operand once to or from memory, whichever
is longer. (Small arrays come from a cache, which is faster than memory: their share may pass 100 %.) The
error is the largest difference from the same loop run in float64, over the largest element.
"""

from __future__ import annotations

import ast
import html
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbops.durations import duration
from nbops.execution import prepared
from nbops.explain import explain
from nbops.op import Op, registry

if TYPE_CHECKING:
    from nbops.ceilings import Ceilings
    from nbops.ladder_gpu import Emulated

__all__ = ["Ladder", "Rung", "ladder"]

Shapes = tuple[tuple[int, ...], ...]

#: What an op is climbed with unless shapes are given: arrays larger than a cache, matrices as in a network.
SHAPES: dict[str, Shapes] = {
    "relu": ((4096, 4096),),
    "add": ((4096, 4096), (4096, 4096)),
    "matmul": ((512, 512), (512, 512)),
    "softmax": ((4096, 1024),),
    "dense": ((128, 784), (784, 512), (512,)),
}
#: The op behind a function that picks one.
PICKED = {"dense": "dense_relu"}
#: Iterations that the interpreter runs in some tenths of a second.
INTERPRETED_STEPS = 100_000


class Rung(NamedTuple):
    """One way to run the loop.

    Parameters
    ----------
    name : str
    shapes : tuple of shapes
        The operands' when this rung was measured; the interpreter gets smaller ones.
    seconds : float
        Of one call.
    speedup : float
        Over the first rung, work for work.
    rate : float
        Billions of the ladder's `unit` per second.
    share : float
        The ceiling's time over this one; 1 is as fast as the machine.
    error : float
    """

    name: str
    shapes: Shapes
    seconds: float
    speedup: float
    rate: float
    share: float
    error: float


class Ladder(NamedTuple):
    """An op's rungs; prints as a table, and as one in a notebook.

    Parameters
    ----------
    op : str
    source : str
        The loop's, or the formula's.
    dtype : str
    shapes : tuple of shapes
    unit : {"GFLOP/s", "GB/s"}
        Of arithmetic where products are summed, of memory elsewhere.
    ceiling : float
        In this unit, measured on this machine.
    rungs : tuple of Rung
    notes : tuple of str
    emulated : Emulated, optional
        What an emulated GPU counted, where there is no GPU and kernels can be compiled for one.
    """

    op: str
    source: str
    dtype: str
    shapes: Shapes
    unit: str
    ceiling: float
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...]
    emulated: Emulated | None = None

    @property
    def title(self) -> str:
        return f"{self.op} {_text(self.shapes)} {self.dtype}"

    def rows(self) -> list[tuple[str, ...]]:
        """The table's lines as text."""
        rows: list[tuple[str, ...]] = [
            (
                rung.name,
                _text(rung.shapes) if rung.shapes != self.shapes else "",
                duration(rung.seconds * 1e9),
                f"{rung.speedup:,.3g}×" if rung.speedup < 1000 else f"{rung.speedup:,.0f}×",
                f"{rung.rate:.3g}",
                f"{100 * rung.share:.2g} %" if rung.share < 0.1 else f"{100 * rung.share:.0f} %",
                f"{rung.error:.1e}",
            )
            for rung in self.rungs
        ]
        if self.emulated:
            shown = _text(self.emulated.shapes)
            rows.append(("cuda-emulator", shown, *"––––", f"{self.emulated.error:.1e}"))
        return rows

    @property
    def columns(self) -> tuple[str, ...]:
        return ("rung", "measured at", ">time", ">speed-up", f">{self.unit}", ">of the ceiling", ">max error")

    @property
    def footnotes(self) -> tuple[str, ...]:
        counted = (str(self.emulated),) if self.emulated else ()
        return (f"This machine's measured ceiling: {self.ceiling:.3g} {self.unit}.", *self.notes, *counted)

    def show(self, file: Any = None) -> None:
        """Print the loop and the table; in colour with rich, where that is installed."""
        from nbops.compare.table import Section, print_section

        _show_source(self.source, file)
        print_section(Section(self.title, self.columns, self.rows()), file)
        for note in self.footnotes:
            print(note, file=file)

    def __str__(self) -> str:
        from nbops.compare.table import Section, plain

        table = plain(Section(self.title, self.columns, self.rows()))
        return "\n".join([self.source, "", table, *self.footnotes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """The loop and the table in a notebook."""
        align = ["right" if column.startswith(">") else "left" for column in self.columns]

        def line(tag: str, words: Sequence[str]) -> str:
            cells = zip(align, words, strict=True)
            return (
                "<tr>"
                + "".join(
                    f'<{tag} style="text-align: {side}">{html.escape(word.removeprefix(">"))}</{tag}>'
                    for side, word in cells
                )
                + "</tr>"
            )

        body = "".join(line("td", row) for row in self.rows())
        notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in self.footnotes)
        return (
            f"<pre><code>{html.escape(self.source)}</code></pre>"
            f"<table><caption>{html.escape(self.title)}</caption>"
            f"<thead>{line('th', self.columns)}</thead><tbody>{body}</tbody></table>{notes}"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        rungs = [rung._asdict() for rung in self.rungs]
        return {**self._asdict(), "rungs": rungs, "emulated": self.emulated and self.emulated._asdict()}

    def plot(self, file: str | Path, seconds: float = 0.1) -> None:
        """Measure every rung over a range of sizes and save the picture; needs matplotlib.

        Parameters
        ----------
        file : path
            Its ending names the format.
        seconds : float
            For how long to run each point.
        """
        from nbops import ladder_plot

        ladder_plot.save(self, file, seconds)


def _text(shapes: Shapes) -> str:
    return " ".join("x".join(map(str, shape)) or "()" for shape in shapes)


def _show_source(source: str, file: Any) -> None:
    try:
        from rich.console import Console
        from rich.syntax import Syntax
    except ImportError:
        print(source, end="\n\n", file=file)
        return
    stream = sys.stdout if file is None else file
    code = Syntax(source, "python", theme="ansi_dark", background_color="default", word_wrap=True)
    # In a file or a pipe there is no width to keep to.
    Console(file=stream, width=None if stream.isatty() else 200).print(code)


# ---- measuring --------------------------------------------------------------------------------------


def ladder(op: Any, *shapes: Sequence[int], dtype: str = "float32", seconds: float = 0.5) -> Ladder:
    """Run an op's loop interpreted, compiled, parallel and tuned, and hold each to this machine's ceiling.

    Parameters
    ----------
    op : Op, function or str
        `nbops.dense` stands for its relu variant.
    *shapes : tuple of int
        One per operand; needed unless the op is relu, add, matmul, softmax or dense.
    dtype : {"float32", "float64"}
    seconds : float
        For how long to run each rung.

    Returns
    -------
    Ladder
        Prints as a table; `Ladder.plot` draws the rungs over a range of sizes.

    Raises
    ------
    TypeError
        For something that is no op.
    ValueError
        Without shapes, where there are none to fall back on, and for other dtypes.

    Examples
    --------
    >>> import nbops
    >>> steps = nbops.ladder(nbops.relu, (100, 100), seconds=0.01)
    >>> [rung.name for rung in steps.rungs]
    ['interpreted', 'serial', 'parallel']
    """
    from nbops import ceilings
    from nbops.ladder_gpu import count, run_on_gpu

    name = op if isinstance(op, str) else getattr(op, "__name__", "")
    found = op if isinstance(op, Op) else registry.get(PICKED.get(name, name))
    if found is None:
        raise TypeError(f"ladder: {op!r} is no op; expected one such as nbops.matmul, or its name")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"ladder: dtype is {dtype!r}; expected float32 or float64")
    given = tuple(tuple(shape) for shape in shapes) or SHAPES.get(name, ())
    if not given:
        raise ValueError(f"ladder: {found.name} needs shapes, one for each of {', '.join(found.arguments)}")
    found.check_count(given)
    limits = ceilings.measure(dtype)
    by_memory = not sums_products(found)
    rungs: list[Rung] = []
    for label, prepare, full in ways(found):
        own = given if full else _small_enough(found, given, dtype)
        rungs.append(_climb(found, label, prepare, own, dtype, seconds, limits, by_memory, rungs))
    notes = ["The error is against the same loop in float64."]
    if rungs[0].shapes != given:
        notes.append("The interpreter ran a smaller size; its speed-up counts work for work.")
    if max(rung.share for rung in rungs) > 1.05:
        notes.append("Above 100 %: the arrays fit a cache, or other work ran while the ceiling was measured.")
    on_gpu = run_on_gpu(found)
    if on_gpu:
        rungs.append(_climb(found, "cuda", on_gpu, given, dtype, seconds, limits, by_memory, rungs))
        notes.append("cuda copies its operands to the GPU and the result back.")
        emulated = None
    else:
        values = operands_of(found, _small_enough(found, given, dtype), dtype)
        emulated = count(found, values, partial(_error, exact=_exact(found, values)))
    return Ladder(
        op=found.name,
        source=_source(found.formula or found.kernel.written),
        dtype=dtype,
        shapes=given,
        unit="GB/s" if by_memory else "GFLOP/s",
        ceiling=(limits.bandwidth if by_memory else limits.flops) / 1e9,
        rungs=tuple(rungs),
        notes=tuple(notes),
        emulated=emulated,
    )


def _source(function: Callable[..., Any]) -> str:
    """A function as written, with the first line of its docstring."""
    text = textwrap.dedent(inspect.getsource(function)).rstrip()
    lines = text.splitlines()
    (definition,) = ast.parse(text).body
    first = definition.body[0] if isinstance(definition, ast.FunctionDef) else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.end_lineno is not None:
        summary = lines[first.lineno - 1].rstrip()
        lines[first.lineno - 1 : first.end_lineno] = [summary.removesuffix('"""') + '"""']
    return "\n".join(lines)


#: Takes lists of inputs and outputs, and gives a call that is ready to be made.
Prepare = Callable[[list[np.ndarray], list[np.ndarray]], Callable[[], Any]]
Way = tuple[str, Prepare, bool]


def ways(op: Op) -> list[Way]:
    """The rungs: a name, how to prepare a call, and whether full size is feasible."""
    written = op.as_written()
    found: list[Way] = [
        ("interpreted", partial(prepared, written, target="python"), False),
        ("serial", partial(prepared, written, target="serial"), True),
        ("parallel", partial(prepared, written, target="parallel"), True),
    ]
    if op.kernel.is_tuned:
        found.append(("tuned", partial(prepared, op, target="parallel"), True))
    return found


def work(op: Op, shapes: Shapes, dtype: str) -> tuple[int, int]:
    """Operations and bytes of one call: two operations per iteration where products are summed, else one."""
    operands = [
        np.broadcast_to(np.zeros((), dtype if kind == "T" else kind), shape)
        for kind, shape in zip(op.types.inputs, shapes, strict=True)
    ]
    plan: Any = explain(op, *operands)
    return plan.steps * (2 if sums_products(op) else 1), plan.bytes_moved


def sums_products(op: Op) -> bool:
    """Whether an axis of several operands is summed away: arithmetic bounds large sizes, not memory."""
    kept = {axis for names in op.signature.outputs for axis in names}
    summed = {axis for names in op.signature.inputs for axis in names} - kept
    return bool(summed) and op.n_inputs > 1


def operands_of(op: Op, shapes: Shapes, dtype: str) -> list[np.ndarray]:
    """Normal numbers; zeros where the op wants labels."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape).astype(dtype) if kind == "T" else np.zeros(shape, kind)
        for kind, shape in zip(op.types.inputs, shapes, strict=True)
    ]


def _small_enough(op: Op, shapes: Shapes, dtype: str) -> Shapes:
    """The shapes, halved until the interpreter is soon done."""
    while work(op, shapes, dtype)[0] > 2 * INTERPRETED_STEPS:
        shapes = shrunk(shapes)
    return shapes


def shrunk(shapes: Shapes, times: int = 1) -> Shapes:
    """Every axis halved, down to 1: equal lengths stay equal."""
    return tuple(tuple(max(n >> times, 1) for n in shape) for shape in shapes)


def _climb(
    op: Op,
    name: str,
    prepare: Prepare,
    shapes: Shapes,
    dtype: str,
    seconds: float,
    limits: Ceilings,
    by_memory: bool,
    below: Sequence[Rung],
) -> Rung:
    """Measure one rung, and compare it with the first."""
    from nbops.ceilings import best_seconds

    values = operands_of(op, shapes, dtype)
    exact = _exact(op, values)
    outs = [np.full(np.shape(x), np.nan, dtype) for x in _several(exact)]
    taken = best_seconds(prepare(values, outs), seconds)
    flops, moved = work(op, shapes, dtype)
    rate = (moved if by_memory else flops) / taken / 1e9
    return Rung(
        name=name,
        shapes=shapes,
        seconds=taken,
        speedup=rate / below[0].rate if below else 1.0,
        rate=rate,
        share=limits.seconds(flops, moved) / taken,
        error=_error(tuple(outs), exact),
    )


def _exact(op: Op, values: Sequence[np.ndarray]) -> Any:
    """The loop's results in float64."""
    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in values]
    return op.as_written()(*wide, target="serial")


def _several(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def _error(results: Any, exact: Any) -> float:
    """The largest one, over the largest exact number."""
    return max(
        float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-300))
        for a, b in zip(_several(results), _several(exact), strict=True)
    )
