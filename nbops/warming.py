"""warmup: compile, or load from the cache, what a program will call, before it calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from nbops import dispatch
from nbops.frame import CONTIGUOUS, GENERAL
from nbops.op import Op, registry

__all__ = ["TRAINING", "warmup"]

#: What training a network of dense layers calls.
TRAINING = (
    "add",
    "crossentropy_from_logits",
    "crossentropy_from_logits_gradient",
    "dense_linear",
    "dense_relu",
    "dense_softmax",
    "dense_weight_gradient",
    "divide",
    "matmul",
    "multiply",
    "relu",
    "relu_gradient",
    "softmax",
    "softmax_gradient",
    "subtract",
    "sum_row",
    "sum_rows",
)


def warmup(
    ops: Iterable[Op | str] | None = None,
    dtypes: Iterable[Any] = (np.float32,),
    *,
    progress: bool | Callable[[str], None] = False,
) -> float:
    """Compile the kernels of some ops now, for one core and for all; later calls find them.

    Kernels are kept on disk, so that the first run on a machine takes a while, and every later one little. In
    an image or on a server, call it when that is built or starts.

    Parameters
    ----------
    ops : iterable of Op or str, optional
        What training a network of dense layers calls, unless given.
    dtypes : iterable of dtype
    progress : bool or function
        True prints a line per op; a function is called with it.

    Returns
    -------
    float
        The seconds that it took.

    Raises
    ------
    TypeError
        For something that is no op.

    Examples
    --------
    >>> import nbops
    >>> seconds = nbops.warmup(["relu", nbops.add], ["float64"])
    """
    start = time.perf_counter()
    chosen = [_find(op) for op in (TRAINING if ops is None else ops)]
    kinds = [np.dtype(dtype) for dtype in dtypes]
    tell = progress if callable(progress) else print if progress else lambda line: None
    dispatch.start()
    work = [(op, kind) for op in chosen for kind in kinds]
    for number, (op, kind) in enumerate(work, 1):
        before = time.perf_counter()
        _compile(op, kind)
        tell(f"{number}/{len(work)} {op.name} {kind}: {time.perf_counter() - before:.2f} s")
    return time.perf_counter() - start


def _find(op: Op | str) -> Op:
    found = op if isinstance(op, Op) else registry.get(op) if isinstance(op, str) else None
    if found is None:
        raise TypeError(f"warmup: {op!r} is no op; expected one such as nbops.matmul, or its name")
    return found


def _compile(op: Op, dtype: np.dtype[Any]) -> None:
    """The layouts that calls come with: contiguous operands, and the last one a repeated scalar or row."""
    operands = [
        np.zeros((1,) * len(names), dtype if kind == "T" else kind)
        for names, kind in zip(op.signature.inputs, op.types.inputs, strict=True)
    ]
    loop_dtypes, _ = op.types.resolve(operands, op.name, op.arguments)
    last = 1 << (op.n_inputs - 1) if op.signature.is_elementwise and op.n_inputs > 1 else GENERAL
    for layout in (CONTIGUOUS, last):
        for parallel in (False, True):
            op.kernel.task(tuple(loop_dtypes), layout, parallel)
