"""explain: what the dispatcher would do with a call, before it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nbops import arrays, dispatch, execution, frame
from nbops.op import Op
from nbops.targets import cpu

__all__ = ["Explanation", "explain"]


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
    microseconds : dict
        Predicted time per target, without the cost of the Python call.
    break_even_steps : int
        Iterations from which the parallel target is chosen.
    threading_layer : str or None
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    decision: dispatch.Decision
    bytes_moved: int
    steps: int
    microseconds: dict[str, float]
    break_even_steps: int
    threading_layer: str | None

    def __str__(self) -> str:
        times = ", ".join(f"{target} {time:.3g} µs" for target, time in self.microseconds.items())
        shapes = " ".join("x".join(map(str, shape)) or "()" for shape in self.shapes)
        return "\n".join(
            [
                f"{self.op}: {shapes} in {self.dtypes[-1]}",
                f"  target      {self.decision.target} (rule: {self.decision.rule})",
                f"  because     {self.decision.reason}",
                f"  bytes       {self.bytes_moved:,}",
                f"  iterations  {self.steps:,}; parallel from {self.break_even_steps:,}",
                f"  predicted   {times}",
                f"  threads     {self.decision.workers} ({self.threading_layer or 'no threading layer'})",
            ]
        )

    __repr__ = __str__


def explain(op: Op, *operands: Any, target: str | None = None) -> Explanation:
    """What the dispatcher would decide for ``op(*operands)``, and why; nothing is computed.

    Parameters
    ----------
    op : Op
        For functions that pick an op (`nbops.dense`, `nbops.softmax`), the op itself.
    *operands : array_like
    target : str, optional

    Raises
    ------
    TypeError
        When `op` is not an `Op`, or the operands are too few or too many.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.explain(nbops.add, np.ones(10), np.ones(10)).decision.target
    'serial'
    """
    if not isinstance(op, Op):
        raise TypeError(f"explain: expected an op such as nbops.matmul; got {op!r}")
    op.check_count(operands)
    values = [
        np.asarray(x) if arrays.is_tensorflow(x) else arrays.as_array(x, op.name, argument)
        for x, argument in zip(operands, op.arguments, strict=True)
    ]
    dtypes, _ = op.types.resolve(values, op.name, op.arguments)
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
    frame.build_frame(op.signature.table, geometry, table)
    work = execution.estimate(op, table, stand_ins)
    decision = dispatch.choose(work, target)
    workers = dispatch._workers(dispatch.settings())
    limit = int(cpu.STATE[cpu.BREAK_EVEN])
    return Explanation(
        op=op.name,
        shapes=(*shapes, *results),
        dtypes=tuple(d.name for d in dtypes),
        decision=decision,
        bytes_moved=work.bytes,
        steps=work.steps,
        microseconds={
            "serial": dispatch.predicted_microseconds(work, 1),
            "parallel": dispatch.predicted_microseconds(work, workers),
        },
        break_even_steps=int(limit / op.nanoseconds),
        threading_layer=cpu.threading_layer(),
    )
