"""The machine's ceilings, measured: multiply-adds per second from registers, bytes per second from memory.

No loop can run faster than ``max(flops / peak, bytes / bandwidth)``, the roofline
(https://doi.org/10.1145/1498765.1498785). Both are measured by compiled kernels on all cores:

peak
    chains of independent fused multiply-adds on vectors that never leave the registers; two operations each;
bandwidth
    the triad ``a[i] = b[i] + s c[i]`` over arrays that fit no cache; three arrays are moved.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbops import compiler

__all__ = ["Ceilings", "best_seconds", "measure"]

#: Independent chains: more than a core's multiply-adds in flight, fewer than its vector registers.
CHAINS = 12
VECTOR_BYTES = 32
TRIAD_ELEMENTS = 1 << 24


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
        lanes = VECTOR_BYTES // context.get_abi_sizeof(element)
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


def _chains_on_all_cores(count: int, factor: Any, out: Any) -> None:
    for worker in numba.prange(out.shape[0]):
        out[worker] = multiply_add_chains(count, factor)


def _triad(a: Any, b: Any, c: Any, factor: Any) -> None:
    for i in numba.prange(a.shape[0]):
        a[i] = b[i] + factor * c[i]


@functools.cache
def measure(dtype: str = "float32", seconds: float = 0.3) -> Ceilings:
    """Measure both ceilings once per process.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    seconds : float
        For how long to try each; the best counts.
    """
    kind = np.dtype(dtype)
    workers, count = numba.get_num_threads(), 2_000_000  # long beside the start of the threads
    out = np.zeros(workers, kind)
    factor = kind.type(0.5)
    chains = compiler.jit(compiler.specialise(_chains_on_all_cores, kind.name), parallel=True)
    taken = best_seconds(lambda: chains(count, factor, out), seconds, 0)
    flops = 2 * workers * count * CHAINS * (VECTOR_BYTES // kind.itemsize) / taken
    triad = compiler.jit(compiler.specialise(_triad, "ceiling"), parallel=True)
    a, b, c = (np.ones(TRIAD_ELEMENTS, np.float32) for _ in range(3))
    taken = best_seconds(lambda: triad(a, b, c, np.float32(0.5)), seconds, 0)
    return Ceilings(flops, 3 * a.nbytes / taken)
