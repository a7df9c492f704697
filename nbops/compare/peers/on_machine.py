"""The machine: the least time for a workload's arithmetic, or for moving its bytes, on all cores at once.

It takes its turn among the libraries, window by window, so that its times are of the same minutes as theirs.
What they leave to it is what nobody can be faster by:

arithmetic
    the workload's multiply-adds, from registers (see `nbops.ceilings`), many times over: a window lasts
    milliseconds, so what it takes to start the cores is nothing;
memory
    the workload's arrays, read and written in the simplest way: nothing is computed but a sum. Ordinary
    stores and non-temporal ones, with and without asking for memory ahead, at one distance and at two, are
    tried on the arrays, and the fastest is the machine's time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

from nbops import ceilings, compiler
from nbops.compare.oracles import aligned
from nbops.compare.peers import Case
from nbops.compare.workloads import operations
from nbops.tuned.lanes import LANES, fold_sum, new_lanes
from nbops.tuned.prefetch import prefetch, prefetch_to_l2
from nbops.tuned.streaming import STRETCH, copy_lines, fence, new_buffer

REQUIRES = ("numba",)

SECONDS = 2e-3  # how long a window of arithmetic takes at least
TRIALS = 5
#: How far ahead memory is asked for, in L1 and in L2, in bytes; 0 is not at all.
DISTANCES = ((0, 0), (2048, 0), (4096, 0), (1024, 4096), (2048, 8192))


def load() -> None:
    numba.get_num_threads()


def describe() -> dict[str, Any]:
    return {
        "versions": {"numba": numba.__version__, "numpy": np.__version__},
        "threads": {"numba": numba.get_num_threads()},
        "kernels": "multiply-adds from registers; arrays read and written, nothing computed",
    }


# ---- arithmetic -------------------------------------------------------------------------------------


def _multiply_adds(workers: int, turns: int, factor: Any, results: Any) -> None:
    """On every core, so many turns of chains of multiply-adds."""
    for worker in numba.prange(workers):
        results[worker] = ceilings.multiply_add_chains(turns, factor)


def arithmetic(kind: str, given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    """The operations of a matrix product or a training step."""
    dtype = np.dtype(options.get("dtype", "float32"))
    workers: int = numba.get_num_threads()
    together = ceilings.operations_per_turn(dtype) * workers
    wanted = operations(kind, options)
    chains = compiler.jit(compiler.specialise(_multiply_adds, f"{dtype.name}_machine"), parallel=True)
    factor, results = dtype.type(0.5), np.zeros(workers, dtype)

    def turns(times: int) -> int:
        return 1 + wanted * times // together

    def run(times: int) -> None:
        chains(workers, turns(times), factor, results)

    run(1)  # compiles
    times = 1
    while _seconds(functools.partial(run, times)) < SECONDS:
        times *= 2
    return Case(functools.partial(run, times), dict, times=turns(times) * together / wanted)


# ---- memory -----------------------------------------------------------------------------------------


def _add(workers: int, x: Any, y: Any, address: int, near: int, far: int) -> None:
    """``out = x + y`` past the caches; `out` starts at an address."""
    for worker in numba.prange(workers):
        buffer = new_buffer(np.float32)
        length = buffer.shape[0]
        count = x.shape[0] // length
        for stretch in range(count * worker // workers, count * (worker + 1) // workers):
            a, b = x[stretch * length : (stretch + 1) * length], y[stretch * length : (stretch + 1) * length]
            if near > 0:
                prefetch(a, STRETCH, near)
                prefetch(b, STRETCH, near)
            if far > 0:
                prefetch_to_l2(a, STRETCH, far)
                prefetch_to_l2(b, STRETCH, far)
            for i in range(length):
                buffer[i] = a[i] + b[i]
            copy_lines(buffer, address + stretch * STRETCH)
        fence()


def _copy(workers: int, x: Any, address: int, near: int, far: int) -> None:
    """``out = x`` past the caches; `out` starts at an address."""
    for worker in numba.prange(workers):
        length = STRETCH // x.itemsize
        count = x.shape[0] // length
        for stretch in range(count * worker // workers, count * (worker + 1) // workers):
            a = x[stretch * length : (stretch + 1) * length]
            if near > 0:
                prefetch(a, STRETCH, near)
            if far > 0:
                prefetch_to_l2(a, STRETCH, far)
            copy_lines(a, address + stretch * STRETCH)
        fence()


def _add_through_caches(workers: int, x: Any, y: Any, out: Any) -> None:
    for worker in numba.prange(workers):
        start, stop = x.shape[0] * worker // workers, x.shape[0] * (worker + 1) // workers
        a, b, c = x[start:stop], y[start:stop], out[start:stop]
        for i in range(c.shape[0]):
            c[i] = a[i] + b[i]


def _copy_through_caches(workers: int, x: Any, out: Any) -> None:
    for worker in numba.prange(workers):
        start, stop = x.shape[0] * worker // workers, x.shape[0] * (worker + 1) // workers
        a, c = x[start:stop], out[start:stop]
        for i in range(c.shape[0]):
            c[i] = a[i]


def _read(workers: int, x: Any, y: Any, results: Any, near: int, far: int) -> None:
    """Add products of x and y, in float32: fewer instructions than an exact dot product has."""
    for worker in numba.prange(workers):
        totals = new_lanes(np.float32(0))
        count = x.shape[0] // LANES
        for block in range(count * worker // workers, count * (worker + 1) // workers):
            a, b = x[block * LANES : (block + 1) * LANES], y[block * LANES : (block + 1) * LANES]
            if near > 0:
                prefetch(a, LANES * x.itemsize, near)
                prefetch(b, LANES * x.itemsize, near)
            if far > 0:
                prefetch_to_l2(a, LANES * x.itemsize, far)
                prefetch_to_l2(b, LANES * x.itemsize, far)
            for j in range(LANES):
                totals[j] += a[j] * b[j]
        results[worker] = fold_sum(totals)


def _compiled(function: Any) -> Any:
    return compiler.jit(compiler.specialise(function, "machine"), parallel=True)


def sum_of_two(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    """Two arrays read, and one written."""
    x, y = given["x"].reshape(-1), given["y"].reshape(-1)
    out, workers = aligned(np.zeros_like(x)), numba.get_num_threads()
    past, through = _compiled(_add), _compiled(_add_through_caches)

    def ways() -> Iterator[Callable[[], Any]]:
        yield lambda: through(workers, x, y, out)
        for near, far in DISTANCES:
            yield functools.partial(past, workers, x, y, out.ctypes.data, near, far)

    return _fastest(ways(), out)


def copy(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    """An array read, and one written."""
    x = given["x"].reshape(-1)
    out, workers = aligned(np.zeros_like(x)), numba.get_num_threads()
    past, through = _compiled(_copy), _compiled(_copy_through_caches)

    def ways() -> Iterator[Callable[[], Any]]:
        yield lambda: through(workers, x, out)
        for near, far in DISTANCES:
            yield functools.partial(past, workers, x, out.ctypes.data, near, far)

    return _fastest(ways(), out)


def read_two(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    """Two arrays read."""
    x, y, workers = given["x"], given["y"], numba.get_num_threads()
    results, read = np.zeros(workers, np.float32), _compiled(_read)
    ways = (functools.partial(read, workers, x, y, results, near, far) for near, far in DISTANCES)
    return _fastest(ways, results)


def _fastest(ways: Iterator[Callable[[], Any]], out: np.ndarray) -> Case:
    """The one of some ways that takes the least time; all in turn, because the machine's speed changes.

    The case keeps `out`, of which some ways know the address alone.
    """
    tried = list(ways)
    times = [[_seconds(way) for way in tried] for _ in range(1 + TRIALS)][1:]
    best = int(np.argmin(np.min(times, axis=0)))
    return Case(tried[best], lambda: {"out": out})


def _seconds(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


KINDS = {
    "add_relu": sum_of_two,
    "matmul": functools.partial(arithmetic, "matmul"),
    "softmax": copy,
    "crossentropy": copy,
    "vecdot": read_two,
    "training_step": functools.partial(arithmetic, "training_step"),
}
