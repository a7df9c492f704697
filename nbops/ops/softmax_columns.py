"""softmax and log_softmax of the columns of a matrix whose rows are adjacent in memory, ``(n,m)->(n,m)``.

What they compute is that of `nbops.ops.softmax` for each column; `nbops.softmax` comes here for an axis that
is not the last one of an array. Cores share the columns, in blocks of as many as there are lanes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbops import arrays
from nbops.kernel import Array, Scalar, prange
from nbops.op import Op, op
from nbops.settings import settings
from nbops.targets import cuda
from nbops.tuned import columns_cpu
from nbops.tuned.lanes import LANES
from nbops.tuned.twins import compiled_as

__all__ = ["along_columns", "log_softmax_of_columns", "softmax_of_columns"]


def largest(x: Array, j: int) -> Scalar:
    """The largest element of a column; a NaN may be passed over."""
    peak = x.dtype.type(-np.inf)
    for i in range(x.shape[0]):
        peak = x[i, j] if x[i, j] > peak else peak
    return peak


@compiled_as(columns_cpu.softmax_columns)
def softmax_block(x: Array, out: Array, first: int, stop: int) -> None:
    """softmax of the columns first to stop; `out` may be `x`."""
    for j in range(first, min(stop, x.shape[1])):
        peak, total = largest(x, j), x.dtype.type(0)
        for i in range(x.shape[0]):
            out[i, j] = np.exp(x[i, j] - peak)
            total += out[i, j]
        for i in range(x.shape[0]):
            out[i, j] /= total


@compiled_as(columns_cpu.log_softmax_columns)
def log_softmax_block(x: Array, out: Array, first: int, stop: int) -> None:
    """log_softmax of the columns first to stop; `out` may be `x`."""
    for j in range(first, min(stop, x.shape[1])):
        peak, total = largest(x, j), x.dtype.type(0)
        for i in range(x.shape[0]):
            total += np.exp(x[i, j] - peak)
        for i in range(x.shape[0]):
            out[i, j] = (x[i, j] - peak) - np.log(total)


@op("(n,m)->(n,m)", name="softmax_of_columns", integers="float", nanoseconds=1.0, in_place=("x",))
def softmax_of_columns(x: Array, out: Array) -> None:
    """softmax of each column."""
    for block in prange((x.shape[1] + LANES - 1) // LANES):
        softmax_block(x, out, block * LANES, (block + 1) * LANES)


@op("(n,m)->(n,m)", name="log_softmax_of_columns", integers="float", nanoseconds=1.0)
def log_softmax_of_columns(x: Array, out: Array) -> None:
    """log_softmax of each column."""
    for block in prange((x.shape[1] + LANES - 1) // LANES):
        log_softmax_block(x, out, block * LANES, (block + 1) * LANES)


FEWEST = 4  # columns; fewer fill no vector


def along_columns(columns: Op, x: Any, axis: int, out: Any, target: str | None) -> Any:
    """The op along an axis of an array, as one on matrices; None where that is not how the array lies."""
    asked = target or settings().target
    if asked in cuda.TARGETS or (asked == "auto" and cuda.available()):
        return None  # a GPU has threads for rows in any layout
    given = [x] if out is None else [x, out]
    if not all(arrays.is_plain(array) and array.flags.c_contiguous for array in given):
        return None
    if not -x.ndim <= axis < x.ndim:
        return None
    if out is not None and (out.shape != x.shape or out.dtype != x.dtype or not out.flags.writeable):
        return None  # the other way's message has the right name
    axis %= x.ndim
    behind = math.prod(x.shape[axis + 1 :])
    if behind < FEWEST or x.size == 0:
        return None
    if x.ndim == 2:
        return columns(x, out=out, target=target)
    shape = (*x.shape[: axis + 1], behind)
    result = arrays.new_array(x.shape, x.dtype, "C") if out is None else out
    columns(x.reshape(shape), out=result.reshape(shape), target=target)
    return result
