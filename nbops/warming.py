"""warmup: compile, or load from the cache, what a program will call, before it calls it."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nbops import ahead, dispatch, repeat
from nbops.frame import CONTIGUOUS, GENERAL
from nbops.op import Op, registry
from nbops.turns import TakenError

__all__ = ["TRAINING", "warmup"]

#: A training step on tensors (`nbops.nn`) and one on arrays (`nbops.numpy_nn`), in the order of their ops.
#: Only gemm stands last: `nbops.ahead` begins at the end, and its kernel takes longest.
GRAPH_STEP = (
    "dense_relu",
    "dense_softmax",
    "matmul",
    "crossentropy_from_probabilities",
    "sum_row",
    "divide",
    "crossentropy_from_probabilities_gradient",
    "softmax_gradient",
    "relu_gradient",
    "gemm",
)
ARRAY_STEP = (
    "dense_relu",
    "dense_linear",
    "gemm",
    "matmul",
    "crossentropy_and_gradient",
    "relu_gradient",
    "vecdot",
)
#: What training a network of dense layers calls, also where its forward pass and loss are written out.
TRAINING = (
    *GRAPH_STEP,
    *(name for name in ARRAY_STEP if name not in GRAPH_STEP),
    "dense_weight_gradient",
    "sgd_update",
    "rmsprop_mean_square",
    "rmsprop_update",
    "crossentropy_from_logits",
    "crossentropy_from_logits_gradient",
    "add",
    "multiply",
    "relu",
    "softmax",
    "subtract",
    "sum_rows",
)
#: The optimizers' ops, and how many of their last operands are one number each; other ops have any operands.
NUMBERS = {"rmsprop_mean_square": 1, "rmsprop_update": 2, "sgd_update": 1}


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
    chosen = [find(op) for op in (TRAINING if ops is None else ops)]
    kinds = [np.dtype(dtype) for dtype in dtypes]
    tell = progress if callable(progress) else print if progress else lambda line: None
    if ops is None and kinds == [np.float32]:
        ahead.expect(TRAINING)
    dispatch.start()
    repeat.entry_address()
    work = [(op, kind) for op in chosen for kind in kinds]
    for number, (op, kind) in enumerate(work, 1):
        before = time.perf_counter()
        for layout, parallel in _variants(op):
            _compile(op, kind, layout, parallel)
        tell(f"{number}/{len(work)} {op.name} {kind}: {time.perf_counter() - before:.2f} s")
    return time.perf_counter() - start


def find(op: Op | str) -> Op:
    """An op, or the one of that name."""
    importlib.import_module("nbops.numpy_nn")  # has the optimizers' ops
    found = op if isinstance(op, Op) else registry.get(op) if isinstance(op, str) else None
    if found is None:
        raise TypeError(f"warmup: {op!r} is no op; expected one such as nbops.matmul, or its name")
    return found


def compile_breadth_first(work: Sequence[tuple[Op, Any]]) -> None:
    """Compile one variant of each op, then the next one of each; not what another process is compiling."""
    for turn in itertools.zip_longest(*([(*each, *v) for v in _variants(each[0])] for each in work)):
        for variant in turn:
            if variant is not None:
                with contextlib.suppress(TakenError):
                    _compile(*variant)


def _variants(op: Op) -> Iterator[tuple[int, bool]]:
    """The layouts that calls come with, for one core and for all: contiguous operands, and numbers last."""
    if op.name not in NUMBERS:
        yield CONTIGUOUS, False
        yield CONTIGUOUS, True
    numbers = NUMBERS.get(op.name, 1)
    last = GENERAL
    if op.signature.is_elementwise and op.n_inputs > numbers:
        last = (1 << op.n_inputs) - (1 << (op.n_inputs - numbers))
    yield last, False
    yield last, True


def _compile(op: Op, dtype: Any, layout: int, parallel: bool) -> None:
    operands = [
        np.zeros((1,) * len(names), dtype if kind == "T" else kind)
        for names, kind in zip(op.signature.inputs, op.types.inputs, strict=True)
    ]
    loop_dtypes, _ = op.types.resolve(operands, op.name, op.arguments)
    op.kernel.task(tuple(loop_dtypes), layout, parallel)
