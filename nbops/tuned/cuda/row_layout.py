"""How threads share a row, for all kernels that read rows: `row_kernels` and `row_gradient_kernels`.

A row that fits into registers is read once; how many threads share it depends on its length::

    up to 32 elements                lanes of a warp, one element each
    up to 32 · COUNT                 a warp
    up to 512 · COUNT                a block
    longer                           a block, which reads it once more

COUNT is how many elements a thread holds: 16 float32, or 8 float64. A block of 1024 threads would leave each
of them 64 of the 65,536 registers, too few for that without a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nbops.frame import CONTIGUOUS
from nbops.targets.cuda.kernels import Call, CudaKernel, Launch, Plan
from nbops.targets.cuda.loops import NARROW
from nbops.targets.cuda.toolchain import array_type, types
from nbops.tuned.cuda import warps
from nbops.tuned.cuda.vectors import VECTOR_BYTES

__all__ = ["CAPACITY_BYTES", "constants", "plan", "shape_name"]

#: What a thread holds of a row, in bytes.
CAPACITY_BYTES = 64
SMALL_BLOCK, STREAMING_BLOCK = 128, 1024
LARGEST_GRID = 2**31 - 1


def plan(
    call: Call, rows: Sequence[str], kernel: Callable[[np.dtype[Any], int, int, bool], CudaKernel]
) -> Plan | None:
    """One launch; None where rows don't lie contiguous, or are of another dtype.

    Parameters
    ----------
    call : Call
    rows : sequence of str
        The operands of a row of elements each.
    kernel : function
        Of the dtype, how many threads share a row, how many elements each holds (0 for rows that don't fit
        into registers), and whether every row begins at a multiple of 16 bytes.
    """
    dtype = call.dtypes[-1]
    n = call["n"]
    if dtype not in (np.float32, np.float64) or not 0 < n < NARROW:
        return None
    if call.layout != CONTIGUOUS or call.batch_rank > 1:
        return None
    places = [call[name] for row in rows for name in (row, f"{row}_batch0")]
    aligned = n * dtype.itemsize % VECTOR_BYTES == 0 and not any(place % VECTOR_BYTES for place in places)
    threads, count = threads_and_count(n, dtype.itemsize)
    made = kernel(dtype, threads, count, aligned and count != 1)
    block = max(threads, SMALL_BLOCK)
    blocks = -(-call["items"] * threads // block)
    return Plan([Launch(made, (blocks, 1, 1), (block, 1, 1))]) if blocks <= LARGEST_GRID else None


def threads_and_count(n: int, itemsize: int) -> tuple[int, int]:
    """How many threads share a row, and how many elements each holds; 0 where it does not fit."""
    capacity = CAPACITY_BYTES // itemsize
    for threads in 4, 8, 16, 32:
        if n <= threads:
            return threads, 1
    for count in VECTOR_BYTES // itemsize, 2 * VECTOR_BYTES // itemsize, capacity:
        if n <= warps.WARP * count:
            return warps.WARP, count
    for threads in 128, 256, 512:
        if n <= threads * capacity:
            return threads, capacity
    return STREAMING_BLOCK, 0


def constants(dtype: np.dtype[Any], threads: int, count: int, aligned: bool) -> dict[str, Any]:
    """What a kernel of this layout reads, by name."""
    return {
        "ELEMENT": array_type(dtype, 1, "C", False).dtype,
        "LOWEST": dtype.type(-np.inf),
        "ITEMSIZE": dtype.itemsize,
        "WIDTH": VECTOR_BYTES // dtype.itemsize if aligned else 1,
        "THREADS": threads,
        "BLOCK": max(threads, SMALL_BLOCK),
        "COUNT": count,
        "SCRATCH": max(threads // warps.WARP, 1),
        "index": types.uint32,
        "word": types.int64,
    }


def shape_name(constants: dict[str, Any]) -> str:
    """The layout as a part of a kernel's name: threads x elements _ elements read at once."""
    return f"{constants['THREADS']}x{constants['COUNT'] or 'any'}_{constants['WIDTH']}"
