"""softmax and log_softmax down some columns of a matrix, in lanes: a column is a lane.

Elements of a column lie a row of the matrix apart, so a column by itself uses one element of each cache line.
Here up to `LANES` columns go down together, three times: for the largest elements, for the sums of
exponentials, and to scale::

    x[i, :]      [x x x … x]      what is read of one row
                  | | |   |
    peak, total  [p p p … p]      one of each column; every row adds to them

Each column's additions are in the order of the rows, however many columns there are: first of `ROWS`, then of
their sums, so that what rounding loses stays small.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbops.tuned.exponential import exp_nonpositive
from nbops.tuned.lanes import LANES, inlined, new_lanes
from nbops.tuned.prefetch import prefetch

__all__ = ["log_softmax_columns", "softmax_columns"]

ROWS = 64
AHEAD = 8  # rows; they often lie in other pages, where a processor does not look ahead by itself


@inlined
def raise_to_largest(peak: Any, x: Any, first: int, stop: int) -> None:
    """Raise each column's peak to its largest element; a NaN may be passed over."""
    for i in range(x.shape[0]):
        row = x[i][first:stop]
        prefetch(row, LANES * x.itemsize, AHEAD * x.strides[0])
        for j in range(row.shape[0]):
            peak[j] = row[j] if row[j] > peak[j] else peak[j]


def softmax_columns(x: Any, out: Any, first: int, stop: int) -> None:
    """softmax of the columns first to stop, at most LANES; `out` may be `x`.

    The exponentials go through an array on the stack, because `out` may be `x`: LLVM's vector loop is for a
    result that overlaps no input. Rows are sliced one by one: of a part of a matrix, Numba would not know
    that its rows are contiguous.
    """
    zero, one = x.dtype.type(0), x.dtype.type(1)
    peak, total, powers = new_lanes(x.dtype.type(-np.inf)), new_lanes(zero), new_lanes(zero)
    raise_to_largest(peak, x, first, stop)
    for start in range(0, x.shape[0], ROWS):
        part = new_lanes(zero)
        for i in range(start, min(start + ROWS, x.shape[0])):
            row, result = x[i][first:stop], out[i][first:stop]
            for j in range(row.shape[0]):
                powers[j] = exp_nonpositive(row[j] - peak[j])
                part[j] += powers[j]
            for j in range(row.shape[0]):
                result[j] = powers[j]
        for j in range(LANES):
            total[j] += part[j]
    for j in range(LANES):
        total[j] = one / total[j]
    for i in range(x.shape[0]):
        result = out[i][first:stop]
        for j in range(result.shape[0]):
            result[j] *= total[j]


def log_softmax_columns(x: Any, out: Any, first: int, stop: int) -> None:
    """log_softmax of the columns first to stop, at most LANES; `out` may be `x`."""
    zero = x.dtype.type(0)
    peak, total, differences = new_lanes(x.dtype.type(-np.inf)), new_lanes(zero), new_lanes(zero)
    raise_to_largest(peak, x, first, stop)
    for start in range(0, x.shape[0], ROWS):
        part = new_lanes(zero)
        for i in range(start, min(start + ROWS, x.shape[0])):
            row = x[i][first:stop]
            for j in range(row.shape[0]):
                part[j] += exp_nonpositive(row[j] - peak[j])
        for j in range(LANES):
            total[j] += part[j]
    for j in range(LANES):
        total[j] = np.log(total[j])
    for i in range(x.shape[0]):
        row, result = x[i][first:stop], out[i][first:stop]
        for j in range(row.shape[0]):
            differences[j] = (row[j] - peak[j]) - total[j]
        for j in range(row.shape[0]):
            result[j] = differences[j]
