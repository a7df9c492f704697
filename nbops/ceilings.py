"""The machine's ceilings, measured: multiply-adds per second from registers, bytes per second from memory.

No loop can run faster than ``max(flops / peak, bytes / bandwidth)``, the roofline
(https://doi.org/10.1145/1498765.1498785). Both are measured by compiled kernels on all cores at once:

peak
    chains of independent fused multiply-adds on the widest vectors, which never leave the registers; two
    operations each. Each core's windows of a fraction of a millisecond are timed apart, so that on a busy
    machine those count in which nobody else ran there;
bandwidth
    ``a[i] = s b[i]`` over arrays that fit no core's cache; the results go to memory by non-temporal stores,
    so that two arrays are moved. With ordinary stores it is three, and a ceiling that tuned kernels pass.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbops import compiler
from nbops.tuned.streaming import LINE, STRETCH, copy_lines, fence, new_buffer
from nbops.tuned.vectors import host_tile

__all__ = ["Ceilings", "best_seconds", "measure"]

#: Independent chains: more than a core's multiply-adds in flight, fewer than its vector registers.
CHAINS = 12
#: Turns of the chains in one window.
TURNS = 100_000
ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Ceilings:
    """What all cores together can do.

    Parameters
    ----------
    flops : float
        Operations per second in one dtype; a multiply-add is two.
    bandwidth : float
        Bytes per second from and to memory.
    """

    flops: float
    bandwidth: float

    def seconds(self, flops: int, moved: int) -> float:
        """The shortest time for so many operations and bytes."""
        return max(flops / self.flops, moved / self.bandwidth)


def best_seconds(call: Callable[[], Any], seconds: float, quantile: float = 0.1) -> float:
    """A low quantile of a call's times: others' load only ever adds."""
    call()
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < stop:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.quantile(times, quantile))


@intrinsic
def multiply_add_chains(typingctx: Any, count: Any, factor: Any) -> Any:
    """``c = c factor + factor``, `count` times on each of `CHAINS` vectors; the sum of all elements."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        element = context.get_value_type(factor)
        lanes = host_tile().vector_bytes // context.get_abi_sizeof(element)
        vector = ir.VectorType(element, lanes)
        word = ir.IntType(64)
        splat = ir.Constant(vector, ir.Undefined)
        for lane in range(lanes):
            splat = builder.insert_element(splat, arguments[1], ir.IntType(32)(lane))
        name = f"llvm.fma.v{lanes}f{8 * context.get_abi_sizeof(element)}"
        kind = ir.FunctionType(vector, [vector] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, name)
        before, loop = builder.block, builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(word)
        index.add_incoming(word(0), before)
        chains = [builder.phi(vector) for _ in range(CHAINS)]
        results = []
        for number, chain in enumerate(chains):
            # each starts at a value of its own, or LLVM would see that all are one
            chain.add_incoming(ir.Constant(vector, [element(float(number + 1))] * lanes), before)
            results.append(builder.call(fused, [chain, splat, splat]))
            chain.add_incoming(results[-1], loop)
        advanced = builder.add(index, word(1))
        index.add_incoming(advanced, loop)
        builder.cbranch(builder.icmp_signed("<", advanced, arguments[0]), loop, after)
        builder.position_at_end(after)
        total = functools.reduce(builder.fadd, results)
        parts = [builder.extract_element(total, ir.IntType(32)(lane)) for lane in range(lanes)]
        return functools.reduce(builder.fadd, parts)

    return factor(types.int64, factor), codegen


def _chains(count: int, factor: Any) -> Any:
    return multiply_add_chains(count, factor)


def _scale(workers: int, stretches: int, address: int, b: Any, factor: Any) -> None:
    """``a = factor b``, where a starts at `address`."""
    for worker in numba.prange(workers):
        buffer = new_buffer(np.float32)
        for stretch in range(stretches * worker // workers, stretches * (worker + 1) // workers):
            for i in range(buffer.shape[0]):
                buffer[i] = factor * b[stretch * buffer.shape[0] + i]
            copy_lines(buffer, address + stretch * STRETCH)
        fence()


def operations_per_turn(dtype: np.dtype[Any]) -> int:
    """What one turn of a core's chains computes."""
    return int(2 * CHAINS * (host_tile().vector_bytes // dtype.itemsize))


@functools.cache
def measure(dtype: str = "float32", seconds: float = 0.3) -> Ceilings:
    """Measure both ceilings once per process.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    seconds : float
        For how long to try each.
    """
    return Ceilings(_peak(np.dtype(dtype), seconds), _bandwidth(seconds))


def _peak(dtype: np.dtype[Any], seconds: float) -> float:
    chains, factor = compiler.jit(compiler.specialise(_chains, dtype.name)), dtype.type(0.5)
    chains(1, factor)
    workers = numba.get_num_threads()
    together = threading.Barrier(workers)  # two threads of one core share its units

    def window(_: int) -> float:
        together.wait()
        return best_seconds(lambda: chains(TURNS, factor), seconds)

    with ThreadPoolExecutor(workers) as pool:
        windows = list(pool.map(window, range(workers)))
    operations = TURNS * operations_per_turn(dtype)
    return sum(operations / window for window in windows)


def _bandwidth(seconds: float) -> float:
    scale = compiler.jit(compiler.specialise(_scale, "ceiling"), parallel=True)
    b = np.ones(ELEMENTS, np.float32)
    a = np.ones(ELEMENTS + LINE // b.itemsize, np.float32)  # room to start at a cache line
    address = a.ctypes.data + -a.ctypes.data % LINE
    workers, stretches = numba.get_num_threads(), b.nbytes // STRETCH
    taken = best_seconds(lambda: scale(workers, stretches, address, b, np.float32(0.5)), seconds, 0)
    return 2 * b.nbytes / taken
