"""explain: what the dispatcher would do with a call, before it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbops import arrays, dispatch, execution, frame
from nbops.durations import duration
from nbops.op import Op, registry
from nbops.settings import recorded
from nbops.targets import cpu, cuda

__all__ = ["Explanation", "Explanations", "explain"]


@dataclass(frozen=True)
class Explanation:
    """A decision with the figures behind it.

    Parameters
    ----------
    op : str
    shapes : tuple of shapes
        The inputs', then the outputs'.
    dtypes : tuple of str
        In which the loop runs.
    decision : Decision
    bytes_moved : int
        Each operand once.
    steps : int
        Innermost iterations of the loop.
    step_nanoseconds : float
        What one is estimated to take: the op's ``nanoseconds=``, 1 where it does not say.
    item_nanoseconds : float
        What each item of the batch takes besides: 0 for an elementwise op.
    items : int
        The batch: rows, matrices, or the elements of an elementwise op.
    microseconds : dict
        Predicted time per target, without the cost of the Python call.
    break_even_steps : int
        Iterations from which the parallel target is chosen: of one item that grows, or of a batch that does.
    launcher : str or None
        What shares the work between cores: nbops's own ``"pool"``, a threading layer of Numba's, or nothing.
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    decision: dispatch.Decision
    bytes_moved: int
    steps: int
    step_nanoseconds: float
    item_nanoseconds: float
    items: int
    microseconds: dict[str, float]
    break_even_steps: int
    launcher: str | None

    def __str__(self) -> str:
        times = ", ".join(f"{target} {duration(time * 1e3)}" for target, time in self.microseconds.items())
        shapes = ["x".join(map(str, shape)) or "()" for shape in self.shapes]
        n_inputs = registry[self.op].n_inputs
        signature = f"{', '.join(shapes[:n_inputs])} -> {', '.join(shapes[n_inputs:])}"
        each = f", and {self.item_nanoseconds:g} ns an item" if self.item_nanoseconds else ""
        so_large = " in items of this size" if self.item_nanoseconds and self.items > 1 else ""
        return "\n".join(
            [
                f"{self.op}: {signature} in {self.dtypes[-1]}",
                f"  target      {self.decision.target} (rule: {self.decision.rule})",
                f"  because     {self.decision.reason}",
                f"  bytes       {self.bytes_moved:,}",
                f"  iterations  {self.steps:,} of about {self.step_nanoseconds:g} ns{each}; "
                f"parallel from {self.break_even_steps:,}{so_large}",
                f"  predicted   {times}",
                f"  threads     {self.decision.workers} ({self.launcher or 'no threading layer'})",
            ]
        )

    __repr__ = __str__


@dataclass(frozen=True)
class Explanations:
    """What a function of several ops would do: one `Explanation` per call, in order.

    Parameters
    ----------
    function : str
    calls : tuple of Explanation
        Of `nbops.dask.explaining.ChunkedExplanation` where Dask arrays went in.
    """

    function: str
    calls: tuple[Any, ...]

    def __str__(self) -> str:
        count = f"{len(self.calls)} call" + ("" if len(self.calls) == 1 else "s")
        return "\n".join([f"{self.function}: {count}", *map(str, self.calls)])

    __repr__ = __str__


def explain(function: Callable[..., Any], *operands: Any, target: str | None = None, **keywords: Any) -> Any:
    """What the dispatcher would decide for ``function(*operands)``, and why; nothing is computed.

    Parameters
    ----------
    function : Op or function
        An op, or a function that calls ops, such as `nbops.softmax`, `nbops.dense`, or yours: its calls
        are followed, and each answers with an empty result of the right shape.
    *operands : array_like
        Only their shapes and dtypes count.
    target : str, optional
        See `nbops.use`.
    **keywords
        Passed on to a function that is no op.

    Returns
    -------
    Explanation or Explanations
        `Explanations` for a function that is no op. For each call on Dask arrays a
        `nbops.dask.explaining.ChunkedExplanation`: the decision for each chunk.

    Raises
    ------
    TypeError
        When `function` can't be called, or the operands are too few or too many.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.explain(nbops.add, np.ones(10), np.ones(10)).decision.target
    'serial'
    >>> [call.op for call in nbops.explain(nbops.mean, np.ones((3, 4)), axis=1).calls]
    ['sum_row', 'divide']
    """
    if isinstance(function, Op):
        if keywords:
            raise TypeError(f"explain: {function.name} takes no {next(iter(keywords))} here")
        function.check_count(operands)
        function = function.chosen_for(operands)
        if any(arrays.is_dask(x) for x in operands):
            from nbops.dask import explaining

            return explaining.explain(function, operands, None, target)
        return _explain_op(function, operands, None, target, _device_class(operands))[0]
    if not callable(function):
        raise TypeError(f"explain: expected an op such as nbops.matmul, or a function; got {function!r}")
    calls = explain_calls(function, operands, keywords, target)
    return Explanations(getattr(function, "__name__", repr(function)), tuple(calls))


