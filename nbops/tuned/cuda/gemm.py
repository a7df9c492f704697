"""Matrix products as launches of `nbops.tuned.cuda.gemm_kernel`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbops import compiler
from nbops.targets.cuda.kernels import Call, CudaKernel, Launch, Plan
from nbops.targets.cuda.toolchain import array_type, device_function
from nbops.tuned.cuda import gemm_kernel
from nbops.tuned.cuda.tiles import Tile, choose
from nbops.tuned.cuda.vectors import VECTOR_BYTES

__all__ = ["matmul_plan"]

LARGEST_GRID = 2**31 - 1
#: Elements along an axis: they are counted in 32 bits, and a tile may reach past the end.
LARGEST_AXIS = 2**31 - 2**10


@dataclass(frozen=True)
class Reading:
    """How an operand's slabs are read: `width` elements at once, along p or along its rows."""

    width: int
    along_depth: bool


@dataclass(frozen=True)
class Names:
    """The words of an op's frame that a product reads, by what they are to it.

    Parameters
    ----------
    m, n, k : str
        Sizes: rows, columns, and the axis that is summed over.
    a, b, out, bias : tuple of 3 str
        Address, stride along rows (columns, for b), and stride along k (columns, for out).
    """

    m: str
    n: str
    k: str
    a: tuple[str, str, str]
    b: tuple[str, str, str]
    out: tuple[str, str, str]
    bias: tuple[str, ...] = ()


MATMUL = Names("m", "n", "k", ("a", "a_m", "a_k"), ("b", "b_n", "b_k"), ("out", "out_m", "out_n"))


def matmul_plan(call: Call) -> Plan | None:
    """matmul, in float32 and float64."""
    return product_plan(call, MATMUL)


def product_plan(call: Call, names: Names) -> Plan | None:
    """One launch that computes every tile; None where the loop has to."""
    dtype = call.dtypes[0]
    m, n, k, items = (call[name] for name in (names.m, names.n, names.k, "items"))
    if dtype not in (np.float32, np.float64) or max(m, n, k) > LARGEST_AXIS:
        return None
    tile = choose(dtype.itemsize, items, m, n, k, call.multiprocessors)
    blocks = math.ceil(m / tile.m) * math.ceil(n / tile.n) * items
    if blocks > LARGEST_GRID:
        return None
    kernel = product_kernel(
        dtype,
        tile,
        names,
        _reading(call, names.a, m, k),
        _reading(call, names.b, n, k),
        call.batch_rank,
    )
    return Plan([Launch(kernel, (blocks, 1, 1), (tile.threads, 1, 1))])


def _reading(call: Call, operand: tuple[str, str, str], rows: int, depth: int) -> Reading:
    address, row, step = operand
    itemsize = call.dtypes[0].itemsize
    width = VECTOR_BYTES // itemsize
    if call[step] == itemsize or depth == 1:
        wide = depth % width == 0 and _aligned(call, address, call[row])
        return Reading(width if wide else 1, True)
    wide = call[row] == itemsize and rows % width == 0 and _aligned(call, address, call[step])
    return Reading(width if wide else 1, abs(call[row]) > abs(call[step]))


def _aligned(call: Call, address: str, stride: int) -> bool:
    """Whether an operand's rows, in every batch item, start at multiples of 16 bytes."""
    strides = [stride] + [call[f"{address}_batch{axis}"] for axis in range(call.batch_rank)]
    return not any(value % VECTOR_BYTES for value in [call[address], *strides])


@functools.cache
def product_kernel(
    dtype: np.dtype[Any],
    tile: Tile,
    names: Names,
    left: Reading,
    right: Reading,
    batch_rank: int,
) -> CudaKernel:
    """The kernel for one way to cut and read a product."""
    element = array_type(dtype, 1, "C", False).dtype
    vector = VECTOR_BYTES // dtype.itemsize
    sizes = [f"batch{axis}" for axis in range(batch_rank)]
    batches = [f"{x[0]}_batch{axis}" for x in (names.a, names.b, names.out) for axis in range(batch_rank)]
    parameters = [names.m, names.n, names.k, "items", *names.a, *names.b, *names.out, *sizes, *batches]
    first = len(parameters) - len(batches)
    constants: dict[str, Any] = {
        "ELEMENT": element,
        "ITEMSIZE": dtype.itemsize,
        "VECTOR": vector,
        "DEPTH": tile.depth,
        "THREADS": tile.threads,
        "TILE_M": tile.m,
        "TILE_N": tile.n,
        "THREAD_M": tile.thread_m,
        "THREAD_N": tile.thread_n,
        "SUMS": tile.thread_m * tile.thread_n,
        "LANES_M": tile.lanes_m,
        "LANES_N": tile.lanes_n,
        "WARPS_N": tile.warps_n,
        "PITCH_M": tile.m + vector,
        "PITCH_N": tile.n + vector,
        "LEFT_SIZE": 2 * tile.depth * (tile.m + vector),
        "RIGHT_SIZE": 2 * tile.depth * (tile.n + vector),
        "BATCH_RANK": batch_rank,
        "BATCH": first - batch_rank,
        "A_BATCH": first,
        "B_BATCH": first + batch_rank,
        "OUT_BATCH": first + 2 * batch_rank,
    }
    constants |= _operand(constants, "left", left, tile.m) | _operand(constants, "right", right, tile.n)
    for name in ("add_step", "add_up", "item_offset", "finish"):
        constants[name] = _specialised(getattr(gemm_kernel, name), constants)
    name = f"product_{dtype.name}_{tile.m}x{tile.n}_{_letters(left)}{_letters(right)}"
    return CudaKernel(
        gemm_kernel.multiply_tiles, parameters, name=name, max_threads=tile.threads, **constants
    )


def _operand(constants: dict[str, Any], side: str, reading: Reading, rows: int) -> dict[str, Any]:
    """What the kernel needs to read one operand."""
    chunks = rows * constants["DEPTH"] // (reading.width * constants["THREADS"])
    own = {
        **constants,
        "ROWS": rows,
        "PITCH": rows + constants["VECTOR"],
        "WIDTH": reading.width,
        "ALONG_DEPTH": reading.along_depth,
        "CHUNKS": chunks,
    }
    own["places"] = _specialised(gemm_kernel.places, own)
    made = {f"{side.upper()}_CHUNKS": chunks, f"{side.upper()}_STAGED": chunks * reading.width}
    for name in ("start", "fetch", "stage"):
        made[f"{name}_{side}"] = _specialised(getattr(gemm_kernel, name), own)
    return made


def _letters(reading: Reading) -> str:
    return f"{'p' if reading.along_depth else 'r'}{reading.width}"


def _specialised(function: Any, constants: dict[str, Any]) -> Any:
    """A helper with those of the constants that it reads; kernels share what they have in common."""
    own = {name: constants[name] for name in function.__code__.co_names if name in constants}
    return _shared(function, tuple(own.items()))


@functools.cache
def _shared(function: Any, constants: tuple[tuple[str, Any], ...]) -> Any:
    return device_function(compiler.specialise(function, "product", **dict(constants)))
