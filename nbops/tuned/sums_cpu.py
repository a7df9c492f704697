"""Sums and dot products of a block, in lanes (see `nbops.tuned.lanes`).

float32 is summed in float64: a product of two float32 is exact there, and what billions of additions lose
stays below float32's own rounding. Reading memory takes longer than the conversion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from nbops.tuned.lanes import LANES, fold_sum, new_lanes
from nbops.tuned.prefetch import prefetch, prefetch_to_l2
from nbops.tuned.twins import compiled_as

__all__ = ["BLOCK", "block_dot", "block_sum", "wide"]

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
    totals = new_lanes(wide(x.dtype.type(0)))
    whole = x.shape[0] // LANES * LANES
    for start in range(0, whole, LANES):
        block = x[start : start + LANES]
        prefetch(block, LANES * x.itemsize, NEAR)
        if from_memory:
            prefetch_to_l2(block, LANES * x.itemsize, FAR)
        for j in range(LANES):
            totals[j] += block[j]
    rest = x[whole:]
    for j in range(rest.shape[0]):
        totals[j] += rest[j]
    return fold_sum(totals)


def block_dot(x: Any, y: Any, from_memory: bool = False) -> Any:
    """``Σ x[i] y[i]``; `from_memory` where x and y are parts of more than the caches hold."""
    totals = new_lanes(wide(x.dtype.type(0)))
    whole = x.shape[0] // LANES * LANES
    for start in range(0, whole, LANES):
        a, b = x[start : start + LANES], y[start : start + LANES]
        prefetch(a, LANES * x.itemsize, NEAR)
        prefetch(b, LANES * x.itemsize, NEAR)
        if from_memory:
            prefetch_to_l2(a, LANES * x.itemsize, FAR)
            prefetch_to_l2(b, LANES * x.itemsize, FAR)
        for j in range(LANES):
            totals[j] += wide(a[j]) * wide(b[j])
    a, b = x[whole:], y[whole:]
    for j in range(a.shape[0]):
        totals[j] += wide(a[j]) * wide(b[j])
    return fold_sum(totals)
