"""Reductions over the threads that share a row; all of them get the result.

Inside a warp numbers go from register to register, by shuffles: in step s, each lane combines its number with
that of the lane whose number differs in bit s. After log2 steps all have the whole, combined in one order::

    lane      0    1    2    3
    step 1    0+1  0+1  2+3  2+3
    step 2    0…3  0…3  0…3  0…3

Several warps write one number each to shared memory, and every warp combines those.
"""

from __future__ import annotations

from typing import Any

from nbops.targets.cuda.toolchain import cuda

__all__ = ["WARP", "all_largest", "all_sum", "largest_of_lanes", "of_every_warp", "sum_of_lanes"]

WARP = 32
EVERY_LANE = 0xFFFFFFFF
#: Threads that share a row: a power of two, at most a warp, or several whole warps.
THREADS = 32


def sum_of_lanes(value: Any, lanes: int) -> Any:
    """The sum over groups of `lanes` neighbouring lanes of a warp."""
    step = lanes // 2
    while step > 0:
        value += cuda.shfl_xor_sync(EVERY_LANE, value, step)
        step //= 2
    return value


def largest_of_lanes(value: Any, lanes: int) -> Any:
    """The largest over groups of `lanes` neighbouring lanes of a warp."""
    step = lanes // 2
    while step > 0:
        other = cuda.shfl_xor_sync(EVERY_LANE, value, step)
        value = other if other > value else value
        step //= 2
    return value


def of_every_warp(value: Any, scratch: Any) -> Any:
    """The numbers of all warps, one for each lane, over and over.

    A warp's is that of its first lane. `scratch` is shared memory that nothing else uses.
    """
    if cuda.threadIdx.x % WARP == 0:
        scratch[cuda.threadIdx.x // WARP] = value
    cuda.syncthreads()
    return scratch[cuda.threadIdx.x % (THREADS // WARP)]


def all_sum(value: Any, scratch: Any) -> Any:
    """The sum over THREADS threads; for `scratch` see `of_every_warp`."""
    if THREADS <= WARP:
        return sum_of_lanes(value, THREADS)
    return sum_of_lanes(of_every_warp(sum_of_lanes(value, WARP), scratch), THREADS // WARP)


def all_largest(value: Any, scratch: Any) -> Any:
    """The largest over THREADS threads; for `scratch` see `of_every_warp`."""
    if THREADS <= WARP:
        return largest_of_lanes(value, THREADS)
    return largest_of_lanes(of_every_warp(largest_of_lanes(value, WARP), scratch), THREADS // WARP)
