"""Kernels that read two rows, sum over them, and write one: the gradients of softmax and log_softmax.

From a row y of the forward result and a row dy of the upstream gradient::

                  total          what is written
    softmax       Σ y[i] dy[i]   y[j] (dy[j] - total)
    log_softmax   Σ dy[i]        dy[j] - exp(y[j]) total

Threads share rows as in `nbops.tuned.cuda.row_kernels`. In registers (`rows_in_registers`) both rows are read
once; longer rows (`streamed_rows`) are read once for the total and once more for the result.
"""

from __future__ import annotations

import math
from typing import Any

from nbops.targets.cuda.toolchain import cuda
from nbops.tuned.cuda.row_kernels import position, read_chunk, read_row, this_row, write_chunk
from nbops.tuned.cuda.warps import all_sum

__all__ = [
    "itself",
    "minus_exponential",
    "product",
    "rows_in_registers",
    "scaled_difference",
    "streamed_rows",
]

# What every kernel has its own of: see `nbops.tuned.cuda.row_layout`.
ELEMENT: Any = None
index: Any = None
word: Any = None
WIDTH, THREADS, COUNT, SCRATCH = 4, 32, 16, 1


def product(y: Any, dy: Any) -> Any:
    """What a pair of elements adds to softmax's total."""
    return y * dy


def scaled_difference(y: Any, dy: Any, total: Any) -> Any:
    """An element of softmax's gradient."""
    return y * (dy - total)


def itself(y: Any, dy: Any) -> Any:
    """What a pair of elements adds to log_softmax's total."""
    return dy


def minus_exponential(y: Any, dy: Any, total: Any) -> Any:
    """An element of log_softmax's gradient."""
    return dy - math.exp(y) * total


#: Stand-ins for the op's own.
term, finish = product, scaled_difference


def rows_in_registers(words: Any) -> None:
    """Two rows in registers become one."""
    items, size, y, y_row, dy, dy_row, out, out_row = words
    scratch = cuda.shared.array(SCRATCH, ELEMENT)
    values = cuda.local.array(COUNT, ELEMENT)
    upstream = cuda.local.array(COUNT, ELEMENT)
    row = word(this_row())
    inside = row < items
    n = index(size) if inside else index(0)
    row = row if inside else word(0)
    read_row(values, y + row * y_row, n)
    read_row(upstream, dy + row * dy_row, n)
    total = ELEMENT(0)
    for i in range(COUNT):
        total += term(values[i], upstream[i]) if position(i // WIDTH) < n else ELEMENT(0)
    total = all_sum(total, scratch)
    for i in range(COUNT):
        values[i] = finish(values[i], upstream[i], total)
    for chunk in range(COUNT // WIDTH):
        write_chunk(values, chunk * WIDTH, out + row * out_row, position(chunk), n)


def streamed_rows(words: Any) -> None:
    """Two rows become one, one block a row."""
    _, size, y, y_row, dy, dy_row, out, out_row = words
    scratch = cuda.shared.array(SCRATCH, ELEMENT)
    values = cuda.local.array(WIDTH, ELEMENT)
    upstream = cuda.local.array(WIDTH, ELEMENT)
    row = word(this_row())
    n = index(size)
    total = ELEMENT(0)
    at = position(0)
    while at < n:
        read_chunk(values, 0, y + row * y_row, at, n)
        read_chunk(upstream, 0, dy + row * dy_row, at, n)
        for k in range(WIDTH):
            total += term(values[k], upstream[k])
        at = index(at + index(THREADS * WIDTH))
    total = all_sum(total, scratch)
    at = position(0)
    while at < n:
        read_chunk(values, 0, y + row * y_row, at, n)
        read_chunk(upstream, 0, dy + row * dy_row, at, n)
        for k in range(WIDTH):
            values[k] = finish(values[k], upstream[k], total)
        write_chunk(values, 0, out + row * out_row, at, n)
        at = index(at + index(THREADS * WIDTH))
