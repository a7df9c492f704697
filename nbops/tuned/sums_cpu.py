"""Sums and dot products of a block, in lanes (see `nbops.tuned.lanes`).

float32 is summed in float64: a product of two float32 is exact there, and what billions of additions lose
stays below float32's own rounding. Reading memory takes longer than the conversion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from nbops.tuned.lanes import LANES, fold_sum, new_lanes
from nbops.tuned.prefetch import prefetch
from nbops.tuned.twins import compiled_as

__all__ = ["BLOCK", "block_dot", "block_sum", "wide"]

AHEAD = 2048  # bytes: how early memory is asked for; 1 to 8 KB are as fast, and 0 is slower
BLOCK = 32768  # elements; larger rows are shared between cores in such blocks


def _double(x: Any) -> Any:
    return np.float64(x)


def _same(x: Any) -> Any:
    return x


@compiled_as({types.float32: _double, None: _same}, portable=True)
def wide(x: Any) -> Any:
    """A number in the type that its type is summed in: float64 for float32, else its own."""
    return np.float64(x) if type(x) is np.float32 else x


def block_sum(x: Any) -> Any:
    """``Σ x[i]``."""
    totals = new_lanes(wide(x.dtype.type(0)))
    whole = x.shape[0] // LANES * LANES
    for start in range(0, whole, LANES):
        block = x[start : start + LANES]
        prefetch(block, LANES * x.itemsize, AHEAD)
        for j in range(LANES):
            totals[j] += block[j]
    rest = x[whole:]
    for j in range(rest.shape[0]):
        totals[j] += rest[j]
    return fold_sum(totals)


def block_dot(x: Any, y: Any) -> Any:
    """``Σ x[i] y[i]``."""
    totals = new_lanes(wide(x.dtype.type(0)))
    whole = x.shape[0] // LANES * LANES
    for start in range(0, whole, LANES):
        a, b = x[start : start + LANES], y[start : start + LANES]
        prefetch(a, LANES * x.itemsize, AHEAD)
        prefetch(b, LANES * x.itemsize, AHEAD)
        for j in range(LANES):
            totals[j] += wide(a[j]) * wide(b[j])
    a, b = x[whole:], y[whole:]
    for j in range(a.shape[0]):
        totals[j] += wide(a[j]) * wide(b[j])
    return fold_sum(totals)