def explain_calls(
    function: Callable[..., Any], operands: Sequence[Any], keywords: dict[str, Any], target: str | None
) -> list[Any]:
    """The explanations of all ops that a function calls, in order."""
    calls: list[Any] = []
    device_class = _device_class(operands)  # results, which are stand-ins, would be there too

    def record(op: Op, values: Sequence[Any], axes: Any) -> Any:
        if any(arrays.is_dask(x) for x in values):
            from nbops.dask import explaining

            calls.append(explaining.explain(op, values, axes, target))
            return explaining.results(op, values, axes, target)
        explanation, results = _explain_op(op, values, axes, target, device_class)
        calls.append(explanation)
        return results[0] if len(results) == 1 else tuple(results)

    with recorded(record):
        function(*operands, **keywords)
    return calls


def _device_class(operands: Sequence[Any]) -> str:
    """The class of an operand that is on a GPU; empty where none is."""
    return next((type(x).__name__ for x in operands if cuda.is_device_array(x)), "")


def _value(x: Any, name: str, argument: str) -> Any:
    """An operand as an array of its shape and dtype."""
    if arrays.is_tensorflow(x):
        return np.asarray(x)
    if cuda.is_device_array(x):
        return np.broadcast_to(np.zeros((), arrays.dtype_of(x)), x.shape)
    return arrays.as_array(x, name, argument)


def _break_even_steps(work: dispatch.Work) -> int:
    """The iterations that take as long as the break-even, in more items of this size or in a longer item."""
    limit = int(cpu.STATE[cpu.BREAK_EVEN])
    if work.items > 1:
        return math.ceil(limit * work.items / work.serial_nanoseconds) * work.steps // work.items
    return math.ceil(max(limit - work.item_nanoseconds, 0) / work.step_nanoseconds)


def _explain_op(
    op: Op, operands: Sequence[Any], axes: Any, target: str | None, device_class: str = ""
) -> tuple[Explanation, list[np.ndarray]]:
    """The explanation of one call, and stand-ins for its results."""
    op.check_count(operands)
    values = [_value(x, op.name, argument) for x, argument in zip(operands, op.arguments, strict=True)]
    dtypes, result_dtypes = op.types.resolve(values, op.name, op.arguments)
    places = None if axes is None else execution.normalize_axes(op, axes)
    if places:
        values = [np.moveaxis(x, own, range(-len(own), 0)) for x, own in zip(values, places, strict=False)]
    shapes = [np.shape(x) for x in values]
    results = op.signature.infer(shapes, op.name, op.arguments)
    # Zero-stride stand-ins have every shape and take no memory.
    stand_ins = [
        np.broadcast_to(np.zeros((), dtype), shape)
        for shape, dtype in zip([*shapes, *results], dtypes, strict=True)
    ]
    table, geometry = frame.new_frame(len(stand_ins)), frame.new_geometry(len(stand_ins))
    for row, x in zip(geometry, stand_ins, strict=True):
        frame.describe(row, x)
    frame.build(op.signature.table, geometry, table)
    work = execution.estimate(op, table, stand_ins)
    decision = dispatch.on_its_device(device_class) if device_class else dispatch.foreseen(work, target)
    workers = dispatch._workers(dispatch.settings())
    explanation = Explanation(
        op=op.name,
        shapes=(*shapes, *results),
        dtypes=tuple(d.name for d in dtypes),
        decision=decision,
        bytes_moved=work.bytes,
        steps=work.steps,
        step_nanoseconds=work.step_nanoseconds,
        item_nanoseconds=work.item_nanoseconds,
        items=work.items,
        microseconds={
            "serial": dispatch.predicted_microseconds(work, 1),
            "parallel": dispatch.predicted_microseconds(work, workers),
            **({"cuda": cuda.predicted_microseconds(work)} if cuda.available() else {}),
        },
        break_even_steps=_break_even_steps(work),
        launcher=cpu.launcher(),
    )
    empty = [
        np.broadcast_to(np.zeros((), dtype), shape)
        for shape, dtype in zip(results, result_dtypes, strict=True)
    ]
    if places:
        empty = [
            np.moveaxis(x, range(-len(own), 0), own)
            for x, own in zip(empty, places[op.n_inputs :], strict=True)
        ]
    return explanation, empty
