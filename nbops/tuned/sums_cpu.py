"""Sums and dot products of a block, in lanes (see `nbops.tuned.lanes`).

Of a block, float32 is summed in float64: a product of two float32 is exact there, and what billions of
additions lose stays below float32's own rounding. Reading memory takes longer than the conversion.

A row of a matrix is in the caches more often, and its conversion takes three times as long as its products.
`row_dot` therefore sums in the row's own dtype, as a product of matrices does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from nbops.tuned.lanes import (
    FEW,
    LANES,
    add_lanes,
    add_products,
    equal_few_lanes,
    equal_lanes,
    fold_sum,
    inlined,
    read_few_lanes,
    read_first_lanes,
    read_lanes,
)
from nbops.tuned.prefetch import prefetch, prefetch_to_l2
from nbops.tuned.twins import compiled_as

__all__ = ["BLOCK", "block_dot", "block_sum", "row_dot", "wide"]

#: How far ahead, in bytes, memory is asked for. A core can ask its L1 cache for a dozen lines at a time; what
#: comes from memory is asked for earlier in L2, which has room for more requests.
NEAR, FAR = 2048, 8192
BLOCK = 32768  # elements; larger rows are shared between cores in such blocks


def _double(x: Any) -> Any:
    return np.float64(x)


def _same(x: Any) -> Any:
    return x


@compiled_as({types.float32: _double, None: _same}, portable=True)
def wide(x: Any) -> Any:
    """A number in the type that its type is summed in: float64 for float32, else its own."""
    return np.float64(x) if type(x) is np.float32 else x


def block_sum(x: Any, from_memory: bool = False) -> Any:
    """``Σ x[i]``; `from_memory` where x is part of more than the caches hold."""
    zero = wide(x.dtype.type(0))
    if x.shape[0] <= FEW:
        return fold_sum(add_lanes(equal_few_lanes(zero), read_few_lanes(x)))
    totals = equal_lanes(zero)
    whole = x.shape[0] // LANES * LANES
    for start in range(0, whole, LANES):
        block = x[start : start + LANES]
        ask_ahead(block, from_memory)
        totals = add_lanes(totals, read_lanes(block))
    if whole < x.shape[0]:
        totals = add_lanes(totals, read_first_lanes(x[whole:]))
    return fold_sum(totals)


def block_dot(x: Any, y: Any, from_memory: bool = False) -> Any:
    """``Σ x[i] y[i]``; `from_memory` where x and y are parts of more than the caches hold."""
    return add_dot(wide(x.dtype.type(0)), x, y, from_memory)


def row_dot(row: Any, x: Any) -> Any:
    """``Σ row[j] x[j]``, added up in the row's dtype."""
    return add_dot(row.dtype.type(0), row, x, False)


@inlined
def add_dot(zero: Any, x: Any, y: Any, from_memory: bool) -> Any:
    """``Σ x[i] y[i]``, added up in the dtype of `zero`."""
    if x.shape[0] <= FEW:
        return fold_sum(add_products(equal_few_lanes(zero), read_few_lanes(x), read_few_lanes(y)))
    totals = equal_lanes(zero)
    whole = x.shape[0] // LANES * LANES
    for start in range(0, whole, LANES):
        a, b = x[start : start + LANES], y[start : start + LANES]
        ask_ahead(a, from_memory)
        ask_ahead(b, from_memory)
        totals = add_products(totals, read_lanes(a), read_lanes(b))
    if whole < x.shape[0]:
        totals = add_products(totals, read_first_lanes(x[whole:]), read_first_lanes(y[whole:]))
    return fold_sum(totals)


@inlined
def ask_ahead(block: Any, from_memory: bool) -> None:
    """Ask for what follows a block."""
    prefetch(block, LANES * block.itemsize, NEAR)
    if from_memory:
        prefetch_to_l2(block, LANES * block.itemsize, FAR)
