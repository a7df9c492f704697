"""softmax and log_softmax down some columns of a matrix, as many at once as there are lanes.

Elements of a column lie a row of the matrix apart, so a column by itself uses one element of each cache line.
Here up to `LANES` columns go down together, three times: for the largest elements, for the sums of
exponentials, and to scale::

    x[i, :]      [x x x … x]      what is read of one row
                  | | |   |
    peak, total  [p p p … p]      one of each column

The additions of a column are those of a row in `nbops.tuned.rows_cpu`, in the same order: element i is added
to total number i modulo LANES, and the totals in pairs at the end. So a column has the same bits however the
array lies in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbops.tuned.exponential import exp_nonpositive
from nbops.tuned.lanes import LANES, inlined, new_lanes
from nbops.tuned.prefetch import prefetch

__all__ = ["log_softmax_columns", "softmax_columns"]

AHEAD = 8  # rows; they often lie in other pages, where a processor does not look ahead by itself


@inlined
def raise_to_largest(peak: Any, x: Any, first: int, stop: int) -> None:
    """Raise each column's peak to its largest element; a NaN may be passed over."""
    for i in range(x.shape[0]):
        row = x[i][first:stop]
        prefetch(row, LANES * x.itemsize, AHEAD * x.strides[0])
        for j in range(row.shape[0]):
            peak[j] = row[j] if row[j] > peak[j] else peak[j]


@inlined
def fold(totals: Any) -> None:
    """Add the totals in pairs, as `nbops.tuned.lanes.fold_sum` does; those that are not there are 0."""
    half = LANES // 2
    while half > 0:
        for k in range(min(half, totals.shape[0] - half)):
            lower, upper = totals[k], totals[k + half]
            for j in range(LANES):
                lower[j] += upper[j]
        half //= 2


def softmax_columns(x: Any, out: Any, first: int, stop: int) -> None:
    """softmax of the columns first to stop, at most LANES; `out` may be `x`.

    The exponentials go through an array on the stack, because `out` may be `x`: LLVM's vector loop is for a
    result that overlaps no input. Rows are sliced one by one: of a part of a matrix, Numba would not know
    that its rows are contiguous.
    """
    one, powers = x.dtype.type(1), new_lanes(x.dtype.type(0))
    peak, totals = new_lanes(x.dtype.type(-np.inf)), np.zeros((min(x.shape[0], LANES), LANES), x.dtype)
    raise_to_largest(peak, x, first, stop)
    for i in range(x.shape[0]):
        row, result, total = x[i][first:stop], out[i][first:stop], totals[i % LANES]
        for j in range(row.shape[0]):
            powers[j] = exp_nonpositive(row[j] - peak[j])
            total[j] += powers[j]
        for j in range(row.shape[0]):
            result[j] = powers[j]
    fold(totals)
    scale = totals[0]
    for j in range(min(stop, x.shape[1]) - first):
        scale[j] = one / scale[j]
    for i in range(x.shape[0]):
        result = out[i][first:stop]
        for j in range(result.shape[0]):
            result[j] *= scale[j]


def log_softmax_columns(x: Any, out: Any, first: int, stop: int) -> None:
    """log_softmax of the columns first to stop, at most LANES; `out` may be `x`."""
    peak, totals = new_lanes(x.dtype.type(-np.inf)), np.zeros((min(x.shape[0], LANES), LANES), x.dtype)
    differences = new_lanes(x.dtype.type(0))
    raise_to_largest(peak, x, first, stop)
    for i in range(x.shape[0]):
        row, total = x[i][first:stop], totals[i % LANES]
        for j in range(row.shape[0]):
            total[j] += exp_nonpositive(row[j] - peak[j])
    fold(totals)
    shift = totals[0]
    for j in range(min(stop, x.shape[1]) - first):
        shift[j] = np.log(shift[j])
    for i in range(x.shape[0]):
        row, result = x[i][first:stop], out[i][first:stop]
        for j in range(row.shape[0]):
            differences[j] = (row[j] - peak[j]) - shift[j]
        for j in range(row.shape[0]):
            result[j] = differences[j]
